"""The one tree of errors. Each message says what must hold, what was got, and what to do."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

KEPT = "what was computed is kept, and the same command resumes"


class KshotError(Exception):
    """Base of all errors that kshot raises on purpose; `exit_code` is what the shell sees."""

    exit_code = 3


class UserError(KshotError):
    """The user's input is wrong: one sentence with the file, the row and the remedy; no traceback."""

    exit_code = 2


class SameTokensError(UserError):
    """Two answers to choose from are the same tokens; `texts` are both, as they were to be scored."""

    def __init__(self, first: str, second: str, message: str = ""):
        super().__init__(
            message
            or f"The answers to choose from must differ for the model; {first!r} and {second!r} are the same tokens. "
            "Rename one of them."
        )
        self.texts = first, second


class TooLongError(UserError):
    """A question does not fit a model's context; `asked` is its id, `n` the tokens it needs, `most` those that fit.

    `which` is what the message calls it, where its id says nothing to who asks.
    """

    def __init__(self, asked: str, n: int, most: int, which: str = ""):
        which = which or f"example '{asked}'"
        super().__init__(
            f"Each example must fit the model's context of {most} tokens; {which} needs {n} with the "
            "instruction. Shorten it, remove it, or use another --model."
        )
        self.asked, self.n, self.most = asked, n, most


class InvalidInputError(UserError, ValueError):
    """What Python was given cannot be used: a `ValueError` too, as scikit-learn's tools expect."""


class SettingError(UserError):
    """A setting has a value that it cannot have; who knows whose setting it is puts the name in front."""


class DamagedError(UserError):
    """A file that kshot wrote is not as it was written; what stood in it can be made again."""


class ModelError(KshotError):
    """A model or server failed while it was running."""


class RefusedError(ModelError):
    """A server refuses a request for good; `status` is HTTP's number, `words` what the server says."""

    def __init__(self, message: str, status: int, words: str):
        super().__init__(message)
        self.status, self.words = status, words


class NoAnswerError(ModelError):
    """A server answered nothing of use, also when it was asked again; `is_there` says whether it was reached at all."""

    def __init__(self, message: str, *, is_there: bool = True):
        super().__init__(message)
        self.is_there = is_there


class NotFiniteError(ModelError):
    """A number that an answer or a file rests on is NaN or infinite."""


class StorageError(KshotError):
    """A run could not be written down; what was committed before is kept."""


class RunInterruptedError(KshotError):
    """The user stopped the run; the same command resumes it."""

    exit_code = 130


@contextmanager
def keeping() -> Iterator[None]:
    """Note on what stops the work inside, such as Ctrl-C, that nothing of it is lost."""
    try:
        yield
    except KshotError:  # says itself what to do
        raise
    except BaseException as error:
        error.add_note(KEPT)
        raise


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """Say which extra of kshot brings `package`, which `purpose` needs."""
    return UserError(f"{purpose} needs the package '{package}'; install it with: pip install 'kshot[{extra}]'")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'? Known: a, b." for a name that is not among `known`."""
    known = sorted(set(known))
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"{guess} Known: {', '.join(known)}."


def in_short(error: BaseException) -> str:
    """Return what another library's error says, for the middle of a sentence of ours: its beginning, or its kind."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return said[:200].rstrip(". ") + "…" * (len(said) > 200) if said else type(error).__name__
