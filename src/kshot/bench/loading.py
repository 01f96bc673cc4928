"""What it takes to tell a model by its files: once, and when they are known, beside loading it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from kshot.core.errors import UserError
from kshot.engine.load_model import load_model
from kshot.models.white_box import source_of
from kshot.store.file_hashes import sha256_of


def run(model: str = "demo") -> dict[str, Any]:
    """Hash a model's files with an empty cache folder and again, and load it.

    Returns:
        `gigabytes` of the files; `once_s`, `then_s` and `loading_s`; `once` and `then` as shares of the loading.

    Raises:
        UserError: The model is in no folder.
    """
    folder = Path(source_of(model))
    if not folder.is_dir():
        raise UserError(f"The benchmark 'loading' needs a model in files; got '{model}'. Name demo, or a folder.")
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    with TemporaryDirectory() as empty, patch.dict(os.environ, KSHOT_CACHE=empty):
        once, then = (_seconds(lambda: sha256_of(files)) for _ in range(2))
    loading = _seconds(lambda: load_model(model))
    size = sum(file.stat().st_size for file in files) / 1e9
    times = {"once_s": once, "then_s": then, "loading_s": loading}
    return {"gigabytes": size, **times, "once": once / loading, "then": then / loading}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
