"""Threads that share a backbone get the answers that they would get one after the other."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from kshot.adapted.model import AdaptedModel
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.learners.learner import Setup
from kshot.models.products import fast_products
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

N_THREADS, N_CALLS = 4, 12
RECIPES = ("bm25:k=2", "fine-tune:lr=1e-2,steps=1,batch=1", "icv:strength=0.5")


@pytest.fixture(scope="module")
def adapted():
    """One model for each recipe, all on one backbone."""
    examples = tuple(Example(f"{word} {i}", "ab"[i % 2], f"e{i}") for i, word in enumerate(["sun", "rain"] * 3))
    task = Task("t", "classification", examples, labels=("a", "b"))
    model = TaskModel.for_task(task, Engine(tiny_backbone()))
    setup = Setup(task, model, seed=0)
    return [AdaptedModel.fit(parse_recipe(name, shots=2), examples, setup, choice={}) for name in RECIPES]


def answers(model, i):
    return [p.log_probs for p in model.predictions([f"rain {i}", f"a day of sun, number {i}"])]


def in_threads(models):
    """Ask in `N_THREADS` threads at once, each `N_CALLS` times, each thread the models in turn."""

    def ask(thread):
        return [answers(models[(thread + i) % len(models)], i) for i in range(N_CALLS)]

    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(ask, range(N_THREADS)))


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=RECIPES)
def test_threads_that_share_an_adapted_model(adapted, number):
    alone = [answers(adapted[number], i) for i in range(N_CALLS)]
    assert in_threads([adapted[number]]) == [alone] * N_THREADS


def test_threads_with_models_that_share_a_backbone(adapted):
    alone = [[answers(adapted[(t + i) % len(adapted)], i) for i in range(N_CALLS)] for t in range(N_THREADS)]
    assert in_threads(adapted) == alone
    assert len({str(answers(model, 0)) for model in adapted}) == len(adapted)


def test_fast_products_end_with_the_last_that_use_them(monkeypatch):
    class Switch:
        fp32_precision = "none"

    monkeypatch.setattr("kshot.models.products._switch", lambda: Switch)
    monkeypatch.setattr("kshot.models.products._is_exact", lambda: True)
    one, other = fast_products(), fast_products()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert Switch.fp32_precision == "bf16"
    other.__exit__(None, None, None)
    assert Switch.fp32_precision == "none"
