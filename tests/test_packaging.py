"""What is installed: without any extra kshot works with what it requires; `make wheel` tries the extras for real."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import labelled_rows, write_task
from kshot.core.version import __version__
from lanes.wheel import BASE, COMMANDS, FILES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ABSENT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Absent())
from kshot.cli.main import main
import kshot
kshot.adapt, kshot.FewShotClassifier
for sys.argv[1:] in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
print("DONE")
"""
MODULES = {"sentence-transformers": "sentence_transformers", "prometheus-client": "prometheus_client"}


def names_of(requirements):
    found = [re.match(r"[\w-]+", line)[0] for line in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in found} - {"kshot"}


def test_without_extras_a_recipe_without_weights_is_raced_and_answers(tmp_path):
    extras = PROJECT["optional-dependencies"]
    absent = {n for extra in ("hf", "retrieval", "api", "data", "track", "serve") for n in names_of(extras[extra])}
    absent |= {"mlflow", "xllamacpp", "pandas", "polars"}
    program = ABSENT.format(names=absent - names_of(PROJECT["dependencies"]))
    task, run = write_task(tmp_path / "task", labelled_rows(12)), tmp_path / "run"
    commands = [
        ["adapt", str(task), "--model", "scripted", "--recipes", "bm25,tfidf-lr", "--limit", "4", "--out", str(run)],
        ["predict", str(run), str(task / "train.jsonl")],
    ]
    done = subprocess.run([sys.executable, "-c", program, json.dumps(commands)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["DONE"]), done.stderr


def test_each_extra_has_a_command_in_the_lane():
    assert {BASE, *PROJECT["optional-dependencies"]} == {*COMMANDS}


def test_what_a_company_asks_for_is_there():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text("utf-8")
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    held = {*wheel["force-include"].values(), "kshot/py.typed", "licenses/LICENSE"}
    assert held == {*FILES}
    assert all((ROOT / file).is_file() for file in wheel["force-include"])
    assert (ROOT / "src/kshot/py.typed").is_file()
