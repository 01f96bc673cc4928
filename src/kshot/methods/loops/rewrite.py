"""Instructions rewritten after reflection over mistakes, from parents that are the best on some example."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, FloatArray
from kshot.methods.contracts import Artefact
from kshot.methods.loops.refine import halves, listed, one_line
from kshot.methods.loops.talking import Talking
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

_REFLECT = (
    "Somebody finds the output of inputs by this instruction:\n{instruction}\n\nThese went wrong; the outputs here are "
    "right:\n\n{mistakes}\n\nWhat does the instruction lack? Write a better one, whole, in one line.\nInstruction:"
)


@dataclass(frozen=True)
class Rewrite(Talking):
    """Let a model reflect on what went wrong under an instruction and write a better one; keep a Pareto set of them.

    A candidate is a note after the task's instruction; the first is none at all. In each try a parent is drawn from
    the Pareto set: of the candidates that are best on some held example, and that no other one equals wherever they
    are, each with a probability proportional to the number of examples on which it is best. The reflector is told the
    parent and those of `batch` other examples that cost most under it, and writes a child. One that costs fewer bits
    on them than its parent is scored on all held examples and becomes a candidate. The candidate that costs the
    fewest bits on these is kept, if it saves some.

    Attributes:
        tries: How many children are written.
        batch: Examples that a parent is tried on before reflection, and a child after it.
        mistakes: How many of these the reflector is told.
        asked: The most held examples.
        length: The most tokens of an instruction.
        reflector: Who writes: "model", "person", or another model.

    Source: Agrawal et al. (2025), GEPA, algorithms 1 and 2, https://arxiv.org/abs/2507.19457.
    Differs: one instruction, beside the task's own; bits in place of a metric, so that there is no textual feedback
    of an evaluator beyond the right outputs; no merging of candidates.
    """

    tries: int = setting(8, least=1, most=1000)
    batch: int = setting(6, least=1, most=1000)
    mistakes: int = setting(3, least=1, most=100)
    asked: int = setting(16, least=1, most=10_000)
    length: int = setting(80, least=1, most=10_000)
    reflector: str = "model"

    version = 3
    players: ClassVar[tuple[str, ...]] = ("reflector",)

    @property
    def calls_a_round(self) -> int:
        """The scores without an instruction; a child, and its scores and its parent's on the batch; then on all."""
        return 2 * self.asked + 2 * self.batch + 1

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield the best instruction after each try; see `Talking.rounds`."""
        seen, held = halves(examples, rng, self.asked)
        texts, costs = [""], [_bits(talk, model, held, "")]
        for _ in range(self.tries):
            parent = texts[drawn(np.array(costs), rng)]
            batch = [seen[i] for i in rng.permutation(len(seen))[: self.batch]]
            before = _bits(talk, model, batch, parent)
            worst = [batch[i] for i in np.argsort(-before, kind="stable")[: self.mistakes]]
            asked = _REFLECT.format(instruction=parent or model.task.instruction or "(none)", mistakes=listed(worst))
            text = talk.ask_for("reflector", asked, one_line, "one line", most=self.length)
            if text not in texts and _bits(talk, model, batch, text).sum() < before.sum():
                found = _bits(talk, model, held, text)
                texts.append(text)
                costs.append(found)
            best = texts[int(np.argmin(np.sum(costs, axis=1)))]
            yield Artefact(notes=(best,) if best else ())


def _bits(talk: Talk, model: TaskModel, held: Sequence[Example], note: str) -> FloatArray:
    nobody: list[tuple[Example, ...]] = [()] * len(held)
    return talk.bits(model.noted((note,)) if note else model, nobody, held)


def pareto(costs: FloatArray) -> dict[int, int]:
    """Return the candidates that are best on some example and that none of the others dominates, and on how many.

    A candidate is dominated where others are as good as it on every example on which it is best; of those that leave
    each other nothing the worse on average goes first, so that on each example one of the best is left.

    Args:
        costs: Of each candidate on each example, `[n_candidates, n_examples]`; the fewer the better.

    Example:
        >>> pareto(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0], [2.0, 0.0, 0.0], [0.0, 3.0, 3.0]]))
        {1: 1, 2: 2}
    """
    least = costs.min(axis=0)
    winners = [set(np.flatnonzero(costs[:, i] == least[i]).tolist()) for i in range(costs.shape[1])]
    left = set[int]().union(*winners)
    for one in sorted(left, key=lambda i: (-costs[i].sum(), -i)):
        if all(some & (left - {one}) for some in winners if one in some):
            left.remove(one)
    counts = Counter(one for some in winners for one in some if one in left)
    return {one: counts[one] for one in sorted(left)}


def drawn(costs: FloatArray, rng: np.random.Generator) -> int:
    """Return a candidate of the Pareto set, drawn by the number of examples on which it is best."""
    found = pareto(costs)
    shares = np.array(list(found.values()), float)
    return list(found)[int(rng.choice(len(found), p=shares / shares.sum()))]
