"""The leaderboard as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

IN_THE_CHOICE = ("racing", "done", "stopped")


def leaderboard_table(
    rows: Sequence[Mapping[str, Any]], *, metric: str, chosen: str | None, with_reasons: bool = False
) -> Table:
    """Return a table with the best recipe first; the chosen one is marked, and those out of the choice are grey.

    Bits are per example; tokens and milliseconds per query. Where texts were generated for some rows only, n says for
    how many of them the metric is.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    for title in (metric, "95% interval", "bits", "n", "fit s", "tokens", "ms"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for row in rows:
        mark = "[bold green]> [/]" if row["recipe"] == chosen else "  "
        status = row["status"]
        said = "" if status in ("done", "racing") else status
        if with_reasons and row["reason"]:
            said = row["reason"]
        cells = [""] * 7
        if row["n"]:
            cells = [
                "" if row["metric_n"] == 0 else f"{row['metric']:.3f}",
                f"{row['metric_low']:.3f} - {row['metric_high']:.3f}",
                f"{row['bits_per_example']:.2f}",
                str(row["n"]) if row["metric_n"] == row["n"] else f"{row['metric_n']} of {row['n']}",
                f"{row['fit_seconds']:.1f}",
                f"{row['query_tokens']:.0f}",
                f"{row['query_ms']:.0f}",
            ]
        table.add_row(mark + row["recipe"], *cells, said, style=None if status in IN_THE_CHOICE else "dim")
    return table
