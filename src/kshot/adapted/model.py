"""The adapted model: a recipe that has seen everything, and the folder that it is written to."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.methods import LearningSelector
from kshot.core.models import LanguageModel, TrainableModel
from kshot.core.progress import Progress, Silence
from kshot.core.steering import Steering
from kshot.core.types import Example, FloatArray, Prediction, Query, Task
from kshot.core.version import __version__
from kshot.engine.load_model import portable_name
from kshot.evaluators.forgetting import forgetting
from kshot.learners.build import make_learner, tuned_learner
from kshot.learners.demonstrations import fitted, selected, showing_all
from kshot.learners.kept import Keep
from kshot.learners.prompted import PromptLearner
from kshot.learners.steered import fitted_steering
from kshot.learners.trained import Source, TunedLearner
from kshot.measures.calibration import with_temperature
from kshot.measures.metrics import check_references
from kshot.measures.samples import primary_metric, sample_row, summarise
from kshot.methods.orders import MOST_CONFIDENT_LAST, ZeroShotBits
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_folder
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.inputs import under_own_names
from kshot.tasks.validate import duplicate_key

FORMAT = 2
ABOUT, POOL, ADAPTER, RETRIEVER = "kshot.json", "demonstrations.jsonl", "adapter", "retriever"
_TASK_FIELDS = ("name", "kind", "labels", "metrics", "instruction", "choices_in_input", "positive_label", "columns")
_ROW_FIELDS = ("id", "input", "output", "context", "choices")


class AdaptedModel:
    """Answers inputs of its task.

    Args:
        task: Labels, metrics and instruction; its examples are not used.
        recipe: The recipe that was chosen.
        pool: The examples it has learnt: for a task-level selector the demonstrations that it shows, in order.
        asker: The language model and how it is asked; None for a baseline.
        seed: The run's seed.
        choice: How it was chosen, for the record.
        temperature: Of the probabilities over candidates, as fitted on the stream.
        bits: What the selector's model has said of the pool, by id, where the order for each query goes by it.
        steering: What the recipe's steerer has found.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        pool: Sequence[Example],
        asker: TaskModel | None,
        *,
        seed: int,
        choice: Mapping[str, Any],
        temperature: float = 1.0,
        bits: Mapping[str, float] | None = None,
        steering: Steering | None = None,
    ):
        self.task = task
        self.recipe = recipe
        self.pool = tuple(pool)
        self.asker = asker if recipe.needs else None
        self.seed = seed
        self.choice = dict(choice)
        self.temperature = temperature
        self.bits = dict(bits or {})
        self.steering = steering
        learning = replace(recipe, tuner=None, steerer=None)  # what was to be learnt is in the asker's model
        if recipe.selector and not recipe.selector.per_query:
            learning = showing_all(learning, len(self.pool))
        asked = self.asker.steered(steering) if self.asker and steering else self.asker
        self._learner = make_learner(learning, task, asked, seed=seed)
        if isinstance(self._learner, PromptLearner):
            self._learner.bits.known |= self.bits

    @classmethod
    def fit(
        cls,
        asker: TaskModel,
        recipe: Recipe,
        examples: Sequence[Example],
        *,
        seed: int,
        choice: Mapping[str, Any],
        temperature: float = 1.0,
        judge: TaskModel | None = None,
        keep: Keep | None = None,
        source: Source | None = None,
    ) -> "AdaptedModel":
        """Let a recipe learn all `examples`.

        Args:
            asker: The language model that answers.
            recipe: What is fitted. If its settings leave a choice, they race along the examples first.
            examples: In the order in which they are learnt.
            seed: For every random choice.
            choice: How the recipe was chosen, for the record.
            temperature: Of the probabilities.
            judge: The language model that selectors ask, if it is another one.
            keep: Where the run that chose it has kept its training.
            source: Another task, for tuners that align with one.
        """
        pool, known, notes = tuple(examples), {}, []
        judge = judge or asker  # also where the model that answers is trained
        if recipe.tuner:
            how: Any = {"seed": seed, "judge": judge, "keep": keep, "source": source}
            if recipe.alternatives:
                race = tuned_learner(recipe, asker, **how)
                race.predict([Query(e, pool[:i]) for i, e in enumerate(pool)])
                recipe = race.winner
            learner = TunedLearner(recipe, asker, judge, seed, keep=keep, source=source)
            learner.learn(pool)
            choice = {**choice, "forgetting": forgetting(asker.model, learner.model, ledger=asker.ledger)}
            asker = replace(asker, model=learner.model)
        steering = None
        if recipe.steerer:
            steering = fitted_steering(recipe, pool, replace(asker, progress=judge.progress), seed=seed)
        if steering:
            choice = {**choice, "steering": dict(steering.about)}
        if recipe.selector is None and recipe.baseline is None:
            pool = ()
        elif recipe.selector and not recipe.selector.per_query:
            pool = selected(recipe, pool, None, judge=replace(judge, notes=notes.append), seed=seed)
            choice = {**choice, "selection": notes[0]} if notes else choice
        elif recipe.order == MOST_CONFIDENT_LAST:  # any of them may be shown to a query
            known = dict(zip((e.id for e in pool), ZeroShotBits(judge)(pool), strict=True))
        if isinstance(recipe.selector, LearningSelector):  # trained once, not anew for each prediction
            recipe = replace(recipe, selector=fitted(recipe.selector, pool, judge=judge, seed=seed))
        how = {"seed": seed, "choice": choice, "temperature": temperature, "bits": known, "steering": steering}
        return cls(asker.task, recipe, pool, asker, **how)

    @property
    def _trained(self) -> TrainableModel | None:
        """The language model, if its weights were trained."""
        return cast(TrainableModel, self.model) if self.recipe.tuner else None

    @property
    def model(self) -> LanguageModel | None:
        """The language model; None for a baseline."""
        return self.asker.model if self.asker else None

    def with_model(self, model: LanguageModel) -> "AdaptedModel":
        """Return the same adapted model on another instance of its language model, with a ledger of its own."""
        asker = replace(self.asker, model=model, ledger=Ledger()) if self.asker else None
        how: Any = {"seed": self.seed, "choice": self.choice, "temperature": self.temperature, "bits": self.bits}
        return AdaptedModel(self.task, self.recipe, self.pool, asker, steering=self.steering, **how)

    @property
    def labels(self) -> tuple[str, ...]:
        """The task's labels, in the order of `predict_proba`'s columns."""
        return self.task.labels

    def predictions(
        self,
        inputs: Sequence["str | Mapping[str, Any] | Example"],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return full predictions with candidates and probabilities.

        Args:
            inputs: Texts, or mappings with `input` and, where the task has them, `context` and `choices`.
            progress: Called with the number of predictions finished since the last call.

        Raises:
            UserError: An input that is empty, or without choices in a multiple-choice task.
        """
        if isinstance(inputs, str | Mapping | Example):
            raise UserError("The inputs must be a list, also where there is one: predict([text]).")
        examples = [self._example(i, value) for i, value in enumerate(inputs)]
        queries = [Query(e, self.pool, wants_text=True) for e in examples]
        predictions = self._learner.predict(queries, progress=progress)
        if self.temperature == 1.0:
            return predictions
        return [with_temperature(p, self.temperature) for p in predictions]

    def predict(self, inputs: Sequence["str | Mapping[str, Any] | Example"]) -> list[str]:
        """Return the most probable answer, or the generated one, for each input; see `predictions`."""
        return [str(p.answer) for p in self.predictions(inputs)]

    def predict_proba(self, inputs: Sequence["str | Mapping[str, Any] | Example"]) -> FloatArray:
        """Return probabilities `[n_inputs, n_labels]`; rows with fewer choices than others end in NaN.

        Raises:
            UserError: The task is open: its answers are generated, and there is no list of them.
        """
        if self.task.is_open:
            raise UserError(f"predict_proba needs a task with labels or choices; this one is {self.task.kind}.")
        rows = [p.probs for p in self.predictions(inputs)]
        table = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row
        return table

    def evaluate(self, task: Task, *, limit: int | None = None, progress: Progress | None = None) -> dict[str, Any]:
        """Measure on the test rows of a task.

        Args:
            task: Of the same kind and labels as the one that was learnt.
            limit: Only the first so many test rows.
            progress: Told how far it is.

        Returns:
            metric, metric_name, low, high (95 % interval), bits_per_example, n, and `metrics`: name to (value, low,
            high) of every metric of the task.

        Raises:
            UserError: No test rows, or another kind, or labels that the model does not know.
        """
        if limit is not None and limit < 1:
            raise UserError(f"--limit must be 1 or more; got {limit}.")
        rows = task.test[:limit]
        if not rows:
            raise UserError(
                f"evaluate needs test rows; '{task.name}' has none. Give a folder with test.jsonl, .csv or .parquet."
            )
        if set(task.labels) - set(self.labels) or task.kind != self.task.kind:
            ours, theirs = (
                " with the labels ".join(filter(None, (t.kind, ", ".join(t.labels)))) for t in (self.task, task)
            )
            raise UserError(f"The model answers {ours}; '{task.name}' is {theirs}.")
        if task.kind == "multiple_choice" and task.choices_in_input != self.task.choices_in_input:
            learnt, asked = ("letters" if t.choices_in_input else "the choices' text" for t in (self.task, task))
            raise UserError(f"The model answers with {learnt}; the outputs of '{task.name}' are {asked}.")
        for row in rows:
            check_references(primary_metric(task), row.id, row.accepted)
            if not task.is_open and row.output not in self.task.candidates(row):
                known = ", ".join(self.task.candidates(row))
                raise UserError(f"Each output must be one that the model can give ({known}); '{row.id}': {row.output}.")
        progress = progress or Silence()
        learnt = {duplicate_key(e) for e in self.pool}
        n_learnt = sum(duplicate_key(row) in learnt for row in rows)
        if n_learnt:
            progress.say(f"{n_learnt} of {len(rows)} test rows are among the examples that were learnt")
        progress.begin(self.recipe.name, len(rows))
        predictions = self.predictions(rows, progress=progress.advance)
        pairs = zip(rows, predictions, strict=True)
        samples = [sample_row(task, self.recipe.name, i, *pair) for i, pair in enumerate(pairs)]
        found = summarise(task, samples, seed=self.seed)
        return {
            "metric": found["metric"],
            "metric_name": task.metrics[0],
            "low": found["metric_low"],
            "high": found["metric_high"],
            "bits_per_example": found["bits_per_example"],
            "n": found["n"],
            "metrics": found["metrics"],
        }

    def _example(self, i: int, value: "str | Mapping[str, Any] | Example") -> Example:
        if isinstance(value, str):
            value = {"input": value}
        if not isinstance(value, Example | Mapping):
            raise UserError(f"Each input must be a text, a mapping or an Example; number {i + 1} is {value!r}.")
        if not isinstance(value, Example):
            value = under_own_names(value, self.task, i + 1)
            known = {k: value[k] for k in ("context", "choices") if value.get(k)}
            example = Example(str(value.get("input", "")), "", str(value.get("id", f"input-{i + 1}")), **known)
            value = replace(example, choices=tuple(example.choices))
        if not value.input.strip():
            raise UserError(f"Each input must be a text that is not empty; number {i + 1} is empty.")
        if not self.task.is_open and not self.task.candidates(value):
            raise UserError(f"Each input of a multiple-choice task must bring its choices; number {i + 1} has none.")
        return value

    def save(self, folder: str | Path) -> None:
        """Write the folder: `kshot.json`, `demonstrations.jsonl`, and what was learnt.

        That is `adapter/`, `retriever/`, or `steering.safetensors` with `steering.json`. The language model itself
        stays outside. A LoRA adapter is in peft's own format.

        Raises:
            UserError: The folder holds something else, which would be lost.
        """
        folder = Path(folder)
        is_empty = folder.is_dir() and not any(folder.iterdir())
        if folder.exists() and not is_empty and not (folder / ABOUT).exists():
            raise UserError(
                f"{folder} must be new, empty or an adapted model: it is replaced; it holds something else."
            )
        model = None
        if self.model is not None:
            model = {
                "name": portable_name(self.model.name),
                "fingerprint": self._trained.base_fingerprint if self._trained else self.model.fingerprint,
                "origin": dict(self.model.origin),
            }
        prompt = None
        if self.asker is not None:
            prompt = {**self.asker.layout.record, "answer_tokens": self.asker.answer_tokens}
        about = {
            "format": FORMAT,
            "kshot": __version__,
            "model": model,
            "prompt": prompt,
            "temperature": self.temperature,
            "task": {name: getattr(self.task, name) for name in _TASK_FIELDS},
            "recipe": {"name": self.recipe.name, "k": self.recipe.k},
            "adapter": {"fingerprint": self._trained.fingerprint} if self._trained else None,
            "steering": self.steering and self.steering.fingerprint,
            "seed": self.seed,
            "choice": self.choice,
        }
        noted = {i: {"bits": bits} for i, bits in self.bits.items()}
        rows = [{k: v for k, v in asdict(e).items() if k in _ROW_FIELDS and v} | noted.get(e.id, {}) for e in self.pool]
        write_folder(
            folder,
            {
                ABOUT: json.dumps(about, ensure_ascii=False, indent=1) + "\n",
                POOL: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows),
            },
            more=self._save_trained,
        )

    def _save_trained(self, folder: Path) -> None:
        if self._trained:
            self._trained.save_weights(folder / ADAPTER)
        if isinstance(self.recipe.selector, LearningSelector):
            self.recipe.selector.save(folder / RETRIEVER)
        if self.steering:
            self.steering.save(folder)

    def save_merged(self, folder: str | Path) -> None:
        """Write the language model with the trained weights worked in, as transformers loads it, with its tokenizer.

        Raises:
            UserError: No weights were trained, the model is steered beside them, or the folder is not empty.
        """
        folder = Path(folder)
        if self._trained is None:
            raise UserError(f"Only a model whose weights were trained can be merged; '{self.recipe.name}' trains none.")
        if self.steering:
            raise UserError(f"'{self.recipe.name}' steers the model too, which cannot be worked into weights.")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} must be new or empty, for the merged model; it holds something.")
        self._trained.save_merged(folder)
