"""Train a study's networks cell by cell, each kept as it ends, and tell what came out."""

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Empty
from typing import Any

from kshot.core import errors
from kshot.core.call import parse_call
from kshot.core.errors import KshotError, ModelError, UserError, did_you_mean, keeping, missing_extra
from kshot.core.locks import ONE_THREAD
from kshot.core.paths import path_of
from kshot.core.plugins import Room, is_own, own_class
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import digest, generator
from kshot.encoders.encoder import one_thread
from kshot.reports.study_page import study_page
from kshot.store.files import write_text
from kshot.store.run_folder import opened_run, read_object
from kshot.store.summed import SUM, fits, write_summed
from kshot.studies import EXPERIMENTS, STUDIES
from kshot.studies.experiment import Cell, Experiment, Findings, Row

CELLS, FOUND, PAGE = "cells", "study.json", "study.html"
MOST_MINUTES, MOST_WORKERS = 100_000, 256
_NAME = re.compile(r"[\w.+=-]{1,100}")
_LOOKED_AFTER_S = 1.0  # whether workers still live


@dataclass(frozen=True)
class ExperimentResult:
    """What came out.

    Attributes:
        study: Its name with the settings, as it was asked for.
        folder: Where the cells, the record and the page are.
        findings: Figures, table and claims.
        minutes: What was asked for.
        seed: Of all chance.
    """

    study: str
    folder: Path
    findings: Findings
    minutes: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot study --json` prints."""
        about = {"study": self.study, "minutes": self.minutes, "seed": self.seed, "folder": str(self.folder)}
        return {**about, **self.findings.to_json()}


def room_of_study(name: str, *, asks: bool = False) -> Room:
    """Return the room of a study: `EXPERIMENTS` where it trains networks, `STUDIES` where it is a family of tasks.

    Args:
        name: With its settings.
        asks: A language model is to be asked; then a name that both rooms know is a family of tasks.

    Raises:
        UserError: There is no such study.
    """
    called = parse_call(name).name
    for room in (STUDIES, EXPERIMENTS) if asks else (EXPERIMENTS, STUDIES):
        if room.knows(called):
            return room
    if not is_own(called):
        raise UserError(f"there is no study '{called}'.{did_you_mean(called, [*STUDIES, *EXPERIMENTS])}")
    cls = own_class(called)
    return EXPERIMENTS if isinstance(cls, type) and issubclass(cls, Experiment) else STUDIES


def experiment(
    name: str,
    *,
    out: str | Path | None = None,
    minutes: float | None = None,
    workers: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExperimentResult:
    """Train the networks of a study, and tell what came out; what an interrupted call has done is not done again.

    Args:
        name: A study with its settings, such as "induction(classes=256)".
        out: A folder; by default one under `kshot-runs`, called by the study and what it was asked with.
        minutes: How long it may take on two cores, about: training is shortened or lengthened to that.
        workers: How many cells are worked on side by side, each in a process of its own with one thread. The result is
            the same with any number. In a script with more than one, call it under `if __name__ == "__main__":`.
        seed: Of all chance.
        progress: Told of the steps of training.

    Raises:
        UserError: An unknown study, settings that do not fit, or a folder of something else.
        DivergedError: The loss of a network is not finite.
    """
    progress = progress or Silence()
    room = room_of_study(name)
    if room is not EXPERIMENTS:
        raise UserError(f"'{name}' must be a study that trains networks; it is a family of tasks. Use `kshot study`.")
    if find_spec("torch") is None:
        raise missing_extra("torch", "hf", f"The study '{name}'")
    made: Experiment = room.build(name)
    usual = type(made).minutes
    minutes = usual if minutes is None else float(minutes)
    if not (isfinite(minutes) and 0 < minutes <= MOST_MINUTES):
        raise UserError(f"--minutes must be more than 0 and at most {MOST_MINUTES}; got {minutes:g}.")
    if not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"--workers must be in 1..{MOST_WORKERS}; got {workers}.")
    cells = _checked(name, made.cells())
    about = _identity(made, seed, minutes)
    called = "-".join(("study", re.sub(r"[^\w.-]+", "-", parse_call(name).name).strip("-."), digest(about)[:8]))
    folder = path_of(out) if out is not None else Path("kshot-runs") / called
    with keeping(), opened_run(folder, about):
        task = _Task(name, seed, minutes / usual, str(folder))
        kept = {cell.name: rows for cell in cells if (rows := _kept(folder, cell, progress)) is not None}
        left = [cell for cell in cells if cell.name not in kept]
        if kept:
            progress.say(f"note: {len(kept)} of {len(cells)} cells are there already, in {folder}")
        progress.begin(f"{name}, steps", sum(cell.steps_at(task.scale) for cell in left))
        workers = min(workers, len(left))
        if workers > 1:
            _side_by_side(task, left, workers, progress)
        else:
            for cell in left:
                _do(made, cell, task, progress)
        rows = [{**cell.settings, **row, "cell": cell.name} for cell in cells for row in _rows(folder, cell, progress)]
        found = made.findings(rows)
        result = ExperimentResult(name, folder, found, minutes, seed)
        write_summed(folder / FOUND, {**result.to_json(), "rows": rows})
        write_text(folder / PAGE, study_page(result.to_json(), found, summary=type(made).__doc__ or ""))
    return result


def _identity(made: Experiment, seed: int, minutes: float) -> dict[str, Any]:
    """Return what a folder of a study is known by, flat, as messages name what differs."""
    record = made.record()
    more = {key: record[key] for key in ("settings", "version", "sha256") if key in record}
    return {"study": record["name"], **more, "code": list(made.own_code), "seed": seed, "minutes": minutes}


@dataclass(frozen=True)
class _Task:
    """What a process has to know to work on cells."""

    name: str
    seed: int
    scale: float
    folder: str


def _checked(name: str, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells of a study, whose names can be those of files."""
    names = [cell.name for cell in cells]
    wrong = [n for n in names if not _NAME.fullmatch(n) or n.startswith(".") or names.count(n) > 1]
    if not names or wrong:
        got = f"got '{wrong[0]}'" if wrong else "it has none"
        raise UserError(
            f"'{name}' must have cells, each with a name of its own of letters, digits and . _ - + =; {got}."
        )
    return list(cells)


def _file(folder: Path, cell: Cell) -> Path:
    return folder / CELLS / f"{cell.name}.json"


def _do(made: Experiment, cell: Cell, task: _Task, progress: Progress) -> None:
    """Do a cell, and keep its rows."""
    folder = Path(task.folder)
    state = folder / CELLS / f"{cell.name}.safetensors"
    state.parent.mkdir(exist_ok=True)
    rng = generator(task.seed, "study", cell.name)
    with ONE_THREAD, one_thread():  # what is measured after training too
        rows = made.run(cell, rng=rng, progress=progress, scale=task.scale, state=state)
    write_summed(_file(folder, cell), {"cell": cell.name, "rows": rows})
    state.unlink(missing_ok=True)


def _kept(folder: Path, cell: Cell, progress: Progress) -> list[Row] | None:
    """Return the rows of a cell that is done; None where it is still to be done, which is said if it was damaged."""
    file = _file(folder, cell)
    found = read_object(file)
    if found is not None and fits(found, found.get(SUM)) and found.get("cell") == cell.name:
        return found["rows"]
    if file.exists():
        progress.say(f"note: {file} is damaged: this cell is done again")
    return None


def _rows(folder: Path, cell: Cell, progress: Progress) -> list[Row]:
    rows = _kept(folder, cell, progress)
    if rows is None:
        raise ModelError(f"{_file(folder, cell)} must be there; it was taken away. Run the same command again.")
    return rows


def _side_by_side(task: _Task, cells: Sequence[Cell], workers: int, progress: Progress) -> None:
    """Do cells in processes of their own."""
    context = get_context("spawn")
    asked, told = context.Queue(), context.Queue()
    for name in [*(cell.name for cell in cells), *(None,) * workers]:
        asked.put(name)
    processes = [context.Process(target=_work, args=(task, asked, told), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        n_done = 0
        while n_done < workers:
            try:
                what, value = told.get(timeout=_LOOKED_AFTER_S)
            except Empty:
                codes = [p.exitcode for p in processes]
                if any(codes):
                    raise ModelError(
                        f"Each worker must work to its end; one has ended with exit code {next(filter(None, codes))}, "
                        "perhaps for lack of memory. Run the same command again with fewer --workers."
                    ) from None
                continue
            if what == "failed":
                raise _error(value)
            n_done += what == "ended"
            if what == "steps":
                progress.advance(value)
            elif what == "said":
                progress.say(value)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for queue in (asked, told):
            queue.cancel_join_thread()
            queue.close()


def _error(value: Mapping[str, str]) -> Exception:
    """Return what stopped a worker."""
    kind = getattr(errors, value["kind"], ModelError if value["is_ours"] else RuntimeError)
    return kind(value["text"])


class _Told(Silence):
    """Progress that is told to another process."""

    def __init__(self, told: Any):
        self._told = told

    def advance(self, n: int) -> None:
        """Tell of steps; end where nobody listens any more."""
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)
        self._told.put(("steps", n))

    def say(self, text: str) -> None:
        """Tell what the user should know."""
        self._told.put(("said", text))


def _work(task: _Task, asked: Any, told: Any) -> None:
    """Do cells until there are no more: the work of a process."""
    try:
        made: Experiment = EXPERIMENTS.build(task.name)
        cells = {cell.name: cell for cell in made.cells()}
        while (name := asked.get()) is not None:
            _do(made, cells[name], task, _Told(told))
        told.put(("ended", 0))
    except KeyboardInterrupt:  # of the whole group: whoever started this process says so
        raise SystemExit(1) from None
    except Exception as error:
        ours = isinstance(error, KshotError)
        text = str(error) if ours else traceback.format_exc()
        told.put(("failed", {"kind": type(error).__name__ if ours else "", "is_ours": ours, "text": text}))
