"""Matrix products in float32 on the CPU by the faster of torch's two libraries, where it is exact.

torch multiplies float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's. Allowing its
other library, oneDNN, to round to bfloat16 is the only way to have that one do it; without AMX it has no use for the
permission, multiplies in float32, and is twice as fast on an AMD EPYC. Where it does round, it is not used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch

_MOST_ERROR = 1e-5  # of the largest value: float32 is at 1e-6, bfloat16 at 3e-3


class _Users:
    """Who multiplies fast at the moment: the setting is the whole process's, and the last one puts it back."""

    lock = Lock()
    n = 0
    before = ""


@contextmanager
def fast_products() -> Iterator[None]:
    """Multiply by oneDNN inside, if a trial product was exact; elsewhere torch stays as the user has set it."""
    with _Users.lock:
        is_fast = _is_exact()
        if is_fast and _Users.n == 0:
            _Users.before, _switch().fp32_precision = _switch().fp32_precision, "bf16"
        _Users.n += is_fast
    try:
        yield
    finally:
        with _Users.lock:
            _Users.n -= is_fast
            if is_fast and _Users.n == 0:
                _switch().fp32_precision = _Users.before


def _switch() -> Any:
    """Return where torch keeps the setting, since 2.9; None before."""
    return getattr(torch.backends.mkldnn, "matmul", None)


@cache
def _is_exact() -> bool:
    """Return whether oneDNN can be had, and multiplies float32 without rounding it first (tried once)."""
    switch = _switch()
    if switch is None or not torch.backends.mkldnn.is_available():
        return False
    drawn = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=drawn) for _ in range(2))
    before, switch.fp32_precision = switch.fp32_precision, "bf16"
    try:
        found = left @ right
    finally:
        switch.fp32_precision = before
    exact = left.double() @ right.double()
    return float((found - exact).abs().max() / exact.abs().max()) < _MOST_ERROR
