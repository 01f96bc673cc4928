"""One step of training: what it learns, its gradient against transformers' own, and weights that come and go."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import kshot
from kshot.core.errors import ModelError, UserError
from kshot.core.lessons import Batch, DivergedError, Lesson, Training, TrainingText
from kshot.core.types import Example, Prompt, ScoreRequest, Segment, Task
from kshot.engine import training_rows
from kshot.engine.guidance import norm
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.engine.training import Trainer
from kshot.engine.training_rows import TrainingRow
from kshot.models.hf import Backbone
from kshot.models.tiny import ByteTokenizer, tiny_backbone
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from variants import mostly_slow

GEMMA3 = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "query_pre_attn_scalar": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
SHAPES = {"llama": ("llama", {}), "qwen3": ("qwen3", {}), "gemma3": ("gemma3_text", GEMMA3), "gpt2": ("gpt2", GPT2)}
ANSWERS = ("tea", "café", "rum")
TASK = Task("drinks", "classification", (), labels=ANSWERS, instruction="Name it.")
QUESTIONS = ["black or green", "dark and hot", "of sugar cane", "with milk", "roasted", "for sailors"]
EXAMPLES = [Example(q, ANSWERS[i % 3], f"e{i}") for i, q in enumerate(QUESTIONS)]
REQUESTS = [ScoreRequest(Prompt((Segment("query", f"Text: {q}\nLabel:"),)), (" tea\n\n", " rum\n\n")) for q in "abc"]


def backbone(name: str = "llama") -> Backbone:
    return tiny_backbone(SHAPES[name][0], settings=SHAPES[name][1])


def trained(base: Backbone | Engine, *, seed: int = 0, **how) -> TrainedEngine:
    return TrainedEngine(base if isinstance(base, Engine) else Engine(base), Training(**how), seed=seed)


@pytest.fixture(scope="module")
def llama() -> Engine:
    return Engine(backbone())


def text(model: Engine, *examples: Example, learnt: str = "answers") -> TrainingText:
    return TaskModel.for_task(TASK, model).training_text(Lesson(examples[:-1], examples[-1], learnt))


def batch(model: Engine, n: int = 0) -> Batch:
    """A text with two demonstrations and one without, others for other numbers; and two for the anchor."""
    turned = EXAMPLES[n % 6 :] + EXAMPLES[: n % 6]
    support = text(model, *turned[3:5]), text(model, turned[1])
    return Batch((text(model, *turned[:3]), text(model, turned[3])), support)


def moved(model: TrainedEngine, n: int = 3) -> TrainedEngine:
    """Away from the start, where half of LoRA's gradient is zero."""
    for i in range(n):
        model.learn(batch(model, i))
    return model


def rows(model: TrainedEngine, texts) -> list[TrainingRow]:
    return [model.training_row(one) for one in texts]


def gradient(model: TrainedEngine, of: list[TrainingRow], *, can_pack: bool = True, **settings: int):
    """The gradient that a step would take, and its loss."""
    trainer = Trainer(model.backbone, model._weights, model._how, fingerprint="", can_pack=can_pack, **settings)
    with model._weights.active():
        found = trainer.gradient(of)
    return found.gradient, found.loss_nats


def watch(monkeypatch, base: Backbone, most: int = 10**9, error: Exception | None = None) -> list[int]:
    """Return the lengths of passes as they are run; those over more than `most` tokens fail."""
    lengths = []

    def watched(ids, *args, run=base.row_logits):
        lengths.append(len(ids))
        if error and len(ids) > most:
            raise error
        return run(ids, *args)

    monkeypatch.setattr(base, "row_logits", watched)
    return lengths


def gap(ours, theirs) -> float:
    return norm([a - b for a, b in zip(ours, theirs, strict=True)]) / norm(theirs)


def in_bytes(model: TrainedEngine) -> dict[str, bytes]:
    return {k: t.view(torch.uint8).numpy().tobytes() for k, t in model._weights.tensors().items()}


def scores(model: Engine) -> bytes:
    return np.concatenate(model.score(REQUESTS)).tobytes()


@pytest.mark.parametrize("learnt", ["answers", "last"])
def test_exactly_the_answers_and_their_terminators_are_learnt(llama, learnt):
    model = trained(llama)
    lesson = text(model, *EXAMPLES[:4], learnt=learnt)
    (row,) = rows(model, [lesson])
    answers = [f" {e.output}\n\n" for e in EXAMPLES[:4]][-1 if learnt == "last" else 0 :]
    assert llama.backbone.detokenise([row.ids[i] for i in row.supervised]) == "".join(answers)
    assert len(row.supervised) == sum(len(a.encode()) for a in answers)
    assert llama.backbone.detokenise(row.ids) == lesson.prompt.text
    assert lesson.prompt.text.endswith(answers[-1])
    assert model.learn(Batch((lesson,))).supervised == len(row.supervised)


def answer_losses(model: TrainedEngine, *examples: Example) -> list[float]:
    """The loss of each answer of a text, as the loop computes it."""
    encoded = model.encode(text(model, *examples).prompt)
    of = [TrainingRow(encoded.ids, tuple(range(*span))) for span in encoded.answer_spans]
    with model._weights.active():
        return [model._trainer.gradient([row]).loss_nats for row in of]


@pytest.mark.parametrize("name", mostly_slow(SHAPES, "gemma3", "gpt2"))
def test_an_answer_depends_on_what_stands_before_it_alone(name):
    model = moved(trained(backbone(name)))
    before = answer_losses(model, *EXAMPLES[:4])
    for j in range(4):
        other = replace(EXAMPLES[j], output="gin" if len(EXAMPLES[j].output) == 3 else "milks")  # of as many bytes
        after = answer_losses(model, *EXAMPLES[:j], other, *EXAMPLES[j + 1 : 4])
        assert after[:j] == before[:j]
        assert after[j] != before[j]
    asked = replace(EXAMPLES[3], input="with salt")
    after = answer_losses(model, *EXAMPLES[:3], asked)
    assert (after[:3] == before[:3], after[3] == before[3]) == (True, False)


@pytest.mark.parametrize("name", mostly_slow(SHAPES, "gemma3", "gpt2"))
def test_the_loss_is_that_of_the_answers_scored_one_by_one(name):
    model = moved(trained(backbone(name), lr=1e-2))
    prompt = text(model, *EXAMPLES[:4]).prompt
    at = [i for i, s in enumerate(prompt.segments) if s.role == "answer"]
    asked = [ScoreRequest(Prompt(prompt.segments[:i]), (prompt.segments[i].text,)) for i in at]
    expected = [-float(values[0]) for values in model.score(asked)]
    for learnt, wanted in (("answers", sum(expected)), ("last", expected[-1])):
        (row,) = rows(model, [TrainingText(prompt, learnt)])
        assert gradient(model, [row])[1] * len(row.supervised) == pytest.approx(wanted, abs=1e-4 * len(expected))


def reference(model: TrainedEngine, of: list[TrainingRow]):
    """Transformers' own loss, text by text with all logits, weighted by tokens."""
    total: Any = 0
    with model._weights.active():
        for row in of:
            ids = torch.tensor(row.ids)
            labels = torch.full_like(ids, -100)
            labels[list(row.supervised)] = ids[list(row.supervised)]
            loss = model.backbone.model(input_ids=ids[None], labels=labels[None]).loss
            total = total + loss * len(row.supervised)
        total = total / sum(len(row.supervised) for row in of)
        return torch.autograd.grad(total, list(model._weights.parameters.values())), float(total.detach())


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("name", mostly_slow(SHAPES, "gemma3", "gpt2"))
def test_loss_and_gradient_are_those_of_transformers(name, weights, monkeypatch):
    base = backbone(name)
    model = moved(trained(base, weights=weights))
    passes = watch(monkeypatch, base)
    one, several = rows(model, [text(model, *EXAMPLES[:4])]), rows(model, (*batch(model, 1).texts, *batch(model).texts))
    n_tokens = sum(len(row.ids) for row in several)
    for of, settings, n_passes in (
        (one, {}, 1),
        *[(several, {"micro_tokens": n}, n_passes) for n, n_passes in ((n_tokens, 1), (n_tokens - 1, 2), (1, 4))],
        (several, {"can_pack": False}, 4),
    ):
        expected, loss = reference(model, of)
        passes.clear()
        found, found_loss = gradient(model, of, **settings)
        assert len(passes) == n_passes
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert gap(found, expected) < 1e-5


def test_an_architecture_that_cannot_be_packed_is_trained_text_by_text():
    base = Engine(tiny_backbone("bloom"))
    assert base.obstacle is not None
    model = moved(trained(base, lr=1e-2))
    of = rows(model, batch(model).texts)
    assert gap(gradient(model, of, can_pack=False)[0], reference(model, of)[0]) < 1e-5
    assert model.learn(batch(model)).loss_nats < trained(base).learn(batch(model)).loss_nats


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("name", mostly_slow(SHAPES, "gemma3", "gpt2"))
def test_without_a_learning_rate_nothing_changes(name, weights):
    base = Engine(backbone(name))
    assert scores(trained(base, weights=weights, lr=1.0)) == scores(base)
    assert scores(moved(trained(base, weights=weights, lr=0.0))) == scores(base)
    assert scores(moved(trained(base, weights=weights, lr=1e-2))) != scores(base)


def test_a_seed_is_a_trajectory(llama):
    one, same, other = (moved(trained(llama, seed=seed)) for seed in (0, 0, 1))
    assert (in_bytes(one), one.fingerprint, scores(one)) == (in_bytes(same), same.fingerprint, scores(same))
    assert (in_bytes(one) == in_bytes(other), one.fingerprint == other.fingerprint) == (False, False)
    assert len({m.fingerprint for m in (one, moved(same, 1), trained(llama), llama)}) == 4


GUIDED = {"direction": 0.1, "magnitude": 0.05, "warmup": 0, "refresh": 2}


HOWS = [{"weights": "full", "optimiser": "adafactor", **GUIDED}]
LONG = [{}, {"weights": "full"}, {"optimiser": "adafactor"}, {"reference": "anchor", **GUIDED}]
LONG += [{"backend": "exact", "reference": "ema", **GUIDED}]
HOWS += [pytest.param(how, marks=pytest.mark.slow) for how in LONG]


@pytest.mark.parametrize("how", HOWS, ids=lambda how: " ".join(map(str, how.values())))
def test_training_that_is_resumed_is_the_same_to_the_byte(llama, how, tmp_path):
    how = {"lr": 1e-2, **how}
    model = trained(llama, **how)
    for i in range(3):
        model.learn(batch(model, i))
    model.save_state(tmp_path / "new" / "state.safetensors", {"n": 3})
    other = moved(trained(llama, **how), 1)
    assert other.load_state(tmp_path / "new" / "state.safetensors") == {"n": 3}
    logs = [[m.learn(batch(m, i)) for i in range(3, 7)] for m in (model, other)]
    assert logs[0] == logs[1]
    assert (in_bytes(model), model.fingerprint) == (in_bytes(other), other.fingerprint)
    for m in (model, other):
        assert m._trainer.n_steps == 7
        assert {int(s["step"]) for s in m._trainer._optimiser.state_dict()["state"].values()} == {7}
    if "direction" in how:
        assert logs[0][-1].cosine_to_reference is not None
        assert logs[0][-1].correction != 0


def test_nothing_stays_behind_on_the_backbone():
    base = Engine(backbone())
    model = base.backbone.model

    def state():
        ours = [*model.named_modules(), *model.named_parameters()]
        return {k: t.numpy().tobytes() for k, t in model.state_dict().items()}, [(name, id(x)) for name, x in ours]

    before, known = state(), scores(base)
    one, two = trained(base, lr=1e-2), trained(base, weights="full", lr=1e-2)
    moved(one)
    of_one = scores(one)
    moved(two)
    three = moved(trained(base, lr=1e-2))
    assert scores(one) == of_one == scores(three) != scores(two)
    with pytest.raises(KeyError), one._weights.active():
        raise KeyError
    assert scores(base) == known
    assert state() == before
    assert not any(p.requires_grad for p in model.parameters())


def test_the_same_weights_with_another_store_have_one_fingerprint(llama, tmp_path):
    """Scores are kept under the fingerprint: of changed weights it must not be the old one."""
    model = moved(trained(llama, lr=1e-2))
    store = SqliteStore(tmp_path / "store.sqlite")
    other = model.with_store(store)
    assert scores(other) == scores(model)
    model.learn(batch(model))
    assert other.fingerprint == model.fingerprint
    assert scores(other) == scores(model)
    store.close()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=torch.arange(40, 100)[None]).logits


def check_logits(theirs: torch.nn.Module, model: TrainedEngine) -> None:
    with model._weights.active():
        ours = logits(model.backbone.model)
    torch.testing.assert_close(logits(theirs), ours, rtol=0, atol=1e-4)
    assert (ours - logits(model.backbone.model)).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_plain_peft_loads_the_adapter(name, tmp_path):
    model = moved(trained(backbone(name), lr=1e-2))
    model.save_weights(tmp_path)
    check_logits(PeftModel.from_pretrained(backbone(name).model, tmp_path), model)


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("name", mostly_slow(SHAPES, "gemma3", "gpt2"))
def test_plain_transformers_loads_the_merged_model(name, weights, tmp_path):
    model = moved(trained(backbone(name), weights=weights, lr=1e-2))
    model.save_merged(tmp_path)
    check_logits(AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True), model)


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_weights_are_read_back(llama, weights, tmp_path):
    model, other = moved(trained(llama, weights=weights)), trained(llama, weights=weights, seed=1)
    model.save_weights(tmp_path)
    other.load_weights(tmp_path, model.fingerprint)
    assert (in_bytes(other), scores(other), other.fingerprint) == (in_bytes(model), scores(model), model.fingerprint)
    stranger = trained(llama, rank=4) if weights == "lora" else trained(backbone("gpt2"), weights="full")
    with pytest.raises(UserError, match="must be those for 'tiny' with the same settings"):
        stranger.load_weights(tmp_path, model.fingerprint)
    with pytest.raises(UserError, match=r"must hold the trained weights; .* adapt again"):
        other.load_weights(tmp_path / "nowhere", "")


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_training_that_diverges_leaves_the_weights(llama, weights):
    model = trained(llama, weights=weights, lr=1e30)
    model.learn(batch(model))
    before = in_bytes(model), model.fingerprint
    with pytest.raises(DivergedError, match=r"finite numbers at step 2 \(loss nan.* learning rate 1e\+30 is too large"):
        model.learn(batch(model))
    assert (in_bytes(model), model.fingerprint) == before
    assert model._trainer.n_steps == 1


def test_guidance_that_diverges_leaves_the_weights(llama, monkeypatch):
    model = moved(trained(llama, reference="ema", **GUIDED))
    monkeypatch.setattr(model._trainer._guide, "guided", lambda g, *_, **__: ([x * float("nan") for x in g], {}))
    before = in_bytes(model)
    with pytest.raises(DivergedError, match="finite numbers"):
        model.learn(batch(model))
    assert in_bytes(model) == before


NO_MEMORY = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu"])
def test_short_of_memory_a_step_takes_smaller_parts_once(monkeypatch, error):
    model = moved(trained(backbone()))
    of = rows(model, [text(model, *EXAMPLES[i : i + 4]) for i in (0, 1, 2)] * 2)
    longest, n_tokens = max(len(r.ids) for r in of), sum(len(r.ids) for r in of)
    expected = gradient(model, of)[0]
    lengths = watch(monkeypatch, model.backbone, n_tokens - 1, error)
    assert gap(gradient(model, of, micro_tokens=n_tokens)[0], expected) < 1e-5
    assert lengths[0] == n_tokens == sum(lengths[1:])
    watch(monkeypatch, model.backbone, longest - 1, error)  # halves are still too long
    for micro_tokens in (n_tokens, longest):
        with pytest.raises(ModelError, match=rf"a text of {longest} tokens does not\. Use fewer demonstrations \(k\)"):
            gradient(model, of, micro_tokens=micro_tokens)


def test_bad_texts_say_what_must_hold(llama):
    model = trained(llama)
    with pytest.raises(UserError, match=r"must fit the model's 4096 tokens; got 5002\. Use fewer"):
        model.learn(Batch((TrainingText(Prompt((Segment("query", "x" * 5000), Segment("answer", "y")))),)))
    with pytest.raises(UserError, match="an answer of at least one token; got none"):
        model.learn(Batch((TrainingText(Prompt((Segment("query", "x"),))),)))


def test_half_precision_learns_in_single_precision():
    model = trained(Backbone(backbone().model.to(torch.bfloat16), ByteTokenizer(), "tiny"), lr=1e-2)
    losses = [model.learn(batch(model)).loss_nats for _ in range(20)]
    assert {t.dtype for t in model._weights.tensors().values()} == {torch.float32}
    assert losses[-1] < losses[0] / 2


def test_weights_in_half_precision_are_not_displaced(tmp_path):
    base = Engine(Backbone(backbone().model.to(torch.bfloat16), ByteTokenizer(), "tiny"))
    for guided in ({"direction": 0.1}, {"magnitude": 0.1}):
        with pytest.raises(UserError, match=r"backend=fd must have weights in float32, .*; these are bfloat16"):
            trained(base, weights="full", **guided)
    trained(base, weights="full", align="gate")
    trained(base, weights="full", magnitude=0.1, backend="exact")
    assert trained(base, magnitude=0.1).learn(batch(base)).loss_nats > 0  # those of LoRA are in single precision
    task = replace(TASK, train=tuple(EXAMPLES))
    recipe = "fine-tune:weights=full,lr=1e-3,steps=1"
    with pytest.raises(UserError, match="backend=fd must have weights in float32"):  # before anything is asked
        kshot.adapt(task, base, recipes=f"zero-shot,{recipe},magnitude=0.1", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_small_steps_add_up_in_half_precision(tmp_path):
    base = Backbone(backbone().model.to(torch.bfloat16), ByteTokenizer(), "tiny")
    model = trained(base, weights="full", lr=1e-4)
    start = {name: t.clone() for name, t in model._weights.tensors().items()}

    def share_changed() -> float:
        changed = [(t != start[name]).flatten() for name, t in model._weights.tensors().items()]
        return float(torch.cat(changed).float().mean())

    losses = [model.learn(batch(model)).loss_nats]
    assert share_changed() < 0.25
    losses += [model.learn(batch(model)).loss_nats for _ in range(59)]
    assert share_changed() > 0.5
    assert losses[-1] < losses[0] - 0.1
    assert {t.dtype for t in model._weights.tensors().values()} == {torch.bfloat16}
    model.save_state(tmp_path / "state", {})  # what was rounded away is in it
    other = trained(base, weights="full", lr=1e-4)
    other.load_state(tmp_path / "state")
    assert moved(other).learn(batch(model)) == moved(model).learn(batch(model))
    assert in_bytes(other) == in_bytes(model)


ONE_OF = {"weights": "lora, full", "optimiser": "adamw, adafactor", "reference": "anchor, ema"}
ONE_OF |= {"backend": "fd, exact, surgery", "align": "none, gate, pcgrad"}
BAD = [({name: "x"}, f"{name} must be one of {known}; got 'x'") for name, known in ONE_OF.items()]
BAD += [({name: 0}, f"{name} must be 1 or more; got 0") for name in ("rank", "refresh")]
BAD += [({"warmup": -1}, "warmup must be 0 or more; got -1")]
NUMBERS = {"lr": -1.0, "direction": -0.1, "magnitude": float("nan"), "clip": float("inf")}
BAD += [({name: value}, f"{name} must be a number, 0 or more; got {value}") for name, value in NUMBERS.items()]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[str(bad) for bad, _ in BAD])
def test_bad_settings_say_what_must_hold(bad, message):
    with pytest.raises(UserError, match=message):
        Training(**bad)


@pytest.mark.parametrize("sizes", [(30, 28, 25, 9), (90, 6, 6, 6, 6)], ids=["as a batch", "in one row"])
def test_texts_that_are_run_at_once_are_learnt_as_each_alone(sizes):
    """However long they are: of like lengths they are padded, and else they stand in one row."""
    backbone, draw = tiny_backbone(), np.random.default_rng(0)
    rows = [TrainingRow(tuple(draw.integers(256, size=n).tolist()), tuple(range(1, n))) for n in sizes]
    alone = torch.cat([training_rows.answer_losses(backbone, [row]) for row in rows])
    assert torch.allclose(training_rows.answer_losses(backbone, rows), alone, atol=1e-4)
