"""What a step makes small: each objective against its formula on transformers' plain passes, and what it asks for."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid

import kshot.engine.objectives
from kshot.core.errors import UserError
from kshot.core.lessons import Averaging, Batch, Lesson, Training, TrainingText
from kshot.core.objective_settings import Answers, Bidirectional, Distil, Mixture, ObjectiveSettings, Policy, Preference
from kshot.core.types import Prompt, Segment
from kshot.engine.counting import Counting
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.engine.training import Trainer
from kshot.models.tiny import tiny_backbone
from kshot.taskmodel.taskmodel import TaskModel
from test_training import EXAMPLES, GUIDED, TASK, backbone, gap, in_bytes, moved, trained

MIXED = Mixture((Answers(), Distil(2.0), Preference(0.5)), (1.0, 0.5, 2.0))
BOTH, LATER = Bidirectional(6, 0.7), Distil(skip=2)
OBJECTIVES = [Answers(), Distil(), Distil(2.0, "reverse"), LATER, BOTH, Preference(0.5), Policy(), MIXED]
NAMES = ["answers", "distil", "reverse", "later", "bidirectional", "preference", "policy", "mixture"]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)


@pytest.fixture(scope="module")
def llama() -> Engine:
    return Engine(backbone())


def lessons(n: int = 0) -> list[Lesson]:
    """Three lessons of unlike weights, one with a demonstration, each with all that an objective can read."""
    e = EXAMPLES[n % 6 :] + EXAMPLES[: n % 6]
    others = {"tea": "rum", "café": "tea", "rum": "gin tonic"}
    shown = [(), (e[3],), ()]
    return [
        Lesson(
            shown[i],
            e[i],
            "last" if i else "answers",
            weight,
            tuple(e[i + 1 : i + 3]),
            others[e[i].output],
            advantage=advantage,
        )
        for i, (weight, advantage) in enumerate(((1.0, 1.3), (0.5, -0.7), (3.0, 0.0)))
    ]


def texts(model: Engine, n: int = 0) -> list[TrainingText]:
    asker = TaskModel.for_task(TASK, model)
    return [asker.training_text(lesson) for lesson in lessons(n)]


def learnt(model: TrainedEngine, objective: ObjectiveSettings, n: int) -> TrainedEngine:
    for i in range(n):
        model.learn(Batch(texts(model, i), objective=objective))
    return model


def gradient(model: TrainedEngine, objective: ObjectiveSettings, n: int = 1, *, can_pack: bool = True, **settings: int):
    """The gradient that a step would take, and its loss."""
    trainer = Trainer(model.backbone, model._weights, model._how, fingerprint="", can_pack=can_pack, **settings)
    rows = [model.training_row(text) for text in texts(model, n)]
    trainer.objective(objective).prepare(rows)
    with model._weights.active():
        found = trainer.gradient(rows, objective)
    return found.gradient, found.loss_nats


def log_probs(
    model: Engine, prompt: Prompt, learnt: str, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a plain forward pass: log-probabilities `[n, vocab]` before the answers' tokens, and these tokens."""
    encoded = model.encode(prompt)
    spans = encoded.answer_spans[-1:] if learnt == "last" else encoded.answer_spans
    at = torch.tensor([i for span in spans for i in range(*span)])
    ids = torch.tensor(encoded.ids)
    logits = model.backbone.model(input_ids=ids[None]).logits[0]
    return log_softmax(logits[at - 1] / temperature, dim=-1), ids[at]


def nats(model: Engine, prompt: Prompt, learnt: str) -> torch.Tensor:
    values, tokens = log_probs(model, prompt, learnt)
    return values.gather(1, tokens[:, None])[:, 0]


def by_formula(model: TrainedEngine, objective: ObjectiveSettings, n: int = 1) -> torch.Tensor:
    """The loss as its source has it, each text alone."""
    if isinstance(objective, Mixture):
        return sum(
            (w * by_formula(model, one, n) for w, one in zip(objective.weights, objective.objectives, strict=True)),
            torch.zeros(()),
        )
    above, below = torch.zeros(()), 0.0
    for text in texts(model, n):
        assert text.teacher
        assert text.rejected
        assert text.advantage is not None
        if isinstance(objective, Answers):
            with model._weights.active():
                losses = -nats(model, text.prompt, text.learnt)
        elif isinstance(objective, Policy):
            with model._weights.active():
                losses = -text.advantage * nats(model, text.prompt, text.learnt)
        elif isinstance(objective, Distil):
            t = objective.temperature
            with torch.no_grad():
                teacher, taught = log_probs(model, text.teacher, "last", t)
            with model._weights.active():
                student, tokens = log_probs(model, text.prompt, "last", t)
            assert torch.equal(taught, tokens)
            p, q = (teacher, student) if objective.direction == "forward" else (student, teacher)
            losses = t * t * torch.stack([torch.exp(a) @ (a - b) for a, b in zip(p, q, strict=True)])
            losses = losses[min(objective.skip, len(losses) - 1) :]
        elif isinstance(objective, Bidirectional):
            with torch.no_grad():
                teacher, before = (log_probs(model, p, "last")[0] for p in (text.teacher, text.prompt))
            with model._weights.active():
                student, _ = log_probs(model, text.prompt, "last")
            losses = torch.stack([both_ways(objective, *rows) for rows in zip(teacher, before, student, strict=True)])
        else:
            prompts = text.prompt, text.rejected
            with torch.no_grad():
                before = [nats(model, prompt, text.learnt).sum() for prompt in prompts]
            with model._weights.active():
                now = [nats(model, prompt, text.learnt).sum() for prompt in prompts]
            losses = -logsigmoid(objective.beta * ((now[0] - before[0]) - (now[1] - before[1])))[None]
        above, below = above + text.weight * losses.sum(), below + text.weight * len(losses)
    return above / below


def both_ways(objective: Bidirectional, teacher, before, student) -> torch.Tensor:
    """The loss at one token, from log-probabilities `[vocab]`."""
    likely, former = (set(row.topk(objective.top).indices.tolist()) for row in (teacher, before))
    p, q = teacher.exp(), student.exp()
    towards = sum((p[v] * (teacher[v] - student[v]) for v in likely), torch.zeros(()))
    rest, own_rest = (1 - sum(row[v] for v in likely) for row in (p, q))
    towards = towards + rest * torch.log(rest / own_rest)
    away = [-torch.log(1 - q[v]) for v in former - likely]
    return towards + objective.weight * (torch.stack(away).mean() if away else 0.0)


@pytest.mark.parametrize(
    ("name", "objective"), [*(("llama", one) for one in OBJECTIVES), ("gemma3", MIXED), ("gpt2", MIXED)]
)
def test_loss_and_gradient_are_those_of_the_formula(name, objective):
    model = learnt(trained(backbone(name), lr=1e-2), objective, 2)
    loss = by_formula(model, objective)
    expected = torch.autograd.grad(loss, list(model._weights.parameters.values()), materialize_grads=True)
    for settings in ({}, {"micro_tokens": 1}, {"micro_tokens": 150}, {"can_pack": False}):
        found, found_loss = gradient(model, objective, **settings)
        assert found_loss == pytest.approx(float(loss.detach()), rel=1e-4)
        assert gap(found, expected) < 1e-4


def test_the_gradient_of_preferences_is_what_differences_say(llama):
    """For some weights, by central differences of the formula in double precision."""
    base = backbone()
    base.model.double()
    model = learnt(trained(base, lr=1e-2), Preference(0.5), 3)
    found, _ = gradient(model, Preference(0.5))
    rng = np.random.default_rng(0)
    parameters = list(model._weights.parameters.values())
    for j in rng.choice(len(parameters), size=6, replace=False):
        p, i, step = parameters[j].data.view(-1), int(rng.integers(parameters[j].numel())), 1e-2
        old, sides = float(p[i]), []
        for sign in (1, -1):
            p[i] = old + sign * step
            with torch.no_grad():
                sides.append(float(by_formula(model, Preference(0.5))))
        p[i] = old
        assert float(found[j].view(-1)[i]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=0.02, abs=2e-5)


@pytest.mark.parametrize(
    "objective", [pytest.param(Distil(), marks=pytest.mark.slow), MIXED], ids=["distil", "mixture"]
)
def test_training_that_is_resumed_is_the_same_to_the_byte(llama, objective, tmp_path):
    how = {"lr": 1e-2, "reference": "ema", "backend": "exact", **GUIDED}
    model = learnt(trained(llama, **how), objective, 2)
    model.save_state(tmp_path / "state.safetensors", {})
    other = trained(llama, **how)
    other.load_state(tmp_path / "state.safetensors")
    logs = [[m.learn(Batch(texts(m, i), objective=objective)) for i in range(1, 3)] for m in (model, other)]
    assert logs[0] == logs[1]
    assert logs[0][-1].correction != 0
    assert (in_bytes(model), model.fingerprint) == (in_bytes(other), other.fingerprint)


def test_what_is_learnt_and_how_is_in_the_fingerprint(llama):
    whole = texts(llama)[0]
    others = [replace(whole, weight=2.0), replace(whole, teacher=None), replace(whole, rejected=None)]
    others += [replace(whole, advantage=one) for one in (None, -1.3)]
    batches = [*(Batch((text,)) for text in (whole, *others)), Batch((whole,), objective=Distil())]
    prints = set()
    for batch in batches:
        model = trained(llama)
        model.learn(batch)
        prints.add(model.fingerprint)
    assert len(prints) == len(batches)


@each_objective
def test_a_step_makes_the_loss_smaller(llama, objective):
    model = trained(llama, lr=1e-3)
    losses = [model.learn(Batch(texts(model), objective=objective)).loss_nats for _ in range(4)]
    assert losses[-1] < losses[0]


def test_before_training_teacher_and_student_agree_and_no_answer_is_preferred(llama):
    model = trained(llama)
    same = [replace(text, teacher=text.prompt) for text in texts(llama)]
    assert model.learn(Batch(same, objective=Distil())).loss_nats == pytest.approx(0, abs=1e-6)
    model = trained(llama)
    assert model.learn(Batch(texts(llama), objective=Preference())).loss_nats == pytest.approx(np.log(2), abs=1e-5)


@pytest.mark.parametrize("objective", [Distil(), Distil(2.0, "reverse"), Distil(asks="average")])
@pytest.mark.parametrize("n", [1, 6])
def test_who_reads_what_its_teacher_reads_stays_as_it_is(llama, objective, n):
    """Rounding is no direction; without that, one text alone is 0.1 nats away after six steps."""
    asker = TaskModel.for_task(TASK, llama)
    plain = [Lesson((EXAMPLES[i - 1],), e, "last", teacher=(EXAMPLES[i - 1],)) for i, e in enumerate(EXAMPLES[:n])]
    model = llama.trainable(Training(lr=1e-2), seed=0, average=Averaging())
    before = in_bytes(model)
    logs = [model.learn(Batch([asker.training_text(one) for one in plain], objective=objective)) for _ in range(6)]
    assert [(log.loss_nats, log.norm) for log in logs] == [(0.0, 0.0)] * 6
    assert in_bytes(model) == before
    apart = [replace(one, teacher=()) for one in plain]
    model.learn(Batch([asker.training_text(one) for one in apart], objective=objective))
    assert in_bytes(model) != before


def test_an_architecture_that_cannot_be_packed_runs_pairs_one_by_one():
    model = learnt(trained(Engine(tiny_backbone("bloom")), lr=1e-2), MIXED, 2)
    loss = by_formula(model, MIXED)
    expected = torch.autograd.grad(loss, list(model._weights.parameters.values()))
    assert gap(gradient(model, MIXED, can_pack=False)[0], expected) < 1e-4


def test_anchor_and_source_are_about_answers_whatever_the_objective(llama):
    plain = [replace(text, teacher=None, rejected=None) for text in texts(llama, 2)]
    model = moved(trained(llama, reference="anchor", align="gate", **GUIDED))
    log = model.learn(Batch(texts(llama), plain, plain, MIXED))
    assert log.cosine_to_reference is not None
    assert log.cosine_to_source is not None


@each_objective
def test_tokens_are_counted_as_they_are_run_and_without_running(llama, objective, monkeypatch):
    run = {True: 0, False: 0}

    def watched(ids, *args, real=llama.backbone.row_logits):
        run[torch.is_grad_enabled()] += len(ids)
        return real(ids, *args)

    monkeypatch.setattr(llama.backbone, "row_logits", watched)
    batch = Batch(texts(llama), objective=objective)
    model = trained(llama)
    first = model.learn(batch)
    expected = run[True] + ceil(run[False] / 3)
    assert first.tokens == expected
    assert model.learn(batch).tokens == expected  # what is remembered counts too
    assert Counting(llama).learn(batch).tokens == expected


def test_the_model_before_training_is_asked_once_for_each_text(llama, monkeypatch):
    asked: list[int] = []

    def watched(backbone, rows, *args, real: Callable = kshot.engine.objectives.answer_logits):
        asked.append(len(rows))
        return real(backbone, rows, *args)

    monkeypatch.setattr(kshot.engine.objectives, "answer_logits", watched)
    model = trained(llama)
    for _ in range(3):
        model.learn(Batch(texts(llama), objective=Distil()))
    assert asked == [1] * 3
    model.learn(Batch(texts(llama), objective=Preference()))
    assert asked == [1] * 9
    monkeypatch.setattr(kshot.engine.objectives, "_MOST_BYTES", 1)  # no room but for the present step
    for n in (0, 3, 0):
        model.learn(Batch(texts(llama, n), objective=Distil()))
    assert asked == [1] * 15


def test_a_lesson_becomes_the_texts_of_student_teacher_and_rejected(llama):
    asker = TaskModel.for_task(TASK, llama)
    lesson = lessons()[1]
    text = asker.training_text(lesson)
    assert (text.learnt, text.weight) == ("last", 0.5)
    assert lesson.teacher is not None
    assert text.teacher == asker.training_text(Lesson(lesson.teacher, lesson.target)).prompt
    wrong = replace(lesson.target, output=lesson.rejected or "")
    assert text.rejected == asker.training_text(Lesson(lesson.demonstrations, wrong)).prompt
    bare = asker.training_text(Lesson((), lesson.target))
    assert (bare.learnt, bare.weight, bare.teacher, bare.rejected) == ("answers", 1.0, None, None)
    assert asker.training_text(Lesson((), lesson.target, teacher=())).teacher == bare.prompt


def test_texts_that_lack_what_is_read_say_so(llama):
    text = texts(llama)[0]
    other = Prompt((Segment("query", "which ?"), Segment("answer", " gin\n\n")))
    for bad, objective, message in (
        (replace(text, teacher=None), Distil(), "each text must have a teacher's prompt; got one without"),
        (replace(text, teacher=other), MIXED, "must end with the same answer as the text; got another one"),
        (replace(text, rejected=None), Preference(), "each text must have a rejected answer; got one without"),
        (
            replace(text, teacher=replace(other, segments=(Segment("query", "x" * 5000), *other.segments))),
            Distil(),
            "must fit the model's 4096 tokens",
        ),
    ):
        model = trained(llama)
        with pytest.raises(UserError, match=message):
            model.learn(Batch((bad,), objective=objective))
        assert model._trainer.n_steps == 0


BAD = [
    (lambda: Distil(temperature=0.0), r"temperature must be greater than 0; got 0\.0"),
    (lambda: Distil(direction="both"), "direction must be one of forward, reverse; got 'both'"),
    (lambda: Preference(beta=float("nan")), "beta must be greater than 0; got nan"),
    (lambda: Mixture((), ()), "one or more objectives, and a weight for each; got 0 objectives and 0 weights"),
    (lambda: Mixture((Answers(),), (1.0, 2.0)), "got 1 objectives and 2 weights"),
    (lambda: Mixture((Answers(),), (-1.0,)), r"weights must be greater than 0; got -1\.0"),
    (lambda: Lesson((), EXAMPLES[0], "middle"), "learnt must be one of answers, last, .*; got 'middle'"),
    (lambda: Lesson((), EXAMPLES[0], weight=0.0), r"weight must be greater than 0; got 0\.0"),
    (
        lambda: Lesson((), EXAMPLES[0], rejected="tea"),
        r"rejected must be another answer .* got 'tea' for both \(example 'e0'\)",
    ),
    (lambda: TrainingText(Prompt(()), weight=float("inf")), "weight must be greater than 0; got inf"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_settings_say_what_must_hold(make, message):
    with pytest.raises(UserError, match=message):
        make()
