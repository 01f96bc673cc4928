"""Whether small networks that learn functions of numbers from their context predict like the posterior."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.progress import Progress
from kshot.core.types import FloatArray
from kshot.studies.experiment import Cell, Claim, Curve, Experiment, Findings, Plot, Row
from kshot.studies.interleaved import interleaved
from kshot.studies.networks import Decoder, made, train
from kshot.studies.regression_families import along, family

STEPS, TESTED, SHORT = 6000, 2048, 2


@dataclass(frozen=True)
class PrismNetworks(Experiment):
    """Train small decoders on families of functions: they come near the posterior mean, of mixtures too.

    A sequence is x_1, y_1, …, x_n, y_n of one function, drawn anew for each, with noise; at every x the network says y.
    Its squared distance to the function by the number of points before stands beside that of the posterior mean: ridge
    regression for dense weights, for a mixture the components' means weighed by how probable each makes the points.

    Attributes:
        families: Which, one network each, several with / between: dense, sparse, sign, mixture, fourier.
        d: Numbers in an input; frequencies of a Fourier series.
        noise: Deviation of the noise in an output.
        length: Points in a sequence.
        width: Of the decoder's blocks.
        layers: How many blocks.
        heads: Of a block; they divide the width.
        batch: Sequences in a step.
        lr: AdamW's, after a warm-up of a twentieth of the steps.

    Source: Panwar et al. (2023), In-Context Learning through the Bayesian Prism, https://arxiv.org/abs/2306.04891.
    Differs: 5 dimensions, noise, outputs divided by their deviation, 6,000 steps in place of 500,000.
    """

    families: str = "dense/mixture"
    d: int = setting(5, least=2, most=12)
    noise: float = setting(1.0, above=0.0)
    length: int = setting(11, least=4, most=256)
    width: int = setting(64, least=8, most=1024)
    layers: int = setting(3, least=1, most=24)
    heads: int = setting(4, least=1, most=64)
    batch: int = setting(64, least=1, most=4096)
    lr: float = setting(3e-3, above=0.0)

    minutes: ClassVar[float] = 5.0

    def __post_init__(self):
        super().__post_init__()
        for name in self._names:
            family(name, self.d, self.noise)
        if len(set(self._names)) < len(self._names):
            raise SettingError(f"families must name each once; got '{self.families}'.")
        if self.length <= 2 * self.d:
            raise SettingError(
                f"length must be more than 2 d = {2 * self.d}, as errors are compared there; got {self.length}."
            )
        if self.width % self.heads:
            raise SettingError(f"heads must divide width={self.width}; got {self.heads}.")

    @property
    def _names(self) -> list[str]:
        return self.families.split("/")

    def cells(self) -> list[Cell]:
        """Return a cell for each family; see `kshot.studies.experiment.Experiment`."""
        return [Cell(name, STEPS, {"family": name}) for name in self._names]

    def run(
        self, cell: Cell, *, rng: np.random.Generator, progress: Progress, scale: float, state: Path | None = None
    ) -> list[dict[str, Any]]:
        """Train one network; see `kshot.studies.experiment.Experiment`."""
        functions, steps = family(cell.settings["family"], self.d, self.noise), cell.steps_at(scale)
        make = lambda: Decoder(functions.dim + 1, 1, width=self.width, layers=self.layers, heads=self.heads,  # noqa: E731
                               length=2 * self.length)  # fmt: skip
        network = made(make, rng)
        x, y, clean = functions.draw(TESTED, self.length, rng=rng.spawn(1)[0])
        size = float(y.std())
        asked = interleaved(x, y / size)
        told = {name: along(x, y, predict) for name, predict in functions.predictors().items()}

        def loss(rng: np.random.Generator) -> Tensor:
            x, y, _ = functions.draw(self.batch, self.length, rng=rng)
            y /= size
            return functional.mse_loss(network(interleaved(x, y))[:, 0::2, 0], torch.from_numpy(y.astype(np.float32)))

        def measure() -> dict[str, Any]:
            said = size * network(asked)[:, 0::2, 0].numpy()
            return {"error": _squared(said, clean), "to_posterior": {"network": _squared(said, told["posterior"])}}

        rows = train(network, loss, measure, steps=steps, rng=rng, progress=progress, lr=self.lr, warmup=steps // 20,
                     measured=10, state=state)  # fmt: skip
        rows[-1]["predictors"] = {name: _squared(values, clean) for name, values in told.items()}
        rows[-1]["to_posterior"] |= {name: _squared(values, told["posterior"]) for name, values in told.items()}
        return rows

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Return what came out; see `kshot.studies.experiment.Experiment`."""
        last = {row["family"]: row for row in rows}
        plots, table, claims = [], [], []
        for name, row in last.items():
            seen = list(range(self.length))
            curves = [Curve("network", seen, row["error"])]
            curves += [Curve(who, seen, values) for who, values in row["predictors"].items()]
            plots.append(Plot(f"Squared distance to the function, {name}", "points seen", "squared distance", curves))
            for who, values in {"network": row["error"], **row["predictors"]}.items():
                table.append([name, who, *(values[n] for n in (0, SHORT, self.d, 2 * self.d))])
            claims += self._claims(name, row)
        columns = ("family", "predictor", "0 points", f"{SHORT} points", f"{self.d} points", f"{2 * self.d} points")
        return Findings(plots, columns, table, claims)

    def _claims(self, name: str, row: Row) -> list[Claim]:
        best, network, n = row["predictors"]["posterior"], row["error"], 2 * self.d
        drops = [values[SHORT] / values[n] for values in (network, best)]
        found = [
            Claim(f"{name}: after {n} points the network's distance is within twice the posterior's",
                  network[n] / best[n], 2.0, below=True),
            Claim(f"{name}: the network's distance drops from {SHORT} to {n} points by", drops[0], 2.0),
            Claim(f"{name}: the posterior's does by", drops[1], 2.0),
        ]  # fmt: skip
        for who in sorted(row["predictors"].keys() - {"posterior"}):
            other = row["predictors"][who][SHORT]
            found.append(Claim(f"{name}: after {SHORT} points the network's distance is below that of the {who}",
                               network[SHORT] / other, 1.0, below=True))  # fmt: skip
            nearer = row["to_posterior"]["network"][SHORT] / row["to_posterior"][who][SHORT]
            found.append(Claim(f"{name}: there its answers are nearer to the posterior's than those of the {who}",
                               nearer, 1.0, below=True))  # fmt: skip
        return found


def _squared(said: FloatArray, right: FloatArray) -> list[float]:
    """Return the mean squared distance at each place, `[length]`."""
    return ((said - right) ** 2).mean(axis=0).tolist()
