"""Does a tuned model do without demonstrations what its base does with them? On one task, and over several."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.models import TaughtModel
from kshot.core.paths import path_of
from kshot.core.script import WORDS, UsualWording
from kshot.core.types import Example, FloatArray, Task
from kshot.evaluators.evaluator import Evaluator
from kshot.measures.correlation import pearson, spearman
from kshot.measures.measured import Gain, Measured
from kshot.measures.samples import score_of
from kshot.methods.generators.writer import room_for
from kshot.methods.skill_profile import answers_after
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.load import load_task

LEAST_TASKS = 3  # of which a correlation says something
_SHOWN = 3  # written examples in the report


@dataclass(frozen=True)
class Twins(Evaluator):
    """Ask the base model with demonstrations and its tuned twin without any, on the same rows.

    `base` and `tuned` are the means of the rows' scores by the task's first metric, `gain` is tuned less base in pairs.
    With a folder of tasks both are asked about each of those too, the tuned one in the usual words, and `pearson` and
    `spearman` say how far the two scores go together over the tasks, this one among them; the intervals are over tasks.
    The tuned model is asked alone: without the demonstrations that its recipe may show.

    Attributes:
        k: Demonstrations, drawn from the training rows.
        sets: How many draws of them there are; rows take turns, so that prompts share their beginning.
        writes: The tuned model writes the demonstrations that the base is shown: inputs after the task's instruction
            (and the instruction alone), then an answer to each.
        tasks: A folder whose folders are tasks, to be asked about as well.
        rows: Test rows of each of those, the first ones.

    Source: Bigoulaeva et al. (2025), The Inherent Limits of Pretrained LLMs: The Unexpected Convergence of Instruction
    Tuning and In-Context Learning Capabilities, https://arxiv.org/abs/2501.08716.
    Differs: one base and one twin on the user's tasks; Pearson and Spearman with the bootstrap over tasks are our
    choice; their model is trained to write the prompt, ours writes one with what it has learnt.
    """

    asks_model: ClassVar[bool] = True

    k: int = setting(8, least=1, most=1000)
    sets: int = setting(4, least=1, most=1000)
    writes: bool = False
    tasks: str = ""
    rows: int = setting(50, least=1, most=100_000)

    def obstacle(self, task: Task) -> str | None:
        """Return what the task must have and has not."""
        if task.is_multi_label:
            return (
                "its answers must be chosen or written; it is multi_label, where each label is right or wrong by itself"
            )
        if self.writes:
            own = "choices" if task.kind == "multiple_choice" else "context"
            has_own = own == "choices" or any(e.context for e in task.test)
            return f"writes=true is for tasks whose rows have no {own} of their own; these have" if has_own else None
        return None if task.train else "it must have training rows, which the base is shown; name its folder"

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return the scores of both, and over several tasks how far they go together.

        Raises:
            UserError: No weights were trained, the folder holds too few tasks, or all that is written is empty.
        """
        assert model is not None
        if not isinstance(model.model, TaughtModel):
            raise UserError(
                f"--suite twins needs a system whose weights were trained, beside its base; '{model.model.name}' is "
                "asked as it is. Adapt with fine-tune or icl+ft."
            )
        others = _tasks_in(self.tasks, self.rows) if self.tasks else {}
        others.pop(task.name, None)  # it is asked as the system's own
        for name, other in others.items():
            if obstacle := self.obstacle(other):
                raise UserError(f"--suite twins:tasks={self.tasks}: {name} cannot be used: {obstacle}. Remove it.")
        found, written = self._asked(task, model, rng)
        ids = [e.id for e in task.test]
        said = {
            "n_written": len(written),
            "written": [{"input": e.input, "output": e.output} for e in written[:_SHOWN]],
        }
        report: dict[str, Any] = {
            "n": len(ids),
            "metric_name": task.metrics[0],
            "base": Measured(ids, found[0]),
            "tuned": Measured(ids, found[1]),
            "gain": Gain(ids, found[1] - found[0]),
            **(said if self.writes else {}),
        }
        if not others:
            return report
        scores = {task.name: found.mean(axis=1)}
        for name, other in others.items():
            room = replace(model.on(other), answer_tokens=1).with_room_for(UsualWording())
            scores[name] = self._asked(other, room, rng)[0].mean(axis=1)
        names, rows = list(scores), np.array(list(scores.values()))
        return {
            **report,
            "pearson": Measured(names, rows, pearson),
            "spearman": Measured(names, rows, spearman),
            "tasks": [{"task": name, "base": float(b), "tuned": float(t)} for name, (b, t) in scores.items()],
        }

    def _asked(self, task: Task, model: TaskModel, rng: np.random.Generator) -> tuple[FloatArray, list[Example]]:
        """Return the scores of base and tuned `[2, n_rows]`, and what the tuned one has written."""
        tuned = replace(model, task=task)
        assert isinstance(tuned.model, TaughtModel)
        base = replace(tuned.on(task), model=tuned.model.base, told=None)
        written = self._written(tuned, rng) if self.writes else []
        pool = written or task.train
        draws = [tuple(pool[i] for i in rng.permutation(len(pool))[: self.k]) for _ in range(self.sets)]
        shown = [draws[i % self.sets] for i in range(len(task.test))]
        alone = [()] * len(task.test)
        said = [
            answers_after(shown, task.test, model=base, what="asking the base", as_given=True),
            answers_after(alone, task.test, model=tuned, what="asking the tuned model", as_given=True),
        ]
        scores = [[score_of(task, e, a) for e, a in zip(task.test, some, strict=True)] for some in said]
        return np.array(scores), written

    def _written(self, model: TaskModel, rng: np.random.Generator) -> list[Example]:
        """Return examples that the model writes, inputs first, each with its answer to it."""
        given, instruction = WORDS[model.task.kind][0], model.task.instruction
        text = f"{instruction}\n\n{given}:" if instruction else f"{given}:"
        room = room_for([e.input for e in model.task.train], model)
        prompt, seed, n = model.layout.request(text), int(rng.integers(2**31)), self.k * self.sets
        how: Any = {"max_tokens": room, "stop": ("\n",), "temperature": 1.0}
        model.progress.begin("writing demonstrations", n)
        inputs = []
        for i in range(n):  # each draw has a seed of its own
            inputs += [one.text.strip() for one in model.write_each([prompt], seed=seed + i, **how)]
            model.progress.advance(1)
        asked = [Example(text, "", f"written-{i}") for i, text in enumerate(dict.fromkeys(filter(None, inputs)), 1)]
        answers = answers_after([()] * len(asked), asked, model=model, what="answering what was written")
        written = [replace(e, output=answer) for e, answer in zip(asked, answers, strict=True) if answer]
        if not written:
            raise UserError(
                f"What is written as demonstrations must hold text; all {n} that '{model.model.name}' wrote are empty. "
                "Leave writes out, or give the task an instruction."
            )
        return written


def _tasks_in(folder: str, rows: int) -> dict[str, Task]:
    """Return the tasks in a folder by name, each with its first test rows.

    Raises:
        UserError: There are too few, or one cannot be read or has no test rows.
    """
    place = path_of(folder)
    inside = sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
    if len(inside) + 1 < LEAST_TASKS:
        raise UserError(
            f"tasks={place} must be a folder that holds {LEAST_TASKS - 1} folders of tasks or more; it holds "
            f"{len(inside)}. Name another folder, or leave tasks out."
        )
    return {one.name: _with_rows(one, rows) for one in inside}


def _with_rows(folder: Path, rows: int) -> Task:
    task = load_task(folder)
    if not task.test:
        raise UserError(f"Each task of tasks=… must have test rows; {folder} has none. Add a file test.jsonl.")
    return replace(task, test=task.test[:rows])
