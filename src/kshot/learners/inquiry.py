"""What a teacher may know, found out along a stream: what that takes is counted, and it is known after a stop."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from scipy.special import softmax

from kshot.core.errors import TooLongError
from kshot.core.ledger import Ledger
from kshot.core.lessons import Lesson
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.types import Example, Prediction, Prompt, Query
from kshot.learners.learner import Setup
from kshot.learners.passed_on import PassedOn, tokens_of
from kshot.learners.prompted import PromptLearner
from kshot.measures.probabilities import normalised
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import Knowledge, Written
from kshot.methods.skill_profile import is_wrong
from kshot.taskmodel.taskmodel import TaskModel


class Student(Protocol):
    """Who is taught."""

    def says(self, queries: Sequence[Query], *, by_average: bool = False) -> list[Prediction]:
        """Return what the model says as it is now, or under the running average of its weights."""
        ...

    @property
    def prompted(self) -> PromptLearner:
        """What asks it."""
        ...


class Inquiry:
    """Finds out what a teacher may know.

    Args:
        teacher: Who may know it; None: nobody, and nothing is found out.
        student: Who is taught.
        setup: That of the run.
        passed_on: The recipe whose answers the teacher passes on, if it does that.
    """

    def __init__(self, teacher: Teacher | None, student: Student, setup: Setup, passed_on: PassedOn | None):
        assert setup.model is not None
        self._teacher, self._student, self._passed_on = teacher, student, passed_on
        self._base, self._selecting, self._seed = setup.model, setup.selector_model or setup.model, setup.seed
        self._sees_mistakes = bool(teacher and teacher.sees_mistakes)
        self._wrong: dict[str, bool] = {}  # of what was predicted before it was learnt
        self._found: dict[str, Any] = {}
        self._averaged: dict[str, list[float]] = {}  # log-probabilities
        self._asked: tuple[int, Any] = 0, None  # examples when the model before training was last asked, and the answer
        self.tokens = 0.0  # that were run for all that was asked since the last example was looked at
        self._tries, self._solved = Counter[int](), Counter[int]()  # of the present step, by turn

    @property
    def asks_on_the_way(self) -> bool:
        """Whether the model is asked about each example before that is learnt."""
        return self._sees_mistakes or bool(self._teacher and self._teacher.sees_average)

    def restore(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Know again what was found out before an interruption, as the log of the steps tells it."""
        self._wrong |= {row["example"]: row["missed"] for row in log if "missed" in row}
        self._found = {row["example"]: row["found"] for row in log if "found" in row}
        self._averaged = {row["example"]: row["said"] for row in log if "said" in row}

    def forget(self) -> None:
        """Go back to before the first example; what was wrong along the stream remains so."""
        self._found, self._averaged, self._asked = {}, {}, (0, None)

    def mark(self, example: Example, prediction: Prediction) -> None:
        """Remember whether the model got an example wrong before it learns it."""
        if self._sees_mistakes and prediction.answer is not None:
            self._wrong[example.id] = is_wrong(self._base.task, example, prediction.answer)

    def look(self, seen: Sequence[Example]) -> dict[str, Any]:
        """Find out what has to be known of the last example before it is learnt; return it for the log."""
        new, past, found = seen[-1], seen[:-1], dict[str, Any]()
        self.tokens = 0.0
        if self._sees_mistakes:
            if new.id not in self._wrong:  # nobody has asked for it, or for no text
                self.mark(new, self._counted([Query(new, past, wants_text=True)])[0])
            found["missed"] = self._wrong[new.id]
            if self._wrong[new.id] and (more := self._compared(seen)) is not None:
                found["found"] = self._found[new.id] = more
        if self._teacher and self._teacher.sees_average:
            (prediction,) = self._average([new], past)
            found["said"] = self._averaged[new.id] = list(prediction.log_probs)
        if self._passed_on and refit_point(len(seen)) == len(seen):
            self.tokens += tokens_of(self._heard(seen, self._base.ledger))
        return found

    def knowledge(self, seen: Sequence[Example], lessons: Sequence[Lesson], model: TaskModel, step: int) -> Knowledge:
        """Return what the teacher may know of one step.

        Args:
            seen: The stream so far, the new example last.
            lessons: The tuner's.
            model: The model before training as it is asked, which the student writes in place of.
            step: As in `Teacher.lessons`.
        """
        names = seen[-1].id, step
        return Knowledge(
            wrong=frozenset(e.id for e in seen if self._wrong.get(e.id)),
            found={e.id: self._found[e.id] for e in seen if e.id in self._found},
            averaged=self._said_before(seen[:-1]),
            passed_on=self._heard(seen) if self._passed_on else {},
            inputs=self._inputs,
            asked=partial(self._ask, seen),
            average=partial(self._average, past=seen[:-1]),
            written=partial(self._written, lessons, model, names=names),
            tried=partial(self._tried, model=model, names=names),
            odds=partial(self._odds, seen, model),
        )

    def _heard(self, seen: Sequence[Example], student: Ledger | None = None) -> Mapping[str, Prediction]:
        assert self._passed_on is not None
        return self._passed_on.said(seen, again=self._base.ledger.is_apart, student=student)

    @cached_property
    def _inputs(self) -> tuple[Example, ...]:
        return tuple(question.answered() for question in self._base.task.unlabelled)

    def _counted(self, queries: Sequence[Query], *, by_average: bool = False) -> list[Prediction]:
        found = self._student.says(queries, by_average=by_average)
        self.tokens += sum(p.tokens for p in found)
        return found

    def _average(self, examples: Sequence[Example], past: Sequence[Example]) -> list[Prediction]:
        return self._counted([Query(e, past) for e in examples], by_average=True)

    def _said_before(self, past: Sequence[Example]) -> dict[str, Prediction]:
        """Return what the average said of each example of the past before it was learnt, by id."""
        found = {}
        for e in (e for e in past if e.id in self._averaged):
            candidates, log_probs = self._base.task.candidates(e), np.array(self._averaged[e.id])
            probs, answer = normalised(log_probs), candidates[int(np.argmax(log_probs))]
            found[e.id] = Prediction(e.id, candidates, log_probs.tolist(), probs.tolist(), answer)
        return found

    def _compared(self, seen: Sequence[Example]) -> Any:
        """Return what the teacher finds out about the last example, which the model got wrong."""
        assert self._teacher is not None
        new, past, ledger, prompted = seen[-1], seen[:-1], self._base.ledger.part(), self._student.prompted
        ready = replace(prompted.prepare(past).model, ledger=ledger)
        models = (self._base, self._selecting)
        before, selecting = (replace(ready, model=one.model, layout=one.layout, told=None) for one in models)
        found = self._teacher.compare(
            seen,
            student=replace(ready, model=prompted.model.model),
            before=before,
            selecting=selecting,
            shown=lambda: prompted.demonstrations(Query(new, past)),
            rng=generator(self._seed, "compare", new.id),
        )
        self.tokens += ledger.cost.tokens
        return found

    def _ask(self, seen: Sequence[Example]) -> Any:
        """Return what the model before training said at the last refit point."""
        assert self._teacher is not None
        if (n := refit_point(len(seen))) != self._asked[0]:
            ready = self._student.prompted.prepare(seen[: n - 1])
            ledger = self._base.ledger.part() if n == len(seen) else Ledger()  # after an interruption; it was counted
            model, rng = replace(ready.model, told=None, ledger=ledger), generator(self._seed, "teacher asks", n)
            self._asked = n, self._teacher.ask((*seen[:n], *ready.made), model=model, rng=rng)
            self.tokens += ledger.cost.tokens if n == len(seen) else 0.0
        return self._asked[1]

    def _written(
        self, lessons: Sequence[Lesson], model: TaskModel, n: int, *, names: tuple[str | int, ...]
    ) -> dict[str, list[Written]]:
        """Return `n` answers of the student to each lesson's question, by its target."""
        student = self._writing(model)
        first = {lesson.target.id: lesson for lesson in reversed(lessons)}
        prompts = [
            replace(student, asked=lesson.asked).prompt(lesson.demonstrations, lesson.target)[0]
            for lesson in first.values()
        ]
        seed = int(generator(self._seed, "write", *names).integers(2**31))
        found: dict[str, list[Written]] = {}
        for lesson, texts in zip(first.values(), student.sampled(prompts, n, seed=seed), strict=True):
            said = [(text.text.strip(), student.heard(text.text.strip(), lesson.target)) for text in texts]
            found[lesson.target.id] = [
                Written(answer, not is_wrong(model.task, lesson.target, answer), model.composer.stated(text))
                for text, answer in said
            ]
        self.tokens += student.ledger.cost.tokens
        return found

    def _writing(self, model: TaskModel) -> TaskModel:
        """Return what the student writes with, as it is now; what that takes is counted in a part of the ledger."""
        own, ledger = self._student.prompted.model, self._base.ledger.part()
        return replace(model, model=own.model.with_store(None), answer_tokens=own.answer_tokens, ledger=ledger)

    def _tried(
        self, lessons: Sequence[Lesson], turn: int, *, model: TaskModel, names: tuple[str | int, ...]
    ) -> list[Written | None]:
        """Return an answer of the student to the question of each lesson, None where that does not fit."""
        student, prompts = self._writing(model), dict[int, Prompt]()
        for i, lesson in enumerate(lessons):
            try:
                prompts[i] = student.asking(lesson).prompt(lesson.demonstrations, lesson.target)[0]
            except TooLongError:
                continue
        seed = int(generator(self._seed, "try", *names, turn).integers(2**31))
        targets = [lessons[i].target for i in prompts]
        found: list[Written | None] = [None] * len(lessons)
        drawn = student.drawn(list(prompts.values()), targets, seed=seed)
        for i, e, (text, is_whole) in zip(prompts, targets, drawn, strict=True):
            answer = student.heard(text.text.strip(), e)
            is_right = text.finished and not is_wrong(model.task, e, answer)
            found[i] = Written(answer, is_right, None, model.task.candidates(e), is_whole)
            self._tries[turn] += 1
            self._solved[turn] += is_right
        self.tokens += student.ledger.cost.tokens
        return found

    def _odds(self, seen: Sequence[Example], model: TaskModel, lessons: Sequence[Lesson]) -> list[Mapping[str, float]]:
        """Return how probable the student finds the answers to each lesson's question."""
        student, targets = self._writing(model), [lesson.target for lesson in lessons]
        labels = tuple(dict.fromkeys(e.output for e in (*seen, *targets)))
        prompts = [student.asking(one).prompt(one.demonstrations, one.target)[0] for one in lessons]
        answers = [labels if model.task.labels else model.task.candidates(e) for e in targets]
        rows = student.score(prompts, [student.said(some, e) for some, e in zip(answers, targets, strict=True)])
        self.tokens += student.ledger.cost.tokens
        rows = [row - student.unsaid(some, e) for some, row, e in zip(answers, rows, targets, strict=True)]
        return [dict(zip(some, softmax(row).tolist(), strict=True)) for some, row in zip(answers, rows, strict=True)]

    def tally(self) -> dict[str, list[int]]:
        """Return for the log how many tries the student had at each turn of the step, and how many were right."""
        if not self._tries:
            return {}
        found = {"tries": self._tries, "right": self._solved}
        rows = {name: [one[turn] for turn in range(max(self._tries) + 1)] for name, one in found.items()}
        self._tries, self._solved = Counter(), Counter()
        return rows
