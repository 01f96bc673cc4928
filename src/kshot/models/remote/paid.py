"""Answers of a service with what they took, as a store keeps them: what was paid for once is never asked again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from kshot.core.ledger import Cost
from kshot.core.models import Store
from kshot.core.types import Generation
from kshot.models.remote.route import Reading
from kshot.models.remote.service import Usage

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a service has answered.

    Attributes:
        value: What was read of it.
        usage: What that took.
        seconds: For how long it was waited for.
        wasted: What answers took that were of no use, before this one; paid as well, and not kept with it.
    """

    value: T
    usage: Usage
    seconds: float
    wasted: Usage = Usage()

    @property
    def paid(self) -> Cost:
        """All of it."""
        return (self.usage + self.wasted).cost


class Shelf(Protocol[T]):
    """Keeps answers of one kind."""

    def get(self, keys: Sequence[str]) -> dict[str, Answer[T]]:
        """Return those that are there."""
        ...

    def put(self, key: str, answer: Answer[T]) -> None:
        """Keep one; it is on disk when this returns."""
        ...


@dataclass(frozen=True)
class Readings:
    """Keeps readings: a row is the usage, the mass (-1 where it is not known), and the log-probabilities."""

    store: Store

    def get(self, keys: Sequence[str]) -> dict[str, Answer[Reading]]:
        """Return those that are there."""
        return {key: self._read(*kept) for key, kept in self.store.get(keys).items()}

    def put(self, key: str, answer: Answer[Reading]) -> None:
        """Keep one."""
        mass = -1.0 if answer.value.mass is None else answer.value.mass
        head = [float(n) for n in _numbers(answer.usage)]
        self.store.put([(key, np.array([*head, mass, *answer.value.log_probs]), answer.seconds)], paid=answer.paid)

    def _read(self, row: Any, seconds: float) -> Answer[Reading]:
        n = len(_numbers(Usage()))
        mass = None if row[n] < 0 else float(row[n])
        return Answer(Reading(row[n + 1 :], mass), Usage(*(int(v) for v in row[:n])), seconds)


@dataclass(frozen=True)
class Texts:
    """Keeps texts; what they took is a row beside each."""

    store: Store

    def get(self, keys: Sequence[str]) -> dict[str, Answer[Generation]]:
        """Return those that are there."""
        usages = self.store.get([_usage_key(key) for key in keys])
        return {
            key: Answer(text, Usage(*(int(v) for v in usages[_usage_key(key)][0])), seconds)
            if _usage_key(key) in usages
            else Answer(text, Usage(calls=1), seconds)
            for key, (text, seconds) in self.store.get_texts(keys).items()
        }

    def put(self, key: str, answer: Answer[Generation]) -> None:
        """Keep one."""
        took = _usage_key(key), np.array(_numbers(answer.usage), float), answer.seconds
        self.store.put_texts([(key, answer.value, answer.seconds)], beside=[took], paid=answer.paid)


def _numbers(usage: Usage) -> tuple[int, ...]:
    return usage.calls, usage.input, usage.cached, usage.output


def _usage_key(key: str) -> str:
    return f"usage-{key}"
