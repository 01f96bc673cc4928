"""Attention steering: heads look less at whatever is not the passage that is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.steering import SPANS, Edit, Steering
from kshot.core.types import Example, Task, not_made
from kshot.methods.contracts import Steerer
from kshot.methods.steerers.held_out import MOST_ASKED, held_out, held_out_best
from kshot.taskmodel.taskmodel import TaskModel

OF_ALL, OF_BEST = (1.0, 0.95, 0.9, 0.7, 0.4, 0.1), (1.0, 0.1, 0.01)
ALONE = 0.01  # of a head that is tried alone, where nothing else is said
MOST_HELD = 2 * MOST_ASKED


@dataclass(frozen=True)
class Attention(Steerer):
    """Multiply the attention to a prompt's tokens outside a span by alpha, before it is normalised again.

    log(alpha) is added to the scores of these tokens before softmax. What the model writes is never weighed down.

    Attributes:
        heads: "all" weighs in every head of every layer; "best" in those that help most, each tried alone.
        alpha: What the attention to the tokens outside is multiplied with; 0 chooses among some, 1 (nothing is changed)
            among them, by the bits of at most 64 examples, which the ranking of heads does not know.
        n: The most heads that are taken as the best; one that does not help is not.
        profiled: The most examples on which each head is tried alone.
        span: "context", the passages of what is asked; "asked", passages and question, as against demonstrations and
            instruction.

    Source: Zhang et al. (2023), Tell Your Model Where to Attend (PASTA), section 3, https://arxiv.org/abs/2311.02262;
    for a user's own text Wang et al. (2024), On the Loss of Context-awareness, https://arxiv.org/abs/2411.02688: alpha
    0.9 to 0.95 in whole models, 0.01 in chosen heads.
    Differs: alpha is chosen on the past alone. Heads are ranked by the bits that each saves on this task, not by their
    place among the best of several tasks.
    """

    heads: str = setting("all", choices=("all", "best"))
    alpha: float = setting(0.0, least=0, most=1)
    n: int = setting(8, least=1, most=100_000)
    profiled: int = setting(8, least=1, most=10_000)
    span: str = setting("context", choices=tuple(SPANS))

    least = 2

    def missing_field(self, task: Task) -> str | None:
        """Return "context" where there is none to look at."""
        has_context = self.span != "context" or any(e.context for e in (*task.train, *task.test))
        return None if has_context else "context"

    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.methods.contracts.Steerer`.

        Raises:
            UserError: Fewer than two examples.
            ModelError: Attention of this architecture cannot be weighed.
        """
        if len(examples) < self.least:
            raise UserError(f"attention needs at least {self.least} examples; got {len(examples)}.")
        ranks = self.heads == "best"
        held, known = held_out(examples, most=MOST_ASKED if ranks else len(examples), rng=rng)
        if not (ranks and held):  # nothing is learnt of those that are known, or they are too few
            known = held = [*held, *known]
            held = list(not_made(held))
        chosen = self._chosen(known, model)
        alphas = (self.alpha,) if self.alpha else OF_BEST if ranks else OF_ALL
        tried = [self._made(chosen, alpha, model) for alpha in alphas]
        return tried[0] if len(tried) == 1 else tried[held_out_best([(tried, held[:MOST_HELD])], model)]

    def _chosen(self, examples: Sequence[Example], model: TaskModel) -> NDArray[np.bool_]:
        """Return which heads are taken, `[n_layers, n_heads]`, by examples in random order."""
        shape = model.activations.shape
        every = np.ones((shape.n_layers, shape.n_heads), dtype=bool)
        if self.heads == "all":
            return every
        alone = [head.reshape(every.shape) for head in np.eye(every.size, dtype=bool)]
        tried = [Steering(()), *(self._made(head, self.alpha or ALONE, model) for head in alone)]
        bits = np.nan_to_num(model.bits_under(tried, examples[: self.profiled]).mean(axis=1), nan=np.inf)
        best = np.argsort(bits[1:], kind="stable")[: self.n]
        chosen = np.zeros(every.size, dtype=bool)
        chosen[best[bits[1:][best] < bits[0]]] = True
        return chosen.reshape(every.shape)

    def _made(self, chosen: NDArray[np.bool_], alpha: float, model: TaskModel) -> Steering:
        ones = np.ones((chosen.shape[1], 1), dtype=np.float32)
        edits = tuple(
            Edit(layer, "attention", "weigh", False, ones, (log(alpha) * own).astype(np.float32), self.span)
            for layer, own in enumerate(chosen)
        )
        heads = "all" if chosen.all() else np.argwhere(chosen).tolist()
        about = {"steerer": "attention", "span": self.span, "alpha": alpha, "heads": heads}
        return Steering(edits, model.unsteered, about)
