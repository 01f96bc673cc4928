"""Recipes that are put into the weights: what lessons make small, whom the teacher is asked about, what is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kshot
from api_server import ApiServer, served
from conftest import write_task
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.models import Capability
from kshot.core.objective_settings import Answers
from kshot.core.progress import Silence
from kshot.core.settings import RunSettings
from kshot.core.types import Example, Prediction, Query, Question, Task
from kshot.engine.language_model import Engine
from kshot.engine.objectives import Said, objective_of
from kshot.engine.training_rows import answer_logits
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.passed_on import PassedOn
from kshot.measures.probabilities import normalised
from kshot.methods.knowledge import Knowledge
from kshot.methods.teachers.prompt import Prompt
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.race.record import PromptBook
from kshot.race.rehearsal import rehearsed
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.adapt import run as adapted_by
from kshot.verbs.distil import settings_of
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare
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


def test_nobody_is_told_what_was_made_from_what_is_asked_for(asker):
    def made(name: str, *sources: str) -> Example:
        return Example(f"made {name}", "bad", name, meta={"made": "rephrase", "from": list(sources)})

    again = [made("m0", "e0"), made("m1", "e1"), made("m2", "m0"), made("m3", "e0", "e1", "e2", "e3"), made("m4", "x")]
    known = [*STREAM[:6], *again, *STREAM[6:11]]
    recipe = parse_recipe("random:k=12,contexts=9", shots=1)
    setup = Setup(TASK, asker, 0)
    said = PassedOn(recipe, setup, lambda own: make_learner(recipe, own), 4, asker).said(known)
    shown = {name: {i for context in about.contexts for i in context} for name, about in said.items()}
    assert shown.keys() == {e.id for e in known}
    for name, others in {"e0": {"m0", "m2", "m3"}, "e1": {"m1", "m3"}, "m0": {"e0", "m2"}, "m2": {"m0", "e0"}}.items():
        assert not shown[name] & others
    assert {"m0", "m1", "m4"} <= set().union(*shown.values())
    few = [STREAM[0], *(made(f"m{i}", "e0") for i in range(3))]
    assert PassedOn(recipe, setup, lambda own: make_learner(recipe, own), 4, asker).said(few) == {}


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


def taught(teacher, lessons, said, inputs=INPUTS) -> list[Lesson]:
    knowledge = Knowledge(passed_on=said, inputs=inputs)
    return teacher.lessons(lessons, STREAM, step=0, rng=np.random.default_rng(0), knowledge=knowledge)


def test_lessons_mix_what_is_known_with_what_is_said():
    said = {"e0": prediction("e0", LIKELY, "best"), "u1": prediction("u1", LIKELY, "best")}
    lessons = taught(Prompt(truth=0.25, inputs=0.5), [Lesson((), STREAM[0])] * 400, said)
    of_input = [one for one in lessons if one.target.id == "u1"]
    of_known = [one for one in lessons if one.target.id == "e0"]
    assert len(of_input) + len(of_known) == 400
    assert len(of_input) == pytest.approx(200, abs=40)
    assert of_input[0].likely == pytest.approx(LIKELY)
    assert of_known[0].likely == pytest.approx((0.25 + 0.75 * 0.1, 0.75 * 0.3, 0.75 * 0.4, 0.75 * 0.2))
    drawn = [sum(one.target.output == y for one in of_input) / len(of_input) for y in LABELS]
    assert drawn == pytest.approx(LIKELY, abs=0.12)
    new = Lesson((), STREAM[5])
    assert taught(Prompt(), [new], said, ()) == [new]


def test_open_tasks_learn_the_recipe_s_text():
    said = {"e0": prediction("e0", (0.1,), "a text", ("bad",)), "u0": prediction("u0", (), "more", ())}
    said["u1"] = replace(said["u0"], answer="")
    said["u2"] = replace(said["u0"], cut_off=True)
    lessons = taught(Prompt(truth=0.0, inputs=0.5), [Lesson((), STREAM[0])] * 50, said)
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
    knowledge = Knowledge(passed_on=said, inputs=inputs)
    for step in range(40):
        rng = np.random.default_rng(step)
        plain = [Lesson((), stream[i]) for i in rng.permutation(16)[:8]]
        lessons = Prompt().lessons(plain, stream, step=0, rng=rng, knowledge=knowledge)
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


class Writer:
    """A model that only writes; its tokens are words. It remembers what it was asked."""

    capabilities = frozenset({Capability.GENERATE})

    def __init__(self, whole: ScriptedModel):
        self._whole, self.asked = whole, list[str]()
        self.name, self.origin, self.fingerprint, self.max_tokens = "writer", {}, whole.fingerprint, whole.max_tokens
        self.weights_id = self.old_fingerprint = self.fingerprint
        self.remark, self.chat, self.control_tokens, self.about = None, None, (), dict[str, Any]()
        self.is_remote = self.in_messages = False
        self.count_tokens = whole.count_tokens

    def with_store(self, store):
        return self

    def generate(self, requests, *, progress=None, ledger=None):
        self.asked += [r.prompt.text for r in requests]
        return self._whole.generate(requests, progress=progress, ledger=ledger)


class Scorer(ScriptedModel):
    """A model that only scores."""

    capabilities = frozenset({Capability.SCORE})


KNOWN = {f"text {i}": LABELS[i % 3] for i in range(12)} | {f"input {i}": LABELS[i % 3] for i in range(10)}
TAUGHT = "distil(zero-shot):by=selector-model,lr=1e-3,steps=1"


def taught_by(other: Any, asker: TaskModel, name: str = TAUGHT, task: Task = TASK) -> Any:
    """The learner of a recipe whose teacher is another model, and its setup."""
    task = replace(task, unlabelled=QUESTIONS)
    setup = Setup(task, replace(asker, task=task), 0, selector_model=TaskModel.for_task(task, other))
    return make_learner(parse_recipe(name, shots=2), setup), setup


def heard(learner: Any, seen: Any = STREAM[:8]) -> dict[str, Prediction]:
    return learner._runners[0].learner._inquiry._passed_on.said(seen)


@pytest.mark.parametrize("other", [ScriptedModel(KNOWN), Writer(ScriptedModel(KNOWN))], ids=["scores", "writes"])
def test_another_model_with_another_tokenizer_teaches_labels(asker, other):
    """Of the student tokens are bytes, of the teacher words; what it knows, the student cannot."""
    learner, setup = taught_by(other, asker)
    said = heard(learner)
    assert said.keys() == {e.id for e in STREAM[:8]} | {e.id for e in INPUTS}
    assert all(p.answer == KNOWN[e.input] for e in (*STREAM[:8], *INPUTS) for p in [said[e.id]])
    assert all(set(p.candidates) == set(LABELS) and max(p.probs) > 0.5 for p in said.values())
    learner.predict([Query(e, STREAM[:i]) for i, e in enumerate(STREAM[:5])])
    assert setup.model.ledger.cost.tokens > 0


def test_what_several_students_are_told_counts_as_much_in_a_resumed_run(tmp_path):
    engine, totals = Engine(tiny_backbone()), []
    for _ in range(2):
        store = SqliteStore(tmp_path / "store.sqlite")
        asker = TaskModel.for_task(TASK, engine.with_store(store))
        setup = Setup(TASK, asker, 0, kept=Kept(store, tmp_path, "key"))
        learner = make_learner(parse_recipe("distil(random:k=2):lr=1e-3/1e-4,steps=1", shots=2), setup)
        found = learner.predict([Query(e, STREAM[:i]) for i, e in enumerate(STREAM[:3])])
        totals.append((asker.ledger.cost.tokens, sum(p.tokens + p.fit_tokens for p in found)))
        store.close()
    assert totals[0] == totals[1]
    assert totals[0][0] == pytest.approx(totals[0][1])


def test_the_teacher_is_asked_in_its_own_words(asker):
    other = Writer(ScriptedModel(KNOWN))
    learner, setup = taught_by(other, asker, TAUGHT.replace("zero-shot", "random:k=2"))
    heard(learner)
    own = setup.selector_model
    prompts = [own.prompt([a, b], e)[0].text for a in STREAM[:8] for b in STREAM[:8] if a != b for e in INPUTS]
    assert set(other.asked[-len(INPUTS) :]) <= set(prompts)


def open_task(n: int = 12) -> tuple[Task, dict[str, str]]:
    rows = tuple(Example(f"say {i}", f"it is {i}", f"e{i}") for i in range(n))
    table = {f"say {i}": f"one says {i}" for i in range(n)} | {f"input {i}": f"yes {i}" for i in range(10)}
    return Task("says", "generation", rows, metrics=("exact_match",)), table


def test_another_model_teaches_texts(asker):
    task, table = open_task(9)
    model = replace(TaskModel.for_task(task, asker.model), task=task)
    learner, _ = taught_by(Writer(ScriptedModel(table)), model, TAUGHT, task)
    said = heard(learner, task.train[:8])
    assert {said[e.id].answer for e in task.train[:4]} == {f"one says {i}" for i in range(4)}
    assert said["u3"].answer == "yes 3"
    learner.predict([Query(e, task.train[:i]) for i, e in enumerate(task.train[:3])])


def test_a_text_for_which_the_student_has_no_room_is_not_learnt(asker):
    task, table = open_task(8)
    table["say 3"] = "far too long " * 400
    model = TaskModel.for_task(task, asker.model)
    assert asker.model.count_tokens(table["say 3"]) > asker.model.max_tokens
    learner, setup = taught_by(Writer(ScriptedModel(table)), model, TAUGHT, task)
    said = heard(learner, task.train)
    assert {name for name, p in said.items() if p.cut_off} == {"e3"}
    how: Any = {"step": 0, "rng": np.random.default_rng(0), "knowledge": Knowledge(passed_on=said)}
    lessons = Prompt(truth=0.0).lessons([Lesson((), e) for e in task.train], task.train, **how)
    assert lessons[3].target.output == "it is 3"
    assert lessons[2].target.output == "one says 2"
    for lesson in lessons:
        setup.model.training_text(lesson)


def test_inputs_that_do_not_fit_one_of_the_models_are_left_out(asker):
    told: list[str] = []

    class Heard(Silence):
        def say(self, text):
            told.append(text)

    long = Question("word " * 3000, "long")
    task = replace(TASK, unlabelled=(*QUESTIONS, long))
    own = replace(asker, task=task, progress=Heard())
    wide, narrow = (TaskModel.for_task(task, ScriptedModel(KNOWN, max_tokens=n)) for n in (9000, 60))
    for other in (wide, narrow):
        setup = Setup(task, own, 0, selector_model=replace(other, progress=Heard()))
        learner = make_learner(parse_recipe(TAUGHT, shots=2), setup)
        assert "long" not in heard(learner)
        assert len(heard(learner)) == 18
    assert "nothing is passed on about 'long': it needs 150" in told[0]
    assert [" and 'scripted' reads 60." in text for text in told] == [False, True]
    assert f"'{asker.model.name}' reads {asker.model.max_tokens}. Shorten it" in told[0]


def test_settings_of_the_teacher_that_comes_with_it():
    plain, short = (parse_recipe(f"distil(zero-shot):{s}", shots=2) for s in ("teacher=prompt(truth=0.3)", "truth=0.3"))
    assert plain.fingerprint == short.fingerprint
    assert short.name == "distil(zero-shot):truth=0.3"
    both = parse_recipe("distil(zero-shot):lr=1e-4,steps=1,by=itself/selector-model", shots=2)
    assert [v.part("teacher").by for v in both.variants] == ["itself", "selector-model"]
    mixed = parse_recipe("distil(zero-shot):by=selector-model,teacher=prompt(truth=0.3),lr=1e-4", shots=2).variants[0]
    assert (mixed.part("teacher").by, mixed.part("teacher").truth) == ("selector-model", 0.3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("distil(zero-shot):by=them", "by must be one of itself, selector-model; got 'them'"),
        (
            "distil(bm25):truth=1,teacher=prompt(truth=0)",
            "'distil' must be given truth once; got truth=1 beside teacher=",
        ),
        ("fine-tune:by=selector-model", "'fine-tune' has no setting 'by'"),
        *(
            (
                f"fine-tune:teacher={one}(by=selector-model)",
                f"'{one}' has no setting 'by'. It compares probabilities of ",
            )
            for one in ("demonstrations", "history", "calibrated", "unlearn")
        ),
    ],
)
def test_a_teacher_that_cannot_be_named_so(name, message):
    with pytest.raises(UserError) as error:
        parse_recipe(name, shots=4)
    assert message in str(error.value)


def test_other_models_that_cannot_teach(asker):
    task, _ = open_task()
    own = TaskModel.for_task(task, asker.model)
    with pytest.raises(
        UserError, match="the model that teaches must generate for 'zero-shot' on this task; 'scripted'"
    ):
        taught_by(Scorer(), own, TAUGHT, task)
    with pytest.raises(
        UserError, match="by=selector-model lets another model teach .* there is none. Name one, or leave"
    ):
        make_learner(parse_recipe(TAUGHT, shots=2), Setup(TASK, asker, 0))
    with pytest.raises(UserError, match="there is none"):
        taught_by(asker.model, asker)
    with pytest.raises(UserError, match="needs a model that can be trained; give another --model"):
        taught_by(asker.model, TaskModel.for_task(TASK, ScriptedModel(KNOWN)))


def test_rows_are_of_the_kind_that_the_teacher_answers_whatever_they_look_like(run_cli, tmp_path):
    rows = [{"input": f"the text {i}", "output": str(10 + i // 4 * 7)} for i in range(24)]
    task, run = write_task(tmp_path / "task", rows), tmp_path / "run"
    best = kshot.adapt(task, "tiny", recipes="random:k=2", kind="classification", limit=1, out=run).best
    assert Task.load(task).kind == "math"
    taught = prepare(settings_of(best, task)).task
    assert (taught.kind, taught.labels) == ("classification", best.labels)
    told = run_cli("distil", run, task, "--settings", "steps=1", "--dry-run")
    assert told.code == 0
    assert "kind is guessed" not in told.err


def test_the_recipe_that_is_passed_on_shows_as_many_as_the_adapted_one(asker):
    recipe = parse_recipe("mix(random,bm25:k=8,zero-shot)", shots=4)
    best = AdaptedModel.fit(recipe, STREAM, Setup(TASK, asker, 0), choice={})
    (taught,) = prepare(settings_of(best, TASK)).recipes
    (mixed,) = taught.variants[0].members
    assert [one.k for one in mixed.members] == [one.k for one in best.recipe.members] == [4, 8, 0]


def test_notes_that_were_added_are_not_left_out_in_silence(asker):
    best = AdaptedModel.fit(parse_recipe("random", shots=4), STREAM, Setup(TASK, asker, 0), choice={})
    with pytest.raises(UserError, match=r"'random' has notes that were added later. Remove them"):
        settings_of(best.noted("A kiwi is a bird."), TASK)


def test_examples_that_do_not_fit_the_teacher_are_refused_before_the_run(tmp_path):
    how: dict[str, Any] = {"model": "tiny", "selector_model": ScriptedModel(KNOWN, max_tokens=4), "recipes": TAUGHT}
    with pytest.raises(UserError, match="the context of the model that teaches, 4 tokens of 'scripted'; example 'e"):
        kshot.adapt(TASK, **how, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", ["lr=1e-3", "lr=1e-3/1e-4"])
def test_a_dry_run_counts_the_teacher_once(settings):
    """However many settings are raced."""
    other, own = ScriptedModel(KNOWN), Engine(tiny_backbone())
    other.forward_tokens = len
    setup = Setup(TASK, TaskModel.for_task(TASK, own), 0, selector_model=TaskModel.for_task(TASK, other))
    queries = [Query(e, STREAM[:n]) for n, e in enumerate(STREAM[:9])]
    counted = rehearsed(parse_recipe(TAUGHT.replace("lr=1e-3", settings), shots=2), setup, [queries])
    assert counted.asked_tokens == 2 + 4 + 8
    assert counted.tokens > counted.asked_tokens


def test_a_small_model_is_taught_by_an_adapted_one_and_needs_it_no_more(tmp_path, run_cli):
    teacher = kshot.adapt(TASK, "scripted", recipes="random:k=2", out=tmp_path / "teacher").best
    how: dict[str, Any] = {"student": "tiny", "settings": "lr=1e-3,steps=1,truth=0", "inputs": ["input 1"]}
    run = kshot.distil(teacher, TASK, **how, out=tmp_path / "student")
    assert run.chosen == "distil(random:k=2):lr=1e-3,steps=1,truth=0,by=selector-model"
    assert run.best.model.name == "tiny"
    loaded = kshot.load(tmp_path / "student")
    assert loaded.recipe.members == ()
    assert loaded.pool == ()
    assert np.array_equal(loaded.predict_proba(["text 1", "input 2"]), run.best.predict_proba(["text 1", "input 2"]))
    again = kshot.distil(teacher, TASK, **how, out=tmp_path / "student")
    assert again.leaderboard == run.leaderboard
    assert again.work.scored == 0
    for student, message in (
        (ScriptedModel({}), "--student must be a model with weights that can be trained here; 'scripted' has none."),
        (teacher.model, "'scripted' has none. Name a hub id or a folder."),
    ):
        with pytest.raises(UserError, match=message):
            kshot.distil(teacher, TASK, student=student)
    bare = kshot.adapt(TASK, "tiny", recipes="zero-shot", out=tmp_path / "tiny").best
    with pytest.raises(UserError, match="--student must be another model than that of the run; both are 'tiny'."):
        kshot.distil(bare, TASK, student="tiny")
    with pytest.raises(UserError, match="something must be shown; 'zero-shot' shows nothing. Adapt with"):
        kshot.distil(bare, TASK)
    rows = [json.dumps({"input": e.input, "output": e.output}) for e in STREAM]
    (tmp_path / "words.jsonl").write_text("\n".join(rows))
    told = ("distil", tmp_path / "teacher", tmp_path / "words.jsonl", "--out", tmp_path / "third", "--student")
    assert "--student must be a model with weights" in run_cli(*told, "scripted").err
    (row,) = run_cli(*told, "tiny", "--settings", "lr=1e-3,steps=1", "--dry-run", "--json").json["plan"]
    assert row["training_steps"] == len(STREAM) - 1
    assert not (tmp_path / "third").exists()
    found = run_cli(*told, "tiny", "--settings", "lr=1e-3,steps=1,batch=1", "--json")
    assert found.json["chosen"] == "distil(random:k=2):lr=1e-3,steps=1,batch=1,by=selector-model"


@pytest.mark.usefixtures("services_alone")
def test_what_a_teacher_behind_an_api_costs_is_planned_and_counted(tmp_path):
    with served(ApiServer()) as server:
        how: dict[str, Any] = {"selector_model": server.name, "prices": "in=1,out=2", "limit": 6}
        settings = RunSettings(TASK, "tiny", recipes=TAUGHT, **how, out=tmp_path / "run")
        (planned,) = plan(prepare(settings))
        assert planned["calls"] > 0
        assert planned["minutes"] > 0
        assert 0 < planned["usd"] < planned["forward_tokens"] * 1e-6
        assert planned["training_steps"] == 11
        run = adapted_by(prepare(settings))
        assert run.paid["calls"] > 0
        assert run.paid["usd"] > 0
        n = len(server.asked)
        kshot.load(tmp_path / "run").predict(["text 1"])
        assert len(server.asked) == n


def test_the_prompts_that_are_told_are_the_students(asker):
    student = "lr=1e-3,k=3,generator=word-edits"
    recipe = parse_recipe(f"distil(random:k=2,composer=verbalised(words=letters)):{student}", shots=2)
    stream = make_stream(TASK, limit=12, seed=0)
    shown = [f"{stream.examples[0].id}~1", stream.examples[1].id]  # the first was made by the student's generator
    asked = {"setting": "", "position": 4, "example_id": stream.examples[4].id}
    book = PromptBook(asker, stream, 0)
    book.add(recipe, [{**asked, "contexts": (), "demonstrations": shown}])
    sent = "".join(text for _, text in book.segments)
    assert stream.examples[1].input in sent
    assert "Labels: A" not in sent
