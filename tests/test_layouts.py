"""What is said, in every layout: roles of pieces, messages for an API, and what a question must not tell."""

from dataclasses import dataclass
from typing import Any

import pytest

from kshot.core.errors import UserError
from kshot.core.lessons import Lesson
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.types import Example, Prompt, Question, Segment, Task
from kshot.engine.language_model import Engine
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.prompts.layout import layout_for
from kshot.prompts.messages import ApiMessages
from kshot.prompts.plain import Plain
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import MERGES, SHAPES, chat_engine, chat_tokenizer

SECRET = "xyzzy"
OPENING = (Piece("instruction", "Say the topic."), Piece("note", "A cup is sport."), Piece("schema", "One word."))
FULL = Script(
    (
        *OPENING,
        Piece("context", "Page 1.", "a"),
        Piece("question", "the chip", "a"),
        Piece("reason", "It is a part.", "a"),
        Piece("answer", "tech", "a"),
        Piece("feedback", "Right.", "a"),
        Piece("question", "the cup", "b"),
    ),
    "Text",
    "Label",
)


@pytest.fixture(scope="module", params=["qwen2.5", "gemma", "mistral", "smollm2"])
def chatty(request) -> tuple[str, Engine, Any]:
    tokenizer = chat_tokenizer(*SHAPES[request.param][:4])
    return request.param, chat_engine(tokenizer), tokenizer


def test_every_role_in_plain_byte_for_byte():
    prompt = Plain().write(FULL)
    assert prompt.segments == (
        Segment("instruction", "Say the topic.\n\n"),
        Segment("note", "A cup is sport.\n\n"),
        Segment("context", "One word.\n\n"),
        Segment("context", "Context: Page 1.\n"),
        Segment("demonstration", "Text: the chip\n"),
        Segment("reason", "Reason: It is a part.\n"),
        Segment("demonstration", "Label:"),
        Segment("answer", " tech\n\n"),
        Segment("note", "Right.\n\n"),
        Segment("query", "Text: the cup\nLabel:"),
    )


def test_every_role_in_turns_is_what_the_template_writes(chatty):
    name, engine, tokenizer = chatty
    in_system = SHAPES[name][4] == "system"
    opening = "Say the topic.\n\nA cup is sport.\n\nOne word."
    space = " " if name == "mistral" else ""  # its answers begin with a space
    messages = [
        {"role": "user", "content": ("" if in_system else f"{opening}\n\n") + "Page 1.\n\nthe chip"},
        {"role": "assistant", "content": f"It is a part.\n\n{space}tech"},
        {"role": "user", "content": "Right.\n\nthe cup"},
    ]
    if in_system:
        messages.insert(0, {"role": "system", "content": opening})
    layout = layout_for(engine, "turns")
    prompt = layout.write(FULL)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(engine.encode(prompt).ids) == expected
    assert [s.text for s in prompt.segments if s.role == "reason"] == [f"{space}It is a part.\n\n"]
    assert [s.text for s in prompt.segments if s.role == "answer"] == [layout.answer("tech")]


def test_every_role_in_a_block_is_the_plain_prompt_in_one_message(chatty):
    _, engine, tokenizer = chatty
    prompt = layout_for(engine, "block").write(FULL)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": Plain().write(FULL).text}], add_generation_prompt=True, return_dict=False
    )
    assert list(engine.encode(prompt).ids) == expected


def test_every_role_in_messages():
    layout = ApiMessages()
    prompt = layout.write(FULL)
    assert prompt.messages == [
        {"role": "system", "content": "Say the topic.\n\nA cup is sport.\n\nOne word."},
        {"role": "user", "content": "Page 1.\n\nthe chip"},
        {"role": "assistant", "content": "It is a part.\n\ntech"},
        {"role": "user", "content": "Right.\n\nthe cup"},
    ]
    assert [s.role for s in prompt.segments] == ["instruction", "demonstration", "answer", "query"]
    assert layout.answer(" tech\n") == "tech"
    assert layout.record == {"layout": "messages"}
    assert layout.remarks(FULL) == Plain().remarks(FULL) == []


@pytest.mark.parametrize("name", ["plain", "turns", "block", "messages"])
def test_a_script_that_ends_with_an_answer_is_its_prompt_and_the_answer(name, chatty):
    layout = ApiMessages() if name == "messages" else layout_for(chatty[1], name)
    before = layout.write(FULL)
    whole = layout.write(Script((*FULL.pieces, Piece("answer", "sport", "b")), "Text", "Label"))
    assert whole.segments == (*before.segments, Segment("answer", layout.answer("sport")))


@pytest.mark.parametrize("name", ["plain", "turns"])
def test_a_script_that_ends_with_a_reason_asks_for_the_answer_alone(name, chatty):
    layout = layout_for(chatty[1], name)
    reasoned = layout.write(Script((*FULL.pieces, Piece("reason", "Cups are won.", "b")), "Text", "Label")).text
    if name == "plain":
        assert reasoned.endswith("Text: the cup\nReason: Cups are won.\nLabel:")
    else:
        assert reasoned.startswith(layout.write(FULL).text)
        assert reasoned.removeprefix(layout.write(FULL).text).strip() == "Cups are won."


def test_turns_and_opening_of_a_script():
    assert FULL.opening == OPENING
    assert [[p.role for p in turn] for turn in FULL.turns] == [
        ["context", "question", "reason", "answer"],
        ["feedback", "question"],
    ]


@pytest.mark.parametrize(("pieces", "end"), [((), "nothing"), (OPENING, "schema"), (FULL.pieces[:8], "feedback")])
def test_a_script_that_asks_nothing_is_refused(pieces, end):
    with pytest.raises(UserError, match=f"must end with a question, a reason or an answer; it ends with {end}"):
        Script(pieces)


def test_a_turn_without_a_question_is_refused():
    with pytest.raises(
        UserError, match="Each reason and answer of a script must follow a question; 'tech' follows none"
    ):
        Script((Piece("context", "Page 1."), Piece("answer", "tech")))
    with pytest.raises(
        UserError, match="Each reason and answer of a script must follow a question; 'So.' follows none"
    ):
        Script((*FULL.pieces[:8], Piece("reason", "So.")))


# What a question must not tell


@dataclass(frozen=True)
class Listening:
    """Keeps what composers are given."""

    heard: list[Question]
    shorter = None

    def compose(self, task, shown, question):
        self.heard.append(question)
        return UsualWording().compose(task, shown, question)

    def said(self, task, answer, question):
        return answer


@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_the_output_of_what_is_asked_is_out_of_reach(kind, chatty):
    rows = tuple(Example(f"row {i}", "tech", f"r{i}") for i in range(3))
    labels = ("tech", SECRET) if kind == "classification" else ()
    task = Task("t", kind, rows, labels=labels, instruction="Say it.")
    query = Example("asked", SECRET, "q", explanation=SECRET, references=(SECRET,))
    for layout in (Plain(), ApiMessages(), *(layout_for(chatty[1], name) for name in ("turns", "block"))):
        composer = Listening([])
        model = TaskModel(task, ScriptedModel(), layout, 8, composer)
        prompt, _ = model.prompt(rows, query)
        assert SECRET not in prompt.text
        assert SECRET not in model.compose(rows, query).text
        assert composer.heard == [query.question] * 2
        assert not hasattr(composer.heard[0], "output")
        assert SECRET not in repr(composer.heard)


def test_a_model_that_only_writes_text_is_asked_in_messages():
    task = Task("t", "generation", (Example("the first", "one", "a"),), instruction="Say it.")
    model = TaskModel(task, ScriptedModel({"third": "three"}), ApiMessages(), 8)
    (found,) = model.generate([model.prompt(task.train, Question("the third", "q"))[0]])
    assert (found.text, found.finished) == ("three", True)


def test_a_training_text_ends_with_the_answer():
    task = Task("t", "generation", (Example("the first", "one", "a"),))
    model = TaskModel.for_task(task, Engine(tiny_backbone()))
    text = model.training_text(Lesson(task.train, Example("the second", "two", "b")))
    assert text.prompt == Prompt(
        (
            Segment("demonstration", "Input: the first\nOutput:"),
            Segment("answer", " one\n\n"),
            Segment("query", "Input: the second\nOutput:"),
            Segment("answer", " two\n\n"),
        )
    )


# Reasons

ASKED = (Piece("instruction", "Say the topic."), Piece("question", "the cup", "b"))
DEMONSTRATION = (Piece("question", "the chip", "a"), Piece("reason", "It is a part.\nOf a computer.", "a"))
REASONED = (ASKED[0], *DEMONSTRATION, Piece("answer", "tech", "a"), ASKED[1])
ANSWERED = (ASKED[0], DEMONSTRATION[0], Piece("answer", "tech", "a"), DEMONSTRATION[1], ASKED[1])
CUE = Piece("reason", "Let us see.", "b")


def test_a_reason_that_comes_next_in_plain():
    known = "Say the topic.\n\nText: the chip\nReason: It is a part.\nOf a computer.\nLabel: tech\n\nText: the cup\n"
    wanted = Script(REASONED, "Text", "Label", "reason")
    assert Plain().write(wanted).text == f"{known}Reason:"
    assert Plain().write(Script(REASONED, "Text", "Label")).text == f"{known}Label:"
    begun = Script((*REASONED, CUE), "Text", "Label", "reason")
    assert Plain().write(begun).text == f"{known}Reason: Let us see."
    assert Plain().write(Script((*REASONED, CUE), "Text", "Label")).text == f"{known}Reason: Let us see.\nLabel:"
    assert Plain().reason_ends(wanted) == Plain().reason_ends(begun) == ("\nLabel:", "\nText:", "\n\n")
    assert Plain().reason_ends(Script((*ASKED, CUE), "Text", "Label", "reason")) == ("\nLabel:", "\nText:")
    assert Plain().reason(" One.\n \n\nTwo. ", wanted, ()) == "One.\nTwo."


def test_a_reason_after_its_answer_is_a_paragraph_of_its_own():
    prompt = Plain().write(Script(ANSWERED, "Text", "Label"))
    assert prompt.text == (
        "Say the topic.\n\nText: the chip\nLabel: tech\n\nReason: It is a part.\nOf a computer.\n\n"
        "Text: the cup\nLabel:"
    )
    assert [s.text for s in prompt.segments if s.role == "answer"] == [Plain().answer("tech")]
    assert [[p.role for p in turn] for turn in Script(ANSWERED).turns] == [
        ["question", "answer", "reason"],
        ["question"],
    ]


def test_reasons_in_turns_are_what_the_template_writes(chatty):
    name, engine, tokenizer = chatty
    layout, in_system = layout_for(engine, "turns"), SHAPES[name][4] == "system"
    space = " " if name == "mistral" else ""
    opening = [{"role": "system", "content": "Say the topic."}] if in_system else []
    first = {"role": "user", "content": ("" if in_system else "Say the topic.\n\n") + "the chip"}
    reason = "It is a part.\nOf a computer."
    told = {"role": "assistant", "content": f"{reason}\n\n{space}tech"}
    asked = {"role": "user", "content": "the cup"}
    why = [{"role": "assistant", "content": "tech"}, {"role": "user", "content": "Why?"}]
    for pieces, messages in (
        (REASONED, [*opening, first, told, asked]),
        (ANSWERED, [*opening, first, *why, {"role": "assistant", "content": reason}, asked]),
    ):
        for wants in ("answer", "reason"):
            script = Script(pieces, "Text", "Label", wants)
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert list(engine.encode(layout.write(script)).ids) == expected
            assert layout.messages(script) == messages
    answers = [s.text for s in layout.write(Script(ANSWERED)).segments if s.role == "answer"]
    assert answers == [layout.answer("tech")]
    begun, whole = (layout.write(Script((*REASONED, CUE), wants=wants)).text for wants in ("reason", "answer"))
    assert whole == f"{begun}\n\n"
    assert begun.endswith(f"{space}Let us see.")


def test_a_reason_whose_end_melts_with_its_answer_is_said_all_the_same():
    """As SmolLM2's tokenizer divides an empty line before a word: the answer's tokens are those that are scored."""
    engine = chat_engine(chat_tokenizer(*SHAPES["smollm2"][:4], merges=[*MERGES, ("ĊĊ", "t")]))
    prompt = layout_for(engine, "turns").write(Script(REASONED, "Text", "Label", "reason"))
    encoded = engine.encode(prompt)
    (start, end), (answer,) = encoded.answer_spans[0], [s.text for s in prompt.segments if s.role == "answer"]
    assert encoded.ids[start:end] == engine.backbone.tokenise(answer)


def test_reasons_in_a_block_are_plain(chatty):
    layout = layout_for(chatty[1], "block")
    for script in (Script(REASONED, "Text", "Label", "reason"), Script(ANSWERED), Script((*REASONED, CUE))):
        assert Plain().write(script).text in layout.write(script).text
    assert layout.reason_ends(Script(REASONED, "Text", "Label")) == ("\nLabel:",)
    taught = layout.write(Script((*ASKED, Piece("answer", "sport"), Piece("reason", "Cups are won."))))
    assert [s.role for s in taught.segments] == ["query", "answer", "demonstration", "reason"]


def test_a_service_is_told_reasons_in_the_users_message():
    layout, told = ApiMessages(), "Reason: It is a part.\nOf a computer."
    wanted = layout.write(Script(REASONED, wants="reason")).messages
    assert [m["content"] for m in wanted] == [
        "Say the topic.", "the chip", "It is a part.\nOf a computer.\n\ntech", "the cup"]  # fmt: skip
    begun = layout.write(Script((*ASKED, CUE), wants="reason")).messages
    assert begun[-1] == {"role": "user", "content": "the cup\n\nLet us see."}
    after = layout.write(Script((*REASONED, CUE))).messages
    assert [m["content"] for m in after[1:]] == [f"the chip\n\n{told}", "tech", "the cup\n\nReason: Let us see."]
    assert [m["content"] for m in layout.write(Script(ANSWERED)).messages[1:]] == [
        "the chip", "tech", "Why?", "It is a part.\nOf a computer.", "the cup"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pieces", "answers", "reason"),
    [
        ("It is won.\n\nSport.", REASONED, ("tech", "sport"), "It is won."),
        ("It is won.\n \nIn games.", REASONED, ("tech", "sport"), "It is won.\nIn games."),
        ("sport", ASKED, ("tech", "sport"), ""),
        ("3 and 4\n\n7", REASONED, (), "3 and 4"),
        ("3 and 4\n\nare 7.", ASKED, (), "3 and 4\nare 7."),
        ("7", REASONED, (), "7"),
        ("", REASONED, (), ""),
    ],
)
def test_a_reason_in_what_a_chat_model_has_written(text, pieces, answers, reason):
    script = Script(pieces, wants="reason")
    assert ApiMessages().reason(text, script, answers) == reason


def test_a_reason_can_only_be_wanted_of_an_open_question():
    with pytest.raises(UserError, match="A reason can only be wanted of a question without an answer"):
        Script((*ASKED, Piece("answer", "sport")), wants="reason")
