"""Tasks with rubrics, what an answer must have: each a check that is run, or a sentence that a judge decides."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError, in_short
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json
from kshot.core.script import WORDS, Piece, Script
from kshot.measures.text_metrics import last_number

JUDGED = "judge"
CHECKS = ("regex", "number", "set", "order")


@dataclass(frozen=True)
class Rubric:
    """What an answer must have.

    Attributes:
        check: "judge": what `text` says; "regex": something that matches `text`; "number": its last number is `number`;
            "set": it says each of `items`, and nothing else of `among`; "order": it says `items` in this order, each
            where it is said first.
        text: For a judge, or a regular expression.
        items: Words, whose case does not count.
        among: Words.
        number: What must be said.
        tolerance: By which the number may be off.
    """

    check: str
    text: str = ""
    items: tuple[str, ...] = ()
    among: tuple[str, ...] = ()
    number: float = 0.0
    tolerance: float = 0.0

    def passes(self, answer: str) -> bool:
        """Return whether an answer passes, of one that is run.

        Example:
            >>> Rubric("set", items=("a", "b"), among=("a", "b", "c")).passes("B, then A.")
            True
            >>> Rubric("order", items=("a", "b")).passes("B, then A.")
            False
        """
        if self.check == "regex":
            return re.search(self.text, answer) is not None
        if self.check == "number":
            found, wanted, tolerance = last_number(answer), *(Decimal(repr(x)) for x in (self.number, self.tolerance))
            return found is not None and abs(found - wanted) <= tolerance
        places = [_place(item, answer) for item in self.items]
        is_said = all(at >= 0 for at in places)
        if self.check == "order":
            return is_said and places == sorted(places)
        others = {other.casefold() for other in self.among} - {item.casefold() for item in self.items}
        return is_said and all(_place(other, answer) < 0 for other in others)

    @classmethod
    def of(cls, record: Any) -> "Rubric":
        """Return the rubric of a record: a text for a judge, or an object with `check`.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(record, str) and record.strip():
            return cls(JUDGED, record.strip())
        if not isinstance(record, dict) or record.get("check") not in CHECKS:
            raise ValueError(
                f"a rubric must be a text, or an object whose 'check' is {', '.join(CHECKS[:-1])} or order"
            )
        check, fields = record["check"], {"regex": "pattern", "number": "number"}
        value: Any = record.get(fields.get(check, "items"))
        if check == "regex":
            try:
                re.compile(value)
            except (re.error, TypeError, RecursionError) as error:
                raise ValueError(f"'pattern' must be a regular expression; {in_short(error)}") from None
            return cls(check, value)
        if check == "number":
            tolerance: Any = record.get("tolerance", 0)
            if not (_is_number(value) and _is_number(tolerance)):
                raise ValueError("'number' and 'tolerance' must be finite numbers")
            return cls(check, number=float(value), tolerance=float(tolerance))
        among = record.get("among", [])
        if not (_are_texts(value) and value and _are_texts(among)):
            raise ValueError("'items' must be texts, one at least, and 'among' texts")
        return cls(check, items=tuple(value), among=tuple(among))


@dataclass(frozen=True)
class RubricItem:
    """A task with its rubrics.

    Attributes:
        id: Of the task.
        context_id: Of what it is about, which other tasks may share.
        category: What is measured by itself.
        messages: (role, text), as in a chat; a user's is the last.
        rubrics: All that an answer must have, one at least.
        chance: The chance to be solved by guessing; None: not known. Where it is known, the system's messages are the
            context.
    """

    id: str
    context_id: str
    category: str
    messages: tuple[tuple[str, str], ...]
    rubrics: tuple[Rubric, ...]
    chance: float | None = None

    @property
    def without_context(self) -> tuple[tuple[str, str], ...]:
        """The messages without the system's."""
        return tuple(message for message in self.messages if message[0] != "system")

    @classmethod
    def of(cls, record: Any) -> "RubricItem":
        """Return the item of a record with `messages`, `rubrics` and `metadata`.

        Raises:
            ValueError: Something is missing.
        """
        if not isinstance(record, dict) or not isinstance(metadata := record.get("metadata"), dict):
            raise ValueError("it must be an object with 'messages', 'rubrics' and 'metadata'")
        if metadata.get("task_id") in (None, ""):
            raise ValueError("its 'metadata' must have 'task_id'")
        rubrics = record.get("rubrics")
        if not isinstance(rubrics, list) or not rubrics:
            raise ValueError("its 'rubrics' must be a list with one rubric at least; it has none")
        category = metadata.get("category", metadata.get("context_category")) or "none"
        messages = _messages(record.get("messages"))
        script_of(messages)
        own = str(metadata["task_id"]), str(metadata.get("context_id", "")), str(category)
        return cls(*own, messages, tuple(map(Rubric.of, rubrics)))


def read_items(file: Path) -> list[RubricItem]:
    """Return the items of a file of JSON lines in CL-bench's format.

    Raises:
        UserError: It cannot be read, or a line is no item.

    Source: CL-bench: A Benchmark for Context Learning (2026), https://arxiv.org/abs/2602.03587; none of its data comes
    with kshot. Beside texts for a judge a rubric can be a check that is run: {"check": "regex", "pattern": "…"},
    {"check": "number", "number": 12, "tolerance": 0}, {"check": "set", "items": […], "among": […]} or {"check":
    "order", "items": […]}.
    """
    try:
        lines = text_of(file).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} must be a file of tasks with rubrics; {in_short(error)}. Correct the path.") from error
    found = dict[str, RubricItem]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = RubricItem.of(from_json(line))
            if item.id in found:
                raise ValueError(f"its task_id '{item.id}' is there already")
        except ValueError as error:
            raise UserError(
                f"{file}, line {number}: must be a task with rubrics; {in_short(error)}. Correct it."
            ) from error
        found[item.id] = item
    if not found:
        raise UserError(f"{file} must hold tasks with rubrics, one a line; it is empty. Name another file.")
    return list(found.values())


def script_of(messages: Sequence[tuple[str, str]]) -> Script:
    """Return a chat as a script; messages of one role in a row are one, and the system's later ones are the user's.

    Raises:
        ValueError: It does not end with a question, or an answer follows none.
    """
    pieces = list[Piece]()
    roles: Mapping[str, Any] = {"system": "instruction", "user": "question", "assistant": "answer"}
    for i, (who, text) in enumerate(messages):
        role = "question" if who == "system" and i else roles[who]
        if pieces and pieces[-1].role == role:
            pieces[-1] = Piece(role, f"{pieces[-1].text}\n\n{text}")
        else:
            pieces.append(Piece(role, text))
    before = ["instruction" if pieces and pieces[0].role == "instruction" else "answer", *(p.role for p in pieces)]
    is_after = all(b == "question" for b, p in zip(before, pieces, strict=False) if p.role == "answer")
    if not pieces or pieces[-1].role != "question" or not is_after:
        raise ValueError("its 'messages' must end with one of the user, and the assistant's must follow the user's")
    return Script(tuple(pieces), *WORDS["qa"])


def _messages(record: Any) -> tuple[tuple[str, str], ...]:
    roles = ("system", "user", "assistant")
    if not isinstance(record, list) or not all(
        isinstance(one, dict) and one.get("role") in roles and isinstance(one.get("content"), str) for one in record
    ):
        raise ValueError(
            f"its 'messages' must be objects with 'role', {', '.join(roles[:-1])} or assistant, and 'content'"
        )
    return tuple((one["role"], one["content"]) for one in record)


def _place(item: str, text: str) -> int:
    """Return where an item is first said as words of its own, whatever the case; -1: nowhere."""
    found = re.search(rf"(?<!\w){re.escape(item.casefold())}(?!\w)", text.casefold())
    return found.start() if found else -1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and isfinite(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
