"""The running average of what is trained, as it labels unlabelled inputs: what it is, whom it asks, what is weighed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Averaging, Lesson, Training
from kshot.core.types import Example, FloatArray, Prediction, Query, Question, Task
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.probabilities import normalised
from kshot.methods.knowledge import Knowledge
from kshot.methods.teachers.pseudo_labels import PseudoLabels, class_weights, confusion_of, thresholds
from kshot.methods.tuners.fine_tune import FineTune
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from test_training import batch, in_bytes, moved, scores

LABELS = ("bad", "bed", "best")
STREAM = tuple(Example(f"text {i}", LABELS[i % 3], f"e{i}") for i in range(12))
QUESTIONS = tuple(Question(f"input {i}", f"u{i}") for i in range(10))
INPUTS = tuple(q.answered() for q in QUESTIONS)
TASK = Task("words", "classification", STREAM, labels=LABELS, unlabelled=QUESTIONS)
NAME = "self-training:lr=1e-3,steps=2,batch=2,teacher=self-training(threshold=0.3)"


@pytest.fixture(scope="module")
def asker() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


@pytest.mark.parametrize(("decay", "dtype"), [(0.15, "float32"), (0.99, "float32"), (0.15, "bfloat16")])
def test_the_average_is_that_of_the_formula_and_leaves_the_weights_alone(decay, dtype):
    base = tiny_backbone()
    base.model.to(getattr(torch, dtype))
    how = {"weights": "full" if dtype == "bfloat16" else "lora", "lr": 1e-2}
    model, plain = (TrainedEngine(Engine(base), Training(**how), seed=0, average=a) for a in (Averaging(decay), None))
    expected = [m.detach().double() for m in model._trainer._masters]
    for t in range(1, 5):
        for one in (model, plain):
            one.learn(batch(one, t))
        d = min(decay, (1 + t) / (10 + t))
        expected = [d * a + (1 - d) * m.double() for a, m in zip(expected, model._trainer._masters, strict=True)]
    for own, mean in zip(model._trainer.average.tensors().values(), expected, strict=True):
        assert torch.allclose(own.double(), mean, atol=1e-6)
    assert (in_bytes(model), model.fingerprint) == (in_bytes(plain), plain.fingerprint)
    before = in_bytes(model), scores(model)
    by_average = scores(model.averaged)
    assert by_average != before[1]
    assert model.averaged.fingerprint != model.fingerprint
    assert (in_bytes(model), scores(model)) == before
    other = TrainedEngine(Engine(base), Training(**how), seed=0)
    means = model._trainer.average.tensors().values()
    averages = [a.to(p.dtype) for p, a in zip(model._trainer._parameters, means, strict=True)]
    other._weights.load_tensors(dict(zip(model._weights.parameters, averages, strict=True)))
    assert scores(other) == by_average


def test_an_average_goes_on_where_it_was_kept(tmp_path):
    base = Engine(tiny_backbone())
    model, other = (TrainedEngine(base, Training(lr=1e-2), seed=0, average=Averaging(0.5)) for _ in range(2))
    moved(model)
    model.save_state(tmp_path / "state.safetensors", {})
    other.load_state(tmp_path / "state.safetensors")
    for one in (model, other):
        one.learn(batch(one, 3))
    assert scores(model.averaged) == scores(other.averaged)


def test_confusions_weights_and_thresholds():
    probs = np.array([[0.8, 0.2], [0.6, 0.4], [0.9, 0.1]])
    confusion = confusion_of(probs, [0, 0, 1])
    assert confusion == pytest.approx(np.array([[1.9 / 3, 1.1 / 3], [1.4 / 2, 0.6 / 2]]))
    share = np.array([0.75, 0.25])
    weights = class_weights(confusion, share, 1.0)
    assert weights @ share == pytest.approx(1.0)
    assert (weights * share)[1] / (weights * share)[0] == pytest.approx(0.7 / (1.1 / 3))
    assert class_weights(confusion, share, 0.0) == pytest.approx(np.ones(2))
    assert class_weights(confusion, np.array([0.99, 0.01]), 1.0).tolist() == [pytest.approx(0.3474, abs=1e-3), 4.0]
    assert thresholds(confusion, 0.9) == pytest.approx([0.9, 0.7])
    assert thresholds(np.array([[0.9, 0.1], [0.2, 0.8]]), 0.9) == pytest.approx([0.9, 0.8])
    assert thresholds(confusion, 0.5) == pytest.approx([0.5, 0.5])


def prediction(e: Example, probs: tuple[float, ...]) -> Prediction:
    return Prediction(e.id, LABELS, tuple(np.log(probs)), probs, LABELS[int(np.argmax(probs))])


def taught(lessons, says, past=STREAM, *, seen=None, passed_on=None, **settings: float) -> list[Lesson]:
    """By a teacher whose average finds each class of the past as probable as others, and says this of inputs."""
    before = {e.id: prediction(e, (1 / 3, 1 / 3, 1 / 3)) for e in past}
    own: Any = {"inputs": 1.0, **settings}
    knowledge = Knowledge(
        averaged=before,
        passed_on=passed_on or {},
        inputs=INPUTS[: len(says)],
        average=lambda some: [prediction(e, says[e.id]) for e in some],
    )
    rng = np.random.default_rng(0)
    return PseudoLabels(**own).lessons(lessons, seen or past, step=0, rng=rng, knowledge=knowledge)


SURE, UNSURE = (0.05, 0.9, 0.05), (0.3, 0.4, 0.3)


def test_what_the_average_is_sure_of_is_learnt_and_nothing_else():
    lessons = [Lesson((), e) for e in STREAM[:4]]
    says = {"u0": SURE, "u1": UNSURE}
    found = taught(lessons, says, confusion=0.0, threshold=0.8)
    own = [(one.target.id, one.target.output) for one in found]
    assert own.count(("u0", "bed")) == 1
    assert sum(name.startswith("e") for name, _ in own) == 3
    assert {one.weight for one in found} == {1.0}
    assert taught(lessons, says, confusion=0.0, threshold=1.0) == lessons
    assert taught(lessons, says, inputs=0.0, confusion=0.0) == lessons


def test_nothing_is_labelled_before_the_average_was_asked_often_enough_nor_with_a_label_that_was_not_seen():
    lessons = [Lesson((), e) for e in STREAM[:2]]
    says = {"u0": SURE, "u1": SURE}

    def targets(past: tuple[Example, ...], n: int) -> list[tuple[str, str]]:
        found = taught(lessons, says, past[:n], seen=past, confusion=0.0, threshold=0.8)
        return [(one.target.id, one.target.output) for one in found]

    assert {output for _, output in targets(STREAM, 8)} == {"bed"}
    assert targets(STREAM, 7) == [("e0", "bad"), ("e1", "bed")]
    assert targets(tuple(replace(e, output="best") for e in STREAM), 8) == [("e0", "bad"), ("e1", "bed")]


def test_rare_classes_count_more():
    past = tuple(replace(e, output="best" if i == 0 else "bad") for i, e in enumerate(STREAM))
    found = taught([Lesson((), e) for e in past[:2]], {}, past)
    assert found[0].weight > 2 * found[1].weight


def test_a_second_labeller_is_mixed_in():
    lessons = [Lesson((), e) for e in STREAM[:1]]
    how: Any = {"threshold": 0.5, "confusion": 0.0, "expert": 0.5}
    said = {"u0": prediction(INPUTS[0], (0.9, 0.05, 0.05))}
    (one,) = taught(lessons, {"u0": UNSURE}, passed_on=said, **how)
    assert (one.target.id, one.target.output) == ("u0", "bad")
    (own,) = taught(lessons, {"u0": UNSURE}, **how)
    assert own.target.id == "e0"


def test_the_average_is_asked_of_each_example_before_it_is_learnt(asker, monkeypatch):
    asked: list[tuple[list[str], int]] = []

    def watched(self, queries, *, by_average=False, real=TrainedLearner.says):
        if by_average:
            asked.append(([q.example.id for q in queries], len(queries[0].past)))
            assert not {q.example.id for q in queries} & set(self._learnt)
        return real(self, queries, by_average=by_average)

    monkeypatch.setattr(TrainedLearner, "says", watched)
    learner = TrainedLearner(parse_recipe(NAME, shots=1), Setup(TASK, asker, 0))
    learner.learn(STREAM[:10])
    assert [(names, n) for names, n in asked if names[:1] and names[0].startswith("e")] == [
        ([e.id], i) for i, e in enumerate(STREAM[:10])
    ]
    assert any(names[0].startswith("u") for names, _ in asked if names)
    assert all(row["said"] for row in learner.log if row["step"] == 0)
    assert all(row["asked"] > 0 for row in learner.log if row["step"] == 0)


def test_training_that_is_resumed_ends_at_the_same_weights(asker, tmp_path):
    kept = [Kept(SqliteStore(tmp_path / f"{i}.sqlite"), tmp_path / f"training{i}", "key") for i in range(2)]

    def learner(i: int) -> TrainedLearner:
        return TrainedLearner(parse_recipe(NAME, shots=1), Setup(TASK, asker, 0, kept=kept[i]))

    whole, first = learner(0), learner(1)
    whole.learn(STREAM)
    first.learn(STREAM[:9])
    first.save_state()
    second = learner(1)
    second.learn(STREAM)
    assert len(second._learnt) == len(STREAM)
    assert second.model.fingerprint == whole.model.fingerprint
    assert [row["example"] for row in second.log] == [row["example"] for row in whole.log]
    queries = [Query(e, STREAM) for e in INPUTS[:2]]
    assert [p.log_probs for p in second.predict(queries)] == [p.log_probs for p in whole.predict(queries)]


def test_it_goes_along_a_stream_and_is_handed_over_like_any_adapter(tmp_path, asker):
    run = kshot.adapt(TASK, model="tiny", recipes=NAME, out=tmp_path / "run")
    assert [row["status"] for row in run.leaderboard] == ["done"]
    assert list((tmp_path / "run" / "best").rglob("adapter_model.safetensors"))
    name = "self-training(random:k=2):lr=1e-3,steps=1,batch=2,teacher=self-training(threshold=0.3,most=1)"
    fitted = make_learner(parse_recipe(name, shots=1), Setup(TASK, asker, 0)).fit(STREAM)
    assert (fitted.recipe.members, fitted.pool) == ((), ())


CLASSES, SHARES, N_WORDS = ("common", "second", "rare"), (0.65, 0.25, 0.1), 20


class Student:
    """A network of one layer over words, with the average of its weights, which a teacher can ask."""

    def __init__(self, texts: dict[str, list[int]], decay: float):
        self.texts, self.decay, self.t = texts, decay, 0
        self.weights, self.average, self.first, self.second = np.zeros((4, 3 * N_WORDS, 3))

    def log_probs(self, weights: FloatArray, names: list[str]) -> FloatArray:
        rows = np.array([weights[self.texts[name]].sum(axis=0) for name in names]).reshape(-1, 3)
        return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)

    def ask(self, examples: list[Example]) -> list[Prediction]:
        rows = self.log_probs(self.average, [e.id for e in examples])
        return [
            Prediction(e.id, CLASSES, tuple(row), tuple(normalised(row)), CLASSES[int(np.argmax(row))])
            for e, row in zip(examples, rows, strict=True)
        ]

    def learn(self, lessons: list[Lesson]) -> None:
        """Take a step of Adam on the weighted mean of the lessons' losses."""
        names, weights = [one.target.id for one in lessons], np.array([one.weight for one in lessons])
        right = np.array([[float(one.target.output == c) for c in CLASSES] for one in lessons])
        slopes = (np.exp(self.log_probs(self.weights, names)) - right) * weights[:, None] / weights.sum()
        gradient = np.zeros_like(self.weights)
        for name, slope in zip(names, slopes, strict=True):
            np.add.at(gradient, self.texts[name], slope)
        self.t += 1
        self.first, self.second = 0.9 * self.first + 0.1 * gradient, 0.999 * self.second + 0.001 * gradient**2
        root = np.sqrt(self.second / (1 - 0.999**self.t))
        self.weights = self.weights - 0.05 * self.first / (1 - 0.9**self.t) / (root + 1e-8)
        d = min(self.decay, (1 + self.t) / (10 + self.t))
        self.average = d * self.average + (1 - d) * self.weights


def rare_recall_and_macro_f1(seed: int, **settings: float) -> list[float]:
    """Of a stream of 60 texts of five words, 600 unlabelled ones and 900 to be judged by; a tenth of each is rare."""
    rng, texts = np.random.default_rng(seed), dict[str, list[int]]()

    def made(kind: str, n: int) -> list[Example]:
        """Six words in ten are of the text's class, others of any."""
        found = []
        for i, c in enumerate(rng.choice(3, size=n, p=SHARES)):
            of = [c if rng.random() < 0.6 else int(rng.integers(3)) for _ in range(5)]
            texts[f"{kind}{i}"] = [N_WORDS * b + int(rng.integers(N_WORDS)) for b in of]
            found.append(Example(f"{kind}{i}", CLASSES[c], f"{kind}{i}"))
        return found

    stream, inputs, judged = made("e", 60), made("u", 600), made("t", 900)
    inputs = [replace(e, output="") for e in inputs]
    teacher, tuner = PseudoLabels(**settings), FineTune(batch=8)  # pyright: ignore[reportArgumentType]
    student, before = Student(texts, teacher.decay), dict[str, Prediction]()
    for i, new in enumerate(stream):
        known, (before[new.id],) = dict(before), student.ask([new])
        for step in range(3):
            own = np.random.default_rng((seed, i, step))
            lessons = tuner.lessons(stream[: i + 1], lambda: (), step=step, rng=own)
            knowledge = Knowledge(averaged=known, inputs=tuple(inputs), average=student.ask)
            student.learn(teacher.lessons(lessons, stream[: i + 1], step=step, rng=own, knowledge=knowledge))
    said = np.array(CLASSES)[student.log_probs(student.weights, [e.id for e in judged]).argmax(axis=1)]
    right = np.array([e.output for e in judged])
    both = [2 * ((said == c) & (right == c)).sum() / ((said == c).sum() + (right == c).sum()) for c in CLASSES]
    return [(said[right == "rare"] == "rare").mean(), float(np.mean(both))]


@pytest.mark.slow
def test_weighing_what_is_confused_raises_the_rare_class_and_does_not_lower_the_mean():
    """Against plain self-training, the mean of eight draws."""
    draws = range(100, 108)
    plain, weighed = (np.array([rare_recall_and_macro_f1(seed, confusion=c) for seed in draws]) for c in (0.0, 1.0))
    gain = (weighed - plain).mean(axis=0)
    assert gain[0] > 0.05
    assert gain[1] > 0.0


def test_without_unlabelled_inputs_it_says_what_to_do(tmp_path):
    task = replace(TASK, unlabelled=())
    with pytest.raises(UserError) as error:
        kshot.adapt(task, model="tiny", recipes="self-training", out=tmp_path / "run")
    message = "it learns from unlabelled inputs, and there are none: give some with --inputs FILE"
    assert message in str(error.value)
    assert parse_recipe("self-training", shots=1).obstacle(task) == message
    assert parse_recipe("self-training", shots=1).obstacle(TASK) is None
    assert not parse_recipe("self-training", shots=1).suits(Task("texts", "generation", STREAM, unlabelled=QUESTIONS))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("self-training(majority)", "the recipe in brackets must show prompts or combine some; 'majority' asks no"),
        ("self-training(random, bm25)", "one recipe says, named in brackets as in distil(random:k=16); got 2."),
        ("self-training:teacher=self-training(decay=1)", "decay must be in 0..0.999999; got 1"),
        ("self-training:teacher=self-training(threshold=2)", "threshold must be in 0..1; got 2"),
        ("self-training:teacher=self-training(confusion=9)", "confusion must be in 0..4; got 9"),
    ],
)
def test_bad_settings_say_what_must_hold(name, message):
    with pytest.raises(UserError) as error:
        parse_recipe(name, shots=4)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["self-training", "self-training(random:k=16)", "fine-tune:teacher=self-training"])
def test_with_and_without_a_second_labeller(name):
    recipe = parse_recipe(name, shots=4)
    assert recipe.uses_unlabelled
    assert len(recipe.variants[0].members) == ("(" in name)
