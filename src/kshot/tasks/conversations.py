"""Rows that are conversations: `messages`, or `prompt` and `completion` as lists of messages (TRL's formats).

A message is {"role": …, "content": …} with a text as content. The last message, by the assistant, is the output; the
user's message before it is the input. Earlier turns become the context, one "User: …" or "Assistant: …" each, with an
empty line between them. A system message stands first; one that is the same in every row (train and test) is the
task's instruction, others begin the context of their rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kshot.tasks.rows import REQUIRED, Row, each_row, shown
from kshot.tasks.tables import Table

ROLES = ("system", "user", "assistant")


def columns_of_messages(table: Table, columns: Mapping[str, str], *, labelled: bool = True) -> tuple[str, ...]:
    """Return the columns whose lists of messages make up each row's conversation; none if rows are not like that.

    Rows that need not be `labelled` may have any column called output, and lack a completion.
    """
    present = set(table.columns)
    if set(REQUIRED if labelled else ("input",)) & (present | columns.keys()):
        return ()
    if "messages" in present:
        return ("messages",)
    pair = ("prompt", "completion") if labelled or "completion" in present else ("prompt",)
    lists = any(isinstance(row.values.get(column), list) for row in table.rows for column in pair)
    return pair if set(pair) <= present and lists else ()


def as_examples(tables: Sequence[Table], columns: tuple[str, ...]) -> tuple[list[Table], str]:
    """Return tables with the columns input, output and maybe context, and the instruction that all rows share.

    Args:
        tables: Train rows, then test rows.
        columns: As `columns_of_messages` gave them.

    Raises:
        BadRowsError: Rows whose messages are not as they must be.
    """
    talks = [each_row(table.rows, partial(_messages, columns=columns, labelled=True)) for table in tables]
    systems = {_system(talk) for split in talks for talk in split}
    shared = systems.pop() if len(systems) == 1 else ""
    made = [
        tuple(_as_row(row, columns, talk, shared) for row, talk in zip(table.rows, split, strict=True))
        for table, split in zip(tables, talks, strict=True)
    ]
    return [replace(table, rows=rows) for table, rows in zip(tables, made, strict=True)], shared


def as_inputs(table: Table, columns: tuple[str, ...], instruction: str) -> Table:
    """Return a table of rows to be answered, whose last message may be the user's: the input.

    Args:
        table: Rows; an answer at the end of a conversation is not read.
        columns: As `columns_of_messages` gave them.
        instruction: The task's; the system message that says the same is left out.

    Raises:
        UserError: A row's messages are not as they must be.
    """
    talks = each_row(table.rows, partial(_messages, columns=columns, labelled=False))
    made = (_as_row(row, columns, talk, instruction) for row, talk in zip(table.rows, talks, strict=True))
    return replace(table, rows=tuple(made))


def _system(talk: list[tuple[str, str]]) -> str:
    return talk[0][1] if talk[0][0] == "system" else ""


def _messages(row: Row, columns: tuple[str, ...], *, labelled: bool) -> list[tuple[str, str]]:
    talk = []
    for column in columns:
        messages = row.values.get(column)
        if column == "completion" and messages is None and not labelled:
            continue
        if not isinstance(messages, list):
            row.fail(
                f'\'{column}\' must be a list of messages, such as {{"role": …, "content": …}}; got {shown(messages)}.'
            )
        talk += [_message(row, f"'{column}' item {i}", message) for i, message in enumerate(messages, 1)]
    what = " and ".join(f"'{column}'" for column in columns)
    if not labelled:
        if not talk or talk[-1][0] == "system":
            row.fail(f"{what} must end with a message by the user, the input; there is none.")
        if talk[-1][0] == "user":
            talk.append(("assistant", ""))
    roles = [role for role, _ in talk]
    if "assistant" not in roles:
        row.fail(f"{what} must end with a message by the assistant, the output; there is none.")
    if roles[-1] != "assistant":
        row.fail(f"{what} must end with a message by the assistant, the output; the last one is by the {roles[-1]}.")
    if len(roles) < 2 or roles[-2] != "user":
        before = f"is by the {roles[-2]}" if len(roles) > 1 else "is missing"
        row.fail(f"{what} must have a message by the user, the input, before the last one; it {before}.")
    if "system" in roles[1:]:
        row.fail(
            f"{what} must have a system message only at the beginning; item {roles.index('system', 1) + 1} is one."
        )
    return talk


def _message(row: Row, what: str, message: Any) -> tuple[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        row.fail(f'{what} must be a message, such as {{"role": …, "content": …}}; got {shown(message)}.')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        row.fail(f"{what} must have a role of {', '.join(ROLES)}; got {shown(role)}; leave such rows out.")
    return role, row.text(content, f"the content of {what}")


def _as_row(row: Row, columns: tuple[str, ...], talk: list[tuple[str, str]], shared: str) -> Row:
    system, first = _system(talk), 1 if talk[0][0] == "system" else 0
    context = [system] if system not in ("", shared) else []
    context += [f"{role.capitalize()}: {content}" for role, content in talk[first:-2]]
    values = {column: value for column, value in row.values.items() if column not in columns}
    values |= {"input": talk[-2][1], "output": talk[-1][1]}
    if context:
        own = values.get("context")
        values["context"] = "\n\n".join([*([own] if isinstance(own, str) and own else []), *context])
    return replace(row, values=values)
