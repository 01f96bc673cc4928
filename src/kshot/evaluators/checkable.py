"""Instructions on how to answer that can be checked by code, and dialogues over a passage that hold more and more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("start", "length", "ban", "number", "end", "case")
OPENING = "Read the passage and answer each question. Obey all that you are told about how to answer, in each answer."
_TOLD = {
    "start": 'From now on, begin each answer with the word "{}".',
    "length": "From now on, use at most {} words in each answer.",
    "ban": 'From now on, never use the letter "{}" in an answer.',
    "number": "From now on, have the number {} in each answer.",
    "end": 'From now on, end each answer with the word "{}".',
    "case": "From now on, write each answer in {} letters only.",
}
_STARTS, _ENDS = ("Sure", "Listen", "Indeed", "Well", "Hello"), ("done", "over", "thanks", "bye", "amen")
_LETTERS = "etaoinshrdlcumwfgypb"  # to be banned: the frequent ones
# A sentence with a gap, a question about it, and what can be in the gap
_FACTS = (
    ("The old lighthouse is painted {}.", "What colour is the old lighthouse?", ("red", "green", "white", "black")),
    ("The baker puts {} into the bread.", "What does the baker put into the bread?", ("nuts", "figs", "seeds", "salt")),
    ("The market is held on the {}.", "Where is the market held?", ("pier", "square", "hill", "beach")),
    ("The mayor keeps a {}.", "Which animal does the mayor keep?", ("goat", "parrot", "horse", "turtle")),
    ("The ferry leaves at {}.", "When does the ferry leave?", ("noon", "dawn", "dusk", "midnight")),
    ("The bridge is built of {}.", "What is the bridge built of?", ("stone", "wood", "iron", "brick")),
)
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Instruction:
    """One instruction on how to answer.

    Attributes:
        kind: One of `KINDS`.
        value: The word, letter or number; of a case "small" or "capital".
    """

    kind: str
    value: str

    @property
    def text(self) -> str:
        """What is said."""
        return _TOLD[self.kind].format(self.value)

    def obeyed(self, answer: str) -> bool:
        """Return whether an answer obeys it; an empty one does not.

        Example:
            >>> Instruction("end", "done").obeyed("It is red. Done!")
            True
            >>> Instruction("length", "3").obeyed("It is painted red")
            False
        """
        words = [word.casefold() for word in _WORD.findall(answer)]
        if not words:
            return False
        value = self.value.casefold()
        checks = {
            "start": lambda: words[0] == value,
            "length": lambda: len(words) <= int(value),
            "ban": lambda: value not in answer.casefold(),
            "number": lambda: value in words,
            "end": lambda: words[-1] == value,
            "case": lambda: answer == (answer.lower() if value == "small" else answer.upper()),
        }
        return checks[self.kind]()


def obedience(instructions: Sequence[Instruction], answer: str) -> float:
    """Return the share of instructions that an answer obeys: the PIF of its turn."""
    return sum(one.obeyed(answer) for one in instructions) / len(instructions)


@dataclass(frozen=True)
class Dialogue:
    """Questions on a passage, each with an instruction that holds from then on.

    Attributes:
        id: Its number.
        passage: What is read.
        questions: One a turn.
        facts: The right answer to each, a word.
        instructions: One a turn; some answer obeys all of them and holds the fact of its turn.
    """

    id: str
    passage: str
    questions: tuple[str, ...]
    facts: tuple[str, ...]
    instructions: tuple[Instruction, ...]

    def message(self, turn: int, *, repeated: bool = False) -> str:
        """Return what is said at a turn, from 0; with all instructions so far once more at its end if `repeated`."""
        said = f"{self.instructions[turn].text}\n{self.questions[turn]}"
        if not repeated:
            return said
        told = "\n".join(f"- {one.text.removeprefix('From now on, ')}" for one in self.instructions[: turn + 1])
        return f"{said}\nIn this answer too:\n{told}"


def made_dialogue(id: str, turns: int, *, rng: np.random.Generator) -> Dialogue:
    """Return a dialogue of up to six turns, each with an instruction of another kind.

    They can be obeyed together: the words to begin and to end with, the facts and the number have none of the banned
    letter, and fit into the allowed words.
    """
    facts = [(*_FACTS[i][:2], str(rng.choice(_FACTS[i][2]))) for i in rng.permutation(len(_FACTS))]
    start, end = str(rng.choice(_STARTS)), str(rng.choice(_ENDS))
    used = set("".join((start, end, *(fact for *_, fact in facts))).casefold())
    values = {
        "start": start,
        "length": str(rng.integers(6, 13)),
        "ban": str(rng.choice([letter for letter in _LETTERS if letter not in used] or ["q"])),
        "number": str(rng.integers(11, 99)),
        "end": end,
        "case": str(rng.choice(["small", "capital"])),
    }
    order = [KINDS[i] for i in rng.permutation(len(KINDS))[:turns]]
    asked = [facts[i] for i in rng.permutation(len(facts))[:turns]]
    return Dialogue(
        id,
        " ".join(sentence.format(fact) for sentence, _, fact in facts),
        tuple(question for _, question, _ in asked),
        tuple(fact for *_, fact in asked),
        tuple(Instruction(kind, values[kind]) for kind in order),
    )
