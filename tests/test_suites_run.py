"""The suites that ask about things of their own, from a saved model to JSON, alone and beside another system."""

from dataclasses import replace

import pytest

from conftest import labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.learners.learner import Setup
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.evaluate import evaluate

ROWS = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(12)))
TASK = Task("words", "classification", ROWS[:6], ROWS[6:], labels=("animal", "food", "tool"), instruction="Which kind?")
SUITES = {
    "verbalisers(natural=1,neutral=1,unnatural=1,rows=4)": ("natural",),
    "rubrics(systems=1,length=2)": ("without_context", "mean_rubric"),
    "instructions(dialogues=2,turns=1,samples=2,length=2)": ("repeated", "pif"),
    "tutoring(problems=2,turns=1,length=4)": ("by_turn", "1", "telling"),
}


def fitted(model, recipe="zero-shot") -> AdaptedModel:
    setup = Setup(TASK, model and TaskModel.for_task(TASK, model), 0)
    return AdaptedModel.fit(parse_recipe(recipe, shots=1), TASK.train, setup, choice={})


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_is_told_with_intervals_and_a_system_differs_from_itself_by_nothing(tiny, suite):
    adapted = fitted(tiny)
    report = evaluate(adapted, TASK, suite, against=adapted)
    assert from_json(to_json(report)) == report
    for key in SUITES[suite]:
        report = report[key]
    assert report["low"] <= report["value"] <= report["high"]
    assert (report["against"], report["difference"]["value"]) == (report["value"], 0)


@pytest.mark.parametrize("suite", SUITES)
def test_a_system_without_a_language_model_is_refused(suite):
    with pytest.raises(UserError, match="must ask one language model; 'majority' has none of its own"):
        evaluate(fitted(None, "majority"), TASK, suite)


@pytest.mark.parametrize("suite", SUITES)
def test_a_combination_is_refused_as_its_members_models_are_not_the_one_beside_them(suite):
    with pytest.raises(UserError, match=r"one language model; 'average\(.*' combines recipes, each with a model as"):
        evaluate(fitted(ScriptedModel(), "average(zero-shot,random:k=1)"), TASK, suite)


@pytest.mark.parametrize("suite", [suite for suite in SUITES if not suite.startswith("verbalisers")])
def test_a_model_that_cannot_write_is_refused(suite):
    class Mute(ScriptedModel):
        capabilities = ScriptedModel.capabilities - {"generate"}

    with pytest.raises(UserError, match="needs a model that can generate; 'scripted' cannot"):
        evaluate(fitted(Mute()), TASK, suite)


def test_a_task_that_does_not_suit_is_told_what_it_needs():
    open_task = replace(TASK, kind="qa", labels=(), metrics=("exact_match",))
    model = ScriptedModel()
    setup = Setup(open_task, TaskModel.for_task(open_task, model), 0)
    adapted = AdaptedModel.fit(parse_recipe("zero-shot", shots=1), open_task.train, setup, choice={})
    with pytest.raises(UserError, match="it must be a classification task with two labels or more; it is qa with 0"):
        evaluate(adapted, open_task, "verbalisers")


def test_each_system_is_asked_with_the_letters_that_it_has_learnt(tiny):
    def lettered(form):
        marks = [form.replace("A", letter) for letter in "ABC"]
        rows = tuple(
            Example(f"Which is {i}?\n{marks[0]} red\n{marks[1]} blue\n{marks[2]} green", marks[i % 3], f"e{i}",
                    choices=("red", "blue", "green"))
            for i in range(9)
        )  # fmt: skip
        return Task("c", "multiple_choice", rows[:3], rows[3:], choices_in_input=True, letter_form=form)

    first, second = (
        AdaptedModel.fit(parse_recipe("zero-shot", shots=1), task.train, Setup(task, TaskModel.for_task(task, tiny), 0),
                         choice={})
        for task in (lettered("(A)"), lettered("A"))
    )  # fmt: skip
    alone, beside = (evaluate(first, lettered("(A)"), "confidence", against=one) for one in (None, second))
    assert {name: beside["accuracy"][name] for name in alone["accuracy"]} == alone["accuracy"]
    assert alone["accuracy"]["value"] > 0
    turned = evaluate(first, lettered("A"), "confidence", against=second)  # rows as the second has them
    assert turned["accuracy"]["difference"]["n"] == 6
