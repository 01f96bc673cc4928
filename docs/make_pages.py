"""Write the pages that follow from the code: `make docs`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from errors_page import errors_page

from kshot.core.fields import setting_names
from kshot.core.lessons import Training
from kshot.core.plugins import Room, resolve
from kshot.evaluators import EVALUATORS
from kshot.recipes.catalogue import describe, describe_methods, describe_recipes
from kshot.recipes.names import SLOTS
from kshot.studies import EXPERIMENTS, STUDIES

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "kshot"
WRITTEN = "Written by `make docs` from the classes' own documentation; do not edit.\n"
BEGIN, END = "<!-- written by `make docs` from the files' first sentences -->\n", "<!-- end -->\n"
NOT_PYTHON = {
    "evaluators/general.txt": "General text, on which `forgetting.py` measures perplexity.",
    "py.typed": "Type checkers read the hints of whoever uses kshot.",
    "reports/report.css": "The report's style.",
    "reports/report.html.jinja": "The report's page.",
    "reports/report.js": "What can be clicked in the report.",
    "reports/study.html.jinja": "The page of a study that trains networks.",
}
# How methods that do nothing alone are used, and how evaluators and studies are
EXAMPLES = {
    "generator": "random:generator=word-edits",
    "loop": "zero-shot:loop=notes",
    "composer": "random:composer=wording(labels=true/false)",
    "teacher": "fine-tune:teacher=demonstrations",
    "combiner": "average(bm25, zero-shot)",
}
FOLDERS = {"suite": "suites", "study": "studies"}  # of pages; all others are in methods
URL = re.compile(r"https?://\S+[^\s.,;:)]")
AUTHORS = re.compile(r"[A-Z][^;:()]*\(\d{4}\)")


def recipes_page() -> str:
    """Return all methods as Markdown: recipes, methods for the other slots, evaluators and studies."""
    parts = [
        "# Recipes\n",
        WRITTEN,
        "How they are combined: [architecture.md](architecture.md#a-recipe); one's settings: `kshot recipes NAME`.\n",
    ]
    parts.append(_table(describe_recipes(), "recipe"))
    parts.append("## Methods for the other slots\n\nThey do nothing alone; a recipe has them in a slot.\n")
    for slot, example in EXAMPLES.items():
        rows = [row for row in describe_methods() if row["slot"] == slot]
        parts.append(f"### {slot}\n\nSuch as `{example}`.\n\n{_table(rows, slot)}")
    parts.append(f"## Evaluators\n\n`kshot evaluate RUN TASK --suite NAME`\n\n{_table(describe(EVALUATORS), 'suite')}")
    parts.append(f"## Studies\n\n`kshot study NAME --model M`\n\n{_table(describe(STUDIES), 'study')}")
    parts.append(f"`kshot study NAME`: networks that are trained\n\n{_table(describe(EXPERIMENTS), 'study')}")
    return "\n".join(parts)


def _table(rows: list[dict], what: str) -> str:
    head = f"| {what} | what it does | source |\n|---|---|---|\n"
    return head + "".join(f"| {_named(r['name'], what)} | {r['summary']} | {r['source'] or ''} |\n" for r in rows)


def _named(name: str, what: str) -> str:
    """Return a method's name, as a link to its page if it has one."""
    page = f"{FOLDERS.get(what, 'methods')}/{name}.md"
    return f"[`{name}`]({page})" if (DOCS / page).exists() else f"`{name}`"


def papers_page() -> str:
    """Return as Markdown which paper is behind which class, with its settings."""
    uses: dict[str, list[str]] = {}
    authors: dict[str, str] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for owner, doc in _documented(file):
            for url, who in _cited(doc):
                uses.setdefault(url, []).append(_use(file, owner))
                authors[url] = authors.get(url) or who
    names = {url: who or url for url, who in authors.items()}
    rows = [f"| [{names[url]}]({url}) | {'<br>'.join(uses[url])} |\n" for url in sorted(uses, key=names.__getitem__)]
    head = "| paper | where, and its settings |\n|---|---|\n"
    return "\n".join(["# Papers\n", WRITTEN, "How each differs from its paper is said there.\n", head + "".join(rows)])


def _documented(file: Path) -> Iterator[tuple[str, str]]:
    """Yield what is documented in a file: its name ("" for the file itself) and its documentation."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield getattr(node, "name", ""), ast.get_docstring(node) or ""


def _cited(doc: str) -> Iterator[tuple[str, str]]:
    """Yield the addresses after "Source:", each with its authors and year, if they are named."""
    said = " ".join(doc.partition("Source:")[2].partition("Differs:")[0].partition("\n\n")[0].split())
    start = 0
    for found in URL.finditer(said):
        names = AUTHORS.findall(said[start : found.start()])
        yield found.group(), names[-1].rpartition(" as in ")[2] if names else ""
        start = found.end()


def _use(file: Path, owner: str) -> str:
    """Return where something is used as a link; of a method with its name in recipes and its settings."""
    path = file.relative_to(SOURCE)
    reference = f"kshot.{'.'.join(path.with_suffix('').parts)}:{owner}"
    link = f"[`{owner or path.stem}`](../src/kshot/{path})"
    for room in (*SLOTS.values(), EVALUATORS, STUDIES, EXPERIMENTS):
        for name in room:
            if room[name] == reference:
                return f"{link}: {_with_settings(room, name)}"
    return link


def _with_settings(room: Room, name: str) -> str:
    cls = resolve(room[name])
    shared = setting_names(Training) if issubclass(cls, Training) else ()
    names = [f"`{s}`" for s in setting_names(cls) if s not in shared]
    names += ["and those of [training](weights.md)"] * bool(shared)
    return f"`{name}`" + (f" ({', '.join(names)})" if names else "")


def map_page() -> str:
    """Return docs/architecture.md with its tree written anew."""
    page = (DOCS / "architecture.md").read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}{_tree(_layers(before))}{END}{rest.partition(END)[2]}"


def _layers(page: str) -> list[str]:
    """Return the rooms in the order in which the page draws them."""
    (drawn,) = re.findall(r"```\n(core < .*?)```", page, flags=re.S)
    return re.findall(r"\w+", drawn)


def _tree(rooms: list[str]) -> str:
    """Return one line for every file, room by room."""
    files = [f for f in sorted(SOURCE.rglob("*")) if f.is_file() and "__pycache__" not in f.parts]
    folders = sorted({f.parent for f in files}, key=lambda folder: _place(folder, rooms))
    lines = []
    for folder in folders:
        here = [f for f in files if f.parent == folder and (folder == SOURCE or f.name != "__init__.py")]
        if folder != SOURCE:
            lines.append(f"\n**{folder.relative_to(SOURCE)}/** {_first(folder / '__init__.py')}\n\n")
        lines += [f"- [`{f.name}`](../src/kshot/{f.relative_to(SOURCE)}) {_first(f)}\n" for f in here]
    return "".join(lines)


def _place(folder: Path, rooms: list[str]) -> tuple[int, str]:
    """Return where a folder stands: the top first, then by rooms."""
    parts = folder.relative_to(SOURCE).parts
    return (rooms.index(parts[0]) if parts else -1, str(folder))


def _first(file: Path) -> str:
    """Return the first sentence of a file's documentation."""
    path = str(file.relative_to(SOURCE))
    if path in NOT_PYTHON:
        return NOT_PYTHON[path]
    doc = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split())


def all_errors() -> str:
    """Return the page of errors."""
    rooms = {
        folder.name: _first(folder / "__init__.py") for folder in SOURCE.iterdir() if (folder / "__init__.py").exists()
    }
    return errors_page(SOURCE, rooms, WRITTEN.replace("the classes' own documentation", "the code"))


PAGES = {"recipes.md": recipes_page, "papers.md": papers_page, "architecture.md": map_page, "errors.md": all_errors}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
