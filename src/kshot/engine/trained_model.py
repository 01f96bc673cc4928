"""A language model whose weights are trained: it scores and writes with what it has learnt so far."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any, Self

from kshot.core.errors import NotFiniteError, UserError
from kshot.core.lessons import Batch, StepLog, Training
from kshot.core.seeding import digest
from kshot.engine.activations import Activations
from kshot.engine.session import Session
from kshot.engine.training import Trainer
from kshot.models.gradient_mode import learning
from kshot.models.made_tokens import MadeTokens
from kshot.models.weights import TrainedWeights, read_adapter

_COPIED = ("lora", "full")  # weights that can be copied: others are beside the model


class TrainedEngine(Session):
    """A `TrainableModel` on the backbone of another engine, which stays as it is.

    Args:
        base: The engine whose backbone and store it shares.
        how: Settings of training.
        seed: For the first weights of adapters.
        decay: Of the running average of the weights that is kept; 0: none is.
        after: A model of the same backbone whose weights are the first ones, and which is "the model before training"
            here; it must not be trained any more.
    """

    @learning()
    def __init__(
        self, base: Session, how: Training, *, seed: int, decay: float = 0.0, after: "TrainedEngine | None" = None
    ):
        super().__init__(base.backbone, store=base._store, pack_tokens=base._pack_tokens)
        self.__dict__["obstacle"] = base.obstacle  # tried once, with the backbone's own weights
        self._pack_scored = base._pack_scored
        self._base, self._how = base, how
        fingerprint = digest((after or base).fingerprint, repr(how), seed)
        before, self._is_average = after and after._weights, False

        def first() -> TrainedWeights | MadeTokens:
            weights = self._first_weights(seed)
            if before:
                weights.load_tensors(before.tensors())
            return weights

        self._weights = first()
        copied = first if how.weights in _COPIED else None
        packs: Any = {"can_pack": base.obstacle is None, "decay": decay, "before": before, "copied": copied}
        self._trainer = Trainer(base.backbone, self._weights, how, fingerprint=fingerprint, **packs)

    def _first_weights(self, seed: int) -> TrainedWeights | MadeTokens:
        """Return what is trained, as it is before training."""
        return TrainedWeights(self.backbone, self._how.weights, rank=self._how.rank, seed=seed)

    def continued(self, how: Training, *, seed: int) -> "TrainedEngine":
        """Return a model that is trained further; see `kshot.core.models.TrainableModel`.

        Raises:
            UserError: It is trained beside the model, or `how` is for other weights.
        """
        if (how.weights, how.rank) != (self._how.weights, self._how.rank) or how.weights not in _COPIED:
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
        return digest(self._trainer.fingerprint, "average") if self._is_average else self._trainer.fingerprint

    @property
    def averaged(self) -> Self:
        """The same model, asked under the running average of its weights, which goes on with every step."""
        other = copy(self)
        other._is_average = True
        return other

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the backbone compute with the trained weights, and then with what is steered."""
        own = self._trainer.averaged() if self._is_average else nullcontext()
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
