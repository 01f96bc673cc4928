"""The adapted model: a recipe that has learnt everything, and answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from kshot.adapted.asked_rows import asked_rows
from kshot.adapted.noted import notes_in, with_notes, without_note
from kshot.adapted.rests_on import RestsOn, rests_on
from kshot.core.errors import InvalidInputError, TooLongError, UserError
from kshot.core.label_sets import answer_of
from kshot.core.ledger import Ledger
from kshot.core.locks import ADAPTED, SharedLock
from kshot.core.models import LanguageModel, ScoringModel
from kshot.core.paths import path_of
from kshot.core.progress import Progress, Silence
from kshot.core.settings import check_precision
from kshot.core.steering import Steering
from kshot.core.types import Example, FloatArray, Prediction, Query, Task
from kshot.evaluators.forgetting import forgetting
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.fitted import Fitted, fingerprint
from kshot.learners.learner import Setup
from kshot.measures.abstention import UNSURE, Abstention, PastAnswers, check_can_abstain, promised
from kshot.measures.calibration import UNCALIBRATED, Calibration
from kshot.measures.ordered import as_answered
from kshot.measures.samples import sample_row, summarise
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_folder
from kshot.tasks.inputs import input_of, named_anywhere, named_by_text
from kshot.tasks.objects import answers_like, inputs_in


class AdaptedModel:
    """Answers inputs of its task; many threads may ask it, one is answered at a time.

    Args:
        fitted: The recipe that was chosen, and what it has learnt.
        choice: How it was chosen, for the record.
        past: Its answers along the stream, from which it is known when it may answer; None for open tasks.
        abstention: When it answers; None if always.
    """

    def __init__(
        self,
        fitted: Fitted,
        *,
        choice: Mapping[str, Any],
        past: PastAnswers | None = None,
        abstention: Abstention | None = None,
    ):
        self.fitted = fitted
        self.choice = dict(choice)
        self.past = past
        self.abstention = abstention
        self._learner = answering(fitted)
        self._lock = SharedLock(ADAPTED)

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        examples: Sequence[Example],
        setup: Setup,
        *,
        choice: Mapping[str, Any],
        calibration: Calibration = UNCALIBRATED,
        past: PastAnswers | None = None,
        abstention: Abstention | None = None,
    ) -> "AdaptedModel":
        """Let a recipe learn all `examples`.

        Args:
            recipe: What is fitted. If its settings leave a choice, they race along the examples first.
            examples: In the order in which they are learnt.
            setup: Task, models, seed, and where the run that chose the recipe has kept its training.
            choice: How the recipe was chosen, for the record.
            calibration: Of the probabilities, as fitted on a stream.
            past: Its answers along the stream.
            abstention: When it answers; None if always.
        """
        beside = setup.source.examples if setup.source and recipe.aligns else ()
        fitted = make_learner(recipe, setup).fit(examples).having_learnt(examples, beside)
        about = dict(fitted.about)
        if fitted.trained and setup.model:
            about = {
                "forgetting": forgetting(
                    cast(ScoringModel, setup.model.model), fitted.trained, ledger=setup.model.ledger
                ),
                **about,
            }
        told = {**choice, **about}
        return cls(replace(fitted, calibration=calibration), choice=told, past=past, abstention=abstention)

    def __reduce__(self) -> Any:
        """Pickle and copy it as the files of its folder; a language model with weights is pickled as its name."""
        from kshot.adapted.copies import as_files, from_files

        with self._lock:
            return from_files, (as_files(self), self.fitted.untrained)

    @property
    def task(self) -> Task:
        """Labels, metrics and instruction."""
        return self.fitted.task

    @property
    def recipe(self) -> Recipe:
        """The recipe that was chosen, with one value for every setting."""
        return self.fitted.recipe

    @property
    def pool(self) -> tuple[Example, ...]:
        """The examples that it may show; of a choice for the whole task those that it shows, in order."""
        return self.fitted.pool

    @property
    def steering(self) -> Steering | None:
        """What is changed in the language model's activations."""
        return self.fitted.steering

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.fitted.seed

    @property
    def model(self) -> LanguageModel | None:
        """The language model; None for a classifier."""
        return self.fitted.language_model

    @property
    def paid(self) -> dict[str, Any] | None:
        """Calls of a model behind an API since this was loaded, with their tokens (`Ledger.record`); None without."""
        parts = [part.model for part in (self.fitted, *self.fitted.members) if part.model]
        whole = Ledger()
        for ledger in {id(model.ledger): model.ledger for model in parts}.values():
            whole.add(ledger.cost.of_calls)
        return whole.record()

    def with_model(self, model: LanguageModel) -> "AdaptedModel":
        """Return the same adapted model on another instance of its language model."""
        return self._again(self.fitted.with_model(model), self.abstention)

    def warm(self) -> "AdaptedModel":
        """Return the same model for many calls: what all its prompts begin with is run once, and kept in memory.

        Probabilities are the same up to rounding (1e-5 in float32).
        """
        return self._again(self.fitted.remembering(), self.abstention)

    def abstaining(self, precision: float) -> "AdaptedModel":
        """Return the same model, which is "unsure" where it must be so that a share of its answers is right.

        Args:
            precision: The share of the answers that has to be right, such as 0.95. It is, with a probability of 95 %
                over the draw of the examples, if inputs are like these (docs/abstain.md).

        Raises:
            UserError: It cannot be promised, or the task or the model is none that can be unsure.
        """
        check_precision("abstain", precision)
        check_can_abstain(self.task)
        if self.past is None:
            raise UserError(
                "--abstain needs the answers that a model gave while it was chosen; this one has none, as those that "
                "an older kshot has saved. Adapt again."
            )
        return self._again(self.fitted, promised(self.past, precision))

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes that it answers from, in the order in which they came."""
        return notes_in(self.recipe)

    def noted(self, *notes: str, threshold: float | None = None) -> "AdaptedModel":
        """Return the same model with more notes: questions that they bear on are answered from them.

        Of notes that say otherwise the later one counts. What was measured of the model, and its calibration, is from
        before. `kshot.adapted.noted` says more of the change, and `kshot notes` changes a saved model.

        Args:
            notes: A sentence each.
            threshold: What the relevance of notes must be above from now on, so that a question is told them.

        Raises:
            UserError: The model asks no language model, combines recipes, or is calibrated by inputs without content.
            InvalidInputError: A note is empty, no text, or too long.
        """
        changed = with_notes(self.recipe, self.task, notes, threshold=threshold)
        assert self.fitted.model is not None
        most = self.fitted.model.model.max_tokens // 2
        for note in notes:
            if (n := self.fitted.model.model.count_tokens(note)) > most:
                raise InvalidInputError(
                    f"A note must have at most {most} tokens, half of what the model reads; '{note[:40]}…' has {n}. "
                    "Give several short ones."
                )
        return self._with(changed.recipe)

    def without_note(self, number: int) -> "AdaptedModel":
        """Return the same model without one of its notes, by its number from 1.

        Raises:
            UserError: There is no such note.
        """
        return self._with(without_note(self.recipe, number).recipe)

    def _with(self, recipe: Recipe) -> "AdaptedModel":
        assert self.fitted.model is not None
        model = replace(self.fitted.model, composer=recipe.part("composer"))
        return self._again(replace(self.fitted, recipe=recipe, model=model), self.abstention)

    def _again(self, fitted: Fitted, abstention: Abstention | None) -> "AdaptedModel":
        return AdaptedModel(fitted, choice=self.choice, past=self.past, abstention=abstention)

    def is_unsure(self, prediction: Prediction) -> bool:
        """Return whether a prediction of `predictions` is no answer, as the model is not sure enough of it."""
        return self.abstention is not None and self.abstention.is_unsure(prediction)

    @property
    def labels(self) -> tuple[str, ...]:
        """The task's labels, in the order of `predict_proba`'s columns."""
        return self.task.labels

    def predictions(
        self,
        inputs: Iterable["str | Mapping[str, Any] | Example"],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return full predictions with candidates and probabilities.

        Args:
            inputs: Texts, or mappings with `input` and, where the task has them, `context` and `choices`: a list, an
                iterator, an array, a series, a data frame's only column, or a frame with the columns of the task.
            progress: Called with the number of predictions finished since the last call.

        Raises:
            TooLongError: An input is longer than the language model's context; one without an id is told by its place.
            InvalidInputError: Something else than a list of inputs, or an input that is no text, is empty, or has no
                choices in a multiple-choice task, or choices that are not as in a task; it is a ValueError too.
        """
        examples = self._examples(inputs)
        asked = [named_anywhere(e) for e in examples]
        queries = [Query(e, self.pool, wants_text=True) for e in asked]
        try:
            with self._lock:  # learners remember what they have chosen
                found = self._learner.predict(queries, progress=progress)
        except TooLongError as error:
            at = next((i for i, one in enumerate(asked) if one.id == error.asked), None)
            if at is None:
                raise
            own = examples[at].id
            name = f"number {at + 1}" if own == named_by_text(examples[at]).id else ""
            raise TooLongError(own, error.n, error.most, name) from None
        predictions = [replace(p, example_id=e.id) for e, p in zip(examples, found, strict=True)]
        return [as_answered(self.task, self.fitted.calibration.of(p)) for p in predictions]

    def _examples(self, inputs: Any) -> list[Example]:
        return [input_of(value, self.task, i) for i, value in enumerate(inputs_in(inputs, self.task), 1)]

    def rests_on(self, inputs: Iterable["str | Mapping[str, Any] | Example"]) -> list[RestsOn]:
        """Return for each input the answer, and which of its words that rests on; see `RestsOn`.

        Raises:
            UserError: No language model with weights answers, or several do.
        """
        examples = self._examples(inputs)
        predictions = self.predictions(examples)
        with self._lock:
            found = rests_on(self.fitted, [named_anywhere(e) for e in examples], predictions)
        return [replace(one, example=e) for one, e in zip(found, examples, strict=True)]

    def asking(self, asked: str) -> "AdaptedModel":
        """Return the same asking in a way that its tuner knows, such as "memory"; itself where that is empty."""
        if not asked:
            return self
        return AdaptedModel(self.fitted.asking(asked), choice=self.choice, past=self.past, abstention=self.abstention)

    def calibrated_by(self, examples: Sequence[Example]) -> "AdaptedModel":
        """Return the same with the label prior that it has over the inputs of examples, if any of it is taken out."""
        if not (self.fitted.calibration.strength and examples):
            return self
        with self._lock:
            said = self._learner.predict([Query(e, self.pool) for e in examples])
        return self._again(replace(self.fitted, calibration=self.fitted.calibration.asked(said)), self.abstention)

    def predict(self, inputs: Iterable["str | Mapping[str, Any] | Example"]) -> list[str] | Any:
        """Return the most probable answer, or the generated one, for each input; see `predictions`.

        Of a multi-label task it is the list of labels that are right.
        A list; or a series where a series or a data frame was given, with its index (`answers_like`). A model that
        abstains says "unsure" where it gives no answer.
        """
        answers = [UNSURE if self.is_unsure(p) else answer_of(self.task, p) for p in self.predictions(inputs)]
        return answers_like(answers, inputs, self.task)

    def predict_proba(self, inputs: Iterable["str | Mapping[str, Any] | Example"]) -> FloatArray:
        """Return probabilities `[n_inputs, n_labels]`; rows with fewer choices than others end in NaN.

        Raises:
            UserError: The task is open: its answers are generated, and there is no list of them.
        """
        if self.task.is_open:
            raise UserError(f"predict_proba needs a task with labels or choices; this one is {self.task.kind}.")
        rows = [p.probs for p in self.predictions(inputs)]
        table = np.full((len(rows), max(map(len, rows), default=len(self.labels))), np.nan)
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
            metric, metric_name, low, high (95 % interval), bits_per_example, n, n_learnt (test rows that it has learnt
            from: what is measured on them is too good), and `metrics`: name to (value, low, high) of every metric of
            the task. All of these are over all rows; of a model that abstains there is `abstention` too: the wanted
            precision, n_answered, and (value, low, high) of the share that is answered and of the precision, the share
            of what is answered that is right (0 to 1 where nothing is).

        Raises:
            UserError: No test rows, or another kind, or labels that the model does not know.
        """
        task = self.check_rows(task, limit=limit)
        rows = task.test
        progress = progress or Silence()
        n_learnt = self.tell_learnt(task, progress)
        progress.begin(self.recipe.name, len(rows))
        predictions = self.predictions(rows, progress=progress.advance)
        pairs = zip(rows, predictions, strict=True)
        samples = [sample_row(task, self.recipe.name, i, *pair) for i, pair in enumerate(pairs)]
        found = summarise(task, samples, seed=self.seed)
        answered = [
            s["answer"] == s["gold"] for s, p in zip(samples, predictions, strict=True) if not self.is_unsure(p)
        ]
        return {
            "metric": found["metric"],
            "metric_name": task.metrics[0],
            "low": found["metric_low"],
            "high": found["metric_high"],
            "bits_per_example": found["bits_per_example"],
            "n": found["n"],
            "n_learnt": n_learnt,
            "metrics": found["metrics"],
            **({"abstention": self.abstention.measured(answered, len(rows))} if self.abstention else {}),
        }

    def tell_learnt(self, task: Task, progress: Progress, by: str = "") -> int:
        """Return how many test rows ask what the model has learnt from, and say so if there are some; `by` whom."""
        known = self.recipe.known(replace(task, train=task.test))
        n = sum(row.id in known or fingerprint(row) in self.fitted.learnt for row in task.test)
        if n:
            progress.say(
                f"note: {n} of {len(task.test)} test rows are among the examples that were learnt{by}, so these "
                "numbers say little about new inputs"
            )
        return n

    def check_rows(self, task: Task, *, limit: int | None = None) -> Task:
        """Return a task with the test rows that are asked.

        Raises:
            UserError: No test rows, or another kind, or labels that the model does not know.
        """
        return asked_rows(task, self.task, limit=limit)

    def save(self, folder: str | Path) -> None:
        """Write it into a folder, as `kshot.load` reads it: JSON and safetensors.

        The language model itself stays outside. A LoRA adapter is in peft's own format.

        Raises:
            UserError: The folder holds something else, which would be lost.
        """
        from kshot.adapted.folder import save

        save(self, path_of(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it as a repository of the model hub: a card, the adapter in peft's format, and `kshot/` with all of it.

        The adapter stands at the top where the base is a model of the hub.

        Raises:
            UserError: The folder is not empty, or is inside an adapted model.
        """
        from kshot.adapted.hub_folder import write_repository

        write_repository(self, path_of(folder))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, **how: Any
    ) -> "AdaptedModel":
        """Load what `save_pretrained` or `push_to_hub` wrote.

        Args:
            name: A folder, or "USER/NAME" on the hub.
            revision: Commit, branch or tag of the repository; the language model's is the one it was adapted with.
            token: For a private repository; by default that of HF_TOKEN or `hf auth login`.
            how: As `kshot.load`: model, device, dtype, trust_remote_code, allow_code, allow_other_dtype.

        Raises:
            UserError: No such repository, one that is not kshot's, or as `kshot.load`.
            ModelError: The hub cannot be reached.
        """
        from kshot.adapted.hub_folder import from_hub

        return from_hub(str(name), revision=revision, token=token, how=how)

    def push_to_hub(
        self, name: str, *, private: bool = True, token: str | None = None, message: str | None = None
    ) -> str:
        """Write what `save_pretrained` does into a repository of the hub, which is made if it is not there.

        The examples that it shows are published with it: the repository is private unless `private=False`.

        Args:
            name: "USER/NAME".
            private: Whether a new repository is; one that is there stays as it is.
            token: That may write; by default that of HF_TOKEN or `hf auth login`. It is written nowhere.
            message: Of the commit.

        Returns:
            The address of the commit.

        Raises:
            UserError: The token may not write there, or the language model is a file of this machine.
            ModelError: The hub cannot be reached.
        """
        from kshot.adapted.hub_folder import push

        return push(self, name, private=private, token=token, message=message)

    def save_merged(self, folder: str | Path) -> None:
        """Write the language model with the trained weights worked in, as transformers loads it, with its tokenizer.

        Raises:
            UserError: No weights were trained, the model is steered beside them, or the folder is not empty or is
                inside an adapted model.
        """
        from kshot.adapted.folder import check_outside

        folder, trained = path_of(folder), self.fitted.trained
        if trained is None:
            raise UserError(
                f"Only a model whose weights were trained can be merged; '{self.recipe.name}' trains none. Adapt with "
                "fine-tune or icl+ft."
            )
        if self.steering and self.steering.acting:
            raise UserError(
                f"'{self.recipe.name}' steers the model too, which cannot be worked into weights. Adapt "
                "without a steerer."
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder} must be new or empty, for the merged model; it holds something. Name another folder."
            )
        check_outside(folder)
        write_folder(folder, {}, more=trained.save_merged, replaces=False)
