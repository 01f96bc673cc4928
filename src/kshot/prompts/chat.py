"""Prompts for chat models, written by the model's own template.

The template is rendered once with marks in place of the contents and split at the marks; a prompt is put together from
these parts. So it has segments with roles like any other prompt, prefixes are shared, and no template language is run
for each query. That the token ids are those of the template is tried on every example that is shown or asked. Segments
end at the template's own marks: inside a message tokens may reach over any border ("." with the empty line after it).
Only between a reason and the answer in the same message there is a border of ours, so that the answer's tokens are
known: there some tokenizers would write the empty line as other tokens.

Source: transformers documentation, "Chat templates", https://huggingface.co/docs/transformers/chat_templating.
Differs: an instruction goes into the system turn, or in front of the first user turn where the template has none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import commonprefix
from typing import Any

from kshot.core.control_tokens import Speller
from kshot.core.errors import ModelError, UserError
from kshot.core.models import ChatFormat
from kshot.core.script import Piece, Script, Turn
from kshot.core.types import Prompt, Segment
from kshot.prompts.messages import WHY, conversation, paragraphs, reason_of, without_thoughts
from kshot.prompts.plain import Plain

_SYSTEM, _MARKS = "\ue000", "\ue001\ue002\ue003\ue004\ue005"  # one character for each content, as no template has

_END_OF_THOUGHTS = re.compile(r"(?P<end>[<\[]/[^<>\[\]]*(?:think|thought|reason)[^<>\[\]]*[>\]])\s*$", re.IGNORECASE)


_NOTHING = Piece("question", "")


@dataclass(frozen=True)
class _Parts:
    """What a template writes around the contents of a conversation.

    Attributes:
        head: Before the first user's content; the instruction's place is `_SYSTEM`, if it is in the system turn.
        reply: Between a demonstration's input and its answer.
        lead: What an answer begins with, before its text: a space where the prompt ends without the one that the
            template writes there.
        next: Between a demonstration's output and the next input.
        ask: After the query, where the answer begins.
        end: What closes an answer: how `next` begins.
    """

    head: str
    reply: str
    lead: str
    next: str
    ask: str
    end: str


@dataclass(frozen=True, eq=False)
class Chat:
    """Write prompts as a conversation: demonstrations as turns, or all of them in one user message.

    Args:
        format: The model's template.
        name: What messages call the model.
        in_block: Put instruction, demonstrations and query, in the plain layout, into one user message.
        spell: Spells out the model's control tokens where users write them, so that turns are the template's alone.
    """

    format: ChatFormat
    name: str
    in_block: bool = False
    spell: Speller = field(default=Speller(), compare=False, repr=False)
    _known: dict[bool, _Parts] = field(default_factory=dict, repr=False)
    _verified: set[Any] = field(default_factory=set, repr=False)

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name and the template's hash."""
        return {"layout": "block" if self.in_block else "turns", "chat_template": self.format.fingerprint}

    @property
    def terminator(self) -> str:
        """The text that ends an answer, such as "<|im_end|>"."""
        return self._parts(False).end

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`."""
        return self._answer(self.spell(text))

    def _answer(self, text: str) -> str:
        parts = self._parts(False)
        return parts.lead + text.strip() + parts.end

    def write(self, script: Script) -> Prompt:
        """Return the script as a prompt.

        Raises:
            UserError: The token ids would not be those of the model's own template.
        """
        script = script.spelled_out(self.spell)
        *shown, last = script.turns
        for turn in shown:  # each is tried with itself as the question
            self._verify(script, (turn,), turn)
        self._verify(script, shown[-1:], Turn.of(last).asked)
        return self._write(script)

    def request(self, text: str) -> Prompt:
        """Return a text of one's own as a message of the user."""
        parts = self._parts(False)
        return Prompt((Segment("query", parts.head + self.spell(text) + parts.ask),), spells_first_token=True)

    def _write(self, script: Script) -> Prompt:
        return Prompt(tuple(self._in_block(script) if self.in_block else self._in_turns(script)), True)

    def _in_block(self, script: Script) -> list[Segment]:
        parts, last = self._parts(False), Turn.of(script.turns[-1])
        n_after = (last.answer is not None) + (last.because is not None)
        inside = replace(script, pieces=script.pieces[: len(script.pieces) - n_after])
        text, spans = parts.head, list[tuple[str, int, int]]()
        for segment in Plain().write_spelled(inside).segments:
            spans += [(span, len(text) + start, len(text) + end) for span, start, end in segment.spans]
            text += segment.text
        return [Segment("query", text + parts.ask, tuple(spans)), *self._answered(last)]

    def _in_turns(self, script: Script) -> list[Segment]:
        opening = paragraphs(script.opening)
        parts = self._parts(bool(script.opening))
        in_system = _SYSTEM in parts.head
        before = parts.head.replace(_SYSTEM, opening)
        before += f"{opening}\n\n" if script.opening and not in_system else ""
        turns, segments = [Turn.of(turn) for turn in script.turns], []
        is_asked = {id(script.pieces[i]): span for i, span in script.asked_pieces.items()}
        for i, turn in enumerate(turns):
            role, reply = ("demonstration", parts.reply) if i + 1 < len(turns) else ("query", parts.ask)
            spans, at = list[tuple[str, int, int]](), len(before)
            for piece in turn.asked:
                end = at + len(paragraphs([piece]))
                spans += [(is_asked[id(piece)], at, end)] if id(piece) in is_asked else []
                at = end + len(paragraphs([_NOTHING, _NOTHING]))
            segments.append(Segment(role, before + paragraphs(turn.asked) + reply, tuple(spans)))
            is_begun = script.wants == "reason" and i + 1 == len(turns)
            between = "" if is_begun else "\n\n"
            segments += [Segment("reason", f"{parts.lead}{piece.text.strip()}{between}") for piece in turn.reasons]
            segments += self._answered(turn)
            before = parts.next.removeprefix(parts.end)
        return segments

    def _answered(self, turn: Turn) -> list[Segment]:
        """Return the answer of a turn and the reason after it, which the user asks for in a turn of its own."""
        parts = self._parts(False)
        segments = [Segment("answer", self._answer(turn.answer.text))] if turn.answer else []
        if turn.because:
            asked = parts.next.removeprefix(parts.end) + WHY + parts.reply
            segments += [Segment("demonstration", asked), Segment("reason", self._answer(turn.because.text))]
        return segments

    def messages(self, script: Script) -> list[dict[str, str]]:
        """Return the conversation that the prompt stands for."""
        if self.in_block:
            return [{"role": "user", "content": Plain().write_spelled(script).text}]
        with_system = _SYSTEM in self._parts(bool(script.opening)).head
        return conversation(script, with_system=with_system, lead=self._parts(False).lead)

    def reply(self, text: str) -> str:
        """Return the answer in what the model has written, without the blocks of thoughts before it.

        Blocks are `<think>`, `[THINK]` and what the template itself closes before an answer, such as `<reasoning>`;
        other marks are left as parts of answers. A block that comes to no end is all thoughts: the answer is empty.
        """
        return without_thoughts(text, self._own_block)

    @cached_property
    def _own_block(self) -> dict[str, str]:
        closed = _END_OF_THOUGHTS.search(self._parts(False).ask)
        return {closed["end"].replace("/", "", 1): closed["end"]} if closed else {}

    def reason_ends(self, script: Script) -> tuple[str, ...]:
        """Return what ends a reason: the answer's name in a block, else nothing but the end of the message."""
        return (f"\n{script.wanted}:",) if self.in_block else ()

    def reason(self, text: str, script: Script, answers: Sequence[str]) -> str:
        """Return the reason in what the model has written."""
        return reason_of(text, script, answers)

    def marks(self, script: Script) -> tuple[str, ...]:
        """Return the words of the template between turns that are neither control tokens nor ordinary words."""
        parts = self._parts(False)
        between = " ".join((parts.reply, parts.next, parts.ask))
        for token in self.spell.found(between).values():
            between = between.replace(token, " ")
        return tuple(dict.fromkeys(word for word in between.split() if not word.isalnum()))

    def remarks(self, script: Script) -> list[str]:
        """Return what a user should know about prompts such as this."""
        said = [f"prompts are in the model's chat template (--layout {self.record['layout']})"]
        if not self.in_block and script.opening and _SYSTEM not in self._parts(True).head:
            said.append(
                f"the chat template of '{self.name}' takes no system turn: the instruction opens the first user turn"
            )
        if _END_OF_THOUGHTS.search(self._parts(False).ask):
            said.append(
                f"'{self.name}' answers at once: its block of thoughts is closed, empty, before each answer; thoughts "
                "that it writes all the same are left out of its answers"
            )
        return said

    def _verify(self, script: Script, shown: Sequence[tuple[Piece, ...]], turn: tuple[Piece, ...]) -> None:
        """Refuse a turn whose question's ids, after what is shown, would not be the template's.

        Of what is shown only the end of the last answer matters to the question, and that is the same in all of them;
        reasons before it are left out, as there is a border of ours after them.
        """
        key = (script.opening, script.given, script.wanted, turn, bool(shown))
        if key in self._verified:
            return
        asked = Turn.of(turn).asked
        told = [(*t.asked, *filter(None, (t.answer, t.because))) for t in map(Turn.of, shown)]
        pieces = (*script.opening, *(piece for t in told for piece in t), *asked)
        tried = replace(script, pieces=pieces, wants="answer")
        example = asked[-1].example
        try:
            agrees = self.format.agrees(self._write(tried), self.messages(tried))
        except ModelError as error:
            raise UserError(
                f"The chat template of '{self.name}' must take every example; of example '{example}' {error}. "
                "Change the example, or use --layout plain."
            ) from error
        if not agrees:
            raise UserError(
                f"The prompt's tokens must be those of the chat template of '{self.name}'; those of example "
                f"'{example}' differ, as the template changes its text or its first or last character melts with "
                "what stands beside it. Change the example, or use --layout plain."
            )
        self._verified.add(key)

    def _parts(self, with_system: bool) -> _Parts:
        """Return the template's parts; without a system turn where it refuses one or puts it elsewhere."""
        if with_system not in self._known:
            reasons = []
            for system in (True, False) if with_system else (False,):
                try:
                    self._known[with_system] = self._split(system)
                    break
                except ModelError as error:
                    reasons.append(str(error))
            else:
                raise UserError(
                    f"The chat template of '{self.name}' must write turns one after the other, each answer as given; "
                    f"{reasons[-1]}. Use --layout plain."
                )
        return self._known[with_system]

    def _split(self, system: bool) -> _Parts:
        turns = [{"role": "assistant" if i % 2 else "user", "content": mark} for i, mark in enumerate(_MARKS)]
        first = [{"role": "system", "content": _SYSTEM}] if system else []
        text = self.format.render([*first, *turns], open_answer=True)
        marks = [c for c in text if c in _MARKS or c == _SYSTEM]
        if marks != list(_SYSTEM * system + _MARKS):
            raise ModelError("it leaves out, repeats or moves what is said")
        pieces = [text]
        for mark in _MARKS:
            pieces[-1:] = pieces[-1].split(mark)
        head, reply, after, reply_again, after_again, ask = pieces
        closed = self.format.render([*first, *turns[:2]], open_answer=False).split(_MARKS[1])[1]
        end = commonprefix([closed, after]).rstrip()
        alone = self.format.render([*first, turns[0]], open_answer=True)
        if (reply, after, head + _MARKS[0] + ask) != (reply_again, after_again, alone) or not end:
            raise ModelError("it writes the turns of a conversation in different ways, or does not close an answer")
        lead = reply[len(ask) :] if reply.startswith(ask) else ""
        return _Parts(head, reply.removesuffix(lead), lead, after, ask, end)
