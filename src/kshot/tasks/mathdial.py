"""Tutoring dialogues in the format of MathDial: a problem, a wrong solution, and turns of teacher and student."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError, in_short
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json
from kshot.core.types import Example, Task

END = "|EOM|"  # between turns
SAY_NEXT = "Say what a good teacher says next."
OUTCOMES = {
    "Yes": "alone",
    "Yes, but I had to reveal the answer": "told",
    "No": "unsolved",
}
_FIELDS = {
    "id": "qid",
    "question": "question",
    "solution": "ground_truth",
    "attempt": "student_incorrect_solution",
    "profile": "student_profile",
    "confusion": "teacher_described_confusion",
    "conversation": "conversation",
    "outcome": "self-correctness",
}
_TURN = re.compile(r"\s*(?P<who>[^:\n]{1,60}):\s*(?:\((?P<act>[a-z]{1,20})\))?\s*(?P<text>.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Turn:
    """What somebody says.

    Attributes:
        who: "Teacher", or the student's name.
        text: What is said.
        act: What a teacher's turn does, such as "focus", "probing", "telling" or "generic"; empty for students.
    """

    who: str
    text: str
    act: str = ""

    @property
    def is_teacher(self) -> bool:
        """Whether the teacher says it."""
        return self.who == "Teacher"


@dataclass(frozen=True)
class Dialogue:
    """One tutoring conversation.

    Attributes:
        id: Of its problem.
        question: The problem.
        solution: The right one, which ends with the answer.
        attempt: The student's wrong solution.
        profile: Who the student is.
        confusion: What the teacher says that the student has got wrong.
        turns: What was said.
        outcome: The student found the answer "alone", was "told" it, or is "unsolved"; empty where nothing is said.
    """

    id: str
    question: str
    solution: str
    attempt: str
    profile: str
    confusion: str
    turns: tuple[Turn, ...]
    outcome: str

    @property
    def answer(self) -> str:
        """The last number of the solution; its last line where there is none."""
        numbers = _NUMBER.findall(self.solution)
        return numbers[-1].rstrip(",") if numbers else self.solution.strip().splitlines()[-1]

    def record(self) -> dict[str, Any]:
        """Return it in MathDial's fields."""
        said = END.join(f"{t.who}: {f'({t.act})' if t.act else ''}{t.text}" for t in self.turns)
        outcome = next((words for words, short in OUTCOMES.items() if short == self.outcome), "")
        own = {name: getattr(self, name) for name in _FIELDS if name not in ("conversation", "outcome")}
        values = {**own, "conversation": said, "outcome": outcome}
        return {_FIELDS[name]: value for name, value in values.items()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Dialogue":
        """Return the dialogue of a record.

        Raises:
            ValueError: A field is missing, or a turn does not say who speaks.
        """
        missing = [name for name in _FIELDS.values() if name not in record and name != "self-correctness"]
        if missing:
            raise ValueError(f"it has no '{missing[0]}'")
        texts = {name: str(record.get(theirs) or "").strip() for name, theirs in _FIELDS.items()}
        if not texts["solution"]:
            raise ValueError("its 'ground_truth' is empty")
        turns = list[Turn]()
        for piece in filter(str.strip, texts.pop("conversation").split(END)):
            found = _TURN.fullmatch(piece)
            if found is None:
                raise ValueError(f"the turn '{piece.strip()[:40]}' must begin with who speaks and a colon")
            turns.append(Turn(found["who"].strip(), found["text"], found["act"] or ""))
        outcome = OUTCOMES.get(texts.pop("outcome"), "")
        return cls(turns=tuple(turns), outcome=outcome, **texts)


def read_mathdial(file: Path) -> list[Dialogue]:
    """Return the dialogues in a file of JSON lines.

    Raises:
        UserError: It cannot be read, or a line is no dialogue.

    Source: Macina et al. (2023), MathDial, https://arxiv.org/abs/2305.14536. The data is CC BY-SA 4.0; none of
    it comes with kshot.
    """
    try:
        lines = text_of(file).split("\n")
    except OSError as error:
        raise UserError(f"{file} must be a file of dialogues; {in_short(error)}. Correct the path.") from error
    found = list[Dialogue]()
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = from_json(line)
            if not isinstance(record, dict):
                raise ValueError("it is no object")
            found.append(Dialogue.of(record))
        except ValueError as error:
            raise UserError(
                f"{file}, line {i + 1}: must be a dialogue in MathDial's format; {in_short(error)}. Correct it."
            ) from error
    return found


def tutor_task(dialogues: Sequence[Dialogue], name: str = "tutor") -> Task:
    """Return the task to say what the teacher says next, from the problem, its solution and what was said before."""
    rows = list[Example]()
    for number, dialogue in enumerate(dialogues):
        head = f"Problem: {dialogue.question}\nSolution: {dialogue.solution}\nAttempt: {dialogue.attempt}"
        for i, turn in enumerate(dialogue.turns):
            if turn.is_teacher and turn.text:
                before = "".join(f"\n{t.who}: {t.text}" for t in dialogue.turns[:i])
                meta = {"act": turn.act, "dialogue": dialogue.id}
                rows.append(Example(head + before, turn.text, f"{dialogue.id}-{number}-{i}", meta=meta))
    return Task(name, "generation", tuple(rows), metrics=("rougeL",), instruction=SAY_NEXT)
