"""The race in the terminal: recipes as rows with their running scores, the bar of the one at work, the budget left."""

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from kshot.cli.output import TerminalProgress, print_paragraph, stderr, stdout
from kshot.core.prices import paid_in_words
from kshot.core.progress import Board
from kshot.reports.leaderboard import IN_THE_CHOICE, leaderboard_table, ruled_out
from kshot.verbs.adapt import Run


class RaceProgress(TerminalProgress):
    """A live table; where stderr is no terminal, lines after each slice, and for recipes that left the race.

    Args:
        metric: The task's primary metric.
        by: What the choice compares, "metric" or "bits".
    """

    tells_end = False  # its score is told instead

    def __init__(self, metric: str, by: str = "metric"):
        super().__init__()
        self._metric, self._by, self._board, self._left = metric, by, (), ""
        self._told: dict[str, tuple[int, str]] = {}  # how each recipe stood when that was told
        self._live = (
            Live(get_renderable=self._render, console=stderr, refresh_per_second=4, transient=True)
            if self._bars
            else None
        )

    def __enter__(self) -> "RaceProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, recipe: str, total: int) -> None:
        """Show one bar, for the recipe at work."""
        if self._bars:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
        super().begin(recipe, total)

    def standing(self, board: Board, left: str) -> None:
        """Show the race so far."""
        self._board, self._left = board, left
        if self._live or len({row["n"] for row in board if row["status"] == "racing"}) > 1:
            return  # within a slice what is expected rests on the rows that all have: those of the slice before
        for row in board:
            name, is_in = row["recipe"], row["status"] in IN_THE_CHOICE
            stands = row["n"], "" if is_in else row["status"]
            if row["n"] and self._told.get(name) != stands:
                self._told[name] = stands
                budget = f"; {left}" if left else ""
                said = f"{row['n']} examples, {self._score(row)}{budget}" if is_in else row["reason"] or row["status"]
                stderr.print(f"{name}: {said}")

    def _score(self, row: Mapping[str, Any]) -> str:
        bits = f"{row['bits_per_example']:.2f} bits"
        score = f"{self._metric} {row['metric']:.3f}, {bits}" if row["metric_n"] else bits
        key, form = ("deployed", ".3f") if self._by == "metric" else ("deployed_bits", ".2f")
        if row[key] is None:
            return score
        low, high = (f"{row[f'{key}_{end}']:{form}}" for end in ("low", "high"))
        return f"{score}; when deployed {row[key]:{form}} ({low} - {high})"

    def _render(self) -> Group:
        first = self._board[0]["recipe"] if self._board else None
        table = leaderboard_table(self._board, metric=self._metric, by=self._by, chosen=first, with_reasons=True)
        left = [Text(self._left, style="dim")] if self._left else []
        return Group(table, *([self._bars] if self._bars else []), *left)


def print_run(run: Run, metric: str, by: str = "metric") -> None:
    """Print a finished run: its leaderboard, what is said about the choice, and where model and report are."""
    stdout.print(leaderboard_table(run.leaderboard, metric=metric, by=by, chosen=run.chosen))
    for reason, names in ruled_out(run.leaderboard).items():
        stdout.print(f"{', '.join(names)}: {reason}", style="dim")
    print_paragraph(f"\n{run.in_words}\n")
    if run.abstention and run.abstention["in_words"]:
        print_paragraph(f"{run.abstention['in_words']}\n")
    if run.paid:
        nothing = "" if run.work.calls else " (nothing this time)"
        stdout.print(f"paid:   {paid_in_words(run.paid)}{nothing}")
    stdout.print(f"model:  {run.folder / 'best'}   ({shlex.join(('kshot', 'predict', str(run.folder)))})")
    stdout.print(f"report: {run.folder / 'report.html'}")
