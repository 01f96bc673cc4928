"""Prompts for chat models, written by the model's own template.

The template is rendered once with marks in place of the contents and split at the marks; a prompt is put together from
these parts. So it has segments with roles like any other prompt, prefixes are shared, and no template language is run
for each query. That the token ids are those of the template is tried on every example that is shown or asked. Segments
end at the template's own marks: inside a message tokens may reach over any border ("." with the empty line behind it).

Source: transformers documentation, "Chat templates", https://huggingface.co/docs/transformers/chat_templating.
Differs: an instruction goes into the system turn, or in front of the first user turn where the template has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from kshot.core.errors import ModelError, UserError
from kshot.core.methods import Composer
from kshot.core.models import ChatFormat, LanguageModel
from kshot.core.types import Example, Prompt, Segment, Task
from kshot.prompts.plain import Template

LAYOUTS = ("auto", "plain", "turns", "block")
_SYSTEM, _MARKS = "\ue000", "\ue001\ue002\ue003\ue004\ue005"  # one character for each content, as no template has


@dataclass(frozen=True)
class _Parts:
    """What a template writes around the contents of a conversation.

    Attributes:
        head: Before the first user's content; the instruction's place is `_SYSTEM`, if it is in the system turn.
        reply: Between a demonstration's input and its answer.
        lead: What an answer begins with, before its text: a space where the prompt ends without the one that the
            template writes there.
        next: Between a demonstration's output and the next input.
        ask: Behind the query, where the answer begins.
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
    """

    format: ChatFormat
    name: str
    in_block: bool = False
    _known: dict[bool, _Parts] = field(default_factory=dict, repr=False)
    _verified: set[Any] = field(default_factory=set, repr=False)

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name and the template's hash."""
        return {"layout": "block" if self.in_block else "turns", "chat_template": self.format.fingerprint}

    @property
    def terminator(self) -> str:
        """The text that ends an answer, as "<|im_end|>"."""
        return self._parts(False).end

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`."""
        parts = self._parts(False)
        return parts.lead + text.strip() + parts.end

    def compose(self, task: Task, demonstrations: Sequence[Example], query: Example) -> Prompt:
        """Return the prompt with all demonstrations in the order given, the last one next to the query.

        Raises:
            UserError: The token ids would not be those of the model's own template.
        """
        for example in demonstrations:
            self._verify(task, (example,), example, output=example.output)
        self._verify(task, demonstrations[-1:], query)
        return self._write(task, demonstrations, query)

    def _write(self, task: Task, demonstrations: Sequence[Example], query: Example) -> Prompt:
        if self.in_block:
            parts = self._parts(False)
            inside = Template().compose(task, demonstrations, query).text
            return Prompt((Segment("query", parts.head + inside + parts.ask),), spells_first_token=True)
        parts = self._parts(bool(task.instruction))
        in_system = _SYSTEM in parts.head
        head = parts.head.replace(_SYSTEM, task.instruction.strip())
        lead = f"{task.instruction.strip()}\n\n" if task.instruction and not in_system else ""
        before = head + lead
        segments = []
        for example in demonstrations:
            segments.append(Segment("demonstration", before + self._asked(example) + parts.reply))
            segments.append(Segment("answer", self.answer(example.output)))
            before = parts.next.removeprefix(parts.end)
        segments.append(Segment("query", before + self._asked(query) + parts.ask))
        return Prompt(tuple(segments), spells_first_token=True)

    def _asked(self, example: Example) -> str:
        """Return the user's message for an example."""
        return f"{example.context.strip()}\n\n{example.input.strip()}" if example.context else example.input.strip()

    def messages(self, task: Task, demonstrations: Sequence[Example], query: Example) -> list[dict[str, str]]:
        """Return the conversation that the prompt stands for, as any chat API takes it."""
        if self.in_block:
            return [{"role": "user", "content": Template().compose(task, demonstrations, query).text}]
        in_system = _SYSTEM in self._parts(bool(task.instruction)).head
        messages = [{"role": "system", "content": task.instruction.strip()}] if in_system else []
        lead = f"{task.instruction.strip()}\n\n" if task.instruction and not in_system else ""
        for example in (*demonstrations, query):
            messages.append({"role": "user", "content": lead + self._asked(example)})
            messages.append({"role": "assistant", "content": example.output.strip()})
            lead = ""
        return messages[:-1]

    def remark(self, task: Task) -> str | None:
        """Return what a user should know about the prompts, or None."""
        if self.in_block or not task.instruction or _SYSTEM in self._parts(True).head:
            return None
        return f"the chat template of '{self.name}' takes no system turn: the instruction opens the first user turn"

    def _verify(self, task: Task, shown: Sequence[Example], query: Example, output: str | None = None) -> None:
        """Refuse a query whose ids, behind what is shown, would not be the template's.

        A demonstration is tried with itself as the query. Of what is shown only the end of the last answer matters to
        the query, and that is the same in all of them.
        """
        key = (task.kind, task.instruction, query.input, query.context, output, bool(shown))
        if key in self._verified:
            return
        try:
            agrees = self.format.agrees(self._write(task, shown, query), self.messages(task, shown, query))
        except ModelError as error:
            raise UserError(
                f"The chat template of '{self.name}' must take every example; of example '{query.id}' {error}. "
                "Change the example, or use --layout plain."
            ) from error
        if not agrees:
            raise UserError(
                f"The prompt's tokens must be those of the chat template of '{self.name}'; those of example "
                f"'{query.id}' differ, as the template changes its text or its first or last character melts with "
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


def composer_for(model: LanguageModel | None, layout: str) -> Composer:
    """Return the composer for a model.

    Args:
        model: The language model that reads the prompts; None for baselines.
        layout: "plain" for text as base models read it; "turns" and "block" for the model's chat template, with
            demonstrations as turns or in one user message; "auto" is turns for chat models, else plain.

    Raises:
        UserError: An unknown layout, or a chat layout for a model without a template that can be used.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout must be one of {', '.join(LAYOUTS)}; got '{layout}'.")
    chat = model.chat if model else None
    if layout == "plain" or (layout == "auto" and chat is None):
        return Template()
    if model is None or chat is None:
        what = f"'{model.name}' has none" if model else "there is no model"
        raise UserError(f"--layout {layout} needs a model with a chat template; {what}. Use --layout plain.")
    return Chat(chat, model.name, in_block=layout == "block")
