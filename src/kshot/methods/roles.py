"""Who speaks in a loop: a language model, a script, or a person."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.models import LanguageModel
from kshot.core.visible_text import visible
from kshot.engine.load_model import load_model, placing_of_another
from kshot.prompts.fitting import fits, prompt_tokens
from kshot.store.traces import Traces
from kshot.taskmodel.taskmodel import TaskModel


class LeftError(Exception):
    """A person has left the dialogue."""


class TooMuchError(Exception):
    """A role is told more than it can read; its text says how much, in words that go on after "what it is told"."""


class Role(Protocol):
    """Somebody who answers what is asked in a loop."""

    @property
    def identity(self) -> str:
        """What its answers depend on beside the request."""
        ...

    def count(self, text: str) -> int:
        """Return how many tokens a text has for it; 0 where they cost nothing."""
        ...

    def speak(self, request: str, *, most: int, seed: int) -> str:
        """Return its answer.

        Args:
            request: All that it is told.
            most: The most tokens of the answer.
            seed: For a draw.

        Raises:
            LeftError: It will say nothing any more.
            TooMuchError: The request is longer than it can read.
        """
        ...


@dataclass(frozen=True)
class Speaker:
    """A language model that answers.

    Attributes:
        model: It is asked in its layout.
        temperature: As in `GenerateRequest`.
    """

    model: TaskModel
    temperature: float = 1.0

    @property
    def identity(self) -> str:
        """The model's fingerprint."""
        return self.model.model.fingerprint

    def count(self, text: str) -> int:
        """Return how many tokens a text has for the model."""
        return self.model.model.count_tokens(text)

    def speak(self, request: str, *, most: int, seed: int) -> str:
        """Return what the model writes; errors as `TaskModel.write_each`, and where it has no room for an answer."""
        prompt, model = self.model.layout.request(request), self.model.model
        if not (model.is_remote or fits(prompt, model, answer_tokens=1)):  # a server counts for itself
            raise TooMuchError(f"has {prompt_tokens(prompt, model)} tokens, and the model reads {model.max_tokens - 1}")
        (found,) = self.model.write_each([prompt], max_tokens=most, temperature=self.temperature, seed=seed)
        return found.text


@dataclass(frozen=True)
class Scripted:
    """Answers by a function of what it is told: in planted worlds, and for tests.

    Attributes:
        say: Returns the answer to a request.
        name: What its answers depend on.
    """

    say: Callable[[str], str]
    name: str = "scripted"

    @property
    def identity(self) -> str:
        """Its name."""
        return self.name

    def count(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())

    def speak(self, request: str, *, most: int, seed: int) -> str:
        """Return what the function says."""
        return self.say(request)


STAND_IN = Scripted(lambda request: "unknown", "stand-in")  # for all but the language model, where one is rehearsed


@dataclass(frozen=True)
class Person:
    """Somebody at the terminal: one line is an answer; Ctrl-D leaves.

    Attributes:
        show: Shows what is asked.
        read: Returns a line with its end; "" where there will be none any more.
    """

    show: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True)
    read: Callable[[], str] = lambda: sys.stdin.readline()

    @property
    def identity(self) -> str:
        """Every person is the same to a trace: who goes on is believed to be who has begun."""
        return "person"

    def count(self, text: str) -> int:
        """Return 0: tokens of people are not counted, their turns are."""
        return 0

    def speak(self, request: str, *, most: int, seed: int) -> str:
        """Return a line that somebody has written."""
        self.show(f"\n{visible(request)}\n(one line; Ctrl-D leaves)")
        try:
            line = self.read()
        except (EOFError, OSError):
            line = ""
        if not line:
            raise LeftError
        return line.strip()


def role_of(who: str, model: TaskModel, *, temperature: float = 1.0, setting: str = "") -> Role:
    """Return who a setting names.

    Args:
        who: "model" is the one that answers, "person" somebody at the terminal, and all else another model, as
            --model names it.
        model: The one that answers, on its task.
        temperature: Of what a model says.
        setting: Which one it is, for errors.

    Raises:
        UserError: There is no such model, or it cannot write.
    """
    if who != "model" and model.traces.rehearses:
        return STAND_IN
    if who == "person":
        return Person()
    return Speaker(model if who == "model" else another(who, model, setting), temperature)


def another(name: str, model: TaskModel, setting: str = "") -> TaskModel:
    """Return another model that is named on the task of one, which keeps what it says where the run does.

    It is loaded as the models of the run are, but for their revision. In a rehearsal none is loaded: the one stands for
    it, and what it is asked is not counted.

    Raises:
        UserError: There is no such model; it names the `setting`, if that is given.
    """
    if model.traces.rehearses:
        return replace(model, ledger=Ledger())
    other = load_another(name, model.traces, setting)
    return replace(TaskModel.for_task(model.task, other), ledger=model.ledger, progress=model.progress)


def load_another(name: str, traces: Traces, setting: str = "") -> LanguageModel:
    """Return another model that is named, loaded once for all that speak in these traces; errors as `another`."""
    placing = traces.placing
    try:
        return traces.model(name, lambda name: load_model(name, **placing_of_another(name, placing)))
    except UserError as error:
        if not setting:
            raise
        raise UserError(f"{setting} must name a model, as --model does. {error}") from error


def spoken(transcript: Sequence[tuple[str, str]]) -> str:
    r"""Return (who, what was said) as a text, a turn a line.

    Example:
        >>> spoken([("Coach", "Why?"), ("Writer", "Because.")])
        'Coach: Why?\nWriter: Because.'
    """
    return "\n".join(f"{who}: {text}" for who, text in transcript)
