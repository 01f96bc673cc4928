"""Skills: where they come from, demonstrations by skill, and what a model's mistakes say about those it lacks."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.seeding import generator
from kshot.core.types import Example, Question, Task
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.knowledge import Knowledge
from kshot.methods.selectors.missing_skills import MissingSkills
from kshot.methods.selectors.skills import Skills
from kshot.methods.skill_profile import Skilled, chances, missed, mistakes, written_skills
from kshot.methods.teachers.skill_targeted import SkillTargeted
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel

SIX = ("adding", "bending", "cutting", "drawing", "eating", "flying")
WEAK = ("cutting", "eating")
LABELS = ("yes", "no")


def rows_of(n: int, skills=SIX, start: int = 0) -> tuple[Example, ...]:
    """Examples that need the skills in turn, whose answer has nothing to do with the skill."""
    return tuple(
        Example(f"{skills[i % len(skills)]} thing {i}", LABELS[i // len(skills) % 2], f"e{i}",
                meta={"skills": [skills[i % len(skills)]]})
        for i in range(start, start + n)
    )  # fmt: skip


ROWS = rows_of(48)
TASK = Task("skills", "classification", ROWS, labels=LABELS)


def student() -> ScriptedModel:
    """Knows the answers but for two skills, whose answers it has the wrong way round."""
    turned = dict(zip(LABELS, reversed(LABELS), strict=True))
    table = {e.input: turned[e.output] if e.meta["skills"][0] in WEAK else e.output for e in reversed(ROWS)}
    return ScriptedModel(dict(sorted(table.items(), key=lambda row: -len(row[0]))))


def asker(task: Task = TASK, model=None) -> TaskModel:
    return TaskModel.for_task(task, model or student())


def fitted(pool=ROWS, **settings) -> Skills:
    return Skills(**settings).fit(pool, model=asker(), rng=generator(0))


# Where skills come from


@pytest.mark.parametrize(
    ("meta", "skills"),
    [
        ({"skills": ["a", "b", "a", " "]}, ("a", "b")),
        ({"skills": "a"}, ("a",)),
        ({"skill": " a "}, ("a",)),
        ({"skills": ["a"], "skill": "b"}, ("a", "b")),
        ({"skills": [1, None, "a"]}, ("a",)),
        ({"skills": 3}, ()),
        ({}, ()),
    ],
)
def test_skills_are_texts_in_a_row(meta, skills):
    assert written_skills(meta) == skills


def test_rationales_are_clustered_and_stay_in_their_cluster_until_they_have_doubled():
    adding = [f"Add {i} and {i + 2} to get the sum {2 * i + 2}." for i in range(8)]
    eating = [f"The {fruit} is a sweet fruit that grows on trees." for fruit in ("apple", "pear", "plum", "fig")]
    pool = [
        Example(f"question {i}", "yes", f"r{i}", explanation=text) for i, text in enumerate([*eating, *adding, *eating])
    ]
    pool = [replace(e, explanation=None) if i == 11 else e for i, e in enumerate(pool)]
    found = Skilled(clusters=2).skills_of(pool)
    assert found[11] == ()
    assert len({*found[:4], *found[12:]}) == 1
    assert len(set(found[4:11])) == 1
    assert len(set(found)) == 3
    assert "fruit" in found[0][0]
    assert "add" in found[4][0]
    earlier = [Skilled(clusters=2).skills_of(pool[:n]) for n in (8, 10, 15)]
    assert [some == earlier[2][: len(some)] for some in earlier] == [True] * 3
    assert Skilled(clusters=99).skills_of(pool[:4])[0] != Skilled(clusters=99).skills_of(pool[:4])[1]
    assert Skilled(source="meta").skills_of(pool) == [()] * 16


@pytest.mark.parametrize(
    ("source", "missing"),
    [("meta", "meta.skills"), ("clusters", "explanation"), ("auto", "meta.skills or explanation")],
)
def test_what_the_examples_lack_is_said_by_its_name(source, missing):
    bare = replace(TASK, train=tuple(replace(e, meta={}) for e in ROWS[:8]))
    for room in ("skills:", "missing-skills:", "fine-tune:lr=1e-3,steps=1,teacher=missing-skills(source="):
        name = f"{room}{source})" if "(" in room else f"{room}source={source}"
        assert parse_recipe(name, shots=2).obstacle(bare) == f"its examples must have {missing}, and none has"
    explained = replace(bare, train=(*bare.train, replace(ROWS[9], meta={}, explanation="because")))
    assert Skills(source=source).missing_field(explained) == ("meta.skills" if source == "meta" else None)
    assert Skills(source=source).missing_field(TASK) == ("explanation" if source == "clusters" else None)
    run = kshot.adapt(bare, "scripted", recipes=["majority", f"skills:source={source}"], shots=2)
    (row,) = [row for row in run.leaderboard if row["recipe"].startswith("skills")]
    assert (row["status"], row["reason"]) == ("not-applicable", f"its examples must have {missing}, and none has")


# Demonstrations by skill


@pytest.mark.parametrize("k", [1, 2, 5, 12, 100])
@pytest.mark.parametrize("skills", [("flying",), ("flying", "adding"), ("flying", "unheard of"), SIX])
def test_there_are_always_k_all_different_an_example_of_each_skill_and_the_first_ones_next(k, skills):
    selector = fitted()
    for seed in range(20):
        found = selector.select(Question("?", "q", meta={"skills": list(skills)}), k, rng=generator(seed))
        assert len(found) == len(set(found)) == min(k, len(ROWS))
        near = [ROWS[i].meta["skills"][0] for i in reversed(found)]
        known = [skill for skill in skills if skill in SIX]
        assert near[: min(k, len(known))] == known[:k]
        assert set(near[len(known) : min(k, 8)]) <= {known[0]}  # of eight examples a skill
        first = [i for i in found if ROWS[i].meta["skills"][0] not in known]
        assert first == sorted(first)  # the rest are the first of the pool
        assert first == [i for i in range(len(ROWS)) if ROWS[i].meta["skills"][0] not in known][: len(first)]


def test_chance_decides_which_example_of_a_skill():
    asked = Question("?", "q", meta={"skills": ["flying"]})
    selector = fitted()
    counts = Counter(selector.select(asked, 1, rng=generator(seed))[0] for seed in range(800))
    assert set(counts) == set(range(5, 48, 6))
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_skills_that_an_attempt_lacked_go_before_the_questions_own():
    selector = fitted()
    own = {"skills": ["flying"], "missing_skills": ["eating", "unheard of"]}
    assert selector.needed(Question("?", "q", meta=own)) == ("eating",)
    assert selector.needed(Question("?", "q", meta=own | {"missing_skills": ["unheard of"]})) == ("flying",)


def test_a_question_without_skills_borrows_those_of_the_most_similar_examples():
    words = {"arithmetic": "add the numbers", "animals": "the cat and the dog", "food": "bread with cheese"}
    pool = [
        Example(f"{text} {i}", "yes", f"{skill} {i}", meta={"skill": skill})
        for i in range(3)
        for skill, text in words.items()
    ]
    selector = fitted(pool)
    assert selector.needed(Question("add the numbers 7", "q")) == ("arithmetic",)
    assert selector.needed(Question("the cat and the dog 9", "q", meta={"skills": ["unheard of"]}))[0] == "animals"
    found = fitted(pool, near=9).needed(Question("bread with cheese 4", "q"))
    assert found[0] == "food"
    assert set(found) == set(words)


def test_where_nobody_knows_skills_the_shots_are_the_first_ones():
    bare = [replace(e, meta={}) for e in ROWS]
    asked = Question("?", "q", meta={"skills": ["flying"]})
    assert fitted(bare).select(asked, 4, rng=generator(0)) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="'skills' chooses for one query at a time"):
        fitted().select(None, 2, rng=generator(0))


# What the model lacks


def test_the_profile_of_a_student_weak_in_two_of_six_skills_ranks_these_first():
    skills = Skilled().skills_of(ROWS)
    counts = missed(skills, mistakes(ROWS, shots=2, model=asker()))
    assert list(counts)[:2] == list(WEAK)
    assert counts == dict.fromkeys(WEAK, 8) | dict.fromkeys(sorted({*SIX} - {*WEAK}), 0)


def test_a_mistake_is_that_of_what_was_known_before_it_and_asked_once(tmp_path):
    store = SqliteStore(tmp_path / "store.sqlite")
    reader = ScriptedModel().with_store(store)  # it believes the demonstration that is the most similar
    model = asker(model=reader)
    some = mistakes(ROWS[:16], shots=4, model=model)
    assert model.ledger.cost.scored == 16
    turned = tuple(replace(e, output="no" if e.output == "yes" else "yes") for e in ROWS[16:])
    assert mistakes((*ROWS[:16], *turned), shots=4, model=model)[:16] == some
    assert model.ledger.cost.scored == 16 + 32
    open_task = replace(TASK, kind="math", labels=(), metrics=("exact_match",))
    assert mistakes(ROWS, shots=0, model=asker(open_task)) == [e.meta["skills"][0] in WEAK for e in ROWS]
    store.close()


def test_no_more_examples_are_asked_than_allowed():
    model = asker()
    MissingSkills(most=12).fit(ROWS, model=model, rng=generator(0)).select(None, 4, rng=generator(0))
    assert model.ledger.cost.scored == 12
    for bad, message in (({"most": 0}, "most must be 1 or more; got 0"), ({"shots": -1}, "shots must be 0 or more")):
        with pytest.raises(UserError, match=message):
            MissingSkills(**bad)


def test_demonstrations_are_drawn_as_the_profile_says():
    notes = []
    model = replace(asker(), notes=notes.append)
    selector = MissingSkills(shots=2).fit(ROWS, model=model, rng=generator(0))
    drawn = [selector.select(None, 1, rng=generator(seed))[0] for seed in range(3000)]
    assert [list(note["mistakes"])[:2] for note in notes] == [list(WEAK)]  # asked once
    counts = Counter(ROWS[i].meta["skills"][0] for i in drawn)
    weights = np.array([9 if skill in WEAK else 1 for skill in SIX])
    expected = 3000 * weights / weights.sum()
    assert chisquare([counts[skill] for skill in SIX], expected).pvalue > 1e-3
    assert chisquare([counts[skill] for skill in SIX]).pvalue < 1e-6  # it could fail
    inside = Counter(i for i in drawn if ROWS[i].meta["skills"][0] == "eating")
    assert chisquare([inside[i] for i in range(4, 48, 6)]).pvalue > 1e-3


def test_the_chance_of_an_example_is_that_of_a_skill_and_then_of_one_that_needs_it():
    skills = [("a",), ("a", "b"), ("b",), (), ()]
    found = chances(skills, {"a": 3, "b": 0})
    a, b, none = 4 / 6, 1 / 6, 1 / 6
    assert found == pytest.approx([a / 2, a / 2 + b / 2, b / 2, none / 2, none / 2])
    assert found.sum() == pytest.approx(1)


# Lessons by missing skills


def test_lessons_are_drawn_as_the_profile_says_and_are_the_tuners_without_a_mistake():
    teacher = SkillTargeted()
    plain = [Lesson(tuple(ROWS[1:3]), ROWS[0])]
    assert teacher.lessons(plain, ROWS, step=0, rng=generator(0)) == plain
    how: Any = {"step": 0, "knowledge": Knowledge(frozenset(e.id for e in ROWS if e.meta["skills"][0] in WEAK))}
    drawn = [teacher.lessons(plain, ROWS, rng=generator(seed), **how)[0] for seed in range(2000)]
    counts = Counter(lesson.target.meta["skills"][0] for lesson in drawn)
    weights = np.array([9 if skill in WEAK else 1 for skill in SIX])
    assert chisquare([counts[s] for s in SIX], 2000 * weights / weights.sum()).pvalue > 1e-3
    for lesson in drawn:  # a demonstration that is drawn changes places with the target before
        assert lesson.target not in lesson.demonstrations
        assert len({e.id for e in lesson.demonstrations}) == 2
    assert any(ROWS[0] in lesson.demonstrations for lesson in drawn)


def test_weights_of_lessons_have_the_mean_one_over_what_is_known():
    knowledge = Knowledge(frozenset(e.id for e in ROWS if e.meta["skills"][0] in WEAK))
    plain, how = [Lesson((), e) for e in ROWS], {"step": 0, "rng": generator(0), "knowledge": knowledge}
    found = SkillTargeted(by="weight").lessons(plain, ROWS, **how)
    assert [lesson.target for lesson in found] == list(ROWS)
    assert np.mean([lesson.weight for lesson in found]) == pytest.approx(1)
    assert found[2].weight == pytest.approx(9 * found[0].weight)
    with pytest.raises(UserError, match="by must be one of draw, weight; got 'x'"):
        SkillTargeted(by="x")


TAUGHT = "fine-tune:lr=1e-3,steps=2,batch=2,teacher=missing-skills"


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


def trainer(model, task=TASK, name=TAUGHT, kept=None) -> TrainedLearner:
    (one,) = parse_recipe(name, shots=2).variants
    return TrainedLearner(one, Setup(task, TaskModel.for_task(task, model), 0, kept=kept))


def test_a_teacher_sees_what_was_wrong_before_it_was_learnt_whether_it_was_asked_or_not(tiny):
    along, queries = trainer(tiny), make_stream(TASK, limit=12, seed=0).queries()[:4]
    said = along.predict(queries)
    examples = queries[-1].past
    alone = trainer(tiny)
    alone.learn(examples)
    rows = [{k: v for k, v in row.items() if k != "asked"} for row in along.log]
    assert rows == [{k: v for k, v in row.items() if k != "asked"} for row in alone.log]
    wrong = {q.example.id: p.answer != q.example.output for q, p in zip(queries, said, strict=True)}
    told = {row["example"]: row["missed"] for row in along.log if "missed" in row}
    assert {i: told[i] for i in wrong if i in told} == {i: wrong[i] for i in wrong if i in told}
    assert len(told) == len(examples)


def test_what_a_lesson_makes_small_stays_the_tuners(tiny):
    for over in ("all", "seen"):
        learner, plain = (trainer(tiny, name=f"{name},over={over}") for name in (TAUGHT, TAUGHT.rpartition(",")[0]))
        for seen in (ROWS[:1], ROWS[:9]):
            ours, theirs = learner._batch(seen, 0), plain._batch(seen, 0)
            assert ours.objective == theirs.objective
            assert {text.among for text in ours.texts} == {text.among for text in theirs.texts}
    assert parse_recipe(f"{TAUGHT},over=seen", shots=2)
    with pytest.raises(UserError, match="over=seen learns the right answers"):
        parse_recipe("fine-tune:teacher=demonstrations,over=seen", shots=2)


def test_a_run_that_goes_on_from_a_state_knows_the_mistakes_before_it(tiny, tmp_path):
    queries = make_stream(TASK, limit=48, seed=0).queries()[::3][:4]
    kept = Kept(SqliteStore(tmp_path / "store.sqlite"), tmp_path / "training", "key")
    whole = trainer(tiny).predict(queries)
    first = trainer(tiny, kept=kept)
    first.predict(queries[:3])
    first.save_state()
    other = trainer(tiny, kept=kept)
    again = other.predict(queries)
    assert [p.probs for p in again] == [p.probs for p in whole]
    assert other._inquiry._wrong.keys() >= {e.id for e in queries[-1].past}


@pytest.mark.slow
def test_training_on_what_is_missing_raises_it_more_than_as_much_random_data():
    """A student that has learnt four of six skills, whose answer is never that of the others; then as many lessons."""
    skills, weak = ("aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff"), ("bbbb", "eeee")
    rows = [
        Example(f"{skill} {i}", LABELS[skill in weak], f"{skill} {i}", meta={"skill": skill})
        for skill in skills
        for i in range(10)
    ]
    train, held_out = ([e for e in rows if (int(e.input[-1]) < 8) == is_train] for is_train in (True, False))
    task = Task("planted", "classification", tuple(train), labels=LABELS)
    asked = [e for e in held_out if e.meta["skill"] in weak]
    known = [e for e in train if e.meta["skill"] not in weak]
    bits = {True: [], False: []}
    for seed in range(3):
        for targeted in bits:
            engine, rng = Engine(tiny_backbone(seed=seed)), generator(seed, "planted")
            model = TrainedEngine(engine, Training(lr=1e-2), seed=seed)
            asking = replace(TaskModel.for_task(task, engine), model=model)
            for _ in range(20):
                texts = [asking.training_text(Lesson((), known[i])) for i in rng.integers(len(known), size=8)]
                model.learn(Batch(texts))
            knowledge = Knowledge(frozenset(e.id for e in train if e.meta["skill"] in weak and targeted))
            for step in range(10):
                lessons = [Lesson((), train[i]) for i in rng.integers(len(train), size=4)]
                lessons = SkillTargeted().lessons(lessons, train, step=step, rng=rng, knowledge=knowledge)
                model.learn(Batch([asking.training_text(lesson) for lesson in lessons]))
            bits[targeted].append(float(asking.code_lengths([()] * len(asked), asked).mean()))
    assert np.less(bits[True], bits[False]).all(), bits
    assert np.mean(bits[True]) < np.mean(bits[False]) - 0.5, bits


# Along a stream, saved and loaded


@pytest.mark.parametrize("name", ["skills:k=3", "missing-skills:k=3", "skills:k=3,contexts=2", TAUGHT])
def test_nothing_of_later_examples_is_in_a_prediction(name, tiny):
    queries = make_stream(TASK, limit=48, seed=0).queries()[:12]
    changed = [
        replace(q.example, output=LABELS[0], meta={"skills": ["flying"]}) if i >= 7 else q.example
        for i, q in enumerate(queries)
    ]
    others = [
        replace(q, example=e if i < 7 else q.example, past=tuple(changed[: len(q.past)]))
        for i, (q, e) in enumerate(zip(queries, changed, strict=True))
    ]
    model = tiny if name == TAUGHT else student()
    setup = Setup(TASK, TaskModel.for_task(TASK, model), 0)
    first, second = (make_learner(parse_recipe(name, shots=2), setup).predict(some) for some in (queries, others))
    assert [p.probs for p in first[:7]] == [p.probs for p in second[:7]]


@pytest.mark.parametrize("name", ["skills:k=3", "missing-skills:k=3", TAUGHT])
def test_what_was_adapted_is_saved_and_read_to_the_same_answers(name, tiny, tmp_path):
    task = replace(TASK, train=ROWS[:18])
    run = kshot.adapt(task, tiny if name == TAUGHT else student(), recipes=name, limit=8, out=tmp_path / "run")
    asked = [{"input": "flying thing 5"}, {"input": "cutting thing 2"}]
    model = None if name == TAUGHT else student()
    read = kshot.load(tmp_path / "run", model=model)
    assert (read.predict_proba(asked) == run.best.predict_proba(asked)).all()
    assert [e.meta for e in read.pool] == [e.meta for e in run.best.pool]
