"""What was chosen, in plain words: how sure, against which others, at what cost, and what would change it."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from kshot.core.types import Task
from kshot.evaluation.comparison import LEVEL, Difference, at_the_end, compared, trend

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


def deployed(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float, float] | None:
    """Return what a recipe's `key` is expected to be once it knows the whole stream, or None with too few rows."""
    values = [float(r[key]) for r in rows if r[key] is not None]
    if len(values) < LEAST_FOR_A_CURVE:
        return None
    most = 1.0 if key == "score" else inf
    value, low, high = (min(max(x, 0.0), most) for x in at_the_end(values))
    return value, low, high


def in_words(task: Task, board: Sequence[Mapping[str, Any]], rows: Rows, comparisons: Sequence[dict[str, Any]]) -> str:
    """Return a paragraph on the choice: the first row of the leaderboard."""
    first, metric = board[0], task.metrics[0]
    name = first["recipe"]
    measured = f"{metric} {first['metric']:.3f} ({first['metric_low']:.3f} to {first['metric_high']:.3f})"
    bits = f"{first['bits_per_example']:.2f} bits an example over {first['n']} predictions"
    said = [
        f"{name} was chosen by its {bits}; {measured} over {first['metric_n']} written answers."
        if task.is_open
        else f"{name} was chosen: {measured} and {bits}."
    ]
    said.append(_certainty(comparisons))
    said.append(_cost(board, comparisons))
    said.append(_more_examples(rows[name]))
    return " ".join(text for text in said if text)


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
        nearest = max(alike, key=lambda c: -c["score"]["mean"])
        gap = nearest["score"]
        between = f" ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})" if gap["low"] is not None else ""
        said.append(
            f"no difference was found to {_names(alike)}; the nearest, {nearest['recipe']}, is "
            f"{100 * gap['mean']:+.1f} points behind{between}"
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
    cheaper = [r for r in board[1:] if r["recipe"] in alike and r["query_tokens"] < 0.5 * row["query_tokens"]]
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
