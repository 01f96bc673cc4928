"""Every method of every room keeps its contract; the rooms' tables say which there are."""

from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.lessons import Training
from kshot.core.plugins import origin_of, own_class
from kshot.engine.load_model import load_model
from kshot.testing import check_part
from kshot.testing.check_part import ROOMS, ContractError

# Settings with which slow methods are quick; a method that is not here is checked with its own
QUICK = {
    "best-of-n": "n=2,queries=2",
    "gradient-matching": "candidates=2",
    "less": "epochs=1,snapshots=2",
    "ease": "evaluations=8,starts=4,candidates=8,kept=4,steps=5,queries=2",
    "evolution": "evaluations=12,queries=2",
    "function-vector": "prompts=2,shots=2,heads=2",
    "soft-injection": "prompts=2,shots=2,steps=2,every=1",
    "knob": "shots=2,steps=2,batch=2",
    "verbalisers": "neutral=2",
    "rubrics": "systems=1,length=8",
    "instructions": "dialogues=1,samples=2,turns=2,length=8",
    "distribution": "sequences=2,shown=2,generations=4,urns=2",
    "edits": "edits=2",
    "induction": "bursts=0/2,classes=8,labels=4,dim=8,items=4,places=9,batch=8",
    "experiment boolean": "d=3,length=5,width=8,layers=1,heads=2,batch=8",  # others have these names, too
    "experiment distribution": "classes=8/16,labels=4,dim=8,batch=8",
    "experiment prism": "d=2,length=5,width=8,layers=1,heads=2,batch=8",
    "experiment supportive": "worlds=2,corpus=64,pool=32,n=4,rounds=1,draws=1,width=8,layers=1,heads=2,batch=8",
}
TRAINED = {"twins"}  # which ask a model whose weights were trained
OWN = sorted((Path(__file__).parent.parent / "examples" / "own").glob("*.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.what)
def test_every_method_keeps_the_contract_of_its_room(room, decision_server, tmp_path):
    (tmp_path / "texts").write_text("".join(f"text {i}\n" for i in range(8)))
    quick = QUICK | {
        "decisions": f"service={decision_server.name}",
        "tuner supportive": f"corpus={tmp_path / 'texts'},n=4,rounds=2,batch=3,queries=2,rank=2",
    }
    for name in room:
        model = load_model("tiny").trainable(Training(), seed=0) if name in TRAINED else None  # type: ignore[attr-defined]
        settings = quick.get(f"{room.what} {name}", quick.get(name))
        check_part(room.build(f"{name}({settings})" if settings else name), model=model)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.what)
def test_every_method_says_where_it_comes_from(room):
    for name in room:
        assert "Source:" in (room.find(name).__doc__ or ""), name
        assert origin_of(room.find(name)).name == name


def test_there_is_an_own_example_for_every_room():
    assert {file.stem for file in OWN} == {room.what for room in ROOMS}
    assert all(len(file.read_text("utf-8").splitlines()) < 60 for file in OWN)


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_every_own_example_keeps_its_contract(file):
    (room,) = (room for room in ROOMS if room.what == file.stem)
    names = [
        line.split()[1].split("(")[0] for line in file.read_text("utf-8").splitlines() if line.startswith("class ")
    ]
    check_part(room.build(f"{file}:{names[0]}"))


USES = {
    "selector": "./selector.py:Shortest:reverse=true",
    "composer": "random:composer=./composer.py:Shouting",
    "generator": "random:generator=./generator.py:Reversed",
    "loop": "zero-shot:loop=./loop.py:MostFrequent",
    "tuner": "./tuner.py:NewestOnly:lr=1e-3",
    "teacher": "fine-tune:teacher=./teacher.py:FirstExample,lr=1e-3,steps=1",
    "steerer": "./steerer.py:MeanOutput",
    "classifier": "./classifier.py:LongestWord",
    "combiner": "./combiner.py:MostSure(bm25:k=2,zero-shot)",
    "gate": "adapt-mi(zero-shot,bm25:k=2):gate=./gate.py:Close",
    "judge": "random:composer=reason-first(cue=Why?,max_tokens=16,judge=./judge.py:Brief)",
}


@pytest.mark.parametrize("what", USES)
def test_an_own_method_is_raced_saved_and_loaded(what, words_task, tmp_path, run_cli, monkeypatch):
    """In a folder that is gone when the model is loaded: the saved model brings the user's file."""
    own = tmp_path / "own"
    own.mkdir()
    (own / f"{what}.py").write_text((OWN[0].parent / f"{what}.py").read_text("utf-8"))
    monkeypatch.chdir(own)
    done = run_cli("adapt", words_task, "--model", "tiny", "--recipes", USES[what], "--shots", 2, "--limit", 10,
                   "--out", tmp_path / "run", "--json")  # fmt: skip
    assert done.json["chosen"] == USES[what]
    before = kshot.load(tmp_path / "run", allow_code=True).predict_proba(["the cat", "a saw"])
    (own / f"{what}.py").unlink()
    monkeypatch.chdir(tmp_path)
    assert (kshot.load(tmp_path / "run", allow_code=True).predict_proba(["the cat", "a saw"]) == before).all()


def test_an_own_evaluator_and_an_own_study(words_task, tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(OWN[0].parent)
    run_cli("adapt", words_task, "--model", "scripted", "--recipes", "bm25", "--out", tmp_path / "run", "--shots", 2)
    found = run_cli("evaluate", tmp_path / "run", words_task, "--suite", "./evaluator.py:Shouted", "--json").json
    assert found["n"] == 6
    assert 0 <= found["accuracy"] <= 1
    rows = run_cli("study", "./study.py:FirstWord", "--model", "scripted", "--recipes", "majority,all-past", "-n", 8,
                   "--tasks", 2, "--json").json["rows"]  # fmt: skip
    assert [row["recipe"] for row in rows] == ["best possible", "majority", "all-past"]
    assert rows[1]["above_best"] > rows[0]["above_best"] == 0


def test_majority_is_the_best_that_label_frequencies_allow(run_cli):
    rows = run_cli("study", "label-frequencies", "--model", "scripted", "--recipes", "majority,zero-shot", "-n", 16,
                   "--tasks", 3, "--json").json["rows"]  # fmt: skip
    assert rows[1]["above_best"] == pytest.approx(0, abs=1e-12)
    assert rows[2]["above_best"] > 0


NEVER_THE_SAME = count()


@dataclass(frozen=True)
class Forgetful(kshot.Selector):
    """Breaks one rule or another."""

    fault: str = "bad index"
    _n: int = 0

    per_query = False

    def fit(self, pool, *, model, rng):
        return replace(self, _n=len(pool))

    def select(self, question, k, *, rng):
        found = rng.permutation(self._n).tolist()[:k]
        if self.fault == "chance":
            return [next(NEVER_THE_SAME) % self._n]
        return {"bad index": [self._n], "twice": [0, 0], "too many": list(range(self._n)), "none": found}[self.fault]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bad index", "must return indices into the pool"),
        ("twice", "must return different indices"),
        ("too many", "must return at most k = 3 indices"),
        ("chance", "must choose the same (when it is fitted again )?with the same rng"),
    ],
)
def test_a_broken_contract_is_named(fault, said):
    check_part(Forgetful("none"))
    with pytest.raises(ContractError, match=said):
        check_part(Forgetful(fault))


FIT = "    def fit(self, pool, *, model, rng):\n        return self\n"
SELECT = "    def select(self, question, k, *, rng):\n        return []\n"
FROZEN, HEAD = "@dataclass(frozen=True)\n", "class Mine(kshot.Selector):\n"
BROKEN = {
    "class Mine:\n    pass": "must be a selector: a class that inherits from kshot.Selector and has fit, select",
    f"{FROZEN}{HEAD}    per_query = True\n{FIT}": "must be a selector; it lacks select",
    f"{FROZEN}{HEAD}{FIT}{SELECT}": "must be a selector; it lacks per_query",
    f"{HEAD}    per_query = True\n{FIT}{SELECT}": "must be a frozen dataclass",
    f"{FROZEN}{HEAD}    size: int\n    per_query = True\n{FIT}{SELECT}": "must have a default for each setting",
    f"{FROZEN}{HEAD}    per_query = True\n    words: list[str] = ()\n{FIT}{SELECT}": "'words' is list[str].",
    "import no_such_package": "must be Python that can be run; ModuleNotFoundError: No module named 'no_such_",
    "Other = 1": "must define 'Mine'; it defines no such class",
}


@pytest.mark.parametrize("source", BROKEN)
@pytest.mark.parametrize("use", ["./mine.py:Mine", "fine-tune:selector=./mine.py:Mine,k=4"])
def test_a_class_that_breaks_the_contract_is_named_before_a_model_is_loaded(
    source, use, words_task, tmp_path, run_cli, monkeypatch
):
    (tmp_path / "mine.py").write_text(f"from dataclasses import dataclass\n\nimport kshot\n\n\n{source}\n")
    monkeypatch.chdir(tmp_path)
    failed = run_cli("adapt", words_task, "--model", "there/is/no/such/model", "--recipes", use)
    assert failed.code == 2
    assert BROKEN[source] in " ".join(failed.err.split())


def test_a_users_file_that_has_changed_is_not_the_one_that_was_used(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    pass\n")
    own_class(f"{file}:Mine")
    with pytest.raises(UserError, match="must be the file with which 'Mine' was used; it has changed. Adapt again."):
        own_class(f"{file}:Mine", sha256="0" * 64)
