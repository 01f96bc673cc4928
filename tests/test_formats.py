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

from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.tasks.inputs import read_inputs
from kshot.tasks.load import load_task

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


@pytest.fixture
def rows_of(write):
    """Load rows that are written as JSON Lines; return the train examples and the notes."""

    def rows_of(*rows, **settings):
        task = load_task(write("a.jsonl", rows), **settings)
        return task.train, task.notes

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
    assert read_inputs(str(write("b.parquet", [{"text": "a", "n": 1}])), io.BytesIO()) == [
        Example("a", "", "input-1", meta={"n": 1})
    ]


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
        (b"PAR1 not really", "must be a Parquet file that can be read; "),
        (pa.table({"input": pa.array([], pa.string())}), "has no rows; it must hold one example a row."),
        (pa.table([["a"], ["b"]], names=["input", "input"]), "must name each column once; 'input' is there twice."),
        ([{**ROW, "input": {"text": "a"}}], 'row 1: \'input\' must be a string; got an object ({"text": "a"}); put'),
        ([ROW, {**ROW, "output": None}], "row 2: 'output' must be a string; got null."),
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
        ("hi", 'row 1: \'messages\' must be a list of messages, as {"role": …, "content": …}; got a string ("hi").'),
        (None, 'row 1: \'messages\' must be a list of messages, as {"role": …, "content": …}; got null.'),
        (["hi"], 'row 1: \'messages\' item 1 must be a message, as {"role": …, "content": …}; got a string'),
        ([{"role": "user"}], "row 1: 'messages' item 1 must be a message, as "),
        (
            talk(USER, ("tool", "x")),
            "row 1: 'messages' item 2 must have a role of system, user, assistant; got a string",
        ),
        (talk(USER, ("assistant", None)), "row 1: the content of 'messages' item 2 must be a string; got null."),
        (talk(("user", [{"type": "text"}]), ANSWER), "row 1: the content of 'messages' item 1 must be a string; got a"),
        (talk(USER, ("assistant", " ")), "row 1: the content of 'messages' item 2 must not be empty"),
        ([], "row 1: 'messages' must end with a message by the assistant, the output; there is none."),
        (talk(USER), "row 1: 'messages' must end with a message by the assistant, the output; there is none."),
        (talk(USER, ANSWER, USER), "row 1: 'messages' must end with a message by the assistant, the output; the last "),
        (talk(ANSWER), "row 1: 'messages' must have a message by the user, the input, before the last one; it is miss"),
        (
            talk(USER, ANSWER, ANSWER),
            "row 1: 'messages' must have a message by the user, the input, before the last on",
        ),
        (talk(USER, ("system", "s"), USER, ANSWER), "row 1: 'messages' must have a system message only at the beginn"),
    ],
)
def test_a_bad_conversation_is_refused(refused, messages, message):
    assert refused([{"messages": messages}]).startswith(message)


def test_half_a_conversation_is_refused(refused):
    text = refused([{"prompt": talk(USER), "completion": "b"}])
    assert text.startswith("row 1: 'completion' must be a list of messages, as ")


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
    assert rows_of(row) == ((example,), (f"{note} {GUESSED}",))


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
    assert (example, notes) == (Example("a", "b", "train-1", meta={"options": ["b", "c"]}), ())
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
    assert task.notes == (f"the column 'output' holds numbers or booleans; they are read as text, as '{texts[0]}'",)


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
    assert refused([{**QUIZ, "output": 1}]).startswith("row 1: '1' is not among the row's choices; correct it, or ")


# References and choices


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
    assert task.notes == (
        "test rows are the split 'validation'",
        f"input is read from the column 'text', output from 'label' {GUESSED}",
    )
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("datasets").level != logging.CRITICAL + 1


def test_splits_and_columns_can_be_named(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    task = load_task("hf://./films:default@validation,train", columns={"input": "text", "output": "label"})
    assert (task.name, task.train[0].input, task.test[0].input) == ("films-default", "validation 0", "train 0")
    assert task.notes == ()
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
        ("s", "there is no folder '"),
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


@pytest.mark.parametrize("source", ["hf://", "hf://a@", "hf://a:b:c", "hf://a@x,y,z"])
def test_a_source_of_another_form_is_refused(refused, source):
    assert "must be hf://NAME[:CONFIG][@TRAIN[,TEST]], as hf://stanfordnlp/imdb@train,test." in refused(source)
