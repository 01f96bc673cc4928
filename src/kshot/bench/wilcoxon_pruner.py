"""Simulated races in which Optuna's WilcoxonPruner decides who is dropped: what halving is compared with.

Recipes are trials, one after the other; the first runs to the end. Each later one is stopped where a signed-rank test
finds it worse, row by row, than the best so far, at Optuna's own level of 0.1. It is asked where halving decides too.

Source: optuna.pruners.WilcoxonPruner, https://optuna.readthedocs.io. Differs: rows come in the order of the stream, not
in a random one, as recipes learn along it.
"""

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from kshot.core.types import FloatArray


def pruned(bits: FloatArray, costs: FloatArray, stops: Sequence[int]) -> tuple[list[int], float]:
    """Return who comes to the end, and the cost as a share of running all to the end.

    Args:
        bits: `[n_recipes, n]`; fewer are better.
        costs: `[n_recipes, n]`; recipes that cost nothing are never stopped.
        stops: After how many rows the pruner is asked; the last is n.
    """
    optuna: Any = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called experimental
        pruner = optuna.pruners.WilcoxonPruner()
    study, racing, cost = optuna.create_study(pruner=pruner), [], 0.0
    for i, row in enumerate(bits):
        trials = [_trial(optuna, row[:stop].tolist()) for stop in stops]
        is_free = not costs[i].any()
        last = next((t for t in trials[:-1] if not is_free and pruner.prune(study, t)), trials[-1])
        study.add_trial(last)
        if last is trials[-1]:
            racing.append(i)
        cost += float(costs[i, : len(last.intermediate_values)].sum())
    return racing, cost / float(costs.sum())


def _trial(optuna: Any, bits: list[float]) -> Any:
    """Return a recipe's rows as a trial whose value is their mean."""
    return optuna.trial.create_trial(value=sum(bits) / len(bits), intermediate_values=dict(enumerate(bits)))
