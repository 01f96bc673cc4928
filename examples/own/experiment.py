"""An experiment: networks that are trained from scratch, here of a single neuron."""

from dataclasses import dataclass

import numpy as np

import kshot


@dataclass(frozen=True)
class Margin(kshot.Experiment):
    """How many mistakes a perceptron makes while it learns which side of a plane points are on."""

    dim: int = 10

    def cells(self):
        """Return one cell for each width of the gap between the sides."""
        return [kshot.Cell(f"gap={gap}", steps=500, settings={"gap": gap}) for gap in (0.0, 0.2)]

    def run(self, cell, *, rng, progress, scale, state=None):
        """Train one neuron, and return a row for every tenth of its steps."""
        plane, weights, n_wrong, rows = rng.standard_normal(self.dim), np.zeros(self.dim), 0, []
        n = cell.steps_at(scale)
        for step in range(1, n + 1):
            x = rng.standard_normal(self.dim)
            x += cell.settings["gap"] * plane * np.sign(x @ plane)
            y = np.sign(x @ plane)
            if y * (x @ weights) <= 0:
                weights, n_wrong = weights + y * x, n_wrong + 1
            if step % max(1, n // 10) == 0:
                rows.append({"step": step, "mistakes": n_wrong})
            progress.advance(1)
        return rows

    def findings(self, rows):
        """Return the curves, a table and what theory says."""
        curves = []
        for gap in (0.0, 0.2):
            of_gap = [row for row in rows if row["gap"] == gap]
            curves.append(
                kshot.Curve(f"gap {gap}", [row["step"] for row in of_gap], [row["mistakes"] for row in of_gap])
            )
        wide, narrow = curves[1].y[-1], curves[0].y[-1]
        return kshot.Findings(
            plots=[kshot.Plot("Mistakes while learning", "points seen", "mistakes", curves)],
            columns=("gap", "mistakes"),
            table=[(0.0, narrow), (0.2, wide)],
            claims=[kshot.Claim("A gap saves mistakes", narrow - wide, 0.0)],
        )
