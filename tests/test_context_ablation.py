"""The suite `context-ablation`: what each part of a context is worth, under one budget of tokens."""

import ast
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_task
from kshot.core.errors import UserError
from kshot.core.types import Example, Generation, Prediction, Task
from kshot.evaluators.context_ablation import ContextAblation, sets
from kshot.evaluators.context_parts import Part, Parted, n_tokens, parted, python_rows, way_of, within
from kshot.measures.measured import told
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import TaskModel

WORDS = ("red", "blue", "pink", "grey")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def planted(n: int, seed: int = 0, *, noise: int = 6) -> Task:
    """Rows of which the field `key` alone says the answer; the others say colours, too."""
    draw = rng(seed)
    rows = []
    for i in range(n):
        key, *others = draw.choice(WORDS, 3)
        said = " ".join(draw.choice(["so", "it", "is", "not"], noise))
        context = f"Weather: {said} {others[0]}\nKey: {key}\nNews: {others[1]} {said}"
        rows.append(Example(f"Which colour is {i}?", str(key), f"e{i}", context))
    return Task("planted", "classification", (), tuple(rows), labels=WORDS)


def reader(example: Example) -> str:
    """Right where the key is there, else the first colour that is said, or red."""
    said = [word for word in (example.context or "").replace("\n", " ").split() if word in WORDS]
    keys = [line.split(": ")[1] for line in (example.context or "").split("\n") if line.startswith("Key: ")]
    return next((word for word in (*keys, *said) if word in WORDS), "red")


def asked(suite: ContextAblation, task: Task):
    cases = suite.cases(task, rng=rng())
    bits = {True: 0.9, False: 0.05}
    predictions = []
    for case in cases:
        answer = reader(case.example)
        probs = [bits[label == answer] for label in WORDS]
        predictions.append(Prediction(case.example.id, WORDS, tuple(np.log(probs)), tuple(probs), answer))
    return cases, suite.report(task, cases, predictions)


def test_the_part_that_decides_is_worth_something_and_no_other_is():
    task = planted(60)
    cases, found = asked(ContextAblation(), task)
    assert (found["parts"], found["n"], found["n_asked"]) == ("fields", 60, 60 * 8)
    values = {name: gain.record(rng()) for name, gain in found["marginal_value"].items()}
    assert list(values) == ["weather", "key", "news"]
    assert values["key"]["low"] > 0.4
    for name in ("weather", "news"):
        assert values[name]["value"] == 0
        assert values[name]["low"] < 0 < values[name]["high"]
    assert found["score"]["only key"].value == found["score"]["all"].value == 1
    assert found["score"]["without key"].value == pytest.approx(1 - values["key"]["value"])
    assert found["value_alone"]["key"].value == pytest.approx(1 - found["score"]["none"].value)
    assert found["bits_saved"]["key"].value > 1 > abs(found["bits_saved"]["news"].value) == 0


def test_a_part_that_is_of_no_use_takes_room_from_one_that_is():
    """Under a budget that the long fields fill, the key is still said, as each part has its share."""
    task = planted(30, noise=40)
    cases, found = asked(ContextAblation(budget=12), task)
    assert found["most_tokens"] == 12
    assert max(n_tokens(case.example.context or "") for case in cases) == 12
    assert found["score"]["all"].value == 1


def test_two_systems_are_compared_part_by_part():
    _, ours = asked(ContextAblation(), planted(20))
    difference = told(ours, ours, rng=rng())["marginal_value"]["key"]["difference"]
    assert (difference["value"], difference["n"]) == (0, 20)
    assert -0.1 < difference["low"] < 0 < difference["high"] < 0.1


TEXTS = st.lists(st.text("ab.,(\n ", max_size=60), min_size=1, max_size=6)


@given(TEXTS, st.integers(1, 40), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_a_budget_is_never_exceeded_and_used_as_far_as_there_is_something(texts, budget, ends, inputs):
    parts = tuple(Part(f"p{i}", text, i in inputs, i in ends) for i, text in enumerate(texts))
    row = Parted(Example("", "x", "e"), parts)
    for kept in sets(row):
        some = [part for part in parts if part.name in kept]
        n = sum(n_tokens(part.text) for part in within(some, budget))
        assert n == min(budget, sum(n_tokens(part.text) for part in some))
        said = row.saying(kept, budget)
        assert n_tokens(said.input) + n_tokens(said.context or "") == n
        for part, one in zip([p for p in some if p.name in {q.name for q in within(some, budget)}],
                             within(some, budget), strict=True):  # fmt: skip
            assert part.text.endswith(one.text) if part.keeps_end else part.text.startswith(one.text)


def test_sets_are_singles_all_but_each_and_all_each_once():
    row = Parted(Example("q", "a", "e"), tuple(Part(name, name) for name in "abc"))
    assert sets(row) == [(), ("a",), ("b",), ("c",), ("b", "c"), ("a", "c"), ("a", "b"), ("a", "b", "c")]
    assert sets(replace(row, parts=row.parts[:2])) == [(), ("a",), ("b",), ("a", "b")]
    assert sets(replace(row, parts=row.parts[:1])) == [(), ("a",)]


def names(context: str, way: str, most: int = 5) -> list[str]:
    return list(parted(Example("q", "a", "e", context), way, most).names)


def test_prose_is_told_apart():
    assert names("One. Two! Is it (three)? Four.", "sentences") == [f"sentence {i}" for i in (1, 2, 3, 4)]
    assert names("One. Two. Three. Four. Five. Six.", "sentences", 3) == [f"sentence {i}" for i in (1, 2, 3)]
    assert names("a\nb\n\nc\n \nd", "paragraphs") == ["paragraph 1", "paragraph 2", "paragraph 3"]
    assert names("so\n# First\na\n\n## Second part\nb", "sections") == ["opening", "first", "second part"]
    assert names("Name: Ann\nborn 1900\nJob: cook", "fields") == ["name", "job"]
    e = parted(Example("q", "a", "e", "One. Two. Three."), "sentences", 5).saying(["sentence 1", "sentence 3"], 0)
    assert e.context == "One. Three."


SOURCE = '''"""About colours."""
import re
from os import path

X = 3

def double(x):
    """Twice."""
    return 2 * x

def unused(x):
    return x

class A:
    def two(self):
        return 2

def four(y):
    """Four times."""
    z = double(y)
'''


def test_python_is_told_apart_by_its_tree():
    row = parted(Example("    return", "double(z)", "e", SOURCE), "python", 5)
    texts = {part.name: part.text for part in row.parts}
    assert list(texts) == ["imports", "docstring", "signatures", "called", "preceding"]
    assert texts["imports"] == "import re\nfrom os import path"
    assert texts["signatures"] == "def double(x):\ndef unused(x):\nclass A:\n    def two(self):"
    assert texts["called"] == 'def double(x):\n    """Twice."""\n    return 2 * x'
    assert texts["preceding"] == 'X = 3\ndef four(y):\n    """Four times."""\n    z = double(y)'
    assert names(f"{SOURCE}    w = (1 +", "python")[-1] == "preceding"
    assert names("No code here. None at all.", "python") == []
    assert names("x = 1", "python") == []


def test_the_way_is_that_of_most_rows():
    def way(*contexts):
        return way_of([Example("q", "a", f"e{i}", c) for i, c in enumerate(contexts)], 5)

    assert way(SOURCE, SOURCE) == "python"
    assert way("Name: Ann\nJob: cook", "Name: Bo\nJob: judge") == "fields"
    assert way("# A\nx\n# B\ny", "# A\nx\n# B\nz") == "sections"
    assert way("Note: one.\n\nThen two.", "Otherwise: two.\n\nThen three.") == "paragraphs"
    assert way("One. Two.", "Three. Four.") == "sentences"
    assert way("One", None, "Three") is None


def test_rows_without_such_parts_are_not_asked():
    rows = [Example("q", "a", f"e{i}", c) for i, c in enumerate((SOURCE, SOURCE, "Ann is the judge. Bo is not."))]
    task, suite = Task("t", "qa", (), tuple(rows)), ContextAblation()
    assert {case.example.id for case in suite.cases(task, rng=rng())} == {"e0", "e1"}


# Python files


class Completes(ScriptedModel):
    """Writes the line where the called function is said, else another one."""

    def __init__(self):
        super().__init__(name="completes")
        self.asked = []

    def generate(self, requests, **_):
        self.asked += [r.prompt.text for r in requests]
        knows = ["helper_value = 7" in text for text in self.asked[-len(requests) :]]
        return [Generation(" return helper_value\nmore" if one else " pass", True) for one in knows]


FILE = """import math

def helper(x):
    helper_value = 7
    return helper_value

def other(x):
    return 1

def asked{i}(x):
    '''Says it.'''
    value = helper(x)
    return helper_value
"""


def test_lines_of_python_files_are_asked_for_with_each_set(tmp_path):
    for i in range(6):
        (tmp_path / f"f{i}.py").write_text(FILE.replace("{i}", str(i)), "utf-8")
    (tmp_path / "broken.py").write_text("def f(:\n", "utf-8")
    rows = [row for row in python_rows({f.name: f for f in sorted(tmp_path.glob("*.py"))}, 100, rng=rng())
            if "asked" in row.example.input]  # fmt: skip
    assert len(rows) == 6
    row = rows[0]
    assert row.names == ("imports", "signatures", "called", "docstring", "preceding")
    assert (row.example.input, row.example.output) == ("def asked0(x):", "return helper_value")
    whole = row.saying(row.names, 0)
    assert whole.input == "def asked0(x):\n    '''Says it.'''\n    value = helper(x)"
    assert "def asked0" not in (whole.context or "")
    model, task = Completes(), planted(2)
    suite = ContextAblation(files=str(tmp_path), rows=12)
    assert suite.asks_model
    assert suite.cases(task, rng=rng()) == []
    found = suite.beside(task, TaskModel.for_task(task, model), rng=rng())
    assert found["marginal_value"]["called"].value >= 0.5
    assert all(found["marginal_value"][name].value == 0 for name in ("imports", "signatures", "docstring"))
    assert found["answers"][0].keys() == {"id", "parts", "wanted", "answer"}
    assert found["n"] == 12


def test_our_own_source_has_lines_to_ask_for():
    from pathlib import Path

    import kshot

    files = sorted((Path(kshot.__file__).parent / "measures").glob("*.py"))
    rows = python_rows({f.name: f for f in files}, 50, rng=rng())
    assert len(rows) == 50
    assert len({row.example.id for row in rows}) == 50
    for row in rows:
        said = row.saying(row.names, 0)
        assert said.input.splitlines()[0].strip().startswith(("def ", "async def "))
        assert row.example.output not in said.input.splitlines()[-1]
    assert ast.parse("\n".join(part.text for part in rows[0].parts if part.name == "imports"))


def test_what_it_needs_is_said(run_cli, tmp_path):
    rows = [{"input": f"what is {i}", "output": f"{i}", "context": "One sentence"} for i in range(4)]
    folder = write_task(tmp_path / "task", rows, rows, {"kind": "qa"})
    run_cli("adapt", folder, "--model", "scripted", "--recipes", "zero-shot", "--out", tmp_path / "run")
    done = run_cli("evaluate", tmp_path / "run", folder, "--suite", "context-ablation")
    assert done.code == 2
    assert "this task: its examples must have a context of two parts or more, and none has." in done.err
    done = run_cli("evaluate", tmp_path / "run", folder, "--suite", "context-ablation:parts=fields")
    assert "a context of two fields or more, and none has" in done.err
    with pytest.raises(UserError, match="must be a Python file, or a folder that holds some, with functions of two"):
        ContextAblation(files=str(tmp_path)).beside(planted(1), TaskModel.for_task(planted(1), Completes()), rng=rng())


def test_a_run_is_measured_on_its_contexts(run_cli, tmp_path):
    rows = [{"id": e.id, "input": e.input, "output": e.output, "context": e.context} for e in planted(12).test]
    folder = write_task(tmp_path / "task", rows, rows[:6], {"kind": "classification", "labels": list(WORDS)})
    run_cli("adapt", folder, "--model", "scripted", "--recipes", "random:k=2", "--out", tmp_path / "run")
    found = run_cli("evaluate", tmp_path / "run", folder, "--suite", "context-ablation:budget=20", "--json").json
    assert set(found["marginal_value"]) == {"weather", "key", "news"}
    assert set(found["marginal_value"]["key"]) == {"value", "low", "high", "n"}
    assert found["most_tokens"] <= 20
