"""What acts at the last token of a prompt, gates or a direction, trained by the one training loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kshot.core.gradient_settings import FORWARD_AND_BACKWARD
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import StepLog, Training, TrainingText
from kshot.core.steering import Steering
from kshot.engine.session import Session
from kshot.engine.training import Trainer
from kshot.engine.training_rows import Past, TrainingRow, remember
from kshot.models.gates import Gates
from kshot.models.gradient_mode import learning
from kshot.models.hf import Backbone
from kshot.models.interchange import Interchange


class GatedEngine:
    """An engine's model with gates, or a direction, which are all that is trained; the engine stays as it is.

    Args:
        engine: Whose model it is.
        make: Makes what is trained, for the engine's backbone.
        how: Optimiser, lr and clip.
    """

    most_bytes = 2**30  # of remembered prompts

    @learning()
    def __init__(self, engine: Session, make: Callable[[Backbone], Gates | Interchange], how: Training):
        self._engine = engine
        self._gates = make(engine.backbone)
        self._trainer = Trainer(
            engine.backbone, self._gates, how, fingerprint=engine.fingerprint, can_pack=engine.obstacle is None
        )
        self._pasts: dict[tuple[int, ...], Past] = {}

    @learning()
    def learn(
        self,
        texts: Sequence[TrainingText],
        *,
        first_token: bool,
        sources: NDArray[np.float32] | None = None,
        ledger: Ledger | None = None,
    ) -> StepLog:
        """Take one step on the answers that end the texts.

        Args:
            texts: Each a prompt and its answer; the prompt's last token is changed.
            first_token: Only the first token of an answer is learnt, or the first by which those to choose from differ.
            sources: For a direction what the last token of each prompt is given of, `[n_texts, width]`.
            ledger: What it takes is added to.

        Raises:
            UserError: A text too long for the model, or without an answer.
            DivergedError: Loss or gradient is not finite.
        """
        rows = [self._engine._encoder.training_row(text, marked=True, first_token=first_token) for text in texts]
        if sources is not None and isinstance(self._gates, Interchange):
            self._gates.take(sources)
            rows = [replace(row, mark=i) for i, row in enumerate(rows, start=1)]
        ledger = ledger or Ledger()
        with self._engine.active():
            if self._engine.obstacle is None:
                rows = self._behind_prompts(rows, ledger)
            log = self._trainer.step(rows)
        ledger.add(Cost(tokens=FORWARD_AND_BACKWARD * log.tokens))
        return log

    def _behind_prompts(self, rows: Sequence[TrainingRow], ledger: Ledger) -> list[TrainingRow]:
        """Return what is after the prompts, which no gate changes but in their last token: they are run once."""
        before = [row.ids[: row.marked[0]] for row in rows]
        new = list(dict.fromkeys(ids for ids in before if ids and ids not in self._pasts))
        if new:
            found = dict(zip(new, remember(self._engine.backbone, new), strict=True))
            ledger.add(Cost(tokens=sum(map(len, new))))
            if sum(past.n_bytes for past in (*self._pasts.values(), *found.values())) > self.most_bytes:
                self._pasts = {ids: self._pasts[ids] for ids in before if ids in self._pasts}
            self._pasts |= found
        return [
            replace(
                row,
                ids=row.ids[len(ids) :],
                supervised=tuple(at - len(ids) for at in row.supervised),
                marked=(0,),
                past=self._pasts.get(ids, row.past),
            )
            for row, ids in zip(rows, before, strict=True)
        ]

    def steering(self) -> Steering:
        """Return what the gates do now; of a direction, what sets the component along it to 1."""
        return self._gates.steering(self._engine.unsteered)
