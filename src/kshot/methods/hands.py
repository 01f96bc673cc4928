"""Several choices out of one: hands of cards, dealt in turn."""

from collections.abc import Sequence
from itertools import cycle, islice
from math import factorial

import numpy as np

from kshot.core.schedule import refit_point
from kshot.core.types import FloatArray

Hand = list[int]


def dealt(cards: Sequence[int], k: int, n: int) -> list[Hand]:
    """Deal `n` hands of `k` cards in turn from the end of `cards`; each hand keeps their order.

    Where there are too few, those are dealt again that are in the fewest hands, of these the ones nearest to the end;
    no card is twice in a hand, and a hand has all cards if there are no more than `k`.

    Example:
        >>> dealt([0, 1, 2, 3, 4, 5], k=2, n=2)
        [[3, 5], [2, 4]]
        >>> dealt([0, 1, 2], k=2, n=2)
        [[0, 2], [1, 2]]
    """
    deck = list(reversed(cards))
    if len(deck) >= k * n:
        return [deck[i : k * n : n][::-1] for i in range(n)]
    times, hands = [0] * len(deck), [set[int]() for _ in range(n)]  # of places in the deck
    for _ in range(min(k, len(deck))):
        for hand in hands:
            place = min((i for i in range(len(deck)) if i not in hand), key=times.__getitem__)
            times[place] += 1
            hand.add(place)
    return [[deck[i] for i in sorted(hand, reverse=True)] for hand in hands]


def reordered(hand: Hand, rng: np.random.Generator) -> Hand:
    """Return a hand with the cards before its last power of two in another order, drawn; later ones keep their places.

    A hand that grows card by card, with the same draw, so keeps its beginning until it has doubled.
    """
    n = refit_point(len(hand))
    return [*(hand[i] for i in rng.permutation(n)), *hand[n:]]


def filled(hands: Sequence[Hand], n: int) -> list[Hand]:
    """Return the first `n` hands, again from the first one where there are fewer."""
    return list(islice(cycle(hands), n))


def ranked(hands: Sequence[Hand], costs: FloatArray) -> list[Hand]:
    """Return the hands, the cheapest first, and after them further orders of the same cards."""
    by_cost = [hands[i] for i in np.argsort(costs, kind="stable")]
    best = {frozenset(hand): hand for hand in reversed(by_cost)}
    firsts = [hand for hand in by_cost if best[frozenset(hand)] is hand]
    return [*firsts, *(hand for hand in by_cost if best[frozenset(hand)] is not hand)]


def different(hands: Sequence[Hand], rngs: Sequence[np.random.Generator]) -> list[Hand]:
    """Return the hands, each that is as one before it in another order, drawn; as it is if there is no other order."""
    seen: dict[frozenset[int], set[tuple[int, ...]]] = {}
    found = []
    for hand, rng in zip(hands, rngs, strict=True):
        known = seen.setdefault(frozenset(hand), set())
        while tuple(hand) in known and len(known) < factorial(len(hand)):
            hand = [hand[i] for i in rng.permutation(len(hand))]
        known.add(tuple(hand))
        found.append(hand)
    return found
