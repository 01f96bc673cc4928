"""Names and texts from anywhere are shown as they are: no markup, no formula, nothing that a terminal carries out."""

import io
import json
import sys
import warnings

import pytest

from conftest import labelled_rows, write_task
from kshot.cli import live, output
from kshot.cli.output import TerminalProgress, failed, print_json, print_paragraph, print_result
from kshot.core.visible_text import visible
from kshot.reports import figures
from kshot.reports.leaderboard import leaderboard_table

DRAWN = {name: getattr(figures, name) for name in ("learning_curve", "pareto")}  # before conftest takes them away
EVIL = "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\b\rx\u202etxt.exe\u2066"
SHOWN = r"\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\x08\x0dx\u202etxt.exe\u2066"
MARKED = ("[/INST]", "[bold red]x[/]", "[link=file:///etc/passwd]x[/link]", ":smile:", "[[/]]", "{task.total}", "\\[x")
NAMES = ("$x_{$", "$$", "_hidden", "\u6df7\u5408", "x\x1by", "a$b$c", "^\\frac{", "{}{", "\\", "\U0001f600", "a\nb")


@pytest.fixture
def terminal(monkeypatch):
    """Let both streams of the command line be one terminal; return what it gets."""
    held = io.StringIO()
    for name in ("stdout", "stderr"):
        console = type(output.stderr)(file=held, force_terminal=True, width=200, color_system=None)
        for module in (output, live):
            monkeypatch.setattr(module, name, console)
    return held


def standing(name: str, **more) -> dict:
    names = ("deployed", "deployed_bits", "metric", "bits_per_example", "fit_seconds", "query_tokens", "query_ms")
    row = {"recipe": name, "n": 20, "metric_n": 20, "status": "done", "reason": None, **dict.fromkeys(names, 0.5)}
    row |= {"behind": None, "behind_error": None, "is_close": None}
    return row | {f"{key}_{end}": 0.5 for key in names[:3] for end in ("low", "high")} | more


def test_what_is_visible():
    assert visible(EVIL) == SHOWN
    kept = "tab\tline\nnaïve 東京 مرحبا \u200f 👍🏽 e\u0301"
    assert visible(kept) == kept


@pytest.mark.parametrize("name", [EVIL, *MARKED], ids=range(1 + len(MARKED)))
def test_a_terminal_shows_names_and_errors_as_they_are(terminal, name):
    shown = visible(name)
    board = [standing(name), standing("other", status="failed", reason=f"RuntimeError: {name}")]
    with live.RaceProgress("accuracy") as progress:
        progress.begin(name, 20)
        progress.advance(3)
        progress.standing(board, "5 min")
        progress.say(f"{name} failed")
        progress._live.refresh()
    with TerminalProgress() as progress:
        progress.begin(name, 2)
        progress.advance(1)
        progress.say(name)
    output.stdout.print(leaderboard_table(board, metric=name, by="metric", chosen=name, with_reasons=True))
    print_paragraph(name)
    failed(f"no {name}")
    text = terminal.getvalue()
    for said in (f"> {shown}", f"RuntimeError: {shown}", f"{shown} failed", f"error: no {shown}"):
        assert said in text
    for control in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\b", "\u202e"):
        assert control not in text


def test_results_stay_as_they_are_but_in_a_terminal(monkeypatch, capsys, run_cli, tmp_path):
    rows = [row | {"output": row["output"] + EVIL[:4]} for row in labelled_rows(9)]
    task = write_task(tmp_path / "task", rows)
    done = run_cli("adapt", task, "--model", "scripted", "--recipes", "majority", "--out", tmp_path / "run")
    assert done.code == 0
    (tmp_path / "inputs.txt").write_text("the cat\n")
    answer = run_cli("predict", tmp_path / "run", tmp_path / "inputs.txt").out
    assert answer.endswith("\x1b[2J\n")  # a pipe gets the bytes of the label
    print_json({"a": EVIL})
    assert json.loads(capsys.readouterr().out) == {"a": EVIL}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_result(f"{EVIL}\n")
    assert capsys.readouterr().out == f"{SHOWN}\n"


def test_notes_on_files_are_visible(run_cli, tmp_path):
    missing = tmp_path / f"no{EVIL[:4]}.jsonl"
    outcome = run_cli("validate", missing)
    assert outcome.code == 2
    assert "\x1b" not in outcome.err
    assert "no\\x1b[2J.jsonl" in outcome.err
    column = f"te{EVIL[:4]}xt"
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({column: f"a {i}", "label": "xy"[i % 2]}) + "\n" for i in range(4))
    )
    outcome = run_cli("validate", tmp_path / "a.jsonl")
    assert "\x1b" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (i > 4), id=str(i)) for i, name in enumerate(NAMES)]
)
def test_a_figure_shows_a_name_as_it_is(name):
    rows = {n: [{"position": i, "score": i % 2, "bits": 1.0 + i % 3} for i in range(20)] for n in (name, "other")}
    board = [{"recipe": n, "metric": 0.3 + 0.1 * i, "query_tokens": 5 * i + 1} for i, n in enumerate(rows)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = DRAWN["learning_curve"](rows, list(rows), "score", name)
        front = DRAWN["pareto"](board, name, "query_tokens", "tokens")
    for svg in (drawn, front):
        assert visible(name).split("\n")[0].replace("<", "&lt;") in svg
        assert "</svg>" in svg
