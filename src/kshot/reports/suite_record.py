"""What suites have measured of a run's model, for the report: kept in a file of its own, one result a suite."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from kshot.core.schema import shaped
from kshot.store.commit import settled
from kshot.store.run_folder import SUITES
from kshot.store.sealed import read_sealed, write_sealed

AGAIN = "Delete it, and make it again with kshot evaluate --suite."
_SHOWN = 8  # parts of a list that a line shows


class _Result(TypedDict):
    suite: str
    task: str
    against: str | None
    of: NotRequired[str | None]  # the recipe, which the run may not choose any more; not in older ones
    report: dict[str, Any]


def keep_suite(
    run: Path, task: str, report: Mapping[str, Any], *, against: str | None = None, of: str | None = None
) -> None:
    """Add a report (`kshot.verbs.evaluate.evaluate`) to a run, in place of what the same suite said of the same.

    Args:
        run: Its folder; who else adds to it meanwhile is waited for.
        task: The name of the task that was asked.
        report: What was measured.
        against: How the other system was named.
        of: The recipe that the run had chosen.
    """
    key = {"suite": report["suite"], "task": task, "against": against, "of": of}
    with settled(run):
        others = [one for one in read_suites(run) if any(one.get(name) != value for name, value in key.items())]
        write_sealed(run / SUITES, [*others, {**key, "report": dict(report)}])


def read_suites(run: Path) -> list[dict[str, Any]]:
    """Return what `keep_suite` kept; nothing where no suite was run.

    Raises:
        DamagedError: The file is not as it was written.
    """
    file = run / SUITES
    return [dict(shaped(_Result, row, file, AGAIN)) for row in read_sealed(file)] if file.exists() else []


def measured(report: Mapping[str, Any], path: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each thing that a report tells, with its path: numbers with intervals as mappings, all else as it is."""
    for key, value in report.items():
        at = [*path, str(key).replace("_", " ")]
        if isinstance(value, Mapping) and not is_measured(value):
            yield from measured(value, at)
        else:
            yield ", ".join(at), value


def is_measured(value: Any) -> bool:
    """Return whether it is a number with its interval."""
    return isinstance(value, Mapping) and {"value", "low", "high", "n"} <= set(value)


def in_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a report in lines for a terminal; of long lists the beginning."""
    return [f"{name}: {said(value)}" for name, value in measured(report)]


def said(value: Any) -> str:
    """Return one thing that a report tells in words."""
    if is_measured(value):
        text = f"{_with_interval(value)}, n {value['n']}"
        if "difference" in value:
            d = value["difference"]
            text += f"; against {_number(value['against'])}: {_with_interval(d, '+')}, n {d['n']}"
        return text
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"{', '.join(map(said, value[:_SHOWN]))}, … {len(value) - _SHOWN} more (--json)"
    if isinstance(value, list):
        return ", ".join(map(said, value))
    return _number(value) if isinstance(value, float) else str(value)


def _with_interval(value: Mapping[str, Any], sign: str = "") -> str:
    if value["low"] is None:
        return _number(value["value"], sign)
    return f"{_number(value['value'], sign)} ({_number(value['low'], sign)} to {_number(value['high'], sign)})"


def _number(value: float | None, sign: str = "") -> str:
    return "not known" if value is None else format(value, f"{sign}.3g" if abs(value) >= 1000 else f"{sign}.3f")
