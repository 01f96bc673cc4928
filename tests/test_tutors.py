"""The suite `tutoring`: tutors who hint, who tell, and who say nothing."""

import re

import numpy as np
import pytest

from kshot.core.errors import SettingError, UserError
from kshot.core.json_text import to_json
from kshot.core.types import Example, Generation, Task
from kshot.evaluators import EVALUATORS
from kshot.evaluators.student_problems import SKILLS, made_problems
from kshot.evaluators.tutors import Tutors, by_turn
from kshot.methods.loops.hints import leaks
from kshot.methods.loops.tutoring import Tutorial, tutored
from kshot.models.scripted import ScriptedModel
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.load import load_task
from kshot.verbs.evaluate import evaluate, fitted
from test_tutoring import RECORD

TASK = Task("t", "qa", (Example("1", "a", "e1"),), (Example("2", "b", "e2"),))
HINTS = {
    "groups": "You must multiply.", "order": "Mind the order of operations.", "carry": "Do not forget to carry.",
    "percent": "A percentage is a fraction.", "metres": "You have to convert.",
}  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


def value(measured) -> float:
    return measured.statistic(measured.rows)


class Speaking(ScriptedModel):
    """Says what a function says of the request."""

    def __init__(self, say):
        super().__init__(name="speaking")
        self.say, self.asked = say, []

    def generate(self, requests, **_):
        self.asked += [one.prompt.text for one in requests]
        return [Generation(self.say(one.prompt.text), True) for one in requests]


def answer(request: str) -> str:
    return re.search(r"Right answer: (.*)", request)[1]


def targeted(request: str) -> str:
    """Hints at one skill after the other, beginning with the one that the problem looks like."""
    looks = {"groups": "bags", "order": "*", "carry": "What is", "percent": "percent", "metres": "metres"}
    problem = re.search(r"Problem: (.*)", request)[1]
    order = sorted(SKILLS, key=lambda skill: looks[skill] not in problem)
    return HINTS[order[request.count("\nTutor: ")]]


def found(say, suite=None, seed=0):
    suite, model = suite or Tutors(), Speaking(say)
    return suite.beside(TASK, TaskModel.for_task(TASK, model), rng=rng(seed)), model


def pairs(report) -> list[tuple[float, float]]:
    return [(value(one["success"]), value(one["telling"])) for one in report["by_turn"].values()]


def test_hints_at_the_mistake_beat_those_that_fit_all_and_tell_nothing():
    report, _ = found(targeted)
    assert pairs(report)[-1] == (1, 0)
    assert pairs(report)[0][0] > 0.7
    assert value(report["by_turn"]["3"]["untold"]) == 1
    generic, _ = found(lambda request: "Look at it once more, step by step.")
    assert pairs(generic) == [(0, 0)] * 3


def test_a_tutor_who_tells_has_told_all_at_once():
    report, _ = found(lambda request: f"The answer is {answer(request)}.")
    assert pairs(report) == [(1, 1)] * 3
    assert value(report["by_turn"]["1"]["untold"]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_success_and_telling_never_fall_and_are_those_of_the_loop(seed):
    luck = rng(seed)

    def say(request):
        return luck.choice([f"It is {answer(request)}.", "Think.", *HINTS.values()])

    report, _ = found(say, Tutors(problems=25, turns=4), seed)
    rows = pairs(report)
    assert all(a[i] <= b[i] for a, b in zip(rows, rows[1:], strict=False) for i in (0, 1))
    lessons = [
        Tutorial(TASK.test[0], (), 1, None),
        Tutorial(TASK.test[0], (), 2, 1),
        Tutorial(TASK.test[0], (), None, 3),
    ]
    for k in (1, 2, 3):
        ours, theirs = by_turn("abc", lessons, k), tutored(lessons, k)
        assert (value(ours["success"]), value(ours["telling"])) == (theirs.success, theirs.telling)


@pytest.mark.parametrize("seed", range(5))
def test_problems_that_are_made_up_begin_wrong_and_tell_nothing(seed):
    made = made_problems(25, rng=rng(seed))
    assert len({one.example.id for one in made}) == 25
    for one in made:
        assert not leaks(one.attempt, one.example)
        assert not leaks(one.example.input, one.example)
        assert one.scripted.reply("Tutor: Think.") == one.attempt
        assert leaks(one.scripted.reply(f"Tutor: {HINTS[one.example.meta['skill']]}"), one.example)
    assert made == made_problems(25, rng=rng(seed))


def dialogues(folder, *records):
    file = folder / "dialogues.jsonl"
    file.write_text("".join(to_json(record) + "\n" for record in records))
    return file


def test_a_model_plays_the_student_of_a_file_and_knows_who_it_is(tmp_path):
    def say(request):
        if request.endswith("Tutor:"):
            return "What do 3 bags of 4 make?"
        return "12" if request.count("Tutor: ") == 2 else "I still think it is 7."

    file = dialogues(tmp_path, RECORD, {**RECORD, "student_incorrect_solution": "So it is 12."})
    report, model = found(say, EVALUATORS.build(f"tutoring(file={file},student=model)"))
    assert pairs(report) == [(0, 0), (1, 0), (1, 0)]
    assert (report["n"], report["right_at_once"]) == (1, 1)
    assert report["dialogue"].startswith("Student: ")
    student = next(text for text in model.asked if text.endswith("Student:"))
    assert student.startswith("A 7th grade student. Adds instead of multiplying.\n\nAnn has 3 bags of 4 apples.")
    assert "Right answer: 12" not in student


def test_another_model_can_be_the_student(tmp_path):
    table = tmp_path / "student.json"
    table.write_text(to_json({"Tutor: ": "It is 12."}))
    suite = EVALUATORS.build(f"tutoring(file={dialogues(tmp_path, RECORD)},student=scripted:{table})")
    report, model = found(lambda request: "Multiply.", suite)
    assert pairs(report) == [(1, 0)] * 3
    assert len(model.asked) == 1


def test_a_student_that_does_not_exist_is_said_first(words_task):
    task = load_task(words_task)
    system = fitted("zero-shot", task, ScriptedModel())
    with pytest.raises(UserError, match="tutoring:student must name a model, as --model does"):
        evaluate(system, task, "tutoring(student=./nobody)")
    named = [EVALUATORS.build(f"tutoring(student={who})").named_models for who in ("scripted", "model", "person")]
    assert named == [{}] * 3


def test_a_dialogue_in_which_nothing_is_said_fails_and_where_all_do_it_is_said():
    report, _ = found(lambda request: "" if "percent" in request else targeted(request))
    assert (report["n"], report["failed"]) == (15, 3)
    assert pairs(report)[-1] == (12 / 15, 0)
    with pytest.raises(UserError, match="needs turns with words; in all 15 dialogues what was said is empty"):
        found(lambda request: " \n")


def test_bad_input_says_what_must_hold(tmp_path):
    file = dialogues(tmp_path, RECORD)
    with pytest.raises(
        SettingError, match="student must be 'model' or a model's name where dialogues come from a file"
    ):
        Tutors(file=str(file))
    with pytest.raises(UserError, match="must hold dialogues in MathDial's format; it is empty"):
        Tutors(file=str(dialogues(tmp_path)), student="model")
    with pytest.raises(UserError, match="must be a file of dialogues; No such file"):
        EVALUATORS.build(f"tutoring(file={tmp_path}/none,student=model)")
