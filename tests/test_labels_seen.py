"""What is learnt over the labels seen so far, and drawn evenly over them: formulas, bounds, and what is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Lesson, Training
from kshot.core.seeding import generator
from kshot.core.types import Example, Query, Task
from kshot.engine.language_model import Engine
from kshot.engine.training_rows import answer_losses
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.balance import balanced
from kshot.methods.tuners.drawing import draw
from kshot.methods.tuners.fine_tune import FineTune
from kshot.methods.tuners.icl_ft import IclFt
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("bad", "bed", "best", "unseen")
STREAM = tuple(Example(f"text {i}", LABELS[i % 3], f"e{i}") for i in range(6))
TASK = Task("words", "classification", STREAM, labels=LABELS)


@pytest.fixture(scope="module")
def asker() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


def row_of(asker, lesson):
    return asker.model._encoder.training_row(asker.training_text(lesson))


def test_an_answer_is_learnt_among_others_where_they_differ(asker):
    """Of " bed" among " bad", " bed" and " best" the second letter has two ways to go on, and the third has two."""
    row = row_of(asker, Lesson((), STREAM[1], among=LABELS[:3]))
    whole = row_of(asker, Lesson((), STREAM[1]))
    assert row.ids == whole.ids
    assert row.supervised == whole.supervised[2:4]  # after " b"
    assert row.among == (tuple(map(ord, "ae")), tuple(map(ord, "ds")))
    with torch.inference_mode():
        logits = asker.model.backbone.model(torch.tensor([row.ids])).logits[0]
        wanted = [
            -logits[at - 1, list(c)].log_softmax(-1)[i]
            for at, c, i in zip(row.supervised, row.among, (1, 0), strict=True)
        ]
        found = answer_losses(asker.model.backbone, [row, whole])
    assert found[:2].tolist() == pytest.approx([float(w) for w in wanted], abs=1e-5)
    assert found[2:].tolist() == pytest.approx(answer_losses(asker.model.backbone, [whole]).tolist(), abs=1e-5)


def test_nothing_is_learnt_where_one_label_was_seen(asker):
    row = row_of(asker, Lesson((STREAM[0],), STREAM[3], among=LABELS[:1]))
    assert len(row.supervised) == 2  # one for each answer of the text
    assert answer_losses(asker.model.backbone, [row]).tolist() == [0.0, 0.0]
    learner, before = (
        TrainedLearner(parse_recipe("fine-tune:lr=1e-2,steps=2,over=seen", shots=2), Setup(TASK, asker, 0)),
        {},
    )
    for name, seen in (("one", (STREAM[0], STREAM[3])), ("two", (STREAM[0], STREAM[3], STREAM[1]))):
        learner.learn(seen)
        before[name] = [t.numpy().tobytes() for t in learner.model._weights.tensors().values()]
    fresh = asker.model.trainable(Training(), seed=0)
    assert before["one"] == [t.numpy().tobytes() for t in fresh._weights.tensors().values()]
    assert before["two"] != before["one"]


def test_an_answer_that_is_not_among_them_is_refused(asker):
    with pytest.raises(
        UserError, match=r"must be one of them; got one that is none of 2, such as ' bad\\n\\n'. Give the"
    ):
        row_of(asker, Lesson((), STREAM[1], among=("bad", "best")))


@pytest.mark.parametrize("name", ["fine-tune", "icl+ft"])
def test_lessons_are_over_the_labels_seen_so_far(asker, monkeypatch, name):
    taught = []

    def spy(self, lesson, write=TaskModel.training_text):
        taught.append(lesson)
        return write(self, lesson)

    monkeypatch.setattr(TaskModel, "training_text", spy)
    learner = TrainedLearner(
        parse_recipe(f"{name}:lr=1e-3,steps=1,over=seen,direction=0.1", shots=2), Setup(TASK, asker, 0)
    )
    for n, labels in ((2, LABELS[:2]), (4, LABELS[:3])):
        taught.clear()
        learner.learn(STREAM[:n])
        assert taught[-1].among == labels
        assert all(set(lesson.among) <= {e.output for e in STREAM[:n]} for lesson in taught)


def test_labels_without_an_example_are_not_pushed_down(asker):
    """Learning over all texts unlearns a label without an example; over the labels seen it keeps its share."""
    labels = ("animal", "food", "tool", "weather")
    rows = tuple(Example(f"text {i}", labels[i % 3], f"e{i}") for i in range(6))
    asker = replace(asker, task=Task("words", "classification", rows, labels=labels))

    def share(model):
        scores = replace(asker, model=model).score([asker.prompt((), e)[0] for e in rows], [labels] * len(rows))
        return np.mean([np.exp(row - np.logaddexp.reduce(row))[3] for row in scores])

    def learnt(settings):
        recipe = parse_recipe(f"fine-tune:lr=3e-3,steps=2{settings}", shots=2)
        learner = TrainedLearner(recipe, Setup(asker.task, asker, 0))
        learner.learn(rows)
        return share(learner.model)

    before = share(asker.model)
    assert learnt(",over=all") < 1e-3 * before
    assert learnt("") > 0.5 * before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fine-tune:over=some", "fine-tune:over must be one of auto, all, seen; got 'some'."),
        (
            "fine-tune:over=seen,teacher=demonstrations",
            "over=seen learns the right answers, and a teacher says otherwise",
        ),
        (
            "tfidf-lr:calibration=contextual",
            "calibration must be one of auto, batch, temperature, none, as a classifier asks no language model; got",
        ),
        (
            "tfidf-lr:calibration=x",
            "tfidf-lr: calibration must be one of auto, batch, temperature, contextual, none; got",
        ),
        ("icl+ft:balanced=1", "icl.ft:balanced must be true or false; got '1'."),
    ],
)
def test_settings_that_make_no_sense_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        parse_recipe(text, shots=2)


@pytest.mark.parametrize("kind", ["generation", "multiple_choice"])
def test_what_is_over_labels_does_not_apply_to_other_tasks(kind, tmp_path):
    choices = ("one", "two") if kind == "multiple_choice" else ()
    rows = tuple(
        Example(f"say {i}", f"({'AB'[i % 2]})" if choices else f"n{i}", f"{i}", choices=choices) for i in range(9)
    )
    task = Task("numbers", kind, rows, metrics=("accuracy" if choices else "exact_match",))
    odd = "random:calibration=batch"
    run = kshot.adapt(task, "scripted", recipes=[odd, "zero-shot"], shots=2, out=tmp_path / "run")
    found = {row["recipe"]: (row["status"], row["reason"]) for row in run.leaderboard}
    assert found == {"zero-shot": ("done", None), odd: ("not-applicable", f"it is not for tasks of kind {kind}")}
    with pytest.raises(UserError, match=f"must name one for tasks of kind {kind}; got '{odd}'"):
        kshot.adapt(task, "scripted", recipes=odd, shots=2, out=tmp_path / "alone")
    fits = [
        parse_recipe(f"{name}:over={over}", shots=2).suits(task)
        for name in ("fine-tune", "icl+ft")
        for over in ("auto", "seen")
    ]
    assert fits == [True, False] * 2


def test_by_itself_it_is_over_the_labels_seen_until_all_have_an_example():
    tuner, labels = FineTune(), LABELS[:3]
    task = replace(TASK, labels=labels)
    assert tuner.learns_over(task, STREAM[:1]) == labels[:1]
    assert tuner.learns_over(task, STREAM[:2]) == labels[:2]
    assert tuner.learns_over(task, STREAM) == ()
    assert FineTune(over="seen").learns_over(task, STREAM) == labels
    assert FineTune(over="all").learns_over(task, STREAM[:1]) == ()
    assert tuner.learns_over(replace(task, kind="generation", labels=()), STREAM) == ()


# Balanced


def test_balanced_draws_take_as_equal_numbers_as_there_are():
    outputs = ["a"] * 20 + ["b"] * 3 + ["c"]
    for n, counts in ((3, {"a": 1, "b": 1, "c": 1}), (5, {"a": 2, "b": 2, "c": 1}), (24, {"a": 20, "b": 3, "c": 1})):
        drawn = balanced(outputs, n, rng=generator(n, "draw"))
        assert len(set(drawn)) == n
        assert Counter(outputs[i] for i in drawn) == counts


@pytest.mark.parametrize("target", ["any-seen", "current"])
def test_lessons_are_drawn_evenly_over_labels(target):
    seen = tuple(Example(f"x{i}", "rare" if i == 3 else "often", f"e{i}") for i in range(20))
    for evenly, least, most in ((True, 0.9, 1), (False, 0.1, 0.4)):
        draws = [draw(seen, 3, target=target, evenly=evenly, rng=generator(0, "d", i)) for i in range(200)]
        for one, others in draws:
            assert len({one, *others}) == 4
            assert target == "any-seen" or one is seen[-1]
        shown = np.mean([any(e.output == "rare" for e in (one, *others)) for one, others in draws])
        assert least <= shown <= most
    targets = Counter(
        FineTune(batch=1, balanced=True).lessons(seen, tuple, step=i, rng=generator(0, "d", i))[0].target.output
        for i in range(200)
    )
    assert 70 <= targets["rare"] <= 130
    (lesson,) = IclFt(k=3, balanced=True, target=target).lessons(seen, tuple, step=0, rng=generator(0, "l"))
    assert "rare" in {e.output for e in (*lesson.demonstrations, lesson.target)}


@pytest.mark.parametrize("more", ["", ",fresh=true", ",contexts=2"])
def test_balanced_demonstrations_hold_in_every_kind_of_draw(more):
    """14 of one label and 2 of each other: of three shown each has one."""
    rows = [Example(f"x{i}", "animal" if i > 3 else LABELS[i % 2], f"e{i}") for i in range(18)]
    task = Task("words", "classification", tuple(rows), labels=("animal", *LABELS[:2]))
    model = TaskModel.for_task(task, kshot.load_model("scripted"))
    recipe = parse_recipe(f"random:k=3,balanced=true{more}", shots=3)
    for one in recipe.members or (recipe,):
        learner = make_learner(one, Setup(task, model, 0))
        known = {e.id: e.output for e in rows}
        (found,) = learner.predict([Query(rows[17], tuple(rows[:17]))])
        assert Counter(known[i] for i in found.demonstrations) == Counter(task.labels)
