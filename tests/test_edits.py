"""The suite `edits`: a note reaches the questions that follow from it, and no others."""

import json
from dataclasses import replace

import numpy as np
import pytest

from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.evaluators.edits import Edits, measured, quality
from kshot.evaluators.fact_edits import (
    EDITED,
    FOLLOWS,
    MOST_EDITS,
    NEIGHBOUR,
    PARAPHRASE,
    RELATION,
    UNRELATED,
    edits_of,
    made_edits,
    unrelated_notes,
)
from kshot.measures.text_metrics import squad_says
from kshot.methods.composers.kept_notes import REFUSAL, Notes
from kshot.models.scripted import ScriptedModel
from kshot.retrieval.note_memory import NoteMemory
from kshot.taskmodel.taskmodel import TaskModel

TASK = Task("facts", "qa", ())
BY_WORDS = Notes(lookup="bm25", gate="reply")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


EDITS = made_edits(24, rng=rng())


class Reader(ScriptedModel):
    """Right iff the note that a question follows from is there; other notes mislead it unless it may refuse."""

    def __init__(self, edits):
        super().__init__(name="reader")
        self._edits = edits

    def with_store(self, store):
        return self

    def _believed(self, prompt):
        text = prompt.text
        at = {one.question: text.rfind(one.question) for edit in self._edits for one in edit.asked}
        question = max(at, key=lambda one: (at[one], len(one)))
        told = [edit for edit in self._edits if edit.note in text[: at[question]]]
        own = [one.answer for edit in told for one in edit.asked if one.answer and one.question == question]
        if own:
            return own[0]
        if REFUSAL in text:
            return REFUSAL
        return f"misled by {told[-1].note}" if told else f"known of {question}"


def found(composer: Notes, notes, edits=EDITS):
    report = measured(edits, composer.noting(notes), TaskModel.for_task(TASK, Reader(edits)))
    return report, tuple(round(report[name].value, 6) for name in ("es", "bp", "eq"))


def notes_of(edits):
    return [edit.note for edit in edits]


def test_without_notes_nothing_changes():
    report, (es, bp, _) = found(BY_WORDS, ())
    assert (es, bp) == (0, 1)
    assert all(row["before"] == row["after"] for row in report["answers"])


def test_a_reader_that_needs_the_note_and_no_other_has_all():
    report, shares = found(BY_WORDS, notes_of(EDITS))
    assert shares == (1, 1, 1)
    assert {kind: one.value for kind, one in report["told"].items()} == {
        EDITED: 1, PARAPHRASE: 1, NEIGHBOUR: 0, RELATION: 0}  # fmt: skip
    assert len(report["es"].units) == 3 * 24
    assert len(report["bp"].units) == 2 * 24


def test_notes_that_are_said_in_any_case_reach_too_far():
    _, (es, bp, eq) = found(replace(BY_WORDS, steps=1), notes_of(EDITS))
    two = found(BY_WORDS, notes_of(EDITS))[0]
    one = found(replace(BY_WORDS, steps=1), notes_of(EDITS))[0]
    assert es == 1
    assert bp < 0.2
    assert eq == pytest.approx(2 * bp / (1 + bp), abs=1e-5)
    assert two["right"][NEIGHBOUR].value > one["right"][NEIGHBOUR].value + 0.5


def test_a_thousand_notes_more_take_nothing_away():
    for composer in (BY_WORDS, Notes(lookup="bm25")):
        alone, shares = found(composer, notes_of(EDITS))
        _, with_more = found(composer, [*notes_of(EDITS), *unrelated_notes(1000)])
        assert with_more[0] >= shares[0] > 0.3
        assert with_more[1] >= shares[1]
    assert len(set(unrelated_notes(1000))) == 1000


@pytest.mark.parametrize("seed", range(5))
def test_made_edits_do_not_touch_each_other(seed):
    edits = made_edits(MOST_EDITS, rng=rng(seed))
    asked = [one for edit in edits for one in edit.asked]
    follow = {one.question for one in asked if one.kind in FOLLOWS}
    assert len(follow) == 3 * MOST_EDITS
    assert not follow & {one.question for one in asked if one.kind in UNRELATED}
    assert all(
        one.answer != one.before and squad_says(one.answer, edit.note) for edit in edits for one in edit.asked[:3]
    )
    memory = NoteMemory().add([*notes_of(edits), *unrelated_notes(100)])
    assert len(memory.notes) == MOST_EDITS + 100
    assert not memory.overruled
    assert made_edits(9, rng=rng(seed)) == made_edits(9, rng=rng(seed))


def test_quality_is_the_harmonic_mean():
    none = np.nan
    assert quality(np.array([[1, none], [0, none], [none, 1], [none, 1]])) == pytest.approx(2 / 3)
    assert quality(np.array([[0, none], [none, 0]])) == 0
    assert np.isnan(quality(np.array([[none, 1]])))
    assert squad_says("Riga", "In Riga, Latvia.")
    assert not squad_says("Riga", "In Rigals.")


# A user's file


def written(folder, entries, *, as_list=False):
    file = folder / "edits.json"
    file.write_text(json.dumps(entries) if as_list else "\n".join(map(json.dumps, entries)), "utf-8")
    return str(file)


def test_edits_are_read_in_three_forms(tmp_path):
    ours = {"note": "Ann is a pilot.", "question": "What is Ann?", "answer": "pilot", "paraphrases": ["Ann's job?"],
            "neighbours": ["What is Bo?"], "other_relations": ["Where is Ann from?"], "before": "judge"}  # fmt: skip
    (edit,) = edits_of(written(tmp_path, [ours]))
    assert [(one.kind, one.answer, one.before) for one in edit.asked] == [
        (EDITED, "pilot", "judge"), (PARAPHRASE, "pilot", "judge"), (NEIGHBOUR, "", None),
        (RELATION, "", None)]  # fmt: skip
    rewrite = {
        "prompt": "The job of {} {is",  # other braces are text
        "subject": "Ann",
        "target_new": {"str": "pilot"},
        "target_true": {"str": "judge"},
    }
    entry = {
        "requested_rewrite": rewrite,
        "paraphrase_prompts": ["Ann works as a"],
        "neighborhood_prompts": ["Bo is a"],
    }
    (edit,) = edits_of(written(tmp_path, [entry], as_list=True))
    assert edit.note == "The job of Ann {is pilot."
    assert [(one.kind, one.question) for one in edit.asked] == [
        (EDITED, "The job of Ann {is"), (PARAPHRASE, "Ann works as a"), (NEIGHBOUR, "Bo is a")]  # fmt: skip
    rows = [{"context": "Ann is a pilot.", "input": f"Who is {who}?", "output": job, "context_relevant": who == "Ann"}
            for who, job in (("Ann", "pilot"), ("Bo", "cook"))]  # fmt: skip
    assert [edit.asked[0].kind for edit in edits_of(written(tmp_path, rows))] == [EDITED, NEIGHBOUR]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{"note": "Ann is a pilot."}],
            "entry 1 must have note, question and answer, or requested_rewrite as CounterF",
        ),
        ([{"note": "Ann is a pilot.", "question": "What is Ann?", "answer": "pilot"}], "it has only one of the two"),
        ([{"note": "", "question": "What is Ann?", "answer": "pilot"}], "entry 1: note must say something"),
        ([["Ann"]], "entry 1 must have note, question and answer"),
        (
            [{"note": "Ann was born in 1999.", "question": "When?", "answer": "1999", "before": 1998}],
            r"entry 1 must have note, .* all of them texts\. Correct it",
        ),
        ([{"context": "It was in 1999.", "input": "When?", "output": 1999, "context_relevant": True}], "all of them"),
        ([{"context": "It was so.", "input": "Who?", "output": "he", "context_relevant": "false"}], "true or false"),
    ],
)
def test_a_file_that_holds_no_edits_is_refused(tmp_path, entries, message):
    with pytest.raises(UserError, match=message):
        edits_of(written(tmp_path, entries))
    with pytest.raises(UserError, match="must hold edits, as JSON lines or a JSON list"):
        edits_of(str(tmp_path / "none.json"))


def test_a_run_is_asked_with_its_own_notes(run_cli, tmp_path):
    folder = write_task(tmp_path / "words", labelled_rows(6), labelled_rows(2, start=6))
    recipe = "zero-shot:composer=notes(lookup=bm25)"
    run_cli("adapt", folder, "--model", "scripted", "--recipes", recipe, "--out", tmp_path / "run")
    found = run_cli("evaluate", tmp_path / "run", folder, "--suite", "edits:edits=4,more=3", "--json").json
    assert (found["n_notes"], found["steps"], found["n_questions"]) == (7, 2, 20)
    assert found["es"]["value"] == 0
    assert (found["bp"]["value"], found["bp"]["n"]) == (1, 8)
    run_cli("adapt", folder, "--model", "scripted", "--recipes", "majority", "--out", tmp_path / "none")
    done = run_cli("evaluate", tmp_path / "none", folder, "--suite", "edits")
    assert done.code == 2
    assert "--suite edits must ask one language model; 'majority' has none of its own." in done.err


def test_two_ways_of_keeping_notes_are_compared_on_the_same_questions():
    task = replace(TASK, test=())
    model = TaskModel.for_task(task, Reader(made_edits(6, rng=rng(3))))
    said = [Edits(edits=6, steps=steps).beside(task, replace(model, composer=BY_WORDS), rng=rng(3)) for steps in (2, 1)]
    difference = said[0]["bp"].against(said[1]["bp"], rng())
    assert difference["value"] > 0.5
    assert difference["low"] > 0
    assert difference["n"] == 12
