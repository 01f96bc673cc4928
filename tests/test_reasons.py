"""Reasons before and after answers: what is said, written, scored, learnt and saved."""

import json
from dataclasses import dataclass, replace
from math import log

import numpy as np
import pytest
import torch

import kshot
from api_server import ApiServer, served
from conftest import write_task
from kshot.core.lessons import Lesson, TrainingText
from kshot.core.script import UsualWording
from kshot.core.types import Example, GenerateRequest, Generation, Prediction, Prompt, Query, Task
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.export.for_langchain import ForLangchain
from kshot.export.formats import as_jsonl
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.learners.trained import TrainedLearner
from kshot.methods.composers import COMPOSERS
from kshot.methods.composers.label_first import LabelFirst
from kshot.methods.composers.reason_first import SO, ReasonFirst
from kshot.methods.judges.judge import steps_of
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.testing.check_part import check_part
from test_chat import SHAPES, chat_engine, chat_tokenizer

SIDES = ("left", "right")
ROWS = tuple(Example(f"way {i}", SIDES[i % 2], f"r{i}", explanation=f"{i} is known.\n\nSo {i % 2}.") for i in range(8))
TASK = Task("ways", "classification", ROWS[:6], ROWS[6:], labels=SIDES, instruction="Say the side.")
SUMS = tuple(Example(f"{i} and 1?", str(i + 1), f"s{i}", explanation=f"{i} + 1 = {i + 1}") for i in range(8))
MATH = Task("sums", "math", SUMS[:6], SUMS[6:], metrics=("exact_match_number",))
BARE = replace(TASK, train=tuple(replace(e, explanation=None) for e in TASK.train))


class Thinker(ScriptedModel):
    """Writes `thought` where a reason is wanted, and believes the side, or the sum, that the last reason ends with."""

    thought = "It bends. So right."

    def _text(self, request: GenerateRequest) -> Generation:
        return super()._text(request) if self._believed(request.prompt) else Generation(self.thought, True)

    def _believed(self, prompt: Prompt) -> str:
        text = prompt.text
        if text.endswith("Reason:") or self.thought and text.endswith("think."):
            return self.thought.strip()
        text = text.replace(f"\n{SO}", "")
        reason = text.rpartition("Reason: ")[2].split("\n")[-2] if "Reason: " in text else "none."
        return reason.rstrip(".").split(" ")[-1]


def thinking(thought: str = Thinker.thought, *, max_tokens: int = 4096) -> Thinker:
    model = Thinker(max_tokens=max_tokens)
    model.thought = thought
    return model


def learner(recipe: str, model, task: Task = TASK) -> PromptLearner:
    return PromptLearner(parse_recipe(recipe, shots=2), Setup(task, TaskModel.for_task(task, model), 0))


def predicted(recipe: str, model, task: Task = TASK, row: Example | None = None) -> Prediction:
    (found,) = learner(recipe, model, task).predict([Query(row or task.test[0], task.train, wants_text=True)])
    return found


def composed(composer, model, task: Task, shown, question) -> str:
    asked = TaskModel.for_task(task, model)
    ready = composer.fit((), model=asked, rng=np.random.default_rng(0))
    return replace(asked, composer=ready).compose(shown, question).text


# Reason first


def test_the_labels_probability_is_read_after_the_models_own_reason():
    found = predicted("random:k=2,composer=reason-first", thinking())
    assert found.found == ({"reason": "It bends. So right.", "finished": True, "step_scores": []},)
    assert found.answer == "right"
    other = predicted("random:k=2,composer=reason-first", thinking("It bends. So left."))
    assert other.answer == "left"
    assert max(found.probs) == max(other.probs) > 0.8


def test_what_is_said_byte_for_byte():
    knowing = ReasonFirst().knowing({"reason": "It bends."})
    text = composed(knowing, thinking(), TASK, ROWS[:1], ROWS[6].question)
    assert text == (
        "Say the side.\n\nText: way 0\nReason: 0 is known.\nSo 0.\nLabel: left\n\n"
        "Text: way 6\nReason: It bends.\nLabel:"
    )
    assert composed(ReasonFirst(), thinking(), TASK, ROWS[:1], ROWS[6].question) == composed(
        UsualFitted(), thinking(), TASK, ROWS[:1], ROWS[6].question
    )


@dataclass(frozen=True)
class UsualFitted(UsualWording):
    """The usual words, as a composer that is fitted."""

    def fit(self, pool, *, model, rng):
        return self


def test_an_open_answer_is_scored_and_written_after_the_models_own_reason():
    """Honest bits: the known answer has its probability after what the model thinks, right or wrong."""
    right = predicted("random:k=2,composer=reason-first", thinking("6 + 1 = 7"), MATH)
    assert (right.answer, right.candidates) == ("7", ("7",))
    assert right.log_probs == pytest.approx([log(0.9)])
    wrong = predicted("random:k=2,composer=reason-first", thinking("6 + 1 = 5"), MATH)
    assert wrong.answer == "5"
    assert wrong.log_probs == pytest.approx([log(0.1)])
    assert "7" not in wrong.found[0]["reason"]


@pytest.mark.parametrize("thought", ["", " \n \n"])
def test_where_nothing_is_written_the_question_is_asked_without_reasons_and_that_is_said(thought):
    found = predicted("random:k=2,composer=reason-first", thinking(thought))
    plain = predicted("random:k=2", thinking(thought))
    assert (found.probs, found.prompt_tokens) == (plain.probs, plain.prompt_tokens)
    told = ReasonFirst().remark([*found.found, {"reason": "So", "finished": False}])
    assert told.startswith("1 of 2 questions got no reason from the model and were asked without; 1 of 2 reasons did")
    assert ReasonFirst().remark([{"reason": "So.", "finished": True}]) == ""


def test_demonstrations_without_reasons_are_shown_without():
    some = (replace(ROWS[0], explanation=None), ROWS[1])
    text = composed(ReasonFirst().knowing({"reason": "Yes."}), thinking(), TASK, some, ROWS[6].question)
    assert "Text: way 0\nLabel: left\n\nText: way 1\nReason: 1 is known." in text


def test_a_reason_is_written_after_those_that_have_one_and_the_answer_after_all():
    asked = TaskModel.for_task(TASK, model := thinking())
    written, write = [], model.generate
    model.generate = lambda requests, **more: written.extend(requests) or write(requests, **more)
    some = (replace(ROWS[0], explanation=None), ROWS[1])
    ReasonFirst().consider([(some, ROWS[6].question)], model=asked, seed=0)
    (request,) = written
    assert request.prompt.text == (
        "Say the side.\n\nText: way 1\nReason: 1 is known.\nSo 1.\nLabel: right\n\nText: way 6\nReason:"
    )
    assert request.stop == ("\nLabel:", "\nText:", "\n\n")


def test_a_cue_begins_the_reason_where_no_example_does():
    found = predicted("zero-shot:composer=reason-first(cue=Let us think.)", thinking(), BARE)
    assert found.found[0]["reason"] == "Let us think. It bends. So right."
    knowing = ReasonFirst(cue="Let us think.").knowing(found.found[0])
    text = composed(knowing, thinking(), BARE, (), ROWS[6].question)
    assert text.endswith("Text: way 6\nReason: Let us think. It bends. So right.\nSo the answer is:\nLabel:")
    assert "So the answer is" not in composed(knowing, thinking(), TASK, ROWS[:1], ROWS[6].question)
    assert found.answer == "right"
    shown = predicted("random:k=2,composer=reason-first(cue=Let us think.)", thinking())
    assert shown.found[0]["reason"] == "It bends. So right."


def test_a_reason_is_as_long_as_the_longest_known_or_as_is_said_and_fits():
    def longest(task, model, recipe="random:k=2,composer=reason-first"):
        asked = []
        model.generate = lambda requests, **_: [asked.append(r) or Generation("So right.", True) for r in requests]
        predicted(recipe, model, task)
        return asked[0].max_tokens

    (n,) = {ScriptedModel().count_tokens(f"{i} is known.\nSo {i % 2}.") for i in range(6)}
    assert longest(TASK, thinking()) == max(16, n + n // 4 + 8)
    assert longest(TASK, thinking(), "random:k=2,composer=reason-first(max_tokens=3)") == 3
    for task in (BARE, TASK):
        assert longest(task, thinking(), "zero-shot:composer=reason-first(cue=So.)") == 128
    assert longest(TASK, thinking(max_tokens=60), "random:k=2,composer=reason-first(max_tokens=4000)") <= 30
    tight = longest(TASK, thinking(max_tokens=40), "random:k=2,composer=reason-first(max_tokens=4000)")
    assert 1 <= tight < 20
    assert predicted("random:k=2,composer=reason-first", thinking(max_tokens=22)).found[0]["reason"] == ""


def test_a_reason_that_does_not_end_is_cut_and_that_is_kept():
    found = predicted("random:k=2,composer=reason-first(max_tokens=3)", thinking())
    assert found.found[0] == {"reason": "It bends.", "finished": False, "step_scores": []}
    none = predicted("random:k=2,composer=reason-first(max_tokens=1)", thinking())
    assert none.found[0] == {"reason": "It", "finished": False, "step_scores": []}


def test_a_reason_does_not_depend_on_what_is_asked_beside():
    queries = [Query(e, ROWS[:6]) for e in ROWS[6:]]
    model = load_model("tiny")
    for recipe in ("random:k=2,composer=reason-first(max_tokens=6)", "bm25:k=2,composer=reason-first(max_tokens=6)"):
        together = learner(recipe, model).predict(queries)
        alone = [p for query in queries for p in learner(recipe, model).predict([query])]
        assert [p.found for p in together] == [p.found for p in alone]


def test_the_right_answer_and_its_reason_cannot_be_seen():
    secret = replace(ROWS[6], output="right", explanation="xyzzy")
    seen = [predicted("random:k=2,composer=reason-first", thinking(), row=row).found for row in (secret, ROWS[6])]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("layout", ["turns", "block"])
@pytest.mark.parametrize("shape", ["qwen2.5", "gemma", "mistral"])
@pytest.mark.parametrize("composer", ["reason-first(max_tokens=8)", "label-first"])
def test_chat_models_are_asked_in_their_template(composer, shape, layout):
    recipe = f"random:k=2,composer={composer}"
    engine = chat_engine(chat_tokenizer(*SHAPES[shape][:4]))
    asked = TaskModel.for_task(TASK, engine, layout)
    found = PromptLearner(parse_recipe(recipe, shots=2), Setup(TASK, asked, 0)).predict([Query(ROWS[6], ROWS[:6])])[0]
    assert sum(found.probs) == pytest.approx(1)
    assert len(found.found) == ("reason-first" in recipe)


@pytest.mark.usefixtures("services_alone")
def test_a_model_behind_an_api_reasons_without_gradients():
    with served(ApiServer()) as server:
        model = load_model(server.name)
        found = predicted("random:k=2,composer=reason-first(max_tokens=8)", model)
        assert found.found[0]["reason"]
        assert sum(found.probs) == pytest.approx(1)


# Judges


def test_steps_of_a_reason():
    assert steps_of("One.\n\nTwo. Three.") == ["One.", "Two. Three."]
    assert steps_of("1.5 is more. So! 2") == ["1.5 is more.", "So!", "2"]
    assert steps_of("") == []


def test_a_judge_scores_each_step_by_plus_and_minus():
    model = load_model("tiny")
    found = predicted("random:k=2,composer=reason-first(max_tokens=40,judge=plus-minus)", model).found[0]
    scores = found["step_scores"]
    assert len(scores) == len(steps_of(found["reason"])) > 0
    assert all(0 < score < 1 for score in scores)
    asked = TaskModel.for_task(TASK, model)
    steps = steps_of(found["reason"])
    numbered = "\n".join(f"Step {i}: {step}" for i, step in enumerate(steps, 1))
    text = f"Say + if the last step is right, and - if it is wrong.\n\nway 6\n\n{numbered}\n\nThe last step (+ or -):"
    (row,) = asked.score([asked.layout.request(text)], [("+", "-")])
    expected = np.exp(row[0]) / np.exp(row).sum()
    assert scores[-1] == pytest.approx(0.99 * expected + 0.005, abs=1e-5)


OWN = """
from dataclasses import dataclass
from kshot.methods.judges.judge import Judge


@dataclass(frozen=True)
class Short(Judge):
    '''Likes short steps.'''

    def scores(self, reasons, *, model):
        return [tuple(1 / len(step) for step in steps) for _, steps in reasons]
"""


def test_a_judge_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    composer = COMPOSERS.build(f"reason-first(judge={tmp_path}/mine.py:Short)")
    check_part(composer)
    found = predicted(f"random:k=2,composer=reason-first(judge={tmp_path}/mine.py:Short)", thinking("A b. So right."))
    assert found.found[0]["step_scores"] == [1 / 4, 1 / 9]


# Label first


def test_label_first_byte_for_byte():
    text = composed(LabelFirst(), thinking(), TASK, ROWS[:1], ROWS[6].question)
    assert text == ("Say the side.\n\nText: way 0\nLabel: left\n\nReason: 0 is known.\nSo 0.\n\nText: way 6\nLabel:")


def test_the_reason_of_a_question_cannot_change_its_label():
    """The row's property: its reason comes after the label, in what is asked and in what is learnt."""
    model = load_model("tiny")
    other = replace(ROWS[6], explanation="Nonsense, it is the other one.")
    for recipe in ("random:k=2,composer=label-first", "zero-shot:composer=label-first"):
        assert predicted(recipe, model).probs == predicted(recipe, model, row=other).probs
    asked = replace(TaskModel.for_task(TASK, model), composer=LabelFirst())
    rows = [model.training_row(asked.training_text(Lesson(ROWS[:2], row))) for row in (ROWS[6], other)]
    (logits, others), n = [model.backbone.model(torch.tensor([row.ids])).logits[0] for row in rows], 0
    for at in range(min(map(len, (logits, others)))):
        if rows[0].ids[at] != rows[1].ids[at]:
            break
        n += 1
    answer = "right" if ROWS[6].output == "right" else "left"
    assert bytes(rows[0].ids[1:n]).decode().endswith(f"Label: {answer}\n\nReason: ")
    assert torch.allclose(logits[:n], others[:n], atol=1e-5)


@pytest.mark.parametrize("name", ["reason-first", "label-first"])
def test_without_any_reason_it_is_not_applicable_and_says_the_field(name, tmp_path, run_cli):
    part = COMPOSERS.build(name)
    assert part.missing_field(BARE) == "explanation"
    assert part.missing_field(TASK) is None
    assert part.missing_field(replace(BARE, worked=ROWS[6:])) is None
    assert ReasonFirst(cue="So.").missing_field(BARE) is None
    rows = [{"input": e.input, "output": e.output} for e in ROWS]
    task = write_task(tmp_path / "task", rows)
    done = run_cli("adapt", task, "--model", "scripted", "--recipes", f"random:k=2,composer={name}")
    assert done.code == 2
    assert "its examples must have explanation, and none has" in done.err


# What is learnt


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(tiny_backbone())


def learnt(tiny: Engine, composer, learnt: str = "answers", **more) -> tuple[TrainingText, list[tuple[str, float]]]:
    """A text of one demonstration and a target, and its supervised tokens with their weights, run by run."""
    asked = replace(TaskModel.for_task(TASK, tiny), composer=composer)
    text = asked.training_text(Lesson(ROWS[:1], ROWS[1], learnt, **more))
    row = tiny.training_row(text)
    runs: list[tuple[str, float]] = []
    before = -2
    for at, weight in zip(row.supervised, row.token_weights or [1.0] * len(row.supervised), strict=True):
        byte = chr(row.ids[at])
        if at == before + 1 and runs[-1][1] == weight:
            runs[-1] = (runs[-1][0] + byte, weight)
        else:
            runs.append((byte, weight))
        before = at
    return text, runs


def test_reasons_are_learnt_with_their_weight(tiny):
    demonstration, target = "Reason: 0 is known.\nSo 0.\n", "Reason: 1 is known.\nSo 1.\n"
    answers = [" left\n\n", " right\n\n"]
    n, n_reasons = sum(map(len, answers)), len(demonstration + target)
    _, runs = learnt(tiny, ReasonFirst())
    assert runs == [
        (demonstration, n / n_reasons), (answers[0], 1.0), (target, n / n_reasons), (answers[1], 1.0)]  # fmt: skip
    _, runs = learnt(tiny, ReasonFirst(reason_weight=0.5), "last")
    assert runs == [(target, 0.5 * len(answers[1]) / len(target)), (answers[1], 1.0)]
    _, runs = learnt(tiny, LabelFirst(), "last")
    assert runs == [(answers[1], 1.0), (f"{target}\n", len(answers[1]) / len(target + "\n"))]
    for composer in (ReasonFirst(reason_weight=0), LabelFirst(reason_weight=0), UsualWording()):
        text, runs = learnt(tiny, composer)
        assert runs == [(answer, 1.0) for answer in answers]
        assert tiny.training_row(text).token_weights == ()
    assert "1 is known" in learnt(tiny, ReasonFirst(reason_weight=0))[0].prompt.text
    assert "1 is known" not in learnt(tiny, LabelFirst(reason_weight=0))[0].prompt.text


def test_a_teacher_and_a_rejected_answer_are_about_the_answer_alone(tiny):
    for composer in (ReasonFirst(), LabelFirst()):
        for more in ({"teacher": ROWS[2:4]}, {"rejected": "left"}):
            text, runs = learnt(tiny, composer, "last", **more)
            assert runs == [(" right\n\n", 1.0)]
            other = text.teacher or text.rejected
            assert other is not None
            assert "Reason: 1 is known." in other.text


def test_the_loss_is_the_weighted_mean_of_the_two_means(tiny):
    """(L_answer + w L_reason) / (1 + w), by plain cross entropies of one forward pass."""
    from kshot.core.lessons import Batch, Training
    from kshot.engine.trained_model import TrainedEngine

    for composer, weight in ((ReasonFirst(), 1.0), (LabelFirst(reason_weight=3.0), 3.0)):
        text, _ = learnt(tiny, composer, "last")
        encoded = tiny.encode(text.prompt)
        ids = torch.tensor([encoded.ids])
        losses = torch.nn.functional.cross_entropy(
            tiny.backbone.model(ids).logits[0, :-1], ids[0, 1:], reduction="none"
        )
        at = encoded.answer_spans[-1]
        spans = [span for span in encoded.reason_spans if span[0] >= encoded.asked_at]
        means = [float(losses[a - 1 : b - 1].mean()) for a, b in (at, *spans)]
        log_ = TrainedEngine(tiny, Training(), seed=0).learn(Batch((text,)))
        assert log_.loss_nats == pytest.approx((means[0] + weight * means[1]) / (1 + weight), rel=1e-5)


def test_a_reason_that_does_not_fit_is_not_learnt(tiny):
    long = replace(ROWS[1], explanation="so " * 3000)
    asked = replace(TaskModel.for_task(TASK, tiny), composer=ReasonFirst())
    text = asked.training_text(Lesson(ROWS[:1], long))
    assert "so so" not in text.prompt.text
    assert text.prompt.text.endswith("Text: way 1\nLabel: right\n\n")


def test_training_with_reasons_is_raced_and_saved(tmp_path, run_cli):
    rows = [{"input": e.input, "output": e.output, "explanation": e.explanation} for e in ROWS]
    task = write_task(tmp_path / "task", rows[:6], rows[6:])
    done = run_cli("adapt", task, "--model", "tiny", "--recipes",
                   "fine-tune:composer=label-first,lr=1e-3,steps=1", "--out", tmp_path / "run", "--json")  # fmt: skip
    assert done.json["chosen"].startswith("fine-tune:composer=label-first")
    assert kshot.load(tmp_path / "run").predict(["way 1"])[0] in SIDES


def corrupted(n: int, seed: int) -> tuple[Example, ...]:
    """Rows whose reasons name the label; of 30 % they name another one."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = i % 3
        told = label if rng.random() > 0.3 else (label + 1 + int(rng.integers(2))) % 3
        letters = rng.permutation([*"ace"[label] * 3, *rng.choice(list("xyz"), size=2)])
        rows.append(Example(f"{''.join(letters)}{i}", NAMES[label], f"c{i}", explanation=f"like {NAMES[told]}"))
    return tuple(rows)


NAMES = ("ab", "cd", "ef")


@pytest.mark.slow
def test_corrupted_reasons_harm_labels_less_where_the_label_comes_first():
    """The row's proof: after training on 30 % wrong reasons label-first is at least as good as reason-first."""
    names, right, written = ("label-first", "reason-first"), {}, []
    for seed in (1, 2):
        rows = corrupted(72, seed)
        task = Task("c", "classification", rows[:48], rows[48:], labels=NAMES)
        for name in names:
            recipe = parse_recipe(f"fine-tune:weights=full,lr=3e-3,steps=3,batch=8,composer={name}", shots=2)
            trained = TrainedLearner(recipe, Setup(task, TaskModel.for_task(task, load_model("tiny")), 0))
            predictions = trained.predict([Query(e, rows[:48]) for e in rows[48:]])
            hits = [p.answer == e.output for p, e in zip(predictions, rows[48:], strict=True)]
            right[name] = right.get(name, []) + hits
            written += [about["reason"] for p in predictions for about in p.found]
    assert len(written) == 48
    assert all(reason.startswith("like") for reason in written)
    assert np.mean(right["label-first"]) > max(0.9, np.mean(right["reason-first"]))


# What goes elsewhere


def test_langchain_has_a_form_for_reasons_after_answers(tmp_path):
    from test_export import adapted_to, handover

    adapted = adapted_to("all-past:composer=label-first", kshot.load_model("scripted"), TASK)
    ForLangchain().write(handover(adapted, "langchain"), tmp_path)
    found = json.loads((tmp_path / "few_shot.json").read_text("utf-8"))
    assert found["input_variables"] == ["input"]
    assert found["example_prompt"]["template"].endswith("Label: {output}\n\nReason: {reason}")
    assert found["suffix"].endswith("Text: {input}\nLabel:")


def test_rows_keep_their_reasons_as_jsonl():
    assert json.loads(as_jsonl(TASK, ROWS[:1]))["explanation"] == ROWS[0].explanation
