"""Rows that are conversations: `messages` (OpenAI, TRL), `conversations` (ShareGPT), or `prompt` and `completion`.

A message is {"role": …, "content": …} or {"from": …, "value": …}, its content a text or a list of parts that are
texts. The last message, by the assistant, is the output; the user's message before it is the input. An answer with
`weight` 0 must not be learnt (OpenAI's fine-tuning files): the output is the last one that may be, and a row without
one is left out. Earlier turns become the context, one "User: …" or "Assistant: …" each, with an empty line between
them. A system message stands first, or in a column `system` of its own; one that is the same in every row (train and
test) is the task's instruction, others begin the context of their rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kshot.core.errors import UserError
from kshot.tasks.missing import is_missing
from kshot.tasks.rows import REQUIRED, Row, each_row, shown
from kshot.tasks.tables import Table

LISTS = ("messages", "conversations", "conversation")
SYSTEM_COLUMNS = ("system", "system_prompt")
ROLES: Mapping[str, str] = {  # also OpenAI's new name of the system, and ShareGPT's names
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
READ = ("role", "content", "from", "value", "weight")
TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class MessageColumns:
    """The columns that make up a conversation: lists of messages, and maybe one of system messages."""

    lists: tuple[str, ...]
    system: str | None = None

    @property
    def read(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.lists, *([self.system] if self.system else []))

    def __str__(self) -> str:
        return " and ".join(f"'{column}'" for column in self.lists)


@dataclass(frozen=True)
class _Message:
    role: str
    content: str
    learnt: bool = True
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Talk:
    """A row's conversation: all of it, and up to the last answer that may be learnt, or None without one."""

    row: Row
    whole: list[_Message]
    learnt: list[_Message] | None


def columns_of_messages(table: Table, columns: Mapping[str, str], *, labelled: bool = True) -> MessageColumns | None:
    """Return the columns that hold each row's conversation; None if rows are not like that.

    Rows that need not be `labelled` may have any column called output, and lack a completion.
    """
    present = set(table.columns)
    if set(REQUIRED if labelled else ("input",)) & (present | columns.keys()):
        return None
    system = system_column(present, columns)
    for column in LISTS:
        if column in present and (column == "messages" or _holds_lists(table, column)):
            return MessageColumns((column,), system)
    pair = ("prompt", "completion") if labelled or "completion" in present else ("prompt",)
    lists = any(_holds_lists(table, column) for column in pair)
    return MessageColumns(pair, system) if set(pair) <= present and lists else None


def system_column(present: Sequence[str] | set[str], columns: Mapping[str, str]) -> str | None:
    """Return the column of system messages, if there is one that is not another field's."""
    return next((c for c in SYSTEM_COLUMNS if c in present and c not in columns.values()), None)


def as_examples(tables: Sequence[Table], columns: MessageColumns) -> tuple[list[Table], str]:
    """Return tables with the columns input, output and maybe context, and the instruction that all rows share.

    Args:
        tables: Train rows, then test rows, which are dropped if all of them end with the user.
        columns: As `columns_of_messages` gave them.

    Raises:
        BadRowsError: Rows whose messages are not as they must be.
        UserError: No answer may be learnt.
    """
    tables = [tables[0], *(_without_unanswered(table, columns) for table in tables[1:])]
    talks = [each_row(table.rows, partial(_talk, columns=columns)) for table in tables]
    if not any(talk.learnt for talk in talks[0]):
        raise UserError(
            f"{tables[0].source} must hold an answer that may be learnt, but each has the weight 0; give one another "
            "weight."
        )
    systems = {_system(talk.learnt) for split in talks for talk in split if talk.learnt}
    shared = systems.pop() if len(systems) == 1 else ""
    made = []
    for table, split in zip(tables, talks, strict=True):
        rows = tuple(_as_row(talk.row, columns, talk.learnt, shared) for talk in split if talk.learnt)
        made.append(replace(table, rows=rows, notes=(*table.notes, *_notes(table, split))))
    return made, shared


def as_inputs(table: Table, columns: MessageColumns, instruction: str) -> Table:
    """Return a table of rows to be answered, whose last message may be the user's: the input.

    Args:
        table: Rows; an answer at the end of a conversation is not read.
        columns: As `columns_of_messages` gave them.
        instruction: The task's; the system message that says the same is left out.

    Raises:
        BadRowsError: Rows whose messages are not as they must be.
    """

    def asked(row: Row) -> list[_Message]:
        talk = _messages(row, columns, labelled=False)
        if not talk or talk[-1].role == "system":
            row.fail(f"{columns} must end with a message by the user, the input; there is none; add it.")
        talk = [*talk, _Message("assistant", "")] if talk[-1].role == "user" else _learnt(talk) or talk
        return _checked(row, columns, talk)

    talks = each_row(table.rows, asked)
    rows = tuple(_as_row(row, columns, talk, instruction) for row, talk in zip(table.rows, talks, strict=True))
    others = {*map(_system, talks)} - {"", instruction}
    notes = ("system messages other than the task's instruction begin the context",) if others else ()
    return replace(table, rows=rows, notes=(*table.notes, *notes))


def joined(own: object, parts: Sequence[str]) -> object:
    """Return a row's own context with parts of a conversation after it; what is no text is left for its own check."""
    if not parts or not (is_missing(own) or isinstance(own, str)):
        return own
    return "\n\n".join([*([own] if isinstance(own, str) and not is_missing(own) else []), *parts])


def turn(role: str, content: str) -> str:
    """Return an earlier message as it stands in the context."""
    return f"{role.capitalize()}: {content}"


def _holds_lists(table: Table, column: str) -> bool:
    return any(isinstance(row.values.get(column), list) for row in table.rows)


def _without_unanswered(table: Table, columns: MessageColumns) -> Table:
    """Return a table without its rows if each of them ends with the user, as test rows of competitions do."""

    def answered(row: Row) -> bool:
        messages = row.values.get(columns.lists[-1])
        last = messages[-1] if isinstance(messages, list) and messages else None
        role = last.get("role", last.get("from")) if isinstance(last, dict) else None
        return not isinstance(role, str) or ROLES.get(role.lower()) != "user"

    if any(map(answered, table.rows)):
        return table
    return table.without_rows(columns.lists[-1])


def _system(talk: Sequence[_Message]) -> str:
    return "\n\n".join(dict.fromkeys(message.content for message in talk if message.role == "system"))


def _talk(row: Row, columns: MessageColumns) -> _Talk:
    whole = _messages(row, columns, labelled=True)
    learnt = _learnt(whole)
    return _Talk(row, whole, None if learnt is None else _checked(row, columns, learnt))


def _messages(row: Row, columns: MessageColumns, *, labelled: bool) -> list[_Message]:
    talk = []
    if columns.system and not is_missing(system := row.values.get(columns.system)):
        talk.append(_Message("system", row.text(system, f"'{columns.system}'")))
    for column in columns.lists:
        messages = row.values.get(column)
        if column == "completion" and messages is None and not labelled:
            continue
        if not isinstance(messages, list):
            row.fail(
                f'\'{column}\' must be a list of messages, such as {{"role": …, "content": …}}; got {shown(messages)}; '
                "write it as one, or name the columns, as in --columns input=question,output=answer."
            )
        talk += [_message(row, f"'{column}' item {i}", message) for i, message in enumerate(messages, 1)]
    return talk


def _learnt(talk: list[_Message]) -> list[_Message] | None:
    """Return a conversation up to its last answer that may be learnt; None if all of its answers must not be."""
    answers = [i for i, message in enumerate(talk, 1) if message.role == "assistant"]
    learnt = [i for i in answers if talk[i - 1].learnt]
    if not answers or learnt[-1:] == answers[-1:]:
        return talk
    return talk[: learnt[-1]] if learnt else None


def _checked(row: Row, columns: MessageColumns, talk: list[_Message]) -> list[_Message]:
    """Return a conversation that ends with the user's message and the assistant's.

    Raises:
        BadRowsError: It does not, or a system message stands within it.
    """
    roles = [message.role for message in talk]
    if "assistant" not in roles:
        row.fail(
            f"{columns} must end with a message by the assistant, the output; there is none; add it, or leave the row "
            "out."
        )
    if roles[-1] != "assistant":
        row.fail(
            f"{columns} must end with a message by the assistant, the output; the last one is by the {roles[-1]}; add "
            "the answer, or leave the row out."
        )
    if len(roles) < 2 or roles[-2] != "user":
        before = f"is by the {roles[-2]}" if len(roles) > 1 else "is missing"
        row.fail(
            f"{columns} must have a message by the user, the input, before the last one; it {before}; add it, or leave "
            "the row out."
        )
    n_first = next(i for i, role in enumerate(roles) if role != "system")
    if "system" in roles[n_first:]:
        row.fail(f"{columns} must have system messages only at the beginning; put them there, or leave the row out.")
    return talk


def _message(row: Row, what: str, message: Any) -> _Message:
    keys = set(message) if isinstance(message, dict) else set()
    if not ({"role", "content"} <= keys or {"from", "value"} <= keys):
        row.fail(
            f'{what} must be a message, such as {{"role": …, "content": …}}; got {shown(message)}; write it as one.'
        )
    role_key, content_key = ("role", "content") if {"role", "content"} <= keys else ("from", "value")
    role, content = message[role_key], message[content_key]
    weight = message.get("weight")
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        row.fail(f"{what} must have a role of system, user, assistant; got {shown(role)}; leave such rows out.")
    calls = [key for key in ("tool_calls", "function_call") if not is_missing(message.get(key))]
    if calls:
        row.fail(f"{what} must be a text, but it calls a tool ('{calls[0]}'); leave such rows out.")
    if weight not in (None, 0, 1):
        row.fail(f"the weight of {what} must be 0 or 1; got {shown(weight)}; correct it.")
    unread = tuple(key for key, value in message.items() if key not in READ and not is_missing(value))
    return _Message(known, _content(row, content, f"the content of {what}"), weight != 0, unread)


def _content(row: Row, content: Any, what: str) -> str:
    if not isinstance(content, list):
        return row.text(content, what)
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind not in TEXT_PARTS:
            row.fail(f"{what} must be text alone, but a part of it is of the type {shown(kind)}; leave such rows out.")
        texts.append(row.text(part.get("text") if isinstance(part, dict) else part, what))
    return row.text("\n".join(texts), what)


def _as_row(row: Row, columns: MessageColumns, talk: list[_Message], shared: str) -> Row:
    system = _system(talk)
    context = [system] if system not in ("", shared) else []
    context += [turn(message.role, message.content) for message in talk[:-2] if message.role != "system"]
    values = {column: value for column, value in row.values.items() if column not in columns.read}
    values |= {"input": talk[-2].content, "output": talk[-1].content}
    if context:
        values["context"] = joined(values.get("context"), context)
    return replace(row, values=values)


def _notes(table: Table, talks: Sequence[_Talk]) -> Iterator[str]:
    left_out = [talk.row for talk in talks if talk.learnt is None]
    cut = [talk.row for talk in talks if talk.learnt not in (None, talk.whole)]
    if cut:
        yield (
            f"{_rows(table, cut)}: the last answer has the weight 0 and is not learnt; the output is the last one "
            "before it that may be"
        )
    if left_out:
        yield f"{_rows(table, left_out)}: left out, as all answers have the weight 0"
    if unread := dict.fromkeys(key for talk in talks for message in talk.whole for key in message.unread):
        yield f"not used in messages: {', '.join(unread)}"


def _rows(table: Table, rows: Sequence[Row]) -> str:
    first = ", ".join(str(row.number) for row in rows[:3]) + (", …" if len(rows) > 3 else "")
    return f"{len(rows)} row{'s' * (len(rows) > 1)} of {table.short} ({first})"
