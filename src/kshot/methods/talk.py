"""A talk: roles asked in turn, each message kept, until a ledger of calls and tokens ends it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kshot.core.control_tokens import MARK
from kshot.core.seeding import digest
from kshot.core.types import Example, FloatArray
from kshot.measures.probabilities import normalised
from kshot.methods.roles import LeftError, Role, TooMuchError
from kshot.prompts.fitting import prompt_tokens
from kshot.store.traces import Trace
from kshot.taskmodel.taskmodel import TaskModel

T = TypeVar("T")
TRIES = 3  # answers of a role in a wrong form, before the talk ends


class OverError(Exception):
    """The talk has ended before the loop was done; its text says why, in words that stand alone."""


class SpentError(OverError):
    """The ledger does not hold what would come next; `calls` and `tokens` are what it would have to hold."""

    def __init__(self, calls: int, tokens: int, limits: tuple[int, int]):
        what = f"{limits[0]} calls" if calls > limits[0] else f"{limits[1]} tokens"
        super().__init__(f"the ledger of {what} is spent")
        self.calls, self.tokens = calls, tokens


@dataclass
class Talk:
    """Asks roles, and keeps what they say.

    A message that is in the trace already is not asked for again: it counts in the ledger with what it took, so that a
    talk that goes on ends where an undisturbed one does. What is asked depends on nothing but the talk so far, so a
    trace is replayed by running its loop.

    Attributes:
        roles: Who speaks, by name.
        most_calls: The most answers of roles, and outputs that are scored for it.
        most_tokens: The most tokens that are read and written for it, as the roles count them.
        trace: Where the messages are kept.
        say: Told where a trace cannot be gone on with.
        seed: For what roles draw; the n-th message is drawn with `seed + n`.
        calls: Made so far.
        tokens: Read and written so far.
    """

    roles: Mapping[str, Role]
    most_calls: int
    most_tokens: int
    trace: Trace
    say: Callable[[str], object]
    seed: int = 0
    calls: int = 0
    tokens: int = 0
    _n: int = 0

    def ask(self, name: str, request: str, *, most: int = 64) -> str:
        """Return what a role answers; arguments and errors as `ask_for`."""
        return self.ask_for(name, request, lambda text: text or None, "some words", most=most)

    def ask_for(self, name: str, request: str, reads: Callable[[str], T | None], form: str, *, most: int = 64) -> T:
        """Return what an answer of a role is read as; it is asked again where that is nothing.

        Args:
            name: Of the role.
            request: All that it is told.
            reads: Returns what a text means; None where it is not in the form.
            form: What an answer must be, in words, for the role and for messages.
            most: The most tokens of an answer.

        Raises:
            SpentError: The ledger does not hold this call with an answer of `most` tokens.
            OverError: The role has broken the form three times, is told more than it can read, or has left.
        """
        told, text = request, ""
        for attempt in range(TRIES):
            text = self._message(name, told, most, attempt)
            found = reads(text)
            if found is not None:
                return found
            told = f"{request}\n(Your answer must be {form}.)"
        raise OverError(f"{name} must answer with {form}; it has not, {TRIES} times: '{_short(text)}'")

    def bits(self, model: TaskModel, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """Return `model.code_lengths`, of which each output is a call.

        Raises:
            SpentError: The ledger does not hold them all.
        """
        prompts = [model.prompt(some, query)[0] for some, query in zip(shown, queries, strict=True)]
        self.pay(len(queries), sum(prompt_tokens(prompt, model.model) for prompt in prompts))
        return model.code_lengths(shown, queries) if queries else np.zeros(0)

    def probabilities(
        self, model: TaskModel, shown: Sequence[Sequence[Example]], queries: Sequence[Example]
    ) -> list[FloatArray]:
        """Return the probabilities of each query's candidates after its demonstrations; counted as `bits`.

        Raises:
            SpentError: The ledger does not hold them all.
        """
        prompts = [model.prompt(some, query)[0] for some, query in zip(shown, queries, strict=True)]
        self.pay(len(queries), sum(prompt_tokens(prompt, model.model) for prompt in prompts))
        rows = model.score(prompts, [model.said(model.answers(query), query) for query in queries])
        return [normalised(row) for row in rows]

    def pay(self, calls: int, tokens: int) -> None:
        """Count calls before they are made.

        Raises:
            SpentError: The ledger does not hold them.
        """
        self._check(calls, tokens)
        self.calls, self.tokens = self.calls + calls, self.tokens + tokens

    def _check(self, calls: int, tokens: int) -> None:
        calls, tokens = self.calls + calls, self.tokens + tokens
        if calls > self.most_calls or tokens > self.most_tokens:
            raise SpentError(calls, tokens, (self.most_calls, self.most_tokens))

    def _message(self, name: str, request: str, most: int, attempt: int) -> str:
        """Return the next message, from the trace where it is there."""
        role = self.roles[name]
        n_read = role.count(request)
        self._check(1, n_read + most * bool(n_read))
        asked = digest(name, role.identity, request, most, attempt)
        if self._n < len(self.trace.messages) and self.trace.messages[self._n]["asked"] != asked:
            self.say(f"{name} was asked something else when this was begun; what was said from there on is left out")
            self.trace.cut(self._n)
        if self._n == len(self.trace.messages):
            try:
                text = role.speak(request, most=most, seed=self.seed + self._n)
            except LeftError:
                raise OverError(f"{name} has left") from None
            except TooMuchError as error:
                raise OverError(f"what {name} is told {error}") from None
            text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").replace(MARK, "").strip()
            n_written = min(role.count(text), most)
            message: dict[str, Any] = {"role": name, "text": text, "request": request, "asked": asked}
            self.trace.add({**message, "tokens": n_read + n_written})
        message = self.trace.messages[self._n]
        self._n += 1
        self.calls, self.tokens = self.calls + 1, self.tokens + message["tokens"]
        return message["text"]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}…"
