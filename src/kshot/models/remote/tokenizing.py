"""Token ids as the server's own tokenizer makes them, segment by segment, as in-process models are asked."""

from dataclasses import dataclass
from typing import Any, Literal

from kshot.core.errors import ModelError, RefusedError
from kshot.core.types import Prompt
from kshot.models.remote.route import Service

TokenizerKind = Literal["vllm", "llama.cpp", "none"]
PATH = "../tokenize"  # of vLLM, SGLang and llama.cpp
_SAMPLE = "a b"


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a server, which remembers what it was asked.

    Attributes:
        service: The server.
        kind: How it wants to be asked: as vLLM (SGLang too), or as llama.cpp.
    """

    service: Service
    kind: TokenizerKind

    async def ids(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Return the ids of a text as a segment of its own; with `special` after the model's first ones.

        Raises:
            ModelError: The answer has none.
        """
        known: dict[Any, tuple[int, ...]] = self.service.memory.setdefault("ids", {})
        if (text, special) not in known:
            known[text, special] = await self._asked(text, special)
        return known[text, special]

    async def _asked(self, text: str, special: bool) -> tuple[int, ...]:
        if self.kind == "vllm":
            body = {"model": self.service.model, "prompt": text, "add_special_tokens": special}
        else:
            body = {"content": text, "add_special": special}
        answer = await self.service.post(PATH, body)
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids) or (text and not ids):
            raise ModelError(
                f"The server of '{self.service.model}' must say the token ids of a text; it answers without them. "
                "Update it."
            )
        return tuple(ids)

    async def first_ids(self) -> tuple[int, ...]:
        """Return what stands before every text: the beginning of the sequence, if the model has one."""
        whole, bare = await self.ids(_SAMPLE, special=True), await self.ids(_SAMPLE)
        return whole[: len(whole) - len(bare)] if whole[-len(bare) :] == bare else ()

    async def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt: the first ones, unless it spells them, and those of each segment."""
        ids = [] if prompt.spells_first_token else list(await self.first_ids())
        for segment in prompt.segments:
            ids += await self.ids(segment.text)
        return ids


async def tokenizer_of(service: Service) -> Tokenizer | None:
    """Return the tokenizer of a server; None where it has none that can be asked."""
    if "tokenizer" not in service.memory:
        service.memory["tokenizer"] = await _found(service)
    kind = service.memory["tokenizer"]
    return None if kind == "none" else Tokenizer(service, kind)


async def _found(service: Service) -> TokenizerKind:
    kinds: tuple[TokenizerKind, ...] = ("vllm", "llama.cpp")
    for kind in kinds:
        try:
            if await Tokenizer(service, kind).ids(_SAMPLE):
                return kind
        except RefusedError as error:
            if error.status == 404:  # the path is not there, however it is asked
                break
        except ModelError:  # llama.cpp has no ids for a text that it does not find
            continue
    return "none"
