"""The composer `wording`: each of its texts in every layout, and wordings that race."""

import json
from typing import Any

import pytest

from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.script import UsualWording
from kshot.core.types import KINDS, Example, Task
from kshot.engine.language_model import Engine
from kshot.methods.composers import COMPOSERS
from kshot.methods.composers.wording import Wording
from kshot.prompts.layout import Layout, layout_for
from kshot.prompts.messages import ApiMessages
from kshot.prompts.plain import Plain
from test_chat import SHAPES, chat_engine, chat_tokenizer

TOPICS = Task("topics", "classification", (), labels=("tech", "sport"), instruction="Say the topic.")
SHOWN = (Example("New chip", "tech", "a", context="Page 1."),)
ASKED = Example("Cup final", "", "b").question
LISTED = {
    "auto": "Labels: tech, sport",
    "text-label": "Labels: tech, sport",
    "input-output": "Outputs: tech, sport",
    "question-answer": "Answers: tech, sport",
    "bare": "Answers: tech, sport",
}
LINES = {
    "auto": ("Text: ", "Label:"),
    "text-label": ("Text: ", "Label:"),
    "input-output": ("Input: ", "Output:"),
    "question-answer": ("Question: ", "Answer:"),
    "bare": ("", "Answer:"),
}


@pytest.fixture(scope="module")
def chatty() -> tuple[Engine, Any]:
    tokenizer = chat_tokenizer(*SHAPES["qwen2.5"][:4])
    return chat_engine(tokenizer), tokenizer


def written(layout: Layout, task: Task = TOPICS, **settings: Any) -> str:
    return layout.write(Wording(**settings).compose(task, SHOWN, ASKED)).text


def plain(words: str, opening: str) -> str:
    given, wanted = LINES[words]
    return f"{opening}Context: Page 1.\n{given}New chip\n{wanted} tech\n\n{given}Cup final\n{wanted}"


@pytest.mark.parametrize("words", LINES)
def test_each_wording_byte_for_byte(words, chatty):
    for settings, opening in (
        ({}, "Say the topic.\n\n"),
        ({"instruction": False}, ""),
        ({"labels": True}, f"Say the topic.\n\n{LISTED[words]}\n\n"),
        ({"instruction": False, "labels": True}, f"{LISTED[words]}\n\n"),
    ):
        expected = plain(words, opening)
        assert written(Plain(), words=words, **settings) == expected
        engine, tokenizer = chatty
        block = tokenizer.apply_chat_template(
            [{"role": "user", "content": expected}], add_generation_prompt=True, tokenize=False
        )
        assert written(layout_for(engine, "block"), words=words, **settings) == block


@pytest.mark.parametrize("words", LINES)
def test_in_turns_and_messages_only_the_opening_differs(words, chatty):
    engine, tokenizer = chatty
    turns = [
        {"role": "user", "content": "Page 1.\n\nNew chip"},
        {"role": "assistant", "content": "tech"},
        {"role": "user", "content": "Cup final"},
    ]
    for settings, opening in (
        ({}, "Say the topic."),
        ({"instruction": False}, ""),
        ({"labels": True}, f"Say the topic.\n\n{LISTED[words]}"),
        ({"instruction": False, "labels": True}, LISTED[words]),
    ):
        messages = [*([{"role": "system", "content": opening}] if opening else []), *turns]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert written(layout_for(engine, "turns"), words=words, **settings) == text
        script = Wording(words=words, **settings).compose(TOPICS, SHOWN, ASKED)
        assert ApiMessages().write(script).messages == messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("instruction", ["", "Do it."])
def test_without_settings_it_says_what_is_said_by_default(kind, instruction):
    labels = ("tech", "sport") if kind == "classification" else ()
    task = Task("t", kind, (), labels=labels, instruction=instruction)
    assert Wording().compose(task, SHOWN, ASKED) == UsualWording().compose(task, SHOWN, ASKED)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "classification"])
def test_where_there_are_no_labels_none_are_listed(kind):
    task = Task("t", kind, (), instruction="Do it.")
    assert Wording(labels=True).compose(task, SHOWN, ASKED) == Wording().compose(task, SHOWN, ASKED)


def test_settings_as_they_are_written_in_a_recipe():
    assert COMPOSERS.build("wording(words=bare,labels=true)") == Wording(words="bare", labels=True)
    with pytest.raises(UserError, match="words must be one of auto, text-label, input-output, .*, bare; got 'loud'"):
        COMPOSERS.build("wording(words=loud)")
    with pytest.raises(UserError, match="'wording' has no setting 'label'. Did you mean 'labels'"):
        COMPOSERS.build("wording(label=true)")


def test_wordings_race_inside_a_recipe(run_cli, tmp_path):
    card = {"kind": "classification", "instruction": "Say what it is."}
    task = write_task(tmp_path / "words", labelled_rows(14), labelled_rows(3, start=40), card=card)
    recipe = "random:k=2,composer=wording(words=auto/bare,labels=true)"
    done = run_cli(
        "adapt", task, "--model", "tiny", "--recipes", recipe, "--limit", 10, "--out", tmp_path / "run", "--json"
    )
    assert done.code == 0, done.err
    sent = json.loads((tmp_path / "run" / "prompts.json").read_text("utf-8"))
    texts = [text for _, text in sent["segments"]]
    assert "Labels: animal, food, tool\n\n" in texts or "Answers: animal, food, tool\n\n" in texts
    answered = run_cli("predict", tmp_path / "run", task / "test.jsonl")
    assert answered.code == 0, answered.err
