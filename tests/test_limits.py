"""What would take for ever, or all memory, is refused in a sentence: bombs, pipes, devices, huge settings."""

import json
import os
import re
import socket
import time
from dataclasses import dataclass, fields
from typing import get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import labelled_rows, write_task
from kshot.cli.config import read_settings
from kshot.core.errors import UserError
from kshot.core.fields import Checked, setting, setting_names
from kshot.core.given_files import bytes_of
from kshot.core.json_text import from_json
from kshot.evaluators import EVALUATORS
from kshot.models.scripted import scripted_from
from kshot.recipes.grammar import parse_recipes
from kshot.recipes.names import SLOTS
from kshot.reports.saved_record import read_record
from kshot.store.run_folder import read_object
from kshot.studies import EXPERIMENTS, STUDIES
from kshot.tasks.endings import ending_note
from kshot.tasks.inputs import read_inputs
from kshot.tasks.load import load_task
from kshot.tasks.rows import Row

LONG = "x" * 300_000
MANY = "/".join(map(str, range(1, 64)))


@pytest.fixture(autouse=True)
def _soon():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 30, "it took as long as if there were no limit"


def said(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal_texts(n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(n, dtype=np.int32), [LONG])


PARQUET = {
    "texts": lambda: ({"input": equal_texts(2000)}, {}, "must hold at most 256 MB when it is unpacked; it holds"),
    "lists": lambda: (
        {"input": pa.ListArray.from_arrays(np.arange(0, 2001, 50, dtype=np.int32), equal_texts(2000))}, {},
        "must hold at most 256 MB when it is unpacked; it holds 600 MB or more. Give a sample of its rows.",
    ),
    "rows": lambda: (
        {"input": pa.array(np.zeros(1_000_001, dtype=np.int8))}, {},
        "must have at most 1,000,000 rows; it has 1,000,001. Give a sample of them.",
    ),
    "values": lambda: (
        {f"{i}": pa.array(np.zeros(900_000, dtype=np.int8)) for i in range(9)}, {},
        "must hold at most 256 MB when it is unpacked; it holds 2",
    ),
    "beginnings": lambda: (
        {"input": pa.array([f"{LONG}{i}" for i in range(1000)])},
        {"use_dictionary": False, "column_encoding": {"input": "DELTA_BYTE_ARRAY"}},
        "must hold at most 256 MB when it is unpacked; it holds",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "beginnings")) for name in PARQUET]
)
def test_a_small_parquet_file_that_stands_for_much_is_refused(tmp_path, name):
    columns, how, message = PARQUET[name]()
    file = tmp_path / "bomb.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd", **how)
    assert file.stat().st_size < 400_000
    assert said(load_task, file).startswith(f"{file} {message}")


def test_texts_of_a_parquet_file_are_the_same_however_they_are_encoded(tmp_path):
    rows = [{"input": f"text {i % 3}", "output": "ab"[i % 2], "tags": [{"a": "é", "b": None}] * (i % 3)}
            for i in range(9)]  # fmt: skip
    found = []
    for i, how in enumerate(({}, {"use_dictionary": False, "column_encoding": {"input": "DELTA_BYTE_ARRAY"}})):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{i}.parquet", **how)
        task = load_task(tmp_path / f"{i}.parquet")
        found.append([(e.input, e.output, e.meta) for e in task.train])
    assert found[0] == found[1] == [(r["input"], r["output"], {"tags": r["tags"]}) for r in rows]


FILES = {
    "columns.csv": (
        lambda: ",".join(f"c{i}" for i in range(100_000)) + "\n" + "x," * 99_999 + "x\n",
        "must have at most 1,000 columns; it has 100,000. Leave out those not needed.",
    ),
    "twice.csv": (
        lambda: ",".join(["a"] * 100_000) + "\n" + "x," * 99_999 + "x\n",
        "row 1: the header must name each column once; 'a' is there twice; rename one of them.",
    ),
    "keys.jsonl": (
        lambda: json.dumps({f"c{i}": "x" for i in range(20_000)}) + "\n",
        "must have at most 1,000 columns; it has 20,000. Leave out those not needed.",
    ),
    "same.jsonl": (
        lambda: "{" + ",".join(['"a":1'] * 100_000) + "}\n",
        "row 1: it must be one JSON object on one line, but it names 'a' twice; correct it, or leave the row out.",
    ),
    "cell.jsonl": (
        lambda: json.dumps({"input": "x" * 11_000_000, "output": "a"}) + "\n",
        "row 1: 'input' must be text, but it has 11,000,000 characters, and 10,000,000 are the most; shorten it.",
    ),
    "deep.json": (
        lambda: "[" * 100_000,
        "row 1: it must be one JSON object on one line, but its lists and objects stand too deep in one another",
    ),
    "lines.csv": (
        lambda: "a\n" * 5_000_001,
        "must have at most 5,000,000 lines; it has 5,000,001. Give a sample of its rows.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_rows_have_limits(tmp_path, name):
    text, message = FILES[name]
    (tmp_path / name).write_text(text(), "utf-8")
    assert message in said(load_task, tmp_path / name)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "large.jsonl"
    with file.open("wb") as opened:
        opened.truncate(500_000_000)
    assert said(load_task, file) == (
        f"{file} cannot be read: it is larger than 256 MB, the most that is read; give a sample of its rows."
    )
    assert said(scripted_from, f"scripted:{file}").endswith(
        "it is larger than 64 MB, the most that is read. Correct it."
    )
    assert read_object(file) is None


@pytest.mark.slow  # the library takes seconds to import
def test_a_dataset_that_is_too_large_is_refused(tmp_path, monkeypatch):
    write_task(tmp_path / "task", labelled_rows(6))
    monkeypatch.setattr("kshot.tasks.hub_dataset.MOST_ROWS", 5)
    source = f"hf://{tmp_path / 'task'}"
    assert said(load_task, source) == (
        f"{source} split train must have at most 5 rows and 256 MB; it has 6 and 0 MB. Save a sample of its rows as a "
        "file, and give that."
    )


@pytest.fixture
def strange(tmp_path):
    """Places that are no files, under names of files."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)  # the names of sockets are short
        listening.bind("socket")
        yield tmp_path


WHY = {
    "pipe": "it is a pipe, not a file",
    "folder": "Is a directory",
    "loop": "Too many levels of symbolic links",
    "zero": "it is a device, not a file",
    "socket": "No such device or address",
}


@pytest.mark.parametrize("kind", WHY)
def test_what_is_no_file_is_not_waited_for(strange, monkeypatch, kind):
    monkeypatch.chdir(strange)
    place = strange / kind
    with pytest.raises(OSError, match=WHY[kind]):
        bytes_of(place)
    assert WHY[kind] in said(scripted_from, f"scripted:{place}")
    assert WHY[kind] in said(read_settings, "task", place, {"model": "tiny"})
    assert WHY[kind] in said(lambda: read_inputs(str(place), None))
    assert read_object(place) is None
    for ending in (".jsonl", ".csv", ".parquet"):
        named = strange / f"a{ending}"
        named.symlink_to(place)
        text = said(load_task, named)
        assert WHY[kind] in text or "there is no" in text or "must hold a file train" in text
    task = write_task(strange / "task", labelled_rows(6))
    if kind != "loop":  # which looks as if there were none
        (task / "task.json").symlink_to(place)
        assert WHY[kind] in said(load_task, task)
    run = strange / "run"
    run.mkdir()
    (run / "manifest.json").write_text('{"format": 2}')
    (run / "results.json").symlink_to(place)
    text = said(read_record, run)
    assert WHY[kind] in text or "has no finished recipe yet" in text


SETTINGS = {
    "average(" * 1000 + "bm25" + ")" * 1000: "must have at most 16 brackets in one another; it has more. Name the",
    ",".join(
        f"random:k={i}" for i in range(1, 10_001)
    ): "must name at most 256 recipes; got 10000. Run some at a time.",
    f"random:k={MANY},order={'shuffled'}/as-selected,contexts={MANY}": "combinations of settings; it stands for 7938.",
    f"fine-tune:selector=bm25(k1={MANY},b={MANY})": "must stand for at most 256 combinations of settings; it stands",
    "fine-tune:rank=100000000": "fine-tune:rank must be in 1..1024; got 100000000.",
    f"fine-tune:rank={'9' * 400}": "fine-tune:rank must be in 1..1024; got 999",
    f"random:k={'9' * 5000}": "k must be a whole number, 100000 or less; got '99999999999999999999'.",
    "random:contexts=1000000": "contexts must be a whole number, 256 or less; got '1000000'.",
    "best-of-n:n=1000000000": "best-of-n:n must be in 2..10000; got 1000000000.",
    "less:epochs=100000000": "less:epochs must be in 1..1000; got 100000000.",
    "zero-shot:loop=notes(rounds=100000000)": "notes:rounds must be in 1..1000; got 100000000.",
    "icv:layer=1000000000": "icv:layer must be in -1..10000; got 1000000000.",
    "(" * 100_000: "must have at most 16 brackets in one another",
}


@pytest.mark.parametrize(("text", "message"), SETTINGS.items(), ids=range(len(SETTINGS)))
def test_settings_have_limits(text, message):
    error = said(lambda: parse_recipes(text, shots=4))
    assert message in error
    assert len(error) < 600


@pytest.mark.parametrize("room", [*SLOTS.values(), EVALUATORS, STUDIES, EXPERIMENTS], ids=lambda room: room.what)
def test_every_whole_number_has_a_most(room):
    for name in room:
        cls = room.find(name)
        kinds, named = get_type_hints(cls), setting_names(cls)
        without = [f.name for f in fields(cls) if f.name in named and kinds[f.name] is int and "most" not in f.metadata]
        assert not without, name


ALIASES = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "aliases": (ALIASES, "line 2: write *a out, as aliases are not read. Correct it."),
    "deep": ("recipes: " + "[" * 1000, "it is nested too deeply. Correct it."),
    "digits": ("seed: " + "9" * 5000, "Exceeds the limit (4300 digits)"),
    "date": ("seed: 2020-13-45", "month must be in 1..12. Correct it."),
    "twice": ("seed: 1\nseed: 2", "'seed' is there twice. Correct it."),
    "large": ("#" * 1_100_000, "it is larger than 1 MB, the most that is read. Correct it."),
    "binary": ("\x07", "special characters are not allowed"),
    "text": ("no settings", "must hold settings as 'name: value'"),
    "list": ("limit: [" + "1, " * 1000 + "1]", "limit: Input should be a valid integer; got [1, 1, 1, 1, 1, 1, ...]."),
}


@pytest.mark.parametrize("name", YAML)
def test_a_file_of_settings_is_refused_in_a_sentence(tmp_path, name):
    text, message = YAML[name]
    (tmp_path / "run.yaml").write_text(text, "utf-8")
    error = said(read_settings, "task", tmp_path / "run.yaml", {"model": "tiny"})
    assert message in error
    assert len(error) < 800


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDC00": 1}', "NaN", "[" * 100_000, '{"a":' * 100_000])
def test_json_that_cannot_be_written_again_is_none(text):
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match="half of a surrogate pair|which is no JSON|nested too deeply"):
            from_json(given)
    assert from_json('"\\ud83d\\ude00"') == "😀"


def test_a_long_ending_is_looked_at_once():
    rows = [Row("a", i, {"prompt": f"{i}" + " " * 200_000 + "->"}) for i in range(2)]
    (note,) = ending_note(rows, "prompt")
    assert note.startswith("all inputs end with '   ")


DAMAGE = {
    "task.json": '{"name": "words", "kind": "classification", "labels": ["animal", "food", "tool"], "metrics": []}',
    "run.yaml": "recipes: [random, bm25]\nseed: 3\nlimit: 20\nbudget: 10m\nkind: classification\n",
    "table.json": '{"cat": "animal", "bread": "food", "saw": "tool"}',
}


@pytest.mark.parametrize("name", DAMAGE)
def test_small_files_that_are_damaged_end_in_a_sentence(tmp_path, name):
    draw, data = np.random.default_rng(20), DAMAGE[name].encode()
    folder = write_task(tmp_path / "task", labelled_rows(6))
    file = folder / name if name == "task.json" else tmp_path / name
    read = {
        "task.json": lambda: load_task(folder),
        "run.yaml": lambda: read_settings("task", file, {"model": "tiny"}),
        "table.json": lambda: scripted_from(f"scripted:{file}"),
    }[name]
    told = []
    for _ in range(20):
        changed, at = bytearray(data), int(draw.integers(len(data)))
        changed[at] = int(draw.integers(256))
        file.write_bytes(changed if draw.random() < 0.7 else data[:at])
        try:
            read()
        except UserError as error:
            told.append(str(error))
    assert told
    assert all(re.search(f"{re.escape(str(tmp_path))}|must ", text) for text in told)


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_limit_that_a_value_must_exceed_may_have_another_above_it(value):
    @dataclass(frozen=True)
    class Share(Checked):
        share: float = setting(0.5, above=0, most=1)

    with pytest.raises(UserError, match=f"^share must be greater than 0 and at most 1; got {value}"):
        Share(value)
