"""The composer `elaborated`: what the model writes of a situation helps it where it is the situation's own."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

import api_server
import kshot
from kshot.core.errors import SettingError
from kshot.core.models import Capability
from kshot.core.types import Example, GenerateRequest, Prediction, Query, Question, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.composers.elaborated import ALL, Elaborated, first_sentence, situation
from kshot.models.scripted import ScriptedModel
from kshot.prompts.chat import Chat
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES, chat_engine, chat_tokenizer

HAPPENS = {"sun": "dry", "storm": "wet"}  # what follows is not said in the situation
ROWS = tuple(
    Example(f"{name} walks through the {weather} for {i} hours.", ("no", "yes")[weather == "storm"], f"r{i}")
    for i, (name, weather) in enumerate((n, w) for n in ("Ann", "Bob", "Eve", "Tom") for w in HAPPENS)
)
TASK = Task("walks", "classification", ROWS[:2], ROWS, labels=("no", "yes"), instruction="Does the coat get wet?")


class Elaborator(ScriptedModel):
    """Elaborates situations rightly, and answers by what stands before the question: by itself it does not know."""

    def __init__(self, **how):
        super().__init__(**how)
        self.asked = list[str]()

    def with_store(self, store):
        self._store = store
        return self

    def _text(self, request: GenerateRequest):
        self.asked.append(request.prompt.text)
        return super()._text(request)

    def _believed(self, prompt):
        text = prompt.text
        if "Situation: " in text:
            last = text.rpartition("Situation: ")[2]
            weather = next(w for w in HAPPENS if f"the {w} " in last)
            return f"The coat is {HAPPENS[weather]}. And more" if "happen next" in last else "Somebody walks."
        before = text.rpartition("Text: ")[0].rpartition("Context: ")[2]
        return next((label for word, label in (("dry", "no"), ("wet", "yes")) if f"is {word}." in before), "no")


class Shuffled(Elaborated):
    """Says of each question what was written of another one."""

    def consider(self, asked, *, model, seed):
        found = super().consider(asked, model=model, seed=seed)
        order = np.random.default_rng(0).permutation(len(found))
        return [{**about, "elaboration": found[i]["elaboration"]} for about, i in zip(found, order, strict=True)]


def predicted(composer: Elaborated | None, model=None, name: str = "zero-shot", task: Task = TASK) -> list[Prediction]:
    recipe = parse_recipe(name, shots=2)
    recipe = recipe.having(composer=composer) if composer else recipe
    learner = PromptLearner(recipe, Setup(task, TaskModel.for_task(task, model or Elaborator()), 0))
    return learner.predict([Query(e, task.train, wants_text=task.is_open) for e in task.test])


def accuracy(predictions: Sequence[Prediction]) -> float:
    return float(np.mean([p.answer == e.output for p, e in zip(predictions, ROWS, strict=True)]))


def test_a_hidden_consequence_helps_and_another_situations_does_not():
    with_it, without, shuffled = (accuracy(predicted(c)) for c in (Elaborated(), None, Shuffled()))
    assert with_it == 1.0
    assert without == 0.5
    assert abs(shuffled - 0.5) <= 0.25


def test_each_dimension_can_be_left_out():
    names = ALL.split("+")
    found = {off: accuracy(predicted(Elaborated("+".join(n for n in names if n != off)))) for off in names}
    assert found == {"motivation": 1.0, "emotion": 1.0, "rule of thumb": 1.0, "consequence": 0.5}
    about = predicted(Elaborated("consequence"))[0].found[0]
    assert about["elaboration"] == {"consequence": "The coat is dry."}  # one sentence, and no other


def test_a_dimension_of_ones_own_is_asked_for_by_its_name():
    model = Elaborator()
    predicted(Elaborated("weather+place"), model)
    assert model.asked[0].endswith(
        "Situation: Ann walks through the sun for 0 hours.\nWhat is the weather in this situation?"
    )
    assert len(model.asked) == 2 * len(ROWS)


def test_what_is_said_before_the_question():
    model = TaskModel.for_task(TASK, Elaborator())
    composer = Elaborated()
    (found,) = composer.consider([(ROWS[:1], ROWS[1].question)], model=model, seed=0)
    assert found["elaboration"] == {"motivation": "Somebody walks.", "consequence": "The coat is wet."}  # each once
    assert found["of_shown"] == {"r0": "Somebody walks. The coat is dry."}
    text = replace(model, composer=composer.knowing(found)).compose(ROWS[:1], ROWS[1]).text
    assert text == (
        "Does the coat get wet?\n\n"
        "Context: Somebody walks. The coat is dry.\nText: Ann walks through the sun for 0 hours.\nLabel: no\n\n"
        "Context: Somebody walks. The coat is wet.\nText: Ann walks through the storm for 1 hours.\nLabel:"
    )
    bare = Elaborated(demonstrations=False)
    (found,) = bare.consider([(ROWS[:1], ROWS[1].question)], model=model, seed=0)
    assert "of_shown" not in found
    text = replace(model, composer=bare.knowing(found)).compose(ROWS[:1], ROWS[1]).text
    assert text.count("Context:") == 1


@pytest.mark.parametrize("name", ["zero-shot", "random:k=2", "bm25:k=2,contexts=2"])
def test_everything_is_written_once(name, tmp_path):
    model = Elaborator()
    with closing(SqliteStore(tmp_path / "scores.sqlite")) as store:
        kept = model.with_store(store)
        first = predicted(Elaborated(), kept, name)
        n = len(model.asked)
        assert n == len(set(model.asked)) == 4 * len(ROWS)
        assert [p.found for p in predicted(Elaborated(), kept, name)] == [p.found for p in first]
        assert len(model.asked) == n


def test_a_model_that_keeps_nothing_writes_of_its_demonstrations_once():
    model, composer = Elaborator(), Elaborated("consequence")
    asked = TaskModel.for_task(TASK, model)
    for row in ROWS[2:5]:
        composer.consider([(ROWS[:2], row.question)], model=asked, seed=0)
    assert len(model.asked) == 2 + 3


def test_options_are_no_part_of_the_situation():
    task = Task("t", "multiple_choice", (), choices_in_input=True)
    choices = ("a cat", "a dog")
    asked = Question("Ann hears a bark.\nWhat is it?\nOptions:\n(A) a cat\n(B) a dog", "q", choices=choices)
    assert situation(task, asked) == "Ann hears a bark. What is it?"
    assert situation(task, replace(asked, context="At night.")) == "At night. Ann hears a bark. What is it?"
    assert situation(replace(task, choices_in_input=False), Question("A?", "q", choices=choices)) == "A?"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (" She is glad. He is not.", "She is glad."),
        ("It costs 3.50 here. Yes", "It costs 3.50 here."),
        ("Is it?", "Is it?"),
        ("no end", "no end"),
        ("\n ", ""),
    ],
)
def test_the_first_sentence(text, first):
    assert first_sentence(text) == first


def test_what_the_situation_says_itself_is_no_elaboration():
    class Parrot(ScriptedModel):
        def _believed(self, prompt):
            return ROWS[0].input

    found = Elaborated().consider([((), ROWS[0].question)], model=TaskModel.for_task(TASK, Parrot()), seed=0)
    assert found == [{"elaboration": {}}]


def test_an_elaboration_of_nothing_is_not_said():
    found = {"elaboration": {}}
    asked = TaskModel.for_task(TASK, Elaborator())
    assert replace(asked, composer=Elaborated().knowing(found)).compose((), ROWS[0]) == asked.compose((), ROWS[0])


@pytest.mark.parametrize("dimensions", ["", "emotion+", "emotion+emotion", "+"])
def test_dimensions_must_be_different_words(dimensions):
    with pytest.raises(SettingError, match="dimensions must be different words with"):
        Elaborated(dimensions)


def test_it_is_for_models_that_write():
    assert Elaborated().needs == frozenset({Capability.GENERATE})


@pytest.mark.parametrize("layout", ["turns", "block"])
def test_a_chat_model_is_asked_in_messages_of_its_user(layout):
    model = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    asked = TaskModel.for_task(TASK, model, layout)
    assert isinstance(asked.layout, Chat)
    composer = Elaborated("emotion", max_tokens=4)
    (found,) = composer.consider([(ROWS[:1], ROWS[1].question)], model=asked, seed=0)
    told = composer.knowing({**found, "elaboration": {"emotion": "She is glad."}})
    assert "She is glad.\n\nAnn walks" in replace(asked, composer=told).compose(ROWS[:1], ROWS[1]).text.replace(
        "Context: ", ""
    ).replace("She is glad.\nText: Ann", "She is glad.\n\nAnn")


def test_it_races_with_others_and_is_saved(tmp_path, words_task, run_cli):
    kshot.adapt(words_task, "scripted", recipes=["random:k=2,composer=elaborated"], out=tmp_path, limit=4)
    told = run_cli("predict", tmp_path, "-", "--json", input="the cat\n").json["predictions"][0]
    assert set(told["found"][0]) == {"elaboration", "of_shown"}


def test_a_model_behind_an_api_elaborates(words_task, tmp_path):
    with api_server.served(api_server.ApiServer()) as server:
        server.lacks |= {"echo"}
        model = load_model(server.name)
        task = kshot.Task.load(words_task)
        asked = TaskModel.for_task(task, model)
        found = Elaborated("emotion").consider([((), task.test[0].question)], model=asked, seed=0)
        assert list(found[0]) == ["elaboration"]
        assert any("Situation: the " in str(body) for _, body in server.asked)


class Wordy(Elaborator):
    """Writes a sentence of eight words on each dimension, each another one."""

    def _believed(self, prompt):
        dimension = prompt.text.rpartition("\n")[2].split()[3] if "Situation: " in prompt.text else ""
        return f"It is the {dimension} of all that is here." if dimension else "no"


def test_what_does_not_fit_is_not_said_and_that_is_told():
    """Where the question alone fits, it is asked; with as many sentences as there is room for."""
    left, said = {}, {}
    for most in (90, 130, 135, 140, 145, 150, 155, 160, 400):
        model = Wordy(max_tokens=most)
        long = Example(" ".join(f"w{i}" for i in range(70)), "no", "long")
        task = replace(TASK, instruction="Say it. " * (most > 90) * 15, train=ROWS[:4], test=(ROWS[0], long))
        predictions = predicted(Elaborated("a+b+c", max_tokens=10), model, "random:k=1", task)
        assert [p.answer for p in predictions] == ["no", "no"]
        about = predictions[1].found[0]
        left[most], said[most] = about.get("left_out", 0), len(about["elaboration"])
        assert left[most] + said[most] == 3
        assert predictions[1].prompt_tokens < most
    assert (left[90], left[400]) == (3, 0)
    assert list(said.values()) == sorted(said.values())
    assert set(said.values()) == {0, 1, 2, 3}
    remark = Elaborated().remark([{"left_out": 2}, {"left_out": 0}, {"elaboration": {}}])
    assert remark.startswith("1 of 3 questions had no room for all sentences and were asked with fewer or none (")
    assert not Elaborated().remark([{"left_out": 0}])
