"""What was chosen, in plain words: how sure, against which others, at what cost, and what would change it."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from kshot.core.types import Task
from kshot.measures.comparison import LEVEL, Difference, at_the_end, compared, mean_interval, trend
from kshot.measures.variance import Spread

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # each finished recipe's sample rows
LEAST_FOR_A_CURVE = 12


def compare_all(chosen: str, rows: Rows) -> list[dict[str, Any]]:
    """Return how each other recipe compares with the chosen one: positive differences speak for the chosen one.

    The intervals hold all together at 95 %: with m others each has a level of 1 - 0.05 / m (Bonferroni).
    """
    others = [name for name in rows if name != chosen]
    level = 1 - (1 - LEVEL) / max(1, len(others))
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


def deployed(
    rows: Sequence[Mapping[str, Any]], key: str, *, are_final: bool = False
) -> tuple[float, float, float] | None:
    """Return what a recipe's `key` is expected to be when it is handed over, or None with too few rows.

    Args:
        rows: Sample rows.
        key: "score" or "bits".
        are_final: The rows are those of the recipe as it is handed over; otherwise they are those of the stream, and
            the end of its learning curve is returned.
    """
    values = [float(r[key]) for r in rows if r[key] is not None]
    if len(values) < LEAST_FOR_A_CURVE:
        return None
    most = 1.0 if key == "score" else inf
    found = mean_interval(values) if are_final else at_the_end(values)
    value, low, high = (min(max(x, 0.0), most) for x in found)
    return value, low, high


def in_words(
    task: Task,
    board: Sequence[Mapping[str, Any]],
    rows: Rows,
    comparisons: Sequence[dict[str, Any]],
    *,
    prefer: str | None = None,
    spread: Spread | None = None,
    expected: Mapping[str, float] | None = None,
) -> str:
    """Return a paragraph on the choice.

    Args:
        task: What is learnt.
        board: The leaderboard; its first row is what was chosen.
        rows: Of each recipe.
        comparisons: What `compare_all` returns.
        prefer: What was preferred among those nearly as good.
        spread: How much the draw of demonstrations matters to what was chosen.
        expected: What the choice compared.
    """
    first, metric = board[0], task.metrics[0]
    name = first["recipe"]
    measured = f"{metric} {first['metric']:.3f} ({first['metric_low']:.3f} to {first['metric_high']:.3f})"
    bits = f"{first['bits_per_example']:.2f} bits an example over {first['n']} predictions"
    said = [
        f"{name} was chosen by its {bits}; {measured} over {first['metric_n']} written answers."
        if task.is_open
        else f"{name} was chosen: {measured} and {bits}."
    ]
    said.append(_why_not_the_highest(task, board, prefer, expected or {}))
    said.append(_certainty(comparisons))
    said.append(_dropped(board))
    said.append(_of_draws(task, spread))
    said.append(_cost(board, comparisons))
    said.append(_more_examples(rows[name]))
    return " ".join(text for text in said if text)


def _why_not_the_highest(
    task: Task, board: Sequence[Mapping[str, Any]], prefer: str | None, expected: Mapping[str, float]
) -> str:
    """Return why a recipe with more over the stream was not chosen, where there is one."""
    key, sign = ("bits_per_example", -1) if task.is_open else ("metric", 1)
    able = [r for r in board if r["status"] in ("done", "stopped") and r[key] is not None]
    highest = max(able, key=lambda r: sign * r[key])
    if highest["n"] != board[0]["n"] or sign * (highest[key] - board[0][key]) <= 0:
        return ""
    value = f"{highest['recipe']} has {highest[key]:.3f} over the stream"
    if prefer:
        return f"{value}, but less than a standard error more, and {board[0]['recipe']} is the one with {prefer}."
    ours, theirs = (abs(expected[row["recipe"]]) for row in (board[0], highest))  # bits are negative there
    return f"{value}, but {theirs:.3f} is expected of it once all examples are known, and {ours:.3f} of the chosen one."


def _of_draws(task: Task, spread: Spread | None) -> str:
    """Return how much the draw of demonstrations matters, and how much the examples that were asked."""
    if spread is None:
        return ""
    unit, by = ("bits", 1) if task.is_open else ("points", 100)
    draw, order, examples = (f"{by * value:.1f}" for value in (spread.draw, spread.order, spread.examples))
    return (
        f"Another draw of its demonstrations would move it by {draw} {unit}, another order by {order}, other test "
        f"examples (as many as the {spread.n} asked for this) by {examples} (standard deviations)."
    )


def _dropped(board: Sequence[Mapping[str, Any]]) -> str:
    """Return what did not come to the end."""
    names = [r["recipe"] for r in board if r["status"] == "dropped"]
    if not names:
        return ""
    return f"{len(names)} fell behind and {'was' if len(names) == 1 else 'were'} dropped on the way."


def _certainty(comparisons: Sequence[dict[str, Any]]) -> str:
    if not comparisons:
        return "There was nothing to compare it with."
    worse = [c for c in comparisons if c["verdict"].startswith("worse")]
    alike = [c for c in comparisons if c["verdict"].startswith("no")]
    better = [c for c in comparisons if c["verdict"].startswith("better")]
    said = []
    if worse:
        said.append(f"It is better than {_names(worse)}")
    if alike:
        nearest = max(alike, key=lambda c: (c["score"]["n"], -c["score"]["mean"]))  # not one that was dropped early
        gap = nearest["score"]
        is_ahead = gap["mean"] < 0
        mean, sign, where = (
            abs(gap["mean"]),
            -100 if is_ahead else 100,
            "ahead along the stream" if is_ahead else "behind",
        )
        ends = sorted(sign * gap[key] for key in ("low", "high") if gap[key] is not None)
        between = " ({:+.1f} to {:+.1f})".format(*ends) if ends else ""
        said.append(
            f"no difference was found to {_names(alike)}; the nearest, {nearest['recipe']}, is "
            f"{100 * mean:.1f} points {where}{between}"
        )
    if better:
        said.append(f"by the metric alone {_names(better)} would be better")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]} (paired, 95 % for all comparisons together)."


def _names(some: Sequence[dict[str, Any]], most: int = 4) -> str:
    names = [c["recipe"] for c in some]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _cost(board: Sequence[Mapping[str, Any]], comparisons: Sequence[dict[str, Any]]) -> str:
    row = board[0]
    said = f"A query costs {row['query_tokens']:.0f} prompt tokens"  # no milliseconds: the same run says the same
    alike = {c["recipe"] for c in comparisons if c["verdict"].startswith("no")}
    able = [r for r in board[1:] if r["recipe"] in alike and r["status"] in ("done", "stopped")]
    cheaper = [r for r in able if r["query_tokens"] < 0.5 * row["query_tokens"]]
    if cheaper:
        least = min(cheaper, key=lambda r: r["query_tokens"])
        said += f"; {least['recipe']}, which is not clearly worse, takes {least['query_tokens']:.0f} tokens"
    return f"{said}."


def _more_examples(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the learning curve says of more examples."""
    bits = [float(r["bits"]) for r in rows]
    if len(bits) < 2 * LEAST_FOR_A_CURVE:
        return "The stream is too short to say what more examples would bring."
    half = len(bits) // 2
    early, late = sum(bits[:half]) / half, sum(bits[half:]) / (len(bits) - half)
    halves = f"({early:.2f} bits in the first half of the stream, {late:.2f} in the second)"
    if trend(bits)[2] < 0:
        return f"It was still learning {halves}: more examples should help, and may change the choice."
    return f"Its learning curve has no clear trend {halves}: more examples of the same kind may not change much."
