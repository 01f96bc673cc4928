"""Costs add up from part to whole and from any thread; a budget ends where it is checked."""

from threading import Thread

import pytest

from kshot.core.budget import Budget
from kshot.core.ledger import BudgetSpentError, Cost, Ledger


def test_costs_add_up():
    assert Cost(1, 2, 0.5, 3) + Cost(10, 20, 1.0, 30) == Cost(11, 22, 1.5, 33)


def test_what_a_part_takes_is_in_the_whole():
    whole = Ledger()
    part, other = whole.part(), whole.part()
    inner = part.part()
    inner.add(Cost(scored=1, tokens=5))
    other.add(Cost(reused=2))
    whole.add(Cost(seconds=1.0))
    assert inner.cost == part.cost == Cost(scored=1, tokens=5)
    assert other.cost == Cost(reused=2)
    assert whole.cost == Cost(1, 2, 1.0, 5)


def test_threads_lose_nothing():
    whole = Ledger()

    def add(part):
        for _ in range(2000):
            part.add(Cost(tokens=1))

    parts = [whole.part() for _ in range(4)]
    threads = [Thread(target=add, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [part.cost.tokens for part in parts] == [2000] * 4
    assert whole.cost.tokens == 8000


def test_a_budget_of_tokens_is_spent_when_it_is_passed():
    ledger = Ledger(Budget(tokens=10))
    ledger.part().add(Cost(tokens=10))
    ledger.check()
    assert not ledger.is_spent
    ledger.reserve = (0.0, 1.0)
    with pytest.raises(BudgetSpentError):
        ledger.check()
    assert ledger.is_spent
    assert ledger.left[1] == 0


def test_a_budget_of_seconds_counts_from_its_beginning(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("kshot.core.ledger.time.monotonic", lambda: now[0])
    ledger = Ledger(Budget(seconds=5), began=99.0)
    ledger.check()
    now[0] = 104.5
    with pytest.raises(BudgetSpentError):
        ledger.check()
    assert ledger.left[0] == -0.5


def test_a_part_has_no_budget_of_its_own():
    ledger = Ledger(Budget(tokens=1))
    part = ledger.part()
    part.add(Cost(tokens=2))
    part.check()
    with pytest.raises(BudgetSpentError):
        ledger.check()
