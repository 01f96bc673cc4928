"""Parameters of tests that say much the same of many things: a few always, all of them among the slow tests."""

from collections.abc import Iterable

import pytest


def mostly_slow(names: Iterable[str], *always: str) -> list:
    """Return all `names`, those that are not in `always` marked as slow."""
    return [name if name in always else pytest.param(name, marks=pytest.mark.slow) for name in names]
