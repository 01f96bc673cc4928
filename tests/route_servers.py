"""Servers of API routes in memory, with the shapes of the real ones, on a small model whose probabilities are known."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from kshot.core.errors import RefusedError

BOS, DELIMITER, N = 1, 2, 997
HALF: set[int] = set()  # tokens that end within a character


class ToyModel:
    """Goes on as the text went on before; its tokens have four letters at most, so that labels have several."""

    def __init__(self):
        self.ids: dict[str, int] = {}

    def tokenise(self, text: str) -> list[int]:
        return [self.ids.setdefault(piece, 3 + len(self.ids)) for piece in re.findall(r" ?\w{1,4}|\n\n|\W", text)]

    def likely(self, context: list[int]) -> int:
        places = [i for i in range(2, len(context)) if context[i - 2 : i] == context[-2:]]
        return context[places[-1]] if places else (7 * context[-1]) % N

    def log_prob(self, context: list[int], token: int, likely: int | None = None) -> float:
        if token == (self.likely(context) if likely is None else likely):
            return math.log(0.9)
        return math.log(0.1 / (N - 1) * (1 + 0.5 * math.sin(token * 31 + context[-1])))

    def exact(self, prompt: list[int], text: str) -> float:
        ids = self.tokenise(text)
        return sum(self.log_prob([*prompt, *ids[:i]], token) for i, token in enumerate(ids))


Handler = Callable[[ToyModel, Mapping[str, Any]], Any]


class FakeService:
    """A service (`kshot.models.remote.route.Service`) that answers from handlers, and remembers what it was asked."""

    def __init__(self, handlers: Mapping[str, Handler], model: str = "toy"):
        self.model, self.memory, self.toy = model, dict[str, Any](), ToyModel()
        self.handlers, self.asked = dict(handlers), list[tuple[str, Mapping[str, Any]]]()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        self.asked.append((path.lstrip("/"), body))
        if path.lstrip("/") not in self.handlers:
            raise RefusedError(f"no {path}", 404, "Not Found")
        return self.handlers[path.lstrip("/")](self.toy, body)

    async def get(self, path: str) -> Any:
        return await self.post(path, {})

    def bodies(self, path: str) -> list[Mapping[str, Any]]:
        return [body for where, body in self.asked if where == path]


def refused(status: int, words: str) -> Handler:
    def refuse(toy: ToyModel, body: Mapping[str, Any]) -> Any:
        raise RefusedError(words, status, words)

    return refuse


def vllm_tokenize(toy: ToyModel, body: Mapping[str, Any]) -> Any:
    if "prompt" not in body:
        raise RefusedError("field required", 400, "field required")
    ids = [BOS] * body.get("add_special_tokens", True) + toy.tokenise(body["prompt"])
    return {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None}


def llama_tokenize(toy: ToyModel, body: Mapping[str, Any]) -> Any:
    return {"tokens": [BOS] * body.get("add_special", False) + toy.tokenise(body.get("content", ""))}


def vllm_completions(toy: ToyModel, body: Mapping[str, Any], *, ignores_ids: bool = False) -> Any:
    """As vLLM 0.32; older ones ignore logprob_token_ids and give the most probable ones."""
    asked = body.get("logprob_token_ids", [])
    assert len(asked) <= 128
    choices = []
    for prompt in body["prompt"]:
        sampled = toy.likely(prompt)
        shown = {sampled} if ignores_ids else {sampled, *asked}
        top = {f"token_id:{token}": toy.log_prob(prompt, token) for token in shown}
        row = {"text_offset": [0], "token_logprobs": [top[f"token_id:{sampled}"]], "tokens": [f"token_id:{sampled}"]}
        choices.append({"index": len(choices), "text": "", "logprobs": {**row, "top_logprobs": [top]}})
    return {"object": "text_completion", "model": body["model"], "choices": choices[::-1], "usage": {}}


def sglang_score(toy: ToyModel, body: Mapping[str, Any], *, delimiter: bool = False) -> Any:
    between = [DELIMITER] if delimiter else []
    rows = [
        [math.exp(toy.log_prob([*body["query"], *between, *item], token)) for token in body["label_token_ids"]]
        for item in body["items"]
    ]
    assert body["apply_softmax"] is False
    return {"scores": rows, "model": body["model"], "usage": None, "object": "scoring"}


def llama_completions(toy: ToyModel, body: Mapping[str, Any], *, ignores_bias: bool = False) -> Any:
    """As llama.cpp: the bias decides what is written, the log-probabilities are those before it."""
    ((forced, bias),) = body["logit_bias"]
    likely = toy.likely(body["prompt"])
    ranked = sorted(range(N), key=lambda token: -toy.log_prob(body["prompt"], token, likely))
    written = ranked[0] if ignores_bias else forced
    assert bias > 100
    assert body["max_tokens"] == 1

    def row(token: int) -> dict[str, Any]:
        return {"id": token, "token": "?", "bytes": [63], "logprob": toy.log_prob(body["prompt"], token, likely)}

    if written in HALF:  # what ends within a character is not told of
        return {"choices": [{"text": "", "index": 0, "logprobs": None}], "model": body["model"]}
    content = [{**row(written), "top_logprobs": [row(token) for token in ranked[: body["logprobs"]]]}]
    choice = {"text": "?", "index": 0, "logprobs": {"content": content}, "finish_reason": "length"}
    return {"choices": [choice], "model": body["model"], "object": "text_completion", "usage": {}}


def probabilities(text: str, options: list[str]) -> list[float]:
    """Return those of a decision model: it believes in the option that its text or question names last."""
    place = [text.rfind(option) for option in options]
    weights = [0.02] * len(options)
    weights[place.index(max(place))] += 1 - sum(weights)
    return weights


def decisions(toy: ToyModel, body: Mapping[str, Any]) -> Any:
    """As OpenAI's and vLLM's, which refuse fields that they do not know."""
    assert body.keys() == {"model", "input", "questions"}
    assert isinstance(body["input"], str)
    answers = []
    for question in body["questions"]:
        said: dict[str, Any] = {"type": question["type"], "name": question.get("name")}
        if question["type"] == "predicate":
            said["probability"] = 0.75
        elif question["type"] == "choice":
            assert 2 <= len(question["choices"]) <= 255
            values = [choice["value"] for choice in question["choices"]]
            row = probabilities(body["input"], values)
            said |= {"choice": values[row.index(max(row))], "confidence": max(row)}
            said["probabilities"] = [{"value": v, "probability": p} for v, p in zip(values, row, strict=True)]
        else:
            labels = [level["label"] for level in question["levels"]]
            row = [(i + 1) / (len(labels) * (len(labels) + 1) / 2) for i in range(len(labels))]
            said |= {"score": 0.0, "confidence": max(row)}
            said["probabilities"] = [
                {"value": i, "label": label, "probability": row[i]} for i, label in enumerate(labels)
            ]
        answers.append(said)
    return {"model": body["model"], "answers": answers, "usage": {"input_tokens": 9, "output_tokens": 1}}


def systemone(toy: ToyModel, body: Mapping[str, Any]) -> Any:
    """As vLLM's, with its diagnostics."""
    answers = {}
    for name, question in body["questions"].items():
        assert question.keys() <= {"type", "instructions", "criteria"}
        if question["type"] == "noul":
            answers[name] = {"type": "noul", "noul": 0.75}
        elif question["type"] == "choice":
            row = dict(zip(question["criteria"], probabilities(body["state"], list(question["criteria"])), strict=True))
            answers[name] = {"type": "choice", "choice": max(row, key=row.__getitem__), "probabilities": row}
        else:
            n = len(question["criteria"])
            answers[name] = {"type": "score", "probabilities": {str(i): (i + 1) / (n * (n + 1) / 2) for i in range(n)}}
    diagnostics = {name: {"label_mass": 0.5, "argmax_is_label": True} for name in answers}
    return {"id": "1", "model": body["model"], "answers": answers, "diagnostics": diagnostics, "usage": {}}


def vllm(**others: Handler) -> FakeService:
    return FakeService({"../tokenize": vllm_tokenize, "completions": vllm_completions, **others})


def sglang(**others: Handler) -> FakeService:
    return FakeService({"../tokenize": vllm_tokenize, "score": sglang_score, **others})


def llama_cpp(**others: Handler) -> FakeService:
    return FakeService({"../tokenize": llama_tokenize, "completions": llama_completions, **others})
