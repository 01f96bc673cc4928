"""Gradients of single examples: against a backward pass for each, differences of the loss, and interruptions."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from kshot.core.errors import ModelError, UserError
from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.lessons import Lesson, Training, TrainingText
from kshot.core.types import Example, Prompt, Segment, Task
from kshot.engine import gradients as engine_gradients
from kshot.engine.gradients import ExampleGradients
from kshot.engine.language_model import Engine
from kshot.engine.training import Trainer
from kshot.engine.training_rows import TrainingRow
from kshot.models.hf import Backbone
from kshot.models.prefix import Prefix
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.taskmodel.taskmodel import TaskModel

GEMMA3 = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "query_pre_attn_scalar": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
SHAPES = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma3": ("gemma3_text", GEMMA3),
    "gpt2": ("gpt2", GPT2),
    "gemma2": ("gemma2", {"sliding_window": 16}),  # cannot be packed
}
QUESTIONS = [
    "black or green",
    "dark and hot",
    "of sugar cane",
    "with milk",
    "roasted",
    "for sailors",
    "sweet",
    "a bean",
]
ANSWERS = ("tea", "café", "rum")
EXAMPLES = tuple(Example(q * (1 + i % 3), ANSWERS[i % 3], f"e{i}") for i, q in enumerate(QUESTIONS))
TASK = Task("drinks", "classification", EXAMPLES, labels=ANSWERS, instruction="Name it.")
KINDS = ("prefix", "lora", "last-block")


def engine(name: str = "llama") -> Engine:
    return Engine(tiny_backbone(SHAPES[name][0], settings=SHAPES[name][1]))


@pytest.fixture(scope="module")
def llama() -> Engine:
    return engine()


def asker(model: Engine, folder: Path | None = None, *, rebuild: bool = False) -> TaskModel:
    return replace(TaskModel.for_task(TASK, model), gradient_store=GradientStore(folder, rebuild))


def rows_of(model: Engine, examples=EXAMPLES) -> list[TrainingRow]:
    made = TaskModel.for_task(TASK, model)
    return [model.training_row(made.training_text(Lesson((), e))) for e in examples]


def taken(model: Engine, **how) -> ExampleGradients:
    """Gradients at weights that are not those of the start, where half of LoRA's gradient is zero."""
    found = ExampleGradients(model.backbone, GradientSettings(**how), can_pack=model.obstacle is None, seed=0)
    if how.get("of") == "lora":
        source = torch.Generator().manual_seed(1)
        for p in found.weights.parameters.values():
            p.data.add_(torch.randn(p.shape, generator=source) * 0.1)
    return found


def plain_loss(backbone: Backbone, row: TrainingRow, soft: torch.Tensor | None, mean: bool) -> torch.Tensor:
    """One text by itself, as transformers runs it, all logits."""
    ids = torch.tensor([row.ids])
    embedded = backbone.model.get_input_embeddings()(ids)
    if soft is not None:
        start = row.soft[0]
        embedded = torch.cat([embedded[:, :start], soft[None], embedded[:, start + len(soft) :]], dim=1)
    logits = backbone.model(inputs_embeds=embedded, use_cache=False).logits[0]
    losses = [-torch.log_softmax(logits[at - 1], -1)[row.ids[at]] for at in row.supervised]
    return torch.stack(losses).mean() if mean else torch.stack(losses).sum()


def loop(found: ExampleGradients, row: TrainingRow, *, mean: bool = False) -> torch.Tensor:
    """The gradient of one text by autograd alone."""
    if isinstance(found.weights, Prefix):
        soft = found.weights.soft.detach().clone().requires_grad_()
        return torch.autograd.grad(plain_loss(found._backbone, row, soft, mean), soft)[0].flatten()
    weights = [layer.weight.requires_grad_() for layer in found._linear_layers()]
    try:
        if found.weights:
            with found.weights.active():
                loss = plain_loss(found._backbone, row, None, mean)
        else:
            loss = plain_loss(found._backbone, row, None, mean)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    finally:
        if found.weights is None:
            found._backbone.model.requires_grad_(False)


def active(found: ExampleGradients, batch):
    if found.weights is None:
        return found.gradients(batch)
    with found.weights.active():
        return found.gradients(batch)


def far(ours, theirs) -> float:
    ours, theirs = (
        torch.as_tensor(np.asarray(t.detach() if isinstance(t, torch.Tensor) else t)) for t in (ours, theirs)
    )
    return float(torch.linalg.norm(ours - theirs) / torch.linalg.norm(theirs))


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_batch_equals_the_loop(name, of):
    model = engine(name)
    found = taken(model, of=of)
    rows = [found.prepared(row) for row in rows_of(model)]
    batches = [rows[:5], rows[5:]] if model.obstacle is None else [[row] for row in rows]
    ours = torch.cat([active(found, batch) for batch in batches])
    assert ours.shape == (len(rows), found.dim)
    for mine, row in zip(ours, rows, strict=True):
        theirs = loop(found, row)
        assert torch.linalg.norm(theirs) > 1e-4
        assert far(mine, theirs) < 1e-4


@pytest.mark.parametrize("of", KINDS)
def test_company_does_not_matter(llama, of):
    found = taken(llama, of=of)
    rows = [found.prepared(row) for row in rows_of(llama)]
    alone = active(found, [rows[2]])[0]
    for company in ([rows[0], rows[2]], [rows[2], rows[7]], rows[1:6]):
        assert far(active(found, company)[company.index(rows[2])], alone) < 1e-5


def test_the_mean_over_tokens(llama):
    found = taken(llama, loss="mean")
    rows = [found.prepared(row) for row in rows_of(llama)]
    assert len({len(row.supervised) for row in rows}) > 1
    for mine, row in zip(active(found, rows), rows, strict=True):
        assert far(mine, loop(found, row, mean=True)) < 1e-4
        assert far(mine * len(row.supervised), loop(found, row)) < 1e-4


def test_the_mean_of_the_rows_is_the_gradient_of_the_mean(llama):
    found = taken(llama)
    rows = [found.prepared(row) for row in rows_of(llama)]
    soft = found.weights.soft.detach().clone().requires_grad_()
    loss = torch.stack([plain_loss(llama.backbone, row, soft, False) for row in rows]).mean()
    assert far(active(found, rows).mean(0), torch.autograd.grad(loss, soft)[0].flatten()) < 1e-4


def test_differences_of_the_loss(llama):
    found = taken(llama)
    row = found.prepared(rows_of(llama)[3])
    gradient = active(found, [row])[0]
    soft = found.weights.soft.detach()
    for at in np.random.default_rng(0).choice(soft.numel(), 5, replace=False):
        step = torch.zeros(soft.numel())
        step[at] = 1e-2 * float(soft.abs().mean())
        losses = [
            float(plain_loss(llama.backbone, row, soft + sign * step.reshape(soft.shape), False)) for sign in (1, -1)
        ]
        difference = (losses[0] - losses[1]) / (2 * float(step[at]))
        assert abs(difference - float(gradient[at])) < 2e-2 * float(gradient.abs().max())


def test_vectors_in_place_of_tokens_change_nothing_but_those(llama):
    """Run with the embeddings of the very tokens, logits are those of the tokens: nothing is scaled twice."""
    for name in SHAPES:
        backbone = engine(name).backbone
        ids = torch.tensor([256, 72, 105, 33, 32, 98])
        keep, positions = torch.arange(6), torch.arange(6)
        with torch.no_grad():
            by_ids = backbone.row_logits(ids, positions, None, keep)
            by_vectors = backbone.row_logits(ids, positions, None, keep, backbone.embed(ids))
        assert torch.allclose(by_ids, by_vectors, atol=1e-5)


def test_where_the_prefix_stands(llama):
    found = taken(llama, tokens=3)
    (row,) = rows_of(llama, EXAMPLES[:1])
    prepared = found.prepared(row)
    assert prepared.soft == (1, 2, 3)
    assert prepared.ids == (row.ids[0], 0, 0, 0, *row.ids[1:])
    assert [prepared.ids[s] for s in prepared.supervised] == [row.ids[s] for s in row.supervised]
    bare = TrainingRow(row.ids[1:], tuple(s - 1 for s in row.supervised))
    assert found.prepared(bare).soft == (0, 1, 2)


def test_only_the_prefix_is_trained_and_it_learns(tmp_path):
    model = engine()
    before = {k: v.clone() for k, v in model.backbone.model.state_dict().items()}
    how = GradientSettings(epochs=6, snapshots=3, lr=0.05)
    found = ExampleGradients(model.backbone, how, can_pack=True, seed=0)
    rows = [found.prepared(row) for row in rows_of(model)]
    losses = [float(plain_loss(model.backbone, r, found.weights.soft.detach(), False)) for r in rows]
    found.along_training(rows_of(model), about={}, store=GradientStore(), progress=lambda n: None)
    after = [float(plain_loss(model.backbone, r, found.weights.soft.detach(), False)) for r in rows]
    assert sum(after) < 0.9 * sum(losses)
    assert all(torch.equal(before[k], v) for k, v in model.backbone.model.state_dict().items())
    assert not any(p.requires_grad for p in model.backbone.model.parameters())
    assert found.weights.soft.numel() == 4 * 32


def test_a_first_prefix_is_as_large_as_embeddings(llama):
    size = float(llama.backbone.embed(torch.arange(260)).square().mean().sqrt())
    drawn = Prefix(llama.backbone, 100, first="embeddings", seed=0).soft
    assert abs(float(drawn.detach().square().mean().sqrt()) / size - 1) < 0.1
    assert abs(float(Prefix(llama.backbone, 100, first="normal", seed=0).soft.detach().std()) - 0.02) < 2e-3


def test_the_question_is_not_learnt(llama):
    """Other tokens in the question change the loss through what is seen alone; they are no targets."""
    (row,) = rows_of(llama, EXAMPLES[:1])
    assert len(row.supervised) == len(llama.backbone.tokenise(" tea\n\n"))
    assert min(row.supervised) == len(row.ids) - len(row.supervised)


@pytest.mark.parametrize(
    ("how", "n", "steps"),
    [
        ({}, 200, [1, 19, 38, 56, 75]),
        ({"snapshots": 1}, 200, [75]),
        ({"epochs": 1, "batch": 4}, 8, [1, 2]),
        ({"of": "last-block"}, 200, [75]),
        ({"snapshots": 11, "epochs": 10, "batch": 64}, 200, [1, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]),
    ],
)
def test_when_snapshots_are_taken(how, n, steps):
    assert GradientSettings(**how).snapshot_steps(n) == steps


@pytest.mark.parametrize("of", KINDS)
def test_the_same_seed_gives_the_same_rows_and_another_others(llama, of):
    how = GradientSettings(of=of, epochs=1)
    first, again, other = (asker(llama).gradients(EXAMPLES, how, seed=s) for s in (0, 0, 1))
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (of == "last-block")


def test_the_learning_rate_rises_in_the_first_steps_alone(llama, monkeypatch):
    how, rates, step = GradientSettings(lr=0.08, warmup=0.25, epochs=2, batch=2), [], Trainer.step

    def watched(trainer, *args):
        rates.append(trainer._optimiser.param_groups[0]["lr"])
        return step(trainer, *args)

    monkeypatch.setattr(Trainer, "step", watched)
    found = ExampleGradients(llama.backbone, how, can_pack=True, seed=0)
    found.along_training(rows_of(llama)[:8], about={}, store=GradientStore(), progress=lambda n: None)
    assert rates == pytest.approx([0.04, *[0.08] * 7])
    assert GradientSettings(warmup=0).lr_at(0, 8) == GradientSettings().lr


def test_snapshots_stand_one_behind_the_other(llama):
    """The last block of columns is what the last step's weights give; the first that of the first step's."""
    how = GradientSettings(epochs=2, snapshots=3)
    found = ExampleGradients(llama.backbone, how, can_pack=True, seed=0)
    whole = np.array(found.along_training(rows_of(llama), about={}, store=GradientStore(), progress=lambda n: None))
    rows = [found.prepared(row) for row in rows_of(llama)]
    assert whole.shape == (8, 2 * found.dim)  # two steps of training give no third snapshot
    assert far(whole[:, found.dim :], found.gradients(rows)) < 1e-6
    assert far(whole[:, : found.dim], whole[:, found.dim :]) > 1e-3


def test_the_direction_of_adamw(llama):
    """Its means of gradients and squares are those that torch's own AdamW would have after a step on the example."""
    found = ExampleGradients(llama.backbone, GradientSettings(of="lora", adam=True), can_pack=True, seed=0)
    rows = rows_of(llama)
    how = Training(lr=1e-2, clip=0)
    trainer = Trainer(llama.backbone, found.weights, how, fingerprint="", can_pack=True)
    for i in range(4):
        trainer.step(rows[i : i + 2])
    gradient = active(found, rows[:1])[0]
    direction = found._directions(rows[:1], trainer)[0]
    sizes = [p.numel() for p in trainer._masters]
    for master, part in zip(trainer._masters, gradient.split(sizes), strict=True):
        master.grad = part.reshape(master.shape)
    trainer._optimiser.step()
    first, second = trainer.moments()
    assert far(direction, first / torch.sqrt(second + 1e-8)) < 1e-5
    assert far(direction, gradient) > 0.1


def test_a_projection_keeps_angles(llama):
    whole = asker(llama).gradients(EXAMPLES, GradientSettings(of="last-block"), seed=0)
    projected = asker(llama).gradients(EXAMPLES, GradientSettings(of="last-block", projection=1024), seed=0)
    assert projected.shape == (8, 1024)
    gram, ours = whole @ whole.T, projected @ projected.T
    sizes = np.sqrt(np.diag(gram))
    assert np.abs((ours - gram) / np.outer(sizes, sizes)).max() < 0.15  # about 1 / sqrt(1024) = 0.03 each
    other = asker(llama).gradients(EXAMPLES, GradientSettings(of="last-block", projection=1024), seed=1)
    assert not np.allclose(projected, other)
    small = GradientSettings(epochs=1, snapshots=1)
    whole = asker(llama).gradients(EXAMPLES, small, seed=0)
    assert np.array_equal(asker(llama).gradients(EXAMPLES, replace(small, projection=100_000), seed=0), whole)


def test_progress_counts_every_run(llama, tmp_path):
    counted = []
    for how in (GradientSettings(), GradientSettings(of="last-block"), GradientSettings(of="lora", snapshots=2)):
        for _ in range(2):  # the second time it is all there
            counted.clear()
            llama.gradients(
                [asker(llama).training_text(Lesson((), e)) for e in EXAMPLES],
                how,
                seed=0,
                store=GradientStore(tmp_path),
                progress=counted.append,
            )
            assert sum(counted) == how.n_runs(8)


def test_what_is_stored_is_plain_safetensors_and_not_computed_again(llama, tmp_path, monkeypatch):
    how = GradientSettings()
    first = np.array(asker(llama, tmp_path).gradients(EXAMPLES, how, seed=0))
    (file,) = tmp_path.glob("*.safetensors")
    assert file.name.startswith("prefix-")
    assert file.name.endswith("-n8.safetensors")
    assert np.array_equal(load_file(file)["rows"], first)
    monkeypatch.setattr(llama.backbone, "row_logits", lambda *a: pytest.fail("a forward pass"))
    assert np.array_equal(asker(llama, tmp_path).gradients(EXAMPLES, how, seed=0), first)


@pytest.mark.parametrize(
    ("of", "after"),
    [("prefix", 3), ("lora", 6), *(pytest.param("prefix", n, marks=pytest.mark.slow) for n in (0, 5, 9))],
)
def test_an_interrupted_computation_ends_with_the_same_rows(tmp_path, monkeypatch, of, after):
    """Stopped after so many passes, in training and behind it, it goes on to the same bits."""
    monkeypatch.setattr(engine_gradients, "_MOST_TOKENS", 120)
    how = GradientSettings(of=of, epochs=2, batch=4, snapshots=3)
    model = engine()
    whole = np.array(asker(model, tmp_path / "whole").gradients(EXAMPLES, how, seed=0))
    passes: Counter[str] = Counter()

    def counting(*args, run=model.backbone.row_logits):
        passes["all"] += 1
        if passes["all"] > after:
            raise KeyboardInterrupt
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(model.backbone, "row_logits", counting)
        with pytest.raises(KeyboardInterrupt):
            asker(model, tmp_path / "cut").gradients(EXAMPLES, how, seed=0)
    resumed = asker(model, tmp_path / "cut").gradients(EXAMPLES, how, seed=0)
    assert np.array_equal(resumed, whole)
    assert [f.suffixes for f in (tmp_path / "cut").iterdir()] == [[".safetensors"]]  # no snapshot is left behind


def test_training_that_was_interrupted_on_other_examples_is_no_start(tmp_path, monkeypatch):
    how, model = GradientSettings(epochs=2, batch=4, snapshots=3), engine()
    other = (*EXAMPLES[:7], replace(EXAMPLES[7], input="cold"))
    with monkeypatch.context() as patch:
        patch.setattr(ExampleGradients, "gradients", lambda *a: pytest.fail("interrupted behind the training"))
        with pytest.raises(pytest.fail.Exception):
            asker(model, tmp_path).gradients(EXAMPLES, how, seed=0)
    assert len(list(tmp_path.glob("*snapshot*"))) == 3
    rebuilt = asker(model, tmp_path, rebuild=True).gradients(other, how, seed=0)
    assert np.array_equal(rebuilt, asker(model).gradients(other, how, seed=0))


def test_a_store_of_something_else_is_refused(llama, tmp_path):
    how = GradientSettings(epochs=1)
    asker(llama, tmp_path).gradients(EXAMPLES, how, seed=0)
    other = (*EXAMPLES[:7], replace(EXAMPLES[7], input="cold"))
    with pytest.raises(UserError, match=r"what differs is: examples\. Rebuild it with --rebuild"):
        asker(llama, tmp_path).gradients(other, how, seed=0)
    with pytest.raises(UserError, match="what differs is: model.*or name another folder with --gradients"):
        asker(Engine(tiny_backbone(seed=1)), tmp_path).gradients(EXAMPLES, how, seed=0)
    rebuilt = asker(llama, tmp_path, rebuild=True).gradients(other, how, seed=0)
    assert np.array_equal(rebuilt, asker(llama).gradients(other, how, seed=0))
    assert np.array_equal(rebuilt, asker(llama, tmp_path).gradients(other, how, seed=0))


def test_a_file_that_is_no_store_is_refused(llama, tmp_path):
    how = GradientSettings(epochs=1)
    asker(llama, tmp_path).gradients(EXAMPLES, how, seed=0)
    (file,) = tmp_path.iterdir()
    file.write_text("hello")
    with pytest.raises(UserError, match="it is no file of gradients"):
        asker(llama, tmp_path).gradients(EXAMPLES, how, seed=0)


def test_gradients_that_are_not_finite(tmp_path):
    model = engine()
    model.backbone.model.lm_head.weight[97] = float("nan")
    with pytest.raises(ModelError, match="that of example 1 is not. Use --dtype float32"):
        asker(model).gradients(EXAMPLES, GradientSettings(of="last-block"), seed=0)
    with pytest.raises(ModelError, match="the learning rate 0.01 is too large"):
        asker(model).gradients(EXAMPLES, GradientSettings(), seed=0)


def test_an_answer_without_tokens(llama):
    with pytest.raises(UserError, match="must have an answer of at least one token; got none"):
        llama.gradients([TrainingText(Prompt((Segment("query", "hello"),)))], GradientSettings(), seed=0)


def test_a_model_without_weights():
    with pytest.raises(UserError, match="'scripted' has none. Name one with --selector-model"):
        TaskModel.for_task(TASK, ScriptedModel()).gradients(EXAMPLES, GradientSettings(), seed=0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"of": "head"}, "of must be one of prefix, lora, last-block; got 'head'"),
        ({"loss": "max"}, "loss must be one of sum, mean; got 'max'"),
        ({"first": "zero"}, "first must be one of embeddings, normal; got 'zero'"),
        ({"tokens": 0}, "tokens must be 1 or more; got 0"),
        ({"snapshots": 0}, "snapshots must be 1 or more; got 0"),
        ({"projection": -1}, "projection must be 0 or more; got -1"),
        ({"lr": float("nan")}, "lr must be a number, 0 or more; got nan"),
        ({"of": "last-block", "adam": True}, "adam must be left out for the last block"),
    ],
)
def test_settings_out_of_range(how, message):
    with pytest.raises(UserError, match=message):
        GradientSettings(**how)
