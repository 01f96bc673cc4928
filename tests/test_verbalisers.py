"""The suite `verbalisers`: models that follow the instruction, and models that follow their habit."""

import re
from dataclasses import replace

import numpy as np
import pytest

from kshot.core.errors import SettingError, UserError
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.evaluators import EVALUATORS
from kshot.evaluators.verbalisers import (
    GROUPS,
    NATURAL,
    UNNATURAL,
    UNRELATED,
    Verbaliser,
    Verbalisers,
    _kept,
    alike_pair,
    ratio,
    retold,
)
from kshot.measures.intervals import wilson
from kshot.measures.measured import Measured
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.taskmodel.taskmodel import TaskModel

TWO, THREE = ("negative", "positive"), ("animal", "food", "tool")
SYNONYMS = {"bad": "negative", "terrible": "negative", "good": "positive", "great": "positive"}
TOLD = re.compile(r'"([^"]+)" where that is (\w+)')


def task(labels=TWO, n=12) -> Task:
    rows = tuple(
        Example(f"Row {i} is {labels[i % len(labels)]}-ish.", labels[i % len(labels)], f"r{i}") for i in range(n)
    )
    return Task("t", "classification", rows, rows, labels=labels, instruction="Name the kind.")


class Reader(ScriptedModel):
    """Knows the label of each row, and answers with the word that it is told, or with the one that means it."""

    def __init__(self, *, follows: str, labels=TWO):
        super().__init__()
        self.follows, self.labels, self.prompts = follows, labels, []

    def _believed(self, prompt):
        self.prompts.append(prompt.text)
        row = prompt.segments[-1].text
        label = next((label for label in self.labels if f"{label}-ish" in row), None)
        if label is None:
            return None
        word = {label: word for word, label in TOLD.findall(prompt.text)}[label]
        means = {**{one: one for one in self.labels}, **SYNONYMS}
        habit = next((w for w in map(str, dict(TOLD.findall(prompt.text))) if means.get(w) == label), word)
        return word if self.follows == "instruction" else habit


def found(model, of: Task, suite=None, seed=0):
    suite = suite or Verbalisers()
    return suite.beside(of, TaskModel.for_task(of, model), rng=np.random.default_rng(seed))


def values(report) -> dict[str, float]:
    kinds = [*GROUPS, "gap", "override"]
    return {name: report[name].statistic(report[name].rows) for name in kinds if name in report}


@pytest.mark.parametrize("shots", [0, 3])
def test_who_follows_the_instruction_is_right_in_all_groups(shots):
    report = found(Reader(follows="instruction"), task(), Verbalisers(shots=shots))
    assert values(report) == {"natural": 1, "neutral": 1, "unnatural": 1, "gap": 0, "override": 1}
    assert [one["group"] for one in report["verbalisers"]] == ["natural"] * 3 + ["neutral"] * 6 + ["unnatural"] * 3


def test_who_follows_habit_is_right_with_natural_words_alone():
    assert values(found(Reader(follows="habit"), task())) == {
        "natural": 1, "neutral": 1, "unnatural": 0, "gap": 1, "override": 0,
    }  # fmt: skip
    three = found(Reader(follows="habit", labels=THREE), task(THREE))
    assert (values(three)["unnatural"], values(three)["override"]) == (0, 0)


@pytest.mark.parametrize("follows", ["instruction", "habit"])
def test_labels_that_are_renamed_consistently_change_nothing(follows):
    first = found(Reader(follows=follows, labels=THREE), task(THREE), seed=3)
    names = ("zeal", "mud", "ink")
    second = found(Reader(follows=follows, labels=names), task(names), seed=3)
    assert values(first) == values(second)


def test_unnatural_words_are_natural_ones_with_none_in_its_place():
    of = task(THREE)
    suite = Verbalisers(unnatural=2, words="beast.meal.gear")
    chosen = suite.verbalisers(of, TaskModel.for_task(of, ScriptedModel()), rng=np.random.default_rng(1))
    natural = [one.words for one in chosen if one.group == "natural"]
    assert natural == [THREE, ("beast", "meal", "gear")]
    permuted = [one for one in chosen if one.group == "unnatural"]
    assert len({one.words for one in permuted}) == 2
    for one in permuted:
        assert sorted(one.words) == sorted(natural[one.base])
        assert all(a != b for a, b in zip(one.words, natural[one.base], strict=True))


def test_the_instruction_names_each_word_and_demonstrations_have_them():
    model = Reader(follows="instruction")
    found(model, task(), Verbalisers(shots=2, natural=1, neutral=1, unnatural=1, rows=1))
    swapped = model.prompts[-1]
    assert 'Answer "positive" where that is negative, and "negative" where that is positive.' in swapped
    for label, shown in re.findall(r"is (\w+)-ish\.\nLabel: (\w+)", swapped):
        assert shown == {"positive": "negative", "negative": "positive"}[label]


def test_override_is_the_share_of_what_was_right_with_natural_words():
    class Torn(Reader):
        """Is wrong with natural words of rows 0 to 3, and right with all words of rows 0 to 7 but these."""

        def _believed(self, prompt):
            row = int(re.search(r"Row (\d+)", prompt.segments[-1].text)[1])
            right, told = super()._believed(prompt), dict(TOLD.findall(prompt.text))
            is_natural = all(word == label for word, label in told.items())
            other = next(word for word in told if word != right)
            return other if row < 4 and is_natural or row >= 8 and not is_natural else right

    report = found(Torn(follows="instruction"), task(), Verbalisers(natural=1, neutral=0, unnatural=1))
    assert values(report) == pytest.approx({"natural": 8 / 12, "unnatural": 8 / 12, "gap": 0, "override": 4 / 8})


def test_override_is_as_sure_as_the_rows_that_were_right_with_natural_words_are_many():
    right = np.array([1.0] * 5 + [0.0] * 95)
    chosen = [Verbaliser(NATURAL, ("bad", "good")), Verbaliser(UNNATURAL, ("good", "bad"))]
    found = Measured([str(i) for i in range(100)], _kept(chosen, [right, right]), ratio)
    assert found.record(np.random.default_rng(0))["low"] == wilson(5, 5)[0]


def test_calibration_takes_away_a_liking_for_a_word():
    class Fond(Reader):
        """Likes the first word so much that it says nothing else, though it knows better by a little."""

        def _answer(self, request):
            known = super()._answer(request)
            return np.log(np.array([0.9, 0.1])) + 0.1 * known

    of = replace(task(), test=task().test)
    plain, calibrated = (
        values(found(Fond(follows="instruction"), of, Verbalisers(calibrated=is_so, neutral=0)))
        for is_so in (False, True)
    )
    assert plain["natural"] == 0.5
    assert calibrated["natural"] == 1


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


def test_words_that_begin_alike_are_found_by_the_models_tokens(tiny):
    model = TaskModel.for_task(task(), tiny)  # its tokens are bytes
    assert alike_pair(("good", "great"), model) is None  # of two words the first difference is one
    assert alike_pair(("good", "great", "bad"), model) == ("good", "great")
    assert alike_pair(("apple", "bridge", "candle"), model) is None
    assert alike_pair(("a", "a"), model) == ("a", "a")
    assert alike_pair(("one", "one"), TaskModel.for_task(task(), ScriptedModel())) == ("one", "one")


def test_a_real_engine_is_asked_and_the_same_seed_says_the_same(tiny):
    of, suite = task(THREE), Verbalisers(rows=2, natural=1, neutral=2, unnatural=1)
    first, second = (found(tiny, of, suite) for _ in range(2))
    assert values(first) == pytest.approx(values(second), nan_ok=True)
    for one in first["verbalisers"]:
        if one["group"] == "neutral":
            assert len({word[0] for word in one["words"].values()}) == 3
    named = task(("ant", "apple", "tool"))
    assert found(tiny, named, suite)["begin_alike"] == ("ant", "apple")


@pytest.mark.parametrize("kind", UNRELATED)
def test_unrelated_words_begin_differently(kind):
    words = UNRELATED[kind]
    assert len({word.casefold() for word in words}) == len(words)


@pytest.mark.slow
def test_most_unrelated_words_of_the_real_tokenizer_begin_differently():
    from kshot.engine.load_model import load_model

    model = TaskModel.for_task(task(), load_model("demo"))
    for kind, words in UNRELATED.items():
        assert alike_pair(words, model) is None, kind


def test_bad_input_says_what_must_hold(tiny):
    of = task(THREE)
    for text, message in (
        ("verbalisers(words=good.good)", "words must have another word for each label; got 'good.good'"),
        ("verbalisers(words=good./a.b)", "words must have another word for each label; got 'good.'"),
    ):
        with pytest.raises(UserError, match=message):
            EVALUATORS.build(text)
    with pytest.raises(SettingError, match="words must have another word"):
        Verbalisers(words="A.a")
    assert Verbalisers(words="a.b").obstacle(of) == "words must have 3 words, one for each label; 'a.b' has 2"
    assert "classification task with two labels" in str(Verbalisers().obstacle(replace(of, kind="qa", labels=())))
    with pytest.raises(UserError, match=r"'good' and 'great' begin alike for 'tiny'\. Give other words"):
        found(tiny, of, Verbalisers(words="good.great.bad"))
    many = tuple(f"label{i}" for i in range(60))
    with pytest.raises(UserError, match="needs 60 unrelated words that differ at their first token for 'scripted'"):
        found(ScriptedModel(), task(many, 60))


def test_the_words_of_a_task_without_an_instruction_are_named_too():
    assert retold(replace(task(), instruction=""), ("a", "b")).instruction.startswith('Find the label. Answer "a"')
