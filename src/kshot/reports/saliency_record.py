"""What the answers of a run's model rest on, for the report: kept in a file of its own, made when it is asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from kshot.core.schema import shaped
from kshot.store.run_folder import SALIENCY
from kshot.store.sealed import read_sealed, write_sealed

AGAIN = "Delete it, and make it again with kshot saliency."

_Count = Annotated[int, Field(ge=0, le=10**9)]


class _Word(TypedDict):
    field: Literal["input", "context"]
    start: _Count
    stop: _Count
    value: Annotated[float, Field(ge=0, le=1.001)]


class _Row(TypedDict):
    id: str
    answer: str
    of: NotRequired[str | None]  # the recipe, which the run may not choose any more; not in older ones
    words: list[_Word]


def write_saliency(run: Path, rows: Sequence[Mapping[str, Any]], of: str | None = None) -> None:
    """Write what answers of a recipe rest on (`RestsOn.record`) into a run folder, in place of what was there."""
    write_sealed(run / SALIENCY, [{**row, "of": of} for row in rows])


def read_saliency(run: Path, of: str | None = None) -> list[dict[str, Any]]:
    """Return what `write_saliency` wrote; nothing where it was not asked for, or of another recipe.

    Raises:
        DamagedError: The file is not as it was written.
    """
    file = run / SALIENCY
    rows = [dict(shaped(_Row, row, file, AGAIN)) for row in read_sealed(file)] if file.exists() else []
    named = [(row.pop("of", None), row) for row in rows]
    return [row for name, row in named if of is None or name in (None, of)]


def asked_first(record: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """Return examples of a run: those that the chosen recipe got wrong first, in the order of the stream.

    Args:
        record: As `read_record` returns it.
        limit: Most examples.
    """
    chosen = record["results"]["leaderboard"][0]["recipe"]
    scores = {row["example_id"]: row["score"] for row in record["rows"].get(chosen, [])}
    known = [e for e in record["prompts"]["examples"] if e["id"] in scores]
    return sorted(known, key=lambda e: scores[e["id"]] is None or scores[e["id"]] >= 1)[:limit]


def weighed(text: str, field: str, words: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return a text in pieces, each with the value of the word that it is; 0 between words."""
    pieces, at = list[list[Any]](), 0
    for word in sorted((word for word in words if word["field"] == field), key=lambda word: word["start"]):
        if at < word["start"]:
            pieces.append([text[at : word["start"]], 0])
        pieces.append([text[word["start"] : word["stop"]], round(word["value"], 2)])
        at = word["stop"]
    return [*pieces, [text[at:], 0]] if at < len(text) else pieces
