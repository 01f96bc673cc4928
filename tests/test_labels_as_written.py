"""Labels, choices and letters in all the ways that people write them, and what is said of the ways that differ."""

import io
import json
from dataclasses import replace

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.types import Example, Task, named_choice
from kshot.retrieval.corpus import option_texts
from kshot.tasks.inputs import input_of, read_inputs
from kshot.tasks.labels import missing, variants
from kshot.tasks.load import load_task
from kshot.tasks.missing import trimmed
from kshot.tasks.validate import cut_answers, grave_problems, validate

LISTED = "Which?\n{0}. red\n{1}. blue\n{2}. green"
COLOURS = ["red", "blue", "green"]


def labelled(*outputs, times=1):
    return [{"input": f"text {i}", "output": output} for i, output in enumerate(outputs * times)]


@pytest.fixture
def load(tmp_path):
    """Load rows that are written as a folder."""

    def load(train, test=(), card=None, **settings):
        folder = tmp_path / f"task{len(list(tmp_path.iterdir()))}"
        return load_task(write_task(folder, train, test, card), **settings)

    return load


# White space


def test_white_space_around_labels_is_left_out_and_said(load):
    task = load(
        labelled("positive", "positive ", " negative\n", "\u200bnegative", times=2),
        [{"input": "new", "output": "\tpositive\u00a0"}],
    )
    assert task.labels == ("negative", "positive")
    assert [e.output for e in task.train] == ["positive", "positive", "negative", "negative"] * 2
    assert task.test[0].output == "positive"
    assert task.notes[0] == "white space around outputs is left out, as in 'positive ' (7 in all)"
    assert validate(task).problems == ()


def test_so_it_is_around_choices_references_and_the_labels_of_task_json(load):
    row = {"input": "q", "output": "red ", "choices": [" red", "blue"], "references": ["red"]}
    ((example,), notes) = (task := load([row])).train, task.notes
    assert (example.output, example.choices, example.references) == ("red", ("red", "blue"), ("red",))
    assert [note.split(" is left")[0] for note in notes] == ["white space around outputs", "white space around choices"]
    task = load(labelled("yes ", "no"), card={"labels": [" yes", "no "], "positive_label": "yes "})
    assert (task.labels, task.positive_label) == (("yes", "no"), "yes")
    with pytest.raises(UserError, match="'labels' must differ; 'yes' is there twice"):
        load(labelled("yes", "no"), card={"labels": ["yes", "yes "]})
    with pytest.raises(UserError, match="row 1: the 'choices' must differ, because the output is the text of one"):
        load([{"input": "q", "output": "red", "choices": ["red", "red "]}, row, row])


def test_so_it_is_around_the_choices_of_inputs_to_be_answered(run_cli, load, tmp_path):
    rows = [{"input": f"q{i}", "output": COLOURS[i % 3], "choices": COLOURS} for i in range(6)]
    run = kshot.adapt(load(rows), "scripted", recipes="majority", shots=2, out=tmp_path / "run")
    asked = {"input": "q", "choices": [" red", "blue ", "green"]}
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked) + "\n")
    (found,) = run_cli("predict", run.folder, tmp_path / "asked.jsonl", "--json").json["predictions"]
    assert list(found["probs"]) == COLOURS
    (found,) = run.best.predictions([asked])
    assert found.candidates == tuple(COLOURS)
    for choices in ([1, 2], "ab"):
        with pytest.raises(UserError, match="row 1: 'choices' (item 1 must be a string|must be a list of strings)"):
            run.best.predictions([{"input": "q", "choices": choices}])


def test_outputs_of_open_tasks_stay_as_they_are(load):
    task = load(labelled("  return x\n", "a", "b"))
    assert (task.kind, task.train[0].output) == ("generation", "  return x\n")


def test_legacy_completions_are_labels(load):
    rows = [{"prompt": f"t{i} ->", "completion": f" {'good' if i % 2 else 'bad'}\n"} for i in range(6)]
    assert load(rows).labels == ("bad", "good")


# Labels that differ in nothing that counts


@pytest.mark.parametrize(
    ("labels", "difference"),
    [
        (("positive", "Positive", "POSITIVE"), "case"),
        (("very good", "very  good"), "white space"),
        (("non-fiction", "non\u2011fiction"), "characters that look alike"),
        (("it's", "it\u2019s"), "characters that look alike"),
        (("caf\u00e9", "cafe\u0301"), "characters that look alike"),
        (("neg\u200bative", "negative"), "characters that look alike"),
        (("\uff21", "A"), "characters that look alike"),
        (("a\u00a0b", "a b"), "white space"),
        (("stra\u00dfe\u2019s", "STRASSE's"), "case and characters that look alike"),
        (("yes", "Yes."), "case or punctuation"),
    ],
)
def test_variants_of_a_label_are_told(labels, difference):
    first, second = labels[:2]
    (said,) = variants({first: 41, second: 1, **dict.fromkeys(labels[2:], 1), "other": 7})
    assert said.startswith(f"{len(labels)} labels differ only in {difference}: {first!r} (41 rows), {second!r} (1 row)")
    assert said.endswith("; write them alike.")


@pytest.mark.parametrize(
    "labels", [("a", "b"), ("+", "-"), ("!", "?"), (":)", ":("), ("C", "C++", "C#"), ("1", "10"), ("é", "e")]
)
def test_labels_that_differ_are_not(labels):
    assert variants(dict.fromkeys(labels, 1)) == []


def test_validate_and_adapt_tell_variants_missing_values_and_contradictions(run_cli, tmp_path):
    rows = labelled("positive", "Positive", "negative", "nan", times=3)
    rows += [{"input": "text 0", "output": "negative"}, {"input": "null", "output": "negative"}]
    task = write_task(tmp_path / "task", rows)
    problems = run_cli("validate", task, "--json").json["problems"]
    wanted = [
        "2 labels differ only in case: 'Positive' (3 rows), 'positive' (3 rows); write them alike.",
        "There are 3 rows with the output 'nan': train-4, train-8, train-12. That is how programs write a missing "
        "value; if it is one, fill it in or leave the row out.",
        "There is 1 row with the input 'null': train-14. That is how programs write a missing value; if it is one, "
        "fill it in or leave the row out.",
    ]
    assert set(wanted) <= set(problems)
    conflict = (
        "There are 2 rows of train with the same input as another but a different output: train-1, train-13. Their "
        "labels differ, as train-1 'positive' and train-13 'negative'; only the first of such rows is learnt: keep one."
    )
    assert conflict in problems
    args = ("--model", "scripted", "--recipes", "majority", "--shots", 2, "--out", tmp_path / "run")
    told = run_cli("adapt", task, *args).err
    assert all(problem in told for problem in wanted)
    assert "1 more problem like these; `kshot validate` says all" in told
    assert "1 more problem" not in run_cli("validate", task).out


def test_missing_values_are_those_of_programs():
    assert missing(["nan", "NaN ", "None", "none", "na", "null", "nan"]) == [
        ("nan", 2),
        ("NaN", 1),
        ("None", 1),
        ("null", 1),
    ]


def test_an_empty_line_in_an_answer_is_told_where_it_ends_one(run_cli, tmp_path):
    task = write_task(tmp_path / "task", labelled(*(f"line {i}\n\nmore" for i in range(5))))
    args = ("--model", "scripted", "--recipes", "random", "--shots", 2, "--out", tmp_path / "run")
    assert "There are 5 rows whose output holds an empty line: train-1, " in run_cli("adapt", task, *args).err
    loaded = load_task(task)
    assert grave_problems(loaded) == cut_answers(loaded, loaded.train, "") == []
    assert cut_answers(loaded, loaded.train, "e\n") == []
    assert cut_answers(loaded, loaded.train, "1\n") == [
        "There is 1 row whose output holds '1\\n', at which an answer ends: train-2."
    ]


# Letters


def quiz(form, n=6, *, listed=LISTED, names="ABC"):
    """Return rows whose outputs name their choice in a form."""
    return [
        {"input": f"{i}: {listed.format(*names)}", "choices": COLOURS, "output": named_choice(form, i % 3)}
        for i in range(n)
    ]


@pytest.mark.parametrize("form", ["(A)", "A", "A.", "A)", "[A]", "A:", "a", "(a)", "a)", "1", "1.", "(1)", "1)"])
def test_a_letter_or_number_names_a_choice_that_the_input_lists(load, form):
    names = [named_choice(form.strip("()[].:"), i) for i in range(3)]
    task = load(rows := quiz(form, names=names), quiz(form, 2, names=names))
    assert (task.kind, task.choices_in_input, task.letter_form) == ("multiple_choice", True, form)
    assert [e.output for e in task.train] == [row["output"] for row in rows]
    assert task.candidates(task.train[0]) == tuple(named_choice(form, i) for i in range(3))
    said = f"outputs name a choice that the input lists as '{form}'; so will answers"
    assert task.notes == (() if form == "(A)" else (said,))


@pytest.mark.parametrize("form", ["(A)", "A", "A.", "a", "(a)", "A)", "1", "(1)", "1."])
def test_where_the_input_does_not_list_them_it_is_the_text(load, form):
    task = load(quiz(form, listed="Which?"))
    assert (task.kind, task.choices_in_input) == ("multiple_choice", False)
    assert [e.output for e in task.train] == COLOURS * 2
    what = "number of the choice, counted from 1" if "1" in form else "letter of the choice"
    assert task.notes == (f"the column 'output' holds the {what}; it is read as the text of that choice",)


def test_ways_of_writing_a_letter_become_the_one_of_most_rows(load):
    rows = quiz("A", 9)
    rows[1]["output"], rows[2]["output"] = "(B)", "c."
    rows[2]["references"] = ["c."]
    task = load(rows, [{**rows[0], "output": "a)"}])
    assert [e.output for e in (*task.train, *task.test)] == ["A", "B", "C"] * 3 + ["A"]
    assert task.train[2].references == ("C",)
    assert (
        task.notes[1] == "3 outputs name their choice in another way than most, such as '(B)'; it is written as 'A' is"
    )


def test_a_choice_may_be_a_letter_itself(load):
    rows = [{"input": f"{i}", "choices": ["C", "A", "B"], "output": "ABC"[i % 3]} for i in range(6)]
    task = load(rows)
    assert ([e.output for e in task.train], task.choices_in_input) == (["A", "B", "C"] * 2, False)


def test_a_slip_among_letters_is_the_row_that_is_refused(load):
    for listed in (LISTED, "Which?"):
        rows = quiz("A", 20, listed=listed)
        rows[7]["output"] = "E"
        with pytest.raises(UserError, match=r"train.jsonl row 8: .*E.* --skip-bad-rows .* goes on without it.$"):
            load(rows)
    rows = quiz("1", 20, listed="Which?")
    rows[7]["output"] = "7"
    with pytest.raises(UserError, match=r"row 8: 'output' must hold the number of the choice, counted from 1, as most"):
        load(rows)
    rows[7]["output"] = "blue"
    assert load(rows).train[7].output == "blue"


def test_answers_have_the_form_of_the_user_also_when_it_is_loaded_again(run_cli, load, tmp_path):
    task = load(quiz("a)", names="abc"))
    run = kshot.adapt(task, "scripted", recipes="majority", shots=2, out=tmp_path / "run")
    again = kshot.load(run.folder)
    assert again.task.letter_form == "a)"
    assert again.predict([{"input": "x", "choices": COLOURS}])[0] in ("a)", "b)", "c)")
    other = load(quiz("(A)"), quiz("(A)", 4))
    assert again.evaluate(other)["n"] == 4
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in quiz("A")))
    measured = run_cli("evaluate", run.folder, tmp_path / "test.jsonl", "--json").json
    assert measured["n"] == 6


def test_the_form_of_letters_tells_tasks_apart(load):
    task = load(quiz("(A)"))
    assert replace(task, letter_form="A").fingerprint != task.fingerprint
    assert replace(task, letter_form="(A)").fingerprint == task.fingerprint


@pytest.mark.parametrize("form", ["(A)", "A", "a)"])
def test_a_retriever_reads_texts_instead_of_letters(load, form):
    names = "abc" if "a" in form else "ABC"
    plain = option_texts(load(quiz(form, names=names)))
    assert plain.train[1] == Example("1: Which?", "blue", "train-2", choices=tuple(COLOURS))


# Tasks that are built in Python

GOOD = Task("t", "classification", tuple(Example(f"t{i}", "ab"[i % 2], str(i)) for i in range(6)), labels=("a", "b"))


def changed(**fields):
    return replace(GOOD, train=(*GOOD.train[:2], replace(GOOD.train[2], **fields), *GOOD.train[3:]))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (replace(GOOD, labels=()), "a classification must have labels; name all of them, as labels=('yes', 'no')."),
        (replace(GOOD, train=()), "must have training examples; it has none; give it some as train=(Example(…), …)."),
        (replace(GOOD, labels=("a", "b", "a")), "labels must differ, also without white space; 'a' is there twice"),
        (replace(GOOD, labels=("a", "b", "b ")), "labels must differ, also without white space; 'b' is there twice"),
        (replace(GOOD, labels=("a", "b", "")), "each label must be a text that can be written; got ''; rename it."),
        (replace(GOOD, labels=("a", 1)), "labels must be texts; got ('a', 1); write them as labels=('yes', 'no')."),
        (replace(GOOD, labels="ab"), 'labels must be a tuple; got a string ("ab"); write it as labels=(…, …).'),
        (
            replace(GOOD, labels=["a", "b"]),
            'labels must be a tuple; got a list (["a", "b"]); write it as labels=',
        ),
        (replace(GOOD, train=(e for e in GOOD.train)), "train must be a tuple; got a value of type generator"),
        (replace(GOOD, metrics="accuracy"), 'metrics must be a tuple; got a string ("accuracy"); write it as'),
        (replace(GOOD, metrics=()), "must have a metric; it has none; name it as metrics=('accuracy',)."),
        (
            replace(GOOD, letter_form=""),
            "letter_form must be how inputs name their first choice; got ''; write it",
        ),
        (replace(GOOD, letter_form="(B)"), "letter_form must be how inputs name their first choice; got '(B)'"),
        (
            changed(references=("a", "b\ud800")),
            "'references' must hold texts, but it holds half of a surrogate pair",
        ),
        (changed(choices=("a", "b\0")), "'choices' must hold texts, but it holds a NUL character; remove it."),
        (changed(context="\ufdd0"), "train example 3: 'context' must be text, but it holds the character U+FDD0"),
        (
            changed(meta=None),
            "'meta' must be a mapping of JSON (finite numbers, texts, lists, mappings), but it is n",
        ),
        (changed(meta={"a": ["\ud800"]}), "mappings), but it holds half of a surrogate pair; leave it out."),
        (changed(meta={"a": float("nan")}), "mappings), but a number in it is not finite; leave it out."),
        (changed(meta={"a": {1, 2}}), "mappings), but Object of type set is not JSON serializable; leave it out."),
        (replace(GOOD, kind="generation"), "the kinds classification and multi_label; leave them out for generation."),
        (replace(GOOD, kind="sums", labels=()), "there is no kind 'sums'. Known: classification, "),
        (changed(output="c"), "train example 3: 'c' is not among the task's labels; correct it or list it"),
        (changed(output=" a"), "train example 3: ' a' is not among the task's labels"),
        (changed(id="0"), "train example 3: the id '0' is that of example 1 too; give each example its own id."),
        (changed(input=None), "train example 3: 'input' must be a text; got null; give it as a str."),
        (changed(output=3), "train example 3: 'output' must be a text; got a number (3); give it as a str."),
        (changed(id=3), "train example 3: 'id' must be a text; got a number (3); give it as a str."),
        (changed(input=" \u200b"), "train example 3: 'input' must not be empty; fill it in, or leave the example out."),
        (changed(context=""), "train example 3: 'context' must not be empty; fill it in, or leave the example out."),
        (changed(input="a\0"), "train example 3: 'input' must be text, but it holds a NUL character; remove it."),
        (changed(choices="ab"), "'choices' must be a tuple of texts that are not empty; got a string (\"ab\"); write"),
        (
            replace(GOOD, train=("a", "b")),
            'train example 1 must be an Example; got a string ("a"); write it as Example(',
        ),
        (
            replace(GOOD, kind="multiple_choice", labels=()),
            "example 1: a multiple-choice row must have at least 2 'choi",
        ),
        (
            replace(GOOD, test=GOOD.test + (Example("x", "c", "9"),)),
            "test example 1: 'c' is not among the task's labels",
        ),
    ],
)
def test_a_task_that_cannot_be_right_is_refused(task, message, tmp_path):
    for verb in (
        lambda: kshot.adapt(task, "scripted", recipes="random", shots=2, out=tmp_path / "run"),
        lambda: kshot.select(task, "random", 2),
        lambda: kshot.steer(task, "icv", model="tiny"),
    ):
        with pytest.raises(UserError) as error:
            verb()
        assert str(error.value).startswith("the task 't'")
        assert message in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [None, 5, "\ud800", "a\0", "a\ufdd0"])
@pytest.mark.parametrize("field", ["name", "instruction"])
def test_the_name_and_the_instruction_of_a_task_are_texts(field, value):
    with pytest.raises(UserError) as error:
        kshot.select(replace(GOOD, **{field: value}), "random", 2)
    assert str(error.value) == (
        f"A task's {field} must be a text that can be written; got {value!r}; write it as {field}='…'."
    )


def test_test_rows_that_are_evaluated_are_checked_too(tmp_path):
    run = kshot.adapt(GOOD, "scripted", recipes="majority", shots=2, out=tmp_path / "run")
    rows = (Example("x", "a", "1"), Example("y", "b", "1"))
    with pytest.raises(UserError, match="test example 2: the id '1' is that of example 1 too"):
        run.best.evaluate(replace(GOOD, test=rows))
    with pytest.raises(UserError, match=r"can give \(a, b\); of '1' it is 'c'\. Correct it, or leave the row out\.$"):
        run.best.evaluate(replace(GOOD, test=(replace(rows[0], output="c"),)))
    with pytest.raises(UserError, match="letter_form must be how inputs name their first choice; got ''"):
        run.best.evaluate(replace(GOOD, test=rows, letter_form=""))
    with pytest.raises(UserError, match="test example 1: 'input' must be a text; got null"):
        run.best.evaluate(replace(GOOD, test=(replace(rows[0], input=None),)))
    with pytest.raises(UserError, match="The inputs must hold texts; number 1 cannot be used: it is empty"):
        run.best.predict(["\u200b"])


def test_a_setting_of_files_is_refused_for_a_task_that_is_none(words_task):
    task = load_task(words_task)
    for setting in ({"columns": {"input": "text"}}, {"kind": "qa"}, {"skip_bad_rows": True}):
        (name,) = setting
        with pytest.raises(UserError, match=f"{name} says how a task's files are read, and the task 'words' was given"):
            kshot.adapt(task, "scripted", **setting)


def test_trimming_is_quick_and_leaves_what_is_inside():
    assert trimmed(" \u200ba  b\u200b c\ufeff\n") == "a  b\u200b c"
    assert trimmed(f"a{' ' * 200_000}b") == f"a{' ' * 200_000}b"
    assert trimmed("\u200b \u2060") == ""


def test_repeated_ids_get_new_ones_and_are_told(load):
    rows = [{**row, "id": i % 3} for i, row in enumerate(labelled_rows(6))]
    task = load([*rows, {**rows[0], "id": "1 (row 5)"}])
    assert [e.id for e in task.train] == ["0", "1", "2", "0 (row 4)", "1 (row 5)", "2 (row 6)", "1 (row 5) (row 7)"]
    assert task.notes[0] == (
        "4 rows of train have the id of an earlier row, and a new one: '0 (row 4)', '1 (row 5)', '2 (row 6)', …; write "
        "ids that differ"
    )


# Choices with marks of their own


def arc(place, labels="ABCD", texts=("air", "tar", "iron", "ice")):
    return {"question": "What melts?", "choices": {"text": list(texts), "label": list(labels)}, "answerKey": place}


def test_choices_with_labels_as_arc_has_them_are_read_as_texts(load):
    task = load([arc("D"), arc("4", "1234"), arc("A")], [arc("C")])
    assert (task.kind, task.choices_in_input) == ("multiple_choice", False)
    assert [e.output for e in (*task.train, *task.test)] == ["ice", "ice", "air", "iron"]
    assert {e.choices for e in task.train} == {("air", "tar", "iron", "ice")}
    assert task.notes[1:] == (
        "the marks of the choices in the column 'choices', such as 'A', are left out (4 rows)",
        "the column 'answerKey' names choices by their marks, such as 'D'; it is read as the text of that choice",
    )
    with pytest.raises(UserError, match="train.jsonl row 2: 'E' is not among the row's choices"):
        load([arc("A"), arc("E"), arc("B")])
    assert load([arc("D"), arc("A")] * 3, kind="classification").labels == ("A", "D")


def test_where_the_input_lists_them_the_output_stays_a_letter(load):
    question = {"question": "What melts? A. air B. tar C. iron D. ice"}
    task = load([arc("D") | question, arc("A") | question])
    assert (task.choices_in_input, task.letter_form, task.train[0].output) == (True, "A", "D")
    assert task.train[0].choices == ("air", "tar", "iron", "ice")
    task = load([arc("D") | question, arc("A") | question], card={"choices_in_input": False})
    assert [e.output for e in task.train] == ["ice", "air"]


@pytest.mark.parametrize(
    "choices",
    [
        {"A": "red", "B": "blue", "C": "green", "D": None},
        [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}, {"label": "C", "text": "green"}],
        ["A. red", "B. blue", "C. green"],
        ["(a) red", "(b) blue", "(c) green"],
        ["A) red", "B)  blue", "C) green "],
    ],
)
@pytest.mark.parametrize("output", ["B", "B.", "(b)", "blue", "B. blue"])
def test_marks_are_taken_off_choices_however_they_are_written(load, choices, output):
    row = {"question": "q", "options": choices, "answer": output}
    task = load([row, row | {"question": "r"}])
    assert (task.train[0].choices, task.train[0].output) == (("red", "blue", "green"), "blue")
    assert any("the marks of the choices in the column 'options', such as '" in note for note in task.notes)
    kept = input_of({"question": "new", "options": choices}, task, 1)
    assert kept.choices == ("red", "blue", "green")


def test_numbers_before_choices_are_marks_too(load):
    row = {"input": "q", "choices": ["1. 2.5 m", "2. 1.5 m"]}
    task = load([row | {"output": "2"}, row | {"output": "2. 1.5 m"}])
    assert [(e.choices, e.output) for e in task.train] == [(("2.5 m", "1.5 m"), "1.5 m")] * 2


@pytest.mark.parametrize("choices", [["A. Einstein", "N. Bohr"], ["1.5 m", "2.5 m"], ["A", "B"], ["A. red", "blue"]])
def test_what_only_looks_like_marks_stays(load, choices):
    task = load([{"input": "q", "choices": choices, "output": choices[0]}])
    assert (task.train[0].choices, task.train[0].output) == (tuple(choices), choices[0])


def test_choices_of_inputs_to_be_answered_are_read_in_the_same_way(load, tmp_path):
    task = load([arc("D"), arc("A")])
    (tmp_path / "new.jsonl").write_text(json.dumps(arc("A")) + "\n")
    (asked,), _ = read_inputs(str(tmp_path / "new.jsonl"), io.BytesIO(), task=task)
    assert asked.choices == ("air", "tar", "iron", "ice")
