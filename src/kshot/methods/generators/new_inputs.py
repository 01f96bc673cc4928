"""New inputs of a task, as the model goes on with a list of known ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.script import WORDS
from kshot.core.types import Example, Task
from kshot.methods.generators.intake import EMPTY, Intake
from kshot.methods.generators.writer import UNFIT, Writer, can_be_asked, finished, in_one_line, room_for
from kshot.taskmodel.taskmodel import TaskModel

WITH_CONTEXT, WITHOUT = "context and input", "input"
NOT_IN_FORM = "it does not have the form that was asked for"
MADE_SHOWN = 4  # one in so many of a list may be made by the model itself


@dataclass(frozen=True)
class Shown:
    """What a draft is written from.

    Attributes:
        examples: In the order of the list.
        has_context: Whether a passage is written too.
        heading: What the list is of; empty: what the task says.
    """

    examples: tuple[Example, ...]
    has_context: bool
    heading: str = ""

    @property
    def template(self) -> str:
        """Which of the two forms it has."""
        return WITH_CONTEXT if self.has_context else WITHOUT


def drawn_lists(
    n: int, seeds: Sequence[Example], made: Sequence[Example], shown: int, rng: np.random.Generator
) -> list[Shown]:
    """Return `n` lists of examples to go on with, those with and without a passage as often as the known ones are.

    Args:
        n: How many.
        seeds: What is known.
        made: What was made of them: at most a quarter of a list is of these.
        shown: The most examples in a list.
        rng: For the draws.
    """
    found = []
    for _ in range(n):
        has_context = bool(seeds[int(rng.integers(len(seeds)))].context)
        known, more = ([e for e in some if bool(e.context) == has_context] for some in (seeds, made))
        few = [more[i] for i in rng.permutation(len(more))[: min(shown // MADE_SHOWN, len(known) // MADE_SHOWN)]]
        own = [known[i] for i in rng.permutation(len(known))[: shown - len(few)]] + few
        found.append(Shown(tuple(own[i] for i in rng.permutation(len(own))), has_context))
    return found


def write_inputs(
    lists: Sequence[Shown],
    seeds: Sequence[Example],
    writer: Writer,
    intake: Intake,
    *,
    asked: Sequence[TaskModel],
    rng: np.random.Generator,
) -> list[tuple[Example, Shown]]:
    """Return what the model writes after each list: examples that lack nothing but an answer, each with its list.

    The others are rejected.

    Args:
        lists: What is gone on with.
        seeds: What is known.
        writer: Whose drafts they are.
        intake: Says what is wrong with them.
        asked: Who is to answer them; the first one writes.
        rng: For the draws.
    """
    model = asked[0]
    texts = [_request(one, model.task) for one in lists]
    room = room_for([e.text for one in lists for e in one.examples], model)
    stops: dict[bool, tuple[str, ...]] = {True: ("\n\n",), False: ("\n",)}
    found = list[tuple[Example, Shown]]()
    for has_context, stop in stops.items():
        places = [i for i, one in enumerate(lists) if one.has_context == has_context]
        if not places:
            continue
        said = writer.written([texts[i] for i in places], stop=stop, max_tokens=room, model=model, rng=rng)
        for i, text in finished(said, ["" for _ in places], intake):
            draft = _read(text, has_context, model.task)
            if draft is None:
                intake.reject(text, NOT_IN_FORM if text else EMPTY)
            elif fault := intake.fault(replace(draft, output=seeds[0].output)):  # which is one of the task's
                intake.reject(draft.input, fault)
            elif not can_be_asked(draft, asked):
                intake.reject(draft.input, UNFIT)
            else:
                found.append((draft, lists[places[i]]))
    return found


def _request(shown: Shown, task: Task) -> str:
    """Return the list that the model goes on with: numbered lines, or passages each with its question."""
    given = WORDS[task.kind][0]
    head = shown.heading or (f"{task.instruction}\n\n{given}s:" if task.instruction else f"{given}s of one kind:")
    if shown.has_context:
        blocks = [f"Passage: {in_one_line(e.context or '')}\n{given}: {in_one_line(e.input)}" for e in shown.examples]
        return "\n\n".join((head, *blocks, "Passage:"))
    lines = [f"{i}. {in_one_line(e.input)}" for i, e in enumerate(shown.examples, 1)]
    return "\n".join((head, *lines, f"{len(lines) + 1}."))


def _read(text: str, has_context: bool, task: Task) -> Example | None:
    """Return the example that a text is; None where it has another form."""
    if not has_context:
        return Example(re.sub(r"^\d+\.\s*", "", text), "", "draft") if text else None
    given = WORDS[task.kind][0]
    passage, mark, asked = text.removeprefix("Passage:").partition(f"\n{given}:")
    return Example(asked.strip(), "", "draft", passage.strip()) if mark and asked.strip() and passage.strip() else None
