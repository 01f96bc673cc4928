"""What the race's halving does on the streams that `choice.py` has recorded, and what it would do otherwise.

How far curves end from where they are projected, in the standard errors of `kshot.race.halving`, by kind of recipe; and
regret and cost if recipes that train were spared for a while. Ends are those of the streams, no test row counts in
them; regrets are on test rows, so nothing may be chosen by them alone.

    python benchmarks/halving.py
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from choice_page import calibrated_streams, regret
from choice_rules import Rows, chosen, kind_of, places, race, recipe_of, whole_cost

from kshot.measures.curves import projected, uncertainty
from kshot.race.halving import SHRINK, clipped, slices

END = 30  # the last rows of a stream, which tell where its curves end
SPARED = (0, 32, 64)


def misses(known: Mapping[object, Rows]) -> dict[tuple[str, int], tuple[float, float]]:
    """Return by how many bits curves end above their projection, and the root mean square in standard errors.

    For each kind of recipe and number of predictions; each recipe against the mean of the others.
    """
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for rows in known.values():
        names, at = list(rows), places(next(iter(rows.values())))
        bits = np.array([rows[name]["stream"]["bits"] for name in names])
        ends, middle = -clipped(bits[:, -END:]), at[-1] + 1 - END // 2
        for (_, stop), (i, name) in product(slices(len(at))[:-1], enumerate(names)):
            values, others = -clipped(bits[:, :stop]), np.arange(len(names)) != i
            where = projected(values, at[:stop], middle, SHRINK)
            gaps = ends[i] - ends[others].mean(axis=0)
            miss = float(gaps.mean() - (where[i] - where[others].mean()))
            error = uncertainty(values[i] - values[others].mean(axis=0), at[:stop], middle, SHRINK)
            found[kind_of(name), stop].append((miss, miss / np.hypot(error, gaps.std(ddof=1) / np.sqrt(END))))
    means = {key: np.array(pairs) for key, pairs in found.items()}
    return {key: (float(pairs[:, 0].mean()), float(np.sqrt((pairs[:, 1] ** 2).mean()))) for key, pairs in means.items()}


def spared(known: Mapping[object, Rows], least: int) -> tuple[float, float]:
    """Return the mean regret in points, and the cost, if none that trains were dropped before so many predictions."""
    regrets, spent = [], 0.0
    for rows in known.values():
        raced = race(rows, spared=lambda name, n: recipe_of(name).trains and n < least)
        regrets.append(regret(rows, chosen(rows, raced).scores))
        spent += raced.tokens
    return float(np.mean(regrets)), spent / sum(map(whole_cost, known.values()))


if __name__ == "__main__":
    streams = calibrated_streams(json.loads(Path("docs/results/choice.json").read_text("utf-8"))["rows"])
    print(f"{len(streams)} streams")
    for (kind, stop), (miss, ratio) in sorted(misses(streams).items()):
        print(f"{kind:12} after {stop:3}: ends {miss:+.2f} bits better than projected, {ratio:.1f} standard errors")
    for least in SPARED:
        points, cost = spared(streams, least)
        print(f"recipes that train spared until {least:2} predictions: regret {points:+.1f} points, cost {cost:.2f}")
