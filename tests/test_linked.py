"""Labels that only demonstrations tell: how lessons are made, and that a network learns to look there."""

from dataclasses import replace

import numpy as np
import pytest

from conftest import labelled_rows
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.types import Example, Query, Task
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.tuners import linked
from kshot.methods.tuners.linked import Linked, invented_classes, nonsense, renamed
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from word_network import word_engine

STREAM = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(12)))
TASK = Task("words", "classification", STREAM, labels=("animal", "food", "tool"), instruction="Name the kind.")
KNOWN = " ".join((*linked._WHERE, *linked._HOW, "Text Label"))
UNSEEN = {onset + vowel for onset in "bdf" for vowel in "aeiou"}  # no class of a lesson begins so


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def lessons(tuner: Linked, n: int, seen=STREAM) -> list[Lesson]:
    return [one for seed in range(n) for one in tuner.lessons(seen, tuple, step=0, rng=rng(seed))]


def test_lessons_rename_the_tasks_labels_differently_each_time():
    by_id, names = {e.id: e for e in STREAM}, set()
    for lesson in lessons(Linked(invented=0.0, ways=2, k=4), 50):
        examples = (*lesson.demonstrations, lesson.target)
        called = {(by_id[e.id].output, e.output) for e in examples}
        assert len(called) == len({a for a, _ in called}) == len({b for _, b in called}) == 2
        assert lesson.target.output in {e.output for e in lesson.demonstrations}
        assert lesson.target.id not in {e.id for e in lesson.demonstrations}
        assert sorted(lesson.among) == sorted(b for _, b in called)
        assert [sum(e.output == name for e in lesson.demonstrations) for name in lesson.among] in (
            [2, 2],
            [1, 3],
            [3, 1],
        )
        assert (lesson.learnt, lesson.instruction, lesson.is_apart, len(examples)) == ("last", "", True, 5)
        assert all(e.input == by_id[e.id].input and e.meta["made"] == "linked" for e in examples)
        names |= set(lesson.among)
    assert len(names) > 300


def test_the_newest_is_asked_where_it_is_to_be_and_another_has_its_label():
    assert {one.target.id for one in lessons(Linked(invented=0, target="current"), 9)} == {STREAM[-1].id}
    alone = (*STREAM[:6], Example("a song", "music", "new"))
    assert "new" not in {one.target.id for one in lessons(Linked(invented=0, target="current"), 9, alone)}


@pytest.mark.parametrize("seen", [STREAM[:1], STREAM[:3], [replace(e, output="food") for e in STREAM]])
def test_where_examples_link_nothing_classes_are_invented(seen):
    for lesson in lessons(Linked(invented=0.0), 5, seen):
        assert all(e.id.startswith("made-") for e in (*lesson.demonstrations, lesson.target))


def test_an_invented_class_has_one_label_and_the_query_one_that_is_shown():
    for seed in range(40):
        before, target = invented_classes(4, 2, rng=rng(seed))
        lesson = renamed(before, target, rng=rng(seed, 1))
        named = {(e.input.split()[-1], e.output) for e in (*lesson.demonstrations, lesson.target)}
        assert len(named) == 2
        assert (lesson.target.input.split()[-1], lesson.target.output) in {
            (e.input.split()[-1], e.output) for e in lesson.demonstrations
        }
        assert not {word for word, _ in named} & {label for _, label in named}
    words = nonsense(70, rng=rng(0))
    assert len({word[:2] for word in words}) == 70


def test_shuffled_labels_tell_nothing():
    hits = []
    for seed in range(400):
        lesson = renamed(*invented_classes(2, 2, rng=rng(seed)), shuffled=True, rng=rng(seed, 1))
        word = lesson.target.input.split()[-1]
        hits += [e.output == lesson.target.output for e in lesson.demonstrations if e.input.endswith(word)]
    assert np.mean(hits) == pytest.approx(0.5, abs=0.08)


def test_the_answer_alone_is_learnt_among_the_lessons_labels():
    tiny = Engine(tiny_backbone())
    model = TaskModel.for_task(TASK, tiny)
    for over in ("auto", "all"):
        lesson = lessons(Linked(over=over), 1)[0]
        row = tiny.training_row(model.training_text(lesson))
        assert min(row.supervised) >= len(row.ids) - len(f" {lesson.target.output}\n\n")
        assert (row.among != ()) == (over == "auto")
        assert bool(lesson.among) == (over == "auto")


def test_a_query_is_asked_with_real_labels_after_demonstrations():
    model = TaskModel.for_task(TASK, Engine(tiny_backbone()))
    recipe = parse_recipe("linked:k=3,lr=1e-3,steps=1,selector=bm25", shots=1)
    learner = TrainedLearner(recipe, Setup(TASK, model, 0))
    found = learner.predict([Query(e, STREAM[:i]) for i, e in enumerate(STREAM[:6])])
    assert [(p.example_id, p.candidates, len(p.demonstrations)) for p in found] == [
        (e.id, TASK.labels, min(3, i)) for i, e in enumerate(STREAM[:6])
    ]
    assert len(learner.log) == 5


def test_it_is_not_applicable_without_labels_and_takes_no_teacher():
    recipe = parse_recipe("linked", shots=1)
    assert recipe.suits(TASK)
    assert not recipe.suits(Task("open", "generation", STREAM))
    assert not recipe.suits(Task("quiz", "multiple_choice", STREAM))
    for text, message in (
        ("linked:teacher=demonstrations", "'linked' makes some of its own. Leave the teacher out"),
        ("linked:k=1", "k must be 2 or more; got 1"),
        ("linked:ways=1", "ways must be 2 or more; got 1"),
    ):
        with pytest.raises(UserError, match=message):
            parse_recipe(text, shots=1)


def is_unseen(lesson: Lesson) -> list[bool]:
    return [e.input.split()[-1][:2] in UNSEEN for e in (*lesson.demonstrations, lesson.target)]


def accuracy(model: Engine, *, shuffled: bool = False, n: int = 100) -> float:
    """Return how often the right one of two labels is more probable, for classes that no lesson had."""
    asker, right, seed = TaskModel.for_task(TASK, model), [], 0
    while len(right) < n:
        seed += 1
        lesson = renamed(*invented_classes(2, 2, rng=rng(seed)), shuffled=shuffled, rng=rng(seed, 1))
        if all(is_unseen(lesson)):
            bare = replace(asker, task=replace(TASK, instruction="", labels=lesson.among))
            (row,) = bare.score([bare.compose(lesson.demonstrations, lesson.target)], [lesson.among])
            right.append(lesson.among[int(np.argmax(row))] == lesson.target.output)
    return float(np.mean(right))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_network_learns_to_look_where_the_link_is(seed):
    """Its second layer links a little before: right 6 times of 10; two labels, classes that it has not seen."""
    base = word_engine(seed=seed, known=KNOWN, linking=1.0)
    model = TrainedEngine(base, Training(weights="full", lr=1e-3), seed=seed)
    tuner, asker = Linked(k=2, batch=12, invented=1.0), TaskModel.for_task(TASK, model)
    for step in range(40):
        some = tuner.lessons((), tuple, step=0, rng=rng(seed, step))
        model.learn(Batch([asker.training_text(one) for one in some if not any(is_unseen(one))]))
    assert accuracy(base) < 0.75
    assert accuracy(model) > 0.9
    assert accuracy(model, shuffled=True) == pytest.approx(0.5, abs=0.15)
