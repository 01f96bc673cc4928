"""Soft injection: learned gates mix a task's mean head outputs into the last token of a prompt without examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.lessons import Training
from kshot.core.steering import Steering
from kshot.core.types import Example
from kshot.methods.contracts import Steerer
from kshot.methods.steerers.held_out import held_out
from kshot.methods.steerers.task_embedding import task_embedding
from kshot.taskmodel.taskmodel import TaskModel

LOSSES = ("auto", "choice", "first", "all")
MOST_VALIDATED = 100


@dataclass(frozen=True)
class SoftInjection(Steerer):
    """Mix the heads' mean outputs on few-shot prompts into theirs at the end of a prompt, each as much as is learnt.

    A third of the examples (at most 100) is held out, from embedding and gates alike; the gates that give it the
    fewest bits are kept.

    Attributes:
        prompts: Few-shot prompts that the embedding is the mean of.
        shots: Demonstrations in each of them.
        steps: Steps of training the gates.
        batch: Examples in a step.
        lr: Learning rate, of Adam.
        every: Steps between two looks at what is held out.
        loss: "all" learns every token of an answer, "first" its first token, "choice" the first token by which the
            answers that can be given differ, among theirs; "auto" is "all" in open tasks and "choice" in others.

    Source: Park et al. (2025), Soft Injection of Task Embeddings, section 3, https://arxiv.org/abs/2507.20906.
    Differs: theirs is steps=400,batch=1,every=50,loss=first, which takes twice as long for as many examples and leaves
    more bits (JOURNAL.md, 2026-11-26); the gates before training can be kept as well.
    """

    prompts: int = setting(50, least=1, most=10_000)
    shots: int = setting(10, least=1, most=1000)
    steps: int = setting(100, least=1, most=100_000)
    batch: int = setting(4, least=1, most=1000)
    lr: float = setting(0.2, least=0)
    every: int = setting(25, least=1, most=100_000)
    loss: str = setting("auto", choices=LOSSES)

    least = 4

    @property
    def _training(self) -> Training:
        return Training(lr=self.lr, clip=0.0)

    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.methods.contracts.Steerer`.

        Raises:
            UserError: Fewer than four examples.
            DivergedError: Training has left the finite numbers.
        """
        if len(examples) < self.least:
            raise UserError(f"soft-injection needs at least {self.least} examples; got {len(examples)}.")
        held, known = held_out(examples, most=MOST_VALIDATED, rng=rng)
        vectors = task_embedding(known, n_prompts=self.prompts, shots=self.shots, model=model, rng=rng)
        gated = model.activations.gated(vectors, self._training)
        loss = self.loss if self.loss != "auto" else "all" if model.task.is_open else "choice"
        model.progress.begin("training gates", self.steps)
        kept = [gated.steering()]
        for step in range(1, self.steps + 1):
            drawn = [known[i] for i in rng.integers(len(known), size=self.batch)]
            model.learn(gated, drawn, loss=loss)
            if step % self.every == 0 or step == self.steps:
                kept.append(gated.steering())
        bits = model.bits_under(kept, held).mean(axis=1)
        best = int(np.argmin(np.nan_to_num(bits, nan=np.inf)))
        looks = [round(float(b), 4) for b in bits]
        return replace(kept[best], about={"steerer": "soft-injection", "held_out_bits": looks, "kept": best})
