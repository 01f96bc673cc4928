"""Rendered prompts byte for byte, and what happens when they do not fit."""

import pytest

from conftest import plain_prompt
from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.models.scripted import ScriptedModel
from kshot.prompts.fitting import prompt_tokens, write_to_fit
from kshot.prompts.plain import Plain

TOPICS = Task("topics", "classification", (), labels=("tech", "sport"), instruction="Say the topic.")
DEMOS = [Example(f"word{i} word word", "tech", f"d{i}") for i in range(40)]
QUERY = Example("Cup final tonight", "", "q")


def fit(demonstrations, query, model, *, answer_tokens=4):
    def write(shown):
        return plain_prompt(TOPICS, shown, query)

    return write_to_fit(write, demonstrations, model, answer_tokens=answer_tokens, asked=query.id)


def test_a_classification_prompt_byte_for_byte():
    prompt = plain_prompt(TOPICS, [Example("New chip", "tech", "a"), Example("Late goal", "sport", "b")], QUERY)
    assert prompt.text == (
        "Say the topic.\n\nText: New chip\nLabel: tech\n\nText: Late goal\nLabel: sport\n\n"
        "Text: Cup final tonight\nLabel:"
    )
    assert [s.role for s in prompt.segments] == [
        "instruction", "demonstration", "answer", "demonstration", "answer", "query"
    ]  # fmt: skip
    assert Plain().answer("tech") == " tech\n\n"


def test_a_multiple_choice_prompt_with_context_byte_for_byte():
    task = Task("pick", "multiple_choice", ())
    shown = Example("Which?\n(A) one\n(B) two", "(B)", "a", context="Two it is.", choices=("one", "two"))
    prompt = plain_prompt(task, [shown], Example("Which?\n(A) x\n(B) y", "", "q", choices=("x", "y")))
    assert prompt.text == (
        "Context: Two it is.\nQuestion: Which?\n(A) one\n(B) two\nAnswer: (B)\n\n"
        "Question: Which?\n(A) x\n(B) y\nAnswer:"
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("qa", "Question: x\nAnswer: y\n\nQuestion: z\nAnswer:"),
        ("math", "Question: x\nAnswer: y\n\nQuestion: z\nAnswer:"),
        ("generation", "Input: x\nOutput: y\n\nInput: z\nOutput:"),
        ("parsing", "Input: x\nOutput: y\n\nInput: z\nOutput:"),
    ],
)
def test_prompts_of_open_tasks_byte_for_byte(kind, text):
    task = Task("open", kind, (Example("x", "y", "a"),))
    assert plain_prompt(task, task.train, Example("z", "", "q")).text == text


def test_whole_demonstrations_are_dropped_from_the_front_and_counted():
    full = ScriptedModel()
    n_full = sum(full.count_tokens(s.text) for s in plain_prompt(TOPICS, DEMOS[:10], QUERY).segments)
    n_answer = full.count_tokens(Plain().answer("sport"))
    exact = ScriptedModel(max_tokens=n_full + 1 + n_answer)
    prompt, dropped = fit(DEMOS[:10], QUERY, exact, answer_tokens=n_answer)
    assert dropped == 0
    assert prompt == plain_prompt(TOPICS, DEMOS[:10], QUERY)
    short = ScriptedModel(max_tokens=n_full + n_answer)
    prompt, dropped = fit(DEMOS[:10], QUERY, short, answer_tokens=n_answer)
    assert dropped == 1
    assert prompt == plain_prompt(TOPICS, DEMOS[1:10], QUERY)


def test_neighbours_in_a_stream_drop_in_steps_so_that_they_share_their_beginning():
    model = ScriptedModel(max_tokens=200)
    dropped = [fit(DEMOS[:n], QUERY, model)[1] for n in range(32, 40)]
    assert all(d % 2 == 0 for d in dropped)
    assert len(set(dropped)) < len(dropped)


def test_an_example_longer_than_the_context_is_named():
    long = Example("word " * 60, "", "row-7")
    with pytest.raises(UserError, match="context of 50 tokens; example 'row-7' needs"):
        fit(DEMOS, long, ScriptedModel(max_tokens=50))


def test_one_that_is_shown_in_place_of_those_left_out_stops_no_search():
    """Without demonstrations this prompt is longer than with one of them."""

    def write(shown):
        return plain_prompt(TOPICS, shown or [Example("instead " * 10, "tech", "w")], QUERY)

    found = {}
    for most in (37, 40, 44, 60, 200):
        model = ScriptedModel(max_tokens=most)
        prompt, found[most] = write_to_fit(write, DEMOS[:8], model, answer_tokens=4, asked="q")
        assert prompt == write(DEMOS[found[most] : 8])
        assert prompt_tokens(prompt, model) + 4 <= most
    assert found == {37: 7, 40: 7, 44: 6, 60: 5, 200: 0}


@pytest.mark.parametrize("n", [0, 1, 15, 16, 33, 40])
def test_as_few_are_left_out_as_must_be(n):
    for most in range(24, 300, 7):
        model, step = ScriptedModel(max_tokens=most), max(1, n // 16)
        prompt, dropped = fit(DEMOS[:n], QUERY, model)
        assert dropped in {*range(0, n, step), n}
        assert prompt == plain_prompt(TOPICS, DEMOS[dropped:n], QUERY)
        assert prompt_tokens(prompt, model) + 4 <= most
        if dropped:
            kept = range(0, n, step)[-(-dropped // step) - 1]
            assert prompt_tokens(plain_prompt(TOPICS, DEMOS[kept:n], QUERY), model) + 4 > most
