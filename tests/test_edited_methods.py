"""A method that was edited never meets the predictions of the method that it was, in the same run folder."""

import json

import kshot
from kshot.store.run_folder import RESULTS

MINE = '''
from dataclasses import dataclass, replace

import kshot
from kshot.core.fields import state


@dataclass(frozen=True)
class Mine(kshot.Selector):
    """Take the first of the pool."""

    _size: int = state(0)
    per_query = False

    def fit(self, pool, *, model, rng):
        return replace(self, _size=len(pool))

    def select(self, question, k, *, rng):
        return list(range(min(k, self._size)))
'''


def shown(folder):
    rows = (folder / "samples.jsonl").read_text("utf-8").splitlines()
    return {row["example_id"]: row["demonstrations"] for row in map(json.loads, rows)}


def test_an_edited_file_is_asked_again_in_the_same_folder(words_task, tmp_path):
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(MINE)
    how = {"recipes": f"{file}:Mine", "shots": 2, "seed": 3}
    kshot.adapt(str(words_task), "scripted", **how, out=run)
    before, results = shown(run), (run / RESULTS).read_text("utf-8")
    again = kshot.adapt(str(words_task), "scripted", **how, out=run)
    assert again.work.scored == 0  # nothing was edited
    assert shown(run) == before
    assert json.loads(results)["leaderboard"] == json.loads((run / RESULTS).read_text("utf-8"))["leaderboard"]
    file.write_text(MINE.replace("self._size))", "self._size))[::-1]"))
    edited = kshot.adapt(str(words_task), "scripted", **how, out=run)
    fresh = kshot.adapt(str(words_task), "scripted", **how, out=tmp_path / "fresh")
    assert edited.work.scored > 0
    assert shown(run) == shown(tmp_path / "fresh") != before
    assert [row["metric"] for row in edited.leaderboard] == [row["metric"] for row in fresh.leaderboard]
