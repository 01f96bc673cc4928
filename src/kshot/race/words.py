"""What was chosen, in plain words: how sure, against which others, at what cost, and what would change it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kshot.core.types import Task
from kshot.measures.comparison import LEVEL, Difference, compared, trend
from kshot.measures.variance import Spread

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # each finished recipe's sample rows
LEAST_FOR_A_CURVE = 12


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
    board: Sequence[Mapping[str, Any]],
    rows: Rows,
    comparisons: Sequence[dict[str, Any]],
    *,
    n_known: int,
    by: str = "metric",
    prefer: str | None = None,
    lead: Mapping[str, Any] | None = None,
    spread: Spread | None = None,
) -> str:
    """Return a paragraph on the choice: what and why, how sure, at what cost, and what more examples would do.

    Args:
        task: What is learnt.
        board: The leaderboard; its first row is what was chosen.
        rows: Of each recipe.
        comparisons: What `compare_all` returns.
        n_known: Examples that what was chosen knows.
        by: What the choice compared: "metric" or "bits".
        prefer: What was preferred among those nearly as good.
        lead: How far the chosen one is ahead of the next when deployed, as `Race.lead` returns it.
        spread: How much the draw of demonstrations matters to what was chosen.
    """
    measure = _Measure(task, by)
    said = [
        _chosen(measure, board, n_known, prefer, lead),
        _along_the_stream(measure, board),
        _certainty(comparisons),
        _dropped(board),
        _of_draws(task, spread),
        _cost(board, comparisons),
        _more_examples(rows[board[0]["recipe"]]),
    ]
    return " ".join(text for text in said if text)


@dataclass(frozen=True)
class _Measure:
    """What the choice compares, in words: being right, another metric, or bits."""

    task: Task
    by: str

    @property
    def keys(self) -> tuple[str, str]:
        """The leaderboard's columns of it: when deployed, and over the stream."""
        return ("deployed", "metric") if self.by == "metric" else ("deployed_bits", "bits_per_example")

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.by == "metric" else -1

    @property
    def _name(self) -> str:
        return self.task.metrics[0]

    def value(self, value: float) -> str:
        """Return a value with its unit."""
        if self.by == "bits":
            return f"{value:.2f} bits an answer"
        return f"{100 * value:.0f} %" if self._name == "accuracy" else f"{self._name} {value:.3f}"

    def between(self, low: float, high: float) -> str:
        """Return the ends of an interval."""
        if self.by == "bits":
            return f"{low:.2f} to {high:.2f}"
        return f"{100 * low:.0f} to {100 * high:.0f}" if self._name == "accuracy" else f"{low:.3f} to {high:.3f}"

    def achieved(self, value: float, low: float | None = None, high: float | None = None) -> str:
        """Return what somebody is expected to do, or did, after "to" or "it was"."""
        ends = "" if low is None or high is None else f" ({self.between(low, high)})"
        if self.by == "bits":
            return f"cost {self.value(value)}{ends}"
        return f"right on {self.value(value)}{ends}" if self._name == "accuracy" else f"at {self.value(value)}{ends}"


def _chosen(
    measure: _Measure,
    board: Sequence[Mapping[str, Any]],
    n_known: int,
    prefer: str | None,
    lead: Mapping[str, Any] | None,
) -> str:
    """Return what was chosen and why."""
    first, key = board[0], measure.keys[0]
    name = first["recipe"]
    if first[key] is None:
        return (
            f"{name} was chosen, but {first['n']} predictions are too few to say what is expected of it once it knows "
            f"all {n_known} examples."
        )
    value = measure.achieved(first[key], first[f"{key}_low"], first[f"{key}_high"])
    verb = "be " if measure.by == "metric" else ""
    on = " of new inputs" if value.startswith("right") else " on new inputs"
    said = f"{name} was chosen: once it knows all {n_known} examples it is expected to {verb}{value}{on}"
    if lead is None:
        return f"{said}."
    gap, reach = lead["gap"], 1.96 * lead["standard_error"]
    row = next(r for r in board if r["recipe"] == lead["recipe"])
    other = f"{row['recipe']} ({measure.value(row[key])})" if row[key] is not None else row["recipe"]
    if prefer and gap < 0:
        near = "is expected to do better, but by less than a standard error"
        return f"{said}. {other} {near}, and {prefer} is preferred."
    if measure.by == "bits":
        ahead = f"{gap:.2f} bits fewer than {other}, the next, give or take {reach:.2f}"
    elif measure.task.metrics[0] == "accuracy":
        ahead = f"{_points(100 * gap)} more than {other}, the next, give or take {100 * reach:.0f}"
    else:
        ahead = f"{gap:.3f} more than {other}, the next, give or take {reach:.3f}"
    doubt = "" if gap > reach else ": too close to be sure"
    return f"{said}. That is {ahead}{doubt}."


def _along_the_stream(measure: _Measure, board: Sequence[Mapping[str, Any]]) -> str:
    """Return how it did while it learnt, and why one that did better there was not chosen."""
    end, key = measure.keys
    first = board[0]
    if first[key] is None:
        return ""
    said = (
        f"Over the stream, where each of {first['n']} examples was predicted from those before it, it "
        f"{'was ' if measure.by == 'metric' else ''}{measure.achieved(first[key])}"
    )
    able = [r for r in board if r["status"] in ("done", "stopped") and r[key] is not None and r["n"] == first["n"]]
    highest = max(able, key=lambda r: measure.sign * r[key], default=first)
    if measure.sign * (highest[key] - first[key]) <= 0:
        return f"{said}."
    more = "had more there" if measure.by == "metric" else "needed fewer there"
    said += f"; {highest['recipe']} {more} ({measure.value(highest[key])})"
    if highest[end] is None or first[end] is None or measure.sign * (first[end] - highest[end]) <= 0:
        return f"{said}."
    less = "less is expected of it" if measure.by == "metric" else "more are expected of it"
    return f"{said}, but {less} in the end ({measure.value(highest[end])})."


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
    """Return which others are better or worse, row by row."""
    if not comparisons:
        return "There was nothing to compare it with."
    groups = {word: [c for c in comparisons if c["verdict"].startswith(word)] for word in ("worse", "better", "no")}
    said = []
    if groups["worse"]:
        said.append(f"it was better than {_names(groups['worse'])}")
    if groups["better"]:
        said.append(f"{_names(groups['better'])} {'was' if len(groups['better']) == 1 else 'were'} better")
    if alike := groups["no"]:
        nearest = max(alike, key=lambda c: (c["score"]["n"], -c["score"]["mean"]))  # not one that was dropped early
        gap = nearest["score"]
        is_ahead = gap["mean"] < 0
        sign, where = (-100, "ahead") if is_ahead else (100, "behind")
        ends = sorted(sign * gap[key] for key in ("low", "high") if gap[key] is not None)
        between = " ({:+.1f} to {:+.1f})".format(*ends) if ends else ""
        at = f"{100 * abs(gap['mean']):.1f} points {where}{between}"
        which = at if len(alike) == 1 else f"the nearest, {nearest['recipe']}, is {at}"
        said.append(f"no difference was found to {_names(alike)}: {which}")
    return f"Row by row along the stream {'; '.join(said)}. These hold at 95 %, all together."


def _names(some: Sequence[dict[str, Any]], most: int = 4) -> str:
    names = [c["recipe"] for c in some]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _cost(board: Sequence[Mapping[str, Any]], comparisons: Sequence[dict[str, Any]]) -> str:
    row = board[0]
    if not row["query_tokens"]:
        return "A query costs no prompt tokens: it asks no language model."
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
    if trend(bits, [r["position"] for r in rows])[2] < 0:
        return f"It was still learning {halves}: more examples should help, and may change the choice."
    return f"Its learning curve has no clear trend {halves}: more examples of the same kind may not change much."


def _points(value: float) -> str:
    text = f"{value:.0f}"
    return f"{text} point" if text == "1" else f"{text} points"
