"""What users do on the first day: other column names, single files, one text, a selector of their own."""

import json

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError


@pytest.fixture(scope="module")
def learnt(words_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learnt") / "run"
    kshot.adapt(words_task, "scripted", recipes=["majority", "bm25"], out=folder)
    return folder


def test_a_line_without_input_is_refused_so_that_answers_stay_in_line(run_cli, learnt):
    refused = run_cli("predict", learnt, "-", input="the cat\n\na saw\n")
    assert refused.code == 2
    assert "stdin line 2 must not be empty" in refused.err


def test_inputs_can_stand_in_a_column_of_another_name(run_cli, learnt, tmp_path):
    (tmp_path / "a.csv").write_text("text\nthe cat\n")
    (tmp_path / "b.csv").write_text("question\nthe cat\n")
    answers = run_cli("predict", learnt, tmp_path / "a.csv").out
    assert run_cli("predict", learnt, tmp_path / "b.csv", "--columns", "input=question").out == answers != ""


def test_predict_goes_on_without_bad_rows_and_says_which(run_cli, learnt, tmp_path):
    file, wrong = tmp_path / "a.csv", tmp_path / "a.jsonl"
    file.write_text('text\nthe cat\n" "\na saw\nsoup\n')
    refused = run_cli("predict", learnt, file)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(
        "fill it in or leave it out. --skip-bad-rows (in Python skip_bad_rows=True) goes on without it.\n"
    )
    refused = run_cli("predict", learnt, file, "--skip-bad-rows")
    assert refused.code == 2
    assert refused.err.endswith("add --json.\n")
    done = run_cli("predict", learnt, file, "--skip-bad-rows", "--json")
    assert [p["id"] for p in done.json["predictions"]] == ["input-2", "input-4", "input-5"]
    assert [(row["file"], row["row"]) for row in done.json["left_out"]] == [(str(file), 3)]
    assert f"note: 1 row that cannot be used is left out: {file} row 3; the first: {file} row 3: 'text'" in done.err
    wrong.write_text('{"input": "the cat"}\nno json\n{"input": "a saw"}\n{"input": 3}\n{"input": "x"}\n')
    done = run_cli("predict", learnt, wrong, "--skip-bad-rows", "--json")
    assert [row["row"] for row in done.json["left_out"]] == [2, 4]
    assert run_cli("predict", learnt, wrong.rename(tmp_path / "b.jsonl"), "--json").code == 2


@pytest.mark.parametrize("flags", [("--columns", "input=foo"), ("--skip-bad-rows", "--json")])
def test_a_text_of_lines_has_no_columns_and_no_rows(run_cli, learnt, tmp_path, flags):
    file = tmp_path / "q.txt"
    file.write_text("the cat\n")
    for source, name in ((file, str(file)), ("-", "stdin")):
        refused = run_cli("predict", learnt, source, *flags, input="the cat\n")
        assert refused.code == 2
        assert f"error: {flags[0]} is for files of rows" in refused.err
        assert f"{name} is read as a text with one input a line; leave {flags[0]} out" in refused.err


def test_an_input_without_choices_is_a_bad_row(run_cli, quiz_task, tmp_path):
    how = ("--model", "scripted", "--recipes", "zero-shot,random", "--shots", 2, "--out", tmp_path / "run")
    assert run_cli("adapt", quiz_task, *how).code == 0
    file = tmp_path / "a.jsonl"
    file.write_text('{"input": "a", "choices": ["1", "2"]}\n{"input": "b"}\n')
    done = run_cli("predict", tmp_path / "run", file, "--skip-bad-rows", "--json").json
    assert "row 2: a multiple-choice row must have at least 2 'choices'; got 0; " in done["left_out"][0]["message"]
    assert [p["id"] for p in done["predictions"]] == ["input-1"]


def test_a_single_file_is_evaluated_on_all_its_rows(run_cli, learnt, words_task, tmp_path):
    file = tmp_path / "some.jsonl"
    rows = (words_task / "test.jsonl").read_text().splitlines()
    file.write_text("\n".join(rows))
    assert run_cli("evaluate", learnt, file, "--json").json == run_cli("evaluate", learnt, words_task, "--json").json
    file.write_text("\n".join([*rows, '{"input": "x", "output": "planet"}', '{"input": "y", "output": "planet"}']))
    refused = run_cli("evaluate", learnt, file)
    assert refused.code == 2
    assert f"{file} row {len(rows) + 1}: 'planet' is not among the task's labels" in refused.err
    skipped = run_cli("evaluate", learnt, file, "--json", "--skip-bad-rows")
    assert skipped.json == run_cli("evaluate", learnt, words_task, "--json").json
    assert f"2 rows that cannot be used are left out: {file} rows {len(rows) + 1}, {len(rows) + 2}" in " ".join(
        skipped.err.split()
    )


def test_the_kind_of_rows_to_be_measured_is_that_of_the_model(run_cli, learnt, words_task):
    for path in (words_task, words_task / "test.jsonl"):
        refused = run_cli("evaluate", learnt, path, "--kind", "qa")
        assert (refused.code, refused.err) == (
            2,
            "error: --kind must be classification, as the model's is; got qa; leave it out.\n",
        )
        for kind in ("classification", "Classification"):
            assert run_cli("evaluate", learnt, path, "--kind", kind).code == 0


def test_a_folder_whose_kind_was_said_can_be_measured_by_saying_it_again(run_cli, tmp_path):
    rows = [{"input": f"the text {i}", "output": str(10 + i // 2 * 7)} for i in range(24)]
    task, how = write_task(tmp_path / "task", rows, rows[:6]), ("--kind", "classification")
    run = ("--model", "scripted", "--recipes", "majority", "--limit", 2, "--out", tmp_path / "run")
    assert run_cli("adapt", task, *run, *how).code == 0
    assert "'task' is math. Give test rows" in run_cli("evaluate", tmp_path / "run", task).err
    assert run_cli("evaluate", tmp_path / "run", task, *how, "--json").json["n"] == 6


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"input": "Beschreibung", "output": "Kategorie"}, ("--columns", "input=Beschreibung,output=Kategorie")),
        ({"input": "text", "output": "Kategorie"}, ("--columns", "output=Kategorie")),
        ({"input": "instruction", "context": "input", "output": "output"}, ()),
    ],
)
def test_test_rows_are_read_with_the_columns_that_were_learnt(run_cli, tmp_path, fields, flags):
    def write(name, fields, rows):
        rows = [{fields[f]: row.get(f, "") for f in fields} for row in rows]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    train = write("train.jsonl", fields, labelled_rows(6))
    how = ("--model", "scripted", "--recipes", "majority", "--shots", 2, "--out", tmp_path / "run", *flags)
    assert run_cli("adapt", train, *how).code == 0
    for like in (fields, {"input": "input", "output": "label"}, {**fields, "output": "label"}):
        test = write("test.jsonl", like, labelled_rows(6, start=6))
        assert run_cli("evaluate", tmp_path / "run", test, "--json").json["n"] == 6
    test = write("test.jsonl", {"input": "id", "output": "output"}, labelled_rows(6))
    assert "no column holds the input" in run_cli("evaluate", tmp_path / "run", test).err


def test_one_text_is_not_a_list_of_texts(learnt):
    model = kshot.load(learnt)
    with pytest.raises(UserError, match="must be a list"):
        model.predict("the cat")
    with pytest.raises(UserError, match="number 1 is 3"):
        model.predict([3])


def test_choices_that_no_prompt_would_show_are_a_problem(run_cli, tmp_path):
    row = {"input": "What is red?", "choices": ["blood", "sky"], "output": "(A)"}
    task = write_task(tmp_path / "task", [row, {**row, "input": "And?"}], card={"choices_in_input": True})
    problems = run_cli("validate", task, "--json").json["problems"]
    assert any("answered by a letter whose input does not list the choices" in p for p in problems)


def test_selectors_of_ones_own_are_checked(run_cli, words_task, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "import kshot\n"
        "class Bare: pass\n"
        "class Thawed(kshot.Selector):\n"
        "    per_query = False\n"
        "    def fit(self, pool, *, model, rng): return self\n"
        "    def select(self, question, k, *, rng): return [999]\n"
        "@dataclass(frozen=True)\n"
        "class Wild(Thawed): pass\n"
    )
    for name, message in (
        ("Bare", "must be a selector: a class that inherits from kshot.Selector and has fit, select; "),
        ("Thawed", "must be a frozen dataclass, whose fields are its settings; put @dataclass(frozen=True) before"),
        ("Wild", "different indices in 0..0; Wild returned [999]."),
    ):
        flags = ("--model", "scripted", "--recipes", f"{file}:{name}", "--out", tmp_path / name)
        refused = run_cli("adapt", words_task, *flags)
        assert refused.code == 2
        assert message in refused.err


def test_select_takes_names_and_texts(words_task):
    task = kshot.Task.load(words_task)
    by_name = kshot.select(str(words_task), "bm25", 2, query="the cat")
    assert by_name == kshot.select(task, "bm25", 2, query=kshot.Example("the cat", "", "query"))
    assert kshot.select(task, "best-of-n", 2, model="scripted") == kshot.select(
        task, "best-of-n", 2, model=kshot.load_model("scripted")
    )


def test_rows_that_were_learnt_are_told(run_cli, words_task, tmp_path):
    args = ("--model", "scripted", "--recipes", "bm25", "--shots", 3, "--out", tmp_path / "run")
    assert run_cli("adapt", words_task, *args).code == 0
    told = (
        "note: 24 of 24 test rows are among the examples that were learnt, so these numbers say little about new inputs"
    )
    assert told in run_cli("evaluate", tmp_path / "run", words_task / "train.jsonl").err
    assert "were learnt" not in run_cli("evaluate", tmp_path / "run", words_task).err


def test_every_metric_of_a_task_is_recorded(run_cli, tmp_path):
    card = {"metrics": ["macro_f1", "accuracy", "f1"]}
    task = write_task(tmp_path / "task", labelled_rows(12), labelled_rows(6, start=12), card)
    args = ("--model", "scripted", "--recipes", "bm25", "--shots", 3, "--out", tmp_path / "run")
    assert run_cli("adapt", task, *args).code == 0
    (found,) = json.loads((tmp_path / "run" / "results.json").read_text())["results"].values()
    assert {"macro_f1,none", "macro_f1_low,none", "accuracy,none", "accuracy_high,none"} <= found.keys()
    assert "f1,none" not in found  # no label is named as the positive one
    measured = run_cli("evaluate", tmp_path / "run", task, "--json").json
    assert measured["metrics"].keys() == {"macro_f1", "accuracy"}
    assert measured["metrics"]["macro_f1"] == [measured["metric"], measured["low"], measured["high"]]


def test_labels_without_an_example_are_told(run_cli, tmp_path):
    card = {"kind": "classification", "labels": [*"bcdefgh", "animal", "food", "tool"]}
    few = write_task(tmp_path / "few", labelled_rows(6), card=card)
    how = ("--model", "scripted", "--recipes", "majority", "--shots", 2)
    told = run_cli("adapt", few, *how, "--out", tmp_path / "a").err
    assert "7 of 10 labels have no example: b, c, d, e, f, …; recipes that train may unlearn these: add" in told
    assert "or name fine-tune:teacher=hard-negatives, which does not" in told
    whole = write_task(tmp_path / "whole", labelled_rows(6))
    assert "labels have no example" not in run_cli("adapt", whole, *how, "--out", tmp_path / "b").err


def test_what_is_said_of_the_data_comes_before_the_model_is_loaded(run_cli, tmp_path):
    rows = [{"text": row["input"], "label": row["output"]} for row in labelled_rows(6)]
    task = write_task(tmp_path / "task", [*rows, rows[0], {"text": "x", "label": "Food"}])
    done = run_cli("adapt", task, "--model", "/no/such/model", "--recipes", "majority", "--out", tmp_path / "run")
    assert done.code == 2
    *said, _, _ = lines = done.err.splitlines()
    assert said[0].startswith("note: input is read from the column 'text'")
    assert any("2 labels differ only in case" in line for line in said)
    assert any("1 row left out, as an earlier row has the same input" in line for line in said)
    assert lines[-2] == "loading /no/such/model"
    assert lines[-1].startswith("error: ")


def test_a_report_of_no_run_says_what_to_give(run_cli, tmp_path):
    refused = run_cli("report", tmp_path / "nothere")
    assert refused.code == 2
    assert refused.err == f"error: there is no run in {tmp_path / 'nothere'}; give a folder that `kshot adapt` wrote.\n"


def test_what_completion_shows_is_what_can_be_named():
    assert dir(kshot) == sorted(kshot.__all__)
    assert all(hasattr(kshot, name) for name in dir(kshot))
