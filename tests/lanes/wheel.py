r"""Build the wheel, install it in a fresh environment with each extra in turn, and let it do a little there.

    make wheel                                            # all extras, a table at the end; 1 if anything fails
    python tests/lanes/wheel.py [--extras hf,data] [--json]

What a checkout can hide is found here: a file that is not in the wheel, a package that is imported and not required, an
extra whose parts do not fit together. Environments are made one after the other in a temporary folder and removed;
pip's cache is shared. torch comes first and by itself, as in the Makefile: without a GPU that is the CPU build.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"  # as the Makefile's
FILES = ("kshot/py.typed", "kshot/CITATION.cff", "kshot/SECURITY.md", "licenses/LICENSE")
FIELDS = {  # of the metadata, each with what it must hold
    "License-Expression": "Apache-2.0",
    "Requires-Python": ">=3.11",
    "Summary": "labelled examples",
    "Description-Content-Type": "text/markdown",
    "Classifier": "Typing :: Typed",
    "Author": "kshot",
    "Keywords": "few-shot",
}
ADAPT = "kshot adapt task.csv --shots 2 --limit 4 --out run"
BASE = "none"
# What each extra is for, as small as can be; a file that is not there yet is written by `_write_files`
COMMANDS = {
    BASE: f"{ADAPT} --model scripted --recipes bm25,tfidf-lr",
    "hf": f"{ADAPT} --model tiny --recipes random",
    "retrieval": f"{ADAPT} --model tiny --recipes dense",
    "demo": f"{ADAPT} --model demo --recipes zero-shot",
    "api": "python -c 'import kshot.models.remote.openai, httpx2, stamina, openai'",
    "llama-cpp": "python -c 'import kshot.models.remote.llama_cpp, xllamacpp'",
    "data": "python parquet.py",
    "track": f"{ADAPT} --model scripted --recipes bm25 --track mlflow",
    "serve": "python -c 'import kshot.serve.application, kshot.serve.listening, uvicorn'",
    "dev": "python -c 'import pytest, hypothesis, pandas, mapie, schemathesis'",
    "frameworks": "python -c 'import dspy, langchain_core, kshot.export.for_dspy, kshot.export.for_langchain'",
    "bench": "python -c 'import lm_eval, optuna, kshot'",
}
PARQUET = """
import pyarrow, pyarrow.parquet, kshot
rows = [{"input": e.input, "output": e.output} for e in kshot.Task.load("task.csv").train]
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "task.parquet")
assert [e.output for e in kshot.Task.load("task.parquet").train] == [row["output"] for row in rows]
"""
REPORTED = 8  # lines of what a failing command has said


@dataclass(frozen=True)
class Tried:
    """How it went with one extra.

    Attributes:
        failure: What was said where it failed; empty where it did not.
    """

    extra: str
    n_packages: int
    megabytes: float
    install_s: float
    command_s: float
    failure: str


def main() -> int:
    """Build, check and try; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--extras", help=f"Which, separated by commas; '{BASE}' is the wheel alone. By default all.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kshot-wheel-") as folder:
        wheel = build(Path(folder))
        flaws = list(flaws_of(wheel))
        wanted = arguments.extras.split(",") if arguments.extras else [BASE, *requirements(wheel)]
        tried = [tell(attempt(extra, wheel, Path(folder))) for extra in wanted]
    if arguments.json:
        print(json.dumps({"wheel": wheel.name, "flaws": flaws, "extras": [asdict(one) for one in tried]}))
    else:
        print("\n".join(table(wheel.name, flaws, tried)))
    return int(bool(flaws) or any(one.failure for one in tried))


def build(folder: Path) -> Path:
    """Return the wheel of this checkout, built into a folder."""
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], folder)
    (wheel,) = folder.glob("kshot-*.whl")
    return wheel


def flaws_of(wheel: Path) -> Iterator[str]:
    """Return what a wheel lacks: files, fields of its metadata, a command for each extra."""
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        for file in FILES:
            if not any(name.endswith(file) for name in names):
                yield f"the wheel has no {file}"
        for name in names:
            if not name.startswith(("kshot/", "kshot-")) or "__pycache__" in name:
                yield f"the wheel has {name}, which is no part of it"
        sources = [p for p in (ROOT / "src" / "kshot").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        for missing in sorted({p.relative_to(ROOT / "src").as_posix() for p in sources} - {*names}):
            yield f"the wheel has no {missing}"
    about = metadata(wheel)
    for field, part in FIELDS.items():
        if not any(part in value for value in about.get_all(field, [])):
            yield f"the metadata's {field} does not hold '{part}'"
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    if f"version: {about['Version']}\n" not in citation:
        yield f"CITATION.cff has another version than {about['Version']}"
    for extra in {*requirements(wheel)} ^ {*COMMANDS} - {BASE}:
        yield f"the extra '{extra}' is not both in pyproject.toml and in COMMANDS of {Path(__file__).name}"


def metadata(wheel: Path):
    """Return the fields of a wheel's METADATA."""
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def requirements(wheel: Path) -> dict[str, list[str]]:
    """Return of each extra what it requires, as the metadata says it."""
    about = metadata(wheel)
    found: dict[str, list[str]] = {extra: [] for extra in about.get_all("Provides-Extra", [])}
    for line in about.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        if extra := re.search(r"""extra == ['"]([^'"]+)""", marker):
            found[extra[1]].append(requirement.strip())
    return found


def needs_torch(extra: str, required: dict[str, list[str]]) -> bool:
    """Return whether an extra requires torch, itself or through others."""
    for requirement in required.get(extra, []):
        if requirement.startswith("torch"):
            return True
        own = re.match(r"kshot\[([^]]+)\]", requirement)
        if own and any(needs_torch(other.strip(), required) for other in own[1].split(",")):
            return True
    return False


def attempt(extra: str, wheel: Path, folder: Path) -> Tried:
    """Install the wheel with an extra, import it and run its command; the environment is removed."""
    place, work = folder / f"environment-{extra}", folder / f"work-{extra}"
    n_packages, megabytes, installed, ended, failure = 0, 0.0, time.monotonic(), None, ""
    try:
        work.mkdir()
        _write_files(work)
        venv.create(place, with_pip=True)
        install = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
        if needs_torch(extra, requirements(wheel)):
            run([*install, TORCH], work)
        run([*install, str(wheel) if extra == BASE else f"{wheel}[{extra}]"], work)
        ended = time.monotonic()
        (packages,) = place.glob("lib/python*/site-packages")
        n_packages = len([*packages.glob("*.dist-info")])
        megabytes = sum(p.stat().st_size for p in place.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6
        _in(place, work, "python -c 'import kshot; kshot.Task, kshot.adapt, kshot.FewShotClassifier'")
        _in(place, work, "kshot --version")
        _in(place, work, COMMANDS[extra])
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout or ''}{error.stderr or ''}".strip().splitlines()[-REPORTED:]
        failure = f"{' '.join(map(str, error.cmd))}\n" + "\n".join(said)
    except subprocess.TimeoutExpired as error:
        failure = f"{error.cmd} came to no end within {error.timeout:.0f} s"
    except KeyError:
        failure = "there is no command for it in COMMANDS"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    now = time.monotonic()
    ended = ended or now
    return Tried(extra, n_packages, megabytes, ended - installed, now - ended, failure)


def _write_files(work: Path) -> None:
    rows = [f"the {noun} number {i},{label}" for i in range(4) for noun, label in (("cat", "animal"), ("saw", "tool"))]
    (work / "task.csv").write_text("\n".join(["input,output", *rows]) + "\n", "utf-8")
    (work / "parquet.py").write_text(PARQUET, "utf-8")


def _in(place: Path, work: Path, command: str) -> None:
    """Run a command of an environment."""
    run(["/bin/sh", "-c", command], work, path=place / "bin")


def run(command: Sequence[str], folder: Path, *, path: Path | None = None, seconds: float = 1800) -> None:
    """Run a command in a folder, with no packages but those of its own environment.

    Raises:
        CalledProcessError: It failed.
        TimeoutExpired: It took too long.
    """
    others = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    own = {"HF_HUB_OFFLINE": "1", **({"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else {})}
    subprocess.run(
        [*command], cwd=folder, env=others | own, check=True, capture_output=True, text=True, timeout=seconds
    )


def tell(one: Tried) -> Tried:
    """Say on stderr how it went."""
    print(f"{one.extra}: {'FAILED' if one.failure else 'ok'}", file=sys.stderr, flush=True)
    return one


def table(wheel: str, flaws: Sequence[str], tried: Sequence[Tried]) -> Iterator[str]:
    """Return the lines of a report."""
    yield f"{wheel}\n\n{'extra':12} {'packages':>8} {'MB':>7} {'install s':>9} {'run s':>6}  result"
    for one in tried:
        sizes = f"{one.n_packages:8} {one.megabytes:7.0f} {one.install_s:9.0f} {one.command_s:6.0f}"
        yield f"{one.extra:12} {sizes}  {'FAILED' if one.failure else 'ok'}"
    yield from (f"\nflaw: {flaw}" for flaw in flaws)
    yield from (f"\n{one.extra}: {one.failure}" for one in tried if one.failure)


if __name__ == "__main__":
    sys.exit(main())
