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
from rich.text import Text

from kshot.cli.streams import TERMINATED
from kshot.core.errors import KEPT, KshotError, RunInterruptedError
from kshot.core.json_text import to_json
from kshot.core.prices import paid_in_words, paid_together
from kshot.core.progress import Board
from kshot.core.termination import TerminatedError
from kshot.core.visible_text import visible

P = ParamSpec("P")
R = TypeVar("R")


class PlainConsole(Console):
    """A console that takes no text for markup, and shows what would move a terminal's cursor as an escape."""

    def __init__(self, **how: Any):
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """Return the text of a string, wherever in a table or a line it stands."""
        return super().render_str(visible(text), **how)


# Where stdout is a file or a pipe nothing is cut to the width of a terminal
stdout = PlainConsole(width=None if sys.stdout and sys.stdout.isatty() else 200)
stderr = PlainConsole(stderr=True)


def guarded(command: Callable[P, R], *, resumes: bool = False) -> Callable[P, R]:
    """Turn errors into one sentence on stderr and the exit code that the shell expects.

    Args:
        command: What is run.
        resumes: It keeps what it computes, so that the same command goes on where it was stopped.
    """

    def stopped(error: BaseException) -> str:
        return _kept(error) or ("; nothing was computed yet" if resumes else "")

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            done = command(*args, **kwargs)
            sys.stdout.flush()
            return done
        except KshotError as error:
            code = failed(str(error), error.exit_code)
        except TerminatedError as error:
            code = failed(f"terminated{stopped(error)}.", TERMINATED)
        except KeyboardInterrupt as error:
            code = failed(f"interrupted{stopped(error)}.", RunInterruptedError.exit_code)
        except MemoryError as error:
            told = f"there must be memory for the model and its prompts; there is too little{_kept(error)}. Free some."
            code = failed(told)
        except OSError as error:
            where = f"'{error.filename}'" if error.filename else "a file or connection"
            code = failed(
                f"{where} must be usable; the system says: {error.strerror or error}{_kept(error)}. Make it so."
            )
        except Exception as error:  # a mistake of ours must be seen whole
            stderr.print(traceback.format_exc().rstrip())
            said = f"{type(error).__name__}: {error}".rstrip(": .")
            code = failed(f"a mistake of kshot's own: {said}{_kept(error)}. Please report it with the lines above.")
        raise typer.Exit(code) from None

    return wrapper


resumable = functools.partial(guarded, resumes=True)


def _kept(error: BaseException) -> str:
    return f"; {KEPT}" if KEPT in getattr(error, "__notes__", ()) else ""


def failed(text: str, code: int = KshotError.exit_code) -> int:
    """Tell what went wrong, and return the exit code."""
    _print_error(text)
    return code


def _print_error(text: str) -> None:
    stderr.print("error:", style="bold red", end=" ")
    stderr.print(text)


def print_paragraph(text: str) -> None:
    """Print prose on stdout, broken between words where it is read in a terminal."""
    wide = min(100, stdout.width) if stdout.is_terminal else None
    stdout.print(text, soft_wrap=not stdout.is_terminal, width=wide)


def print_result(text: str) -> None:
    """Print what other programs read, as it is; where a terminal reads it, so that it can show it."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout."""
    text = to_json(value)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = to_json(value, ensure_ascii=True)  # with escapes of JSON's own
    sys.stdout.write(text + "\n")


class TerminalProgress:
    """A bar for each recipe with the time left; plain lines where stderr is no terminal."""

    tells_end = True  # that a recipe is done, as a line

    def __init__(self) -> None:
        self._bars = None
        if stderr.is_terminal:
            name = TextColumn("{task.description}", markup=False)
            self._bars = Progress(name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=stderr)

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
            self._task = self._bars.add_task(visible(recipe), total=total)

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
            stderr.print(f"{self._recipe}: {self._done}/{self._total}, {left:.0f} s left")

    def standing(self, board: Board, left: str) -> None:
        """Print nothing: only races have a standing, and `kshot.cli.live` shows them."""

    def say(self, text: str) -> None:
        """Print a sentence above the bars."""
        (self._bars.console if self._bars else stderr).print(text)


def tell_paid(*done: Any) -> None:
    """Say beside the results what models behind an API were asked for them, by all that have had a part in it."""
    if paid := paid_together([one.paid for one in done if one.paid]):
        stderr.print(f"paid: {paid_in_words(paid)}")
