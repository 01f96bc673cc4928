"""What combinations of recipes would have done, replayed from predictions that `choice.py` has recorded.

Constants of the combiners are chosen by the streams and by further training rows, never by test rows:

    python benchmarks/mixtures.py RECORDED_FOLDER
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kshot.core.types import Example, Prediction, Query, Task
from kshot.learners.combining import Combining, combined, crossed
from kshot.measures.calibration import UNCALIBRATED, Calibration, calibrated
from kshot.measures.probabilities import normalised
from kshot.measures.samples import sample_row
from kshot.methods.contracts import Combiner
from kshot.race.ranking import evidence
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe

Row = Mapping[str, Any]  # of one recipe on one task, as `choice.py` records it
# What is compared before a default is chosen
WAYS = (
    "mix:by=share,alpha=0", "mix:by=share,alpha=0.01", "mix:by=share,alpha=0.02", "mix:by=share,alpha=0.1",
    "mix:by=stack,shrink=1", "mix:by=stack,shrink=3", "mix:by=stack,shrink=10", "mix:by=stack,shrink=30",
    "mix:by=log-stack,shrink=1", "mix", "mix:by=log-stack,shrink=10", "mix:by=log-stack,shrink=30",
)  # fmt: skip


@cache
def recipe_of(name: str) -> Recipe:
    """Return the recipe of a row."""
    return parse_recipe(name, shots=16)


def look(row: Row) -> Mapping[str, Any] | None:
    """Return the second look, with `positions` and `tokens`; folds are one where all parts were hidden in turn."""
    if not recipe_of(row["recipe"]).can_be_asked_again:
        return None
    if row["again"]:
        return row["again"]
    whole = [fold for fold in row["folds"] if len(row["folds"]) > 1]
    if not whole:
        return None
    keys = [key for key in ("scores", "bits", "gold", "log_probs") if whole[0][key] is not None]
    found: dict[str, Any] = {"log_probs": None} | {key: sum((fold[key] for fold in whole), []) for key in keys}
    found["positions"] = [at for fold in whole for at in range(fold["start"], fold["stop"])]
    return found | {"tokens": sum(fold["tokens"] for fold in whole)}


@dataclass(frozen=True)
class Replayed:
    """What a combination would have said.

    Attributes:
        stream: Of the stream, each by the past alone.
        test: Of the test rows, as it would be handed over.
        rest: Of further training rows, in the same way.
        gold: The right answers of each of these.
        expected: What is expected of it when deployed, in the metric.
        query_tokens: Prompt tokens a query, of what would be handed over.
        members: Those that it would keep, by number.
    """

    stream: list[Prediction]
    test: list[Prediction]
    rest: list[Prediction]
    gold: dict[str, list[str]]
    expected: float
    query_tokens: float
    members: tuple[int, ...]

    def accuracy(self, part: str) -> float:
        """Return the share of right answers in "stream", "test" or "rest"."""
        pairs = zip(getattr(self, part), self.gold[part], strict=True)
        return float(np.mean([p.answer == gold for p, gold in pairs]))

    def bits(self, part: str) -> float:
        """Return the bits of an answer in "stream", "test" or "rest"."""
        pairs = zip(getattr(self, part), self.gold[part], strict=True)
        return float(np.mean([-np.log2(p.probs[p.candidates.index(gold)]) for p, gold in pairs]))


def replayed(
    rows: Sequence[Row],
    name: str = "mix",
    parts: Sequence[tuple[int, Sequence[int]]] | None = None,
    *,
    again: bool = False,
) -> Replayed:
    """Return what a combination of recipes would have said, from what they have said.

    Args:
        rows: One for each member, on the same task and stream; of a task with candidates.
        name: The combiner with its settings, without members.
        parts: Where each part of the stream ends, and which members are there in it, by number; by default all of them
            are there to the end.
        again: Whether what is handed over is fitted on second looks, where there are any, and expected to do as it
            does there, as `mix` of a race.
    """
    combiner = _combiner(name)
    gold = {
        part: [str(i) for i in rows[0][part]["gold"]] if rows[0][part] else [] for part in ("stream", "test", "rest")
    }
    task = task_of(rows[0])
    examples = [Example(f"row {i}", answer, f"row-{i}") for i, answer in enumerate(gold["stream"])]
    along = [calibrated_as_in_a_race(row) for row in rows]
    stream: list[Prediction] = []
    for stop, able in parts or [(len(examples), range(len(rows)))]:
        combining = Combining(name, task, combiner)
        for i, example in enumerate(examples[:stop]):
            said = [along[member][0][i] for member in able]
            if i < len(stream):
                combining.remember(example, said)
            else:
                stream.append(combining.answer(Query(example, examples[:i]), said))
    ended = stream
    if again:
        combining = Combining(name, task, combiner)
        said = list(zip(*(_as_handed_over(rows[member], *along[member]) for member in able), strict=True))
        for example, own in zip(examples, said, strict=True):
            combining.remember(example, own)
        ended = crossed(name, task, combiner, examples, said)
    final, needed = combining.fitted([along[member][1] for member in able])
    final, kept = final.knowing(task, examples), [able[i] for i in needed]

    def answers(part: str) -> list[Prediction]:
        if rows[0][part] is None:
            return []
        said = zip(
            *(map(Calibration(**c).of, predictions(rows[i], rows[i][part])) for i, c in _pairs(kept, final)),
            strict=True,
        )
        return [combined(name, task, final, own) for own in said]

    test = answers("test")
    members = [recipe_of(rows[i]["recipe"]) for i in kept]
    how = {
        "keeps_stream": again and all(m.can_be_asked_again or not m.learns for m in members),
        "keeps_learning": any(m.keeps_learning for m in members),
    }
    samples = [
        sample_row(task, name, at, example, prediction)
        for at, example, prediction in zip(rows[0].get("positions", range(len(examples))), examples, ended, strict=True)
    ]
    return Replayed(
        stream,
        test,
        answers("rest"),
        gold,
        min(1.0, max(0.0, evidence(task, samples, by="metric", **how).expected(len(examples)))),
        float(np.mean([p.prompt_tokens for p in test])),
        tuple(kept),
    )


def _as_handed_over(row: Row, along: Sequence[Prediction], last: Calibration) -> list[Prediction]:
    """Return what a recipe has said along the stream, or in its second look where it was asked there."""
    found, seen = list(along), look(row)
    if seen:
        places = row.get("positions") or range(row["n"])
        at = {place: i for i, place in enumerate(places)}
        for place, prediction in zip(seen["positions"], predictions(row, seen), strict=True):
            found[at[place]] = last.of(prediction)
    return found


def task_of(row: Row) -> Task:
    """Return the task of a row, with numbers for labels; where a question has choices of its own there are none."""
    n_labels = len(row["stream"]["log_probs"][0]) if row["kind"] == "classification" else 0
    return Task(row["task"], row["kind"], (), labels=tuple(map(str, range(n_labels))))


def calibrated_as_in_a_race(row: Row) -> tuple[Sequence[Prediction], Calibration]:
    """Return what a recipe has said along the stream, calibrated as a race does it, and as it is handed over."""
    own, task = predictions(row, row["stream"]), task_of(row)
    how = parse_recipe(row["recipe"], shots=16).calibrated_on(task)
    if how not in ("batch", "temperature"):
        return own, UNCALIBRATED
    examples = [Example(f"row {i}", str(gold), f"row-{i}") for i, gold in enumerate(row["stream"]["gold"])]
    along, last = calibrated(own, examples, label_prior=how == "batch")
    return along, last.asked(predictions(row, row["again"]) if row["again"] else [])


def _pairs(kept: Iterable[int], final: Combiner) -> Iterable[tuple[int, Mapping[str, Any]]]:
    return zip(kept, final.calibrations, strict=True)


def _combiner(name: str) -> Combiner:
    base, _, settings = name.partition(":")
    return parse_recipe(f"{base}(zero-shot,random)" + (f":{settings}" if settings else ""), shots=1).part("combiner")


def predictions(row: Row, part: Mapping[str, Any]) -> list[Prediction]:
    """Return what a recipe has said in a part of its row, as it said it."""
    found, tokens = [], row["query_tokens"][0]
    for i, logs in enumerate(part["log_probs"]):
        candidates = tuple(map(str, range(len(logs))))
        probs = tuple(normalised(np.array(logs)).tolist())
        answer = candidates[int(np.argmax(logs))]
        found.append(Prediction(f"row-{i}", candidates, tuple(logs), probs, answer, prompt_tokens=int(tokens)))
    return found


def recorded(folder: Path) -> dict[tuple[str, int], list[Row]]:
    """Return the rows of each (task, seed) that has candidates, of all its files that are there."""
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        for row in json.loads(file.read_text("utf-8"))["rows"]:
            if row["stream"]["log_probs"] is not None:
                found[row["task"], row["seed"]].append(row)
    return dict(found)


def compared(tasks: Mapping[tuple[str, int], Sequence[Row]], ways: Sequence[str]) -> str:
    """Return how the ways to combine do on streams and on further training rows, as a table."""
    lines = [
        f"{'':44}" + "".join(f"{head:>13}" for head in ("stream", "bits", "rest", "rest bits", "tokens", "members"))
    ]
    for way in ways:
        found = [replayed(rows, way) for rows in tasks.values()]
        values = [np.mean([r.accuracy("stream") for r in found]), np.mean([r.bits("stream") for r in found])]
        values += [
            np.mean([r.accuracy("rest") for r in found if r.rest]),
            np.mean([r.bits("rest") for r in found if r.rest]),
        ]
        values += [np.mean([r.query_tokens for r in found]), np.mean([len(r.members) for r in found])]
        lines.append(f"{way:44}" + "".join(f"{value:13.3f}" for value in values))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ways", nargs="*", default=WAYS)
    given = parser.parse_args()
    print(compared(recorded(given.folder), given.ways))
