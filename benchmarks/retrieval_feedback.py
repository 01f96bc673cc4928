"""The tasks of the benchmark `retrieval`, and what the language model says of their candidates."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rows import first_examples

from kshot.core.models import LanguageModel
from kshot.core.types import Task
from kshot.encoders.encoder import load_encoder
from kshot.retrieval.candidates import Candidates
from kshot.retrieval.corpus import Item, option_texts, read_pools
from kshot.retrieval.feedback import one_shot
from kshot.retrieval.learn import find_candidates
from kshot.retrieval.retriever_settings import RetrieverSettings
from kshot.taskmodel.taskmodel import TaskModel

TASKS = {  # by the paper's categories, and one that it lacks
    "qa/nq_open": "close QA",
    "qa/copa": "commonsense",
    "classification/mnli": "NLI",
    "classification/qqp": "paraphrase",
    "classification/sst2": "sentiment",
    "generation/e2e_nlg": "data-to-text",
    "classification/agnews": "summarise",  # where the paper counts it
    "classification/trec": "question type",
}
HELD_OUT = "natural_instructions/sentiment140"
POOL, N_TEST, N_TEST_WRITTEN, SEED = 400, 100, 60, 0
SETTINGS = RetrieverSettings()


def task_of(data: str, name: str) -> Task:
    """Return a task with at most `POOL` training rows and `N_TEST` test rows, its choices as texts."""
    task = option_texts(Task.load(f"{data}/{name}"))
    n_test = N_TEST
    if name.startswith("generation/"):
        task, n_test = replace(task, metrics=("rougeL",)), N_TEST_WRITTEN  # as the paper has it; texts take long
    stream = first_examples(task, POOL, seed=SEED)
    return replace(task, name=name.replace("/", "-"), train=stream.examples, test=task.test[:n_test])


def as_rows(found: Sequence[Candidates]) -> list[dict[str, Any]]:
    """Return scored candidates as rows of JSON."""
    return [
        {
            "query": row.query.example.id,
            "documents": [d.example.id for d in row.documents],
            "scores": [round(score, 6) for score in row.scores],
        }
        for row in found
    ]


def from_rows(rows: Sequence[dict[str, Any]], pool: Sequence[Item]) -> list[Candidates]:
    """Return what `as_rows` wrote."""
    by_id = {item.example.id: item for item in pool}
    return [
        Candidates(by_id[row["query"]], tuple(by_id[i] for i in row["documents"]), tuple(row["scores"])) for row in rows
    ]


def score(task: Task, model: LanguageModel, retriever: Path | None) -> list[dict[str, Any]]:
    """Score a task's candidates, found by words, or by the retriever in a folder; return rows."""
    encoder = load_encoder(str(retriever)) if retriever else None
    found = find_candidates(read_pools([task]), SETTINGS, seed=SEED, iteration=1 + bool(retriever), encoder=encoder)
    return as_rows(one_shot(found, {task.name: TaskModel.for_task(task, model)}))


def kept(file: Path, pool: Sequence[Item]) -> list[Candidates]:
    """Return the candidates in a unit's file."""
    return from_rows(json.loads(file.read_text("utf-8"))["feedback"], pool)
