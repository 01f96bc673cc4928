"""vLLM's completions with the log-probabilities of named token ids: exact, whatever the labels are."""

from collections.abc import Sequence
from typing import Any, Literal

from kshot.core.errors import ModelError
from kshot.core.types import ScoreRequest
from kshot.models.remote.chatting import choices_of
from kshot.models.remote.known import why_wrong
from kshot.models.remote.label_tree import Ids, LabelTree, Node, first_row, labels_of, tree_of
from kshot.models.remote.route import Reading, Service, Takes, is_log_prob

MOST_TOKENS = 128  # that vLLM takes in `logprob_token_ids`
_MOST_PROMPTS = 32  # in one request


class TokenIds:
    """Ask for the tokens of all labels after every beginning of one, most often in one request.

    vLLM gives each token's log-probability over the whole vocabulary, before temperature and penalties, if it runs with
    `--logprobs-mode raw_logprobs`, as it does by default.

    Source: vLLM, CompletionRequest.logprob_token_ids (seen in 0.32), https://github.com/vllm-project/vllm/pull/43463.
    """

    name: str = "token-ids"
    trust: Literal["exact", "labels", "sampled"] = "exact"
    in_messages: bool = False
    most: int | None = None

    async def probe(self, service: Service) -> str | None:
        """Ask what has a known answer; return why the route cannot be trusted here, or None if it can."""
        return await why_wrong(self, service)

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before."""
        parts = list((await labels_of(service, texts)).calls(most_tokens=MOST_TOKENS, most_nodes=_MOST_PROMPTS))
        return Takes(len(parts), sum(map(len, parts)))

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation's own tokens after those of the prompt."""
        tree = await tree_of(service, request)
        read = dict[tuple[Ids, int], float]()
        for part in tree.calls(most_tokens=MOST_TOKENS, most_nodes=_MOST_PROMPTS):
            answer = await service.post("completions", _body(service.model, tree, part))
            read |= _read(service.model, part, answer)
        return Reading(tree.log_probs(read))


def _body(model: str, tree: LabelTree, part: list[Node]) -> dict[str, Any]:
    asked = list(dict.fromkeys(token for _, tokens in part for token in tokens))
    return {
        "model": model,
        "prompt": [[*tree.prompt, *prefix] for prefix, _ in part],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": len(asked),
        "logprob_token_ids": asked,
        "return_tokens_as_token_ids": True,
    }


def _read(model: str, part: list[Node], answer: Any) -> dict[tuple[Ids, int], float]:
    """Return what an answer says of each token after each beginning."""
    choices = choices_of(answer)
    if len(choices) != len(part):
        raise ModelError(
            f"The server of '{model}' must answer each of {len(part)} prompts; it answers {len(choices)}. Take another "
            "--api route=NAME."
        )
    read = dict[tuple[Ids, int], float]()
    for (prefix, tokens), choice in zip(part, choices, strict=True):
        found = first_row(choice.get("logprobs"), "top_logprobs")
        for token in tokens:
            value = found.get(f"token_id:{token}")
            if not is_log_prob(value):
                raise ModelError(
                    f"The server of '{model}' must say the log-probability of each token in logprob_token_ids; it says "
                    f"none of token {token}. Use vLLM 0.32 or newer, or another --api route=NAME."
                )
            read[prefix, token] = float(value)
    return read
