"""What a query costs with 28 labels, against the same query with one label, where any number of labels can be right.

Both ways to ask are timed on the same prompts: labels that are named, and yes or no to each. `single` is one query at a
time after 16 demonstrations, as a first question to a model is; `zero_shot` is one at a time without any, where there
is the least to share; `together` is many queries after the same demonstrations, which are read once. The ratio is that
of the medians.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kshot.bench.packed_scoring import RandomText
from kshot.core.label_sets import having
from kshot.core.seeding import generator
from kshot.core.types import Example, Question, Task
from kshot.engine.language_model import Engine
from kshot.methods.composers.yes_no import YesNo
from kshot.models.white_box import load_white_box
from kshot.taskmodel.taskmodel import TaskModel

N_LABELS, N_SHOTS, N_TOKENS, N_QUERIES, N_TIMED = 28, 16, 32, 8, 3
LABELS = (
    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire"),
    *("disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy"),
    *("love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
)


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return the ratios, and milliseconds a query, of each way to ask."""
    engine = Engine(load_white_box(model))
    text, rng = RandomText(engine.backbone), generator(0, "labels")
    inputs = [text.question(N_TOKENS).removeprefix("Text: ").removesuffix("\nLabel:") for _ in range(N_SHOTS)]
    sets = [having(rng.random(N_LABELS) < 2 / N_LABELS, LABELS) for _ in range(N_SHOTS)]
    train = tuple(Example(inputs[i], output, f"e{i}") for i, output in enumerate(sets))
    task = Task("emotions", "multi_label", train, labels=LABELS, instruction="Name all emotions.")
    named = TaskModel.for_task(task, engine)
    queries = [Question(one, f"q{i}") for i, one in enumerate(inputs[:N_QUERIES])]
    found = dict[str, float]()
    for way, asking in (("named", named), ("yes_no", replace(named, composer=YesNo()))):
        for how, shown, some in (
            ("single", train, queries[:1]),
            ("zero_shot", (), queries[:1]),
            ("together", train, queries),
        ):
            prompts = [asking.compose(shown, question) for question in some]
            per_label = 2 if way == "yes_no" else 1
            answers = asking.answers(queries[0])
            few, many = (_median(asking, prompts, own) for own in (answers[:per_label], answers))
            found[f"{way}_{how}_ratio"] = many / few
            found[f"{way}_{how}_ms"] = 1000 * many / len(some)
    return found


def _median(asking: TaskModel, prompts: Sequence, answers: Sequence[str]) -> float:
    """Return the median seconds of scoring the same answers after each prompt."""

    def score() -> object:
        return asking.score(prompts, [answers] * len(prompts))

    score()  # warm up
    return float(np.median([_seconds(score) for _ in range(N_TIMED)]))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
