"""Demonstrations rewritten by a teacher who sees where students who were shown them fail."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.seeding import digest
from kshot.core.types import Example, FloatArray, Task
from kshot.methods.contracts import Artefact
from kshot.methods.loops.refine import halves, listed
from kshot.methods.loops.talking import Talking
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

Shown = tuple[Example, ...]
_PAIR = re.compile(r"Input:\s*(?P<input>.*?)\s*\n\s*Output:[^\S\n]*(?P<output>[^\n]*)", re.DOTALL)
_ASKED = (
    "A student is shown these examples:\n\n{shown}\n\nAfter them the student gets these wrong; the outputs here are "
    "right:\n\n{failed}\n\nWhat do the examples fail to teach? Write {n} better ones, each in the form\nInput: …\n"
    "Output: …\n\nInput:"
)


@dataclass(frozen=True)
class Teaching(Talking):
    """Let a teacher rewrite sets of demonstrations after reflection on what students get wrong; search with a beam.

    Sets of demonstrations are drawn from one half of the examples, `beam` of them. In each round a student, the model
    that answers, is examined after each set: on others of that half, of which the teacher is told those that cost
    most, and on the other half, by which sets are judged in bits and which the teacher never sees. For each set the
    teacher writes a better one. The `beam` best of old and new ones go on. What is new in the best set joins the
    examples, marked as made.

    Attributes:
        size: Demonstrations in a set.
        beam: Sets that go on.
        tries: How many rounds.
        failures: Examples that the teacher is told.
        asked: The most examples by which sets are judged, and after which of them a student is examined.
        length: The most tokens of a set that the teacher writes.
        teacher: Who writes: "model", "person", or another model.

    Source: Ning et al. (2024), Can LLMs Learn by Teaching for Better Reasoning? A Preliminary Study, section 5 (M3),
    https://arxiv.org/abs/2406.14629.
    Differs: one student, the model that answers; bits in place of accuracy; what sets are judged by is nothing that
    the teacher has seen; sets begin with known examples alone.
    """

    size: int = setting(4, least=1, most=100)
    beam: int = setting(2, least=1, most=100)
    tries: int = setting(3, least=1, most=1000)
    failures: int = setting(4, least=1, most=100)
    asked: int = setting(16, least=1, most=10_000)
    length: int = setting(256, least=1, most=10_000)
    teacher: str = "model"

    version = 4
    players: ClassVar[tuple[str, ...]] = ("teacher",)

    def suits(self, task: Task) -> bool:
        """Return whether a pair of input and output is a whole example: rows with choices of their own are not."""
        return task.kind != "multiple_choice"

    @property
    def calls_a_round(self) -> int:
        """The scores of all sets; of each the examination, a child, and its scores."""
        return self.beam * (3 * self.asked + 1)

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield what is new in the best set after each round; see `Talking.rounds`."""
        seen, held = halves(examples, rng, self.asked)
        sets = [tuple(seen[i] for i in rng.permutation(len(seen))[: self.size]) for _ in range(self.beam)]
        beam = [(one, _bits(talk, model, one, held).sum()) for one in dict.fromkeys(sets)]
        for _ in range(self.tries):
            for shown, _ in tuple(beam):
                child = self._child(shown, seen, talk, model=model, rng=rng)
                if child not in {one for one, _ in beam}:
                    beam.append((child, _bits(talk, model, child, held).sum()))
            beam = sorted(beam, key=lambda pair: pair[1])[: self.beam]  # stable: the older first
            yield Artefact(demonstrations=tuple(e for e in beam[0][0] if e.is_made))

    def _child(
        self, shown: Shown, seen: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Shown:
        """Return the set that the teacher writes in the place of another."""
        others = [e for e in seen if e not in shown] or list(shown)
        examined = [others[i] for i in rng.permutation(len(others))[: self.asked]]
        worst = np.argsort(-_bits(talk, model, shown, examined), kind="stable")[: self.failures]
        failed = listed([examined[i] for i in worst])
        asked = _ASKED.format(shown=listed(shown), failed=failed, n=len(shown))
        form = f"up to {self.size} pairs of 'Input: …' and 'Output: …' with outputs of the task"
        return talk.ask_for(
            "teacher", asked, lambda text: read_pairs(text, model.task, self.size), form, most=self.length
        )


def _bits(talk: Talk, model: TaskModel, shown: Shown, queries: Sequence[Example]) -> FloatArray:
    return talk.bits(model, [shown] * len(queries), queries)


def read_pairs(text: str, task: Task, most: int) -> Shown | None:
    r"""Return the examples that somebody has written as pairs of "Input: …" and "Output: …"; None where there are none.

    The first "Input:" may be missing, as a request can end with it. A pair whose output the task does not have spoils
    the whole text, and so do more pairs than `most`.

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"))
        >>> [(e.input, e.output) for e in read_pairs("one\nOutput: a\nInput: two\nOutput: b", task, 4)]
        [('one', 'a'), ('two', 'b')]
        >>> read_pairs("one\nOutput: c", task, 4) is None
        True
    """
    told = text if text.lstrip().startswith("Input:") else f"Input: {text}"
    pairs = [(found["input"].strip(), found["output"].strip()) for found in _PAIR.finditer(told)]
    if not 0 < len(pairs) <= most:
        return None
    if not all(given and output and (task.is_open or output in task.labels) for given, output in pairs):
        return None
    return tuple(
        Example(given, output, f"taught-{digest(given, output)[:12]}", meta={"made": "teaching"})
        for given, output in dict.fromkeys(pairs)
    )
