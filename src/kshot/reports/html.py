"""`report.html`: one file without any other, made from a run's saved record alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.json_text import to_json
from kshot.core.label_sets import BETWEEN, NOTHING, read
from kshot.core.prices import paid_in_words
from kshot.core.types import LABELLED
from kshot.measures.answer_sources import SOURCES
from kshot.measures.comparison import Difference, compared
from kshot.measures.metrics import metric_for
from kshot.reports.leaderboard import IN_THE_CHOICE, behind, made_in_words
from kshot.reports.saliency_record import read_saliency, weighed
from kshot.reports.saved_record import read_finished, read_record
from kshot.reports.suite_record import measured, read_suites, said
from kshot.store.files import write_text
from kshot.store.run_folder import REPORT
from kshot.store.traces import read_traces

MOST_PROBS = 8  # labels of a row whose probabilities are kept
COLOURED = 5
MOST_SAID, MOST_MESSAGES = 2000, 60  # characters of a message of a loop, and messages of each loop
COSTS = (("query_tokens", "prompt tokens a query"), ("query_ms", "milliseconds a query"))
OUTLIER_REACH = 3.0  # interquartile ranges above the upper quartile


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder from its record; return the file.

    Raises:
        UserError: As `read_record`.
        StorageError: The file cannot be written.
    """
    _write(run, run, read_record(run))
    return run / REPORT


def add_report(folder: Path, run: Path) -> None:
    """Write `report.html` beside the record of a finished run that is not in the run's folder yet."""
    _write(folder, run, read_finished(folder))


def check_beside(run: Path) -> None:
    """Read what a report will show of a folder beside the record, before anything is measured.

    Raises:
        DamagedError: A file is not as it was written.
    """
    read_saliency(run)
    read_suites(run)


def _write(folder: Path, run: Path, record: Mapping[str, Any]) -> None:
    """Write the report of a record, with what else the run's folder keeps."""
    saliency = read_saliency(run, record["results"]["leaderboard"][0]["recipe"])
    own = {"saliency": saliency, "traces": read_traces(run), "suites": read_suites(run)}
    write_text(folder / REPORT, page({**record, **own}))


def page(record: Mapping[str, Any]) -> str:
    """Return the report of a record (`read_record`) as HTML."""
    from kshot.reports.figures import learning_curve, pareto

    results, rows = record["results"], record["rows"]
    board = [row for row in results["leaderboard"] if row["n"]]
    able = [row for row in board if row["status"] in IN_THE_CHOICE]
    metric = results["task"]["metrics"][0]
    shown = [row["recipe"] for row in able[:COLOURED]]
    choice = results["choice"] or {}
    return _template().render(
        results=results,
        board=results["leaderboard"],
        made={row["recipe"]: said for row in results["leaderboard"] if (said := made_in_words(row))},
        in_the_choice=IN_THE_CHOICE,
        metric=metric,
        first=shown[0] if shown else None,
        by=results.get("compares", "metric"),
        behind=behind,
        comparisons=choice.get("comparisons"),
        spread=choice.get("spread"),
        is_open=results["task"]["kind"] not in (*LABELLED, "multiple_choice"),
        curves=[
            learning_curve(rows, shown, *what) for what in (("score", metric), ("bits", "bits an example")) if board
        ],
        fronts=[pareto(able, metric, *cost) for cost in COSTS if able],
        problems=problems(record),
        shown_last=shown_in_last(record, shown[0]) if shown else [],
        disagreement=mean_disagreement(record["rows"][shown[0]]) if shown else None,
        notes=results["selections"].get(shown[0], [])[-1:] if shown else [],
        paid=paid_in_words(results["paid"]) if results.get("paid") else None,
        sources=answer_sources(rows),
        measured=all_metrics(results),
        talks=talks(record),
        suites=[one | {"rows": told(one["report"])} for one in record.get("suites", ())],
        chosen=results["leaderboard"][0]["recipe"],
        totals=_totals(results["leaderboard"], rows),
        style=_read("report.css"),
        script=_read("report.js"),
        data=embedded(data(record)),
    )


def told(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a suite's report tells as names and texts, without what the section's head says."""
    return [(name, said(value)) for name, value in measured(report) if name != "suite"]


@cache
def _template() -> Any:
    """Return the page's template; to compile it takes longer than most small runs."""
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_read("report.html.jinja"))


def _read(name: str) -> str:
    return files("kshot.reports").joinpath(name).read_text("utf-8")


def embedded(value: Any) -> str:
    """Return JSON that is safe inside a script element: no text of a user can end it."""
    text = to_json(value, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def data(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page's script shows: examples, and of each recipe and example what was asked and answered."""
    results = record["results"]
    names = [row["recipe"] for row in results["leaderboard"] if row["recipe"] in record["rows"]]
    predicted = {row["example_id"] for rows in record["rows"].values() for row in rows}
    examples = [e for e in record["prompts"]["examples"] if e["id"] in predicted]
    place = {e["id"]: i for i, e in enumerate(examples)}
    suspicious = set(suspicious_examples(record))
    return {
        "labels": results["task"]["labels"],
        "ordered": results["task"].get("ordered", False),
        "recipes": names,
        "examples": [[e["input"], e["output"], e["context"] or "", int(e["id"] in suspicious)] for e in examples],
        **({"sets": [BETWEEN, NOTHING]} if results["task"]["kind"] == "multi_label" else {}),
        "rows": [[_row(place, r, results) for r in record["rows"][name]] for name in names],
        "prompts": [record["prompts"]["rows"].get(name) for name in names],
        "more": [record["prompts"].get("more", {}).get(name) for name in names],
        "segments": record["prompts"]["segments"],
        "saliency": {
            place[row["id"]]: [
                row["answer"],
                *(
                    weighed(examples[place[row["id"]]][field] or "", field, row["words"])
                    for field in ("input", "context")
                ),
            ]
            for row in record.get("saliency", ())
            if row["id"] in place
        },
    }


def _row(place: Mapping[str, int], row: Mapping[str, Any], results: Mapping[str, Any]) -> list[Any]:
    """Return [example, answer, score, bits, [candidate, probability, …]], the most probable first, and its source."""
    pairs = sorted(zip(row["candidates"], row["probs"], strict=True), key=lambda pair: -pair[1])
    kept = pairs[:MOST_PROBS] + [p for p in pairs[MOST_PROBS:] if p[0] in _labels_of(results, row["gold"])]
    flat = [value for text, p in kept for value in (text, float(f"{p:.3g}"))]
    score = None if row["score"] is None else round(row["score"], 3)
    source = [row["came_from"]] if "came_from" in row else []
    return [place[row["example_id"]], row["answer"], score, round(row["bits"], 2), flat, *source]


def suspicious_examples(record: Mapping[str, Any]) -> list[str]:
    """Return ids of examples whose output surprises nearly every recipe: perhaps their label is wrong.

    The median over recipes of an example's bits lies more than three interquartile ranges above the upper quartile,
    and more than half of the recipes agree on another answer.
    """
    bits: dict[str, list[float]] = {}
    answers: dict[str, list[str]] = {}
    gold: dict[str, str] = {}
    for rows in record["rows"].values():
        for row in rows:
            bits.setdefault(row["example_id"], []).append(row["bits"])
            gold[row["example_id"]] = row["gold"]
            if row["answer"] is not None:
                answers.setdefault(row["example_id"], []).append(row["answer"])
    middle = {name: float(np.median(values)) for name, values in bits.items()}
    if not middle:
        return []
    low, high = np.quantile(list(middle.values()), [0.25, 0.75])
    limit = high + OUTLIER_REACH * (high - low)
    found = []
    for name in sorted(middle, key=lambda i: -middle[i]):
        (most, n), *_ = Counter(answers.get(name, [""])).most_common(1)
        if middle[name] > limit and most not in ("", gold[name]) and 2 * n > len(answers[name]):
            found.append(name)
    return found


def _labels_of(results: Mapping[str, Any], output: str) -> tuple[str, ...]:
    return read(output) if results["task"].get("kind") == "multi_label" else (output,)


def problems(record: Mapping[str, Any]) -> list[str]:
    """Return what seems wrong with the data, a sentence each."""
    results, found = record["results"], []
    if results["removed"]:
        found.append(f"{len(results['removed'])} rows repeat the input of an earlier row and were left out: "
                     f"{', '.join(results['removed'][:8])}")  # fmt: skip
    unseen = [
        label
        for label in results["task"]["labels"]
        if label not in {label for e in record["prompts"]["examples"] for label in _labels_of(results, e["output"])}
    ]
    if unseen:
        found.append(f"{len(unseen)} labels have no example in the stream: {', '.join(unseen[:8])}")
    texts = {e["id"]: e for e in record["prompts"]["examples"]}
    for name in suspicious_examples(record)[:10]:
        found.append(
            f"{name}: nearly every recipe is surprised by its output '{texts[name]['output']}'; look at its label: "
            f"{texts[name]['input'][:160]}"
        )
    return found


def shown_in_last(record: Mapping[str, Any], recipe: str) -> list[list[dict[str, Any]]]:
    """Return the examples that stood in the recipe's last prompt, in their order: a list for each context."""
    by_id = {e["id"]: e for e in record["prompts"]["examples"]}
    last = record["rows"][recipe][-1]
    contexts = last.get("contexts") or [last["demonstrations"]]
    return [shown for ids in contexts if (shown := [by_id[i] for i in ids if i in by_id])]


def mean_disagreement(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return which share of the contexts answers otherwise than all together, on average; None without several."""
    shares = [row["disagreement"] for row in rows if row.get("disagreement") is not None]
    return sum(shares) / len(shares) if shares else None


def talks(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was said in loops: of each its title, how it ended where that is known, and its messages."""
    noted = {
        note["trace"]: (recipe, note)
        for recipe, notes in record["results"]["selections"].items()
        for note in notes
        if isinstance(note, dict) and note.get("trace")
    }
    found = []
    for name, messages in record.get("traces", {}).items():
        loop, n, _ = name.rsplit("-", 2)
        recipe, note = noted.get(name, (None, {}))
        title = f"{recipe or loop}, with {n} examples"
        rows = [{"role": m["role"], "text": m["text"][:MOST_SAID], "asked": m["request"][:MOST_SAID]} for m in messages]
        left_out = max(0, len(rows) - MOST_MESSAGES)
        about = {key: note[key] for key in ("rounds", "calls", "spoken_tokens", "ended") if key in note}
        found.append({"title": title, "rows": rows[:MOST_MESSAGES], "left_out": left_out, "about": about})
    return found


def answer_sources(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, int, dict[str, float]]]:
    """Return of each recipe of how many answers it is told where they came from, and the share of each source."""
    found = []
    for name, own in rows.items():
        told = Counter(row["came_from"] for row in own if "came_from" in row)
        if n := told.total():
            found.append((name, n, {source: told[source] / n for source in SOURCES}))
    return found


def all_metrics(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[float, float, float] | None]]]:
    """Return of each recipe every metric of the task, with its interval; nothing where there is only one metric."""
    metrics, found = results["task"]["metrics"], []
    for row in results["leaderboard"] if len(metrics) > 1 else ():
        values = results.get("results", {}).get(f"{results['task']['name']}|{row['recipe']}", {})
        three = [tuple(values.get(f"{name}{end},none") for end in ("", "_low", "_high")) for name in metrics]
        if row["n"] and any(None not in one for one in three):
            found.append((row["recipe"], [None if None in one else one for one in three]))
    return found


def _totals(board: Sequence[Mapping[str, Any]], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    seconds = sum(r["seconds"] + r["fit_seconds"] for found in rows.values() for r in found)
    tokens = sum(r["tokens"] + r["fit_tokens"] for found in rows.values() for r in found)
    return {"seconds": seconds, "tokens": tokens, "predictions": sum(map(len, rows.values())), "recipes": len(board)}


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return how the chosen recipes of two runs compare on the examples that both have predicted.

    Intervals of one example alone have no ends: None. Where no example has answers of both, neither has the score.

    Raises:
        UserError: As `read_record`, or the runs share no example, or are measured by different metrics.
    """
    records = [read_record(run) for run in (first, second)]
    tasks = [r["results"]["task"] for r in records]
    ours, theirs = (metric_for(task["metrics"][0], task["kind"]) for task in tasks)
    if ours != theirs:
        raise UserError(
            f"Runs that are compared must be measured by the same metric; {first} is by {ours} and {second} by "
            f"{theirs}. Make both of the same task."
        )
    chosen = [r["results"]["leaderboard"][0]["recipe"] for r in records]
    sides = [r["rows"].get(name, []) for r, name in zip(records, chosen, strict=True)]
    texts = [{e["id"]: (e["input"], e["context"], e["output"]) for e in r["prompts"]["examples"]} for r in records]
    same = {i for i in texts[0] if texts[1].get(i) == texts[0][i]}
    rows = [[r for r in side if r["example_id"] in same] for side in sides]
    gaps = compared(*rows)
    if not gaps["bits"].n:
        raise UserError(f"{first} and {second} must have predicted some of the same examples; they share none.")
    return {
        "first": chosen[0],
        "second": chosen[1],
        "metric_name": tasks[0]["metrics"][0],
        "n": gaps["bits"].n,
        **{key: _told(gap) for key, gap in gaps.items()},
    }


def _told(gap: Difference) -> dict[str, Any]:
    low, high = (end if gap.n and np.isfinite(end) else None for end in (gap.low, gap.high))
    return {"difference": gap.mean, "low": low, "high": high, "n": gap.n, "clear": bool(gap.n) and gap.is_clear}
