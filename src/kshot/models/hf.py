"""A backbone from transformers: tokenise, and run the network over a packed row or a plain batch.

Packing needs control over what each position sees. transformers lets a
model run with a registered attention function; ours hands queries, keys and values of each layer to a callable
that the engine gives, so masks and remembered prefixes are the engine's business and the rest stays the model's own
code (embeddings, norms, rotary positions, soft-capped heads).

Source: transformers documentation, "AttentionInterface", https://huggingface.co/docs/transformers/attention_interface
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from threading import local
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from kshot.core.control_tokens import MARK, Speller, without_marks
from kshot.core.errors import ModelError, UserError
from kshot.core.locks import BACKBONE, SharedLock
from kshot.core.models import ChatFormat
from kshot.core.seeding import digest
from kshot.models.again import backbone_again, remember
from kshot.models.chat_template import HfChat
from kshot.models.fingerprint import PROBE, of_samples, of_values
from kshot.models.gradient_mode import learning
from kshot.models.products import fast_products
from kshot.models.quiet import quiet

PACKED = "kshot_packed"
_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
_OWN_WINDOW = re.compile(r"(?<!sliding)(?<!max)_window_size$|^window_size$|^keep_window")

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float | None, int | None], torch.Tensor]
"""(layer, query [heads, n, dim], key [kv_heads, n, dim], value, scale, window) -> output [heads, n, dim]."""

Places = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
"""Where tokens with a mark stand in a forward pass: mark -> (row of the batch, index in it) [n] each."""

LogWeights = Mapping[int, Mapping[int, NDArray[np.float32]]]
"""What is added to heads' scores of tokens with a flag: layer -> which flag -> [heads]."""


class Tokenizer(Protocol):
    """What a backbone needs of a tokenizer; those of transformers are one."""

    @property
    def bos_token_id(self) -> int | None:
        """The first token of a text, if there is one."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, if there is one."""
        ...

    @property
    def chat_template(self) -> Any:
        """The template of conversations, if there is one."""
        ...

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Return token ids."""
        ...

    def decode(self, token_ids: list[int]) -> Any:
        """Return the text of token ids."""
        ...


class Backbone:
    """A causal language model in eval mode, without any scoring.

    Args:
        model: A transformers causal LM.
        tokenizer: Its tokenizer.
        name: What the user called it.
        origin: The arguments of `load_model` beside the name that load the same weights again, on whatever device.
        files: What identifies the files it was read from; without it all values are looked at, once.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        name: str,
        origin: Mapping[str, Any] | None = None,
        files: str | None = None,
    ):
        self.model = model.eval().requires_grad_(False)  # what is trained are copies (`kshot.models.weights`)
        self.config = model.config.get_text_config()  # of a model that also sees images, the part for text
        self.name = name
        self.origin = dict(origin or {})
        self._tokenizer = tokenizer
        self._attend: Attend | None = None
        self.places: Places = {}
        self.log_weights: LogWeights = {}
        self.lock = SharedLock(BACKBONE)  # held by whoever runs or changes it (`kshot.engine.session`)
        self._fingerprint: str | None = None
        self._weights_id = files
        first = tuple(tokenizer.encode("a", add_special_tokens=True)[:1])
        self.first_ids = first if first == (tokenizer.bos_token_id,) else ()
        # SentencePiece tokenizers as Llama-2's put a space before every text they are given, which would stand at the
        # beginning of every segment. Behind a newline they do not.
        self._newline = tuple(tokenizer.encode("\n", add_special_tokens=False))
        self._adds_space = self._behind_newline("a") not in (None, self._encode("a"))
        self.tokenise = lru_cache(maxsize=100_000)(self._tokenise)

    def __deepcopy__(self, memo: Any) -> "Backbone":
        """Return itself: whoever changes it puts back what was there, and threads take turns."""
        return self

    def __reduce__(self) -> Any:
        """Pickle how it is loaded again; no weights."""
        if not self.origin and self.name != "tiny":
            raise UserError(
                f"A model that is pickled must be one that can be loaded by its name, but '{self.name}' was made in "
                "memory. Save it into a folder and load that with kshot.load_model."
            )
        remember(self, self.fingerprint)  # before another one with the same weights
        return backbone_again, (self.name, str(self.device), self.origin, self.fingerprint)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _behind_newline(self, text: str) -> tuple[int, ...] | None:
        """Return the ids of `text` inside a text, or None where it melts with what stands before."""
        ids = self._encode("\n" + text)
        n = len(self._newline)
        return ids[n:] if ids[:n] == self._newline else None

    def _tokenise(self, text: str) -> tuple[int, ...]:
        parts = [part for part in text.split(MARK) if part] if MARK in text else [text]
        ids = tuple(i for part in parts for i in self._of_part(part))
        self._check_spelled(text, ids)
        if ids and max(ids) >= self.n_words:
            word = self._tokenizer.decode([max(ids)])
            raise UserError(
                f"A text must consist of tokens that '{self.name}' has a vector for; '{word}' has none, though its "
                "tokenizer knows it. Leave it out of the text."
            )
        return ids

    def _check_spelled(self, text: str, ids: Sequence[int]) -> None:
        """Refuse letters that a tokenizer makes a control token of, as full-width brackets or capitals can become."""
        control = [i for i in ids if i in self._control_ids and i != self._unknown_id]
        if len(control) > len(self._speller.found(text)):
            token = self._tokenizer.decode(control[:1])
            raise UserError(
                f"A text must not become a control token where the tokenizer of '{self.name}' normalises it; "
                f"{without_marks(text)[:40]!r} holds a spelling of '{token}'. Take it out of the text."
            )

    def _of_part(self, text: str) -> tuple[int, ...]:
        return (self._behind_newline(text) if self._adds_space else None) or self._encode(text)

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of ids that follow a prompt, control tokens included; those that are spelled have marks."""
        text = self._decode(ids)
        n_found = len(self._speller.found(text))
        if not n_found or n_found == sum(i in self._control_ids for i in ids):
            return text
        runs = [(is_control, self._decode(run)) for is_control, run in groupby(ids, self._control_ids.__contains__)]
        return "".join(t if is_control else self._speller(t) for is_control, t in runs)

    def _decode(self, ids: Iterable[int]) -> str:
        return without_marks(self._tokenizer.decode(list(ids)))

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that are tokens with a meaning of their own wherever they stand."""
        return tuple(self._added)

    @cached_property
    def _speller(self) -> Speller:
        return Speller(self.control_tokens)

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self._added.values())

    @cached_property
    def _unknown_id(self) -> int | None:
        return getattr(self._tokenizer, "unk_token_id", None)  # what no token says; no text spells it so

    @cached_property
    def _added(self) -> dict[str, int]:
        """Return the tokens that are special, and those of the other added ones that the chat template writes."""
        if not isinstance(self._tokenizer, transformers.PreTrainedTokenizerBase):
            return {}
        template, added = str(self._tokenizer.chat_template or ""), self._tokenizer.added_tokens_decoder
        return {
            token.content: i
            for i, token in sorted(added.items())
            if len(token.content.strip()) > 1 and (token.special or token.content in template)
        }

    @cached_property
    def last_ids(self) -> frozenset[int]:
        """The tokens that end a text: those of the generation config, and the tokenizer's."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [*(named if isinstance(named, list) else [named]), self._tokenizer.eos_token_id]
        return frozenset(i for i in ids if i is not None)

    @cached_property
    def chat(self) -> ChatFormat | None:
        """How it writes conversations; None for a base model."""
        return HfChat(self._tokenizer, self.tokenise) if self._tokenizer.chat_template else None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer, for who reads a text as other software does."""
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.model.dtype

    @property
    def vocab_size(self) -> int:
        """Number of logits at a position."""
        return self.model.get_output_embeddings().weight.shape[0]

    @cached_property
    def n_words(self) -> int:
        """Number of tokens that have a vector."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def max_tokens(self) -> int:
        """The longest row of tokens that the model was made for."""
        return int(getattr(self.config, "max_position_embeddings", None) or 2048)

    @property
    def fingerprint(self) -> str:
        """Identifies weights, config and tokenizer (`weights_id`), and the precision: its answers depend on these."""
        with self.lock:
            if self._fingerprint is None:
                self._fingerprint = digest(self.weights_id, str(self.dtype))
                remember(self, self._fingerprint)
            return self._fingerprint

    @property
    def weights_id(self) -> str:
        """Identifies weights, config and tokenizer, in whatever precision it runs (`kshot.models.fingerprint`)."""
        with self.lock:
            if self._weights_id is None:
                self._weights_id = of_values(self.model, self._tokenizer)
            return self._weights_id

    @cached_property
    def sampled_fingerprint(self) -> str:
        """What `fingerprint` was for saved models of format 3 and before."""
        with self.lock:
            return of_samples(self.model, self.first_ids + self.tokenise(PROBE))

    @cached_property
    def windows(self) -> list[int | None] | None:
        """The sliding window of each layer (None: the layer sees everything); None if the config names none."""
        kinds = getattr(self.config, "layer_types", None)
        if kinds is None:
            return None
        return [self.config.sliding_window if kind == "sliding_attention" else None for kind in kinds]

    @cached_property
    def blocks(self) -> Sequence[Any]:
        """The layers of the network, from the first to the last."""
        n = self.config.num_hidden_layers
        lists = [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n]
        if not lists:
            raise ModelError(f"The blocks of '{self.name}' must stand in one list of {n}; there is none in it.")
        return list(lists[0])

    @cached_property
    def why_alone(self) -> str | None:
        """Why what a text gets depends on the length of others beside it, even in a batch; None where it does not."""
        settings = self.config.to_dict()
        if "longrope" in str(settings.get("rope_parameters")):
            return "positions that mean something else where the longest text is long (longrope)"
        own = [key for key, value in settings.items() if _OWN_WINDOW.search(key) and type(value) is int]
        return f"a window of its own kind ({own[0]})" if own else None

    def why_not_packable(self) -> str | None:
        """Return why packed rows are out of the question, or None where a trial can decide."""
        kinds = set(getattr(self.config, "layer_types", None) or [])
        if not kinds <= _PACKABLE_LAYERS:
            return f"layers of kind {', '.join(sorted(kinds - _PACKABLE_LAYERS))}"
        if not self.model._can_set_attn_implementation():
            return "an attention that cannot be exchanged"
        return self.why_alone

    @torch.inference_mode()
    def packed_logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        keep: torch.Tensor,
        places: Places | None = None,
    ) -> torch.Tensor:
        """Run `row_logits` without keeping what a backward pass would need."""
        return self.row_logits(ids, positions, attend, keep, places=places)

    @property
    def is_packed(self) -> bool:
        """Whether this thread is in a pass whose attention is computed by an `Attend`."""
        return _RUNNING.backbone is self

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors of token ids as the first layer gets them, `[n, width]`."""
        return self.model.get_input_embeddings()(ids)

    @fast_products()
    def row_logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend | None,
        keep: torch.Tensor,
        embedded: torch.Tensor | None = None,
        places: Places | None = None,
    ) -> torch.Tensor:
        """Run one row and return logits where they are wanted.

        Args:
            ids: Token ids `[n]`, int64.
            positions: Position of each token in its own sequence `[n]`, int64.
            attend: Computes attention; called once per layer. None: the row is one sequence, under the model's own.
            keep: Indices into the row `[m]` whose logits are returned.
            embedded: Vectors that are run instead of those of `ids`, `[n, width]`.
            places: Of tokens with marks, for whoever changes activations.

        Returns:
            Logits `[m, vocab]`, float32.
        """
        inputs: Any = {"input_ids": ids[None]} if embedded is None else {"inputs_embeds": embedded[None]}
        inputs |= {"use_cache": False, "logits_to_keep": keep}
        self.places = places or {}
        if attend is None:
            return self.model(**inputs).logits.squeeze(0).float()  # [0] would copy all of them for the gradient
        self._attend = attend
        _RUNNING.backbone = self
        try:
            with self._packed_attention():
                out = self.model(position_ids=positions[None], **inputs)
        finally:
            _RUNNING.backbone = None
        return out.logits.squeeze(0).float()

    @contextmanager
    def _packed_attention(self) -> Iterator[None]:
        """Let an `Attend` compute attention; transformers' own switch looks at every module, each time."""
        before = [config._attn_implementation_internal for config, _ in self._attention_configs]
        for config, packed in self._attention_configs:
            config._attn_implementation_internal = packed
        try:
            yield
        finally:
            for (config, _), own in zip(self._attention_configs, before, strict=True):
                config._attn_implementation_internal = own

    @cached_property
    def _attention_configs(self) -> list[tuple[Any, Any]]:
        """The configs that say how attention is computed, and what each says where an `Attend` does."""
        found = [m.config for m in self.model.modules() if isinstance(m, transformers.PreTrainedModel)]
        for config in found:  # it grows meanwhile
            found += [part for name in config.sub_configs if (part := getattr(config, name)) is not None]
        configs = list({id(config): config for config in found}.values())
        before = [config._attn_implementation_internal for config in configs]
        self.model.set_attn_implementation(PACKED)
        packed = [config._attn_implementation_internal for config in configs]
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation_internal = own
        return [(config, said) for config, said, own in zip(configs, packed, before, strict=True) if said != own]

    @torch.inference_mode()
    @fast_products()
    def plain_logits(self, rows: Sequence[Sequence[int]], places: Places | None = None) -> list[torch.Tensor]:
        """Run rows as one batch, padded on the right (which a causal model cannot see), and return all logits.

        Args:
            rows: Token ids.
            places: As for `row_logits`.

        Returns:
            For each row its logits `[len(row), vocab]`, float32.
        """
        if self.why_alone and len(rows) > 1:
            places = places or {}
            alone = [{mark: (r[r == i] - i, at[r == i]) for mark, (r, at) in places.items()} for i in range(len(rows))]
            return [self.plain_logits([row], own)[0] for row, own in zip(rows, alone, strict=True)]
        width = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.device)
        self.places = places or {}
        logits = self.model(input_ids=ids, use_cache=False).logits
        return [logits[i, : len(row)].float() for i, row in enumerate(rows)]

    def save(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write a model of this architecture with other weights, and the tokenizer, as `load_backbone` reads them."""
        self.model.save_pretrained(folder, state_dict=dict(weights))
        if isinstance(self._tokenizer, transformers.PreTrainedTokenizerBase):
            self._tokenizer.save_pretrained(folder)


class _Running(local):
    """The backbone whose packed pass a thread is in."""

    backbone: Backbone | None = None


_RUNNING = _Running()


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    backbone = _RUNNING.backbone
    assert backbone is not None
    assert backbone._attend is not None
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotPackableError("soft-capped attention or attention sinks")
    layer = module.layer_idx
    window = kwargs.get("sliding_window") if backbone.windows is None else backbone.windows[layer]
    if window is None and backbone.windows is None and getattr(backbone.config, "sliding_window", None):
        raise NotPackableError("a sliding window that only its mask knows")
    # query [1, heads, n, dim] -> output [1, n, heads, dim]
    out = backbone._attend(layer, query[0], key[0], value[0], kwargs.get("scaling"), window)
    return out.transpose(0, 1)[None].contiguous(), None


class NotPackableError(Exception):
    """The architecture does something that packed rows do not do; plain batches are used instead."""


AttentionInterface.register(PACKED, _attention)
# A child has none of OpenMP's threads and would wait for them, as torch's loaders know
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def build_backbone(
    model_type: str, settings: dict[str, Any], tokenizer: Tokenizer, *, name: str, seed: int
) -> Backbone:
    """Make a small model of a given architecture in memory, with random weights that depend on the seed alone.

    Args:
        model_type: As in transformers configs: "llama", "qwen3", "gemma3_text", …
        settings: The config's fields.
        tokenizer: Any tokenizer.
        name: What messages call it.
        seed: For the weights.
    """
    with learning(), quiet(), torch.random.fork_rng(devices=[]):
        # What an architecture draws beside its matrices, as Mamba its time steps; nobody else's draws change
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings), dtype=torch.float32)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                weight.normal_(0.0, 1.5 / weight.shape[-1] ** 0.5, generator=source)
    return Backbone(model, tokenizer, name)
