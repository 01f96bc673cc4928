"""The teacher `grpo`: dialogues that the student plays, and what it learns of what it said in them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

import kshot
from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.models import Capability
from kshot.core.objective_settings import Policy
from kshot.core.seeding import generator
from kshot.core.types import Example, Generation, Query, Task
from kshot.engine.language_model import Engine
from kshot.learners.learner import Kept, Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.knowledge import Knowledge, Written
from kshot.methods.loops.hints import hint_on, leaks
from kshot.methods.teachers.grpo import Grpo, advantages
from kshot.models.tiny import tiny_backbone
from kshot.race.rehearsal import rehearsed
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("12", "7", "30")
STREAM = tuple(Example(f"box {i}", LABELS[i % 3], f"e{i}") for i in range(9))
CLOSED = Task("boxes", "classification", STREAM, STREAM[:3], labels=LABELS)
OPEN = Task("open", "math", STREAM, STREAM[:3], metrics=("exact_match",))
NAME = "fine-tune:lr=1e-3,batch=2,teacher=grpo(group=3,turns=2)"


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


def recipe(text: str = NAME):
    return parse_recipe(text, shots=2, raced=False)


def learner(tiny: Engine, task: Task = CLOSED, text: str = NAME, **how: Any) -> TrainedLearner:
    return TrainedLearner(recipe(text), Setup(task, TaskModel.for_task(task, tiny), 0, **how))


class Saying:
    """A student who says at each turn what stands there for each dialogue, in their order."""

    def __init__(self, *turns: Sequence[str | None], among: tuple[str, ...] = ()):
        self.turns, self.among, self.asked = turns, among, list[list[Lesson]]()

    def __call__(self, lessons: Sequence[Lesson], turn: int) -> list[Written | None]:
        self.asked.append(list(lessons))
        said = self.turns[turn]
        assert len(said) == len(lessons)
        return [
            None
            if one is None
            else Written(one.strip("~"), one == lesson.target.output, None, self.among, "~" not in one)
            for one, lesson in zip(said, lessons, strict=True)
        ]


def taught(student: Saying, *lessons: Lesson, **how: Any) -> list[Lesson]:
    return Grpo(**how).lessons(lessons, STREAM, step=0, rng=generator(0, "t"), knowledge=Knowledge(tried=student))


# What is played, and what is learnt of it


def test_lessons_are_tries_with_the_advantage_of_their_dialogue_discounted_by_turn():
    student = Saying(["7", "12", "1", "3"], ["12", "40", "99"], ["5", "12"], among=LABELS)
    found = taught(student, Lesson((STREAM[3],), STREAM[0]), group=4, turns=3, discount=0.5)
    # solved: the first at turn 1, the second at once, the fourth at turn 2; not the third
    plus, minus = (1 - 0.75) / np.sqrt(0.1875), -0.75 / np.sqrt(0.1875)
    said = [(one.target.output, one.advantage) for one in found]
    rights = [("7", plus), ("12", plus / 2), ("12", plus)]
    wrongs = [("1", minus), ("40", minus / 2), ("5", minus / 4)]
    assert said == [
        (text, pytest.approx(a)) for text, a in [*rights, *wrongs, ("3", plus), ("99", plus / 2), ("12", plus / 4)]
    ]
    talk = "\nWrong: 1\nHint: The number is too low.\nWrong: 40\nHint: The number is too high."
    assert found[5].target.input == f"box 0{talk}"
    assert {(one.learnt, one.among, one.demonstrations, one.weight) for one in found} == {
        ("last", LABELS, (STREAM[3],), 1.0)
    }
    assert [len(some) for some in student.asked] == [4, 3, 2]


def test_the_first_try_is_asked_as_always_and_later_ones_with_what_was_said():
    student = Saying(["7", "12"], ["40"])
    plain = Lesson((), replace(STREAM[0], explanation="as 12 is 12", references=("twelve",)))
    found = taught(student, plain, group=2, turns=2)
    first, same, second = (one.target.question for some in student.asked for one in some)
    assert first == same == plain.target.question
    assert second.input == "box 0\nWrong: 7\nHint: The number is too low."
    assert [one.target.question for one in found] == [first, second, first]
    assert {(one.target.explanation, one.target.references) for one in found} == {(None, ())}


@pytest.mark.parametrize("says", [["12"] * 3, ["7"] * 3])
def test_a_group_with_equal_rewards_is_left_out(says):
    other = Saying([*says, "7", "30", "30"])
    found = taught(other, Lesson((), STREAM[0]), Lesson((), STREAM[1]), group=3, turns=1)
    assert [(one.target.id, one.target.output) for one in found] == [("e1", "7"), ("e1", "30"), ("e1", "30")]


def test_a_try_that_was_cut_off_counts_in_its_dialogue_and_is_not_learnt():
    student = Saying(["12", "7 and so on~"], ["30"])
    found = taught(student, Lesson((), STREAM[0]), group=2, turns=2, discount=0.5)
    assert [(one.target.output, one.advantage) for one in found] == [("12", 1.0), ("30", -0.5)]


def test_a_dialogue_that_does_not_fit_ends_unsolved():
    student = Saying(["12", "7", "9"], [None, "12"], [])
    found = taught(student, Lesson((), STREAM[0]), group=3, turns=3, discount=1.0)
    signs = [(one.target.output, float(np.sign(one.advantage or 0))) for one in found]
    assert signs == [("12", 1.0), ("7", -1.0), ("9", 1.0), ("12", 1.0)]


def test_hints_are_learnt_once_each_beside_the_tries_with_a_weight():
    student = Saying(["7", "7", "99"], ["12", "8", "12"])
    found = taught(student, Lesson((), STREAM[0]), group=3, turns=2, hint_weight=0.3)
    said = [(one.target.input, one.target.output) for one in found if one.is_apart]
    assert said == [
        ("box 0\nWrong: 7\nHint:", "The number is too low."),
        ("box 0\nWrong: 99\nHint:", "The number is too high."),
    ]
    assert {(one.advantage, one.weight) for one in found if one.is_apart} == {(1.0, 0.3)}
    assert {one.weight for one in found if not one.is_apart} == {1.0}


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_advantages_are_standard_scores_and_nothing_where_all_are_equal(solved):
    rewards = [float(one) for one in solved]
    found = advantages(rewards)
    assert found == pytest.approx(advantages([3 * one + 1 for one in rewards]))
    if len(set(rewards)) == 1:
        assert not found.any()
    else:
        assert (found.mean(), found.std()) == pytest.approx((0, 1))


WORDS = st.one_of(
    st.integers(-99, 99).map(str), st.sampled_from(["short", "too long", "low", "No.", "it", "not", "a b"])
)


@given(WORDS, WORDS, st.lists(WORDS, max_size=3))
def test_no_hint_of_a_dialogue_says_an_accepted_answer(attempt, answer, others):
    example = Example("q", answer, "a", references=tuple(others))
    if attempt not in example.accepted and hint_on(attempt, example):
        assert not leaks(hint_on(attempt, example), example)


def test_what_is_right_but_written_otherwise_is_not_said_to_be_too_high():
    assert hint_on("12.0", STREAM[0]) == hint_on(" 12.", STREAM[0]) == "It is written in another way."
    assert hint_on("13", STREAM[0]) == "The number is too high."


# What is drawn


@pytest.mark.parametrize("task", [CLOSED, OPEN], ids=["closed", "open"])
def test_what_is_learnt_is_as_probable_as_it_was_when_it_was_drawn(tiny, task):
    """By a plain forward pass: the share of each try is exp of minus what the loss says of its tokens."""
    one = learner(tiny, task)
    plain = [Lesson((STREAM[1],), STREAM[0])] * 60
    knowledge = one._inquiry.knowledge(STREAM[:2], plain, one.prompted.prepare(STREAM[:1]).model, 0)
    tries = knowledge.tried(plain, 0)
    assert tries == knowledge.tried(plain, 0)
    assert len({w.answer for w in tries if w}) > 1
    assert tries != knowledge.tried(plain, 1)
    if task is OPEN:
        assert {w.among for w in tries if w} == {()}
        return
    for answer in LABELS:
        lesson = Lesson((STREAM[1],), replace(STREAM[0], output=answer), "last", among=LABELS, advantage=1.0)
        text = TaskModel.for_task(task, tiny).training_text(lesson)
        row = one.model.training_row(text)  # type: ignore[attr-defined]
        encoded = tiny.encode(text.prompt)
        logits = tiny.backbone.model(input_ids=torch.tensor(encoded.ids)[None]).logits[0]
        nats = 0.0
        for at, choice in zip(row.supervised, row.among, strict=True):
            nats += float(log_softmax(logits[at - 1][list(choice)], dim=-1)[choice.index(row.ids[at])])
        share = np.mean([w.answer == answer for w in tries if w])
        assert share == pytest.approx(np.exp(nats), abs=0.2)


def test_a_text_that_a_lesson_would_not_end_with_is_known_as_such(tiny, monkeypatch):
    asker = TaskModel.for_task(OPEN, tiny)
    texts = [(" 12", True), ("12", True), (" 12", False), ("", True), (" 1 2 ", True)]
    found = [Generation(*one) for one in texts]
    monkeypatch.setattr(Engine, "generate", lambda self, requests, **_: found)
    drawn = asker.drawn([asker.prompt((), STREAM[0])[0]] * 5, [STREAM[0]] * 5, seed=0)
    assert [is_whole for _, is_whole in drawn] == [True, False, False, False, False]


# What a step does


def test_the_gradient_is_that_of_the_formula_by_hand(tiny):
    """- sum over the tokens of tries of A discount^turn log p, by their number, on plain forward passes."""
    one = learner(tiny, OPEN)
    model: Any = one.model
    asker = TaskModel.for_task(OPEN, tiny)
    for e in STREAM[:2]:
        model.learn(Batch([asker.training_text(Lesson((), e))]))
    student = Saying(["7", "12", "1"], ["12", "40"])
    lessons = taught(student, Lesson((STREAM[3],), STREAM[0]), group=3, turns=2, discount=0.5)
    r = np.array([1.0, 1.0, 0.0])
    a = (r - r.mean()) / r.std()
    talk = "Question: box 3\nAnswer: 12\n\nQuestion: box 0\n"
    low, high = (f"{talk}Wrong: {said}\nHint: The number is too low.\nAnswer:" for said in ("7", "1"))
    tries = [
        (f"{talk}Answer:", " 7\n\n", a[0]),
        (low, " 12\n\n", a[0] * 0.5),
        (f"{talk}Answer:", " 12\n\n", a[1]),
        (f"{talk}Answer:", " 1\n\n", a[2]),
        (high, " 40\n\n", a[2] * 0.5),
    ]
    above, n = torch.zeros(()), 0
    with model._weights.active():
        for asked, said, advantage in tries:
            before, own = tiny.backbone.tokenise(asked), tiny.backbone.tokenise(said)
            ids = torch.tensor([*tiny.backbone.first_ids, *before, *own])
            log_probs = log_softmax(tiny.backbone.model(input_ids=ids[None]).logits[0], dim=-1)
            at = torch.arange(len(ids) - len(own), len(ids))
            above = above - advantage * log_probs[at - 1, ids[at]].sum()
            n += len(own)
        expected = torch.autograd.grad(above / n, list(model._weights.parameters.values()), materialize_grads=True)
        rows = [model.training_row(asker.training_text(lesson)) for lesson in lessons]
        found = model._trainer.gradient(rows, Policy())
    assert found.loss_nats == pytest.approx(float((above / n).detach()), rel=1e-4)
    for ours, theirs in zip(found.gradient, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def in_bytes(model: Any) -> dict[str, bytes]:
    return {k: t.view(torch.uint8).numpy().tobytes() for k, t in model._weights.tensors().items()}


def test_a_step_without_anything_to_tell_changes_nothing(tiny):
    """Not even by what the optimiser remembers of the steps before."""
    model: Any = tiny.trainable(Training(lr=1e-2), seed=0)
    asker = TaskModel.for_task(OPEN, tiny)
    model.learn(Batch([asker.training_text(Lesson((), STREAM[0]))]))
    before, fingerprint = in_bytes(model), model.fingerprint
    log = model.learn(Batch([], objective=Policy()))
    assert (in_bytes(model), model.fingerprint) == (before, fingerprint)
    assert (log.tokens, log.supervised, log.norm) == (0, 0, 0.0)


def test_texts_without_an_advantage_are_refused(tiny):
    text = TaskModel.for_task(OPEN, tiny).training_text(Lesson((), STREAM[0]))
    with pytest.raises(UserError, match="each text must have an advantage; got one without"):
        tiny.trainable(Training(), seed=0).learn(Batch([text], objective=Policy()))
    with pytest.raises(UserError, match="advantage must be a finite number, .*; got nan"):
        Lesson((), STREAM[0], advantage=float("nan"))


# Along a stream


def test_training_that_is_resumed_ends_at_the_same_weights_and_counts_the_same(tiny, tmp_path):
    def made(name: str) -> TrainedLearner:
        kept = Kept(SqliteStore(tmp_path / f"{name}.sqlite"), tmp_path / name, "key")
        return learner(tiny, kept=kept)

    whole, first = made("whole"), made("parts")
    whole.learn(STREAM[:5])
    first.learn(STREAM[:3])
    first.save_state()
    second = made("parts")
    second.learn(STREAM[:5])
    assert second.log == whole.log
    assert second.model.fingerprint == whole.model.fingerprint
    assert in_bytes(second.model) == in_bytes(whole.model)


def test_each_step_says_how_many_tries_were_right_and_what_is_asked_is_counted(tiny):
    ledger = Ledger()
    setup = Setup(CLOSED, replace(TaskModel.for_task(CLOSED, tiny), ledger=ledger), 0)
    one = TrainedLearner(recipe(), setup)
    one.learn(STREAM[:4])
    for row in one.log:
        assert row["tries"][0] == 3 * min(2, row["n"])
        rest = row["tries"][0] - row["right"][0]
        assert row["tries"][1:] == ([rest] if rest else [])
    asked = sum(row.get("asked", 0.0) for row in one.log)
    assert asked == ledger.cost.tokens > 0
    assert sum(row["supervised"] for row in one.log) > 0
    (prediction,) = one.predict([Query(STREAM[5], STREAM[:5])])
    assert prediction.fit_tokens == pytest.approx(sum(3 * r["tokens"] + r.get("asked", 0.0) for r in one.log))


def test_a_dry_run_counts_dialogues_to_their_end(tiny):
    setup, queries = Setup(CLOSED, TaskModel.for_task(CLOSED, tiny), 0), [[Query(STREAM[4], STREAM[:4])]]
    counted = [
        rehearsed(recipe(f"fine-tune:steps=1,batch=2,teacher=grpo(group=2,turns={n})"), setup, queries).tokens
        for n in (1, 3)
    ]
    plain = rehearsed(recipe("fine-tune:steps=1,batch=2"), setup, queries).tokens
    assert counted[1] > 3 * counted[0] > 3 * plain


@pytest.mark.parametrize("tuner", ["fine-tune:batch=2", "icl+ft:k=2", "context-adapter:k=1"])
def test_the_same_seed_gives_the_same_whatever_is_trained(tiny, tuner):
    task = replace(OPEN, train=STREAM[:3])
    text = f"{tuner},steps=1,lr=1e-3,teacher=grpo(group=2,turns=2,hint_weight=0.1)"
    first, again = (learner(tiny, task, text) for _ in range(2))
    first.learn(STREAM[:3])
    again.learn(STREAM[:3])
    assert first.log == again.log
    assert first.model.fingerprint == again.model.fingerprint


def test_it_goes_along_a_stream(tmp_path):
    name = "fine-tune:batch=2,lr=1e-3,teacher=grpo(group=2,turns=2)"
    run = kshot.adapt(CLOSED, "tiny", recipes=name, limit=4, out=tmp_path / "run")
    assert [row["status"] for row in run.leaderboard] == ["done"]
    assert run.best.fitted.trained is not None
    log = next((tmp_path / "run").rglob("fine-tune*.jsonl")).read_text("utf-8")
    assert '"tries":' in log.replace('": ', '":')


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("group=1", r"group must be 2 or more; got 1\. A single dialogue has no other to be better than\."),
        ("turns=0", "turns must be 1 or more; got 0"),
        ("discount=1.5", r"discount must be in 0\.\.1; got 1\.5"),
        ("hint_weight=-1.0", r"hint_weight must be a number, 0 or more; got -1\.0"),
    ],
)
def test_bad_settings_say_what_must_hold(settings, message):
    with pytest.raises(UserError, match=message):
        recipe(f"fine-tune:teacher=grpo({settings})")


def test_answers_that_are_neither_right_nor_wrong_are_no_reward(tmp_path):
    graded = replace(OPEN, kind="generation", metrics=("rougeL", "exact_match"))
    message = "answers must be right or wrong to be a reward, and rougeL says how near they are; name a metric such"
    with pytest.raises(UserError, match=message):
        kshot.adapt(graded, "tiny", recipes=NAME, out=tmp_path / "run")
    assert recipe().obstacle(OPEN) is recipe().obstacle(CLOSED) is None
    assert recipe().obstacle(replace(graded, metrics=("exact_match", "rougeL"))) is None


def test_a_model_that_cannot_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "capabilities", Engine.capabilities - {Capability.GENERATE})
    with pytest.raises(UserError, match="needs a model that can generate; give another --model"):
        kshot.adapt(CLOSED, "tiny", recipes=NAME, out=tmp_path / "run")
