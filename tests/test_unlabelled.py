"""Unlabelled inputs: how they are read and what is left out, what they change and what they do not."""

import json
import shutil
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import InvalidInputError, UserError
from kshot.core.types import Example, Query, Question, Task
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.probabilities import normalised
from kshot.recipes.grammar import parse_recipe
from kshot.store.files import write_jsonl
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.built import given_task
from test_calibration import Biased

ROWS = labelled_rows(40)
INPUTS = [{"input": row["input"]} for row in ROWS[24:]]


@pytest.fixture
def folder(tmp_path):
    return write_task(tmp_path / "words", ROWS[:18], ROWS[18:24])


def notes_of(folder, rows, name="unlabelled.jsonl", **how):
    """Return the task with such a file, and the notes that are not there without one."""
    (folder / name).unlink(missing_ok=True)
    before = Task.load(folder)
    write_jsonl(folder / name, rows)
    task = Task.load(folder, **how)
    return task, [note for note in task.notes if note not in before.notes]


# Read


def test_they_are_read_beside_train(folder):
    before = Task.load(folder)
    task, notes = notes_of(folder, INPUTS)
    assert [q.input for q in task.unlabelled] == [row["input"] for row in INPUTS]
    assert all(isinstance(q, Question) for q in task.unlabelled)
    assert (notes, task.fingerprint) == ([], before.fingerprint)
    assert (before.unlabelled, before.unlabelled_fingerprint) == ((), None)
    assert task.unlabelled_fingerprint is not None
    assert given_task(task) is task


@pytest.mark.parametrize("name", ["unlabelled.txt", "Unlabeled.TXT", "unlabelled.csv", "unlabelled.json",
                                  "unlabelled.tsv", "unlabelled.parquet"])  # fmt: skip
def test_files_of_all_formats_say_the_same(folder, name):
    expected, _ = notes_of(folder, INPUTS)
    (folder / "unlabelled.jsonl").unlink()
    table = pd.DataFrame(INPUTS)
    match name.partition(".")[2].lower():
        case "txt":
            (folder / name).write_text("\n".join(table["input"]) + "\n")
        case "json":
            (folder / name).write_text(json.dumps(INPUTS))
        case "parquet":
            table.to_parquet(folder / name)
        case suffix:
            table.to_csv(folder / name, index=False, sep="\t" if suffix == "tsv" else ",")
    assert Task.load(folder).unlabelled == expected.unlabelled


def test_columns_are_those_of_the_task(tmp_path):
    rows = [{"question": row["input"], "kind": row["output"], "memory": "m"} for row in ROWS]
    folder = write_task(tmp_path / "words", rows[:18])
    unlabelled = [{"question": row["question"], "memory": row["memory"]} for row in rows[24:]]
    write_jsonl(folder / "unlabelled.jsonl", unlabelled)
    task = Task.load(folder, columns={"input": "question", "output": "kind"})
    assert [q.input for q in task.unlabelled] == [row["question"] for row in unlabelled]
    assert {q.meta["memory"] for q in task.unlabelled} == {"m"}


def test_conversations_end_with_the_user(folder):
    talks = [{"messages": [{"role": "user", "content": row["input"]}]} for row in INPUTS]
    task, notes = notes_of(folder, talks)
    assert [q.input for q in task.unlabelled] == [row["input"] for row in INPUTS]
    assert notes == []
    answered = [{"messages": [*talk["messages"], {"role": "assistant", "content": "animal"}]} for talk in talks]
    again, notes = notes_of(folder, answered)
    assert again.unlabelled == task.unlabelled
    assert notes == ["answers that end conversations of 'unlabelled.jsonl' are not read"]


def test_choices_are_read(quiz_task, tmp_path):
    folder = shutil.copytree(quiz_task, tmp_path / "quiz")
    task, _ = notes_of(folder, [{"input": "what is 50 and 1?", "choices": ["51", "52"]}])
    assert task.unlabelled[0].choices == ("51", "52")
    with pytest.raises(UserError, match="unlabelled.jsonl row 1: a multiple-choice row must have at least 2"):
        notes_of(folder, INPUTS)


def test_ids_follow_from_what_is_asked_and_are_those_of_no_other_example(folder):
    task, _ = notes_of(folder, [{**row, "id": f"train-{i}"} for i, row in enumerate(INPUTS, 1)])
    turned, _ = notes_of(folder, INPUTS[::-1])
    assert turned.unlabelled == tuple(replace(q, meta={}) for q in task.unlabelled[::-1])
    taken = task.unlabelled[0].id
    write_jsonl(folder / "train.jsonl", [{**ROWS[0], "id": taken}, *ROWS[1:18]])
    ids = [q.id for q in Task.load(folder).unlabelled]
    assert taken not in ids
    assert len({*ids, *(e.id for e in task.train)}) == len(ids) + len(task.train)


# What is left out, and said


def test_labels_are_not_looked_at_and_that_is_said(folder):
    labelled = [{**row, "explanation": "so it is"} for row in ROWS[24:]]
    task, notes = notes_of(folder, labelled)
    expected, _ = notes_of(folder, INPUTS)
    assert task.unlabelled == expected.unlabelled
    assert notes == ["the answers in output, explanation of 'unlabelled.jsonl' are not read: its inputs are unlabelled"]
    for values in ({"output": 7}, {"output": ["a", "b"]}, {"label": "animal"}, {"answers": {"text": ["food"]}}):
        task, notes = notes_of(folder, [{**row, **values} for row in INPUTS])
        assert task.unlabelled == expected.unlabelled
        assert f"the answers in {next(iter(values))} of 'unlabelled.jsonl' are not read" in notes[0]
    assert notes_of(folder, [{**row, "output": ""} for row in INPUTS])[1] == []


def test_what_train_or_the_file_itself_asks_is_left_out_and_what_test_asks_is_said(folder):
    again = {"input": f"  {INPUTS[0]['input']} "}
    asked = [*INPUTS, again, *({"input": row["input"]} for row in ROWS[15:20])]
    task, notes = notes_of(folder, asked)
    assert [q.input for q in task.unlabelled] == [row["input"] for row in (*INPUTS, *ROWS[18:20])]
    assert notes == [
        "3 unlabelled inputs of 'unlabelled.jsonl' are left out, as train has them with their answers",
        "1 unlabelled input of 'unlabelled.jsonl' is left out, as an earlier one asks the same",
        "2 unlabelled inputs of 'unlabelled.jsonl' are asked in test too: recipes that use unlabelled inputs read "
        "them, without answers, and what is measured on test then says less of inputs that are new",
    ]


def test_broken_rows_are_named_or_skipped(folder):
    broken = [*INPUTS, {"input": ""}, {"text": "no input"}, {"input": 3}]
    n = len(INPUTS)
    with pytest.raises(UserError) as error:
        notes_of(folder, broken)
    for number, message in ((1, "'input' must not be empty"), (2, "the column 'input' is missing"),
                            (3, "'input' must be a string; got a number (3)")):  # fmt: skip
        assert f"unlabelled.jsonl row {n + number}: {message}" in str(error.value)
    task, notes = notes_of(folder, broken, skip_bad_rows=True)
    assert len(task.unlabelled) == n
    assert any(f"3 rows that cannot be used are left out: {folder}/unlabelled.jsonl rows" in note for note in notes)


def test_validate_lists_broken_rows(folder, run_cli):
    write_jsonl(folder / "unlabelled.jsonl", [*INPUTS, {"input": ""}])
    found = run_cli("validate", folder, "--json")
    assert found.code == 2
    (row,) = json.loads(found.out)["bad_rows"]
    assert (row["file"], row["row"]) == (f"{folder}/unlabelled.jsonl", len(INPUTS) + 1)
    assert row["message"].endswith("'input' must not be empty; fill it in or leave it out.")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "unlabelled.jsonl",
            "",
            "unlabelled.jsonl must hold at least one unlabelled input, but it is empty; write one",
        ),
        ("unlabelled.json", "[]", "unlabelled.json is an empty list; it must hold one example an object."),
        ("unlabelled.csv", " \n", "unlabelled.csv must hold at least one unlabelled input, but it is empty; write"),
        (
            "unlabelled.txt",
            "\n\n",
            "unlabelled.txt must hold at least one unlabelled input, but it is empty; write one",
        ),
        ("unlabelled.csv", "input\n", "unlabelled.csv"),
        (
            "unlabelled.txt",
            "a\n\nb",
            "unlabelled.txt line 2 must not be empty, as inputs come one a line; leave it out",
        ),
        ("unlabelled.txt", '{"input": "a"}', "unlabelled.txt must hold inputs as plain text, one a line"),
        ("unlabelled.jsonl", '{"words": "a"}\n', "unlabelled.jsonl: no column holds the input"),
        ("unlabelled.jsonl", "{", "unlabelled.jsonl row 1"),
    ],
)
def test_files_that_hold_none_are_refused(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(UserError) as error:
        Task.load(folder)
    assert message in str(error.value)


def test_a_copy_of_train_is_refused(folder):
    with pytest.raises(UserError, match="must hold an input that is not in train, where its answer is known; all 18"):
        notes_of(folder, ROWS[:18])


def test_two_files_are_refused(folder):
    (folder / "unlabeled.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"the rows of unlabelled once; it holds unlabeled.txt and unlabelled.jsonl"):
        notes_of(folder, INPUTS)


# Given to a run


def test_a_run_is_given_a_file(folder, run_cli, tmp_path):
    write_jsonl(folder / "unlabelled.jsonl", INPUTS[:4])
    write_jsonl(tmp_path / "more.jsonl", ROWS[26:])
    out = tmp_path / "run"
    args = ("adapt", folder, "--model", "scripted", "--recipes", "majority", "--limit", 9, "--out", out)
    done = run_cli(*args, "--inputs", tmp_path / "more.jsonl")
    said = " ".join(done.err.split())
    assert "note: the answers in output of 'more.jsonl' are not read: its inputs are unlabelled" in said
    assert "note: 2 unlabelled inputs of 'more.jsonl' are left out, as the task has them already" in said
    assert "note: 16 unlabelled inputs are used by no recipe" in said
    results = json.loads((out / "results.json").read_text())
    assert results["task"]["n_unlabelled"] == 16
    assert results["repeat"].endswith(f"--inputs {tmp_path / 'more.jsonl'}")
    assert "16 more inputs without answers" in (out / "report.html").read_text()
    missing = run_cli(*args, "--inputs", tmp_path / "none.txt")
    assert (missing.code, missing.out) == (2, "")
    assert "none.txt cannot be read: No such file or directory; check its name and its permissions." in missing.err
    packed = run_cli(*args, "--inputs", tmp_path / "none.jsonl.xz")
    assert "must be a file of rows that ends in" in packed.err
    assert "unpack it first" in packed.err


@pytest.mark.parametrize(
    "hold", [list, tuple, iter, lambda texts: np.array(texts), lambda texts: pd.Series(texts),
             lambda texts: [{"input": t} for t in texts], lambda texts: [MappingProxyType({"input": t}) for t in texts],
             lambda texts: [Question(t, "q") for t in texts], lambda texts: [Example(t, "", "e") for t in texts]]
)  # fmt: skip
def test_python_gives_what_it_has(folder, tmp_path, hold):
    texts = [row["input"] for row in INPUTS]
    run = kshot.adapt(folder, "scripted", recipes="majority", limit=9, inputs=hold(texts), out=tmp_path / "run")
    results = json.loads((run.folder / "results.json").read_text())
    assert results["task"]["n_unlabelled"] == len(texts)
    assert results["repeat"] == (
        "# Given in Python, not by name: inputs. Again: "
        f"kshot.adapt({str(folder)!r}, 'scripted', recipes='majority', limit=9, inputs=inputs)"
    )
    expected, _ = notes_of(folder, INPUTS)
    assert given_task(Task.load(folder), inputs=hold(texts)).unlabelled == expected.unlabelled


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "The unlabelled inputs must be one or more; got none. Give some, or leave inputs out."),
        ({"input": "a"}, "The unlabelled inputs must be a list of inputs, also where there is one; got dict."),
        (["a", ""], "The inputs must hold texts; number 2 cannot be used: it is empty; leave it out."),
        (["a", None], "The inputs must hold texts; number 2 is None."),
        ([{"text": "a"}], "Each input that is a mapping must have the key 'input'; number 1 has text."),
        (3, "The unlabelled inputs must be a list of inputs; got int."),
    ],
)
def test_what_python_gives_wrongly_is_refused(folder, inputs, message):
    with pytest.raises((UserError, InvalidInputError)) as error:
        kshot.adapt(folder, "scripted", inputs=inputs)
    assert message in str(error.value)


def test_answers_that_python_gives_are_not_looked_at_and_that_is_said(folder):
    task = given_task(folder, inputs=[ROWS[24], {**ROWS[25], "output": ""}, Example("x", "animal", "e")])
    assert [q.input for q in task.unlabelled] == [ROWS[24]["input"], ROWS[25]["input"], "x"]
    assert "2 unlabelled inputs came with answers, which are not read" in task.notes
    assert "1 came with an answer, which is not read" in given_task(folder, inputs=ROWS[24:25]).notes


@pytest.mark.parametrize(
    ("unlabelled", "message"),
    [
        ([], "the task 'words': unlabelled must be a tuple; got a list"),
        ((Example("a", "animal", "a"),), "unlabelled input 1 must be a Question"),
        ((Question("", "a"),), "unlabelled input 1: 'input' must not be empty"),
        ((Question("a", "train-1"),), "unlabelled input 1: the id 'train-1' is that of an example in train too"),
        ((Question("a", "u"), Question("b", "u")), "input 2: the id 'u' is that of an example in unlabelled too"),
        ((Question("a", "u", meta={"x": {1, 2}}),), "unlabelled input 1: 'meta' must be a mapping of JSON"),
    ],
)
def test_tasks_that_are_built_are_checked(folder, unlabelled, message):
    with pytest.raises(UserError) as error:
        given_task(replace(Task.load(folder), unlabelled=unlabelled))
    assert message in str(error.value)


def test_of_tasks_that_are_built_inputs_of_train_are_left_out_too(folder):
    task = Task.load(folder)
    both = (Question(ROWS[0]["input"], "u1"), Question("new", "u2"))
    found = given_task(replace(task, unlabelled=both))
    assert found.unlabelled == both[1:]
    assert found.notes[-1] == "1 unlabelled input is left out, as train has it with its answer"


def test_validate_and_the_report_say_how_many_there_are(folder, run_cli):
    assert "n_unlabelled" not in run_cli("validate", folder, "--json").json
    write_jsonl(folder / "unlabelled.jsonl", INPUTS)
    assert run_cli("validate", folder, "--json").json["n_unlabelled"] == 16
    assert "words: classification, 18 train, 6 test, 16 unlabelled, labels animal" in run_cli("validate", folder).out


# What they change


def test_nothing_changes_where_no_recipe_uses_them(folder, run_cli, recorded, tmp_path):
    def ran(out):
        args = ("--model", "scripted", "--recipes", "majority,bm25", "--shots", 3, "--out", tmp_path / out, "--json")
        work = run_cli("adapt", folder, *args).json["work"]
        found = recorded(tmp_path / out)
        found["results.json"][0]["task"].pop("n_unlabelled", None)
        return work, found

    work, before = ran("run")
    write_jsonl(folder / "unlabelled.jsonl", INPUTS)
    assert ran("other") == (work, before)
    again, after = ran("run")  # all of it is in its store
    assert (again["scored"], after) == (0, before)


@pytest.mark.parametrize(("n_train", "n_asked"), [(18, 16), (30, 10)])
def test_a_label_prior_is_measured_on_them_where_train_has_few_others(tmp_path, n_train, n_asked, monkeypatch):
    """18 examples are too few for a second look; of 30 the prompt that is handed over is asked about 27."""
    monkeypatch.setattr("kshot.race.measure.ENOUGH_ASKED", 37)
    rows = labelled_rows(60)
    train = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(rows[:n_train]))
    more = tuple(Question(row["input"], f"u{i}") for i, row in enumerate(rows[44:]))
    task = Task("words", "classification", train, labels=("animal", "food", "tool"))
    model = Biased({row["input"]: row["output"] for row in rows}, name="biased")

    def prior(task, out):
        run = kshot.adapt(task, model, recipes="random", shots=3, out=tmp_path / out)
        assert run.best.fitted.calibration.strength > 0
        return run, run.best.fitted.calibration.prior

    run, without = prior(task, "without")
    shown = {e.id for e in run.best.pool}
    learner = make_learner(parse_recipe("random", shots=3), Setup(task, TaskModel.for_task(task, model), 0))
    asked = [*(e for e in train if e.id not in shown), *(question.answered() for question in more[:n_asked])]
    raw = [p for e in asked for p in learner.predict([Query(e, train)])]
    total = normalised(np.array([p.log_probs for p in raw])).sum(axis=0)
    paid, found = prior(replace(task, unlabelled=more), "with")
    assert found == pytest.approx((total + 4 / 3) / (len(raw) + 4), abs=1e-6)
    assert found != pytest.approx(without, abs=1e-4)
    assert paid.work.scored == run.work.scored + n_asked
    again, resumed = prior(replace(task, unlabelled=more), "with")
    assert (resumed, again.leaderboard) == (found, paid.leaderboard)
    other, _ = prior(replace(task, unlabelled=more[::-1]), "with")  # nothing that was kept of the others is taken
    assert other.best.fitted.calibration.prior != found


OWN = """
from dataclasses import dataclass
from pathlib import Path
import kshot

@dataclass(frozen=True)
class First(kshot.Selector):
    per_query = False
    uses_unlabelled = {uses}

    def fit(self, pool, *, model, rng):
        return self

    def select(self, question, k, *, rng):
        with Path({calls!r}).open("a") as file:
            file.write(".")
        return list(range(k))
"""


@pytest.mark.parametrize("uses", [True, False])
def test_what_uses_them_begins_again_with_others(folder, tmp_path, uses):
    """They are part of the key of what a recipe has said where one of its methods learns from them, and only there."""
    calls = tmp_path / "calls"
    (tmp_path / "mine.py").write_text(OWN.format(uses=uses, calls=str(calls)))
    n_calls = []
    for inputs in (["a", "b"], ["a", "b"], ["b", "a"], None):
        calls.write_text("")
        how = {"recipes": f"{tmp_path}/mine.py:First:k=1,calibration=none", "shots": 2, "inputs": inputs}
        kshot.adapt(folder, "scripted", **how, out=tmp_path / "run")
        n_calls.append(len(calls.read_text()))
    anew, kept, others, none = n_calls
    assert anew > kept
    assert (others, none) == ((anew, anew) if uses else (kept, kept))
