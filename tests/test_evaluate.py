import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kshot.core.errors import StorageError, UserError
from kshot.core.types import Task
from kshot.evaluators import EVALUATORS
from kshot.evaluators.evaluator import Evaluator
from kshot.models.scripted import ScriptedModel
from kshot.reports.suite_record import in_lines, keep_suite, read_suites, said
from kshot.store.sealed import write_sealed
from kshot.tasks.load import load_task
from kshot.verbs.evaluate import evaluate, fitted
from test_chat import SHAPES, chat_engine, chat_tokenizer

SUITE = """
from dataclasses import dataclass
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.measured import Measured

@dataclass(frozen=True)
class Right(Evaluator):
    def cases(self, task, *, rng):
        return [Case(e) for e in task.test]

    def report(self, task, cases, predictions):
        right = [c.example.output == p.answer for c, p in zip(cases, predictions)]
        return {"right": Measured([c.example.id for c in cases], right)}
"""


@pytest.fixture(scope="module")
def scripted_run(run_cli, words_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    how = ("--model", "scripted", "--recipes", "majority,zero-shot", "--limit", 6, "--out", folder)
    assert run_cli("adapt", words_task, *how).code == 0
    return folder


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "right.py").write_text(SUITE)
    return f"{tmp_path / 'right.py'}:Right"


def test_a_suite_gives_intervals_and_the_paired_difference_to_another_system(words_task, suite):
    task = load_task(words_task)
    zero = fitted("zero-shot", task, ScriptedModel())
    most = fitted("majority", task, None)
    found = evaluate(zero, task, suite, against=most)["right"]
    alone = evaluate(most, task, suite)["right"]
    assert found["against"] == alone["value"]
    assert found["difference"]["value"] == pytest.approx(found["value"] - alone["value"])
    assert found["difference"]["n"] == found["n"] == len(task.test)
    assert alone["low"] <= alone["value"] <= alone["high"]


def test_the_report_of_a_run_keeps_what_suites_have_said(run_cli, scripted_run, words_task, suite):
    run = scripted_run
    for _ in range(2):  # the second time in place of the first
        out = run_cli("evaluate", run, words_task, "--suite", "letter-case").out
        assert "as-given, score: " in out
    shown = run_cli("evaluate", run, words_task, "--suite", suite, "--against", "recipe:majority").out
    assert "; against " in shown
    assert [(one["suite"], one["against"]) for one in read_suites(run)] == [
        ("letter-case", None),
        (suite, "recipe:majority"),
    ]
    page = (run / "report.html").read_text()
    assert "<h2>Suites</h2>" in page
    assert "as-given, score" in page


def test_what_a_suite_has_measured_is_told_also_where_it_cannot_be_kept(
    run_cli, scripted_run, words_task, tmp_path, monkeypatch
):
    def full(file, rows):
        raise StorageError(f"{file} must be writable; the system says: No space left on device")

    run = shutil.copytree(scripted_run, tmp_path / "run")
    (run / "suites.jsonl").unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr("kshot.reports.suite_record.write_sealed", full)
        done = run_cli("evaluate", run, words_task, "--suite", "letter-case", "--json")
    assert done.code == 3
    assert json.loads(done.out)["suite"] == "letter-case"
    (run / "suites.jsonl").write_text("{}\n")
    done = run_cli("evaluate", run, words_task, "--suite", "letter-case")
    assert done.code == 2
    assert "suites.jsonl must be as kshot wrote it" in done.err
    assert "18/18" not in done.err  # before anything is asked
    how = ("--model", "scripted", "--recipes", "majority,zero-shot", "--limit", 6, "--out", run)
    assert "suites.jsonl must be as kshot wrote it" in run_cli("adapt", words_task, *how).err


def test_the_report_says_what_was_measured_of_a_recipe_that_the_run_had_chosen_before(
    run_cli, scripted_run, words_task, tmp_path
):
    run = shutil.copytree(scripted_run, tmp_path / "run")
    (run / "suites.jsonl").unlink(missing_ok=True)
    run_cli("evaluate", run, words_task, "--suite", "letter-case")
    (row,) = read_suites(run)
    remark = f"measured of <strong>{row['of']}</strong>, which the run had chosen before"
    assert remark not in (run / "report.html").read_text()
    how = ("--model", "scripted", "--recipes", "bm25:k=2", "--limit", 6, "--out", run)
    assert run_cli("adapt", words_task, *how).code == 0
    assert remark in (run / "report.html").read_text()
    run_cli("evaluate", run, words_task, "--suite", "letter-case")
    assert [one["of"] for one in read_suites(run)] == [row["of"], "bm25:k=2"]


def test_suites_that_end_at_once_are_all_kept(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")

    def slow(file, rows, write=write_sealed):
        time.sleep(0.02)
        write(file, rows)

    monkeypatch.setattr("kshot.reports.suite_record.write_sealed", slow)
    names = ["one", "two", "three", "four"]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: keep_suite(tmp_path, "words", {"suite": name}), names))
    assert {one["suite"] for one in read_suites(tmp_path)} == set(names)


def test_a_recipe_is_measured_without_a_run(run_cli, words_task):
    found = run_cli("evaluate", "recipe:zero-shot", words_task, "--model", "scripted", "--json").json
    assert found["n"] == len(load_task(words_task).test)


def test_a_recipe_without_a_model_is_refused(run_cli, words_task):
    assert "--model must be given with recipe:RECIPE" in run_cli("evaluate", "recipe:zero-shot", words_task).err


def test_a_recipe_that_a_run_is_held_against_is_asked_in_the_runs_layout(
    run_cli, scripted_run, words_task, monkeypatch
):
    asked = []

    def spied(recipe, task, model, **how):
        asked.append(how["layout"])
        return fitted(recipe, task, model, **how)

    monkeypatch.setattr("kshot.verbs.evaluate.fitted", spied)
    assert (
        run_cli("evaluate", scripted_run, words_task, "--suite", "letter-case", "--against", "recipe:zero-shot").code
        == 0
    )
    assert asked == ["plain"]
    chatty = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    layouts = [fitted("zero-shot", load_task(words_task), chatty, layout=one).fitted.model.layout.record["layout"]
               for one in ("auto", "plain")]  # fmt: skip
    assert layouts == ["turns", "plain"]


def test_a_recipe_that_asks_a_model_is_held_against_a_classifier(run_cli, words_task, tmp_path):
    run = tmp_path / "run"
    assert run_cli("adapt", words_task, "--recipes", "majority", "--model", "scripted", "--out", run).code == 0
    asked = ("evaluate", run, words_task, "--suite", "letter-case", "--against", "recipe:zero-shot")
    assert "without a language model; it does not. Give another recipe or model." in run_cli(*asked).err
    found = run_cli(*asked, "--model", "scripted", "--json")
    assert found.code == 0
    assert "against" in found.json["as-given"]["score"]


def test_a_saved_model_takes_no_seed(run_cli, scripted_run, words_task):
    refused = run_cli("evaluate", scripted_run, words_task, "--seed", 3)
    assert refused.code == 2
    assert "--seed must come with recipe:RECIPE; a saved model has its own seed. Leave it out." in refused.err


def test_another_system_needs_a_suite(run_cli, scripted_run, words_task):
    err = run_cli("evaluate", scripted_run, words_task, "--against", "recipe:majority").err
    assert "--against must come with --suite" in err


def test_a_recipe_that_the_model_does_not_suit_is_refused(words_task):
    with pytest.raises(UserError, match=r"'fine-tune.*' must suit tasks of kind classification and the model"):
        fitted("fine-tune", load_task(words_task), ScriptedModel())


def test_a_recipe_is_not_held_against_a_run_on_test_rows_that_it_has_not_learnt(run_cli, scripted_run, words_task):
    err = run_cli(
        "evaluate", scripted_run, words_task / "test.jsonl", "--suite", "letter-case", "--against", "recipe:majority"
    ).err
    assert "'majority' must learn training rows; 'test' is given as test rows alone. Give a folder with both." in err


class Nothing(Evaluator):
    def obstacle(self, task: Task) -> str | None:
        return "its rows must have songs, and none has"


def test_a_suite_says_what_the_task_must_have(words_task, monkeypatch):
    task = load_task(words_task)
    monkeypatch.setattr(type(EVALUATORS), "build", lambda self, name: Nothing())
    with pytest.raises(UserError, match="--suite songs cannot be used on this task: its rows must have songs"):
        evaluate(fitted("majority", task, None), task, "songs")


def test_what_was_measured_is_said_in_words():
    known = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    assert said(known) == "0.500 (0.250 to 0.750), n 8"
    gap = {"value": 0.1, "low": -0.1, "high": 0.3, "n": 8}
    assert said(known | {"against": 0.4, "difference": gap}).endswith("; against 0.400: +0.100 (-0.100 to +0.300), n 8")
    assert said({"value": None, "low": None, "high": None, "n": 0}) == "not known, n 0"
    assert in_lines({"a": {"b_c": 1.0}, "list": list(range(10))}) == [
        "a, b c: 1.000",
        "list: 0, 1, 2, 3, 4, 5, 6, 7, … 2 more (--json)",
    ]


def test_a_changed_record_is_refused(tmp_path):
    keep_suite(tmp_path, "words", {"suite": "letter-case"}, against=None)
    file = tmp_path / "suites.jsonl"
    file.write_text(file.read_text().replace("letter", "litter"))
    with pytest.raises(UserError, match=r"suites\.jsonl must be as kshot wrote it"):
        read_suites(tmp_path)
    assert json.loads(file.read_text().splitlines()[0])["task"] == "words"
