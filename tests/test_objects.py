"""Rows that Python holds already: data frames, datasets and lists of mappings are read as files are."""

import enum
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from uuid import UUID

import datasets
import numpy as np
import pandas as pd
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import InvalidInputError, UserError
from kshot.tasks.rows import BadRowsError
from kshot.tasks.text_file import MOST_ROWS
from test_docs import python_blocks

ROWS = [{"text": row["input"], "label": row["output"]} for row in labelled_rows(24)]
TEST = ROWS[18:]
LABELS = ("animal", "food", "tool")


def as_polars(rows):
    return pytest.importorskip("polars").DataFrame(rows)


def as_classes(rows):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))})
    return datasets.Dataset.from_list([row | {"label": LABELS.index(row["label"])} for row in rows], features=features)


FORMS = {
    "list": list,
    "tuple": tuple,
    "pandas": pd.DataFrame,
    "categories": lambda rows: pd.DataFrame(rows).astype({"label": "category"}),
    "same-index": lambda rows: pd.DataFrame(rows, index=[7] * len(rows)),
    "polars": as_polars,
    "dataset": datasets.Dataset.from_list,
    "classes": as_classes,
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


class Kind(str, enum.Enum):  # noqa: UP042 - whose members are written by their names, unlike those of a StrEnum
    BEAST = "animal"
    MEAL = "food"
    THING = "tool"


def test_texts_are_what_they_hold_of_whatever_class_they_are():
    task = kshot.Task.load([row | {"label": Kind(row["label"])} for row in ROWS])
    assert {type(text) for e in task.train for text in (e.input, e.output)} == {str}
    assert without_source(task) == without_source(kshot.Task.load(ROWS))
    given = replace(task, train=(replace(task.train[0], output=Kind.BEAST), *task.train[1:]))
    with pytest.raises(UserError, match=r"'output' must be text, but its class writes it as 'Kind.BEAST'; give it as"):
        kshot.adapt(given, "scripted", recipes="bm25")


def without_source(task):
    """Return what a task is, whatever it was read from."""
    return replace(task, name="", notes=())


def refused(given, message, **how):
    with pytest.raises(UserError) as caught:
        kshot.Task.load(given, **how)
    assert message in str(caught.value)


def test_every_form_is_the_task_of_the_file(form, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file, given = kshot.Task.load(tmp_path / "rows.jsonl"), kshot.Task.load(form(ROWS))
    assert without_source(given) == without_source(file)
    assert given.notes == file.notes
    assert given.name == "data"
    named = {"input": "label", "output": "text"}
    file = kshot.Task.load(tmp_path / "rows.jsonl", columns=named, kind="generation")
    assert without_source(kshot.Task.load(form(ROWS), columns=named, kind="generation")) == without_source(file)


def test_train_and_test_are_those_of_a_folder(form, tmp_path):
    folder = kshot.Task.load(write_task(tmp_path / "task", ROWS[:18], TEST))
    given = kshot.Task.load({"train": form(ROWS[:18]), "test": form(TEST)})
    assert without_source(given) == without_source(folder)
    assert len(given.test) == 6


def test_test_rows_may_be_given_apart_also_as_files(form, tmp_path):
    both = kshot.Task.load({"train": form(ROWS[:18]), "test": form(TEST)})
    apart = kshot.Task.load(form(ROWS[:18]), test=form(TEST))
    assert (without_source(apart), apart.name) == (without_source(both), "data")
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEST))
    mixed = kshot.Task.load(form(ROWS[:18]), test=tmp_path / "some.jsonl")
    assert without_source(mixed) == without_source(both)
    files = kshot.Task.load(tmp_path / "some.jsonl", test=str(tmp_path / "some.jsonl"), kind="classification")
    assert (files.name, files.columns, len(files.train), len(files.test)) == ("some", both.columns, 6, 6)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (ROWS, {"train": TEST}, "train and test rows must each be a file or rows in Python; for test got a mapping."),
        (
            {"train": ROWS, "test": TEST},
            TEST,
            "for train got a mapping. Folders (as a file named test), datasets of the hub",
        ),
        ("hf://some/thing", TEST, "for train got 'hf://some/thing'."),
        ("builtin:bbc-headlines", TEST, "test must be left out for a builtin task; its rows and labels are known."),
        (ROWS, "no-such.csv", "there is no 'no-such.csv'; give a file of test rows that ends in .jsonl"),
        ("no-such.csv", TEST, "there is no 'no-such.csv'; give a file of train rows that ends in .jsonl"),
        (ROWS, "/", "for test got '/'. Folders (as a file named test), datasets of the hub and mappings bri"),
        (ROWS, ["a"], "A task must be a path, a name, a kshot.Task or rows; got list"),
        (ROWS, TEST[:0], "the list of test has no rows"),
        (ROWS, [{"text": "a", "label": "plant"}], "the list of test row 1: 'plant' is not among the task's labels"),
    ],
)
def test_test_rows_that_cannot_be_given_apart_are_refused(train, test, message):
    refused(train, message, test=test)


def test_a_run_takes_test_rows_from_a_file(run_cli, tmp_path):
    train, test, out = tmp_path / "rows.jsonl", tmp_path / "held-out.csv", tmp_path / "run"
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pd.DataFrame([*ROWS[:2], {"text": "a new axe", "label": "tool"}]).to_csv(test, index=False)
    args = ("adapt", train, "--model", "scripted", "--recipes", "majority", "--limit", 6, "--out", out)
    done = run_cli(*args, "--test", test)
    assert done.code == 0, done.err
    assert "note: There are 2 rows of test with an input that train has too: test-2, test-3." in done.err
    results, manifest = (json.loads((out / name).read_text()) for name in ("results.json", "manifest.json"))
    assert manifest["task"] == kshot.Task.load(train, test=test).fingerprint
    assert results["repeat"].endswith(f"--test {test}")
    checked = run_cli("validate", train, "--test", test, "--json").json
    assert (checked["n_train"], checked["n_test"]) == (24, 3)
    test.write_text("text\na new axe\n")
    said = " ".join(run_cli(*args[:-1], tmp_path / "other", "--test", test).err.split())
    assert "note: held-out.csv holds no answers in 'label', so there are no test rows" in said
    for name, message in (
        ("none.csv", "none.csv'; give a file of test rows that ends in .jsonl, .json, .csv, .tsv or .parquet."),
        ("rows.xlsx", "rows.xlsx' must be a folder or a file that ends in"),
        ("empty.csv", "empty.csv is empty; it must hold one example a line."),
        ("strange.csv", "strange.csv row 2: 'plant' is not among the task's labels"),
    ):
        for existing, text in (("rows.xlsx", ""), ("empty.csv", ""), ("strange.csv", "text,label\na fern,plant\n")):
            (tmp_path / existing).write_text(text)
        refused_run = run_cli(*args, "--test", tmp_path / name)
        assert (refused_run.code, refused_run.out) == (2, "")
        assert message in refused_run.err


def test_a_run_takes_test_rows_as_objects(tmp_path):
    how = {"recipes": "majority", "limit": 6, "out": tmp_path / "run"}
    run = kshot.adapt(pd.DataFrame(ROWS[:18]), "scripted", test=TEST, **how)
    record = json.loads((run.folder / "results.json").read_text())
    assert record["repeat"].startswith("# Given in Python, not by name: task and test. Again: kshot.adapt(task, 'scrip")
    assert "test=test" in record["repeat"]
    whole = kshot.Task.load({"train": ROWS[:18], "test": TEST})
    with pytest.raises(UserError, match="the task 'data' was given as an object; leave it out, or give the object its"):
        kshot.adapt(whole, "scripted", test=TEST, **how)


def test_an_order_can_be_said_of_rows(tmp_path):
    frame = pd.DataFrame({"text": [row["text"] for row in ROWS], "label": np.arange(24) % 3 + 1})
    task = kshot.Task.load(frame, order=np.array([3, 1, 2]))
    assert (task.labels, task.ordered, task.metrics[0]) == (("3", "1", "2"), True, "quadratic_kappa")
    assert not any("look ordered" in note for note in task.notes)
    folder = write_task(tmp_path / "task", ROWS, [], {"order": sorted(LABELS)})
    assert kshot.Task.load(folder, order=["tool", "food", "animal"]).labels == ("tool", "food", "animal")
    for order in ("animal", ["animal"], ["animal", "animal"], {"animal", "food", "tool"}, ["animal", 1.5], [True, "a"]):
        refused(ROWS, "order must be a list of the labels as texts or whole numbers, each once, the lo", order=order)
    refused(ROWS, "'tool' is not in the order of the labels, animal < food; correct it", order=["animal", "food"])
    refused(ROWS, "order must fit the task, but 'order' is of labels, and the kind is qa", order=LABELS, kind="qa")
    refused("builtin:bbc-headlines", "order must be left out for a builtin task", order=LABELS)


def test_frames_whose_outputs_have_several_types_are_refused_by_their_rows():
    mixed = [*(row["label"] for row in ROWS[:22]), 3, 4.5]
    frame = pd.DataFrame({"text": [row["text"] for row in ROWS], "label": mixed})
    with pytest.raises(
        BadRowsError, match=r"the DataFrame row 23: 'label' must be a string; got a number \(3\)"
    ) as caught:
        kshot.Task.load(frame)
    assert [row.number for row in caught.value.rows] == [23, 24]
    assert len(kshot.Task.load(frame, skip_bad_rows=True).train) == 22


def test_texts_that_are_too_long_together_are_refused(form, monkeypatch):
    monkeypatch.setattr("kshot.tasks.objects.MOST_BYTES", 200)
    refused(form(ROWS), "must hold texts of at most 0 million characters together; it has 0 million. Give a sample")


def test_a_dataset_dict_is_read_as_from_the_hub(tmp_path):
    hidden = as_classes(TEST).map(lambda row: row | {"label": -1})
    splits = datasets.DatasetDict(train=as_classes(ROWS[:18]), validation=as_classes(TEST), test=hidden)
    splits.save_to_disk(tmp_path / "saved")
    saved, given = kshot.Task.load(f"hf://{tmp_path / 'saved'}"), kshot.Task.load(splits)
    assert without_source(given) == without_source(saved)
    assert given.notes == saved.notes
    assert given.labels == LABELS
    assert "test rows are the split 'validation'" in given.notes
    refused(datasets.DatasetDict(dev=as_classes(TEST)), "must have the split 'train'; it has dev; say which")
    refused(hidden, "the Dataset row 1: 'label' must be one of the classes 0..2; got -1, as rows without a label have")


@pytest.mark.parametrize("model", ["scripted", "tiny"])
def test_adapt_gives_the_same_whatever_holds_the_rows(model, tmp_path):
    found = {}
    forms = ["list", "pandas", "classes", *(["polars"] if find_spec("polars") else [])]
    for name in forms:
        form = FORMS[name]
        run = kshot.adapt(
            form(ROWS[:8]),
            model,
            recipes="random,bm25",
            shots=2,
            limit=2,
            out=tmp_path / name,
            columns={"input": "text"},
        )
        found[name] = run.chosen, run.leaderboard, run.best.predict_proba([row["text"] for row in TEST[:2]]).tolist()
        repeat = json.loads((tmp_path / name / "results.json").read_text())["repeat"]
        assert repeat.startswith("# Given in Python, not by name: task. Again: kshot.adapt(task, ")
    first = found["list"]
    for chosen, leaderboard, probs in found.values():
        assert chosen == first[0]
        assert [row["recipe"] for row in leaderboard] == [row["recipe"] for row in first[1]]
        assert [row["bits_per_example"] for row in leaderboard] == [row["bits_per_example"] for row in first[1]]
        assert probs == first[2]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return kshot.adapt(ROWS[:12], "scripted", recipes="bm25", shots=2, out=out).best


def test_answers_to_pandas_are_a_series_with_the_index(adapted):
    frame = pd.DataFrame(TEST, index=[3, 3, 1, 0, 9, 9])
    answers = adapted.predict([row["text"] for row in TEST])
    assert isinstance(answers, list)
    expected = pd.Series(answers, index=frame.index, name="label", dtype="str")
    for given in (frame["text"], frame[["text"]], frame, frame[["label", "text"]].assign(more=None)):
        pd.testing.assert_series_equal(adapted.predict(given), expected)
        assert np.array_equal(adapted.predict_proba(given), adapted.predict_proba(list(frame["text"])))
    assert adapted.predict(TEST) == adapted.predict(datasets.Dataset.from_list(TEST)) == answers
    for given in (frame[:0], frame["text"][:0]):
        pd.testing.assert_series_equal(adapted.predict(given), expected[:0])
    refused_input(adapted, frame.rename(columns={"text": "page"}), "a single column; got a table with the columns page")
    refused_input(adapted, frame.assign(text=[*frame["text"][:5], None]), "must hold texts; number 6 is None")


def test_answers_to_polars_are_a_series(adapted):
    frame, answers = as_polars(TEST), adapted.predict([row["text"] for row in TEST])
    for given in (frame["text"], frame[["text"]], frame):
        found = adapted.predict(given)
        assert type(found) is type(frame["text"])
        assert (found.name, found.to_list()) == ("label", answers)
    assert (len(adapted.predict(frame[:0])), adapted.predict(frame[:0]).dtype) == (0, frame["text"].dtype)


def test_a_frame_brings_context_and_choices(tmp_path):
    rows = [{"input": f"which, {i}", "output": "y", "choices": ["x", "y"], "context": f"page {i}"} for i in range(8)]
    rows += [row | {"input": f"that, {row['input']}", "output": "x"} for row in rows]
    best = kshot.adapt(pd.DataFrame(rows), "scripted", recipes="bm25", shots=2, out=tmp_path / "run").best
    asked = [{name: row[name] for name in ("input", "choices", "context")} for row in rows[:3]]
    assert list(best.predict(pd.DataFrame(asked))) == best.predict(asked)
    assert np.array_equal(best.predict_proba(pd.DataFrame(asked)), best.predict_proba(asked))


def refused_input(model, given, message):
    with pytest.raises(InvalidInputError) as caught:
        model.predict(given)
    assert message in str(caught.value)


def test_other_verbs_take_rows_too():
    rows = pd.DataFrame(ROWS)
    assert kshot.select(rows, "bm25", 2, query="one more cat") == kshot.select(ROWS, "bm25", 2, query="one more cat")


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, np.float64("nan")])
@pytest.mark.parametrize("form", [list, pd.DataFrame])
def test_what_is_missing_is_missing_as_in_files(form, missing):
    rows = [row | {"context": "a page"} for row in ROWS]
    rows[3]["context"] = missing
    task = kshot.Task.load(form(rows))
    assert task.train[3].context is None
    assert task.train[2].context == "a page"
    rows[4]["label"] = missing
    with pytest.raises(BadRowsError, match=r"row 5: 'label' must be a string; got null|row 5: the column 'label' is"):
        kshot.Task.load(form(rows))
    task = kshot.Task.load(form(rows), skip_bad_rows=True)
    assert len(task.train) == 23
    assert "1 row that cannot be used is left out" in task.notes[-1]


def test_numbers_and_lists_of_numpy_are_those_of_files():
    numbered = pd.DataFrame({"text": [row["text"] for row in ROWS], "label": np.arange(24) % 3, "id": np.arange(24)})
    task = kshot.Task.load(numbered.astype({"label": object}))
    assert (task.labels, task.train[5].id) == (("0", "1", "2"), "5")
    choices = pd.DataFrame({"input": ["a", "b"], "output": ["x", "z"], "choices": [np.array(["x", "y"]), ("z", "y")]})
    assert kshot.Task.load(choices).train[1].choices == ("z", "y")
    written = pd.DataFrame({0: [row["text"] for row in ROWS], 1: [row["label"] for row in ROWS]})
    assert kshot.Task.load(written, columns={"input": "0", "output": "1"}).labels == LABELS


def test_what_is_not_as_it_must_be_is_refused_with_a_remedy(form):
    rows = form(ROWS)
    what = type(rows).__name__
    refused(rows, f"the {what}: the column 'question' for 'input' is missing, ", columns={"input": "question"})
    refused(rows, "--columns must map fields of an example; got 'inputs'", columns={"inputs": "text"})


@pytest.mark.parametrize("form", [list, pd.DataFrame, as_polars, datasets.Dataset.from_list])
def test_nested_columns_are_refused(form):
    nested = form([{"data": row} for row in ROWS])
    inside = f"the {type(nested).__name__}: the input must stand in a column of its own, but it stands inside the obj"
    refused(nested, inside)
    refused(nested, "'data' must be a string; got an object", columns={"input": "data", "output": "data"})


def test_columns_beside_the_fields_may_hold_dates_and_bytes(tmp_path):
    more = {"on": pd.Timestamp("2020-01-02"), "day": date(2020, 1, 2), "for": pd.Timedelta(1, "s"), "page": b"xyz"}
    frame = pd.DataFrame([row | more | {"price": Decimal("1.50")} for row in ROWS[:8]])
    frame.to_parquet(tmp_path / "rows.parquet")
    from_frame, from_file = kshot.Task.load(frame), kshot.Task.load(tmp_path / "rows.parquet")
    assert from_frame.fingerprint == from_file.fingerprint
    meta = {"on": "2020-01-02 00:00:00", "day": "2020-01-02", "for": "1.0 s", "page": "3 bytes", "price": "1.50"}
    assert meta.items() <= from_frame.train[0].meta.items()


def test_columns_beside_the_fields_may_hold_what_json_has_no_word_for():
    more = {
        "key": UUID(int=1),
        "month": pd.Period("2020-01", "M"),
        "root": 1j,
        "n": 10**400,
        "by": {(1, 2): UUID(int=2)},
    }
    task = kshot.Task.load([row | more for row in ROWS[:8]])
    meta = {"key": "00000000-0000-0000-0000-000000000001", "month": "2020-01", "root": "1j", "n": 10**400}
    assert meta.items() <= task.train[0].meta.items()
    assert task.train[0].meta["by"] == {"(1, 2)": "00000000-0000-0000-0000-000000000002"}
    assert task.fingerprint


def test_whole_numbers_that_pandas_made_fractions_are_told_how_to_be_kept():
    frame = pd.DataFrame([{"text": row["text"], "label": i % 2} for i, row in enumerate(ROWS)])
    frame.loc[3, "label"] = None
    remedy = 'df[column].astype("Int64").astype("string")'
    refused(frame, "'label' must be a string; got a number (0.0); write it as \"0\" (where pandas has made frac")
    refused(frame, f"as one is missing: {remedy}).")
    frame["label"] = eval(remedy, {"df": frame, "column": "label"})
    task = kshot.Task.load(frame, skip_bad_rows=True)
    assert (task.labels, len(task.train)) == (("0", "1"), len(ROWS) - 1)


def test_frames_with_other_names_or_no_rows_are_refused():
    frame = pd.DataFrame(ROWS)
    refused(
        pd.concat({"a": frame}, axis=1),
        "the DataFrame must have one name for each column, but they are nested, as ('a', 'text'); join them",
    )
    refused(frame.set_axis(["text", "text"], axis=1), "must name each column once; 'text' is there twice; rename or")
    refused(frame[:0], "the DataFrame has no rows; it must hold one example a row.")
    refused([], "the list has no rows")
    refused({"train": frame, "test": []}, "the list of test has no rows")
    refused(pd.DataFrame({"text": np.zeros(MOST_ROWS + 1)}), "must have at most 1,000,000 rows; it has 1,000,001. Give")
    refused(pd.DataFrame(np.zeros((1, 1001))), "must have at most 1,000 columns; it has 1,001. Leave out")
    refused([dict.fromkeys(map(str, range(1001)))], "must have at most 1,000 columns; it has 1,001. Leave out")


def test_other_objects_are_refused_with_those_that_can_be_given():
    refused(pd.Series(["a"]), "A task must be a path, a name, a kshot.Task or rows; got Series; give a folder")
    refused(["a", "b"], "got list; give a folder")
    refused((row for row in ROWS), "got generator; give a folder")
    refused({"text": ["a"], "label": ["b"]}, "must have the keys train and maybe test, with the rows of each; it has t")
    refused([*ROWS, "a"], "the list row 25: it must be a mapping, such as {'input': …}; got a string")
    refused([*ROWS, {1: "a"}], "the list row 25: the name of each column must be text; got a number (1)")
    refused(datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "must have all its rows at hand; got an Iterable")


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in python_blocks("docs/tasks.md") if "pandas" in block]
    names = {}
    exec(block, names)
    assert (len(names["task"].train), len(names["task"].test)) == (16, 4)
    assert len(names["run"].leaderboard) == 2


def test_a_lazy_frame_is_refused():
    refused(as_polars(ROWS).lazy(), "got a LazyFrame, which has yet to find them; give df.collect()")
