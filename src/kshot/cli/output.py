"""What a command prints: results on stdout, everything else on stderr, errors as one sentence with an exit code."""

import functools
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kshot.core.errors import KshotError, RunInterruptedError
from kshot.core.json_text import to_json
from kshot.core.progress import Board

P = ParamSpec("P")
R = TypeVar("R")
# Where stdout is a file or a pipe nothing is cut to the width of a terminal
stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into one sentence on stderr and the exit code that the shell expects."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KshotError as error:
            _print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _print_error("interrupted; what was computed is kept, and the same command resumes.")
            raise typer.Exit(RunInterruptedError.exit_code) from None
        except Exception as error:  # a model that fails, or a mistake of ours: both must be seen whole
            traceback.print_exc()
            _print_error(f"failed while running: {error or type(error).__name__}. What was committed is kept.")
            raise typer.Exit(3) from None

    return wrapper


def _print_error(text: str) -> None:
    stderr.print("error:", style="bold red", end=" ")
    stderr.print(text, markup=False)


def print_paragraph(text: str) -> None:
    """Print prose on stdout, broken between words where it is read in a terminal."""
    wide = min(100, stdout.width) if stdout.is_terminal else None
    stdout.print(text, markup=False, soft_wrap=not stdout.is_terminal, width=wide)


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


class TerminalProgress:
    """A bar for each recipe with the time left; plain lines where stderr is no terminal."""

    tells_end = True  # that a recipe is done, as a line

    def __init__(self) -> None:
        self._bars = None
        if stderr.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*(TextColumn(c) if isinstance(c, str) else c for c in columns), console=stderr)

    def __enter__(self) -> "TerminalProgress":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def begin(self, recipe: str, total: int) -> None:
        """Start the bar of a recipe."""
        self._recipe, self._total, self._done = recipe, total, 0
        self._began = self._told_at = time.monotonic()
        if self._bars:
            self._task = self._bars.add_task(recipe, total=total)

    def advance(self, n: int) -> None:
        """Move the bar; as lines, at the end and at most every 5 seconds."""
        self._done += n
        if self._bars:
            self._bars.advance(self._task, n)
            return
        now = time.monotonic()
        if n and ((self._done == self._total and self.tells_end) or now - self._told_at >= 5):
            self._told_at = now
            left = (now - self._began) / self._done * (self._total - self._done)
            stderr.print(f"{self._recipe}: {self._done}/{self._total}, {left:.0f} s left", markup=False)

    def standing(self, board: Board, left: str) -> None:
        """Print nothing: only races have a standing, and `kshot.cli.live` shows them."""

    def say(self, text: str) -> None:
        """Print a sentence above the bars."""
        (self._bars.console if self._bars else stderr).print(text, markup=False)
