"""Who teaches: what a teacher is shown, and that a student comes to say the same without it."""

from dataclasses import replace

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson
from kshot.core.objective_settings import Distil
from kshot.core.plugins import resolve
from kshot.core.seeding import generator
from kshot.engine.language_model import Engine
from kshot.methods.teachers import TEACHERS
from kshot.methods.teachers.context_distillation import Demonstrations
from kshot.methods.tuners.fine_tune import FineTune
from kshot.methods.tuners.icl_ft import IclFt
from kshot.taskmodel.taskmodel import TaskModel
from test_training import EXAMPLES, TASK, backbone, trained

TUNERS = [FineTune(batch=3), IclFt(k=2), IclFt(k=2, loss="last")]


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize("tuner", TUNERS, ids=["fine-tune", "icl+ft", "last"])
def test_a_teacher_adds_to_a_tuners_lessons_from_the_past_alone(name, tuner):
    teacher = resolve(TEACHERS[name])()
    for n in range(1, 7):
        seen = EXAMPLES[:n]
        plain = tuner.lessons(seen, lambda: (), step=0, rng=generator(0, "lesson", n))
        taught, again = (teacher.lessons(plain, seen, step=0, rng=generator(0, "teacher", n)) for _ in range(2))
        assert taught == again
        assert [replace(lesson, teacher=None, teacher_asked="", rejected=None) for lesson in taught] == plain
        for lesson in taught:
            assert set(lesson.teacher or ()) <= set(seen) - {lesson.target}


def test_demonstrations_are_drawn_for_each_lesson_and_never_ask_what_is_asked():
    again = replace(EXAMPLES[0], id="again", output="other")
    plain = [Lesson((), EXAMPLES[0])] * 20
    taught = Demonstrations(k=3).lessons(plain, [*EXAMPLES, again], step=0, rng=generator(0, "teacher"))
    drawn = [lesson.teacher or () for lesson in taught]
    assert {len(set(shown)) for shown in drawn} == {3}
    assert {e.id for shown in drawn for e in shown} == {e.id for e in EXAMPLES[1:]}
    assert len(set(drawn)) > 10
    first = Demonstrations().lessons(plain[:1], EXAMPLES[:1], step=0, rng=generator(0, "teacher"))
    assert first == [Lesson((), EXAMPLES[0], teacher=())]


def test_a_student_comes_to_say_what_its_teacher_says():
    engine = Engine(backbone())
    asker, teacher = TaskModel.for_task(TASK, engine), Demonstrations(k=3)
    model = trained(engine, lr=3e-3)
    plain = [Lesson((), e) for e in EXAMPLES]
    lessons = teacher.lessons(plain, EXAMPLES, step=0, rng=generator(0, "teacher"))
    batch = Batch([asker.training_text(lesson) for lesson in lessons], objective=teacher.objective)

    def distance() -> float:
        """In log-probabilities of the answers, between the bare prompt and the teacher's on the model as it was."""
        learner = replace(asker, model=model)
        bare = learner.answer_log_probs([()] * len(lessons), EXAMPLES)
        shown = asker.answer_log_probs([lesson.teacher or () for lesson in lessons], EXAMPLES)
        return float(np.abs(bare - shown).mean())

    before = distance()
    losses = [model.learn(batch).loss_nats for _ in range(30)]
    assert losses[-1] < losses[0] / 3
    assert distance() < before / 2


def test_settings_make_the_objective_and_bad_ones_say_what_must_hold():
    assert Demonstrations(temperature=2.0, direction="reverse").objective == Distil(2.0, "reverse")
    for bad, message in (
        ({"k": 0}, "k must be 1 or more; got 0"),
        ({"temperature": -1.0}, r"temperature must be greater than 0; got -1\.0"),
        ({"direction": "x"}, "direction must be one of forward, reverse; got 'x'"),
    ):
        with pytest.raises(UserError, match=message):
            Demonstrations(**bad)
