"""What users' files hold: read as it is meant, with a note where that is not plain, or refused with what to do."""

import csv
import gzip
import io
import json
import math
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.tasks.inputs import read_inputs, under_own_names
from kshot.tasks.load import load_task

LONG = "long " * 40_000


@pytest.fixture
def write(tmp_path):
    """Write files into a folder; content is bytes, a text, or rows for JSON Lines. Return the first file."""

    def write(**files):
        paths = []
        for name, content in files.items():
            paths.append(tmp_path / name.replace("__", "."))
            if isinstance(content, list):
                content = "".join(json.dumps(row) + "\n" for row in content)
            paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
        return paths[0]

    return write


@pytest.fixture
def load(write):
    """Return the task in files, and the notes but that on the kind and on guessed columns."""

    def load(source=None, **files):
        task = load_task(source or write(**files))
        return task, [n for n in task.notes if "guessed" not in n and not n.startswith("input and output are the last")]

    return load


@pytest.fixture
def refused(write, tmp_path):
    def refused(source=None, **files):
        with pytest.raises(UserError) as error:
            load_task(source or write(**files))
        text = str(error.value)
        assert "\n" not in text
        return text.replace(f"{tmp_path}/", "")

    return refused


def pairs(task: Task):
    return [(e.input, e.output) for e in task.train]


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


# Answers that must not be learnt


def test_an_answer_of_weight_0_is_not_learnt(load):
    first, second = [user("q1"), answer("a1", weight=1)], [user("q2"), answer("a2", weight=0)]
    rows = [[*first, *second], [*first, user("q3"), answer("a3")], second, [user("q5"), answer("a5", weight=None)]]
    task, notes = load(talks__jsonl=[{"messages": row} for row in rows])
    assert pairs(task) == [("q1", "a1"), ("q3", "a3"), ("q5", "a5")]
    assert [e.context for e in task.train] == [None, "User: q1\n\nAssistant: a1", None]
    assert [e.id for e in task.train] == ["train-1", "train-2", "train-4"]
    assert notes == [
        "1 row of talks.jsonl (1): the last answer has the weight 0 and is not learnt; the output is the last one "
        "before it that may be",
        "1 row of talks.jsonl (3): left out, as all answers have the weight 0",
    ]


def test_weights_that_leave_nothing_to_learn_are_refused(refused):
    text = refused(a__jsonl=[{"messages": [user("q"), answer("a", weight=0)]}])
    assert text == "a.jsonl must hold an answer that may be learnt, but each has the weight 0; give one another weight."
    text = refused(a__jsonl=[{"messages": [user("q"), answer("a", weight=0.5)]}])
    assert text == "a.jsonl row 1: the weight of 'messages' item 2 must be 0 or 1; got a number (0.5); correct it."


def test_a_row_to_be_answered_is_cut_as_it_was_learnt_and_never_left_out(write, load):
    rows = [[user("q1"), answer("a1"), user("q2"), answer("a2", weight=0)], [user("q3"), answer("a3", weight=0)]]
    path = write(talks__jsonl=[{"messages": row} for row in rows])
    task, _ = load(path)
    assert [e.input for e in read_inputs(str(path), io.BytesIO(), task=task)[0]] == ["q1", "q3"]


# System texts, earlier turns, ShareGPT, parts


@pytest.mark.parametrize(
    "row",
    [
        {"system": "S", "messages": [user("q"), answer("a")]},
        {"messages": [{"role": "developer", "content": "S"}, user("q"), answer("a")]},
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        {"system": "S", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversation": [{"role": "system", "content": "S"}, user("q"), answer("a")]},
        {"system_prompt": "S", "prompt": [user("q")], "completion": [answer("a")]},
        {"system_prompt": "S", "question": "q", "response": "a"},
        {"system": "S", "instruction": "q", "output": "a"},
        {"system": "S", "instruction": "q", "input": "", "output": "a", "history": []},
        {"system": "S", "prompt": "q", "completion": "a"},
    ],
)
def test_a_system_text_that_all_rows_share_is_the_instruction(load, write, row):
    task, notes = load(a__jsonl=[row, row])
    assert (task.instruction, pairs(task), task.train[0].context) == ("S", [("q", "a")] * 2, None)
    assert notes == ["the system message, the same in all rows, is the instruction"]
    assert task.train[0].meta.keys() <= {"history"}
    for values in (row, {k: v for k, v in row.items() if k not in ("output", "response", "completion")}):
        found = under_own_names(values, task, 1)
        assert (found["input"], found.get("context") or None) == ("q", None)
    (asked,), _ = read_inputs(str(write(b__jsonl=[row])), io.BytesIO(), task=task)
    assert (asked.input, asked.context) == ("q", None)
    other = {k: "T" if k.startswith("system") else v for k, v in row.items()}
    (asked,), notes = read_inputs(str(write(c__jsonl=[other])), io.BytesIO(), task=task)
    assert asked.context == (None if other == row else "T")
    assert any("begin" in note for note in notes) == (other != row)


def test_system_texts_that_differ_and_earlier_turns_begin_the_context(load):
    row = {"instruction": "q", "input": "passage", "output": "a", "history": [["h", "g"]]}
    task, notes = load(alpaca__json=json.dumps([row | {"system": "S"}, row | {"system": "T", "history": []}]))
    assert [e.context for e in task.train] == ["passage\n\nS\n\nUser: h\n\nAssistant: g", "passage\n\nT"]
    assert notes == [
        "the column 'system' begins the context",
        "the column 'history' holds earlier turns, which are in the context",
    ]
    rows = [{"system": s, "messages": [user("q"), answer("a")]} for s in ("S", "T")]
    task, _ = load(b__jsonl=rows)
    assert [e.context for e in task.train] == ["S", "T"]


def test_a_system_column_that_may_be_something_else_is_said(load):
    task, notes = load(a__jsonl=[{"input": "q", "output": "a", "system": "Linux", "note": "n"}])
    assert (task.instruction, task.train[0].context, notes) == ("", None, ["not used: system"])
    task, notes = load(b__jsonl=[{"instruction": "q", "output": "a", "history": "none of it"}])
    assert notes == ["not used: history"]


def test_what_is_not_read_in_messages_is_said(load):
    talk = [user("q") | {"name": "Ann"}, answer("a", refusal=None, reasoning_content="hm")]
    _, notes = load(a__jsonl=[{"messages": talk, "source": "web"}])
    assert notes == ["not used in messages: name, reasoning_content", "not used: source"]


def test_parts_of_a_message_that_are_texts_are_read(load, refused, tmp_path):
    parts = [{"type": "text", "text": "q"}, {"type": "input_text", "text": "r"}, "s"]
    task, _ = load(a__jsonl=[{"messages": [user(parts), answer([{"type": "output_text", "text": "a"}])]}])
    assert pairs(task) == [("q\nr\ns", "a")]
    rows = [
        {
            "messages": [
                user([{"type": "text", "text": "q", "image_url": None}]),
                answer([{"type": "text", "text": "a"}]),
            ]
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert pairs(load(tmp_path / "a.parquet")[0]) == [("q", "a")]
    picture = [*parts, {"type": "image_url", "image_url": {"url": "x"}}]
    assert refused(b__jsonl=[{"messages": [user(picture), answer("a")]}]) == (
        "b.jsonl row 1: the content of 'messages' item 1 must be text alone, but a part of it is of the type a string "
        '("image_url"); leave such rows out.'
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "tool", "content": "4"}, 'must have a role of system, user, assistant; got a string ("tool"); leave'),
        ({"from": "observation", "value": "4"}, 'must have a role of system, user, assistant; got a string ("obs'),
        (
            answer(None, tool_calls=[{"id": "1"}]),
            "must be a text, but it calls a tool ('tool_calls'); leave such rows out",
        ),
        (answer("4", function_call={"name": "f"}), "must be a text, but it calls a tool ('function_call'); leave such"),
        ({"role": ["user"], "content": "4"}, "must have a role of system, user, assistant; got a list"),
    ],
)
def test_calls_of_tools_are_refused(refused, message, text):
    assert f"row 1: 'messages' item 2 {text}" in refused(a__jsonl=[{"messages": [user("q"), message, answer("a")]}])


# OpenAI's old format


def test_prompts_and_completions_are_texts_and_their_separator_is_said(load):
    rows = [
        {"prompt": f"film {i}\n\n###\n\n", "completion": f" {label}\n"} for i, label in enumerate(("bad", "good") * 3)
    ]
    task, notes = load(a__jsonl=rows)
    assert [e.input for e in task.train] == [row["prompt"] for row in rows]
    assert {e.output.strip() for e in task.train} == {"bad", "good"}
    assert r"all inputs end with '\n\n###\n\n', which is kept; take it off here and later if it only separates" in notes
    _, notes = load(b__jsonl=[{"prompt": f"film {i}?", "completion": "a"} for i in range(3)])
    assert not any(note.startswith("all inputs end") for note in notes)


# Test rows without answers


TRAIN = "id,text,target\n1,a,x\n2,b,y\n3,c,x\n4,d,y\n"


@pytest.mark.parametrize(
    "test", ["id,text\n5,e\n", "id,text,target\n5,e,\n6,f,\n", "id,text,target\n5,e,-1\n6,f,-1\n"], ids=len
)
def test_test_rows_without_answers_are_left_out_and_said(load, write, test):
    write(train__csv=TRAIN, test__csv=test, sample_submission__csv="id,target\n5,x\n")
    task, notes = load(write(train__csv=TRAIN).parent)
    assert (len(task.train), task.test, task.labels, task.train[0].id) == (4, (), ("x", "y"), "1")
    assert notes == ["test.csv holds no answers in 'target', so there are no test rows"]
    inputs, _ = read_inputs(str(write(test__csv=test)), io.BytesIO(), task=task)
    assert inputs[0].input == "e"


def test_conversations_to_be_tested_that_end_with_the_user_are_left_out(load, write):
    path = write(train__jsonl=[{"messages": [user("q"), answer("a")]}], test__jsonl=[{"messages": [user("r")]}])
    assert load(path.parent)[1] == ["test.jsonl holds no answers in 'messages', so there are no test rows"]


def test_test_rows_of_another_form_are_refused_not_left_out(refused, write):
    path = write(train__jsonl=[{"messages": [user("q"), answer("a")]}], test__jsonl=[{"input": "q", "output": "a"}])
    assert refused(path.parent).startswith("test.jsonl row 1: 'messages' must be a list of messages")
    write(train__jsonl=[{"text": "q", "label": "a"}], test__jsonl=[{"sentence": "q", "label": "a"}])
    for row in ({"sentence": "q", "label": "a"}, {"sentence": "q"}):
        write(test__jsonl=[row])
        assert refused(path.parent) == (
            f"test.jsonl: no column is called 'text', which holds the input in train; it has {', '.join(row)}; rename "
            "the column as in train."
        )


def test_one_test_row_without_an_answer_is_refused(refused, write):
    path = write(train__csv=TRAIN, test__csv="id,text,target\n5,e,x\n6,f,\n")
    assert refused(path.parent).startswith("test.csv row 3: 'target' must not be empty; fill it in")


def test_a_hidden_test_split_gives_way_to_validation(load, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, label in {"train": 0, "validation": 1, "test": -1}.items():
        rows = {"text": [f"{split} {i}" for i in range(2)], "label": [label] * 2}
        (tmp_path / "glue").mkdir(exist_ok=True)
        pq.write_table(
            datasets.Dataset.from_dict(rows, features=features).data.table, tmp_path / f"glue/{split}.parquet"
        )
    with pytest.raises(
        UserError, match="row 1: 'label' must be one of the classes 0..1; got -1, as rows without a label"
    ):
        load_task(f"hf://{tmp_path}/glue@train,test")
    os.remove(tmp_path / "glue/train.parquet")
    pq.write_table(pq.read_table(tmp_path / "glue/validation.parquet"), tmp_path / "glue/train.parquet")
    task, notes = load(f"hf://{tmp_path}/glue")
    assert [e.input for e in task.test] == ["validation 0", "validation 1"]
    assert notes == ["the split 'test' holds no answers", "test rows are the split 'validation'"]


# CSV

PAIRS = [("a", "x"), ("b, c", "y")]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('text,label\na,x\n"b, c",y\n', None),
        ('text, label\na, x\n"b, c", y\n', "blanks between a separator and a cell are left out"),
        ('label, text\nx, a\ny, "b, c"\n', "blanks between a separator and a cell are left out"),
        ('label,text\nx, a\ny, "b, c"\n', "blanks between a separator and a cell are left out"),
        (' text ,label\na,x\n"b, c",y\n', None),
        ('"text","label"\na,x\n"b, c",y\n', None),
        ('sep=,\ntext,label\na,x\n"b, c",y\n', None),
        ("sep=;\r\ntext;label\r\na;x\r\nb, c;y\r\n", None),
        ("text;label\na;x\nb, c;y\n", "cells are separated by semicolons, as in the header"),
        ("text|label\na|x\nb, c|y\n", "cells are separated by vertical bars, as in the header"),
        ("text\tlabel\na\tx\nb, c\ty\n", "cells are separated by tabs, as in the header"),
        ('text;label;"by, when"\na;x;-\nb, c;y;-\n', "cells are separated by semicolons, as in the header"),
        ("text;label;by, when\na;x;-\nb, c;y;-,-,-\n", "cells are separated by semicolons, as in the header"),
        ('text,label,a;b\na,x,-\n"b, c",y,-\n', None),
        ('text,label\ra,x\r"b, c",y\r', None),
        ('text,label\r\n\r\na,x\r\n"b, c",y\r\n', None),
        ('text,label,,\na,x,,\n"b, c",y,,\n', None),
        ('text,label\na,x,,\n"b, c",y\n', None),
        ('text,label\na,x\n"b, c",y\n,\n,\n', None),
        ('\ufefftext,label\na,x\n"b, c",y\n', None),
        ('\ufeff"text","label"\na,x\n"b, c",y\n', None),
    ],
)
def test_csv_is_read_as_it_is_separated(load, text, note):
    task, notes = load(a__csv=text)
    assert pairs(task) == PAIRS
    assert [n for n in notes if not n.startswith("not used: ")] == ([note] if note else [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("name", ["a__csv", "a__tsv", "a__jsonl"])
def test_a_byte_order_mark_says_how_the_text_is_written(load, name, encoding):
    rows = [("é", "x"), ("東京", "y")]
    lines = ["text\tlabel", *map("\t".join, rows)]
    if "json" in name:
        lines = [json.dumps({"text": t, "label": y}, ensure_ascii=False) for t, y in rows]
    assert pairs(load(**{name: "\r\n".join(lines).encode(encoding)})[0]) == rows


def test_a_cell_can_be_long_and_the_limit_of_csv_stays(load):
    before = csv.field_size_limit()
    task, _ = load(a__csv=f'text,label\n"{LONG}",x\nb,y\n')
    assert task.train[0].input == LONG
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("place", [(0, 1), (1, 3), (2, 5), (0, 5), (4, 5)])
@pytest.mark.parametrize("columns", ["text,label", "label,text"])
def test_an_open_quote_that_swallows_rows_is_refused(refused, columns, place):
    texts = [f"film {i}" for i in range(6)]
    texts[place[0]], texts[place[1]] = f'"{texts[place[0]]}', f'{texts[place[1]]} of 5"'
    rows = [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(texts)]
    lines = [columns, *(",".join(row[c] for c in columns.split(",")) for row in rows)]
    assert (
        f"row {place[1] + 2}: the cell of 'text' holds lines that look like rows, as after a double quote that is"
        in (refused(a__csv="\n".join(lines)))
    )


def test_texts_of_several_lines_are_no_swallowed_rows(load):
    poem = "Roses are red,\nviolets are blue,\nsugar is sweet, my dear,\nand so are you"
    assert pairs(load(a__csv=f'text,label\n"{poem}",x\nb,y\n')[0]) == [(poem, "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text,label\na,x,z\n",
            "row 2: it must have 2 cells, as the header has; got 3; put quotes around cells with comm",
        ),
        ("text,label,by\na,x\n", "row 2: it must have 3 cells, as the header has; got 2; write empty cells too."),
        (
            "text;label\na;x;z\n",
            "row 2: it must have 2 cells, as the header has; got 3; put quotes around cells with semi",
        ),
        (
            'text,label\na,x\n"b,y\nc,x\n',
            "row 3 must be CSV with commas and double quotes; unexpected end of data; close",
        ),
        (
            'text,label\n"say \\"hi\\"",x\n',
            "row 2 must be CSV with commas and double quotes; ',' expected after '\"'; cl",
        ),
        ("text,text,label\na,b,x\n", "row 1: the header must name each column once; 'text' is there twice; rename one"),
        (
            "text,label,,\na,x,1,2\n",
            "row 1: the header must name each column once; more than one has no name; rename one",
        ),
        (
            "a film,pos\nb film,neg\nc film,pos\n",
            "must begin with a line that names the columns, but its first line loo",
        ),
        (
            "I have seen better films than this one.,no\nb,c\n",
            "must begin with a line that names the columns, but its f",
        ),
        (
            "5,a\n6,b\n",
            "first line looks like an example (5, a); put a line such as text,label above it; if it does nam",
        ),
        (
            "text,label\na,x\ntext,label\nb,y\n",
            "row 3: it must be an example, but it is the header once more, as in joi",
        ),
        (
            "text;label,by\na;x,1\nb;y,2\n",
            "the cells may be separated by commas or by semicolons, as all rows can be re",
        ),
        ("text,label\na,x\0\n", "row 2: 'label' must be text, but it holds a NUL character; remove it."),
        ("sep=;\n", "a.csv has no cells; it must have a header and one example a line."),
        ("text,label\na,\n", "row 2: 'label' must not be empty"),
        ("text,label\n\u200b\ufeff \u2060,x\n", "row 2: 'text' must not be empty"),
    ],
)
def test_csv_that_cannot_be_right_is_refused(refused, text, message):
    assert message in refused(a__csv=text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "text,label\ncaf\xe9,x\n".encode("cp1252"),
            "row 2 must be UTF-8, but byte 4 of the row is 0xe9, 'é' in Windows-",
        ),
        (
            "text,label\nca,x\n".encode("utf-16-le"),
            "must be UTF-8, but it looks like UTF-16 without a byte order mark; sav",
        ),
        (b"\xff\xfet\0e\0x", "must be UTF-16-LE, as its first bytes say, but it is not; save it as UTF-8."),
        (gzip.compress(b"a", mtime=0), "must be text in UTF-8, but it is packed with gzip; unpack it with gunzip."),
        (
            b"PK\x03\x04\x14",
            "must be text in UTF-8, but it is a zip archive or an Excel sheet; unpack it, or save the shee",
        ),
        (b"PAR1\x15", "must be text in UTF-8, but it is Parquet; give it a name that ends in .parquet."),
    ],
)
def test_what_is_no_text_is_refused(refused, data, message):
    assert message in refused(a__csv=data)


# JSON


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a__json", "a__jsonl"])
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"version": 1, "data": rows}])
def test_a_list_of_rows_is_read(load, name, indent, wrap):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    task, notes = load(**{name: json.dumps(wrap(rows), indent=indent)})
    assert (pairs(task), task.train[1].id) == ([("a", "x"), ("b", "y")], "train-2")
    assert notes == ([] if wrap(rows) == rows else ["rows are read from 'data'; not used: version"])


def test_a_single_row_with_a_list_of_objects_is_a_row(load):
    task, notes = load(a__jsonl=[{"input": "a", "output": "x", "data": [{"text": "b"}]}])
    assert (pairs(task), notes) == ([("a", "x")], [])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_lines_of_json_end_in_any_way(load, end):
    lines = [json.dumps({"text": text, "label": "x"}, ensure_ascii=False) for text in ("a\u2028b", "c\u2029", "d\x85")]
    assert [e.input for e in load(a__json=end.join(lines))[0].train] == ["a\u2028b", "c\u2029", "d\x85"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"text": "a", "text": "b", "label": "x"}',
            "row 1: it must be one JSON object on one line, but it names 'text'",
        ),
        (
            '[{"text": "a"},\n{"text": "b",}]',
            "must hold one object a line, or be one JSON value, but a name in ",
        ),
        (
            '{\n"text": "a"\n}\n{\n"text": "b"\n}',
            "must hold one object a line, or be one JSON value, but it goes on at line 4",
        ),
        ('{"text": "a"\n{"text": "b", "label": "x"}', "row 1: it must be one JSON object on one line, but a comma"),
        ("{'text': 'a'}", "row 1: it must be one JSON object on one line, but a name in double quo"),
        ("[]", "a.json is an empty list; it must hold one example an object."),
        (
            '["a", "b"]',
            'row 1: it must be a JSON object, such as {…}; got a string ("a"); write one, or leave the row o',
        ),
        (
            '{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
            "must hold one list of rows; it has train, test; write",
        ),
        (
            '{"text": {"0": "a"}, "label": {"0": "x"}}',
            "must hold rows, but it holds columns (text, label); write it wi",
        ),
        ('{"data": {"text": "a", "label": "x"}}', "the input must stand in a column of its own, but it stands inside "),
        ('{"text": "a", "label": {"name": "x"}}', 'row 1: \'label\' must be a string; got an object ({"name": "x"})'),
        ('{"text": "a", "label": NaN}', "row 1: 'label' must be a string; got null; fill it in, or leave the row out."),
        (
            '{"text": "a", "label": null}',
            "row 1: 'label' must be a string; got null; fill it in, or leave the row out.",
        ),
        ('{"text": "a", "label": []}', "row 1: 'label' must hold one text, but its list is empty; fill it in"),
        ('{"text": "\\u200b", "label": "x"}', "row 1: 'text' must not be empty"),
        ('{"text": "a", "label": "x", "\\ud800": 1}', "row 1: the name of each column must be text, but it holds half"),
        (
            '{"text": "a", "label": ["x", "y"]}',
            'row 1: \'label\' must hold one text, as a row has one output; got a list (["x", "y"]); if each of them is '
            "right, say --columns references=label; if they are labels, say --kind multi_label; if all of them are "
            "needed, join them into one text, such as a, b.",
        ),
    ],
)
def test_json_that_cannot_be_right_is_refused(refused, text, message):
    assert message in refused(a__json=text)


def test_a_missing_value_of_parquet_is_no_text(refused, tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1.0, float("nan")]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a", None], "label": ["x", "y"]}), tmp_path / "b.parquet")
    assert "'label' must be a string; got a number (1.0)" in refused(tmp_path / "a.parquet")
    assert "row 2: 'text' must be a string; got null; fill it in, or leave the row out." in refused(
        tmp_path / "b.parquet"
    )


def test_a_text_that_means_missing_is_read_as_it_is(load):
    assert [y for _, y in pairs(load(a__csv="text,label\na,nan\nb,None\nc,N/A\n")[0])] == ["nan", "None", "N/A"]


def test_a_list_of_one_label_is_that_label(load, write):
    path = write(a__jsonl=[{"text": "a", "label": ["x"]}, {"text": "b", "label": "y"}, {"text": "c", "label": [3]}])
    with pytest.raises(UserError, match="row 3: 'label' must be a string; got a number"):
        load_task(path)
    task, notes = load(b__jsonl=[{"text": "a", "label": ["x"]}, {"text": "b", "label": "y"}])
    assert (pairs(task), notes) == (
        [("a", "x"), ("b", "y")],
        ["the column 'label' holds lists of one text, which is the output"],
    )
    rows = [{"text": "c", "label": ["x", "y"]}]
    assert read_inputs(str(write(c__jsonl=rows)), io.BytesIO(), task=task)[0][0].input == "c"


@pytest.mark.parametrize("column", ["choices", "references"])
@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ('["b", "c, d"]', ("b", "c, d")),
        ("['b', \"it's\", 'x\\n\\u200by']", ("b", "it's", "x\n\u200by")),
        (' ["b","é"] ', ("b", "é")),
        ('["b"]', ("b",)),
        ("b|[c]", ("b", "[c]")),
        ("[b]|c|b", ("[b]", "c", "b")),
    ],
)
def test_a_list_in_a_cell_is_read_as_it_is_written(write, tmp_path, column, cell, parts):
    rows = [[f"q{i}", parts[0], cell] for i in range(3)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["input", "output", column], *rows])
    task = load_task(tmp_path / "a.csv", kind="generation")
    assert [getattr(e, column) for e in task.train] == [parts] * 3
    said = f'cells of \'{column}\' that are written as lists, such as ["a", "b"], are read as these'
    assert (said in task.notes) == cell.strip().startswith(("['", '["'))


@pytest.mark.parametrize(
    "cell", ["['a' 'b']", '["a", "b]', "['a', b']", "['a', f('b')']", "[1 2]", "['\\U99999999', 'a']"]
)
def test_a_cell_that_looks_like_a_list_and_is_none_is_refused(refused, tmp_path, cell):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["input", "output", "choices"], ["q", "a", "a|b"], ["q", "a", cell]])
    text = refused(tmp_path / "a.csv")
    assert text.startswith("a.csv row 3: 'choices' must be a list, but cannot be read as one; got a string (")
    assert text.endswith(
        '; write it as a|b, or as JSON: ["a", "b"]. --skip-bad-rows (in Python skip_bad_rows=True) goes on without it.'
    )


def test_numbers_in_a_list_of_a_cell_are_refused_as_in_json(refused):
    text = refused(a__csv='input,output,choices\nq,1,"[1, 2]"\nr,1,1|2\n')
    assert text.startswith("a.csv row 2: 'choices' item 1 must be a string; got a number (1); write it as \"1\".")


def test_a_quote_that_swallows_rows_is_no_row_that_can_be_skipped(write):
    path = write(a__csv='text,label\na,yes\n"b,no\nc,yes\nd,""no""\ne",yes\nf,no\ng,yes\n')
    with pytest.raises(UserError, match="row 6: the cell of 'text' holds lines that look like rows"):
        load_task(path, skip_bad_rows=True)


@pytest.mark.parametrize("text", ["[{}, 3, {}]", '{{"data": [{}, 3, {}]}}'])
def test_bad_rows_of_a_list_are_told_and_skipped(write, text):
    row, path = '{"input": "a", "output": "b"}', write(a__json="")
    path.write_text(text.format(row, row))
    assert [e.id for e in load_task(path, skip_bad_rows=True).train] == ["train-1", "train-3"]
    with pytest.raises(UserError, match="row 2: it must be a JSON object, such as"):
        load_task(path)


def test_nothing_to_see_before_a_final_number_is_no_rationale(load):
    task, _ = load(a__jsonl=[{"input": "q", "output": "2 and 3\n#### 5"}, {"input": "r", "output": "\u200b\n#### 7"}])
    assert [(e.output, e.explanation) for e in task.train] == [("5", "2 and 3"), ("7", None)]


@pytest.mark.parametrize("text", ["\u202ea\u202c", "\u2068a\u2069", "\x01a", " \ufeffa\u2029"])
def test_marks_that_are_not_seen_are_no_part_of_labels_but_of_texts(load, text):
    task, _ = load(a__jsonl=[{"input": text, "output": text}, {"input": "b", "output": "a"}] * 2)
    assert task.labels == ("a",)
    assert task.train[0].input == text


def test_a_flag_is_no_mark(load):
    england = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    task, _ = load(a__jsonl=[{"input": "q", "output": england}, {"input": "r", "output": "\u0601"}] * 2)
    assert task.labels == ("\u0601", england)


def test_half_a_character_in_a_column_that_is_only_kept_is_replaced(write):
    rows = [{"input": f"i{i}", "output": "xy"[i % 2], "raw": ["\ud83d", {"\ud800": 1}]} for i in range(8)]
    task = load_task(write(a__jsonl=rows))
    assert task.train[0].meta["raw"] == ["\ufffd", {"\ufffd": 1}]
    assert json.dumps(task.train[0].meta, ensure_ascii=False).encode("utf-8")  # as it is kept in a saved model


def test_numbers_that_are_no_json_are_kept_as_what_is(write):
    rows = [
        {"input": f"i{i}", "output": "xy"[i % 2], "score": math.inf, "more": [0.5, math.nan, {"low": -math.inf}]}
        for i in range(8)
    ]
    for task in (load_task(write(a__jsonl=rows)), load_task(rows)):
        assert task.train[0].meta == {"score": "inf", "more": [0.5, None, {"low": "-inf"}]}
        assert task.fingerprint


# Columns and files


def test_blanks_around_the_name_of_a_column_do_no_harm(load, tmp_path):
    pq.write_table(pa.table({"text": ["a"], " label": ["x"]}), tmp_path / "a.parquet")
    assert pairs(load(tmp_path / "a.parquet")[0]) == [("a", "x")]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("text\tlabel, at last\na\tx, y\n", []),
        ('text,label\na,"x, y"\n', ["cells are separated by commas, as in the header"]),
    ],
)
def test_a_tsv_has_tabs_unless_it_has_none(text, note, load, write):
    task = load_task(write(a__tsv=text), columns={"output": "label, at last" if "\t" in text else "label"})
    assert (pairs(task), [n for n in task.notes if "cells" in n]) == ([("a", "x, y")], note)
    (asked,), _ = read_inputs(str(write(b__tsv="text\na\n")), io.BytesIO(), task=task)
    assert asked.input == "a"


def test_the_text_of_a_label_goes_before_its_number(load):
    assert pairs(load(a__jsonl=[{"Text": "a", "Label": 1, "Label_Text": "good"}])[0]) == [("a", "good")]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a__xlsx", "save the sheet as CSV UTF-8."),
        ("a__csv__bz2", "unpack it first."),
        ("a__parquet__gz", "unpack it first."),
        ("a__yaml", "save its rows as one of these."),
        ("a__docx", "save its rows as one of these."),
    ],
)
def test_other_formats_are_refused_with_what_to_do(refused, name, remedy):
    text = refused(**{name: "x"})
    assert text.endswith(f"must be a folder or a file that ends in .jsonl, .json, .csv, .tsv or .parquet; {remedy}")


def test_names_of_splits_are_found_in_any_case_and_others_are_said(load, refused, write, tmp_path):
    path = write(Test__CSV="text,label\nc,x\n", notes__md="x", data__jsonl="x")
    assert refused(path.parent) == (
        f"the folder '{tmp_path}' must hold a file train that ends in .jsonl, .json, .csv, .tsv or .parquet; it "
        "has Test.CSV, data.jsonl; name one of its files train, or give the file instead of the folder."
    )
    write(TRAIN__tsv="text\tlabel\na\tx\nb\ty\n", dev__tsv="text\tlabel\nd\tx\n")
    task, notes = load(path.parent)
    assert (pairs(task), task.test[0].input, notes) == ([("a", "x"), ("b", "y")], "c", [])
    os.remove(path)
    assert load(path.parent)[1] == ["there are no test rows; 'dev.tsv' is not read unless it is named test"]


def test_what_cannot_be_opened_is_refused(refused, write, monkeypatch, tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    assert ".parquet; it has none; name one of its files train, or" in refused(tmp_path / "x.jsonl")

    def forbidden(*args):
        raise PermissionError(13, "Permission denied")

    path = write(a__jsonl="{}")
    with monkeypatch.context() as patch:
        patch.setattr("kshot.tasks.text_file.bytes_of", forbidden)
        assert refused(path) == "a.jsonl cannot be read: Permission denied; check its name and its permissions."
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", forbidden)
        assert refused(tmp_path).endswith("cannot be read: Permission denied; give one that you may read.")


def test_a_name_that_is_not_utf8_can_be_said(refused, run_cli, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.csv")
    path.write_text("text,label\na\n")
    assert r"'\xff.csv' must be a name in UTF-8" in refused(path)
    done = run_cli("validate", path)
    assert (done.code, "must be a name in UTF-8" in done.err, "Traceback" in done.err) == (2, True, False)


# Inputs to be answered


@pytest.mark.parametrize(
    ("data", "inputs"),
    [
        (b"a\r\nb, c\r\n", ["a", "b, c"]),
        (b"a\rb, c\r", ["a", "b, c"]),
        (b"\xef\xbb\xbfa\nb, c", ["a", "b, c"]),
        ("a\nb, c\n\n".encode("utf-16"), ["a", "b, c"]),
        ("a\u2028b\nc".encode(), ["a\u2028b", "c"]),
        (b"text\n", ["text"]),
    ],
)
def test_lines_of_text_are_inputs(data, inputs):
    assert [e.input for e in read_inputs(None, io.BytesIO(data))[0]] == inputs


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" \n", "stdin must hold at least one input, but it is empty; write one a line."),
        (b"a\r\n\r\nb", "stdin line 2 must not be empty, as answers come one a line; leave it out."),
        ("a\n\u200b\nb".encode(), "stdin line 2 must not be empty, as answers come one a line; leave it out."),
        (b"a\nb\0", "stdin line 2 must be text, but it holds a NUL character; remove it."),
        (
            b'[\n{"text": "a"},\n{"text": "b"}\n]',
            "but it holds JSON objects; give the rows as a file that ends in .json",
        ),
        (
            b"text,label\na,x\n",
            "but its first line names columns (text,label); give the rows as a file that ends in .csv",
        ),
        (b'"text";"frage"\na;x\n', 'but its first line names columns ("text";"frage"); give the rows as a file that'),
        (b"caf\xe9", "stdin row 1 must be UTF-8, but byte 4 of the row is 0xe9, 'é' in Windows-1252"),
    ],
)
def test_lines_that_cannot_be_inputs_are_refused(data, message):
    task = Task("t", "generation", (), columns={"input": "Frage"})
    with pytest.raises(UserError) as error:
        read_inputs(None, io.BytesIO(data), task=task)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text", ["\ufefftext;by\na;b\n", "text, by\na, b\n", "sep=,\ntext,by\na,b\n", "text,,\na,,\n", "text\ra\r"]
)
def test_files_of_inputs_are_read_as_those_of_tasks(write, text):
    path = write(a__csv=text)
    for task in (None, Task("t", "generation", (), columns={"input": "text", "output": "label"})):
        assert [e.input for e in read_inputs(str(path), io.BytesIO(), task=task)[0]] == ["a"]


def test_a_file_of_inputs_without_a_header_is_refused(write):
    with pytest.raises(
        UserError, match=r"a.csv must begin with a line that names the columns, .* an example \(a film\)"
    ):
        read_inputs(str(write(a__csv="a film\nb film\n")), io.BytesIO())


# JSON that is none


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ('{"text": "a', "a quote that is opened at column 10 is never closed"),
        ('{"text": "a" "b": 1}', "a comma or a closing bracket is missing at column 14"),
        ('{"text": "a"', "a comma or a closing bracket is missing at column 13"),
        ('{"text" "a"}', "a colon is missing at column 9"),
        ('{"text": None}', "no value begins at column 10: it must be a text in double quotes, a number, true, false, "),
        ('{"text": "a",}', "a name in double quotes is missing at column 14"),
        ('{"text": "a"} {}', "it goes on at column 15, where the value is complete"),
        ('{"text": "a\tb"}', "a text holds a control character at column 12 (a tab is written \\t);"),
        ('{"text": "a\\q"}', "the backslash at column 12 begins no character (a backslash itself is written \\\\);"),
        ('{"text": "\\u12"}', "the backslash at column 12 begins no character"),
    ],
)
def test_what_is_wrong_with_json_is_said_in_words(refused, line, flaw):
    good = '{"text": "a", "label": "b"}\n'
    assert f"a.jsonl row 2: it must be one JSON object on one line, but {flaw}" in refused(a__jsonl=f"{good}{line}\n")


def test_a_column_whose_name_has_a_comma_can_be_named(run_cli, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text;label, final\n" + "".join(f"x{i};{'ab'[i % 2]}\n" for i in range(6)))
    refused = run_cli("validate", path)
    assert refused.err.endswith("name it, as in --columns 'output=label, final'.\n")
    assert run_cli("validate", path, "--columns", "output=label, final,input=text", "--json").json["labels"] == [
        "a",
        "b",
    ]
