"""Does a model still obey, turn after turn, all that it was told about how to answer?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.script import WORDS, Piece, Script
from kshot.core.types import FloatArray, Task
from kshot.evaluators.checkable import KINDS, OPENING, Dialogue, made_dialogue, obedience
from kshot.evaluators.evaluator import Evaluator
from kshot.evaluators.replies import replies
from kshot.measures.measured import Measured, Shift
from kshot.measures.text_metrics import squad_says
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Instructions(Evaluator):
    """Ask questions on a passage, each turn with one more instruction on how to answer, all checked by code.

    Instructions are of six kinds: the first word, the most words, a banned letter, a number to have, the last word, and
    small or capital letters. PIF is the share of all instructions so far that an answer obeys, the mean over `samples`
    answers drawn at temperature 1; `pif_n_k` is for each K the share of turns at which K or more of the N answers obey
    all of them. `repeated` is the same where the last message says all instructions so far once more, after the same
    dialogue: `gain` is its PIF minus the other. The dialogue goes on with the first answer drawn. Beside these, `right`
    is the share of answers that hold the fact that was asked for, which obeying does not need.

    Attributes:
        dialogues: How many are made.
        turns: Of each, and so the most instructions.
        samples: N, the answers that are drawn at each turn.
        length: The most tokens of an answer.

    Source: an analogue of Epstein et al. (2024), MMMT-IF, https://arxiv.org/abs/2409.18216.
    Differs: made-up passages of text in place of images, and six kinds of instructions of our own.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    asks_model: ClassVar[bool] = True

    dialogues: int = setting(10, least=1, most=10_000)
    turns: int = setting(6, least=1, most=len(KINDS))
    samples: int = setting(4, least=1, most=1000)
    length: int = setting(40, least=1, most=10_000)

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return PIF by turn, with and without repeating; see `kshot.evaluators.evaluator.Evaluator`.

        Raises:
            UserError: All answers are empty.
        """
        assert model is not None
        asker = model.on(Task("instructions", "qa", ()))
        told = [made_dialogue(str(i), self.turns, rng=rng) for i in range(self.dialogues)]
        seed = int(rng.integers(2**31))
        said: list[list[str]] = [[] for _ in told]
        plain, repeated = list[list[list[str]]](), list[list[list[str]]]()  # by turn, dialogue, sample
        for turn in range(self.turns):
            for found, is_repeated in ((plain, False), (repeated, True)):
                scripts = [script_of(one, past, repeated=is_repeated) for one, past in zip(told, said, strict=True)]
                drawn = [
                    replies(asker, scripts, max_tokens=self.length, temperature=1.0, seed=seed + i)
                    for i in range(self.samples)
                ]
                found.append([list(texts) for texts in zip(*drawn, strict=True)])
            for past, texts in zip(said, plain[turn], strict=True):
                past.append(texts[0])
        texts = [text for found in (plain, repeated) for turn in found for some in turn for text in some]
        if not any(texts):
            raise UserError(
                f"--suite instructions needs answers with words; all {len(texts)} that '{model.model.name}' has drawn "
                "are empty. Raise length, or evaluate a system with another model."
            )
        pif, again = self._pif(told, plain), self._pif(told, repeated)
        units = [one.id for one in told]
        return {
            "n": len(told),
            **self._measured(units, pif),
            "repeated": self._measured(units, again),
            "gain": Shift(units, (again - pif).mean(axis=(0, 2))),
            "by_kind": {kind: self._of_kind(kind, told, plain) for kind in KINDS if self._has(kind, told)},
            "right": Measured(units, self._right(told, plain)),
            "empty": sum(not text for text in texts),
            "dialogue": [
                {"asked": told[0].message(turn), "answer": answer, "pif": float(pif[turn, 0, 0])}
                for turn, answer in enumerate(said[0])
            ],
        }

    @staticmethod
    def _pif(told: Sequence[Dialogue], found: Sequence[Sequence[Sequence[str]]]) -> FloatArray:
        """Return the PIF of each answer `[n_turns, n_dialogues, n_samples]`."""
        return np.array(
            [
                [
                    [obedience(one.instructions[: i + 1], text) for text in texts]
                    for one, texts in zip(told, turn, strict=True)
                ]
                for i, turn in enumerate(found)
            ]
        )

    def _measured(self, units: Sequence[str], pif: FloatArray) -> dict[str, Any]:
        n_obeyed = (pif == 1).sum(axis=2)  # [n_turns, n_dialogues]
        return {
            "pif": Measured(units, pif.mean(axis=(0, 2))),
            "pif_by_turn": {str(i + 1): Measured(units, pif[i].mean(axis=1)) for i in range(self.turns)},
            "pif_n_k": {str(k): Measured(units, (n_obeyed >= k).mean(axis=0)) for k in range(1, self.samples + 1)},
        }

    @staticmethod
    def _has(kind: str, told: Sequence[Dialogue]) -> bool:
        return any(i.kind == kind for one in told for i in one.instructions)

    @staticmethod
    def _of_kind(kind: str, told: Sequence[Dialogue], found: Sequence[Sequence[Sequence[str]]]) -> Measured:
        """Return how often instructions of a kind are obeyed while they hold, by dialogue."""
        rows = dict[str, float]()
        for d, one in enumerate(told):
            for since, instruction in enumerate(one.instructions):
                if instruction.kind == kind:
                    rows[one.id] = float(np.mean([instruction.obeyed(t) for turn in found[since:] for t in turn[d]]))
        return Measured(list(rows), list(rows.values()))

    @staticmethod
    def _right(told: Sequence[Dialogue], found: Sequence[Sequence[Sequence[str]]]) -> list[float]:
        return [
            float(np.mean([squad_says(one.facts[i], text) for i, turn in enumerate(found) for text in turn[d]]))
            for d, one in enumerate(told)
        ]


def script_of(dialogue: Dialogue, answers: Sequence[str], *, repeated: bool) -> Script:
    """Return a dialogue up to the turn after these answers; `repeated` is about its last message."""
    pieces = [Piece("instruction", f"{OPENING}\n\n{dialogue.passage}")]
    for turn, answer in enumerate(answers):
        pieces += [Piece("question", dialogue.message(turn)), Piece("answer", answer)]
    return Script((*pieces, Piece("question", dialogue.message(len(answers), repeated=repeated))), *WORDS["qa"])
