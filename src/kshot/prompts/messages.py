"""The layout for models behind an API: messages, which the service writes as it likes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.core.script import Piece, Script
from kshot.core.types import Prompt, Role, Segment

_ROLES: Mapping[str, Role] = {"system": "instruction", "user": "demonstration", "assistant": "answer"}


def paragraphs(pieces: Sequence[Piece]) -> str:
    """Return texts with an empty line between them."""
    return "\n\n".join(piece.text.strip() for piece in pieces)


def asked_of(turn: Sequence[Piece]) -> str:
    """Return the user's message of a turn: all but the reason and the answer."""
    return paragraphs([piece for piece in turn if piece.role not in ("reason", "answer")])


def conversation(script: Script, *, with_system: bool = True, lead: str = "") -> list[dict[str, str]]:
    """Return the messages that a script stands for: user and assistant in turn.

    Args:
        script: What is said.
        with_system: The opening is the system's message; otherwise it opens the user's first one.
        lead: What an answer begins with after its reason.
    """
    opening = paragraphs(script.opening)
    messages = [{"role": "system", "content": opening}] if script.opening and with_system else []
    before = f"{opening}\n\n" if script.opening and not with_system else ""
    for turn in script.turns:
        messages.append({"role": "user", "content": before + asked_of(turn)})
        said = f"\n\n{lead}".join(piece.text.strip() for piece in turn if piece.role in ("reason", "answer"))
        if turn[-1].role == "answer":
            messages.append({"role": "assistant", "content": said})
        before = ""
    return messages


@dataclass(frozen=True)
class ApiMessages:
    """Write a script as messages for a chat API: each segment of the prompt is one message.

    It needs no chat template, and an answer is its bare text. A reason before its answer is in the same message; one
    that ends a script is left out, as services go on with no message that was begun.
    """

    terminator: str = ""

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name."""
        return {"layout": "messages"}

    def write(self, script: Script) -> Prompt:
        """Return the script as a prompt, a message a segment."""
        segments = [Segment(_ROLES[m["role"]], m["content"]) for m in conversation(script)]
        last = max(i for i, segment in enumerate(segments) if segment.role == "demonstration")
        segments[last] = Segment("query", segments[last].text)
        return Prompt(tuple(segments), spells_first_token=True)

    def request(self, text: str) -> Prompt:
        """Return a text of one's own as a message of the user."""
        return Prompt((Segment("query", text),), spells_first_token=True)

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`."""
        return text.strip()

    def reply(self, text: str) -> str:
        """Return the answer in what the model has written: all of it."""
        return text

    def marks(self, script: Script) -> tuple[str, ...]:
        """Return what a text can imitate of what is written around it: nothing."""
        return ()

    def remarks(self, script: Script) -> list[str]:
        """Return what a user should know about prompts such as this: nothing."""
        return []
