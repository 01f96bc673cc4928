"""The loop `hints`: dialogues that end with the answer, and hints that never say it."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
import planted_talk as planted
from kshot.core.types import Example, Task
from kshot.methods.loops.hints import Hints, hint_on, is_same, leaks
from kshot.methods.roles import Scripted

NUMBERS = tuple(Example(f"Guess the number of box {i}.", str((37 * i) % 100), f"b{i}") for i in range(1, 25))
TASK = Task("boxes", "math", NUMBERS)


def bisecting(request: str) -> str:
    """A student who believes hints: halves what is left of 0..127."""
    low, high = 0, 127
    for tried, way in re.findall(r"Wrong: (\d+)\nHint: The number is too (low|high)", request):
        low, high = (int(tried) + 1, high) if way == "low" else (low, int(tried) - 1)
    return str((low + high) // 2)


def played(loop, task=TASK, **how):
    made, notes = planted.model(task, **how)
    artefact = loop.run(task.train, model=made, rng=np.random.default_rng(0))
    (trace,) = made.traces._open.values()
    return artefact, notes, trace.messages


texts = st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=12)
answers = st.one_of(
    st.integers(-999, 9999).map(str),
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(0, 99, places=2).map(str),
    texts,
)


@given(answers, answers)
def test_no_hint_by_rules_says_the_answer(attempt, answer):
    example = Example("q", answer, "a")
    if is_same(attempt, example):
        return
    assert not leaks(hint_on(attempt, example), example)


@pytest.mark.parametrize(
    ("text", "answer", "says_it"),
    [
        ("It is twelve, I mean 12.", "12", True),
        ("Try 12.00!", "12", True),
        ("Less than 120 and more than 1.2", "12", False),
        ("Think of New York City.", "new york", True),
        ("Think of New things in York.", "new york", False),
        ("the ANSWER: 'Paris'", "Paris", True),
        ("Look for parish.", "Paris", False),
        ("It costs $1,200.", "1200", True),
        ("As 6+6=12, say so.", "12", True),
        ("The answer:12", "12", True),
        ("Paris/France", "Paris", True),
        ("Think of a thing with wheels, and I help.", "(A)", False),
        ("A car has wheels.", "A", False),
        ("Then I would think again.", "(I)", False),
        ("Take option A because of the wheels.", "(A)", True),
        ("It is (a) or (b).", "(B)", False),
    ],
)
def test_what_says_the_answer(text, answer, says_it):
    assert leaks(text, Example("", answer, "")) is says_it


def test_numbers_of_many_digits_are_told_apart():
    example = Example("", "1234567", "a")
    assert [is_same(text, example) for text in ("1,234,567.0", "1234568")] == [True, False]
    assert [leaks(text, example) for text in ("It is 1,234,567.", "It is 1234568.")] == [True, False]
    assert hint_on("1234566", example) == "The number is too low."


def test_a_teacher_who_leaks_is_asked_again_and_nothing_leaked_is_kept():
    said = iter(["It is 37.", "thirty... 37", "Not so low."] * 100)
    student = Scripted(lambda request: "37" if "Hint" in request else "1")
    task = Task("one", "math", NUMBERS[:1])
    cast = {"teacher": Scripted(lambda request: next(said)), "student": student}
    artefact, _, trace = played(Hints(teacher="model").played_by(**cast), task)
    assert [m["role"] for m in trace] == ["student", "teacher", "teacher", "teacher", "student"]
    (example,) = artefact.demonstrations
    assert example.explanation == "Wrong: 1\nHint: Not so low."
    assert "37" not in trace[-1]["request"]


def test_a_teacher_who_leaks_three_times_ends_it():
    cast = {"teacher": Scripted(lambda request: "37"), "student": Scripted(lambda request: "1")}
    _, notes, _ = played(Hints(teacher="model").played_by(**cast), Task("one", "math", NUMBERS[:1]))
    assert (
        notes[-1]["ended"]
        == "teacher must answer with one hint that does not say the answer; it has not, 3 times: '37'"
    )


def test_solved_dialogues_alone_are_kept_and_no_turn_before_the_last_says_the_answer():
    artefact, notes, trace = played(Hints(turns=5).played_by(student=Scripted(bisecting)))
    solved = notes[0]["solved_by_turn"]
    by_id = {e.id: e for e in NUMBERS}
    assert 0 < len(artefact.demonstrations) < len(NUMBERS)
    assert len(artefact.demonstrations) == round((solved[-1] - solved[0]) * len(NUMBERS))
    for made in artefact.demonstrations:
        example = by_id[made.id.removesuffix("-hinted")]
        assert (made.output, made.input) == (example.output, example.input)
        assert made.explanation.count("Hint:") == made.explanation.count("Wrong:") >= 1
        assert not leaks(made.explanation, example)
    for message in trace:
        example = next(e for e in NUMBERS if e.input in message["request"])
        assert not leaks(message["request"].replace(example.input, ""), example)


def test_hints_that_inform_solve_more_with_each_turn_and_shuffled_ones_do_not(monkeypatch):
    _, notes, _ = played(Hints(turns=7).played_by(student=Scripted(bisecting)))
    informed = notes[0]["solved_by_turn"]
    rng = np.random.default_rng(0)
    monkeypatch.setattr("kshot.methods.loops.hints.rule_hint",
                        lambda attempt, answer: f"The number is too {rng.choice(['low', 'high'])}.")  # fmt: skip
    _, notes, _ = played(Hints(turns=7).played_by(student=Scripted(bisecting)))
    shuffled = notes[0]["solved_by_turn"]
    assert informed == sorted(informed)
    assert informed[-1] == 1.0
    assert shuffled[-1] < 0.35


def test_dialogues_are_shown_as_reasons_in_a_recipe(tmp_path):
    table = tmp_path / "table.json"
    table.write_text('{"Hint": "one", "Answer in as few": "two"}')
    kshot.adapt(planted.TASK, f"scripted:{table}", out=tmp_path / "run",
                recipes="all-past:loop=hints,composer=reason-first(cue=So,max_tokens=8)")  # fmt: skip
    assert "Wrong: two\\nHint: " in (tmp_path / "run/prompts.json").read_text("utf-8")
