"""The loop `teaching`: a teacher who rewrites demonstrations by what students get wrong."""

import re

import numpy as np
import pytest

import kshot
import planted_talk as planted
from kshot.core.types import Example, Task
from kshot.methods.loops.teaching import Teaching, read_pairs
from kshot.methods.roles import Scripted
from test_rewrite import KINDS, ROWS, TASK


class Student(planted.Sure):
    """Learns a kind from a demonstration that says it clearly, and no other."""

    def strength(self, text, asked):
        shown = text[: text.rindex(asked.strip())] if asked.strip() in text else text
        return 3.0 * any(f"clear {kind}" in shown for kind in KINDS if kind in asked)


def teacher(request: str) -> str:
    """Says one more kind clearly: that of the first failure."""
    shown, _, failed = request.partition("After them")
    kinds = [*re.findall(r"clear (\w+)", shown), re.search("|".join(KINDS), failed)[0]]
    return "".join(f"Input: a clear {kind}\nOutput: one\n" for kind in dict.fromkeys(kinds))


def played(loop, **how):
    language_model = Student({e.input: e.output for e in ROWS})
    return planted.played(loop, task=TASK, language_model=language_model, **how)


@pytest.mark.parametrize("seed", range(4))
def test_demonstrations_come_to_teach_all_that_students_lack(seed):
    loop = Teaching(tries=4, calls=5000).played_by(teacher=Scripted(teacher))
    artefact, about, _ = played(loop, seed=seed)
    assert {e.input for e in artefact.demonstrations} == {f"a clear {kind}" for kind in KINDS}
    assert {e.meta["made"] for e in artefact.demonstrations} == {"teaching"}
    assert about["rounds"] == 4
    fresh = [Example(f"{kind} {n}", planted.LABELS[n % 2], f"f{n}{kind}") for n in (90, 91) for kind in KINDS]
    model, _ = planted.model(TASK, language_model=Student({e.input: e.output for e in fresh}))
    before, after = (model.code_lengths([shown] * 6, fresh).sum() for shown in (ROWS[:4], artefact.demonstrations))
    assert after < before / 5


def test_what_teaches_worse_is_not_kept_and_the_judging_half_is_not_told():
    loop = Teaching(tries=2).played_by(teacher=Scripted(lambda request: "Input: a stone\nOutput: two"))
    artefact, _, trace = played(loop, seed=1)
    assert artefact.demonstrations == ()
    order = np.random.default_rng(1).permutation(len(ROWS))
    asked = "\n".join(m["request"] for m in trace)
    assert not [i for i in order[18:] if re.search(rf"{ROWS[i].input}\b", asked)]


def test_an_output_that_the_task_does_not_have_is_asked_for_again():
    said = iter(["Input: x\nOutput: three", "no pairs", "Input: a clear pear\nOutput: one"] * 9)
    artefact, about, trace = played(Teaching(tries=1, beam=1).played_by(teacher=Scripted(lambda request: next(said))))
    assert about["ended"] == "it was done"
    assert len(trace) == 3
    assert [e.input for e in artefact.demonstrations] == ["a clear pear"]
    assert "with outputs of the task" in trace[1]["request"]


def test_pairs_are_read_in_open_tasks_too():
    task = Task("t", "generation", ())
    (one,) = read_pairs("Input: two\nlines\nOutput: any text", task, 2)
    assert (one.input, one.output) == ("two\nlines", "any text")
    assert read_pairs("Input: a\nOutput: b\n" * 2, task, 4) == read_pairs("a\nOutput: b", task, 4)


def test_what_is_made_is_shown_in_a_recipe(tmp_path):
    table = tmp_path / "table.json"
    table.write_text('{"Write 2 better ones": "Input: a stone\\nOutput: one"}')
    run = kshot.adapt(planted.TASK, f"scripted:{table}", out=tmp_path / "run",
                      recipes="all-past:loop=teaching(size=2,tries=1,beam=1)")  # fmt: skip
    assert run.best is not None
