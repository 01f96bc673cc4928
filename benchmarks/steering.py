"""Into the activations: zero-shot, 10-shot prompts, three steerers and their controls on real tasks.

Run by `kshot bench steering --data DIR` in the repository. Units of work are done in a fixed order and kept one by one
under kshot-runs/bench-steering, so the same command goes on where it stopped; all that is there goes into
docs/results/steering.json, steering.md and steering.png. Whatever is chosen is chosen on training rows; the test rows
are only measured.
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for the two files beside

from rows import first_examples, kept_rows, measure_one, restore_units, run_units, tested_row
from steering_page import figure, page, summary

from kshot.adapted.model import AdaptedModel
from kshot.core.models import LanguageModel
from kshot.core.seeding import generator
from kshot.core.steering import Steering
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.steerers.random_direction import randomised
from kshot.methods.steerers.task_embedding import task_embedding
from kshot.recipes.grammar import parse_recipe
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

FUNCTIONS = (
    "antonym", "country_capital", "choose_middle_of_5", "english_french", "person_sport", "ii_sum", "singular_plural",
    "next_capital_letter", "synonym", "park_country", "adjective_v_verb_5", "country_currency", "english_spanish",
    "alphabetically_first_5", "ii_num_to_verbal", "person_instrument", "ii_second_word_letter", "word_length",
    "animal_v_object_5", "ii_letters_list",
)  # fmt: skip
CLASSIFICATION = ("trec", "sst2", "agnews")
MORE = (
    "concept_v_object_5", "fruit_v_animal_5", "verb_v_adjective_5", "english_german", "ii_diff", "national_parks",
    "capitalize_second_letter",
)  # fmt: skip
ONLY_EMBEDDED = (
    "ii_active_to_passive", "ii_common_concept", "ii_informal_to_formal", "ii_orthography_starts_with",
    "ii_sentence_similarity", "ii_taxonomy_animal", "ii_word_in_context",
)  # fmt: skip
STEERERS = ("icv", "function-vector", "soft-injection")
PROMPTED = ("zero-shot", "random:fresh=true,k=10")
N_TRAIN, N_TEST, N_TRANSFER = 100, 100, 24
RESULTS = Path("docs/results")


@dataclass(frozen=True)
class Unit:
    """What is done at once: all recipes on one task, or one row of the transfer matrix."""

    layer: str
    task: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.layer}-{self.task.replace('/', '-')}-s{self.seed}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    functions, more, embedded = ([f"functions/{t}" for t in tasks] for tasks in (FUNCTIONS, MORE, ONLY_EMBEDDED))
    first = [Unit("1-first", t) for t in (*(f"classification/{t}" for t in CLASSIFICATION), *functions)]
    transfer = [Unit("2-embedding", t) for t in (*more, *embedded)] + [Unit("3-transfer", t) for t in functions]
    return [*first, *transfer, *(Unit("4-more", t) for t in more), *(Unit("5-seed", t, 1) for t in functions)]


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its rows."""
    setup = _setup(unit.task, unit.seed, data, load_model(model))
    places = Path("kshot-runs/bench-steering/steerings")
    if unit.layer == "2-embedding":
        assert setup.model is not None
        rng = generator(unit.seed, "embedding")
        vectors = task_embedding(setup.task.train, n_prompts=50, shots=10, model=setup.model, rng=rng)
        return [{"task": unit.task, "embedding": _short(vectors)}]
    if unit.layer == "3-transfer":
        return _transfer(unit, setup, places, data)
    rows = []
    for name in (*PROMPTED, *STEERERS):
        recipe = parse_recipe(name, shots=10)
        began = time.perf_counter()
        adapted = AdaptedModel.fit(recipe, setup.task.train, setup, choice={})
        row = _row(adapted, unit, name)
        row["fit_seconds"] = time.perf_counter() - began if adapted.steering else 0.0
        if adapted.steering:
            row["about"] = dict(adapted.steering.about)
            if name == "soft-injection":
                row["embedding"] = _short(np.stack([e.vectors for e in adapted.steering.edits]))
                adapted.steering.save(places / f"{unit.task.replace('/', '-')}-s{unit.seed}")
            control = randomised(adapted.steering, generator(unit.seed, "control", name))
            other = AdaptedModel(replace(adapted.fitted, steering=control), choice={})
            rows.append(_row(other, unit, f"random-direction:of={name}"))
        rows.append(row)
    return rows


def _setup(name: str, seed: int, data: str, model: LanguageModel) -> Setup:
    whole = Task.load(f"{data}/{name}")
    stream = first_examples(whole, N_TRAIN, seed=seed)
    task = replace(whole, train=stream.examples, test=whole.test[:N_TEST])
    return Setup(task, TaskModel.for_task(task, model), seed)


def _row(adapted: AdaptedModel, unit: Unit, name: str) -> dict[str, Any]:
    began = time.perf_counter()
    row = tested_row(adapted, adapted.task, {"task": unit.task, "recipe": name, "n": N_TRAIN})
    return row | {"query_ms": 1000 * (time.perf_counter() - began) / row["n_test"]}


def _short(vectors: np.ndarray) -> list[float]:
    """Return head outputs projected on 256 fixed random directions, which keeps their cosines within about 0.06."""
    flat = vectors.reshape(-1)
    drawn = generator(0, "projection").standard_normal((256, flat.size))
    return [round(float(v), 3) for v in drawn @ flat / 16]


def _transfer(unit: Unit, setup: Setup, places: Path, data: str) -> list[dict[str, Any]]:
    """Return the bits of test rows under the soft injection of each task, and without any."""
    assert setup.model is not None
    steerings, tasks = [Steering(())], [f"functions/{t}" for t in FUNCTIONS]
    for source in tasks:
        place = places / f"{source.replace('/', '-')}-s{unit.seed}"
        if not place.exists():  # it was fitted on another machine
            other = _setup(source, unit.seed, data, setup.model.model)
            recipe = parse_recipe("soft-injection", shots=10)
            steering = make_learner(recipe, other).fit(other.task.train).steering
            assert steering
            steering.save(place)
        steerings.append(Steering.load(place))
    bits = setup.model.bits_under(steerings, setup.task.test[:N_TRANSFER]).mean(axis=1)
    return [{"task": unit.task, "source": s, "bits_per_example": float(b)}
            for s, b in zip(("none", *tasks), bits, strict=True)]  # fmt: skip


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
    kept, units = Path("kshot-runs/bench-steering"), planned()
    kept.mkdir(parents=True, exist_ok=True)
    restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / "steering.json")
    deadline = time.monotonic() + budget_s
    for is_first in (True, False):  # transfer needs what the first layer has fitted
        some = [u for u in units if (u.layer == "1-first") == is_first]
        commands = [(u.file(kept), [sys.executable, __file__, u.name, data, model, str(kept)]) for u in some]
        left = max(0.0, deadline - time.monotonic())
        run_units(commands, budget_s=left, done=lambda: print(write(units, kept)["done"], "units", file=sys.stderr))
    return write(units, kept)


def write(units: list[Unit], kept: Path) -> dict[str, Any]:
    """Write steering.json, .md and .png of everything that is kept."""
    rows, done = kept_rows(units, kept)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(units), "done": done, "summary": summary(rows), "rows": rows}
    write_json(RESULTS / "steering.json", result)
    figure(rows, RESULTS / "steering.png")
    write_text(RESULTS / "steering.md", page(result))
    return {key: value for key, value in result.items() if key != "rows"}


if __name__ == "__main__":
    measure_one(planned, measure)
