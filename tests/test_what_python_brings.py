"""What Python brings as texts and labels: the right answer, or a sentence that says what to do."""

import io
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot import FewShotClassifier
from kshot.core.errors import InvalidInputError, UserError
from kshot.core.types import Example
from kshot.tasks.containers import items_of
from kshot.tasks.inputs import named_by_text, read_inputs
from kshot.tasks.missing import is_absent
from kshot.tasks.rows import BadRowsError

TEXTS = ["one more cat", "a saw"]
ANSWERS = ["animal", "tool"]
ROWS = labelled_rows(12)
X, Y = [row["input"] for row in ROWS], [row["output"] for row in ROWS]
CODES = [sorted(set(Y)).index(label) for label in Y]


class Table:
    """A data frame of polars, as far as it matters here."""

    def __init__(self, **columns):
        self._columns = columns
        self.columns = list(columns)

    def __iter__(self):
        return iter(self._columns.values())

    def __array__(self, dtype=None, copy=None):
        return np.array(list(self._columns.values()), dtype=dtype).T


@pytest.fixture(scope="module")
def classifier():
    return FewShotClassifier("scripted", recipe="bm25", shots=4).fit(X, Y)


@pytest.fixture(params=["classifier", "adapted"])
def model(request, classifier):
    return classifier if request.param == "classifier" else classifier.adapted_


def refused(act, message):
    """Both faces refuse with one kind of error, which scikit-learn's tools take for theirs."""
    with pytest.raises(InvalidInputError) as caught:
        act()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, UserError)
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


GOOD = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "numpy texts": list(map(np.str_, TEXTS)),
    "array": np.array(TEXTS),
    "object array": np.array(TEXTS, dtype=object),
    "column of an array": np.array(TEXTS)[:, None],
    "masked array": np.ma.array(TEXTS),
    "rows of one": [[text] for text in TEXTS],
    "series": pd.Series(TEXTS, index=[5, 9]),
    "series of strings": pd.Series(TEXTS, dtype="string"),
    "series of arrow strings": pd.Series(TEXTS, dtype="string[pyarrow]"),
    "categories": pd.Series(TEXTS, dtype="category"),
    "index": pd.Index(TEXTS),
    "extension array": pd.array(TEXTS),
    "frame of one column": pd.DataFrame({"text": TEXTS}),
    "polars": Table(text=TEXTS),
    "keys": dict.fromkeys(TEXTS).keys(),
}


@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_texts_in_any_container_are_answered_one_by_one(model, values):
    assert list(model.predict(values)) == ANSWERS
    assert len(model.predict_proba(values)) == len(TEXTS)


def test_an_iterator_is_read_once(model):
    assert list(model.predict(text for text in TEXTS)) == ANSWERS
    assert list(model.predict(map(str, TEXTS))) == ANSWERS


FRAME = pd.DataFrame({"text": TEXTS, "label": ANSWERS})
BAD = {
    "text": ("the cat", "must be a list of inputs, also where there is one; got str. Write [text] for one."),
    "numpy text": (np.str_("the cat"), "got str_"),
    "bytes": (b"the cat", "got bytes"),
    "mapping": ({"input": "the cat"}, "got dict"),
    "example": (kshot.Example("the cat", "", "a"), "got Example"),
    "None": (None, "must be a list of inputs; got NoneType"),
    "number": (3, "got int"),
    "one item": (np.array("the cat"), "got ndarray"),
    "set": (set(TEXTS), "must have an order, in which answers come; got set. Make it a list"),
    "frozen set": (frozenset(TEXTS), "got frozenset"),
    "file": (io.StringIO("a\nb\n"), "got an open file. Give its lines: file.read().splitlines()"),
    "frame": (FRAME, "got a table with the columns text, label. Choose one column, as in df['text']"),
    "polars frame": (Table(text=TEXTS, label=ANSWERS), "got a table with the columns text, label. Choose one column"),
    "empty frame": (pd.DataFrame(), "got an array of shape (0, 0)"),
    "array of two columns": (np.zeros((2, 3)), "got an array of shape (2, 3). Choose one column, as in array[:, 0]"),
    "deep array": (np.array([[TEXTS]]), "got an array of shape (1, 1, 2)"),
    "nested": ([TEXTS, TEXTS], "must hold one text a row; got rows of several, as ['one more cat', 'a saw']"),
    "pairs": (list(zip(TEXTS, ANSWERS, strict=True)), "got rows of several, as ('one more cat', 'animal')"),
    "ragged": ([["a"], ["b", "c"]], "got rows of several"),
    "rows of a frame": (list(FRAME.itertuples()), "got rows of several"),
    "a missing one": ([*TEXTS, None], "must hold texts; number 3 is None. Leave it out, or write it as a str."),
    "NaN": ([*TEXTS, float("nan")], "number 3 is nan"),
    "NA": ([*TEXTS, pd.NA], "number 3 is <NA>"),
    "a missing one of a series": (pd.Series(["the cat", None], dtype="string"), "number 2 is <NA>"),
    "a masked one": (np.ma.array(TEXTS, mask=[False, True]), "number 2 is None"),
    "numbers": ([1, 2], "number 1 is 1"),
    "array of numbers": (np.arange(3), "number 1 is 0"),
    "truth": ([True], "number 1 is True"),
    "dates": ([date(2020, 1, 1)], "number 1 is datetime.date(2020, 1, 1)"),
    "bytes inside": ([b"the cat"], "number 1 is b'the cat'. Leave it out, or decode it: text.decode()."),
    "long": ([b"x" * 500], "x…. Leave it out"),
    "empty text": (["the cat", " \n"], "number 2 cannot be used: it is empty; leave it out"),
    "NUL": (["the cat\0"], "number 1 cannot be used: it holds a NUL character"),
    "surrogate": (["\ud800"], "number 1 cannot be used: it holds half of a surrogate pair"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_what_holds_no_texts_is_refused(model, values, message):
    for ask in (model.predict, model.predict_proba):
        refused(lambda ask=ask: ask(values), message)


def test_nothing_is_answered_with_nothing(classifier):
    adapted = classifier.adapted_
    assert adapted.predict([]) == []
    assert adapted.predict_proba([]).shape == (0, 3)
    assert len(adapted.predict(pd.Series([], dtype=str))) == 0
    refused(lambda: classifier.predict([]), "X must hold at least one text; got 0 texts. Give a list of texts.")


def test_what_counts_as_missing():
    nothing = [None, float("nan"), np.nan, np.float32("nan"), np.datetime64("NaT"), Decimal("nan"), pd.NA, pd.NaT]
    assert all(map(is_absent, nothing))
    assert not any(map(is_absent, [0, "", "nan", 0.0, [], np.float32(1), np.datetime64("2020-01-01"), False]))
    assert items_of(pd.DataFrame({"a": [None]}), "X") == [None]


# Mappings


def test_a_mapping_without_a_text_is_refused(classifier):
    for value, message in (
        ({"text": "the cat"}, "must have the key 'input'; number 1 has text. Rename the one that holds the text"),
        ({}, "number 1 has no keys"),
        ({"input": None}, "must hold texts; number 1 is None"),
        ({"input": 3}, "number 1 is 3"),
        ({"input": float("nan")}, "number 1 is nan"),
        ({"input": ["the cat"]}, "number 1 is ['the cat']"),
        ({"input": " "}, "number 1 cannot be used: it is empty"),
    ):
        refused(lambda value=value: classifier.adapted_.predict([value]), message)
    value = {"input": "the cat", "context": 3}
    refused(lambda: classifier.adapted_.predict([value]), "The inputs, row 1: 'context' must be a string; got a number")


def test_rows_of_a_frame_as_mappings(classifier, quiz_task, tmp_path):
    records = pd.DataFrame({"input": TEXTS, "context": ["here", None], "id": [7, 8]}).to_dict("records")
    found = classifier.adapted_.predictions(records)
    assert [(p.answer, p.example_id) for p in found] == [("animal", "7"), ("tool", "8")]
    named = classifier.adapted_.predictions([{"input": "a saw", "id": None}, {"input": "a saw", "id": np.int64(5)}])
    assert [p.example_id for p in named] == [named_by_text(Example("a saw", "", "")).id, "5"]
    quiz = kshot.adapt(quiz_task, "scripted", recipes="zero-shot", shots=2, limit=2, out=tmp_path / "run").best
    for choices in (["1", "2"], ("1", "2"), np.array(["1", "2"])):
        assert quiz.predictions([{"input": "1?", "choices": choices}])[0].candidates == ("1", "2")
    refused(lambda: quiz.predict(["1?"]), 'must bring its choices; number 1 has none. Give it as {"input": text')
    refused(lambda: quiz.predict([{"input": "1?", "choices": None}]), "number 1 has none")


def test_examples_without_a_text_are_refused(classifier):
    refused(lambda: classifier.adapted_.predict([kshot.Example(None, "", "a")]), "number 1 is None")  # type: ignore
    refused(lambda: classifier.adapted_.predict([kshot.Example(" ", "", "a")]), "it is empty")


# Mappings and examples, read alike


@pytest.fixture(scope="module")
def quizzes(tmp_path_factory):
    """Models whose answers are the choices' texts, and letters."""

    def made(outputs, *, letters):
        train = tuple(kshot.Example(f"q{i}", outputs[i % 2], f"t{i}", choices=("x", "y")) for i in range(4))
        task = kshot.Task("quiz", "multiple_choice", train, choices_in_input=letters)
        out = tmp_path_factory.mktemp("quiz")
        return kshot.adapt(task, "scripted", recipes="zero-shot", shots=2, limit=2, out=out).best

    return made("xy", letters=False), made(("(A)", "(B)"), letters=True)


def as_mapping(values):
    return {"input": "q", **values}


def as_example(values):
    return kshot.Example("q", "", "i", **values)


@pytest.mark.parametrize("given", [as_mapping, as_example])
def test_mappings_and_examples_are_read_alike(quizzes, given):
    quiz, letters = quizzes
    two = {"choices": (" c", "d\u200b")}
    assert quiz.predictions([given(two)])[0].candidates == ("c", "d")
    for choices in (["c", "d"], np.array(["c", "d"]), pd.Series(["c", "d"], index=[3, 4])):
        assert quiz.predictions([given({"choices": choices})])[0].candidates == ("c", "d")
    for context in ("  ", "\u200b", None, float("nan"), np.nan, pd.NA):
        assert len(quiz.predict([given({**two, "context": context})])) == 1
    for choices, message in (
        (("c", None), "'choices' item 2 must be a string; got null; fill it in, or leave the row out."),
        (("c", float("nan")), "'choices' item 2 must be a string; got a number (NaN); fill it in, or leave the row"),
        (("c", 2), "'choices' item 2 must be a string; got a number (2); write it as \"2\"."),
        ((" ", "d"), "'choices' item 1 must not be empty"),
        (("c\ud800", "d"), "'choices' item 1 must be text, but it holds half of a surrogate pair"),
        (("c\ufdd0", "d"), "'choices' item 1 must be text, but it holds the character U+FDD0"),
        ("cd", "'choices' must be a list of strings; got a string"),
        (("c", "c\u200b"), "the 'choices' must differ"),
        (("c",), "must have at least 2 'choices'; got 1"),
        ((), "must bring its choices; number 1 has none"),
    ):
        refused(lambda choices=choices: quiz.predict([given({"choices": choices})]), message)
    for context in (5, "\ud800", "\ufdd0", ["a"]):
        refused(lambda context=context: quiz.predict([given({**two, "context": context})]), "row 1: 'context' must be")
    many = tuple(map(str, range(27)))
    assert letters.predictions([given({"choices": many[:26]})])[0].candidates[-1] == "(Z)"
    refused(lambda: letters.predict([given({"choices": many})]), "answered by a letter must be at most 26; got 27")
    assert len(quiz.predictions([given({"choices": many})])[0].candidates) == 27


def test_choices_of_files_are_checked_as_in_a_task(quizzes, tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [{"input": "q", "choices": choices} for choices in (["c", "d"], ["c", "c "], ["c"], [])]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(BadRowsError) as caught:
        read_inputs(str(path), io.BytesIO(), task=quizzes[0].task)
    assert [row.number for row in caught.value.rows] == [2, 3, 4]
    path.write_text('{"input": "q", "choices": ["c ", "d"], "context": " "}\n')
    (example,), _ = read_inputs(str(path), io.BytesIO(), task=quizzes[0].task)
    assert (example.choices, example.context) == (("c", "d"), None)


def test_examples_with_outputs_are_measured_as_they_are_answered(quizzes):
    rows = (kshot.Example("q", "c ", "e", choices=("c ", "d")),)
    task = replace(quizzes[0].task, test=rows)
    assert quizzes[0].evaluate(task)["n"] == 1


# Labels


def fitted(y, x=X):
    return FewShotClassifier("scripted", recipe="bm25", shots=4).fit(x, y)


LABELS = {
    "bools": [code == 0 for code in CODES],
    "ints": CODES,
    "whole floats": [float(code) for code in CODES],
    "nullable ints": pd.Series(CODES, dtype="Int64"),
    "nullable bools": pd.Series([code == 0 for code in CODES], dtype="boolean"),
    "arrow ints": pd.Series(CODES, dtype="int64[pyarrow]"),
    "arrow strings": pd.Series(Y, dtype="string[pyarrow]"),
    "objects": np.array(Y, dtype=object),
    "objects that are ints": np.array(CODES, dtype=object),
    "categories": pd.Categorical(Y, categories=["unused", *sorted(set(Y))]),
    "categories of ints": pd.Series(CODES, dtype="category"),
    "masked": np.ma.array(CODES),
    "index": pd.Index(Y),
}


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_labels_are_shown_and_come_back_as_they_are(y):
    classifier = fitted(y)
    values = list(dict.fromkeys(list(y)))
    assert sorted(classifier.classes_.tolist()) == sorted(values)
    assert set(map(type, classifier.classes_.tolist())) == set(map(type, np.array(values).tolist()))
    assert classifier.adapted_.labels == tuple(map(str, sorted(values)))
    assert list(classifier.predict(X[:3])) == list(y)[:3]


def with_label(value):
    return [*Y[:3], value, *Y[4:]]


NO_LABELS = {
    "None": (with_label(None), "a label, but Input y contains NaN or None: number 4 is None. Leave the row out"),
    "NaN": (with_label(float("nan")), "number 4 is nan"),
    "NA": (with_label(pd.NA), "number 4 is <NA>"),
    "NaT": (with_label(pd.NaT), "number 4 is NaT"),
    "all None": ([None] * 12, "number 1 is None"),
    "None of a series": (pd.Series(with_label(None)), "number 4 is nan"),
    "NA of arrow": (pd.Series(with_label(None), dtype="string[pyarrow]"), "number 4 is <NA>"),
    "NA of ints": (pd.Series([None, *CODES[1:]], dtype="Int64"), "number 1 is <NA>"),
    "NaN of categories": (pd.Series(with_label(None), dtype="category"), "number 4 is nan"),
    "masked": (np.ma.array(CODES, mask=[True] + [False] * 11), "number 1 is None"),
    "infinity": ([float("inf"), *map(float, CODES[1:])], "y contains infinity"),
    "bytes": ([label.encode() for label in Y], "number 1 is b'animal'. Decode them: label.decode()."),
    "array of bytes": (np.array([label.encode() for label in Y]), "Decode them"),
    "mixed": (with_label(3), "must all be texts, or none; 'animal' is one and 3 is not. Write all of them as texts"),
    "single": (["a"] * 12, "must have at least two classes to choose between; got 1 class: a"),
    "fewer": (Y[:-1], "got inconsistent numbers of samples, 12 texts and 11 labels. Choose the same rows for both."),
    "more": ([*Y, "tool"], "12 texts and 13 labels"),
    "frame": (pd.DataFrame({"a": Y, "b": Y}), "y must hold one label per text: y should be a 1d array"),
    "row": (np.array(Y)[None], "got an array of shape (1, 12)"),
    "one text": ("a" * 12, "got an array of shape ()"),
    "set": (set(Y), "got an array of shape ()"),
    "iterator": (iter(Y), "got an array of shape ()"),
    "mapping": (dict(enumerate(Y)), "got an array of shape ()"),
    "unseen": (with_label("\u200b"), "Each label must be a text that a model can write; got '\\u200b'. Rename it."),
    "alike but for the unseen": (["b", "b\u200b"] * 6, "'b' and 'b\\u200b' both become 'b'. Rename one of them"),
    "rows": ([{"label": label} for label in Y], "Unknown label type"),
    "complex": ([1j] * 12, "Complex data not supported"),
    "None itself": (None, "requires y to be passed"),
}  # fmt: skip


@pytest.mark.parametrize(("y", "message"), NO_LABELS.values(), ids=NO_LABELS)
def test_labels_that_are_none_are_refused(y, message):
    refused(lambda: fitted(y), message)


def test_texts_and_labels_that_are_swapped_are_refused():
    refused(
        lambda: fitted(X, x=Y),
        "at least as many different texts as labels; got 3 texts in X and 12 labels in y. Where they are swapped, call",
    )
    assert fitted(["a", "b", "c"], x=["the cat", "the bread", "the saw"]).classes_.tolist() == ["a", "b", "c"]


def test_a_label_whose_texts_all_have_another_is_refused():
    refused(lambda: fitted(["a", "b", "a", "a"], x=["t", " t", "u", "v"]), "' t' has two labels, 'a' and 'b', and only")
    assert fitted(["a", "b", "a", "b"], x=["t", "t", "u", "v"]).predict(["t"]).tolist() == ["a"]


@pytest.mark.parametrize("instruction", [None, 5, "\ud800"])
def test_an_instruction_that_is_no_text_is_refused(instruction):
    model = FewShotClassifier("scripted", recipe="bm25", shots=4, instruction=instruction)
    refused(lambda: model.fit(X, Y), "instruction must be a text that can be written; got")


def test_a_column_of_labels_in_a_frame_is_taken():
    with pytest.warns(UserWarning, match="A column-vector y was passed"):
        assert fitted(pd.DataFrame({"label": Y})).predict(X[:3]).tolist() == Y[:3]


def test_a_task_folder_is_no_list_of_texts(classifier, tmp_path):
    folder = write_task(tmp_path / "task", ROWS)
    refused(lambda: classifier.adapted_.predict(kshot.Task.load(folder)), "got Task")
    refused(lambda: classifier.predict(folder), "got PosixPath")


@pytest.mark.parametrize("value", [None, 3, b"run", ["run"]])
def test_what_is_no_path_is_refused(value):
    got = f"got {type(value).__name__}; give"
    for act in (kshot.Task.load, lambda v: kshot.adapt(v, "scripted"), kshot.load):
        with pytest.raises(UserError, match=got):
            act(value)


def test_a_table_is_no_model():
    df = pd.DataFrame({"text": X, "label": Y})
    with pytest.raises(UserError, match="A path or name must be a str or a Path; got DataFrame; give it as text"):
        kshot.load(df)
