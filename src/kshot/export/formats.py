"""Demonstrations for elsewhere: rows, a prompt of one's own, the messages of an API."""

from collections.abc import Callable, Mapping, Sequence

from kshot.core.errors import UserError
from kshot.core.json_text import to_json
from kshot.core.label_sets import read, shown_by_name
from kshot.core.models import LanguageModel
from kshot.core.script import Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.prompts.messages import conversation
from kshot.prompts.plain import Plain
from kshot.taskmodel.taskmodel import TaskModel


def check_fits(task: Task, chosen: Sequence[Example], model: LanguageModel, *, layout: str = "auto") -> int:
    """Return how many tokens the demonstrations have in a prompt.

    Raises:
        UserError: They leave no room for the task's longest input.
    """
    longest = max(task.train, key=lambda e: model.count_tokens(e.input) + model.count_tokens(e.context or ""))
    prompt, dropped = TaskModel.for_task(task, model, layout).prompt(chosen, longest)
    if dropped:
        raise UserError(
            f"The demonstrations and an input must fit the model's {model.max_tokens} tokens; {dropped} of "
            f"{len(chosen)} are too many. Use a smaller -k."
        )
    return sum(model.count_tokens(s.text) for s in prompt.segments[:-1])


def as_jsonl(task: Task, demonstrations: Sequence[Example]) -> str:
    """Return a line of JSON for each demonstration, as a task's file has them."""
    names = ("context", "explanation", "choices", "references")
    rows = [
        {"id": e.id, "input": e.input, "output": list(read(e.output)) if task.is_multi_label else e.output}
        | {k: v for k in names if (v := getattr(e, k))}
        for e in demonstrations
    ]
    return "".join(to_json(row) + "\n" for row in rows)


def as_prompt(task: Task, demonstrations: Sequence[Example]) -> str:
    r"""Return the plain prompt; "{input}" stands where the query goes, and the answer begins where it ends.

    Where demonstrations have contexts, "{context}" stands for the query's. Replace the last ones, do not format: all
    other braces are those of the examples.

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"), instruction="Say a or b.")
        >>> as_prompt(task, [Example("1", "a", "x")])
        'Say a or b.\n\nText: 1\nLabel: a\n\nText: {input}\nLabel:'
    """
    return Plain().write(_script(task, demonstrations)).text


def as_messages(task: Task, demonstrations: Sequence[Example]) -> list[dict[str, str]]:
    """Return the conversation for a chat API: the instruction as system, demonstrations as turns, then "{input}"."""
    return conversation(_script(task, demonstrations))


def formatter(name: str) -> Callable[[Task, Sequence[Example]], str]:
    """Return the function that writes demonstrations in a format of `FORMATS`.

    Raises:
        UserError: An unknown format.
    """
    if name not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; got '{name}'.")
    return FORMATS[name]


def messages_line(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the messages of a chat as a line of JSON."""
    return to_json(messages) + "\n"


FORMATS: dict[str, Callable[[Task, Sequence[Example]], str]] = {
    "jsonl": as_jsonl,
    "prompt": as_prompt,
    "messages": lambda task, demonstrations: messages_line(as_messages(task, demonstrations)),
}


def _script(task: Task, demonstrations: Sequence[Example]) -> Script:
    """Return what is said, with a question that stands for any."""
    context = "{context}" if any(e.context for e in demonstrations) else None
    if task.is_multi_label:
        demonstrations = shown_by_name(demonstrations, task.labels)
    return UsualWording().compose(task, demonstrations, Question("{input}", "query", context=context))
