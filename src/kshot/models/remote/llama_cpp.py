"""llama.cpp's completions token by token along the labels' tree: it is made to write a token, and says how likely."""

from collections.abc import Mapping, Sequence
from typing import Literal

from kshot.core.errors import ModelError
from kshot.core.types import ScoreRequest
from kshot.models.remote.chatting import choices_of
from kshot.models.remote.known import why_wrong
from kshot.models.remote.label_tree import Ids, first_row, labels_of, tree_of
from kshot.models.remote.route import Reading, Service, Takes, is_log_prob
from kshot.models.remote.systemone import SystemOne
from kshot.models.remote.tokenizing import tokenizer_of

_SHOWN = 256  # most probable tokens that are shown where several are asked for
_ALL = (4096, 2**16, 2**20)  # that are shown until a token is among them
_FORCE = 1000  # added to the logit of the token that is to be written


class LlamaCpp:
    """Ask after every beginning of a label for the most probable tokens, and by name for those that are not among them.

    What is asked for by name is written because its logit is raised; the log-probability that is told is the model's
    own, over the whole vocabulary, from before that. Only of a token that ends within a character nothing is told when
    it is written: it is looked for among the most probable ones. (A grammar of token ids would write a whole label at
    once, but fails at such tokens, as of 2026-10.) Prompt and labels go as token ids, tokenised segment by segment, as
    in-process models read them. One request goes after another, so that the server finds the prompt in its cache.

    llama.cpp has no log-probabilities of a prompt: it takes `echo` and ignores it, and whoever reads what comes
    back as those of the prompt gets chance scores without an error.

    Source: llama.cpp, tools/server/README.md (`n_probs`); the missing echo is
    https://github.com/ggml-org/llama.cpp/issues/27174.
    """

    name: str = "llama.cpp"
    trust: Literal["exact", "labels", "sampled"] = "exact"
    in_messages: bool = False
    most: int | None = None

    async def probe(self, service: Service) -> str | None:
        """Ask what has a known answer; return why the route cannot be trusted here, or None if it can.

        llama.cpp refuses System One's questions to all models but decision models, which are made for them.
        """
        why = await why_wrong(self, service)
        if why is None and await why_wrong(SystemOne(), service) is None:
            return "it serves a decision model, which is better asked by the route systemone"
        return why

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before."""
        n = len((await labels_of(service, texts)).nodes)
        return Takes(n, n)

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation's own tokens after those of the prompt."""
        tree = await tree_of(service, request)
        read = dict[tuple[Ids, int], float]()
        for prefix, tokens in tree.nodes:
            prompt = (*tree.prompt, *prefix)
            while missing := [token for token in tokens if (prefix, token) not in read]:
                shown = _SHOWN if len(missing) > 1 else 1
                said = await _said(service, prompt, missing[0], shown)
                if missing[0] not in said:
                    said |= await _looked_for(service, prompt, missing[0])
                read |= {(prefix, token): said[token] for token in missing if token in said}
        return Reading(tree.log_probs(read))


async def _said(service: Service, prompt: Ids, forced: int, shown: int) -> dict[int, float]:
    """Return what the server says of the most probable tokens and, if it writes whole characters, of `forced`.

    Raises:
        ModelError: It writes another token, or answers in another shape.
    """
    body = {
        "model": service.model,
        "prompt": list(prompt),
        "max_tokens": 1,
        "logprobs": shown,
        "logit_bias": [[forced, _FORCE]],
        "temperature": 0,
        "cache_prompt": True,
    }
    choice = (choices_of(await service.post("completions", body)) or [{}])[0]
    if "logprobs" in choice and choice["logprobs"] is None:  # as when what was written is no whole character
        return {}
    row = first_row(choice.get("logprobs"), "content")
    if row.get("id") != forced or not is_log_prob(row.get("logprob")):
        raise ModelError(
            f"The server of '{service.model}' must write the token {forced} and say how likely it was, as llama.cpp "
            f"does; it says that of {row.get('id')}. Take another --api route=NAME."
        )
    others = row.get("top_logprobs")
    rows = [other for other in others if isinstance(other, Mapping)] if isinstance(others, list) else []
    known = {
        r["id"]: float(r["logprob"]) for r in rows if isinstance(r.get("id"), int) and is_log_prob(r.get("logprob"))
    }
    return {**known, forced: float(row["logprob"])}


async def _looked_for(service: Service, prompt: Ids, token: int) -> dict[int, float]:
    """Return what the server says of the most probable tokens, so many that `token` is among them.

    Raises:
        ModelError: It tells nothing of it.
    """
    tokenizer = await tokenizer_of(service)
    written = (await tokenizer.ids("a"))[-1] if tokenizer else token
    for shown in _ALL:
        said = await _said(service, prompt, written, shown)
        if token in said:
            return said
    raise ModelError(
        f"The server of '{service.model}' must say how likely each token of a label is; it does not of token {token}. "
        "Take another --api route=NAME, or another name for the label."
    )
