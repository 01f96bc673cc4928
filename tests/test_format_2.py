"""Models and a run that were made before recipes had records are read, and predict the same."""

import json
import shutil
from pathlib import Path

import pytest

import kshot
from kshot.core.errors import UserError

OLD = Path(__file__).parent / "fixtures" / "format-2"
EXPECTED = json.loads((OLD / "expected.json").read_text("utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_saved_model_predicts_what_it_did(name, run_cli):
    found = run_cli("predict", OLD / name, OLD / "inputs.txt", "--json").json["predictions"]
    for before, now in zip(EXPECTED[name], found, strict=True):
        assert (now["id"], now["answer"]) == (before["id"], before["answer"])
        assert now["probs"] == pytest.approx(before["probs"], rel=1e-3, abs=1e-4)  # processors round differently


def test_a_saved_model_is_written_anew_and_predicts_the_same(tmp_path, run_cli):
    kshot.load(OLD / "icv").save(tmp_path / "icv")
    assert json.loads((tmp_path / "icv" / "kshot.json").read_text("utf-8"))["format"] == 3
    before, now = (run_cli("predict", d, OLD / "inputs.txt", "--json").json for d in (OLD / "icv", tmp_path / "icv"))
    assert now == before


def test_an_old_run_has_its_report(tmp_path, run_cli):
    shutil.copytree(OLD / "run", tmp_path / "run")
    page = Path(run_cli("report", tmp_path / "run", "--json").json["report"]).read_text("utf-8")
    assert "bm25" in page
    assert "was chosen" in page


def test_an_old_run_is_not_gone_on_with(tmp_path, run_cli):
    shutil.copytree(OLD / "run", tmp_path / "run")
    failed = run_cli("adapt", OLD / "task", "--model", "tiny", "--out", tmp_path / "run")
    assert failed.code == 2
    assert "holds a run with another format (1, now 2)" in failed.err


@pytest.mark.parametrize(("format", "said"), [(1, "got 1"), (4, "got 4"), (None, "got None")])
def test_other_formats_are_refused(format, said, tmp_path):
    shutil.copytree(OLD / "bm25", tmp_path / "bm25")
    about = json.loads((tmp_path / "bm25" / "kshot.json").read_text("utf-8"))
    (tmp_path / "bm25" / "kshot.json").write_text(json.dumps({**about, "format": format}))
    with pytest.raises(UserError, match=rf"must have format 3, which this kshot .* reads \(or 2\); {said}, written by"):
        kshot.load(tmp_path / "bm25")


def test_a_record_of_another_version_of_a_method_is_refused(tmp_path):
    kshot.load(OLD / "bm25").save(tmp_path / "bm25")
    file = tmp_path / "bm25" / "kshot.json"
    about = json.loads(file.read_text("utf-8"))
    about["recipe"]["parts"]["selector"]["version"] = 7
    file.write_text(json.dumps(about))
    with pytest.raises(UserError, match="'bm25' must have version 7, with which the model was adapted; this kshot"):
        kshot.load(tmp_path / "bm25")
