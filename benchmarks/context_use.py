"""Who rests answers on the passage: recipes for contexts beside plain ones, on passages that contradict what is known.

Run by `kshot bench context-use --data DIR` in the repository. A unit of work (one recipe on one task, with one draw of
the training set) is done in a process of its own and kept under kshot-runs/bench-context-use, so the same command goes
on where it stopped; all that is there goes into docs/results/context-use.json and docs/results/context-use.md. A recipe
is a line of `RECIPES`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from context_use_page import page, summary
from rows import RecipeUnit, Results, measure_one

from kshot.adapted.model import AdaptedModel
from kshot.core.types import Example, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.measures.answer_sources import tells_apart
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.evaluate import evaluate

POOL, SEEDS, N_TEST = 100, (0, 1, 2), 100
TASKS = (
    "grounding/counterfact_hard",
    "grounding/fakepedia_base",
    "grounding/fakepedia_multihop",
    "grounding/memotrap_proverb_ending",
    "grounding/memotrap_proverb_translation",
)
_TRAINED = "lr=3e-4,steps=1"  # the same for all
RECIPES = (
    "zero-shot",
    f"fine-tune:{_TRAINED}",
    f"cings:mode=no_context,{_TRAINED}",
    f"cings:{_TRAINED}",
    f"tagged:{_TRAINED}",
    f"intent:{_TRAINED}",
    "attention",
    "knob",
    f"intent:ask=plain,{_TRAINED}",
    f"intent:ask=plain,{_TRAINED},steerer=knob(shots=0)",
)


def _before(mark: str, example: Example) -> Example:
    """Return an example whose input gives the passage before a mark, as it has none of its own."""
    passage, _, asked = example.input.partition(mark)
    return replace(example, context=passage.strip(), input=asked.strip())


# Tasks whose inputs say what is to be done against memory: that is the passage
_PASSAGES: Mapping[str, Callable[[Example], Example]] = {
    "grounding/memotrap_proverb_ending": lambda e: _before(": ", e),
    "grounding/memotrap_proverb_translation": lambda e: _before("\nto:\n", e),
}


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything."""
    return [
        RecipeUnit(f"{i}", task, recipe, seed) for i, seed in enumerate(SEEDS) for task in TASKS for recipe in RECIPES
    ]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its row."""
    whole = Task.load(f"{data}/{unit.task}")
    with_passage = _PASSAGES.get(unit.task, lambda e: e)
    train, test = (tuple(map(with_passage, rows)) for rows in (whole.train, whole.test))
    whole = replace(whole, train=train, test=tuple(e for e in test if tells_apart(e))[:N_TEST])
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed)
    task = replace(whole, train=stream.examples[:POOL])
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    adapted = AdaptedModel.fit(parse_recipe(unit.recipe, shots=1), task.train, setup, choice={})
    found = dict(evaluate(adapted, task, "context-use"))
    sources = [answer["came_from"] for answer in found.pop("answers")]
    found = {name: one["value"] if isinstance(one, Mapping) else one for name, one in found.items()}
    print(unit.name, f"{found['from_passage']:.3f}", file=sys.stderr, flush=True)
    return [{"task": unit.task, "recipe": unit.recipe, "seed": unit.seed, "model": model, **found, "sources": sources}]


RESULTS = Results("context-use", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
