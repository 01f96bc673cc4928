"""Folders of texts whose subfolders are named as labels."""

import gzip
import json
import os

import pytest

import kshot.tasks.label_folders
from kshot.core.errors import UserError
from kshot.tasks.load import load_task
from kshot.tasks.rows import BadRowsError

READ = "read as texts in folders of their labels, one a .txt file: "


@pytest.fixture
def write(tmp_path):
    """Write texts, or bytes, by their paths in a folder, which is returned."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / "films" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / "films"

    return write


def rows(examples):
    return {example.id: (example.input, example.output) for example in examples}


def few(split="", n=3):
    return {f"{split}{label}/{i}.txt": f"a {label} film, {i}\n" for label in ("good", "bad") for i in range(n)}


def test_subfolders_are_labels_and_files_are_texts(write):
    folder = write(
        {**few(), "good/X.TXT": "\n Two\n\nparts \n", "good/a.md": "no", ".git/a.txt": "no", "README.txt": "no"}
    )
    task = load_task(folder)
    assert (task.name, task.kind, task.labels, task.test) == ("films", "classification", ("bad", "good"), ())
    assert len(task.train) == 7
    assert rows(task.train)["good/1.txt"] == ("a good film, 1", "good")
    assert rows(task.train)["good/X.TXT"] == ("Two\n\nparts", "good")
    assert task.notes == (READ + "2 labels (bad, good); 1 other file or folder beside the texts not read",)


def test_texts_may_be_packed(write):
    folder = write({**few(), "good/p.txt.gz": gzip.compress(b" a packed film\n"), "good/p.tar.gz": b"no"})
    task = load_task(folder)
    assert rows(task.train)["good/p.txt.gz"] == ("a packed film", "good")
    assert len(task.train) == 7


def test_train_and_test_have_folders_of_their_own(write):
    folder = write({**few("train/"), **few("test/", 2), "train/unsup/a.txt": "whatever", "other/a.txt": "b"})
    task = load_task(folder)
    assert (len(task.train), len(task.test), task.labels) == (6, 4, ("bad", "good"))
    assert rows(task.test)["test/bad/0.txt"] == ("a bad film, 0", "bad")
    assert "1 other file or folder beside the texts not read" in task.notes[0]
    assert not set(rows(task.train)) & set(rows(task.test))


def test_the_order_mixes_the_labels_and_is_always_the_same(write):
    folder = write(few(n=40))
    one, other = load_task(folder), load_task(folder)
    assert one.train == other.train
    assert 10 <= sum(example.output == "good" for example in one.train[:40]) <= 30


def test_texts_stay_labelled_though_each_label_is_rare_and_the_card_counts(write):
    folder = write({f"label {i}/a.txt": f"text {i}" for i in range(30)})
    task = load_task(folder)
    assert (task.kind, len(task.labels)) == ("classification", 30)
    assert task.notes[0] == READ + "30 labels (label 0, label 1, label 10, label 11, label 12, …)"
    (folder / "task.json").write_text(
        json.dumps({"name": "own", "instruction": "Say the label.", "metrics": ["macro_f1"]})
    )
    task = load_task(folder)
    assert (task.name, task.instruction, task.metrics) == ("own", "Say the label.", ("macro_f1",))
    (folder / "test.csv").write_text("input,output\nnew,label 3\n")
    (folder / "unlabelled.txt").write_text("one more\n")
    task = load_task(folder)
    assert ([e.output for e in task.test], [q.input for q in task.unlabelled]) == (["label 3"], ["one more"])


def test_a_train_file_goes_before_folders(write):
    folder = write({**few(), "train.csv": "input,output\na,x\nb,y\n"})
    task = load_task(folder)
    assert ([e.input for e in task.train], any(READ in note for note in task.notes)) == (["a", "b"], False)


@pytest.mark.parametrize(
    "files",
    [
        {"good/a.txt": "x"},
        {"good/a.txt": "x", "bad/a.md": "x"},
        {"train/a.txt": "x", "test/b.txt": "y"},
        {"train/good/a.txt": "x", "train/unsup/b.txt": "y"},
        {"good/more/a.txt": "x", "bad/more/b.txt": "y"},
    ],
)
def test_other_folders_are_not_taken_for_labels(write, files):
    with pytest.raises(UserError, match=r"must hold a file train that ends in .*; it has none; name one"):
        load_task(write(files))


def test_texts_that_cannot_be_used_are_named(write):
    folder = write({**few(), "good/empty.txt": " \n", "bad/latin.txt": b"caf\xe9", "bad/nul.txt": "a\0b and so on"})
    os.symlink(folder / "nowhere", folder / "bad" / "gone.txt")
    with pytest.raises(BadRowsError) as refused:
        load_task(folder)
    texts = {row.text for row in refused.value.rows}
    assert f"{folder}/good/empty.txt must hold a text; it is empty. Fill it in, or take it away." in texts
    assert f"{folder}/bad/nul.txt must hold a text that can be used, but it holds a NUL character; remove it." in texts
    assert any(text.startswith(f"{folder}/bad/latin.txt row 1 must be UTF-8, but byte 4") for text in texts)
    assert any(text.startswith(f"{folder}/bad/gone.txt cannot be read: No such file") for text in texts)
    assert len(texts) == 4
    task = load_task(folder, skip_bad_rows=True)
    assert rows(task.train).keys() == few().keys()
    assert any(note.startswith("4 rows that cannot be used are left out: ") for note in task.notes)


def test_limits_hold(write, monkeypatch):
    folder = write(few())
    monkeypatch.setattr(kshot.tasks.label_folders, "MOST_ROWS", 5)
    with pytest.raises(UserError, match=r"films must hold at most 5 texts; it has more\. Give a sample of them\."):
        load_task(folder)
    monkeypatch.setattr(kshot.tasks.label_folders, "MOST_ROWS", 6)
    monkeypatch.setattr(kshot.tasks.label_folders, "MOST_BYTES", 50)
    with pytest.raises(UserError, match=r"must hold texts of at most 0 MB together; it has more\. Give a sample"):
        load_task(folder)


def test_test_rows_stand_once_and_have_known_labels(write):
    folder = write({**few("train/"), "test/so-so/a.txt": "neither"})
    with pytest.raises(UserError, match="test row 1: 'so-so' is not among the task's labels"):
        load_task(folder)
    write({"test.csv": "input,output\nnew,good\n"})
    with pytest.raises(UserError, match=r"must hold the rows of test once; it holds test\.csv and test; remove one"):
        load_task(folder)


def test_names_that_are_no_utf8_do_no_harm(write):
    folder = write(few())
    bad = os.fsencode(folder / "good") + b"/caf\xe9.txt"
    try:
        with open(bad, "wb") as file:
            file.write(b"one more")
    except OSError:
        pytest.skip("this file system refuses such names")
    assert rows(load_task(folder).train)["good/caf\\udce9.txt"] == ("one more", "good")
    os.mkdir(os.fsencode(folder) + b"/\xe9")
    os.rename(bad, os.fsencode(folder) + b"/\xe9/a.txt")
    with pytest.raises(UserError, match=r"must have subfolders named as labels, but of '.udce9': it holds half of a"):
        load_task(folder)
