"""A language model whose weights are trained: it scores and writes with what it has learnt so far."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import ModelError, NotFiniteError, UserError
from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Averaging, Batch, StepLog, Training, TrainingText
from kshot.core.seeding import digest
from kshot.engine.activations import Activations
from kshot.engine.gradients import ExampleGradients
from kshot.engine.session import Session
from kshot.engine.training import Trainer
from kshot.models.gradient_mode import learning
from kshot.models.made_tokens import MadeTokens
from kshot.models.weights import TrainedWeights, read_adapter

_GO_ON = ("lora", "full")  # weights that can be trained further: others are beside the model


class TrainedEngine(Session):
    """A `TrainableModel` on the backbone of another engine, which stays as it is.

    Args:
        base: The engine whose backbone and store it shares.
        how: Settings of training.
        seed: For the first weights of adapters.
        average: How a running average of the weights is kept; None: none is.
        after: A model of the same backbone whose weights are the first ones, and which is "the model before training"
            here; it must not be trained any more.
    """

    @learning()
    def __init__(
        self,
        base: Session,
        how: Training,
        *,
        seed: int,
        average: Averaging | None = None,
        after: "TrainedEngine | None" = None,
    ):
        super().__init__(base.backbone, store=base._store, pack_tokens=base._pack_tokens)
        self.__dict__["obstacle"] = base.obstacle  # tried once, with the backbone's own weights
        self._pack_scored = base._pack_scored
        self._base, self._how = base, how
        fingerprint = digest((after or base).fingerprint, repr(how), seed)
        # The weights, however they are trained
        self._first = digest((after or base).fingerprint, how.weights, how.rank, seed)
        before, self._is_average = after and after._weights, False
        self._weights = self._first_weights(seed)
        if before:
            self._weights.load_tensors(before.tensors())
        packs: Any = {"can_pack": base.obstacle is None, "average": average, "before": before}
        self._trainer = Trainer(base.backbone, self._weights, how, fingerprint=fingerprint, **packs)

    def _first_weights(self, seed: int) -> TrainedWeights | MadeTokens:
        """Return what is trained, as it is before training."""
        return TrainedWeights(self.backbone, self._how.weights, rank=self._how.rank, seed=seed)

    def continued(self, how: Training, *, seed: int) -> "TrainedEngine":
        """Return a model that is trained further; see `kshot.core.models.TrainableModel`.

        Raises:
            UserError: It is trained beside the model, or `how` is for other weights.
        """
        if (how.weights, how.rank) != (self._how.weights, self._how.rank) or how.weights not in _GO_ON:
            raise UserError(
                f"Weights that are trained further must be lora or full, and stay what they are; got weights="
                f"{how.weights}, rank={how.rank} after {self._how.weights}, {self._how.rank}. Leave these settings "
                "out, or take a model that fine-tune or icl+ft has trained."
            )
        with self.backbone.lock:
            return TrainedEngine(self._base, how, seed=seed, after=self)

    @property
    def base(self) -> Session:
        """The model before training, on the same backbone."""
        return self._base

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the model before training."""
        return self.backbone.fingerprint

    @property
    def unsteered(self) -> str:
        """Identifies the base model, the settings and everything learnt, in its order."""
        average = self._trainer.average if self._is_average else None
        return digest(self._trainer.fingerprint, repr(average.how)) if average else self._trainer.fingerprint

    @property
    def averaged(self) -> Self:
        """The same model, asked under the running average of its weights, which goes on with every step."""
        assert self._trainer.average, "it was made trainable without an average"
        other = copy(self)
        other._is_average = True
        return other

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the backbone compute with the trained weights, and then with what is steered."""
        average = self._trainer.average if self._is_average else None
        own = average.active() if average else nullcontext()
        with self.backbone.lock, own, self._weights.active(), super().active():
            yield

    @property
    def activations(self) -> Activations:
        """Reading activations, and asking under many steerings at once."""
        return Activations(self)

    @learning()
    def learn(self, batch: Batch) -> StepLog:
        """Take one step.

        Raises:
            UserError: A text too long for the model, or without an answer or what the objective reads.
            DivergedError: Loss or gradient is not finite.
            ModelError: Too little memory.
        """
        rows, support, source = (
            [self.training_row(text) for text in texts] for texts in (batch.texts, batch.support, batch.source)
        )
        with self.backbone.lock:
            return self._trainer.step(rows, support, source, batch.objective)

    @learning()
    def gradients(
        self,
        texts: Sequence[TrainingText],
        how: GradientSettings,
        *,
        seed: int,
        store: GradientStore | None = None,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> NDArray[np.float32]:
        """Return the gradient of each text's loss with respect to the adapters as they are now, `[n_texts, dim]`.

        Args:
            texts: Each ends with its answer.
            how: Of adapters, with their rank and without epochs, as what is trained is trained elsewhere.
            seed: For the projection.
            store: As in `Engine.gradients`, as are the others.
            progress: Called with the number of texts run since the last call.
            ledger: What it takes is added to.

        Raises:
            UserError: A text too long for the model or without an answer, or a store of something else.
            ModelError: A gradient is not finite, or what is trained, or is to be looked at, is something else.
        """
        if (self._how.weights, "lora", self._how.rank, 0) != ("lora", how.of, how.rank, how.epochs):
            raise ModelError(
                f"Gradients of a model in training are those of its adapters, taken as they are: of=lora, rank="
                f"{self._how.rank}, epochs=0; got of={how.of}, rank={how.rank}, epochs={how.epochs} for weights="
                f"{self._how.weights}. Use weights=lora, or the model before training."
            )
        rows = [self.training_row(text) for text in texts]
        if ledger:
            ledger.add(Cost(tokens=how.cost(sum(len(row.ids) for row in rows), len(rows))))
        with self.backbone.lock:
            weights, can_pack = cast(TrainedWeights, self._weights), self.obstacle is None
            taken = ExampleGradients(self.backbone, how, can_pack=can_pack, seed=seed, weights=weights)
            return taken.along_training(
                rows,
                about={"model": self.unsteered if self._trainer.n_steps else self._first},
                store=store or GradientStore(),
                progress=progress or (lambda n: None),
            )

    def save_state(self, file: Path, about: Mapping[str, Any]) -> None:
        """Write everything that training needs to go on, with `about` beside it."""
        self._trainer.save(file, about)

    @learning()
    def load_state(self, file: Path) -> dict[str, Any]:
        """Go on where `save_state` was called; return its `about`."""
        return self._trainer.load(file)

    def save_weights(self, folder: Path) -> None:
        """Write the weights: LoRA as an adapter that plain peft loads.

        Raises:
            NotFiniteError: One is not finite.
        """
        for name, tensor in self._weights.tensors().items():
            if not tensor.isfinite().all():
                raise NotFiniteError(
                    f"Trained weights must be finite numbers; '{name}' is not. Train with a smaller lr, or use --dtype "
                    "float32."
                )
        self._weights.save(folder, self.fingerprint)

    @learning()
    def load_weights(self, folder: Path, fingerprint: str) -> None:
        """Read the weights that `save_weights` wrote; `fingerprint` is what it was then.

        Raises:
            UserError: The file is not there, cannot be read, or belongs to another model.
        """
        self._weights.load_tensors(read_adapter(folder, self._how.weights, fingerprint))
        self._trainer.fingerprint = fingerprint

    def save_merged(self, folder: Path) -> None:
        """Write a whole model with the weights worked in, as transformers loads it.

        Raises:
            UserError: What is trained is beside the model.
        """
        with self.backbone.lock:
            self._weights.save_merged(folder)
