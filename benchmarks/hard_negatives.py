"""Answers learnt against the labels nearest to them, beside answers learnt token by token: along streams, no test row.

`python benchmarks/hard_negatives.py DIR DRAW TASK …` prints a line of JSON for each task of the folder and each way to
train: what is right, and bits, of `N` examples, each predicted from those before it, and of their second half; the
tokens that were computed, a learnt one counting as three.
"""

import json
import sys
from dataclasses import replace

import numpy as np

from kshot.core.types import Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.samples import sample_row
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

N, HOW = 100, "batch=8,lr=3e-4,steps=1"
WAYS = (f"fine-tune:{HOW}", f"fine-tune:{HOW},teacher=hard-negatives")


def main(data: str, draw: int, names: list[str]) -> None:
    """Print a line for each task and way."""
    model = load_model("demo")
    for name in names:
        whole = Task.load(f"{data}/{name}")
        examples = make_stream(whole, limit=N, seed=draw).examples[:N]
        task = replace(whole, train=examples, test=())
        for way in WAYS:
            learner = TrainedLearner(parse_recipe(way, shots=1), Setup(task, TaskModel.for_task(task, model), draw))
            said = [learner.predict_next(Query(e, examples[:i])) for i, e in enumerate(examples)]
            rows = [sample_row(task, "", i, e, p) for i, (e, p) in enumerate(zip(examples, said, strict=True))]
            found = np.array([[row["score"], row["bits"]] for row in rows])
            line = {"task": name, "draw": draw, "recipe": way, "n": len(rows)}
            line |= {"right": found[:, 0].mean(), "bits": round(found[:, 1].mean(), 3)}
            line |= {"right, later": found[N // 2 :, 0].mean(), "bits, later": round(found[N // 2 :, 1].mean(), 3)}
            print(json.dumps({**line, "tokens": round(sum(p.tokens + p.fit_tokens for p in said))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
