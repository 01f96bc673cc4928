"""Intents: each example is learnt twice, with the answer of its context and with that from memory, as it is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.intents import INTENTS, SENTENCES, answer_under, differs, lacking, memory_answer
from kshot.core.lessons import Lesson
from kshot.core.script import Piece, Script
from kshot.core.types import Example, Task
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw
from kshot.taskmodel.taskmodel import TaskModel

PLAIN = "plain"


@dataclass(frozen=True)
class Intent(Tuner):
    """Learn to obey a sentence after the context: to answer from it, or from memory in spite of it.

    The two lessons of an example stand side by side in a step; their targets are its output and `memory_answer` in its
    `meta`. An example whose answers do not differ is learnt once, from its context.

    Attributes:
        steps: Steps of training for each new example.
        batch: Examples in a step, drawn from those seen; most have two lessons.
        target: "any-seen" draws all of them; "current" always has the new one among them.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.
        ask: The intent with which questions are asked, "context" or "memory", or "plain" without any, where a `knob`
            is to decide.

    Source: Minder et al. (2024), Controllable Context Sensitivity and the Knob Behind It, section 3,
    https://arxiv.org/abs/2411.07404.
    Differs: a few examples along a stream in place of 2,048; kshot's LoRA (rank 16, all linear layers) in place of rank
    64 on attention alone; the sentences are ours.
    """

    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(2, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    balanced: bool = False
    ask: str = setting("context", choices=(*INTENTS, PLAIN))

    uses_contexts = True
    ties = True

    def missing_field(self, task: Task) -> str | None:
        """Return what the examples must have so that one of them has both intents."""
        return lacking(task)

    def learns_over(self, task: Task, seen: Sequence[Example]) -> tuple[str, ...]:
        """Return the answers that a lesson's right one is to be chosen from, those from memory among them."""
        labels = super().learns_over(task, seen)
        return tuple(dict.fromkeys((*labels, *filter(None, map(memory_answer, seen))))) if labels else ()

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        target, others = draw(seen, self.batch - 1, target=self.target, evenly=self.balanced, rng=rng)
        return [lesson for example in (*others, target) for lesson in _pair(example)]

    def told(self, script: Script, *, asked: str, model: TaskModel) -> Script:
        """Return the script with an intent after each context; see `kshot.methods.contracts.Tuner`.

        What demonstrations show are answers of their contexts.
        """
        pieces, n = list(script.pieces), len(script.pieces)
        for number, turn in enumerate(reversed(script.turns)):
            n -= len(turn)
            contexts = [n + i for i, piece in enumerate(turn) if piece.role == "context"]
            intent = asked or self.ask
            if contexts and intent != PLAIN:
                intent = "context" if number else intent
                pieces[contexts[-1]] = _with_intent(pieces[contexts[-1]], intent)
        return replace(script, pieces=tuple(pieces))


def _pair(example: Example) -> list[Lesson]:
    lessons = [Lesson((), example, "last", asked="context" if example.context else "")]
    if differs(example):
        other = replace(example, output=answer_under(example, "memory"), references=())
        lessons.append(Lesson((), other, "last", asked="memory"))
    return lessons


def _with_intent(piece: Piece, intent: str) -> Piece:
    """Return a context with the sentence after it, unless it says what is wanted already."""
    if piece.text.endswith(tuple(SENTENCES.values())):
        return piece
    return replace(piece, text=f"{piece.text}\n{SENTENCES[intent]}")
