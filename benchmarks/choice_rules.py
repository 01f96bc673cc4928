"""Rules of choice, replayed on recorded predictions: each makes of a stream's rows what is handed over, and its cost.

The race, the evidence and combiners are those that `kshot adapt` runs. No rule sees a test row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from mixtures import Replayed, calibrated_as_in_a_race, look, predictions, recipe_of, replayed, task_of

from kshot.core.types import Example, FloatArray, Prediction
from kshot.measures.calibration import calibrated
from kshot.race.halving import dropped, slices
from kshot.race.ranking import Evidence, valued

Row = Mapping[str, Any]  # what was recorded of a recipe on a stream
Rows = Mapping[str, Row]  # of a stream, by recipe
KINDS = ("trained", "classifier", "all-past", "retrieval", "drawn", "no examples")


@dataclass(frozen=True)
class Outcome:
    """What a rule hands over.

    Attributes:
        name: What it is.
        scores: Of the test rows.
        tokens: What deciding took.
        query_tokens: That a query takes, where it is no single recipe.
    """

    name: str
    scores: FloatArray
    tokens: float
    query_tokens: float | None = None


def kind_of(name: str) -> str:
    """Return what kind of recipe it is, one of `KINDS`."""
    recipe = recipe_of(name)
    selector = recipe.part("selector")
    if recipe.trains:
        return "trained"
    if "classifier" in recipe.parts:
        return "classifier"
    if selector and selector.sees_all:
        return "all-past"
    if recipe.per_query:
        return "retrieval"
    return "drawn" if recipe.learns else "no examples"


def calibrated_row(row: Row) -> Row:
    """Return what was recorded of a recipe as `kshot adapt` calibrates it, along the stream and as it is handed over.

    A fold's calibration is fitted on itself: an advantage that is small, and the same for all.
    """
    how = recipe_of(row["recipe"]).calibrated_on(task_of(row))
    if how not in ("batch", "temperature"):
        return row
    along, last = calibrated_as_in_a_race(row)
    found = {"stream": _said(row, row["stream"], along)}
    for part in ("again", "test", "rest"):
        if row[part]:
            found[part] = _said(row, row[part], [last.of(p) for p in predictions(row, row[part])])
    folds = []
    for fold in row["folds"]:
        own, examples = predictions(row, fold), [Example("", str(gold), "") for gold in fold["gold"]]
        of_fold = calibrated(own, examples, label_prior=how == "batch")[1]
        folds.append(_said(row, fold, [of_fold.asked(own).of(p) for p in own]))
    return {**row, **found, "folds": folds, "as_said": row}


def as_said(row: Row) -> Row:
    """Return a row as it was recorded, before calibration."""
    return row.get("as_said", row)


def _said(row: Row, part: Mapping[str, Any], said: Sequence[Prediction]) -> Mapping[str, Any]:
    """Return a part of a row with other predictions; where a label prior changes nothing, its scores stay."""
    raw, scores, bits = predictions(row, part), list[float](), list[float]()
    for gold, before, now, score in zip(part["gold"], raw, said, part["scores"], strict=True):
        scores.append(score if now.answer == before.answer else float(now.answer == str(gold)))
        bits.append(-float(np.log2(now.probs[gold])))
    return {**part, "scores": scores, "bits": bits, "log_probs": [list(p.log_probs) for p in said]}


def is_open(rows: Rows) -> bool:
    """Return whether answers are texts, which are written for test rows alone: then rules go by bits."""
    return next(iter(rows.values()))["stream"]["log_probs"] is None


def plain_worth(some: Mapping[str, Any]) -> FloatArray:
    """Return what rows are worth to other rules: right or wrong; of open tasks their negative bits."""
    if some["log_probs"] is None:
        return -np.array(some["bits"], dtype=np.float64)
    return np.array(some["scores"], dtype=np.float64)


def worth(some: Mapping[str, Any]) -> FloatArray:
    """Return what rows are worth to the choice: as `plain_worth`, but right or wrong are smoothed."""
    if some["log_probs"] is None:
        return plain_worth(some)
    keys = ("gold", "log_probs", "scores")
    return valued(
        [
            {"candidates": range(len(log_probs)), "gold": gold, "log_probs": log_probs, "score": score}
            for gold, log_probs, score in zip(*(some[key] for key in keys), strict=True)
        ]
    )


def places(row: Row) -> list[int]:
    """Return how many examples were known at each row of the stream."""
    return row.get("positions") or list(range(row["n"]))


def evidence_of(row: Row, *, again: bool = True) -> Evidence:
    """Return the evidence of a recipe, with its second look or without."""
    recipe, stream, final = recipe_of(row["recipe"]), worth(row["stream"]), {}
    if again and (seen := look(row)):
        final = dict(zip(seen["positions"], worth(seen).tolist(), strict=True))
    if not recipe.learns:
        final = dict(zip(places(row), stream.tolist(), strict=True))
    return Evidence(stream, places(row), final, recipe.keeps_learning, row["stream"]["log_probs"] is None)


def expected(rows: Rows, **how: Any) -> dict[str, float]:
    """Return what is expected of each recipe when it knows all examples."""
    return {name: expected_of(row, **how) for name, row in rows.items()}


def expected_of(row: Row, **how: Any) -> float:
    """Return what is expected of a recipe when it knows all examples: a share, as in a race, or negative bits."""
    least, most = (-np.inf, 0.0) if row["stream"]["log_probs"] is None else (0.0, 1.0)
    return float(np.clip(evidence_of(row, **how).expected(row["n"]), least, most))


@dataclass(frozen=True)
class Raced:
    """A race over the recorded streams.

    Attributes:
        parts: Where each slice of the stream ends, and who predicts it.
        tokens: What it takes.
    """

    parts: Sequence[tuple[int, Sequence[str]]]
    tokens: float

    @property
    def racing(self) -> Sequence[str]:
        """Who comes to the end."""
        return self.parts[-1][1]


def race(rows: Rows, *, again: bool = True, spared: Callable[[str, int], bool] = lambda name, n: False) -> Raced:
    """Return how a race over the recorded streams goes.

    Args:
        rows: Of a stream.
        again: Whether there are second looks at its end.
        spared: Whether a recipe is spared after so many predictions, beside those that are free.
    """
    first = next(iter(rows.values()))
    known, n_end = places(first), first["n"]
    racing, spent, parts = list(rows), 0.0, list[tuple[int, Sequence[str]]]()
    for start, stop in slices(len(known)):
        parts.append((stop, racing))
        spent += sum(sum(rows[name]["tokens"][start:stop]) for name in racing)
        if stop < len(known):
            bits = {name: rows[name]["stream"]["bits"][:stop] for name in racing}
            free = {name for name in racing if not sum(rows[name]["tokens"]) or spared(name, stop)}
            out = dropped(bits, known[:stop], n_end, free=free)
            racing = [name for name in racing if name not in out]
    return Raced(parts, spent + sum(_look_tokens(rows[name]) for name in racing if again))


def whole_cost(rows: Rows) -> float:
    """Return the tokens of all recipes run to the end, with their second looks."""
    return sum(sum(row["tokens"]) + _look_tokens(row) for row in rows.values())


def _look_tokens(row: Row) -> float:
    seen = look(row)
    return seen["tokens"] if seen else 0.0


# Rules


def _picked(rows: Rows, values: Mapping[str, float], tokens: float, mixed: Replayed | None = None) -> Outcome:
    """Return the recipe with the highest value, or the mixture of a race; ties go to the fewer bits."""
    values, bits = dict(values), {name: float(np.mean(rows[name]["stream"]["bits"])) for name in values}
    if mixed and len(mixed.members) > 1:  # else its member stands for it
        values["mix"], bits["mix"] = mixed.expected, mixed.bits("stream")
    name = max(values, key=lambda n: (round(values[n], 9), -bits[n]))
    if mixed and name == "mix":
        return Outcome(name, right_ones(mixed), tokens, mixed.query_tokens)
    return Outcome(name, np.array(rows[name]["test"]["scores"], dtype=np.float64), tokens)


def right_ones(found: Replayed) -> FloatArray:
    """Return which test rows a combination gets right, as ones and zeros."""
    return np.array([float(p.answer == gold) for p, gold in zip(found.test, found.gold["test"], strict=True)])


def mixture(rows: Rows, parts: Sequence[tuple[int, Sequence[str]]], *, again: bool = True) -> Replayed | None:
    """Return what `mix` says in a race, of those who are in each of its parts; with second looks, fitted on these.

    None where one recipe is left, or answers are texts: those of a mixture would have to be written.
    """
    if len(parts[-1][1]) < 2 or is_open(rows):
        return None
    number = {name: i for i, name in enumerate(rows)}
    said = [as_said(row) for row in rows.values()]
    return replayed(said, "mix", [(stop, [number[name] for name in racing]) for stop, racing in parts], again=again)


def to_the_end(rows: Rows) -> Raced:
    """Return the race in which nobody is dropped."""
    first = next(iter(rows.values()))
    return Raced([(len(places(first)), list(rows))], whole_cost(rows))


def chosen(rows: Rows, raced: Raced, *, again: bool = True, mix: bool = True) -> Outcome:
    """Return what kshot chooses after a race, by default with second looks and with `mix` beside the recipes."""
    values = expected({name: rows[name] for name in raced.racing}, again=again)
    return _picked(rows, values, raced.tokens, mixture(rows, raced.parts, again=again) if mix else None)


def mean(rows: Rows) -> Outcome:
    """Return the recipe with the best mean over the stream."""
    values = {name: float(plain_worth(row["stream"]).mean()) for name, row in rows.items()}
    return _picked(rows, values, _streams(rows))


def bits(rows: Rows) -> Outcome:
    """Return the recipe with the fewest bits over the stream."""
    values = {name: -float(np.mean(row["stream"]["bits"])) for name, row in rows.items()}
    return _picked(rows, values, _streams(rows))


def _streams(rows: Rows) -> float:
    return sum(sum(row["tokens"]) for row in rows.values())


def _of_folds(rows: Rows, most: Callable[[Row], float]) -> Outcome:
    """Return the recipe with the best folds of those that can be paid for, the last (an 80/20 split) first."""
    values, tokens = {}, 0.0
    for name, row in rows.items():
        paid, spent = [], _learnt_before(row)
        for fold in reversed(row["folds"]):
            spent += fold["tokens"]
            if paid and spent > most(row):
                break
            paid.append(fold)
        values[name] = float(np.mean(np.concatenate([plain_worth(fold) for fold in paid])))
        tokens += _learnt_before(row) + sum(fold["tokens"] for fold in paid)
    return _picked(rows, values, tokens)


def _learnt_before(row: Row) -> float:
    """Return about what it took a recipe that trains to learn the examples before its fold: it did so on the stream.

    That is what the stream took up to there, less as many predictions as its fold's.
    """
    if not (recipe_of(row["recipe"]).trains and row["folds"]):
        return 0.0
    fold = row["folds"][0]
    n = fold["start"] + 1  # that many were predicted when all before the fold were learnt
    return max(0.0, sum(row["tokens"][:n]) - n * fold["tokens"] / len(fold["scores"]))


RULES: dict[str, Callable[[Rows], Outcome]] = {
    "kshot": lambda rows: chosen(rows, race(rows)),
    "kshot, all recipes to the end": lambda rows: chosen(rows, to_the_end(rows)),
    "kshot, without the second look": lambda rows: chosen(rows, race(rows, again=False), again=False),
    "kshot, without mix": lambda rows: chosen(rows, race(rows), mix=False),
    "mean over the stream": mean,
    "bits over the stream": bits,
    "80/20 split": lambda rows: _of_folds(rows, lambda row: 0.0),
    "5-fold at equal cost": lambda rows: _of_folds(rows, lambda row: sum(row["tokens"]) + _look_tokens(row)),
    "5-fold": lambda rows: _of_folds(rows, lambda row: np.inf),
}


def at_places(rows: Rows, chosen: Sequence[int]) -> dict[str, Row]:
    """Return the rows of a stream as if only these places of it had been predicted."""
    keep = set(chosen)
    return {name: _kept_at(row, keep) for name, row in rows.items()}


def _kept_at(row: Row, keep: set[int]) -> Row:
    here = [at in keep for at in places(row)]
    stream = {key: list(compress(values, here)) for key, values in row["stream"].items()}
    tokens, again = list(compress(row["tokens"], here)), row["again"]
    if again:
        there = [at in keep for at in again["positions"]]
        share = sum(there) / len(there)
        lists = {key: list(compress(values, there)) for key, values in again.items() if key != "tokens"}
        again = lists | {"tokens": share * again["tokens"]}
    return {**row, "positions": list(compress(places(row), here)), "stream": stream, "tokens": tokens, "again": again}
