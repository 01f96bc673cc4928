"""The language model on a white-box backbone: all that can be asked of it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import ModelError
from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Averaging, Training, TrainingText
from kshot.core.models import Capability, TrainableModel
from kshot.engine.activations import Activations
from kshot.engine.frozen_model import ENGINES
from kshot.engine.gradients import ExampleGradients
from kshot.engine.session import Session
from kshot.engine.trained_model import TrainedEngine
from kshot.models.gradient_mode import learning


class Engine(Session):
    """A `LanguageModel` with every capability; arguments as `Session`."""

    capabilities = Session.capabilities | {Capability.GRADIENTS}

    @property
    def activations(self) -> Activations:
        """Reading activations, and asking under many steerings at once."""
        return Activations(self)

    def trainable(self, how: Training, *, seed: int, average: Averaging | None = None) -> TrainableModel:
        """Return the same model with weights of its own that can be trained.

        Raises:
            ModelError: It is steered.
            UserError: What is trained beside it would be too large for it.
        """
        self._check_bare()
        with self.backbone.lock:
            return ENGINES.get(how.weights, TrainedEngine)(self, how, seed=seed, average=average)

    def _check_bare(self) -> None:
        if self.steering:
            raise ModelError(f"'{self.name}' is steered, and training would not know of it; train first, then steer.")

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
        """Return the gradient of each text's loss at each snapshot, `[n_texts, n_snapshots * dim]`.

        Raises:
            UserError: A text too long for the model or without an answer, or a store of something else.
            ModelError: A gradient is not finite, or the model is steered.
        """
        self._check_bare()
        can_pack, rows = self.obstacle is None, [self.training_row(text) for text in texts]
        if ledger:
            ledger.add(Cost(tokens=how.cost(sum(len(row.ids) for row in rows), len(rows))))
        with self.active():
            taken = ExampleGradients(self.backbone, how, can_pack=can_pack, seed=seed)
            return taken.along_training(
                rows,
                about={"model": self.fingerprint},
                store=store or GradientStore(),
                progress=progress or (lambda n: None),
            )
