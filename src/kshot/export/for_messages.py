"""The messages of a chat, as every chat API takes them."""

from dataclasses import dataclass
from pathlib import Path

from kshot.core.control_tokens import without_marks
from kshot.core.json_text import from_json
from kshot.core.types import Question
from kshot.export.formats import messages_line
from kshot.export.handover import Handover
from kshot.export.own_reading import OwnReading
from kshot.export.target import Reader, filled

MESSAGES = "messages.json"


@dataclass(frozen=True)
class ForMessages:
    """Writes `messages.json`: the instruction as system, demonstrations as turns, then "{input}" as the user."""

    name: str = "messages"
    weights: bool = False

    def write(self, given: Handover, folder: Path) -> None:
        """Write the list."""
        (folder / MESSAGES).write_text(messages_line(given.messages(given.for_any)), "utf-8")

    def usage(self, given: Handover) -> str:
        """Say how a query is put in."""
        context = ", its passage in place of `{context}` there" if given.has_context else ""
        return (
            f"Send `{MESSAGES}` as `messages` to a chat API, the query in place of the last `{{input}}`{context}: "
            "replace, do not format. The reply is the answer."
        )

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return the model that was measured, if it has chats."""
        own, messages = OwnReading(given), from_json((folder / MESSAGES).read_text("utf-8"))
        layout = own.chat_layout

        def prompt(question: Question) -> list[dict[str, str]]:
            *before, last = messages
            return [*before, {**last, "content": filled(last["content"], question)}]

        return Reader(own.name, prompt, own.log_probs, lambda text: without_marks(layout.answer(given.said(text))))
