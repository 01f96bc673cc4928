"""Which Boolean functions small networks learn to learn from their context, and what points that teach do for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.progress import Progress
from kshot.studies.experiment import Cell, Claim, Curve, Experiment, Findings, Plot, Row
from kshot.studies.interleaved import interleaved
from kshot.studies.networks import Decoder, made, n_weights, recurrent_as_large, train
from kshot.tasks.boolean_functions import BOOLEAN_CLASSES, LEAST_D, MOST_D, boolean_class, check_boolean, cube
from kshot.tasks.function_classes import FORCED, FunctionClass

TESTED, TIED = 512, 1e-9  # scores below it are those of learners that do not know
STEPS = 1000
DECODER, LSTM = "decoder", "lstm"
HARD = "parity"
LEARNERS = ("elimination learner", "nearest neighbour", "averaging", "least squares", "always no")


@dataclass(frozen=True)
class Sequences:
    """Functions with inputs in an order.

    Attributes:
        functions: Of the class, `[n]`.
        points: Inputs, all different, `[n, length]`.
        outputs: 1 for yes, `[n, length]`.
        taught: How many of the first points teach the function; 0 where none do, `[n]`.
    """

    functions: NDArray[np.int64]
    points: NDArray[np.int64]
    outputs: NDArray[np.int8]
    taught: NDArray[np.int64]


def draw(
    functions: FunctionClass, n: int, length: int, *, teach: bool, rng: np.random.Generator, forced: float = FORCED
) -> Sequences:
    """Draw functions of a class, and for each inputs without repetition.

    Args:
        functions: The class.
        n: How many.
        length: Inputs of each.
        teach: The points that teach the function come first.
        rng: For every random choice.
        forced: The share of points that are drawn from those to which the function says yes.
    """
    drawn = np.searchsorted(np.cumsum(functions.prior), rng.random(n)).clip(max=len(functions.prior) - 1)
    tables = functions.tables[drawn].astype(float)  # [n, n_inputs]
    chances = (1 - forced) / tables.shape[1] + forced * tables / tables.sum(axis=1, keepdims=True)
    keys = np.log(chances) + rng.gumbel(size=chances.shape)  # the largest are a draw without repetition
    taught = np.zeros(n, dtype=np.int64)
    if teach:
        for i, function in enumerate(drawn):
            points = functions.teaching(int(function)) or ()
            keys[i, list(points)] = 1e6 - np.arange(len(points))  # before all others, in their order
            taught[i] = len(points)
    order = np.argsort(-keys, axis=1)[:, :length]
    return Sequences(drawn, order, np.take_along_axis(functions.tables[drawn], order, axis=1), taught)


def tokens(found: Sequences, d: int) -> Tensor:
    """Return the sequences as vectors (`interleaved`), digits and outputs as 1 and -1."""
    digits, outputs = (values.astype(np.float64) for values in (cube(d)[found.points], found.outputs))
    return interleaved(2 * digits - 1, 2 * outputs - 1)


def learnt(functions: FunctionClass, found: Sequences, d: int) -> dict[str, list[float]]:
    """Return how often simple learners are right about each point after those before it, name -> `[length]`.

    The elimination learner says what most of the functions still possible say, by their prior; nearest neighbour what
    the nearest point says, the mean of those equally near; averaging and least squares sum w_i x_i > 0, with w the mean
    of y x and the shortest solution of X w = y, y being 1 or -1 and x having a constant 1 beside. A tie is half right.
    """
    n, length = found.points.shape
    x = np.concatenate([2.0 * cube(d) - 1, np.ones((2**d, 1))], axis=1)[found.points]  # [n, length, d + 1]
    y, signs = 2.0 * found.outputs - 1, 2.0 * functions.tables.T - 1  # [n, length], [n_inputs, n_functions]
    live = np.tile(functions.prior, (n, 1))
    right: dict[str, list[float]] = {name: [] for name in LEARNERS}
    for t in range(length):
        said, seen, past = signs[found.points[:, t]], x[:, :t], y[:, :t]
        near = np.einsum("ntd,nd->nt", seen, x[:, t])
        nearest = near == near.max(axis=1, keepdims=True, initial=-np.inf)
        weights = np.linalg.pinv(seen, rcond=1e-10) @ past[..., None]  # [n, d + 1, 1]
        scores = {
            "elimination learner": (live * said).sum(axis=1),
            "nearest neighbour": (nearest * past).sum(axis=1),
            "averaging": (near * past).sum(axis=1),
            "least squares": (weights[..., 0] * x[:, t]).sum(axis=1),
            "always no": np.full(n, -1.0),
        }
        for name, score in scores.items():
            right[name].append(float(np.where(np.abs(score) < TIED, 0.5, score * y[:, t] > 0).mean()))
        live *= said == y[:, t, None]
        live /= live.sum(axis=1, keepdims=True)
    return right


@dataclass(frozen=True)
class BooleanNetworks(Experiment):
    """Train small networks to learn Boolean functions from their context: conjunctions succeed, parities fail.

    A sequence is x_1, y_1, …, x_n, y_n of one function, drawn anew for each; at every x the network says y. Its
    accuracy by the number of points before stands beside that of simple learners, of which the one that knows the class
    and rules functions out is the best there is. With the points that teach a function first, few points suffice.

    Attributes:
        easy: The class that is learnt, of which the points that teach a function are known.
        d: Digits in an input.
        length: Points in a sequence.
        width: Of the decoder's blocks.
        layers: How many blocks, and how many layers the LSTM has, which is no larger.
        heads: Of a block; they divide the width.
        batch: Sequences in a step.
        lr: AdamW's, after a warm-up of a tenth of the steps.

    Source: Bhattamishra et al. (2023), Understanding In-Context Learning in Transformers and LLMs by Learning to Learn
    Discrete Functions, https://arxiv.org/abs/2310.03016.
    Differs: 6 digits in place of 28, whose functions are listed so that the best learner is exact, a network of a
    hundredth of the size, points without repetition.
    """

    easy: str = setting("conjunction", choices=BOOLEAN_CLASSES)
    d: int = setting(6, least=LEAST_D, most=MOST_D)
    length: int = setting(16, least=5, most=256)
    width: int = setting(64, least=8, most=1024)
    layers: int = setting(3, least=1, most=24)
    heads: int = setting(4, least=1, most=64)
    batch: int = setting(64, least=1, most=4096)
    lr: float = setting(3e-3, above=0.0)

    minutes: ClassVar[float] = 2.0

    def __post_init__(self):
        super().__post_init__()
        check_boolean(self.easy, self.d)
        if self.length > 2**self.d:
            raise SettingError(
                f"length must be at most {2**self.d}, the number of different inputs; got {self.length}."
            )
        if self.width % self.heads:
            raise SettingError(f"heads must divide width={self.width}; got {self.heads}.")
        if boolean_class(self.easy, self.d).teaching(0) is None:
            raise SettingError(f"easy must be a class whose teaching points are known; of '{self.easy}' they are not.")

    def cells(self) -> list[Cell]:
        """Return a cell for each network; see `kshot.studies.experiment.Experiment`."""
        about = [
            (self.easy, DECODER, False),
            (self.easy, DECODER, True),
            (self.easy, LSTM, False),
            (HARD, DECODER, False),
        ]
        return [
            Cell(
                f"{of}-{network}{'-taught' if teach else ''}",
                STEPS,
                {"of": of, "network": network, "teach": teach},
            )
            for of, network, teach in about
        ]

    def run(
        self, cell: Cell, *, rng: np.random.Generator, progress: Progress, scale: float, state: Path | None = None
    ) -> list[dict[str, Any]]:
        """Train one network; see `kshot.studies.experiment.Experiment`."""
        functions, teach = boolean_class(cell.settings["of"], self.d), cell.settings["teach"]
        forced = FORCED if cell.settings["of"] == self.easy else 0.0  # parities say yes half of the time
        network = made(lambda: self._network(cell.settings["network"]), rng)
        test = draw(functions, TESTED, self.length, teach=teach, rng=rng.spawn(1)[0], forced=forced)
        asked, right = tokens(test, self.d), test.outputs == 1
        fits = (test.taught > 0) & (test.taught < self.length)  # so that a point comes after those that teach
        if teach and not fits.any():
            raise SettingError(
                f"length must be {test.taught.min() + 1} or more, as a point has to come after those that teach; got "
                f"{self.length}."
            )

        def loss(rng: np.random.Generator) -> Tensor:
            found = draw(functions, self.batch, self.length, teach=teach, rng=rng, forced=forced)
            logits = network(tokens(found, self.d))[:, 0::2, 0]
            return functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(found.outputs.astype(np.float32))
            )

        def measure() -> dict[str, Any]:
            hits = ((network(asked)[:, 0::2, 0] > 0).numpy() == right).astype(float)
            after = hits[fits, test.taught[fits]]
            found: dict[str, Any] = {"accuracy": hits.mean(axis=0).tolist()}
            return found | ({"after_teaching": float(after.mean())} if teach else {})

        steps = cell.steps_at(scale)
        rows = train(network, loss, measure, steps=steps, rng=rng, progress=progress, lr=self.lr, warmup=steps // 10,
                     measured=10, state=state)  # fmt: skip
        rows[-1] |= {"weights": n_weights(network), "learners": learnt(functions, test, self.d)}
        if teach:
            rows[-1]["taught"] = float(test.taught[fits].mean())
        return rows

    def _network(self, kind: str) -> nn.Module:
        decoder = Decoder(self.d + 1, 1, width=self.width, layers=self.layers, heads=self.heads, length=2 * self.length)
        return decoder if kind == DECODER else recurrent_as_large(n_weights(decoder), self.d + 1, 1, layers=self.layers)

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Return what came out; see `kshot.studies.experiment.Experiment`."""
        last = {(row["of"], row["network"], row["teach"]): row for row in rows}
        plain, lstm, hard = (last[of, network, False] for of, network in
                             ((self.easy, DECODER), (self.easy, LSTM), (HARD, DECODER)))  # fmt: skip
        taught, seen = last[self.easy, DECODER, True], list(range(self.length))
        half, end = self.length // 2, self.length - 1
        table = []
        for row in (plain, lstm, taught, hard):
            name = f"{row['of']}{', points that teach first' if row['teach'] else ''}"
            for who, values in {row["network"]: row["accuracy"], **row["learners"]}.items():
                if who == row["network"] or row is not lstm:
                    table.append([name, who, *(values[i] for i in (0, 4, half, end))])
        curves = [Curve("decoder", seen, plain["accuracy"]), Curve("LSTM", seen, lstm["accuracy"])]
        curves += [Curve(who, seen, values) for who, values in plain["learners"].items()]
        first = [Curve("points that teach first", seen, taught["accuracy"]), Curve("drawn", seen, plain["accuracy"])]
        lost = [Curve("decoder", seen, hard["accuracy"])]
        lost += [Curve(who, seen, values) for who, values in hard["learners"].items()]
        x, y = "points seen", "share right"
        return Findings(
            plots=[
                Plot(f"Functions of the class {self.easy}", x, y, curves, chance=0.5),
                Plot("Points that teach first, and points that are drawn", x, y, first, chance=0.5),
                Plot("Parities", x, y, lost, chance=0.5),
            ],
            columns=("class", "learner", "0 points", "4 points", f"{half} points", f"{end} points"),
            table=table,
            claims=self._claims(plain, lstm, taught, hard),
        )

    def _claims(self, plain: Row, lstm: Row, taught: Row, hard: Row) -> list[Claim]:
        end, mine, others = self.length - 1, plain["accuracy"], plain["learners"]
        n = round(taught["taught"])  # after so many drawn points the drawn ones are compared
        return [
            Claim(f"{self.easy}: the decoder is above nearest neighbour after {end} points",
                  mine[end] - others["nearest neighbour"][end], 0.02),
            Claim(f"{self.easy}: it is less than 0.05 below the elimination learner, the mean over points",
                  float(np.mean(np.array(others["elimination learner"]) - mine)), 0.05, below=True),
            Claim(f"{self.easy}: the LSTM comes within 0.05 of the decoder, the mean over points",
                  float(np.mean(np.array(mine) - lstm["accuracy"])), 0.05, below=True),
            Claim(f"parity: the decoder stays at chance after {end} points", hard["accuracy"][end], 0.6, below=True),
            Claim("parity: the elimination learner does not", hard["learners"]["elimination learner"][end], 0.95),
            Claim("After the points that teach, the next point is right", taught["after_teaching"], 0.95),
            Claim(f"After as many drawn points ({n}) it is not so often", mine[n], 0.95, below=True),
        ]  # fmt: skip
