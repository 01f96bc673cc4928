"""What a run would compute, counted by a stand-in for the language model that runs nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from kshot.adaptation import DEFAULT_LIMIT, check_model, prepare
from kshot.asking import Asker
from kshot.core.gradients import GradientSettings, GradientStore
from kshot.core.protocols import LanguageModel, TrainableModel
from kshot.core.training import Batch, StepLog, Training, TrainingText
from kshot.core.types import FloatArray, GenerateRequest, Generation, ScoreRequest, Task, Work
from kshot.learning.make import lacking, make_learner
from kshot.learning.tuned import Source
from kshot.prompts.fitting import prompt_tokens


class Counting:
    """Answer like no model at all, counting the forward tokens of what is asked.

    Args:
        model: Whose tokens are counted.
    """

    def __init__(self, model: LanguageModel):
        self.tokens = self.steps = 0
        self.work = Work()
        self.name, self.fingerprint, self.origin = model.name, model.fingerprint, model.origin
        self.capabilities, self.max_tokens = model.capabilities, model.max_tokens
        self.remark, self.chat = model.remark, model.chat
        self.count_tokens, self.forward_tokens = model.count_tokens, model.forward_tokens

    def trainable(self, how: Training, *, seed: int) -> TrainableModel:
        """Return itself: what is trained counts too."""
        return cast(TrainableModel, self)

    def learn(self, batch: Batch) -> StepLog:
        """Count a step, and the tokens that are run forward (and as many backward)."""
        texts = (*batch.texts, *batch.support, *batch.source)
        n_tokens = sum(prompt_tokens(text.prompt, self) for text in texts)
        self.tokens += n_tokens
        self.steps += 1
        return StepLog(0.0, n_tokens, 0, 0.0)

    def gradients(
        self,
        texts: Sequence[TrainingText],
        how: GradientSettings,
        *,
        seed: int,
        store: GradientStore | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Count the tokens that are run forward (and as many backward), and return equal gradients."""
        self.tokens += sum(prompt_tokens(text.prompt, self) for text in texts) * how.n_runs(len(texts)) // len(texts)
        return np.zeros((len(texts), how.n_snapshots), dtype=np.float32)

    def with_store(self, store: object) -> Self:
        """Return itself; nothing is stored."""
        return self

    def score(
        self, requests: Sequence[ScoreRequest], *, progress: Callable[[int], None] | None = None
    ) -> list[FloatArray]:
        """Count, and return equal scores."""
        self.tokens += self.forward_tokens(requests)
        return [np.zeros(len(r.continuations)) for r in requests]

    def generate(
        self, requests: Sequence[GenerateRequest], *, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Count prompts and the longest answers that may be given, and return empty ones."""
        self.tokens += self.forward_tokens([ScoreRequest(r.prompt, ("\n",)) for r in requests])
        self.tokens += sum(r.max_tokens for r in requests)
        return [Generation("", True)] * len(requests)


def plan(
    task: Task,
    model: LanguageModel,
    *,
    recipes: str = "all",
    shots: int | None = None,
    seed: int = 0,
    limit: int = DEFAULT_LIMIT,
    layout: str = "auto",
    selector_model: LanguageModel | None = None,
    source: Task | None = None,
) -> list[dict[str, Any]]:
    """Return what `adapt` with these settings would compute: recipe, predictions, forward tokens, steps of training.

    Generated answers count with the most tokens that they may have. Of settings that race, the later half of the
    configurations is the one that is dropped in the plan; in the run it may be a more costly one.
    Args: and Raises: as `adapt`.
    """
    stream, chosen_recipes = prepare(
        task, recipes=recipes, shots=shots, seed=seed, limit=limit, with_source=source is not None
    )
    asker = Asker.for_task(task, model, layout)
    judge_asker = Asker.for_task(task, selector_model) if selector_model else None
    check_model(task, stream, chosen_recipes, asker, judge_asker, is_named="all" not in recipes)
    rows = []
    for recipe in chosen_recipes:
        counting, judging = Counting(model), Counting(selector_model) if selector_model else None
        can_run = recipe.suits(task) and not lacking(recipe, task, asker, judge_asker)
        if can_run and recipe.needs and not recipe.missing_package:
            judge = Asker.for_task(task, judging) if judging else None
            aligned = Source(Asker.for_task(source, counting, layout), source.train) if source else None
            learner = make_learner(recipe, task, replace(asker, model=counting), seed=seed, judge=judge, source=aligned)
            learner.predict(stream.queries())
        tokens = counting.tokens + (judging.tokens if judging else 0)
        n = len(stream.examples) if can_run else 0
        rows.append(
            {"recipe": recipe.name, "predictions": n, "forward_tokens": tokens, "training_steps": counting.steps}
        )
    return rows
