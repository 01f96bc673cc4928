"""Worked examples: a file `cot` beside train, whose reasons composers can show."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kshot
from conftest import write_task
from kshot.core.errors import TooLongError, UserError
from kshot.core.lessons import Lesson
from kshot.core.script import usual
from kshot.core.types import Example, Task
from kshot.methods.composers.kept_notes import Notes
from kshot.methods.composers.label_first import LabelFirst
from kshot.methods.composers.reason_first import ReasonFirst
from kshot.models.scripted import ScriptedModel
from kshot.prompts.fitting import prompt_tokens
from kshot.store.files import write_jsonl
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.built import check_task

SIDES = ("left", "right")
ROWS = [{"input": f"way {i}", "output": SIDES[i % 2]} for i in range(10)]
WORKED = [
    {"input": "an old way", "output": "left", "explanation": "It is old.\n\nOld ways go left."},
    {"input": "a new way", "output": "right", "explanation": "It is new."},
]


@pytest.fixture
def folder(tmp_path):
    folder = write_task(tmp_path / "ways", ROWS[:8], ROWS[8:])
    write_jsonl(folder / "cot.jsonl", WORKED)
    return folder


def said(composer, task: Task, shown=(), model=None) -> str:
    asked = TaskModel.for_task(task, model or ScriptedModel())
    ready = composer.fit((), model=asked, rng=np.random.default_rng(0))
    return replace(asked, composer=ready).compose(shown, task.test[0]).text


def test_they_are_read_beside_train(folder):
    task = Task.load(folder)
    assert [(e.id, e.output, e.explanation) for e in task.worked] == [
        ("cot-1", "left", "It is old.\n\nOld ways go left."), ("cot-2", "right", "It is new.")]  # fmt: skip
    note = "2 worked examples of 'cot' can be shown with the reasons for their answers (composer=reason-first)"
    assert note in task.notes
    assert (len(task.train), len(task.test)) == (8, 2)
    assert replace(task, worked=()).fingerprint != task.fingerprint
    (folder / "cot.jsonl").unlink()
    assert Task.load(folder).fingerprint == replace(task, worked=()).fingerprint
    check_task(task)


def test_they_are_shown_where_nothing_else_has_a_reason(folder):
    task = Task.load(folder)
    knowing = ReasonFirst().knowing({"reason": "It bends."})
    assert said(knowing, task) == (
        "Text: an old way\nReason: It is old.\nOld ways go left.\nLabel: left\n\n"
        "Text: a new way\nReason: It is new.\nLabel: right\n\nText: way 8\nReason: It bends.\nLabel:"
    )
    assert said(knowing, task, task.train[:1]).startswith("Text: an old way\n")
    assert "Text: way 0\nLabel: left\n\nText: way 8" in said(knowing, task, task.train[:1])
    explained = (replace(task.train[0], explanation="So it is."),)
    assert said(knowing, task, explained).startswith("Text: way 0\nReason: So it is.")
    without = replace(knowing, worked=False)
    assert said(without, task) == "Text: way 8\nReason: It bends.\nLabel:"
    assert said(LabelFirst(), task).startswith("Text: an old way\nLabel: left\n\nReason: It is old.\nOld ways go left.")
    assert said(LabelFirst(worked=False), task) == TaskModel.for_task(task, ScriptedModel()).layout.write(
        usual(task, (), task.test[0].question)).text  # fmt: skip


def test_those_that_leave_no_room_are_not_shown(folder):
    task = Task.load(folder)
    text = said(LabelFirst(), task, model=ScriptedModel(max_tokens=80))
    assert ("old way" in text, "new way" in text) == (True, False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input": "a way", "output": "left"}], r"cot.jsonl row 1: a worked example must have an 'explanation'"),
        ([*WORKED, {**WORKED[0], "output": "up"}], r"cot.jsonl row 3: .*'up'"),
        ([*WORKED, {"output": "left", "explanation": "So."}], r"cot.jsonl row 3: the column 'input' is missing"),
        ([*WORKED, {**WORKED[0], "output": ""}], r"cot.jsonl row 3: 'output' must not be empty"),
        ([{**WORKED[0], "explanation": 3}], r"cot.jsonl row 1: 'explanation' must be a string"),
        ([{"text": "a way", "output": "left", "explanation": "So."}], r"cot.jsonl: no column is called 'input'"),
    ],
)
def test_bad_rows_are_named(folder, rows, message):
    write_jsonl(folder / "cot.jsonl", rows)
    with pytest.raises(UserError, match=message):
        Task.load(folder)


def test_bad_rows_can_be_skipped(folder):
    write_jsonl(folder / "cot.jsonl", [*WORKED, {"input": "a way", "output": "left"}])
    task = Task.load(folder, skip_bad_rows=True)
    assert len(task.worked) == 2
    assert any("1 row that cannot be used is left out: " in note and "cot.jsonl row 3" in note for note in task.notes)


@pytest.mark.parametrize("at", [0, 9])
def test_one_that_tells_the_answer_to_a_row_is_left_out_and_that_is_said(folder, at):
    write_jsonl(folder / "cot.jsonl", [*WORKED, {**ROWS[at], "input": f" {ROWS[at]['input']} ", "explanation": "So."}])
    task = Task.load(folder)
    assert len(task.worked) == 2
    said = "1 row of 'cot' asks what a row of train or test asks, and would tell its answer: left out"
    assert said in task.notes


@pytest.mark.parametrize(
    ("worked", "message"),
    [
        ((Example("a way", "left", "w"),), "worked example 1 must have an explanation"),
        ((Example("way 8", "left", "w", explanation="So."),), "worked example 1 asks what an example of train or test"),
        ((Example("a way", "up", "w", explanation="So."),), "worked example 1: .*'up'"),
        ([Example("a way", "left", "w", explanation="So.")], "worked must be a tuple"),
    ],
)
def test_those_of_a_task_that_is_built_are_checked(folder, worked, message):
    with pytest.raises(UserError, match=message):
        check_task(replace(Task.load(folder), worked=worked))


def test_a_run_and_its_saved_model_show_them(folder, tmp_path, run_cli):
    recipe = "zero-shot:composer=reason-first(max_tokens=12)"
    done = run_cli("adapt", folder, "--model", "tiny", "--recipes", recipe, "--out", tmp_path / "run", "--json")
    assert done.json["chosen"] == recipe
    kept = json.loads((tmp_path / "run" / "best" / "composer.json").read_text("utf-8"))
    assert [row["input"] for row in kept["_worked"]] == ["an old way", "a new way"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text("utf-8").splitlines()]
    assert all(row["found"][0].keys() == {"reason", "finished", "step_scores"} for row in rows)
    sent = json.loads((tmp_path / "run" / "prompts.json").read_text("utf-8"))
    assert "Reason: It is old.\nOld ways go left.\n" in json.dumps(sent).encode().decode("unicode_escape")
    asked = tmp_path / "asked.txt"
    asked.write_text("way 8\n")
    told = run_cli("predict", tmp_path / "run", asked, "--json").json
    assert isinstance(told["predictions"][0]["found"][0]["reason"], str)
    loaded = kshot.load(tmp_path / "run")
    assert loaded.fitted.model is not None
    assert "Old ways go left." in loaded.fitted.model.composer.knowing({"reason": "x"}).compose(
        loaded.fitted.task, (), Task.load(folder).test[0].question).pieces[1].text  # fmt: skip


def test_open_tasks_with_worked_examples(tmp_path, run_cli):
    rows = [{"input": f"{i} and 1?", "output": str(i + 1)} for i in range(10)]
    folder = write_task(tmp_path / "sums", rows[:8], rows[8:])
    write_jsonl(folder / "cot.jsonl", [{"input": "7 and 7?", "output": "14", "explanation": "7 + 7 = 14"}])
    recipes = "zero-shot,random:k=2,random:k=2,composer=reason-first(max_tokens=12),random:k=2,composer=label-first"
    done = run_cli("adapt", folder, "--model", "tiny", "--recipes", recipes, "--out", tmp_path / "run", "--json")
    board = {row["recipe"]: row["status"] for row in done.json["leaderboard"]}
    assert set(board.values()) <= {"done", "dropped"}
    assert len(board) == 4


def test_a_name_in_capitals_and_another_format(folder):
    (folder / "cot.jsonl").unlink()
    (folder / "COT.csv").write_text('input,output,explanation\n"an old way",left,"It is old."\n')
    assert [e.explanation for e in Task.load(folder).worked] == ["It is old."]


LONG = tuple(Example(f"worked {i}", "left", f"w{i}", explanation="so it is " * 4) for i in range(3))


def long_task(n_words: int) -> Task:
    """A task whose last row alone is long."""
    rows = (*(Example(f"way {i}", SIDES[i % 2], f"r{i}") for i in range(6)), Example("on " * n_words, "left", "long"))
    return Task("ways", "classification", rows, rows[-1:], labels=SIDES, worked=LONG)


@pytest.mark.parametrize("composer", [LabelFirst(), Notes(inner=LabelFirst(), lookup="bm25")])
def test_as_many_are_shown_as_fit_with_the_question(composer):
    shown = []
    for n in range(10, 210, 10):
        task, base = long_task(n), ScriptedModel(max_tokens=200)
        asked = TaskModel.for_task(task, base)
        fitted = replace(asked, composer=composer.fit((), model=asked, rng=np.random.default_rng(0)))
        try:
            asked.prompt((), task.train[-1])
        except TooLongError:
            with pytest.raises(TooLongError):
                fitted.prompt((), task.train[-1])
            break
        prompt, dropped = fitted.prompt(task.train[:2], task.train[-1])
        assert prompt_tokens(prompt, base) + fitted.answer_room(task.train[-1]) <= 200
        assert prompt == fitted.compose(task.train[dropped:2], task.train[-1])  # as the record of a run tells it
        shown.append(prompt.text.count("Text: worked"))
        taught = fitted.training_text(Lesson(task.train[:2], task.train[-1])).prompt
        assert prompt_tokens(taught, base) <= 200
        assert fitted.prompt((), task.train[0])[0].text.count("Text: worked") == 3
    assert shown == sorted(shown, reverse=True)
    assert set(shown) == {0, 1, 2, 3}


def test_worked_examples_do_not_come_in_place_of_reasons_that_fit():
    rows = tuple(Example(f"way {i}", SIDES[i % 2], f"r{i}", explanation="It is so.") for i in range(8))
    task = Task("ways", "classification", rows, labels=SIDES, worked=LONG)
    asked = TaskModel.for_task(task, ScriptedModel(max_tokens=150))
    model = replace(asked, composer=LabelFirst().fit((), model=asked, rng=np.random.default_rng(0)))
    found = {}
    for n in (40, 80, 110):
        prompt, found[n] = model.prompt(rows, Example("on " * n, "left", "long"))
        assert "worked" not in prompt.text
    assert 0 < found[40] < found[80] < found[110] < 8
