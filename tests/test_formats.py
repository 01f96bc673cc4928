"""The formats that labelled examples come in: Parquet, conversations, datasets of the hub, columns of other names."""

import builtins
import datetime
import io
import json
import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.tasks.inputs import read_inputs, under_own_names
from kshot.tasks.load import load_task
from kshot.tasks.tables import Table
from kshot.tasks.validate import grave_problems, validate

ROW = {"input": "good film", "output": "yes"}
QUIZ = {"input": "2+2?", "choices": ["3", "4"]}
GUESSED = "(guessed; --columns overrides)"


@pytest.fixture
def write(tmp_path):
    """Write rows as JSON Lines or Parquet, or text, by the file's name."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(rows, str | bytes):
            path.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
        elif name.endswith(".parquet"):
            pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)
        else:
            path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def without_kind(notes):
    return tuple(note for note in notes if not note.startswith("kind is guessed from the rows: "))


@pytest.fixture
def rows_of(write):
    """Load rows that are written as JSON Lines; return the train examples and the notes but that on the kind."""

    def rows_of(*rows, **settings):
        task = load_task(write("a.jsonl", rows), **settings)
        return task.train, without_kind(task.notes)

    return rows_of


@pytest.fixture
def refused(write):
    def refused(rows, name="bad.jsonl", **settings):
        source = rows if isinstance(rows, str) and rows.startswith("hf://") else write(name, rows)
        with pytest.raises(UserError) as error:
            load_task(source, **settings)
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix(f"{source} ").removeprefix(f"{source}: ")

    return refused


def without(monkeypatch, package):
    """Make imports of `package` fail."""
    real = builtins.__import__

    def absent(name, *args):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)


# Parquet


def test_a_parquet_file_holds_the_same_as_json_lines(write):
    rows = [
        {**ROW, "id": 7, "references": ["yes", "y"], "context": "c"},
        {**ROW, "id": 8, "references": None, "context": None},
    ]
    first, second = load_task(write("a.parquet", rows)).train
    assert first == Example("good film", "yes", "7", context="c", references=("yes", "y"))
    assert second == Example("good film", "yes", "8")
    (examples, notes) = read_inputs(str(write("b.parquet", [{"text": "a", "n": 1}])), io.BytesIO())
    assert examples == [Example("a", "", "input-1", meta={"n": 1})]
    assert notes == (f"input is read from the column 'text' {GUESSED}",)


def test_what_no_field_needs_may_be_anything(write):
    extra = {"seen": datetime.date(2024, 1, 1), "image": {"bytes": b"x", "path": "p"}, "empty": None, "note": ""}
    (example,) = load_task(write("a.parquet", [{**ROW, **extra}])).train
    assert set(example.meta) == {"seen", "image"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_folder_holds_each_split_in_any_format(write, tmp_path, suffix):
    path = write(f"mood/train.{suffix}", "input,output\ngood film,yes\n" if suffix == "csv" else [ROW])
    write("mood/test.parquet", [{**ROW, "input": "bad"}])
    task = load_task(path.parent)
    assert (task.name, task.train[0].input, task.test[0].input) == ("mood", "good film", "bad")
    write("mood/test.jsonl", [ROW])
    with pytest.raises(UserError, match="must hold the rows of test once; it holds test.jsonl and test.parquet; remo"):
        load_task(tmp_path / "mood")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"PAR1 not really", "must be a Parquet file that can be read, but "),
        (pa.table({"input": pa.array([], pa.string())}), "has no rows; it must hold one example a row."),
        (pa.table([["a"], ["b"]], names=["input", "input"]), "must name each column once; 'input' is there twice."),
        ([{**ROW, "input": {"text": "a"}}], 'row 1: \'input\' must be a string; got an object ({"text": "a"}); wr'),
        ([ROW, {**ROW, "output": None}], "row 2: 'output' must be a string; got null; fill it in"),
        ([{**ROW, "output": 0.5}], "row 1: 'output' must be a string; got a number (0.5); write it as \"0.5\"."),
        ([{**ROW, "input": b"a"}], "row 1: 'input' must be a string; got a value of type bytes"),
        (
            [{**QUIZ, "output": "4", "choices": {"text": ["3", "4"]}}],
            "row 1: 'choices' must be a list of strings; got ",
        ),
        ([{**QUIZ, "output": "4", "choices": [["3"], ["4"]]}], "row 1: 'choices' item 1 must be a string; got a list"),
    ],
)
def test_a_bad_parquet_file_is_refused(refused, rows, message):
    assert refused(rows, "bad.parquet").startswith(message)


def test_parquet_and_the_hub_need_packages(write, refused, monkeypatch):
    path = write("a.parquet", [ROW])
    without(monkeypatch, "pyarrow")
    with pytest.raises(
        UserError, match=r"a.parquet needs the package 'pyarrow'; install it with: pip install 'kshot\["
    ):
        load_task(path)
    without(monkeypatch, "datasets")
    assert refused("hf://sst2") == "needs the package 'datasets'; install it with: pip install 'kshot[data]'"


# Conversations


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def test_the_last_two_messages_are_the_example(rows_of):
    short = talk(("user", "hi"), ("assistant", "hello"))
    long = talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    (first, second), notes = rows_of({"messages": short, "id": "x"}, {"messages": long, "context": "note"})
    assert first == Example("hi", "hello", "x")
    assert second == Example("c", "d", "train-2", context="note\n\nUser: a\n\nAssistant: b")
    assert notes == ("input and output are the last two messages in 'messages'",)


def test_a_system_message_that_all_rows_share_is_the_instruction(write, rows_of):
    rows = [{"messages": talk(("system", "Be brief."), ("user", q), ("assistant", "b"))} for q in ("x", "y")]
    task = load_task(write("chat/train.jsonl", rows).parent)
    assert (task.instruction, task.train[0].context) == ("Be brief.", None)
    assert task.notes[1] == "the system message, the same in all rows, is the instruction"
    write("chat/task.json", json.dumps({"instruction": "Be long."}))
    task = load_task(write("chat/train.jsonl", rows).parent)
    assert task.instruction == "Be long."
    assert task.notes[1] == "the system message, the same in all rows, is replaced by that of task.json"
    (first, second), _ = rows_of(rows[0], {"messages": talk(("user", "y"), ("assistant", "b"))})
    assert (first.context, second.context) == ("Be brief.", None)


def test_prompt_and_completion_are_texts_or_messages(rows_of):
    ((example,), notes) = rows_of({"prompt": "a", "completion": "b"})
    assert example == Example("a", "b", "train-1")
    assert notes == (f"input is read from the column 'prompt', output from 'completion' {GUESSED}",)
    ((example,), notes) = rows_of({"prompt": talk(("user", "a")), "completion": talk(("assistant", "b"))})
    assert example == Example("a", "b", "train-1")
    assert notes == ("input and output are the last two messages in 'prompt' and 'completion'",)


def test_messages_can_stand_in_parquet(write):
    messages = [{**message, "name": None} for message in talk(("user", "a"), ("assistant", "b"))]
    assert load_task(write("a.parquet", [{"messages": messages}])).train == (Example("a", "b", "train-1"),)


USER, ANSWER = ("user", "a"), ("assistant", "b")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", 'row 1: \'messages\' must be a list of messages, such as {"role": …, "content": …}; got a string ('),
        (None, 'row 1: \'messages\' must be a list of messages, such as {"role": …, "content": …}; got null; write'),
        (["hi"], 'row 1: \'messages\' item 1 must be a message, such as {"role": …, "content": …}; got a string'),
        ([{"role": "user"}], "row 1: 'messages' item 1 must be a message, such as "),
        (
            talk(USER, ("tool", "x")),
            "row 1: 'messages' item 2 must have a role of system, user, assistant; got a string",
        ),
        (
            talk(USER, ("assistant", None)),
            "row 1: the content of 'messages' item 2 must be a string; got null; fill it in",
        ),
        (
            talk(("user", [{"type": "text"}]), ANSWER),
            "row 1: the content of 'messages' item 1 must be a string; got null",
        ),
        (talk(USER, ("assistant", " ")), "row 1: the content of 'messages' item 2 must not be empty"),
        ([], "row 1: 'messages' must end with a message by the assistant, the output; there is none; add it"),
        (talk(USER), "row 1: 'messages' must end with a message by the assistant, the output; there is none; add it"),
        (talk(USER, ANSWER, USER), "row 1: 'messages' must end with a message by the assistant, the output; the last "),
        (talk(ANSWER), "row 1: 'messages' must have a message by the user, the input, before the last one; it is miss"),
        (
            talk(USER, ANSWER, ANSWER),
            "row 1: 'messages' must have a message by the user, the input, before the last on",
        ),
        (talk(USER, ("system", "s"), USER, ANSWER), "row 1: 'messages' must have system messages only at the beginn"),
    ],
)
def test_a_bad_conversation_is_refused(refused, messages, message):
    assert refused([{"messages": messages}]).startswith(message)


def test_half_a_conversation_is_refused(refused):
    text = refused([{"prompt": talk(USER), "completion": "b"}])
    assert text.startswith("row 1: 'completion' must be a list of messages, such as ")


# Columns


@pytest.mark.parametrize(
    ("row", "example", "note"),
    [
        (
            {"text": "a", "label": "b"},
            Example("a", "b", "train-1"),
            "input is read from the column 'text', output from 'label'",
        ),
        (
            {"Review": "a", "Sentiment": "b"},
            Example("a", "b", "train-1"),
            "input is read from the column 'Review', output from 'Sentiment'",
        ),
        (
            {"input": "a", "label": "b", "text": "t"},
            Example("a", "b", "train-1", meta={"text": "t"}),
            "output is read from the column 'label'",
        ),
        (
            {"text": "a", "label": 1, "label_text": "good"},
            Example("a", "good", "train-1", meta={"label": 1}),
            "input is read from the column 'text', output from 'label_text'",
        ),
        (
            {"passage": "p", "question": "a", "answer": "b"},
            Example("a", "b", "train-1", context="p"),
            "input is read from the column 'question', output from 'answer', context from 'passage'",
        ),
        (
            {"instruction": "a", "context": "", "response": "b"},
            Example("a", "b", "train-1"),
            "input is read from the column 'instruction', output from 'response'",
        ),
        (
            {"instruction": "a", "input": "c", "output": "b"},
            Example("a", "b", "train-1", context="c"),
            "input is read from the column 'instruction', context from 'input', output from 'output'",
        ),
        (
            {"instruction": "a", "input": "", "output": "b"},
            Example("a", "b", "train-1"),
            "input is read from the column 'instruction', context from 'input', output from 'output'",
        ),
        (
            {"instruction": "a", "input": "c", "answer": "b"},
            Example("a", "b", "train-1", context="c"),
            "input is read from the column 'instruction', context from 'input', output from 'answer'",
        ),
        (
            {"query": "a", "options": ["b", "c"], "answer": "b"},
            Example("a", "b", "train-1", choices=("b", "c")),
            "input is read from the column 'query', output from 'answer', choices from 'options'",
        ),
        (
            {"query": "a", "options": {"A": "b"}, "passage": 3, "answer": "b"},
            Example("a", "b", "train-1", meta={"options": {"A": "b"}, "passage": 3}),
            "input is read from the column 'query', output from 'answer'",
        ),
    ],
)
def test_columns_with_common_names_are_guessed_and_said(rows_of, row, example, note):
    unused = [c for c, v in example.meta.items() if isinstance(v, str)]
    notes = (f"{note} {GUESSED}", *(f"not used: {c}" for c in unused))
    assert rows_of(row) == ((example,), notes)


def test_answers_as_in_squad_are_references(rows_of):
    row = {"question": "a", "context": "c"}
    expected = Example("a", "b", "train-1", context="c", references=("b", "bb"))
    for answers in ({"text": ["b", "b", "bb"], "answer_start": [1, 1, 4]}, ["b", "bb"]):
        ((example,), notes) = rows_of({**row, "answers": answers})
        assert example == expected
        assert notes == (
            f"input is read from the column 'question', references from 'answers' {GUESSED}",
            "output is the first text of the column 'answers'",
        )


def test_who_names_input_and_output_gets_no_guess(rows_of):
    row = {"question": "a", "answer": "b", "options": ["b", "c"]}
    ((example,), notes) = rows_of(row, columns={"input": "question", "output": "answer"})
    assert (example, notes) == (Example("a", "b", "train-1", meta={"options": ["b", "c"]}), ("not used: options",))
    ((example,), notes) = rows_of({**ROW, "options": ["b", "c"], "text": "t"})
    assert (example.choices, notes) == ((), ())


def test_notes_are_not_part_of_the_fingerprint(write):
    guessed = load_task(write("a.jsonl", [{"text": "a", "label": "b"}]))
    named = load_task(write("b.jsonl", [{"input": "a", "output": "b"}]))
    assert guessed.notes
    assert guessed.fingerprint == named.fingerprint


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "a", "question": "b", "label": "c"},
            "it is not clear which column holds the input (text, question); name it, as in --columns input=text. "
            "The columns are text, question, label.",
        ),
        (
            {"text": "a", "label": "b", "answer": "c"},
            "it is not clear which column holds the output (label, answer); name it, as in --columns output=label.",
        ),
        (
            {"question": "a", "answer": "b", "options": ["b", "c"], "endings": ["b", "d"]},
            "it is not clear which column holds the choices (options, endings); name it, as in --columns choices=opti",
        ),
        (
            {"premise": "a", "hypothesis": "b", "label": "c"},
            "it is not clear which column holds the input (premise, hypothesis); name it, as in --columns "
            "input=hypothesis,context=premise. The columns are premise, hypothesis, label.",
        ),
        ({"question": "a", "answers": []}, "row 1: 'answers' must hold at least one text; give it one, or leave the"),
        ({"question": "a", "answers": {"text": []}}, "row 1: 'answers' must hold at least one text; give it one, or"),
    ],
)
def test_what_cannot_be_guessed_is_refused(refused, row, message):
    assert refused([row]).startswith(message)


# Answers that are written as numbers


@pytest.mark.parametrize(
    ("labels", "texts"), [((0, 1, 0), ("0", "1", "0")), ((True, False, True), ("true", "false", "true"))]
)
def test_numbers_of_classes_become_text(write, labels, texts):
    task = load_task(write("a.parquet", [{"input": f"i{n}", "output": label} for n, label in enumerate(labels)]))
    assert tuple(e.output for e in task.train) == texts
    assert without_kind(task.notes) == (
        f"the column 'output' holds numbers or booleans; they are read as text, such as '{texts[0]}'",
    )


def test_references_can_be_numbers(rows_of):
    (examples, notes) = rows_of({**ROW, "output": 4, "references": [4, 5]}, {**ROW, "output": 3})
    assert examples[0].references == ("4", "5")
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        ((0, 1), "number of the choice, counted from 0"),
        (("0", "1"), "number of the choice, counted from 0"),
        ((1, 2), "number of the choice, counted from 1"),
        (("A", "B"), "letter of the choice"),
    ],
)
def test_an_output_can_be_the_place_of_a_choice(rows_of, outputs, what):
    rows = ({"ctx": f"c{o}", "endings": ["x", "y"], "label": o} for o in outputs)
    (examples, notes) = rows_of(*rows)
    assert [e.output for e in examples] == ["x", "y"]
    assert notes[1:] == (f"the column 'label' holds the {what}; it is read as the text of that choice",)


def test_a_number_that_is_a_choice_or_may_be_counted_two_ways_is_no_place(rows_of, refused):
    (examples, _) = rows_of({**QUIZ, "output": "4"}, {**QUIZ, "output": "3"})
    assert [e.output for e in examples] == ["4", "3"]
    for outputs in ((1,), (0, 2)):
        text = refused([{**QUIZ, "output": output} for output in outputs])
        assert text.startswith(f"row 1: '{outputs[0]}' is not among the row's choices, and it cannot be told whether ")


def test_a_test_row_that_numbers_its_choice_in_another_way_is_refused(write):
    write("quiz/train.jsonl", [{**QUIZ, "output": 1}, {**QUIZ, "output": 2}])
    path = write("quiz/test.jsonl", [{**QUIZ, "output": "4"}, {**QUIZ, "output": 0}])
    with pytest.raises(UserError) as error:
        load_task(path.parent)
    assert str(error.value).startswith(
        f"{path} row 2: 'output' must hold the number of the choice, counted from 1, as most rows of train do, and "
        "there are 2; got a number (0); correct it"
    )


# Columns that no field holds

MMLU = {"A": "x", "B": "y", "C": "z", "D": "w"}


@pytest.mark.parametrize(
    ("row", "columns", "unused"),
    [
        ({"question": "q", "answer": "a", "source": "s", "year": "1999", "n": 3, "tags": ["t"]}, {}, "source, tags"),
        ({"premise": "p", "hypothesis": "h", "label": "l"}, {"input": "hypothesis"}, "premise"),
        ({"question": "q", "answer": "other", **MMLU}, {}, "A, B, C, D"),
        ({"question": "q", "answer": "a", **{f"c{i}": "t" for i in range(9)}}, {}, "c0, c1, c2, c3, c4, c5, c6, c7, …"),
    ],
)
def test_texts_that_are_not_used_are_said(rows_of, row, columns, unused):
    _, notes = rows_of(row, columns=columns)
    assert notes[-1] == f"not used: {unused}"


def test_who_uses_the_fields_own_names_is_not_told_of_other_columns(rows_of):
    assert rows_of({**ROW, "source": "s"})[1] == ()
    assert rows_of({**ROW, "source": "s"}, columns={"input": "input"})[1] == ()


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"question": "q", "answer": "B", **MMLU}, "A, B, C, D"),
        ({"question": "q", "answer": "y", **MMLU}, "A, B, C, D"),
        ({"question": "q", "answer": 3, **MMLU}, "A, B, C, D"),
        ({"sentence": "q", "option1": "x", "option2": "y", "answer": "2"}, "option1, option2"),
        ({"input": "q", "sol1": "x", "sol2": "y", "output": "0"}, "sol1, sol2"),
    ],
)
def test_options_in_columns_of_their_own_are_refused(write, refused, row, options):
    text = refused([row, row])
    assert text.startswith(f"the columns {options} look like the options of a question, but no field holds them")
    by_text = row.get("answer") == "y"
    assert text.endswith("such as --kind classification." if by_text else "with the text of the right one as output.")
    rows = [{"input": str(i), "output": str(row.get("answer", row.get("output"))), **MMLU} for i in range(4)]
    assert load_task(write("other.jsonl", rows), kind="classification").kind == "classification"
    write("other/task.json", json.dumps({"kind": "classification"}))
    assert load_task(write("other/train.jsonl", rows).parent).kind == "classification"


@pytest.mark.parametrize(("outputs", "told"), [("ABCD", True), ("1234", True), ("xyzw", False)])
def test_options_that_a_task_does_not_use_are_told(write, outputs, told):
    rows = [{"input": f"q{i}", "output": outputs[i % 4], **MMLU} for i in range(8)]
    task = load_task(write("a.jsonl", rows), kind="classification")
    text = "The columns A, B, C, D look like the options that outputs name, but are not used, so a model does not see "
    for problems in (validate(task).problems, grave_problems(task)):
        assert [problem.startswith(text) for problem in problems] == [True] * told


def test_two_columns_a_and_b_can_be_texts_that_are_compared(rows_of):
    _, notes = rows_of({"text": "q", "A": "x", "B": "y", "label": "0"})
    assert notes[-1] == "not used: A, B"


# Inputs to be answered: read as the rows of the task were


def inputs_of(path, task=None, **settings):
    examples, notes = read_inputs(str(path), io.BytesIO(), task=task, **settings)
    return [(e.input, e.context, e.choices) for e in examples], notes


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"instruction": "i", "input": "c", "output": "o"}, ("i", "c", ())),
        ({"instruction": "i", "input": "", "response": "o"}, ("i", None, ())),
        ({"ctx": "c", "endings": ["x", "y"], "label": "x"}, ("c", None, ("x", "y"))),
        ({"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [1]}}, ("q", "c", ())),
        ({"input": "q", "passage": "c", "answer": "a"}, ("q", "c", ())),
    ],
)
def test_inputs_are_read_as_the_rows_of_the_task(write, row, asked):
    task = load_task(write("a.jsonl", [row]))
    assert task.columns
    assert inputs_of(write("b.jsonl", [row]), task) == ([asked], ())
    bare = {c: v for c, v in row.items() if c not in ("output", "response", "label", "answers", "answer")}
    assert inputs_of(write("c.jsonl", [bare]), task) == ([asked], ())
    plain = {"input": asked[0]} | ({"context": asked[1]} if asked[1] else {})
    plain |= {"choices": asked[2]} if asked[2] else {}
    if "instruction" in row or "ctx" in row or "question" in row:
        assert inputs_of(write("d.jsonl", [plain]), task)[0] == [asked]
    for values in (row, bare):
        found = under_own_names(values, task, 1)
        assert (found["input"], found.get("context") or None, tuple(found.get("choices", ()))) == asked


def test_columns_that_are_named_go_before_those_that_were_learnt(write):
    task = load_task(write("a.jsonl", [{"question": "q", "answer": "a"}]))
    path = write("b.jsonl", [{"question": "q", "asked": "b"}])
    assert inputs_of(path, task, columns={"input": "asked"}) == ([("b", None, ())], ())
    assert inputs_of(write("c.jsonl", [{"text": "t"}]), task)[1] == (f"input is read from the column 'text' {GUESSED}",)
    with pytest.raises(UserError, match=r"it is not clear which column holds the input \(text, review\)"):
        inputs_of(write("d.jsonl", [{"text": "t", "review": "r"}]), task)
    assert task.fingerprint == load_task(write("e.jsonl", [{"input": "q", "output": "a"}])).fingerprint


def test_conversations_to_be_answered_end_with_the_user(write):
    start = (("system", "Be brief."), ("user", "a"), ("assistant", "b"))
    task = load_task(write("a.jsonl", [{"messages": talk(*start)}]))
    asked = [("a", None, ())], ()
    for turns in (start, start[:2], start[1:2]):
        assert inputs_of(write("b.jsonl", [{"messages": talk(*turns)}]), task) == asked
        found = under_own_names({"messages": talk(*turns)}, task, 1)
        assert (found["input"], found.keys() & {"context"}) == ("a", set())
    for row in ({}, {"completion": talk(("assistant", "b"))}):
        assert inputs_of(write("c.jsonl", [{"prompt": talk(("user", "a")), **row}]), task) == asked
    rows = [{"messages": talk(("system", "Be long."), *start[1:], ("user", "c"))}]
    context = "Be long.\n\nUser: a\n\nAssistant: b"
    said = "system messages other than the task's instruction begin the context"
    assert inputs_of(write("d.jsonl", rows), task) == ([("c", context, ())], (said,))
    for turns in ((), start[:1]):
        with pytest.raises(UserError, match="row 1: 'messages' must end with a message by the user, the input; there "):
            inputs_of(write("e.jsonl", [{"messages": talk(*turns)}]), task)


def test_predict_reads_the_file_that_adapt_read(run_cli, write, tmp_path):
    rows = [{"ctx": f"c{i}", "endings": [f"x{i}", f"y{i}"], "label": i % 2, "ind": i} for i in range(8)]
    path, folder = write("hella.jsonl", rows), tmp_path / "run"
    assert run_cli("adapt", path, "--model", "scripted", "--recipes", "random", "--out", folder).code == 0
    done = run_cli("predict", folder, path)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 8)
    adapted = kshot.load(folder)
    assert adapted.task.columns == {"input": "ctx", "output": "label", "choices": "endings"}
    assert adapted.predict(rows) == done.out.splitlines()
    own = write("own.jsonl", [{"input": r["ctx"], "choices": r["endings"]} for r in rows])
    assert run_cli("predict", folder, own).out == done.out


def test_what_cannot_be_read_is_refused_before_a_model_is_loaded(run_cli, write, tmp_path, monkeypatch):
    path = write("a.jsonl", [{"text": f"t{i}", "label": str(i % 2)} for i in range(8)])
    assert run_cli("adapt", path, "--model", "scripted", "--recipes", "random", "--out", tmp_path / "run").code == 0
    monkeypatch.setattr("kshot.adapted.folder.load_model", None)
    done = run_cli("predict", tmp_path / "run", write("b.jsonl", [{"asked": "t"}]))
    assert (done.code, "no column holds the input; it has " in done.err) == (2, True)


@pytest.mark.parametrize(
    ("suffix", "remedy"),
    [
        ("xlsx", "save the sheet as CSV UTF-8"),
        ("csv.zst", "unpack it first"),
        ("tar.gz", "unpack it first"),
        ("xml", "save its rows"),
    ],
)
def test_inputs_in_other_formats_are_refused(write, suffix, remedy):
    with pytest.raises(UserError, match=rf"must be a file of rows that ends in .jsonl, .*; {remedy}"):
        inputs_of(write(f"a.{suffix}", "x\ty"))


def test_lines_of_json_are_no_plain_text(write):
    with pytest.raises(UserError, match="a.txt must hold inputs as plain text, one a line, but it holds JSON objects"):
        inputs_of(write("a.txt", '{"input": "a"}\n{"input": "b"}\n'))
    with pytest.raises(UserError, match="stdin must hold inputs as plain text"):
        read_inputs(None, io.BytesIO(b"{}"))
    assert inputs_of(write("b.txt", '{"a": 1}\nplain\n3'))[0][0] == ('{"a": 1}', None, ())


# References and choices


def test_the_first_reference_is_the_output_where_there_is_none(rows_of, refused):
    ((example,), notes) = rows_of({"input": "a", "references": ["b", "bb", "b"]})
    assert example == Example("a", "b", "train-1", references=("b", "bb"))
    assert notes == ("output is the first text of the column 'references'",)
    ((mapped,), _) = rows_of({"input": "a", "golds": ["b", "bb"]}, columns={"references": "golds"})
    assert mapped == example
    text = refused([{"input": "a", "references": []}])
    assert text.startswith("row 1: 'references' must hold at least one text; give it one")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {**ROW, "references": []},
            "row 1: 'references' must not be empty; list all accepted outputs, or leave it out.",
        ),
        (
            {**ROW, "references": ["no"]},
            "row 1: the output must be one of 'references', as these are all accepted outputs; got a string (\"yes\"); "
            "add it to them, or leave them out.",
        ),
        ({**QUIZ, "output": "5"}, "row 1: '5' is not among the row's choices; correct it"),
    ],
)
def test_an_output_that_cannot_be_right_is_refused(refused, row, message):
    assert refused([row]).startswith(message)


def test_rows_can_have_different_numbers_of_choices(rows_of):
    (examples, _) = rows_of({**QUIZ, "output": "3"}, {**QUIZ, "output": "6", "choices": ["5", "6", "7"]})
    assert [len(e.choices) for e in examples] == [2, 3]


# The hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(write, cache):
    """A dataset folder with the splits train and validation; its labels are numbers of classes."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    for split in ("train", "validation"):
        rows = {"text": [f"{split} {i}" for i in range(4)], "label": [0, 1, 0, 1]}
        table = datasets.Dataset.from_dict(rows, features=features).data.table
        path = write(f"films/{split}.parquet", table)
    return path.parent


def test_a_local_dataset_folder_loads(folder, capfd):
    task = Task.load(f"hf://{folder}")
    assert (task.name, task.labels, len(task.train), len(task.test)) == ("films", ("bad", "good"), 4, 4)
    assert task.train[1] == Example("train 1", "good", "train-2")
    assert task.test[0].input == "validation 0"
    assert without_kind(task.notes) == (
        "test rows are the split 'validation'",
        f"input is read from the column 'text', output from 'label' {GUESSED}",
    )
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("datasets").level != logging.CRITICAL + 1


def test_splits_and_columns_can_be_named(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    task = load_task("hf://./films:default@validation,train", columns={"input": "text", "output": "label"})
    assert (task.name, task.train[0].input, task.test[0].input) == ("films-default", "validation 0", "train 0")
    assert without_kind(task.notes) == ()
    assert load_task("hf://films@validation").test == ()


def test_a_dataset_that_was_saved_to_disk_loads(tmp_path):
    rows = datasets.Dataset.from_dict({"question": ["a"], "answer": ["b"]})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    task = load_task(f"hf://{tmp_path}/saved")
    assert task.train == (Example("a", "b", "train-1"),)
    assert task.test == (Example("a", "b", "test-1"),)
    rows.save_to_disk(tmp_path / "single")
    assert load_task(f"hf://{tmp_path}/single").train == task.train


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("@dev", "there is no split 'dev'; there is train, validation; choose with @TRAIN,TEST."),
        ("@train,dev", "there is no split 'dev'; there is train, validation; choose with @TRAIN,TEST."),
        ("s", "must name a folder that exists; there is no '"),
        (":small", "cannot be loaded: BuilderConfig 'small' not found"),
    ],
)
def test_what_a_dataset_lacks_is_said(folder, refused, rest, message):
    assert refused(f"hf://{folder}{rest}").startswith(message)


def test_rows_of_a_dataset_are_named_by_split_and_number(folder, write, refused):
    write("films/validation.parquet", load_unlabelled(folder))
    text = refused(f"hf://{folder}")
    assert text.startswith("split validation row 2: 'label' must be one of the classes 0..1; got -1, as rows without a")


def load_unlabelled(folder):
    table = pq.read_table(folder / "validation.parquet")
    return table.set_column(1, table.schema.field("label"), pa.array([0, -1, 0, 0], pa.int64()))


def test_a_broken_dataset_is_refused(write, cache, refused, capfd):
    path = write("broken/train.jsonl", "{")
    assert refused(f"hf://{path.parent}").startswith("cannot be loaded: ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_hub_it_is_said_at_once(cache, refused, monkeypatch, capfd, offline):
    if not offline:  # as on a machine without a network: the hub's name cannot be resolved

        def no_network(*args, **settings):
            raise OSError("no network")

        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_network)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert refused("hf://nobody/nothing") == (
        "the hub cannot be reached, and 'nobody/nothing' is not in this machine's cache; connect to the hub, or name a "
        "folder with its files, as hf:///path/to/folder."
    )
    assert offline == datasets.config.HF_HUB_OFFLINE
    assert capfd.readouterr() == ("", "")


def test_the_columns_of_a_csv_are_looked_for_as_often_whatever_its_length(write, monkeypatch):
    looked, columns = [], Table.columns.fget
    monkeypatch.setattr(Table, "columns", property(lambda table: looked.append(1) or columns(table)))

    def times(n):
        looked.clear()
        load_task(write("train.csv", "text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(n))))
        return len(looked)

    assert times(8) == times(80)


@pytest.mark.parametrize("source", ["hf://", "hf://a@", "hf://a:b:c", "hf://a@x,y,z"])
def test_a_source_of_another_form_is_refused(refused, source):
    assert "must be hf://NAME[:CONFIG][@TRAIN[,TEST]], as hf://stanfordnlp/imdb@train,test." in refused(source)
