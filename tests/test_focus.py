"""Words that mislead a student: which they are, that they alone are cut, and that lessons without them help."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.objective_settings import Distil
from kshot.core.salient_words import Word, words_in
from kshot.core.types import Example, Query, Task
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.probabilities import normalised
from kshot.methods.knowledge import Knowledge
from kshot.methods.skill_profile import answers_after
from kshot.methods.teachers.gradient_pruning import Focus, confounding, scaled, without
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from taught_network import ANSWERS, FILLERS, KEYS, TAGS, key_reader

MEANING = {key: ANSWERS[i % 2] for i, key in enumerate(KEYS[:8])}


def words(text: str, values: Sequence[float], field: str = "input") -> list[Word]:
    return [Word(field, a, b, v) for (a, b), v in zip(words_in(text), values, strict=True)]


# Which words are cut


def test_the_words_that_the_student_follows_and_the_teacher_does_not_are_marked():
    text = "one two three four five"
    student, teacher = words(text, [0, 10, 10, 0, 10]), words(text, [0, 0, 0, 0, 7])
    # scaled: student 0 1 1 0 1, teacher 0 0 0 0 1; d = 0 -1 -1 0 0, scaled 1 0 0 1 1
    assert confounding(student, teacher, 0.1) == [("input", 4, 13)]
    assert text[4:13] == "two three"
    assert confounding(student, [replace(w, value=3 * w.value + 1) for w in teacher], 0.1) == [("input", 4, 13)]


def test_spans_of_words_that_are_no_neighbours_are_apart_and_so_are_those_of_the_context():
    text = "one two three four"
    student = [*words("a b", [0, 5], "context"), *words(text, [5, 5, 0, 5])]
    teacher = [*words("a b", [0, 0], "context"), *words(text, [0, 0, 9, 0])]
    assert confounding(student, teacher, 0.5) == [("context", 2, 3), ("input", 0, 7), ("input", 14, 18)]


def test_where_both_follow_the_same_words_or_share_none_nothing_is_marked():
    same = words("one two", [1, 4])
    assert confounding(same, [replace(w, value=2 * w.value) for w in same], 0.5) == []
    assert confounding(same, words("a b", [1, 4], "context"), 0.5) == []
    assert confounding([], [], 0.1) == []


def test_no_word_above_half_of_the_difference_is_marked():
    text = "a b c"
    student, teacher = words(text, [9, 0, 0]), words(text, [0, 1, 1])  # d scaled: 0 1 1
    assert confounding(student, teacher, 0.5) == [("input", 0, 1)]
    assert scaled(np.array([3.0, 3.0])).tolist() == [0, 0]


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=40), st.text(max_size=40), st.data())
def test_cutting_a_span_removes_exactly_its_characters(text, context, data):
    field = data.draw(st.sampled_from(["input", "context"] if context else ["input"]))
    whole = text if field == "input" else context
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    e = Example(text, "a", "x", context=context or None)
    found, rest = without(e, (field, start, stop)), whole[:start] + whole[stop:]
    if found is None:
        assert not rest.strip()
    else:
        assert found == (replace(e, input=rest) if field == "input" else replace(e, context=rest))


# Lessons

STREAM = tuple(Example(f"text number {i}", ANSWERS[i % 2], f"e{i}") for i in range(8))
TASK = Task("words", "classification", STREAM, labels=ANSWERS)


def test_each_lesson_about_a_misleading_example_has_one_without_a_span_after_it():
    teacher = Focus(k=2, weight=0.5, temperature=2.0)
    knowledge = Knowledge(found={"e1": [["input", 0, 5], ["input", 5, 11]]})
    plain = [Lesson((), STREAM[0]), Lesson((STREAM[3],), STREAM[1], weight=3.0)] * 20
    found = teacher.lessons(plain, STREAM, step=0, rng=np.random.default_rng(0), knowledge=knowledge)
    assert len(found) == 60
    cut = [one for one in found if one.target.input not in {e.input for e in STREAM}]
    assert {one.target.input for one in cut} == {"number 1", "text  1"}
    assert {(one.target.id, one.target.output, one.weight, one.demonstrations) for one in cut} == {
        ("e1", "yes", 1.5, (STREAM[3],))
    }
    for one in found:
        assert len(one.teacher or ()) == 2
        assert one.target.id not in {e.id for e in one.teacher or ()}
    assert teacher.objective == Distil(2.0)


def test_only_where_the_teacher_is_right_is_anything_looked_for():
    base = TaskModel.for_task(TASK, Engine(tiny_backbone()))

    def found(teacher: Focus, e: Example):
        how = {"student": base, "before": base, "selecting": base, "shown": lambda: ()}
        return teacher.compare((*STREAM, e), **how, rng=np.random.default_rng(0))

    asked = Example("some text of many words", "no", "new")
    (said,) = answers_after([Focus(k=3)._drawn(asked, STREAM, np.random.default_rng(0))], [asked], model=base)
    right, wrong = (replace(asked, output=y) for y in (said, next(a for a in ANSWERS if a != said)))
    assert found(Focus(k=3), wrong) is None  # the teacher is wrong as well
    spans = found(Focus(k=3, share=0.5), right)
    assert spans
    assert from_json(to_json(spans)) == spans
    for _, start, stop in spans:
        assert right.input[start:stop].strip() == right.input[start:stop] != ""


# A planted word

TEACHER = Focus(k=12)


def world(seed: int, n: int = 48, agree: float = 0.8) -> tuple[Example, ...]:
    """The key says the label; the tag beside it says the same, most of the time."""
    rng = np.random.default_rng(100 + seed)
    return tuple(ask(f"e{i}", KEYS[i % 8], rng.random() < agree, rng) for i in range(n))


def ask(name: str, key: str, is_so: bool, rng: np.random.Generator) -> Example:
    label = MEANING[key]
    tag = TAGS[label if is_so else next(a for a in ANSWERS if a != label)]
    return Example(f"{rng.choice(FILLERS)} {tag} {key}", label, name)


def right_against_the_tag(model: TaskModel) -> float:
    """How probable the right answer is, on average, where the tag says the other one."""
    rng = np.random.default_rng(7)
    rows = [ask(f"f{i}", KEYS[i % 8], False, rng) for i in range(24)]
    scores = model.score([model.prompt((), e)[0] for e in rows], [ANSWERS] * len(rows))
    return float(np.mean([normalised(s)[ANSWERS.index(e.output)] for s, e in zip(scores, rows, strict=True)]))


def planted(seed: int) -> tuple[TaskModel, tuple[Example, ...], dict[str, Any]]:
    """The model before training, its stream, and what a teacher finds out when it looks at all of it."""
    rows = world(seed)
    model = TaskModel.for_task(Task("t", "classification", rows, labels=ANSWERS), key_reader())
    said = answers_after([()] * len(rows), rows, model=model)
    wrong = [e for e, text in zip(rows, said, strict=True) if text != e.output]
    found = {}
    for e in wrong:
        seen = (*(o for o in rows if o is not e), e)
        how = {"student": model, "before": model, "selecting": model, "shown": lambda: ()}
        if spans := TEACHER.compare(seen, **how, rng=np.random.default_rng(0)):
            found[e.id] = spans
    return model, rows, found


def after_training(model: TaskModel, rows: Sequence[Example], found: dict[str, Any], seed: int) -> float:
    """What `right_against_the_tag` is after 30 steps on all rows, each with demonstrations for its teacher."""
    trained = model.model.trainable(Training(lr=2e-3), seed=seed)
    plain = [Lesson((), e) for e in rows]
    how: Any = {"step": 0, "knowledge": Knowledge(found=found)}
    shown = {one.target.id: one.teacher for one in TEACHER.lessons(plain, rows, rng=np.random.default_rng(seed), **how)}
    for step in range(30):
        lessons = TEACHER.lessons(plain, rows, rng=np.random.default_rng(step), **how)
        texts = [model.training_text(replace(one, teacher=shown[one.target.id])) for one in lessons]
        trained.learn(Batch(texts, objective=TEACHER.objective))
    return right_against_the_tag(replace(model, model=trained))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_word_is_what_is_cut(seed):
    model, rows, found = planted(seed)
    assert right_against_the_tag(model) < 0.1  # the student follows the tag
    by_id = {e.id: e for e in rows}
    cut = [by_id[i].input[a:b] for i, spans in found.items() for _, a, b in spans]
    assert len(cut) >= 4
    assert np.mean([text in TAGS.values() for text in cut]) > 0.8


@pytest.mark.slow
def test_lessons_without_a_planted_word_do_no_harm():
    """Of 32 networks: no gain shows, and one differs from the next by 0.1 (docs/methods/focus.md)."""
    gains = []
    for seed in range(100, 132):
        model, rows, found = planted(seed)
        gains.append(after_training(model, rows, found, seed) - after_training(model, rows, {}, seed))
    print(np.round(gains, 3), np.mean(gains))
    assert np.mean(gains) > -0.05


# Along a stream


def test_what_is_found_is_kept_with_the_training():
    rows = world(0, 14)
    setup = Setup(Task("t", "classification", rows, labels=ANSWERS), TaskModel.for_task(TASK, key_reader()), 0)
    setup = replace(setup, model=replace(setup.model, task=setup.task))
    recipe = parse_recipe("fine-tune:teacher=focus(k=8),lr=1e-4,steps=1,batch=1", shots=1)
    learner = TrainedLearner(recipe, setup)
    said = learner.predict([Query(e, rows[:i]) for i, e in enumerate(rows)])
    learner.learn(rows)
    wrong = {p.example_id for p, e in zip(said, rows, strict=True) if p.answer != e.output}
    found = {row["example"]: row["found"] for row in learner.log if "found" in row}
    assert found
    assert found.keys() <= wrong
    assert {row["example"] for row in learner.log if row.get("asked")} >= found.keys()
    assert from_json(to_json(learner.log)) == learner.log
    knowledge = learner._inquiry.knowledge(rows, [], learner._base, 0)
    assert (knowledge.found, knowledge.wrong) == (found, wrong)


def test_another_model_with_another_tokenizer_says_which_words_count():
    """Of the tiny model tokens are bytes, and of the other one words."""
    rows = world(0, 12)
    task = Task("t", "classification", rows, labels=ANSWERS)
    own, other = (TaskModel.for_task(task, engine) for engine in (Engine(tiny_backbone()), key_reader()))
    recipe = parse_recipe("fine-tune:teacher=focus(k=8,by=selector-model),lr=1e-4,steps=1,batch=1", shots=1)
    learner = TrainedLearner(recipe, Setup(task, own, 0, selector_model=other))
    learner.check(rows[:2])
    learner.learn(rows)
    found = {row["example"]: row["found"] for row in learner.log if "found" in row}
    by_id = {e.id: e for e in rows}
    assert found
    for name, spans in found.items():
        bounds = {at for span in words_in(by_id[name].input) for at in span}
        assert all({start, stop} <= bounds for _, start, stop in spans)
    for selecting, what in (
        (None, "there is none"),
        (TaskModel.for_task(task, load_model("scripted")), "has no weights"),
    ):
        with pytest.raises(UserError, match=f"by=selector-model asks another model with weights.*{what}. Name one"):
            TrainedLearner(recipe, Setup(task, own, 0, selector_model=selecting)).check(rows[:2])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"by": "x"}, "by must be one of itself, selector-model; got 'x'"),
        ({"share": 0.0}, r"share must be a number, in 0\.001\.\.0\.5; got 0\.0|share must be in 0\.001\.\.0\.5; got 0"),
        ({"weight": 0.0}, r"weight must be greater than 0; got 0\.0"),
        ({"k": 0}, "k must be 1 or more; got 0"),
    ],
)
def test_settings_that_make_no_sense(how, message):
    with pytest.raises(UserError, match=message):
        Focus(**how)


def test_questions_that_list_their_choices_stay_whole():
    listed = Task("t", "multiple_choice", STREAM)
    assert not Focus().suits(listed)
    assert Focus().suits(replace(listed, choices_in_input=False))
    assert Focus().suits(TASK)
