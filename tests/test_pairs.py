"""The suite `pairs`: both intents are said to any system, and a row counts where it is right under both."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_task
from kshot.core.intents import CONTEXT, MEMORY
from kshot.core.types import Example, Prediction, Task
from kshot.evaluators.both_intents import Pairs

RNG = np.random.default_rng(0)
ROWS = tuple(
    Example(
        f"Who rules {name}?", f"New {name}", name, f"New {name} rules {name}.", meta={"memory_answer": f"Old {name}"}
    )
    for name in ("Arle", "Bosk", "Cand", "Dorn", "Eyre", "Fenn")
)
TASK = Task("rulers", "qa", ROWS, ROWS, metrics=("exact_match",))


def answered(say, task=TASK):
    cases = Pairs().cases(task, rng=RNG)
    said = [Prediction(c.example.id, (), (), (), say(c.example)) for c in cases]
    return Pairs().report(task, cases, said)


def shares(found):
    return [found[name].value for name in ("pair_accuracy", "context_accuracy", "memory_accuracy", "same_answer")]


def test_who_obeys_is_right_under_both_and_a_habit_is_not():
    def obeys(e):
        return f"{'New' if e.context.endswith(CONTEXT) else 'Old'} {e.id}"

    assert {e.context.rpartition("\n")[2] for e in (c.example for c in Pairs().cases(TASK, rng=RNG))} == {
        CONTEXT,
        MEMORY,
    }
    assert shares(answered(obeys)) == [1, 1, 1, 0]
    assert shares(answered(lambda e: f"New {e.id}")) == [0, 1, 0, 1]
    assert shares(answered(lambda e: "")) == [0, 0, 0, 1]
    assert answered(obeys)["answers"][0] == {"id": "Arle", "context": "New Arle", "memory": "Old Arle"}


@given(st.lists(st.sampled_from(["New", "Old", "x"]), min_size=12, max_size=12))
def test_pairs_are_no_more_than_either(words):
    said = iter(words)
    pair, context, memory, _ = shares(answered(lambda e: f"{next(said)} {e.id}"))
    assert pair <= min(context, memory)


def test_rows_whose_answers_cannot_differ_are_left_out_and_none_left_is_said(run_cli, tmp_path):
    same = [replace(e, meta={"memory_answer": e.output}) for e in ROWS[:2]]
    bare = [replace(ROWS[2], context=None), replace(ROWS[3], meta={})]
    assert len(Pairs().cases(replace(TASK, test=(*same, *bare, ROWS[4])), rng=RNG)) == 2
    alike = Example("Who sang?", "The Beatles", "x", "They sang.", meta={"memory_answer": "beatles."})
    assert len(Pairs().cases(replace(TASK, test=(alike, ROWS[4])), rng=RNG)) == 2
    assert Pairs().obstacle(TASK) is None
    closed = Task("c", "classification", (), tuple(ROWS), labels=tuple(e.output for e in ROWS))
    assert "a memory_answer that is another of the possible answers, and none has" in (Pairs().obstacle(closed) or "")
    rows = [{"input": f"what is {i}", "output": f"{i}"} for i in range(4)]
    folder = write_task(tmp_path / "task", rows, rows, {"kind": "qa"})
    run_cli("adapt", folder, "--model", "scripted", "--recipes", "zero-shot", "--out", tmp_path / "run")
    done = run_cli("evaluate", tmp_path / "run", folder, "--suite", "pairs")
    assert done.code == 2
    assert (
        "--suite pairs cannot be used on this task: its examples must have a context and a memory_answer that is "
        "another than the output, and none has. Give another --suite." in done.err
    )
