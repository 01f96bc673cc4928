"""Guided gradients: penalties on where a step's gradient points and on how long it is, and a source task's gradient.

Let g be the loss's gradient at the weights p, H its Hessian, d a reference direction and tau a threshold. The loss gets
two penalties, both without units:

    R_dir = 1 - cos(g, d)                      gradient  -H v_d,  v_d = (d/|d| - cos(g, d) g/|g|) / |g|
    R_mag = max(0, |g|/tau - 1)^2              gradient   H v_m,  v_m = 2 max(0, |g|/tau - 1) / tau * g/|g|

The guided gradient is g + H v with v = -direction * v_d + magnitude * v_m. d and tau are made of other gradients, and
nothing is differentiated through them. There are three back-ends:

    fd       H v ~ |v| (g(p + eps v/|v|) - g(p)) / eps: one more pass. Every 10 steps eps is halved or doubled until eps
             and eps/2 find the same but for 10 %; if none does, both sides of p are tried, which is two more passes
    exact    H v by differentiating the sum of g * v: slow, and memory for a second graph
    surgery  no H: the part of g that opposes d is removed, then g is shortened to tau

tau is the median of the norms of past gradients while these are 10 or fewer, then tau <- 0.95 tau + 0.05 (median of the
last 10). Both weights rise linearly from 0 at the first step. Surgery has no weights: one above 0 turns it on, at once.

Source: our design after the abstract of Zheng et al. (2025), https://arxiv.org/abs/2506.00726; not a reproduction, for
only the abstract is public. Finite differences as in Zhao et al. (2022), https://arxiv.org/abs/2202.03599; conflicts of
gradients as in Yu et al. (2020), https://arxiv.org/abs/2001.06782.
Differs: formulas, thresholds and defaults are ours. The task's gradient is never projected, only the source's is.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import inf
from statistics import median
from typing import Any

import torch

from kshot.core.errors import UserError
from kshot.core.lessons import Training

Gradient = list[torch.Tensor]
Again = Callable[
    [bool], Gradient
]  # the gradient of the same batch at the weights as they are now; with a graph if True

EPSILON = 1e-2  # length of the displacement, in the units of the weights
RUNGS = 3  # it may be halved or doubled so many times
AGREEMENT = 0.1  # two displacements agree when what they find differs by no more than this share
CHECK_EVERY = 10  # steps that need H v, between two tests of the displacement
WINDOW = 10  # norms that the threshold is a median of
KEPT_THRESHOLD, KEPT_GRADIENT, KEPT_COSINE = 0.95, 0.9, 0.9  # what running means keep of their past
TINY = 1e-12  # a gradient below has no direction
NEGLIGIBLE = 1e-6  # |v| |g|, which has no units: below it is the rounding of two gradients that point the same way


def dot(a: Gradient, b: Gradient) -> float:
    """Return the inner product over all tensors, summed in double precision."""
    return float(torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum())


def norm(a: Gradient) -> float:
    """Return the Euclidean length over all tensors."""
    return float(torch.stack([torch.linalg.vector_norm(x, dtype=torch.float64) for x in a]).square().sum().sqrt())


def cosine(a: Gradient, b: Gradient) -> float | None:
    """Return the cosine between two gradients; None where one is too short to point anywhere, or not finite."""
    sizes = norm(a), norm(b)
    if not all(TINY <= size < inf for size in sizes):
        return None
    return max(-1.0, min(1.0, dot(a, b) / sizes[0] / sizes[1]))


def direction_vector(g: Gradient, d: Gradient) -> Gradient:
    """Return v_d, orthogonal to g: -H v_d is the gradient of 1 - cos(g, d). It is 0 where there is no cosine."""
    c = cosine(g, d)
    if c is None:
        return [torch.zeros_like(x) for x in g]
    size, length = norm(g), norm(d)
    return [(y / length - x * (c / size)) / size for x, y in zip(g, d, strict=True)]


def magnitude_vector(g: Gradient, tau: float) -> Gradient:
    """Return v_m, along g: H v_m is the gradient of max(0, |g|/tau - 1)^2. It is 0 where |g| <= tau."""
    size = norm(g)
    excess = max(0.0, size / tau - 1)
    return [x * (2 * excess / tau / max(size, TINY)) for x in g]


def pcgrad(a: Gradient, b: Gradient) -> Gradient:
    """Return `a` without the part that opposes `b`; `a` itself where they do not conflict."""
    conflict, size = dot(a, b), norm(b)
    if conflict >= 0 or size < TINY:
        return a
    return _sum(a, b, -conflict / size / size)


def surgery(g: Gradient, d: Gradient | None, tau: float | None) -> Gradient:
    """Return g without the part that opposes d, then shortened to tau; what is None is left out."""
    kept = pcgrad(g, d) if d is not None else g
    size = norm(kept)
    return kept if tau is None or size <= tau else [x * (tau / size) for x in kept]


def exact_product(v: Gradient, parameters: Sequence[torch.Tensor], again: Again) -> Gradient:
    """Return H v by differentiating the gradient along v."""
    with torch.enable_grad():
        along = torch.stack([(g * x).sum() for g, x in zip(again(True), v, strict=True)]).sum()
        return list(torch.autograd.grad(along, parameters, materialize_grads=True))


def difference_product(
    v: Gradient,
    g: Gradient,
    parameters: Sequence[torch.Tensor],
    again: Again,
    epsilon: float,
    *,
    central: bool = False,
) -> Gradient:
    """Return H v from gradients at displaced weights.

    The error falls with epsilon, in the central form with its square, until rounding takes over.

    Args:
        v: The direction; not 0.
        g: The gradient at the weights.
        parameters: The weights; afterwards as before to the byte.
        again: Computes the gradient of the same batch anew, in new tensors.
        epsilon: Length of the displacement.
        central: Displace forth and back, which takes two passes instead of one.
    """
    size = norm(v)
    there = _displaced(v, parameters, again, epsilon / size)
    here = _displaced(v, parameters, again, -epsilon / size) if central else g
    scale = size / (2 * epsilon if central else epsilon)
    return [x.mul_(scale) for x in _sum(there, here, -1.0)]


def _displaced(v: Gradient, parameters: Sequence[torch.Tensor], again: Again, step: float) -> Gradient:
    saved = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, x in zip(parameters, v, strict=True):
                p.add_(x, alpha=step)
        return again(False)
    finally:
        with torch.no_grad():  # copied, for subtracting would leave rounding errors
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)


class Guide:
    """What guidance remembers from step to step.

    Args:
        how: Settings: direction, magnitude, reference, backend, align, refresh and warmup.
    """

    def __init__(self, how: Training):
        self._how = how
        self._steps = 0
        self._products = 0  # steps that needed H v
        self._rung = 0  # the displacement is EPSILON * 2^rung
        self._central = False
        self._reference: Gradient | None = None
        self._norms: list[float] = []  # the last WINDOW
        self._threshold: float | None = None
        self._cosines = 0.0, 0.0  # with the source: weighted sum, and sum of the weights

    def guided(
        self,
        gradient: Gradient,
        parameters: Sequence[torch.Tensor],
        *,
        again: Again,
        anchor: Callable[[], Gradient] | None = None,
        source: Gradient | None = None,
    ) -> tuple[Gradient, dict[str, float | None]]:
        """Return the gradient to step with, and what `StepLog` says about it.

        Where nothing is added it is `gradient` itself. A gradient of no length is neither guided nor remembered.

        Args:
            gradient: Of the whole batch, finite.
            parameters: The weights, leaves of the graph; displaced for the time of a pass.
            again: Computes the gradient of the same batch anew, in new tensors.
            anchor: Computes the gradient that the reference "anchor" is; its tensors are kept and must not change.
            source: Gradient of the source task.

        Raises:
            UserError: The anchor is needed and not given.
        """
        how, size = self._how, norm(gradient)
        log: dict[str, float | None] = dict.fromkeys(
            ("cosine_to_reference", "cosine_to_source", "source_weight", "threshold", "correction")
        )
        if how.direction > 0 and how.reference == "anchor" and self._steps % how.refresh == 0:
            if anchor is None:
                raise UserError("reference=anchor must have examples to take it from; got none. Use reference=ema.")
            self._reference = anchor()
        result = gradient
        if TINY <= size < inf:
            if how.direction > 0 or how.magnitude > 0:
                result = self._corrected(gradient, parameters, again, log)
            if how.align != "none" and source is not None:
                result = self._aligned(result, gradient, source, log)
            self._remember(gradient, size)  # last: reference and threshold are of the past alone
        self._steps += 1
        return result, log

    def _corrected(
        self, g: Gradient, parameters: Sequence[torch.Tensor], again: Again, log: dict[str, float | None]
    ) -> Gradient:
        how, d, tau, size = self._how, self._reference, self._threshold, norm(g)
        if d is not None:  # one that was read from a file may be on another device
            d = self._reference = [x.to(y.device) for x, y in zip(d, g, strict=True)]
        c = cosine(g, d) if d is not None else None
        log |= {"cosine_to_reference": c, "threshold": tau, "correction": 0.0}
        if how.backend == "surgery":
            result = surgery(g, d if c is not None else None, tau)
            log["correction"] = norm(_sum(result, g, -1.0)) / size
            return result
        share = min(1.0, self._steps / how.warmup) if how.warmup else 1.0
        v = [torch.zeros_like(x) for x in g]
        if d is not None:
            v = _sum(v, direction_vector(g, d), -share * how.direction)
        if tau is not None:
            v = _sum(v, magnitude_vector(g, tau), share * how.magnitude)
        if norm(v) * size < NEGLIGIBLE:
            return g
        added = exact_product(v, parameters, again) if how.backend == "exact" else self._fd(v, g, parameters, again)
        log["correction"] = norm(added) / size
        return _sum(g, added)

    def _fd(self, v: Gradient, g: Gradient, parameters: Sequence[torch.Tensor], again: Again) -> Gradient:
        @lru_cache(maxsize=3)  # the search below needs no more at a time
        def at(rung: int) -> Gradient:
            return difference_product(v, g, parameters, again, EPSILON * 2.0**rung)

        if self._products % CHECK_EVERY == 0:  # one more pass if all is well, at worst 10 more
            shorter = range(self._rung, -RUNGS - 1, -1)  # if H is not constant so far
            longer = range(self._rung + 1, RUNGS + 1)  # if the difference is lost in rounding
            found = next((r for r in (*shorter, *longer) if _agree(at(r), at(r - 1))), None)
            self._rung, self._central = found or 0, found is None
        self._products += 1
        if self._central:
            return difference_product(v, g, parameters, again, EPSILON, central=True)
        return at(self._rung)

    def _aligned(self, result: Gradient, g: Gradient, source: Gradient, log: dict[str, float | None]) -> Gradient:
        """Add what of the source's gradient does not conflict with the task's, as it was before guidance."""
        c = cosine(source, g)
        if c is None:
            return result
        log["cosine_to_source"], weight = c, 1.0
        if self._how.align == "pcgrad":
            source = pcgrad(source, g)
        else:
            total, weights = self._cosines
            total, weights = KEPT_COSINE * total + (1 - KEPT_COSINE) * c, KEPT_COSINE * weights + (1 - KEPT_COSINE)
            self._cosines = total, weights
            weight = max(0.0, total / weights)
        log["source_weight"] = weight
        return _sum(result, source, weight) if weight else result

    def _remember(self, g: Gradient, size: float) -> None:
        how = self._how
        if how.direction > 0 and how.reference == "ema":
            # Not divided by 1 - KEPT^t, which would change its length alone: of a reference only the direction counts
            old = self._reference or [torch.zeros_like(x) for x in g]
            self._reference = _sum([x * KEPT_GRADIENT for x in old], g, 1 - KEPT_GRADIENT)
        if how.magnitude > 0:
            is_full = len(self._norms) == WINDOW
            self._norms = [*self._norms, size][-WINDOW:]
            middle = median(self._norms)
            if is_full and self._threshold is not None:
                middle = KEPT_THRESHOLD * self._threshold + (1 - KEPT_THRESHOLD) * middle
            self._threshold = middle

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return all that later steps depend on: tensors by name, and what can be written as JSON."""
        return {str(i): x for i, x in enumerate(self._reference or ())}, {
            "steps": self._steps,
            "products": self._products,
            "rung": self._rung,
            "central": self._central,
            "norms": self._norms,
            "threshold": self._threshold,
            "cosines": list(self._cosines),
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._reference = [tensors[str(i)] for i in range(len(tensors))] or None
        self._steps, self._products = scalars["steps"], scalars["products"]
        self._rung, self._central = scalars["rung"], scalars["central"]
        self._norms, self._threshold = list(scalars["norms"]), scalars["threshold"]
        self._cosines = scalars["cosines"][0], scalars["cosines"][1]


def _agree(coarse: Gradient, fine: Gradient) -> bool:
    # Two zeros do not agree: both displacements are lost in rounding
    return norm(_sum(coarse, fine, -1.0)) < AGREEMENT * norm(fine)


def _sum(a: Gradient, b: Gradient, scale: float = 1.0) -> Gradient:
    """Return a + scale * b."""
    return [torch.add(x, y, alpha=scale) for x, y in zip(a, b, strict=True)]
