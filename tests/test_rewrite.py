"""The loop `rewrite`: the Pareto set, and rules that are found by reflection one by one."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planted_talk as planted
from kshot.core.types import Example, Task
from kshot.methods.loops.rewrite import Rewrite, drawn, pareto
from kshot.methods.roles import Scripted

KINDS = ("apple", "pear", "plum")
ROWS = tuple(Example(f"{KINDS[i % 3]} {i}", planted.LABELS[i % 2], f"e{i}") for i in range(36))
TASK = Task("fruit", "classification", ROWS, labels=planted.LABELS)


class Ruled(planted.Sure):
    """Knows the answers of those kinds that its notes have a rule for; a note of fewer rules spoils other kinds."""

    def strength(self, text, asked):
        rules = set(re.findall(r"rule (\w+)", text))
        return 3.0 * any(kind in asked for kind in rules)


def reflector(request: str) -> str:
    """Adds a rule for the kind of the first mistake to those of the instruction."""
    instruction, _, mistakes = request.partition("These went wrong")
    kind = next(k for k in re.findall("|".join(KINDS), mistakes))
    rules = dict.fromkeys([*re.findall(r"rule (\w+)", instruction), kind])
    return ", ".join(f"rule {k}" for k in rules)


def played(loop, **how):
    return planted.played(loop, task=TASK, language_model=Ruled({e.input: e.output for e in ROWS}), **how)


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_found_one_by_one(seed):
    artefact, about, trace = played(Rewrite(tries=8, calls=2000).played_by(reflector=Scripted(reflector)), seed=seed)
    assert set(re.findall(r"rule (\w+)", artefact.notes[0])) == set(KINDS)
    assert about["rounds"] == len(trace) == 8


def test_what_helps_on_what_was_seen_alone_is_not_kept():
    seen = []

    def memory(request):
        seen.append(request)
        return "rule nothing"

    assert played(Rewrite(tries=3).played_by(reflector=Scripted(memory)))[0].notes == ()
    assert "(none)" in seen[0]


def test_reflection_never_sees_what_instructions_are_chosen_by():
    _, _, trace = played(Rewrite(tries=8, calls=2000).played_by(reflector=Scripted(reflector)), seed=3)
    order = np.random.default_rng(3).permutation(len(ROWS))
    held = [ROWS[i].input for i in order[18:]]
    asked = "\n".join(m["request"] for m in trace)
    assert not [text for text in held if re.search(rf"{text}\b", asked)]


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=6)
    )
)
def test_the_pareto_set(rows):
    costs = np.array(rows, float)
    found = pareto(costs)
    least = costs.min(axis=0)
    for one, n in found.items():
        wins = np.flatnonzero(costs[one] == least)
        assert n == len(wins) > 0
        others = costs[[i for i in found if i != one]]
        assert any(not (others[:, i] == least[i]).any() for i in wins)  # without it something would be lost
    assert all((costs[list(found), i] == least[i]).any() for i in range(costs.shape[1]))


def test_parents_are_drawn_by_the_examples_on_which_they_are_best():
    costs = np.array([[0.0, 1, 1, 1], [1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    rng = np.random.default_rng(0)
    share = np.mean([drawn(costs, rng) == 1 for _ in range(2000)])
    assert share == pytest.approx(0.75, abs=0.03)
