"""What a recipe would compute: put to work on a model that counts and runs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kshot.core.ledger import Ledger
from kshot.core.progress import Silence
from kshot.core.types import Prediction, Query
from kshot.engine.counting import Counting
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.recipes.recipe import Recipe
from kshot.store.traces import Traces


@dataclass(frozen=True)
class Rehearsed:
    """What was counted.

    Attributes:
        tokens: That the models would run; those that are learnt count as three.
        asked_tokens: Those of them that the model would run that selectors ask, if it is another one.
        calls: Of models behind an API that know it, as far as that is known before.
        training_steps: Of the model that answers.
        predictions: With what each would take, and answers that say nothing.
    """

    tokens: float
    asked_tokens: float
    calls: int
    training_steps: int
    predictions: tuple[Prediction, ...]


def rehearsed(recipe: Recipe, setup: Setup, parts: Sequence[Sequence[Query]]) -> Rehearsed:
    """Return what a recipe would compute for the parts of a stream, one after the other. Nothing is trained.

    What a selector asks of its model in order to learn is counted; its training is not, and neither is what further
    models are asked that loops and generators name: they and people are not asked, and nothing is kept.
    """
    assert setup.model is not None
    answering, ledger = Counting(setup.model.model), Ledger()
    asked = ledger.part()
    aside: Any = {"traces": Traces(rehearses=True), "progress": Silence(), "notes": None}
    selecting = setup.selector_model
    if selecting:
        selecting = replace(selecting, model=Counting(selecting.model), ledger=asked, **aside)
    model = replace(setup.model, model=answering, ledger=ledger, **aside)
    learner = make_learner(recipe.rehearsing(), replace(setup, model=model, selector_model=selecting, kept=None))
    predictions = [p for part in parts for p in learner.predict(part)]
    tokens = ledger.cost.tokens, asked.cost.tokens
    return Rehearsed(*tokens, ledger.cost.calls, answering.steps, tuple(predictions))
