"""What was chosen, in a few plain sentences: what is expected of it, how sure that is, and what would change it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kshot.core.types import Task
from kshot.measures.comparison import LEVEL, Difference, compared, trend
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # each finished recipe's sample rows
Standing = Mapping[str, Any]  # a row of the leaderboard
LEAST_FOR_A_CURVE = 24
MOST_NAMED = 3


def compare_all(chosen: str, rows: Rows) -> list[dict[str, Any]]:
    """Return how each other recipe compares with the chosen one: positive differences speak for the chosen one.

    The intervals hold all together at 95 %, also where the chosen one was picked by the same rows: each of the
    m (m - 1) / 2 pairs of m recipes has its share of the 5 % (Bonferroni).
    """
    others = [name for name in rows if name != chosen]
    level = 1 - (1 - LEVEL) / max(1, len(rows) * (len(rows) - 1) / 2)
    found = []
    for name in others:
        gaps = compared(rows[chosen], rows[name], level=level)
        score, bits = gaps["score"], gaps["bits"]
        saved = Difference(-bits.mean, -bits.high, -bits.low, bits.n)
        found.append(
            {"recipe": name, "score": _as_row(score), "bits_saved": _as_row(saved), "verdict": _verdict(score)}
        )
    return found


def _as_row(gap: Difference) -> dict[str, Any]:
    known = gap.n > 1
    return {"mean": gap.mean, "low": gap.low if known else None, "high": gap.high if known else None, "n": gap.n}


def _verdict(gap: Difference) -> str:
    if not gap.is_clear:
        return "no difference found"
    return "worse than the chosen one" if gap.low > 0 else "better than the chosen one"


def in_words(
    task: Task,
    board: Sequence[Standing],
    rows: Rows,
    recipes: Mapping[str, Recipe],
    *,
    n_known: int,
    by: str = "metric",
    prefer: str | None = None,
) -> str:
    """Return at most four short sentences on the choice; the numbers that it rests on stand in the leaderboard.

    What is expected of it, how sure it is that it is the best, what averaging would give, and what more examples would
    do; where there is nothing to say, a sentence is left out.

    Args:
        task: What is learnt.
        board: The leaderboard; its first row is what was chosen.
        rows: Of each recipe.
        recipes: Those of the leaderboard, by name.
        n_known: Examples that what was chosen knows.
        by: What the choice compared: "metric" or "bits".
        prefer: What was preferred among those nearly as good.
    """
    unit, name = _Unit(task, by), board[0]["recipe"]
    said = (
        _expected(unit, board[0], n_known),
        _certainty(board, prefer),
        _averaging(unit, board, recipes),
        _more_examples(recipes[name], rows[name]),
    )
    return " ".join(text for text in said if text)


@dataclass(frozen=True)
class _Unit:
    """What the choice compares, in words: being right, another metric, or bits."""

    task: Task
    by: str

    def value(self, number: float) -> str:
        """Return a number as it is read."""
        if self.by == "bits":
            return f"{number:.2f}"
        return f"{100 * number:.0f}" if self.task.metrics[0] == "accuracy" else f"{number:.3f}"

    def achieved(self, number: float) -> str:
        """Return what a recipe does, after "is expected to"."""
        if self.by == "bits":
            return f"cost {self.value(number)} bits an answer on new inputs"
        if self.task.metrics[0] == "accuracy":
            return f"be right on {self.value(number)} % of new inputs"
        return f"reach {self.task.metrics[0]} {self.value(number)} on new inputs"

    def away(self, behind: float) -> str:
        """Return where another recipe is, seen from the chosen one."""
        amount = f"{abs(behind):.2f} bits" if self.by == "bits" else f"{100 * abs(behind):.0f} points"
        if not float(amount.partition(" ")[0]):
            return "level with it"
        amount = "1 point" if amount == "1 points" else amount
        return f"{amount} {'behind' if behind > 0 else 'ahead of'} it"


def _expected(unit: _Unit, first: Standing, n_known: int) -> str:
    """Return what was chosen, and what is expected of it."""
    name, key = first["recipe"], "deployed" if unit.by == "metric" else "deployed_bits"
    if first[key] is None:
        few = "1 prediction is" if first["n"] == 1 else f"{first['n']} predictions are"
        return (
            f"{name} was chosen, but {few} too few to say what is expected of it once it knows all {n_known} examples."
        )
    low, high = (unit.value(first[f"{key}_{end}"]) for end in ("low", "high"))
    return (
        f"{name} was chosen: once it knows all {n_known} examples it is expected to {unit.achieved(first[key])} "
        f"(95 % interval: {low} to {high})."
    )


def _certainty(board: Sequence[Standing], prefer: str | None) -> str:
    """Return which others may be as good, and which of these costs less."""
    first, others = board[0], [r for r in board[1:] if r["behind"] is not None]
    if not others:
        out = [r["recipe"] for r in board if r["status"] == "dropped"]
        return f"{_names(out)} fell behind and {'was' if len(out) == 1 else 'were'} dropped on the way." if out else ""
    best = min(others, key=lambda r: r["behind"])
    if prefer and best["behind"] < 0:
        return f"{best['recipe']} is expected to do better, but by less than a standard error, and it costs more."
    close, clear = ([r for r in others if r["is_close"] == is_close] for is_close in (True, False))
    ahead = f"it is clearly ahead of {_names([r['recipe'] for r in clear])}" if clear else ""
    if not close:
        return _sentence(ahead)
    doubt = f"against {_names([r['recipe'] for r in close])} it is too close to be sure"
    said = f"{ahead}, but {doubt}" if ahead else doubt
    cheapest = min(close, key=lambda r: r["query_tokens"])
    if cheapest["query_tokens"] < 0.5 * first["query_tokens"]:
        said += f"; {cheapest['recipe']} would {_cost(cheapest, first)}"
    return _sentence(said)


def _cost(row: Standing, first: Standing) -> str:
    if not row["query_tokens"]:
        return "cost nothing, as it asks no language model"
    return f"cost {row['query_tokens']:.0f} prompt tokens a query instead of {first['query_tokens']:.0f}"


def _averaging(unit: _Unit, board: Sequence[Standing], recipes: Mapping[str, Recipe]) -> str:
    """Return what combined recipes and averaged contexts would give; how to try them where they were not."""
    first, said, untried = recipes[board[0]["recipe"]], [], []
    for kind in _WIDER:
        if kind.holds(first):
            continue
        tried = [row for row in board if kind.holds(recipes[row["recipe"]])]
        compared = [row for row in tried if row["behind"] is not None]
        if compared:
            best = min(compared, key=lambda row: row["behind"])
            said.append(f"{kind.name} ({best['recipe']}) is expected to be {unit.away(best['behind'])}")
        elif not tried and "selector" in first.parts and not unit.task.is_open and kind.suits(unit.task):
            untried.append(kind)
    whole = [r for r in (recipes[row["recipe"]] for row in board) if not (r.combines or r.combines_run)]
    if untried == [_WIDER[1]] and len(whole) < 2:  # it would have nothing to combine
        untried = []
    if untried:
        names = " and ".join(kind.name for kind in untried)
        were = "was" if len(untried) == 1 else "were"
        said.append(f"{names} {were} not tried: add {','.join(kind.recipe for kind in untried)} to --recipes")
    return _sentence("; ".join(said))


@dataclass(frozen=True)
class _Wider:
    """A way of answering from more than one prompt."""

    name: str
    recipe: str  # to try
    holds: Callable[[Recipe], bool]

    def suits(self, task: Task) -> bool:
        """Return whether it can be tried on a task."""
        return parse_recipe(self.recipe, shots=1).suits(task)


_WIDER = (
    _Wider("averaging contexts", "random:contexts=8", lambda recipe: recipe.averages_contexts),
    _Wider("combining recipes", "mix", lambda recipe: recipe.combines or recipe.combines_run),
)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _more_examples(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the learning curve says of more examples."""
    if not recipe.learns:
        return "It uses no examples, so more of them would not change it."
    if len(rows) < LEAST_FOR_A_CURVE:
        return ""
    if trend([float(r["bits"]) for r in rows], [r["position"] for r in rows])[2] < 0:
        return "It was still learning: more examples should help."
    return "Its learning curve does not say whether more examples would help."


def _names(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
