"""Saved models of every kind, and what can be changed in their folders: fields, bytes, files."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from conftest import labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.adapted.seal import SEAL
from kshot.core.types import Example, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.measures.calibration import Calibration
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

WORDS = tuple(Example(r["input"], r["output"], f"r{i}") for i, r in enumerate(labelled_rows(9)))
TASK = Task("words", "classification", WORDS, labels=("animal", "food", "tool"), instruction="Name the kind.")
SUMS = tuple(Example(f"{i} and 1?", str(i + 1), f"s{i}", explanation="Add.") for i in range(1, 7))
OPEN = Task("sums", "math", SUMS, metrics=("exact_match_number",))
CHOSEN = tuple(
    Example(f"{i} and 1?", str(i + 1), f"q{i}", choices=tuple(str(i + j) for j in range(2 + i % 2))) for i in range(6)
)
QUIZ = Task("quiz", "multiple_choice", CHOSEN, choices_in_input=False)
OWN = '''from dataclasses import dataclass, replace

import kshot


@dataclass(frozen=True)
class Longest(kshot.Selector):
    """Show the longest examples."""

    reverse: bool = False
    _order: tuple[int, ...] = ()

    per_query = False

    def fit(self, pool, *, model, rng):
        order = sorted(range(len(pool)), key=lambda i: -len(pool[i].input), reverse=self.reverse)
        return replace(self, _order=tuple(order))

    def select(self, question, k, *, rng):
        return list(self._order[:k])
'''
# Kind -> recipe, model, task; those of "scripted" cost next to nothing
KINDS = {
    "classifier": ("tfidf-lr", "scripted", TASK),
    "shown": ("bm25:order=most-confident-last", "scripted", TASK),
    "worded": ("random:composer=wording(labels=true),contexts=2", "scripted", TASK),
    "combined": ("average(bm25:k=1,tfidf-lr)", "scripted", TASK),
    "choices": ("bm25:k=1", "scripted", QUIZ),
    "open": ("random:k=2", "scripted", OPEN),
    "own": ("OWN:Longest:k=2", "scripted", TASK),
    "lora": ("icl+ft:k=1,lr=1e-3,steps=1,rank=2,selector=bm25", "tiny", TASK),
    "full": ("fine-tune:lr=1e-4,steps=1,weights=full", "tiny", TASK),
    "steered": ("icv:strength=0.1", "tiny", TASK),
    "retriever": ("llm-r:k=1,encoder=ENCODER", "scripted", TASK),
}
INPUTS: dict[str, list[Any]] = {
    "classification": ["the cat", "a saw"],
    "math": ["5 and 1?"],
    "multiple_choice": [{"input": "7 and 1?", "choices": ["7", "8"]}],
}


def make(kind: str, folder: Path, *, model: Any, encoder: str = "") -> Path:
    """Save a model of a kind, and return its folder."""
    recipe, _, task = KINDS[kind]
    own = folder.parent / f"{kind}.py"
    own.write_text(OWN)
    parsed = parse_recipe(recipe.replace("OWN", str(own)).replace("ENCODER", encoder), shots=2)
    setup = Setup(task, TaskModel.for_task(task, model), 0)
    calibration = Calibration(1.0 if task.is_open else 1.5)
    AdaptedModel.fit(parsed, task.train, setup, choice={"by": "a test"}, calibration=calibration).save(folder)
    return folder


def model_of(kind: str) -> Any:
    """Return the language model of a kind."""
    return load_model(KINDS[kind][1])


def said(adapted: AdaptedModel, kind: str) -> list[Any]:
    """Return what a model answers, with its probabilities."""
    return [(p.answer, p.candidates, p.probs) for p in adapted.predictions(INPUTS[KINDS[kind][2].kind])]


# What stands in other models at such places
TEXTS = ("classification", "math", "generation", "multiple_choice", "f1", "exact_match", "accuracy", "animal", "2",
         "plain", "turns", "shuffled", "nearest-last", "temperature", "contextual", "none", "bm25", "random", "dense",
         "tfidf-lr", "majority", "icv", "average", "fine-tune", "heads", "block", "mix", "add", "full", "lora",
         "selector", "tuner", "scripted", "tiny", "demo", "minilm", "(a)", "1.", "geometric", "bare")  # fmt: skip
NUMBERS = (-3, -1, 0, 1, 2, 3, 5, 1000, 2**20)


def values(evil: Path) -> list[Any]:
    """Return what a field can become; some of it would run `evil.py` and leave a mark."""
    texts = ["", "x", "../../x", "/", "\0", "os", "evil", "evil:Evil", f"{evil}:Evil", f"{evil}.py:x", "𝄞" * 3000]
    numbers = [-1, 0, 1, 3, 7, 2**31, 2**63, 10**40, -(2**70), 0.5, -1.5, 1e308, 1e-320]
    other: dict[str, Any] = {"version": 1, "settings": {}}
    evils = [{"name": "Evil", "file": str(evil), "sha256": "0" * 64, **other}, {"name": "evil:Evil", **other}]
    evils.append({"name": f"{evil}:Evil", **other})
    return [None, True, False, *numbers, *texts, [], {}, [1], ["x"], [None], {"x": 1}, [[[]]], *evils]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the places of all that stands in a JSON value, itself too."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def _changed(value: Any, at: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a value after `change(parent, key)` of what stands at a place."""
    whole = [json.loads(json.dumps(value))]
    parent, key = whole, 0
    for step in at:
        parent, key = parent[key], step
    change(parent, key)
    return whole[0] if whole else None


def _like(value: Any, random: Random) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict):
        keys = random.sample(sorted(value), len(value))
        return {random.choice([k, *TEXTS]): value[k] for k in keys}
    if isinstance(value, list):
        return random.sample(value, random.randrange(len(value) + 1))
    kinds = (str, TEXTS), (int, NUMBERS), (float, (0.0, -1.0, 1e-9, 0.5, 2.0, 1e30))
    return next((random.choice(new) for kind, new in kinds if isinstance(value, kind)), value)


def change_field(value: Any, random: Random, evil: Path) -> tuple[Any, str]:
    """Return a JSON value with one thing in it removed, added, or another; and what was done."""
    at = random.choice(list(places(value)))
    new, how = random.choice(values(evil)), random.choice(("set", "like", "like", "like", "remove", "add", "twice"))

    def change(parent: Any, key: Any) -> None:
        here = parent[key]
        if how == "like":
            parent[key] = _like(here, random)
        elif how == "remove" and len(at):
            del parent[key]
        elif how == "add" and isinstance(here, dict):
            here[random.choice(("x", "class", "__init__", "file", "sha256"))] = new
        elif how == "add" and isinstance(here, list):
            here.append(new)
        elif how == "twice" and isinstance(here, list) and here:
            here.append(here[0])
        else:
            parent[key] = new

    return _changed(value, at, change), f"{how} {'.'.join(map(str, at))} {str(new)[:40]!r}"


def change_json(folder: Path, random: Random, evil: Path) -> str:
    """Change one field of one of the JSON files of a folder, and say which."""
    files = [f for f in sorted(folder.rglob("*.json*")) if f.name != SEAL and f.stat().st_size < 100_000]
    known = [f for f in files if "retriever" not in f.parts or f.name == "retriever.json"]
    file = random.choice(known if random.random() < 0.8 else files)
    lines = file.read_text("utf-8").splitlines() if file.suffix == ".jsonl" else [file.read_text("utf-8")]
    if not lines:
        file.write_text(json.dumps(random.choice(values(evil))) + "\n", "utf-8")
        return f"{file.relative_to(folder)}: a row"
    number = random.randrange(len(lines))
    new, what = change_field(json.loads(lines[number]), random, evil)
    lines[number] = json.dumps(new)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return f"{file.relative_to(folder)}: {what}"


def change_bytes(folder: Path, random: Random) -> str:
    """Change bytes or files of a folder, and say what."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    file, other = random.choice(files), random.choice(files)
    data = bytearray(file.read_bytes())
    how = random.choice(("flip", "flip", "flip", "cut", "more", "gone", "new", "swap", "folder", "link"))
    if how == "flip" and data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        file.write_bytes(data)
    elif how == "cut":
        file.write_bytes(data[: random.randrange(len(data) + 1)])
    elif how == "more":
        file.write_bytes(bytes(data) + random.randbytes(3))
    elif how == "gone":
        file.unlink()
    elif how == "swap":
        file.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "link":
        aside = folder.parent / "aside"
        shutil.copy(file, aside)
        file.unlink()
        file.symlink_to(aside)
    else:
        (file.parent / random.choice(("evil.py", "x.json", "conftest.py", "learnt.txt", "composer.json"))).write_text(
            "{}"
        )
    return f"{how} {file.relative_to(folder)}"
