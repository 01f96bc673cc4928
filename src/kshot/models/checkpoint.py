"""A checkpoint of transformers, from the hub or a folder: loaded whole and as it was saved, or refused by name.

What transformers would only warn of, or ask about on the terminal, ends the loading here: code that comes with the
files, weights that are missing and would be drawn at random, weights that are left over, a tokenizer with more words
than the network.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from kshot.core.errors import KshotError, UserError, did_you_mean, in_short
from kshot.models.device import device_of, dtype_of
from kshot.models.fingerprint import CODE, of_files
from kshot.models.gradient_mode import learning
from kshot.models.hf import Backbone
from kshot.models.hub import only_local
from kshot.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    GENERATION_CONFIG,
    check_folder,
    check_numbers,
    last_words,
    read_object,
)
from kshot.models.quiet import quiet
from kshot.models.trial import check_trial

SHORT_NAMES = ("demo", "tiny", "scripted", "gguf:FILE")


def load_backbone(
    source: str | Path,
    *,
    name: str,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a causal LM and its tokenizer from a hub id or a folder; of an adapter, with its base.

    Args:
        source: Hub id, or a folder with config, safetensors weights and tokenizer, or with an adapter of peft.
        name: What messages and records call it.
        device: "cpu", "cuda", …; by default CUDA if there is one.
        dtype: "float32", "bfloat16", "float16"; "auto" is float32 on the CPU and the file's own elsewhere.
        revision: Commit, branch or tag on the hub.
        trust_remote_code: Whether Python that comes with the model may be run.

    Raises:
        UserError: No such model, its files are not a causal LM, or not all of them are there and whole.
    """
    place = device_of(device)
    wanted = dtype_of(dtype, place)
    checkpoint = Checkpoint(source, name, revision, trust_remote_code)
    # transformers and peft draw weights from torch's own generator before they read those of the files
    with learning(), quiet(), torch.random.fork_rng(devices=[]):
        model, tokenizer, files = checkpoint.load(wanted)
        try:
            model = model.to(place)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(
                f"'{name}' must fit on the device {place}; it does not ({in_short(error)}). Give a smaller model, or "
                "another --device."
            ) from error
        origin: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch.")}
        origin |= {"revision": revision} if revision else {}
        origin |= {"trust_remote_code": True} if checkpoint.ran_code(model, tokenizer) else {}
        backbone = checkpoint.read(lambda: Backbone(model, tokenizer, name, origin, files))  # which tokenizes a little
        check_trial(backbone)
    return backbone


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are, and what may be done with them.

    Attributes:
        source: Hub id or folder.
        name: What the user called it.
        revision: On the hub.
        trust_remote_code: Whether Python that comes with it may be run.
    """

    source: str | Path
    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    def load(self, dtype: Any) -> tuple[Any, Any, str | None]:
        """Return model, tokenizer and `of_files`, after whatever can be wrong with them has been looked at."""
        if adapter := self.adapter_config():
            from kshot.models.peft_adapter import load_adapted

            return load_adapted(self, Path(adapter).parent, dtype)
        tokenizer = self.tokenizer()
        model = self.model(dtype)
        self.read(lambda: check_vocabulary(tokenizer, model, self.name))
        return model, tokenizer, self.read(lambda: of_files(self.folder, tokenizer, self.folder, model))

    @property
    def folder(self) -> Path:
        """Where its files are on this machine."""
        if Path(self.source).is_dir():
            return Path(self.source)
        found = cached_file(self.source, CONFIG, **self.where)
        assert found is not None
        return Path(found).parent

    @property
    def where(self) -> dict[str, Any]:
        """How transformers finds the files."""
        return {"revision": self.revision, "local_files_only": only_local(self.source)}

    def adapter_config(self) -> str | None:
        """Return where the config of an adapter is on this machine, with its weights beside it, if it is one."""
        if Path(self.source).is_dir():
            return self.read(lambda: find_adapter_config_file(str(self.source)))
        found = self.read(lambda: find_adapter_config_file(str(self.source), **self.where))
        if found:
            self.read(lambda: cached_file(self.source, ADAPTER_WEIGHTS, **self.where))
        return found

    def tokenizer(self) -> Any:
        """Return the tokenizer."""
        return self.read(
            lambda: AutoTokenizer.from_pretrained(self.source, trust_remote_code=self.trust_remote_code, **self.where)
        )

    def model(self, dtype: Any) -> Any:
        """Return the model with every weight that the files hold, and no other.

        Raises:
            UserError: Something cannot be read, is missing, left over, of another shape, or not a number.
        """
        how = {"trust_remote_code": self.trust_remote_code, **self.where}
        config = self.read(lambda: AutoConfig.from_pretrained(self.source, **how))
        check_kind(config, self.name)
        wants_quantized = getattr(config, "quantization_config", None) is not None
        model, info = self.read(
            lambda: AutoModelForCausalLM.from_pretrained(
                self.source,
                config=config,
                dtype=dtype,
                use_safetensors=True,  # a pickle can run anything
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
                **how,
            )
        )
        if wants_quantized and not getattr(model, "is_quantized", False):
            raise UserError(
                f"The weights of '{self.name}' are quantized, as its {CONFIG} says, by a method that transformers does "
                "not know here. Give the model that it was made from."
            )
        check_weights(model, info, config, self.name)
        if Path(self.source).is_dir():
            self._check_stored(Path(self.source), model)
        check_finite([*model.named_parameters(), *model.named_buffers()], self.name)
        return model

    def _check_stored(self, folder: Path, model: Any) -> None:
        """Raise UserError for what transformers reads past in a folder."""
        if (folder / GENERATION_CONFIG).is_file():
            read_object(folder / GENERATION_CONFIG)  # damaged it would be left out, with the tokens that end a text
        if not getattr(model, "is_quantized", False):
            check_numbers(folder, self.name, {last_words(weight) for weight, _ in model.named_parameters()})

    def read(self, run: Any) -> Any:
        """Return what transformers reads, or say in a sentence why it cannot."""
        try:
            return run()
        except KshotError:
            raise
        except Exception as error:  # whatever a damaged file makes of other people's code
            if Path(self.source).is_dir() and not (Path(self.source) / ADAPTER_CONFIG).exists():
                check_folder(Path(self.source), self.name)
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> UserError:
        if "trust_remote_code=True" in str(error):
            return UserError(
                f"'{self.name}' brings Python code of its own, which must be run to load it. Read it, and if you trust "
                "it give --trust-remote-code."
            )
        if isinstance(error, ImportError):
            return UserError(
                f"'{self.name}' needs a package that is not installed ({in_short(error)}). Install it with pip."
            )
        if Path(self.source).is_dir():
            return UserError(
                f"'{self.name}' must be a causal language model that transformers can read; it says: "
                f"{in_short(error)} ({type(error).__name__}). Correct its files, or download them again."
            )
        causes = list(_causes(error))
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            return UserError(
                f"--model must be one that you may read; '{self.name}' is gated. Ask for access on its page of the "
                "hub, then log in with `hf auth login` or set HF_TOKEN."
            )
        why, remedy = in_short(error), ""
        if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
            why, remedy = "it is not here, and the hub cannot be reached", " Go online, or give a folder."
        elif any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
            why = "the hub has none of this name that you may read"
            remedy = " For a private one log in with `hf auth login` or set HF_TOKEN."
        return UserError(
            f"--model must be a hub id, or a folder, of a causal language model that can be read here, or a short "
            f"name; got '{self.name}' ({why}).{remedy}{did_you_mean(self.name, SHORT_NAMES)}"
        )

    def ran_code(self, *loaded: Any) -> bool:
        """Return whether Python that came with the model was run."""
        kinds = [kind for one in loaded for kind in (type(one), type(getattr(one, "config", None)))]
        return any(kind.__module__.partition(".")[0] == CODE for kind in kinds)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def check_kind(config: Any, name: str) -> None:
    """Raise UserError unless a config is that of a causal language model."""
    made_as = ", ".join(dict.fromkeys([config.model_type, _made_as(config)]))
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"--model must name a causal language model, which continues a text; '{name}' is an encoder with a decoder "
            f"({made_as}). Give another model."
        )
    kernel = str(getattr(config, "_attn_implementation", None))
    if "/" in kernel:
        raise UserError(
            f"'{name}' must compute its attention by code that is installed here; its {CONFIG} names '{kernel}' of the "
            "hub, which would be run. Take attn_implementation out of that file, or give another model."
        )
    has_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not has_code:
        raise UserError(
            f"--model must name a causal language model, which continues a text; '{name}' is none ({made_as}). Give "
            "another model."
        )


def _made_as(config: Any) -> str:
    named = getattr(config, "architectures", None)
    return ", ".join(map(str, named)) if isinstance(named, list) and named else config.model_type


def check_weights(model: Any, info: dict[str, Any], config: Any, name: str) -> None:
    """Raise UserError for the first weight that the files lack, have too much, or in another shape."""
    remedy = (
        f"(saved as {_made_as(config)}, loaded as {type(model).__name__}). Download it again, or give another model."
    )
    for weight, stored, expected in sorted(info["mismatched_keys"]):
        raise UserError(
            f"The weight '{weight}' of '{name}' must have the shape {list(expected)}; its file has {list(stored)} "
            f"{remedy}"
        )
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"'{name}' must hold all weights of a causal language model; {some(missing)} would be random {remedy}"
        )
    if left_over := sorted(set(info["unexpected_keys"]) - _of_other_parts(model, info["unexpected_keys"], config)):
        raise UserError(f"'{name}' must hold no weights but its own; there is no place for {some(left_over)} {remedy}")


def some(weights: list[str]) -> str:
    """Return the first name, and how many more there are."""
    more = f" and {len(weights) - 1} more" if weights[1:] else ""
    return f"'{weights[0]}'{more}"


def _of_other_parts(model: Any, weights: Iterable[str], config: Any) -> set[str]:
    """Return the weights of what a model has beside its text part, where that alone is loaded: its eyes."""
    if not set(config.sub_configs) - {"text_config"}:
        return set()
    modules = {path for path, _ in model.named_modules() if "." in path}
    return {weight for weight in weights if not any(weight.startswith(f"{path}.") for path in modules)}


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], name: str) -> None:
    """Raise UserError for a weight that holds NaN or infinity.

    A sum that is finite shows that all are, and takes one pass over the memory.
    """
    sums = [(weight, values, values.sum(dtype=torch.float32)) for weight, values in weights if _has_numbers(values)]
    if not sums:
        return
    are_finite = torch.stack([total.cpu() for *_, total in sums]).isfinite().tolist()
    for (weight, values, _), is_finite in zip(sums, are_finite, strict=True):
        if not is_finite and not values.isfinite().all():  # a sum can also be too large
            raise UserError(
                f"The weights of '{name}' must be finite numbers; '{weight}' holds NaN or infinity. Download it again, "
                "or train it again with a smaller learning rate."
            )


def _has_numbers(values: torch.Tensor) -> bool:
    return values.is_floating_point() and values.element_size() > 1 and values.numel() > 0


def check_vocabulary(tokenizer: Any, model: Any, name: str) -> None:
    """Raise UserError where a tokenizer gives ids that the network has no vector for.

    Special tokens without one are let through, as in Gemma 3, whose text models know a token for images: only a text
    that spells them out holds them, and is refused then.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = [(i, word) for word, i in tokenizer.get_vocab().items() if i >= rows and i not in special]
    if beyond:
        i, word = min(beyond)
        raise UserError(
            f"The tokenizer of '{name}' must belong to its weights; it has {len(beyond)} words beyond the {rows} that "
            f"the network knows, the first is '{word}' ({i}). Copy the model's own tokenizer beside the weights."
        )
    lost = [letter for letter in ascii_letters + digits if not tokenizer.encode(letter, add_special_tokens=False)]
    if lost:
        raise UserError(
            f"The tokenizer of '{name}' must turn every text into tokens; it drops '{lost[0]}'. Copy the model's own "
            "tokenizer beside the weights."
        )
    ends = getattr(model.generation_config, "eos_token_id", None)
    for token in (tokenizer.bos_token_id, *(ends if isinstance(ends, list) else [ends])):
        if token is not None and not 0 <= token < rows:
            raise UserError(
                f"The tokens that begin and end a text of '{name}' must be among the {rows} that its network "
                f"knows; got the id {token}. Correct {CONFIG} and {GENERATION_CONFIG}, or copy its own tokenizer there."
            )


def convert_gguf(file: Path, target: Path) -> None:
    """Dequantise a GGUF file to float32 and write weights, config and tokenizer to the folder `target`.

    Raises:
        UserError: It cannot be read, or is no causal language model of an architecture that transformers knows.
    """
    name = f"gguf:{file}"
    with learning(), quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            model, info = loaded
        except Exception as error:  # whatever a damaged file makes of other people's code
            raise UserError(
                f"'{name}' must be a causal language model in a GGUF file that transformers can read; it says: "
                f"{in_short(error)} ({type(error).__name__}). Download it again, or give another model."
            ) from error
        check_weights(model, info, model.config, name)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
