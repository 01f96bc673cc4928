"""Composers that find something out about each question before it is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest

from kshot.core.fields import state
from kshot.core.script import Script, UsualWording
from kshot.core.types import Example, Query, Question, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.contracts import Artefact, Composer, Loop
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.testing.check_part import check_part

LABELS = ("left", "right")
ROWS = tuple(Example(f"the {i} way", LABELS[i % 2], f"r{i}") for i in range(12))
TASK = Task("ways", "classification", ROWS[:8], ROWS[8:], labels=LABELS)


@dataclass(frozen=True)
class Thinking(Composer):
    """Says what the model writes of a question before it."""

    _thought: str = state("")

    considers = True

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Say it."""
        script = UsualWording().compose(task, shown, question)
        return script.noted([f"Thought: {self._thought}"]) if self._thought else script

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Let the model write."""
        prompts = [model.layout.request(f"{len(shown)} {question.input}:") for shown, question in asked]
        return [{"thought": text.text} for text in model.write_each(prompts, max_tokens=4)]

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Know it."""
        return replace(self, _thought=found["thought"])


def _learner(name: str, seed: int = 0) -> PromptLearner:
    recipe = parse_recipe(name, shots=4).having(composer=Thinking())
    return PromptLearner(recipe, Setup(TASK, TaskModel.for_task(TASK, load_model("tiny")), seed))


def test_a_composer_that_considers_keeps_the_contract():
    check_part(Thinking())


@pytest.mark.parametrize("name", ["zero-shot", "random:k=2", "bm25:k=2", "random:k=2,contexts=2"])
def test_what_was_found_out_is_said_and_told_and_does_not_depend_on_what_is_asked_beside(name):
    queries = [Query(example, ROWS[:8]) for example in ROWS[8:]]
    together = _learner(name).predict(queries)
    alone = [p for query in queries for p in _learner(name).predict([query])]
    for both, one in zip(together, alone, strict=True):
        assert both.found == one.found
        assert len(both.found) == max(1, len(both.contexts))
        assert both.probs == pytest.approx(one.probs, abs=1e-5)
    fit = _learner(name).fit(ROWS[:8])
    assert fit.recipe.considers


def test_what_it_takes_counts_for_the_question():
    with_it = _learner("zero-shot").predict([Query(ROWS[8], ROWS[:8])])[0]
    plain = PromptLearner(
        parse_recipe("zero-shot", shots=4), Setup(TASK, TaskModel.for_task(TASK, load_model("tiny")), 0)
    ).predict([Query(ROWS[8], ROWS[:8])])[0]
    assert with_it.tokens > plain.tokens + 10
    assert plain.found == ()


def test_calibration_by_inputs_without_content_does_not_suit_it():
    recipe = parse_recipe("zero-shot:calibration=contextual", shots=4)
    assert recipe.suits(TASK)
    assert not recipe.having(composer=Thinking()).suits(TASK)


@dataclass(frozen=True)
class Counted(Loop):
    """Notes how many examples it has seen."""

    def run(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Artefact:
        """Return the note."""
        return Artefact(notes=(f"{len(examples)} are known.",))


@dataclass(frozen=True)
class Told(Thinking):
    """Finds out which notes the model is told."""

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Return them."""
        return [{"thought": " ".join(model.task_notes)} for _ in asked]


def test_each_question_is_considered_with_the_notes_of_its_own_past():
    recipe = parse_recipe("random", shots=2).having(composer=Told(), loop=Counted())
    learner = PromptLearner(recipe, Setup(TASK, TaskModel.for_task(TASK, load_model("scripted")), 0))
    queries = [Query(e, TASK.train[:n]) for n, e in zip((1, 5, 2), TASK.train[5:], strict=True)]
    found = [p.found[0]["thought"] for p in learner.predict(queries)]
    assert found == [f"{n} are known." for n in (1, 4, 2)]
