"""The layout for base models: paragraphs of text."""

from collections.abc import Mapping
from dataclasses import dataclass

from kshot.core.script import Script, ScriptRole
from kshot.core.types import Prompt, Role, Segment

PARAGRAPHS: Mapping[ScriptRole, Role] = {
    "instruction": "instruction",
    "note": "note",
    "schema": "context",
    "feedback": "note",
}


@dataclass(frozen=True)
class Plain:
    r"""Write a script as blocks of lines with an empty line between them.

    A question is a line "Text: …", after "Context: …" where it has one, and its answer a line "Label: …"; the script
    says what the two are called. A reason stands between them as "Reason: …". Instruction, notes and whatever else is
    said are paragraphs of their own. Every answer is followed by `terminator`, also the one that is scored: a label
    that is the beginning of another one ("yes", "yes sir") is then a different text.

    Example:
        >>> from kshot.core.script import Piece
        >>> pieces = (Piece("instruction", "Say a or b."), Piece("question", "1"), Piece("answer", "a"))
        >>> Plain().write(Script((*pieces, Piece("question", "2")), "Text", "Label")).text
        'Say a or b.\n\nText: 1\nLabel: a\n\nText: 2\nLabel:'
    """

    terminator: str = "\n\n"

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name."""
        return {"layout": "plain"}

    def write(self, script: Script) -> Prompt:
        """Return the script as a prompt."""
        segments, pieces = [], script.pieces
        given, wanted = f"{script.given}: " if script.given else "", f"{script.wanted}:"
        last_question = max(i for i, piece in enumerate(pieces) if piece.role == "question")
        for i, piece in enumerate(pieces):
            role: Role = "query" if i >= last_question else "demonstration"
            has_reason = i + 1 < len(pieces) and pieces[i + 1].role == "reason"
            match piece.role:
                case "context":
                    segments.append(Segment("context", f"Context: {piece.text}\n"))
                case "question":
                    segments.append(Segment(role, f"{given}{piece.text}\n{'' if has_reason else wanted}"))
                case "reason":
                    segments += [Segment("reason", f"Reason: {piece.text}\n"), Segment(role, wanted)]
                case "answer":
                    segments.append(Segment("answer", self.answer(piece.text)))
                case _:
                    segments.append(Segment(PARAGRAPHS[piece.role], f"{piece.text}\n\n"))
        return Prompt(tuple(segments))

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`."""
        return f" {text}{self.terminator}"

    def remarks(self, script: Script) -> list[str]:
        """Return what a user should know about prompts such as this: nothing."""
        return []
