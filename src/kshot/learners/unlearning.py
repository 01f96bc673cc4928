"""Training a model that has learnt until it does not answer some questions any more, and all others as before.

A step has as many lessons of what is to be forgotten as of what is to stay; half of the latter are of the rows that are
most like the former by their words, as a model that forgets too much forgets those first.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from kshot.core.errors import DamagedError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.models import TrainableModel, TunableModel
from kshot.core.progress import Progress
from kshot.core.seeding import generator
from kshot.core.types import Example, Query
from kshot.learners.answering import answering
from kshot.learners.fitted import Fitted, fingerprint, fingerprints
from kshot.learners.prompted import PromptLearner
from kshot.methods.contracts import Teacher, Tuner
from kshot.retrieval.lexical import LexicalIndex
from kshot.taskmodel.taskmodel import TaskModel

SECONDS_BETWEEN_STATES = 20.0


def unlearnt(
    fitted: Fitted, forget: Sequence[Example], retain: Sequence[Example], tuner: Tuner, teacher: Teacher, *,
    batch: int, progress: Progress, kept: Path | None = None,
) -> Fitted:  # fmt: skip
    """Return the same with weights after which rows are forgotten; what it was is the model before training.

    Args:
        fitted: Prompted, or trained with LoRA or all weights; it shows none of what is to be forgotten.
        forget: Marked for the teacher, which says what is said in place of their answers.
        retain: What is to stay, as it is.
        tuner: How weights are trained, and how many steps for each row that is to be forgotten; of a model that is
            trained already the learning rate and the optimiser alone count.
        teacher: That of forgetting.
        batch: Lessons in a step.
        progress: Told of the steps.
        kept: A file for the state of training, on the way and at the end. Where it is there, as this very training has
            left it, training goes on from it.

    Raises:
        DivergedError: The learning rate is too large.
        UserError: Weights that cannot be trained further.
        StorageError: What is kept could not be written.
    """
    assert fitted.model is not None
    how, own = tuner.training, fitted.recipe.part("tuner")
    if own:
        how = replace(own.training, lr=how.lr, optimiser=how.optimiser, clip=how.clip, **_UNGUIDED)
        tuner = replace(own, lr=how.lr, optimiser=how.optimiser, clip=how.clip, **_UNGUIDED)
    student = (
        fitted.trained.continued(how, seed=fitted.seed)
        if fitted.trained
        else cast(TunableModel, fitted.model.model).trainable(how, seed=fitted.seed)
    )
    asking, learner = fitted.model.noted(fitted.notes), cast(PromptLearner, answering(fitted))
    near, n_steps = nearest(forget, retain), tuner.steps * len(forget)
    n_forget = max(1, batch // 2) if retain else batch
    progress.begin("forgetting", n_steps)
    first, saved_at = _steps_kept(student, kept, progress), time.monotonic()
    progress.advance(first)
    for step in range(first, n_steps):
        rng = generator(fitted.seed, "unlearn", step)
        drawn = rng.permutation(len(forget))[:n_forget].tolist()
        stay = [retain[near[i] if rng.random() < 0.5 else int(rng.integers(len(retain)))] for i in drawn if retain]
        lessons = [_lesson(example, fitted, learner) for example in (*(forget[i] for i in drawn), *stay)]
        taught = teacher.lessons(lessons, (*forget, *retain), step=step, rng=rng)
        student.learn(Batch([asking.training_text(lesson) for lesson in taught], objective=teacher.objective))
        if kept and (step + 1 == n_steps or time.monotonic() - saved_at > SECONDS_BETWEEN_STATES):
            student.save_state(kept, {"steps": step + 1})
            saved_at = time.monotonic()
        progress.advance(1)
    recipe = replace(fitted.recipe.having(tuner=tuner, teacher=teacher), name=f"unlearn({fitted.recipe.name})")
    learnt = fitted.learnt | fingerprints((*forget, *retain))
    return replace(fitted, recipe=recipe, model=_on(fitted.model, student, tuner), learnt=learnt)


def _steps_kept(student: TrainableModel, kept: Path | None, progress: Progress) -> int:
    """Let a model go on from what is kept, if that is whole, and return how many steps were taken before."""
    if kept and kept.exists():
        try:
            return student.load_state(kept)["steps"]
        except DamagedError as error:
            progress.say(f"it begins to forget again: {error}")
    return 0


_UNGUIDED = {"direction": 0.0, "magnitude": 0.0, "align": "none"}


def _on(model: TaskModel, student: object, tuner: Tuner) -> TaskModel:
    return replace(model, model=cast(TunableModel, student), told=tuner.told)


def _lesson(target: Example, fitted: Fitted, learner: PromptLearner) -> Lesson:
    """Return a lesson that is asked as the model is, without the target among what is shown."""
    shown = learner.demonstrations(Query(target, fitted.pool)) if fitted.pool else ()
    return Lesson(tuple(e for e in shown if fingerprint(e) != fingerprint(target)), target, "last")


def nearest(rows: Sequence[Example], others: Sequence[Example]) -> list[int]:
    """Return for each row the place of the other one that shares the most words with it (BM25); none without others.

    Where several share as much, rows take them in turn.
    """
    if not others:
        return []
    index, found = LexicalIndex([e.text for e in others]), []
    for i, row in enumerate(rows):
        scores = index.scores(row.text)
        best = np.flatnonzero(scores == scores.max())
        found.append(int(best[i % len(best)]))
    return found


def without(fitted: Fitted, forget: Sequence[Example]) -> tuple[Fitted, int]:
    """Return the same without demonstrations that ask what is to be forgotten, and how many these were."""
    marks = fingerprints(forget)
    pool = tuple(e for e in fitted.pool if fingerprint(e) not in marks)
    n = len(fitted.pool) - len(pool)
    if not n:
        return fitted, 0
    kept = {e.id for e in pool}
    contexts = list(dict.fromkeys(ids for some in fitted.contexts if (ids := tuple(i for i in some if i in kept))))
    if len(contexts) == 1:
        contexts = []
    bits = {name: value for name, value in fitted.bits.items() if name in kept}
    recipe = fitted.recipe if pool else replace(fitted.recipe.without("selector"), k=0, contexts=1)
    return replace(fitted, recipe=recipe, pool=pool, contexts=tuple(contexts), bits=bits), n


def can_continue(training: Training) -> bool:
    """Return whether weights that were trained so can be trained further."""
    return training.weights in ("lora", "full")
