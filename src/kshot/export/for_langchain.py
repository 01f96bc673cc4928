"""A few-shot template of langchain: of text for a base model, of messages for a chat model."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kshot.core.control_tokens import without_marks
from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.script import Piece, Script, ScriptRole
from kshot.core.types import Question
from kshot.export.handover import Handover
from kshot.export.own_reading import OwnReading
from kshot.export.target import NotReadError, Reader
from kshot.prompts.plain import Plain

TEMPLATE, CHAT = "few_shot.json", "chat.json"
_NAMES: dict[ScriptRole, str] = {"context": "context", "question": "input", "reason": "reason", "answer": "output"}
_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class ForLangchain:
    """Writes the arguments of a `FewShotPromptTemplate`, or of `ChatPromptTemplate.from_messages`, as JSON.

    langchain formats the examples, and then the whole again: braces of the texts are doubled as often as they are read.
    """

    name: str = "langchain"
    weights: bool = False

    def write(self, given: Handover, folder: Path) -> None:
        """Write the template."""
        if _is_chat(given):
            messages = given.messages(given.for_any)
            places = [
                (m["role"], _open(m["content"]) if m is messages[-1] else _quoted(m["content"])) for m in messages
            ]
            (folder / CHAT).write_text(to_json(places, indent=1) + "\n", "utf-8")
        else:
            (folder / TEMPLATE).write_text(to_json(_few_shot(given), indent=1) + "\n", "utf-8")

    def usage(self, given: Handover) -> str:
        """Say how langchain loads it."""
        asked = 'context="…", input="…"' if given.has_context else 'input="…"'
        if _is_chat(given):
            return (
                "```python\nimport json\nfrom langchain_core.prompts import ChatPromptTemplate\n\n"
                f'template = ChatPromptTemplate.from_messages([tuple(m) for m in json.load(open("{CHAT}"))])\n'
                f"template.format_messages({asked})\n```"
            )
        return (
            "```python\nimport json\nfrom langchain_core.prompts import FewShotPromptTemplate\n\n"
            f'template = FewShotPromptTemplate(**json.load(open("{TEMPLATE}")))\n'
            f"template.format({asked})\n```"
        )

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return langchain's own prompt of the template, read by the model that was measured."""
        try:
            from langchain_core import prompts  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise NotReadError(
                "langchain writes the prompt of its template; it is not installed. Install it, in an environment of "
                "its own, with: pip install 'kshot[frameworks]'"
            ) from None
        own, name = OwnReading(given), f"langchain-core {version('langchain-core')}"
        if _is_chat(given):
            layout = own.chat_layout
            chat = prompts.ChatPromptTemplate.from_messages([tuple(m) for m in _read(folder / CHAT)])
            speakers = {"human": "user", "ai": "assistant", "system": "system"}

            def messages(question: Question) -> list[dict[str, str]]:
                found = chat.format_messages(**_fields(given, question))
                return [{"role": speakers[m.type], "content": str(m.content)} for m in found]

            answer = lambda text: without_marks(layout.answer(given.said(text)))  # noqa: E731
            return Reader(f"{name} with {own.name}", messages, own.log_probs, answer)
        template = prompts.FewShotPromptTemplate(**_read(folder / TEMPLATE))
        return Reader(
            f"{name} with {own.name}",
            lambda question: template.format(**_fields(given, question)),
            own.log_probs,
            given.answer,
        )


def _read(file: Path) -> Any:
    return from_json(file.read_text("utf-8"))


def _is_chat(given: Handover) -> bool:
    return given.task_model.layout.record["layout"] != "plain"


def _fields(given: Handover, question: Question) -> dict[str, str]:
    context = {"context": question.context or ""} if given.has_context else {}
    return {**context, "input": question.input}


def _few_shot(given: Handover) -> dict[str, Any]:
    """Return the arguments of a FewShotPromptTemplate whose text is that of the plain layout."""
    script = given.for_any
    *shown, asked = script.turns
    roles = [_roles(turn) for turn in shown]
    expected = roles[0] if roles else (*_roles(asked), "answer")
    before = expected[: expected.index("answer")]
    if any(found != expected for found in roles) or _roles(asked) != before:
        raise UserError(
            "--to langchain needs demonstrations that all have the same parts, as its template has one form for them; "
            "some have a context or a reason and others none. Use --to prompt."
        )
    form = _written(script, [Piece(role, f"{{{_NAMES[role]}}}") for role in expected]).removesuffix(_SEPARATOR)
    query = _written(script, [Piece(role, f"{{{_NAMES[role]}}}") for role in before])
    names = [_NAMES[role] for role in expected]
    prefix = Plain().write(Script((*script.opening, Piece("question", "")), script.given, script.wanted)).text
    prefix = prefix.removesuffix(_written(script, [Piece("question", "")])).removesuffix(_SEPARATOR)
    return {
        "examples": [{name: _quoted(piece.text) for name, piece in zip(names, turn, strict=True)} for turn in shown],
        "example_prompt": {"template": _around(form, names, times=2), "input_variables": names},
        "prefix": _quoted(prefix),
        "suffix": _around(query, names[: len(before)], times=1),
        "example_separator": _SEPARATOR,
        "input_variables": names[: len(before)],
    }


def _roles(turn: Sequence[Piece]) -> tuple[ScriptRole, ...]:
    return tuple(piece.role for piece in turn)


def _written(script: Script, pieces: Sequence[Piece]) -> str:
    return Plain().write(Script(tuple(pieces), script.given, script.wanted)).text


def _around(text: str, names: Sequence[str], *, times: int) -> str:
    """Return a template in which only the places of names are places, however often braces are read."""
    for _ in range(times):
        text = _quoted(text)
    for name in names:
        place = f"{{{name}}}"
        for _ in range(times):
            place = _quoted(place)
        text = text.replace(place, f"{{{name}}}")
    return text


def _open(text: str) -> str:
    """Return the last message as a template: its last "{input}", and "{context}" before it, are places."""
    before, _, after = text.rpartition("{input}")
    early, found, late = before.rpartition("{context}")
    head = f"{_quoted(early)}{{context}}{_quoted(late)}" if found else _quoted(before)
    return f"{head}{{input}}{_quoted(after)}"


def _quoted(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
