"""The composer `verbalised`: labels said in other words, and answers that are the task's own labels."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kshot
from api_server import ApiServer, served
from kshot.core.errors import SameTokensError, SettingError, UserError
from kshot.core.lessons import Lesson
from kshot.core.models import Capability
from kshot.core.progress import Silence
from kshot.core.types import Example, GenerateRequest, Generation, Prompt, Query, Question, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.composers.verbalised import Verbalised, words_for
from kshot.methods.composers.wording import Wording
from kshot.models.scripted import ScriptedModel
from kshot.prompts.fitting import prompt_tokens
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.testing.check_part import check_part
from test_chat import SHAPES, chat_engine, chat_tokenizer
from test_text_of_users import lower_engine

LABELS = ("is_good", "is_bad")
SIGNS = {"is_good": ("fine", "lovely", "bright"), "is_bad": ("dull", "awful", "poor")}
ROWS = tuple(Example(f"a {SIGNS[label][i % 3]} day, number {i}", label, f"r{i}") for i, label in enumerate(LABELS * 8))
TASK = Task("days", "classification", ROWS[:10], ROWS[10:], labels=LABELS, instruction="How is the day?")
ASKED = Question("a fine day", "q")
SWAPPED = "is_good>is bad+is_bad>is good"
WORDS = ("names", "natural", "letters", "numbers", SWAPPED, "is_good>blick+is_bad>wug")
KEY = {
    "names": None,
    "natural": None,
    "letters": "Labels: A (is_good), B (is_bad)",
    "numbers": "Labels: 1 (is_good), 2 (is_bad)",
    SWAPPED: "Labels: is bad (is_good), is good (is_bad)",
    "is_good>blick+is_bad>wug": "Labels: blick (is_good), wug (is_bad)",
}


class Follower(ScriptedModel):
    """Knows the label of a text, and says it as it is told to."""

    def _believed(self, prompt: Prompt) -> str | None:
        label = super()._believed(prompt)
        told = next((s.text for s in prompt.segments if s.text.startswith("Labels: ")), "")
        pairs = [part.split(" (") for part in told.strip().removeprefix("Labels: ").split(", ")]
        return {label: word for word, label in pairs}.get(f"{label})", label) if told else label


class Habitual(ScriptedModel):
    """Says the plain words of a text's label, whatever it is told."""

    def _believed(self, prompt: Prompt) -> str | None:
        return str(super()._believed(prompt)).replace("_", " ")


TABLE = {sign: label for label, signs in SIGNS.items() for sign in signs}


def accuracy(model: ScriptedModel, words: str, recipe: str = "zero-shot") -> float:
    asked = TaskModel.for_task(TASK, model)
    learner = PromptLearner(parse_recipe(recipe, shots=4).having(composer=Verbalised(words)), Setup(TASK, asked, 0))
    found = learner.predict([Query(example, ROWS[:10]) for example in ROWS[10:]])
    assert all(p.answer in LABELS and p.candidates == LABELS for p in found)
    return float(np.mean([p.answer == e.output for p, e in zip(found, ROWS[10:], strict=True)]))


@pytest.mark.parametrize("words", WORDS)
def test_who_follows_instructions_is_right_in_any_words(words):
    plain = {"natural": "natural"}.get(words)
    table = TABLE if plain is None else {sign: label.replace("_", " ") for sign, label in TABLE.items()}
    assert accuracy(Follower(table), words) == 1.0


def test_who_follows_a_habit_is_right_in_plain_words_and_wrong_in_swapped_ones():
    assert accuracy(Habitual(TABLE), "natural") == 1.0
    assert accuracy(Habitual(TABLE), SWAPPED) == 0.0


def test_who_writes_alone_is_asked_for_the_words():
    class Writer(Follower):
        capabilities = frozenset({Capability.GENERATE})

    assert accuracy(Writer(TABLE), "letters") == 1.0


@pytest.mark.parametrize("words", WORDS)
def test_what_is_said_in_each_words(words):
    composer, said = Verbalised(words), words_for(words, LABELS)
    script = composer.compose(TASK, ROWS[:2], ASKED)
    texts = [piece.text for piece in script.pieces]
    assert texts == ["How is the day?", *[KEY[words]] * (KEY[words] is not None), ROWS[0].input, said["is_good"],
                     ROWS[1].input, said["is_bad"], ASKED.input]  # fmt: skip
    untold = Verbalised(words, told=False).compose(TASK, ROWS[:2], ASKED)
    assert [p.text for p in untold.pieces] == [text for text in texts if text != KEY[words]]
    check_part(composer) if ">" not in words else None


def test_names_are_said_as_without_it():
    model = TaskModel.for_task(TASK, load_model("tiny"))
    assert replace(model, composer=Verbalised("names")).compose(ROWS[:3], ASKED) == model.compose(ROWS[:3], ASKED)


@given(st.lists(st.text("abcXY_ -1", min_size=1, max_size=6), min_size=2, max_size=30, unique=True))
def test_words_are_different_and_heard_again(labels):
    task = Task("t", "classification", (), labels=tuple(labels))
    for words in ("names", "natural", "letters", "numbers"):
        composer = Verbalised(words)
        said = [composer.said(task, label, ASKED) for label in labels]
        assert len(set(said)) == len(labels)
        assert all(said)
        assert [composer.heard(task, word, ASKED) for word in said] == labels


@settings(max_examples=20)
@given(
    st.permutations(["north", "south_east", "Up", "b+c", "a label"]),
    st.sampled_from(["letters", "numbers", "1>blick+2>wug"]),
)
def test_other_names_of_labels_change_nothing(names, words):
    """Once what they are called is not said."""
    renamed = dict(zip(LABELS, names, strict=False))
    rows = tuple(replace(e, output=renamed[e.output]) for e in ROWS)
    other = replace(TASK, train=rows[:10], test=rows[10:], labels=tuple(renamed.values()))
    recipe = parse_recipe("random:k=3", shots=3).having(composer=Verbalised(words, told=False))
    found = []
    for task in (TASK, other):
        learner = PromptLearner(recipe, Setup(task, TaskModel.for_task(task, _TINY), 0))
        found.append(learner.predict([Query(task.test[0], task.train)])[0])
    assert found[0].probs == found[1].probs
    assert found[1].answer == renamed[found[0].answer]


_TINY = load_model("tiny")


def test_letters_and_numbers_begin_with_different_tokens():
    labels = tuple(f"label-{i}" for i in range(26))
    assert list(words_for("letters", labels).values()) == [chr(65 + i) for i in range(26)]
    more = words_for("letters", (*labels, *(f"more-{i}" for i in range(700))))
    assert [more["more-0"], more["more-25"], more["more-26"], more["more-676"]] == ["AA", "AZ", "BA", "AAA"]
    assert list(words_for("numbers", labels[:9]).values()) == list("123456789")


def test_a_tuner_learns_the_words():
    model = replace(TaskModel.for_task(TASK, _TINY), composer=Verbalised("letters"))
    text = model.training_text(Lesson((ROWS[1],), ROWS[0], among=LABELS, rejected="is_bad"))
    assert [s.text for s in text.prompt.segments if s.role == "answer"] == [" B\n\n", " A\n\n"]
    assert text.among == (" A\n\n", " B\n\n")
    assert text.rejected is not None
    assert text.rejected.segments[-1].text == " B\n\n"


@pytest.mark.parametrize("calibration", ["contextual", "batch", "temperature"])
def test_every_calibration_goes_with_it(calibration, tmp_path):
    done = kshot.adapt(TASK, "tiny", recipes=f"zero-shot:composer=verbalised(words=letters),calibration={calibration}",
                       out=tmp_path / "run")  # fmt: skip
    assert set(done.best.predict([e.input for e in TASK.test])) <= set(LABELS)


def test_in_turns_of_a_chat_the_words_are_the_answers():
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    model = replace(TaskModel.for_task(TASK, engine), composer=Verbalised("letters"))
    prompt = model.compose(ROWS[:2], ASKED)
    assert [s.text.strip() for s in prompt.segments if s.role == "answer"] == ["A<|im_end|>", "B<|im_end|>"]
    assert "Labels: A (is_good), B (is_bad)" in prompt.text


def test_a_service_is_asked_for_the_words(tmp_path, services_alone):
    with served(ApiServer()) as server:
        done = kshot.adapt(TASK, server.name, limit=4, shots=2, out=tmp_path / "run",
                           recipes="random:k=2,composer=verbalised(words=is_good>sunny+is_bad>rainy)")  # fmt: skip
        assert set(done.best.predict(["a fine day"])) <= set(LABELS)
        asked = json.dumps(server.asked)
    assert "sunny" in asked


def test_it_is_raced_saved_loaded_and_exported(words_task, tmp_path, run_cli):
    recipe = "random:k=2,composer=verbalised(words=names/letters/animal>cats+food>meals)"
    run = tmp_path / "run"
    run_cli("adapt", words_task, "--model", "tiny", "--recipes", recipe, "--limit", 12, "--out", run)
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]
    assert {row["answer"] for row in rows if "answer" in row} <= {"animal", "food", "tool"}
    best = run_cli("adapt", words_task, "--model", "tiny", "--limit", 8, "--out", tmp_path / "one",
                   "--recipes", "random:k=2,composer=verbalised(words=letters)")  # fmt: skip
    assert best.code == 0
    assert run_cli("predict", tmp_path / "one", input="the cat\n").out.strip() in ("animal", "food", "tool")
    done = run_cli("export", tmp_path / "one", "--to", "prompt", "--out", tmp_path / "out", "--json")
    assert done.json["answers"]["tool"] == " C\n\n"
    assert done.json["difference"]["largest_nats"] < 1e-3
    assert done.json["difference"]["same_prompts"] == done.json["difference"]["n"] > 0
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "It answers with one of these words:\n\n- `A` stands for `animal`\n" in readme
    assert "Labels: A (animal), B (food), C (tool)" in (tmp_path / "out" / "prompt.txt").read_text("utf-8")


class Worded(ScriptedModel):
    """Writes a word of its own for each kind, and is sure of the right answer where that is asked in this word."""

    def __init__(self, words: dict[str, str], **settings: Any):
        super().__init__(TABLE, **settings)
        self.words, self.asked = words, list[str]()

    def generate(self, requests: Any, **how: Any) -> list[Generation]:
        assert all(isinstance(r, GenerateRequest) for r in requests)
        self.asked += [r.prompt.text for r in requests]
        return [Generation(next(w for label, w in self.words.items() if f"'{label}'" in r.prompt.text), True)
                for r in requests]  # fmt: skip

    def _believed(self, prompt: Prompt) -> str | None:
        return self.words[str(super()._believed(prompt))]


def test_the_model_writes_words_from_other_examples_than_those_that_judge_them():
    model = Worded({"is_good": ' "Sunny."', "is_bad": "rainy"})
    model.words["is_good"] = "Sunny"
    told: list[Any] = []
    asked = replace(TaskModel.for_task(TASK, model), notes=told.append)
    fitted = Verbalised("model").fit(ROWS[:10], model=asked, rng=np.random.default_rng(0))
    assert fitted.said(TASK, "is_good", ASKED) == "Sunny"
    assert fitted.heard(TASK, "rainy", ASKED) == "is_bad"
    judging = [ROWS[i].input for i in (2, 3, 6, 7)]
    assert not any(text in request for text in judging for request in model.asked)
    assert told[0]["words"] == {"is_good": "Sunny", "is_bad": "rainy"}
    assert fitted.learns
    assert fitted.needs == {Capability.GENERATE}
    assert not Verbalised("letters").learns


@pytest.mark.parametrize(
    "words",
    [{"is_good": "day", "is_bad": "day"}, {"is_good": "", "is_bad": "!"}, {"is_good": "a b c d", "is_bad": "x" * 40}],
)
def test_words_that_are_no_words_or_not_different_are_not_taken(words):
    asked = TaskModel.for_task(TASK, Worded(words))
    fitted = Verbalised("model").fit(ROWS[:10], model=asked, rng=np.random.default_rng(0))
    assert {fitted.said(TASK, label, ASKED) for label in LABELS} in ({"is good", "is bad"}, set(LABELS))
    alone = Verbalised("model").fit(ROWS[:1], model=asked, rng=np.random.default_rng(0))
    assert alone.said(TASK, "is_bad", ASKED) == "is bad"


class Strict(Worded):
    """Reads no prompt that is too long for it."""

    def generate(self, requests: Any, **how: Any) -> list[Generation]:
        assert all(prompt_tokens(r.prompt, self) + r.max_tokens <= self.max_tokens for r in requests)
        return super().generate(requests, **how)


def test_texts_that_do_not_fit_are_not_shown_to_who_writes_words():
    """The longest are left out, and where none fits a label has its plain word, which is said."""
    rows = tuple(replace(e, input=e.input + " and so on" * (20 * (i == 0) + 12 * (i % 2))) for i, e in enumerate(ROWS))
    task, shown = replace(TASK, train=rows[:10], instruction=""), {}
    for most in (63, 90, 300):
        model = Strict({"is_good": "Sunny", "is_bad": "rainy"}, max_tokens=most)
        said = list[str]()
        silent = Silence()
        silent.say = said.append
        asked = replace(TaskModel.for_task(task, model), progress=silent)
        fitted = Verbalised("model").fit(rows[:10], model=asked, rng=np.random.default_rng(0))
        good, bad = (next((t for t in model.asked if f"'{label}'" in t), "") for label in LABELS)
        shown[most] = good.count("\n- "), bad.count("\n- "), len(said)
        assert fitted.said(task, "is_bad", ASKED) in ("rainy", "is bad", "is_bad")
    assert shown == {63: (2, 0, 1), 90: (2, 1, 0), 300: (3, 3, 0)}  # of each label, and what is said


@pytest.mark.parametrize("composer", [Verbalised("letters"), Wording(labels=True)])
def test_labels_are_not_listed_where_the_question_does_not_fit_with_them(composer):
    model = replace(TaskModel.for_task(TASK, ScriptedModel(max_tokens=60)), composer=composer)
    short, long = (Example("on " * n, "is_good", "x") for n in (10, 42))
    assert "Labels: " in model.prompt((), short)[0].text
    assert "Labels: " not in model.prompt((), long)[0].text
    assert model.compose((), long) == model.prompt((), long)[0]


def test_words_of_the_same_tokens_are_named_with_their_labels():
    rows = tuple(Example(f"text {i}", ("maybe", "no")[i % 2], f"r{i}") for i in range(4))
    task = Task("t", "classification", rows, labels=("maybe", "no"))
    with pytest.raises(SameTokensError) as refused:
        kshot.adapt(task, lower_engine(), recipes="zero-shot:composer=verbalised(words=maybe>Yes+no>yes)")
    assert str(refused.value).startswith(
        "The answers to choose from must differ for the model; 'Yes' (which says 'maybe') and 'yes' (which says 'no') "
        "are the same tokens for 'lower'"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nature", r"words must be names, natural, letters, numbers, model, or words .*; got 'nature'\. Name one"),
        ("is_good>", r"words must be .*; got 'is_good>'\. Name one of these, or words such as"),
        ("is_god>x", r"must name labels of the task; got 'is_god'\. Did you mean 'is_good'\? Known: is_bad, is_good\."),
        ("is_good>x+1>y", r"must name each label once; got 'is_good' twice\. Leave one out\."),
        ("is_good>is_bad", r"must be different for each label; 'is_good' and 'is_bad' are both 'is_bad'\. Change one"),
    ],
)  # fmt: skip
def test_other_words_are_refused_before_a_model_is_loaded(words, message):
    with pytest.raises(UserError, match=message):
        kshot.adapt(TASK, "no-such-model", recipes=f"zero-shot:composer=verbalised(words={words})")


def test_it_is_for_tasks_with_labels():
    with pytest.raises(SettingError):
        Verbalised("one/two")
    assert not Verbalised().suits(replace(TASK, kind="generation", labels=()))
    assert not Verbalised().suits(replace(TASK, kind="multiple_choice", labels=()))
    with pytest.raises(UserError, match="--recipes must name one for tasks of kind qa"):
        kshot.adapt(write_task_of_kind("qa"), "no-such-model", recipes="zero-shot:composer=verbalised")


def write_task_of_kind(kind: Any) -> Task:
    return Task("t", kind, tuple(replace(e, id=f"x{i}") for i, e in enumerate(ROWS[:4])), metrics=("exact_match",))
