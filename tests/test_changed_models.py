"""A saved model that was changed, in any field or byte, is refused in a sentence; nothing else is ever raised.

Whoever changes it may make the list of its files anew, as an attacker would: then it is another model, and its fields
have to hold what kshot writes.
"""

import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import kshot
from changed_models import KINDS, WORDS, change_bytes, change_json, make, model_of, said
from encoders import make_tiny_encoder
from kshot.adapted.folder import saved_task
from kshot.adapted.seal import SEAL, write_seal
from kshot.core.errors import KshotError, ModelError, UserError
from kshot.core.json_text import from_json

CHEAP = ("classifier", "shown", "worded", "combined", "choices", "open", "own", "steered")
N_VARIANTS = 5000


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a kind, its language model, and what it answers; each is made once."""
    place, models, made = tmp_path_factory.mktemp("saved"), {}, {}

    def saved(kind):
        if kind not in made:
            name = KINDS[kind][1]
            model = models[name] = models.get(name) or model_of(kind)
            encoder = make_tiny_encoder(place / "encoder") if kind == "retriever" else ""
            folder = make(kind, place / kind, model=model, encoder=encoder)
            made[kind] = folder, model, said(kshot.load(folder, model=model, allow_code=True), kind)
        return made[kind]

    return saved


@pytest.fixture
def copy(saved, tmp_path):
    """Return a copy of a kind's folder, and its language model."""

    def copy(kind):
        folder, model, _ = saved(kind)
        return Path(shutil.copytree(folder, tmp_path / kind)), model

    return copy


def outcome(seed: int, kind: str, saved, place: Path, mark: Path) -> str:
    """Change a copy by a seed, load it and ask it, and return what came of it."""
    random, (folder, model, expected) = Random(seed), saved(kind)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    sealed = random.random() < 0.4
    evil = mark.with_name("evil.py")
    what = change_json(place, random, evil) if random.random() < 0.7 else change_bytes(place, random)
    try:
        if not sealed:
            write_seal(place)
        by_name = KINDS[kind][1] == "scripted" and random.random() < 0.3
        found = said(kshot.load(place, model=None if by_name else model, allow_code=kind == "own"), kind)
    except KshotError:
        found = "refused"
    except Exception as error:
        raise AssertionError(f"{kind}, seed {seed}: {what} ends in {error!r}") from error
    assert not mark.exists(), f"{kind}, seed {seed}: {what} runs code"
    if sealed:
        assert found in ("refused", expected), f"{kind}, seed {seed}: {what} gives other answers"
    return f"{'sealed' if sealed else 'made anew'}: {found if found == 'refused' else 'answers'}"


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that `evil.py` writes, which stands in the folder one is in, and can be imported."""
    (tmp_path / "here").mkdir()
    marked = tmp_path / "here" / "mark"
    marked.with_name("evil.py").write_text(f"import pathlib\npathlib.Path({str(marked)!r}).touch()\nclass Evil: pass\n")
    monkeypatch.chdir(marked.parent)
    monkeypatch.syspath_prepend(marked.parent)
    return marked


def test_some_changes_of_cheap_models(saved, mark, tmp_path):
    found = Counter(outcome(seed, CHEAP[seed % len(CHEAP)], saved, tmp_path / "model", mark) for seed in range(56))
    assert set(found) == {"sealed: refused", "made anew: refused", "made anew: answers"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_changes(kind, saved, mark, tmp_path):
    seeds = range(list(KINDS).index(kind), N_VARIANTS, len(KINDS))
    found = Counter(outcome(seed, kind, saved, tmp_path / "model", mark) for seed in seeds)
    print(kind, dict(found))
    assert found["sealed: refused"] > len(seeds) // 5


# The list of files


def test_every_byte_is_looked_at(copy):
    """A flipped bit anywhere is found, also in the list itself."""
    folder, model = copy("steered")
    for file in (f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size):
        before = file.read_bytes()
        for at in (0, len(before) // 2, len(before) - 2):
            file.write_bytes(before[:at] + bytes([before[at] ^ 4]) + before[at + 1 :])
            with pytest.raises(UserError, match=f"^{folder}"):
                kshot.load(folder, model=model)
        file.write_bytes(before)
    assert kshot.load(folder, model=model)


LISTS = {
    "missing": (
        lambda f: (f / "learnt.txt").unlink(),
        r"'learnt.txt' is not in the folder. Copy the whole folder, or",
    ),
    "too much": (lambda f: (f / "x.py").touch(), "'x.py' does not belong there. Move it out of the folder"),
    "unlisted below": (
        lambda f: (f / "own" / "x").mkdir(parents=True) or (f / "own/x/y").touch(),
        "'own/x/y' does not belong there",
    ),
    "changed": (lambda f: (f / "learnt.txt").write_text(""), "learnt.txt must be as kshot wrote it; its size or "),
    "link": (
        lambda f: (f / "learnt.txt").rename(f.parent / "l") and (f / "learnt.txt").symlink_to(f.parent / "l"),
        "learnt.txt must be a plain file or folder; it is a link or a device. Copy what it stands for",
    ),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe must be a plain file or folder; it is a link or a device"),
    "no list": (lambda f: (f / SEAL).unlink(), "with all of its files; checksums.json is missing. Copy the whole"),
    "holes": (lambda f: os.truncate(f / "learnt.txt", 4 * 10**11), "learnt.txt must be as kshot wrote it; its size"),
    "endless list": (lambda f: os.truncate(f / SEAL, 4 * 10**11), "checksums.json must .* is larger than 64 MB"),
    "deep": (lambda f: deep(f), "must have at most 32 folders inside each other, .*; 'd' has more. Move it out of the"),
    "half a list": (lambda f: (f / SEAL).write_text("{"), "checksums.json must be readable JSON, as kshot wrote it; "),
    "another list": (
        lambda f: (f / SEAL).write_text("{}"),
        "checksums.json must be as kshot wrote it; files: field req",
    ),
    "up": (lambda f: listed(f, "../x"), r"checksums.json must name files of its own folder; got '\.\./x'"),
    "elsewhere": (lambda f: listed(f, "/etc/hostname"), "must name files of its own folder; got '/etc/hostname'"),
}


def deep(folder: Path) -> None:
    """Make folders inside each other: no more than Python's recursion takes, by which they are deleted."""
    (folder / "/".join("d" * 200)).mkdir(parents=True)


def listed(folder: Path, name: str) -> None:
    """Let the list of files name one more."""
    about = json.loads((folder / SEAL).read_text("utf-8"))
    about["files"][name] = {"sha256": "0" * 64, "size": 1}
    (folder / SEAL).write_text(json.dumps(about))


@pytest.mark.parametrize(("change", "message"), LISTS.values(), ids=LISTS)
def test_a_folder_that_is_not_as_its_list_says(change, message, copy, run_cli):
    folder, _ = copy("shown")
    change(folder)
    refused = run_cli("predict", folder, input="the cat\n")
    assert refused.code == 2
    with pytest.raises(UserError, match=message):
        kshot.load(folder)


def test_the_task_is_read_from_files_that_are_as_they_were(copy):
    folder, _ = copy("shown")
    assert saved_task(folder).labels == ("animal", "food", "tool")
    (folder / "kshot.json").write_text((folder / "kshot.json").read_text("utf-8").replace("tool", "fool"))
    with pytest.raises(
        UserError, match="kshot.json must be as kshot wrote it; its size or sha256 is not that in check"
    ):
        saved_task(folder)


def test_what_is_saved_again_while_it_is_read_is_read_anew(copy, monkeypatch):
    """A reader who has seen the old model's fields and then other weights begins again; not for ever."""
    folder, model = copy("steered")
    other, n_saves = kshot.load(folder, model=model), 1
    other.fitted = replace(other.fitted, steering=-other.steering)
    read = kshot.Steering.load

    def load(place):
        nonlocal n_saves
        if n_saves:
            n_saves -= 1
            other.save(folder)
        return read(place)

    monkeypatch.setattr(kshot.Steering, "load", load)
    assert kshot.load(folder, model=model).steering.fingerprint == other.steering.fingerprint
    n_saves = 99
    with pytest.raises(UserError, match="must stay as it is while it is read; it is being written. Try again when"):
        kshot.load(folder, model=model)


def test_whoever_reads_while_others_save_gets_the_old_or_the_new_one(saved, tmp_path):
    models = [kshot.load(saved(kind)[0]) for kind in ("shown", "worded", "combined")]
    answers = [said(adapted, "shown") for adapted in models]
    models[0].save(tmp_path / "model")

    def write(i):
        models[i % 3].save(tmp_path / "model")

    def ask(_):
        return said(kshot.load(tmp_path / "model"), "shown")

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [write(i) for i in range(6)])
        found = [ask(i) for i in range(3)]
        writing.result()
    assert all(one in answers for one in found)


# What the fields must hold, where somebody has made the list of files anew


def field(*path, to):
    """Return a change of a field of `kshot.json`."""

    def change(folder):
        file = folder / "kshot.json"
        about = json.loads(file.read_text("utf-8"))
        inner = about
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        file.write_text(json.dumps(about))

    return change


def row(change):
    """Return a change of the first demonstration."""

    def changed(folder):
        file = folder / "demonstrations.jsonl"
        first, *others = (json.loads(line) for line in file.read_text("utf-8").splitlines())
        file.write_text("".join(json.dumps(one) + "\n" for one in [change(first), *others]))

    return changed


def edit(**changes):
    """Return a change of the first edit of a steering."""

    def change(folder):
        file = folder / "steering.json"
        about = json.loads(file.read_text("utf-8"))
        about["edits"][0] |= changes
        file.write_text(json.dumps(about))

    return change


SELECTOR = ("recipe", "parts", "selector")
FIELDS = {
    "unknown kind": (
        "shown",
        field("task", "kind", to="poetry"),
        r"kshot.json must be as kshot wrote it; task.kind: inp",
    ),
    "number as label": ("shown", field("task", "labels", to=[1, 2]), "task.labels.0: input should be a valid string"),
    "label twice": ("shown", field("task", "labels", to=["food", "food"]), "kshot.json: .*labels must differ, also w"),
    "no labels": ("shown", field("task", "labels", to=[]), "a classification must have labels"),
    "unknown metric": ("shown", field("task", "metrics", to=["luck"]), "kshot.json: .*luck"),
    "no metric": ("shown", field("task", "metrics", to=[]), "must have a metric; it has none"),
    "letters": ("choices", field("task", "letter_form", to="[[Q]]"), "letter_form must be how inputs name their first"),
    "seed": ("shown", field("seed", to=2**63), "seed: input should be less than 9223372036854775808"),
    "seed as text": ("shown", field("seed", to="0"), "seed: input should be a valid integer"),
    "temperature of texts": (
        "open",
        field("calibration", "temperature", to=2.0),
        "must have no calibration, as answers of the kind",
    ),
    "label prior of nobody": (
        "shown",
        field("calibration", "strength", to=0.5),
        "must have a label prior with a number for each of its 3 labels where its strength",
    ),
    "label prior of no size": (
        "shown",
        field("calibration", "prior", to=[0.5, 0.0, 0.5]),
        "calibration.prior.1: input should be greater than 0",
    ),
    "no answer": (
        "open",
        field("prompt", "answer_tokens", to=0),
        "answer_tokens: input should be greater than or equal",
    ),
    "endless answer": (
        "open",
        field("prompt", "answer_tokens", to=10**9),
        "answer_tokens: input should be less than or",
    ),
    "layout": (
        "shown",
        field("prompt", "layout", to="auto"),
        "prompt.layout: input should be 'plain', 'turns', 'block' or 'mess",
    ),
    "other layout": ("shown", field("prompt", "layout", to="turns"), "needs a model with a chat template"),
    "no prompt": (
        "shown",
        field("prompt", to=None),
        "must name a language model and its prompt where .* names no prompt",
    ),
    "no model": (
        "shown",
        field("model", to=None),
        "must name a language model and its prompt where .* it names no model",
    ),
    "other model": (
        "shown",
        field("model", "fingerprint", to="f" * 64),
        "was adapted with other weights, config or tokenizer than those of",
    ),
    "unknown field": (
        "shown",
        field("hook", to="x"),
        "kshot.json must be as kshot wrote it; hook: extra inputs are not",
    ),
    "choice": ("shown", field("choice", to=[]), "choice: input should be a valid dictionary"),
    "unknown method": (
        "shown",
        field(*SELECTOR, "name", to="bm52"),
        "there is no selector 'bm52'. Did you mean 'bm25'",
    ),
    "unknown slot": ("shown", field("recipe", "parts", to={"x": {}}), "there is no slot 'x'"),
    "setting of another": (
        "shown",
        field(*SELECTOR, "settings", to={"k2": 1}),
        "'bm25' has no setting 'k2', which its",
    ),
    "setting out of range": ("shown", field(*SELECTOR, "settings", "b", to=2), "bm25:b must be in 0..1; got 2"),
    "setting as text": (
        "shown",
        field(*SELECTOR, "settings", "b", to="1"),
        "bm25:b must be a number; its record has '1'",
    ),
    "infinite setting": (
        "shown",
        field(*SELECTOR, "settings", "k1", to=10**400),
        "bm25:k1 must be a number; its record",
    ),
    "many": ("shown", field("recipe", "k", to=2**40), "k must be a small whole number, 0 or more"),
    "no context": ("shown", field("recipe", "contexts", to=0), "contexts must be in 1..256, and 1 where nothing is sh"),
    "too many contexts": ("shown", field("recipe", "contexts", to=257), "contexts must be in 1..256, and 1 where"),
    "contexts of a classifier": ("classifier", field("recipe", "contexts", to=2), "contexts must be in 1..256, and 1"),
    "unknown mean": ("shown", field("recipe", "mean", to="median"), "mean must be one of arithmetic, geometric"),
    "none": ("shown", field("recipe", "k", to=0), "k must be 1 or more with a selector, and 0 without one"),
    "unknown order": ("shown", field("recipe", "order", to="up"), "there is no order 'up'"),
    "unknown calibration": (
        "shown",
        field("recipe", "calibration", to="x"),
        "calibration must be one of auto, batch, temperature, con",
    ),
    "members of nobody": ("shown", field("recipe", "members", to=[{}]), "recipe.members.0.name: field required"),
    "combiner of none": (
        "combined",
        field("recipe", "members", to=[]),
        "a combiner must have members, and members a comb",
    ),
    "recipe of another kind": (
        "classifier",
        field(
            "task",
            to={
                "name": "t",
                "kind": "qa",
                "labels": [],
                "metrics": ["f1"],
                "instruction": "",
                "choices_in_input": False,
                "letter_form": "(A)",
                "positive_label": None,
                "columns": {},
            },
        ),
        "kshot.json",
    ),
    "weights of nobody": (
        "shown",
        field("adapter", to={"fingerprint": "x"}),
        "trained weights with recipes that train",
    ),
    "steering of nobody": ("shown", field("steering", to="x"), "a steering with recipes that steer alone"),
    "notes": ("shown", field("notes", to=[1]), "notes.0: input should be a valid string"),
    "no demonstrations": (
        "shown",
        lambda f: (f / "demonstrations.jsonl").write_text(""),
        "demonstrations with recipes th",
    ),
    "no such label": (
        "shown",
        row(lambda r: r | {"output": "x"}),
        "saved example 1: 'x' is not among the task's labels",
    ),
    "no output": (
        "shown",
        row(lambda r: {k: r[k] for k in ("id", "input")}),
        "row 1, must be as kshot wrote it; output:",
    ),
    "an id twice": (
        "shown",
        row(lambda r: r | {"id": WORDS[1].id}),
        "saved example 2: the id 'r1' is that of example 1",
    ),
    "no input": ("shown", row(lambda r: r | {"input": " "}), "'input' must not be empty"),
    "endless bits": ("shown", row(lambda r: r | {"bits": 10**400}), "row 1, must be as kshot wrote it; bits:"),
    "no choices": (
        "choices",
        row(lambda r: r | {"choices": []}),
        "demonstrations.jsonl: the task 'quiz', saved example 1",
    ),
    "odd fingerprints": (
        "shown",
        lambda f: (f / "learnt.txt").write_text("x\n"),
        "must hold the fingerprint of a questi",
    ),
    "no member": ("combined", lambda f: shutil.rmtree(f / "members" / "1"), "members/1 must be an adapted model"),
    "another member": (
        "combined",
        lambda f: (f / "members/1/kshot.json").write_text("{}"),
        "members/1/kshot.json must b",
    ),
    "unknown site": (
        "steered",
        edit(site="os"),
        "steering.* site must be one of mlp, heads, block, attention; got layer 0, site 'os'",
    ),
    "layer below": ("steered", edit(layer=-1), "layer must be 0 or more; got layer -1"),
    "unknown operation": ("steered", edit(operation="exec"), "operation must be one of turn, add, mix"),
    "mixed elsewhere": ("steered", edit(operation="mix"), "heads alone can be mixed"),
    "weights missing": ("steered", edit(scale=[]), "each vector must have a weight, and there must be one"),
    "another place": (
        "steered",
        edit(site="block"),
        "steering.* they do not belong together, or are of another version",
    ),
}


@pytest.mark.parametrize(("kind", "change", "message"), FIELDS.values(), ids=FIELDS)
def test_a_field_that_kshot_does_not_write(kind, change, message, copy):
    folder, model = copy(kind)
    change(folder)
    write_seal(folder)
    with pytest.raises(UserError, match=message):
        kshot.load(folder, model=model)


def test_a_steering_of_a_larger_model_is_refused_when_it_is_loaded(copy):
    folder, model = copy("steered")
    steering = kshot.Steering.load(folder)
    moved = replace(steering, edits=tuple(replace(e, layer=e.layer + 7) for e in steering.edits))
    moved.save(folder)
    field("steering", to=moved.fingerprint)(folder)
    write_seal(folder)
    with pytest.raises(ModelError, match="at one of its 2 layers|it is another model's. Fit it on this model"):
        kshot.load(folder, model=model)


def test_recipes_inside_each_other_without_end(copy):
    folder, model = copy("combined")
    record = from_json((folder / "kshot.json").read_text("utf-8"))["recipe"]
    for _ in range(40):
        record = {**record, "members": [record]}
    field("recipe", to=record)(folder)
    write_seal(folder)
    with pytest.raises(UserError, match="recipes must be inside each other at most 8 times|nested too deeply"):
        kshot.load(folder, model=model)


def test_a_model_that_cannot_do_what_the_recipe_needs(copy):
    folder, _ = copy("steered")
    scripted = model_of("shown")
    field("model", "fingerprint", to=scripted.fingerprint)(folder)
    write_seal(folder)
    with pytest.raises(UserError, match="needs a language model that offers activations, for 'icv:strength=0.1'"):
        kshot.load(folder, model=scripted)
