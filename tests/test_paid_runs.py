"""What a run paid for is counted once, told, and ends where the money ends; by a model whose calls have a price."""

import json
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import kshot
from conftest import labelled_rows
from kshot.cli.config import read_settings
from kshot.cli.live import print_run
from kshot.cli.output import stdout
from kshot.core.errors import UserError
from kshot.core.ledger import Cost, Ledger
from kshot.core.prices import in_usd, parse_prices
from kshot.core.progress import Silence
from kshot.core.seeding import digest
from kshot.core.settings import RunSettings
from kshot.core.types import Example, Generation, Task
from kshot.models.remote.paid import Answer, Texts
from kshot.models.remote.service import Usage
from kshot.models.scripted import ScriptedModel
from kshot.race.entrant import Entrant
from kshot.race.measure import Measuring
from kshot.recipes.grammar import parse_recipe
from kshot.reports.html import page
from kshot.reports.saved_record import read_record
from kshot.store.scores import SqliteStore
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare

ROWS = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(24)))
TASK = Task("words", "classification", ROWS, labels=("animal", "food", "tool"))
PRICES = "in=1,out=10,cached=0.5"
A_CALL = Cost(calls=1, input_tokens=100_000, cached_tokens=20_000, output_tokens=1000)
MONEY_OF_A_CALL = 0.08 + 0.01 + 0.01


class Paid(ScriptedModel):
    """The scripted model as a service: a call for each request that is not stored, which the ledger may refuse."""

    is_remote = True
    n_calls = 0

    def forward_tokens(self, requests):
        return 100 * len(requests)

    def with_store(self, store):
        other = Paid(self._table, max_tokens=self.max_tokens)
        other._store = store
        return other

    def score(self, requests, *, progress=None, ledger=None):
        found = []
        for request in requests:
            key = digest(self.fingerprint, request.prompt.text, request.continuations)
            known = self._store.get([key]) if self._store else {}
            if not known:
                ledger.check_call()
                Paid.n_calls += 1
                known = {key: (self._answer(request), 0.0)}
                ledger.add(A_CALL + Cost(scored=1))
                self._store.put([(key, *known[key])], paid=A_CALL)
            ledger.add(Cost(tokens=100, reused=0))
            found.append(known[key][0])
            if progress:
                progress(1)
        return found


@pytest.fixture(autouse=True)
def _no_calls():
    Paid.n_calls = 0


def adapted(folder, **settings):
    return kshot.adapt(TASK, Paid(), recipes="zero-shot,bm25", shots=4, limit=24, out=folder, **settings)


def untimed(board):
    return [{key: value for key, value in row.items() if key not in ("fit_seconds", "query_ms")} for row in board]


def test_calls_and_money_are_told_wherever_a_run_tells_what_it_took(tmp_path):
    run = adapted(tmp_path / "run", prices=PRICES)
    n = Paid.n_calls
    assert run.paid == {
        "calls": n,
        "input_tokens": n * 100_000,
        "cached_tokens": n * 20_000,
        "output_tokens": n * 1000,
        "usd": pytest.approx(n * MONEY_OF_A_CALL),
    }
    assert run.to_json()["paid"] == run.paid
    assert run.to_json()["work"]["calls"] == n
    record = read_record(tmp_path / "run")
    assert record["results"]["paid"] == run.paid
    said = f"{n} calls, {n * 100_000:,} tokens sent ({n * 20_000:,} of them cached), {n * 1000:,} written, "
    assert f"Paid: {said}{n * MONEY_OF_A_CALL:.2f} usd." in page(record)
    with stdout.capture() as shown:
        print_run(run, "accuracy")
    assert f"paid:   {said}" in shown.get()


def test_a_run_without_calls_says_nothing_of_them(tmp_path):
    run = kshot.adapt(TASK, "scripted", recipes="zero-shot", limit=8, out=tmp_path / "run")
    assert run.paid is None
    assert run.to_json()["work"].keys() == {"scored", "reused"}
    assert "paid" not in json.loads((tmp_path / "run/results.json").read_text())


def test_without_prices_calls_are_told_and_no_money(tmp_path):
    assert adapted(tmp_path / "run").paid["usd"] is None
    assert "written.</p>" in page(read_record(tmp_path / "run"))


def test_a_finished_run_makes_no_calls_again_and_tells_the_same(tmp_path):
    first = adapted(tmp_path / "run", prices=PRICES)
    told = read_record(tmp_path / "run")["results"]
    n = Paid.n_calls
    again = adapted(tmp_path / "run", prices=PRICES)
    assert Paid.n_calls == n
    assert again.work.calls == 0
    assert again.paid == first.paid
    assert read_record(tmp_path / "run")["results"] == told
    with stdout.capture() as shown:
        print_run(again, "accuracy")
    assert " usd (nothing this time)" in shown.get()


def test_money_that_calls_under_way_took_beyond_the_budget_is_told(tmp_path):
    class Heard(Silence):
        left = ""

        def standing(self, board, left: str) -> None:
            self.left = left

    heard = Heard()
    adapted(tmp_path / "run", prices=PRICES, budget="3.95usd", race=False, progress=heard)
    assert heard.left == f"{in_usd(Paid.n_calls * MONEY_OF_A_CALL)} paid, more than the budget of 3.95 usd"
    adapted(tmp_path / "run", prices=PRICES, budget="200usd", race=False, progress=heard)
    assert heard.left == f"{in_usd(200 - Paid.n_calls * MONEY_OF_A_CALL)} of the budget left"


def test_a_run_ends_where_its_money_ends_and_a_larger_budget_pays_only_for_the_rest(tmp_path):
    whole = adapted(tmp_path / "whole", prices=PRICES)
    n_whole, Paid.n_calls = Paid.n_calls, 0
    part = adapted(tmp_path / "run", prices=PRICES, budget="4usd", race=False)
    n_part = Paid.n_calls
    assert n_part == 40
    stopped = [row for row in part.leaderboard if row["status"] == "stopped"]
    assert [row["reason"].startswith("the budget was spent after") for row in stopped] == [True]
    again = adapted(tmp_path / "run", prices=PRICES, budget="4usd", race=False)
    assert (Paid.n_calls, untimed(again.leaderboard)) == (n_part, untimed(part.leaderboard))
    more = adapted(tmp_path / "run", prices=PRICES, budget="20usd", race=False)
    assert Paid.n_calls == n_whole
    assert untimed(more.leaderboard) == untimed(whole.leaderboard)


def test_a_run_that_goes_on_with_shorter_prompts_ends_as_if_begun_with_them(tmp_path):
    def shown(folder, most, **settings):
        how = {"recipes": "zero-shot,random", "race": False, **settings}
        kshot.adapt(TASK, Paid(max_tokens=most), shots=8, limit=24, out=folder, **how)
        return [row["demonstrations"] for row in read_record(folder)["rows"]["random"]]

    assert max(map(len, shown(tmp_path / "run", 4096, prices=PRICES, budget="4usd"))) > 2
    whole = shown(tmp_path / "whole", 60)
    assert shown(tmp_path / "run", 60) == whole
    assert max(map(len, whole)) == 2


def test_a_budget_too_small_for_anything_says_what_would_do_without_asking_the_service(tmp_path):
    with pytest.raises(UserError, match=r"--budget must be enough for the first .* The smallest that works is about "):
        adapted(tmp_path / "run", prices=PRICES, budget="0.2usd")
    assert Paid.n_calls == 2


def test_money_needs_prices_and_a_model_that_costs_some(tmp_path):
    with pytest.raises(
        UserError, match=r"--budget in usd must come with --prices, .*; got '2usd' alone. Give --prices"
    ):
        adapted(tmp_path / "run", budget="2usd")
    with pytest.raises(UserError, match=r"'scripted' costs no money; got '2usd'. Give one such as 10m."):
        kshot.adapt(TASK, "scripted", recipes="zero-shot", budget="2usd", prices=PRICES, out=tmp_path / "run")


def test_prices_stand_in_the_file_of_settings_and_in_the_command_that_repeats(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"prices: {PRICES}\nbudget: 2usd\nmodel: tiny\n")
    settings = read_settings("task", file, {})
    assert settings.prices == PRICES
    assert settings.repeat == f"kshot adapt task --model tiny --budget 2usd --prices {PRICES}"


def test_a_plan_asks_nothing_and_tells_the_money():
    settings = RunSettings(TASK, Paid(), recipes="zero-shot,majority", prices=PRICES)
    rows = {row["recipe"]: row for row in plan(prepare(settings))}
    assert rows["zero-shot"]["forward_tokens"] == 2400
    assert rows["zero-shot"]["usd"] == pytest.approx(0.0024)
    assert rows["majority"]["usd"] == 0
    assert all("minutes" not in row for row in rows.values())
    unpriced = plan(prepare(replace(settings, prices=None)))
    assert all("usd" not in row and "minutes" not in row for row in unpriced)
    assert Paid.n_calls == 0


def test_the_store_knows_what_was_paid_with_the_answers(tmp_path):
    store = SqliteStore(tmp_path / "store.sqlite")
    assert store.paid == Cost()
    store.put([("a", [-1.0], 0.1)], paid=A_CALL + Cost(scored=1, tokens=5))
    store.put_texts([], paid=A_CALL)
    store.close()
    store = SqliteStore(tmp_path / "store.sqlite")
    assert store.paid == A_CALL + A_CALL
    assert store.count() == 1
    store.close()


def test_a_text_and_what_it_took_are_kept_together_or_not_at_all(tmp_path, monkeypatch):
    """So that a run that is killed between them counts no fewer tokens than an undisturbed one."""
    store, answer = SqliteStore(tmp_path / "store.sqlite"), Answer(Generation("tea", True), Usage(1, 10, 0, 2), 0.5)

    def killed(*args, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(SqliteStore, "put", killed)
        Texts(store).put("a", answer)
    assert Texts(store).get(["a"]) == {"a": answer}
    assert store.paid == answer.paid
    store.close()


SERVICE = "openai:http://localhost:1/v1#nobody"
SPOKEN = f"zero-shot:loop=refine(coach={SERVICE})"


@pytest.mark.parametrize("recipe", [SPOKEN, f"random:generator=ensemble(models={SERVICE})", f"average(bm25, {SPOKEN})"])
def test_a_budget_of_money_can_be_for_a_model_that_a_recipe_names(recipe):
    settings = RunSettings(TASK, "scripted", recipes=f"zero-shot,{recipe}", shots=2, budget="2usd", prices=PRICES)
    prepare(settings).load_models(with_named=False)


def test_money_is_kept_for_the_last_fit_where_only_a_role_is_paid():
    ledger = Ledger(prices=parse_prices("in=2,out=8"))
    ledger.add(Cost(tokens=4000, calls=1, input_tokens=1000))
    model = SimpleNamespace(model=SimpleNamespace(is_remote=False))
    measuring: Any = SimpleNamespace(
        setup=SimpleNamespace(selector_model=None), model=model, ledger=ledger, last_fit=lambda entrant: (1.0, 1e6)
    )
    costs = [Measuring.last_fit_money(measuring, Entrant(parse_recipe(r, shots=2))) for r in (SPOKEN, "zero-shot")]
    assert costs == [pytest.approx(0.5), 0.0]


@pytest.mark.parametrize(("is_remote", "share"), [(True, 1.0), (False, 0.25)])
def test_what_a_last_fit_costs_leaves_out_what_is_run_here(is_remote, share):
    """A model that is trained here and taught by a service: a quarter of the tokens so far were the service's."""
    ledger = Ledger(prices=parse_prices("in=2,out=8"))
    ledger.add(Cost(tokens=4000, calls=1, input_tokens=1000))
    here, service = (SimpleNamespace(model=SimpleNamespace(is_remote=remote)) for remote in (is_remote, True))
    last_fit = lambda entrant: (1.0, 1e6)  # noqa: E731
    setup = SimpleNamespace(selector_model=service)
    measuring: Any = SimpleNamespace(setup=setup, model=here, ledger=ledger, last_fit=last_fit)
    entrant: Any = SimpleNamespace(recipe=parse_recipe("zero-shot", shots=2))
    assert Measuring.last_fit_money(measuring, entrant) == pytest.approx(2 * share)
