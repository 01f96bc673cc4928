"""Selectors that ask the model of single examples: how much each helps, and how much each is doubted."""

from collections.abc import Sequence

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.script import UsualWording
from kshot.core.types import Example, Prompt, Task
from kshot.engine.load_model import load_model
from kshot.measures.probabilities import normalised
from kshot.methods.selectors.max_entropy import MaxEntropy
from kshot.methods.selectors.ordered_sets import held_out_and_others
from kshot.methods.selectors.value import Value
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.select import select

POOL = tuple(
    Example(text, label, str(i))
    for i, (text, label) in enumerate(
        [("a red rose", "plant"), ("the old dog", "animal"), ("one tall oak", "plant"), ("this grey wolf", "animal")]
        * 2
        + [("some moss", "plant"), ("a green frog", "animal"), ("that fern", "plant"), ("an owl at night", "animal")]
    )
)
TASK = Task("living", "classification", POOL, labels=("animal", "plant"))


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def model() -> TaskModel:
    return TaskModel.for_task(TASK, load_model("tiny"))


class Planted:
    """A model for which the bits after an example are known: each helps by what its input says."""

    task, composer = TASK, UsualWording()

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> np.ndarray:
        assert all(query not in demos for demos, query in zip(shown, queries, strict=True))
        return np.array([5.0 - float(demo.input) for (demo,) in shown])


@pytest.mark.parametrize("seed", range(4))
def test_value_takes_those_that_help_most_and_shows_the_best_last(seed):
    helps = rng(seed).permutation(20) / 10
    pool = [Example(str(value), "a", str(i)) for i, value in enumerate(helps)]
    found = Value(queries=4).fit(pool, model=Planted(), rng=rng()).select(None, 3, rng=rng(seed))
    held_out, _ = held_out_and_others(pool, 3, 4, rng=rng(seed))
    rest = [value for i, value in enumerate(helps) if i not in held_out]
    assert [helps[i] for i in found] == sorted(rest)[-3:]


def test_value_is_what_the_model_says_of_each_alone(model):
    found = Value(queries=3).fit(POOL, model=model, rng=rng()).select(None, 4, rng=rng())
    held_out, others = held_out_and_others(POOL, 4, 3, rng=rng())
    bits = [sum(model.code_lengths([(POOL[i],)], [POOL[j]])[0] for j in held_out) for i in others]
    assert found == [others[i] for i in np.argsort(bits, kind="stable")[:4]][::-1]


def test_value_draws_where_nothing_can_be_held_out(model):
    fitted = Value().fit(POOL[:3], model=model, rng=rng())
    assert sorted(fitted.select(None, 4, rng=rng())) == [0, 1, 2]


def test_each_pick_is_the_one_that_is_least_sure_after_those_before(model):
    found = MaxEntropy(candidates=5).fit(POOL, model=model, rng=rng()).select(None, 3, rng=rng())
    left, picks = rng().permutation(len(POOL))[:5].tolist(), []
    for _ in range(3):
        rows = {i: _probs(model, [POOL[j] for j in picks], POOL[i]) for i in left}
        best = max(left, key=lambda i: round(-float(rows[i] @ np.log(rows[i])), 9))
        picks.append(best)
        left.remove(best)
    assert found == picks


def _probs(model: TaskModel, shown: Sequence[Example], asked: Example) -> np.ndarray:
    prompt: Prompt = model.prompt(tuple(shown), asked)[0]
    return normalised(model.score([prompt], [TASK.labels])[0])


def test_what_is_picked_first_does_not_depend_on_outputs(model):
    other = [Example(e.input, "plant" if e.output == "animal" else "animal", e.id) for e in POOL]
    first = [MaxEntropy().fit(pool, model=model, rng=rng()).select(None, 1, rng=rng()) for pool in (POOL, other)]
    assert first[0] == first[1]


def test_few_examples_are_all_shown(model):
    fitted = MaxEntropy(candidates=1).fit(POOL[:3], model=model, rng=rng())
    assert sorted(fitted.select(None, 4, rng=rng())) == [0, 1, 2]
    assert len(MaxEntropy(candidates=1).fit(POOL, model=model, rng=rng()).select(None, 4, rng=rng())) == 4


def test_an_open_task_has_no_entropy():
    task = Task("sums", "generation", tuple(Example(f"1 + {i}", str(i + 1), str(i)) for i in range(9)))
    message = "--selector must suit tasks of kind generation; 'max-entropy' does not. Take another one."
    with pytest.raises(UserError, match=message):
        select(task, "max-entropy", 2, model="tiny")
