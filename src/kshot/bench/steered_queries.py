"""What a query costs under each steering, against the same query without one, in the packed engine.

All ways are timed in turn on the same prompts; the ratio is that of the medians.
"""

import time
from collections.abc import Callable

import numpy as np

from kshot.bench.packed_scoring import RandomText
from kshot.core.seeding import generator
from kshot.core.steering import Edit, Steering
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.engine.language_model import Engine
from kshot.models.white_box import load_white_box

N_QUERIES, N_TOKENS, N_TIMED = 64, 32, 9


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return the ratio of each steering, and how far packed scores are from those one by one (nats)."""
    engine = Engine(load_white_box(model))
    text = RandomText(engine.backbone)
    asked = [
        ScoreRequest(Prompt((Segment("query", text.question(N_TOKENS)),)), (" business\n\n", " technology\n\n"))
        for _ in range(N_QUERIES)
    ]
    ways = {"icv": _shift(engine), "function_vector": _addition(engine), "soft_injection": _injection(engine)}
    models = {"unsteered": engine} | {name: engine.steered(steering) for name, steering in ways.items()}
    for each in models.values():
        each.score(asked[:4])  # warm up
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(N_TIMED):
        for name, each in models.items():
            times[name].append(_seconds(lambda each=each: each.score(asked)))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    found = {f"{name}_ratio": medians[name] / medians["unsteered"] for name in ways}
    found["unsteered_ms_per_query"] = 1000 * medians["unsteered"] / N_QUERIES
    gaps = []
    for each in list(models.values())[1:]:
        packed = each.score(asked)
        for i in range(0, N_QUERIES, N_QUERIES // 8):
            gaps.append(np.abs(packed[i] - each.score([asked[i]])[0]).max())
    return found | {"max_abs_diff_nats": float(max(gaps))}


def _drawn(*shape: int) -> np.ndarray:
    return generator(0, "steered", *shape).standard_normal(shape).astype(np.float32)


def _shift(engine: Engine) -> Steering:
    shape, weights = engine.activations.shape, np.array([0.02], dtype=np.float32)
    return Steering(
        tuple(Edit(i, "mlp", "turn", False, _drawn(1, shape.width), weights) for i in range(shape.n_layers))
    )


def _addition(engine: Engine) -> Steering:
    shape = engine.activations.shape
    edit = Edit(shape.n_layers // 2, "block", "add", True, _drawn(1, shape.width), np.ones(1, dtype=np.float32))
    return Steering((edit,))


def _injection(engine: Engine) -> Steering:
    shape = engine.activations.shape
    weights = np.full(shape.n_heads, 0.5, dtype=np.float32)
    edits = [
        Edit(i, "heads", "mix", True, _drawn(shape.n_heads, shape.head_dim), weights) for i in range(shape.n_layers)
    ]
    return Steering(tuple(edits))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
