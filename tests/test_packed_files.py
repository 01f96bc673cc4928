"""Files of rows that are packed with gzip, and archives that are damaged, cut off or too large."""

import gzip
import io
import json
import subprocess
import sys
import tracemalloc

import pytest

import kshot.tasks.text_file
from kshot.core.errors import UserError
from kshot.tasks.inputs import read_inputs
from kshot.tasks.load import load_task
from kshot.tasks.plain_texts import plain_texts
from kshot.tasks.tables import read_table

ROWS = [{"input": f"film {i}", "output": ("good", "bad")[i % 2]} for i in range(8)]
WRITTEN = {
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "json": json.dumps(ROWS),
    "csv": "input,output\n" + "".join(f"{row['input']},{row['output']}\n" for row in ROWS),
    "tsv": "input\toutput\n" + "".join(f"{row['input']}\t{row['output']}\n" for row in ROWS),
}


def pack(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text if isinstance(text, bytes) else text.encode(), mtime=0))
    return path


def asked(examples):
    return [example.input for example in examples]


@pytest.mark.parametrize("ending", WRITTEN)
def test_a_packed_file_is_read_as_the_same_file_unpacked(tmp_path, ending):
    plain = tmp_path / f"rows.{ending}"
    plain.write_text(WRITTEN[ending])
    packed = pack(tmp_path / f"rows.{ending.upper()}.Gz", WRITTEN[ending])
    one, other = load_task(plain), load_task(packed)
    assert (other.name, other.kind, other.labels, other.notes) == ("rows", one.kind, one.labels, one.notes)
    assert [(e.input, e.output) for e in other.train] == [(e.input, e.output) for e in one.train]
    assert asked(read_inputs(str(packed), io.BytesIO(), task=one)[0]) == [row["input"] for row in ROWS]
    assert plain_texts(packed) == tuple(row["input"] for row in ROWS)
    assert read_table(packed).cells == (ending in ("csv", "tsv"))


def test_a_folder_holds_packed_splits(tmp_path):
    folder = pack(tmp_path / "task" / "train.csv.gz", WRITTEN["csv"]).parent
    pack(folder / "Dev.jsonl.gz", WRITTEN["jsonl"])
    assert "there are no test rows; 'Dev.jsonl.gz' is not read unless it is named test" in load_task(folder).notes
    pack(folder / "test.jsonl.gz", '{"input": "new film", "output": "good"}\n')
    pack(folder / "unlabelled.tsv.gz", "input\nquite another film\n")
    task = load_task(folder)
    assert (len(task.train), asked(task.test), asked(task.unlabelled)) == (8, ["new film"], ["quite another film"])
    (folder / "train.jsonl").write_text(WRITTEN["jsonl"])
    with pytest.raises(UserError, match=r"rows of train once; it holds train\.csv\.gz and train\.jsonl; remove one"):
        load_task(folder)


def test_packed_texts_are_read_line_by_line_and_stdin_by_its_first_bytes(tmp_path):
    lines = "a new film\nquite another\n"
    packed = pack(tmp_path / "task" / "unlabelled.TXT.gz", lines)
    expected = lines.splitlines()
    assert asked(read_inputs(str(packed), io.BytesIO())[0]) == expected
    assert asked(read_inputs(None, io.BytesIO(packed.read_bytes()))[0]) == expected
    assert asked(read_inputs("-", io.BytesIO(lines.encode()))[0]) == expected
    assert plain_texts(packed) == tuple(expected)
    (packed.parent / "train.csv").write_text(WRITTEN["csv"])
    assert asked(load_task(packed.parent).unlabelled) == expected
    with pytest.raises(UserError, match=r"stdin must be a whole archive of gzip, but it ends too early; copy it again"):
        read_inputs(None, io.BytesIO(packed.read_bytes()[:-9]))
    (tmp_path / "no.txt.gz").write_text(lines)
    with pytest.raises(UserError, match=r"no\.txt\.gz must be packed with gzip, as its name says, but it is not; take"):
        read_inputs(str(tmp_path / "no.txt.gz"), io.BytesIO())
    with pytest.raises(
        UserError, match=r"'.*unlabelled\.TXT\.gz' must be a folder or a file that ends in \.jsonl, .*; save"
    ):
        load_task(packed)


def test_what_stdin_unpacks_to_has_the_limit_of_a_file(monkeypatch):
    monkeypatch.setattr("kshot.tasks.inputs.MOST_BYTES", 1000)
    with pytest.raises(
        UserError, match="stdin must hold at most 0 MB when it is unpacked; it holds more. Give a sample"
    ):
        read_inputs(None, io.BytesIO(gzip.compress(b"film\n" * 1000)))


def test_predict_reads_packed_lines_from_a_pipe(run_cli, tmp_path):
    (tmp_path / "train.csv").write_text(WRITTEN["csv"])
    run = tmp_path / "run"
    assert run_cli("adapt", tmp_path / "train.csv", "--model", "scripted", "--recipes", "bm25", "--out", run).code == 0
    command = [sys.executable, "-m", "kshot.cli.main", "predict", str(run)]
    packed = subprocess.run(command, input=gzip.compress(b"film 1\nfilm 2\n"), capture_output=True, timeout=120)
    plain = run_cli("predict", run, input="film 1\nfilm 2\n")
    assert (packed.returncode, packed.stdout.decode()) == (0, plain.out), packed.stderr
    assert len(plain.out.splitlines()) == 2


def test_an_archive_of_several_parts_and_other_encodings_are_read(tmp_path):
    half = WRITTEN["jsonl"].index("\n") + 1
    file = tmp_path / "a.jsonl.gz"
    parts = (WRITTEN["jsonl"][:half], "", WRITTEN["jsonl"][half:])
    file.write_bytes(b"".join(gzip.compress(part.encode(), mtime=0) for part in parts) + b"\0" * 512)
    assert asked(load_task(file).train) == [row["input"] for row in ROWS]
    assert asked(load_task(pack(tmp_path / "b.csv.gz", WRITTEN["csv"].encode("utf-16"))).train) == [
        row["input"] for row in ROWS
    ]


WHOLE = gzip.compress(WRITTEN["jsonl"].encode(), mtime=0)
DAMAGED = "must be a whole archive of gzip, but it is damaged; copy it again, or pack its rows again."
CUT = "must be a whole archive of gzip, but it ends too early; copy it again, or pack its rows again."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            "must be packed with gzip, as its name says, but it is not; take .gz off its name, or pack it with gzip.",
        ),
        (WRITTEN["jsonl"].encode(), "must be packed with gzip, as its name says, but it is not; take .gz off its name"),
        (WHOLE[:2], CUT),
        (WHOLE[:30], CUT),
        (WHOLE[:-1], CUT),
        (WHOLE[:-8] + b"\0" * 8, DAMAGED),  # another checksum
        (WHOLE[:20] + b"\xff" * 20 + WHOLE[40:], DAMAGED),
        (WHOLE[:2] + b"\x07" + WHOLE[3:], DAMAGED),  # an unknown way of packing
        (WHOLE + b"more", DAMAGED),
        (gzip.compress(b"", mtime=0), "is empty; it must hold one example a line."),
        (gzip.compress(WHOLE, mtime=0), "must be text in UTF-8, but it is packed with gzip; unpack it with gunzip."),
        (gzip.compress(b'{"input": "caf\xe9"}', mtime=0), "row 1 must be UTF-8, but byte 15 of the row is 0xe9"),
    ],
)
def test_an_archive_that_cannot_be_read_says_what_to_do(tmp_path, data, message):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(data)
    for read in (load_task, plain_texts, lambda file: read_inputs(str(file), io.BytesIO())):
        with pytest.raises(UserError) as refused:
            read(file)
        assert f"{file} {message}" in str(refused.value)


def test_each_way_to_damage_one_byte_is_an_error_of_the_user_or_harmless(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    for place in range(len(WHOLE)):
        for change in (1, 0x80, 0xFF):
            file.write_bytes(WHOLE[:place] + bytes([WHOLE[place] ^ change]) + WHOLE[place + 1 :])
            try:
                task = load_task(file)
            except UserError:
                continue
            assert asked(task.train) == [row["input"] for row in ROWS]


def test_what_is_unpacked_has_the_limit_of_a_file_and_no_more_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(kshot.tasks.text_file, "MOST_BYTES", 2_000_000)
    bomb = pack(tmp_path / "a.jsonl.gz", b" " * 100_000_000)
    tracemalloc.start()
    with pytest.raises(UserError) as refused:
        load_task(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(refused.value) == (
        f"{bomb} must hold at most 2 MB when it is unpacked; it holds more. Give a sample of its rows."
    )
    assert peak < 12_000_000
    at_most = pack(tmp_path / "b.jsonl.gz", WRITTEN["jsonl"].ljust(2_000_000))
    assert len(load_task(at_most).train) == 8
    with pytest.raises(UserError, match="must hold at most 2 MB when it is unpacked"):
        load_task(pack(tmp_path / "c.jsonl.gz", WRITTEN["jsonl"].ljust(2_000_001)))
