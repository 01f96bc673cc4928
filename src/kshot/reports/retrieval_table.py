"""How retrievers compare, in lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FORM = "{:<34} {:<28} {:>10} {:>8} {:>10}"


def by_category(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each task and selector, then the means of tasks of one kind and metric.

    There is no mean of different metrics; held-out tasks are a kind of their own.

    Args:
        rows: With task, kind, held_out, selector, one_shot_nats, recall (None: it tells nothing), metric, metric_name.
    """
    lines = [_FORM.format("task", "selector", "one alone", "recall", "metric")]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        mark = "held out: " if row["held_out"] else ""
        lines.append(_line(f"{mark}{row['task']} ({row['metric_name']})", row["selector"], [row]))
        kind = f"{mark}{row['kind']} ({row['metric_name']})"
        groups.setdefault((kind, row["selector"]), []).append(row)
    if any(len(some) > 1 for some in groups.values()):
        lines += [_line(f"mean of {kind}", selector, some) for (kind, selector), some in groups.items()]
    return lines


def _line(name: str, selector: str, rows: Sequence[Mapping[str, Any]]) -> str:
    known = [[row[key] for row in rows if row[key] is not None] for key in ("one_shot_nats", "recall", "metric")]
    return _FORM.format(name, selector, *(f"{np.mean(some):.3f}" if some else "-" for some in known))
