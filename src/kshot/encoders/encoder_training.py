"""Training encoders on groups of documents, with sentence-transformers' own trainers."""

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kshot.core.seeding import digest
from kshot.encoders.encoder import Encoder, fresh_cross_encoder, fresh_model, n_cut
from kshot.encoders.encoder_identity import encoder_id
from kshot.encoders.kept_training import KeptTraining
from kshot.encoders.losses import RetrieverLoss, RewardLoss
from kshot.models.gradient_mode import learning
from kshot.models.products import fast_products
from kshot.models.quiet import quiet

Batches = Sequence[list[int]]  # the rows of each step
Columns = Mapping[str, Sequence[Any]]  # query, document_0 (the positive), …; scores where there is a teacher
WARM_UP = 0.1  # of the steps; then the learning rate falls to 0, evenly
_SCORED_AT_ONCE = 32


class RewardModel:
    """A cross-encoder that says how much a document helps."""

    def __init__(self, model: Any):
        self._model = model

    def n_cut(self, pairs: Sequence[tuple[str, str]]) -> int:
        """Return how many pairs are longer than what the model reads, and are cut off."""
        return n_cut(self._model, pairs)

    def scores(
        self, pairs: Sequence[tuple[str, str]], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float64]:
        """Return the raw score of each (query, document), `[n_pairs]`."""
        found = [np.zeros(0)]
        for start in range(0, len(pairs), _SCORED_AT_ONCE):
            part = list(pairs[start : start + _SCORED_AT_ONCE])
            how: Any = {"activation_fn": nn.Identity(), "show_progress_bar": False}
            with fast_products():
                found.append(np.asarray(self._model.predict(part, **how), dtype=np.float64))
            if progress:
                progress(len(part))
        return np.concatenate(found)


def train_reward_model(
    name: str,
    columns: Columns,
    batches: Batches,
    *,
    lr: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
    kept: KeptTraining | None = None,
) -> RewardModel:
    """Train a cross-encoder to tell the first document of a group from the others.

    Args:
        name: The encoder it begins as, with a new head.
        columns: Texts by name, a row for each group.
        batches: The rows of each step.
        lr: Highest learning rate of AdamW, after a tenth of the steps.
        seed: For the head and dropout.
        progress: Called with the number of groups learnt since the last call.
        kept: Where the training survives an interruption.
    """
    from sentence_transformers import CrossEncoderTrainer as Trainer
    from sentence_transformers import CrossEncoderTrainingArguments as Arguments

    with _own_randomness(seed), learning(), quiet():
        model = fresh_cross_encoder(name)
        plan = _Plan(columns, batches, lr, seed, progress, kept)
        plan.run(Trainer, Arguments, model, RewardLoss(model), (name,))
    return RewardModel(model)


def train_retriever(
    name: str,
    columns: Columns,
    batches: Batches,
    *,
    lr: float,
    alpha: float,
    temperature: float,
    distil: bool,
    seed: int,
    progress: Callable[[int], None] | None = None,
    kept: KeptTraining | None = None,
) -> Encoder:
    """Train a bi-encoder as `RetrieverLoss` says; embeddings of positions stay.

    Arguments as `train_reward_model` and `RetrieverLoss`; the column `scores` holds a teacher's.
    """
    from sentence_transformers import SentenceTransformerTrainer as Trainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    with _own_randomness(seed), learning(), quiet():
        model = fresh_model(name)
        for weight, values in model.named_parameters():
            if "position_embeddings" in weight:
                values.requires_grad = False
        loss = RetrieverLoss(model, alpha, temperature, distil=distil)
        plan = _Plan(columns, batches, lr, seed, progress, kept)
        plan.run(Trainer, Arguments, model, loss, (name, alpha, temperature, distil))
    return Encoder(model)


@dataclass(frozen=True)
class _Plan:
    """What is learnt in which order; see `train_reward_model`."""

    columns: Columns
    batches: Batches
    lr: float
    seed: int
    progress: Callable[[int], None] | None
    kept: KeptTraining | None

    def run(self, trainer: Any, arguments: Any, model: Any, loss: nn.Module, what: tuple[Any, ...]) -> None:
        """Train a model with a trainer of sentence-transformers, once over all batches.

        Args:
            trainer: Its class.
            arguments: The class of its arguments.
            model: What is trained.
            loss: What is made small.
            what: The encoder that it begins as, and settings of the loss, which tell one training from others.
        """
        from datasets import Dataset
        from transformers import PrinterCallback

        model.model_card_data.widget = [{}]  # or it makes some, which takes a while, and prints
        n_done = 0
        if self.kept:
            plan = {name: list(column) for name, column in self.columns.items()}, self.batches, self.lr, self.seed
            self.kept.key = digest(trainer.__name__, encoder_id(what[0]), what, plan)
            n_done = self.kept.n_done()
        with tempfile.TemporaryDirectory() as folder, fast_products():
            how = arguments(
                output_dir=folder,
                per_device_train_batch_size=max(map(len, self.batches)),
                max_steps=len(self.batches),
                learning_rate=self.lr,
                warmup_steps=WARM_UP,
                seed=self.seed,
                use_cpu=True,
                dataloader_pin_memory=False,
                batch_sampler=lambda dataset, **_: _sampler(dataset, self.batches[n_done:]),
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            data = Dataset.from_dict(dict(self.columns))
            callbacks = [_telling(self.progress, self.batches)] if self.progress else []
            callbacks += [_keeping(self.kept, n_done)] if self.kept else []
            training = trainer(model=model, args=how, train_dataset=data, loss=loss, callbacks=callbacks)
            training.remove_callback(PrinterCallback)
            training.train()
        model.eval()


def _sampler(dataset: Any, batches: Batches) -> Any:
    from sentence_transformers.base.sampler import DefaultBatchSampler

    class Planned(DefaultBatchSampler):
        """Batches in the order given."""

        def __iter__(self) -> Iterator[list[int]]:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    return Planned(dataset, batch_size=1, drop_last=False)


def _telling(progress: Callable[[int], None], batches: Batches) -> Any:
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        """Tells of each step, those before an interruption first."""

        has_begun = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not self.has_begun and state.global_step:
                progress(sum(map(len, batches[: state.global_step])))
            self.has_begun = True

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(len(batches[state.global_step - 1]))

    return Telling()


def _keeping(kept: KeptTraining, n_done: int) -> Any:
    from transformers import TrainerCallback

    class Keeping(TrainerCallback):
        """Goes on after the steps that were taken before, and keeps what the others leave.

        The trainer goes over the batches that are left, in one epoch, and counts its steps from there.
        """

        def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
            if n_done:
                kept.go_on(now["model"], now["optimizer"], now["lr_scheduler"])
                state.global_step = n_done

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if n_done and state.global_step == n_done:  # who loads the data has drawn in the meantime
                kept.draw_on()

        def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
            if state.global_step < state.max_steps:
                kept.keep(state.global_step, now["model"], now["optimizer"], now["lr_scheduler"])

    return Keeping()


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Let the trainers seed what is global, and put it back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
