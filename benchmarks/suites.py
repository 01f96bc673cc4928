"""What each suite says of two small models: as they are, with demonstrations, trained, both, and steered.

Run by `kshot bench suites --data DIR` in the repository. A unit of work (one recipe of one model on one task, fitted
once and asked by all suites) is done in a process of its own and kept under kshot-runs/bench-suites, so the same
command goes on where it stopped; all that is there goes into docs/results/suites.json and docs/results/suites.md.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from rows import RecipeUnit, Results, measure_one, named
from suites_page import page, summary

from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.race.stream import make_stream
from kshot.verbs.evaluate import evaluate, fitted

POOL, N_TEST, SEED = 60, 50, 0
MODELS = ("", "smollm2")  # the one that is named on the command line, and another
RECIPES = (
    "zero-shot",
    "random:k=8",
    "fine-tune:batch=8,lr=3e-4,steps=3",
    "icl+ft:k=4,lr=3e-4,steps=3",
    "icv",
)
SHORTER = {  # where passages are so long that the usual training takes an hour
    "qa/xquad_en": ("zero-shot", "random:k=8", "fine-tune:batch=2,lr=3e-4,steps=1", "icv"),
}
OF_TASK = {
    "classification/sst2": (
        "letter-case",
        "confidence",
        "twins:k=4,rows=30",
    ),
    "grounding/counterfact_hard": ("context-use", "pairs"),
    "qa/xquad_en": ("context-ablation:rows=20",),
}
OF_MODEL = (  # of systems of the first task
    "verbalisers:natural=2,neutral=3,unnatural=2,rows=30",
    "distribution:generations=20",
    "edits:edits=8",
    "instructions:dialogues=4,samples=2,length=20",
    "rubrics:systems=4,length=16",
    "tutoring:problems=4,turns=2,length=30",
)


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done."""
    return [
        RecipeUnit("suites", task, recipe, SEED, model)
        for model in MODELS
        for task in OF_TASK
        for recipe in SHORTER.get(task, RECIPES)
    ]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Fit a unit's recipe, run the suites and return a row for each."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed).examples
    task = replace(whole, train=stream[:POOL], test=whole.test[:N_TEST])
    model = unit.model or model
    adapted = fitted(unit.recipe, task, load_model(named(model)), seed=unit.seed)
    of_model = OF_MODEL if unit.task == next(iter(OF_TASK)) and unit.recipe != "random:k=8" else ()  # zero-shot's model
    rows = []
    for suite in (*OF_TASK[unit.task], *of_model):
        began = time.perf_counter()
        try:
            report: dict[str, Any] = dict(evaluate(adapted, task, suite))
        except UserError as error:  # such as twins of a model that was not trained
            report = {"refused": str(error).replace(named(model), model)}  # where the file is tells nothing
        about = {"task": unit.task, "recipe": unit.recipe, "model": model, "suite": suite}
        rows.append(about | {"report": report, "seconds": time.perf_counter() - began})
        print(unit.name, suite, f"{rows[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    return rows


RESULTS = Results("suites", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
