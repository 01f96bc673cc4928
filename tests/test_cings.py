"""CINGS: the passage stands right before the answer, and the answer alone is learnt."""

from dataclasses import replace

import pytest
import torch

import kshot
from kshot.adapted.folder import save
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.json_text import from_json
from kshot.core.lessons import Lesson, TrainingText
from kshot.core.script import Piece, Script, usual
from kshot.core.types import Example, Query, Task
from kshot.engine.load_model import load_model
from kshot.engine.training_rows import answer_losses
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.tuners.cings import Cings
from kshot.prompts.messages import ApiMessages
from kshot.prompts.plain import Plain
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from passages import TASK, row

ROWS = [row(i, "red" if i % 2 else "blue") for i in range(6)]
READING = replace(TASK, train=tuple(ROWS))


@pytest.fixture(scope="module")
def tiny() -> TaskModel:
    return TaskModel.for_task(READING, load_model("tiny"))


def lesson_text(model: TaskModel, tuner: Cings, example: Example) -> TrainingText:
    return replace(model, told=tuner.told).training_text(tuner._lesson(example))


# How it is written


def test_a_passage_stands_right_before_its_answer_or_before_the_question(tiny):
    said = usual(TASK, ROWS[:1], ROWS[1].question)
    assert Plain().write(said.passages_last()).text == (
        "Question: thing0?\nContext: thing0 is blue\nAnswer: blue\n\nQuestion: thing1?\nContext: thing1 is red\nAnswer:"
    )
    assert said.passages_last().passages_last() == said.passages_last()
    contents = [m["content"] for m in ApiMessages().write(said.passages_last()).messages]
    assert contents == ["thing0?\n\nthing0 is blue", "blue", "thing1?\n\nthing1 is red"]
    for place, text in (("after", "Question: thing1?\nContext: thing1 is red\n"),
                        ("before", "Context: thing1 is red\nQuestion: thing1?\n")):  # fmt: skip
        assert lesson_text(tiny, Cings(passage=place), ROWS[1]).prompt.text == f"{text}Answer: red\n\n"


def test_without_a_passage_nothing_moves_and_a_script_still_has_to_ask(tiny):
    said = usual(TASK, (), replace(ROWS[0], context=None).question)
    assert said.passages_last() == said
    with pytest.raises(UserError, match="A script must end with a question, a reason or an answer; it ends with con"):
        Script((Piece("question", "a"), Piece("answer", "b"), Piece("context", "c")))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["turns", "block"])
def test_a_chat_model_reads_the_passage_after_the_question_in_its_users_turn(layout, smollm2):
    model = TaskModel.for_task(READING, smollm2, layout)
    text = lesson_text(model, Cings(), ROWS[1]).prompt.text
    assert text.index("thing1?") < text.index("thing1 is red") < text.index("red<|im_end|>")


def test_a_reason_after_a_passage_is_written_between_it_and_the_answer():
    pieces = (Piece("question", "q"), Piece("context", "c"), Piece("reason", "r"), Piece("answer", "a"))
    assert Plain().write(Script(pieces)).text == "Input: q\nContext: c\nReason: r\nOutput: a\n\n"
    asked = Script((Piece("context", "c"), Piece("question", "q")), wants="reason").passages_last()
    assert Plain().write(asked).text == "Input: q\nContext: c\nReason:"


# What is learnt


@pytest.mark.parametrize("place", ["after", "before"])
def test_as_many_tokens_are_learnt_as_the_answer_has(tiny, place):
    row = tiny.model.training_row(lesson_text(tiny, Cings(passage=place), ROWS[0]))
    assert bytes(row.ids[i] for i in row.supervised).decode() == " blue\n\n"
    assert len(row.supervised) == tiny.model.count_tokens(" blue\n\n")


def test_the_loss_does_not_depend_on_the_labels_of_the_passage_and_that_of_no_mask_does(tiny):
    """As labels are the ids of the text itself, others are those of a text whose passage's losses are left out."""
    backbone, found = tiny.model.backbone, {}
    for mode in ("grounded", "no_mask"):
        learnt = tiny.model.training_row(lesson_text(tiny, Cings(mode=mode), ROWS[0]))
        nats = answer_losses(backbone, [learnt])
        whole = backbone.plain_logits([learnt.ids])[0].log_softmax(-1)
        labels = torch.full((len(learnt.ids),), -100)
        labels[list(learnt.supervised)] = torch.tensor([learnt.ids[i] for i in learnt.supervised])
        start, stop = tiny.model._encoder.place_of(lesson_text(tiny, Cings(), ROWS[0]).prompt, ROWS[0].context)
        assert bytes(learnt.ids[start:stop]).decode() == ROWS[0].context
        changed = labels.clone()
        changed[start:stop] = torch.where(labels[start:stop] == -100, -100, (labels[start:stop] + 1) % 256)
        loss, other = (
            torch.nn.functional.nll_loss(whole[:-1], each[1:], ignore_index=-100) for each in (labels, changed)
        )
        assert float(loss) == pytest.approx(float(nats.mean()), abs=1e-5)
        found[mode] = float(loss) == float(other), len(learnt.supervised)
    assert found["grounded"] == (True, len(" blue\n\n"))
    assert found["no_mask"] == (False, len(" blue\n\n") + len(ROWS[0].context))


def test_lessons_without_their_passage_are_plain_fine_tuning(tiny):
    assert lesson_text(tiny, Cings(mode="no_context"), ROWS[0]).prompt.text == "Question: thing0?\nAnswer: blue\n\n"
    with pytest.raises(UserError, match="mode must be one of grounded, no_context, no_mask; got 'x'"):
        Cings(mode="x")
    with pytest.raises(UserError, match="passage must be one of after, before; got 'x'"):
        Cings(passage="x")


def test_a_passage_that_the_prompt_does_not_say_cannot_be_learnt(tiny):
    text = replace(tiny.training_text(Lesson((), ROWS[0], "passage")), passage="not there")
    with pytest.raises(UserError, match="the prompt must say it as it is; 'not there' does not stand there"):
        tiny.model.training_row(text)


# Who is told


def test_only_the_trained_model_is_told_and_a_saved_one_still_is(tmp_path, words_task):
    task = replace(READING, train=tuple(ROWS * 2))
    done = kshot.adapt(
        replace(task, train=tuple(replace(e, id=f"{i}", input=f"{e.input} {i}") for i, e in enumerate(task.train))),
        "tiny", recipes="zero-shot,cings:lr=1e-3,steps=1", out=tmp_path / "run", limit=6,
    )  # fmt: skip
    sent = {name: PromptTexts(tmp_path / "run").of(name) for name in ("zero-shot", "cings:lr=1e-3,steps=1")}
    assert all(text.startswith("Context:") for text in sent["zero-shot"])
    assert all(text.startswith("Question:") for text in sent["cings:lr=1e-3,steps=1"])
    model = TaskModel.for_task(READING, load_model("tiny"))
    learner = make_learner(parse_recipe("cings:lr=1e-3,steps=1", shots=1), Setup(READING, model, 0))
    fitted = learner.fit(READING.train)
    best = AdaptedModel.fit(
        parse_recipe("cings:lr=1e-3,steps=1", shots=1), READING.train, Setup(READING, model, 0), choice={}
    )
    save(best, tmp_path / "best")
    again = kshot.load(tmp_path / "best", model=load_model("tiny"))
    for one in (fitted, best.fitted, again.fitted):
        assert one.model.compose((), ROWS[0]).text.startswith("Question: thing0?\nContext:")
    said = [answering(one).predict([Query(ROWS[0], ())])[0].log_probs for one in (fitted, again.fitted)]
    assert said[0] == pytest.approx(said[1], abs=1e-6)
    assert done.chosen


class PromptTexts:
    """The prompts of a run's record."""

    def __init__(self, run):
        self.sent = from_json((run / "prompts.json").read_text("utf-8"))

    def of(self, name: str) -> list[str]:
        found, before = [], []
        for n, *ids in self.sent["rows"][name]:
            before = [*before[:n], *ids]
            found.append("".join(self.sent["segments"][i][1] for i in before))
        return found


# Bad input


def test_a_task_without_contexts_and_contexts_without_answers_are_told(run_cli, words_task, tmp_path):
    done = run_cli("adapt", words_task, "--model", "tiny", "--recipes", "cings", "--out", tmp_path / "run")
    assert done.code == 2
    assert "its examples must have context, and none has" in done.err
    task = replace(READING, train=tuple(replace(e, context="nothing of it") for e in ROWS))
    assert Cings().caution(task) == (
        "cings learns to answer from contexts; none of the 6 contexts has its answer in it, such as 'blue' of example "
        "'thing0-blue'. Check that each row has its own context"
    )
    assert Cings().caution(READING) is None


def test_a_task_of_texts_without_labels_can_be_learnt_in_every_mode(tiny):
    task = Task("t", "generation", tuple(ROWS), metrics=("exact_match",))
    for mode in ("grounded", "no_context", "no_mask"):
        learner = make_learner(parse_recipe(f"cings:mode={mode},lr=1e-3,steps=1", shots=1), Setup(task, tiny, 0))
        assert learner.fit(task.train).model is not None
