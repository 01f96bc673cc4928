"""Two intents that a question can be asked with: answer from the context, or from memory in spite of it.

An example bears on them where what its context says and what is known otherwise are different answers: its `output`, as
the context has it, and `memory_answer` in its `meta`.

Source: Minder et al. (2024), Controllable Context Sensitivity and the Knob Behind It, section 3,
https://arxiv.org/abs/2411.07404. Differs: the sentences are ours; they stand between context and query, as theirs do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from kshot.core.types import Example, Task

CONTEXT = "Answer from the context."
MEMORY = "Ignore the context and answer from what you know."
SENTENCES: Mapping[str, str] = {"context": CONTEXT, "memory": MEMORY}
INTENTS = tuple(SENTENCES)
MEMORY_FIELD = "memory_answer"


def opposite(intent: str) -> str:
    """Return the other intent."""
    return "memory" if intent == "context" else "context"


def memory_answer(example: Example) -> str | None:
    """Return what is known of the answer without the context, if the example says it."""
    found = example.meta.get(MEMORY_FIELD)
    return found.strip() or None if isinstance(found, str) else None


def differs(example: Example) -> bool:
    """Return whether an example has a context, and an answer from memory that is none of those that are accepted."""
    memory = memory_answer(example)
    accepted = {a.strip().casefold() for a in example.accepted}
    return bool(example.context) and memory is not None and memory.casefold() not in accepted


def answer_under(example: Example, intent: str) -> str:
    """Return the right answer under an intent, of an example whose answers differ (`conflicting`)."""
    return example.output if intent == "context" else memory_answer(example) or example.output


def conflicting(examples: Iterable[Example], task: Task) -> list[Example]:
    """Return the examples that have a context, and another answer from memory than from it.

    Where answers are chosen among candidates, both must be among them.
    """
    return [
        e for e in examples if differs(e) and (task.is_open or {memory_answer(e), e.output} <= set(task.candidates(e)))
    ]


def told(example: Example, intent: str) -> Example:
    """Return an example of `conflicting` that is asked with an intent, with the answer that is right then.

    The intent is a sentence after the context, so that it is said before the question in every layout.
    """
    answer, context = answer_under(example, intent), f"{example.context}\n{SENTENCES[intent]}"
    return replace(
        example, context=context, output=answer, references=example.references if intent == "context" else ()
    )


def lacking(task: Task) -> str | None:
    """Return what a task's training examples must have so that the intents differ, and none has; None: nothing."""
    if not any(e.context for e in task.train):
        return "context"
    if not any(memory_answer(e) for e in task.train):
        return f"meta.{MEMORY_FIELD}"
    if not conflicting(task.train, task):
        return f"a meta.{MEMORY_FIELD} that is another of the possible answers than the output"
    return None
