"""The scikit-learn face: a few-shot text classifier with `fit`, `predict` and `predict_proba`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import InvalidInputError
from kshot.core.locks import LOADING
from kshot.core.models import LanguageModel
from kshot.core.paths import at_home
from kshot.core.settings import RunSettings
from kshot.core.types import Example, FloatArray, Task
from kshot.engine.load_model import load_model, portable_name
from kshot.recipes.grammar import parse_recipes
from kshot.tasks.containers import as_objects, as_plain, checked_text, items_of
from kshot.tasks.inputs import named_by_text
from kshot.tasks.label_targets import as_sets, check_lengths, label_sets
from kshot.tasks.missing import is_absent, trimmed
from kshot.tasks.order import METRICS_OF_ORDER
from kshot.tasks.rows import text_flaw
from kshot.tasks.validate import duplicate_key, without_duplicates
from kshot.verbs.adapt import Run, run
from kshot.verbs.prepare import DEFAULT_SHOTS, prepare

AUTO = "auto"


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Classify texts with a language model and a few labelled examples.

    A model that is named is loaded once per process, however many fits a cross-validation makes; one given as an
    object is shared by the clones of an estimator. Pickles (joblib, `n_jobs`) hold no weights of a language model: it
    is loaded again by its name. Threads may share a classifier, fitted or not; they are answered one after the other.

    Args:
        model: A language model, or its name (`kshot.load_model`).
        recipe: One recipe with its settings, "bm25" or "random:k=8", which is used as it is, its probabilities not
            calibrated, unless any number of labels can be right: then it predicts the training texts first, each by
            those before it, to find the threshold from which on a label is said. Or several, separated by commas, or
            "auto", all that are cheap: they are raced on the training texts, and the best is used, calibrated by what
            it predicted in the race.
        shots: The most demonstrations in a prompt; where there are fewer different texts, all of them.
        instruction: What is asked, shown before the demonstrations.
        order: The classes from the lowest to the highest, such as [1, 2, 3, 4, 5], where they have an order: then a
            race is decided by quadratic kappa, for which distances count. Those of which `y` has none are classes too.
        limit: The most texts that a race predicts; the others are learnt at the end.
        out: A folder for the run, where the same one again resumes a race. By default it is not kept. In a
            cross-validation leave it out: each fold is a run of its own.
        random_state: The seed. A `RandomState`, or None for NumPy's own, draws a new one at every `fit`.

    Attributes:
        classes_: The labels, sorted, or as the columns of a matrix `y` are, `[n_classes]`: the order of the columns of
            `predict_proba`.
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
        model: LanguageModel | str | Path = "demo",
        *,
        recipe: str = AUTO,
        shots: int = DEFAULT_SHOTS,
        instruction: str = "",
        order: Sequence[Any] | None = None,
        limit: int = RunSettings.limit,
        out: str | Path | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.model = model
        self.recipe = recipe
        self.shots = shots
        self.instruction = instruction
        self.order = order
        self.limit = limit
        self.out = out
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Learn labelled texts.

        Args:
            X: Texts `[n]`: a list, an array, a Series, or one column `[n, 1]` of them. Rows that repeat an earlier
                text are left out.
            y: Their labels `[n]`, of any type; the model is shown `str(label)`. Where any number of labels can be right
                of a text, a list, tuple or set of labels for each text, which may be empty; or a matrix of zeros and
                ones `[n, n_classes]`, dense or sparse, whose columns are the labels: a data frame says their names.

        Raises:
            InvalidInputError: Texts, labels or settings that cannot be worked with; it is a ValueError too.
            UserError: An unknown model or recipe, or a text that is too long for the model.
        """
        sets = label_sets(y)
        if sets and self.order is not None:
            raise InvalidInputError(
                "order must come with one label a text; y has a set of labels for each. Leave order out."
            )
        order, codes = None, np.empty(0, np.int64)
        if sets:
            classes = sets.classes
        else:
            targets = _as_targets(y)
            order = None if self.order is None else _as_order(self.order, targets)
            classes = np.unique(targets if order is None else order)
            codes = np.searchsorted(classes, targets)
        labels, texts = _as_labels(classes), _as_texts(X)
        if sets:
            outputs = sets.outputs(labels)
            check_lengths(texts, outputs)
        else:
            _check_pairs(texts, codes)
            outputs = [labels[code] for code in codes]
        for name in ("shots", "limit"):
            _check_count(name, getattr(self, name))
        if not isinstance(self.instruction, str) or text_flaw(self.instruction):
            raise InvalidInputError(
                f"instruction must be a text that can be written; got {self.instruction!r}. Give it as a str, or leave "
                "it out."
            )
        rows = enumerate(zip(texts, outputs, strict=True))
        given = [Example(text, output, f"row-{i}") for i, (text, output) in rows]
        train, _ = without_duplicates(given)
        if not sets:
            _check_kept(given, train)
        how: Any = {"kind": "multi_label", "metrics": ("micro_f1",)} if sets else {"kind": "classification"}
        task = Task("texts", train=train, labels=labels, instruction=self.instruction, **how)
        if order is not None:
            labels = tuple(labels[code] for code in np.searchsorted(classes, order))
            task = replace(task, labels=labels, ordered=True, metrics=METRICS_OF_ORDER)
        done = self._adapt(task)
        self.classes_, self._sets = classes, sets and sets.form
        self._places = np.arange(len(classes)) if order is None else np.searchsorted(classes, order)
        self.adapted_, self.recipe_ = done.best, done.chosen
        self.leaderboard_ = done.leaderboard if len(done.leaderboard) > 1 else ()
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each text, `[n]`; X as in `fit`.

        Where any number of labels can be right it returns what `y` was: lists, in an array of objects, or a matrix.

        Raises:
            NotFittedError: `fit` comes first.
            InvalidInputError: X holds something else than texts.
        """
        answers = self._fitted().predict(_as_queries(X))
        if self._sets:
            return self._sets.answers(answers, self._fitted().labels, self.classes_)
        index = {label: i for i, label in enumerate(self._fitted().labels)}
        return self.classes_[[self._places[index[answer]] for answer in answers]]

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the probability of each label, `[n, n_classes]`, columns as in `classes_`; see `predict`.

        Where any number of labels can be right each has a probability of its own, and `predict` says it from a
        threshold on that was fitted on the texts in the order in which they were learnt; it need not be 1/2.
        """
        return self._fitted().predict_proba(_as_queries(X))[:, np.argsort(self._places)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of texts whose label, or whose set of labels as a whole, is right."""
        self._fitted()
        if not self._sets:
            return super().score(X, _as_targets(y), sample_weight)
        said, true = (as_sets(some, self.classes_, self._sets) for some in (self.predict(X), y))
        check_lengths(said, true)
        right = [one == other for one, other in zip(said, true, strict=True)]
        return float(np.average(right, weights=sample_weight))

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
                limit=int(self.limit) if is_race or task.is_multi_label else 1,
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

    def __sklearn_tags__(self) -> Any:
        """Say that X is texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.classifier_tags.multi_label = True
        return tags


@lru_cache(maxsize=2)
def _loaded(name: str) -> LanguageModel:
    return load_model(name)


def _language_model(model: LanguageModel | str | Path) -> LanguageModel:
    if isinstance(model, str | Path):
        with LOADING:  # two threads would load two
            return _loaded(portable_name(at_home(model)))
    if not hasattr(model, "fingerprint"):
        raise InvalidInputError(
            f"model must be a name, a folder, or what kshot.load_model returns; got {model!r}. Give a name such as "
            '"demo".'
        )
    return model


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{name} must be a whole number, 1 or more; got {value!r}.")


def _as_texts(X: Any) -> list[str]:
    """Return texts from whatever holds one text a row, or say what is wrong with it."""
    items = items_of(X, "X")
    if not items:
        raise InvalidInputError("X must hold at least one text; got 0 texts. Give a list of texts.")
    return [checked_text(item, "X", number) for number, item in enumerate(items, 1)]


def _as_queries(X: Any) -> list[Example]:
    """Return texts as examples whose ids are their content: an answer does not depend on a text's place."""
    return [named_by_text(Example(text, "", "")) for text in _as_texts(X)]


def _as_targets(y: Any) -> np.ndarray:
    """Return labels `[n]` in the type that they have, or say what is wrong with them."""
    if y is None:
        raise InvalidInputError(
            "This classifier requires y to be passed, but the target y is None; give one label per text."
        )
    try:
        items = [as_plain(label) for label in column_or_1d(as_objects(y), warn=True).tolist()]
        for number, label in enumerate(items, 1):
            if is_absent(label):
                raise InvalidInputError(
                    f"Each text must have a label, but Input y contains NaN or None: number {number} is {label!r}. "
                    "Leave the row out, or give it a label."
                )
            if isinstance(label, bytes):
                raise InvalidInputError(
                    f"Labels must be texts or numbers; number {number} is {label!r}. Decode them: label.decode()."
                )
        is_text = [isinstance(label, str) for label in items]
        if any(is_text) and not all(is_text):
            raise InvalidInputError(
                f"Labels must all be texts, or none; {items[is_text.index(True)]!r} is one and "
                f"{items[is_text.index(False)]!r} is not. Write all of them as texts: str(label)."
            )
        # pandas would have its whole numbers and truth values become floats, and "1.0" be shown for 1
        has_type = isinstance(getattr(y, "dtype", None), np.dtype) and y.dtype != object
        found = column_or_1d(y) if has_type and not any(is_text) else np.asarray(items)
        assert_all_finite(found, input_name="y")
        check_classification_targets(found)
    except InvalidInputError:
        raise
    except ValueError as error:
        said = str(error).partition("\n")[0].rstrip(".")
        raise InvalidInputError(f"y must hold one label per text: {said}. Give a list or a column of labels.") from None
    return found


def _as_order(order: Any, targets: np.ndarray) -> np.ndarray:
    """Return the classes in their order, or say what is wrong with them."""
    if isinstance(order, str | bytes | set | frozenset):
        raise InvalidInputError(
            f"order must be a list of the classes, the lowest first; got {order!r}. Write it as [1, 2, 3]."
        )
    try:
        found = _as_targets(order)
    except InvalidInputError as error:
        raise InvalidInputError(f"order must list the classes, the lowest first: {error}") from None
    if (found.dtype.kind in "US") != (targets.dtype.kind in "US"):
        raise InvalidInputError(
            f"order must have the classes as y has them; it has {found.tolist()[0]!r}, and y {targets.tolist()[0]!r}. "
            "Write both as texts, or both as numbers."
        )
    if len(np.unique(found)) < len(found) or len(found) < 2:
        raise InvalidInputError(
            f"order must list two classes or more, each once, the lowest first; got {found.tolist()}. Correct it."
        )
    if (unknown := np.setdiff1d(targets, found)).size:
        raise InvalidInputError(
            f"order must list each class that y has, the lowest first; {unknown.tolist()[0]!r} is not in "
            f"{found.tolist()}. Put it into its place, or leave its rows out."
        )
    return found


def _check_pairs(texts: list[str], codes: np.ndarray) -> None:
    """Refuse texts and labels that cannot belong together."""
    if len(texts) != len(codes):
        raise InvalidInputError(
            f"X and y must have one label per text; got inconsistent numbers of samples, {len(texts)} texts and "
            f"{len(codes)} labels. Choose the same rows for both."
        )
    n_texts, n_labels = len(set(texts)), len(set(codes.tolist()))
    if n_labels > n_texts:
        raise InvalidInputError(
            f"There must be at least as many different texts as labels; got {n_texts} texts in X and {n_labels} labels "
            "in y. Where they are swapped, call fit(texts, labels)."
        )


def _check_kept(given: list[Example], train: tuple[Example, ...]) -> None:
    """Refuse labels of which no text is left, as all of theirs come earlier with other labels."""
    kept = {e.output for e in train}
    lost = next((e for e in given if e.output not in kept), None)
    if lost is not None:
        first = next(e for e in train if duplicate_key(e) == duplicate_key(lost))
        raise InvalidInputError(
            f"Each label must have a text of its own; {lost.input!r} has two labels, {first.output!r} and "
            f"{lost.output!r}, and only the first is learnt. Keep the right one of these rows."
        )


def _as_labels(classes: np.ndarray) -> tuple[str, ...]:
    """Return the texts that the model is shown for the classes, in their order."""
    if len(classes) < 2:
        got = ", ".join(map(str, classes)) or "none"
        raise InvalidInputError(f"y must have at least two classes to choose between; got {len(classes)} class: {got}.")
    known: dict[str, str] = {}
    for name in map(str, classes):
        label = trimmed(" ".join(name.split()))
        if not label or text_flaw(label):
            raise InvalidInputError(f"Each label must be a text that a model can write; got {name!r}. Rename it.")
        if label in known:
            raise InvalidInputError(
                f"Labels must differ as texts; {known[label]!r} and {name!r} both become '{label}'. Rename one of "
                "them; if they mean the same, strip them first: y.str.strip() or [label.strip() for label in y]."
            )
        known[label] = name
    return tuple(known)
