"""Let a model make more examples of a task, and write them where they can be learnt from."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kshot.core.budget import parse_budget
from kshot.core.call import parse_call
from kshot.core.errors import UserError, keeping, missing_extra
from kshot.core.ledger import BudgetSpentError, Cost, Ledger
from kshot.core.models import LanguageModel
from kshot.core.paths import path_of
from kshot.core.prices import check_priced, parse_prices
from kshot.core.progress import Progress, Silence, Watched
from kshot.core.seeding import generator
from kshot.core.termination import interrupted_by_sigterm
from kshot.core.types import Example, Rows, Task
from kshot.engine.load_model import load_model
from kshot.methods.contracts import Generator, Made
from kshot.methods.generators import GENERATORS
from kshot.methods.generators.intake import TESTED, Intake
from kshot.store.files import write_jsonl
from kshot.store.run_folder import alone_in
from kshot.store.scores import SqliteStore
from kshot.store.traces import Traces
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.built import given_task
from kshot.tasks.rows import FIELDS
from kshot.tasks.validate import without_duplicates

METHOD = "rephrase"
SUFFIXES = (".jsonl", ".json")  # of a file that is read as it is written


@dataclass(frozen=True)
class Generated:
    """What was made of a task's training examples.

    Attributes:
        examples: Each with `meta["made"]` and what else is known of where it comes from.
        rejected: (input, reason) of what was made and not taken.
        wanted: How many were to be made.
        method: The generator with its settings.
        cost: What the model did for it.
        paid: Calls of a model behind an API, with those of calls before this one (`Ledger.record`); None without.
        out: Where they were written; None where they were not.
    """

    examples: tuple[Example, ...]
    rejected: tuple[tuple[str, str], ...]
    wanted: int
    method: str
    cost: Cost
    out: Path | None = None
    paid: Mapping[str, Any] | None = None

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason was one to reject something, the most frequent first."""
        return Made(self.examples, self.rejected).reasons

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The examples as rows of a file, such as `train.jsonl`: what is known of each stands beside its fields."""
        return [row_of(e) for e in self.examples]

    @property
    def in_words(self) -> str:
        """What was made and what was not, in a sentence or two."""
        said = f"{self.method}: {len(self.examples)} of {self.wanted} examples made"
        if not self.rejected:
            return f"{said}."
        told = "; ".join(f"{reason} ({n})" for reason, n in self.reasons.items())
        dropped = self.reasons.get(TESTED, 0)
        also = f" {dropped} asked what a row of test asks, and were dropped." if dropped else ""
        return f"{said}, {len(self.rejected)} rejected: {told}.{also}"

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot generate --json` prints."""
        counts = {"made": len(self.examples), "wanted": self.wanted, "rejected": len(self.rejected)}
        work = {"scored": self.cost.scored, "reused": self.cost.reused}
        work |= {"paid": self.paid} if self.paid else {}
        where = {"out": str(self.out)} if self.out else {"rows": self.rows}
        return {"method": self.method, **counts, "reasons": self.reasons, "work": work, **where}


def generate(
    task: Task | str | Path | Rows,
    model: LanguageModel | str | Path,
    *,
    method: str = METHOD,
    n: int | None = None,
    out: str | Path | None = None,
    budget: str | None = None,
    prices: str | None = None,
    seed: int = 0,
    layout: str = "auto",
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    api: str | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Make more examples of a task's training examples (`kshot recipes`: generator).

    Nothing that is asked of the model is lost: until the end it is kept beside `out`, and the same call goes on where
    it was stopped. Examples that ask what a row of `task.test` asks are dropped, and so are those whose output is none
    of the task's, whoever made them.

    Args:
        task: Its training examples; repeated rows are left out. Or where to load it from, or its rows.
        model: The language model that writes, or its name.
        method: A generator with settings, such as "rephrase" or "ensemble:voters=5"; also a user's own.
        n: How many, at most; by default what the generator says.
        out: A new file of rows, whose name ends in .jsonl; by default nothing is written.
        budget: What the model may take, as for `adapt`: where it is spent the call ends with BudgetSpentError, and what
            the model has said is kept beside `out`.
        prices: Of a model behind an API, as for `adapt`.
        seed: For every random choice.
        layout: How the model is prompted, as for `adapt`.
        device: Where a model that is named runs, as for `load_model`.
        dtype: Its precision, as for `load_model`.
        revision: Its commit, branch or tag on the hub.
        trust_remote_code: Whether Python that comes with its files may be run, as for `load_model`.
        api: How it is asked, if it is behind an API, as for `load_model`.
        progress: Told of the work.

    Raises:
        UserError: An unknown generator, one that is not for this task or this model, or a file that is there already,
            or of another kind.
    """
    task, progress, part = given_task(task), progress or Silence(), _part(method, n)
    check_priced(budget, prices)
    place = None if out is None else path_of(out)
    if place:
        if place.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"--out must end in {SUFFIXES[0]}, as rows are written as lines of JSON; got '{place.name}'. Name it "
                f"{place.stem}{SUFFIXES[0]}."
            )
        _check_new(place)
    check_generator(part, task, method)
    placing: Any = {"device": device, "dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    if isinstance(model, str | Path):
        model = load_model(model, **placing, api=api)
    if lacking := part.needs - model.capabilities:
        raise UserError(
            f"'{method}' must have a model that can {', '.join(sorted(lacking))}; '{model.name}' cannot. Give another "
            "--model."
        )
    seeds, _ = without_duplicates(task.train)
    with _kept(place, progress) as store:
        ledger = Ledger(parse_budget(budget), prices=parse_prices(prices), before=store.paid if store else None)
        progress = Watched(progress, ledger.check)
        asked = replace(
            TaskModel.for_task(task, model.with_store(store) if store else model, layout),
            ledger=ledger,
            progress=progress,
            traces=Traces(store=store, placing={**placing, "api": api}),
        )
        try:
            found = part.generate(seeds, model=asked, rng=generator(seed, "generate", len(seeds)))
        except BudgetSpentError as error:
            kept = f"is kept beside {place}" if place else "is lost without --out"
            raise UserError(
                f"--budget must do for all that '{method}' asks; {budget} were spent before that, and what the model "
                f"has said {kept}. Give a larger one, or a smaller -n."
            ) from error
        made = _checked(found, seeds, task, part, method)
        examples = made.examples[: part.n or None]
        done = Generated(examples, made.rejected, part.n or len(examples), method, ledger.cost, place, ledger.record())
        if place:
            write_jsonl(place, done.rows)
    return done


def check_generator(part: Generator, task: Task, method: str) -> None:
    """Raise a UserError where a generator is not for a task."""
    if not part.suits(task) or (task.is_multi_label and not part.multi_label):
        raise UserError(f"--method must be for tasks of kind {task.kind}; '{method}' is for others. Take another one.")
    if obstacle := part.obstacle(task):
        raise UserError(f"--method must be one that can use the examples of '{task.name}'; of {method}, {obstacle}.")
    if package := part.missing_package:
        raise missing_extra(package, "retrieval", f"The generator '{method}'")
    if len(task.train) < part.least:
        raise UserError(
            f"'{method}' must have {part.least} examples or more to make others from; '{task.name}' has "
            f"{len(task.train)}. Add some, or take another --method."
        )


def row_of(example: Example) -> dict[str, Any]:
    """Return an example as a row: its fields that say something, then what else is known of it."""
    fields = {name: getattr(example, name) for name in FIELDS if getattr(example, name)}
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
    return fields | {key: value for key, value in example.meta.items() if key not in FIELDS}


def _part(method: str, n: int | None) -> Generator:
    """Return the generator that a text such as "ensemble:voters=5" names, with how many it is to make."""
    call = parse_call(method)
    if n is None:
        return GENERATORS.build(str(call))
    if "n" in call.settings:
        raise UserError(f"-n says how many; leave n out of '{method}', which says {call.settings['n']} and -n {n}.")
    if n < 1:
        raise UserError(f"-n must be 1 or more; got {n}.")
    return GENERATORS.build(str(replace(call, settings={**call.settings, "n": str(n)})))


def _checked(made: Made, seeds: tuple[Example, ...], task: Task, part: Generator, method: str) -> Made:
    """Return what was made without what must not be learnt, whoever made it."""
    intake = Intake(method, seeds, task, repeats=part.repeats)
    ids = {e.id for e in task.train}
    for e in made.examples:
        if not e.is_made or e.id in ids:
            raise UserError(
                f'{method}: each example that is made must have an id of its own, and its mark in meta["made"]; '
                f"'{e.id}' does not."
            )
        ids.add(e.id)
        if fault := intake.fault(e):
            intake.reject(e.input, fault)
        else:
            intake.add(e)
    return Made(tuple(intake.taken), (*made.rejected, *intake.rejected))


@contextmanager
def _kept(place: Path | None, progress: Progress) -> Iterator[SqliteStore | None]:
    """Keep what the model says in a folder beside a file until the end; without a file nothing is kept."""
    if place is None:
        yield None
        return
    folder = place.with_name(f".{place.name}.kept")
    with interrupted_by_sigterm(), alone_in(folder), keeping():
        try:
            _check_new(place)  # somebody else may have come to the end since it was looked at
            with closing(SqliteStore(folder / "store.sqlite", progress.say)) as store:
                yield store
        finally:
            if place.exists():  # while nobody else can begin to work in the folder
                shutil.rmtree(folder, ignore_errors=True)


def _check_new(place: Path) -> None:
    if place.exists():
        raise UserError(f"--out must be a new file; {place} is there already. Give another --out, or take it away.")
