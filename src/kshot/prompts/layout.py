"""How a script is written for a model: what a layout must be, and which one a model takes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from kshot.core.control_tokens import Speller
from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.script import Script
from kshot.core.types import Prompt
from kshot.prompts.chat import Chat
from kshot.prompts.messages import ApiMessages
from kshot.prompts.plain import Plain

LAYOUTS = ("auto", "plain", "turns", "block", "messages")


class Layout(Protocol):
    """Writes scripts for a model: a property of the run and its model, not of a recipe."""

    @property
    def record(self) -> Mapping[str, str]:
        """What it is: equal records write equal prompts."""
        ...

    @property
    def terminator(self) -> str:
        """The text that ends an answer; empty where the end is no text."""
        ...

    def write(self, script: Script) -> Prompt:
        """Return the script as a prompt.

        Raises:
            UserError: The model cannot be asked this.
        """
        ...

    def request(self, text: str) -> Prompt:
        """Return a text of one's own as a prompt: what a chat model is asked is a message of its user."""
        ...

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`, with the terminator."""
        ...

    def reply(self, text: str) -> str:
        """Return the answer in what the model has written."""
        ...

    def reason_ends(self, script: Script) -> tuple[str, ...]:
        """Return the texts that end a reason that the model writes after a script that wants one."""
        ...

    def reason(self, text: str, script: Script, answers: Sequence[str]) -> str:
        """Return the reason in what the model has written after a script, without an answer after it.

        Args:
            text: What was written, up to one of `reason_ends`.
            script: What it was written after.
            answers: The answers that there are to choose from, as they are said; none in open tasks.
        """
        ...

    def marks(self, script: Script) -> tuple[str, ...]:
        """Return what the layout writes around texts and a text can imitate, as it is no control token."""
        ...

    def remarks(self, script: Script) -> list[str]:
        """Return what a user should know about prompts such as this."""
        ...


def layout_for(model: LanguageModel | None, layout: str) -> Layout:
    """Return the layout for a model.

    Args:
        model: The language model that reads the prompts; None for classifiers without one.
        layout: "plain" for text as base models read it; "turns" and "block" for the model's chat template, with
            demonstrations as turns or in one user message; "messages" for models behind an API that are asked in
            messages, and for these alone; "auto" is messages for them, turns for chat models, else plain.

    Raises:
        UserError: An unknown layout, or a chat layout for a model without a template that can be used.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout must be one of {', '.join(LAYOUTS)}; got '{layout}'.")
    if model is not None and model.in_messages:
        if layout not in ("auto", "messages"):
            raise UserError(
                f"--layout must be messages for '{model.name}', as its service writes them in its own way; got "
                f"'{layout}'. Leave it out, or take an --api route that is asked by a text."
            )
        return ApiMessages()
    if layout == "messages":
        what = f"'{model.name}' is not" if model else "there is no model"
        raise UserError(
            f"--layout messages needs a model behind an API that is asked in messages; {what}. Use --layout plain."
        )
    chat = model.chat if model else None
    if layout == "plain" or (layout == "auto" and chat is None):
        return Plain(spell=Speller(model.control_tokens if model else ()))
    if model is None or chat is None:
        what = f"'{model.name}' has none" if model else "there is no model"
        raise UserError(f"--layout {layout} needs a model with a chat template; {what}. Use --layout plain.")
    return Chat(chat, model.name, in_block=layout == "block", spell=Speller(model.control_tokens))
