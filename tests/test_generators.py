"""Generators: what they make, what they reject and why, and what is planted and must be found."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.models import Capability
from kshot.core.seeding import digest
from kshot.core.types import Example, GenerateRequest, Generation, Prompt, Task
from kshot.evaluators.context_flips import ContextFlips, pairs_of
from kshot.evaluators.evaluator import Case
from kshot.methods.contracts import Generator, Made
from kshot.methods.generators import GENERATORS
from kshot.methods.generators.consensus import consensus
from kshot.methods.generators.guideline import Guideline, guideline, steps_of
from kshot.methods.generators.intake import (
    EMPTY,
    KNOWN,
    LONG,
    NEAR,
    NO_TEXT,
    ODD_OUTPUT,
    TESTED,
    Intake,
    likeness,
    parted,
)
from kshot.methods.generators.personalised import OTHER_NUMBERS, corrected, edits, numbers
from kshot.methods.loops.refine import halves as judged
from kshot.methods.selectors import SELECTORS
from kshot.methods.steerers.held_out import halves, held_out
from kshot.methods.teachers.preferences import without_own
from kshot.models.scripted import ScriptedModel
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.names import slot_of
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("good", "bad")
WEATHER = {"sunny": "good", "mild": "good", "rainy": "bad", "stormy": "bad"}
ROWS = tuple(Example(f"it was {word} in week {i}", WEATHER[word], f"r{i}") for i, word in enumerate([*WEATHER] * 4))
TASK = Task("days", "classification", ROWS, (Example("it is sunny now", "good", "t0"),), labels=LABELS)


class Planted(ScriptedModel):
    """Writes what a function says after a prompt and with a seed; where it says None, answers from the table."""

    def __init__(self, write: Callable[[str, int], str | None], table: dict[str, str] | None = None, **settings: Any):
        super().__init__(table, **settings)
        self.write, self.asked = write, list[str]()

    def with_store(self, store):
        return self

    def generate(self, requests: Any, **how: Any) -> list[Generation]:
        return [self._one(request, how) for request in requests]

    def _one(self, request: GenerateRequest, how: Any) -> Generation:
        text = None if request.allowed else self.write(request.prompt.text, request.seed)
        if text is None:
            return super().generate([request], **{**how, "progress": None})[0]
        self.asked.append(request.prompt.text)
        return Generation(text, not text.endswith("…"))


def mixed(text: str, seed: int) -> int:
    """Return a number that depends on what is asked and on the seed, as a draw does."""
    return int(digest(text, seed)[:8], 16)


def make(part: Generator, model: Any, task: Task = TASK, seed: int = 0, notes: list[Any] | None = None) -> Made:
    asked = replace(TaskModel.for_task(task, model), notes=None if notes is None else notes.append)
    return part.generate(task.train, model=asked, rng=np.random.default_rng(seed))


# What is taken


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Example("  ", "good", "x"), EMPTY),
        (Example("a new day", " ", "x"), EMPTY),
        (Example("a new\0day", "good", "x"), NO_TEXT),
        (Example("long " * 60, "good", "x"), LONG),
        (Example("it was  sunny in week 0 ", "good", "x"), KNOWN),
        (Example("it is sunny now", "bad", "x"), TESTED),
        (Example("it was sunny in week 17", "good", "x"), NEAR),
        (Example("a new day", "fair", "x"), ODD_OUTPUT),
        (Example("a new day", "good", "x"), None),
    ],
)
def test_a_draft_is_rejected_for_one_reason(draft, reason):
    intake = Intake("own", ROWS, TASK, near=0.7)
    assert intake.fault(draft) == reason
    assert intake.take(draft, ROWS[:2], form="own") == (reason is None)
    assert intake.made.reasons == ({reason: 1} if reason else {})
    if not reason:
        (e,) = intake.made.examples
        assert e.meta == {"made": "own", "from": ["r0", "r1"], "form": "own"}
        assert e.id not in {r.id for r in ROWS}
        assert intake.fault(draft) == KNOWN


def test_outputs_of_open_tasks_must_not_be_far_longer_than_known_ones():
    task = replace(TASK, kind="qa", labels=())
    assert Intake("own", ROWS, task).fault(Example("a new day", "so " * 100, "x")) == LONG
    assert Intake("own", ROWS, task).fault(Example("a new day", "fair", "x")) is None


@given(st.lists(st.text("ab ", max_size=8), max_size=12))
def test_the_filter_takes_nothing_twice_and_what_it_has_taken_is_known(texts):
    intake = Intake("own", ROWS, TASK, near=0.7)
    for text in texts:
        intake.take(Example(text, "good", "x"), ROWS[:1])
    again = Intake("own", (*ROWS, *intake.taken), TASK, near=0.7)
    assert not any(again.take(e, ROWS[:1]) for e in intake.taken)
    assert len(intake.taken) + len(intake.rejected) == len(texts)
    assert all(e.meta["made"] and e.meta["from"] for e in intake.taken)


def test_likeness_is_rouge_l_of_words_of_any_alphabet():
    assert likeness("the cat sat", "The cat, sat!") == 1
    assert likeness("a b c d", "a c") == pytest.approx(2 * 2 / 6)
    assert likeness("мир и дом", "мир") == pytest.approx(2 / 4)
    assert likeness("", "a") == 0


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_says_how_many_and_asks_nothing_of_others_rows(name):
    assert GENERATORS.build(f"{name}(n=3)").n == 3


# rephrase


def said_otherwise(text: str, seed: int) -> str | None:
    if not text.endswith("In other words:"):
        return None
    words = text.rsplit("Text: ", 1)[1].split("\n")[0]
    week = words.split()[-1]
    if "stormy" in words:
        return f"a sunny time, number {week}"  # which means something else
    return f"number {week} was a {words.split()[2]} one, {seed % 7}"


def test_rephrased_inputs_keep_their_label_where_the_model_agrees():
    made = make(GENERATORS.build("rephrase(n=20,near=0.9)"), Planted(said_otherwise, WEATHER))
    assert len(made.examples) == 20 - made.reasons.get("it is not new", 0) or len(made.examples) == 20
    by_id = {e.id: e for e in ROWS}
    assert all(e.output == by_id[e.meta["from"][0]].output for e in made.examples)
    assert not any("time" in e.input for e in made.examples)
    assert made.reasons["the model answers otherwise"] >= 4
    trusting = make(GENERATORS.build("rephrase(n=16,agree=false)"), Planted(said_otherwise, WEATHER))
    assert any("sunny time" in e.input and e.output == "bad" for e in trusting.examples)


def test_the_same_seed_makes_the_same_and_another_one_other_rows():
    one, same, other = (
        make(GENERATORS.build("rephrase(n=8)"), Planted(said_otherwise, WEATHER), seed=s) for s in (0, 0, 1)
    )
    assert one == same
    assert one != other


def test_what_is_rejected_says_why():
    texts = ["", "never ends…", "it was sunny in week 0", "x" * 300]
    made = make(GENERATORS.build("rephrase(n=4,rounds=1)"), Planted(lambda *_: texts.pop(0), WEATHER))
    assert made.examples == ()
    assert made.reasons == {EMPTY: 1, "it came to no end": 1, KNOWN: 1, LONG: 1}


def test_choices_in_an_input_stay_as_they_are():
    rows = tuple(
        Example(f"Which one is {word}?\n(A) red\n(B) blue", "(A)", f"q{i}", choices=("red", "blue"))
        for i, word in enumerate(("warm", "hot", "like fire"))
    )
    task = Task("colours", "multiple_choice", (*rows, Example("none of it", "(A)", "q3", choices=("x", "y"))))
    made = make(
        GENERATORS.build("rephrase(n=4,rounds=1)"), Planted(lambda *_: "Name the warmer", {"warm": "(A)"}), task
    )
    assert [e.input for e in made.examples] == ["Name the warmer\n(A) red\n(B) blue"]
    assert made.reasons["its choices do not stand in its input"] == 1


def test_word_edits_leave_choices_as_they_are():
    stem, choices = "Which one of these is a fruit that people eat?", " (A) red apple (B) big car (C) old house"
    row = Example(stem + choices, "(A)", "q0", choices=("red apple", "big car", "old house"))
    odd = Example("none of it", "(A)", "q1", choices=("x", "y", "z"))
    task = Task("fruit", "multiple_choice", (row, odd))
    made = make(GENERATORS.build("word-edits(copies=4,share=0.2)"), Planted(lambda *_: ""), task)
    assert made.examples
    assert all(e.input.endswith(choices) and not e.input.startswith(stem) for e in made.examples)
    assert made.reasons["its choices do not stand in its input"] == 4


@pytest.mark.parametrize(
    ("text", "form", "stem"),
    [
        ("A train or A car?\nA. red A\nB. blue", "A", "A train or A car?"),
        ("Is it red A? (A) red A (B) blue", "(A)", "Is it red A?"),
        ("Which?\n1) red A\n2) blue", "1", "Which?"),
        ("(A) red A (B) blue", "(A)", None),
        ("red A or blue", "(A)", None),
    ],
)
def test_choices_are_told_from_what_is_asked(text, form, stem):
    e = Example(text, form, "q", choices=("red A", "blue"))
    found = parted(e, Task("c", "multiple_choice", (e,), letter_form=form))
    assert found == (stem and (stem, text[len(stem) :]))


# ensemble


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["A cat.", "dog", "a cat"], "A cat."),
        (["dog", "a cat", "A cat!"], "a cat"),
        (["", "", "x"], None),
        (["x", "y", "z"], None),
        (["the red cat", "a red dog", "the red dog"], "the red dog"),
        ([], None),
        (["-5", "5", "-5."], "-5"),
        (["2.5", "25", "$25"], "25"),
        (["1,000", "1/2", "1000"], "1,000"),
    ],
)
def test_consensus(answers, wanted):
    assert consensus(answers) == wanted


def test_labels_that_differ_in_signs_alone_are_other_labels():
    assert consensus(["C", "C++", "C#"], are_labels=True) is None
    assert consensus(["C++", "C", "C++"], are_labels=True) == "C++"
    assert consensus(["+", "-", "+"], are_labels=True) == "+"


@pytest.mark.parametrize(("part", "voters"), [("ensemble(agree=4)", "voters"), ("skills(agree=4)", "solutions")])
def test_no_more_have_to_agree_than_there_are(part, voters):
    with pytest.raises(UserError, match=f"agree must be at most {voters}, which is 3; got 4"):
        GENERATORS.build(part)


def test_voters_for_labels_of_signs_alone_agree():
    rows = tuple(replace(e, output={"good": "+", "bad": "-"}[e.output]) for e in ROWS)
    task = replace(TASK, train=rows, test=(), labels=("+", "-"))
    drafts = iter(["it was mild and sunny again", "it was stormy at sea"] * 40)
    model = Planted(lambda *_: next(drafts), {"mild and sunny": "+", "stormy at sea": "-"})
    made = make(GENERATORS.build("ensemble(n=2,near=1)"), model, task)
    assert {e.input: e.output for e in made.examples} == {
        "it was mild and sunny again": "+",
        "it was stormy at sea": "-",
    }


@given(st.lists(st.sampled_from(["a", "b", "A.", ""]), max_size=6), st.integers(2, 4))
def test_a_consensus_of_labels_is_what_enough_voters_say(answers, least):
    found = consensus(answers, least=least, is_open=False)
    counts = Counter(a.lower().strip(".") for a in answers if a)
    most = max(counts.values(), default=0)
    assert (found is not None) == (most >= least)
    assert found is None or counts[found.lower().strip(".")] == most


@pytest.mark.parametrize(("n_labels", "least"), [(10, 2), (2, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_three_annotators_that_are_right_in_70_percent_agree_on_what_is_right(n_labels, least, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_labels, size=2000)
    noise = (truth[:, None] + rng.integers(1, n_labels, size=(2000, 3))) % n_labels
    votes = np.where(rng.random((2000, 3)) < 0.7, truth[:, None], noise)
    found = [consensus([f"label {v}" for v in row], least=least, is_open=False) for row in votes.tolist()]
    kept = [answer == f"label {t}" for answer, t in zip(found, truth.tolist(), strict=True) if answer]
    assert np.mean(kept) >= 0.85
    assert sum(kept) / 2000 == pytest.approx(0.784 if least == 2 else 0.343, abs=0.04)  # recall
    assert abs(np.mean(votes == truth[:, None]) - 0.7) < 0.03


def new_days(text: str, seed: int) -> str | None:
    seed = mixed(text, seed)
    if "Passage:" in text:
        return f"A report of {list(WEATHER)[seed % 4]} days, {seed % 1000}.\nText: how was day {seed % 89}?"
    return (
        f"day {seed % 97} is {list(WEATHER)[seed % 4]} at last"
        if text.rsplit("\n", 1)[-1].strip("0123456789") == "."
        else None
    )


def test_ensemble_keeps_what_voters_agree_on_and_says_where_it_comes_from():
    made = make(GENERATORS.build("ensemble(n=6,voters=3,rounds=6)"), Planted(new_days, WEATHER))
    assert 3 <= len(made.examples) <= 6
    ids = {e.id for e in ROWS}
    for e in made.examples:
        assert e.output == next(v for k, v in WEATHER.items() if k in e.input)
        assert e.meta["made"] == "ensemble"
        assert e.meta["form"] == "input"
        assert e.meta["votes"] == [e.output] * 3
        assert e.meta["voters"] == ["scripted"]
        assert set(e.meta["from"]) <= ids | {m.id for m in made.examples}


class Split(Planted):
    """Its answer depends on what it is shown."""

    def _believed(self, prompt: Prompt) -> str:
        return LABELS[len(prompt.text) % 2]


def test_what_voters_do_not_agree_on_is_rejected():
    split = make(GENERATORS.build("ensemble(n=12,voters=5,agree=5,shots=3)"), Split(new_days))
    assert split.reasons["the voters do not agree"] > 0
    assert all(len(set(e.meta["votes"])) == 1 for e in split.examples)


def test_ensemble_has_a_form_with_and_one_without_a_passage():
    rows = [replace(e, context=f"Report {e.id} of the week.") if i % 2 else e for i, e in enumerate(ROWS)]
    made = make(GENERATORS.build("ensemble(n=12,near=1)"), Planted(new_days, WEATHER), replace(TASK, train=tuple(rows)))
    forms = {e.meta["form"]: e for e in made.examples}
    assert forms.keys() == {"context and input", "input"}
    assert forms["context and input"].context.startswith("A report of")
    assert forms["input"].context is None
    odd = make(GENERATORS.build("ensemble(n=2,rounds=1)"), Planted(lambda *_: "no form", WEATHER),
               replace(TASK, train=tuple(rows[1::2])))  # fmt: skip
    assert odd.reasons == {"it does not have the form that was asked for": 2}


def test_other_models_vote_in_turn(tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(dict.fromkeys(WEATHER, "bad")))
    part = GENERATORS.build(f"ensemble(n=8,near=1,rounds=1,models=scripted+scripted:{table})")
    made = make(part, Planted(new_days, WEATHER))
    assert {e.meta["votes"][2] for e in made.examples} == {"bad"}
    assert all(e.meta["voters"] == ["scripted", "scripted", f"scripted:{table}"] for e in made.examples)
    with pytest.raises(UserError, match="ensemble:voters must be 4 or more, so that the model and each of `models`"):
        GENERATORS.build("ensemble(models=a+b+c)")


# skills

SKILLS = ("sum", "double", "halve", "square", "minus", "last digit")
WEAK = ("square", "halve")


def sums() -> Task:
    rows = []
    for i in range(36):
        skill = SKILLS[i % 6]
        rows.append(Example(f"{skill} of {i}", f"{skill}-{i}", f"s{i}", meta={"skills": [skill]}))
    return Task("sums", "math", tuple(rows), metrics=("exact_match",))


class Student(Planted):
    """Solves all but two skills, and new questions of those as often as `sure` says."""

    def __init__(self, write, sure: float = 1.0):
        super().__init__(write)
        self.sure = sure

    def _believed(self, prompt: Prompt) -> str:
        asked = prompt.segments[-1].text.rsplit("Question: ", 1)[-1].split("\n")[0]
        skill, _, number = asked.partition(" of ")
        if skill not in WEAK:
            return f"{skill}-{number}"
        draw = mixed(prompt.text, 0)
        is_solved = number.startswith("new") and draw % 10 < 10 * self.sure
        return f"{skill}-{number}" if is_solved else f"wrong {draw}"


def new_questions(text: str, seed: int) -> str | None:
    seed = mixed(text, seed)
    if "that need the skill" not in text:
        return None
    skill = text.split("'")[1]
    return f"{skill} of new {seed % 1009} {len(text)}"


def test_new_questions_are_for_the_skills_that_mistakes_need():
    notes: list[Any] = []
    made = make(GENERATORS.build("skills(n=8,near=1)"), Student(new_questions), sums(), notes=notes)
    ranked = list(notes[0]["mistakes"])
    assert set(ranked[:2]) == set(WEAK)
    assert [notes[0]["mistakes"][s] for s in ranked[2:]] == [0] * 4
    assert len(made.examples) == 8
    assert Counter(e.meta["skills"][0] for e in made.examples) == dict.fromkeys(WEAK, 4)
    assert all(e.output == e.input.replace(" of ", "-") and len(e.meta["from"]) == 3 for e in made.examples)
    missed = {e.id: e.meta["skills"][0] for e in sums().train}
    assert all(missed[e.meta["mistake"]] == e.meta["skills"][0] for e in made.examples)


def test_questions_whose_solutions_differ_are_rejected():
    lost = make(GENERATORS.build("skills(n=8,near=1,rounds=1)"), Student(new_questions, sure=0.0), sums())
    assert lost.examples == ()
    assert lost.reasons == {"its solutions do not agree": 8}
    half = make(GENERATORS.build("skills(n=40,near=1,solutions=5)"), Student(new_questions, sure=0.5), sums())
    assert len(half.examples) >= 20
    assert all(e.output == e.input.replace(" of ", "-") for e in half.examples)
    assert any(vote.startswith("wrong") for e in half.examples for vote in e.meta["votes"])


def test_without_mistakes_nothing_is_written():
    model = Planted(new_questions, {e.input: e.output for e in reversed(sums().train)})
    assert make(GENERATORS.build("skills(n=8)"), model, sums()) == Made(())
    assert model.asked == []


# tailored


def drafted(text: str, seed: int) -> str | None:
    seed = mixed(text, seed)
    word = list(WEATHER)[seed // 2 % 4]
    right = WEATHER[word]
    wrong = LABELS[right == "good"]
    return f"a {word} one, number {seed % 1013}\nLabel: {right if seed % 2 else wrong}"


@pytest.mark.parametrize("seed", range(3))
def test_drafts_with_a_wrong_label_are_worth_less_and_not_kept(seed):
    made = make(GENERATORS.build("tailored(n=6,drafts=6,near=1)"), Reader(drafted), seed=seed)
    assert len(made.examples) == 6
    assert all(e.output == next(v for k, v in WEATHER.items() if k in e.input) for e in made.examples)
    worth = [e.meta["value"] for e in made.examples]
    assert worth == sorted(worth, reverse=True)
    assert worth[-1] > 0
    assert made.reasons["shown alone it saves the model nothing"] > 0


class Reader(Planted):
    """Believes the one demonstration whose weather word the query has; without one it knows nothing."""

    capabilities = frozenset({Capability.SCORE, Capability.GENERATE})

    def _believed(self, prompt: Prompt) -> str | None:
        query = prompt.segments[-1].text
        for shown, answer in zip(prompt.segments, prompt.segments[1:], strict=False):
            if answer.role == "answer" and any(w in shown.text and w in query for w in WEATHER):
                return answer.text.strip()
        return None


class Repeating(Reader):
    """Writes what it was shown in other words, and believes a demonstration about the same alone."""

    def _believed(self, prompt: Prompt) -> str | None:
        query, shown = prompt.segments[-1].text, [s.text for s in prompt.segments[:-1]]
        number = re.findall(r"\d+", query)[-1]
        return next((b.strip() for a, b in pairwise(shown) if re.findall(r"\d+", a)[-1:] == [number]), None)


def test_a_draft_is_not_tried_on_what_it_was_written_from():
    rows = tuple(Example(f"day {i}", LABELS[i % 2], f"d{i}") for i in range(6))
    task = Task("days", "classification", rows, labels=LABELS)

    def again(text: str, seed: int) -> str:
        number, label = re.findall(r"day (\d+)\nLabel: (\w+)", text)[0]
        return f"on the day {number}\nLabel: {label}"

    for shown in (1, 100):
        made = make(GENERATORS.build(f"tailored(n=2,shown={shown},near=1)"), Repeating(again), task)
        assert made.examples == ()
        assert made.reasons["shown alone it saves the model nothing"] > 0
    draft = Example("on the day 0", "good", "made", meta={"made": "tailored", "from": ["d0"]})
    assert np.isnan(without_own(np.zeros((1, 6)), [draft], rows)).tolist() == [[True] + [False] * 5]
    mail = replace(draft, meta={"from": "d0"})  # a column of the user's
    assert not np.isnan(without_own(np.zeros((1, 6)), [mail], rows)).any()


def test_drafts_in_another_form_are_rejected():
    made = make(GENERATORS.build("tailored(n=2,drafts=1,rounds=1)"), Planted(lambda *_: "only an input"))
    assert made == Made((), (("only an input", "it does not have the form that was asked for"),) * 2)


# flips

SAID = ("nice work", "well done", "how clever", "great timing")
IRONY = Task(
    "irony", "classification",
    tuple(Example(said, LABELS[i % 2], f"i{n}-{i}", context=f"It {'worked' if i % 2 == 0 else 'broke'} {n} times.")
          for n, said in enumerate(SAID) for i in range(2)),
    labels=LABELS,
)  # fmt: skip


def situations(text: str, seed: int) -> str | None:
    seed = mixed(text, seed)
    if not text.endswith("Situation:"):
        return None
    label = text.rsplit("Label: ", 1)[1].split("\n")[0]
    return f"It {'worked' if label == 'good' else 'broke'} again, as {seed % 991} saw."


class InContext(Planted):
    """Reads the situation; without one it believes in the first label."""

    def _believed(self, prompt: Prompt) -> str:
        asked = "".join(s.text for s in prompt.segments[-2:])
        return "bad" if "broke" in asked.rsplit("worked", 1)[-1] else "good"


def test_the_same_words_flip_in_another_context():
    made = make(GENERATORS.build("flips(n=6,rounds=1)"), InContext(situations), IRONY)
    by_id = {e.id: e for e in IRONY.train}
    assert len(made.examples) >= 4
    for e in made.examples:
        seed = by_id[e.meta["pair"]]
        assert e.input == seed.input
        assert e.output != seed.output
        assert e.context != seed.context
    bare = replace(IRONY, train=tuple(replace(e, context=None) for e in IRONY.train[::2]))
    pairs = make(GENERATORS.build("flips(n=4,rounds=1)"), InContext(situations), bare).examples
    assert [Counter(e.output for e in pairs)[label] for label in LABELS] == [2, 2]
    assert all(n == 2 for n in Counter(e.meta["pair"] for e in pairs).values())


def test_what_is_right_too_is_no_flip_and_is_not_accepted_in_the_other_context():
    labels = (*LABELS, "fair")
    rows = [replace(e, references=(e.output, "fair")) for e in IRONY.train]
    task = replace(IRONY, labels=labels, train=(*rows, Example("hm", "fair", "all", references=("fair", *LABELS))))
    made = make(GENERATORS.build("flips(n=20,rounds=1)"), InContext(situations), task)
    assert len(made.examples) >= 4
    assert all(e.output in LABELS and e.accepted == (e.output,) for e in made.examples)
    assert made.reasons["each label is right for it"] == 1


def test_contexts_that_do_not_flip_are_rejected_with_their_pair():
    bare = replace(IRONY, train=tuple(replace(e, context=None) for e in IRONY.train[::2]))
    made = make(GENERATORS.build("flips(n=8,rounds=1)"), Planted(situations, {"again": "good"}), bare)
    assert made.examples == ()
    assert made.reasons == {
        "the model does not change its answer in it": 4,
        "the other one of its pair was not taken": 4,
    }


@pytest.mark.parametrize("seed", range(3))
def test_who_reads_no_context_is_right_in_exactly_half_of_balanced_pairs(seed):
    rng, evaluator = np.random.default_rng(seed), ContextFlips()
    task = replace(IRONY, test=tuple(IRONY.train[i] for i in rng.permutation(len(IRONY.train))))
    cases = evaluator.cases(task, rng=rng)
    assert len(pairs_of(task.test)) == len(SAID)
    reads = {e.input: LABELS[int(rng.integers(2))] for e in IRONY.train}

    def said(case: Case) -> Any:
        context = case.example.context
        answer = reads[case.example.input] if context is None else LABELS["broke" in context]
        return type("P", (), {"answer": answer})()

    found = evaluator.report(task, cases, [said(case) for case in cases])
    shares = {name: found[name].value for name in ("without_context", "with_context", "pairs")}
    assert shares == {"without_context": 0.5, "with_context": 1.0, "pairs": 1.0}
    assert found["n_without_partner"] == 0


def test_flipped_texts_are_right_whatever_their_case_and_stop():
    rows = tuple(Example("Who won?", name, name, f"{name} won.") for name in ("Ann", "Bo"))
    task, evaluator = Task("t", "qa", (), rows), ContextFlips()
    cases = evaluator.cases(task, rng=np.random.default_rng(0))
    answers = [type("P", (), {"answer": "ann." if case.example.output == "Ann" else "Bob"})() for case in cases]
    found = evaluator.report(task, cases, answers)
    assert (found["with_context"].value, found["pairs"].value) == (0.5, 0)


# guideline

PLANTED = ("wash the rice in cold water", "heat oil in a deep pan", "fry the onion until golden",
           "add rice and stir well", "pour hot stock over everything", "cover it and simmer gently",
           "season with salt and serve")  # fmt: skip
NOISE = ("turn on the radio", "call a friend", "take a photograph", "open a window", "feed the cat next door",
         "look up tomorrow's weather", "sing something", "put a plant outside", "write down your costs", "rest a while",
         "charge the phone", "answer letters")  # fmt: skip


def noisy_lists(rng: np.random.Generator, n: int = 12) -> list[list[str]]:
    found = []
    for _ in range(n):
        steps = [step for step in PLANTED if rng.random() < 0.9]
        for _ in range(2):  # shuffled: two neighbours change places
            i = int(rng.integers(len(steps) - 1))
            steps[i : i + 2] = steps[i : i + 2][::-1]
        steps = [step.replace("the ", "some ") if rng.random() < 0.3 else step for step in steps]
        for noise in rng.choice(NOISE, size=2, replace=False).tolist():
            steps.insert(int(rng.integers(len(steps) + 1)), noise)
        found.append(steps)
    return found


def kendall(order: list[int]) -> float:
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(6))
def test_the_planted_order_is_found_in_shuffled_and_noisy_lists(seed):
    found = guideline(noisy_lists(np.random.default_rng(seed)))
    order = [next(i for i, step in enumerate(PLANTED) if likeness(step, one) > 0.6) for one in found]
    assert len(set(order)) == len(order) >= 6  # of 7
    assert not any(likeness(noise, one) > 0.6 for noise in NOISE for one in found)
    assert kendall(order) > 0.8


def test_a_guideline_for_each_group_and_reasons_where_there_is_none():
    rng = np.random.default_rng(0)
    rows = [Example(f"How do you cook rice, {i}?", "\n".join(f"{k}. {s}" for k, s in enumerate(steps, 1)), f"g{i}",
                    meta={"group": "cook rice"}) for i, steps in enumerate(noisy_lists(rng))]  # fmt: skip
    rows += [Example(f"other {i}", f"one {i}.\ntwo {i * 7}.", f"o{i}", meta={"group": "odd"}) for i in range(2)]
    task = Task("how", "generation", tuple(rows), metrics=("rouge_l",))
    made = make(Guideline(), ScriptedModel(), task)
    (e,) = made.examples
    assert e.input == "cook rice"
    assert steps_of(e.output)[0].startswith("wash")
    assert e.meta["n_lists"] == 12
    assert made.reasons == {"too few lists of steps are of its kind": 1}
    alone = make(Guideline(), ScriptedModel(), replace(task, train=tuple(replace(r, meta={}) for r in rows[:12])))
    assert alone.examples[0].input.endswith(", in general")
    assert not Guideline().suits(TASK)


# personalised


def shop(n: int) -> Task:
    rows = tuple(Example(f"A shop has {i + 3} boxes with {i} pens. How many pens?", str(i * (i + 3)), f"p{i}")
                 for i in range(n))  # fmt: skip
    return Task("shop", "math", rows, metrics=("exact_match",))


class Solver(Planted):
    """Multiplies the numbers of what is asked."""

    def _believed(self, prompt: Prompt) -> str:
        asked = prompt.segments[-1].text.rsplit("Question: ", 1)[-1]
        return str(np.prod([int(n) for n in numbers(asked).elements()]))


def rewritten(text: str, seed: int) -> str | None:
    if "Rewrite the problem" not in text:
        return None
    words = text.rsplit("Problem: ", 1)[1].split("\n")[0].replace("shop", "band").replace("pens", "songs")
    return words.replace("boxes", "boxes of 7") if seed % 3 == 0 else words


def test_rewritten_problems_have_the_same_numbers_and_answer():
    made = make(GENERATORS.build("personalised(n=12,likes=music,rounds=6)"), Solver(rewritten), shop(12))
    by_id = {e.id: e for e in shop(12).train}
    assert made.examples
    for e in made.examples:
        seed = by_id[e.meta["from"][0]]
        assert numbers(e.input) == numbers(seed.input)
        assert e.output == seed.output
        assert e.meta["likes"] == "music"
        assert e.meta["edits"] == [["shop", "band"], ["pens.", "songs."], ["pens?", "songs?"]]
    all_wrong = make(GENERATORS.build("personalised(n=3,rounds=1)"), Solver(lambda t, s: rewritten(t, 0)), shop(3))
    assert all_wrong.reasons == {OTHER_NUMBERS: 3}


def test_a_problem_that_is_solved_otherwise_is_rejected():
    class Moody(Planted):
        def _believed(self, prompt):
            return "1" if "band" in prompt.segments[-1].text else "2"

    made = make(GENERATORS.build("personalised(n=3,rounds=1)"), Moody(lambda t, s: rewritten(t, 1)), shop(3))
    assert made.reasons == {"the model solves it otherwise": 3}


@given(st.lists(st.integers(0, 10**6), max_size=5), st.permutations(["cats", "dogs", "cars", "pens", "hats"]))
def test_numbers_are_counted_whatever_stands_between_them(values, words):
    text = " ".join(f"{n} {w}" for n, w in zip(values, words, strict=False))
    other = " and ".join(f"some {n}" for n in reversed(values))
    assert numbers(text) == numbers(other)
    assert numbers(f"{text} 7777777") != numbers(other)


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_the_ledger_of_edits_says_all_that_was_changed(before, after):
    found = edits(" ".join(before), " ".join(after))
    gone, put = ([w for edit in found for w in edit[i].split()] for i in (0, 1))
    assert Counter(before) - Counter(gone) == Counter(after) - Counter(put)
    assert (found == []) == (before == after)


def test_what_a_person_corrects_is_in_the_ledger_and_keeps_the_numbers():
    made = Example("A band has 3 boxes with 5 songs.", "15", "p", meta={"made": "personalised"})
    once = corrected(made, "A choir has 3 boxes with 5 songs.", seconds=12.5)
    twice = corrected(once, "A choir has 3 folders with 5 songs.", seconds=4)
    assert twice.meta["corrections"] == [
        {"edits": [["band", "choir"]], "seconds": 12.5},
        {"edits": [["boxes", "folders"]], "seconds": 4},
    ]
    assert (twice.output, twice.id, made.meta) == ("15", "p", {"made": "personalised"})
    with pytest.raises(UserError, match="must have the numbers that 'p' has: 3, 5; got 4, 5. Put them back"):
        corrected(made, "A band has 4 boxes with 5 songs.", seconds=1)


# What is saved


def test_meta_of_what_is_made_is_json():
    parts = {"rephrase": said_otherwise, "ensemble": new_days, "tailored": drafted}
    for name, write in parts.items():
        model = Reader(write) if name == "tailored" else Planted(write, WEATHER)
        for e in make(GENERATORS.build(f"{name}(n=4,near=1)"), model).examples:
            assert json.loads(json.dumps(dict(e.meta))) == e.meta


def test_a_name_of_two_slots_is_the_recipe_that_does_something_alone():
    assert slot_of("skills") == "selector"
    assert parse_recipe("random:k=2,generator=skills(n=4)", shots=2).part("generator").n == 4
    with pytest.raises(UserError, match="'rephrase' is a generator, which does nothing alone"):
        slot_of("rephrase")


# What is made judges nothing

COPIES = tuple(replace(e, id=f"{e.id}~1", meta={"made": "word-edits"}) for e in ROWS)
POOL = (*ROWS[:6], *COPIES, *ROWS[6:])


@pytest.mark.parametrize("name", ["best-of-n", "value", "evolution(evaluations=3)"])
def test_sets_are_judged_by_known_examples_alone(name, monkeypatch):
    asked = set[str]()

    def bits(self, shown, queries):
        asked.update(e.id for e in queries)
        return np.arange(len(queries), dtype=float)

    monkeypatch.setattr(TaskModel, "code_lengths", bits)
    model = TaskModel.for_task(TASK, Planted(lambda *_: None))
    for pool, ids in ((POOL, {e.id for e in ROWS}), (COPIES, {e.id for e in COPIES})):
        asked.clear()
        selector = SELECTORS.build(name).fit(pool, model=model, rng=np.random.default_rng(0))
        assert len(selector.select(None, 3, rng=np.random.default_rng(1))) == 3
        assert asked
        assert asked < ids


@pytest.mark.parametrize("seed", range(3))
def test_steerings_and_notes_are_judged_by_known_examples_alone(seed):
    def rng():
        return np.random.default_rng(seed)

    held, known = held_out(POOL, most=32, rng=rng())
    assert len(held) == 8
    assert not any(e.is_made for e in held)
    assert sorted(e.id for e in (*held, *known)) == sorted(e.id for e in POOL)
    assert len(held_out(COPIES, most=32, rng=rng())[0]) == 5
    for _, asked in halves(POOL, least=2, rng=rng()):
        assert asked
        assert not any(POOL[i].is_made for i in asked)
    seen, judging = judged(POOL, rng(), 100)
    assert any(e.is_made for e in seen)
    assert judging
    assert not any(e.is_made for e in judging)
    copies = [replace(e, id=f"c-{e.id}", meta={"made": "mine", "from": [e.id]}) for e in ROWS]
    seen, judging = judged([*ROWS, *copies], rng(), 100)
    assert any(e.is_made for e in seen)
    assert not {e.id for e in judging} & {name for e in seen for name in e.sources}
