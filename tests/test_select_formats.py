"""`kshot select --format`: demonstrations as rows of a task, as a prompt, as messages for any chat API."""

import json

import pytest

import kshot
from conftest import labelled_rows, plain_prompt, write_task
from kshot.core.types import Example, Task
from kshot.export.formats import FORMATS, as_jsonl, as_messages, as_prompt, formatter

TASK = Task("t", "classification", (), labels=("a", "b"), instruction="Say a or b. {Not} {0}")
SHOWN = [Example("one {input} {x}", "a", "1"), Example("two {", "b", "2")]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    card = {"kind": "classification", "instruction": "Name the kind {of} thing."}
    return write_task(tmp_path_factory.mktemp("tasks") / "words", labelled_rows(12), card=card)


def test_a_prompt_byte_for_byte():
    assert as_prompt(TASK, SHOWN) == (
        "Say a or b. {Not} {0}\n\nText: one {input} {x}\nLabel: a\n\nText: two {\nLabel: b\n\nText: {input}\nLabel:"
    )
    assert as_prompt(Task("t", "qa", ()), []) == "Question: {input}\nAnswer:"


def test_a_prompt_is_the_one_that_the_models_are_asked():
    query = Example("three", "", "3")
    before, _, after = as_prompt(TASK, SHOWN).rpartition("{input}")
    assert before + query.input + after == plain_prompt(TASK, SHOWN, query).text


def test_messages_end_with_the_query():
    assert as_messages(TASK, SHOWN) == [
        {"role": "system", "content": "Say a or b. {Not} {0}"},
        {"role": "user", "content": "one {input} {x}"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "two {"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "{input}"},
    ]
    assert as_messages(Task("t", "qa", ()), []) == [{"role": "user", "content": "{input}"}]


def test_where_demonstrations_have_contexts_so_has_the_query():
    task, shown = Task("t", "qa", ()), [Example("who?", "me", "1", context="I am."), Example("why?", "so", "2")]
    assert as_prompt(task, shown).endswith("\n\nContext: {context}\nQuestion: {input}\nAnswer:")
    assert [m["content"] for m in as_messages(task, shown)] == [
        "I am.\n\nwho?",
        "me",
        "why?",
        "so",
        "{context}\n\n{input}",
    ]


def test_jsonl_is_a_file_of_the_same_rows(tmp_path):
    shown = [*SHOWN, Example("ü\n", "b", "3", context="c", choices=("b", "d"), references=("e",))]
    lines = as_jsonl(TASK, shown).splitlines()
    assert json.loads(lines[0]) == {"id": "1", "input": "one {input} {x}", "output": "a"}
    assert set(json.loads(lines[2])) == {"id", "input", "output", "context", "choices", "references"}
    assert "ü" in lines[2]
    (tmp_path / "rows.jsonl").write_text(as_jsonl(TASK, SHOWN), "utf-8")
    assert [e.input for e in Task.load(tmp_path / "rows.jsonl").train] == [e.input for e in SHOWN]


@pytest.mark.parametrize("args", [(), ("--model", "scripted")])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_on_stdout_and_in_a_file(run_cli, task, tmp_path, name, args):
    loaded = Task.load(task)
    chosen = kshot.select(loaded, "random", 3, seed=2)
    command = ("select", task, "--selector", "random", "-k", 3, "--seed", 2, *args)
    printed = run_cli(*command, "--format", name)
    assert printed.code == 0
    assert printed.out == formatter(name)(loaded, chosen)
    written = run_cli(*command, "--format", name, "--out", tmp_path / "out")
    assert (written.code, written.out) == (0, "")
    assert written.err.endswith(f"demonstrations: {tmp_path / 'out'}\n")
    assert (tmp_path / "out").read_text("utf-8") == printed.out
    if name == "jsonl":
        assert run_cli(*command).out == printed.out
    if name == "messages":
        assert printed.json == as_messages(loaded, chosen)
    if name == "prompt":
        assert printed.out == as_prompt(loaded, chosen)


def test_rows_bring_their_choices(run_cli, quiz_task):
    done = run_cli("select", quiz_task, "--selector", "random", "-k", 2, "--format", "prompt")
    assert done.out.count("Question: ") == 3
    assert done.out.endswith("Question: {input}\nAnswer:")


def test_an_unknown_format_is_refused_before_a_model_is_loaded(run_cli, task):
    args = ("select", task, "--selector", "random", "-k", 2, "--model", "no-such-model")
    refused = run_cli(*args, "--format", "yaml")
    assert refused.code == 2
    assert "--format must be one of jsonl, prompt, messages; got 'yaml'." in refused.err


def test_sets_of_labels_are_written_as_files_have_them_and_said_as_models_are_told(tmp_path):
    rows = [Example("one", "a|b", "1"), Example("two", "(none)", "2")]
    task = Task("t", "multi_label", tuple(rows), labels=("a", "b"), metrics=("micro_f1",))
    (tmp_path / "train.jsonl").write_text(as_jsonl(task, rows), "utf-8")
    (tmp_path / "task.json").write_text('{"kind": "multi_label"}', "utf-8")
    assert [e.output for e in Task.load(tmp_path).train] == ["a|b", "(none)"]
    assert as_prompt(task, rows) == "Text: one\nLabels: a, b\n\nText: two\nLabels: none\n\nText: {input}\nLabels:"
    assert [m["content"] for m in as_messages(task, rows) if m["role"] == "assistant"] == ["a, b", "none"]


def test_nothing_is_rebuilt_where_no_gradients_are_kept(run_cli, task):
    refused = run_cli("select", task, "--selector", "random", "-k", 3, "--rebuild")
    assert refused.code == 2
    assert "--rebuild must come with --gradients" in refused.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--query", "--query must come with a selector that chooses by it; 'random' does not. Leave it out."),
        ("--gradients", "--gradients must come with a selector that takes some; 'random' does not. Leave it out."),
    ],
)
def test_what_a_selector_does_not_use_is_refused(run_cli, task, option, message):
    refused = run_cli("select", task, "--selector", "random", "-k", 2, option, "kept")
    assert (refused.code, refused.err.strip()) == (2, f"error: {message}")


def test_an_order_may_ask_for_the_query(run_cli, task):
    assert run_cli("select", task, "--selector", "random:order=nearest-last", "-k", 2, "--query", "an apple").code == 0
