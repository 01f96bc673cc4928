"""One flipped bit in what an interrupted run keeps: it ends with the same result, or is refused by a file's name."""

import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kshot
import kshot.learners.trained
from conftest import labelled_rows, write_task
from encoders import make_tiny_encoder
from kshot.core.errors import KshotError
from kshot.core.progress import Silence
from kshot.core.types import Task
from kshot.verbs.retriever import RetrieverRun, parse_settings

KINDS = {
    "prompts": {"recipes": "random,bm25,random:loop=notes,majority", "limit": 16},
    "training": {"recipes": "icl+ft:k=2,steps=1,lr=1e-3/1e-2,steerer=icv", "limit": 9},
    "gradients": {"recipes": "gradient-matching:of=prefix,epochs=1,snapshots=2", "limit": 12},
}
STOPS = {"prompts": 40, "training": 30, "gradients": 15, "retriever": 7}
INPUTS = ["the cat and the saw", "a cake"]
N_FLIPS = 200
OFTEN = {".sqlite": 4, ".sqlite-wal": 2, ".safetensors": 4, ".jsonl": 3, ".json": 1}


class Stopped(BaseException):
    """Like KeyboardInterrupt, nothing that code would catch by accident."""


class Stopper(Silence):
    """Copies the run's folder as it is, at the n-th step, and stops."""

    def __init__(self, n: int, folder: Path, to: Path):
        self.left, self.folder, self.to = n, folder, to

    def advance(self, n: int) -> None:
        self.left -= 1
        if self.left == 0:
            shutil.copytree(self.folder, self.to)
            raise Stopped


@dataclass(frozen=True)
class Interrupted:
    """An interrupted run, how it is gone on with, and what comes out if nobody touches it."""

    folder: Path
    resume: Any
    result: Any

    @property
    def files(self) -> list[Path]:
        """What is read when it goes on; trained retrievers are others' business."""
        files = [f.relative_to(self.folder) for f in self.folder.rglob("*") if f.is_file() and f.stat().st_size]
        return sorted(f for f in files if "retriever" not in f.parts and f.suffix in OFTEN)

    def outcome(self, to: Path, file: Path, change: Any) -> str:
        """Change a file in a copy of the folder, go on, and tell what came out."""
        shutil.copytree(self.folder, to)
        try:
            change(to / file)
            found = self.resume(to)
        except KshotError as error:
            return "refused" if str(to) in str(error) else f"refused without a file's name: {error}"
        finally:
            shutil.rmtree(to)
        return "same" if found == self.result else "another result"


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, tiny, recorded):
    """Each kind of run, interrupted."""
    base, found = tmp_path_factory.mktemp("flipped"), {}
    task = Task.load(write_task(base / "task" / "words", labelled_rows(20)))
    encoder = make_tiny_encoder(base / "encoder")

    def adapted(folder: Path, how: dict[str, Any], progress: Any = None) -> Any:
        run = kshot.adapt(task, tiny, shots=3, out=folder, progress=progress, **how)
        found = recorded(folder)
        del found["manifest.json"]  # what nobody reads of it may differ
        return found, run.best.predict_proba(INPUTS).tolist()

    def retrieved(folder: Path, how: Any, progress: Any = None) -> Any:
        run = RetrieverRun.start(folder, [str(base / "task" / "words")], settings=how, progress=progress)
        run.candidates()
        run.score(tiny)
        rows = run.reward()
        return [(row.query.key, [d.key for d in row.documents], row.scores) for row in rows]

    def interrupt(kind: str, go: Any, how: Any, n: int) -> None:
        folder, left = base / "runs" / kind, base / "left" / kind
        with pytest.raises(Stopped):
            go(folder, how, Stopper(n, folder, left))
        result, resume = go(base / "whole" / kind, how), lambda folder: go(folder, how)
        found[kind] = Interrupted(left, resume, result)
        found[f"{kind}, closed"] = Interrupted(folder, resume, result)  # no -wal is left

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kshot.learners.trained, "SECONDS_BETWEEN_STATES", 0)
        for kind in KINDS:
            interrupt(kind, adapted, KINDS[kind], STOPS[kind])
        settings = parse_settings(f"encoder={encoder},queries=10,candidates=5,depth=10,epochs=1")
        interrupt("retriever", retrieved, settings, STOPS["retriever"])
        done = found["retriever"]
        found["stages"] = Interrupted(base / "whole" / "retriever", done.resume, done.result)
        yield found


def flip(bit: int) -> Any:
    def change(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)

    return change


@pytest.mark.slow
def test_a_flipped_bit_never_makes_another_result(interrupted, tmp_path):
    rng, found = random.Random(0), Counter[Any]()
    for i in range(N_FLIPS):
        kind = rng.choice(sorted(interrupted))
        run = interrupted[kind]
        (file,) = rng.choices(run.files, [OFTEN[f.suffix] for f in run.files])
        bit = rng.randrange(8 * (run.folder / file).stat().st_size)
        found[kind, file.suffix, run.outcome(tmp_path / str(i), file, flip(bit))] += 1
    for (*what, outcome), n in sorted(found.items()):
        print(f"{' '.join(what)}: {n} {outcome}")
    assert {outcome for *_, outcome in found} == {"same", "refused"}
