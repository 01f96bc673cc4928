"""What the rows of the benchmark `suites` say: a table for each suite, with a column for each system."""

from collections.abc import Mapping, Sequence
from typing import Any

from kshot.reports.suite_record import is_measured, measured

OPENING = """\
`kshot bench suites --data DIR` measures this: two small models, each as it is, with eight demonstrations, trained on 60
examples, trained with demonstrations, and steered; 50 test rows, one draw. Suites that ask the language model alone are
not run of the one with demonstrations, whose model is that of `zero-shot`. Brackets hold 95 % intervals over what was
asked; seconds are of one thread, beside other work. Differences between systems whose intervals overlap are no
findings."""


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each system and suite, with the measured values alone."""
    about = ("model", "task", "recipe", "suite")
    return [
        {name: row[name] for name in about}
        | {"seconds": row["seconds"], "refused": row["report"].get("refused")}
        | {"values": {name: value for name, value in measured(row["report"]) if is_measured(value)}}
        for row in rows
    ]


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# What suites say of small models", "", OPENING, "",
             f"{result['done']} of {result['planned']} units are done."]  # fmt: skip
    for suite, task in dict.fromkeys((row["suite"], row["task"]) for row in result["summary"]):
        rows = [row for row in result["summary"] if (row["suite"], row["task"]) == (suite, task)]
        able = [row for row in rows if not row["refused"]]
        names = list(dict.fromkeys(name for row in able for name in row["values"]))
        lines += ["", f"## {suite}, {task}"]
        if names:
            head = ["", *(f"{row['model']}, `{row['recipe']}`" for row in able)]
            lines += ["", _line(head), "|---" * len(head) + "|"]
            lines += [_line([name, *(_cell(row["values"].get(name)) for row in able)]) for name in names]
            lines.append(_line(["seconds", *(format(row["seconds"], ".0f") for row in able)]))
        refused = sorted({f"{row['recipe']}: {row['refused']}" for row in rows if row["refused"]})
        lines += ["", *(f"- Not run, {text}" for text in refused)] if refused else []
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None or value["value"] is None:
        return ""
    around = f" [{value['low']:.2f}, {value['high']:.2f}]" if value["low"] is not None else ""
    return f"{value['value']:.2f}{around}"
