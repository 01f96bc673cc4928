"""Guided gradients against automatic and numerical differentiation, and what guidance does over many steps."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.lessons import Training
from kshot.engine.guidance import (
    EPSILON,
    Again,
    Gradient,
    Guide,
    cosine,
    difference_product,
    direction_vector,
    dot,
    exact_product,
    magnitude_vector,
    norm,
    pcgrad,
    surgery,
)
from variants import mostly_slow

DOUBLE = torch.float64
LOGGED = {"cosine_to_reference", "cosine_to_source", "source_weight", "threshold", "correction"}


class Toy:
    """Weights, a loss of them, and how often its gradient was computed."""

    def __init__(self, loss: Callable[[list[torch.Tensor]], torch.Tensor], start: list[torch.Tensor]):
        self.loss = loss
        self.parameters: list[torch.Tensor] = [torch.nn.Parameter(p.clone()) for p in start]
        self.passes = 0

    def again(self, with_graph: bool) -> Gradient:
        self.passes += 1
        return self.gradient(with_graph)

    def gradient(self, with_graph: bool = False) -> Gradient:
        return list(torch.autograd.grad(self.loss(self.parameters), self.parameters, create_graph=with_graph))

    def move(self, step: Gradient, lr: float = 1.0) -> None:
        with torch.no_grad():
            for p, s in zip(self.parameters, step, strict=True):
                p.sub_(lr * s)

    def flat(self) -> torch.Tensor:
        return flat([p.detach() for p in self.parameters])


def flat(tensors: Gradient) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def minus(a: Gradient, b: Gradient) -> Gradient:
    return [x - y for x, y in zip(a, b, strict=True)]


def vector(*values: float) -> Gradient:
    return [torch.tensor(values, dtype=DOUBLE)]


def draw(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype = DOUBLE) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng, dtype=DOUBLE).to(dtype) for shape in shapes]


def quadratic() -> Toy:
    (root,) = draw(0, (7, 7))
    return Toy(lambda p: 0.5 * flat(p) @ (root @ root.T) @ flat(p), draw(1, (3,), (2, 2)))


def quartic() -> Toy:
    root, slope = draw(2, (7, 7), (7,))
    return Toy(lambda p: 0.25 * ((root @ flat(p)) ** 4).sum() / 7 + slope @ flat(p), draw(3, (3,), (2, 2)))


def network(seed: int = 4, dtype: torch.dtype = DOUBLE) -> Toy:
    """Return a network of two layers and 32 units, with 16 examples of 3 classes."""
    (inputs,) = draw(seed, (16, 5), dtype=dtype)
    targets = torch.arange(16) % 3

    def loss(p: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(torch.tanh(torch.tanh(inputs @ p[0]) @ p[1]) @ p[2], targets)

    weights = draw(5, (5, 32), (32, 32), (32, 3), dtype=dtype)
    return Toy(loss, [w * size**-0.5 for w, size in zip(weights, (5, 32, 32), strict=True)])


def never(*_: object) -> Gradient:
    raise AssertionError("no pass is needed here")


def take(
    guide: Guide, gradient: Gradient, parameters: Sequence[torch.Tensor] = (), again: Again = never, **more: Any
) -> tuple[Gradient, dict[str, Any]]:
    """Take a step, by default one that needs no other pass."""
    return guide.guided(gradient, parameters, again=again, **more)


def guided(guide: Guide, toy: Toy, **more: Any) -> tuple[Gradient, dict[str, Any]]:
    return take(guide, toy.gradient(), toy.parameters, toy.again, **more)


def penalty_direction(g: Gradient, d: Gradient) -> torch.Tensor:
    return 1 - flat(g) @ flat(d) / (flat(g).norm() * flat(d).norm())


def penalty_magnitude(g: Gradient, tau: float) -> torch.Tensor:
    return torch.clamp(flat(g).norm() / tau - 1, min=0) ** 2


def numerical(toy: Toy, value: Callable[[], torch.Tensor], h: float = 1e-5) -> torch.Tensor:
    """Return the gradient of `value` by central differences in each weight."""
    found = []
    for p in toy.parameters:
        for i in range(p.numel()):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[i] += sign * h
                sides.append(float(value().detach()))
                with torch.no_grad():
                    p.view(-1)[i] -= sign * h
            found.append((sides[0] - sides[1]) / (2 * h))
    return torch.tensor(found, dtype=DOUBLE)


# The pieces


def test_products_and_norms_run_over_all_tensors():
    a, b = draw(0, (3,), (2, 4)), draw(1, (3,), (2, 4))
    assert dot(a, b) == pytest.approx(float(flat(a) @ flat(b)), rel=1e-12)
    assert norm(a) == pytest.approx(float(flat(a).norm()), rel=1e-12)
    assert cosine(a, b) == pytest.approx(float(flat(a) @ flat(b) / flat(a).norm() / flat(b).norm()), rel=1e-12)


def test_sums_are_in_double_precision():
    many = [torch.full((1000,), 0.1), torch.tensor([1e4])]
    assert norm(many) ** 2 == pytest.approx(1e8 + 1000 * float(torch.tensor(0.1)) ** 2, rel=1e-14)
    assert dot(many, many) == pytest.approx(1e8 + 1000 * float(torch.tensor(0.1)) ** 2, rel=1e-14)


def test_direction_penalty_is_0_along_the_reference_and_2_against_it():
    g = draw(0, (3,), (2, 2))
    assert cosine(g, [3 * x for x in g]) == pytest.approx(1, abs=1e-12)
    assert cosine(g, [-3 * x for x in g]) == pytest.approx(-1, abs=1e-12)
    assert norm(direction_vector(g, [3 * x for x in g])) < 1e-12
    assert norm(direction_vector(g, [-3 * x for x in g])) < 1e-12


@pytest.mark.parametrize("bad", [0.0, 1e-13, float("inf"), float("nan")])
def test_what_points_nowhere_has_no_cosine(bad: float):
    assert cosine(vector(bad, 0), vector(1, 2)) is None
    assert cosine(vector(1, 2), vector(bad, 0)) is None
    assert norm(direction_vector(vector(1, 2), vector(bad, 0))) == 0


integers = st.lists(st.integers(-100, 100), min_size=4, max_size=4)


@given(integers, integers)
def test_direction_vector_is_orthogonal_to_the_gradient(g: list[int], d: list[int]):
    v = direction_vector(vector(*g), vector(*d))
    assert abs(dot(v, vector(*g))) < 1e-10
    assert dot(v, vector(*d)) >= -1e-10


@given(integers, integers)
def test_pcgrad_removes_conflict_and_nothing_else(a: list[int], b: list[int]):
    source, task = vector(*a), vector(*b)
    left = pcgrad(source, task)
    if dot(source, task) >= 0:
        assert left is source
    else:
        assert abs(dot(left, task)) <= 1e-10 * norm(source) * norm(task)
        assert norm(left) <= norm(source)
        removed = minus(source, left)
        assert dot(removed, task) == pytest.approx(-norm(removed) * norm(task))


def test_pcgrad_of_two_tasks_by_hand():
    a, b = vector(1, 0), vector(-1, 1)
    assert pcgrad(a, b)[0].tolist() == pytest.approx([0.5, 0.5])
    assert pcgrad(b, a)[0].tolist() == pytest.approx([0, 1])


def test_surgery_removes_what_opposes_and_shortens():
    g = vector(3, -4)
    assert surgery(g, vector(1, 0), 5.0) is g
    assert surgery(g, vector(0, 2), None)[0].tolist() == pytest.approx([3, 0])
    assert surgery(g, None, 1.0)[0].tolist() == pytest.approx([0.6, -0.8])
    assert surgery(g, vector(0, 2), 1.0)[0].tolist() == pytest.approx([1, 0])
    assert surgery(g, vector(-3, 4), 1.0)[0].tolist() == pytest.approx([0, 0])


# The gradients of the penalties


@pytest.mark.parametrize("make", [quadratic, quartic])
def test_formulas_are_the_gradients_of_the_penalties(make: Callable[[], Toy]):
    toy, d = make(), draw(9, (3,), (2, 2))
    g = toy.gradient()
    tau = norm(g) / 1.7
    assert abs(dot(direction_vector(g, d), g)) < 1e-10
    for v, penalty in (
        ([-x for x in direction_vector(g, d)], lambda: penalty_direction(toy.gradient(True), d)),
        (magnitude_vector(g, tau), lambda: penalty_magnitude(toy.gradient(True), tau)),
    ):
        formula = flat(exact_product(v, toy.parameters, toy.again))
        automatic = flat(list(torch.autograd.grad(penalty(), toy.parameters)))
        assert automatic.norm() > 1e-2
        assert float((formula - automatic).norm() / automatic.norm()) < 1e-10
        assert float((formula - numerical(toy, penalty)).norm() / automatic.norm()) < 1e-6


def test_magnitude_has_no_gradient_up_to_the_threshold():
    assert norm(magnitude_vector(vector(3, 4), 5.0)) == 0
    assert norm(magnitude_vector(vector(3, 4), 50.0)) == 0
    assert norm(magnitude_vector(vector(3, 4), 4.9)) > 0
    assert norm(magnitude_vector(vector(0, 0), 4.9)) == 0


def test_penalties_do_not_depend_on_the_scale_of_the_loss():
    g, d = draw(0, (3,), (2, 2)), draw(1, (3,), (2, 2))
    large = [5 * x for x in g]
    # H grows 5 times, so the vectors must shrink 5 times
    for scale in (1, 7):
        found = direction_vector(large, [scale * x for x in d])
        assert norm(minus([5 * x for x in found], direction_vector(g, d))) < 1e-12
    tau = norm(g) / 2
    assert norm(minus([5 * x for x in magnitude_vector(large, 5 * tau)], magnitude_vector(g, tau))) < 1e-12


def test_error_of_differences_falls_as_it_should():
    toy = network()
    g = toy.gradient()
    v = direction_vector(g, draw(9, *(p.shape for p in toy.parameters)))
    exact = exact_product(v, toy.parameters, toy.again)

    def error(epsilon: float, central: bool) -> float:
        found = difference_product(v, g, toy.parameters, toy.again, epsilon, central=central)
        return norm(minus(found, exact)) / norm(exact)

    for central, order in ((False, 1), (True, 2)):
        errors = [error(epsilon, central) for epsilon in (4e-2, 2e-2, 1e-2, 5e-3)]
        assert errors[0] < 0.1
        for coarse, fine in zip(errors, errors[1:], strict=False):
            assert coarse / fine == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("central", [False, True])
def test_weights_are_displaced_by_epsilon_and_come_back_to_the_byte(central: bool):
    toy = network(dtype=torch.float32)
    before = [p.detach().numpy().tobytes() for p in toy.parameters]
    start, g, v = toy.flat(), toy.gradient(), [100 * x for x in draw(8, (5, 32), (32, 32), (32, 3))]
    v = [x.float() for x in v]
    seen = []

    def again(with_graph: bool) -> Gradient:
        seen.append(toy.flat() - start)
        return toy.again(with_graph)

    difference_product(v, g, toy.parameters, again, 0.05, central=central)
    assert [float(s.norm()) for s in seen] == pytest.approx([0.05] * (1 + central), rel=1e-4)
    assert float(seen[0] @ flat(v)) > 0
    if central:
        assert float(seen[1] @ flat(v)) < 0
    assert [p.detach().numpy().tobytes() for p in toy.parameters] == before
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in toy.parameters)


def test_weights_come_back_when_a_pass_fails():
    toy = network(dtype=torch.float32)
    before = [p.detach().numpy().tobytes() for p in toy.parameters]

    def fails(with_graph: bool) -> Gradient:
        assert [p.detach().numpy().tobytes() for p in toy.parameters] != before
        raise MemoryError("no room")

    guide = Guide(Training(direction=0.1, warmup=0))
    g = toy.gradient()
    with pytest.raises(MemoryError, match="no room"):
        take(guide, g, toy.parameters, again=fails, anchor=lambda: [x.flip(0) for x in g])
    assert [p.detach().numpy().tobytes() for p in toy.parameters] == before


# Steps


@pytest.mark.parametrize("backend", ["exact", "fd"])
def test_guided_gradient_is_that_of_the_loss_with_penalties(backend: str):
    toy, d = quartic(), draw(9, (3,), (2, 2))
    guide = Guide(Training(direction=0.3, magnitude=0.2, backend=backend, warmup=0, refresh=100))
    tau = norm(toy.gradient())
    guided(guide, toy, anchor=lambda: d)
    toy.move([-0.2 * p.detach() for p in toy.parameters])  # further out, where gradients are longer
    found, log = guided(guide, toy, anchor=never)
    g = toy.gradient(True)
    total = (
        toy.loss(toy.parameters) + 0.3 * penalty_direction(g, d) + 0.2 * penalty_magnitude(g, tau)
    )  # neither d nor tau depends on the weights here
    expected = list(torch.autograd.grad(total, toy.parameters))
    added = norm(minus(expected, toy.gradient()))
    assert norm(minus(found, expected)) / added < (1e-10 if backend == "exact" else 0.05)
    assert set(log) == LOGGED
    assert log["threshold"] == pytest.approx(tau)
    assert log["cosine_to_reference"] == pytest.approx(1 - float(penalty_direction(toy.gradient(), d)))
    assert log["correction"] == pytest.approx(added / norm(toy.gradient()), rel=0.05)
    assert penalty_magnitude(toy.gradient(), tau) > 0.01
    assert not any(x.requires_grad for x in found)


@pytest.mark.parametrize("backend", ["exact", "surgery"])
def test_what_is_added_does_not_depend_on_the_scale_of_the_loss(backend: str):
    added = []
    for scale in (1.0, 5.0):
        small = network()
        toy = Toy(lambda p, s=scale, small=small: s * small.loss(p), [p.detach() for p in small.parameters])
        guide = Guide(Training(direction=0.3, magnitude=0.2, reference="ema", backend=backend, warmup=0))
        for lr in (0.5, -2.0, 0.0):  # the second goes uphill, so that the threshold is passed
            g = toy.gradient()
            found, log = guided(guide, toy)
            toy.move(g, lr / scale)
        assert norm(g) > log["threshold"]
        added.append([x * (1 / scale if backend == "surgery" else 1) for x in minus(found, g)])
    assert norm(added[0]) > 1e-3
    assert norm(minus(*added)) / norm(added[0]) < 1e-10


@pytest.mark.parametrize("reference", ["anchor", "ema"])
def test_weights_of_zero_change_nothing(reference: str):
    plain, toy = network(), network()
    guide = Guide(Training(reference=reference))
    for _ in range(5):
        g = toy.gradient()
        found, log = take(guide, g, toy.parameters, anchor=never, source=g)
        assert found is g
        assert log == dict.fromkeys(LOGGED)
        toy.move(found, 0.1)
        plain.move(plain.gradient(), 0.1)
    assert torch.equal(toy.flat(), plain.flat())
    assert guide.state()[0] == {}


def test_running_reference_is_made_of_past_gradients():
    guide = Guide(Training(direction=0.1, reference="ema", backend="surgery"))
    gradients = [vector(1, 0), vector(0, 1), vector(1, 1)]
    logs = [take(guide, g)[1] for g in gradients]
    assert [log["correction"] for log in logs] == [0.0] * 3
    assert logs[0]["cosine_to_reference"] is None
    assert logs[1]["cosine_to_reference"] == pytest.approx(0)
    assert logs[2]["cosine_to_reference"] == pytest.approx(cosine(gradients[2], vector(0.9, 1)))


@pytest.mark.parametrize("backend", ["fd", "exact"])
def test_the_first_step_has_no_past(backend: str):
    toy = network()
    guide = Guide(Training(direction=0.1, magnitude=0.1, reference="ema", backend=backend, warmup=0))
    g = toy.gradient()
    found, log = take(guide, g, toy.parameters)
    assert found is g
    assert (log["cosine_to_reference"], log["threshold"], log["correction"]) == (None, None, 0.0)


def test_threshold_follows_the_median_of_past_norms():
    guide = Guide(Training(magnitude=0.1, backend="surgery"))
    norms = [float(n) for n in np.random.default_rng(0).lognormal(size=30)]
    tau = float("inf")
    for i, size in enumerate(norms):
        if 0 < i <= 10:
            tau = float(np.median(norms[:i]))
        elif i:
            tau = 0.95 * tau + 0.05 * float(np.median(norms[i - 10 : i]))
        found, log = take(guide, vector(0, size))
        assert log["threshold"] == (pytest.approx(tau, rel=1e-12) if i else None)
        assert norm(found) == pytest.approx(min(size, tau))
        assert log["correction"] == pytest.approx(max(0, 1 - tau / size) if i else 0)


@pytest.mark.parametrize("term", [{"direction": 0.1}, {"magnitude": 0.1}])
def test_weights_rise_linearly(term: dict[str, Any]):
    toy, d = network(), draw(9, (5, 32), (32, 32), (32, 3))
    guide, tau = Guide(Training(**term, backend="exact", warmup=3)), norm(toy.gradient()) / 2
    guide.load_state({}, guide.state()[1] | {"norms": [tau] * 10, "threshold": tau})  # stays for 5 steps
    corrections = [guided(guide, toy, anchor=lambda: d)[1]["correction"] for _ in range(5)]
    assert toy.passes == 4  # none where the weight is 0
    assert corrections[-1] > 1e-3
    assert [c / corrections[-1] for c in corrections] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_anchor_is_refreshed():
    toy, calls, cosines = network(), [], []
    d = draw(9, (5, 32), (32, 32), (32, 3))

    def anchor() -> Gradient:
        calls.append(len(cosines))
        return [-x for x in d] if len(calls) == 2 else d

    guide = Guide(Training(direction=0.1, refresh=3))
    for _ in range(7):
        cosines.append(guided(guide, toy, anchor=anchor)[1]["cosine_to_reference"])
    assert calls == [0, 3, 6]
    assert cosines == pytest.approx([cosines[0]] * 3 + [-cosines[0]] * 3 + [cosines[0]])


def test_anchor_must_be_given():
    with pytest.raises(UserError, match="reference=anchor must have examples to take it from"):
        guided(Guide(Training(direction=0.1)), network())


def test_gradient_along_the_reference_needs_no_pass():
    toy = network(dtype=torch.float32)
    guide = Guide(Training(direction=0.5, warmup=0))
    g = toy.gradient()
    found, log = take(guide, g, toy.parameters, anchor=lambda: [x * 1.7 for x in g])
    assert found is g
    assert log["correction"] == 0


# Length of the displacement


def steep(steepness: float) -> Toy:
    """Return e^(s p) / s: with u = s eps, a displacement by eps finds (1 + e^(u/2)) / 2 times what half of it does."""
    return Toy(lambda p: torch.exp(steepness * p[0]).sum() / steepness, vector(0.0))


def above_threshold() -> Guide:
    guide = Guide(Training(magnitude=0.1, warmup=0))
    for _ in range(10):
        take(guide, vector(0.5))
    return guide


@pytest.mark.parametrize(("steepness", "rung", "passes"), [(1, 0, 2), (30, 0, 2), (60, -1, 3), (100, -2, 4)])
def test_displacement_is_halved_until_two_agree(steepness: float, rung: int, passes: int):
    toy, guide = steep(steepness), above_threshold()
    found, _ = guided(guide, toy)
    assert guide.state()[1]["rung"] == rung
    assert toy.passes == passes
    exact = exact_product(magnitude_vector(toy.gradient(), 0.5), toy.parameters, toy.gradient)
    # What is left of the error is (e^u - 1) / u - 1 with u < 0.365
    assert norm(minus(found, toy.gradient())) / (0.1 * norm(exact)) == pytest.approx(1, abs=0.21)


def test_displacement_is_doubled_where_rounding_rules():
    guide = above_threshold()
    toy = Toy(lambda p: 0.5 * (p[0] ** 2).sum(), vector(1.0))

    def coarse(with_graph: bool) -> Gradient:
        return [torch.floor(x / 0.012) * 0.012 for x in toy.again(with_graph)]

    for _ in range(12):
        take(guide, coarse(False), toy.parameters, again=coarse)
        state = guide.state()[1]
        assert state["rung"] > 0
        assert not state["central"]


def test_displacement_is_tested_every_10_steps_and_kept():
    toy, guide, passes = steep(100), above_threshold(), []
    for _ in range(21):
        toy.passes = 0
        guided(guide, toy)
        passes.append(toy.passes)
    assert passes == [4, *[1] * 9, 2, *[1] * 9, 2]


@pytest.mark.parametrize("is_noisy", [False, True])
def test_displacement_survives_a_resumption(is_noisy: bool):
    def run(*, resumed: bool) -> tuple[list[int], list[Gradient]]:
        toy, guide, passes, found = steep(100), above_threshold(), [], []
        rng = torch.Generator().manual_seed(0)

        def again(with_graph: bool) -> Gradient:
            noise = torch.randn(1, generator=rng, dtype=DOUBLE)
            return [x + 10 * is_noisy * noise for x in toy.again(with_graph)]

        for step in range(14):
            if resumed and step in (0, 4, 11):
                tensors, scalars = guide.state()
                guide = Guide(Training(magnitude=0.1, warmup=0))
                guide.load_state(tensors, json.loads(json.dumps(scalars)))
            toy.passes = 0
            found.append(take(guide, toy.gradient(), toy.parameters, again)[0])
            passes.append(toy.passes)
        assert guide.state()[1]["central"] == is_noisy
        return passes, found

    assert run(resumed=True) == run(resumed=False)


def test_both_sides_are_tried_where_no_displacement_is_right():
    toy, guide, rng = network(), above_threshold(), torch.Generator().manual_seed(0)

    def noise(with_graph: bool) -> Gradient:
        seen.append(toy.flat())
        return [torch.randn(p.shape, generator=rng, dtype=DOUBLE) for p in toy.parameters]

    passes = []
    for _ in range(11):
        seen = []
        take(guide, [torch.ones_like(p) for p in toy.parameters], toy.parameters, again=noise)
        passes.append(len(seen))
        middle = (seen[-1] + seen[-2]) / 2
        assert torch.allclose(middle, toy.flat(), atol=1e-12)
        assert float((seen[-1] - seen[-2]).norm()) == pytest.approx(2 * EPSILON)
    assert passes == [11, *[2] * 9, 11]


# The source task


def test_gate_weighs_the_source_by_its_running_cosine():
    guide = Guide(Training(align="gate"))
    g, sources = vector(1, 0), [vector(1, 1), vector(0, 2), vector(-1, 0)]
    total = weights = 0.0
    for source in sources:
        found, log = take(guide, g, source=source)
        c = float(source[0][0] / source[0].norm())
        total, weights = 0.9 * total + 0.1 * c, 0.9 * weights + 0.1
        assert log["cosine_to_source"] == pytest.approx(c)
        assert log["source_weight"] == pytest.approx(max(0, total / weights))
        assert norm(minus(found, [g[0] + log["source_weight"] * source[0]])) < 1e-12
    assert take(guide, g)[0] is g  # a step without a source


def test_gate_closes_when_tasks_disagree():
    toy, alone, guide = network(), network(), Guide(Training(align="gate"))
    for step in range(40):
        g = toy.gradient()
        agrees = step in (0, 39)
        found, log = take(guide, g, toy.parameters, source=g if agrees else [-x for x in g])
        assert (log["source_weight"] > 0) == (step == 0)
        if step == 0:
            assert log["source_weight"] == pytest.approx(1)
            continue
        assert found is g
        toy.move(found, 0.1)
        alone.move(alone.gradient(), 0.1)
    assert torch.equal(toy.flat(), alone.flat())


def test_pcgrad_adds_the_source_without_its_conflict():
    guide = Guide(Training(align="pcgrad"))
    found, log = take(guide, vector(2, 0), source=vector(-3, 4))
    assert found[0].tolist() == pytest.approx([2, 4])
    assert log["cosine_to_source"] == pytest.approx(-0.6)
    assert log["source_weight"] == 1
    assert take(guide, vector(2, 0), source=vector(3, 4))[0][0].tolist() == [5, 4]


def test_source_comes_on_top_of_guidance():
    guide = Guide(Training(direction=0.1, magnitude=0.1, backend="surgery", align="pcgrad", refresh=100))
    take(guide, vector(1, 0), anchor=lambda: vector(0, 1))
    found, log = take(guide, vector(2, -2), source=vector(-1, -3))
    # Guidance leaves (1, 0) of the task's gradient; the source agrees with the task's, if not with what is left
    assert found[0].tolist() == pytest.approx([0, -3])
    assert log["cosine_to_source"] == pytest.approx(2 / 20**0.5)


# Over a run


@pytest.mark.parametrize("backend", ["fd", "exact", "surgery"])
@pytest.mark.parametrize("reference", ["anchor", "ema"])
def test_gradients_without_length_are_passed_on_and_forgotten(backend: str, reference: str):
    how = Training(direction=0.1, magnitude=0.1, backend=backend, reference=reference, align="gate", warmup=0)
    toy, guide = network(), Guide(how)
    zero = [torch.zeros_like(p) for p in toy.parameters]
    for step in range(4):
        before = json.dumps({k: v for k, v in guide.state()[1].items() if k != "steps"})
        found, log = take(guide, zero, toy.parameters, anchor=lambda: zero, source=toy.gradient())
        assert found is zero
        assert log == dict.fromkeys(LOGGED)
        assert json.dumps({k: v for k, v in guide.state()[1].items() if k != "steps"}) == before
        if step == 1:  # one real gradient, whose anchor and source are zero
            found, log = guided(guide, toy, anchor=lambda: zero, source=zero)
            assert norm(minus(found, toy.gradient())) == 0
            assert log["cosine_to_source"] is None


@pytest.mark.parametrize("backend", ["fd", "exact", "surgery"])
def test_what_is_not_finite_is_no_reference(backend: str):
    toy, how = network(), Training(direction=0.1, backend=backend, align="gate", warmup=0)
    bad, g = [torch.full_like(p, float("nan")) for p in toy.parameters], toy.gradient()
    found, log = take(Guide(how), g, toy.parameters, anchor=lambda: bad, source=bad)
    assert found is g
    assert log == dict.fromkeys(LOGGED) | {"correction": 0.0}


@pytest.mark.parametrize("align", mostly_slow(["none", "gate", "pcgrad"], "gate"))
@pytest.mark.parametrize(
    ("backend", "reference"), [("fd", "anchor"), ("fd", "ema"), ("exact", "ema"), ("surgery", "ema")]
)
def test_a_resumed_run_is_the_same_to_the_bit(backend: str, reference: str, align: str):
    how = Training(
        direction=0.3, magnitude=0.3, backend=backend, reference=reference, align=align, refresh=4, warmup=18
    )
    batches = [network(seed, torch.float32) for seed in range(7)]

    def run(stop_at: int | None) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        toy, guide, logs = network(dtype=torch.float32), Guide(how), []
        for step in range(28):
            if step == stop_at:
                tensors, scalars = guide.state()
                tensors, scalars = {k: t.clone() for k, t in tensors.items()}, json.loads(json.dumps(scalars))
                for t in guide.state()[0].values():
                    t.fill_(float("nan"))  # nothing of the old one is used any more
                guide = Guide(how)
                guide.load_state(tensors, scalars)
            toy.loss = batches[step % 5].loss
            source, support = (Toy(batches[i].loss, [p.detach() for p in toy.parameters]) for i in (5, 6))
            found, log = guided(guide, toy, anchor=support.gradient, source=source.gradient())
            logs.append(log)
            toy.move(found, 0.3)
        return toy.flat(), logs

    whole, logs = run(None)
    assert max(log["correction"] for log in logs) > 1e-2
    for stop_at in (1, 7, 21):
        weights, again = run(stop_at)
        assert again == logs
        assert torch.equal(weights, whole)


def test_a_state_does_not_change_after_it_was_taken():
    toy, guide = network(), Guide(Training(direction=0.1, magnitude=0.1, reference="ema"))
    guided(guide, toy)
    tensors, scalars = guide.state()
    kept = {k: t.clone() for k, t in tensors.items()}, json.dumps(scalars)
    guided(guide, toy)
    assert all(torch.equal(t, kept[0][k]) for k, t in tensors.items())
    assert json.dumps(scalars) == kept[1]
