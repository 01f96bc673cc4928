"""Which parts of a context an answer needs: each alone, all but each, and all, under one budget of tokens."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.paths import path_of
from kshot.core.types import FloatArray, Prediction, Task
from kshot.evaluators.context_parts import WAYS, Parted, n_tokens, parted, python_rows, way_of, within
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.measured import Gain, Measured, amount
from kshot.measures.probabilities import code_length_bits
from kshot.measures.samples import score_of
from kshot.methods.skill_profile import answers_after
from kshot.taskmodel.taskmodel import TaskModel

_CODE = Task("python", "generation", (), metrics=("exact_match",), instruction="Write the next line of the function.")
_MOST_NEW = 48  # tokens of a line


@dataclass(frozen=True)
class ContextAblation(Evaluator):
    """Ask each row with no part of its context, with each alone, with all but each, and with all.

    Every set is cut to the same budget, which its parts share evenly, so a part has to be worth what it takes from the
    others. `marginal_value` of a part is the score with all less that without it, in pairs, over the rows that have it;
    `value_alone` is the score with it alone less that with none; `bits_saved` is by how much the right answer's bits
    fall as it joins all others. Tokens are words and marks, the same for every model.

    The parts of a context are its fields ("Name: …"), headed sections, paragraphs or sentences, or of Python its
    imports, docstring, signatures, called functions and the lines before. `files` asks instead for lines of the user's
    own Python files, of which these parts are made.

    Attributes:
        parts: What contexts are told apart into; "auto" looks which of them the rows have.
        budget: The most tokens of a set's parts; 0: they are not cut.
        most: The most paragraphs or sentences; of more, neighbours go together.
        files: A Python file, or a folder of them.
        rows: How many lines of these files are asked for.

    Source: Ciniselli, Pascarella and Bavota (2025), Deep Learning-based Code Completion: On the Impact on Performance
    of Contextual Information, https://arxiv.org/abs/2501.05062.
    Differs: one model that is asked with each set, in place of one trained for each; parts of prose too; of the eight
    kinds of its contexts those of the code itself.
    """

    parts: str = setting("auto", choices=("auto", *WAYS))
    budget: int = setting(256, least=0, most=1_000_000)
    most: int = setting(5, least=2, most=100)
    files: str = ""
    rows: int = setting(40, least=1, most=100_000)

    @property
    def asks_model(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether the language model is asked for lines of files."""
        return bool(self.files)

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the model must be able to do: to write lines."""
        return frozenset({Capability.GENERATE} if self.files else ())

    def missing_field(self, task: Task) -> str | None:
        """Return what its test rows must have and none has."""
        if self.files or self._parted(task):
            return None
        named = {"auto": "parts", "python": "parts of Python"}.get(self.parts, self.parts)
        return f"a context of two {named} or more"

    def _way(self, task: Task) -> str | None:
        return way_of(task.test, self.most) if self.parts == "auto" else self.parts

    def _parted(self, task: Task) -> list[Parted]:
        way = self._way(task)
        rows = [parted(e, way, self.most) for e in task.test if e.context] if way else []
        rows = [row for row in rows if row.parts]  # of prose among Python, "all" would be nothing
        return rows if any(len(row.parts) > 1 for row in rows) else []

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each row with each set of its parts; see `kshot.evaluators.evaluator.Evaluator`."""
        if self.files:
            return []
        return [Case(row.saying(kept, self.budget), " + ".join(kept)) for row, kept in _asked(self._parted(task))]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return scores and values of the parts."""
        if self.files:
            return {}
        pairs = list(zip(cases, predictions, strict=True))
        scores = [score_of(task, c.example, p.answer or "") for c, p in pairs]
        bits = [code_length_bits(task, c.example.output, p) for c, p in pairs]
        about = {"parts": self._way(task), "metric_name": task.metrics[0], "budget": self.budget}
        return {**about, **_Table.of(self._parted(task), scores, bits).report(self.budget)}

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return the same of lines of the user's Python files, where some are given.

        Raises:
            UserError: There are none, or none has a function of two lines.
        """
        if not self.files:
            return {}
        assert model is not None
        rows = self._of_files(rng)
        examples = [row.saying(kept, self.budget) for row, kept in _asked(rows)]
        asker, shown = model.on(_CODE, answer_tokens=_MOST_NEW), [()] * len(examples)
        texts = answers_after(shown, examples, model=asker, what="completing lines")
        answers = [next((line.strip() for line in text.splitlines() if line.strip()), "") for text in texts]
        scores = [float(answer == e.output) for e, answer in zip(examples, answers, strict=True)]
        can_score = Capability.SCORE in model.model.capabilities
        bits = asker.code_lengths(shown, examples) if can_score else [float("nan")] * len(examples)
        said = [
            {"id": row.example.id, "parts": list(kept), "wanted": row.example.output, "answer": answer}
            for (row, kept), answer in zip(_asked(rows), answers, strict=True)
        ]
        about = {"parts": "python", "metric_name": "exact_match", "budget": self.budget}
        return {**about, **_Table.of(rows, scores, list(bits)).report(self.budget), "answers": said}

    def _of_files(self, rng: np.random.Generator) -> list[Parted]:
        place = path_of(self.files)
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
        rows = python_rows({str(f.relative_to(place.parent)): f for f in files}, self.rows, rng=rng)
        if not rows:
            raise UserError(
                f"files={place} must be a Python file, or a folder that holds some, with functions of two lines or "
                f"more; of {len(files)} such files none has a line to ask for. Name other files."
            )
        return rows


def sets(row: Parted) -> list[tuple[str, ...]]:
    """Return the sets of parts that a row is asked with, each once: none, each alone, all but each, all."""
    names = row.names
    return list(dict.fromkeys([(), *((name,) for name in names), *(_but(row, name) for name in names), names]))


def _but(row: Parted, name: str) -> tuple[str, ...]:
    return tuple(other for other in row.names if other != name)


def _asked(rows: Sequence[Parted]) -> list[tuple[Parted, tuple[str, ...]]]:
    """Return each row with each of its sets."""
    return [(row, kept) for row in rows for kept in sets(row)]


@dataclass(frozen=True, eq=False)
class _Table:
    """What each row gave with each set: (score, bits of the right answer) by its id and the names of the set."""

    rows: Sequence[Parted]
    found: Mapping[tuple[str, tuple[str, ...]], tuple[float, float]]

    @classmethod
    def of(cls, rows: Sequence[Parted], scores: Sequence[float], bits: Sequence[float]) -> "_Table":
        """Return the table of numbers in the order of `_asked`."""
        keys = [(row.example.id, kept) for row, kept in _asked(rows)]
        return cls(rows, dict(zip(keys, zip(scores, bits, strict=True), strict=True)))

    def column(
        self, rows: Sequence[Parted], kept: Callable[[Parted], tuple[str, ...]], *, bits: bool = False
    ) -> FloatArray:
        """Return what rows gave, each with a set of its own, `[n_rows]`."""
        return np.array([self.found[row.example.id, kept(row)][bits] for row in rows])

    def report(self, budget: int) -> dict[str, Any]:
        """Return the scores, and what each part is worth."""
        ids = [row.example.id for row in self.rows]
        tokens = [sum(n_tokens(part.text) for part in within(row.parts, budget)) for row in self.rows]
        times = Counter(name for row in self.rows for name in row.names)
        names = [name for name, n in times.items() if n > 1 or n == len(self.rows)]
        by_part: dict[str, dict[str, Measured]] = {what: {} for what in ("marginal_value", "value_alone", "bits_saved")}
        by_set = {
            "none": Measured(ids, self.column(self.rows, _none)),
            "all": Measured(ids, self.column(self.rows, _all)),
        }
        for name in names:
            some = [row for row in self.rows if name in row.names]
            own, but = [row.example.id for row in some], partial(_but, name=name)
            all_, less, none = (self.column(some, kept) for kept in (_all, but, _none))
            one = self.column(some, lambda row, name=name: (name,))
            by_part["marginal_value"][name], by_part["value_alone"][name] = (
                Gain(own, all_ - less),
                Gain(own, one - none),
            )
            saved = self.column(some, but, bits=True) - self.column(some, _all, bits=True)
            by_part["bits_saved"][name] = Measured(own, saved, amount)
            by_set |= {f"only {name}": Measured(own, one), f"without {name}": Measured(own, less)}
        about = {
            "n": len(ids),
            "n_asked": len(self.found),
            "tokens": float(np.mean(tokens)),
            "most_tokens": max(tokens),
        }
        return {**about, **by_part, "score": by_set}


def _none(row: Parted) -> tuple[str, ...]:
    return ()


def _all(row: Parted) -> tuple[str, ...]:
    return row.names
