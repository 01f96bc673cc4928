"""The scikit-learn face: it does what scikit-learn's tools expect of a classifier, with texts as X."""

import copy
import doctest
import enum
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

import kshot
from conftest import labelled_rows
from kshot import estimator
from kshot.core.errors import UserError
from kshot.estimator import FewShotClassifier
from kshot.models.scripted import ScriptedModel

ROWS = labelled_rows(30)
X = [row["input"] for row in ROWS]
Y = [row["output"] for row in ROWS]


class GivenNumbers(FewShotClassifier):
    """The classifier as it is, but said to take numbers: scikit-learn has no checks for anything else."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


class NumbersAsTexts(GivenNumbers):
    """The classifier behind a front that writes each row of numbers as a text: the checks then reach the inside."""

    def fit(self, X, y):
        return super().fit(self._written(X, reset=True), y)

    def predict(self, X):
        check_is_fitted(self)
        return super().predict(self._written(X))

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(self._written(X))

    def _written(self, X, reset=False):
        return [" ".join(f"{value:.1f}" for value in row) for row in validate_data(self, X, reset=reset)]


FIT = "it fits on rows of numbers, and X must hold texts"
LOOK = "it looks for the message of a check of numbers; that X must hold texts is said before"
NOT_FOR_TEXTS = {
    "check_fit_score_takes_y": FIT,
    "check_estimators_overwrite_params": FIT,
    "check_dont_overwrite_parameters": FIT,
    "check_estimators_fit_returns_self": FIT,
    "check_readonly_memmap_input": FIT,
    "check_n_features_in_after_fitting": f"{FIT}, which have no number of features",
    "check_n_features_in": f"{FIT}, which have no number of features",
    "check_positive_only_tag_during_fit": FIT,
    "check_estimators_dtypes": FIT,
    "check_dtype_object": FIT,
    "check_pipeline_consistency": FIT,
    "check_estimators_pickle": FIT,
    "check_f_contiguous_array_estimator": FIT,
    "check_classifier_data_not_an_array": FIT,
    "check_classifiers_classes": FIT,
    "check_classifiers_train": FIT,
    "check_supervised_y_2d": FIT,
    "check_classifiers_multilabel_output_format_decision_function": FIT,
    "check_classifiers_multilabel_output_format_predict": FIT,
    "check_classifiers_multilabel_output_format_predict_proba": FIT,
    "check_classifiers_multilabel_representation_invariance": FIT,
    "check_methods_sample_order_invariance": FIT,
    "check_methods_subset_invariance": FIT,
    "check_dict_unchanged": FIT,
    "check_fit_idempotent": FIT,
    "check_fit_check_is_fitted": FIT,
    "check_fit2d_predict1d": FIT,
    "check_fit2d_1feature": f"{LOOK}: one column would be right",
    "check_estimators_empty_data_messages": f"{LOOK}: no features",
    "check_estimators_nan_inf": f"{LOOK}: NaN and infinity",
    "check_estimator_sparse_array": f"{LOOK}: sparse matrices",
    "check_estimator_sparse_matrix": f"{LOOK}: sparse matrices",
}


def failing(given):
    return NOT_FOR_TEXTS if type(given) is GivenNumbers else {}


@parametrize_with_checks(
    [cls(model="scripted", recipe="bm25", limit=16) for cls in (GivenNumbers, NumbersAsTexts)],
    expected_failed_checks=failing,
    xfail_strict=True,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module", autouse=True)
def _folders_in_memory(tmp_path_factory):
    """Every fit writes a run folder; waiting for the disk would take most of the time of these tests."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay where they are
    with pytest.MonkeyPatch.context() as patch:
        if Path("/dev/shm").is_dir():
            patch.setattr(tempfile, "tempdir", "/dev/shm")
        yield


@pytest.fixture
def loads(monkeypatch):
    """The names of the models loaded."""
    names = []
    monkeypatch.setattr(estimator, "load_model", lambda name: names.append(name) or kshot.load_model(name))
    estimator._loaded.cache_clear()
    return names


def small(recipe="bm25", **settings):
    return FewShotClassifier("scripted", recipe=recipe, **settings)


def shortened(texts):
    return [text.split(",")[0] for text in texts]


def test_the_example_of_the_docstring_runs():
    done = doctest.testmod(estimator)
    assert done.attempted > 0
    assert done.failed == 0


def test_kshot_itself_does_not_import_scikit_learn():
    code = "import sys, kshot; assert 'sklearn' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_parameters():
    classifier = small(shots=4)
    assert repr(classifier) == "FewShotClassifier(model='scripted', recipe='bm25', shots=4)"
    assert classifier.set_params(shots=8).get_params() == {
        "model": "scripted",
        "recipe": "bm25",
        "shots": 8,
        "instruction": "",
        "order": None,
        "limit": 300,
        "out": None,
        "random_state": 0,
    }
    assert clone(classifier).get_params() == classifier.get_params()


@pytest.mark.parametrize("recipe", ["bm25", "tfidf-lr"])
def test_it_learns(recipe):
    classifier = small(recipe).fit(X, Y)
    assert classifier.score(X, Y) > 0.9
    assert classifier.recipe_ == recipe
    assert classifier.leaderboard_ == ()
    assert classifier.predict_proba(X).sum(axis=1) == pytest.approx(np.ones(len(X)))


def test_texts_come_in_many_containers():
    frame = pd.DataFrame({"text": X, "label": Y})
    expected = small().fit(X, Y).predict(X).tolist()
    for given in (np.array(X), np.array(X, dtype=object)[:, None], frame["text"], frame[["text"]], tuple(X)):
        assert small().fit(given, frame["label"]).predict(given).tolist() == expected


@pytest.mark.parametrize(
    "names",
    [("b", "a", "c"), (9, 10, -1), (2.0, 1.0, 0.0), (True, False, True), ("two words", "Two words", "yes")],
)
def test_labels_come_back_as_they_were(names):
    y = [names[list("aft").index(label[0])] for label in Y]
    classifier = small("bm25", shots=8).fit(X, y)
    assert classifier.classes_.tolist() == sorted(set(names))
    answers = classifier.predict(X)
    assert answers.dtype == classifier.classes_.dtype == np.asarray(y).dtype
    assert classifier.classes_[classifier.predict_proba(X).argmax(axis=1)].tolist() == answers.tolist()
    assert np.mean(answers == y) > 0.9
    assert classifier.adapted_.labels == tuple(map(str, classifier.classes_))


def test_labels_of_pandas_come_back():
    y = pd.Series(Y, dtype="category")
    assert small().fit(X, y).predict(X[:3]).tolist() == Y[:3]
    with pytest.warns(DataConversionWarning):
        small().fit(X, y.to_frame())


class Kind(str, enum.Enum):  # noqa: UP042 - whose members are written by their names, unlike those of a StrEnum
    BEAST = "animal"
    MEAL = "food"
    THING = "tool"


def of_numpy(y):
    return np.array([label.value for label in y], getattr(np.dtypes, "StringDType", lambda: object)())


@pytest.mark.parametrize("as_given", [list, lambda y: np.array(y, object), of_numpy])
def test_labels_are_the_texts_that_they_hold_of_whatever_class_they_are(as_given):
    y = as_given([Kind(label) for label in Y])
    classifier = small(order=list(Kind)).fit(X, y)
    assert classifier.classes_.tolist() == ["animal", "food", "tool"] == list(classifier.adapted_.labels)
    assert classifier.score(X, y) == classifier.score(X, Y) > 0.9
    sets = small().fit(X, [[Kind(label)] for label in Y])
    assert sets.classes_.tolist() == classifier.classes_.tolist()
    assert sets.score(X, [[Kind(label)] for label in Y]) == sets.score(X, [[label] for label in Y])


def test_whole_numbers_among_objects_can_be_scored():
    y = np.array([len(label) for label in Y], object)
    assert small().fit(X, y).score(X, y) > 0.9


def test_the_order_of_the_texts_asked_does_not_matter():
    classifier = FewShotClassifier("tiny", recipe="random:k=4").fit(X, Y)
    assert classifier.predict_proba(X[::-1]) == pytest.approx(classifier.predict_proba(X)[::-1], abs=1e-4)


def test_repeated_texts_and_many_shots_are_no_hindrance():
    assert small(shots=500).fit(X[:6] * 3, Y[:6] * 3).predict(X[:6]).tolist() == Y[:6]


def test_the_instruction_is_shown():
    heard = []

    class Listening(ScriptedModel):
        def score(self, requests, **options):
            heard.extend(request.prompt.text for request in requests)
            return super().score(requests, **options)

    FewShotClassifier(Listening(), recipe="zero-shot", instruction="Say what it is.").fit(X, Y).predict(X[:1])
    assert heard == [f"Say what it is.\n\nText: {X[0]}\nLabel:"]


def test_the_seed_decides():
    def shown(seed):
        return [e.id for e in small("random:k=5", random_state=seed).fit(X, Y).adapted_.pool]

    assert shown(0) == shown(0) == shown(np.int64(0)) != shown(1)
    assert shown(np.random.RandomState(3)) == shown(np.random.RandomState(3))
    assert shown(None) != shown(None)


def test_several_recipes_are_raced():
    classifier = small("majority,bm25", shots=np.int64(4), limit=np.int64(20)).fit(X, Y)  # as a grid may bring them
    assert classifier.recipe_ == "bm25"
    assert [row["recipe"] for row in classifier.leaderboard_] == ["bm25", "majority"]
    assert "run" not in classifier.adapted_.choice


def test_auto_races_everything_that_is_cheap():
    classifier = small("auto", limit=8).fit(X, Y)
    assert {"majority", "zero-shot", "bm25", "random"} <= {row["recipe"] for row in classifier.leaderboard_}
    assert classifier.recipe_ == classifier.leaderboard_[0]["recipe"]


def test_a_race_can_be_kept_and_resumed(tmp_path):
    settings = {"recipe": "majority,bm25", "out": tmp_path / "run"}
    first = small(**settings).fit(X, Y)
    assert small(**settings).fit(X, Y).leaderboard_ == first.leaderboard_
    assert kshot.load(tmp_path / "run").predict(X) == first.predict(X).tolist()


@pytest.mark.slow
def test_cross_validation_loads_a_model_once(loads):
    grid = {"recipe": ["bm25", "random"], "shots": [2, 4]}
    search = GridSearchCV(FewShotClassifier("tiny"), grid, cv=3, error_score="raise").fit(X, Y)
    assert loads == ["tiny"]
    assert search.best_params_.keys() == grid.keys()
    assert search.predict_proba(X[:2]).shape == (2, 3)
    assert search.best_estimator_.recipe_ == search.best_params_["recipe"]
    assert cross_val_score(small(), X, Y, cv=3).mean() > 0.8


def test_it_ends_a_pipeline():
    pipeline = make_pipeline(FunctionTransformer(shortened), small()).fit(X, Y)
    assert pipeline.score(X, Y) > 0.9
    assert {e.input for e in pipeline[-1].adapted_.pool} <= set(shortened(X))
    assert clone(pipeline).set_params(fewshotclassifier__shots=2).fit(X, Y)[-1].shots == 2


def test_clones_share_a_model_that_is_an_object():
    model = ScriptedModel()
    classifier = FewShotClassifier(model, recipe="bm25").fit(X, Y)
    twin = clone(classifier)
    assert twin.model is classifier.model is model
    assert not hasattr(twin, "adapted_")
    assert cross_val_score(classifier, X, Y, cv=3).mean() > 0.8


@pytest.mark.parametrize("model", ["tiny", ScriptedModel({"cat": "tool"})], ids=["name", "object"])
@pytest.mark.parametrize("recipe", ["random:k=5", "bm25", "tfidf-lr"])
def test_what_is_pickled_holds_no_weights_and_answers_alike(model, recipe):
    classifier = FewShotClassifier(model, recipe=recipe).fit(X, Y)
    file = io.BytesIO()
    joblib.dump(classifier.set_params(shots=3), file)
    assert file.tell() < 20_000
    file.seek(0)
    for twin in (joblib.load(file), copy.deepcopy(classifier)):
        assert twin.predict_proba(X[:5]) == pytest.approx(classifier.predict_proba(X[:5]), abs=1e-5)
        assert twin.get_params()["shots"] == 3


def test_what_is_not_fitted_says_so():
    with pytest.raises(NotFittedError, match="This FewShotClassifier instance is not fitted yet"):
        small().predict(X)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("the cat", r"a list of inputs, also where there is one; got str. Write \[text\] for one"),
        ({"a": 1}, "got dict"),
        (np.zeros((2, 3)), r"got an array of shape \(2, 3\). Choose one column"),
        (pd.DataFrame({"a": ["x", "y"], "b": ["x", "y"]}), "a table with the columns a, b. Choose one column"),
        ([], "at least one text; got 0"),
        (["the cat", 3], "number 2 is 3"),
        (pd.Series(["the cat", None]), "number 2 is nan"),
        (["the cat", " "], "number 2 cannot be used: it is empty"),
        (["the cat", "\0"], "number 2 cannot be used: it holds a NUL"),
    ],
)
def test_other_things_than_texts_are_refused(texts, message):
    for act in (lambda: small().fit(texts, ["a", "b"]), lambda: small().fit(X, Y).predict(texts)):
        with pytest.raises(ValueError, match=message) as caught:
            act()
        assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (["a", "a"], "at least two classes to choose between; got 1 class: a"),
        (["yes", "yes "], "'yes' and 'yes ' both become 'yes'. Rename one of them; if they mean the same, strip"),
        (["", "a"], "a text that a model can write; got ''"),
        (["a", "b", "c"], "inconsistent numbers of samples"),
        ([0.5, 0.7], "Unknown label type: continuous"),
        ([float("nan"), 1.0], "Input y contains NaN"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        small().fit(["the cat", "the saw"], labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "shots must be a whole number, 1 or more; got 0"),
        ({"shots": True}, "got True"),
        ({"limit": 2.5}, "limit must be a whole number, 1 or more; got 2.5"),
        ({"recipe": None}, "recipe must be a text, such as 'bm25' or 'auto'; got None"),
        ({"recipe": "bm52"}, "Did you mean 'bm25'"),
        ({"recipe": "bm25:k=99"}, "k must be in 1..30"),
        ({"model": "scripted:nowhere.json", "recipe": "bm25"}, "must name a JSON file"),
        ({"model": Path("no folder"), "recipe": "bm25"}, "no folder"),
        ({"model": 3, "recipe": "bm25"}, "model must be a name, a folder, or what kshot.load_model returns; got 3"),
    ],
)
def test_settings_are_checked_when_it_fits(settings, message):
    classifier = small().set_params(**settings)
    with pytest.raises(UserError, match=message):
        classifier.fit(X, Y)


@pytest.mark.slow
def test_settings_of_training_race_before_it_is_fitted():
    """Not over one example, as would be enough for a recipe without a choice; and the weights are pickled with it."""
    texts = [f"{noun} number {i}" for i in range(4) for noun in ("cat", "saw", "dog", "axe")]
    classifier = FewShotClassifier("tiny", recipe="icl+ft:k=1,lr=1e-3/1e-2,steps=1", shots=2)
    classifier.fit(texts, ["animal", "tool"] * 8)
    assert classifier.adapted_.choice["n"] == 16
    assert classifier.adapted_.recipe.part("tuner").lr in (1e-3, 1e-2)
    file = io.BytesIO()
    joblib.dump(classifier, file)
    file.seek(0)
    again = joblib.load(file)
    assert (again.predict_proba(texts) == classifier.predict_proba(texts)).all()


def test_a_model_with_a_relative_name_is_that_of_the_folder_one_stands_in(tmp_path, monkeypatch):
    found = []
    for place, answer in (("one", "animal"), ("two", "tool")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "m.json").write_text(json.dumps({"cat": answer}))
        monkeypatch.chdir(tmp_path / place)
        fitted = FewShotClassifier("scripted:m.json", recipe="zero-shot").fit(["x", "y"], ["animal", "tool"])
        found += fitted.predict(["cat"]).tolist()
    assert found == ["animal", "tool"]
