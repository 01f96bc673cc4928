"""What two teachers give on Gemma-270M that no page of results measures: `self-training` and `calibrated`.

`python benchmarks/teachers.py DIR NAME DRAW TASK …` prints a line of JSON for each task and recipe. NAME is
`self-training`: beside plain fine-tuning, with `N` labelled examples and `N_INPUTS` unlabelled inputs, on tasks with a
rare label; `calibrated`: beside plain self-distillation, and before training, on open tasks; or `told`: how often the
teacher of `calibrated`, told an answer with a number from `SURE`, repeats both, by how it is told.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from kshot.core.lessons import Lesson
from kshot.core.seeding import generator
from kshot.core.types import Prediction, Prompt, Query, Task
from kshot.engine.load_model import load_model
from kshot.evaluators.confidence import Confidence
from kshot.evaluators.evaluator import Case
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.measured import Measured
from kshot.measures.metrics import statistic
from kshot.methods.composers.stating import Stated
from kshot.methods.knowledge import Knowledge, Written
from kshot.methods.stated_confidence import apart
from kshot.methods.teachers.on_policy import Calibrated
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

N, N_INPUTS = 100, 500
N_TEST = {"self-training": 200, "calibrated": 100, "told": 0}
SURE, N_TOLD = (0.0, 0.13, 0.5, 0.88), 12
_TRAINED = "lr=3e-4,steps=1"
RECIPES = {
    "self-training": (f"fine-tune:batch=8,{_TRAINED}", f"self-training:{_TRAINED}"),
    "calibrated": (
        "random:k=8,composer=stated",
        f"icl+ft:k=8,{_TRAINED},teacher=calibrated(states=own)",
        f"icl+ft:k=8,{_TRAINED},teacher=calibrated",
    ),
}


def labels_told(task: Task, said: Sequence[Prediction]) -> dict[str, float]:
    """Return accuracy, macro-F1 and the recall of the label that is rarest in training."""
    rarest = min(Counter(e.output for e in task.train).items(), key=lambda item: (item[1], item[0]))[0]
    pairs = [(e.output, str(p.answer)) for e, p in zip(task.test, said, strict=True)]
    macro = statistic("macro_f1", [(gold,) for gold, _ in pairs], [a for _, a in pairs], labels=task.labels)
    of_rare = [answer == gold for gold, answer in pairs if gold == rarest]
    return {
        "accuracy": sum(gold == answer for gold, answer in pairs) / len(pairs),
        "macro_f1": macro(range(len(pairs))),
        "rare_recall": sum(of_rare) / len(of_rare),
        "n_rare": len(of_rare),
    }


def confidence_told(task: Task, said: Sequence[Prediction]) -> dict[str, float]:
    """Return what the suite `confidence` says."""
    report = Confidence().report(task, [Case(e) for e in task.test], said)
    return {name: v.value if isinstance(v, Measured) else v for name, v in report.items()}


TOLD: dict[str, Callable[[Task, Sequence[Prediction]], dict[str, float]]] = {
    "self-training": labels_told,
    "calibrated": confidence_told,
}


def repeated(task: Task) -> None:
    """Print how often the teacher repeats what it is told, after eight demonstrations that are all sure."""
    model = replace(TaskModel.for_task(task, load_model("demo")), composer=Stated())
    shown, rows = task.train[:8], task.train[8 : 8 + N_TOLD]
    for tells in ("both", "note"):
        prompts, said = [], []
        for e, sure in product(rows, SURE):
            # Of 100 answers as many are right as make that share
            written = {e.id: [Written(e.output, is_right=i < round(100 * sure)) for i in range(100)]}
            knowledge = Knowledge(written=lambda n, written=written: written)
            (lesson,) = Calibrated().lessons(
                [Lesson(shown, e)], (), step=0, rng=generator(0, "told"), knowledge=knowledge
            )
            text = model.training_text(lesson if tells == "both" else replace(lesson, teacher=shown)).teacher
            assert text is not None
            prompts.append(Prompt(text.segments[:-1]))
            said.append((e.output, sure))
        answers = [apart(one.text.strip()) for one in model.generate(prompts)]
        counts = [sum(ours[i] == theirs[i] for ours, theirs in zip(answers, said, strict=True)) for i in range(2)]
        print(json.dumps({"tells": tells, "n": len(said), "answer": counts[0], "number": counts[1]}), flush=True)


def main(data: str, name: str, draw: int, tasks: Sequence[str]) -> None:
    """Print a line for each task and recipe."""
    for one in tasks:
        whole = Task.load(f"{data}/{one}")
        stream = make_stream(whole, limit=len(whole.train), seed=draw).examples
        inputs = tuple(replace(e.question, id=f"input {e.id}") for e in stream[N : N + N_INPUTS])
        task = replace(whole, train=stream[:N], test=whole.test[: N_TEST[name]], unlabelled=inputs)
        if name == "told":
            repeated(task)
            continue
        for recipe in RECIPES[name]:
            setup, began = Setup(task, TaskModel.for_task(task, load_model("demo")), draw), time.perf_counter()
            fitted = make_learner(parse_recipe(recipe, shots=8), setup).fit(task.train)
            said = answering(fitted).predict([Query(e, fitted.pool, wants_text=True) for e in task.test])
            told = {key: round(value, 3) for key, value in TOLD[name](task, said).items()}
            seconds = round(time.perf_counter() - began)
            print(json.dumps({"task": one, "draw": draw, "recipe": recipe, **told, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
