"""How much faster candidates are scored, each read once with the queries that drew it packed after it.

"Naive" is transformers with SDPA, inference mode, fp32, the same threads, all logits, one pair at a time; timed on a
fixed sample and extrapolated.
"""

import time

import numpy as np

from kshot.bench.packed_scoring import RandomText, naive_log_prob
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.models.white_box import load_white_box
from kshot.taskmodel.taskmodel import TaskModel

N_POOL, N_QUERIES, N_CANDIDATES, N_TOKENS, N_NAIVE = 200, 200, 16, 40, 24


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return speedup_vs_naive, max_abs_diff_nats, pairs_per_second."""
    backbone = load_white_box(model)
    text = RandomText(backbone)
    labels = ("business", "politics", "technology")
    lots = generator(0, "llm-feedback")

    def example(i: int) -> Example:
        question = text.question(N_TOKENS - 2).removeprefix("Text: ").removesuffix("\nLabel:")
        return Example(question, str(lots.choice(labels)), str(i))

    pool = [example(i) for i in range(N_POOL)]
    task = Task("random words", "classification", tuple(pool), labels=labels)
    engine = Engine(backbone)
    asked = TaskModel.for_task(task, engine)
    queries, shown = [], []
    for i in range(N_QUERIES):
        others = [j for j in lots.permutation(N_POOL) if j != i][:N_CANDIDATES]
        queries += [pool[i]] * N_CANDIDATES
        shown += [(pool[j],) for j in others]
    asked.answer_log_probs(shown[:2], queries[:2])  # warm up
    began = time.perf_counter()
    packed = asked.answer_log_probs(shown, queries)
    seconds = time.perf_counter() - began
    sample = range(0, len(queries), len(queries) // N_NAIVE)[:N_NAIVE]
    took, gaps = [], []
    for i in [sample[0], *sample]:  # the first one warms up
        prompt = engine.encode(asked.prompt(shown[i], queries[i])[0]).ids
        answer = tuple(backbone.tokenise(asked.layout.answer(queries[i].output)))
        began = time.perf_counter()
        value = naive_log_prob(backbone, prompt, answer)
        took.append(time.perf_counter() - began)
        gaps.append(abs(value / len(answer) - packed[i]))
    return {
        "speedup_vs_naive": float(np.mean(took[1:])) * len(queries) / seconds,
        "max_abs_diff_nats": float(max(gaps)),
        "pairs_per_second": len(queries) / seconds,
    }
