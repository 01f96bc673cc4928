"""The loop `tutoring`: success beside telling, scripted students, and dialogues in MathDial's format."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planted_talk as planted
from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.types import Example, Task
from kshot.methods.loops.tutoring import ScriptedStudent, Tutored, Tutorial, Tutoring, tutored
from kshot.methods.roles import Scripted
from kshot.tasks.mathdial import read_mathdial, tutor_task

SKILLS = ("carry", "units", "brackets", "zero")
STUDENTS = {f"Problem {i}:": ScriptedStudent(f"I say {10 + i}.", (SKILLS[i % 4],), str(200 + i)) for i in range(16)}
TASK = Task("sums", "math", tuple(Example(f"Problem {i}: add.", str(200 + i), f"p{i}") for i in range(16)))


def number(request: str) -> int:
    return int(re.search(r"Problem (\d+):", request)[1])


def student(request: str) -> str:
    return STUDENTS[f"Problem {number(request)}:"].reply(request)


def generic(request: str) -> str:
    return "Look at it once more, step by step."


def targeted(request: str) -> str:
    """Hints at one skill after the other, the likeliest first; which it is shows in what the student says."""
    n = request.count("\nTutor: ")
    return f"Think of the {SKILLS[(number(request) + n) % 4]}."


def telling(request: str) -> str:
    return f"The answer is {200 + number(request)}."


def played(tutor, **how):
    loop = Tutoring(calls=1000, **how).played_by(student=Scripted(student), tutor=Scripted(tutor))
    made, notes = planted.model(TASK)
    artefact = loop.run(TASK.train, model=made, rng=np.random.default_rng(0))
    rows = notes[0]["by_turn"]
    return artefact, [(row["success"], row["telling"]) for row in rows]


def test_hints_at_the_mistake_beat_those_that_fit_all_and_tell_nothing():
    artefact, by_turn = played(targeted)
    assert by_turn[-1] == (1.0, 0.0)
    assert len(artefact.demonstrations) == 16
    none, by_turn = played(generic)
    assert by_turn == [(0.0, 0.0)] * 3
    assert none.demonstrations == ()


def test_a_tutor_who_tells_succeeds_and_nothing_of_it_is_kept():
    artefact, by_turn = played(telling)
    assert by_turn == [(1.0, 1.0)] * 3
    assert artefact.demonstrations == ()


def test_what_is_kept_says_the_answer_nowhere_but_at_its_end():
    artefact, _ = played(targeted)
    for made in artefact.demonstrations:
        assert made.output not in made.explanation
        assert made.explanation.startswith("Student: I say")


turns = st.one_of(st.none(), st.integers(0, 5))


@given(st.lists(st.tuples(turns, turns)))
def test_success_and_telling_never_fall(pairs):
    lessons = [Tutorial(TASK.train[0], (), solved, told or None) for solved, told in pairs]
    found = [tutored(lessons, k) for k in range(7)]
    for a, b in zip(found, found[1:], strict=False):
        assert a.success <= b.success
        assert a.telling <= b.telling
    assert all(0 <= share <= 1 for one in found for share in (one.success, one.telling))


def test_who_names_all_labels_has_not_said_the_answer():
    rows = tuple(Example(f"text {i}", "yes" if i % 2 else "no", f"e{i}") for i in range(8))
    task, said = Task("t", "classification", rows, labels=("yes", "no")), ["Hmm.", "Yes and no."]
    loop = Tutoring().played_by(student=Scripted(lambda asked: said["Tutor:" in asked]), tutor=Scripted(str.title))
    model, notes = planted.model(task)
    artefact = loop.run(rows, model=model, rng=np.random.default_rng(0))
    assert artefact.demonstrations == ()
    assert [one["success"] for one in notes[-2]["by_turn"]] == [0.0] * 3


def test_who_names_several_numbers_has_not_said_the_answer():
    guesses = {f"Problem {i}:": ScriptedStudent("Hmm.", SKILLS, f"{200 + i} or {300 + i}") for i in range(16)}
    loop = Tutoring(calls=1000).played_by(
        student=Scripted(lambda asked: guesses[f"Problem {number(asked)}:"].reply(asked)), tutor=Scripted(targeted)
    )
    model, notes = planted.model(TASK)
    assert loop.run(TASK.train, model=model, rng=np.random.default_rng(0)).demonstrations == ()
    assert [one["success"] for one in notes[0]["by_turn"]] == [0.0] * 3


def test_who_begins_right_does_not_count():
    lessons = [Tutorial(TASK.train[0], (), at, None) for at in (0, 0, 1, None)]
    assert tutored(lessons, 1) == Tutored(0.5, 0.0)


RECORD = {
    "qid": 5,
    "question": "Ann has 3 bags of 4 apples. How many?",
    "ground_truth": "There are 3 bags.\nSo 3 * 4 = <<3*4=12>>12 apples.\n 12",
    "student_incorrect_solution": "3 + 4 = 7",
    "student_profile": "A 7th grade student.",
    "teacher_described_confusion": "Adds instead of multiplying.",
    "self-correctness": "Yes, but I had to reveal the answer",
    "conversation": "Teacher: (probing)Hi, how did you get 7?|EOM|Ann: I added: 3 and 4.|EOM|"
    "Teacher: (telling)It is 12.",
    "scenario": 1,
}


def test_a_dialogue_is_read_and_written_as_it_was(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(to_json(RECORD) + "\n\n")
    (dialogue,) = read_mathdial(file)
    assert (dialogue.answer, dialogue.outcome, dialogue.id) == ("12", "told", "5")
    assert [(t.who, t.act, t.text) for t in dialogue.turns] == [
        ("Teacher", "probing", "Hi, how did you get 7?"),
        ("Ann", "", "I added: 3 and 4."),
        ("Teacher", "telling", "It is 12."),
    ]
    expected = {name: str(value) for name, value in RECORD.items() if name != "scenario"}
    assert from_json(to_json(dialogue.record())) == expected
    file.write_text(to_json(dialogue.record()))
    assert read_mathdial(file) == [dialogue]


def test_a_tutor_learns_what_the_teacher_said_next(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(to_json(RECORD))
    task = tutor_task(read_mathdial(file))
    assert [e.output for e in task.train] == ["Hi, how did you get 7?", "It is 12."]
    assert task.train[1].input.endswith("\nTeacher: Hi, how did you get 7?\nAnn: I added: 3 and 4.")
    assert task.train[0].meta == {"act": "probing", "dialogue": "5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"qid": 1}', "line 1: must be a dialogue in MathDial's format; it has no 'question'. Correct it."),
        ("[]", "it is no object"),
        (to_json({**RECORD, "conversation": "no colon"}), "the turn 'no colon' must begin with who speaks and a colon"),
        (to_json({**RECORD, "ground_truth": " "}), "its 'ground_truth' is empty"),
    ],
)
def test_a_line_that_is_no_dialogue_is_refused(tmp_path, text, message):
    file = tmp_path / "train.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_mathdial(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="must be a file of dialogues; No such file"):
        read_mathdial(tmp_path / "none")
