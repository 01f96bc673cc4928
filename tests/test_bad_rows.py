"""Rows that cannot be used: all are told at once, and a task can be read as if they were not there."""

import json

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.tasks.load import load_task
from kshot.tasks.rows import BadRowsError, Row, each_row

# One for each stage of reading: no JSON, no object, no output, another type, nothing to see, no text
BAD = {
    3: '{"input": "a"',
    5: "[1, 2]",
    8: {"input": "no label"},
    9: {"input": "a number", "output": 3},
    14: {"input": "\u200b\u2060", "output": "animal"},
    21: {"input": "a\0b", "output": "animal"},
}
MESSAGES = {
    3: ": it must be one JSON object on one line, but a comma or a closing bracket is missing at column 14; correct",
    5: ": it must be a JSON object, such as {…}; got a list ([1, 2]); write one, or leave the row out.",
    8: "the column 'output' is missing, the row has input; add it, or leave the row out.",
    9: "'output' must be a string; got a number (3); write it as \"3\".",
    14: "'input' must not be empty, but all its characters are invisible; fill it in or leave it out.",
    21: "'input' must be text, but it holds a NUL character; remove it.",
}


def lines(rows, bad=None):
    """Return rows as JSON Lines, bad ones put between at their numbers."""
    rows = list(rows)
    for number, row in sorted((bad or {}).items()):
        rows.insert(number - 1, row)
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def broken(tmp_path):
    """A file of 30 good rows with 6 bad ones between them."""
    path = tmp_path / "broken.jsonl"
    path.write_text(lines(labelled_rows(30), BAD))
    return path


def test_all_bad_rows_are_known_at_once(broken):
    with pytest.raises(BadRowsError) as error:
        load_task(broken)
    assert [row.number for row in error.value.rows] == list(BAD)
    for row in error.value.rows:
        assert row.source == str(broken)
        assert row.text.startswith(f"{broken} row {row.number}")
        assert MESSAGES[row.number] in row.text
    first = " ".join(row.text for row in error.value.rows[:3])
    assert str(error.value) == (
        f"{first} 3 more rows cannot be used; `kshot validate` lists all. "
        "--skip-bad-rows (in Python skip_bad_rows=True) goes on without them."
    )


def test_a_task_without_bad_rows_is_that_of_the_file_without_them(broken, tmp_path):
    (tmp_path / "broken").mkdir()
    good = tmp_path / "broken" / "broken.jsonl"
    good.write_text(lines(labelled_rows(30), dict.fromkeys(BAD, "")))  # blank, so that rows keep their numbers
    skipped, expected = load_task(broken, skip_bad_rows=True), load_task(good)
    assert (skipped.fingerprint, skipped.labels, skipped.train) == (
        expected.fingerprint,
        expected.labels,
        expected.train,
    )
    (*notes, left_out) = skipped.notes
    assert tuple(notes) == expected.notes
    assert left_out.startswith(
        f"6 rows that cannot be used are left out: {broken} rows 3, 5, 8, 9, 14, …; the first: {broken} row 3: it must "
    )
    assert Task.load(good, skip_bad_rows=True).notes == expected.notes


def test_validate_lists_them_all(run_cli, tmp_path, broken):
    done = run_cli("validate", broken)
    assert (done.code, done.out) == (2, "")
    told = done.err.removeprefix("error: ").splitlines()
    assert [line.split("row ")[1].split(":")[0].split()[0] for line in told[:-1]] == list(map(str, BAD))
    assert told[-1] == "--skip-bad-rows (in Python skip_bad_rows=True) goes on without them."
    done = run_cli("validate", broken, "--json")
    assert done.code == 2
    rows = json.loads(done.out)["bad_rows"]
    assert [row["row"] for row in rows] == list(BAD)
    assert all(row["file"] == str(broken) and MESSAGES[row["row"]] in row["message"] for row in rows)
    many = tmp_path / "many.jsonl"
    many.write_text(lines(labelled_rows(60), {2 * i: "{" for i in range(1, 26)}))
    done = run_cli("validate", many)
    (told, advice) = done.err.splitlines()
    assert told.endswith(f" The same in 24 more: {', '.join(str(2 * i) for i in range(2, 22))}, ….")
    assert advice == "--skip-bad-rows (in Python skip_bad_rows=True) goes on without them."
    assert len(json.loads(run_cli("validate", many, "--json").out)["bad_rows"]) == 25
    done = run_cli("validate", many, "--skip-bad-rows", "--json").json
    assert done["n_train"] == 60
    assert any(note.startswith("25 rows that cannot be used are left out: ") for note in done["notes"])


def test_adapt_goes_on_without_them_and_records_it(run_cli, broken, tmp_path):
    args = ("adapt", broken, "--model", "scripted", "--recipes", "majority,random", "--shots", 3)
    done = run_cli(*args, "--out", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("lists all. --skip-bad-rows (in Python skip_bad_rows=True) goes on without them.\n")
    done = run_cli(*args, "--out", tmp_path / "run", "--skip-bad-rows")
    assert done.code == 0
    assert "6 rows that cannot be used are left out: " in done.err
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["task"]["n_train"] == 30
    assert record["task"]["notes"][-1].startswith("6 rows that cannot be used are left out: ")
    assert record["repeat"].endswith("--shots 3 --skip-bad-rows")
    run = kshot.adapt(
        str(broken), "scripted", recipes="majority,random", shots=3, skip_bad_rows=True, out=tmp_path / "run"
    )
    assert run.work.scored == 0, "in Python it is the same run"


def test_other_verbs_go_on_without_them_too(run_cli, broken, words_task, tmp_path):
    select = ("select", broken, "--selector", "random", "-k", 2)
    assert run_cli(*select).code == 2
    assert run_cli(*select, "--skip-bad-rows").code == 0
    args = ("--model", "scripted", "--recipes", "majority", "--shots", 2, "--out", tmp_path / "run")
    assert run_cli("adapt", words_task, *args).code == 0
    done = run_cli("evaluate", tmp_path / "run", broken)
    assert done.err.endswith(
        "3 more rows cannot be used; `kshot validate` lists all. "
        "--skip-bad-rows (in Python skip_bad_rows=True) goes on without them.\n"
    )
    assert run_cli("evaluate", tmp_path / "run", broken, "--skip-bad-rows", "--json").json["n"] == 30


def test_inputs_that_cannot_be_answered_are_all_told(run_cli, words_task, tmp_path):
    args = ("--model", "scripted", "--recipes", "majority", "--shots", 2, "--out", tmp_path / "run")
    assert run_cli("adapt", words_task, *args).code == 0
    path = tmp_path / "inputs.jsonl"
    path.write_text(lines([{"input": "a"}, {"input": ""}, {"input": "b"}, {"input": 3}]))
    done = run_cli("predict", tmp_path / "run", path)
    assert (done.code, done.out) == (2, "")
    assert "row 2: 'input' must not be empty" in done.err
    assert "row 4: 'input' must be a string; got a number (3)" in done.err
    assert done.err.endswith("--skip-bad-rows (in Python skip_bad_rows=True) goes on without them.\n")
    path.write_text(lines([{"input": i} for i in range(30)]))
    done = run_cli("predict", tmp_path / "run", path)
    assert done.code == 2
    assert all(f'write it as "{i}"' in done.err for i in range(20))
    assert "10 more rows cannot be used; correct them too. 30 of the 30 rows of " in done.err
    assert "validate" not in done.err


def test_test_rows_are_skipped_as_well(tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(6), labelled_rows(6, start=10))
    with (task / "test.jsonl").open("a") as file:
        file.write('{"input": "new", "output": "planet"}\n')
    with pytest.raises(
        UserError, match="test.jsonl row 7: 'planet' is not among the task's labels; correct it or list"
    ):
        load_task(task)
    loaded = load_task(task, skip_bad_rows=True)
    assert len(loaded.test) == 6
    assert loaded.notes[-1].startswith(f"1 row that cannot be used is left out: {task}/test.jsonl row 7; the first: ")


def test_rows_of_both_files_are_told_in_their_order(tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(8), labelled_rows(4, start=10))
    (task / "train.jsonl").write_text(lines(labelled_rows(8), {4: {"input": "x"}, 6: "{"}))
    (task / "test.jsonl").write_text(lines(labelled_rows(4), {2: "{"}))
    with pytest.raises(BadRowsError) as error:
        load_task(task)
    assert [(row.source[-11:], row.number) for row in error.value.rows] == [
        ("train.jsonl", 4),
        ("train.jsonl", 6),
        ("/test.jsonl", 2),
    ]


@pytest.mark.parametrize("skip", [False, True])
def test_more_than_half_of_a_file_is_too_many(tmp_path, skip):
    path = tmp_path / "a.jsonl"
    good, none = labelled_rows(5), [{"input": f"x{i}"} for i in range(6)]
    path.write_text(lines([*good, *none[:5]]))
    if skip:
        assert len(load_task(path, skip_bad_rows=True).train) == 5
    path.write_text(lines([*good, *none]))
    with pytest.raises(UserError) as error:
        load_task(path, skip_bad_rows=skip)
    assert str(error.value).endswith(
        f"The same in 5 more: 7, 8, 9, …. 6 of the 11 rows of {path} are like this, too many to leave out; correct "
        "them, or say with --columns and --kind how the file is to be read."
    )
    path.write_text('{"input": "alone"}\n')
    with pytest.raises(UserError) as error:
        load_task(path, skip_bad_rows=skip)
    assert str(error.value).endswith("no column holds the output; it has input; add a column 'output'.")


def test_what_is_wrong_with_a_file_is_no_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(labelled_rows(6), {2: "{"}))
    for skip in (False, True):
        with pytest.raises(
            UserError, match=f"^{path}: the column 'asked' for 'input' is missing|row 2: it must be one JSON"
        ):
            load_task(path, columns={"input": "asked"}, skip_bad_rows=skip)
    with pytest.raises(UserError, match="^there is no "):
        load_task(tmp_path / "none.jsonl", skip_bad_rows=True)


def test_cells_and_messages_are_rows_too(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("input,output\na,x\nb\nc,y\nd,\ne,x\nf,y,z\ng,x\n")
    with pytest.raises(BadRowsError) as error:
        load_task(path)
    assert [row.number for row in error.value.rows] == [3, 5, 7]
    assert [e.input for e in load_task(path, skip_bad_rows=True).train] == ["a", "c", "e", "g"]
    path = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    path.write_text(lines([{"messages": t} for t in (talk, talk[:1], talk, "hi", talk)]))
    with pytest.raises(BadRowsError) as error:
        load_task(path)
    assert [row.number for row in error.value.rows] == [2, 4]
    assert len(load_task(path, skip_bad_rows=True).train) == 3


def test_each_row_goes_on_after_one_that_is_refused():
    rows = [Row("a", i, {"n": i}) for i in range(4)]

    def odd(row):
        if row.number % 2 == 0:
            row.fail("must be odd; write another.")
        return row.number

    bad = []
    assert each_row(rows, odd, bad) == [1, 3]
    assert [row.text for row in bad] == ["a row 0: must be odd; write another.", "a row 2: must be odd; write another."]
    with pytest.raises(BadRowsError, match="^a row 0: must be odd; write another. The same in 1 more: 2.$"):
        each_row(rows, odd)
