"""How long it takes, and how much memory, to match gradients in a pool of 100,000 examples.

128 of 100,000 rows of 4,096 numbers, which lie in a file of 1.6 GB; each choice is made by a process of its own, whose
largest memory is measured (the pages of the file that it has read count). The exponent is the slope of log(seconds)
against log(pool) at 25,000, 50,000 and 100,000 rows: 1 if twice the pool takes twice as long.
"""

import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from kshot.core.errors import UserError
from kshot.methods.selectors.matching import match

POOLS, DIM, K = (25_000, 50_000, 100_000), 4096, 128
RANK, BLOCK = 64, 5000


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return seconds and peak_rss_gb (of the largest pool), growth_exponent; no `model` takes part.

    Raises:
        UserError: There is no room for the file.
    """
    size = POOLS[-1] * DIM * 4
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 1.1 * size:
        raise UserError(
            f"The folder for temporary files must have {1.1 * size / 1e9:.1f} GB free; {tempfile.gettempdir()} has "
            f"{free / 1e9:.1f} GB; set TMPDIR to another folder."
        )
    with tempfile.TemporaryDirectory(prefix="kshot-") as folder:
        file = Path(folder) / "gradients.f32"
        _write(file)
        found = [_in_new_process(file, n) for n in POOLS]
    seconds, memory = zip(*found, strict=True)
    return {
        "seconds": seconds[-1],
        "peak_rss_gb": memory[-1],
        "growth_exponent": float(np.polyfit(np.log(POOLS), np.log(seconds), 1)[0]),
    }


def _write(file: Path) -> None:
    """Write gradients as real ones look: few directions, noise, and norms of which some are very large."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((RANK, DIM), dtype=np.float32) / np.sqrt(np.arange(1, RANK + 1))[:, None]
    # Written, not mapped: pages of a mapped file would count as this process's memory, and the child's with it.
    with file.open("wb") as opened:
        for _ in range(0, POOLS[-1], BLOCK):
            rows = rng.standard_normal((BLOCK, RANK), dtype=np.float32) @ directions.astype(np.float32)
            rows += 0.3 * rng.standard_normal((BLOCK, DIM), dtype=np.float32)
            rows *= rng.lognormal(0, 1, (BLOCK, 1)).astype(np.float32)
            rows.tofile(opened)


def _in_new_process(file: Path, n_pool: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_measure, file, n_pool).result()


def _measure(file: Path, n_pool: int) -> tuple[float, float]:
    """Return seconds and gigabytes of one choice."""
    rows = np.memmap(file, dtype=np.float32, mode="r", shape=(n_pool, DIM))
    began = time.perf_counter()
    match(rows, K)
    elapsed_s = time.perf_counter() - began
    return elapsed_s, _peak_bytes() / 1e9


def _peak_bytes() -> int:
    """Return the most memory that this process has had; Linux's `ru_maxrss` begins with that of the parent."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
