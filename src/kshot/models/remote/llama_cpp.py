"""llama.cpp's completions along each label: a grammar of token ids makes it write the label, and it says how likely."""

from typing import Any, Literal

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.types import ScoreRequest
from kshot.models.remote.known import why_wrong
from kshot.models.remote.label_tree import Ids, tree_of
from kshot.models.remote.route import Reading, Service


class LlamaCpp:
    """Let the server write each label, token by token, and add up what it says of every token.

    The log-probabilities are those of the model itself, over the whole vocabulary and before the grammar. Prompt and
    label go as token ids, tokenised segment by segment, so that they are the tokens that in-process models are asked
    about. One label after another: the prompt is the server's to remember (`cache_prompt`).

    llama.cpp has no log-probabilities of a prompt: it takes `echo` and ignores it, and whoever reads what comes
    back as those of the prompt gets chance scores without an error.

    Source: llama.cpp, tools/server/README.md and grammars/README.md ("Tokens"); the missing echo is
    https://github.com/ggml-org/llama.cpp/issues/27174.
    """

    name: str = "llama.cpp"
    trust: Literal["exact", "labels", "sampled"] = "exact"
    in_messages: bool = False
    most: int | None = None

    async def probe(self, service: Service) -> str | None:
        """Ask what has a known answer; return why the route cannot be trusted here, or None if it can."""
        return await why_wrong(self, service)

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation's own tokens after those of the prompt."""
        tree = await tree_of(service, request)
        sums = list[float]()
        for label in tree.labels:
            answer = await service.post("completions", _body(service.model, tree.prompt, label))
            sums.append(_sum(service.model, label, answer))
        return Reading(np.array(sums))


def _body(model: str, prompt: Ids, label: Ids) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": len(label),
        "logprobs": 1,
        "temperature": 0,
        "cache_prompt": True,
        "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in label),
    }


def _sum(model: str, label: Ids, answer: Any) -> float:
    """Return the log-probability of a label, which the answer must have written."""
    logprobs = (answer.get("choices") or [{}])[0].get("logprobs") or {}
    said = [row for row in (logprobs.get("content") if isinstance(logprobs, dict) else None) or () if "id" in row]
    written = tuple(row["id"] for row in said)
    if written != label:
        raise ModelError(
            f"The server of '{model}' must write the tokens {list(label)} of a label and say how likely they are; it "
            f"says that of {list(written)}. Use llama.cpp from December 2025 or newer, or another --api route=NAME."
        )
    return float(sum(row["logprob"] for row in said))
