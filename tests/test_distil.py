"""Recipes that are put into the weights: what lessons make small, whom the teacher is asked about, what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.objective_settings import Answers
from kshot.core.types import Example, Prediction, Query, Question, Task
from kshot.engine.language_model import Engine
from kshot.engine.objectives import Said, objective_of
from kshot.engine.training_rows import answer_logits
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.learners.passed_on import PassedOn
from kshot.measures.probabilities import normalised
from kshot.methods.teachers.prompt import Prompt
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from word_network import word_engine

LABELS = ("bad", "bed", "best", "unseen")
LIKELY = (0.1, 0.3, 0.4, 0.2)
STREAM = tuple(Example(f"text {i}", LABELS[i % 3], f"e{i}") for i in range(12))
QUESTIONS = tuple(Question(f"input {i}", f"u{i}") for i in range(10))
INPUTS = tuple(Example(q.input, "", q.id) for q in QUESTIONS)
TASK = Task("words", "classification", STREAM, labels=LABELS)


@pytest.fixture(scope="module")
def asker() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


def total_nats(asker: TaskModel, lesson: Lesson) -> float:
    """What a lesson's tokens cost together."""
    model: Any = asker.model
    row = model.training_row(asker.training_text(lesson))
    with torch.inference_mode():
        logits, tokens = answer_logits(model.backbone, [row])
        said = Said(logits, tokens, logits[:0], tokens[:0])
        mean = objective_of(Answers(), model.backbone).loss([row], said, [row])
    return float(mean) * len(row.supervised)


def test_drawn_answers_make_the_cross_entropy_over_whole_answers_small(asker):
    e = STREAM[0]
    hard = [total_nats(asker, Lesson((), replace(e, output=y))) for y in LABELS]
    soft = [total_nats(asker, Lesson((), replace(e, output=y), among=LABELS, likely=LIKELY)) for y in LABELS]
    assert np.dot(LIKELY, soft) == pytest.approx(np.dot(LIKELY, hard), abs=1e-4)
    assert soft != pytest.approx(hard, abs=1e-2)


def test_where_one_answer_is_sure_it_is_learnt_as_it_is_known(asker):
    for i, y in enumerate(LABELS):
        lesson = Lesson((), replace(STREAM[0], output=y))
        sure = replace(lesson, among=LABELS, likely=tuple(float(j == i) for j in range(4)))
        assert total_nats(asker, sure) == pytest.approx(total_nats(asker, lesson), abs=1e-5)


def test_the_shares_of_what_is_learnt_change_its_fingerprint(asker):
    lesson = Lesson((), STREAM[0], among=LABELS, likely=LIKELY)
    rows = [asker.model.training_row(asker.training_text(one)) for one in (lesson, replace(lesson, likely=()))]
    assert rows[0].record != rows[1].record
    b, a, e, u = (ord(c) for c in "baeu")
    space, first, second = rows[0].shares[:3]  # of " bad": the space, then b or u, then a or e
    assert space == ((ord(" "), 1.0),)
    assert first == ((b, pytest.approx(0.8)), (u, pytest.approx(0.2)))
    assert second == ((a, pytest.approx(0.125)), (e, pytest.approx(0.875)))


@pytest.mark.parametrize("likely", [(0.5, 0.5), (1.0, -1.0, 0.5, 0.5), (0.0,) * 4])
def test_shares_that_make_no_sense(likely):
    with pytest.raises(UserError, match="likely must have a share, 0 or more, for each of the 4 answers to choose"):
        Lesson((), STREAM[0], among=LABELS, likely=likely)


def test_a_student_that_says_what_it_is_taught_has_nothing_to_learn(asker):
    """Where the shares are what the model says, their gradient is none, in contrast to that of the answer alone."""
    model: Any = asker.model.trainable(Training(), seed=0)
    row = model.training_row(asker.training_text(Lesson((), STREAM[0])))
    with torch.inference_mode(), model._weights.active():
        probs = answer_logits(model.backbone, [row])[0].double().softmax(-1)
    same = replace(row, shares=tuple(tuple(enumerate(p.tolist())) for p in probs))
    with model._weights.active():
        found = [model._trainer.gradient([one], Answers()).gradient for one in (same, row)]
    told, known = (sum(float((g**2).sum()) for g in some) ** 0.5 for some in found)
    assert told < 1e-4 * known


def test_nobody_is_told_an_answer_that_is_asked_for(asker):
    task = replace(TASK, unlabelled=QUESTIONS)
    setup = Setup(task, replace(asker, task=task), 0)
    recipe = parse_recipe("random:k=3,contexts=3", shots=1)
    said = PassedOn(recipe, setup, lambda own: make_learner(recipe, own), 4, asker).said(STREAM[:9])
    known = {e.id for e in STREAM[:8]}  # up to the last refit point
    assert said.keys() == known | {e.id for e in INPUTS}
    for name in known:
        shown = {i for context in said[name].contexts for i in context}
        assert shown <= known - {name}
        assert len(shown) >= 3
    learnt_together = [{i for c in said[name].contexts for i in c} for name in sorted(known)]
    assert len({frozenset(one) for one in learnt_together}) == 2  # one half is shown to the other


def test_unlabelled_inputs_are_drawn_in_proportion_to_what_is_known(asker):
    task = replace(TASK, unlabelled=QUESTIONS)
    recipe = parse_recipe("random:k=2", shots=1)
    setup = Setup(task, replace(asker, task=task), 0)
    passed = PassedOn(recipe, setup, lambda own: make_learner(recipe, own), 2, asker)
    assert passed.said(STREAM[:1]) == {}
    assert sum(name.startswith("u") for name in passed.said(STREAM[:3])) == 4
    assert sum(name.startswith("u") for name in passed.said(STREAM[:4])) == 8


def prediction(name: str, probs: tuple[float, ...], answer: str, candidates: tuple[str, ...] = LABELS) -> Prediction:
    return Prediction(name, candidates, tuple(np.log(probs)), probs, answer)


def test_lessons_mix_what_is_known_with_what_is_said():
    said = {"e0": prediction("e0", LIKELY, "best"), "u1": prediction("u1", LIKELY, "best")}
    teacher = Prompt(truth=0.25, inputs=0.5).hearing(said, INPUTS)
    lessons = teacher.lessons([Lesson((), STREAM[0])] * 400, STREAM, step=0, rng=np.random.default_rng(0))
    of_input = [one for one in lessons if one.target.id == "u1"]
    of_known = [one for one in lessons if one.target.id == "e0"]
    assert len(of_input) + len(of_known) == 400
    assert len(of_input) == pytest.approx(200, abs=40)
    assert of_input[0].likely == pytest.approx(LIKELY)
    assert of_known[0].likely == pytest.approx((0.25 + 0.75 * 0.1, 0.75 * 0.3, 0.75 * 0.4, 0.75 * 0.2))
    drawn = [sum(one.target.output == y for one in of_input) / len(of_input) for y in LABELS]
    assert drawn == pytest.approx(LIKELY, abs=0.12)
    new = Lesson((), STREAM[5])
    assert Prompt().hearing(said, ()).lessons([new], STREAM, step=0, rng=np.random.default_rng(0)) == [new]


def test_open_tasks_learn_the_recipe_s_text():
    said = {"e0": prediction("e0", (0.1,), "a text", ("bad",)), "u0": prediction("u0", (), "more", ())}
    said["u1"] = replace(said["u0"], answer="")
    said["u2"] = replace(said["u0"], cut_off=True)
    teacher = Prompt(truth=0.0, inputs=0.5).hearing(said, INPUTS)
    lessons = teacher.lessons([Lesson((), STREAM[0])] * 50, STREAM, step=0, rng=np.random.default_rng(0))
    assert {(one.target.id, one.target.output) for one in lessons} == {("e0", "a text"), ("u0", "more")}
    assert not any(one.likely for one in lessons)


def test_a_student_says_without_demonstrations_what_its_teacher_says_with_them():
    """Half of the words are never labelled; the teacher is told what the words mean, the student is not."""
    words, meaning = [f"w{chr(97 + i)}" for i in range(8)], {}
    meaning = {w: ("no", "yes")[i % 2] for i, w in enumerate(words)}
    stream = tuple(Example(words[i % 4], meaning[words[i % 4]], f"e{i}") for i in range(16))
    inputs = tuple(Example(w, "", f"u{w}") for w in words[4:])
    task = Task("meanings", "classification", stream, labels=("no", "yes"))
    model = TaskModel.for_task(task, word_engine())
    said = {
        e.id: prediction(e.id, (0.9, 0.1) if meaning[e.input] == "no" else (0.1, 0.9), meaning[e.input], ("no", "yes"))
        for e in (*stream, *inputs)
    }
    student = model.model.trainable(Training(lr=3e-3), seed=0)
    teacher = Prompt().hearing(said, inputs)
    for step in range(40):
        rng = np.random.default_rng(step)
        lessons = teacher.lessons([Lesson((), stream[i]) for i in rng.permutation(16)[:8]], stream, step=0, rng=rng)
        student.learn(Batch([model.training_text(lesson) for lesson in lessons]))
    rows = replace(model, model=student).score([model.prompt((), e)[0] for e in inputs], [("no", "yes")] * 4)
    right = [normalised(row)[("no", "yes").index(meaning[e.input])] for row, e in zip(rows, inputs, strict=True)]
    assert np.mean(right) == pytest.approx(0.9, abs=0.1)  # as sure as the teacher


def test_it_goes_along_a_stream_and_is_handed_over_without_its_teacher(tmp_path):
    task = replace(TASK, unlabelled=QUESTIONS)
    how: dict[str, Any] = {"model": "tiny", "recipes": "zero-shot,distil(random:k=2,contexts=2):lr=1e-3,steps=1"}
    run = kshot.adapt(task, **how, out=tmp_path / "run")
    assert [row["status"] for row in run.leaderboard] == ["done", "done"]
    recipe = parse_recipe(how["recipes"].partition(",")[2], shots=1)
    setup = Setup(task, TaskModel.for_task(task, Engine(tiny_backbone())), 0)
    fitted = make_learner(recipe, setup)
    fitted.predict([Query(e, STREAM[:i]) for i, e in enumerate(STREAM)])
    handed = fitted.fit(STREAM)
    assert handed.recipe.members == ()
    assert handed.pool == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("distil(majority)", "the recipe in brackets must show prompts or combine some; 'majority' asks no language"),
        ("distil(fine-tune)", "'fine-tune' trains or steers the model. Name one such as random:k=16,contexts=8."),
        ("distil(icv)", "'icv' trains or steers the model."),
        (
            "distil(random, bm25)",
            "one recipe says, named in brackets as in distil(random:k=16); got 2. Name one, or mix",
        ),
        ("distil(mix)", "'mix' names none of its own. Name them: mix(bm25, random)."),
        ("fine-tune(random)", "'fine-tune' takes settings alone, such as fine-tune:key=value; got 'random'. To put a "),
        ("fine-tune:teacher=prompt", "the teacher passes on what one recipe says, named in brackets as in distil("),
        ("random(bm25)", "'random' takes settings alone, such as random:key=value; got 'bm25'."),
    ],
)
def test_a_teacher_that_cannot_teach(name, message):
    with pytest.raises(UserError) as error:
        parse_recipe(name, shots=4)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["distil", "distil(cascade(zero-shot, random:k=2))", "fine-tune(bm25):teacher=prompt"])
def test_teachers_that_can(name):
    (member,) = parse_recipe(name, shots=4).variants[0].members
    assert member.asks_model
