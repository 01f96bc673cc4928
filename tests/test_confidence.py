"""Answers that say how sure they are: whether that holds, and a teacher that makes it hold."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kshot
from kshot.core.errors import DamagedError, ModelError, UserError
from kshot.core.lessons import Averaging, Batch, Lesson, Training, TrainingText
from kshot.core.objective_settings import Answers, Distil, Mixture
from kshot.core.seeding import generator
from kshot.core.types import Example, Generation, Prediction, Query, Task
from kshot.engine.language_model import Engine
from kshot.evaluators.confidence import Confidence
from kshot.evaluators.evaluator import Case
from kshot.learners.answering import answering
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.measured import Measured, told
from kshot.measures.overconfidence import brier, calibration_error, gap, separation
from kshot.methods.composers.stating import NOTE, Stated
from kshot.methods.knowledge import Knowledge, Written
from kshot.methods.stated_confidence import apart, stating
from kshot.methods.teachers.on_policy import Calibrated
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.evaluate import evaluate, fitted
from word_network import word_engine

STREAM = tuple(Example(f"the code of {i}", f"{i} and {i + 1}", f"e{i}") for i in range(8))
TASK = Task("codes", "qa", STREAM, STREAM[:3], metrics=("exact_match",))
QUICK = "steps=1,batch=2,lr=1e-3,teacher=calibrated(samples=2)"


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


def recipe(text: str):
    return parse_recipe(text, shots=2, raced=False)


# Whether it holds


def test_a_confidence_that_holds_has_no_error():
    rng = np.random.default_rng(0)
    sure = rng.random(40_000)
    right = rng.random(40_000) < sure
    assert calibration_error(sure.tolist(), right.tolist()) < 0.02
    assert gap(sure.tolist(), right.tolist()) == pytest.approx(0, abs=0.01)
    assert brier(sure.tolist(), right.tolist()) == pytest.approx(1 / 6, abs=0.01)  # the mean of c (1 - c)
    assert separation(sure.tolist(), right.tolist()) == pytest.approx(5 / 6, abs=0.01)


def test_errors_are_those_of_the_formulas():
    sure, right = [1.0, 0.95, 0.55, 0.1, 0.12], [True, False, True, False, False]
    bins = [(2, 0.5 - 1.95 / 2), (1, 1 - 0.55), (2, 0 - 0.11)]  # number, accuracy - confidence
    assert calibration_error(sure, right) == pytest.approx(sum(n * abs(d) for n, d in bins) / 5)
    assert brier(sure, right) == pytest.approx((0 + 0.95**2 + 0.45**2 + 0.1**2 + 0.12**2) / 5)
    assert separation(sure, right) == pytest.approx(5 / 6)
    assert gap(sure, right) == pytest.approx(2.72 / 5 - 2 / 5)
    assert calibration_error([1.0] * 4, [True, True, True, False]) == pytest.approx(0.25)


def test_one_confidence_for_all_tells_nothing_apart():
    assert separation([0.7] * 10, [True] * 7 + [False] * 3) == 0
    assert separation([0.7, 0.8], [True, True]) is None
    assert gap([0.9] * 4, [True, False, False, False]) > 0 > gap([0.2] * 4, [True] * 4)


def prediction(answer: str, stated: float | None) -> Prediction:
    return Prediction("x", (), (), (), answer, stated=stated)


def test_the_suite_counts_what_is_stated():
    cases = [Case(e) for e in STREAM[:3]]
    said = [prediction("0 and 1", 1.0), prediction("wrong", 0.5), prediction("2 and 3", None)]
    report = Confidence().report(TASK, cases, said)
    assert (report["n"], report["n_unstated"], report["accuracy"].value) == (2, 1, 0.5)
    assert [report[name].value for name in ("mean_confidence", "ocg", "spr")] == [0.75, 0.25, 1.0]
    told_ = told(report, report, rng=np.random.default_rng(0))
    assert told_["brier"]["difference"] == {"value": 0, "low": 0, "high": 0, "n": 2}
    right = Confidence().report(TASK, cases[:1], said[:1])
    assert told(right, rng=np.random.default_rng(0))["spr"]["value"] is None
    with pytest.raises(UserError, match="none does. Adapt with composer=stated or teacher=calibrated"):
        Confidence().report(TASK, cases[:1], said[2:])
    closed = Task("c", "classification", (), labels=("a", "b"))
    row = Prediction("x", ("a", "b"), (0.0, 0.0), (0.7, 0.3), "a")
    assert Confidence().report(closed, [Case(Example("q", "a", "x"))], [row])["mean_confidence"].value == 0.7
    median = Prediction("x", ("1", "2", "3"), (0.0,) * 3, (0.4, 0.25, 0.35), "2")  # of ordered labels
    assert Confidence().report(closed, [Case(Example("q", "2", "x"))], [median])["mean_confidence"].value == 0.25


# Saying it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blue (confidence 0.75)", ("blue", 0.75)),
        ("a (b) (confidence 1.00)  ", ("a (b)", 1.0)),
        ("blue", ("blue", None)),
        ("blue (confidence 7)", ("blue (confidence 7)", None)),
        ("blue (confidence 1.50)", ("blue (confidence 1.50)", None)),
        ("(confidence 0.5)", ("", 0.5)),
    ],
)
def test_a_stated_confidence_is_read(text, expected):
    assert apart(text) == expected


def test_known_answers_are_sure_and_heard_without_their_number():
    composer, question = Stated(), STREAM[1].question
    said = [piece.text for piece in composer.compose(TASK, STREAM[:1], question).pieces]
    assert said == [NOTE, "the code of 0", "0 and 1 (confidence 1.00)", "the code of 1"]
    assert composer.said(TASK, stating("x", 0.25), question) == "x (confidence 0.25)"
    assert composer.heard(TASK, "x (confidence 0.25)", question) == "x"
    assert composer.stated("x (confidence 0.25)") == 0.25


def test_a_prediction_says_what_its_answer_states(tiny, monkeypatch):
    model = replace(TaskModel.for_task(TASK, tiny), composer=Stated())
    found, text = Fitted(recipe("zero-shot:composer=stated"), TASK, 0, model=model), " 1 (confidence 0.40)"
    monkeypatch.setattr(Engine, "generate", lambda self, requests, **_: [Generation(text, True)] * len(requests))
    (said,) = answering(found).predict([Query(STREAM[1], (), wants_text=True)])
    assert (said.answer, said.stated) == ("1", 0.4)


# Learning it


WRITTEN = [Written("red", True, 1.0), Written("blue", False, 0.9), Written("red", True, None), Written("", False)]


def test_lessons_are_the_students_answers_with_the_share_that_is_right():
    e = Example("q", "red", "e")
    for states in ("measured", "own"):
        plain, knowledge = [Lesson((STREAM[0],), e)] * 60, Knowledge(written=lambda n: {"e": WRITTEN})
        how: Any = {"step": 0, "rng": generator(0, "t"), "knowledge": knowledge}
        found = Calibrated(states=states).lessons(plain, [e], **how)
        outputs = {lesson.target.output for lesson in found}
        stated = "0.50" if states == "measured" else "1.00"
        known = f"red (confidence {stated})"
        assert {lesson.note for lesson in found} == {f"The right answer to this question is: {known}"}
        assert {lesson.teacher for lesson in found} == {(STREAM[0], replace(e, output=known))}
        if states == "measured":
            assert outputs == {"red (confidence 0.50)", "blue (confidence 0.50)"}  # of all four
        else:
            assert outputs == {"red (confidence 1.00)", "blue (confidence 0.90)", "red"}
    plain = [Lesson((), STREAM[0])]
    assert Calibrated().lessons(plain, STREAM, step=0, rng=generator(0, "t")) == [replace(plain[0], teacher=())]


def test_what_the_student_writes_does_not_depend_on_what_the_teacher_is_told(tiny):
    setup = Setup(TASK, TaskModel.for_task(TASK, tiny), 0)
    learner = TrainedLearner(recipe(f"fine-tune:{QUICK}"), setup)
    model = learner.prompted.prepare(STREAM[:2]).model
    plain = [Lesson((), STREAM[0]), Lesson((), STREAM[1]), Lesson((), STREAM[0])]
    told = [replace(lesson, note="The right answer is: 0 and 1", teacher=(STREAM[2],)) for lesson in plain]
    found, again, other = (
        learner._inquiry.knowledge(STREAM[:3], lessons, model, step).written(3)
        for lessons, step in ((plain, 0), (told, 0), (plain, 1))
    )
    assert found == again
    assert found != other
    assert {name: len(some) for name, some in found.items()} == {"e0": 3, "e1": 3}
    assert len({one.answer for one in found["e0"]}) > 1
    assert learner._inquiry.tokens > 0


def test_the_first_tokens_of_an_answer_are_not_learnt(tiny):
    """The loss is that of the later tokens alone; of a short answer the last one is left."""
    asker = TaskModel.for_task(TASK, tiny)
    text = asker.training_text(Lesson((), STREAM[0], "last", teacher=(STREAM[1],)))
    model: Any = tiny.trainable(Training(lr=1e-2), seed=0)
    model.learn(Batch([text]))
    row = model.training_row(text)
    n, losses = len(row.supervised), []
    for skip in (0, 3, n - 1, n + 5):
        objective = model._trainer.objective(Distil(skip=skip))
        objective.prepare([row])
        with model._weights.active():
            losses.append(model._trainer.gradient([row], Distil(skip=skip)).loss_nats)
    rows = [replace(row, supervised=(at,), teacher=replace(row.teacher, supervised=(other,)))
            for at, other in zip(row.supervised, row.teacher.supervised, strict=True)]  # fmt: skip
    each = []
    for one in rows:
        model._trainer.objective(Distil()).prepare([one])
        with model._weights.active():
            each.append(model._trainer.gradient([one], Distil()).loss_nats)
    assert losses == pytest.approx([np.mean(each), np.mean(each[3:]), each[-1], each[-1]], rel=1e-3, abs=1e-6)


def test_the_teachers_weights_follow_and_go_on_where_they_were(tiny, tmp_path):
    asker, objective = TaskModel.for_task(TASK, tiny), Distil(asks="average")
    average = Averaging(0.75, warms_up=False)
    texts = [asker.training_text(Lesson((), e, teacher=(STREAM[5],))) for e in STREAM[:3]]
    model: Any = tiny.trainable(Training(lr=1e-2), seed=0, average=average)
    expected = {name: t.clone() for name, t in model._weights.tensors().items()}
    for text in texts[:2]:
        model.learn(Batch([text], objective=objective))
        for name, own in model._weights.tensors().items():
            expected[name] += 0.25 * (own - expected[name])
    for mean, t in zip(model._trainer.average.tensors().values(), expected.values(), strict=True):
        assert torch.allclose(mean, t, atol=1e-6)
    model.save_state(tmp_path / "state.safetensors", {})
    again: Any = tiny.trainable(Training(lr=1e-2), seed=0, average=average)
    again.load_state(tmp_path / "state.safetensors")
    logs = [one.learn(Batch(texts[1:], objective=objective)) for one in (model, again)]
    assert logs[0] == logs[1]
    still: Any = tiny.trainable(Training(lr=1e-2), seed=0, average=average)
    still.load_state(tmp_path / "state.safetensors")
    assert still.learn(Batch(texts[1:], objective=Distil())).loss_nats != logs[0].loss_nats  # it has moved
    slower: Any = tiny.trainable(Training(lr=1e-2), seed=0, average=Averaging(0.9, warms_up=False))
    assert slower.fingerprint == tiny.trainable(Training(lr=1e-2), seed=0).fingerprint
    slower.learn(Batch(texts[:1], objective=objective))
    faster: Any = tiny.trainable(Training(lr=1e-2), seed=0, average=average)
    faster.learn(Batch(texts[:1], objective=objective))
    assert slower.fingerprint != faster.fingerprint
    assert slower.averaged.fingerprint != faster.averaged.fingerprint


def test_a_state_without_the_average_is_none_to_go_on_from(tiny, tmp_path):
    model: Any = tiny.trainable(Training(lr=1e-2), seed=0)
    model.save_state(tmp_path / "state.safetensors", {})
    before, other = model.fingerprint, tiny.trainable(Training(lr=1e-2), seed=0, average=Averaging())
    with pytest.raises(DamagedError, match="must hold the running average of the weights, .* tensors; it holds 0"):
        other.load_state(tmp_path / "state.safetensors")
    assert other.fingerprint == before


def test_a_teacher_that_moves_needs_weights_that_it_reads_with(tiny):
    with pytest.raises(UserError, match="The parts of a mixture must ask the model before training; got one with asks"):
        Mixture((Answers(), Distil(asks="average")), (1.0, 1.0))
    text = TaskModel.for_task(TASK, tiny).training_text(Lesson((), STREAM[0], teacher=()))
    with pytest.raises(ModelError, match="asks the running average of the weights must have one; none is kept"):
        tiny.trainable(Training(), seed=0).learn(Batch([text], objective=Distil(asks="average")))
    setup = Setup(TASK, TaskModel.for_task(TASK, tiny), 0)
    learner = TrainedLearner(recipe("context-adapter:k=1,teacher=calibrated(samples=1)"), setup)
    with pytest.raises(UserError, match="A teacher that follows its student must read with the weights that"):
        learner.learn(STREAM[:2])


def test_a_recipe_that_is_taught_so_states_and_is_for_open_tasks():
    found = recipe("fine-tune:teacher=calibrated")
    assert found.part("composer") == Stated()
    assert not found.suits(Task("c", "classification", (), labels=("a", "b")))
    assert found.suits(TASK)
    for bad, message in (
        ("samples=0", "samples must be 1 or more; got 0"),
        ("rate=2.0", "rate must be in 0..1; got 2.0"),
        ("states=x", "states must be one of measured, own; got 'x'"),
    ):
        with pytest.raises(UserError, match=message):
            recipe(f"fine-tune:teacher=calibrated({bad})")


def test_it_goes_along_a_stream_and_is_the_same_each_time(tmp_path):
    task = replace(TASK, train=STREAM[:5])
    runs = [
        kshot.adapt(task, "tiny", recipes=f"fine-tune:{QUICK}", limit=3, out=tmp_path / name) for name in ("a", "b")
    ]
    assert [row["status"] for row in runs[0].leaderboard] == ["done"]
    prints = {run.best.fitted.trained.fingerprint for run in runs}  # type: ignore[union-attr]
    assert len(prints) == 1
    assert runs[0].leaderboard[0]["bits_per_example"] == runs[1].leaderboard[0]["bits_per_example"]
    assert kshot.load(tmp_path / "a").recipe.part("composer") == Stated()
    log = next((tmp_path / "a").rglob("fine-tune*.jsonl"))
    assert '"asked":' in log.read_text("utf-8").replace('": ', '":')


# Easy and hard names: of the hard ones the network does not know the answer

EASY, HARD = ("ba", "be", "bi", "bo"), ("da", "de", "di", "do", "fa", "fe", "fi", "fo")
COLOURS = ("red", "blue")
BEFORE = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def asked(words) -> tuple[Example, ...]:
    names = (*EASY, *HARD)
    return tuple(Example(f"{w} {n}", COLOURS[i % 2], f"{w}-{n}") for w in words for i, n in enumerate(names))


def half_knowing(rows, seed: int, n_steps: int) -> Engine:
    """A network that knows the easy names, guesses at the others, is too sure of both, and obeys as a teacher."""
    engine = word_engine(seed=seed)
    model = replace(TaskModel.for_task(Task("names", "qa", rows), engine), composer=Stated())
    student: Any = engine.trainable(Training(weights="full", lr=3e-3), seed=0)
    for step in range(n_steps):
        rng, texts = np.random.default_rng((seed, step)), []
        for i in rng.permutation(len(rows))[:8]:
            guess = stating(COLOURS[rng.integers(2)], 0.88)
            e = rows[i] if rows[i].input.split()[1] in EASY else replace(rows[i], output=guess)
            texts.append(model.training_text(Lesson((), e, "last")))
        for i in rng.permutation(len(rows))[:8]:
            known = replace(rows[i], output=stating(COLOURS[rng.integers(2)], rng.integers(9) / 8))
            note = f"The right answer to this question is: {known.output}"
            told = model.training_text(Lesson((), known, "last", teacher=(known,), note=note)).teacher
            assert told is not None
            texts.append(TrainingText(told, "last"))
        student.learn(Batch(texts))
    with torch.no_grad():
        for name, weight in engine.backbone.model.named_parameters():
            if name in student._weights.parameters:
                weight.copy_(student._weights.parameters[name])
    return Engine(engine.backbone)


def judged(seed: int) -> dict[str, Any]:
    """What the suite says of a calibrated student and of a plain one."""
    rows = asked(BEFORE)
    stream = tuple(rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:32])
    task = Task("names", "qa", stream, asked(BEFORE[:4]), metrics=("exact_match",))
    engine, found = half_knowing(rows, seed, 200), {}
    for states in ("measured", "own"):
        how = f"fine-tune:lr=2e-3,steps=2,batch=8,rank=8,teacher=calibrated(states={states})"
        fitted = TrainedLearner(recipe(how), Setup(task, TaskModel.for_task(task, engine), 0)).fit(stream)
        said = answering(fitted).predict([Query(e, (), wants_text=True) for e in task.test])
        report = Confidence().report(task, [Case(e) for e in task.test], said)
        found[states] = {k: v.value if isinstance(v, Measured) else v for k, v in report.items()}
    return found


@pytest.mark.slow
def test_a_calibrated_student_is_less_overconfident_than_a_plain_one():
    """On the mean of the seeds, as one differs from another, and from processor to processor."""
    found = [judged(seed) for seed in range(4)]
    assert all(one["measured"]["n_unstated"] == 0 for one in found)
    errors = {
        states: {
            name: np.mean([abs(one[states][name]) for one in found]) for name in ("ocg", "ece", "brier", "accuracy")
        }
        for states in ("measured", "own")
    }
    measured, own = errors["measured"], errors["own"]
    assert measured["ocg"] < own["ocg"] - 0.1
    assert measured["ece"] < own["ece"] - 0.1
    assert measured["brier"] < own["brier"]
    assert measured["accuracy"] >= own["accuracy"] - 0.02


def test_sets_of_labels_have_no_confidence_of_their_own():
    rows = tuple(Example(f"text {i}", ("a", "a|b", "(none)")[i % 3], f"e{i}") for i in range(6))
    task = Task("sets", "multi_label", rows, rows, ("a", "b"), ("micro_f1",))
    with pytest.raises(UserError, match="'confidence' must suit tasks of kind multi_label; it does not"):
        evaluate(fitted("majority", task, None), task, "confidence")
