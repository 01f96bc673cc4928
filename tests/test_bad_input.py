"""Everything that a user can get wrong: exit code 2, one sentence, no traceback. What the machine gets wrong: 3."""

import json
import os
import re
import resource
import shutil
import sys
from contextlib import contextmanager

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.seal import write_seal
from kshot.core.errors import UserError
from kshot.core.models import Capability
from kshot.core.types import Task
from kshot.models.scripted import ScriptedModel
from kshot.store.files import write_folder

ROWS = labelled_rows(6)
GOOD = b'{"input": "a", "output": "b"}\n'


@pytest.fixture
def refused(run_cli):
    """Run a command that must be refused with exit code 2; return its sentence."""

    def refused(*args, input=None):
        done = run_cli(*args, input=input)
        assert (done.code, done.out) == (2, ""), done.err
        assert "Traceback" not in done.err
        (line,) = (line for line in done.err.splitlines() if not line.startswith(("note: ", "loading ")))
        assert line.startswith("error: ")
        return line.removeprefix("error: ").strip()

    return refused


@pytest.fixture
def adapt_refused(refused, words_task, tmp_path):
    """Run an `adapt` that must be refused, by default for nothing but `args`."""

    def adapt_refused(*args, task=words_task, model="scripted", recipes="random", out=tmp_path / "run"):
        existed = os.path.lexists(out)
        text = refused("adapt", task, "--model", model, "--recipes", recipes, "--out", out, "--shots", 3, *args)
        assert existed or not os.path.lexists(out), "a refused run leaves nothing behind"
        return text

    return adapt_refused


# The task


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train.jsonl is empty; it must hold one example a line."),
        (GOOD + b'{"input": "a"', "train.jsonl row 2"),
        (GOOD + b'["a", "b"]\n', "train.jsonl row 2"),
        (
            GOOD + b'{"input": "a"}',
            "row 2: the column 'output' is missing, the row has input; ",
        ),
        (
            GOOD + b'{"input": "a", "output": 1}',
            "row 2: 'output' must be a string; got a number",
        ),
        (b'{"input": "a", "output": " "}', "row 1: 'output' must not be empty"),
        (
            GOOD + b'{"input": "a2", "output": "b", "references": []}',
            "row 2: 'references' must not be empty; list all accepted outputs, or leave it out.",
        ),
        (
            GOOD + b'{"input": "a2", "output": "b", "references": ["c", "d"]}',
            "row 2: the output must be one of 'references', as these are all accepted outputs; got a string (\"b\")",
        ),
        (
            GOOD + b'{"input": "a2", "output": "b", "references": ["b", ""]}',
            "row 2: 'references' item 2 must not be empty",
        ),
        (
            GOOD + b'{"input": "a2", "output": "b", "references": "b"}',
            "row 2: 'references' must be a list of strings; got a string (\"b\")",
        ),
        (
            b'{"input": "a", "output": "x", "choices": ["x", "y"]}\n'
            b'{"input": "b", "output": "z", "choices": ["x", "y"]}',
            "row 2: 'z' is not among the row's choices; correct it, or choices_in_input in task.json.",
        ),
        (
            b'{"input": "a", "output": "(A)", "choices": ["x", "y"]}\n'
            b'{"input": "b", "output": "(C)", "choices": ["x", "y"]}',
            "row 2: 'output' must hold the letter of the choice, as most rows of train do, and there are 2; got a ",
        ),
        (
            GOOD + b'{"input": "caf\xe9", "output": "b"}',
            "row 2 must be UTF-8, but byte 15 of",
        ),
        (
            b'{"input": "a\\u0000", "output": "b"}',
            "row 1: 'input' must be text, but it holds a NUL character",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["validate", "adapt"])
def test_a_broken_file(refused, adapt_refused, tmp_path, verb, content, message):
    (tmp_path / "train.jsonl").write_bytes(content)
    text = refused(verb, tmp_path) if verb == "validate" else adapt_refused(task=tmp_path)
    assert message in text


def test_no_file(refused, tmp_path):
    for verb in (("validate",), ("adapt", "--model", "scripted"), ("select", "--selector", "random", "-k", 1)):
        assert "there is no 'none.jsonl'; give a folder, " in refused(*verb, "none.jsonl")
    assert "must hold a file train that ends in .jsonl, " in refused("validate", tmp_path)


def test_an_unlisted_label(adapt_refused, tmp_path):
    task = write_task(tmp_path / "task", ROWS, card={"labels": ["animal", "food"]})
    assert "row 3: 'tool' is not among the task's labels; correct it or list it" in adapt_refused(task=task)
    task = write_task(tmp_path / "other", ROWS, [{"input": "x", "output": "animl"}])
    text = adapt_refused(task=task)
    assert "test.jsonl row 1: 'animl' is not among the task's labels" in text
    assert "Did you mean 'animal'?" in text


def test_one_id_twice(tmp_path):
    task = write_task(tmp_path / "task", [row | {"id": "same"} for row in ROWS])
    loaded = Task.load(task)
    assert len({e.id for e in loaded.train}) == len(ROWS)
    assert loaded.notes[0].startswith("5 rows of train have the id of an earlier row, and a new one: 'same (row 2)', ")


def test_one_label_only(adapt_refused, run_cli, tmp_path):
    task = write_task(tmp_path / "task", [row | {"output": "animal"} for row in ROWS])
    text = adapt_refused(task=task)
    assert text.startswith("A task must have at least two different outputs to choose between; ")
    assert "of 'task' have 'animal'" in text
    problems = run_cli("validate", task, "--json").json["problems"]
    assert problems == ["All rows of train have the label 'animal'."]


def test_a_metric_that_cannot_be_computed(adapt_refused, tmp_path):
    task = write_task(tmp_path / "task", ROWS, card={"metrics": ["acuracy"]})
    assert "there is no metric 'acuracy'. Did you mean 'accuracy'?" in adapt_refused(task=task)
    task = write_task(tmp_path / "f1", ROWS, card={"metrics": ["f1"]})
    assert "the metric f1 needs 'positive_label' in task.json to be one of animal, food, " in adapt_refused(task=task)


@pytest.mark.parametrize("model", ["scripted", "tiny"])
def test_an_example_longer_than_the_context(adapt_refused, run_cli, refused, tmp_path, model):
    long = {"input": "word " * 5000, "output": "animal", "id": "long-one"}
    task = write_task(tmp_path / "task", [*ROWS, long])
    text = adapt_refused(task=task, model=model)
    assert "Each example must fit the model's context of 4096 tokens; example 'long-one' needs " in text
    assert "Shorten it, remove it, or use another --model." in text
    task = write_task(tmp_path / "short", ROWS, [long])
    args = ("--model", model, "--recipes", "random", "--shots", 3, "--out", tmp_path / "done")
    assert run_cli("adapt", task, *args).code == 0
    assert "example 'long-one' needs" in refused("evaluate", tmp_path / "done", task)


# Settings


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--shots", 25), "--shots must be in 1..24, the number of different training examples; got 25."),
        (("--shots", 0), "--shots must be in 1..24, the number of different training examples; got 0."),
        (("--limit", 0), "--limit must be 1 or more; got 0."),
        (("--recipes", "random:k=25"), "random:k=25: k must be in 1..24, the size of the pool; got 25."),
        (("--recipes", "random:k=0"), "random:k=0: k must be a whole number, 1 or more; got '0'."),
        (("--recipes", "random:k=some"), "random:k=some: k must be a whole number, 1 or more; got 'some'."),
        (("--recipes", "randm"), "there is no recipe 'randm'. Did you mean 'random'? Known: "),
        (("--recipes", ""), "--recipes must name at least one recipe, or all; got ''."),
        (("--recipes", "random:balance=true"), "'random' has no setting 'balance'. Did you mean 'balanced'?"),
        (("--recipes", "random:balanced=maybe"), "random:balanced must be true or false; got 'maybe'."),
        (("--recipes", "bm25:k1=-1"), "bm25:k1 must be a number, 0 or more; got -1.0."),
        (("--recipes", "zero-shot:k=2"), "'zero-shot' has no setting 'k'. Known: calibration, composer, loop."),
        (("--recipes", "random,majority,random"), "--recipes must name each recipe once; got 'random' 2 times."),
        (
            ("--recipes", "random:order=neerest-last"),
            "random: there is no order 'neerest-last'. Did you mean 'nearest-l",
        ),
        (
            ("--recipes", "bm25:order="),
            "bm25: there is no order ''. Known: as-selected, label-interleaved, most-confident-last, nearest-last",
        ),
        (
            ("--recipes", "zero-shot:order=shuffled"),
            "'zero-shot' has no setting 'order'. Known: calibration, composer, loop.",
        ),
        (
            ("--recipes", "random:calibration=temprature"),
            "random: calibration must be one of auto, batch, temperature, contextual, none; got 'temprature'.",
        ),
        (
            ("--recipes", "zero-shot:calibration=batch/none"),
            "as it does not race inside a recipe; got 'batch/none'. Name a recipe for each: "
            "zero-shot:calibration=batch,zero-shot:calibration=none.",
        ),
        (("--recipes", "zero-shot:calibration=yes"), "zero-shot: calibration must be one of auto, batch, temper"),
        (("--recipes", "majority:calibration=contextual"), "as a classifier asks no language model; got 'contextual'."),
        (("--recipes", "majority:order=shuffled"), "'majority' has no setting 'order'."),
        (("--recipes", "best-of-n:n=1"), "best-of-n:n must be 2 or more; got 1. For one random set use 'random'."),
        (("--layout", "turn"), "--layout must be one of auto, plain, turns, block, messages; got 'turn'."),
        (("--layout", "turns"), "--layout turns needs a model with a chat template; 'scripted' has none. Use --layout"),
        (("--selector-model", "no-such-model"), "must be a hub id, or a folder, of a causal language model"),
        (("--recipes", "mine.py:Mine"), "'mine.py:Mine' must name a Python file; mine.py does not exist."),
    ],
)
def test_a_wrong_setting(adapt_refused, args, message):
    assert message in adapt_refused(*args)


@pytest.mark.parametrize("args", [("--shots", "many"), ("--shot", 3), ("--seed", "0.5")])
def test_a_wrong_flag(run_cli, words_task, args):
    done = run_cli("adapt", words_task, "--model", "scripted", *args)
    assert (done.code, done.out) == (2, "")
    assert str(args[0]) in done.err
    assert "Traceback" not in done.err


def test_an_unknown_model(adapt_refused, refused, words_task, tmp_path):
    text = adapt_refused(model="no-such-model")
    assert text.startswith("--model must be a hub id, or a folder, of a causal language model")
    assert "got 'no-such-model'" in text
    (tmp_path / "empty").mkdir()
    assert f"'{tmp_path}/empty' has no config.json. Copy the whole folder" in adapt_refused(model=tmp_path / "empty")
    assert "Known: demo, gguf:FILE, scripted, tiny." in refused("validate", words_task, "--model", "no-such-model")
    assert "gguf:FILE must name a GGUF file; there is no file '" in adapt_refused(model="gguf:none.gguf")
    assert "gguf:FILE must name a GGUF file; " in adapt_refused(model=f"gguf:{__file__}")
    assert "scripted:FILE must name a JSON file with an object; " in adapt_refused(model="scripted:none.json")


def test_settings_are_checked_before_the_model_is_loaded(adapt_refused, tmp_path):
    broken = write_task(tmp_path / "task", [*ROWS, {"input": "x"}])
    assert "row 7: the column 'output' is missing" in adapt_refused(task=broken, model="no-such-model")
    assert "--budget must be a time" in adapt_refused("--budget", "soon", "--dry-run", model="no-such-model")


def test_a_model_that_cannot_score(adapt_refused, monkeypatch):
    monkeypatch.setattr(ScriptedModel, "capabilities", frozenset())
    assert "The recipe 'random' needs a model that can score; give another --model." in adapt_refused()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("random", "-k", 25), "-k must be in 1..24, the size of the pool; got 25."),
        (("random", "-k", 0), "k must be a whole number, 1 or more; got '0'."),
        (("random:k=2", "-k", 3), "-k says how many; leave k out of 'random:k=2', which says 2 and -k 3."),
        (("random,bm25", "-k", 3), "there is no recipe 'random,bm25'. "),
        (("majority", "-k", 3), "--selector must name a selector; 'majority' shows no demonstrations."),
        (("zero-shot", "-k", 3), "--selector must name a selector; 'zero-shot' shows no demonstrations."),
        (("best-of-n", "-k", 3), "The selector 'best-of-n' asks a language model; give --model."),
        (("best-of-n:order=random", "-k", 3), "best-of-n: there is no order 'random'. "),
        (("random", "-k", 3, "--model", "scripted", "--layout", "block"), "--layout block needs a model with a chat "),
        (("random", "-k", 3, "--model", "scripted", "--layout", "blocks"), "--layout must be one of auto, plain, "),
        (("bm25", "-k", 3), "'bm25' chooses for one query at a time, "),
        (("bm25", "-k", 3, "--query", " "), "--query must be the text of an input, but it is empty; write what would"),
        (("bm25", "-k", 3, "--query", "a\udcff"), "--query must be the text of an input, but it holds half of a surr"),
    ],
)
def test_a_wrong_selection(refused, words_task, args, message):
    assert message in refused("select", words_task, "--selector", *args)


def test_a_selection_that_does_not_fit(refused, tmp_path):
    task = write_task(tmp_path / "task", [row | {"input": row["input"] + " word" * 1500} for row in ROWS])
    text = refused("select", task, "--selector", "random", "-k", 6, "--model", "scripted")
    assert "must fit the model's 4096 tokens; 5 of 6 are too many. Use a smaller -k." in text


# Tasks whose answers are texts, and rows with choices of their own


def sums(n):
    return [{"input": f"{i} and {i}?", "output": f"it is {2 * i}"} for i in range(n)]


def test_numbers_that_cannot_be_compared(adapt_refused, refused, run_cli, tmp_path):
    message = (
        "with the metric exact_match_number every output and reference must hold a number in digits, such as 42 or "
        "-1,200.5; got 'eight'. Correct the row, or name another metric in 'metrics' in task.json."
    )
    task = write_task(tmp_path / "task", [*sums(6), {"input": "40 and 40?", "output": "eight"}], card={"kind": "math"})
    assert adapt_refused(task=task) == f"row train-7: {message}"
    problems = run_cli("validate", task, "--json").json["problems"]
    assert problems == [
        "There is 1 row whose output holds no number, which is all that exact_match_number compares: train-7."
    ]
    both = [{"input": "40 and 40?", "output": "8", "references": ["8", "eight"]}]
    task = write_task(tmp_path / "references", sums(6) + both, card={"kind": "math"})
    assert adapt_refused(task=task) == f"row train-7: {message}"
    good = write_task(tmp_path / "good", sums(6), [{"input": "40 and 40?", "output": "eight"}], card={"kind": "math"})
    args = ("--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "done")
    assert run_cli("adapt", good, *args).code == 0
    assert refused("evaluate", tmp_path / "done", good) == f"row test-1: {message}"


def test_a_text_that_never_ends_is_no_error(run_cli, tmp_path):
    task = write_task(tmp_path / "task", sums(9), card={"kind": "generation"})
    args = ("--model", "tiny", "--recipes", "zero-shot", "--out", tmp_path / "run")
    done = run_cli("adapt", task, *args, "--json")
    assert done.json["chosen"] == "zero-shot"
    assert "zero-shot: 5 of 5 generated answers did not end within 21 tokens and were cut (`cut_off` in " in done.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [row["cut_off"] for row in rows] == [False] * 4 + [True] * 5
    assert run_cli("predict", tmp_path / "run", input="4 and 4?\n").out.count("\n") == 1


def test_recipes_of_which_none_applies(refused, tmp_path):
    task = write_task(tmp_path / "task", sums(6), card={"kind": "qa"})
    names = "majority,tfidf-lr,random:calibration=contextual"
    text = refused("adapt", task, "--model", "scripted", "--recipes", names, "--out", tmp_path / "run")
    assert text.startswith(f"--recipes must name one for tasks of kind qa; got '{names}'. Try 'all'.")


def test_labels_are_for_classification(adapt_refused, tmp_path):
    task = write_task(tmp_path / "task", ROWS, card={"kind": "generation", "labels": ["animal", "food", "tool"]})
    said = adapt_refused(task=task)
    assert "labels are for the kinds classification and multi_label; leave them out for generation." in said
    task = write_task(tmp_path / "other", ROWS, card={"kind": "generations"})
    assert "there is no kind 'generations'. Did you mean 'generation'?" in adapt_refused(task=task)


def test_a_model_that_cannot_write(adapt_refused, tmp_path, monkeypatch):
    monkeypatch.setattr(ScriptedModel, "capabilities", frozenset({Capability.SCORE}))
    task = write_task(tmp_path / "task", sums(6), card={"kind": "qa"})
    text = adapt_refused(task=task)
    assert text == "The recipe 'random' needs a model that can generate; give another --model."


def test_an_open_model_on_another_kind(refused, run_cli, words_task, tmp_path):
    task = write_task(tmp_path / "task", sums(6), sums(7)[6:], card={"kind": "qa"})
    args = ("--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "run")
    assert run_cli("adapt", task, *args).code == 0
    text = refused("evaluate", tmp_path / "run", words_task)
    assert text.startswith("The model answers qa; 'words' is classification with the labels animal, food, tool.")


def test_choices_may_differ_in_number(run_cli, quiz_task, tmp_path):
    assert run_cli("validate", quiz_task, "--json").json["problems"] == ["Rows have 2 to 4 choices."]
    assert "problem: Rows have 2 to 4 choices." in run_cli("validate", quiz_task).out
    args = ("--model", "scripted", "--recipes", "random,zero-shot", "--shots", 3, "--out", tmp_path / "run")
    assert run_cli("adapt", quiz_task, *args, "--json").json["leaderboard"][0]["n"] == 12
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {len(row["probs"]) for row in rows} == {2, 3, 4}
    assert all(sum(row["probs"]) == pytest.approx(1) for row in rows)
    letters = [
        {"input": f"{i}? " + "".join(f"({'ABCD'[j]}) x{j} " for j in range(2 + i % 3)), "output": f"({'AB'[i % 2]})",
         "choices": [f"x{j}" for j in range(2 + i % 3)]} for i in range(9)
    ]  # fmt: skip
    task = write_task(tmp_path / "letters", letters)
    assert run_cli("validate", task, "--json").json["problems"] == ["Rows have 2 to 4 choices."]
    args = ("--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "run-letters")
    assert run_cli("adapt", task, *args).code == 0


# Run folders


@pytest.fixture
def finished(run_cli, words_task, tmp_path):
    """A finished run of the scripted model."""
    args = ("--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "run")
    assert run_cli("adapt", words_task, *args).code == 0
    return tmp_path / "run"


def test_a_folder_that_cannot_be_made(adapt_refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run", "/proc/kshot-run"):
        assert f"--out must be a folder that can be written; {out}: " in adapt_refused(out=out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_read_only(adapt_refused, finished, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write whatever the permissions say
    assert f"--out must be a folder that can be written; {finished} is read-only." in adapt_refused()


def test_a_folder_of_something_else(adapt_refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "must be an empty folder or a run of kshot; it has no readable manifest.json. " in adapt_refused()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff"])
def test_a_corrupted_manifest(adapt_refused, finished, text):
    (finished / "manifest.json").write_bytes(text.encode("latin-1"))
    assert "it has no readable manifest.json. Give another --out." in adapt_refused()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--seed", 1), "another seed (0, now 1)"),
        (("--limit", 5), "another limit (300, now 5)"),
        (("--model", "tiny"), "another model ("),
    ],
)
def test_a_run_with_other_settings(adapt_refused, finished, args, message):
    before = (finished / "results.json").read_text()
    text = adapt_refused(*args)
    assert f"{finished} holds a run with {message}" in text
    assert "give another --out, or repeat the settings it was started with." in text
    assert (finished / "results.json").read_text() == before


def test_a_run_of_another_task(adapt_refused, finished, tmp_path):
    task = write_task(tmp_path / "words", labelled_rows(9))
    assert f'{finished} holds a run with another task (of the same name, "words")' in adapt_refused(task=task)


def test_a_run_of_another_format(adapt_refused, finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    (finished / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    assert "another version of kshot began it, with format 99. Give another --out" in adapt_refused()


# Adapted models


def test_no_adapted_model(refused, words_task, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "none", tmp_path / "empty"):
        for text in (refused("predict", folder, input="cat\n"), refused("evaluate", folder, words_task)):
            if folder.exists():
                assert f"{folder} must be an adapted model or a finished run: it has no readable kshot.json" in text
            else:
                assert f"There is no folder {folder}. Give that of a finished run or of an adapted model." in text
                continue
            assert "(a run that was interrupted is finished by the same `kshot adapt` command)" in text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("kshot.json", "{", "kshot.json cannot be read: expecting property name"),
        ("kshot.json", "[]", "kshot.json cannot be read: it is no object"),
        ("demonstrations.jsonl", '{"id"', "demonstrations.jsonl cannot be read: expecting"),
        ("demonstrations.jsonl", None, "'demonstrations.jsonl' is not in its checksums.json"),
        ("kshot.json", None, "'kshot.json' is not in its checksums.json"),
    ],
)
def test_half_an_adapted_model(refused, finished, name, text, said):
    file = finished / "best" / name
    file.unlink() if text is None else file.write_text(text)
    write_seal(finished / "best")
    found = refused("predict", finished, input="cat\n")
    assert said.lower() in found.lower()
    assert "Copy the whole folder" in found
    assert "the same `kshot adapt` command writes it" in found


def test_an_adapted_model_of_another_format(refused, finished):
    file = finished / "best" / "kshot.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99, "kshot": "7.0"}))
    write_seal(finished / "best")
    text = refused("predict", finished, input="cat\n")
    read = f"which this kshot {kshot.__version__} reads (or 4 or 3 or 2)"
    assert f"must have format 5, {read}; got 99, written by kshot 7.0." in text


def test_other_weights(refused, finished):
    file = finished / "best" / "kshot.json"
    about = json.loads(file.read_text())
    about["model"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(about))
    write_seal(finished / "best")
    text = refused("predict", finished, input="cat\n")
    assert "was adapted with other weights, config or tokenizer than those of 'scripted' (fingerprint 0000000" in text


def test_a_model_that_is_gone(refused, run_cli, words_task, tmp_path):
    (tmp_path / "table.json").write_text('{"cat": "animal"}')
    args = (
        "--model",
        f"scripted:{tmp_path}/table.json",
        "--recipes",
        "random",
        "--shots",
        3,
        "--out",
        tmp_path / "run",
    )
    assert run_cli("adapt", words_task, *args).code == 0
    (tmp_path / "table.json").unlink()
    text = refused("predict", tmp_path / "run", input="cat\n")
    assert "table.json, which is not there any more. Put it back, or say where it is with --model (in" in text


def test_nothing_is_replaced_but_an_adapted_model(finished, tmp_path):
    model = kshot.load(finished)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    for folder in (tmp_path / "thesis", tmp_path / "thesis" / "thesis.txt", finished):
        with pytest.raises(UserError, match="must be new, empty or an adapted model: it is replaced"):
            model.save(folder)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "mine"
    model.save(finished / "best")
    assert kshot.load(finished).predict(["cat"]) == model.predict(["cat"])


def test_inputs_that_cannot_be_answered(refused, finished, run_cli, quiz_task, tmp_path):
    assert "stdin must hold at least one input, but it is empty; write one a line." in refused(
        "predict", finished, input="\n \n"
    )
    assert "none.txt cannot be read: No such file or directory; check its name" in refused(
        "predict", finished, "none.txt"
    )
    (tmp_path / "in.jsonl").write_text('{"asked": "cat"}\n')
    text = refused("predict", finished, tmp_path / "in.jsonl")
    assert text.endswith("in.jsonl: no column holds the input; it has asked; name it, as in --columns input=asked.")
    args = ("--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "quiz")
    assert run_cli("adapt", quiz_task, *args).code == 0
    assert "must bring its choices; number 1 has none." in refused("predict", tmp_path / "quiz", input="what is 1?\n")


def test_a_task_that_the_model_did_not_learn(refused, finished, run_cli, quiz_task, tmp_path):
    text = refused("evaluate", finished, quiz_task)
    assert "The model answers classification with the labels animal, food, tool; 'quiz' is multiple_choice" in text
    other = write_task(
        tmp_path / "other",
        [{"input": f"x{i}", "output": str(i % 2)} for i in range(6)],
        ROWS[:1] and [{"input": "y", "output": "1"}],
    )
    assert "'other' is classification with the labels 0, 1." in refused("evaluate", finished, other)
    no_test = write_task(tmp_path / "no-test", ROWS)
    assert "evaluate needs test rows; 'no-test' has none." in refused("evaluate", finished, no_test)
    assert "--limit must be 1 or more; got 0." in refused("evaluate", finished, quiz_task, "--limit", 0)
    args = ("--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "quiz")
    assert run_cli("adapt", quiz_task, *args).code == 0
    letters = [{"input": "(A) 1 or (B) 2?", "output": "(A)", "choices": ["1", "2"]}] * 2
    text = refused("evaluate", tmp_path / "quiz", write_task(tmp_path / "letters", letters[:1], letters[:1]))
    assert "The model answers with the choices' text; the outputs of 'letters' are letters." in text


# A full disk


@contextmanager
def file_size_limit(n_bytes, monkeypatch):
    """Let no file of this process grow beyond `n_bytes`: what a full disk looks like to SQLite and to us."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python 3.11 would keep a truncated .pyc
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def wordy_task(tmp_path):
    """A task whose demonstrations take more room than an empty database."""
    rows = [row | {"input": row["input"] + " word" * 600} for row in labelled_rows(24)]
    return write_task(tmp_path / "wordy", rows)


def test_a_full_disk(run_cli, wordy_task, tmp_path, recorded, monkeypatch):
    def adapt(name):
        args = ("--model", "scripted", "--recipes", "zero-shot,bm25,random", "--shots", 1, "--out", tmp_path / name)
        return run_cli("adapt", wordy_task, *args, "--json")

    whole = adapt("whole").json
    codes, messages = [], set()
    for limit in [*range(0, 100_000, 12_500), *range(100_000, 400_001, 100_000)]:
        with file_size_limit(limit, monkeypatch):
            stopped = adapt("full")
        codes.append(stopped.code)
        if stopped.code:
            assert stopped.code == 3
            assert "Traceback" not in stopped.err
            place, says = re.search(r"error: (\S+) must be .*?; (\w+) .*says: ", stopped.err.splitlines()[-1]).groups()
            assert "free space or fix the folder, then run the same command again." in stopped.err
            messages.add((place.rpartition("/")[2], says))
        if (tmp_path / "full").exists():
            check_nothing_is_half_written(tmp_path / "full")
    assert codes[0] == 3
    assert codes[-1] == 0
    assert {says for _, says in messages} == {"the", "SQLite"}
    shutil.rmtree(tmp_path / "full" / "best")
    assert adapt("full").json["work"]["scored"] == 0
    assert recorded(tmp_path / "full") == recorded(tmp_path / "whole")
    assert whole["chosen"] == adapt("full").json["chosen"]


def test_a_full_disk_at_the_very_end(run_cli, words_task, tmp_path, recorded, monkeypatch):
    args = ("adapt", words_task, "--model", "scripted", "--recipes", "zero-shot,bm25,random,all-past,majority")
    assert run_cli(*args, "--out", tmp_path).code == 0
    whole = recorded(tmp_path)
    for name in ("samples.jsonl", "results.json"):
        (tmp_path / name).unlink()
    with file_size_limit(40_000, monkeypatch):
        stopped = run_cli(*args, "--out", tmp_path)
    assert (stopped.code, stopped.out) == (3, "")
    assert stopped.err.splitlines()[-1].startswith(
        f"error: {tmp_path}/unfinished.json must be writable; the system says"
    )
    assert not (tmp_path / "results.json").exists()
    check_nothing_is_half_written(tmp_path)
    assert run_cli(*args, "--out", tmp_path).code == 0
    assert recorded(tmp_path) == whole


def check_nothing_is_half_written(folder):
    """Whatever stands in a run folder under its own name is whole; nothing temporary is left."""
    names = {path.name for path in folder.iterdir()}
    assert not {name for name in names if name.startswith(".")}
    if "manifest.json" in names:
        assert json.loads((folder / "manifest.json").read_text())["format"] == 3
    if "results.json" in names:
        assert json.loads((folder / "results.json").read_text())["chosen"]
        assert all(json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines())
    if "best" in names:
        assert kshot.load(folder).predict(["the cat"])[0] in ("animal", "food", "tool")


@pytest.mark.slow
def test_a_full_disk_in_a_process_of_its_own(run_process, words_task, tmp_path):
    code = "import resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (9000, 9000)); import kshot.cli.main as m; m.main()"
    args = ("adapt", words_task, "--model", "scripted", "--recipes", "random", "--shots", 3, "--out", tmp_path / "run")
    stopped = run_process("-B", "-c", code, *args)
    assert (stopped.code, stopped.out) == (3, "")
    assert "store.sqlite must be a writable run database; SQLite says: " in stopped.err
    assert "Traceback" not in stopped.err


def test_a_damaged_store(run_cli, finished, words_task):
    for path in finished.glob("store.sqlite*"):
        path.write_bytes(b"no database" * 1000)
    done = run_cli("adapt", words_task, "--model", "scripted", "--recipes", "random", "--shots", 3, "--out", finished)
    assert (done.code, done.out) == (3, "")
    assert "store.sqlite must be a database that SQLite can read; it says: file is not a database." in done.err
    assert "Traceback" not in done.err


def test_what_a_killed_process_left_is_taken_away(tmp_path):
    for name in (".best.00c0ffee.partial", ".best.0000beef.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    for text in ("one", "two"):
        write_folder(tmp_path / "best", {"file": text})
        assert (tmp_path / "best" / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
