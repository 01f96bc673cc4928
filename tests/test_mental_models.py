"""The loop `mental-models`: help where it is predicted to help most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planted_talk as planted
from kshot.methods.loops.mental_models import MentalModels, accuracy_at, ranked
from kshot.methods.roles import Scripted
from test_rewrite import KINDS, ROWS, TASK

BUDGETS = (0.2, 0.4, 0.6, 0.8)


def curves(seed: int, noise: float) -> dict[str, list[float]]:
    """A student whose right answers with and without help are known, and predicted with noise."""
    rng = np.random.default_rng(seed)
    p_alone, p_helped = rng.random((2, 200))
    alone, helped = (rng.random((2, 200)) < (p_alone, p_helped)).astype(float)
    seen = np.clip(p_alone + noise * rng.normal(size=200), 0, 1), np.clip(p_helped + noise * rng.normal(size=200), 0, 1)
    orders = {by: ranked(seen[1], seen[0], by, rng) for by in ("utility", "no-help", "help", "harm")}
    orders["oracle"] = ranked(helped, alone, "utility", rng)
    found = {by: [accuracy_at(b, order, helped, alone) for b in (0, *BUDGETS, 1)] for by, order in orders.items()}
    draws = [ranked(helped, alone, "random", rng) for _ in range(50)]
    found["random"] = [np.mean([accuracy_at(b, order, helped, alone) for order in draws]) for b in (0, *BUDGETS, 1)]
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_utility_dominates_random_at_every_budget(seed, noise):
    found = curves(seed, noise)
    assert all(a > b + 0.02 for a, b in zip(found["utility"][1:-1], found["random"][1:-1], strict=True))
    for end in (0, -1):
        assert found["utility"][end] == pytest.approx(found["random"][end], abs=1e-12)
    assert all(a >= b for a, b in zip(found["oracle"], found["utility"], strict=True))
    assert all(a < b for a, b in zip(found["harm"][1:-1], found["random"][1:-1], strict=True))  # to deceive


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_oracle_rises_as_long_as_help_helps(pairs):
    helped, alone = np.array(pairs).T
    order = ranked(helped, alone, "utility", np.random.default_rng(0))
    steps = np.arange(len(pairs) + 1) / len(pairs)
    curve = [accuracy_at(b, order, helped, alone) for b in steps]
    n = int((helped >= alone).sum())
    assert all(b >= a - 1e-12 for a, b in zip(curve[:n], curve[1 : n + 1], strict=True))
    assert max(curve) == pytest.approx(np.maximum(helped, alone).mean())


class Student(planted.Sure):
    """Always knows apples, never plums, and knows pears where their rule was explained."""

    def strength(self, text, asked):
        return 3.0 * ("apple" in asked or ("pear" in asked and "rule of pears" in text))


def explain(request: str) -> str:
    kind = next(kind for kind in KINDS if kind in request)
    return f"see the rule of {kind}s"


def played(seed, **how):
    loop = MentalModels(calls=2000, **how).played_by(teacher=Scripted(explain))
    return planted.played(loop, task=TASK, language_model=Student({e.input: e.output for e in ROWS}), seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_what_needs_no_help_and_what_none_helps_is_not_explained(seed):
    artefact, _, trace = played(seed)
    assert artefact.notes
    assert all(note.startswith("pear") and note.endswith("see the rule of pears") for note in artefact.notes)
    assert len(trace) == 18  # each example of the teacher's half is explained once


def test_notes_that_save_nothing_are_not_kept():
    loop = MentalModels(calls=2000).played_by(teacher=Scripted(lambda request: "no idea"))
    language_model = Student({e.input: e.output for e in ROWS})
    assert planted.played(loop, task=TASK, language_model=language_model)[0].notes == ()
