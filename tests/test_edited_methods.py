"""A method that was edited never meets the predictions of the method that it was, in the same run folder."""

import importlib
import json
import sys
from importlib.metadata import EntryPoint

import pytest

import kshot
from kshot.core import plugins
from kshot.core.own_code import code_of
from kshot.core.seeding import digest
from kshot.methods.selectors.bm25 import Bm25
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import _identity
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


HELPED = MINE.replace("import kshot\n", "import kshot\nfrom {helper} import ALSO, first\n").replace(
    "list(range(min(k, self._size)))", "first(min(k, self._size)) + ALSO"
)
HELPER = """
import {inner}

ALSO = []

def first(n):
    return [*range(n)][: {inner}.most()]
"""
INNER = "def most():\n    return 10\n"


def fresh(code: str, folder, name: str) -> None:
    """Write a module that the next import reads."""
    (folder / f"{name}.py").write_text(code)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.mark.parametrize("edited", ["helper", "inner"])
def test_an_edited_helper_is_another_method(tmp_path, monkeypatch, edited):
    """Modules that a user's own file imports count as its code, and those that they import."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of two versions of the same second
    names = {"helper": f"helper_{edited}", "inner": f"inner_{edited}"}
    codes = {"helper": HELPER.format(**names), "inner": INNER}
    file = tmp_path / f"mine_{edited}.py"
    file.write_text(HELPED.format(**names))

    def fingerprint() -> str:
        for name, code in codes.items():
            fresh(code, tmp_path, names[name])
        plugins._MODULES.clear()
        return parse_recipe(f"{file}:Mine", shots=2).fingerprint

    found = [fingerprint(), fingerprint()]
    codes[edited] = codes[edited].replace("ALSO = []", "ALSO = [5]").replace("10", "11")
    found += [fingerprint(), fingerprint()]
    assert found[0] == found[1] != found[2] == found[3]


def test_an_edited_package_is_another_method(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of two versions of the same second
    entry = EntryPoint("packed", "packed_method:Mine", "kshot.selectors")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "kshot.selectors" else [])
    found = []
    for code in (MINE, MINE, MINE.replace("k, self._size", "k - 1, self._size"), MINE):
        fresh(code, tmp_path, "packed_method")
        found.append(parse_recipe("packed", shots=2).fingerprint)
    assert found[0] == found[1] == found[3] != found[2]


def in_notebook(*cells: str) -> str:
    """Return what identifies the code of `Mine` after some cells of a notebook, which is no file."""
    names = {"__name__": "__main__"}
    for cell in cells:
        exec(cell, names)
    return code_of(names["Mine"])


def test_a_notebook_counts_by_what_the_class_names():
    mine = MINE.replace("self._size)))", "self._size)))[: most()]")
    most = "LIMIT = {10}\ndef most():\n    return max(LIMIT)\n"
    found = in_notebook(most, mine)
    assert in_notebook("other = 3\n", most, mine.replace("\n    def fit", "\n\n\n    def fit")) == found
    assert in_notebook(most, mine, most.replace("10", "11")) != found  # the class itself is as it was
    assert in_notebook(most, mine.replace("_size: int = state(0)", "_size: int = state(1)")) != found
    assert in_notebook(most.replace("max(LIMIT)", "max(LIMIT) + 1"), mine) != found


def test_what_comes_with_kshot_counts_by_its_version():
    assert code_of(Bm25) is None
    recipe = parse_recipe("bm25", shots=2)
    assert recipe.fingerprint == digest(_identity(recipe.record()))
