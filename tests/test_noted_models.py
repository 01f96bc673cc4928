"""`kshot notes`, and notes on adapted models in Python: a deployed model is corrected by a sentence."""

import copy
import json
import threading
from dataclasses import replace

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.folder import load, rewrite, saved_recipe
from kshot.adapted.model import AdaptedModel
from kshot.adapted.noted import notes_in, tried, with_notes
from kshot.adapted.seal import check_seal
from kshot.core.errors import InvalidInputError, UserError
from kshot.core.types import Question
from kshot.learners.learner import Setup
from kshot.methods.composers import COMPOSERS
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from test_notes import EDITED, EDITS, KNOWN, Reader, task_of
from test_serve import running
from test_serve import served as serving

WORD_NOTES = ("the cat and the dog, number 99, is a tool", "Soup is hot.")


@pytest.fixture(scope="module")
def run(words_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noted") / "run"
    kshot.adapt(words_task, "scripted", recipes=["random:k=4"], out=folder)
    return folder


@pytest.fixture(params=["random:k=4", "zero-shot", "bm25:k=2,composer=wording(labels=true)", "icl+ft:lr=1e-3,steps=1"])
def saved(request, words_task, tmp_path):
    task, model = kshot.Task.load(words_task), kshot.load_model("tiny")
    recipe = parse_recipe(request.param, shots=2)
    fitted = AdaptedModel.fit(recipe, task.train[:3], Setup(task, TaskModel.for_task(task, model), 0), choice={})
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def by_words(adapted: AdaptedModel) -> AdaptedModel:
    """Look notes up by words: no encoder is loaded."""
    return adapted._with(adapted.recipe.having(composer=replace(adapted.recipe.part("composer"), lookup="bm25")))


def test_a_saved_model_is_corrected_listed_and_put_back(run_cli, saved):
    plain = load(saved).predictions(["the cat and the dog, number 99"])
    assert run_cli("notes", "list", saved).out == ""
    added = run_cli("notes", "add", saved, *WORD_NOTES)
    assert added.code == 0, added.err
    assert added.out.splitlines()[:2] == [f"note 1: {WORD_NOTES[0]}", f"note 2: {WORD_NOTES[1]}"]
    assert "its calibration, is from before" in added.out
    check_seal(saved)
    assert run_cli("notes", "list", saved).out == f"1: {WORD_NOTES[0]}\n2: {WORD_NOTES[1]}\n"
    told = run_cli("predict", saved, "-", "--json", input="the cat and the dog, number 99\n").json["predictions"][0]
    assert told["found"][0]["notes"] == [WORD_NOTES[0]]
    assert list(told["probs"].values()) != pytest.approx(plain[0].probs, abs=1e-9)
    removed = run_cli("notes", "remove", saved, 1)
    assert removed.out.startswith(f"note 1 is removed: {WORD_NOTES[0]}\n")
    assert run_cli("notes", "list", saved, "--json").json == [{"number": 1, "note": WORD_NOTES[1]}]
    run_cli("notes", "remove", saved, 1)
    again = load(saved).predictions(["the cat and the dog, number 99"])
    assert again[0].probs == pytest.approx(plain[0].probs, abs=1e-6)
    assert again[0].prompt_tokens == plain[0].prompt_tokens


def test_a_run_is_corrected_too(run_cli, run, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("Goats eat soup.\n\nSaws are loud.\n")
    done = run_cli("notes", "add", run, "Rice is white.", "--file", file, "--json").json
    assert done["notes"] == ["Rice is white.", "Goats eat soup.", "Saws are loud."]
    assert notes_in(saved_recipe(run)) == tuple(done["notes"])
    same = run_cli("notes", "add", run, " Rice  is white. ")
    assert same.out == "note 1 says it already: Rice is white.\n"
    other = run_cli("notes", "add", run, "Rice is not white.")
    assert "note 4 counts instead of note 1, which says otherwise: Rice is white." in other.out
    listed = run_cli("notes", "list", run)
    assert listed.out.splitlines()[0] == "1: Rice is white. (note 4 counts instead)"
    assert run_cli("notes", "list", run, "--json").json[0]["instead"] == 4
    assert "it counts again: Rice is white." in run_cli("notes", "remove", run, 4).out


@pytest.mark.parametrize("name", ["adapt", "predict", "evaluate"])
def test_a_run_with_notes_can_be_used_as_before(run_cli, run, words_task, name):
    run_cli("notes", "add", run, "Cake is sweet.")
    args = {
        "adapt": ("adapt", words_task, "--model", "scripted", "--recipes", "random:k=4", "--out", run),
        "predict": ("predict", run, "-"),
        "evaluate": ("evaluate", run, words_task),
    }[name]
    done = run_cli(*args, input="the cake\n")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("add", "RUN"), "must be given a sentence"),
        (("add", "RUN", " "), "must say something; it is empty"),
        (("add", "RUN", "x" * 5000), "must have 4000 characters at most"),
        (("add", "RUN", "--file", "nowhere.txt"), "must be a text file of notes"),
        (("remove", "RUN", "9999"), "There must be a note 9999 to remove"),
        (("add", "nowhere", "x"), "There is no folder nowhere"),
        (("list", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(run_cli, run, args, said):
    before = saved_recipe(run).record()
    refused = run_cli("notes", *[run if arg == "RUN" else arg for arg in args])
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
    assert saved_recipe(run).record() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("majority", "Notes are said to a language model; 'majority' asks none"),
        ("average(random, zero-shot)", "Notes are kept by one recipe"),
        ("zero-shot:calibration=contextual", "not calibrated by inputs without content"),
    ],
)
def test_models_that_can_keep_no_notes(words_task, tmp_path, name, said):
    task, model = kshot.Task.load(words_task), kshot.load_model("scripted")
    recipe = parse_recipe(name, shots=2)
    fitted = AdaptedModel.fit(recipe, task.train[:6], Setup(task, TaskModel.for_task(task, model), 0), choice={})
    with pytest.raises(UserError, match=said):
        fitted.noted("A note.")
    fitted.save(tmp_path / "model")
    with pytest.raises(UserError, match=said):
        rewrite(tmp_path / "model", lambda recipe, task: with_notes(recipe, task, ["A note."]))


@pytest.fixture
def facts() -> AdaptedModel:
    task = task_of(tuple(KNOWN))
    return AdaptedModel.fit(
        parse_recipe("zero-shot", shots=1), task.train, Setup(task, TaskModel.for_task(task, Reader()), 0), choice={}
    )


def test_in_python_a_model_is_corrected_by_sentences(facts, tmp_path):
    asked = ["What is the capital of Land0?", "What is the king of Land0?"]
    assert facts.predict(asked) == ["Oldcapital0", "Oldking0"]
    edited = by_words(facts.noted(*EDITS))
    assert edited.notes == EDITS
    assert facts.notes == ()
    edited = edited._with(edited.recipe.having(composer=replace(edited.recipe.part("composer"), gate="reply")))
    assert edited.predict(asked) == [EDITED["capital", "Land0"], "Oldking0"]
    edited.save(tmp_path / "model")
    for other in (load(tmp_path / "model", model=Reader()), copy.deepcopy(edited), edited.warm()):
        assert other.notes == EDITS
        assert other.predict(asked) == [EDITED["capital", "Land0"], "Oldking0"]
    assert edited.without_note(1).predict(asked) == ["Oldcapital0", "Oldking0"]


def test_notes_in_python_that_cannot_be_used(facts):
    for note in ("", "word " * 900, 3):
        with pytest.raises(InvalidInputError):
            facts.noted(note)
    with pytest.raises(UserError, match="must be notes to add"):
        facts.noted()
    with pytest.raises(UserError, match="There must be a note 1 to remove; the model has no notes"):
        facts.without_note(1)
    small = facts.with_model(Reader(max_tokens=60))
    with pytest.raises(InvalidInputError, match="must have at most 30 tokens, half of what the model reads"):
        small.noted("word " * 40)


def test_two_who_add_at_once_both_leave_their_notes(run_cli, words_task, tmp_path):
    task, model = kshot.Task.load(words_task), kshot.load_model("scripted")
    setup = Setup(task, TaskModel.for_task(task, model), 0)
    AdaptedModel.fit(parse_recipe("zero-shot", shots=2), task.train[:6], setup, choice={}).save(tmp_path / "model")

    def add(i: int) -> None:
        rewrite(tmp_path / "model", lambda recipe, task: with_notes(recipe, task, [f"Note of thread {i}."]))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(notes_in(saved_recipe(tmp_path / "model"))) == {f"Note of thread {i}." for i in range(6)}
    check_seal(tmp_path / "model")


def test_what_an_inner_composer_remembers_is_kept(tmp_path, run_cli):
    rows = [{**row, "context": f"Page {i}."} for i, row in enumerate(labelled_rows(12))]
    task = kshot.Task.load(write_task(tmp_path / "task", rows))
    recipe = parse_recipe("zero-shot:composer=notes(lookup=bm25,from_contexts=true)", shots=2)
    model = TaskModel.for_task(task, kshot.load_model("scripted"))
    AdaptedModel.fit(recipe, task.train, Setup(task, model, 0), choice={}).save(tmp_path / "model")
    before = json.loads((tmp_path / "model" / "composer.json").read_text())
    assert len(before["_notes"]) == 12
    run_cli("notes", "add", tmp_path / "model", "Page 99.")
    after = json.loads((tmp_path / "model" / "composer.json").read_text())
    assert after["_notes"] == [*before["_notes"], "Page 99."]
    assert after["_threshold"] == before["_threshold"] is not None


def test_which_notes_a_question_is_told_is_shown_and_set(run_cli, words_task, tmp_path):
    run = tmp_path / "run"
    kshot.adapt(words_task, "scripted", recipes=["random:k=2"], out=run)
    assert "the model has none" in run_cli("notes", "try", run, "Who runs Acme?").err
    added = run_cli("notes", "add", run, "The CEO of Acme is Ann.", "Acme is in Berlin.", "Soup is hot.").out
    assert "above 0.6; `kshot notes try` shows it for a question" in added
    shown = run_cli("notes", "try", run, "Who runs Acme?", "--json").json
    assert shown["threshold"] == 0.6
    likeness = [row["likeness"] for row in shown["notes"]]
    assert likeness == sorted(likeness, reverse=True)
    assert {row["note"] for row in shown["notes"] if row["said"]} == {
        row["note"] for row in shown["notes"] if row["likeness"] > 0.6
    }
    for odd, flaw in (("", "it is empty"), ("caf\udce9", "it holds half of a surrogate pair")):
        assert f"QUESTION must be the text of an input, but {flaw}" in run_cli("notes", "try", run, odd).err
    (tmp_path / "odd.jsonl").write_text('"Tea\\u0000is hot."\n')
    assert "line 1: a note must not hold a NUL" in run_cli("notes", "add", run, "--file", tmp_path / "odd.jsonl").err
    lower = f"{likeness[1] - 0.01:.3f}"
    assert f"above {float(lower):.2g}" in run_cli("notes", "add", run, "Tea is hot.", "--threshold", lower).out
    told = run_cli("notes", "try", run, "Who runs Acme?").out
    assert told.count(", is said") == 2
    found = run_cli("predict", run, "-", "--json", input="Who runs Acme?\n").json["predictions"][0]["found"]
    assert len(found[0]["notes"]) == 2
    judged = parse_recipe("zero-shot:composer=notes(gate=reply)", shots=1)
    judged = with_notes(judged, kshot.Task.load(words_task), ["Tea is hot."]).recipe
    with pytest.raises(UserError, match="gate=likeness must judge .* here it is 'reply'"):
        tried(judged, kshot.Task.load(words_task), Question("Tea?", "q"))


def test_a_server_says_which_notes_it_has_used(facts):
    edited = by_words(facts.noted(*EDITS))
    with running(serving(edited, "facts")) as client:
        asked = {"inputs": ["What is the capital of Land0?"], "show": True}
        (said,) = client.post("/predict", json=asked).json()["predictions"]
        assert EDITS[0] in said["found"][0]["notes"]
        (said,) = client.post("/predict", json=asked | {"show": False}).json()["predictions"]
        assert said["found"] is None


def test_the_same_command_writes_the_model_anew_without_notes(run_cli, words_task, tmp_path):
    command = ("adapt", words_task, "--model", "scripted", "--recipes", "random:k=2", "--out", tmp_path, "--limit", 4)
    assert run_cli(*command).code == 0
    run_cli("notes", "add", tmp_path, "Cake is sweet.")
    assert notes_in(saved_recipe(tmp_path)) == ("Cake is sweet.",)
    assert run_cli(*command).code == 0
    assert notes_in(saved_recipe(tmp_path)) == ()


def test_notes_in_a_file_are_a_part_of_the_recipe(run_cli, words_task, tmp_path):
    (tmp_path / "notes.txt").write_text("Cake is sweet.\nCake is not sweet.\n")
    recipe = f"random:k=2,composer=notes(file={tmp_path / 'notes.txt'},lookup=bm25)"
    command = ("adapt", words_task, "--model", "scripted", "--recipes", recipe, "--limit", 4)
    done = run_cli(*command, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    said = "of 4 questions were asked with notes; 1 of the notes says otherwise than a later one, which counts instead"
    assert said in done.err.replace("\n", " "), done.err
    (tmp_path / "notes.txt").unlink()  # the saved model holds them
    assert notes_in(saved_recipe(tmp_path / "run")) == ("Cake is sweet.", "Cake is not sweet.")
    assert run_cli("predict", tmp_path / "run", "-", input="the cake\n").code == 0
    refused = run_cli(*command, "--out", tmp_path / "other")
    assert (refused.code, refused.out) == (2, "")
    assert "must be a text file of notes" in refused.err


@pytest.mark.parametrize("name", [name for name in COMPOSERS if name != "notes"])
def test_what_the_composer_around_which_notes_are_put_remembers_is_kept(name, tmp_path):
    rows = [
        {**row, "context": f"Page {i}. It is there.", "explanation": "It is what it is."}
        for i, row in enumerate(labelled_rows(8))
    ]
    task = kshot.Task.load(write_task(tmp_path / "task", rows))
    recipe = parse_recipe(f"random:k=2,composer={name}", shots=2)
    if not recipe.suits(task):
        pytest.skip("it is for other tasks")
    fitted = AdaptedModel.fit(
        recipe, task.train, Setup(task, TaskModel.for_task(task, kshot.load_model("scripted")), 0), choice={}
    )
    fitted.save(tmp_path / "model")
    rewrite(tmp_path / "model", lambda recipe, task: with_notes(recipe, task, ["A note."]))
    check_seal(tmp_path / "model")
    before, after = fitted.recipe.part("composer"), load(tmp_path / "model").recipe.part("composer")
    asked = task.train[0].question
    assert after.notes == ("A note.",)
    assert after.compose(task, task.train[1:3], asked) == before.compose(task, task.train[1:3], asked)
    assert load(tmp_path / "model").predict([{"input": "the cat", "context": "Page 1."}]) != []
