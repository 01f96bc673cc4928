"""Which distributions of classes bring learning in context, and which in weights: a transformer and an LSTM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.progress import Progress
from kshot.studies.experiment import Cell, Claim, Curve, Experiment, Findings, Plot, Row, numbers, whole_numbers
from kshot.studies.labelled_classes import draw, placed, world
from kshot.studies.networks import AttentionOnly, made, n_weights, recurrent_as_large, train

STEPS, TESTED = 5000, 1024
ITEMS, SIZES = 8, (3, 3, 1, 1)  # of a context; of a bursty one, the class that is asked about first
PLACES = 65  # one-hot places; where a sequence begins among them is drawn
LAYERS = 2
TWO_WAYS = (4, 4)  # of a test with two new classes
TRANSFORMER, LSTM = "transformer", "lstm"
Key = tuple[str, float, int, float]  # network, share of bursty contexts, number of classes, exponent


@dataclass(frozen=True)
class ClassDistribution(Experiment):
    """Train transformers and an LSTM on labelled items, with classes that are bursty or not, few or many, even or not.

    Each context has 8 items. In a bursty one three are of the class that is asked about, three of another, and two of
    others; in the rest each class is drawn for itself. In context: two new classes, four items each, and the share of
    queries whose right label gets more than the other one. In weights: known classes, as often as in training, that
    are not in the context.

    Attributes:
        bursty: Shares of bursty contexts in training, several with / between.
        classes: How many classes there are.
        exponents: The k-th class comes in proportion to k^-exponent.
        labels: How many labels; each count of classes is a multiple of it.
        dim: Numbers in an item.
        noise: Within a class, as a multiple of what is between classes.
        batch: Sequences in a step.
        lr: AdamW's.

    Source: Chan et al. (2022), Data Distributional Properties Drive Emergent In-Context Learning in Transformers,
    https://arxiv.org/abs/2205.05055. Differs: points with noise in place of handwritten characters, fewer labels than
    classes, a transformer of two attention layers with neurons after the last alone; see `labelled_classes`.
    """

    bursty: str = "0/0.9"
    classes: str = "128/1024"
    exponents: str = "0/1"
    labels: int = setting(32, least=2, most=10_000)
    dim: int = setting(63, least=1, most=4096)
    noise: float = setting(0.1, least=0.0, most=10.0)
    batch: int = setting(128, least=1, most=4096)
    lr: float = setting(1e-3, above=0.0)

    def __post_init__(self):
        super().__post_init__()
        for k in self._classes:
            if k % self.labels or k < ITEMS:
                raise SettingError(
                    f"classes must be multiples of labels={self.labels}, and no fewer than {ITEMS}; got {k}."
                )
        self.cells()  # so that all lists of numbers are checked

    @property
    def _bursty(self) -> list[float]:
        return numbers(self.bursty, "bursty", least=0, most=1)

    @property
    def _classes(self) -> list[int]:
        return whole_numbers(self.classes, "classes", least=1, most=100_000)

    @property
    def _exponents(self) -> list[float]:
        return numbers(self.exponents, "exponents", least=0, most=10)

    def cells(self) -> list[Cell]:
        """Return the cells around the burstiest, of the most classes; see `kshot.studies.experiment.Experiment`."""
        most, many, even = max(self._bursty), max(self._classes), min(self._exponents)
        found = [(TRANSFORMER, most, many, even), (LSTM, most, many, even)]
        found += [(TRANSFORMER, p, many, even) for p in self._bursty]
        found += [(TRANSFORMER, most, k, even) for k in self._classes]
        found += [(TRANSFORMER, most, many, a) for a in self._exponents]
        keys = ("network", "bursty", "classes", "exponent")
        return [
            Cell(f"{kind}-p={p:g}-K={k}-a={a:g}", STEPS, dict(zip(keys, (kind, p, k, a), strict=True)))
            for kind, p, k, a in dict.fromkeys(found)
        ]

    def run(
        self, cell: Cell, *, rng: np.random.Generator, progress: Progress, scale: float, state: Path | None = None
    ) -> list[dict[str, Any]]:
        """Train one network; see `kshot.studies.experiment.Experiment`."""
        about = cell.settings
        known = world(about["classes"], self.labels, self.dim, noise=self.noise, exponent=about["exponent"], rng=rng)
        network = self._network(about["network"], rng)
        chance = rng.spawn(1)[0]
        new = draw(known, TESTED, sizes=TWO_WAYS, bursty=1, new=1, rng=chance)
        old = draw(known, TESTED, sizes=SIZES, bursty=0, absent=True, rng=chance)
        other = np.take_along_axis(new.labels, new.same.argmin(1)[:, None], 1)[:, 0]  # of the class not asked about
        n = np.arange(TESTED)

        inputs = [torch.from_numpy(placed(found.tokens, PLACES, chance)) for found in (new, old)]

        def loss(rng: np.random.Generator) -> Tensor:
            found = draw(known, self.batch, sizes=SIZES, bursty=about["bursty"], rng=rng)
            x = torch.from_numpy(placed(found.tokens, PLACES, rng))
            return functional.cross_entropy(_at_the_end(network(x)), torch.from_numpy(found.target))

        def measure() -> dict[str, Any]:
            logits, plain = (_at_the_end(network(x)).numpy() for x in inputs)
            return {
                "in_context": float((logits[n, new.target] > logits[n, other]).mean()),
                "of_all_labels": float((logits.argmax(1) == new.target).mean()),
                "in_weights": float((plain.argmax(1) == old.target).mean()),
            }

        rows = train(
            network, loss, measure, steps=cell.steps_at(scale), rng=rng, progress=progress, lr=self.lr, state=state
        )
        return [{**row, "weights": n_weights(network)} for row in rows]

    def _network(self, kind: str, rng: np.random.Generator) -> nn.Module:
        dim = self.dim + PLACES

        def transformer() -> AttentionOnly:
            return AttentionOnly(dim, self.labels)

        def lstm() -> nn.Module:
            with torch.device("meta"):
                size = n_weights(transformer())
            return recurrent_as_large(size, dim, self.labels, layers=LAYERS)

        return made(transformer if kind == TRANSFORMER else lstm, rng)

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Return what came out; see `kshot.studies.experiment.Experiment`."""
        by_cell: dict[Key, list[Row]] = {}
        for row in rows:
            by_cell.setdefault((row["network"], row["bursty"], row["classes"], row["exponent"]), []).append(row)
        usual = next(iter(by_cell))
        keys = ("network", "bursty", "classes", "exponent", "weights", "in_context", "of_all_labels", "in_weights")
        return Findings(
            plots=[
                Plot(
                    title,
                    "steps of training",
                    "share right",
                    [_curve(_name(one, usual), found, key) for one, found in by_cell.items()],
                    chance,
                )
                for title, key, chance in (
                    ("Two new classes, from the context", "in_context", 0.5),
                    ("Known classes that the context does not hold", "in_weights", 1 / self.labels),
                )
            ],
            columns=[key.replace("_", " ") for key in keys],
            table=[[found[-1][key] for key in keys] for found in by_cell.values()],
            claims=self._claims({key: found[-1] for key, found in by_cell.items()}),
        )

    def _claims(self, last: dict[Key, Row]) -> list[Claim]:
        most, many, even = max(self._bursty), max(self._classes), min(self._exponents)
        least, few, steep = min(self._bursty), min(self._classes), max(self._exponents)
        usual = last[TRANSFORMER, most, many, even]
        recurrent = last[LSTM, most, many, even]
        found = [
            Claim("The transformer learns in context", usual["in_context"], 0.8),
            Claim("An LSTM of equal size stays near chance in context", recurrent["in_context"], 0.6, below=True),
        ]
        if least < most:
            other = last[TRANSFORMER, least, many, even]
            found += [
                Claim(
                    f"In context: p={most:g} gives more than p={least:g}",
                    usual["in_context"] - other["in_context"],
                    0.1,
                ),
                Claim(
                    f"In weights: p={most:g} gives less than p={least:g}",
                    usual["in_weights"] - other["in_weights"],
                    0.0,
                    below=True,
                ),
            ]
        if few < many:
            other = last[TRANSFORMER, most, few, even]
            found += [
                Claim(f"In context: K={many} gives more than K={few}", usual["in_context"] - other["in_context"], 0.0),
                Claim(
                    f"In weights: K={many} gives less than K={few}",
                    usual["in_weights"] - other["in_weights"],
                    0.0,
                    below=True,
                ),
            ]
        if even < steep:
            other = last[TRANSFORMER, most, many, steep]
            both = min(other["in_context"], other["in_weights"])
            rest = min(usual["in_context"], usual["in_weights"])
            found.append(
                Claim(f"Both at once: the lower share is higher at exponent {steep:g} than {even:g}", both - rest, 0.1)
            )
        return found


def _at_the_end(said: Tensor) -> Tensor:
    """Return what is said at the last place, `[n, labels]`, by a network that speaks there alone or at every place."""
    return said if said.ndim == 2 else said[:, -1]


def _name(key: Key, usual: Key) -> str:
    """Return what a cell differs in from the usual one, for a legend."""
    if key == usual:
        return f"p={key[1]:g}, K={key[2]}, exponent {key[3]:g}"
    said = ("LSTM", f"p={key[1]:g}", f"K={key[2]}", f"exponent {key[3]:g}")
    return ", ".join(text for text, one, other in zip(said, key, usual, strict=True) if one != other)


def _curve(name: str, rows: Sequence[Row], what: str) -> Curve:
    return Curve(name, [row["step"] for row in rows], [row[what] for row in rows])
