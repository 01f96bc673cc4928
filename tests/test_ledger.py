"""Costs add up from part to whole and from any thread; a budget ends where it is checked."""

import re
from threading import Thread

import pytest

from kshot.core.budget import Budget, parse_budget
from kshot.core.errors import UserError
from kshot.core.ledger import BudgetSpentError, Cost, Ledger
from kshot.core.prices import Prices, in_usd, parse_prices


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


PRICES = Prices(input=1.0, cached=0.1, output=10.0)


def a_call(input_tokens=1000, cached_tokens=0, output_tokens=1):
    return Cost(calls=1, input_tokens=input_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens)


def test_cached_tokens_are_among_those_of_the_input_and_have_a_price_of_their_own():
    assert a_call(1000, 400, 20).money(PRICES) == pytest.approx((600 * 1 + 400 * 0.1 + 20 * 10) / 1e6)
    assert Prices(1.0, 1.0, 1.0).of(10, 30, 0) == pytest.approx(30 / 1e6)  # a service that counts them apart


def test_money_of_processes_before_counts_and_an_answer_from_the_store_does_not():
    ledger = Ledger(prices=PRICES, before=Cost(scored=5, seconds=9.0, calls=2, input_tokens=10**6))
    ledger.part().add(a_call(10**6, 0, 0) + Cost(scored=1, tokens=10**6))
    ledger.add(Cost(reused=3, tokens=3 * 10**6))
    assert ledger.paid == Cost(calls=3, input_tokens=2 * 10**6)
    assert ledger.money == pytest.approx(2.0)
    assert ledger.cost.scored == 1


def test_no_call_is_made_once_the_money_of_the_whole_is_spent():
    ledger = Ledger(Budget(money=1.0), prices=PRICES)
    part = ledger.part()
    part.check_call()
    part.add(a_call(10**6, 0, 0))
    ledger.check()  # what is stored can still be used
    assert not ledger.is_spent
    with pytest.raises(BudgetSpentError):
        part.check_call()
    assert ledger.is_spent


def test_what_is_reserved_of_the_money_is_for_parts_that_may_overspend():
    ledger = Ledger(Budget(money=1.0), prices=PRICES)
    ledger.reserved_money = 0.5
    ledger.add(a_call(600_000, 0, 0))
    last = ledger.part(overspends=True).part()
    last.check_call()
    last.add(a_call(10**6, 0, 0))
    last.check_call()
    with pytest.raises(BudgetSpentError):
        ledger.part().check_call()
    assert ledger.money == pytest.approx(1.6)


def test_without_prices_calls_are_counted_and_cost_nothing():
    ledger = Ledger()
    ledger.add(a_call())
    ledger.check_call()
    assert ledger.money is None
    assert ledger.paid.calls == 1


@pytest.mark.parametrize(
    ("text", "prices"),
    [
        ("in=0.15,out=0.6,cached=0.075", Prices(0.15, 0.075, 0.6)),
        ("out=0.6, in=0.15", Prices(0.15, 0.15, 0.6)),
        ("in=0,out=0", Prices(0, 0, 0)),
        (None, None),
    ],
)
def test_prices_are_read(text, prices):
    assert parse_prices(text) == prices


@pytest.mark.parametrize(
    "text", ["", "0.15", "in=0.15", "in=a,out=1", "in=-1,out=1", "in=nan,out=1", "in=1,in=2,out=1", "in=1,out=1,x=1"]
)
def test_other_prices_are_refused(text):
    with pytest.raises(UserError, match=f"^--prices must be US dollars .*; got '{re.escape(text)}'. Write them as"):
        parse_prices(text)


@pytest.mark.parametrize(("text", "money"), [("2usd", 2.0), ("0.05usd", 0.05), ("2 usd", 2.0)])
def test_a_budget_of_money_is_read(text, money):
    assert parse_budget(text) == Budget(money=money)


@pytest.mark.parametrize("text", ["usd", "0usd", "-1usd", "2eur", "2kusd", "$2", "infusd"])
def test_other_money_is_refused(text):
    with pytest.raises(UserError, match="or money as 2usd; got"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("money", "words"), [(12.4, "12.40 usd"), (0.00312, "0.0031 usd"), (0.5, "0.5 usd"), (0, "0.00 usd")]
)
def test_sums_are_told(money, words):
    assert in_usd(money) == words
