"""What a run has left, read back: each part has the shape that it must have, and the files belong together.

Of each row only what reports read is kept, with numbers packed and equal candidates once: rows of tasks with a thousand
labels are large.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from kshot.core.errors import UserError, in_short
from kshot.core.given_files import opened, text_of
from kshot.core.json_text import from_json
from kshot.core.schema import shaped
from kshot.core.settings import ChooseBy
from kshot.store.commit import settled
from kshot.store.run_folder import BESIDE_RESULTS, PROMPTS, READABLE, RESULTS, SAMPLES, UNFINISHED, read_manifest
from kshot.store.summed import SUM, fits, sum_of_file

AGAIN = "Repeat the run's command: the record is written again from the run's store."

Share = Annotated[float, Field(ge=0, le=1.001)]  # of what is 1 but for rounding
Score = Annotated[float, Field(ge=-1.001, le=1.001)]  # Matthews' begins at -1
Amount = Annotated[float, Field(ge=0, le=1e15)]
Bits = Annotated[float, Field(ge=-1e9, le=1e9)]
Count = Annotated[int, Field(ge=0, le=10**12)]


class _Task(TypedDict):
    name: str
    kind: str
    labels: list[str]
    metrics: Annotated[list[str], Field(min_length=1)]
    ordered: NotRequired[bool]  # where labels have an order
    n_train: Count
    n_unlabelled: NotRequired[Count]  # where there are some


class _Made(TypedDict):
    made: Count
    rejected: Count
    reasons: NotRequired[dict[str, Count]]


class _Standing(TypedDict):
    recipe: str
    behind: NotRequired[Bits | None]  # these three not before format 5
    behind_error: NotRequired[Amount | None]
    is_close: NotRequired[bool | None]
    deployed: NotRequired[Score | None]  # these six not in format 1
    deployed_low: NotRequired[Score | None]
    deployed_high: NotRequired[Score | None]
    deployed_bits: NotRequired[Bits | None]
    deployed_bits_low: NotRequired[Bits | None]
    deployed_bits_high: NotRequired[Bits | None]
    metric: Score | None
    metric_low: Score | None
    metric_high: Score | None
    metric_n: Count | None
    bits_per_example: Bits | None
    n: Count
    fit_seconds: Amount | None
    query_tokens: Amount | None
    query_ms: Amount | None
    status: str
    reason: str | None
    made: NotRequired[_Made]  # of a recipe with a generator


class _Gap(TypedDict):
    mean: Bits
    low: Bits | None
    high: Bits | None
    n: Count


class _Comparison(TypedDict):
    recipe: str
    score: _Gap
    bits_saved: _Gap
    verdict: str


class _Spread(TypedDict):
    draw: Amount
    order: Amount
    examples: Amount
    n: Count


class _Choice(TypedDict):
    how: str
    in_words: str
    comparisons: list[_Comparison]
    spread: NotRequired[_Spread | None]  # not in format 1


class _Answered(TypedDict):
    precision: Share
    threshold: Share | None
    share: Share
    low: Share
    high: Share
    n_answered: Count
    n_right: Count


class _Abstention(TypedDict):
    n: Count
    n_right: Count
    n_alike: Count
    wanted: Share | None
    shares: list[_Answered]
    in_words: str


class _Paid(TypedDict):
    calls: Count
    input_tokens: Count
    cached_tokens: Count
    output_tokens: Count
    usd: Amount | None


class _Config(TypedDict):  # and more, which is not read
    model_name: str
    seed: int


class _Results(TypedDict):
    results: NotRequired[dict[str, dict[str, str | float | None]]]  # of each recipe, all metrics with intervals
    task: _Task
    config: dict[str, Any]
    leaderboard: list[_Standing]
    compares: NotRequired[ChooseBy]  # not before format 5
    chosen: str | None
    choice: _Choice | None
    abstention: NotRequired[_Abstention | None]  # older runs have none, nor those that are not finished
    paid: NotRequired[_Paid]  # where a model behind an API was called
    removed: list[str]
    selections: dict[str, list[dict[str, Any]]]
    failures: dict[str, str]
    repeat: str
    environment: dict[str, str]
    kshot_version: str


class _Row(TypedDict):
    recipe: str
    example_id: str
    position: Count
    gold: str
    score: Score | None
    bits: Bits
    candidates: list[str]
    probs: list[Share]
    answer: str | None
    demonstrations: list[str]
    contexts: NotRequired[list[list[str]]]  # these two not before several contexts
    disagreement: NotRequired[Share | None]
    found: NotRequired[list[dict[str, Any]]]  # not before composers that consider questions
    sureness: NotRequired[Share | None]
    stated: NotRequired[Share | None]
    came_from: NotRequired[str]  # where a row tells its passage's answer from that from memory
    seconds: Amount
    fit_seconds: Amount
    tokens: Amount
    fit_tokens: Amount


class _Example(TypedDict):
    id: str
    input: str
    context: str | None
    output: str


_Sent = Annotated[list[Count], Field(min_length=1)]


class _Prompts(TypedDict):
    examples: list[_Example]
    segments: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    rows: dict[str, list[_Sent]]
    more: NotRequired[dict[str, list[list[_Sent]]]]


class _Unfinished(TypedDict):
    results: dict[str, Any]
    samples: dict[str, list[Any]]
    prompts: _Prompts


def read_record(run: Path) -> dict[str, Any]:
    """Return what a run has left: `results`, `rows` by recipe, and `prompts` with their examples.

    Raises:
        UserError: No run, one of another version, one that has nothing to show yet, or a file of it is damaged or does
            not belong to the others.
    """
    manifest = read_manifest(run)
    if manifest.get("format") not in READABLE:
        raise UserError(
            f"{run} must be a run of this version of kshot (format {READABLE[-1]}); its format is "
            f"{manifest.get('format')}. Make the run again, or use the version of kshot that made it."
        )
    with settled(run):
        if (run / RESULTS).exists():
            return read_finished(run)
        if (run / UNFINISHED).exists():
            return _read_unfinished(run / UNFINISHED)
    raise UserError(f"{run} has no finished recipe yet, so there is nothing to report. Resume it with kshot adapt.")


def read_finished(folder: Path) -> dict[str, Any]:
    """Return the record of a finished run, from a folder that need not be the run's; as `read_record`."""
    results = read_results(folder)
    rows = _rows(folder / SAMPLES, _lines(folder / SAMPLES))
    prompts = shaped(_Prompts, _read(folder / PROMPTS), folder / PROMPTS, AGAIN)
    return _agreeing(folder, {"results": results, "rows": rows, "prompts": prompts})


def _read_unfinished(file: Path) -> dict[str, Any]:
    kept = _read(file)
    if SUM in kept and not fits(kept, kept[SUM]):
        raise UserError(f"{file} must be as kshot wrote it, but it has changed. {AGAIN}")
    parts = shaped(_Unfinished, _those_of(_Unfinished, kept), file, AGAIN)
    results = _results(file, parts["results"])
    rows = _rows(file, chain.from_iterable(parts["samples"].values()))
    return _agreeing(file, {"results": results, "rows": rows, "prompts": parts["prompts"]})


def _agreeing(place: Path, record: dict[str, Any]) -> dict[str, Any]:
    if flaw := next(_flaws(record), None):
        raise UserError(f"{place} must hold a record whose parts belong together, but {flaw}. {AGAIN}")
    return record


def read_results(run: Path) -> dict[str, Any]:
    """Return the results of a finished run, of which all files are as they were written.

    Raises:
        UserError: They are not.
    """
    file = run / RESULTS
    found = _read(file)
    if "task" not in found:
        raise UserError(f"{run} was made by an older kshot, without what a report needs. Repeat the command to add it.")
    if SUM in found:  # older ones have none
        sums = shaped(dict[str, str], found[SUM], file, AGAIN)
        if not fits(found, sums.get(RESULTS)):
            raise UserError(f"{file} must be as kshot wrote it, but it has changed. {AGAIN}")
        for name in BESIDE_RESULTS:
            if not (run / name).is_file() or sums.get(name) != sum_of_file(run / name):
                raise UserError(f"{run / name} must be the one that was written with {RESULTS}; it is not. {AGAIN}")
    return _results(file, found)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = from_json(text_of(file, None))
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    return shaped(dict[str, Any], found, file, AGAIN)


def _lines(file: Path) -> Iterator[Any]:
    """Return what each line of a file says; one of them is held at a time."""
    try:
        with opened(file) as lines:  # at \n alone: U+2028 is text
            for line in lines:
                yield from_json(line)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} must be the JSON that kshot wrote, but {in_short(error)}. {AGAIN}")


def _those_of(shape: Any, value: Any) -> Any:
    """Return an object with the keys of a shape alone."""
    return {k: v for k, v in value.items() if k in shape.__annotations__} if isinstance(value, Mapping) else value


def _results(file: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    known = _those_of(_Results, found)
    for name, shape in (("task", _Task), ("choice", _Choice)):
        known |= {name: _those_of(shape, known[name])} if name in known else {}
    found = shaped(_Results, known, file, AGAIN)
    shaped(_Config, _those_of(_Config, found["config"]), file, AGAIN)
    return dict(found)


def _rows(file: Path, found: Iterable[Any]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    same: dict[tuple[str, ...], tuple[str, ...]] = {}
    for i, value in enumerate(found, 1):
        row = shaped(_Row, _those_of(_Row, value), f"{file} row {i}", AGAIN)
        candidates = tuple(row["candidates"])
        packed = {"candidates": same.setdefault(candidates, candidates), "probs": array("d", row["probs"])}
        rows.setdefault(row["recipe"], []).append({**row, **packed})
    return rows


def _flaws(record: Mapping[str, Any]) -> Iterator[str]:
    """Return where the parts of a record do not agree."""
    board, rows, prompts = record["results"]["leaderboard"], record["rows"], record["prompts"]
    names = [row["recipe"] for row in board]
    chosen = record["results"]["chosen"]
    if not names or len(set(names)) < len(names):
        yield f"{len(names)} recipes stand on the leaderboard, {len(set(names))} of them different"
    if chosen is not None and chosen != names[0]:
        yield f"'{chosen}' is chosen, and '{names[0]}' is the first of the leaderboard"
    more = prompts.get("more", {})
    for name in {*rows, *prompts["rows"], *more} - {*names}:
        yield f"'{name}' has rows and is not on the leaderboard"
    for row in board:
        yield from _of_recipe(row, rows.get(row["recipe"], ()), prompts["examples"])
    for name, sent in prompts["rows"].items():
        others = more.get(name, [[]] * len(sent))
        yield from _of_prompts(name, sent, others, len(rows.get(name, ())), len(prompts["segments"]))


def _of_recipe(
    standing: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    name, n = standing["recipe"], standing["n"]
    if n != len(rows):
        yield f"'{name}' has {n} rows on the leaderboard and {len(rows)} in {SAMPLES}"
    if n and any(standing[key] is None for key in ("bits_per_example", "fit_seconds", "query_tokens", "query_ms")):
        yield f"'{name}' has rows and no cost"
    if n and standing["metric_n"] != sum(row["answer"] is not None for row in rows):
        yield f"'{name}' has another number of answers than of rows with one"
    for key in ("metric", "deployed", "deployed_bits"):
        known = [standing.get(f"{key}{end}") is not None for end in ("", "_low", "_high")]
        if any(known) != all(known) or (key == "metric" and standing["metric_n"] and not any(known)):
            yield f"the interval of '{name}' has no {key}, or only a part of it"
    before = -1
    for i, row in enumerate(rows):
        at = row["position"]
        asked = examples[at] if before < at < len(examples) else {"id": None, "output": None}
        before = at
        if (row["example_id"], row["gold"]) != (asked["id"], asked["output"]):
            yield f"row {i + 1} of '{name}' is of another example than {PROMPTS} has there"
        if len(row["candidates"]) != len(row["probs"]):
            yield f"row {i + 1} of '{name}' has another number of candidates than of probabilities"


def _of_prompts(
    name: str, sent: Sequence[Sequence[int]], others: Sequence[Sequence[Sequence[int]]], n_rows: int, n_segments: int
) -> Iterator[str]:
    if not len(sent) == len(others) == n_rows:
        yield f"'{name}' has {n_rows} rows and {len(sent)} prompts"
    before: dict[int, int] = {}  # segments of the last prompt of each context
    for first, further in zip(sent, others, strict=False):
        for context, (same, *new) in enumerate((first, *further)):
            if same > before.get(context, 0) or any(segment >= n_segments for segment in new):
                yield f"a prompt of '{name}' has parts that {PROMPTS} does not hold"
            before[context] = same + len(new)
