"""Choose demonstrations: for a prompt of one's own, or for another model's API."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kshot.asking import Asker
from kshot.core.errors import UserError
from kshot.core.gradients import GradientStore
from kshot.core.progress import Progress, Silence
from kshot.core.protocols import Judge, LanguageModel, Messages
from kshot.core.types import Example, FloatArray, Prompt, Task
from kshot.engine.load import load_model
from kshot.evaluation.prequential import make_stream
from kshot.learning.prompted import selected
from kshot.prompts.chat import Chat
from kshot.prompts.template import Template
from kshot.recipe import parse_recipe


@dataclass(frozen=True)
class _NoJudge:
    """Stands where a language model would have to be asked, but none was given."""

    selector: str
    task: Task
    progress: Progress

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        raise self._error

    def answer_log_probs(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        raise self._error

    def gradients(self, examples: Sequence[Example], how: Any, *, seed: int) -> Any:
        raise self._error

    def note(self, values: Mapping[str, Any]) -> None:
        """Keep nothing."""

    @property
    def _error(self) -> UserError:
        return UserError(f"The selector '{self.selector}' asks a language model; give --model.")


def select(
    task: Task | str,
    selector: str,
    k: int,
    *,
    model: LanguageModel | str | None = None,
    layout: str = "auto",
    query: Example | str | None = None,
    seed: int = 0,
    gradient_store: GradientStore | None = None,
    progress: Progress | None = None,
    notes: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[Example]:
    """Choose demonstrations from the training examples.

    Args:
        task: Where the examples come from, or where to load it from; repeated rows are left out.
        selector: A selector's name with settings, as "random:balanced=true".
        k: How many, at most as many as there are.
        model: The language model, or its name, that the selector asks, if it asks one.
        layout: How that model is prompted, as for `adapt`.
        query: The input to choose for, where the selector chooses for each query.
        seed: As for `adapt`: the same seed gives the demonstrations of the adapted model.
        gradient_store: Where gradients are kept, for selectors that take them.
        progress: Told of the work that the selector asks for.
        notes: Called with what the selector says of its choice.

    Returns:
        The demonstrations in the order of the prompt; the last one stands next to the query.

    Raises:
        UserError: An unknown selector, `k` out of range, or a per-query selector without a query.
    """
    if not isinstance(task, Task):
        task = Task.load(task)
    if isinstance(query, str):
        query = Example(query, "", "query")
    if isinstance(model, str):
        model = load_model(model)
    recipe = parse_recipe(selector, shots=k)
    stream = make_stream(task, limit=len(task.train), seed=seed)
    pool = stream.examples
    if recipe.selector is None:
        raise UserError(f"--selector must name a selector; '{selector}' shows no demonstrations.")
    if not 1 <= k <= len(pool):
        raise UserError(f"-k must be in 1..{len(pool)}, the size of the pool; got {k}.")
    if recipe.k != k:
        raise UserError(f"-k says how many; leave k out of '{selector}', which says {recipe.k} and -k {k}.")
    judge: Judge = _NoJudge(selector, task, progress or Silence())
    if model:
        told = {"progress": progress or Silence(), "gradient_store": gradient_store or GradientStore(), "notes": notes}
        judge = replace(Asker.for_task(task, model, layout), **told)
    found = selected(recipe, pool, query, judge=judge, seed=seed)
    if len(found) > k:
        raise UserError(f"-k must be heeded by the selector; '{selector}' shows {len(found)} whatever -k is.")
    return list(found)


def check_fits(task: Task, chosen: Sequence[Example], model: LanguageModel, *, layout: str = "auto") -> int:
    """Return how many tokens the demonstrations have in a prompt.

    Raises:
        UserError: They leave no room for the task's longest input.
    """
    longest = max(task.train, key=lambda e: model.count_tokens(e.input) + model.count_tokens(e.context or ""))
    prompt, dropped = Asker.for_task(task, model, layout).prompt(chosen, longest)
    if dropped:
        raise UserError(
            f"The demonstrations and an input must fit the model's {model.max_tokens} tokens; {dropped} of "
            f"{len(chosen)} are too many. Use a smaller -k."
        )
    return sum(model.count_tokens(s.text) for s in prompt.segments[:-1])


def as_jsonl(task: Task, demonstrations: Sequence[Example]) -> str:
    """Return a line of JSON for each demonstration, as a task's file has them."""
    names = ("context", "choices", "references")
    rows = [
        {"id": e.id, "input": e.input, "output": e.output} | {k: v for k in names if (v := getattr(e, k))}
        for e in demonstrations
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_prompt(task: Task, demonstrations: Sequence[Example]) -> str:
    r"""Return the plain prompt; "{input}" stands where the query goes, and the answer begins where it ends.

    Where demonstrations have contexts, "{context}" stands for the query's. Replace the last ones, do not format: all
    other braces are those of the examples.

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"), instruction="Say a or b.")
        >>> as_prompt(task, [Example("1", "a", "x")])
        'Say a or b.\n\nText: 1\nLabel: a\n\nText: {input}\nLabel:'
    """
    return Template().compose(task, demonstrations, _placeholder(demonstrations)).text


def as_messages(task: Task, demonstrations: Sequence[Example]) -> list[dict[str, str]]:
    """Return the conversation for a chat API: the instruction as system, demonstrations as turns, then "{input}"."""
    return Chat(_AnyApi(), "any API").messages(task, demonstrations, _placeholder(demonstrations))


def formatter(name: str) -> Callable[[Task, Sequence[Example]], str]:
    """Return the function that writes demonstrations in a format of `FORMATS`.

    Raises:
        UserError: An unknown format.
    """
    if name not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; got '{name}'.")
    return FORMATS[name]


def _messages_line(task: Task, demonstrations: Sequence[Example]) -> str:
    return json.dumps(as_messages(task, demonstrations), ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Task, Sequence[Example]], str]] = {
    "jsonl": as_jsonl,
    "prompt": as_prompt,
    "messages": _messages_line,
}


def _placeholder(demonstrations: Sequence[Example]) -> Example:
    """Return a query that stands for any."""
    return Example("{input}", "", "query", context="{context}" if any(e.context for e in demonstrations) else None)


class _AnyApi:
    """The chat format of an API, which takes every role; its messages are sent, never its text."""

    fingerprint = "any"

    def render(self, messages: Messages, *, open_answer: bool) -> str:
        text = "".join(f"<{m['role']}>{m['content']}</{m['role']}>" for m in messages)
        return text + "<assistant>" * open_answer

    def agrees(self, prompt: Prompt, messages: Messages) -> bool:
        return True
