"""Long contexts: what is read of them in lessons and answers alike, and what a teacher that reads all can pass on."""

from dataclasses import replace

import numpy as np
import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Batch, Lesson, Training
from kshot.core.objective_settings import Distil
from kshot.core.script import usual
from kshot.core.sentences import sentences_in
from kshot.core.types import Example, Query, Task
from kshot.engine.language_model import Engine
from kshot.export.handover import handover
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.probabilities import normalised
from kshot.methods.teachers.history import History
from kshot.methods.tuners.windowed import WHOLE, Windowed
from kshot.models.tiny import tiny_backbone
from kshot.prompts.plain import Plain
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from taught_network import COLOURS, THINGS, fact, fact_reader

TALK = "Ann has a red car. Bob likes tea. It rains! Who came? The dog did. All went home."


def row(i: int, context: str | None = TALK, label: str | None = None) -> Example:
    return Example(f"What colour is the car {i}?", label or ("red", "blue")[i % 2], f"e{i}", context)


TASK = Task("talks", "classification", tuple(row(i) for i in range(6)), labels=("red", "blue"))


@pytest.fixture(scope="module")
def tiny() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


# What is read


def test_sentences_end_at_their_signs_and_at_ends_of_lines():
    for text, sentences in (
        ("It is 3.5 m. Or more?  Yes", ["It is 3.5 m.", "Or more?", "Yes"]),
        ("Ann: hi\n\nBob: bye.", ["Ann: hi", "Bob: bye."]),
        ('He said "No." Then left…', ['He said "No."', "Then left…"]),
        ("好。不好！真的", ["好。", "不好！", "真的"]),
        (" \n", []),
        ("...", ["..."]),
    ):
        assert [text[a:b] for a, b in sentences_in(text)] == sentences


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({"window": 2, "unit": "sentences", "anchors": "none"}, "The dog did. All went home."),
        ({"window": 2, "unit": "sentences", "kept": 1}, "Ann has a red car. … The dog did. All went home."),
        ({"window": 1, "unit": "sentences", "anchors": "first", "kept": 2},
         "Ann has a red car. Bob likes tea. … All went home."),
        ({"window": 2, "unit": "sentences", "anchors": "first", "kept": 4}, TALK),
        ({"window": 3, "anchors": "none"}, "went home."),
        ({"window": 7, "kept": 1}, "Ann has a red car. … dog did. All went home."),
        ({"window": 6, "unit": "sentences"}, TALK),
        ({"window": 1000}, TALK),
    ],
)  # fmt: skip
def test_the_end_of_a_context_is_read_and_its_anchors(settings, read):
    assert Windowed(**settings).read(TALK, "What is a car?") == read


def test_anchors_share_words_with_the_question_and_of_equal_ones_the_later_is_kept():
    tuner = Windowed(window=1, unit="sentences", kept=1)
    assert tuner.read("The cat sat. The cat ran. The end.", "cat?") == "The cat ran. The end."
    assert tuner.read("The cat sat. A dog ran. The end.", "fish?") == "The end."
    assert tuner.read("The cat sat. A dog ran. The end.", "") == "The end."


def test_lessons_questions_and_demonstrations_are_cut_alike_and_others_read_all(tiny):
    told = replace(tiny, told=Windowed(window=1, unit="sentences", anchors="none").told)
    short = "Context: All went home.\nText: What colour is the car"
    assert told.prompt((), row(1))[0].text == f"{short} 1?\nLabel:"
    text = told.training_text(Lesson((row(0),), row(1), "last"))
    assert text.prompt.text == f"{short} 0?\nLabel: red\n\n{short} 1?\nLabel: blue\n\n"
    assert TALK in tiny.prompt((), row(1))[0].text
    assert told.prompt((), row(1, None))[0].text == tiny.prompt((), row(1, None))[0].text
    assert replace(told, asked=WHOLE).prompt((row(0),), row(1)) == tiny.prompt((row(0),), row(1))


def test_a_context_stays_where_its_question_is_asked_after_it():
    said = usual(TASK, (row(0),), row(1).question).passages_last()
    cut = Windowed(window=1, unit="sentences", anchors="none").told(said, asked="", model=None)  # type: ignore[arg-type]
    assert [piece.role for piece in cut.pieces] == [piece.role for piece in said.pieces]
    assert Plain().write(cut).text.count("Context: All went home.") == 2


# The teacher


def test_the_teacher_reads_the_same_lesson_whole(tiny):
    told = replace(tiny, told=Windowed(window=1, unit="sentences", anchors="none").told)
    teacher = History(temperature=2.0, direction="reverse")
    assert teacher.objective == Distil(2.0, "reverse")
    (lesson,) = teacher.lessons([Lesson((row(0),), row(1), "last")], TASK.train, step=0, rng=np.random.default_rng(0))
    text = told.training_text(lesson)
    assert text.teacher == tiny.training_text(Lesson((row(0),), row(1), "last")).prompt
    assert TALK not in text.prompt.text


def test_where_the_window_covers_all_there_is_nothing_to_learn_at_the_start(tiny):
    losses = {}
    for window in (1, 6):
        told = replace(tiny, told=Windowed(window=window, unit="sentences", anchors="none").told)
        lessons = History().lessons([Lesson((), row(1))], TASK.train, step=0, rng=np.random.default_rng(0))
        text = told.training_text(lessons[0])
        assert (text.teacher == text.prompt) == (window == 6)
        student = tiny.model.trainable(Training(lr=1e-3), seed=0)
        losses[window] = student.learn(Batch([text], objective=History().objective)).loss_nats
    assert losses[6] == 0.0
    assert losses[1] > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_fact_from_before_the_window_is_told_by_a_teacher_that_reads_all(seed):
    """Passages of four facts of one world; that which is asked for stands before the two that the student reads."""
    rng = np.random.default_rng(seed)
    world = dict(zip(THINGS, rng.choice(COLOURS, len(THINGS)).tolist(), strict=True))

    def ask(name: str, thing: str) -> Example:
        others = [other for other in rng.permutation(THINGS).tolist() if other != thing][:3]
        return Example(thing, world[thing], name, " ".join(fact(t, world[t]) for t in (thing, *others)))

    known = tuple(ask(f"e{i}", THINGS[i % 8]) for i in range(32))
    new = [ask(f"n{i}", THINGS[i % 8]) for i in range(16)]
    bare = TaskModel.for_task(Task("facts", "classification", known, labels=COLOURS), fact_reader())
    student = replace(bare, told=Windowed(window=2, unit="sentences", anchors="none").told)

    def right(model: TaskModel) -> float:
        scores = model.score([model.prompt((), e)[0] for e in new], [COLOURS] * len(new))
        found = [normalised(s)[COLOURS.index(e.output)] for s, e in zip(scores, new, strict=True)]
        return float(np.mean(found))

    after = {}
    for asked in (WHOLE, ""):
        model = bare.model.trainable(Training(lr=3e-3), seed=seed)
        for step in range(16):
            drawn = [Lesson((), known[i]) for i in np.random.default_rng(step).permutation(32)[:16]]
            lessons = History().lessons(drawn, known, step=0, rng=rng)
            texts = [student.training_text(replace(one, teacher_asked=asked)) for one in lessons]
            model.learn(Batch(texts, objective=History().objective))
        after[asked] = right(replace(student, model=model))
    assert right(bare) > 0.9
    assert right(student) < 0.4
    assert after[""] < 0.4
    assert after[WHOLE] > after[""] + 0.15


# From a recipe to what is handed over


def test_a_student_goes_along_a_stream_and_is_asked_as_it_has_learnt(tmp_path):
    recipe = "windowed:window=2,unit=sentences,anchors=first,kept=1,teacher=history,lr=1e-3,steps=1"
    run = kshot.adapt(TASK, model="tiny", recipes=f"zero-shot,{recipe}", out=tmp_path / "run")
    assert [one["status"] for one in run.leaderboard] == ["done", "done"]
    setup = Setup(TASK, TaskModel.for_task(TASK, Engine(tiny_backbone())), 0)
    learner = make_learner(parse_recipe(recipe, shots=1), setup)
    learner.predict([Query(e, TASK.train[:i]) for i, e in enumerate(TASK.train)])
    fitted = learner.fit(TASK.train)
    assert fitted.model is not None
    asked = fitted.model.prompt((), row(0))[0].text
    assert asked.startswith("Context: Ann has a red car. … The dog did. All went home.\nText:")
    model = kshot.AdaptedModel(fitted, choice={})
    (lost,) = (text for text in handover(model, "peft", weights=True, asked=TASK.train).lost if "cuts" in text)
    assert lost == (
        "kshot cuts contexts to their last 2 sentences, and anchors before these (anchors=first, kept=1); the target "
        "reads what it is given."
    )


# What is refused, and what is said


def test_contexts_that_no_window_cuts_are_said():
    assert Windowed(window=5, unit="sentences").caution(TASK) is None
    for settings, n in (({"window": 6, "unit": "sentences"}, 6), ({}, 24)):
        said = Windowed(**settings).caution(TASK)
        assert said is not None
        assert said.endswith(
            f"and the longest of 6 has {n}: nothing is cut, and a teacher that reads all has nothing to teach. Name a "
            "smaller window"
        )


def test_examples_without_a_context():
    bare = replace(TASK, train=tuple(row(i, None) for i in range(6)))
    for part in (Windowed(), History()):
        assert part.obstacle(bare) == "its examples must have context, and none has"
    assert Windowed().caution(bare) is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("fine-tune:teacher=history", "that of 'fine-tune' reads all of it, too. Name the tuner windowed:teacher=hist"),
        ("windowed:window=0", "window must be 1 or more; got 0"),
        ("windowed:unit=tokens", "unit must be one of words, sentences; got 'tokens'"),
        ("windowed:anchors=last", "anchors must be one of question, first, none; got 'last'"),
        ("windowed:kept=0", "kept must be 1 or more; got 0"),
        ("windowed:teacher=history(temperature=0)", "temperature must be greater than 0; got 0"),
    ],
)
def test_recipes_that_make_no_sense(recipe, message):
    with pytest.raises(UserError) as error:
        parse_recipe(recipe, shots=1)
    assert message in str(error.value)
