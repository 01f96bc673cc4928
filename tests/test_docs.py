"""What the docs say runs, and what is made from the code is current."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.S)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder to work in, with the task that the docs speak of."""
    (tmp_path / "data" / "trec").mkdir(parents=True)
    rows = [{"input": f"Who is number {i} ?", "output": "human"} for i in range(6)]
    rows += [{"input": f"Where is number {i} ?", "output": "location"} for i in range(6)]
    (tmp_path / "data" / "trec" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_snippet_runs(data):
    (block,) = python_blocks("README.md")
    names = {}
    exec(block, names)
    assert len(names["run"].leaderboard) == 4
    assert (data / "model" / "kshot.json").exists()


def test_the_snippet_of_the_page_on_steering_runs(data):
    (block,) = python_blocks("docs/steering.md")
    names = {}
    exec(block, names)
    fingerprints = {names[n].fingerprint for n in ("model", "steered", "stacked")}
    assert len(fingerprints) == 3
    assert (data / "steering" / "steering.safetensors").exists()


def test_the_selector_of_the_docs_works(tmp_path):
    from kshot.core.types import Example, Query, Task
    from kshot.learners.build import make_learner
    from kshot.models.scripted import ScriptedModel
    from kshot.recipes.recipe import parse_recipes
    from kshot.taskmodel.taskmodel import TaskModel

    file = tmp_path / "mine.py"
    file.write_text(python_blocks("docs/extending.md")[0])
    pool = [Example("long " * n, "ab"[n % 2], f"e{n}") for n in (3, 1, 2)]
    task = Task("t", "classification", tuple(pool), labels=("a", "b"))
    (recipe,) = parse_recipes(f"{file}:Shortest:reverse=true", shots=1)
    learner = make_learner(recipe, task, TaskModel.for_task(task, ScriptedModel()), seed=0)
    (prediction,) = learner.predict([Query(pool[0], pool[1:])])
    assert prediction.demonstrations == ("e2",)


def test_the_requests_of_the_docs_work():
    names = {}
    exec(python_blocks("docs/tasks.md")[0], names)
    assert names["model"].name == "tiny"


def test_the_page_of_recipes_is_current():
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "docs" / "make_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "recipes.md").read_text("utf-8") == module.recipes_page(), "run `make docs`"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/extending.md",
        "docs/tasks.md",
        "docs/selection.md",
        "docs/retrieval.md",
        "docs/steering.md",
        "docs/design/main-job.md",
    ],
)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text("utf-8")):
        assert ((ROOT / page).parent / target).exists(), target
