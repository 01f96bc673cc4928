"""`kshot init`: the folder is the same task as its source, and its task.json says what was guessed."""

import gzip
import json

import datasets
import pandas as pd
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.verbs.new_task import CARD, init

ROWS = [
    {"text": row["input"], "label": row["output"], "source": f"page {i}"} for i, row in enumerate(labelled_rows(24))
]
STARS = [{"text": f"a film, number {i}", "label": i % 3 + 1} for i in range(12)]
SAME = ("kind", "train", "test", "labels", "metrics", "instruction", "choices_in_input", "letter_form",
        "positive_label", "worked", "unlabelled", "ordered", "answer", "fingerprint")  # fmt: skip
TALK = [
    {
        "messages": [
            {"role": "system", "content": "Say what it is."},
            {"role": "user", "content": f"a cat, number {i}"},
            {"role": "assistant", "content": ("animal", "pet")[i % 2]},
        ]
    }
    for i in range(8)
]
LETTERS = [
    {"input": f"Which, {i}?\nA. red\nB. blue", "output": ("A", "b)")[i % 2], "choices": ["red", "blue"]}
    for i in range(8)
]
ARC = [
    {
        "question": f"Which, {i}?",
        "answerKey": "BA"[i % 2],
        "choices": {"text": [f"red {i}", "blue"], "label": ["A", "B"]},
    }
    for i in range(8)
]
SUMS = [{"question": f"{i} and {i}?", "answer": f"They are {i} + {i} = {2 * i}.\n#### {2 * i}"} for i in range(10, 18)]
SQUAD = [
    {
        "question": f"Who, {i}?",
        "context": f"It was Ann {i}.",
        "answers": {"text": [f"Ann {i}", "Ann"], "answer_start": [7, 7]},
    }
    for i in range(8)
]
ALPACA = [
    {"instruction": f"Say {i}", "input": "loudly", "output": f"{i}, {i * i}!", "system": f"S{i}"} for i in range(8)
]

SETS = [{"input": f"text {i}", "output": (["joy"], ["joy", "love"], [])[i % 3]} for i in range(9)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def in_file(name, text):
    def write(folder):
        path = folder / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def label_folders(folder):
    for i, row in enumerate(ROWS):
        path = folder / "texts" / ("test" if i > 18 else "train") / row["label"] / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    return folder / "texts"


def whole_folder(folder):
    rows = [{**row, "input": row["text"], "output": row["label"]} for row in ROWS]
    made = write_task(folder / "whole", rows[:12], rows[12:], {"order": ["tool", "food", "animal"], "answer": "median"})
    card = json.loads((made / CARD).read_text()) | {"instruction": "Say what it is.", "metrics": ["matthews"]}
    (made / CARD).write_text(json.dumps(card))
    (made / "cot.jsonl").write_text(lines([{"input": "an axe", "output": "tool", "explanation": "One works with it."}]))
    (made / "unlabelled.txt").write_text("a pear\na screw\n")
    return made


def hub_folder(folder):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    rows = datasets.Dataset.from_list([{"text": f"t {i}", "label": i % 2} for i in range(8)], features=features)
    new = rows.map(lambda row: {"text": f"new {row['text']}"})
    datasets.DatasetDict({"train": rows, "validation": new}).save_to_disk(folder / "h")
    return f"hf://{folder / 'h'}"


SOURCES = {
    "jsonl": in_file("rows.jsonl", lines(ROWS)),
    "json": in_file("rows.json", json.dumps(ROWS)),
    "csv": in_file("rows.csv", "text;label\n" + "\n".join(f"{r['text']};{r['label']}" for r in ROWS)),
    "tsv.gz": in_file("rows.tsv.gz", "text\tlabel\n" + "\n".join(f"{r['text']}\t{r['label']}" for r in ROWS)),
    "numbers": in_file("rows.jsonl", lines(STARS)),
    "talk": in_file("rows.jsonl", lines(TALK)),
    "letters": in_file("rows.jsonl", lines(LETTERS)),
    "arc": in_file("rows.jsonl", lines(ARC)),
    "sums": in_file("rows.jsonl", lines(SUMS)),
    "squad": in_file("rows.jsonl", lines(SQUAD)),
    "alpaca": in_file("rows.jsonl", lines(ALPACA)),
    "sets": in_file("rows.jsonl", lines(SETS)),
    "sets in labels": in_file("rows.jsonl", lines([{"text": r["input"], "labels": r["output"]} for r in SETS])),
    "texts": label_folders,
    "folder": whole_folder,
    "hub": hub_folder,
    "builtin": lambda folder: "builtin:bbc-headlines-100",
    "pandas": lambda folder: pd.DataFrame(ROWS, index=[7] * len(ROWS)).assign(on=pd.Timestamp("2020-01-02")),
    "list": lambda folder: [{**row, "more": {"deep": [1, 2.5, None]}} for row in ROWS],
}


def same(one, other):
    return [name for name in SAME if getattr(one, name) != getattr(other, name)]


# Built in Python, it says of choices what classification does not ask for
NOT_SAME = {"builtin": ["choices_in_input", "fingerprint"]}


@pytest.mark.parametrize("name", SOURCES)
def test_the_folder_is_the_task_of_its_source(name, tmp_path):
    source = SOURCES[name](tmp_path)
    made = init(tmp_path / "new", source)
    loaded, given = kshot.Task.load(tmp_path / "new"), kshot.Task.load(source)
    assert same(loaded, given) == NOT_SAME.get(name, [])
    assert same(made.task, given) == []
    assert loaded.name == made.task.name == "new"
    card = json.loads((tmp_path / "new" / CARD).read_text())
    assert card["guessed"] == list(made.guessed)
    assert not any("is not read" in note for note in loaded.notes)
    again = init(tmp_path / "again", tmp_path / "new")  # a folder that was written is a source too
    assert same(again.task, loaded) == []


def test_what_is_said_is_said_in_the_folder_too(tmp_path):
    rows = [{"input": f"page {i}", "a": f"text {i}", "b": ("low", "high", "mid")[i % 3]} for i in range(9)]
    named = {"columns": {"input": "a", "output": "b"}, "kind": "classification", "order": ["low", "mid", "high"]}
    made = init(tmp_path / "new", rows[:6], test=rows[6:], **named)
    expected = kshot.Task.load({"train": rows[:6], "test": rows[6:]}, **named)
    assert same(kshot.Task.load(tmp_path / "new"), expected) == ["train", "test", "fingerprint"]  # but for one column
    assert [e.output for e in made.task.test] == ["low", "high", "mid"]
    assert made.guessed[-1] == "other columns than those used are left out, as they have fields' names"
    assert not any(sentence.startswith(("kind", "labels", "order")) for sentence in made.guessed)


def test_drafts_are_moved_one_level_up(tmp_path):
    made = init(tmp_path / "new", STARS)
    card = json.loads((tmp_path / "new" / CARD).read_text())
    assert card["drafts"] == {"order": ["1", "2", "3"], "instruction": "Say which label the text has: 1, 2, 3."}
    said = "\n".join(made.guessed)
    for part in (
        "kind: classification; another one of",
        "rows: input is read from the column 'text', output from 'label' (guessed",
        "labels: the 3 of the rows; add those that may come later to 'labels' in task.json",
        "order: the labels look ordered, 1 < 2 < 3; if they are, move 'order' in task.json from 'drafts' one level up",
        'instruction: none; the draft in task.json is "Say which label the text has: 1, 2, 3."; write a better one',
        "metrics: accuracy, as usual; others are written as 'metrics' in task.json",
        "test rows: none; rows that are held out go into a file test.jsonl",
    ):
        assert part in said
    (tmp_path / "new" / CARD).write_text(json.dumps(card | card.pop("drafts")))
    task = kshot.Task.load(tmp_path / "new")
    assert (task.ordered, task.metrics[0]) == (True, "quadratic_kappa")
    assert task.instruction == "Say which label the text has: 1, 2, 3."


def test_nothing_is_guessed_of_what_is_known(tmp_path):
    folder = whole_folder(tmp_path)
    said = "\n".join(init(tmp_path / "new", folder).guessed)
    for what in ("kind:", "labels:", "order:", "instruction:", "metrics:", "test rows:"):
        assert what not in said


def test_sets_of_labels_in_a_column_of_that_name_are_said(tmp_path):
    rows = pd.DataFrame({"text": [r["input"] for r in SETS], "labels": [r["output"] for r in SETS]})
    said = init(tmp_path / "new", rows).guessed
    assert "rows: input is read from the column 'text', output from 'labels' (guessed; --columns overrides)" in said
    assert any(one.startswith("rows: the column 'labels' holds lists of labels: kind is multi_label") for one in said)
    assert kshot.Task.load(tmp_path / "new").kind == "multi_label"


def test_a_folder_that_is_there_is_kept(tmp_path):
    folder = write_task(tmp_path / "task", labelled_rows(8))
    before = (folder / "train.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"must be a new or empty folder; it holds train\.jsonl\. Name another one, or re"
    ):
        init(folder, STARS)
    assert (folder / "train.jsonl").read_bytes() == before
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty", STARS)
    init(folder, STARS, overwrite=True)
    assert kshot.Task.load(folder).labels == ("1", "2", "3")
    (folder / "mine.txt").write_text("a note")
    with pytest.raises(UserError, match=r"--overwrite replaces folders that hold a task alone; .* holds mine\.txt too"):
        init(folder, ROWS, overwrite=True)
    assert (folder / "mine.txt").read_text() == "a note"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be a folder, new or empty; it is a file. Name another one"):
        init(tmp_path / "file", ROWS, overwrite=True)


def test_a_folder_can_be_its_own_source(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "train.csv").write_text("text,label\n" + "".join(f"t {i},{'ab'[i % 2]}\n" for i in range(8)))
    before = kshot.Task.load(tmp_path / "task")
    init(tmp_path / "task", tmp_path / "task", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "task").iterdir()) == [CARD, "train.jsonl"]
    assert same(kshot.Task.load(tmp_path / "task"), before) == []


def test_one_file_of_a_folder_does_not_replace_it(tmp_path):
    folder = write_task(tmp_path / "task", labelled_rows(8), test=labelled_rows(4))
    with pytest.raises(UserError, match=r"--from must not name one file of the folder that is replaced.*train\.jsonl"):
        init(folder, folder / "train.jsonl", overwrite=True)
    assert len(kshot.Task.load(folder).test) == 4


def test_a_task_that_is_no_file_goes_into_the_folder_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init(tmp_path, "builtin:bbc-headlines")
    assert len(kshot.Task.load(tmp_path).train) == len(kshot.Task.load("builtin:bbc-headlines").train)


def test_the_command_says_what_was_guessed(run_cli, tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines(STARS))
    (tmp_path / "test.tsv").write_text("text\tlabel\nanother film\t2\n")
    done = run_cli("init", tmp_path / "new", "--from", tmp_path / "rows.jsonl", "--test", tmp_path / "test.tsv")
    assert done.code == 0, done.err
    assert "train.jsonl (12 rows), test.jsonl (1 rows), task.json" in " ".join(done.out.split())
    assert "- order: the labels look ordered, 1 < 2 < 3;" in " ".join(done.out.split())
    told = run_cli(
        "init", tmp_path / "new", "--from", tmp_path / "rows.jsonl", "--order", "3<2<1", "--overwrite", "--json"
    ).json
    assert (told["labels"], told["rows"]) == (["3", "2", "1"], {"train": 12})
    refused = run_cli("init", tmp_path / "new", "--from", tmp_path / "rows.jsonl")
    assert (refused.code, "must be a new or empty folder" in refused.err) == (2, True)
    assert "Missing option '--from'" in run_cli("init", tmp_path / "x").err
    assert "there is no" in run_cli("init", tmp_path / "x", "--from", "no.csv").err
    assert not (tmp_path / "x").exists()
