"""Does gradient guidance help few-shot fine-tuning? On against off, against clipping, against surgery to first order.

Run by `kshot bench guidance --data DIR` in the repository; writes docs/results/guidance.json and .md. Every way trains
LoRA on the same examples, in the same batches; test rows are only measured. The design is ours after an abstract
(arXiv 2506.00726), so this reproduces nothing.
"""

import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for the file beside

from rows import difference_line, paired, run_units, tested_row

from kshot.adapted.model import AdaptedModel
from kshot.core.lessons import Batch, Lesson
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.engine.guidance import cosine
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.engine.trained_model import TrainedEngine
from kshot.learners.fitted import Fitted
from kshot.recipes.grammar import parse_recipe
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

TASKS, SHOTS, SEEDS = ("classification/sst2", "classification/trec"), (4, 16), (0,)
STEPS, BATCH, N_TEST, N_HELD_OUT, EVERY = 16, 8, 50, 12, 8
WAYS = {
    "plain": "clip=0",
    "clipping": "clip=1",
    "guided": "clip=0,direction=0.1,magnitude=0.05,warmup=4",
    "surgery": "clip=0,direction=0.1,magnitude=0.05,backend=surgery",
}


def measure(task_name: str, shots: int, seed: int, way: str, data: str, model: str) -> dict[str, Any]:
    """Train on `shots` examples of each label and return accuracy and what the gradients did."""
    task = Task.load(f"{data}/{task_name}")
    support, held_out = _drawn(task, shots, seed)
    recipe = parse_recipe(f"fine-tune:lr=2e-4,steps=1,{WAYS[way]}", shots=1)
    base = load_model(model)
    assert isinstance(base, Engine)
    tuner = recipe.part("tuner")
    engine = TrainedEngine(base, tuner.training, seed=seed)
    trained = TaskModel.for_task(task, engine)
    texts = {e.id: trained.training_text(Lesson((), e)) for e in (*support, *held_out)}
    logs, alignment, began = [], [], time.perf_counter()
    for step in range(STEPS):
        rng = generator(seed, "batch", step)
        drawn = [support[i] for i in rng.permutation(len(support))[:BATCH]]
        if step % EVERY == 0:  # by the gradient of rows that no way has seen
            rows = [[engine.training_row(texts[e.id]) for e in part] for part in (drawn, held_out)]
            with engine.active():
                alignment.append(cosine(*(engine._trainer.gradient(part).gradient for part in rows)))
        anchor = [texts[e.id] for e in support[:32]] if tuner.is_guided else []
        logs.append(engine.learn(Batch([texts[e.id] for e in drawn], anchor)))
    seconds = time.perf_counter() - began
    adapted = AdaptedModel(Fitted(recipe, replace(task, train=()), seed, model=trained), choice={})
    about = {"task": task_name, "recipe": way, "n": len(support)}
    norms = np.array([log.norm for log in logs])
    return {
        **tested_row(adapted, replace(task, test=task.test[:N_TEST]), about),
        "shots_per_class": shots,
        "norm_cv": float(norms.std() / norms.mean()),
        "norm_max_to_median": float(norms.max() / np.median(norms)),
        "step_consistency": float(np.mean([log.cosine_to_last for log in logs[1:]])),
        "held_out_alignment": float(np.mean(alignment)),
        "correction": float(np.mean([log.correction or 0.0 for log in logs])),
        "seconds_per_step": seconds / STEPS,
    }


def _drawn(task: Task, shots: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Return so many examples of each label, in random order, and others to compare gradients with."""
    order = [task.train[i] for i in generator(seed, "support").permutation(len(task.train))]
    support = [e for label in task.labels for e in [e for e in order if e.output == label][:shots]]
    rest = [e for e in order if e not in support][:N_HELD_OUT]
    return [support[i] for i in generator(seed, "mix").permutation(len(support))], rest


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each way in a process of its own; return `planned`, `done` and the differences."""
    kept, units = Path("kshot-runs/bench-guidance"), list(product(SEEDS, TASKS, SHOTS, WAYS))
    kept.mkdir(parents=True, exist_ok=True)
    files = [_file(kept, unit) for unit in units]
    pairs = zip(files, units, strict=True)
    commands = [(f, [sys.executable, __file__, json.dumps(u), data, model, str(f)]) for f, u in pairs]
    run_units(commands, budget_s=budget_s, done=lambda: None)
    rows = [json.loads(f.read_text("utf-8")) for f in files if f.exists()]
    result = {"planned": len(units), "done": len(rows), "guided against": _differences(rows), "rows": rows}
    Path("docs/results").mkdir(parents=True, exist_ok=True)
    write_json(Path("docs/results/guidance.json"), result)
    write_text(Path("docs/results/guidance.md"), page(result))
    return {key: value for key, value in result.items() if key != "rows"}


def _file(kept: Path, unit: tuple[int, str, int, str]) -> Path:
    seed, task, shots, way = unit
    return kept / f"{task.replace('/', '-')}-{shots}-s{seed}-{way}.json"


def _differences(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean difference in accuracy of `guided` to each other way, with the paired 95 % interval."""
    cells = {(r["task"], r["shots_per_class"], r["seed"], r["recipe"]): r["scores"] for r in rows}
    found = {}
    for other in [way for way in WAYS if way != "guided"]:
        both = [(c, cells[(*key[:3], other)]) for key, c in cells.items()
                if key[3] == "guided" and (*key[:3], other) in cells]  # fmt: skip
        if both:
            found[other] = paired(*zip(*both, strict=True))
    return found


def _zero_shot() -> dict[str, float]:
    """Return the accuracy of zero-shot on the same test rows, which the benchmark `weights` has measured."""
    file = Path("docs/results/weights.json")
    rows = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    return {r["task"]: r["metric"] for r in rows if r.get("recipe") == "zero-shot" and r["n_test"] == N_TEST}


def page(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Gradient guidance",
        "",
        f"Made by `kshot bench guidance --data DIR` (Gemma-3-270M, CPU, fp32, LoRA r=16, AdamW 2e-4, {STEPS} steps of "
        f"{BATCH}, {N_TEST} test rows, seeds {SEEDS}); {result['done']} of {result['planned']} runs are done. Our "
        "design after the abstract of arXiv 2506.00726, no reproduction.",
        "",
        "| task | a class | way | accuracy | bits | CV of norms | max / median | cos to last | cos to held-out | "
        "correction | s/step |",
        "| --- | ---: | --- |" + " ---: |" * 8,
    ]
    for r in result["rows"]:
        names = ("metric", "bits_per_example", "norm_cv", "norm_max_to_median", "step_consistency")
        cells = [f"{r[name]:.2f}" for name in (*names, "held_out_alignment", "correction", "seconds_per_step")]
        lines.append(f"| {r['task']} | {r['shots_per_class']} | {r['recipe']} | {' | '.join(cells)} |")
    lines.append("")
    for task, accuracy in _zero_shot().items():
        if task in TASKS:
            lines.append(f"- zero-shot on the same test rows of {task} (results/weights.json): {accuracy:.2f}")
    for other, gap in result["guided against"].items():
        lines.append(difference_line("guided", other, gap))
    for task in TASKS:
        gaps = _differences([r for r in result["rows"] if r["task"] == task])
        lines += [difference_line("guided", f"{other} on {task}", gap) for other, gap in gaps.items()]
    lines += ["", "One seed and one draw of training rows; intervals are over test rows alone."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one unit."""
    unit, data, model, file = sys.argv[1:]
    seed, task, shots, way = json.loads(unit)
    write_json(Path(file), measure(task, shots, seed, way, data, model))
    print(f"{unit}: done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
