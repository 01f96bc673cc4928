"""The layout for base models: paragraphs of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kshot.core.control_tokens import Speller
from kshot.core.script import Script, ScriptRole, without_empty_lines
from kshot.core.types import Prompt, Role, Segment

PARAGRAPHS: Mapping[ScriptRole, Role] = {
    "instruction": "instruction",
    "note": "note",
    "schema": "context",
    "feedback": "note",
}
_AS_IT_IS = Speller()


def _spanned(role: Role, text: str, span: str | None) -> Segment:
    return Segment(role, text, ((span, 0, len(text)),) if span else ())


@dataclass(frozen=True)
class Plain:
    r"""Write a script as blocks of lines with an empty line between them.

    A question is a line "Text: …", after "Context: …" (or before it) where it has one, and its answer a line
    "Label: …"; the script says what the two are called. A reason stands between them as "Reason: …", or as the script
    calls it, or after the answer as a paragraph of its own. Instruction, notes and whatever else is said are paragraphs
    of their own. Every answer is followed by `terminator`, also the one that is scored: a label that is the beginning
    of another one ("yes", "yes sir") is then a different text. Control tokens are spelled out (`spell`).

    Example:
        >>> from kshot.core.script import Piece
        >>> pieces = (Piece("instruction", "Say a or b."), Piece("question", "1"), Piece("answer", "a"))
        >>> Plain().write(Script((*pieces, Piece("question", "2")), "Text", "Label")).text
        'Say a or b.\n\nText: 1\nLabel: a\n\nText: 2\nLabel:'
    """

    terminator: str = "\n\n"
    spell: Speller = field(default=_AS_IT_IS, compare=False, repr=False)

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name."""
        return {"layout": "plain"}

    def write(self, script: Script) -> Prompt:
        """Return the script as a prompt."""
        return self.write_spelled(script.spelled_out(self.spell))

    def write_spelled(self, script: Script) -> Prompt:
        """Return the script as a prompt, its texts as they are."""
        pieces, segments = script.pieces, list[Segment]()
        given, wanted = f"{script.given}: " if script.given else "", f"{script.wanted}:"
        last_question = max(i for i, piece in enumerate(pieces) if piece.role == "question")
        asked = script.asked_pieces
        role: Role = "demonstration"
        for i, piece in enumerate(pieces):
            said, text, is_last = piece.role, piece.text, i + 1 == len(pieces)
            goes_on = not is_last and (pieces[i + 1].role == "reason" or script.passage_is_after(i + 1))
            begun = "" if goes_on else f"{script.grounds}:" if is_last and script.wants == "reason" else wanted
            if said == "question":
                role = "query" if i == last_question else "demonstration"
                segments.append(_spanned(role, f"{given}{text}\n{begun}", asked.get(i)))
            elif said == "context" and script.passage_is_after(i):
                segments.append(_spanned("context", f"Context: {text}\n", asked.get(i)))
                segments += [Segment(role, begun)] if begun else []
            elif said == "answer":
                segments.append(Segment("answer", f" {text}{self.terminator}"))
            elif said == "reason" and pieces[i - 1].role == "answer":
                segments.append(Segment("reason", f"{script.grounds}: {text}{self.terminator}"))
            elif said == "reason" and is_last and script.wants == "reason":
                segments.append(Segment("reason", f"{script.grounds}: {text}"))
            elif said == "reason":
                segments += [Segment("reason", f"{script.grounds}: {text}\n"), Segment(role, wanted)]
            elif said == "context":
                segments.append(_spanned("context", f"Context: {text}\n", asked.get(i)))
            else:
                segments.append(Segment(PARAGRAPHS[said], f"{text}\n\n"))
        return Prompt(tuple(segments))

    def request(self, text: str) -> Prompt:
        """Return a text of one's own as a prompt, as it is."""
        return Prompt((Segment("query", self.spell(text)),))

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`."""
        return f" {self.spell(text)}{self.terminator}"

    def reply(self, text: str) -> str:
        """Return the answer in what the model has written: all of it."""
        return text

    def reason_ends(self, script: Script) -> tuple[str, ...]:
        """Return what ends a reason that is written after a script: the answer's name, or an empty line.

        Without an example a reason may have empty lines, and ends where another question would begin.
        """
        names = tuple(f"\n{name}:" for name in (script.wanted, script.given) if name)
        is_shown = any(piece.role == "reason" for piece in script.pieces[:-1])
        return (*names, self.terminator) if is_shown or not script.given else names

    def reason(self, text: str, script: Script, answers: Sequence[str]) -> str:
        """Return the reason in what the model has written."""
        return without_empty_lines(text)

    def marks(self, script: Script) -> tuple[str, ...]:
        """Return how answers and the questions after them begin."""
        return (f"\n{script.wanted}:", *([f"\n\n{script.given}:"] if script.given else []))

    def remarks(self, script: Script) -> list[str]:
        """Return what a user should know about prompts such as this: nothing."""
        return []
