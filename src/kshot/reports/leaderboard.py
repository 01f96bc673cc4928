"""The leaderboard as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kshot.core.visible_text import visible

IN_THE_CHOICE = ("racing", "done", "stopped")
LEGEND = "> chosen  ~ not clearly worse  behind: the chosen one when deployed, ± standard error of the difference"
NOT_TAKING_PART = "not-"  # how the status of recipes begins that this task, model or machine rules out


def behind(row: Mapping[str, Any], by: str) -> str:
    """Return how far a recipe is behind the chosen one, with the standard error; no minus before a zero."""
    factor, digits = (100, 1) if by == "metric" else (1, 2)
    gap, error = (round(factor * row[key], digits) + 0.0 for key in ("behind", "behind_error"))
    return f"{gap:.{digits}f} ±{error:.{digits}f}"


def ruled_out(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return why recipes do not take part, each reason with their names."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["status"].startswith(NOT_TAKING_PART):
            found.setdefault(row["reason"], []).append(row["recipe"])
    return found


def made_in_words(row: Mapping[str, Any]) -> str:
    """Return how many examples a recipe's generator has last made and rejected, with the reasons; empty without one."""
    if not (counts := row.get("made")):
        return ""
    reasons = "; ".join(f"{reason} ({n})" for reason, n in counts.get("reasons", {}).items())
    return f"{counts['made']} examples made, {counts['rejected']} rejected" + (f": {reasons}" if reasons else "")


def leaderboard_table(
    rows: Sequence[Mapping[str, Any]], *, metric: str, by: str, chosen: str | None, with_reasons: bool = False
) -> Table:
    """Return a table with the best recipe first; marked are the chosen one and those not clearly worse.

    The first columns are what is expected of a recipe once it knows all examples, by which it is chosen, and how far
    that is behind the chosen one, with the standard error of this difference; the others are over the stream. Bits are
    per example; tokens and milliseconds per query. Where texts were generated for some rows only, n says for how many
    of them the metric is. Recipes out of the choice are grey.

    Args:
        rows: Of the leaderboard.
        metric: The task's primary one.
        by: What the choice compares, "metric" or "bits".
        chosen: The recipe that is marked.
        with_reasons: Say why recipes left the race, not only that they did.
    """
    key, digits, title = ("deployed", 3, metric) if by == "metric" else ("deployed_bits", 2, "bits")
    unit = "points" if by == "metric" else "bits"
    legend = LEGEND if any(row["behind"] is not None for row in rows) else None
    table = Table(box=None, pad_edge=False, caption=legend, caption_justify="left")
    table.add_column("\nrecipe", overflow="fold")
    stream = (f"stream\n{metric}", "\nbits", "\nn", "\ntokens", "\nms")
    for text in (f"when deployed\n{title} (95%)", f"behind\n{unit} ±", *stream):
        table.add_column(text, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        mark = ("> ", "bold green") if row["recipe"] == chosen else "~ " if row["is_close"] else "  "
        status = row["status"]
        said = "" if status in ("done", "racing") else status
        if with_reasons and row["reason"] and not status.startswith(NOT_TAKING_PART):
            said = row["reason"].partition(":")[0] if status == "dropped" else row["reason"]
        if counts := row.get("made"):
            said = ", ".join(filter(None, (said, f"{counts['made']} made, {counts['rejected']} rejected")))
        cells = [""] * 7
        if row["n"]:
            low, high = row[f"{key}_low"], row[f"{key}_high"]
            cells = [
                "" if row[key] is None else f"{row[key]:.{digits}f} ({low:.2f}-{high:.2f})",
                "" if row["behind"] is None else behind(row, by),
                "" if row["metric_n"] == 0 else f"{row['metric']:.3f}",
                f"{row['bits_per_example']:.2f}",
                str(row["n"]) if row["metric_n"] == row["n"] else f"{row['metric_n']} of {row['n']}",
                f"{row['query_tokens']:.0f}",
                f"{row['query_ms']:.0f}",
            ]
        name = Text.assemble(mark, visible(row["recipe"]), overflow="fold")
        table.add_row(name, *cells, said, style=None if status in IN_THE_CHOICE else "dim")
    return table
