"""What Gemma-270M forgets, and what stays, by the settings of `kshot unlearn`: capitals, of which some have to go.

`python benchmarks/unlearning.py DIR DRAW SETTINGS …` prints a line of JSON for each settings string, "" for the
defaults: of `N` drawn capitals of functions/country_capital eight are shown; of the others `N_FORGET` that the prompted
model knows are forgotten, and the rest has to stay. Each group's share of right answers is told, before and after.
"""

import json
import sys
import time
from dataclasses import replace

import kshot
from kshot.adapted.model import AdaptedModel
from kshot.adapted.recall import recall
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

N, N_FORGET, PROMPT = 58, 12, "random:k=8"


def main(data: str, draw: int, every: list[str]) -> None:
    """Print a line for each settings string."""
    whole = Task.load(f"{data}/functions/country_capital")
    drawn = [whole.train[i] for i in generator(draw, "unlearning").permutation(len(whole.train))[:N]]
    recipe = parse_recipe(PROMPT, shots=8)
    task = replace(whole, train=tuple(drawn[: recipe.k]), test=())
    setup = Setup(task, TaskModel.for_task(task, load_model("demo")), draw)
    adapted = AdaptedModel.fit(recipe, task.train, setup, choice={})
    rows = drawn[recipe.k :]
    known = [e for e, right in zip(rows, recall(adapted, rows, Silence()).scores, strict=True) if right]
    forget = known[:N_FORGET]
    for settings in every:
        began = time.perf_counter()
        found = kshot.unlearn(adapted, forget, retain=[e for e in rows if e not in forget], settings=settings).report
        line: dict[str, object] = {"draw": draw, "settings": settings, "seconds": round(time.perf_counter() - began)}
        for group in ("forget", "attack", "retain", "held_out", "neighbour"):
            line[group] = [round(found[group][when], 2) for when in ("before", "after")]
        line["general"] = [round(found["general"][f"perplexity_{when}"], 1) for when in ("before", "after")]
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
