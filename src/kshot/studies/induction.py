"""When a two-layer attention network reads labels from its context, and when it learns them in its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.progress import Progress
from kshot.studies.experiment import Cell, Claim, Curve, Experiment, Findings, Plot, Row, whole_numbers
from kshot.studies.labelled_classes import Drawn, draw, placed, world
from kshot.studies.networks import AttentionOnly, made, train

STEPS, TESTED = 5000, 512
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Induction(Experiment):
    """Train two layers of attention on labelled items: bursty contexts of many classes bring an induction head.

    With few classes and contexts that do not help, labels are learnt in the weights, and items of new classes cannot be
    named. With many classes and contexts where the item's class comes again and again, the network learns to look up
    the label: an item's label looks at the item before it (first layer), and the item that is asked about at the label
    that stands after one like it (second layer). That comes at once, after a time in which any label of the context is
    as good as any other.

    Attributes:
        bursts: How often each class of a context comes in it, several with / between; 0: classes are drawn one by one.
            All are tried with the most classes.
        classes: How many classes there are; all are tried with the largest burst, the fewest without bursts too.
        labels: How many labels; each count of classes is a multiple of it.
        dim: Numbers in an item.
        items: In a context; each burst divides it.
        places: One-hot places, at least as many as a sequence is long; where it begins among them is drawn.
        exponent: The k-th class comes in proportion to k^-exponent.
        noise: Within a class, as a multiple of what is between classes.
        bursty: The share of bursty contexts in training (p_B).
        new: The share of those whose classes were made for them alone (p_C).
        batch: Sequences in a step.
        lr: AdamW's.

    Source: Reddy (2023), The mechanistic basis of data dependence and abrupt learning in an in-context classification
    task, https://arxiv.org/abs/2312.03002. Differs: AdamW in place of SGD; see `labelled_classes`.
    """

    bursts: str = "0/1/2/4"
    classes: str = "128/512/1024"
    labels: int = setting(32, least=2, most=10_000)
    dim: int = setting(63, least=1, most=4096)
    items: int = setting(8, least=1, most=256)
    places: int = setting(65, least=3, most=1024)
    exponent: float = setting(0.0, least=0.0, most=10.0)
    noise: float = setting(0.1, least=0.0, most=10.0)
    bursty: float = setting(1.0, least=0.0, most=1.0)
    new: float = setting(0.0, least=0.0, most=1.0)
    batch: int = setting(128, least=1, most=4096)
    lr: float = setting(1e-3, above=0.0)

    def __post_init__(self):
        super().__post_init__()
        for k in self._classes:
            if k % self.labels or k < self.items:
                raise SettingError(
                    f"classes must be multiples of labels={self.labels}, and no fewer than items={self.items}; got {k}."
                )
        for b in self._bursts:
            if b and self.items % b:
                raise SettingError(f"bursts must divide items={self.items}; got {b}.")
        if self.places < 2 * self.items + 1:
            raise SettingError(
                f"places must be {2 * self.items + 1} or more, as a sequence of {self.items} items is so long; got "
                f"{self.places}."
            )

    @property
    def _bursts(self) -> list[int]:
        return whole_numbers(self.bursts, "bursts", least=0, most=self.items)

    @property
    def _classes(self) -> list[int]:
        return whole_numbers(self.classes, "classes", least=1, most=MOST_CLASSES)

    def cells(self) -> list[Cell]:
        """Return a cell for each burst and each number of classes; see `kshot.studies.experiment.Experiment`."""
        few, many, most = min(self._classes), max(self._classes), max(self._bursts)
        pairs = [(0, few)] if 0 in self._bursts else []
        pairs += [(most, k) for k in sorted(self._classes, reverse=True)]
        pairs += [(b, many) for b in self._bursts]
        return [Cell(f"B={b}-K={k}", STEPS, {"burst": b, "classes": k}) for b, k in dict.fromkeys(pairs)]

    def run(
        self, cell: Cell, *, rng: np.random.Generator, progress: Progress, scale: float, state: Path | None = None
    ) -> list[dict[str, Any]]:
        """Train one network; see `kshot.studies.experiment.Experiment`."""
        burst, n_classes = cell.settings["burst"], cell.settings["classes"]
        known = world(n_classes, self.labels, self.dim, noise=self.noise, exponent=self.exponent, rng=rng)
        network = made(lambda: AttentionOnly(self.dim + self.places, self.labels), rng)
        sizes = (burst or 1,) * (self.items // (burst or 1))
        asked = (most := max(self._bursts) or 1,) * (self.items // most)  # tests are the same in all cells
        chance = rng.spawn(1)[0]
        how: dict[str, Any] = {"sizes": asked, "rng": chance}
        tests = {
            "new_classes": draw(known, TESTED, bursty=1, new=1, **how),
            "other_labels": draw(known, TESTED, bursty=1, shift=1, **how),
            "in_weights": draw(known, TESTED, bursty=0, absent=True, **how),
        }
        inputs = {name: self._input(found, chance) for name, found in tests.items()}

        def loss(rng: np.random.Generator) -> Tensor:
            bursty = self.bursty if burst else 0.0
            found = draw(known, self.batch, sizes=sizes, bursty=bursty, new=self.new, rng=rng)
            return functional.cross_entropy(network(self._input(found, rng)), torch.from_numpy(found.target))

        def measure() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, x in inputs.items():
                logits, first, second = network.looked(x)
                found[name] = _share(logits.argmax(-1).numpy() == tests[name].target)
                if name == "new_classes":
                    found |= _heads(tests[name], first.numpy(), second.numpy(), logits.argmax(-1).numpy())
            return found

        return train(
            network, loss, measure, steps=cell.steps_at(scale), rng=rng, progress=progress, lr=self.lr, state=state
        )

    def _input(self, found: Drawn, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(placed(found.tokens, self.places, rng))

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Return what came out; see `kshot.studies.experiment.Experiment`."""
        by_cell: dict[str, list[Row]] = {}
        for row in rows:
            by_cell.setdefault(row["cell"], []).append(row)
        last = {(found[-1]["burst"], found[-1]["classes"]): found[-1] for found in by_cell.values()}
        few, many, most = min(self._classes), max(self._classes), max(self._bursts)
        bursty = by_cell[f"B={most}-K={many}"]
        columns = ("burst", "classes", "new classes", "other labels", "in weights", "to the token before",
                   "to the right label")  # fmt: skip
        keys = ("burst", "classes", "new_classes", "other_labels", "in_weights", "previous", "induction")
        return Findings(
            plots=[
                Plot(
                    "Items of new classes named from the context",
                    "steps of training",
                    "share right",
                    [_curve(f"B={b}, K={k}", by_cell[f"B={b}-K={k}"], "new_classes") for b, k in last],
                    chance=1 / self.labels,
                ),
                Plot(
                    f"What happens inside, B={most}, K={many}",
                    "steps of training",
                    "share",
                    [
                        _curve("new classes right", bursty, "new_classes"),
                        _curve("answers that are in the context", bursty, "in_context"),
                        _curve("label to the token before", bursty, "previous"),
                        _curve("item to the right label", bursty, "induction"),
                    ],
                ),
            ],
            columns=columns,
            table=[[row[key] for key in keys] for row in last.values()],
            claims=self._claims(last, few, many, most),
        )

    def _claims(self, last: Mapping[tuple[int, int], Row], few: int, many: int, most: int) -> list[Claim]:
        found = []
        if most:
            many_bursty = last[most, many]
            found += [
                Claim(f"With B={most} and K={many} new classes are named", many_bursty["new_classes"], 0.85),
                Claim(f"With B={most} and K={many} labels follow the context", many_bursty["other_labels"], 0.85),
                Claim("Its second layer looks at the right label", many_bursty["induction"], 0.5),
            ]
        if most and few < many:
            rise = last[most, many]["new_classes"] - last[most, few]["new_classes"]
            found.append(Claim(f"New classes: K={many} gives more than K={few}, both with B={most}", rise, 0.0))
        if (0, few) in last:
            found += [
                Claim(f"With B=0 and K={few} labels are in the weights", last[0, few]["in_weights"], 0.9),
                Claim(f"With B=0 and K={few} new classes are not named", last[0, few]["new_classes"], 0.1, below=True),
            ]
        if most and (0, many) in last:
            rise = last[most, many]["new_classes"] - last[0, many]["new_classes"]
            found.append(Claim(f"New classes: B={most} gives more than B=0, both with K={many}", rise, 0.5))
        return found


def _curve(name: str, rows: Sequence[Row], key: str) -> Curve:
    return Curve(name, [row["step"] for row in rows], [row[key] for row in rows])


def _share(right: np.ndarray) -> float:
    return float(right.mean())


def _heads(found: Drawn, first: np.ndarray, second: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """Return what the two heads attend to, and how often an answer is one of the context's labels.

    Args:
        found: The sequences.
        first: Attention of the first layer, `[n, length, length]`.
        second: Of the second layer at the last place, `[n, length]`.
        answers: Labels, `[n]`.
    """
    at = np.arange(1, first.shape[1] - 1, 2)  # of the labels
    return {
        "in_context": _share((found.labels == answers[:, None]).any(1)),
        "previous": float(first[:, at, at - 1].mean()),
        "induction": float((second[:, at] * found.same).sum(1).mean()),
    }
