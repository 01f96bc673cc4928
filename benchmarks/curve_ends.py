"""Where learning curves in bits end, by a straight line and by a power law: against other training rows, no test row.

`python benchmarks/curve_ends.py` reads docs/results/choice.json. For each recipe without a second look, on each stream
that has the recipes that train, it takes the bits along the stream to its end and holds them against the mean bits of
the training rows beyond it: mean and root of the mean square of what is expected minus what came, in bits.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from choice_rules import calibrated_row, kind_of, places

from kshot.core.types import FloatArray
from kshot.measures.curves import at_end, moved
from kshot.race.ranking import SHRINK_LEARNING

KINDS = ("trained", "retrieval")


def ends(bits: FloatArray, known: list[int], n_end: int) -> tuple[float, float]:
    """Return what is expected by a line, no less than 0, and by a power law; each keeps learning."""
    shrink = SHRINK_LEARNING * len(bits)
    return max(0.0, at_end(bits, known, n_end, shrink)), float(moved(bits, known, n_end, shrink).mean())


def main() -> None:
    """Print a line for each kind of task and of recipe."""
    streams = defaultdict(list)
    for row in json.loads(Path("docs/results/choice.json").read_text("utf-8"))["rows"]:
        if row["layer"] == "1-first" and row["rest"]:
            streams[row["task"]].append(row)
    errors = defaultdict(list)
    for rows in streams.values():
        if any(kind_of(row["recipe"]) == "trained" for row in rows):
            for row in (row for row in rows if kind_of(row["recipe"]) in KINDS):
                is_open = row["stream"]["log_probs"] is None
                said = row if is_open else calibrated_row(row)
                found = ends(np.array(said["stream"]["bits"]), places(said), said["n"])
                key = "open" if is_open else "closed", kind_of(row["recipe"])
                errors[key].append(np.array(found) - np.mean(said["rest"]["bits"]))
    for key, some in sorted(errors.items()):
        by = zip(("line", "power"), np.mean(some, axis=0), np.sqrt(np.mean(np.square(some), axis=0)), strict=True)
        told = (f"{how} {mean:+.2f} {root:.2f}" for how, mean, root in by)
        print(f"{' '.join(key):16} {len(some):2}", "  ".join(told))


if __name__ == "__main__":
    main()
