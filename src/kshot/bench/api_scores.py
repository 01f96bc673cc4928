"""How near the label scores that come through llama.cpp's server are to those of the same weights in this process.

Headlines of BBC News with five demonstrations: the same prompts and labels go to `demo` here, which runs its weights in
float32, and as token ids to llama.cpp, which multiplies the same 4-bit weights with activations rounded to 8 bits.
"""

import os
import time
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from kshot.bench.llama_server import llama_server
from kshot.core.errors import UserError
from kshot.core.types import FloatArray, ScoreRequest
from kshot.engine.language_model import Engine
from kshot.models.remote.openai import load_api_model
from kshot.models.white_box import gguf_of, load_white_box
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.builtin import bbc_headlines

N_QUERIES = 50


def run(model: str = "demo") -> dict[str, Any]:
    """Measure and return the agreement over 50 queries of 5 labels, and the seconds of both.

    Raises:
        UserError: A model that is in no GGUF file.
    """
    gguf = gguf_of(model)
    if gguf is None:
        raise UserError(
            f"The benchmark 'api' needs a model that llama.cpp can run too; got '{model}'. Give demo or gguf:FILE."
        )
    return compare(model, gguf, n_queries=N_QUERIES)


def compare(model: str, gguf: Path, *, n_queries: int) -> dict[str, Any]:
    """Return how scores of a model in this process and through llama.cpp's server compare."""
    own = Engine(load_white_box(model))
    requests = _requests(own, n_queries)
    began = time.perf_counter()
    here = np.array(own.score(requests))
    own_seconds = time.perf_counter() - began
    with llama_server(gguf, threads=torch.get_num_threads()) as url:
        other = load_api_model(f"openai:{url}#{gguf.name}", "route=llama.cpp,concurrency=1")
        began = time.perf_counter()
        there = np.array(other.score(requests))
        api_seconds = time.perf_counter() - began
    return {
        **agreement(here, there),
        "queries": n_queries,
        "labels": here.shape[1],
        "api_s_per_query": api_seconds / n_queries,
        "in_process_s_per_query": own_seconds / n_queries,
        "route": other.found.routes[0],
        "server": f"xllamacpp {version('xllamacpp')}",
        "cores": os.cpu_count(),
    }


def _requests(model: Engine, n: int) -> list[ScoreRequest]:
    """Return prompts with one demonstration a topic, and all topics as continuations."""
    task = bbc_headlines()
    asking = TaskModel.for_task(task, model)
    by_topic = groupby(sorted(task.train, key=lambda e: e.output), key=lambda e: e.output)
    shown = [next(iter(group)) for _, group in by_topic]
    labels = tuple(asking.layout.answer(label) for label in task.labels)
    return [ScoreRequest(asking.prompt(shown, example)[0], labels) for example in task.test[:n]]


def agreement(here: FloatArray, there: FloatArray) -> dict[str, float]:
    """Return how log-probabilities `[n_queries, n_labels]` of two ways agree.

    Returns:
        `rank_correlation` of all scores, and the mean of those within a query; the largest and the mean difference of
        log-probabilities in nats, as they are and normalised over the labels; the share of queries with the same best
        label.
    """
    apart, normalised = np.abs(here - there), np.abs(_normalised(here) - _normalised(there))
    return {
        "rank_correlation": _rank_correlation(here.ravel(), there.ravel()),
        "rank_correlation_within_queries": float(
            np.mean([_rank_correlation(a, b) for a, b in zip(here, there, strict=True)])
        ),
        "max_abs_diff_nats": float(apart.max()),
        "mean_abs_diff_nats": float(apart.mean()),
        "max_abs_diff_normalised_nats": float(normalised.max()),
        "same_answer": float((here.argmax(1) == there.argmax(1)).mean()),
    }


def _normalised(rows: FloatArray) -> FloatArray:
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)


def _rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Return Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
