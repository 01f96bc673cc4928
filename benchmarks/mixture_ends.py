"""What is expected of a mixture, along its stream or by second looks: against other training rows, no test row.

`python benchmarks/mixture_ends.py` reads docs/results/choice.json. On each closed stream that has the recipes that
train it mixes those that the race leaves, and `DRAWS` random sets of recipes; of what is expected minus the share of
right answers among the training rows beyond the stream it prints mean and root of the mean square, in points, and the
latter without each task's mean.
"""

import json
from pathlib import Path

import numpy as np
from choice_page import calibrated_streams
from choice_rules import as_said, is_open, race
from mixtures import replayed, task_of

from kshot.core.seeding import generator
from kshot.core.types import Example
from kshot.measures.samples import sample_row
from kshot.race.ranking import evidence

DRAWS, SIZES = 28, (3, 4, 5, 6, 8)


def main() -> None:
    """Print a line for each way."""
    found, recorded = [], json.loads(Path("docs/results/choice.json").read_text("utf-8"))["rows"]
    for number, rows in enumerate(calibrated_streams(recorded).values()):
        if is_open(rows):
            continue
        rng = generator(number, "mixture ends")
        drawn = [rng.choice(list(rows), rng.choice(SIZES), replace=False).tolist() for _ in range(DRAWS)]
        of_task = []
        for names in (list(race(rows).racing), *drawn):
            mixed = replayed([as_said(rows[name]) for name in names], again=True)
            if len(mixed.members) > 1:
                task = task_of(rows[names[0]])
                said = zip(mixed.gold["stream"], mixed.stream, strict=True)
                along = [sample_row(task, "mix", i, Example("", gold, f"{i}"), p) for i, (gold, p) in enumerate(said)]
                known = evidence(task, along, by="metric", keeps_learning=True)
                by = np.clip([known.expected(len(along)), mixed.expected], 0, 1)
                of_task.append(100 * (by - mixed.accuracy("rest")))
        found.append(np.array(of_task))
    errors, within = np.concatenate(found), np.concatenate([one - one.mean(axis=0) for one in found])
    for i, way in enumerate(("along the stream", "by second looks")):
        of = errors[:, i].mean(), np.sqrt((errors[:, i] ** 2).mean()), np.sqrt((within[:, i] ** 2).mean())
        print(f"{way:16} {len(errors)} mixtures: {of[0]:+.1f}, {of[1]:.1f}, within a task {of[2]:.1f}")


if __name__ == "__main__":
    main()
