"""Rules of choice, replayed on recorded predictions: each makes of a stream's rows what is handed over, and its cost.

The race, the evidence and combiners are those that `kshot adapt` runs. No rule sees a test row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress
from typing import Any

import numpy as np

from kshot.core.types import Example, FloatArray, Prediction, Task
from kshot.measures.probabilities import normalised
from kshot.methods.contracts import Answered, Combiner
from kshot.race.halving import dropped, slices
from kshot.race.ranking import Evidence, valued
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe

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


@cache
def recipe_of(name: str) -> Recipe:
    """Return the recipe of a row."""
    return parse_recipe(name, shots=16)


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


def worth(some: Mapping[str, Any]) -> FloatArray:
    """Return what rows are worth to the choice."""
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


def look(row: Row) -> Mapping[str, Any] | None:
    """Return the second look, with `positions` and `tokens`; folds are one where all parts were hidden in turn."""
    if not recipe_of(row["recipe"]).can_be_asked_again:
        return None
    if row["again"]:
        return row["again"]
    whole = [fold for fold in row["folds"] if len(row["folds"]) > 1]
    if not whole:
        return None
    found: dict[str, Any] = {key: sum((fold[key] for fold in whole), []) for key in ("scores", "gold", "log_probs")}
    found["positions"] = [at for fold in whole for at in range(fold["start"], fold["stop"])]
    return found | {"tokens": sum(fold["tokens"] for fold in whole)}


def evidence_of(row: Row, *, again: bool = True) -> Evidence:
    """Return the evidence of a recipe, with its second look or without."""
    recipe, stream, final = recipe_of(row["recipe"]), worth(row["stream"]), {}
    if again and (seen := look(row)):
        final = dict(zip(seen["positions"], worth(seen).tolist(), strict=True))
    if not recipe.learns:
        final = dict(zip(places(row), stream.tolist(), strict=True))
    return Evidence(stream, places(row), final, recipe.keeps_learning)


def expected(rows: Rows, **how: Any) -> dict[str, float]:
    """Return what is expected of each recipe when it knows all examples."""
    return {name: evidence_of(row, **how).expected(row["n"]) for name, row in rows.items()}


def race(rows: Rows, *, again: bool = True) -> tuple[list[str], float]:
    """Return who comes to the end of a race over the recorded streams, and the tokens that it takes."""
    first = next(iter(rows.values()))
    known, n_end = places(first), first["n"]
    racing, spent = list(rows), 0.0
    for start, stop in slices(len(known)):
        spent += sum(sum(rows[name]["tokens"][start:stop]) for name in racing)
        if stop < len(known):
            bits = {name: rows[name]["stream"]["bits"][:stop] for name in racing}
            out = dropped(bits, known[:stop], n_end, free={name for name in racing if not sum(rows[name]["tokens"])})
            racing = [name for name in racing if name not in out]
    return racing, spent + sum(_look_tokens(rows[name]) for name in racing if again)


def whole_cost(rows: Rows) -> float:
    """Return the tokens of all recipes run to the end, with their second looks."""
    return sum(sum(row["tokens"]) + _look_tokens(row) for row in rows.values())


def _look_tokens(row: Row) -> float:
    seen = look(row)
    return seen["tokens"] if seen else 0.0


# Rules


def _picked(rows: Rows, values: Mapping[str, float], tokens: float) -> Outcome:
    """Return the recipe with the highest value; ties go to the fewer bits."""
    name = max(values, key=lambda n: (round(values[n], 9), -float(np.mean(rows[n]["stream"]["bits"]))))
    return Outcome(name, np.array(rows[name]["test"]["scores"], dtype=np.float64), tokens)


def kshot(rows: Rows) -> Outcome:
    """Return what kshot chooses after its race."""
    racing, tokens = race(rows)
    return _picked(rows, expected({name: rows[name] for name in racing}), tokens)


def to_the_end(rows: Rows) -> Outcome:
    """Return what kshot chooses where nobody is dropped."""
    return _picked(rows, expected(rows), whole_cost(rows))


def without_look(rows: Rows) -> Outcome:
    """Return what kshot chooses after its race by the stream alone."""
    racing, tokens = race(rows, again=False)
    return _picked(rows, expected({name: rows[name] for name in racing}, again=False), tokens)


def mean(rows: Rows) -> Outcome:
    """Return the recipe with the best mean over the stream."""
    values = {name: float(np.mean(row["stream"]["scores"])) for name, row in rows.items()}
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
        paid, spent = [], 0.0
        for fold in reversed(row["folds"]):
            spent += fold["tokens"]
            if paid and spent > most(row):
                break
            paid.append(fold)
        values[name] = float(np.mean(np.concatenate([fold["scores"] for fold in paid])))
        tokens += sum(fold["tokens"] for fold in paid)
    return _picked(rows, values, tokens)


RULES: dict[str, Callable[[Rows], Outcome]] = {
    "kshot": kshot,
    "kshot, all recipes to the end": to_the_end,
    "kshot, without the second look": without_look,
    "mean over the stream": mean,
    "bits over the stream": bits,
    "80/20 split": lambda rows: _of_folds(rows, lambda row: 0.0),
    "5-fold at equal cost": lambda rows: _of_folds(rows, lambda row: sum(row["tokens"]) + _look_tokens(row)),
    "5-fold": lambda rows: _of_folds(rows, lambda row: np.inf),
}


# Combinations


def predictions(row: Row, part: str) -> list[Prediction]:
    """Return the recorded predictions of "stream" or "test"; candidates are numbered."""
    found, n_tokens = [], round(row["query_tokens"][0])
    for i, log_probs in enumerate(row[part]["log_probs"]):
        names = tuple(str(j) for j in range(len(log_probs)))
        probs = normalised(np.array(log_probs))
        answer = names[int(np.argmax(probs))]
        found.append(Prediction(f"{part} {i}", names, tuple(log_probs), tuple(probs), answer, prompt_tokens=n_tokens))
    return found


def combined(rows: Rows, names: Sequence[str], combiner: Combiner, task: Task) -> Outcome:
    """Return what a combiner of these recipes hands over, having learnt on the stream: no model is asked for it."""
    first = rows[names[0]]
    stream, test = ([predictions(rows[name], part) for name in names] for part in ("stream", "test"))
    gold = [Example("", str(right), f"stream {i}") for i, right in enumerate(first["stream"]["gold"])]
    fitted = combiner.fit(task, [Answered(e, said) for e, *said in zip(gold, *stream, strict=True)])
    scores, tokens = [], 0.0
    for right, *said in zip(first["test"]["gold"], *test, strict=True):
        asked = [said[0]]
        while len(asked) < len(said) and fitted.asks(task, asked):
            asked.append(said[len(asked)])
        scores.append(float(fitted.combine(task, asked).answer == str(right)))
        tokens += sum(rows[name]["query_tokens"][0] for name in names[: len(asked)])
    return Outcome(" + ".join(names), np.array(scores), 0.0, tokens / len(scores))


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
