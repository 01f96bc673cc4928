"""Prompts of chat models: the same token ids as the tokenizer's own template, or a refusal that says why."""

import hashlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kshot.core.errors import UserError
from kshot.core.script import UsualWording
from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Task
from kshot.engine.language_model import Engine
from kshot.models.hf import Backbone
from kshot.models.tiny import tiny_backbone
from kshot.prompts.chat import Chat
from kshot.prompts.fitting import prompt_tokens
from kshot.prompts.layout import layout_for
from kshot.prompts.plain import Plain
from kshot.taskmodel.taskmodel import TaskModel

# Templates in the shape of the originals
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
QWEN25 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and ns.last_query_index == messages|length - 1 %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and loop.last %}
            {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{%- if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""
GEMMA3 = """{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}
{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
{{- message['content'] | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor -%}{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}"""
MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}{{- '[INST] ' + message['content'] + ' [/INST]' }}{%- endif %}
    {%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}"""
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
# name -> template, first token, token that ends an answer, other special tokens, where an instruction stands
SHAPES: dict[str, tuple[str, str | None, str, tuple[str, ...], str]] = {
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), "system"),
    "qwen2.5": (QWEN25, None, "<|im_end|>", ("<|im_start|>",), "system"),
    "qwen3": (QWEN3, None, "<|im_end|>", ("<|im_start|>", "<think>", "</think>"), "system"),
    "gemma": (GEMMA, "<bos>", "<end_of_turn>", ("<start_of_turn>",), "user"),
    "gemma3": (GEMMA3, "<bos>", "<end_of_turn>", ("<start_of_turn>",), "system"),
    "mistral": (MISTRAL, "<s>", "</s>", ("[INST]", "[/INST]"), "user"),
    "mistral-words": (MISTRAL, "<s>", "</s>", (), "user"),
    "smollm2": (SMOLLM2, "<|im_start|>", "<|im_end|>", (), "system"),
}
VARIABLES = {"date_string": "26 Jul 2024", "enable_thinking": False}
# Pairs that become one token, among them a space and the beginning of a word, and newlines
MERGES = [("Ġ", "t"), ("t", "h"), ("Ġ", "s"), ("Ġ", "N"), ("Ċ", "Ċ"), (":", "Ġ"), ("e", "r"), ("Ġt", "h")]

TASK = Task("topics", "classification", (), labels=("tech", "sport"), instruction="Say the topic.")
BARE = Task("topics", "classification", (), labels=("tech", "sport"))
DEMOS = (
    Example("the new chip", "tech", "d0"),
    Example("Late goal; the cup: é", "sport", "d1", context="Two teams.\nOne cup"),
    Example("  spaces around\n", " tech ", "d2"),
)
QUERY = Example("Cup final tonight", "", "q")
IN_CONTEXT = Example("Cup final tonight", "", "q2", context=" It is late. ")


def chat_tokenizer(
    template: Any, first: str | None, last: str, special: tuple[str, ...] = (), merges: Any = MERGES
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with few merges, which may cross any boundary."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = dict.fromkeys([*([first] if first else []), last, *special])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if first and first != "<|im_start|>":
        # As the originals: a text gets a first token, which the template spells too
        known = [(first, tokenizer.token_to_id(first))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=known)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, eos_token=last)
    wrapped.chat_template = template
    return wrapped


def chat_engine(tokenizer: PreTrainedTokenizerFast, name: str = "chatty") -> Engine:
    backbone = tiny_backbone(
        settings={"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    )
    return Engine(Backbone(backbone.model, tokenizer, name))


@pytest.fixture(scope="module", params=SHAPES)
def shape(request) -> tuple[str, Engine, PreTrainedTokenizerFast]:
    tokenizer = chat_tokenizer(*SHAPES[request.param][:4])
    return request.param, chat_engine(tokenizer), tokenizer


@pytest.fixture(scope="module")
def qwen() -> tuple[Engine, PreTrainedTokenizerFast]:
    tokenizer = chat_tokenizer(*SHAPES["qwen2.5"][:4])
    return chat_engine(tokenizer), tokenizer


def say(layout: Any, task: Task, shown: Any, query: Example) -> Prompt:
    return layout.write(UsualWording().compose(task, shown, query.question))


def expected_messages(task: Task, demos: Any, query: Example, *, system: bool, block: bool) -> list[dict[str, str]]:
    """What DESIGN says, written once more: turns with their contexts, or the plain layout as one user message."""
    if block:
        return [{"role": "user", "content": say(Plain(), task, demos, query).text}]
    messages = []
    for example in (*demos, query):
        context = f"{example.context.strip()}\n\n" if example.context else ""
        messages.append({"role": "user", "content": context + example.input.strip()})
        messages.append({"role": "assistant", "content": example.output.strip()})
    messages.pop()
    if task.instruction and system:
        messages.insert(0, {"role": "system", "content": task.instruction})
    elif task.instruction:
        messages[0]["content"] = f"{task.instruction}\n\n{messages[0]['content']}"
    return messages


def template_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The template's ids, where control tokens in the messages are texts: transformers' own `split_special_tokens`."""
    control = [token.content for token in tokenizer.added_tokens_decoder.values()]
    stands_for = {token: chr(0xF0000 + i) for i, token in enumerate(control)}

    def exchanged(text: str, pairs: Any) -> str:
        for a, b in pairs:
            text = text.replace(a, b)
        return text

    safe = [m | {"content": exchanged(m["content"], stands_for.items())} for m in messages]
    if safe == messages:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **VARIABLES)
    text = tokenizer.apply_chat_template(safe, add_generation_prompt=True, tokenize=False, **VARIABLES)
    ids = []
    for part in re.split(f"({'|'.join(map(re.escape, control))})", text):
        if part in control:
            ids.append(tokenizer.convert_tokens_to_ids(part))
        else:
            part = exchanged(part, ((b, a) for a, b in stands_for.items()))
            ids += tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
    return ids


# Equal to the template


@pytest.mark.parametrize("layout", ["turns", "block"])
@pytest.mark.parametrize("task", [TASK, BARE], ids=["instruction", "bare"])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_token_ids_are_those_of_the_template(shape, layout, task, n):
    name, engine, tokenizer = shape
    chat = layout_for(engine, layout)
    for query in (QUERY, IN_CONTEXT):
        prompt = say(chat, task, DEMOS[:n], query)
        messages = expected_messages(
            task, DEMOS[:n], query, system=SHAPES[name][4] == "system", block=layout == "block"
        )
        ids = list(engine.encode(prompt).ids)
        assert ids == template_ids(tokenizer, messages)
        assert ids == [i for s in prompt.segments for i in engine.backbone.tokenise(s.text)]
        assert prompt.text == tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **VARIABLES
        )
        assert prompt_tokens(prompt, engine) == len(ids)
        first = tokenizer.bos_token_id
        if first is not None and name != "smollm2":
            assert engine.backbone.first_ids == (first,)
            assert ids.count(first) == 1


@pytest.mark.parametrize("layout", ["turns", "block"])
def test_answer_spans_are_exact(shape, layout):
    name, engine, tokenizer = shape
    chat = layout_for(engine, layout)
    encoded = engine.encode(say(chat, TASK, DEMOS, QUERY))
    shown = [tokenizer.decode(list(encoded.ids[a:b])) for a, b in encoded.answer_spans]
    if layout == "block":
        assert shown == []  # one user message, one segment
        return
    end = SHAPES[name][2]
    assert [text.strip() for text in shown] == [f"{e.output.strip()}{end}" for e in DEMOS]
    assert shown == [chat.answer(e.output) for e in DEMOS]


def test_an_answer_follows_the_prompt_as_it_does_in_a_demonstration(shape):
    """Prompt and scored answer are the beginning of the conversation that shows this answer."""
    name, engine, tokenizer = shape
    chat = layout_for(engine, "turns")
    if name == "qwen3":  # its template writes (empty) thoughts before the last answer only
        assert say(chat, TASK, DEMOS, QUERY).text.endswith("</think>\n\n")
        assert chat.answer("tech") == "tech<|im_end|>"
        return
    ids = [*engine.encode(say(chat, TASK, DEMOS, QUERY)).ids, *engine.backbone.tokenise(chat.answer("tech"))]
    done = Example(QUERY.input, "tech", "q")
    messages = expected_messages(TASK, (*DEMOS, done), QUERY, system=SHAPES[name][4] == "system", block=False)
    assert ids == template_ids(tokenizer, messages)[: len(ids)]


def test_the_terminator_ends_an_answer(shape):
    name, engine, tokenizer = shape
    for layout in ("turns", "block"):
        chat = layout_for(engine, layout)
        assert chat.terminator == SHAPES[name][2]
        assert chat.answer(" tech\n").strip() == f"tech{SHAPES[name][2]}"
        assert engine.backbone.tokenise(chat.answer("tech"))[-1] == tokenizer.eos_token_id


def test_qwen3_does_not_think():
    engine = chat_engine(chat_tokenizer(*SHAPES["qwen3"][:4]))
    text = say(layout_for(engine, "turns"), BARE, DEMOS[:1], QUERY).text
    assert text == (
        "<|im_start|>user\nthe new chip<|im_end|>\n<|im_start|>assistant\ntech<|im_end|>\n"
        "<|im_start|>user\nCup final tonight<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_a_conversation_byte_for_byte(qwen):
    prompt = say(layout_for(qwen[0], "turns"), TASK, DEMOS[:2], IN_CONTEXT)
    assert [(s.role, s.text) for s in prompt.segments] == [
        (
            "demonstration",
            "<|im_start|>system\nSay the topic.<|im_end|>\n<|im_start|>user\nthe new chip<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        ("answer", "tech<|im_end|>"),
        (
            "demonstration",
            "\n<|im_start|>user\nTwo teams.\nOne cup\n\nLate goal; the cup: é<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("answer", "sport<|im_end|>"),
        (
            "query",
            "\n<|im_start|>user\nIt is late.\n\nCup final tonight<|im_end|>\n<|im_start|>assistant\n",
        ),
    ]
    assert prompt.spells_first_token


def test_a_block_byte_for_byte(qwen):
    prompt = say(layout_for(qwen[0], "block"), TASK, DEMOS[:1], QUERY)
    assert prompt.text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nSay the topic.\n\n"
        "Text: the new chip\nLabel: tech\n\nText: Cup final tonight\nLabel:<|im_end|>\n<|im_start|>assistant\n"
    )


# The instruction's place


def remarks_of(layout: Any, task: Task) -> list[str]:
    said = layout.remarks(UsualWording().compose(task, (), QUERY.question))
    return [remark for remark in said if "block of thoughts" not in remark]


def test_where_no_system_turn_is_taken_the_instruction_opens_the_first_user_turn(shape):
    name, engine, _ = shape
    chat = layout_for(engine, "turns")
    first, *remarks = remarks_of(chat, TASK)
    assert first == "prompts are in the model's chat template (--layout turns)"
    if SHAPES[name][4] == "system":
        assert remarks == []
    else:
        (remark,) = remarks
        assert "the chat template of 'chatty' takes no system turn: the instruction opens the first user" in remark
        prompt = say(chat, TASK, DEMOS[:1], QUERY)
        assert prompt.text.count("Say the topic.\n\nthe new chip") == 1
    assert remarks_of(chat, BARE) == [first]
    assert len(remarks_of(layout_for(engine, "block"), TASK)) == 1
    assert remarks_of(layout_for(engine, "plain"), TASK) == []


# What is refused

CHATML = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
UNUSABLE = {
    "drops answers": "{% for m in messages if m.role != 'assistant' %}" + CHATML + "{% endfor %}" + ASK,
    "keeps the last turn only": "{% for m in messages[-1:] %}" + CHATML + "{% endfor %}" + ASK,
    "moves": "{% for m in messages|sort(attribute='role') %}" + CHATML + "{% endfor %}" + ASK,
    "repeats": "{% for m in messages %}" + CHATML + CHATML + "{% endfor %}" + ASK,
    "numbers": "{% for m in messages %}{{ loop.index }}" + CHATML + "{% endfor %}" + ASK,
    "counts": "{{ messages|length }}{% for m in messages %}" + CHATML + "{% endfor %}" + ASK,
    "closes nothing": "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}assistant: ",
    "one turn only": "{% if messages|length > 1 %}{{ raise_exception('One turn.') }}{% endif %}" + ASK,
}


@pytest.mark.parametrize("what", UNUSABLE)
@pytest.mark.parametrize("layout", ["auto", "turns", "block"])
def test_templates_that_write_something_else_are_refused(what, layout):
    engine = chat_engine(chat_tokenizer(UNUSABLE[what], None, "<|im_end|>", ("<|im_start|>",)))
    reason = {
        "one turn only": "it says 'One turn.'",
        "numbers": "different ways",
        "counts": "different ways",
        "closes nothing": "does not close an answer",
    }.get(what, "it leaves out, repeats or moves what is said")
    with pytest.raises(UserError) as refused:
        say(layout_for(engine, layout), TASK, DEMOS, QUERY)
    text = str(refused.value)
    assert text.startswith("The chat template of 'chatty' must write turns one after the other, each answer as given;")
    assert reason in text
    assert text.endswith("Use --layout plain.")


def refusal(chat: Any, task: Task, demos: Any, query: Example) -> str:
    with pytest.raises(UserError) as refused:
        say(chat, task, demos, query)
    return str(refused.value)


def test_a_text_that_the_template_changes_is_refused_by_name():
    engine = chat_engine(chat_tokenizer(QWEN3, None, "<|im_end|>", ("<|im_start|>",)))  # "</think>" is no token
    chat = layout_for(engine, "turns")
    thinks = Example("x", "I think</think>tech", "row-3")
    message = refusal(chat, TASK, (DEMOS[0], thinks), QUERY)
    assert "must be those of the chat template of 'chatty'; those of example 'row-3' differ" in message
    assert message.endswith("Change the example, or use --layout plain.")
    # Other examples go on
    assert say(chat, TASK, DEMOS, QUERY)
    lower = QWEN25.replace("message.content", "message.content | replace('X', 'x')")
    chat = layout_for(chat_engine(chat_tokenizer(lower, None, "<|im_end|>", ("<|im_start|>",))), "turns")
    assert "example 'big'" in refusal(chat, TASK, DEMOS, Example("a X", "", "big"))
    assert "example 'big'" in refusal(chat, TASK, (Example("a X", "tech", "big"),), QUERY)


def test_a_text_that_melts_with_its_neighbours_is_refused_by_name():
    """An answer stands by itself, so its first letter must not become one token with the newline before it."""
    tokenizer = chat_tokenizer(SHAPES["qwen2.5"][0], None, "<|im_end|>", ("<|im_start|>",), [("Ċ", "x")])
    engine = chat_engine(tokenizer)
    chat = layout_for(engine, "turns")
    example = Example("a", "xylophone", "row")
    message = refusal(chat, TASK, (*DEMOS, example), QUERY)
    assert "those of example 'row' differ" in message
    assert "its first or last character melts with what stands beside it" in message
    # Inputs stand together with what the template writes around them, and so does all of a block
    inputs = (Example("xylophone", "tech", "a"), Example("xylophone", "tech", "b", context="xylophone"))
    for layout, demos in (("turns", inputs), ("block", (*inputs, example))):
        prompt = say(layout_for(engine, layout), TASK, demos, inputs[1])
        messages = expected_messages(TASK, demos, inputs[1], system=True, block=layout == "block")
        assert list(engine.encode(prompt).ids) == template_ids(tokenizer, messages)


ARROWS = """{%- for m in messages %}{{- m.content + (' ->' if m.role == 'user' else '</s>') }}{%- endfor %}"""


def test_a_query_that_melts_behind_demonstrations_alone_is_refused():
    """Here nothing stands between the end of an answer and the next input."""
    engine = chat_engine(chat_tokenizer(ARROWS, None, "<|end|>", (), [(">", "x")]))
    query = Example("xylophone", "", "row")
    chat = layout_for(engine, "turns")
    assert say(chat, BARE, (), query).text == "xylophone ->"
    assert say(chat, BARE, DEMOS[:1], QUERY).text == "the new chip ->tech</s>Cup final tonight ->"
    assert "example 'row'" in refusal(chat, BARE, DEMOS[:1], query)


def test_what_was_tried_for_one_task_is_tried_again_for_another():
    """A template that trims changes the block of a task whose instruction begins with a space."""
    chat = layout_for(chat_engine(chat_tokenizer(*SHAPES["gemma"][:4])), "block")
    spaced = Task("other", "classification", (), instruction=" Say it.")
    assert say(chat, TASK, DEMOS, QUERY)
    assert "those of example 'd0' differ" in refusal(chat, spaced, DEMOS, QUERY)


def test_an_example_that_is_both_shown_and_asked_is_tried_as_both():
    engine = chat_engine(chat_tokenizer(QWEN3, None, "<|im_end|>", ("<|im_start|>",)))
    both = Example("x", "a</think>b", "row")
    assert say(layout_for(engine, "turns"), TASK, (), both)
    assert "'row'" in refusal(layout_for(engine, "turns"), TASK, (both,), both)


def test_a_template_that_refuses_a_text_names_the_example():
    template = QWEN25.replace(
        "{%- for message in messages %}",
        "{%- for message in messages %}{%- if 'bomb' in message.content %}{{ raise_exception('No!') }}{%- endif %}",
    )
    chat = layout_for(chat_engine(chat_tokenizer(template, None, "<|im_end|>", ("<|im_start|>",))), "turns")
    message = refusal(chat, TASK, (Example("a bomb", "tech", "row"),), QUERY)
    assert "example 'row'" in message
    assert "it says 'No!'" in message


def test_layouts_need_what_they_need(qwen):
    base, (chatty, _) = Engine(tiny_backbone()), qwen
    for layout in ("turns", "block"):
        with pytest.raises(UserError, match=f"--layout {layout} needs a model with a chat template; 'tiny' has none"):
            layout_for(base, layout)
        with pytest.raises(UserError, match=f"--layout {layout} needs .*; there is no model. Use --layout plain"):
            layout_for(None, layout)
    with pytest.raises(UserError, match="--layout must be one of auto, plain, turns, block, messages; got 'nice'"):
        layout_for(chatty, "nice")
    assert layout_for(base, "auto") == layout_for(None, "auto") == layout_for(chatty, "plain") == Plain()
    auto = layout_for(chatty, "auto")
    assert isinstance(auto, Chat)
    assert not auto.in_block
    assert layout_for(chatty, "block").in_block


def test_several_templates_without_a_default_one(qwen):
    named = {"rag": QWEN25, "tool_use": QWEN25}
    engine = chat_engine(chat_tokenizer(named, None, "<|im_end|>", ("<|im_start|>",)))
    assert layout_for(engine, "plain") == Plain()
    with pytest.raises(
        UserError, match=r"one of several \(rag, tool_use\), of which none is the default\. Use --layout plain"
    ):
        say(layout_for(engine, "auto"), TASK, DEMOS, QUERY)
    engine = chat_engine(chat_tokenizer({"default": QWEN25, **named}, None, "<|im_end|>", ("<|im_start|>",)))
    theirs, ours = (say(layout_for(e, "auto"), TASK, DEMOS, QUERY).text for e in (qwen[0], engine))
    assert theirs == ours


# The record


def test_the_record_holds_the_layout_and_the_hash_of_the_template(qwen):
    expected = hashlib.sha256(QWEN25.encode()).hexdigest()
    assert layout_for(qwen[0], "turns").record == {"layout": "turns", "chat_template": expected}
    assert layout_for(qwen[0], "block").record == {"layout": "block", "chat_template": expected}
    assert layout_for(qwen[0], "plain").record == {"layout": "plain"}


def test_prompts_do_not_change_overnight(monkeypatch):
    """Some templates write today's date."""
    template = "{{ 'Today: ' + strftime_now('%Y-%m-%d') + '\\n' }}" + QWEN25
    tokenizer = chat_tokenizer(template, None, "<|im_end|>", ("<|im_start|>",))
    engine = chat_engine(tokenizer)
    prompt = say(layout_for(engine, "turns"), TASK, DEMOS, QUERY)
    today = tokenizer.apply_chat_template(
        expected_messages(TASK, DEMOS, QUERY, system=True, block=False), add_generation_prompt=True, tokenize=False
    )
    assert prompt.text.split("\n")[1:] == today.split("\n")[1:]
    assert prompt.text.startswith("Today: 26 Jul 2024\n")


# Any texts


@pytest.fixture(scope="module")
def fuzzed():
    """Every shape with merges that melt many things; layouts are made anew, as they remember what they tried."""
    merges = [("Ċ", "Ċ"), ("Ċ", "x"), ("Ġ", "x"), ("x", "<"), (">", "x"), ("]", "x"), ("x", "Ġ"), ("Ċ", "T")]
    found = {}
    for name, (template, first, last, special, _) in SHAPES.items():
        tokenizer = chat_tokenizer(template, first, last, special, merges)
        found[name] = chat_engine(tokenizer), tokenizer
    return found


texts = st.lists(
    st.sampled_from(
        ["y", "b", "a b", "x", " ", "\n", "<", ">", "]", "é", "</think>", "<|im_end|>", "[INST]", "\ue000", "\ue001"]
    ),
    min_size=1,
    max_size=4,
).map("".join)
inputs = st.builds(Example, texts, texts, st.just("row"), st.none() | texts)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)), st.sampled_from(["turns", "block"]), st.none() | texts,
    st.lists(inputs, max_size=3), inputs,
)  # fmt: skip
def test_any_texts_give_the_ids_of_the_template_or_are_refused(fuzzed, name, layout, instruction, demos, query):
    engine, tokenizer = fuzzed[name]
    task = Task("t", "generation", (), instruction=(instruction or "").strip())
    chat = layout_for(engine, layout)
    try:
        prompt = say(chat, task, demos, query)
    except UserError:
        return
    system = SHAPES[name][4] == "system"
    messages = expected_messages(task, demos, query, system=system, block=layout == "block")
    assert list(engine.encode(prompt).ids) == template_ids(tokenizer, messages)


def test_ordinary_texts_are_not_refused(fuzzed):
    """The property above would also hold if everything were refused."""
    demos = (Example("y yé", "é y", "a"), Example("y\ny <y>", "y", "b", context="y."))
    for name, (engine, _) in fuzzed.items():
        assert say(layout_for(engine, "turns"), TASK, demos, QUERY), name


# Scores and answers


@torch.no_grad()
def plain_scores(engine: Engine, request: ScoreRequest) -> list[float]:
    prompt, result = list(engine.encode(request.prompt).ids), []
    for text in request.continuations:
        answer = list(engine.backbone.tokenise(text))
        log_probs = torch.log_softmax(engine.backbone.model(torch.tensor([prompt + answer])).logits[0].double(), -1)
        result.append(sum(float(log_probs[len(prompt) - 1 + j, t]) for j, t in enumerate(answer)))
    return result


@pytest.mark.parametrize("layout", ["turns", "block"])
def test_packed_scores_of_chats_equal_plain_ones_and_share_their_beginning(shape, layout):
    _, engine, tokenizer = shape
    chat = layout_for(engine, layout)
    prompts = [say(chat, TASK, DEMOS, Example(f"{i} cups", "", f"q{i}")) for i in range(4)]
    requests = [ScoreRequest(p, tuple(map(chat.answer, TASK.labels))) for p in prompts]
    engine = Engine(engine.backbone, pack_tokens=60)
    assert engine.obstacle is None
    expected = [plain_scores(engine, r) for r in requests]
    assert np.abs(np.array(engine.score(requests)) - expected).max() <= 1e-4
    rows = [list(engine.encode(p).ids) for p in prompts]
    n_common = next(i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    # Different from the query's first character on, and until then run once
    assert tokenizer.decode(rows[0][n_common:]).lstrip().startswith("0 cups")
    n_answers = [len(engine.backbone.tokenise(chat.answer(label))) - 1 for label in TASK.labels]
    least = n_common + sum(len(row) - n_common for row in rows)
    assert least <= engine.forward_tokens(requests) <= least + 4 * sum(n_answers)


def test_an_answer_is_generated_up_to_the_terminator(shape):
    name, engine, tokenizer = shape
    task = Task("t", "generation", tuple(DEMOS), instruction="Go on.")
    asker = TaskModel.for_task(task, engine)
    prompt, _ = asker.prompt(DEMOS, QUERY)
    allowed = tuple(map(asker.layout.answer, ("tech", "technical", "sport")))
    (chosen,) = engine.generate([GenerateRequest(prompt, 1, allowed=allowed)])
    assert chosen.text in allowed
    assert chosen.finished
    (generated,) = asker.generate([prompt])
    ids = torch.tensor([engine.encode(prompt).ids])
    written = engine.backbone.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=asker.answer_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    assert generated.finished == (written[-1] == tokenizer.eos_token_id)
    assert generated.text == tokenizer.decode(written[: len(written) - generated.finished])


# The real model


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["turns", "block"])
@pytest.mark.parametrize("task", [TASK, BARE], ids=["instruction", "bare"])
def test_token_ids_of_the_real_model(smollm2, layout, task):
    tokenizer = smollm2.backbone._tokenizer
    chat = layout_for(smollm2, layout)
    rows = [
        Example("The striker scored twice.", "sport", "a"),
        Example("42 new chips — 3 nm!\n\nSee table:\n| a | b |", "tech", "b", context="From the news, 2024."),
        Example("naïve café ☕ 漢字", "two words", "c"),
        Example("'quoted'", "(B)", "d"),
        Example("-5 + 7 = ?", "2", "e"),
    ]
    for n in range(len(rows)):
        prompt = say(chat, task, rows[:n], rows[n])
        messages = expected_messages(task, rows[:n], rows[n], system=True, block=layout == "block")
        assert list(smollm2.encode(prompt).ids) == template_ids(tokenizer, messages)


@pytest.mark.slow
def test_the_real_model_answers_as_with_transformers(smollm2):
    task = Task("capitals", "generation", (Example("France", "Paris", "a"),), instruction="Name the capital.")
    demos = (*task.train, Example("Japan", "Tokyo", "b"))
    queries = [Example(c, "", c) for c in ("Italy", "Spain", "Norway", "the country where I was born, in a poem")]
    asker = TaskModel.for_task(task, smollm2)
    prompts = [asker.prompt(demos, q)[0] for q in queries]
    backbone = smollm2.backbone
    for prompt, found in zip(prompts, asker.generate(prompts), strict=True):
        ids = torch.tensor([smollm2.encode(prompt).ids])
        written = backbone.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=asker.answer_tokens
        )[0, ids.shape[1] :].tolist()
        finished = written[-1] in backbone.last_ids
        assert found.text == backbone.detokenise(written[: len(written) - finished])
        assert found.finished == finished
    assert [g.text for g in asker.generate(prompts[:2])] == ["Rome", "Madrid"]
