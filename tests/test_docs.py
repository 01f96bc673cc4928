"""What the docs say runs, and what is made from the code is current."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from kshot.cli.main import app
from kshot.evaluators import EVALUATORS
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.names import SLOTS, cheap_recipes
from kshot.studies import EXPERIMENTS, STUDIES
from test_architecture import LAYERS

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "examples/own/README.md"]
PAGES += [str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))]


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
    block, of_frames = python_blocks("README.md")
    names = {}
    exec(block, names)
    assert len(names["run"].leaderboard) == 4
    assert (data / "model" / "kshot.json").exists()
    exec(of_frames, names)
    assert list(names["run"].best.predict(names["df"]["text"]).index) == list(names["df"].index)


def test_the_snippet_of_the_page_on_steering_runs(data):
    (block,) = python_blocks("docs/steering.md")
    names = {}
    exec(block, names)
    fingerprints = {names[n].fingerprint for n in ("model", "steered", "stacked")}
    assert len(fingerprints) == 3
    assert (data / "steering" / "steering.safetensors").exists()


def test_the_selector_of_the_docs_works(tmp_path, run_cli, words_task):
    (tmp_path / "mine.py").write_text(python_blocks("docs/extending.md")[0])
    run_cli("adapt", words_task, "--model", "scripted", "--shots", 1, "--out", tmp_path / "run",
            "--recipes", f"{tmp_path}/mine.py:Shortest:reverse=true", "--json")  # fmt: skip
    shown = json.loads((tmp_path / "run" / "best" / "demonstrations.jsonl").read_text().split("\n")[0])
    rows = [json.loads(line) for line in (words_task / "train.jsonl").read_text().splitlines()]
    assert len(shown["input"]) == max(len(row["input"]) for row in rows)


def test_the_check_of_the_docs_works(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(python_blocks("docs/extending.md")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    exec(python_blocks("docs/extending.md")[1], {})


def test_the_requests_of_the_docs_work():
    names = {}
    exec(python_blocks("docs/tasks.md")[-1], names)
    assert names["model"].name == "tiny"


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(ROOT / "docs"))  # where `make docs` finds it
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "docs" / "make_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "docs"))
    return module


@pytest.mark.parametrize("name", ["recipes.md", "papers.md", "architecture.md", "errors.md"])
def test_the_pages_that_are_written_are_current(name, pages):
    assert (ROOT / "docs" / name).read_text("utf-8") == pages.PAGES[name](), "run `make docs`"


def test_every_error_says_what_to_do_or_what_must_hold(pages):
    module = sys.modules[pages.errors_page.__module__]
    said = module.messages(pages.SOURCE)
    assert len(said) > 250
    assert not [message for message in said if not module.is_helpful(message.text)]


def test_a_name_that_two_files_give_to_two_texts_is_read_where_it_stands(pages, tmp_path):
    (tmp_path / "kshot").mkdir()
    (tmp_path / "kshot" / "errors.py").write_text("class KshotError(Exception): ...\n")
    own = 'HINT = "{}"\n\n\ndef f():\n    raise KshotError(f"It must be whole. {{HINT}}")\n'
    for name in ("one", "two"):
        (tmp_path / "kshot" / f"{name}.py").write_text(own.format(f"Repeat {name}."))
    (tmp_path / "kshot" / "user.py").write_text(
        'from kshot.one import HINT\n\n\ndef f():\n    raise KshotError(f"It must be read. {HINT}")\n'
    )
    said = sys.modules[pages.errors_page.__module__].messages(tmp_path / "kshot")
    assert [(str(m.file), m.remedy) for m in said] == [
        ("one.py", "Repeat one."),
        ("two.py", "Repeat two."),
        ("user.py", "Repeat one."),
    ]


def test_every_file_has_its_line_on_the_map_and_every_line_its_file():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    lines = re.findall(r"^(?:- \[`(.+?)`\]\(\.\./src/kshot/(.+?)\)|\*\*(.+)/\*\*) (\S.{8,})$", page, flags=re.M)
    listed = [path or f"{folder}/__init__.py" for _, path, folder, _ in lines]
    there = [f for f in (ROOT / "src" / "kshot").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sorted(listed) == sorted(str(f.relative_to(ROOT / "src" / "kshot")) for f in there)


def test_the_map_draws_the_layers_that_are_enforced():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (drawn,) = re.findall(r"```\n(core < .*?)```", page, flags=re.S)
    assert [{room.strip() for room in layer.split("|")} for layer in drawn.split("<")] == LAYERS


def test_every_promise_has_its_test():
    page = (ROOT / "docs" / "promises.md").read_text("utf-8")
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 50
    for file, name in named:
        code = (ROOT / file).read_text("utf-8")
        assert f"\ndef {name}(" in code or f"    def {name}(" in code if name else code, f"{file}::{name}"


def test_the_docs_name_the_group_of_every_room():
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    groups = {room.group for room in (*SLOTS.values(), EVALUATORS, STUDIES, EXPERIMENTS)}
    assert set(re.findall(r"`(kshot\.[a-z]+s)`", page)) == groups


def test_the_map_says_how_to_add_a_method_to_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for room in (*SLOTS.values(), EVALUATORS, STUDIES, EXPERIMENTS):
        heading = room.group.removeprefix("kshot.").capitalize()
        (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^### |\Z)", page, flags=re.M | re.S)
        assert f"../examples/own/{room.what}.py" in section


def test_what_the_map_follows_is_where_it_says():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = re.findall(r"`([A-Za-z_.]+)`\s+\(\[[^]]+\]\(\.\./(src/kshot/\S+?\.py)\)", page)
    assert len(named) > 25
    for name, file in named:
        text = (ROOT / file).read_text("utf-8")
        for part in name.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b|^{part}\b.* = ", text, flags=re.M), (name, file)


def test_the_recipes_of_the_docs_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(python_blocks("docs/extending.md")[0].replace("Shortest", "Mine"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (block,) = re.findall(r"```\n(bm25 .*?)```", page, flags=re.S)
    recipes = [re.split(r" {2,}", line)[0] for line in block.splitlines()]
    (table,) = re.findall(r"^## Recipes\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), flags=re.M | re.S)
    for line in table.splitlines():
        cell = line.removeprefix("| ").partition(" |")[0] if line.startswith("| `") else ""
        recipes += [r.strip('"') for r in re.findall(r"`([^`]+)`", cell) if not r.startswith("--")]
    assert len(recipes) == 24
    for recipe in recipes:
        parse_recipe(recipe, shots=2)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_docs_have_all_that_they_need(page):
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.S | re.M)
    found = [m[1] for block in blocks for m in re.finditer(r"^(?:\$ )?(kshot .+)", block, flags=re.M)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    said = re.findall(r"`(kshot [a-z]+(?: train)? [A-Z][^`]*)`", prose)  # others are about a verb or an option alone
    for line in [*found, *(" ".join(one.split()) for one in said)]:
        command, words = get_command(app), shlex.split(line, comments=True)[1:]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(line, words)


def test_the_docs_list_what_all_stands_for():
    text = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    (listed,) = re.findall(r"^`all`, the default, stands for (.*?), as far as", text, flags=re.M | re.S)
    assert re.findall(r"`([^`]+)`", listed) == cheap_recipes()


def test_the_page_of_distil_says_what_was_measured():
    result = (ROOT / "docs" / "results" / "distil.md").read_text("utf-8")
    said = (ROOT / "docs" / "methods" / "distil.md").read_text("utf-8").split("**Measured**")[1]
    n, table = re.split(r"## mean over tasks that have all recipes, (\d+)\n", result)[1:]
    assert f"over the {n} tasks" in said
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if "`" in line]
    for name, inputs in (("random:", "0"), ("distil(", "0"), ("distil(", "500"), ("fine-tune:", "0")):
        (row,) = (row for row in rows if row[0].startswith(f"`{name}") and row[1] == inputs)
        assert re.search(rf"{row[4]}\b", said), row
        assert re.search(rf"{row[5]}\b", said), row


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        file = ((ROOT / page).parent / path) if path else ROOT / page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), flags=re.M)
            assert heading in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target
