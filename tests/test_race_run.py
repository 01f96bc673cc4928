"""Whole runs of the race: who is dropped, what budgets stop, the second look, what is shown, what is tracked."""

import json
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.cli import live, output
from kshot.core.budget import parse_budget
from kshot.core.errors import StorageError, UserError
from kshot.core.settings import RunSettings
from kshot.core.types import Prediction, Task
from kshot.learners.learner import Setup, refitted
from kshot.learners.trained import TrainedLearner
from kshot.race.race import Race
from kshot.race.second_look import other_draws, second_look
from kshot.race.stream import Stream, make_stream, spread
from kshot.recipes.grammar import parse_recipe
from kshot.reports.html import data, shown_in_last
from kshot.reports.leaderboard import leaderboard_table
from kshot.reports.saved_record import read_record
from kshot.store.run_folder import RESULTS
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.prepare import prepare

N = 72
MANY = "majority,tfidf-lr,zero-shot,random,bm25,diverse"
TRAINED = "fine-tune:lr=1e-3,steps=1,batch=2"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """72 rows whose first word says the label, which a classifier learns and `tiny` does not."""
    return Task.load(write_task(tmp_path_factory.mktemp("race") / "task", labelled_rows(N)))


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


@pytest.fixture(scope="module")
def raced(task, tiny, tmp_path_factory):
    return kshot.adapt(task, tiny, recipes=MANY, shots=3, out=tmp_path_factory.mktemp("race") / "run")


@pytest.fixture(scope="module")
def whole(task, tiny, tmp_path_factory):
    return kshot.adapt(task, tiny, recipes=MANY, shots=3, race=False, out=tmp_path_factory.mktemp("race") / "whole")


def samples(run):
    found = {}
    for line in (run.folder / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["recipe"], []).append(row)
    return found


def results(run):
    return json.loads((run.folder / RESULTS).read_text())


@pytest.mark.slow
def test_what_falls_behind_is_dropped_and_what_is_measured_is_the_same(raced, whole):
    board = {row["recipe"]: row for row in raced.leaderboard}
    out = {name for name, row in board.items() if row["status"] == "dropped"}
    assert 2 <= len(out) <= 5
    assert {row["status"] for row in whole.leaderboard} == {"done"}
    for name in out:
        assert board[name]["n"] in (16, 32, 64)
        assert board[name]["reason"].startswith(f"dropped after {board[name]['n']} predictions: by the curves so far")
    assert {row["n"] for name, row in board.items() if name not in out} == {N}
    assert raced.chosen == whole.chosen
    every = samples(whole)
    for name, rows in samples(raced).items():  # dropping others changes no prediction
        assert len(rows) == board[name]["n"]
        for row, other in zip(rows, every[name], strict=False):
            times = {"seconds": 0, "fit_seconds": 0}
            assert {**row, **times} == {**other, **times}
    names = [row["recipe"] for row in raced.leaderboard]
    assert set(names[-len(out) :]) == out
    page = (raced.folder / "report.html").read_text()
    assert all(board[name]["reason"] in page for name in out)


@pytest.mark.slow
def test_free_recipes_are_not_dropped(raced):
    board = {row["recipe"]: row for row in raced.leaderboard}
    assert board["majority"]["status"] == board["tfidf-lr"]["status"] == "done"
    assert board["majority"]["metric"] < board["tfidf-lr"]["metric"]


def test_tokens_are_counted_once_and_say_what_a_run_costs(raced, whole, task, tiny, tmp_path):
    counts = results(raced)["tokens"]
    for name, rows in samples(raced).items():
        assert counts[name] == pytest.approx(sum(r["tokens"] + r["fit_tokens"] for r in rows))
    assert counts["majority"] == counts["tfidf-lr"] == 0
    assert sum(counts.values()) < sum(results(whole)["tokens"].values())
    again = kshot.adapt(task, tiny, recipes=MANY, shots=3, out=raced.folder)
    assert again.work.scored == 0
    assert results(again)["tokens"] == counts


def test_a_budget_of_tokens_is_kept_and_resumes_to_the_same(task, tiny, tmp_path, recorded, whole):
    most = 0.5 * sum(results(whole)["tokens"].values())
    budget = f"{most / 1000:.3f}k-tokens"
    run = kshot.adapt(task, tiny, recipes=MANY, shots=3, race=False, budget=budget, out=tmp_path / "run")
    assert {"stopped"} <= {row["status"] for row in run.leaderboard} <= {"done", "stopped", "dropped"}
    used = run.work.tokens
    assert 0.5 * most < used <= 1.1 * most
    stopped = next(row for row in run.leaderboard if row["status"] == "stopped")
    assert stopped["reason"] == f"the budget was spent after {stopped['n']} predictions"
    once = recorded(run.folder)
    kshot.adapt(task, tiny, recipes=MANY, shots=3, race=False, budget=budget, out=tmp_path / "run")
    assert recorded(run.folder) == once
    more = kshot.adapt(task, tiny, recipes=MANY, shots=3, race=False, out=tmp_path / "run")
    got, expected = recorded(more.folder), recorded(whole.folder)
    assert got["samples.jsonl"] == expected["samples.jsonl"]


def test_a_budget_of_time_is_kept(task, tiny, tmp_path, monkeypatch):
    """With a clock that each pack moves on, so that no machine is too slow for the test."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    score = type(tiny).score

    def slow(self, requests, *, progress=None, ledger=None):
        def tell(n):
            now[0] += n  # a second a prediction
            progress(n)

        return score(self, requests, progress=progress and tell)

    monkeypatch.setattr(type(tiny), "score", slow)
    run = kshot.adapt(task, tiny, recipes="zero-shot,random,bm25", shots=6, race=False, budget="100s", out=tmp_path)
    assert [row["status"] for row in run.leaderboard] == ["stopped"] * 3
    assert sorted(row["n"] for row in run.leaderboard) == [32, 32, 32]
    assert 96 <= now[0] <= 110


def test_a_budget_too_small_says_what_works(run_cli, words_task, tmp_path):
    args = ["adapt", words_task, "--model", "tiny", "--recipes", "zero-shot,random", "--shots", 4, "--out", tmp_path]
    refused = run_cli(*args, "--budget", "10-tokens")
    assert refused.code == 2
    said = " ".join(refused.err.split())
    assert "--budget must be enough for the first 16 predictions of at least one recipe: zero-shot is out-of-" in said
    smallest = re.search(r"The smallest that works is about ([\d.]+k-tokens), here about \d+s, for zero-shot\.", said)
    assert smallest
    done = run_cli(*args, "--budget", smallest.group(1), "--json").json
    assert done["chosen"] == "zero-shot"
    assert done["leaderboard"][0]["n"] >= 16


@pytest.mark.parametrize(
    ("recipes", "limit", "budget", "n", "reason"),
    [
        ("zero-shot", 16, 14, 0, "its first 16 predictions and its last fit would take about 24,523 tokens"),
        ("zero-shot,random,bm25", N, 30, 0, "its first 16 predictions and its last fit would take about"),
    ],
)
def test_a_recipe_whose_last_fit_is_too_dear_is_out(task, tiny, tmp_path, recipes, limit, budget, n, reason):
    """Before it has begun if it could never be paid, otherwise once the others have taken too much."""
    recipes += ",fine-tune:lr=1e-3,steps=1,batch=2"
    run = kshot.adapt(task, tiny, recipes=recipes, limit=limit, budget=f"{budget}k-tokens", out=tmp_path)
    row = run.leaderboard[-1]
    assert (row["recipe"].split(":")[0], row["status"]) == ("fine-tune", "out-of-budget")
    assert row["n"] == n
    assert row["reason"].startswith(reason)
    assert run.chosen in recipes.split(",")[:-1]
    assert run.work.tokens <= 1.1 * 1000 * budget


def test_a_recipe_whose_last_fit_is_found_too_dear_on_the_way_is_out(task, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Race, "_first_cost", lambda *_: (0.0, 0.0))
    names = ["zero-shot", "random", "bm25", TRAINED]
    run = kshot.adapt(task, tiny, recipes=names, shots=3, budget="30k-tokens", out=tmp_path)
    row = run.leaderboard[-1]
    assert (row["recipe"], row["status"], row["n"]) == (TRAINED, "out-of-budget", 16)
    assert row["reason"] == "to learn all examples at the end would take more than is left"


@pytest.mark.parametrize(("budget", "n"), [("35k-tokens", 16), pytest.param("60k-tokens", N, marks=pytest.mark.slow)])
def test_with_a_budget_those_that_train_come_after_the_others(task, tiny, tmp_path, budget, n):
    names = ["mix", "zero-shot", "random", TRAINED]
    with_budget = kshot.adapt(task, tiny, recipes=names, shots=3, race=False, budget=budget, out=tmp_path / "with")
    board = {row["recipe"]: row for row in with_budget.leaderboard}
    assert {board[name]["n"] for name in names[:3]} == {N}
    assert {board[name]["status"] for name in names[1:3]} == {"done"}
    assert board["mix"]["status"] in ("done", "not-applicable")  # where one recipe stands for it
    assert board[TRAINED]["n"] == n
    if n < N:  # with so few rows it is not compared
        assert board[TRAINED]["status"] == "out-of-budget"
        assert board[TRAINED]["reason"] == f"the budget was spent after {n} predictions"
        return
    without = samples(kshot.adapt(task, tiny, recipes=names, shots=3, race=False, out=tmp_path / "without"))
    times = {"seconds": 0, "fit_seconds": 0}
    for name, rows in samples(with_budget).items():
        assert [row | times for row in rows] == [row | times for row in without[name]]


@pytest.mark.parametrize(
    ("text", "seconds", "tokens"),
    [("90s", 90, None), ("10m", 600, None), ("2h", 7200, None), ("500k-tokens", None, 5e5), ("9-tokens", None, 9),
     ("1.5m-tokens", None, 1.5e6)],
)  # fmt: skip
def test_budgets_are_times_or_tokens(text, seconds, tokens):
    found = parse_budget(text)
    assert (found.seconds, found.tokens) == (seconds or np.inf, tokens or np.inf)


@pytest.mark.parametrize("text", ["", "k-tokens", "5h-tokens", "0-tokens", "5k-tokens!", "tokens", "infs", "1e999m"])
def test_other_budgets_are_refused(text):
    with pytest.raises(UserError, match=r"--budget must be a time such as 90s, 10m or 2h, tokens as 500k-tokens, or "):
        parse_budget(text)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--choose-by", "luck", "--choose-by must be metric or bits; got 'luck'."),
        ("--prefer", "cheap", "--prefer must be cheap-queries or cheap-fit; got 'cheap'."),
        ("--track", "mflow", "--track must name a tracker; got 'mflow'. Did you mean 'mlflow'? Known: mlflow."),
    ],
)
def test_unknown_ways_to_choose_are_refused(run_cli, words_task, tmp_path, flag, value, said):
    refused = run_cli("adapt", words_task, "--model", "no-such-model", "--out", tmp_path / "run", flag, value)
    assert refused.code == 2
    assert said in " ".join(refused.err.split())
    assert not (tmp_path / "run").exists()


def test_how_to_choose_can_be_said(whole, task, tiny, run_cli, tmp_path):
    """Of a finished run nothing is computed again for it."""
    ends = results(whole)["choice"]["expected"]
    assert whole.chosen == max(ends, key=ends.get)
    by_bits = kshot.adapt(task, tiny, recipes=MANY, shots=3, race=False, choose_by="bits", out=whole.folder)
    assert by_bits.work.scored == 0
    ends = results(by_bits)["choice"]["expected"]
    assert all(value < 0 for value in ends.values())
    assert by_bits.chosen == max(ends, key=ends.get)
    assert "choose_by='bits'" in results(by_bits)["repeat"]
    cheap = kshot.adapt(
        task, tiny, recipes="bm25,random", shots=3, race=False, prefer="cheap-queries", out=whole.folder
    )
    about = json.loads((whole.folder / "best" / "kshot.json").read_text())["choice"]
    assert "less than a standard error behind, the one with cheap-queries" in about["by"]
    assert cheap.chosen in ("bm25", "random")


def test_settings_of_the_choice_come_from_a_file_too(run_cli, words_task, tmp_path):
    config = tmp_path / "kshot.yaml"
    config.write_text("model: scripted\nrecipes: majority,zero-shot\nchoose_by: bits\nrace: false\nprefer: cheap-fit\n")
    assert run_cli("adapt", words_task, "--config", config, "--out", tmp_path / "run").code == 0
    repeat = json.loads((tmp_path / "run" / RESULTS).read_text())["repeat"]
    assert repeat.endswith("--no-race --choose-by bits --prefer cheap-fit")


# A limit


def test_a_limit_spreads_predictions_over_all_examples(task, tiny, tmp_path):
    run = kshot.adapt(task, tiny, recipes="random,bm25,majority", shots=3, limit=20, race=False, out=tmp_path)
    places = list(spread(N, 20))
    for rows in samples(run).values():
        assert [row["position"] for row in rows] == places
        assert all(row["demonstrations"] or not row["prompt_tokens"] for row in rows[1:])
    record = read_record(run.folder)
    examples = record["prompts"]["examples"]
    assert len(examples) == N
    shown = {i for rows in samples(run).values() for row in rows for i in row["demonstrations"]}
    assert shown - {examples[at]["id"] for at in places}  # what is not predicted is shown
    assert len(data(record)["examples"]) == 20
    assert shown_in_last(record, "bm25")
    assert {row["n"] for row in run.leaderboard} == {20}


def test_what_trains_learns_each_example_once_and_its_last_fit_is_the_end_of_its_stream(task, tiny):
    stream, recipe = make_stream(task, limit=6, seed=0), parse_recipe("fine-tune:lr=1e-3,steps=1,batch=1", shots=2)
    learner = TrainedLearner(recipe, Setup(task, TaskModel.for_task(task, tiny), 0))
    predictions = learner.predict(stream.queries())
    assert [row["n"] for row in learner.log] == [*range(1, stream.positions[-1] + 1)]
    _, needed = learner.last_fit(predictions, stream.positions, N)
    assert needed == pytest.approx(sum(p.fit_tokens for p in predictions) / stream.positions[-1], rel=0.3)  # of one
    learner.fit(stream.examples)
    assert [row["example"] for row in learner.log] == [e.id for e in stream.examples]


@pytest.mark.parametrize(
    ("known", "first", "n"), [((0, 1, 2, 3, 4), 4, 4), ((3, 7, 9, 15, 40), 40, 32), ((5, 6), 5, 4)]
)
def test_what_is_fitted_anew_whenever_the_past_has_doubled_is_fitted_once_more(known, first, n):
    made = [Prediction(f"{at}", ("a",), (0.0,), (1.0,), "a", fit_seconds=3.0, fit_tokens=at) for at in known]
    assert refitted(made, known, 64) == (3.0 * 64 / n, first * 64 / n)


# The second look


@pytest.fixture(scope="module")
def parts(task, tiny):
    stream = prepare(RunSettings(task, "tiny", recipes="random", shots=6, limit=48)).stream
    return Setup(task, TaskModel.for_task(task, tiny), 0), stream


@pytest.mark.parametrize("name", ["random", "diverse", "all-past", "majority", "tfidf-lr", "random:order=shuffled"])
def test_nothing_that_is_asked_again_is_known(parts, name):
    setup, stream = parts
    learner, queries = second_look(parse_recipe(name, shots=6), setup, stream)
    for query in queries:
        assert query.example.id not in {e.id for e in query.past}
    predictions = learner.predict(queries)
    assert all(p.example_id not in p.demonstrations for p in predictions)
    asked = [q.example.id for q in queries]
    assert len(set(asked)) == len(asked)
    assert set(asked) <= {e.id for e in stream.asked}
    if name == "all-past":  # four prompts, each without a quarter of what is asked
        assert set(asked) == {e.id for e in stream.asked}
        assert len({q.past for q in queries}) == 4
        assert all(len(q.past) == N - 12 for q in queries)
    elif name in ("majority", "tfidf-lr"):
        assert set(asked) == {e.id for e in stream.asked}
        assert all(len(q.past) >= N - 5 for q in queries)
    else:
        assert len({q.past for q in queries}) == 1
        assert len(asked) >= 48 - 6


def test_who_answers_by_frequencies_is_as_good_as_on_new_inputs_where_answers_are_hidden_together(parts):
    """With as many of each of three labels, hiding some of one makes it the rarest: majority was hardly ever right."""
    setup, stream = parts
    examples = [replace(e, output="abc"[i // 20]) for i, e in enumerate(stream.examples[:60])]
    mixed = tuple(examples[i] for i in np.random.default_rng(0).permutation(60))
    task = Task("t", "classification", mixed, labels=("a", "b", "c"))
    stream = Stream(mixed, tuple(range(60)))
    learner, queries = second_look(parse_recipe("majority", shots=0), replace(setup, task=task), stream)
    right = [p.answer == q.example.output for p, q in zip(learner.predict(queries), queries, strict=True)]
    assert np.mean(right) == pytest.approx(1 / 3)


def test_a_second_look_asks_the_prompt_that_is_handed_over(task, tiny, parts, tmp_path):
    name = "random:calibration=none"
    run = kshot.adapt(task, tiny, recipes=name, shots=6, limit=48, out=tmp_path)
    setup, stream = parts
    learner, queries = second_look(parse_recipe(name, shots=6), setup, stream)
    before = [p.log_probs for p in learner.predict(queries)]
    after = [p.log_probs for p in run.best.predictions([q.example.input for q in queries])]
    assert np.array(before) == pytest.approx(np.array(after), abs=1e-5)
    found = results(run)
    rows = [json.loads(line) for line in (run.folder / "second_look.jsonl").read_text().splitlines()]
    assert [r["example_id"] for r in rows] == [q.example.id for q in queries]
    assert found["again"][name]["n"] == len(queries)
    value, low, high = found["expected_when_deployed"][name]["score"]
    assert low < value < high
    assert value == next(row["deployed"] for row in found["leaderboard"] if row["recipe"] == name)


@pytest.mark.parametrize("name", ["zero-shot", "bm25", "fine-tune", "icl+ft", "random:k=40"])
def test_where_nothing_new_can_be_asked_cheaply_there_is_no_second_look(parts, name):
    setup, stream = parts
    some = Stream(stream.examples[:48], tuple(range(48)))
    assert second_look(parse_recipe(name, shots=6), setup, some) is None


def test_selectors_that_asked_the_model_about_the_examples_are_not_asked_again(task, tiny, tmp_path):
    run = kshot.adapt(task, tiny, recipes="best-of-n:n=2,queries=4", shots=4, limit=24, out=tmp_path)
    assert results(run)["again"] == {}
    assert any(row["fit_tokens"] for row in samples(run)["best-of-n:n=2,queries=4"])


def test_draws_and_orders_are_told_from_examples(task, parts, tiny, tmp_path):
    setup, stream = parts
    prompts = other_draws(parse_recipe("random", shots=6), setup, stream)
    assert len(prompts) == 8
    asked = {tuple(q.example.id for q in queries) for _, queries in prompts}
    assert len(asked) == 1
    shown = [queries[0].past for _, queries in prompts]
    assert not {e.id for past in shown for e in past} & set(next(iter(asked)))
    assert len(set(shown)) == 8
    assert [one[::-1] for one in shown[::2]] == shown[1::2]
    assert other_draws(parse_recipe("bm25", shots=6), setup, stream) == []
    some = Stream(stream.examples[:48], tuple(range(48)))
    assert other_draws(parse_recipe("random", shots=20), setup, some) == []  # too few are left to ask
    run = kshot.adapt(task, tiny, recipes="random", shots=6, limit=48, out=tmp_path)
    spread = results(run)["choice"]["spread"]
    assert spread["n"] == len(next(iter(asked)))
    page = (run.folder / "report.html").read_text()
    for what, key in (("another draw of its demonstrations", "draw"), ("another order of them", "order")):
        assert f'<th scope="row">{what}</th><td>{100 * spread[key]:.1f}</td>' in page


# What is shown


def board():
    common = {"metric_n": 16, "fit_seconds": 0.0, "query_tokens": 9.0, "query_ms": 1.0, "reason": None}
    first = {"recipe": "random", "metric": 0.7, "metric_low": 0.6, "metric_high": 0.8, "n": 16, "status": "racing"}
    second = {**first, "recipe": "bm25", "status": "dropped"}
    common |= {"behind": None, "behind_error": None, "is_close": None}
    end = {"deployed": 0.75, "deployed_low": 0.65, "deployed_high": 0.85}
    end |= {"deployed_bits": 0.9, "deployed_bits_low": 0.8, "deployed_bits_high": 1.0}
    rows = [first | common | end, second | common | dict.fromkeys(end)]
    rows = [row | {"bits_per_example": i + 1.0} for i, row in enumerate(rows)]
    rows[1]["reason"] = "dropped after 16 examples"
    return rows


def test_a_terminal_shows_the_race(monkeypatch):
    screen = output.PlainConsole(file=StringIO(), force_terminal=True, width=150, color_system="standard")
    monkeypatch.setattr(output, "stderr", screen)
    monkeypatch.setattr(live, "stderr", screen)
    with live.RaceProgress("accuracy") as progress:
        progress.begin("random", 16)
        progress.advance(16)
        progress.standing(board(), "8 min of the budget left")
        progress.say("something [to] know")
        progress.begin("bm25", 16)
        progress.standing(board(), "7 min of the budget left")
    shown = screen.file.getvalue()
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    assert re.search(r"> random +0\.750 \(0\.65-0\.85\) +0\.700 +1\.00 +16", plain)
    assert re.search(r"  bm25 +0\.700 +2\.00 +16 ", plain)
    assert re.search(r"bm25 .*dropped after 16 examples", plain)
    assert "\x1b[2m" in shown  # what is dropped is grey
    assert "7 min of the budget left" in plain
    assert "something [to] know" in plain


def test_without_a_terminal_there_are_lines(monkeypatch):
    file = output.PlainConsole(file=StringIO(), width=200)
    monkeypatch.setattr(output, "stderr", file)
    monkeypatch.setattr(live, "stderr", file)
    with live.RaceProgress("accuracy") as progress:
        for _ in range(2):  # what was told is not told again
            progress.begin("random", 16)
            progress.advance(16)
            progress.standing(board(), "8 min of the budget left")
    assert file.file.getvalue().splitlines() == [
        "random: 16 examples, accuracy 0.700, 1.00 bits; when deployed 0.750 (0.650 - 0.850); 8 min of the budget left",
        "bm25: dropped after 16 examples",
    ]


def test_within_a_slice_no_line_says_what_the_slice_before_it_expected(monkeypatch):
    file = output.PlainConsole(file=StringIO(), width=200)
    monkeypatch.setattr(live, "stderr", file)
    monkeypatch.setattr(output, "stderr", file)
    ahead = board()[0] | {"recipe": "dense", "n": 32}
    with live.RaceProgress("accuracy") as progress:
        progress.standing([*board(), ahead], "")
        assert file.file.getvalue() == ""
        progress.standing([*(row | {"n": 32} for row in board()), ahead], "")
    assert [line.partition(":")[0] for line in file.file.getvalue().splitlines()] == ["random", "bm25", "dense"]


def test_the_table_says_who_is_not_clearly_worse():
    screen = output.PlainConsole(file=StringIO(), width=150)
    first, second = board()
    near = second | {"recipe": "near", "behind": -1e-5, "behind_error": 0.021, "is_close": True, "status": "done"}
    far = near | {"recipe": "far", "behind": 0.301, "is_close": False}
    screen.print(leaderboard_table([first, near, far], metric="accuracy", by="metric", chosen="random"))
    screen.print(leaderboard_table([first, near, far], metric="accuracy", by="bits", chosen="random"))
    screen.print(leaderboard_table([first], metric="accuracy", by="bits", chosen="random"))
    shown = screen.file.getvalue()
    assert re.search(r"~ near +0\.0 ±2\.1 ", shown)  # no minus before a zero
    assert re.search(r"  far +30\.1 ±2\.1 ", shown)
    assert re.search(r"  far +0\.30 ±0\.02 ", shown)
    assert shown.count("~ not clearly worse") == 2


# Tracking


@pytest.mark.slow
def test_a_run_is_tracked_in_mlflow(run_cli, words_task, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    args = ["adapt", words_task, "--model", "scripted", "--recipes", "random:k=2,majority", "--out", tmp_path / "run"]
    printed = run_cli(*args, "--track", "mlflow", "--json").json
    from mlflow import MlflowClient

    client = MlflowClient()
    (tracked,) = client.search_runs(["0"])
    rows = {row["recipe"]: row for row in printed["leaderboard"]}
    assert tracked.data.tags["chosen"] == printed["chosen"]
    assert tracked.data.params["seed"] == "0"
    assert tracked.data.params["model_name"] == "scripted"
    assert tracked.data.metrics["accuracy/random:k_2"] == rows["random:k=2"]["metric"]
    assert tracked.data.metrics["bits_per_example/majority"] == rows["majority"]["bits_per_example"]
    files = {f.path for f in client.list_artifacts(tracked.info.run_id)}
    assert files == {"results.json", "samples.jsonl", "report.html"}
    assert tracked.info.status == "FINISHED"


def test_a_tracker_that_fails_loses_nothing(task, tiny, tmp_path):
    def broken(folder):
        raise OSError("the server is away")

    with pytest.raises(
        StorageError, match=r"finished in .*run, but a tracker could not log it: OSError: the server is"
    ):
        kshot.adapt(task, tiny, recipes="zero-shot", limit=20, out=tmp_path / "run", trackers=[broken])
    told = []
    again = kshot.adapt(task, tiny, recipes="zero-shot", limit=20, out=tmp_path / "run", trackers=[told.append])
    assert (again.work.scored, told) == (0, [tmp_path / "run"])


def test_a_tracker_that_is_not_installed_is_said_before_any_work(run_cli, words_task, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused = run_cli("adapt", words_task, "--model", "no-such-model", "--out", tmp_path / "run", "--track", "mlflow")
    assert refused.code == 2
    assert "--track mlflow needs the package 'mlflow'; install it with: pip install 'kshot[track]'" in refused.err


def test_a_measured_speed_tells_the_minutes(run_cli, words_task, tmp_path):
    args = ["adapt", words_task, "--model", "tiny", "--recipes", "zero-shot,random,majority", "--dry-run"]
    plan = run_cli(*args, "--json").json["plan"]
    speeds = {row["forward_tokens"] / row["minutes"] for row in plan if row["forward_tokens"]}
    assert max(speeds) == pytest.approx(min(speeds))
    assert [row["minutes"] > 0 for row in plan] == [True, True, False]
    text = run_cli(*args).out
    assert re.search(r"all: \d+ forward tokens, about \d+ s here if no recipe is dropped", text)


FAILS_LATE = """
from dataclasses import dataclass

import kshot


@dataclass(frozen=True)
class FailsLate(kshot.Selector):
    per_query = False

    def fit(self, pool, *, model, rng):
        if len(pool) > 64:  # the choice along the stream is from the first 64
            raise RuntimeError("the pool is too large")
        return self

    def select(self, question, k, *, rng):
        return [0]
"""


def test_a_recipe_that_fails_in_its_second_look_leaves_the_choice_to_the_others(task, tiny, tmp_path):
    (tmp_path / "late.py").write_text(FAILS_LATE)
    name = f"{tmp_path / 'late.py'}:FailsLate"
    run = kshot.adapt(task, tiny, recipes=f"{name},majority,zero-shot", shots=2, race=False, out=tmp_path / "run")
    (row,) = (row for row in run.leaderboard if row["recipe"] == name)
    assert (row["status"], row["n"]) == ("failed", N)
    assert row["reason"] == "RuntimeError: the pool is too large"
    assert run.chosen != name
    assert "the pool is too large" in results(run)["failures"][name]


FAILS_ON_OTHER_DRAWS = """
from dataclasses import dataclass

import kshot

FIRST = {}


@dataclass(frozen=True)
class Picky(kshot.Selector):
    per_query = False

    def fit(self, pool, *, model, rng):
        drawn = int(rng.integers(10**9))  # another one with another seed
        if FIRST.setdefault(len(pool), drawn) != drawn:
            raise RuntimeError("this draw is refused")
        return self

    def select(self, question, k, *, rng):
        return [0]
"""


def test_a_run_ends_where_other_draws_cannot_be_tried(task, tiny, tmp_path):
    (tmp_path / "picky.py").write_text(FAILS_ON_OTHER_DRAWS)
    name = f"{tmp_path / 'picky.py'}:Picky"
    run = kshot.adapt(task, tiny, recipes=name, shots=2, limit=24, out=tmp_path / "run")
    assert run.chosen == name
    assert results(run)["choice"]["spread"] is None


def test_what_is_expected_of_a_metric_that_begins_below_0_may_lie_below_it(tmp_path):
    rows = [{"input": f"text {i}", "output": "ab"[i % 2]} for i in range(40)]
    task = replace(Task.load(rows), metrics=("matthews",))
    run = kshot.adapt(task, "scripted", recipes="majority", out=tmp_path / "run")
    (row,) = json.loads((run.folder / RESULTS).read_text())["leaderboard"]
    assert row["metric"] < 0  # what is rarer so far comes next more often than not
    assert -1 < row["deployed_low"] < 0 < row["deployed_high"] < 1
    assert row["deployed_low"] <= row["deployed"] <= row["deployed_high"]


def test_a_slope_leads_no_further_than_to_all_right(task, tmp_path):
    run = kshot.adapt(task, "scripted", recipes="majority,tfidf-lr,mix", limit=40, out=tmp_path / "run")
    found = results(run)
    assert max(found["choice"]["expected"].values()) == 1
    for row in found["leaderboard"]:
        if row["behind"] is not None:
            assert row["behind"] == pytest.approx(found["leaderboard"][0]["deployed"] - row["deployed"])
