"""The teacher `hard-negatives`: a label is learnt against those that the student takes for it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

import kshot
from kshot.core.lessons import Batch, Lesson
from kshot.core.objective_settings import Policy
from kshot.core.seeding import generator
from kshot.core.types import Example, Query, Task
from kshot.engine.language_model import Engine
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.teachers.hard_negatives import HardNegatives
from kshot.models.tiny import tiny_backbone
from kshot.race.rehearsal import rehearsed
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("red pear", "red plum", "blue plum", "green fig")
STREAM = tuple(Example(f"box {i % 3}", LABELS[i % 3], f"e{i}") for i in range(24))  # none has the last label
TASK = Task("boxes", "classification", STREAM, STREAM[:3], labels=LABELS)
NAME = "fine-tune:lr=3e-3,batch=4,steps=1,teacher=hard-negatives"


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


def learner(tiny: Engine, task: Task = TASK, name: str = NAME) -> TrainedLearner:
    return TrainedLearner(parse_recipe(name, shots=2, raced=False), Setup(task, TaskModel.for_task(task, tiny), 0))


def taught(odds: dict[str, float], lesson: Lesson, **how: Any) -> list[Lesson]:
    knowledge = Knowledge(odds=lambda lessons: [odds] * len(lessons))
    return HardNegatives(**how).lessons([lesson], STREAM, step=0, rng=generator(0), knowledge=knowledge)


def test_the_right_answer_is_raised_and_the_nearest_others_are_lowered_by_what_they_have():
    odds = {"red pear": 0.5, "red plum": 0.1, "blue plum": 0.39, "green fig": 0.01}
    lesson = Lesson((STREAM[1],), replace(STREAM[0], references=("pear",), explanation="It is."), weight=2.0)
    found = taught(odds, lesson)
    assert [(one.target.output, one.advantage) for one in found] == [
        ("red pear", 0.5), ("blue plum", -0.39), ("red plum", -0.1),
    ]  # fmt: skip
    assert {(one.learnt, one.weight, one.demonstrations) for one in found} == {("last", 2.0, (STREAM[1],))}
    assert found[0].target == lesson.target
    assert all(not one.target.references and one.target.explanation is None for one in found[1:])
    assert [one.target.output for one in taught(odds, lesson, n=1)] == ["red pear", "blue plum"]


def test_without_a_student_lessons_are_as_they_were():
    lessons = [Lesson((), STREAM[0])]
    assert HardNegatives().lessons(lessons, STREAM, step=0, rng=generator(0), knowledge=NOTHING) == lessons


def test_the_gradient_is_that_of_the_chance_of_the_right_one_among_all_seen(tiny):
    """-log softmax of whole log-probabilities over the labels so far, on plain forward passes."""
    one = learner(tiny)
    model: Any = one.model
    asker = TaskModel.for_task(TASK, tiny)
    for e in STREAM[:2]:
        model.learn(Batch([asker.training_text(Lesson((), e))]))
    lessons = [Lesson((), STREAM[0])]
    odds = one._inquiry.knowledge(STREAM, lessons, asker, 0).odds
    whole = HardNegatives().rehearsing()  # also of labels that are improbable
    taught = whole.lessons(lessons, STREAM, step=0, rng=generator(0), knowledge=Knowledge(odds=odds))
    assert {lesson.target.output for lesson in taught} == set(LABELS[:3])
    scores, n = [], 0
    with model._weights.active():
        for label in LABELS[:3]:
            before, own = (tiny.backbone.tokenise(text) for text in ("Text: box 0\nLabel:", f" {label}\n\n"))
            ids = torch.tensor([*tiny.backbone.first_ids, *before, *own])
            log_probs = log_softmax(tiny.backbone.model(input_ids=ids[None]).logits[0], dim=-1)
            at = torch.arange(len(ids) - len(own), len(ids))
            scores.append(log_probs[at - 1, ids[at]].sum())
            n += len(own)
        loss = -log_softmax(torch.stack(scores), dim=0)[0]
        expected = torch.autograd.grad(loss / n, list(model._weights.parameters.values()), materialize_grads=True)
        rows = [model.training_row(asker.training_text(lesson)) for lesson in taught]
        found = model._trainer.gradient(rows, Policy())
    (said,) = odds(lessons)
    assert list(said.values()) == pytest.approx(torch.stack(scores).softmax(0).tolist(), rel=1e-3)
    for ours, theirs in zip(found.gradient, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_labels_with_the_same_words_are_told_apart_where_single_tokens_are_not_enough(tiny):
    def end(name: str) -> float:
        one = learner(tiny, name=name)
        said = [one.predict_next(Query(e, STREAM[:i])) for i, e in enumerate(STREAM)]
        return float(
            np.mean([p.probs[p.candidates.index(e.output)] for p, e in zip(said[-9:], STREAM[-9:], strict=True)])
        )

    assert end(NAME) > 0.9
    assert end(NAME.replace("teacher=hard-negatives", "over=seen")) < 0.8


def test_a_row_s_own_choices_are_the_answers(tiny):
    rows = tuple(
        Example(f"which is {i}? (A) one (B) two", "(A)", f"c{i}", choices=("one", "two"), references=())
        for i in range(4)
    )
    task = Task("c", "multiple_choice", rows, rows[:1])
    lessons, asker = [Lesson((), rows[3])], TaskModel.for_task(task, tiny)
    (odds,) = learner(tiny, task)._inquiry.knowledge(rows, lessons, asker, 0).odds(lessons)
    assert set(odds) == {"(A)", "(B)"}
    assert sum(odds.values()) == pytest.approx(1)


def test_what_is_asked_is_counted_and_a_dry_run_counts_no_less(tiny):
    plain, own = (learner(tiny, name=name) for name in (NAME.replace(",teacher=hard-negatives", ""), NAME))
    queries = [Query(e, STREAM[:i]) for i, e in enumerate(STREAM[:8])]
    tokens = [sum(one.predict_next(query).fit_tokens for query in queries) for one in (plain, own)]
    assert own.log[3]["asked"] > 0
    assert tokens[1] > tokens[0]
    counted = rehearsed(own.recipe, Setup(TASK, TaskModel.for_task(TASK, tiny), 0), [queries])
    assert sum(p.fit_tokens for p in counted.predictions) >= tokens[1]


def test_texts_and_sets_of_labels_do_not_suit_it(tiny):
    recipe = parse_recipe(NAME, shots=2, raced=False)
    assert recipe.suits(TASK)
    assert not recipe.suits(Task("o", "generation", STREAM, STREAM[:1]))


def test_it_is_raced_saved_and_read_again(tmp_path):
    rows = [{"input": e.input, "output": e.output} for e in STREAM]
    run = kshot.adapt(rows, "tiny", recipes=NAME, out=tmp_path / "run", limit=6)
    again = kshot.load(tmp_path / "run")
    assert again.predict(["box 1", "box 2"]) == run.best.predict(["box 1", "box 2"])
