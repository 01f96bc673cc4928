"""What a task is where nobody says it: kinds by how outputs repeat, numbers, rationales; and saying it with --kind."""

import json
import random
import re

import datasets
import pandas as pd
import polars as pl
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.label_sets import is_written, read
from kshot.core.settings import RunSettings
from kshot.core.types import KINDS, Example, Task, named_choice
from kshot.tasks.kinds import guessed_kind
from kshot.tasks.load import load_task
from kshot.tasks.missing import trimmed
from kshot.tasks.validate import grave_problems, validate

ADVICE = "(--kind says another)"


def kind_of(outputs, **fields):
    return guessed_kind([Example(f"t{i}", str(o), str(i), **fields) for i, o in enumerate(outputs)])


# Texts


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([f"intent {i}" for i in range(77)] * 8, "classification"),
        ([f"intent {i}" for i in range(151)] * 5, "classification"),
        ([f"intent {i}" for i in range(77)] * 3, "generation"),
        (["a", "b", "c"] * 2, "classification"),
        (["spam"] * 6 + ["ham", "news", "ads"], "classification"),
        (["spam"] * 500 + ["ham"] * 499 + ["news"], "classification"),
        ([f"name{i % 20 if i < 40 else i}" for i in range(60)], "generation"),  # a third of the names come once
        (["I do not know that."] * 20 + [f"It is the answer number {i}." for i in range(18)], "generation"),
        (
            ["a long but canned answer to a question"] * 20 + ["and another one of these, also long"] * 20,
            "classification",
        ),
        (["a", "b"], "generation"),
        ([f"word{i}" for i in range(300)], "generation"),
    ],
)
def test_outputs_that_repeat_are_labels(outputs, kind):
    assert kind_of(outputs) == kind


# Numbers


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([1, 5, 4, 3, 2, 5, 5, 1], "classification"),  # stars
        (["5.0", "4.5", "1.0", "4.5"], "classification"),
        ([-1, 0, 1, 0], "classification"),
        ([*range(77)] * 8, "classification"),  # numbers of classes
        ([*range(1, 21)] * 4, "classification"),
        ([0, 10, 7, 9, 8, 10, 9, 3, 7, 8, 10, 0], "classification"),  # of ten
        ([10, 20, 30] * 25, "classification"),
        ([12, 45, 7, 9, 12, 13, 45, 7, 80, 12], "math"),
        (random.Random(0).choices(range(2, 19), k=100), "math"),  # how many things there are
        ([*range(0, 154, 2)] * 8, "math"),
        ([3, 1, 2], "math"),
        (["1,000", "$5", "1,000", "$5"], "math"),
        (["0.25", "0.75", "0.25", "0.75"], "math"),
        (["1", "2", "1", "two"], "generation"),
    ],
)
def test_numbers_are_ratings_classes_or_amounts(outputs, kind):
    assert kind_of(outputs) == kind


# Answers to questions


def test_short_accepted_outputs_are_answers_and_long_ones_texts():
    assert kind_of(["Paris", "the Seine"], references=("Paris", "the Seine")) == "qa"
    long = "there is a hotel by the river that is cheap and good"
    assert kind_of([long, f"{long}, too"], references=(long,)) == "generation"


def test_short_outputs_out_of_a_context_are_answers():
    assert kind_of(["Paris", "the Seine", "1800"], context="In 1800 Paris, on the Seine, …") == "qa"
    assert kind_of(["Rome", "the Tiber", "1700"], context="In 1800 Paris, on the Seine, …") == "generation"


# Saying it


@pytest.fixture
def write(tmp_path):
    def write(rows, name="a.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write


def test_the_guess_is_said_with_the_flag_that_says_another(write):
    path = write([{"input": f"t{i}", "output": str(i % 5)} for i in range(20)])
    assert load_task(path).notes[-1] == f"kind is guessed from the rows: classification with 5 labels {ADVICE}"
    for kind in ("math", "generation", "qa", "parsing"):
        task = load_task(path, kind=kind)
        assert (task.kind, task.labels, task.notes) == (kind, (), ())
    assert Task.load(path, kind="math").metrics == ("exact_match_number",)


def test_kind_is_there_wherever_a_task_is_read_by_its_name(run_cli, write, tmp_path):
    path = write([{"input": f"t{i}", "output": str(i % 5)} for i in range(20)])
    assert run_cli("validate", path, "--kind", "math", "--json").json["kind"] == "math"
    assert run_cli("select", path, "--selector", "random", "-k", 2, "--kind", "math").code == 0
    args = ("--model", "scripted", "--recipes", "random", "--shots", 2, "--out", tmp_path / "run")
    assert run_cli("adapt", path, *args, "--kind", "math").code == 0
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (record["task"]["kind"], record["task"]["notes"]) == ("math", [])
    assert "--kind math" in record["repeat"]
    done = run_cli("evaluate", tmp_path / "run", path)  # read as what was learnt, so nothing is guessed
    assert done.code == 0
    assert "kind is guessed" not in done.err
    run = kshot.adapt(path, "scripted", recipes="random", shots=2, kind="math", out=tmp_path / "run")
    assert run.best.task.kind == "math"


def test_a_kind_is_known_in_any_case_and_with_a_hyphen(write, tmp_path):
    path = write(labelled_rows(6))
    assert load_task(path, kind="Classification").kind == "classification"
    choice = write([{"input": "q", "choices": ["a", "b"], "output": "a"}], "b.jsonl")
    assert load_task(choice, kind="Multiple-Choice").kind == "multiple_choice"
    (tmp_path / "train.jsonl").write_bytes(path.read_bytes())
    (tmp_path / "task.json").write_text('{"kind": "QA"}')
    assert load_task(tmp_path).kind == "qa"
    assert RunSettings(path, "scripted", kind="QA").kind == "qa"


def test_an_unknown_kind_is_refused(run_cli, write):
    path = write(labelled_rows(6))
    known = f"Known: {', '.join(sorted(KINDS))}."
    done = run_cli("validate", path, "--kind", "clasification")
    assert done.code == 2
    assert f"got 'clasification'. Did you mean 'classification'? {known}" in done.err
    with pytest.raises(UserError, match="^--kind must be one of the kinds of tasks; got 'colours'. Known: classi"):
        kshot.adapt(path, "scripted", kind="colours")
    for name, meant in (("multi-class", "classification"), ("mc", "multiple_choice"), ("QnA", "qa")):
        with pytest.raises(UserError, match=f"got '{name}'. Did you mean '{meant}'?"):
            load_task(path, kind=name)
    with pytest.raises(UserError, match="--kind must be left out for a builtin task; its kind is known"):
        load_task("builtin:bbc-headlines", kind="qa")


def test_the_flag_goes_before_task_json(tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(6), card={"kind": "generation"})
    assert load_task(task).kind == "generation"
    assert load_task(task, kind="classification").labels == ("animal", "food", "tool")
    card = {"labels": ["animal", "food", "tool", "plant"], "metrics": ["macro_f1"], "instruction": "Name it."}
    task = load_task(other := write_task(tmp_path / "other", labelled_rows(6), card=card), kind="generation")
    assert (task.labels, task.metrics, task.instruction) == ((), ("exact_match",), "Name it.")
    assert task.notes == ("task.json: labels, metrics left out, as --kind says that the task is generation",)
    assert load_task(other, kind="classification").labels == tuple(card["labels"])


def test_a_label_that_only_test_rows_have_is_refused_with_what_to_do(tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(12), [{"input": "x", "output": "planet"}])
    with pytest.raises(
        UserError, match="list it in task.json; where outputs are free texts, say --kind generation. Kno"
    ):
        load_task(task)
    assert len(load_task(task, kind="generation").test) == 1


# Rationales


def gsm8k(n, start=0):
    return [
        {"question": f"q{i}", "answer": f"He has {i} of them.\n<<{i}*2={2 * i}>>So {2 * i}.\n#### {2 * i:,}"}
        for i in range(start, start + n)
    ]


def test_a_number_after_a_rationale_is_the_output(write):
    task = load_task(write(gsm8k(20, start=990)))
    assert task.kind == "math"
    assert task.train[0].output == "1,980"
    assert task.train[0].explanation == "He has 990 of them.\n<<990*2=1980>>So 1980."
    assert task.notes[1] == (
        "the number after '####' in the column 'answer' is the output, what stands before it the explanation (--kind "
        "generation keeps both as the output)"
    )
    assert load_task(write(gsm8k(20)), kind="math").train[3].output == "6"
    kept = load_task(write(gsm8k(20)), kind="generation")
    assert kept.train[0].output == gsm8k(1)[0]["answer"]


def test_a_rationale_joins_the_explanation_that_is_there(write):
    rows = [{**row, "explanation": "seen"} for row in gsm8k(4)]
    assert load_task(write(rows)).train[1].explanation.startswith("seen\nHe has 1 of them.")
    assert (
        load_task(write([{"input": f"q{i}", "output": f"#### {i * 7}"} for i in range(4)])).train[1].explanation is None
    )


def test_a_row_without_its_number_is_the_one_that_is_refused(write):
    rows = gsm8k(20)
    rows[4]["answer"] = "He has none."
    with pytest.raises(
        UserError, match=r"row 5: 'answer' must end with '#### ' and a number, as most rows do; got a str"
    ):
        load_task(write(rows))
    assert len(load_task(write(rows), skip_bad_rows=True).train) == 19


def test_a_heading_is_no_final_answer(write):
    rows = [{"input": f"t{i}", "output": f"# Title {i}\n#### Part {i}\ntext"} for i in range(6)]
    assert load_task(write(rows)).train[0].output == rows[0]["output"]


# Whatever the rows are


ODD = (
    "yes",
    "Yes",
    " yes",
    "yes\u200b",
    "no",
    "n\u00f6",
    "no\u0308",
    "nan",
    "1",
    "2",
    "(A)",
    "b.",
    "A",
    "x\n\ny",
    "#### 4",
)
ODDER = ("", " ", None, 3, 2.5, True, ["yes"], {"a": 1}, "a\0", "\u200b", "\ud800")


def odd_rows(rng):
    """Return rows that share columns and a way of answering, with slips among them."""
    n, choices = rng.randint(1, 24), rng.random() < 0.4
    outputs = rng.sample(ODD, rng.randint(1, 6))
    form = rng.choice(("(A)", "A", "a)", "1", "1.", None))
    rows = []
    for i in range(n):
        row = {"input": f"text {rng.randint(0, n)}", "output": rng.choice(outputs)}
        if choices:
            row["choices"] = rng.sample(("red", "blue ", "Blue", "2", "A", "green"), rng.randint(2, 4))
            place = rng.randrange(len(row["choices"]))
            row["output"] = named_choice(form, place) if form else row["choices"][place]
            if form and rng.random() < 0.7:
                listed = "\n".join(f"{named_choice(form, j).strip('().')}. {c}" for j, c in enumerate(row["choices"]))
                row["input"] += f"\n{listed}"
        if rng.random() < 0.2:
            row["id"] = rng.choice(("a", "b", 3, f"train-{i}"))
        if rng.random() < 0.05:
            row[rng.choice(("input", "output", "choices", "id", "references"))] = rng.choice(ODDER)
        rows.append(row)
    return rows


def given_set(row):
    """Return the labels that a row has: of a list, or of a text with something between them."""
    output = row.get("output")
    parts = output if isinstance(output, list) else re.split(r"[|;,]", str(output))
    return {trimmed(part) for part in parts if isinstance(part, str) and trimmed(part)}


def check_rows_that_load(task, rows):
    """Check that each example is one of the rows, answered as it was written or as a note says."""
    examples = [*task.train]
    assert len({e.id for e in examples}) == len(examples)
    by_input = {}
    for row in rows:
        by_input.setdefault(str(row.get("input")), []).append(row)
    said = " ".join(task.notes)
    for e in examples:
        if task.is_multi_label:
            assert is_written(e.output, task.labels)
        elif not task.is_open:
            assert e.output in task.candidates(e)
            assert len(task.candidates(e)) >= (2 if task.kind == "multiple_choice" else 1)
            assert trimmed(e.output) == e.output
        written = [str(row.get("output")) for row in by_input[e.input]]
        if e.output in written or (task.is_multi_label and set(read(e.output)) in map(given_set, by_input[e.input])):
            continue
        reasons = {
            "white space around": e.output in map(trimmed, written),
            "as the text of that choice": e.output in e.choices,
            "in another way than most": task.choices_in_input,
            "after '####'": any(text.endswith(e.output) for text in written),
            "lists of one text": [e.output] in [row.get("output") for row in by_input[e.input]],
            "they are read as text": e.output in [json.dumps(row.get("output")) for row in by_input[e.input]],
        }
        assert any(holds for note, holds in reasons.items() if note in said), (e, written, task.notes)


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 30), marks=pytest.mark.slow)])
def test_odd_rows_load_right_or_are_refused(write, seed):
    n_loaded = n_tried = 0
    for one in [seed] if isinstance(seed, int) else seed:
        rng = random.Random(one)
        for i in range(100):
            rows, kind = odd_rows(rng), rng.choice((None, None, *KINDS))
            path = write(rows, f"{i}.jsonl")
            for skip in (False, True):
                n_tried += 1
                try:
                    task = load_task(path, kind=kind, skip_bad_rows=skip)
                except UserError:
                    continue
                n_loaded += 1
                check_rows_that_load(task, rows)
                assert skip or len(task.train) == len(rows)
                validate(task)
                grave_problems(task)
    assert n_loaded > n_tried / 4


# Columns


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Nr,Text,Kategorie\n1,a b,x\n2,c d,y\n3,e f,x\n", "the output; it has Nr, Text, Kategorie; name it, as in "
         "--columns output=Kategorie."),
        ("satz,Art (neu),Nr\na b,x,1\nc d,y,2\ne f,x,3\n", "the input and the output; it has satz, Art (neu), Nr; name "
         "them, as in --columns 'input=satz,output=Art (neu)'."),
        ("lang,sentence,Sorte\nde,a b,x\nde,c d,y\n", "the output; it has lang, sentence, Sorte; name it, as in "
         "--columns output=Sorte."),
    ],
)  # fmt: skip
def test_a_column_that_no_row_has_is_told_once_with_a_likely_one(tmp_path, content, text):
    path = tmp_path / "excel.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        load_task(path)
    assert str(error.value) == f"{path}: no column holds {text}"


@pytest.mark.parametrize("column", ["labels", "class", "Category", "tag"])
def test_less_common_names_of_an_output_are_guessed_where_they_hold_one_text(write, column):
    rows = [{"text": f"t{i}", column: "ab"[i % 2]} for i in range(6)]
    assert load_task(write(rows)).labels == ("a", "b")
    assert load_task(write([row | {column: [row[column]]} for row in rows])).labels == ("a", "b")
    assert load_task(write([row | {"label": "c"} for row in rows])).labels == ("c",)
    many = [row | {column: [f"a{i}", f"b{i}"]} for i, row in enumerate(rows)]
    with pytest.raises(UserError, match=f"no column holds the output; .* --columns output={column}.$"):
        load_task(write(many))


SETS = [{"text": f"t{i}", "labels": (["joy"], ["love", "joy"], [], ["fear", "love"])[i % 4]} for i in range(12)]
READ_SETS = ["joy", "joy|love", "(none)", "fear|love"] * 3


def test_labels_that_hold_lists_are_sets_of_labels(write, tmp_path):
    frame, written = pd.DataFrame(SETS), tmp_path / "sets.csv"
    frame.to_csv(written, index=False)  # pandas writes lists as Python does
    frame.to_parquet(tmp_path / "sets.parquet")
    as_json = [row | {"labels": json.dumps(row["labels"])} for row in SETS]
    as_sets = [row | {"labels": set(row["labels"])} for row in SETS]
    numbers = [[("fear", "joy", "love").index(label) for label in row["labels"]] for row in SETS]
    lists = datasets.List(datasets.ClassLabel(names=["fear", "joy", "love"]))
    of_classes = datasets.Dataset.from_dict(
        {"text": [row["text"] for row in SETS], "labels": numbers},
        features=datasets.Features({"text": datasets.Value("string"), "labels": lists}),
    )
    for source in (
        *(write(SETS), frame, written, pd.read_csv(written), tmp_path / "sets.parquet", write(as_json), as_sets),
        *(of_classes, pl.DataFrame(SETS)),
    ):
        task = load_task(source)
        assert (task.kind, task.labels) == ("multi_label", ("fear", "joy", "love"))
        assert [e.output for e in task.train] == READ_SETS
        assert [note for note in task.notes if "no label" not in note] == [
            "input is read from the column 'text', output from 'labels' (guessed; --columns overrides)",
            "the column 'labels' holds lists of labels: kind is multi_label (--kind says another)",
        ]
    more = load_task(write([row | {"label": "ab"[i % 2]} for i, row in enumerate(SETS)]))
    assert (more.kind, more.labels) == ("classification", ("a", "b"))


def test_a_set_that_is_missing_is_a_bad_row(write):
    for rows in ([*SETS, {"text": "x", "labels": None}], pd.DataFrame([*SETS, {"text": "x", "labels": None}])):
        with pytest.raises(
            UserError, match=r"row 13: 'labels' must be a list of labels; got null; write it as .* \[\]"
        ):
            load_task(rows)
        assert len(load_task(rows, skip_bad_rows=True).train) == 12
    with pytest.raises(UserError, match="row 13: the column 'labels' is missing; add it, or leave the row out"):
        load_task(write([*SETS, {"text": "x"}]))
    with pytest.raises(
        UserError, match=r"got a list .* if they are labels, say --kind multi_label; if all of them are"
    ):
        load_task(write([*SETS, {"text": "x", "labels": "joy"}]), columns={"output": "labels"})


def test_a_class_of_a_list_that_has_no_name_is_a_bad_row():
    lists = datasets.List(datasets.ClassLabel(names=["fear", "joy"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": lists})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[0], [1, -1]]}, features=features)
    with pytest.raises(UserError, match=r"Dataset row 2: 'labels' must be one of the classes 0\.\.1; got -1"):
        load_task(rows)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": None}, "'label' must be a string; got null; fill it in, or leave the row out."),
        (
            {"label": {"a": 1}},
            "'label' must be a string; got an object ({\"a\": 1}); write it as one text, or",
        ),
        ({"text": ["a"]}, "'text' must be a string; got a list ([\"a\"]); write it as one text, or leave the row out."),
        ({}, "the column 'label' is missing, the row has text; add it, or leave the row out."),
    ],
)
def test_one_row_among_many_is_not_a_matter_of_columns(write, change, text):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(9)]
    rows[4] = rows[4] | change if change else {"text": "t4"}
    with pytest.raises(UserError) as error:
        load_task(write(rows))
    assert f"a.jsonl row 5: {text}" in str(error.value)
    assert str(error.value).endswith(" --skip-bad-rows (in Python skip_bad_rows=True) goes on without it.")
