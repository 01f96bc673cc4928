"""Tasks in which any number of labels can be right: what is read, asked, measured, learnt and handed over."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.metrics import accuracy_score, f1_score, hamming_loss
from sklearn.model_selection import KFold, cross_val_score
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_classifier_multioutput

import kshot
from kshot.core.errors import InvalidInputError, UserError
from kshot.core.label_sets import (
    NOTHING,
    having,
    indicator,
    is_written,
    odds_of_verdicts,
    read,
    shown_by_name,
    shown_by_verdict,
    verdicts,
    written,
)
from kshot.core.lessons import Lesson
from kshot.core.script import UsualWording
from kshot.core.types import Example, Prediction, Query, Question, Task
from kshot.estimator import FewShotClassifier
from kshot.learners.build import make_learner
from kshot.learners.drawn_lessons import label_lessons
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.averages import averaged
from kshot.measures.label_calibration import calibrated_labels
from kshot.measures.metrics import compute, metric_for
from kshot.measures.probabilities import code_length_bits
from kshot.measures.samples import check_metrics
from kshot.methods.composers.yes_no import YesNo
from kshot.race.entrant import Entrant
from kshot.race.measure import Measuring
from kshot.race.record import PromptBook
from kshot.race.stream import Stream, make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.containers import items_of
from kshot.tasks.label_targets import label_sets
from kshot.tasks.load import load_task
from kshot.tasks.rows import BadRowsError
from kshot.tasks.validate import validate
from kshot.verbs.export import export
from word_network import word_engine

LABELS = ("animal", "food", "tool")
WORDS = {"animal": ("cat", "dog", "horse"), "food": ("bread", "soup", "rice"), "tool": ("saw", "drill", "axe")}


def rows(n, seed=0):
    """Return rows whose input has a word for each label that is right."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        own = [label for label in LABELS if rng.random() < 0.45]
        words = [WORDS[label][rng.integers(3)] for label in own] or ["nothing"]
        found.append({"input": f"{' and '.join(words)} {i}", "output": own})
    return found


def examples(n, seed=0):
    return tuple(Example(r["input"], written(r["output"], LABELS), f"e{i}") for i, r in enumerate(rows(n, seed)))


def task(n=24, n_test=8):
    metrics = ("micro_f1", "macro_f1", "exact_match", "hamming")
    return Task("things", "multi_label", examples(n), examples(n_test, 1), LABELS, metrics, "Name what it speaks of.")


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


# --- how sets are written -------------------------------------------------------------------------------------------


def test_a_set_has_one_text():
    assert written(["tool", "animal", "tool"], LABELS) == "animal|tool"
    assert written([], LABELS) == NOTHING == having([False] * 3, LABELS)
    assert read("animal|tool") == ("animal", "tool")
    assert read(NOTHING) == ()
    assert is_written("animal|tool", LABELS)
    assert not is_written("tool|animal", LABELS)
    assert not is_written("animal? yes", LABELS)
    assert indicator(["animal|tool", NOTHING], LABELS).tolist() == [[True, False, True], [False, False, False]]


def test_demonstrations_say_all_that_is_right_and_one_more_that_is_wrong():
    made = shown_by_verdict(examples(30), LABELS)
    for given, one in zip(examples(30), made, strict=True):
        lines = one.output.split("\n")
        right = {line.removesuffix("? yes") for line in lines if line.endswith("? yes")}
        assert right == set(read(given.output))
        assert len(lines) == min(3, 2 * len(right) + 1)
        assert len(set(lines)) == len(lines)
    assert {one.output.split("? ")[1][:2] for one in made} == {"ye", "no"}  # what comes first is mixed
    assert shown_by_verdict(examples(3), LABELS) == shown_by_verdict(examples(3), LABELS)
    assert [
        e.output for e in shown_by_name([Example("a", "animal|tool", "x"), Example("b", NOTHING, "y")], LABELS)
    ] == [
        "animal, tool",
        "none",
    ]


# --- metrics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = tuple(f"l{i}" for i in range(2 + 3 * seed))
    gold, said = rng.random((2, 40, len(labels))) < rng.choice([0.05, 0.3, 0.6])
    gold_texts, said_texts = ([having(row, labels) for row in some] for some in (gold, said))
    references = [(text,) for text in gold_texts]

    def ours(name):
        name = metric_for(name, "multi_label")
        return compute(name, references, said_texts, labels=labels, positive_label="l1")

    assert ours("micro_f1") == pytest.approx(f1_score(gold, said, average="micro", zero_division=0), abs=1e-12)
    assert ours("macro_f1") == pytest.approx(f1_score(gold, said, average="macro", zero_division=0), abs=1e-12)
    assert ours("f1") == pytest.approx(f1_score(gold[:, 1], said[:, 1], zero_division=0), abs=1e-12)
    assert ours("exact_match") == pytest.approx(accuracy_score(gold, said), abs=1e-12)
    assert ours("hamming") == pytest.approx(1 - hamming_loss(gold, said), abs=1e-12)


@pytest.mark.parametrize("metric", ["macro_recall", "matthews"])
def test_metrics_of_one_right_label_are_refused_for_sets(metric):
    task = Task("t", "multi_label", (), labels=LABELS, metrics=("micro_f1", metric))
    with pytest.raises(UserError, match=f"the metric {metric} needs one right label a row; the rows of 't' have sets"):
        check_metrics(task)


def test_metrics_of_sets_where_one_label_is_right_are_those_of_scikit_learn():
    gold, said = ["(none)", "(none)", "bug", "a|b", "a|b"], ["(none)", "bug", "bug", "a|c", "a|b"]

    def ours(name):
        return compute(metric_for(name, "classification"), [(g,) for g in gold], said, labels=sorted({*gold, *said}))

    assert ours("micro_f1") == pytest.approx(f1_score(gold, said, average="micro"), abs=1e-12)
    assert ours("hamming") == pytest.approx(1 - hamming_loss(gold, said), abs=1e-12)
    assert ours("set_macro_f1") == pytest.approx(f1_score(gold, said, average="macro", zero_division=0), abs=1e-12)


def test_code_length_is_the_sum_over_labels():
    probs = (0.9, 0.2, 0.5)
    said = Prediction("x", LABELS, (0.0,) * 3, probs, "animal")
    assert code_length_bits(task(), "animal", said) == pytest.approx(-np.log2(0.9 * 0.8 * 0.5), abs=1e-12)
    assert code_length_bits(task(), NOTHING, said) == pytest.approx(-np.log2(0.1 * 0.8 * 0.5), abs=1e-12)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_mean_is_of_each_label(mean):
    one, other = (
        Prediction("x", LABELS, tuple(np.log(p) - np.log1p(-np.array(p))), p, "animal")
        for p in ((0.9, 0.2, 0.5), (0.7, 0.4, 0.8))
    )
    found = averaged([one, other], mean=mean, is_open=False, is_label_set=True)
    if mean == "arithmetic":
        expected = [0.8, 0.3, 0.65]
    else:
        odds = np.exp([(a + b) / 2 for a, b in zip(one.log_probs, other.log_probs, strict=True)])
        expected = odds / (1 + odds)
    assert found.probs == pytest.approx(expected)
    assert found.answer == "animal|tool"
    assert found.disagreement == 1.0


# --- thresholds and offsets -----------------------------------------------------------------------------------------


def stream(n=60, seed=3):
    rng = np.random.default_rng(seed)
    holds = rng.random((n, 3)) < (0.1, 0.3, 0.6)
    odds = 2 * holds + rng.normal(size=(n, 3)) + (3, 4, 5)  # likes to say yes, to some labels more than to others
    asked = [Example("x", having(row, LABELS), f"e{i}") for i, row in enumerate(holds)]
    said = [Prediction(e.id, LABELS, tuple(row), (0.99,) * 3, "x") for e, row in zip(asked, odds.tolist(), strict=True)]
    return asked, said


@pytest.mark.parametrize("as_said", [False, True])
def test_no_prediction_depends_on_its_own_answer_or_on_what_comes_later(as_said):
    asked, said = stream()
    whole, _ = calibrated_labels(said, asked, metric="micro_f1", as_said=as_said)
    for n in (1, 9, 30):
        changed = [*asked[:n], *(replace(e, output="animal|food|tool") for e in asked[n:])]
        assert calibrated_labels(said, changed, metric="micro_f1", as_said=as_said)[0][: n + 1] == whole[: n + 1]
        assert calibrated_labels(said[:n], asked[:n], metric="micro_f1", as_said=as_said)[0] == whole[:n]


@pytest.mark.parametrize("seed", range(4))
def test_a_liking_for_yes_is_taken_out(seed):
    asked, said = stream(seed=seed)
    t = task()
    found, last = calibrated_labels(said, asked, metric="micro_f1")
    before, after = (np.mean([code_length_bits(t, e.output, p) for e, p in zip(asked, some, strict=True)][20:])
                     for some in (said, found))  # fmt: skip
    assert after < 2.6 < before
    assert len(last.offsets) == 3
    assert 0 < last.threshold < 1
    gold = [(e.output,) for e in asked[20:]]
    assert compute("micro_f1", gold, [str(p.answer) for p in found[20:]], labels=LABELS) > 0.65


def test_the_threshold_is_the_best_one_for_the_metric_by_all_its_names():
    asked, said = stream()
    macro, same, one, other, whole = (
        calibrated_labels(said, asked, metric=metric, positive_label=label)
        for metric, label in (
            ("macro_f1", None),
            ("set_macro_f1", None),
            ("f1", "animal"),
            ("f1", "tool"),
            ("exact_match", None),
        )
    )
    assert macro == same != whole

    def f1(found, label):
        rows = [(e.output,) for e in asked[8:]]
        return compute("set_f1", rows, [str(p.answer) for p in found[0][8:]], labels=LABELS, positive_label=label)

    for label, found in (("animal", one), ("tool", other)):
        assert f1(found, label) >= f1(whole, label)


def test_a_threshold_alone_leaves_probabilities():
    asked, said = stream()
    found, last = calibrated_labels(said, asked, metric="micro_f1", as_said=True)
    assert last.temperature == 1
    assert not any(last.offsets)
    assert not last.strength
    odds = np.array(said[0].log_probs)
    assert found[0].probs == pytest.approx(0.99 / (1 + np.exp(-odds)) + 0.005)


# --- reading --------------------------------------------------------------------------------------------------------


def folder(tmp_path, train, card=None, test=None):
    tmp_path.mkdir(exist_ok=True)
    for name, some in (("train", train), ("test", test)):
        if some:
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    if card:
        (tmp_path / "task.json").write_text(json.dumps(card))
    return str(tmp_path)


def test_lists_of_labels_are_sets(tmp_path):
    found = load_task(folder(tmp_path, rows(30)))
    assert (found.kind, found.labels, found.metrics) == ("multi_label", LABELS, ("micro_f1",))
    assert found.train == tuple(replace(e, id=f"train-{i}") for i, e in enumerate(examples(30), 1))
    assert any(
        note.startswith("the column 'output' holds lists of labels: kind is multi_label") for note in found.notes
    )
    n_empty = sum(not row["output"] for row in rows(30))
    assert any(f"{n_empty} rows have no label, which is a set of none" in note for note in found.notes)


@pytest.mark.parametrize("between", ["|", ";", ", "])
def test_texts_with_something_between(tmp_path, between):
    given = [{"input": row["input"], "output": between.join(row["output"])} for row in rows(30)]
    found = load_task(folder(tmp_path, given, {"kind": "multi-label"}))
    assert [e.output for e in found.train] == [e.output for e in examples(30)]
    assert any(f"are parted at '{between.strip()}' (`separator` in task.json" in note for note in found.notes)


def test_a_separator_of_ones_own_and_columns(tmp_path):
    lines = ["text,tags", *(f"{row['input']},{' / '.join(row['output'])}" for row in rows(30))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    found = load_task(str(tmp_path / "rows.csv"), columns={"input": "text", "output": "tags"}, kind="multi_label")
    assert len(found.labels) > 3  # nobody said what stands between them
    (tmp_path / "rows.csv").rename(tmp_path / "train.csv")
    (tmp_path / "task.json").write_text('{"kind": "multi_label", "separator": "/"}')
    found = load_task(str(tmp_path), columns={"input": "text", "output": "tags"})
    assert [e.output for e in found.train] == [e.output for e in examples(30)]
    assert found.labels == LABELS


def test_rows_that_python_holds():
    frame = pd.DataFrame(rows(30))
    assert load_task(frame).train == load_task(rows(30)).train
    assert load_task(frame).labels == LABELS


def test_numbers_are_labels_and_lists_of_one_text_are_that_text(tmp_path):
    given = [{"input": f"{i}", "output": [i % 3, 3]} for i in range(20)]
    assert load_task(folder(tmp_path / "a", given)).labels == ("0", "1", "2", "3")
    given = [{"input": f"{i}", "output": [LABELS[i % 3]]} for i in range(20)]
    assert load_task(folder(tmp_path / "b", given)).kind == "classification"
    assert load_task(folder(tmp_path / "b", given), kind="multi_label").labels == LABELS


BAD = {
    "nested": (
        [["animal", ["cat"]]],
        "'output' item 2 must be a label; got a list.*labels inside labels are not known",
    ),
    "separator": ([["animal|food"]], r"'output' item 1: a label must not hold '\|'.*write it with another sign"),
    "reserved": ([[NOTHING]], r"'output' item 1: a label must not be '\(none\)', which says that none is right"),
    "null": ([None], "'output' must be a list of labels; got null; write it as"),
    "object": ([{"animal": 1}], "'output' must be a list of labels; got an object"),
    "blank": ([["animal", "  "]], "'output' item 2 must not be empty; name the label, or leave it out"),
    "fraction": ([["animal", 0.5]], "'output' item 2 must be a label; got a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_are_no_sets_are_refused(tmp_path, name):
    outputs, message = BAD[name]
    given = [*rows(20), *({"input": f"bad {i}", "output": output} for i, output in enumerate(outputs))]
    with pytest.raises(BadRowsError, match=f"train.jsonl row 21: {message}"):
        load_task(folder(tmp_path, given, {"kind": "multi_label"}))


def test_an_unknown_label_at_test_and_in_the_card(tmp_path):
    test = [{"input": "the axle", "output": ["tools"]}]
    with pytest.raises(BadRowsError, match=r"test.jsonl row 1: 'tools' is not among the task's labels; .* 'tool'\?"):
        load_task(folder(tmp_path / "a", rows(30), test=test))
    with pytest.raises(UserError, match=r"task.json of 'b': a label must not hold '\|'"):
        load_task(folder(tmp_path / "b", rows(30), {"kind": "multi_label", "labels": ["a|b", "c"]}))


def test_labels_that_are_twice_in_a_list_count_once(tmp_path):
    given = [*rows(20), {"input": "saw and axe", "output": ["tool", "tool"]}]
    found = load_task(folder(tmp_path, given))
    assert found.train[-1].output == "tool"
    assert any("1 row has a label twice, which counts once" in note for note in found.notes)


def test_what_validate_says(tmp_path):
    one_each = [{"input": f"{i} {label}", "output": [label]} for i in range(5) for label in LABELS]
    said = validate(load_task(folder(tmp_path / "a", one_each), kind="multi_label")).problems
    assert "All rows of train have one label each: --kind classification would do, and choose among them." in said
    given = [{"input": f"{i}", "output": ["animal", *([LABELS[i % 2]] if i else [])]} for i in range(9)]
    given.append({"input": "x", "output": []})
    said = validate(load_task(folder(tmp_path / "b", given, {"labels": LABELS, "kind": "multi_label"}))).problems
    assert "1 row of train has no label; that is allowed, and says that none is right." in said
    assert "No row of train has the label 'tool'." in said


def test_names_that_prompts_cannot_tell_apart_are_said(tmp_path):
    given = [{"input": f"{i}", "output": (["None", "b"], ["one, two"], ["b"], [])[i % 4]} for i in range(12)]
    said = validate(load_task(folder(tmp_path, given))).problems
    assert (
        "The label 'none' is what prompts say where no label is right; rename it, or write an empty set instead."
        in said
    )
    assert "The label 'one, two' has a comma, as which prompts part labels; rename it, as with '/'." in said
    looking_alike = [{"input": f"{i}", "output": (["Joy", "x"], ["joy"], ["x"])[i % 3]} for i in range(12)]
    assert any("'Joy'" in one and "'joy'" in one for one in validate(load_task(looking_alike)).problems)


def test_sets_without_any_label_are_refused(tmp_path):
    given = [{"input": f"{i}", "output": []} for i in range(4)]
    with pytest.raises(
        UserError, match="the sets in the column 'output' are all empty; name the column that holds them"
    ):
        load_task(given, kind="multi_label")
    card = {"kind": "multi_label", "labels": LABELS}
    assert load_task(folder(tmp_path, given, card)).labels == LABELS
    with pytest.raises(BadRowsError, match="row 1: 'output' must hold one text, but its list is empty; .* multi_label"):
        load_task([{"input": "x", "output": []}, *({"input": f"{i}", "output": ["a"]} for i in range(4))])


def test_columns_of_zeros_and_ones_are_told_how_they_are_written():
    frame = pd.DataFrame({"text": [f"t{i}" for i in range(6)], "joy": [i % 2 for i in range(6)], "love": [True] * 6})
    with pytest.raises(UserError, match="joy, love hold zeros and ones, as where each label has a column of its own"):
        load_task(frame)
    assert load_task(frame, columns={"output": "joy"}).kind == "classification"


ODD = {
    "unicode": [["日本語", "é"], ["é"], ["😀", "日本語"], []],
    "separators": [["a, b", "c;d"], ["c;d"], ["a, b"], []],
    "prefixes": [["a", "ab"], ["ab"], ["abc", "a"], ["abc"]],
    "answers": [["yes", "no"], ["no"], ["yes? no"], []],
    "numbers": [[2, 10], [10, 2], [1], [2]],
    "truth": [[True, False], [True], [False], [True]],
    "in other orders, twice": [["b", "a"], ["a", "b", "a"], ["a"], ["b"]],
    "one each": [["a"], ["b"], ["a"], ["b"]],
    "one label": [["a"], [], ["a"], []],
    "control tokens": [["<eos>", "a"], ["a"], ["<eos>"], []],
    "lines": [["a\nb", "c"], ["c"], ["a\nb"], []],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_labels_are_learnt_and_come_back(name, tiny, tmp_path):
    given = [{"input": f"text {i}", "output": ODD[name][i % 4]} for i in range(12)]
    found = load_task(given, kind="multi_label")
    as_text = [sorted({json.dumps(label) if isinstance(label, int) else label for label in own}) for own in ODD[name]]
    assert [sorted(read(e.output)) for e in found.train[:4]] == as_text
    assert found.labels == tuple(sorted({label for own in as_text for label in own}))
    run = kshot.adapt(found, tiny, recipes="random:k=2", shots=2, limit=9, out=tmp_path / "run")
    answers = run.best.predict([row["input"] for row in given])
    assert kshot.load(run.folder, model=tiny).predict([row["input"] for row in given]) == answers
    assert {label for one in answers for label in one} <= set(found.labels)
    assert run.best.predict_proba(["text 1"]).shape == (1, len(found.labels))


def test_the_first_prompt(tmp_path, run_cli):
    path = folder(tmp_path, rows(30), {"instruction": "Name what it speaks of."})
    out = run_cli("validate", path, "--model", "tiny").out
    assert "Name what it speaks of.\n\nText: " in out
    assert out.count("\nLabels:") == 3
    assert "of each of the 3 labels it is then read how likely it is named next" in out


# --- asking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composer", [UsualWording(), YesNo()], ids=["named", "yes-no"])
def test_all_labels_are_read_as_one_at_a_time(tiny, composer):
    t = task()
    asking = replace(TaskModel.for_task(t, tiny), composer=composer)
    prompt, _ = asking.prompt(t.train[:4], t.test[0])
    answers = asking.answers(t.test[0])
    (row,) = asking.score([prompt], [answers])
    alone = [tiny.score([kshot.ScoreRequest(prompt, (f" {text}",))])[0][0] for text in answers]
    assert row == pytest.approx(alone, abs=1e-4)
    odds = asking.label_log_odds(row)
    p = 1 / (1 + np.exp(-odds))
    if composer.asks_each:
        assert answers == verdicts(LABELS)
        assert odds == pytest.approx(odds_of_verdicts(row))
        yes, no = np.exp(row[1::2]), np.exp(row[::2])
        assert p == pytest.approx(yes / (yes + no))
    else:
        assert answers == LABELS
        assert p == pytest.approx(np.exp(row))
    bits = asking.bits_after([prompt], [t.test[0]])
    p = 0.99 * p + 0.005
    holds = indicator([t.test[0].output], LABELS)[0]
    assert bits == pytest.approx([-np.log2(np.where(holds, p, 1 - p)).sum()])


def test_the_prompt_of_yes_and_no(tiny):
    t = replace(task(), train=(Example("a dog", "animal", "d"), Example("hm", NOTHING, "h")))
    asking = replace(TaskModel.for_task(t, tiny), composer=YesNo())
    text = asking.compose(t.train, Question("a saw", "q")).text
    lines = text.split("\n")
    assert text.startswith("Name what it speaks of.\n\nText: a dog\nLabel: ")
    assert text.endswith("\n\nText: a saw\nLabel:")
    assert sum(line.endswith("? no") for line in lines) == 3
    assert "animal? yes" in text
    named = TaskModel.for_task(t, tiny).compose(t.train, Question("a saw", "q")).text
    assert named.endswith("Text: a dog\nLabels: animal\n\nText: hm\nLabels: none\n\nText: a saw\nLabels:")


def test_the_prompts_that_are_told_of_what_trains_ask_yes_or_no(tiny):
    stream = make_stream(task(), limit=8, seed=0)
    shown, asked = stream.examples[0], stream.examples[2]
    sample = {"setting": "", "position": 2, "example_id": asked.id, "contexts": (), "demonstrations": (shown.id,)}
    book = PromptBook(TaskModel.for_task(task(), tiny), stream, 0)
    book.add(parse_recipe("icl+ft:k=1,lr=1e-3", shots=1), [sample])
    sent = replace(TaskModel.for_task(task(), tiny), composer=YesNo()).compose((shown,), asked)
    assert "".join(text for _, text in book.segments) == sent.text


RECIPES = (
    *("zero-shot", "random:k=4", "bm25:k=2,contexts=1", "random:k=3,composer=yes-no", "random:k=3,contexts=2"),
    *("average(zero-shot, tfidf-lr)", "tfidf-lr", "majority"),
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_answers_from_the_past_alone(tiny, recipe):
    t = task()
    setup = Setup(t, TaskModel.for_task(t, tiny), 0)
    learner = make_learner(parse_recipe(recipe, shots=4), setup)
    past = t.train[:9]
    found = learner.predict([Query(e, past) for e in t.test[:3]])
    for e, p in zip(t.test, found, strict=False):
        assert p.candidates == LABELS
        assert len(p.probs) == 3
        assert p.answer == having(np.array(p.probs) > 0.5, LABELS)
        assert np.isfinite([*p.probs, *p.log_probs]).all()
        assert p.example_id == e.id
    other = [Query(replace(e, output="animal|food|tool"), past) for e in t.test[:3]]
    again = make_learner(parse_recipe(recipe, shots=4), setup).predict(other)
    assert [p.probs for p in again] == [p.probs for p in found]


def test_recipes_that_choose_one_answer_are_left_out(tiny):
    for name in (
        *("mix(zero-shot,tfidf-lr)", "cascade(zero-shot,tfidf-lr)", "max-entropy", "distil(zero-shot)"),
        *("zero-shot:calibration=contextual", "random:composer=verbalised", "random:generator=flips"),
    ):
        assert not parse_recipe(name, shots=2).suits(task()), name
    with pytest.raises(UserError, match="must name one for tasks of kind multi_label; got 'max-entropy'"):
        kshot.adapt(task(), tiny, recipes="max-entropy")
    with pytest.raises(UserError, match=r"--abstain needs answers with one probability each; 'things' is multi_label"):
        kshot.adapt(task(), tiny, recipes="zero-shot", abstain=0.5)
    assert not parse_recipe("random:composer=yes-no", shots=2).suits(replace(task(), kind="classification"))


# --- learning -------------------------------------------------------------------------------------------------------


def test_lessons_are_of_one_label_that_is_right_as_often_as_wrong():
    lessons = [Lesson((), e) for e in (*examples(200), Example("all", "animal|food|tool", "all"))]
    found, said_yes = label_lessons(lessons, LABELS, np.random.default_rng(0)), []
    for lesson in found:
        label, said = lesson.target.output.split("? ")
        own = next(e for e in (one.target for one in lessons) if e.id == lesson.target.id)
        assert (said == "yes") == (label in read(own.output))
        assert lesson.learnt == "last"
        assert lesson.among == (f"{label}? no", f"{label}? yes")
        if 0 < len(read(own.output)) < 3:
            said_yes.append(said == "yes")
    assert len(found) == len(lessons)
    assert found[-1].target.output.endswith("yes")
    assert 0.4 < np.mean(said_yes) < 0.6
    assert len({lesson.target.output for lesson in found}) == 6


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    out = tmp_path_factory.mktemp("sets") / "run"
    return kshot.adapt(task(40, 12), tiny, recipes="majority,tfidf-lr,zero-shot,random:k=3", shots=3, out=out)


def test_a_run_is_saved_and_answers_alike(run, tiny):
    texts = [e.input for e in task(40, 12).test]
    loaded = kshot.load(run.folder / "best", model=tiny)
    answers = run.best.predict(texts)
    assert loaded.predict(texts) == answers
    assert all(isinstance(one, list) for one in answers)
    assert np.array_equal(loaded.predict_proba(texts), run.best.predict_proba(texts))
    series = pd.Series(texts, index=range(5, 17))
    found = run.best.predict(series)
    assert found.index.tolist() == list(range(5, 17))
    assert found.tolist() == answers
    assert found.name == "output"
    measured = loaded.evaluate(task(40, 12))
    assert measured["metric_name"] == "micro_f1"
    assert set(measured["metrics"]) == set(task().metrics)
    gold = [e.output for e in task(40, 12).test]
    said = indicator([written(one, LABELS) for one in answers], LABELS)
    assert measured["metric"] == pytest.approx(
        f1_score(indicator(gold, LABELS), said, average="micro", zero_division=0)
    )
    with pytest.raises(UserError, match=r"\(animal, food, tool\); of 'odd' it is 'thing'"):
        loaded.evaluate(replace(task(), labels=("animal",), test=(Example("x", "thing", "odd"),)))


def test_the_prediction_of_a_file(run, tmp_path, run_cli):
    file = tmp_path / "in.txt"
    file.write_text("a cat and a saw\nnothing\n")
    said = json.loads(run_cli("predict", str(run.folder), str(file), "--json").out)["predictions"]
    assert all(isinstance(p["answer"], list) and set(p["probs"]) == set(LABELS) for p in said)
    lines = run_cli("predict", str(run.folder), str(file)).out.splitlines()
    assert [list(read(line)) for line in lines] == [p["answer"] for p in said]


def test_the_report_counts_each_label(run):
    page = (run.folder / "report.html").read_text("utf-8")
    assert '"sets":["|","(none)"]' in page
    assert '"labels":["animal","food","tool"]' in page
    assert "rightly said" in page
    assert "have no example in the stream" not in page


def test_other_programs_get_no_sets(run, tmp_path):
    with pytest.raises(UserError, match="Other programs ask for one answer; 'things' is multi_label"):
        export(run.best, "prompt", tmp_path / "x")


# --- training -------------------------------------------------------------------------------------------------------


def balanced(n, start=0):
    """Return examples in which each label is right in half of the rows, as words in an order that says nothing."""
    rng, found = np.random.default_rng(start), []
    for i in range(n):
        own = [label for label in LABELS if rng.random() < 0.5]
        words = [WORDS[label][rng.integers(3)] for label in own] or ["nothing"]
        found.append(Example(" ".join(words), written(own, LABELS), f"t{start}-{i}"))
    return tuple(found)


@pytest.mark.slow
def test_training_teaches_yes_and_no():
    t = Task("things", "multi_label", balanced(64, 0), balanced(30, 5), LABELS, ("micro_f1",))
    setup = Setup(t, TaskModel.for_task(t, word_engine(seed=0)), 0)
    recipe = parse_recipe("fine-tune:weights=full,lr=1e-3,steps=5,batch=12", shots=1)
    learner = TrainedLearner(recipe, setup)
    assert learner.recipe.part("composer") == YesNo()
    before = learner.says([Query(e, ()) for e in t.test])
    learner.learn(t.train)
    after = learner.says([Query(e, ()) for e in t.test])
    holds = indicator([e.output for e in t.test], LABELS)
    n_right = [(np.array([p.log_probs for p in some]) > 0) == holds for some in (before, after)]
    assert np.mean(n_right[0]) < 0.65
    assert np.mean(n_right[1]) > 0.85


# --- scikit-learn's face --------------------------------------------------------------------------------------------

X = [e.input for e in examples(30)]
Y = [list(read(e.output)) for e in examples(30)]
MATRIX = indicator([e.output for e in examples(30)], LABELS).astype(int)


def fitted(y, recipe="majority", n=None):
    return FewShotClassifier(model="scripted", recipe=recipe, limit=10).fit(X[: n or len(X)], y)


def test_lists_and_matrices_are_learnt_alike():
    of_lists, of_matrix = fitted(Y, "tfidf-lr"), fitted(MATRIX, "tfidf-lr")
    assert of_lists.classes_.tolist() == list(LABELS)
    assert of_matrix.classes_.tolist() == [0, 1, 2]
    assert [sorted(one) for one in of_lists.predict(X)] == [
        [label for label, h in zip(LABELS, row, strict=True) if h] for row in of_matrix.predict(X)
    ]
    assert np.allclose(of_lists.predict_proba(X), of_matrix.predict_proba(X))
    assert of_lists.score(X, Y) == of_matrix.score(X, MATRIX) == accuracy_score(MATRIX, of_matrix.predict(X)) > 0.5
    frame = fitted(pd.DataFrame(MATRIX, columns=LABELS))
    assert frame.classes_.tolist() == list(LABELS)
    expected = fitted(Y).predict(X).tolist()
    for other in (
        pd.Series(Y),
        [tuple(one) for one in Y],
        [set(one) for one in Y],
        np.array([*Y, None], dtype=object)[:-1],
    ):
        assert fitted(other).predict(X).tolist() == expected
    assert np.array_equal(fitted(csr_matrix(MATRIX)).predict(X), fitted(MATRIX).predict(X))
    assert clone(of_lists).get_params() == of_lists.get_params()


@pytest.mark.parametrize("y", [MATRIX, MATRIX.astype(bool), MATRIX.astype(float), MATRIX.tolist(), list(MATRIX)])
def test_a_matrix_comes_back_in_its_type(y):
    found = fitted(y).predict(X[:5])
    assert found.shape == (5, 3)
    assert found.dtype == np.asarray(y).dtype


BAD_TARGETS = {
    "nested": ([["a", ["b"]], *Y[1:]], r"of number 1 one is \['b'\]"),
    "missing": ([*Y[:-1], ["tool", None]], "of number 30 one is None"),
    "mixed": ([["a", 1], *Y[1:]], "Labels must all be texts, or none"),
    "empty": ([[]] * 30, "all of its lists are empty. Name the labels"),
    "fewer": (Y[:-1], "30 texts and 29 sets"),
    "one": ([["a"]] * 30, "at least two classes"),
    "separator": ([["a|b"], ["c"], *Y[2:]], r"a label must not hold '\|'"),
    "one is none": ([*Y[:-1], None], r"number 30 is None. Write \[\] where none is right"),
    "one is a text": ([*Y[:-1], "tool"], r"number 30 is 'tool'. Write \['tool'\] for one"),
    "a hole": (pd.DataFrame({"a": [0, 1] * 15, "b": [1, None] * 15}), "but number 2 of the column 'b' is nan"),
    "texts in columns": (np.array([["a", "b"]] * 30), r"got an array of shape \(30, 2\)"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_targets_that_are_no_sets_are_refused(name):
    y, message = BAD_TARGETS[name]
    with pytest.raises(ValueError, match=message):
        fitted(y)


FRAME = pd.DataFrame(MATRIX, columns=LABELS)


def test_the_score_is_of_the_same_sets_in_any_form():
    of_lists, of_matrix, of_frame = (fitted(y[:9], "bm25", 9) for y in (Y, MATRIX, FRAME))
    expected = accuracy_score(MATRIX[:20], of_matrix.predict(X[:20]))
    assert 0 < expected < 1
    for classifier, forms in (
        (of_lists, (Y, [set(one) for one in Y], pd.Series(Y), MATRIX, FRAME, FRAME[["tool", "food", "animal"]])),
        (of_matrix, (MATRIX, MATRIX.tolist(), csr_matrix(MATRIX), FRAME)),
        (of_frame, (FRAME, FRAME[["tool", "food", "animal"]], MATRIX, Y)),
    ):
        for y in forms:
            assert classifier.score(X[:20], y[:20]) == pytest.approx(expected)
    none_right = ["nothing 1", "nothing 2"]
    assert of_lists.score(none_right, [[], []]) == np.mean([not one for one in of_lists.predict(none_right)])
    weights = np.arange(20)
    assert of_frame.score(X[:20], FRAME[:20], weights) == pytest.approx(
        accuracy_score(MATRIX[:20], of_matrix.predict(X[:20]), sample_weight=weights)
    )
    assert cross_val_score(of_frame, X, FRAME, cv=2).tolist() == cross_val_score(of_matrix, X, MATRIX, cv=2).tolist()
    assert cross_val_score(of_lists, X, np.array([*Y, None], object)[:-1], cv=KFold(2)).shape == (2,)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.eye(2),
            "zeros and ones in 3 columns, one for each of the classes that were learnt; got a matrix with 2 co",
        ),
        (["food", "tool"], "a list of labels for each text, or zeros and ones in 3 columns.*; got list"),
        ([["food"]], "inconsistent numbers of samples, 2 texts and 1 sets"),
    ],
)
def test_what_cannot_be_scored_is_refused(y, message):
    with pytest.raises(InvalidInputError, match=message):
        fitted(Y).score(X[:2], y)


def test_frames_of_other_packages_are_read_as_those_of_pandas():
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    labels, ones = {"label": ["a", "b"]}, {"x": [1, 0], "y": [1, 1]}
    assert label_sets(polars.DataFrame(labels)) is label_sets(arrow.table(labels)) is None
    for table in (polars.DataFrame(ones), arrow.table(ones)):
        assert label_sets(table).classes.tolist() == ["x", "y"]
    with pytest.raises(InvalidInputError, match="got a table with the columns x, y"):
        items_of(arrow.table(ones), "X")


def test_frames_of_several_types_are_matrices():
    given = pd.DataFrame({"animal": MATRIX[:, 0] > 0, "food": MATRIX[:, 1], "tool": MATRIX[:, 2]})
    expected = fitted(FRAME).predict(X)
    for frame in (given, FRAME.astype("Int64"), FRAME.astype("boolean")):
        assert np.array_equal(fitted(frame).predict(X), expected)


class NumbersAsTexts(FewShotClassifier):
    """The classifier behind a front that writes rows of numbers as texts, as scikit-learn's checks have no texts."""

    def fit(self, X, y):
        return super().fit(self._written(X), y)

    def predict(self, X):
        return super().predict(self._written(X))

    def predict_proba(self, X):
        return super().predict_proba(self._written(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags

    def _written(self, X):
        return [" ".join(f"w{i}" for i, n in enumerate(row) for _ in range(int(n))) or "nothing" for row in X]


class ThresholdsNotLookedAt(NumbersAsTexts):
    """As it is, but for a tag with which a check leaves out that the threshold is 1/2."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


HALF = "it wants what is said to be what is more probable than 1/2; the threshold here is fitted on the past"


@pytest.mark.parametrize(
    ("recipe", "cls", "limit"),
    [
        ("bm25", NumbersAsTexts, 42),  # which is sure of all that it says here
        pytest.param(
            "tfidf-lr", NumbersAsTexts, 12, marks=pytest.mark.xfail(reason=HALF, raises=AssertionError, strict=True)
        ),
        ("tfidf-lr", ThresholdsNotLookedAt, 12),
    ],
)
def test_the_check_of_scikit_learn_for_several_outputs(recipe, cls, limit):
    """Those for sets of labels are in test_estimator.py, with all others; this one is for `multi_output` alone."""
    check_classifier_multioutput(cls.__name__, cls(model="scripted", recipe=recipe, limit=limit))


@pytest.mark.parametrize("recipe", ["tfidf-lr", "bm25"])
def test_there_is_one_threshold(recipe):
    """What is true instead of the check above: a label is said from one probability on, whatever label it is."""
    classifier = fitted(MATRIX, recipe)
    says, probs = classifier.predict(X) == 1, classifier.predict_proba(X)
    assert says.any()
    assert not says.all()
    assert probs[~says].max() < probs[says].min()


def test_what_the_tags_say_is_so():
    tags = get_tags(FewShotClassifier())
    assert tags.classifier_tags.multi_label
    assert not tags.target_tags.multi_output  # several labels, but not several outputs of more than two classes each
    with pytest.raises(InvalidInputError, match="but number 3 of the column 0 is 2. Choose one column, or write 1"):
        fitted(np.array([[i % 3, i % 2] for i in range(30)]))


def test_sets_of_labels_have_no_order():
    texts, sets = ["one", "two", "three", "four"], [["a"], ["b"], ["a", "b"], []]
    with pytest.raises(InvalidInputError, match="order must come with one label a text; y has a set of labels"):
        FewShotClassifier("tiny", order=["a", "b"]).fit(texts, sets)


def test_a_second_look_is_calibrated_without_the_answers_that_it_asks_for():
    rng, labels = np.random.default_rng(0), ("a", "b", "c")
    odds, holds = rng.normal(-1, 2, size=(30, 3)), rng.random((30, 3)) < 0.4
    task = Task("t", "multi_label", (), labels=labels, metrics=("micro_f1",))
    examples = tuple(Example(f"x{i}", having(row, labels), f"e{i}") for i, row in enumerate(holds))
    said = [
        Prediction(e.id, labels, tuple(row.tolist()), (0.5,) * 3, labels[0])
        for e, row in zip(examples, odds, strict=True)
    ]

    def looked(examples: tuple[Example, ...]):
        stream = Stream(examples, tuple(range(30)))
        measuring = SimpleNamespace(task=task, stream=stream)
        measuring._calibrated_labels = partial(Measuring._calibrated_labels, measuring)
        entrant = Entrant(parse_recipe("random", shots=4), said=said)
        return Measuring._calibrated_again(measuring, entrant, [Query(e, ()) for e in examples], said)

    found = looked(examples)
    for at in (0, 17, 29):
        other = replace(examples[at], output=having(~holds[at], labels))
        changed = looked((*examples[:at], other, *examples[at + 1 :]))
        assert changed[at] == found[at]
        assert changed != found
