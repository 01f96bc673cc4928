"""What a learner hands over: a recipe that has learnt everything, as an adapted model holds and saves it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from kshot.core.ledger import Ledger
from kshot.core.models import Capability, LanguageModel, RememberingModel, TrainableModel, TunableModel
from kshot.core.seeding import digest
from kshot.core.steering import Steering
from kshot.core.types import Example, Task
from kshot.measures.calibration import UNCALIBRATED, Calibration
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.validate import duplicate_key


def fingerprints(examples: Iterable[Example]) -> frozenset[str]:
    """Return what tells the questions of examples from others, short; their texts are not kept."""
    return frozenset(map(fingerprint, examples))


def fingerprint(example: Example) -> str:
    """Return what tells a question from others: those that ask the same, but for white space, have the same."""
    return digest(*duplicate_key(example))[:16]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A recipe that has learnt.

    Attributes:
        recipe: With its methods as they are after learning, and one value for every setting.
        task: What it answers.
        seed: The run's.
        pool: The examples it may show: of a choice for the whole task those that it shows, in order.
        model: The language model that answers, with weights that were trained; None for classifiers.
        steering: What is changed in its activations.
        notes: What loops have written, shown after the instruction.
        bits: What the model that selectors ask has said of the pool, by id, where the order for each query goes by it.
        about: What became known on the way, for the record.
        members: Of a recipe that combines others, in their order.
        learnt: Fingerprints of the questions that it has learnt from.
        calibration: Of its probabilities, as fitted on a stream.
        contexts: Of a choice of several contexts for the whole task: ids of the pool's examples in each, in order.
    """

    recipe: Recipe
    task: Task
    seed: int
    pool: tuple[Example, ...] = ()
    model: TaskModel | None = None
    steering: Steering | None = None
    notes: tuple[str, ...] = ()
    bits: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    members: "tuple[Fitted, ...]" = ()
    learnt: frozenset[str] = frozenset()
    calibration: Calibration = UNCALIBRATED
    contexts: tuple[tuple[str, ...], ...] = ()

    @property
    def shown(self) -> tuple[tuple[Example, ...], ...]:
        """Where a choice is for the whole task: the examples of each context, in order."""
        by_id = {e.id: e for e in self.pool}
        return tuple(tuple(by_id[i] for i in ids) for ids in self.contexts) or (self.pool,)

    @property
    def language_model(self) -> LanguageModel | None:
        """The language model; None for classifiers."""
        return self.model.model if self.model else None

    @property
    def trained(self) -> TrainableModel | None:
        """The language model, if its weights were trained."""
        return cast(TrainableModel, self.language_model) if self.recipe.trains and not self.members else None

    def having_learnt(self, examples: Sequence[Example], beside: Sequence[Example] = ()) -> "Fitted":
        """Return the same, knowing what it has learnt from: whatever it shows, learns or chooses by.

        Args:
            examples: What it was fitted on.
            beside: Of another task, which training was aligned with.
        """
        return replace(self, learnt=self._learnt_of(examples) | fingerprints(beside))

    def _learnt_of(self, examples: Sequence[Example]) -> frozenset[str]:
        if self.members:
            return frozenset().union(*(member._learnt_of(examples) for member in self.members))
        if not self.recipe.learns:
            return frozenset()
        is_drawn = self.recipe.shows_one_set and self.recipe.chooses_alone and self.recipe.draws
        is_drawn = is_drawn and not self.recipe.selector_needs  # else all others were asked about
        return fingerprints(self.pool if is_drawn else (*examples, *self.pool))  # some of a pool may be generated

    @property
    def untrained(self) -> LanguageModel | None:
        """The language model before its weights were trained, which keeps nothing; None for classifiers."""
        first = next((f for f in (self, *self.members) if f.language_model), None)
        if first is None or first.language_model is None:
            return None
        return (first.trained.base if first.trained else first.language_model).with_store(None)

    @classmethod
    def before_learning(cls, recipe: Recipe, task: Task, seed: int, model: TaskModel | None) -> "Fitted":
        """Return what there is of a rebuilt recipe before what it has learnt is read: its composer speaks already."""
        composer, tuner = recipe.part("composer"), recipe.part("tuner")
        model = replace(model, composer=composer) if model and composer else model
        model = replace(model, told=tuner.told) if model and tuner else model
        return cls(recipe, task, seed, model=model if recipe.asks_model else None)

    def with_weights(self, folder: Path, fingerprint: str) -> "Fitted":
        """Return the same with the weights that a folder holds; `fingerprint` is what they were."""
        assert self.model is not None
        base = cast(TunableModel, self.model.model)
        trained = base.trainable(self.recipe.part("tuner").training, seed=self.seed)
        trained.load_weights(folder, fingerprint)
        return replace(self, model=replace(self.model, model=trained))

    def asking(self, asked: str) -> "Fitted":
        """Return the same with questions asked in a way that tuners know (`Tuner.told`)."""
        model = replace(self.model, asked=asked) if self.model else None
        return replace(self, model=model, members=tuple(member.asking(asked) for member in self.members))

    def with_model(self, model: LanguageModel) -> "Fitted":
        """Return the same on an instance of its language model that keeps nothing; trained weights stay."""
        own = None
        if self.model:
            instance = self.trained.with_store(None) if self.trained else model
            own = replace(self.model, model=instance, ledger=Ledger())
        return replace(self, model=own, members=tuple(m.with_model(model) for m in self.members))

    def remembering(self) -> "Fitted":
        """Return the same on language models that keep what stands before questions, where they can."""
        model = self.model
        if model and Capability.MEMORY in model.model.capabilities:
            model = replace(model, model=cast(RememberingModel, model.model).remembering())
        return replace(self, model=model, members=tuple(m.remembering() for m in self.members))
