"""The folder of a saved model is its own: nothing else is written into it, and what is missing there is told of."""

import pytest

import kshot
from changed_models import make, model_of
from kshot.adapted.folder import check_replaceable, saved_task
from kshot.adapted.seal import SEAL, check_seal
from kshot.core.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a saved model."""
    return make("shown", tmp_path / "shown", model=model_of("shown"))


def test_the_task_too_is_read_anew_where_the_model_is_saved_again_meanwhile(folder, monkeypatch):
    adapted, calls = kshot.load(folder), []

    def check(place, only):
        calls.append(place)
        if len(calls) == 1:
            adapted.save(folder)
            raise UserError("it has changed")
        check_seal(place, only)

    monkeypatch.setattr("kshot.adapted.folder.check_seal", check)
    assert saved_task(folder).labels == adapted.labels
    assert len(calls) == 2


def test_nothing_is_written_into_an_adapted_model(folder, tmp_path):
    adapted = kshot.load(folder)
    for place in (folder / "x", folder / "members" / "x"):
        with pytest.raises(UserError, match=f"{place} must be outside of the adapted model {folder}, which holds"):
            adapted.save(place)
    (tmp_path / "manifest.json").touch()
    with pytest.raises(UserError, match="must not be in .finished, where a run keeps its results"):
        adapted.save(tmp_path / ".finished")
    assert kshot.load(folder)


def test_what_is_missing_or_damaged_in_a_run_is_written_by_the_same_command(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="run is a run that is not finished; finish it with the same `kshot adapt` c"):
        kshot.load(run)
    folder.rename(run / "best")
    (run / "best" / "kshot.json").unlink()
    remedy = r"or adapt again \(the same `kshot adapt` command writes it anew\)"
    with pytest.raises(UserError, match=f"best must be a whole model .* 'kshot.json' is not in the folder.*{remedy}"):
        kshot.load(run)
    (run / "best" / SEAL).unlink()
    with pytest.raises(UserError, match="best must be an adapted model with all of its files; kshot.json is missing"):
        kshot.load(run)
    check_replaceable(run / "best")
