"""Models and a run of older formats are read, and predict the same: 2 had no records of recipes, 3 no list of files."""

import json
import os
import shutil
from pathlib import Path

import pytest

import kshot
from kshot.adapted.folder import saved_task
from kshot.adapted.seal import SEAL, write_seal
from kshot.core.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures"
SEALED, OLD, OLDER = (FIXTURES / f"format-{number}" for number in (4, 3, 2))
EXPECTED = {folder: json.loads((folder / "expected.json").read_text("utf-8")) for folder in (SEALED, OLD, OLDER)}


def check_same(found, expected):
    for before, now in zip(expected, found, strict=True):
        assert (now["id"], now["answer"]) == (before["id"], before["answer"])
        assert now["probs"] == pytest.approx(before["probs"], rel=1e-3, abs=1e-4)  # processors round differently


@pytest.mark.parametrize("name", EXPECTED[OLDER])
def test_a_model_of_format_2_predicts_what_it_did(name, run_cli):
    found = run_cli("predict", OLDER / name, OLDER / "inputs.txt", "--json").json["predictions"]
    check_same(found, EXPECTED[OLDER][name])


@pytest.mark.parametrize("name", EXPECTED[SEALED])
def test_a_model_of_format_4_predicts_what_it_did(name, run_cli):
    found = run_cli("predict", SEALED / name, SEALED / "inputs.txt", "--json").json["predictions"]
    check_same(found, EXPECTED[SEALED][name])


@pytest.mark.parametrize("name", EXPECTED[OLD])
def test_a_model_of_format_3_predicts_what_it_did_and_is_written_anew(name, run_cli, tmp_path):
    allowed = ["--allow-code"] if name == "own" else []
    found = run_cli("predict", OLD / name, OLD / "inputs.txt", "--json", *allowed).json["predictions"]
    check_same(found, EXPECTED[OLD][name])
    kshot.load(OLD / name, allow_code=bool(allowed)).save(tmp_path / name)
    assert json.loads((tmp_path / name / "kshot.json").read_text("utf-8"))["format"] == 5
    assert (tmp_path / name / SEAL).is_file()
    again = run_cli("predict", tmp_path / name, OLD / "inputs.txt", "--json", *allowed).json["predictions"]
    assert again == found


def test_an_old_run_has_its_report(tmp_path, run_cli):
    shutil.copytree(OLDER / "run", tmp_path / "run")
    page = Path(run_cli("report", tmp_path / "run", "--json").json["report"]).read_text("utf-8")
    assert "bm25" in page
    assert "was chosen" in page


def test_an_old_run_is_not_gone_on_with(tmp_path, run_cli):
    shutil.copytree(OLDER / "run", tmp_path / "run")
    failed = run_cli("adapt", OLDER / "task", "--model", "tiny", "--out", tmp_path / "run")
    assert failed.code == 2
    assert "must be a run of format 3 to go on with; another version of kshot began it, with format 1" in failed.err


def of_format(number, folder, tmp_path):
    """Copy a folder and let it say that it is of another format."""
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "kshot.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "format": number}))
    return tmp_path / "model"


@pytest.mark.parametrize(("number", "said"), [(1, "got 1"), (6, "got 6"), (None, "got None")])
def test_other_formats_are_refused(number, said, tmp_path):
    folder = of_format(number, OLDER / "bm25", tmp_path)
    with pytest.raises(UserError, match=rf"must have format 5, which .* reads \(or 4 or 3 or 2\); {said}, written by"):
        kshot.load(folder)


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_number_that_does_not_fit_the_list_of_files_is_refused(number, tmp_path):
    """Nobody takes the list away by another number, nor gives an old folder one."""
    folder = of_format(number, OLD / "bm25", tmp_path)
    if number < 4:
        write_seal(folder)
    missing = "must be an adapted model with all of its files; checksums.json is missing. Copy the whole folder"
    present = f"must have no checksums.json, as it says that it is of format {number}; models have it from format 4 on"
    with pytest.raises(UserError, match=missing if number >= 4 else present):
        kshot.load(folder)


FILES = ("kshot.json", "demonstrations.jsonl", "learnt.txt", "members/0/kshot.json", "adapter/weights.safetensors")


@pytest.mark.parametrize("name", [*FILES, "steering.json", "steering.safetensors", "link"])
def test_a_pipe_or_a_link_is_refused_without_a_list_of_files_too(name, tmp_path):
    file = of_format(3, OLD / "bm25", tmp_path) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero") if name == "link" else os.mkfifo(file)
    for read in (kshot.load, saved_task):
        with pytest.raises(UserError, match=f"{name} must be a plain file or folder; it is a link or a device"):
            read(tmp_path / "model")


@pytest.mark.parametrize("name", ["kshot.json", "demonstrations.jsonl", "learnt.txt"])
def test_a_file_of_a_size_that_makes_no_sense_is_not_read(name, tmp_path):
    folder = of_format(3, OLD / "bm25", tmp_path)
    with (folder / name).open("ab") as stream:
        stream.truncate(4 * 10**11)
    with pytest.raises(UserError, match=rf"{name}.*it is larger than (64|1000) MB, the most that is read"):
        kshot.load(folder)


def test_a_method_of_ones_own_in_format_2_is_refused(tmp_path):
    folder = of_format(2, OLDER / "bm25", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    about = json.loads((folder / "kshot.json").read_text("utf-8"))
    for name in (f"{tmp_path}/evil.py:Evil", f"fine-tune:selector={tmp_path}/evil.py:Evil"):
        (folder / "kshot.json").write_text(json.dumps({**about, "recipe": {"name": name, "k": 3}}))
        with pytest.raises(UserError, match="must name a method of kshot, as in format 2; got "):
            kshot.load(folder, allow_code=True)
    assert not (tmp_path / "ran").exists()


def test_a_record_of_another_version_of_a_method_is_refused(tmp_path):
    kshot.load(OLDER / "bm25").save(tmp_path / "bm25")
    file = tmp_path / "bm25" / "kshot.json"
    about = json.loads(file.read_text("utf-8"))
    about["recipe"]["parts"]["selector"]["version"] = 7
    file.write_text(json.dumps(about))
    write_seal(tmp_path / "bm25")
    with pytest.raises(UserError, match="'bm25' must have version 7, with which the model was adapted; this kshot"):
        kshot.load(tmp_path / "bm25")
