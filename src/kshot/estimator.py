"""The scikit-learn face: a few-shot text classifier with `fit`, `predict` and `predict_proba`."""

from contextlib import nullcontext
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from kshot.adapted.folder import load
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.seeding import digest
from kshot.core.settings import RunSettings
from kshot.core.types import Example, FloatArray, Task
from kshot.engine.load_model import load_model
from kshot.recipes.grammar import parse_recipes
from kshot.tasks.missing import trimmed
from kshot.tasks.rows import text_flaw
from kshot.tasks.validate import without_duplicates
from kshot.verbs.adapt import Run, run
from kshot.verbs.prepare import DEFAULT_SHOTS, prepare

AUTO = "auto"


class InvalidInputError(UserError, ValueError):
    """Data or a setting that the classifier does not take: a `ValueError`, as scikit-learn's tools expect."""


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Classify texts with a language model and a few labelled examples.

    A model that is named is loaded once per process, however many fits a cross-validation makes; pickles (joblib,
    `n_jobs`) hold no weights and load it again by its name. A model given as an object is shared by the clones of an
    estimator; but models with weights cannot be pickled, and in a grid of parameters scikit-learn copies them: name
    them there.

    Args:
        model: A language model, or its name (`kshot.load_model`).
        recipe: One recipe with its settings, "bm25" or "random:k=8", which is used as it is, its probabilities not
            calibrated; or several, separated by commas, or "auto", all that are cheap: they are raced on the training
            texts, and the best is used, calibrated by what it predicted in the race.
        shots: The most demonstrations in a prompt; where there are fewer different texts, all of them.
        instruction: What is asked, shown before the demonstrations.
        limit: The most texts that a race predicts; the others are learnt at the end.
        out: A folder for the run, where the same one again resumes a race. By default it is not kept. In a
            cross-validation leave it out: each fold is a run of its own.
        random_state: The seed. A `RandomState`, or None for NumPy's own, draws a new one at every `fit`.

    Attributes:
        classes_: The labels, sorted, `[n_classes]`: the order of the columns of `predict_proba`.
        recipe_: The recipe that is used.
        leaderboard_: A row for each recipe of the race, best first; empty without a race.
        adapted_: The `AdaptedModel`, to save, serve or evaluate. Its labels are the texts of `classes_`.

    Example:
        >>> X = ["the cat", "a hammer", "the dog and the cat", "hammer and saw"]
        >>> y = ["animal", "tool", "animal", "tool"]
        >>> classifier = FewShotClassifier(model="scripted", recipe="bm25", shots=2).fit(X, y)
        >>> classifier.predict(["one more cat", "a saw"]).tolist()
        ['animal', 'tool']
    """

    def __init__(
        self,
        model: LanguageModel | str = "demo",
        *,
        recipe: str = AUTO,
        shots: int = DEFAULT_SHOTS,
        instruction: str = "",
        limit: int = RunSettings.limit,
        out: str | Path | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.model = model
        self.recipe = recipe
        self.shots = shots
        self.instruction = instruction
        self.limit = limit
        self.out = out
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Learn labelled texts.

        Args:
            X: Texts `[n]`: a list, an array, a Series, or one column `[n, 1]` of them. Rows that repeat an earlier
                text are left out.
            y: Their labels `[n]`, of any type; the model is shown `str(label)`.

        Raises:
            InvalidInputError: Texts, labels or settings that cannot be worked with; it is a ValueError too.
            UserError: An unknown model or recipe, or a text that is too long for the model.
        """
        if y is None:
            raise InvalidInputError(
                "This classifier requires y to be passed, but the target y is None; give one label per text."
            )
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        labels = _as_labels(classes)
        texts = _as_texts(X)
        check_consistent_length(texts, y)
        for name in ("shots", "limit"):
            _check_count(name, getattr(self, name))
        rows = enumerate(zip(texts, codes, strict=True))
        train, _ = without_duplicates([Example(text, labels[code], f"row-{i}") for i, (text, code) in rows])
        task = Task("texts", "classification", train, labels=labels, instruction=self.instruction)
        done = self._adapt(task)
        self.classes_ = classes
        self.adapted_, self.recipe_ = done.best, done.chosen
        self.leaderboard_ = done.leaderboard if len(done.leaderboard) > 1 else ()
        self._model = None if self.adapted_.model is None else self.model  # what loads `adapted_` again
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each text, `[n]`; X as in `fit`.

        Raises:
            NotFittedError: `fit` comes first.
            InvalidInputError: X holds something else than texts.
        """
        index = {label: i for i, label in enumerate(self._fitted().labels)}
        return self.classes_[[index[answer] for answer in self._fitted().predict(_as_queries(X))]]

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the probability of each label, `[n, n_classes]`, columns as in `classes_`; see `predict`."""
        return self._fitted().predict_proba(_as_queries(X))

    def _fitted(self) -> AdaptedModel:
        check_is_fitted(self)
        return self.adapted_

    def _adapt(self, task: Task) -> Run:
        """Run the race; of a single recipe without a choice of settings one prediction is enough to have it fitted."""
        if not isinstance(self.recipe, str):
            raise InvalidInputError(f"recipe must be a text, such as 'bm25' or '{AUTO}'; got {self.recipe!r}.")
        names = "all" if self.recipe == AUTO else self.recipe
        recipes = parse_recipes(names, shots=1)
        is_race = len(recipes) > 1 or any(recipe.alternatives for recipe in recipes)
        seed = self.random_state
        seed = int(seed) if isinstance(seed, Integral) else int(check_random_state(seed).randint(2**31))
        with TemporaryDirectory(prefix="kshot-") if self.out is None else nullcontext(self.out) as folder:
            settings = RunSettings(
                task,
                _language_model(self.model),
                recipes=names,
                shots=min(int(self.shots), len(task.train)),
                seed=seed,
                limit=int(self.limit) if is_race else 1,
                out=folder,
            )
            done = run(prepare(settings))
        if self.out is None:
            done.best.choice.pop("run")  # the folder is gone
        return done

    def __sklearn_clone__(self) -> Self:
        """Clone as scikit-learn does, but share the model: a deep copy would double its weights."""
        weightless = object.__new__(type(self))
        weightless.__dict__.update(vars(self), model=None)
        clone: Any = super(FewShotClassifier, weightless).__sklearn_clone__()
        clone.model = self.model
        return clone

    def __getstate__(self) -> Any:
        """Return the state with the adapted model as the files of its folder, without weights."""
        state: Any = super().__getstate__()
        if "adapted_" in state:
            with TemporaryDirectory(prefix="kshot-") as folder:
                self.adapted_.save(folder)
                files = [f for f in Path(folder).rglob("*") if f.is_file()]
                state = state | {"adapted_": {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the adapted model from its files."""
        super().__setstate__(state)
        if "adapted_" in state:
            with TemporaryDirectory(prefix="kshot-") as folder:
                for name, data in state["adapted_"].items():
                    (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                    (Path(folder) / name).write_bytes(data)
                self.adapted_ = load(folder, model=None if self._model is None else _language_model(self._model))

    def __sklearn_tags__(self) -> Any:
        """Say that X is texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


@lru_cache(maxsize=2)
def _loaded(name: str) -> LanguageModel:
    return load_model(name)


def _language_model(model: LanguageModel | str) -> LanguageModel:
    return _loaded(model) if isinstance(model, str) else model


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{name} must be a whole number, 1 or more; got {value!r}.")


def _as_texts(X: Any) -> list[str]:
    """Return texts from whatever holds one text a row, or say what is wrong with it."""
    array = np.asarray(X, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        got = f"an array of shape {array.shape}" if array.ndim else f"{type(X).__name__}"
        raise InvalidInputError(
            f"X must hold one text a row, as a list ([text] for one) or a single column; got {got}. Choose one column, "
            "or put a transformer in front that writes each row as one text."
        )
    if not len(array):
        raise InvalidInputError("X must hold at least one text; got 0 texts.")
    for i, text in enumerate(array):
        if not isinstance(text, str):
            raise InvalidInputError(
                f"X must hold texts; number {i + 1} is {text!r}. Write it as a str or leave it out."
            )
        flaw = text_flaw(text) or ("it is empty; leave it out" if not trimmed(text) else None)
        if flaw:
            raise InvalidInputError(f"X must hold texts; number {i + 1} cannot be used: {flaw}.")
    return [str(text) for text in array]


def _as_queries(X: Any) -> list[Example]:
    """Return texts as examples whose ids are their content: an answer does not depend on a text's place."""
    return [Example(text, "", digest(text)) for text in _as_texts(X)]


def _as_labels(classes: np.ndarray) -> tuple[str, ...]:
    """Return the texts that the model is shown for the classes, in their order."""
    if len(classes) < 2:
        got = ", ".join(map(str, classes)) or "none"
        raise InvalidInputError(f"y must have at least two classes to choose between; got {len(classes)} class: {got}.")
    known: dict[str, str] = {}
    for name in map(str, classes):
        label = " ".join(name.split())
        if not label or text_flaw(label):
            raise InvalidInputError(f"Each label must be a text that a model can write; got {name!r}. Rename it.")
        if label in known:
            raise InvalidInputError(
                f"Labels must differ as texts; {known[label]!r} and {name!r} both become '{label}'. Rename one of them."
            )
        known[label] = name
    return tuple(known)
