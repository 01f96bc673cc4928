"""Steering: hooks, their formulas, what steerers find, and what is refused. References are written from the papers."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.decomposition import PCA
from torch import nn

from kshot.core.errors import ModelError, UserError
from kshot.core.ledger import Ledger
from kshot.core.lessons import Training, TrainingText
from kshot.core.models import Capability
from kshot.core.seeding import generator
from kshot.core.steering import Edit, Steering, averaged
from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Segment, Task
from kshot.engine.language_model import Engine
from kshot.engine.training_rows import answer_losses
from kshot.learners.steered import check_outputs, repeats_itself
from kshot.methods.contracts import Steerer
from kshot.methods.steerers import STEERERS
from kshot.methods.steerers.function_vector import causal_effects
from kshot.methods.steerers.held_out import halves
from kshot.methods.steerers.icv import Icv, direction
from kshot.methods.steerers.random_direction import randomised
from kshot.methods.steerers.soft_injection import SoftInjection
from kshot.models.hooks import steered, turned
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

# Grouped queries everywhere but in GPT-2; in Gemma's shape a head is wider than width / heads
SHAPES = {
    "llama": {},
    "gemma3_text": {"head_dim": 16, "sliding_window": 4},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 4096},
    "gpt_neox": {"num_key_value_heads": 4},
}
TEXTS = ("hello wor", "hello w", "hello w", "another text altogether")
SMALL = {
    "icv": {"strength": 0.1},
    "function-vector": {"prompts": 2, "shots": 2, "heads": 2},
    "soft-injection": {"prompts": 2, "shots": 2, "steps": 4, "every": 2},
    "attention": {"span": "asked", "alpha": 0.5},
    "knob": {"shots": 2, "steps": 2, "batch": 2},
    "random-direction": {},
}


@cache
def engine(architecture: str = "llama") -> Engine:
    return Engine(tiny_backbone(architecture, settings=SHAPES[architecture]), pack_tokens=8)


def prompt(text: str) -> Prompt:
    return Prompt((Segment("query", text),))


def requests() -> list[ScoreRequest]:
    """One prompt is the beginning of another, and two are equal."""
    return [ScoreRequest(prompt(text), ("ld", "w")) for text in TEXTS]


def shift(model: Engine, strength: float = 0.3, *, seed: int = 0, site: str = "mlp") -> Steering:
    """An in-context vector drawn at random."""
    shape, drawn = model.activations.shape, np.random.default_rng(seed)
    return Steering(
        tuple(
            Edit(layer, site, "turn", False, drawn.normal(size=(1, shape.width)).astype("f4"),
                 np.array([strength], dtype="f4"))
            for layer in range(shape.n_layers)
        )
    )  # fmt: skip


def injection(model: Engine, alpha: float = 0.5, *, seed: int = 0) -> Steering:
    """A soft injection drawn at random."""
    shape, drawn = model.activations.shape, np.random.default_rng(seed)
    size = (shape.n_heads, shape.head_dim)
    return Steering(
        tuple(
            Edit(layer, "heads", "mix", True, drawn.normal(size=size).astype("f4"),
                 np.full(shape.n_heads, alpha, dtype="f4"))
            for layer in range(shape.n_layers)
        )
    )  # fmt: skip


def added(model: Engine, scale: float = 1.0) -> Steering:
    """A function vector drawn at random."""
    vector = np.random.default_rng(3).normal(size=(1, model.activations.shape.width)).astype("f4")
    return Steering((Edit(1, "block", "add", True, vector, np.array([scale], dtype="f4")),))


def plain_log_probs(model: Engine, request: ScoreRequest, *, last: bool = True) -> np.ndarray:
    """transformers' own forward pass over each whole text, under whatever hooks are on it."""
    found = []
    ids = list(model.encode(request.prompt).ids)
    for text in request.continuations:
        answer = list(model.backbone.tokenise(text))
        model.backbone.at = len(ids) - 1  # for the hooks of these tests
        with torch.inference_mode():
            logits = model.backbone.model(torch.tensor([[*ids, *answer[:-1]]])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(answer)))
    return np.array(found)


def modules(model: Engine, layer: int) -> tuple[nn.Module, nn.Module]:
    """The attention's output projection and the MLP of a layer, found without the code under test."""
    block = model.backbone.blocks[layer]
    names = {name.rpartition(".")[2]: m for name, m in block.named_modules()}
    attention = names.get("self_attn") or names.get("attention") or names["attn"]
    return next(getattr(attention, n) for n in ("o_proj", "c_proj", "dense") if hasattr(attention, n)), names["mlp"]


def close(ours, theirs, tolerance: float = 1e-4) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


def same(ours, theirs) -> bool:
    return all((a == b).all() for a, b in zip(ours, theirs, strict=True))


# Hooks and formulas


@pytest.mark.parametrize(
    ("make", "architecture"),
    [pytest.param(make, name, marks=() if make is shift or name in ("llama", "gpt2") else pytest.mark.slow)
     for make in (shift, injection, added) for name in SHAPES],
)  # fmt: skip
def test_packed_equals_one_by_one(architecture, make):
    model = engine(architecture)
    changed = model.steered(make(model))
    packed = changed.score(requests())
    assert max(np.abs(a - b).max() for a, b in zip(packed, model.score(requests()), strict=True)) > 1e-3
    alone = [changed.score([one])[0] for one in requests()]
    plain = model.steered(make(model))
    plain.__dict__["obstacle"] = "for the test"
    close(packed, alone)
    close(packed, plain.score(requests()))
    asked = [GenerateRequest(r.prompt, 5) for r in requests()]
    assert changed.generate(asked) == [changed.generate([one])[0] for one in asked] == plain.generate(asked)


@pytest.mark.parametrize("architecture", SHAPES)
def test_alpha_1_in_all_heads_is_patching_and_alpha_0_is_the_identity(architecture):
    model = engine(architecture)
    steering = injection(model, 1.0)
    hooks = []
    for layer, edit in enumerate(steering.edits):

        def patch(module, inputs, edit=edit):
            x = inputs[0].clone()
            x[:, model.backbone.at] = torch.from_numpy(edit.vectors).flatten()
            return (x,)

        hooks.append(modules(model, layer)[0].register_forward_pre_hook(patch))
    try:
        wanted = [plain_log_probs(model, one) for one in requests()]
    finally:
        for hook in hooks:
            hook.remove()
    close(model.steered(steering).score(requests()), wanted)
    none = model.steered(steering.scaled(0))
    assert none.fingerprint == model.fingerprint
    assert same(none.score(requests()), model.score(requests()))
    assert same(model.steered(shift(model, 0.0)).score(requests()), model.score(requests()))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_shift_is_that_of_the_paper_at_every_token(architecture):
    model = engine(architecture)
    steering = shift(model, 0.3)
    hooks = []
    for layer, edit in enumerate(steering.edits):

        def turn(module, inputs, output, edit=edit):
            out, v = output.clone(), torch.from_numpy(edit.vectors[0])
            for at in range(out.shape[1]):
                h = out[0, at]
                g = 1 + max(0.0, float(h @ -v / (h.norm() * v.norm())))
                new = h / h.norm() + 0.3 * g * v / v.norm()
                out[0, at] = h.norm() * new / new.norm()
            return out

        hooks.append(modules(model, layer)[1].register_forward_hook(turn))
    try:
        wanted = [plain_log_probs(model, one) for one in requests()]
    finally:
        for hook in hooks:
            hook.remove()
    close(model.steered(steering).score(requests()), wanted)


@given(
    arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32)),
    arrays(np.float32, (2, 8), elements=st.floats(-100, 100, width=32)),
    st.floats(0, 10),
)
def test_a_turn_keeps_the_norm(x, vectors, weight):
    weights = torch.tensor([weight, weight / 2], dtype=torch.float32)
    before = torch.from_numpy(x)
    after = turned(before, torch.from_numpy(vectors), weights)
    kept = after.norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12)
    # Where the turned direction cancels out there is nothing to keep; so is nothing of what is 0
    is_clear = (before.norm(dim=-1) > 1e-6) & (kept > 0)
    assert torch.allclose(kept[is_clear], torch.ones_like(kept[is_clear]), atol=1e-5)
    if not vectors.any():
        assert torch.allclose(after, before, rtol=1e-5)


def test_several_vectors_shift_by_the_average_of_their_shifts():
    model = engine()
    one, two = shift(model, 0.1, seed=1), shift(model, 0.4, seed=2)
    both = averaged([one, two])
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for a, b, ab in zip(one.edits, two.edits, both.edits, strict=True):
        wanted = x / x.norm(dim=-1, keepdim=True)
        for edit, lam in ((a, 0.1), (b, 0.4)):
            v = torch.from_numpy(edit.vectors[0])
            g = 1 + (-(x @ v) / (x.norm(dim=-1) * v.norm())).clamp(min=0)
            wanted = wanted + lam / 2 * g[:, None] * v / v.norm()
        wanted = x.norm(dim=-1, keepdim=True) * wanted / wanted.norm(dim=-1, keepdim=True)
        found = turned(x, torch.from_numpy(ab.vectors), torch.from_numpy(ab.weights))
        assert torch.allclose(found, wanted, atol=1e-5)


def test_stacked_steerings_are_made_one_after_the_other():
    model = engine()
    one, two = shift(model, 0.2, seed=1), shift(model, 0.3, seed=2)
    stacked = model.steered(one).steered(two)
    assert stacked.fingerprint == model.steered(one.then(two)).fingerprint
    assert stacked.fingerprint != model.steered(two).steered(one).fingerprint
    hooks = []
    for layer in range(2):
        for steering, lam in ((one, 0.2), (two, 0.3)):
            v = torch.from_numpy(steering.edits[layer].vectors)
            change = lambda module, inputs, out, v=v, lam=lam: turned(out, v, torch.tensor([lam]))  # noqa: E731
            hooks.append(modules(model, layer)[1].register_forward_hook(change))
    try:
        wanted = [plain_log_probs(model, one) for one in requests()]
    finally:
        for hook in hooks:
            hook.remove()
    close(stacked.score(requests()), wanted)
    mixed = model.steered(injection(model)).steered(shift(model))
    close(mixed.score(requests()), model.steered(shift(model)).steered(injection(model)).score(requests()))


def test_nothing_stays_behind():
    model = engine("gemma3_text")
    before = {name: t.clone() for name, t in model.backbone.model.state_dict().items()}
    plain = model.score(requests())

    def n_hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.backbone.model.modules())

    n = n_hooks()
    model.steered(shift(model)).score(requests())
    model.activations.read([prompt("a")], "heads")
    with pytest.raises(UserError, match="at least one token"):
        model.steered(shift(model)).score([ScoreRequest(prompt("a"), ("",))])
    with steered(model.backbone, [injection(model)]):
        assert n_hooks() > n
    assert n_hooks() == n
    assert all(torch.equal(t, before[name]) for name, t in model.backbone.model.state_dict().items())
    assert same(model.score(requests()), plain)


def test_directions_are_added_negated_and_scaled():
    model = engine()
    one, two = shift(model, seed=1), shift(model, seed=2)
    total = one + two
    assert np.array_equal(total.edits[1].vectors, one.edits[1].vectors + two.edits[1].vectors)
    assert np.array_equal((-one).edits[0].vectors, -one.edits[0].vectors)
    assert one.scaled(2).edits[0].weights[0] == np.float32(0.6)
    with pytest.raises(UserError, match="Only directions can be negated; this steering replaces the outputs of heads"):
        -injection(model)
    with pytest.raises(UserError, match="that are added must act at the same layers and sites"):
        one + shift(model, site="block")
    with pytest.raises(UserError, match="that are added must have as many vectors each; an average has several"):
        averaged([one, two]) + one
    with pytest.raises(UserError, match="An average needs at least one steering; got none"):
        averaged([])


@pytest.mark.parametrize("architecture", SHAPES)
def test_reading_equals_a_plain_pass(architecture):
    model = engine(architecture)
    prompts = [r.prompt for r in requests()]
    heads = model.activations.read(prompts, "heads")
    assert heads.shape == (4, 2, model.activations.shape.n_heads, model.activations.shape.head_dim)
    states = model.activations.read(prompts, "block")
    seen: list[torch.Tensor] = []
    hooks = [modules(model, i)[0].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0][0, -1]))
             for i in range(2)]  # fmt: skip
    for i, one in enumerate(prompts):
        seen.clear()
        with torch.inference_mode():
            ids = torch.tensor([model.encode(one).ids])
            out = model.backbone.model(ids, output_hidden_states=True)
        close(heads[i].reshape(2, -1), [s.numpy() for s in seen])
        close(states[i][:1], [out.hidden_states[1][0, -1].numpy()])  # the last one is behind the final norm there
    for hook in hooks:
        hook.remove()
    plain = Engine(model.backbone)
    plain.__dict__["obstacle"] = "for the test"
    close(plain.activations.read(prompts, "block"), states)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_heads_write_is_the_projection_of_each_alone(architecture):
    model = engine(architecture)
    shape = model.activations.shape
    heads = np.random.default_rng(0).normal(size=(2, shape.n_heads, shape.head_dim)).astype("f4")
    found = model.activations.write_heads(heads)
    projection = modules(model, 1)[0]
    for head in range(shape.n_heads):
        only = torch.zeros(1, shape.n_heads, shape.head_dim)
        only[0, head] = torch.from_numpy(heads[1, head])
        with torch.inference_mode():
            zero = projection(torch.zeros(1, 1, shape.n_heads * shape.head_dim))
            wanted = projection(only.reshape(1, 1, -1)) - zero
        close([found[1, head]], [wanted[0, 0].numpy()])


def test_many_steerings_at_once_are_each_alone():
    model = engine("gemma3_text")
    tried = [injection(model), Steering(()), added(model), injection(model, 0.9, seed=5)]
    ledger = Ledger()
    found = model.activations.score_under(requests(), tried, ledger=ledger)
    n_tokens = ledger.cost.tokens
    for i, steering in enumerate(tried):
        close([rows[i] for rows in found], model.steered(steering).score(requests()))
    # All but the last token of a prompt, and the answers behind it, is run once
    n_prompts = len({i for r in requests() for i in [model.encode(r.prompt).ids]})
    assert n_tokens < sum(len(t) + 1 for t in TEXTS) + n_prompts * len(tried) * 2 + len(tried)
    every = model.activations.score_under(requests(), [shift(model), Steering(())])
    close([rows[1] for rows in every], model.score(requests()))
    with pytest.raises(ModelError, match="Steerings are tried on a model without one"):
        model.steered(shift(model)).activations.score_under(requests(), tried)


# Gates


def words_task(n: int = 12, kind: str = "classification") -> Task:
    answers = ("yes", "no")
    rows = tuple(
        Example(f"text {i} {'cats' if i % 2 else 'dogs'}", answers[i % 2], str(i), f"said {answers[i % 2]}",
                meta={"memory_answer": answers[i % 2 - 1]})
        for i in range(n)
    )  # fmt: skip
    return Task("words", kind, rows, labels=("yes", "no") if kind == "classification" else ())


def asker(architecture: str = "llama", **kind) -> TaskModel:
    return TaskModel.for_task(words_task(**kind), Engine(tiny_backbone(architecture, settings=SHAPES[architecture])))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_gates_are_all_that_is_trained(architecture):
    subject = asker(architecture)
    model = subject.model
    shape = model.activations.shape
    vectors = np.random.default_rng(0).normal(size=(2, shape.n_heads, shape.head_dim)).astype("f4")
    before = {name: t.clone() for name, t in model.backbone.model.state_dict().items()}
    plain = subject.code_lengths([()] * 4, subject.task.train[:4])
    gated = model.activations.gated(vectors, Training(lr=0.2, clip=0.0))
    parameters = gated._trainer._parameters
    assert [tuple(p.shape) for p in parameters] == [(shape.n_layers, shape.n_heads)]
    assert sum(p.numel() for p in parameters) == shape.n_layers * shape.n_heads
    first = gated.steering()
    assert all((e.weights == 0.5).all() for e in first.edits)
    losses = [subject.learn(gated, subject.task.train[:4], loss="all").loss_nats for _ in range(8)]
    assert losses[-1] < losses[0]
    # The loss of training is the loss that the engine's steering gives: the same formula in both
    close([np.array(losses[0])], [_mean_loss(subject, first)])
    assert all((e.weights != 0.5).all() for e in gated.steering().edits)
    assert all(torch.equal(t, before[name]) for name, t in model.backbone.model.state_dict().items())
    assert (subject.code_lengths([()] * 4, subject.task.train[:4]) == plain).all()


def _mean_loss(subject: TaskModel, steering: Steering) -> np.ndarray:
    """The mean loss over all tokens of four answers, by scoring."""
    examples = subject.task.train[:4]
    answers = [subject.layout.answer(e.output) for e in examples]
    asked = [ScoreRequest(subject.prompt((), e)[0], (a,)) for e, a in zip(examples, answers, strict=True)]
    scores = subject.model.steered(steering).score(asked)
    return -np.array(sum(s[0] for s in scores)) / sum(subject.model.count_tokens(a) for a in answers)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_gates_learn_the_same_whether_prompts_are_run_once_or_again(architecture):
    subject = asker(architecture)
    shape = subject.model.activations.shape
    vectors = np.random.default_rng(0).normal(size=(2, shape.n_heads, shape.head_dim)).astype("f4")
    found = []
    for obstacle, most_bytes in ((None, 2**30), (None, 0), ("for the test", 0)):
        subject.model.__dict__["obstacle"] = obstacle
        gated = subject.model.activations.gated(vectors, Training(lr=0.2, clip=0.0))
        gated.most_bytes = most_bytes
        for i in range(3):
            subject.learn(gated, subject.task.train[i : i + 3], loss="choice")
        assert len(gated._pasts) == (0 if obstacle else 5 if most_bytes else 3)
        found.append(gated.steering())
    once, again, plain = ([e.weights for e in s.edits] for s in found)
    close(once, plain)
    close(again, plain)


def test_a_choice_is_learnt_where_the_answers_differ_and_among_theirs():
    model = engine()
    labels = ("(A)\n", "(B)\n", "(Bb)\n")
    text = TrainingText(Prompt((Segment("query", "which ?"), Segment("answer", labels[1]))), among=labels)
    row = model._encoder.training_row(text, marked=True, first_token=True)
    n = len(model.backbone.first_ids) + len("which ?")
    assert (row.marked, row.supervised, row.among) == ((n - 1,), (n + 1,), ((ord("A"), ord("B")),))
    with torch.inference_mode():
        logits = model.backbone.model(torch.tensor([row.ids])).logits[0, n]
        wanted = -logits[list(row.among[0])].log_softmax(-1)[1]
        found = answer_losses(model.backbone, [row, replace(row, among=())])
    close(found, [wanted, -logits.log_softmax(-1)[ord("B")]])


# Steerers


@pytest.mark.parametrize("kind", ["classification", "generation"])
@pytest.mark.parametrize("name", STEERERS)
def test_every_steerer_keeps_the_contract(name, kind, tmp_path):
    recipe = parse_recipe(f"{name}:{','.join(f'{k}={v}' for k, v in SMALL[name].items())}".rstrip(":"), shots=2)
    steerer = recipe.part("steerer")
    assert isinstance(steerer, Steerer)
    assert recipe.needs == {Capability.ACTIVATIONS}
    assert recipe.parts.keys() == {"steerer"}
    subject = asker(kind=kind)
    examples = subject.task.train
    found = steerer.fit(examples, model=subject, rng=generator(0, "steer"))
    again = steerer.fit(examples, model=subject, rng=generator(0, "steer"))
    assert found.edits
    assert found.fingerprint == again.fingerprint
    assert found.model == subject.model.unsteered
    changed = subject.steered(found)
    found.save(tmp_path)
    loaded = Steering.load(tmp_path)
    assert loaded.about == found.about
    asked = [ScoreRequest(subject.prompt((), e)[0], (" yes\n",)) for e in examples[:4]]
    assert same(subject.model.steered(loaded).score(asked), changed.model.score(asked))
    assert not same(changed.model.score(asked), subject.model.score(asked))
    with pytest.raises(UserError, match=rf"needs at least {steerer.least} examples.*got 1\."):
        steerer.fit(examples[:1], model=subject, rng=generator(0, "steer"))


def test_a_direction_is_mean_and_first_component_and_turns_round_with_its_pairs():
    gaps = np.random.default_rng(0).normal(size=(9, 2, 5)).astype("f4")
    found = direction(gaps)
    flat = gaps.reshape(9, -1).astype(float)
    reference = PCA(n_components=1, svd_solver="full").fit(flat)
    component = reference.components_[0]
    scores = (flat - flat.mean(0)) @ component
    component = component * np.sign(scores[np.argmax(np.abs(scores))])
    np.testing.assert_allclose(found.reshape(-1), flat.mean(0) + component, atol=1e-5)
    np.testing.assert_array_equal(direction(-gaps), -found)


def test_an_in_context_vector_reads_bare_texts_and_shifts_the_chosen_layers():
    subject = asker()
    found = Icv(strength=0.1, layer=1).fit(subject.task.train, model=subject, rng=generator(0, "x"))
    assert [(e.layer, e.site, e.last_only, e.weights.tolist()) for e in found.edits] == [
        (1, "mlp", False, [np.float32(0.1)])
    ]
    read = subject.model.activations.read
    texts = [
        [prompt(t) for t in texts] for texts in zip(*[(e.text, e.output) for e in subject.task.train], strict=True)
    ]
    gaps = read(texts[1], "block") - read(texts[0], "block")
    np.testing.assert_array_equal(found.edits[0].vectors[0], direction(gaps)[1])


def test_the_strength_is_chosen_on_examples_that_the_direction_does_not_know():
    subject = asker()
    rows = subject.task.train
    for n in (4, 5, 12):
        folds = list(halves(rows[:n], least=2, rng=generator(0, "halves")))
        assert sorted(i for _, asked in folds for i in asked) == list(range(n))
        assert all(not set(known) & set(asked) for known, asked in folds)
    assert list(halves(rows[:3], least=2, rng=generator(0, "x")))[0][0] != []
    chosen = Icv().fit(subject.task.train, model=subject, rng=generator(0, "x")).about["strength"]
    folds = list(halves(rows, least=2, rng=generator(0, "x")))
    bits = {}
    for strength in (0.005, 0.01, 0.02, 0.05, 0.1):
        total = 0.0
        for known, asked in folds:
            some = [subject.task.train[i] for i in known]
            made = Icv(strength=strength).fit(some, model=subject, rng=generator(0, "y"))
            total += subject.steered(made).code_lengths([()] * len(asked), [subject.task.train[i] for i in asked]).sum()
        bits[strength] = total
    assert chosen == min(bits, key=bits.get)


def test_soft_injection_keeps_the_gates_with_the_fewest_held_out_bits():
    subject = asker()
    how = SoftInjection(prompts=2, shots=2, steps=6, every=2)
    found = how.fit(subject.task.train, model=subject, rng=generator(0, "x"))
    looks = found.about["held_out_bits"]
    assert len(looks) == 4
    assert looks[found.about["kept"]] == min(looks)
    held = [subject.task.train[i] for i in generator(0, "x").permutation(12)][:4]
    close([subject.bits_under([found], held).mean()], [min(looks)], 1e-3)


def test_causal_effects_are_those_of_patching_each_head_alone():
    subject = asker()
    shape = subject.model.activations.shape
    means = np.random.default_rng(0).normal(size=(2, shape.n_heads, shape.head_dim)).astype("f4")
    shown = [subject.task.train[:3], subject.task.train[4:7]]
    queries = [subject.task.train[8], subject.task.train[9]]
    found = causal_effects(means, shown, queries, model=subject, rng=generator(0, "x"))
    rng = generator(0, "x")
    shuffled = [[replace(e, output=demos[j].output) for e, j in zip(demos, rng.permutation(3), strict=True)]
                for demos in shown]  # fmt: skip
    before = subject.code_lengths(shuffled, queries)
    for layer, head in ((0, 1), (1, 3)):
        only = np.eye(shape.n_heads, dtype="f4")[head]
        patch = Steering((Edit(layer, "heads", "mix", True, means[layer], only),))
        after = subject.steered(patch).code_lengths(shuffled, queries)
        assert found[layer, head] == pytest.approx((before - after).mean(), abs=1e-4)


@pytest.mark.parametrize("make", [shift, injection, added])
def test_the_control_has_the_norms_and_other_directions(make):
    steering = make(engine())
    control = randomised(steering, generator(0, "control"))
    for a, b in zip(steering.edits, control.edits, strict=True):
        np.testing.assert_allclose(*(np.linalg.norm(e.vectors, axis=-1) for e in (a, b)), rtol=1e-5)
        assert np.abs(a.vectors - b.vectors).min() > 0
        assert (a.layer, a.site, a.operation, a.weights.tolist()) == (b.layer, b.site, b.operation, b.weights.tolist())


# What is refused


def test_an_architecture_without_the_modules_is_named():
    backbone = tiny_backbone()
    backbone.blocks[1].feedforward = backbone.blocks[1].mlp
    del backbone.blocks[1].mlp
    message = (
        r"Activations of 'tiny' \(llama\) cannot be changed: the MLP must be a module called mlp or feed_forward, as "
        r"in Llama, Gemma, .*; there is self_attn, .*, feedforward\. Use a recipe without a steerer\."
    )
    with pytest.raises(ModelError, match=message):
        Engine(backbone).steered(shift(engine()))


def test_a_steering_of_another_model_is_refused():
    subject = asker()
    found = Icv(strength=0.1).fit(subject.task.train, model=subject, rng=generator(0, "x"))
    other = Engine(tiny_backbone(seed=1))
    with pytest.raises(
        ModelError, match=r"must be used on the model it was fitted on \(.{12}\); 'tiny' is another one"
    ):
        other.steered(found)
    message = r"must have \[4, 16\] numbers at 'heads' of one of its 2 layers; this one has \[4, 8\] at layer 0"
    with pytest.raises(ModelError, match=message):
        engine("qwen3").steered(injection(engine()))
    deep = Steering((replace(shift(engine()).edits[0], layer=7),))
    with pytest.raises(ModelError, match=r"one of its 2 layers; this one has \[32\] at layer 7: it is another model's"):
        engine().steered(deep)


def test_a_steered_model_is_not_trained():
    changed = engine().steered(shift(engine()))
    assert Capability.GRADIENTS not in changed.capabilities
    for call in (lambda: changed.trainable(Training(), seed=0), lambda: changed.gradients([], None, seed=0)):
        with pytest.raises(ModelError, match="'tiny' is steered, and training would not know of it; train first, then"):
            call()
    assert Capability.GRADIENTS in engine().capabilities


def test_files_that_are_no_steering_are_refused(tmp_path):
    with pytest.raises(UserError, match="must hold a steering, steering.safetensors and steering.json; .*No such file"):
        Steering.load(tmp_path)
    shift(engine(), seed=1).save(tmp_path)
    about = (tmp_path / "steering.json").read_text()
    shift(engine(), seed=2).save(tmp_path)
    (tmp_path / "steering.json").write_text(about)
    with pytest.raises(UserError, match="they do not belong together, or are of another version"):
        Steering.load(tmp_path)


def test_outputs_that_are_no_numbers_or_repeat_are_said():
    subject = asker(kind="generation")
    said: list[str] = []
    subject.progress.say = said.append
    huge = shift(subject.model, 3e38)
    with pytest.raises(ModelError, match="icv: under this steering the model's outputs are not numbers; use a smaller"):
        check_outputs("icv", huge, subject.task.train[:2], subject)
    assert repeats_itself("the the the the the")
    assert repeats_itself("answer: aaaaaaaaaaaaaaa")
    assert not repeats_itself("a list of words without end")
    assert not repeats_itself("no no")
    strong = shift(subject.model, 50.0, seed=2, site="block")
    check_outputs("icv", strong, subject.task.train[:4], subject)
    assert len(said) == 1
    assert said[0].startswith("icv: under this steering the model repeats itself on ")
    assert said[0].endswith("use a smaller strength, or let it be chosen")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("icv:site=attention", "site must be one of mlp, block; got 'attention'"),
        ("icv:strength=-1", "strength must be a number, 0 or more; got -1.0"),
        ("function-vector:heads=0", "heads must be 1 or more; got 0"),
        ("function-vector:scale=nan", "scale must be a number, 0 or more; got nan"),
        ("soft-injection:steps=0", "steps must be 1 or more; got 0"),
        ("soft-injection:lr=-1", "lr must be a number, 0 or more; got -1.0"),
        ("soft-injection:loss=mean", "loss must be one of auto, choice, first, all; got 'mean'"),
        ("random-direction:of=ivc", "there is no steerer 'ivc'. Did you mean 'icv'?"),
        ("icv:lambda=1", "'icv' has no setting 'lambda'."),
        ("fine-tune:steerer=ivc", "there is no steerer 'ivc'. Did you mean 'icv'?"),
        ("icv:selector=bm52", "there is no selector 'bm52'. Did you mean 'bm25'?"),
    ],
)
def test_settings_that_make_no_sense(recipe, message):
    with pytest.raises(UserError, match=message):
        parse_recipe(recipe, shots=2)


def test_a_layer_that_the_model_has_not():
    subject = asker()
    for steerer in (Icv(layer=2), parse_recipe("function-vector:layer=2", shots=1).part("steerer")):
        with pytest.raises(UserError, match=r"layer must be in 0\.\.1, the model's layers, or -1; got 2"):
            steerer.fit(subject.task.train, model=subject, rng=generator(0, "x"))
