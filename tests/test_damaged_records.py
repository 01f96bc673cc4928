"""The record of a run is read as it was written, or refused in a sentence that names the file and what to do."""

import json
import shutil
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from random import Random

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import KshotError, UserError
from kshot.core.json_text import to_json
from kshot.core.types import Prediction, Task
from kshot.reports.html import compare_runs, page, write_report
from kshot.reports.saved_record import read_record, read_results
from kshot.store.run_folder import RESULTS, UNFINISHED
from kshot.store.summed import SUM, sum_of, sum_of_file, write_summed

AGAIN = "Repeat the run's command: the record is written again from the run's store."
RECORD = (RESULTS, "samples.jsonl", "prompts.json")
ODD = (None, True, -1, 3, 1e300, 10**30, "", "\x00", "a\ud800", [], {}, [[]], {"a": 1}, "random", float("nan"))
VARIANTS, ALL_VARIANTS = 40, 2000


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task.load(write_task(tmp_path_factory.mktemp("records") / "task", labelled_rows(18)))


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    out = tmp_path_factory.mktemp("records") / "run"
    return kshot.adapt(task, "scripted", recipes="random,majority", shots=3, out=out).folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def unfinished(run):
    """The same run before its end."""
    rows = {}
    for line in (run / "samples.jsonl").read_text("utf-8").splitlines():
        rows.setdefault(json.loads(line)["recipe"], []).append(json.loads(line))
    results = json.loads((run / RESULTS).read_text("utf-8")) | {"choice": None, "chosen": None}
    (run / RESULTS).unlink()
    prompts = json.loads((run / "prompts.json").read_text("utf-8"))
    write_summed(run / UNFINISHED, {"results": results, "samples": rows, "prompts": prompts})
    return run


def refused(run: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_record(run)
    return str(caught.value)


def edited(file: Path, change) -> None:
    """Change the JSON in a file."""
    value = json.loads(file.read_text("utf-8"))
    change(value)
    file.write_text(json.dumps(value), "utf-8")


def summed_again(run: Path) -> None:
    """Let the sums of a record fit what it holds now, as if kshot had written it."""
    value = json.loads((run / RESULTS).read_text("utf-8"))
    sums = {name: sum_of_file(run / name) for name in ("samples.jsonl", "second_look.jsonl", "prompts.json")}
    (run / RESULTS).write_text(json.dumps({**value, SUM: {**sums, RESULTS: sum_of(value)}}), "utf-8")


def test_packed_predictions_are_written_as_others_are():
    one = Prediction("e", ("a", "b"), (-0.1, -2.5), (0.9, 0.1), "a")
    assert to_json(vars(one.packed)) == to_json(vars(one))
    assert one.packed.packed == one.packed
    many = Prediction("e", ("a",) * 1000, tuple(i / 7 for i in range(1000)), tuple(i / 9 for i in range(1000)), "a")
    assert sum(sys.getsizeof(value) for value in (many.packed.log_probs, many.packed.probs)) < 17_000


@pytest.mark.slow
def test_many_labels_take_half_the_memory_that_they_took(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    measured = import_module("many_labels").measured(labels=1000, rows=300)
    assert measured["most_mb"] < 855 / 2, measured


def test_an_unfinished_record_is_whole_json_with_its_sum(unfinished):
    text = (unfinished / UNFINISHED).read_text("utf-8")
    value = json.loads(text)
    assert value[SUM] == sum_of(value)
    assert json.dumps(value, ensure_ascii=False) == text
    assert "Unfinished." in page(read_record(unfinished))


@pytest.mark.parametrize("name", RECORD)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone", "number", "deep", "binary"])
def test_a_damaged_file_is_named(run, name, damage):
    file = run / name
    data = file.read_bytes()
    place = data.index(b"2")
    changes = {
        "cut": data[: len(data) // 2],
        "flipped": data[:place] + b"1" + data[place + 1 :],
        "empty": b"",
        "number": b"7",
        "deep": b"[" * 100_000,
        "binary": b"\xff\xfe" + data,
    }
    file.unlink()
    if damage != "gone":
        file.write_bytes(changes[damage])
    text = refused(run)
    if (name, damage) == (RESULTS, "gone"):
        assert text.endswith("has no finished recipe yet, so there is nothing to report. Resume it with kshot adapt.")
        return
    assert text.startswith(f"{file} must be ")
    assert text.endswith(AGAIN)
    if name != RESULTS:
        assert text == f"{file} must be the one that was written with {RESULTS}; it is not. {AGAIN}"
    if (name, damage) == (RESULTS, "flipped"):
        assert text == f"{file} must be as kshot wrote it, but it has changed. {AGAIN}"
    if (name, damage) == (RESULTS, "deep"):
        assert text == f"{file} must be the JSON that kshot wrote, but it is nested too deeply. {AGAIN}"


def test_a_changed_unfinished_record_is_refused(unfinished):
    edited(unfinished / UNFINISHED, lambda kept: kept["samples"]["random"][0].update(bits=0.5))
    assert refused(unfinished) == f"{unfinished / UNFINISHED} must be as kshot wrote it, but it has changed. {AGAIN}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["leaderboard"].reverse(), "'random' is chosen, and 'majority' is the first of the leaderboard"),
        (lambda r: r["leaderboard"].pop(), "'majority' has rows and is not on the leaderboard"),
        (lambda r: r["leaderboard"][0].update(n=3), "'random' has 3 rows on the leaderboard and 18 in samples.jsonl"),
        (lambda r: r["leaderboard"][0].update(query_ms=None), "'random' has rows and no cost"),
        (lambda r: r["leaderboard"][0].update(metric_low=None), "the interval of 'random' has no metric, or only a"),
        (lambda r: r["leaderboard"][0].update(metric=7.0), "leaderboard.0.metric"),
        (lambda r: r["leaderboard"][0].pop("status"), "leaderboard.0.status: field required"),
        (lambda r: r["choice"]["comparisons"][0].update(score=3), "choice.comparisons.0.score"),
        (lambda r: r.update(removed="x"), "removed: input should be a valid list"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(run, change, message):
    edited(run / RESULTS, change)
    assert (SUM in refused(run)) is False
    summed_again(run)
    text = refused(run)
    assert message in text
    assert text.endswith(AGAIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:3] + rows[4:], "has 18 rows on the leaderboard and 17 in samples.jsonl"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 2 of 'random' is of another example than prompts.json has"),
        (lambda rows: [rows[0] | {"probs": [1.0]}, *rows[1:]], "row 1 of 'random' has another number of candidates"),
        (
            lambda rows: [rows[0] | {"bits": "1"}, *rows[1:]],
            "samples.jsonl row 1 must be as kshot wrote it; bits: input",
        ),
        (lambda rows: [rows[0] | {"gold": "?"}, *rows[1:]], "row 1 of 'random' is of another example"),
    ],
)
def test_rows_that_are_missing_or_others_are_refused(run, change, message):
    file = run / "samples.jsonl"
    rows = sorted(map(json.loads, file.read_text("utf-8").splitlines()), key=lambda row: row["recipe"] != "random")
    file.write_text("".join(json.dumps(row) + "\n" for row in change(rows)), "utf-8")
    summed_again(run)
    assert message in refused(run)


def test_every_reader_says_it(run, run_cli, task):
    good = run.with_name("good")
    shutil.copytree(run, good)
    (run / "samples.jsonl").write_text("{}\n")
    said = f"error: {run / 'samples.jsonl'} must be the one that was written with results.json; it is not. {AGAIN}"
    outcome = run_cli("report", good, run)
    assert (outcome.code, outcome.out, " ".join(outcome.err.split())) == (2, "", said)
    for read in (read_results, write_report, lambda folder: compare_runs(folder, good)):
        with pytest.raises(UserError, match=r"samples\.jsonl must be the one"):
            read(run)
    again = kshot.adapt(task, "scripted", recipes="random,majority", shots=3, out=run)
    assert again.work.scored == 0
    assert compare_runs(run, good)["bits"]["difference"] == 0


def variants(run: Path, n: int):
    """Change one place of a record at a time, as chance has it, and put it back; yield what was done."""
    draw = Random(20)
    for i in range(n):
        file = run / draw.choice((*RECORD, "manifest.json"))
        data = file.read_bytes()
        if draw.random() < 0.4:
            place = draw.randrange(len(data))
            changed = [
                data[:place],
                data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :],
                data[:place] + draw.choice((b"[", b"}", b"\xff", b"1e999", b"NaN", b"")) + data[place + 3 :],
            ]
            file.write_bytes(draw.choice(changed))
        else:
            lines = data.decode().splitlines() if file.suffix == ".jsonl" else [data.decode()]
            at = draw.randrange(len(lines))
            value = json.loads(lines[at])
            _change(value, draw)
            lines[at] = json.dumps(value)
            file.write_text("\n".join(lines) + "\n", "utf-8")
        results = (run / RESULTS).read_bytes()
        if draw.random() < 0.6:
            with suppress(ValueError, KshotError, AttributeError, TypeError):  # where nothing can be summed up
                summed_again(run)
        yield f"{i}: {file.name}"
        (run / RESULTS).write_bytes(results)
        file.write_bytes(data)


def _change(value, draw: Random) -> None:
    """Change one field somewhere inside."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        inside = value[key]
        if not (isinstance(inside, dict | list) and inside and draw.random() < 0.8):
            break
        value = inside
    if draw.random() < 0.25:
        del value[key]
    else:
        value[key] = draw.choice(ODD)


@pytest.mark.parametrize("n", [VARIANTS, pytest.param(ALL_VARIANTS, marks=pytest.mark.slow)])
def test_whatever_is_changed_ends_in_a_sentence_or_a_page(run, n):
    told = []
    for done in variants(run, n):
        try:
            page(read_record(run)).encode()
        except KshotError as error:
            told.append(str(error))
        except Exception as error:
            raise AssertionError(done) from error
    assert all(str(run) in text and "\n" not in text for text in told)
    assert len(told) > n / 2
