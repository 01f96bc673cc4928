"""What a run takes beside the work of model, selectors and classifiers: race, statistics, store, record and report."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from kshot.core.json_text import from_json
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.store.scores import SqliteStore
from kshot.verbs.adapt import adapt

LIMIT, RECIPES = 300, "majority,tfidf-lr,embedding-lr,zero-shot,random,diverse,all-past,bm25,dense"
STORE = ("get", "put", "get_texts", "put_texts", "get_record", "put_record")


def run(model: str = "demo") -> dict[str, Any]:
    """Adapt to the packaged headlines and return the share of the time that is neither answering nor fitting.

    Returns:
        `overhead`: (whole - answering and fitting + store) / whole, as the model's own clock runs on while a pack is
        stored; `store`: the store's part of it; `seconds`: of the whole run, without loading the model.
    """
    task, language_model = Task.load("builtin:bbc-headlines"), load_model(model)
    in_store = [0.0]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def wrapper(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args)
            finally:
                in_store[0] += time.perf_counter() - began

        return wrapper

    with TemporaryDirectory() as folder, ExitStack() as stack:
        for name in STORE:
            stack.enter_context(patch.object(SqliteStore, name, timed(getattr(SqliteStore, name))))
        began = time.perf_counter()
        done = adapt(task, language_model, recipes=RECIPES, limit=LIMIT, out=Path(folder) / "run")
        whole = time.perf_counter() - began
        rows = [
            from_json(line)
            for file in ("samples.jsonl", "second_look.jsonl")
            for line in (done.folder / file).read_text("utf-8").split("\n")
            if line
        ]
    fitting = sum(row["fit_seconds"] + (0.0 if row["prompt_tokens"] else row["seconds"]) for row in rows)
    beside = whole - done.work.seconds - fitting + in_store[0]
    return {"overhead": beside / whole, "store": in_store[0] / whole, "seconds": whole}
