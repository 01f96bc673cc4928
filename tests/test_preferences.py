"""Answers as demonstrations: what they are worth, by which probes, and what is learnt of pairs of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.objective_settings import Answers, Mixture, Preference
from kshot.core.progress import Silence
from kshot.core.types import Example, FloatArray, Query, Task
from kshot.engine.language_model import Engine
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.item_response import item_response
from kshot.methods.demonstration_value import bits_after, saved_alone
from kshot.methods.knowledge import Knowledge
from kshot.methods.teachers import preferences
from kshot.methods.teachers.preferences import Pair, Preferences, drafted, most_telling, values
from kshot.models.tiny import tiny_backbone
from kshot.race.rehearsal import rehearsed
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from word_network import word_engine

LABELS = ("bad", "bed", "best")
STREAM = tuple(Example(f"text {i}", LABELS[i % 3], f"e{i}") for i in range(8))
TASK = Task("words", "classification", STREAM, labels=LABELS)


@pytest.fixture(scope="module")
def asker() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


def answers_of_a_test(seed: int, n_takers: int, n_items: int) -> tuple[FloatArray, ...]:
    rng = np.random.default_rng(seed)
    ability, difficulty = rng.normal(size=n_takers), rng.normal(size=n_items)
    discrimination = np.exp(rng.normal(0.0, 0.5, size=n_items))
    chance = 1 / (1 + np.exp(-discrimination * (ability[:, None] - difficulty)))
    passed = (rng.random(chance.shape) < chance).astype(float)
    passed[rng.random(chance.shape) < 0.05] = np.nan
    return ability, discrimination, difficulty, passed


@pytest.mark.parametrize("seed", range(3))
def test_item_response_finds_what_was_planted(seed):
    """Not all takers took all items."""
    ability, discrimination, difficulty, passed = answers_of_a_test(seed, 300, 60)
    found = item_response(passed)
    for planted, own in (
        (ability, found.ability),
        (discrimination, found.discrimination),
        (difficulty, found.difficulty),
    ):
        assert spearmanr(planted, own)[0] > 0.8


def test_items_that_tell_nothing_or_the_opposite_come_last():
    """All pass the first, none the second, chance decides the third, and the fourth has a wrong key."""
    _, _, _, passed = answers_of_a_test(0, 120, 20)
    passed[:, 0], passed[:, 1] = 1.0, 0.0
    passed[:, 2] = np.random.default_rng(1).random(120) < 0.5
    passed[:, 3] = 1 - passed[:, 4]
    found = item_response(passed)
    assert np.isfinite(found.information).all()
    assert found.discrimination[3] < 0
    best = np.argsort(-found.information)[:14].tolist()
    assert not {0, 1, 2, 3} & set(best)
    nobody = item_response(np.full((0, 3), np.nan))
    assert nobody.information == pytest.approx([nobody.information[0]] * 3)


def test_probes_are_of_all_outputs():
    information = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    assert most_telling(information, ["a", "a", "a", "a", "b", "c"], 4) == [0, 4, 5, 1]
    assert most_telling(information, list("abcdef"), 3) == [0, 1, 2]


def test_a_value_is_what_one_demonstration_saves_on_others_alone(asker):
    shown, asked = [STREAM[0], replace(STREAM[1], output="best")], list(STREAM[1:4])
    saved = saved_alone(shown, asked, asker)
    for i, one in enumerate(shown):
        after, bare = (asker.code_lengths([some] * 3, asked) for some in ((one,), ()))
        assert saved[i] == pytest.approx(bare - after, abs=1e-4)
    assert bits_after([(one,) for one in shown], asked, asker) == pytest.approx(
        asker.code_lengths([()] * 3, asked) - saved, abs=1e-4
    )
    own = values(shown, asked, asker)
    assert own[0] == pytest.approx(saved[0].mean(), abs=1e-4)
    assert own[1] == pytest.approx(saved[1, 1:].mean(), abs=1e-4)  # the first probe asks what is shown
    assert np.isnan(values(shown[:1], [STREAM[0]], asker)).all()


def test_the_selector_value_takes_what_is_worth_most(asker):
    selector = parse_recipe("value:k=2,queries=3", shots=2).part("selector")
    rng = np.random.default_rng(4)
    chosen = selector.fit(STREAM, model=asker, rng=rng).select(None, 2, rng=np.random.default_rng(4))
    order = np.random.default_rng(4).permutation(8).tolist()
    worth = saved_alone([STREAM[i] for i in order[3:]], [STREAM[i] for i in order[:3]], asker).sum(axis=1)
    best = [order[3:][i] for i in np.argsort(-worth)]
    assert set(chosen) == set(best[:2])
    assert chosen[-1] == best[0]


def test_drafts_are_the_labels_or_what_the_model_writes(asker):
    rng = np.random.default_rng(0)
    for n, own in enumerate(drafted(STREAM[:2], STREAM, 2, asker, rng)):
        assert own[0] == STREAM[n].output
        assert len(set(own)) == 2
        assert set(own) <= set(LABELS)
    rows = [replace(e, references=("worst",)) for e in STREAM]
    open_task = Task("texts", "generation", tuple(rows), metrics=("exact_match",))
    writer = TaskModel.for_task(open_task, Engine(tiny_backbone()))
    texts = [drafted(rows[:2], rows, 4, writer, np.random.default_rng(s)) for s in (0, 0)]
    assert texts[0] == texts[1]
    for own, e in zip(texts[0], rows, strict=False):
        assert own[:2] == [e.output, "worst"]
        assert len(own) == len(set(own)) <= 4


def judging(monkeypatch, worth: dict[str, float]) -> None:
    """Let answers be worth what is said here."""
    monkeypatch.setattr(
        preferences,
        "saved_alone",
        lambda shown, asked, model: np.array([[worth[e.output]] * len(asked) for e in shown]),
    )


class Said(Silence):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def test_winners_are_right_and_losers_are_wrong_and_worth_less(asker, monkeypatch):
    judging(monkeypatch, {"bad": 1.0, "bed": 0.5, "best": 2.0})
    said, notes = Said(), []
    model = replace(asker, progress=said, notes=lambda row: notes.append(dict(row)))
    teacher, how = Preferences(margin=0.25), {"step": 0, "rng": np.random.default_rng(0)}
    pairs = teacher.ask(STREAM, model=model, rng=np.random.default_rng(0))
    of = {"bad": Pair("bad", ("bed",)), "bed": None, "best": Pair("best", ("bed", "bad"))}
    assert {e.id: pairs.get(e.id) for e in STREAM} == {e.id: of[e.output] for e in STREAM}
    assert notes == [{"teacher": "preferences", "n": 8, "judged": 8, "answers": 24, "probes": 8, "pairs": 5}]
    assert said.texts == []
    plain, knowledge = [Lesson((), e) for e in STREAM[:3]] * 20, Knowledge(asked=lambda: pairs)
    lessons = teacher.lessons(plain, STREAM, **how, knowledge=knowledge)
    assert {one.rejected for one in lessons[::3]} == {"bed"}
    assert {one.rejected for one in lessons[1::3]} == {None}
    assert {one.rejected for one in lessons[2::3]} == {"bed", "bad"}
    assert teacher.objective == Mixture((Answers(), Preference(0.1)), (1.0, 1.0))


def test_where_nothing_loses_it_is_said_and_answers_are_learnt(asker, monkeypatch):
    judging(monkeypatch, dict.fromkeys(LABELS, 1.0))
    said = Said()
    how: Any = {"model": replace(asker, progress=said), "rng": np.random.default_rng(0)}
    assert Preferences().ask(STREAM, **how) == {}
    (text,) = said.texts
    assert text == (
        "preferences: none of 8 examples has a wrong answer that is worth less, shown alone, than its right one, so "
        "nothing is preferred and answers are learnt alone, until the past has doubled. Raise drafts or probes, or "
        "leave the teacher out."
    )
    plain = [Lesson((), e) for e in STREAM]
    assert Preferences().lessons(plain, STREAM, step=0, rng=np.random.default_rng(0)) == plain
    assert Preferences().ask(STREAM[:1], **how) == {}
    assert len(said.texts) == 1


def test_texts_without_a_loser_are_learnt_by_the_rest_of_a_mixture(asker):
    """The loss is that of the answers over all texts and of the preference over those with a pair."""
    lessons = [Lesson((), STREAM[0], rejected="bed"), Lesson((), STREAM[1]), Lesson((), STREAM[2], rejected="bad")]
    texts = [asker.training_text(one) for one in lessons]
    loss = {}
    for name, some, objective in (
        ("answers", texts, Answers()),
        ("preference", texts[::2], Preference(0.5)),
        ("both", texts, Mixture((Answers(), Preference(0.5)), (2.0, 1.0))),
        ("none", texts[1:2], Mixture((Answers(), Preference(0.5)), (2.0, 1.0))),
        ("one", texts[1:2], Answers()),
    ):
        model: Any = asker.model.trainable(Training(lr=1e-2), seed=0)
        model.learn(Batch([asker.training_text(Lesson((), e)) for e in STREAM]))  # away from the start
        loss[name] = model.learn(Batch(some, objective=objective)).loss_nats
    assert loss["both"] == pytest.approx(2 * loss["answers"] + loss["preference"], rel=1e-4)
    assert loss["none"] == pytest.approx(2 * loss["one"], rel=1e-4)
    with pytest.raises(UserError, match="each text must have a rejected answer; got one without"):
        asker.model.trainable(Training(), seed=0).learn(Batch(texts, objective=Mixture((Preference(),), (1.0,))))


@pytest.mark.parametrize("seed", range(3))
def test_a_corrupted_demonstration_is_worth_less_than_its_twin(seed):
    """The network says again what stood after a word like the asked one: right only where that had its label."""
    rng, words = np.random.default_rng(seed), [f"w{chr(97 + i)}" for i in range(6)]
    rows = [Example(w, str(y), f"e{w}") for w, y in zip(words, rng.permutation(["no", "yes"] * 3), strict=True)]
    task = Task("meanings", "classification", tuple(rows), labels=("no", "yes"))
    model = TaskModel.for_task(task, word_engine(linking=6.0, seed=seed))
    wrong = [replace(e, output="yes" if e.output == "no" else "no") for e in rows]
    again = [replace(e, id=f"q{e.id}") for e in rows]
    right, corrupted = (np.diag(saved_alone(some, again, model)) for some in (rows, wrong))
    assert right.mean() > corrupted.mean() + 1
    assert (right > corrupted).sum() >= 5


def log_margin(model: TaskModel, pairs: list[tuple[Example, str]]) -> float:
    """By how many nats right answers are more probable than others."""
    prompts = [model.prompt((), e)[0] for e, _ in pairs]
    rows = model.score(prompts, [(e.output, loser) for e, loser in pairs])
    return float(np.mean([row[0] - row[1] for row in rows]))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_margin_of_winners_grows_on_pairs_that_are_held_out(seed):
    """Inputs are pairs of words of which either tells the label; the held-out pairs of words are new."""
    rng = np.random.default_rng(seed)
    words = {"no": ["na", "ne", "ni", "nu"], "yes": ["ya", "ye", "yi", "yu"]}
    combined = [(f"{a} {b}", y) for y, own in words.items() for a in own for b in own if a != b]
    order = rng.permutation(len(combined))
    rows = [Example(*combined[i], f"e{i}") for i in order]
    known, held_out = rows[:16], rows[16:]
    task = Task("sides", "classification", tuple(known), labels=("no", "yes"))
    model = TaskModel.for_task(task, word_engine(seed=seed))
    teacher = Preferences(known=1e-6)  # preferences almost alone
    pairs = {e.id: Pair(e.output, ("yes" if e.output == "no" else "no",)) for e in known}
    knowledge = Knowledge(asked=lambda: pairs)
    student = model.model.trainable(Training(lr=1e-3), seed=0)
    asked = [(e, "yes" if e.output == "no" else "no") for e in held_out]
    before = log_margin(model, asked)
    for step in range(30):
        own = np.random.default_rng((seed, step))
        plain = [Lesson((), known[i]) for i in own.permutation(16)[:8]]
        lessons = teacher.lessons(plain, known, step=0, rng=own, knowledge=knowledge)
        student.learn(Batch([model.training_text(one) for one in lessons], objective=teacher.objective))
    assert log_margin(replace(model, model=student), asked) > before + 1.0


def test_it_asks_the_past_alone_whenever_that_has_doubled(asker, monkeypatch):
    asked: list[list[str]] = []

    def watched(self, seen, *, model, rng, real=Preferences.ask):
        asked.append([e.id for e in seen])
        assert model.model is asker.model  # before training
        return real(self, seen, model=model, rng=rng)

    monkeypatch.setattr(Preferences, "ask", watched)
    recipe = parse_recipe("fine-tune:lr=1e-3,steps=1,batch=2,teacher=preferences(probes=2,drafts=2)", shots=1)
    learner = TrainedLearner(recipe, Setup(TASK, asker, 0))
    learner.learn(STREAM[:5])
    assert asked == [[e.id for e in STREAM[:n]] for n in (1, 2, 4)]
    assert [row.get("asked", 0) > 0 for row in learner.log] == [False, True, False, True, False]


def test_what_was_asked_before_an_interruption_is_not_counted_again(asker, tmp_path):
    recipe = parse_recipe("fine-tune:lr=1e-3,steps=2,batch=2,teacher=preferences(probes=2,drafts=2)", shots=1)

    def learner(name: str) -> TrainedLearner:
        kept = Kept(SqliteStore(tmp_path / f"{name}.sqlite"), tmp_path / name, "key")
        return TrainedLearner(recipe, Setup(TASK, asker, 0, kept=kept))

    whole, first = learner("whole"), learner("parts")
    whole.learn(STREAM[:7])
    first.learn(STREAM[:5])
    first.save_state()
    second = learner("parts")
    second.learn(STREAM[:7])
    assert second.log == whole.log
    assert second.model.fingerprint == whole.model.fingerprint


def test_a_dry_run_counts_pairs_and_says_nothing(asker):
    said = Said()
    model = replace(asker, progress=said)
    queries = [[Query(e, STREAM[:i]) for i, e in enumerate(STREAM)]]
    name = "fine-tune:lr=1e-3,steps=1,teacher="
    taught, plain = (
        rehearsed(parse_recipe(f"{name}{teacher}", shots=1), Setup(TASK, model, 0), queries).tokens
        for teacher in ("preferences(probes=4)", "missing-skills")
    )
    assert taught > 2 * plain
    assert said.texts == []


def test_it_goes_along_a_stream_and_is_exported_like_any_adapter(tmp_path):
    recipe = "fine-tune:lr=1e-3,steps=1,batch=2,teacher=preferences(probes=2,drafts=2)"
    run = kshot.adapt(TASK, model="tiny", recipes=recipe, out=tmp_path / "run")
    assert [row["status"] for row in run.leaderboard] == ["done"]
    made = make_learner(
        parse_recipe(recipe, shots=1), Setup(TASK, TaskModel.for_task(TASK, Engine(tiny_backbone())), 0)
    )
    assert made.fit(STREAM).pool == ()
    assert list((tmp_path / "run" / "best").rglob("adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drafts": 1}, r"drafts must be 2 or more; got 1\. A single answer has none to be preferred to\."),
        ({"probes": 0}, "probes must be 1 or more; got 0"),
        ({"margin": -1.0}, r"margin must be a number, 0 or more; got -1\.0"),
        ({"beta": 0.0}, r"beta must be greater than 0; got 0\.0"),
        ({"known": 0.0}, r"known must be greater than 0; got 0\.0"),
    ],
)
def test_bad_settings_say_what_must_hold(settings, message):
    with pytest.raises(UserError, match=message):
        Preferences(**settings)


def test_seen_labels_are_refused_beside_it():
    with pytest.raises(UserError, match="over=seen learns the right answers, and a teacher says otherwise"):
        parse_recipe("fine-tune:teacher=preferences,over=seen", shots=1)
