"""The layout for models behind an API: messages, which the service writes as it likes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from kshot.core.script import Piece, Script, Turn, without_empty_lines
from kshot.core.types import Prompt, Role, Segment

WHY = "Why?"
# Blocks of thoughts as reasoning models write them, whatever their template says
_THOUGHTS = {"<think>": "</think>", "[THINK]": "[/THINK]"}
_ROLES: Mapping[str, Role] = {"system": "instruction", "user": "demonstration", "assistant": "answer"}


def paragraphs(pieces: Sequence[Piece]) -> str:
    """Return texts with an empty line between them."""
    return "\n\n".join(piece.text.strip() for piece in pieces)


def conversation(script: Script, *, with_system: bool = True, lead: str = "") -> list[dict[str, str]]:
    """Return the messages that a script stands for: user and assistant in turn.

    A reason is in the assistant's message, before its answer; one after the answer is the assistant's next message,
    which the user asks for (`WHY`).

    Args:
        script: What is said.
        with_system: The opening is the system's message; otherwise it opens the user's first one.
        lead: What an answer begins with after its reason.
    """
    opening = paragraphs(script.opening)
    messages = [{"role": "system", "content": opening}] if script.opening and with_system else []
    before = f"{opening}\n\n" if script.opening and not with_system else ""
    for turn in map(Turn.of, script.turns):
        messages.append({"role": "user", "content": before + paragraphs(turn.asked)})
        if turn.answer:
            said = f"\n\n{lead}".join(piece.text.strip() for piece in (*turn.reasons, turn.answer))
            messages.append({"role": "assistant", "content": said})
        if turn.because:
            messages.append({"role": "user", "content": WHY})
            messages.append({"role": "assistant", "content": turn.because.text.strip()})
        before = ""
    return messages


def reason_of(text: str, script: Script, answers: Sequence[str]) -> str:
    """Return the reason in a message: all but an answer that is its last paragraph.

    That is one of the answers to choose from or, where there are none, what follows the reason in what is shown too.
    """
    *before, last = re.split(r"\n[^\S\n]*\n", text.strip())
    known = {_bare(answer) for answer in answers}
    is_shown = any(turn.reasons and turn.answer for turn in map(Turn.of, script.turns))
    is_answer = _bare(last) in known if known else is_shown and bool(before)
    return without_empty_lines("\n".join(before if is_answer else [*before, last]))


def without_thoughts(text: str, blocks: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a text without the blocks of thoughts that it begins with.

    Args:
        text: What a model has written.
        blocks: What begins and ends a block, beside those of well-known models.
    """
    ends = (_THOUGHTS | dict(blocks)).items()
    either = "|".join(rf"{re.escape(begin)}.*?(?:{re.escape(end)}|\Z)" for begin, end in ends)
    return re.sub(rf"\A(?:\s*(?:{either}))+\s*", "", text, flags=re.DOTALL)


def _bare(text: str) -> str:
    return text.strip().strip(".*\"'").casefold()


def _told_to_user(script: Script) -> Script:
    """Return a script that ends with a reason with the reasons in the user's messages: all, or one that is begun."""
    if script.pieces[-1].role != "reason" or Turn.of(script.turns[-1]).answer:
        return script
    pieces = list[Piece]()
    for i, piece in enumerate(script.pieces):
        is_begun = script.wants == "reason"
        if piece.role != "reason" or pieces[-1].role == "answer" or (is_begun and i + 1 < len(script.pieces)):
            pieces.append(piece)
            continue
        at = max(i for i, other in enumerate(pieces) if other.role == "question")
        told = piece.text if is_begun else f"{script.grounds}: {piece.text}"
        pieces[at] = replace(pieces[at], text=f"{pieces[at].text.strip()}\n\n{told}")
    return replace(script, pieces=tuple(pieces))


@dataclass(frozen=True)
class ApiMessages:
    """Write a script as messages for a chat API: each segment of the prompt is one message.

    It needs no chat template, and an answer is its bare text. A reason before its answer is in the same message. One
    that ends a script is in the user's message, as services go on with no message that was begun; then so are those of
    the demonstrations.
    """

    terminator: str = ""

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name."""
        return {"layout": "messages"}

    def write(self, script: Script) -> Prompt:
        """Return the script as a prompt, a message a segment."""
        segments = [Segment(_ROLES[m["role"]], m["content"]) for m in conversation(_told_to_user(script))]
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
        """Return the answer in what the model has written, without the blocks of thoughts that a server leaves in it.

        A block that comes to no end is all thoughts: the answer is empty.
        """
        return without_thoughts(text)

    def reason_ends(self, script: Script) -> tuple[str, ...]:
        """Return what ends a reason: nothing but the end of the message."""
        return ()

    def reason(self, text: str, script: Script, answers: Sequence[str]) -> str:
        """Return the reason in what the model has written."""
        return reason_of(text, script, answers)

    def marks(self, script: Script) -> tuple[str, ...]:
        """Return what a text can imitate of what is written around it: nothing."""
        return ()

    def remarks(self, script: Script) -> list[str]:
        """Return what a user should know about prompts such as this: nothing."""
        return []
