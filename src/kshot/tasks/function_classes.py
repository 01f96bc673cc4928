"""Classes of functions that can be listed: what is known of one after some examples, and tasks made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.types import Example, FloatArray, Question, Task

FORCED = 0.3  # the share of a pool that is drawn from inputs with the rarer output, where that is asked


@dataclass(frozen=True)
class FunctionClass:
    """All functions of a class over all inputs there are, as tables.

    Attributes:
        name: With what it was made of, for messages.
        inputs: The texts of all inputs, `[n_inputs]`.
        labels: The outputs that functions can have.
        tables: The place in `labels` of each function's output to each input, `[n_functions, n_inputs]`; all differ.
        prior: How probable each function is before anything is known, `[n_functions]`, summing to 1.
        instruction: What is asked, for a task's card.
        teaching: Returns inputs after which no other function of the class than the one is possible; None where none
            are known.
        is_forced: Pools are drawn with more inputs of the rarer output (`FORCED`).
    """

    name: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    tables: NDArray[np.int8]
    prior: FloatArray
    instruction: str
    teaching: Callable[[int], tuple[int, ...] | None] = field(repr=False)
    is_forced: bool = True

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where each input's text stands in `inputs`."""
        return {text: i for i, text in enumerate(self.inputs)}

    @cached_property
    def _function_of(self) -> Mapping[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(self.tables)}

    def possible(self, points: Sequence[int], outputs: Sequence[int]) -> NDArray[np.bool_]:
        """Return which functions say these outputs to these inputs: the elimination learner's, `[n_functions]`."""
        return (self.tables[:, list(points)] == np.array(outputs, dtype=np.int8)).all(axis=1)

    def posterior(self, points: Sequence[int], outputs: Sequence[int]) -> FloatArray:
        """Return how probable each function is after these examples, `[n_functions]`: the prior of those possible.

        The inputs are taken as they come: that they may have been drawn with a function in view tells nothing.

        Raises:
            UserError: No function of the class says this.
        """
        weights = self.prior * self.possible(points, outputs)
        if not weights.sum():
            raise UserError(f"Examples must be those of a function of the class {self.name}; none says them all.")
        return weights / weights.sum()

    def predictive(self, weights: FloatArray, points: Sequence[int]) -> FloatArray:
        """Return the probabilities of the labels at some inputs under weighed functions, `[n_points, n_labels]`."""
        live = np.flatnonzero(weights)
        tables, kept = self.tables[live][:, list(points)], weights[live]
        return np.stack([kept @ (tables == label) for label in range(len(self.labels))], axis=1)

    def function_of(self, examples: Sequence[Example]) -> int | None:
        """Return the function of which these examples are all inputs and outputs; None where there is no such one."""
        row = np.full(len(self.inputs), -1, dtype=np.int8)
        for e in examples:
            row[self.places[e.input]] = self.labels.index(e.output)
        return self._function_of.get(row.tobytes())

    def read(self, examples: Sequence[Example]) -> tuple[list[int], list[int]]:
        """Return inputs and outputs of examples as numbers."""
        return [self.places[e.input] for e in examples], [self.labels.index(e.output) for e in examples]

    def told(self, past: Sequence[Example], questions: Sequence[Question]) -> FloatArray:
        """Return what is known of some questions after the past: the posterior's probabilities, `[n, n_labels]`."""
        weights = self.posterior(*self.read(past))
        return self.predictive(weights, [self.places[q.input] for q in questions])

    def task(self, name: str, n: int, *, rng: np.random.Generator) -> Task:
        """Draw a function, and return its task: `n` training rows in a random order, and all other inputs as test rows.

        The points that teach the function, if some are known, are among the training rows unless they were more than
        half of these. Functions are drawn until the training rows have two outputs.

        Args:
            name: Of the task.
            n: Training rows.
            rng: For every random choice.

        Raises:
            UserError: There are fewer different inputs than `n`, or `n` is below 2.
        """
        most = len(self.inputs)
        if not 2 <= n <= most:
            raise UserError(
                f"n must be in 2..{most}, the number of different inputs of {self.name}; got {n}. Ask for fewer "
                "examples, or take a larger d."
            )
        for _ in range(1000):
            function = int(rng.choice(len(self.prior), p=self.prior))
            pool = self._pool(function, n, rng)
            if len(set(self.tables[function, pool].tolist())) > 1:
                return self._task(name, function, pool, rng)
        raise UserError(f"n must be larger for {self.name}: {n} rows have the same output nearly always.")

    def _pool(self, function: int, n: int, rng: np.random.Generator) -> list[int]:
        """Return the inputs of the training rows in the order in which they are drawn."""
        taught = self.teaching(function) or ()
        taught = taught if len(taught) <= n // 2 else ()
        row = self.tables[function]
        chances = np.full(len(row), 1 / len(row))
        if self.is_forced:
            counts = np.bincount(row, minlength=len(self.labels))
            rare = row == min(np.flatnonzero(counts), key=lambda label: counts[label])
            chances = (1 - FORCED) * chances + FORCED * rare / rare.sum()
        chances[list(taught)] = 0
        others = rng.choice(len(row), size=n - len(taught), replace=False, p=chances / chances.sum())
        return [*taught, *map(int, others)]

    def _task(self, name: str, function: int, pool: Sequence[int], rng: np.random.Generator) -> Task:
        others = sorted(set(range(len(self.inputs))) - set(pool))

        def rows(points: Sequence[int]) -> tuple[Example, ...]:
            order = rng.permutation(len(points))
            return tuple(
                Example(self.inputs[points[i]], self.labels[self.tables[function, points[i]]], f"row-{points[i]}")
                for i in order
            )

        return Task(
            name, "classification", rows(pool), test=rows(others), labels=self.labels, instruction=self.instruction
        )

    def taught(self, task: Task) -> tuple[str, ...] | None:
        """Return the ids of the training rows that teach a task's function; None: none is known, or one is missing."""
        function = self.function_of((*task.train, *task.test))
        points = None if function is None else self.teaching(function)
        ids = {self.places[e.input]: e.id for e in task.train}
        return tuple(ids[p] for p in points) if points and ids.keys() >= set(points) else None


def merged(tables: NDArray[np.int8], prior: FloatArray) -> tuple[NDArray[np.int8], FloatArray, NDArray[np.intp]]:
    """Return tables that all differ, without constant ones, their priors added up, and where each stood first."""
    unique, first, inverse = np.unique(tables, axis=0, return_index=True, return_inverse=True)
    weights = np.bincount(inverse.ravel(), weights=prior, minlength=len(unique))
    varies = unique.min(axis=1) < unique.max(axis=1)
    return unique[varies], weights[varies] / weights[varies].sum(), first[varies]


def completed(
    tables: NDArray[np.int8], function: int, points: Sequence[int], *, most: int | None = None
) -> tuple[int, ...] | None:
    """Return the points with more after which one function alone is possible, each the one that rules out the most.

    Args:
        tables: Of the class.
        function: The one that is taught.
        points: Those to begin with; none is taken away.
        most: How many points there may be; None is returned where these do not suffice.
    """
    row, found = tables[function], list(dict.fromkeys(points))
    others = tables[(tables[:, found] == row[found]).all(axis=1)]
    while len(others) > 1:
        differs = others != row
        found.append(int(differs.sum(axis=0).argmax()))
        others = others[~differs[:, found[-1]]]
    return tuple(found) if most is None or len(found) <= most else None
