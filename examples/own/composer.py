"""A composer: what is said."""

from dataclasses import dataclass

import kshot
from kshot import Piece, Script


@dataclass(frozen=True)
class Shouting(kshot.Composer):
    """Say the instruction in capitals, and call input and output Q and A."""

    def compose(self, task, shown, question):
        """Return the script: pieces with roles; the layout writes them for the model."""
        pieces = [Piece("instruction", task.instruction.upper())] if task.instruction else []
        for example in shown:
            pieces += [Piece("question", example.input), Piece("answer", example.output)]
        return Script((*pieces, Piece("question", question.input)), given="Q", wanted="A")
