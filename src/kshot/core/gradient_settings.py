"""What is said about gradients of single examples: with respect to what, and where on the way of learning."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path

from kshot.core.errors import UserError
from kshot.core.fields import Checked, setting

FORWARD_AND_BACKWARD = 3  # how much a token that is learnt counts, in tokens that are read
OF, LOSSES, FIRSTS = ("prefix", "lora", "last-block"), ("sum", "mean"), ("embeddings", "normal")


@dataclass(frozen=True)
class GradientSettings(Checked):
    """How gradients of single examples are taken.

    First the prefix or the adapters are trained on all examples, and kept at some steps on the way; then each example's
    gradient is taken at each of these snapshots. Of the last block nothing is trained: there is one snapshot.

    Attributes:
        of: With respect to what: "prefix", trained vectors before the text; "lora", adapters of low rank on all linear
            layers; "last-block", the linear layers of the last block.
        tokens: Vectors in the prefix.
        rank: Rank of the adapters.
        snapshots: How many, evenly from the first step to the last.
        epochs: How often training sees each example; 0 trains nothing, and there is one snapshot.
        batch: Examples in a step of training.
        lr: Learning rate of AdamW.
        warmup: In the first share of the steps the learning rate rises to that, in a straight line.
        loss: "sum" over an answer's tokens, or their "mean".
        first: How the prefix begins: "embeddings", as large as the embeddings of tokens, or "normal", with a standard
            deviation of 0.02.
        adam: For adapters and prefixes, take the direction of the step that AdamW would make instead of the gradient.
        projection: Most dimensions of a snapshot's gradient: larger ones are projected to so many, at random; 0 keeps
            all whole.
    """

    of: str = setting("prefix", choices=OF)
    tokens: int = setting(4, least=1, most=1024)
    rank: int = setting(4, least=1, most=1024)
    snapshots: int = setting(5, least=1, most=1000)
    epochs: int = setting(3, least=0, most=1000)
    batch: int = setting(8, least=1, most=10_000)
    lr: float = setting(1e-2, least=0)
    warmup: float = setting(0.0, least=0, most=1)
    loss: str = setting("sum", choices=LOSSES)
    first: str = setting("embeddings", choices=FIRSTS)
    adam: bool = False
    projection: int = setting(0, least=0, most=1_000_000)

    def __post_init__(self):
        super().__post_init__()
        if self.adam and self.of == "last-block":
            raise UserError("adam must be left out for the last block, which is not trained: there is no AdamW.")
        if self.adam and not self.epochs:
            raise UserError("adam must be left out with epochs=0, which trains nothing: there is no AdamW.")

    @property
    def settings(self) -> "GradientSettings":
        """These settings alone, without those that a selector adds."""
        return GradientSettings(*(getattr(self, f.name) for f in fields(GradientSettings)))

    @property
    def n_snapshots(self) -> int:
        """How many snapshots are asked for: one where nothing is trained."""
        return 1 if self.of == "last-block" else self.snapshots

    def n_runs(self, n: int) -> int:
        """Return how often one of `n` texts is run, forward and backward."""
        return n * (self.epochs * (self.of != "last-block") + len(self.snapshot_steps(n)))

    def cost(self, n_tokens: int, n: int) -> int:
        """Return the tokens run for `n` texts of `n_tokens` together, as `Cost` counts them.

        What is trained runs forward and backward; after the last block the way back is short.
        """
        return n_tokens * self.n_runs(n) // max(1, n) * (1 if self.of == "last-block" else FORWARD_AND_BACKWARD)

    def n_steps(self, n: int) -> int:
        """Return the steps of training on `n` texts."""
        return self.epochs * ceil(n / self.batch)

    def lr_at(self, step: int, n: int) -> float:
        """Return the learning rate of a step, from 0, of training on `n` texts."""
        n_rising = ceil(self.warmup * self.n_steps(n))
        return self.lr * min(1.0, (step + 1) / n_rising) if n_rising else self.lr

    def snapshot_steps(self, n: int) -> list[int]:
        """Return after which steps of training on `n` texts the snapshots are, the first and the last among them."""
        n_steps = self.n_steps(n)
        most = min(self.n_snapshots, n_steps)
        if most <= 1:
            return [n_steps]
        return [1 + i * (n_steps - 1) // (most - 1) for i in range(most)]


@dataclass(frozen=True)
class GradientStore:
    """Where gradients are kept, to be taken once.

    Attributes:
        folder: A file for each pool and settings; None keeps nothing beyond the process.
        rebuild: Replace what belongs to another model, other data or another seed, instead of refusing it.
        say: Told what was damaged, and is computed again.
    """

    folder: Path | None = None
    rebuild: bool = False
    say: Callable[[str], None] = lambda text: None
