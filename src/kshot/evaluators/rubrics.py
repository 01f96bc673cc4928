"""Does a model learn from what it is told just now? Tasks whose answers must pass each of their rubrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kshot.core.errors import ModelError, UserError
from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.paths import path_of
from kshot.core.types import Task
from kshot.evaluators.evaluator import Evaluator
from kshot.evaluators.invented_rules import invented_items
from kshot.evaluators.replies import replies
from kshot.evaluators.rubric_items import JUDGED, RubricItem, read_items, script_of
from kshot.measures.measured import Measured
from kshot.methods.roles import role_of
from kshot.methods.talk import OverError, Talk
from kshot.prompts.fitting import fits
from kshot.store.traces import Trace
from kshot.taskmodel.taskmodel import TaskModel

_ASKED = (
    "An answer is judged by one criterion.\n\nAnswer:\n{answer}\n\nCriterion: {criterion}\n\nDoes the answer meet the "
    "criterion? Say yes or no.\nVerdict:"
)
_NO_LIMIT = 10**12
_SHOWN = 3  # failures of the judge that are told in words


@dataclass(frozen=True)
class Rubrics(Evaluator):
    """Ask the language model tasks with rubrics: a task is solved where its answer passes all of them.

    Without a file the tasks are about invented towns, whose rules stand in the prompt (`invented_items`); they are
    asked without their rules too, and `chance` says how often guessing solves them. A file has one task a line in
    CL-bench's format (`read_items`). A rubric is a check that is run, or a text that the judge decides: it is asked one
    rubric at a time, and must say yes or no. Where it fails, or says something else three times, the rubric has not
    passed, and is counted as `judge_failed` too. No rubric of an answer that is `empty` passes, nor any of a task that
    does not fit the model (`too_long`).

    Attributes:
        file: Tasks with rubrics, JSON lines; empty: the invented ones.
        systems: How many towns are invented, with four tasks each.
        length: The most tokens of an answer.
        judge: Who decides rubrics that are texts: "model" is the system's own, or another model as --model names it.

    Source: CL-bench: A Benchmark for Context Learning (2026), https://arxiv.org/abs/2602.03587.
    Differs: checks that are run beside judged rubrics; the invented towns are ours, and far shorter; of 0.5B a judge
    tells little.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    asks_model: ClassVar[bool] = True

    file: str = ""
    systems: int = setting(8, least=1, most=10_000)
    length: int = setting(32, least=1, most=100_000)
    judge: str = "model"
    _items: tuple[RubricItem, ...] = state(())

    def __post_init__(self):
        super().__post_init__()
        if self.file:
            object.__setattr__(self, "file", str(path_of(self.file).absolute()))
            object.__setattr__(self, "_items", tuple(read_items(path_of(self.file))))

    @property
    def named_models(self) -> dict[str, tuple[str, ...]]:
        """The judge, where it is another model and there is a rubric for it."""
        is_asked = any(rubric.check == JUDGED for item in self._items for rubric in item.rubrics)
        return {"judge": (self.judge,)} if is_asked and self.judge not in ("model", "person") else {}

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return the shares of tasks that are solved; see `kshot.evaluators.evaluator.Evaluator`.

        Raises:
            UserError: All answers are empty.
        """
        assert model is not None
        items = self._items or invented_items(self.systems, rng=rng)
        found = self._asked(items, [item.messages for item in items], model)
        if not self._items:
            bare = self._asked(items, [item.without_context for item in items], model)
            found["without_context"] = {name: bare[name] for name in ("solved", "mean_rubric")}
            found["chance"] = float(np.mean([item.chance or 0.0 for item in items]))
        return found

    def _asked(
        self, items: Sequence[RubricItem], messages: Sequence[Sequence[tuple[str, str]]], model: TaskModel
    ) -> dict[str, Any]:
        answers = self._answers(items, messages, model)
        if not any(answers):
            raise UserError(
                f"--suite rubrics needs answers with words; all {len(answers)} that '{model.model.name}' has written "
                "are empty or have no room. Raise length, or evaluate a system with another model."
            )
        bench = _Bench(self.judge, model)
        passed = [
            [bool(answer) and bench.passes(rubric, answer) for rubric in item.rubrics]
            for item, answer in zip(items, answers, strict=True)
        ]
        units, solved = [item.id for item in items], [float(all(some)) for some in passed]
        categories = dict.fromkeys(item.category for item in items)
        places = {name: [i for i, item in enumerate(items) if item.category == name] for name in categories}
        return {
            "n": len(items),
            "solved": Measured(units, solved),
            "mean_rubric": Measured(units, [float(np.mean(some)) for some in passed]),
            "by_category": {
                name: Measured([units[i] for i in some], [solved[i] for i in some]) for name, some in places.items()
            },
            "empty": sum(answer == "" for answer in answers),
            "too_long": sum(answer is None for answer in answers),
            "judged": bench.n,
            "judge_failed": len(bench.failed),
            "judge_says": bench.failed[:_SHOWN],
            "answers": [
                {"id": item.id, "answer": answer, "passed": some}
                for item, answer, some in zip(items, answers, passed, strict=True)
            ],
        }

    def _answers(
        self, items: Sequence[RubricItem], messages: Sequence[Sequence[tuple[str, str]]], model: TaskModel
    ) -> list[str | None]:
        """Return the greedy answer to each task; None where it does not fit."""
        asker = model.on(Task("rubrics", "qa", ()))
        scripts = [script_of(some) for some in messages]
        places = [
            i for i, one in enumerate(scripts) if fits(asker.written(one), asker.model, answer_tokens=self.length)
        ]
        texts = replies(asker, [scripts[i] for i in places], max_tokens=self.length)
        answers = list[str | None]([None] * len(items))
        for i, text in zip(places, texts, strict=True):
            answers[i] = text
        return answers


class _Bench:
    """Decides rubrics, and counts those that its judge fails on.

    Args:
        who: The judge, as `role_of` names it; asked for only where a rubric needs it.
        model: The system's own.
    """

    def __init__(self, who: str, model: TaskModel):
        self._who, self._model = who, model.on(Task("rubrics", "qa", ()))
        self._talk: Talk | None = None
        self.n, self.failed = 0, list[str]()

    def passes(self, rubric: Any, answer: str) -> bool:
        """Return whether an answer passes a rubric; not where the judge fails."""
        if rubric.check != JUDGED:
            return rubric.passes(answer)
        self.n += 1
        if self._talk is None:
            judge = role_of(self._who, self._model, temperature=0.0, setting="rubrics:judge")
            self._talk = Talk({"judge": judge}, _NO_LIMIT, _NO_LIMIT, Trace(), self._model.progress.say)
        request = _ASKED.format(answer=answer, criterion=rubric.text)
        try:
            return self._talk.ask_for("judge", request, verdict, "yes or no", most=8)
        except (OverError, ModelError, UserError) as error:
            self.failed.append(str(error))
            return False


def verdict(text: str) -> bool | None:
    """Return what a judge says; None where that is neither yes nor no.

    Example:
        >>> verdict("**Yes**, it does."), verdict("no"), verdict("nobody knows")
        (True, False, None)
    """
    words = text.casefold().strip(" \t\n\"'`*.:").replace("*", " ").replace(",", " ").replace(".", " ").split()
    return {"yes": True, "no": False}.get(words[0]) if words else None
