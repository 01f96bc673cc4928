"""A planted world for loops: a model whose answers are the surer the more a note is worth."""

import re
from dataclasses import replace

import numpy as np

from kshot.core.progress import Silence
from kshot.core.types import Example, Task
from kshot.methods.contracts import Artefact
from kshot.models.scripted import ScriptedModel
from kshot.store.traces import Traces
from kshot.taskmodel.taskmodel import TaskModel

LABELS = ("one", "two")
TASK = Task(
    "t", "classification", tuple(Example(f"text {i}", LABELS[i % 2], f"e{i}") for i in range(12)), labels=LABELS
)


class Sure(ScriptedModel):
    """Knows each answer with a probability that grows with what a note says that it is worth: "worth 3"."""

    def __init__(self, answers=None):
        super().__init__()
        self.answers = answers or {e.input: e.output for e in TASK.train}
        self.n_scored = 0

    def with_store(self, store):
        return self

    def strength(self, text: str, asked: str) -> float:
        return sum(float(n) for n in re.findall(r"worth (-?\d+)", text))

    def _answer(self, request):
        self.n_scored += 1
        asked = request.prompt.segments[-1].text
        right = next((out for key, out in self.answers.items() if re.search(rf"{re.escape(key)}\b", asked)), None)
        strength = self.strength(request.prompt.text, asked)
        logits = np.array([strength if name.strip() == right else 0.0 for name in request.continuations])
        return logits - np.log(np.exp(logits).sum())


class Heard(Silence):
    """Hands on what is said."""

    def __init__(self, say):
        self.say = say


def model(task=TASK, folder=None, say=None, language_model=None):
    """Return a task model on the planted world, and the list that notes go to."""
    notes = []
    made = replace(
        TaskModel.for_task(task, language_model or Sure()),
        notes=lambda values: notes.append(dict(values)),
        traces=Traces(folder),
        progress=Heard(say) if say else Silence(),
    )
    return made, notes


def played(loop, *, seed=0, examples=None, **how) -> tuple[Artefact, dict, list]:
    """Return what a loop leaves, what it notes, and its trace."""
    made, notes = model(**how)
    artefact = loop.run(examples or made.task.train, model=made, rng=np.random.default_rng(seed))
    (trace,) = made.traces._open.values()
    return artefact, notes[-1], trace.messages
