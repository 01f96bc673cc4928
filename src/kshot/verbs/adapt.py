"""Adapt a model to a task: try the recipes on one stream, choose one, hand over the adapted model.

The only place that knows all the rooms.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kshot.adapted.folder import check_outside, check_replaceable, save
from kshot.adapted.model import AdaptedModel
from kshot.core.budget import parse_budget
from kshot.core.errors import StorageError, keeping
from kshot.core.gradient_settings import GradientStore
from kshot.core.label_sets import read
from kshot.core.ledger import Cost, Ledger
from kshot.core.models import LanguageModel
from kshot.core.paths import path_of, written
from kshot.core.prices import parse_prices
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import digest
from kshot.core.settings import ChooseBy, Prefer, RunSettings
from kshot.core.termination import interrupted_by_sigterm
from kshot.core.types import Kind, Rows, Task
from kshot.learners.learner import Setup
from kshot.race.measure import Measuring
from kshot.race.promise import promise
from kshot.race.race import Race
from kshot.race.record import Recorder
from kshot.race.second_look import ENOUGH_ASKED, MOST_ASKED
from kshot.race.stream import Stream, is_of_generator
from kshot.recipes.names import about_contexts
from kshot.reports.html import add_report, check_beside
from kshot.store.commit import commit, settle
from kshot.store.run_folder import BEST, check_free, opened_run
from kshot.store.scores import SqliteStore
from kshot.store.traces import TRACES
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.containers import items_of
from kshot.tasks.validate import cut_answers, grave_problems
from kshot.verbs.prepare import Prepared, prepare

Tracker = Callable[[Path], None]  # called with the folder of a finished run


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where everything of it is.
        leaderboard: One row per recipe, best first, as in `--json`.
        chosen: The name of the chosen recipe.
        best: The chosen recipe, fitted on every example.
        work: What the language model was made to do for it.
        in_words: What was chosen, how sure that is, what it costs, and what would change it.
        abstention: What it promises where it may be unsure; None for open tasks.
        paid: Calls of models behind an API, with those of processes before this one (`Ledger.record`); None without.
    """

    folder: Path
    leaderboard: tuple[dict[str, Any], ...]
    chosen: str
    best: AdaptedModel
    work: Cost
    in_words: str
    abstention: Mapping[str, Any] | None = None
    paid: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot adapt --json` prints."""
        return {
            "chosen": self.chosen,
            "run": str(self.folder),
            "work": {"scored": self.work.scored, "reused": self.work.reused}
            | ({"calls": self.work.calls} if self.paid else {}),
            "leaderboard": list(self.leaderboard),
            **({"paid": self.paid} if self.paid else {}),
            **({"abstention": self.abstention} if self.abstention and self.abstention["wanted"] else {}),
        }


def adapt(
    task: Task | str | Path | Rows,
    model: LanguageModel | str | Path,
    *,
    recipes: str | Sequence[str] = "all",
    shots: int | None = None,
    seed: int = 0,
    limit: int = RunSettings.limit,
    out: str | Path | None = None,
    budget: str | None = None,
    prices: str | None = None,
    test: str | Path | Rows | None = None,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    skip_bad_rows: bool = False,
    layout: str = "auto",
    selector_model: LanguageModel | str | Path | None = None,
    source: Task | str | Path | None = None,
    inputs: Iterable[Any] | str | Path | None = None,
    race: bool = True,
    choose_by: ChooseBy = "metric",
    prefer: Prefer | None = None,
    abstain: float | None = None,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    api: str | None = None,
    progress: Progress | None = None,
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Measure recipes prequentially on a shuffled stream of the training examples and choose the best.

    The same `out` again resumes a run that was interrupted, to the same result; of a finished run nothing is
    computed again.

    Args:
        task: With at least two different outputs among its training examples; or where to load it from, or its rows: a
            data frame of pandas or polars, a `datasets.Dataset`, a list of mappings; or {"train": rows, "test": rows},
            as a `DatasetDict` is.
        model: A language model, or its name (`load_model`).
        recipes: "all", or names with settings: "random,bm25:k=8", or a list of them.
        shots: The most demonstrations in a prompt, at most the number of training examples; by default 16, or all
            where there are fewer.
        seed: For the order of the stream and every random choice.
        limit: The most examples that are predicted, spread over all: each from all that are before it.
        out: The run folder; by default a name made of task, model and settings, under `kshot-runs`.
        budget: A time such as "10m", tokens such as "500k-tokens" (a token that is learnt counts as three), or money
            such as "2usd", with `prices`. Of tokens and money those of processes before this one count, a time begins
            anew in each. What the last fit of a recipe may take is kept. Once it is spent the choice is made by the
            examples that all recipes in it have predicted; the same `out` with a larger budget goes on.
        prices: Of models behind an API, in US dollars for a million tokens: "in=0.15,out=0.6,cached=0.075".
        test: Test rows, where the task is a file or rows: another file or other rows. A run predicts none of them; they
            are checked as train is, are said where train asks the same, and nothing is made that looks like them.
        columns: Field to column of the task's rows, where their names are others: {"input": "question"}.
        kind: What a task that is loaded is, whatever its rows look like (`Task.kind`); by default `task.json` says it,
            or it is guessed.
        skip_bad_rows: Go on without rows that cannot be used, at most half of each file; what is left out is said.
        layout: "plain", "turns" or "block" of the model's chat template, "messages" for models behind an API that are
            asked in messages, or "auto": messages for these, turns for chat models, else plain.
        selector_model: The language model that selectors ask, such as `best-of-n`, and that is the teacher where a
            recipe says by=selector-model; by default the one that answers.
        source: Another task, or where to load it from, whose gradients are aligned with those of this one while
            recipes train (`align`: gate unless they say pcgrad).
        inputs: More inputs whose answers are not known, beside those of the task (`Task.unlabelled`): a file of rows, a
            text with one a line, or texts or mappings as for `AdaptedModel.predict`.
        race: Whether recipes that fall clearly behind are dropped (`kshot.race.halving`); otherwise all of them
            predict the whole stream.
        choose_by: "metric", the task's primary one, or "bits"; both as expected once all examples are known
            (`kshot.race.ranking`). Open tasks are always chosen by bits.
        prefer: "cheap-queries" or "cheap-fit": the cheapest of the recipes less than a standard error behind the best.
        abstain: The share of answers that has to be right, such as 0.95: those of which the model is not sure enough
            for that are "unsure" (docs/abstain.md). It changes neither the race nor the choice.
        device: Where the models that are named run: "cpu", "cuda", …; by default CUDA if there is one.
        dtype: Of these models: "auto" (float32 on the CPU), "float32", "bfloat16" or "float16".
        revision: Of these models on the hub: commit, branch or tag.
        trust_remote_code: Whether Python that comes with the files of these models may be run.
        api: How models behind an API are asked, such as "max-tokens=8192,concurrency=16" (docs/anywhere.md).
        progress: Told what is going on.
        trackers: Told the finished run's record, such as those of `kshot.reports.trackers`.

    Returns:
        The run, its chosen recipe fitted on all training examples.

    Raises:
        UserError: Anything wrong with the input, before any work starts.
        StorageError: The run folder could not be written, or a tracker failed; what was committed is kept.
    """
    named = ",".join(f"{name}={column}" for name, column in columns.items()) if columns else None
    if inputs is not None and not isinstance(inputs, str | Path):
        inputs = items_of(inputs, "The unlabelled inputs")
    settings = RunSettings(
        task, model, recipes=recipes, shots=shots, seed=seed, limit=limit, budget=budget, prices=prices, out=out,
        test=test, columns=named, kind=kind, skip_bad_rows=skip_bad_rows,
        layout=layout, selector_model=selector_model, source=source, inputs=inputs, race=race,
        choose_by=choose_by, prefer=prefer, abstain=abstain, device=device, dtype=dtype, revision=revision,
        trust_remote_code=trust_remote_code, api=api,
    )  # fmt: skip
    return run(prepare(settings), progress=progress, trackers=trackers)


def run(prepared: Prepared, *, progress: Progress | None = None, trackers: Sequence[Tracker] = ()) -> Run:
    """Carry out a run that `prepare` has checked; see `adapt`."""
    settings, task, progress = prepared.settings, prepared.task, progress or Silence()
    _say(progress, about_data(prepared))
    if isinstance(settings.model, str):
        progress.say(f"loading {settings.model}")
    if settings.out is not None:
        check_free(path_of(settings.out))  # before a model behind an API is looked at, which is paid
    models = prepared.load_models()
    assert models.model is not None
    _say(progress, _about_model(task, models.model, prepared.stream))
    language_model, selecting = models.model.model, models.selector_model
    identity = {
        "task": task.fingerprint,
        "model": language_model.fingerprint,
        "prompt": dict(models.model.layout.record),
        "selector_model": selecting.model.fingerprint if selecting else None,
        "source": prepared.source.fingerprint if prepared.source else None,
        "seed": settings.seed,
        "limit": settings.limit,
    }
    folder = path_of(settings.out) if settings.out else _default_folder(task, language_model, identity)
    check_outside(folder)
    for place in (str(folder.resolve()), language_model.name):
        written(place)  # not at the end, when it is
    names = {"task_name": task.name, "model_name": language_model.name}
    with interrupted_by_sigterm(), opened_run(folder, identity | names, settle), keeping():
        return _run_in(folder, prepared, models, identity, progress, trackers)


def _run_in(
    folder: Path,
    prepared: Prepared,
    models: Setup,
    identity: dict[str, Any],
    progress: Progress,
    trackers: Sequence[Tracker],
) -> Run:
    """Carry out a run in a folder that is its own."""
    settings, task, stream, seed = prepared.settings, prepared.task, prepared.stream, prepared.settings.seed
    budget, prices = parse_budget(settings.budget), parse_prices(settings.prices)
    assert models.model is not None
    language_model, selecting = models.model.model, models.selector_model
    check_replaceable(folder / BEST)
    check_beside(folder)
    store = SqliteStore(folder / "store.sqlite", progress.say)
    try:
        ledger = Ledger(budget, prices=prices, before=store.paid)
        kept = GradientStore(folder / "gradients", rebuild=True, say=progress.say)
        traces = models.model.traces.kept_in(folder / TRACES, store)
        shared: Any = {"gradient_store": kept, "traces": traces, "ledger": ledger.part()}
        model = replace(models.model, model=language_model.with_store(store), **shared)
        selecting = replace(selecting, model=selecting.model.with_store(store), **shared) if selecting else None
        setup = replace(models, model=model, selector_model=selecting, store=store)
        measuring = Measuring(setup, stream, store, folder, progress, ledger)
        recorder = Recorder(folder, task, model, stream, seed, identity, settings.repeat, selecting)
        contest = Race(measuring, prepared.recipes, drop=settings.race, by=settings.choose_by, prefer=settings.prefer)
        contest.run(recorder.write_unfinished)
        contest.check_finished()
        board = contest.board()
        choosing = recorder.choice(contest)
        winner = next(e for e in contest.entrants if e.recipe.name == board[0]["recipe"])
        chosen = winner.settled or winner.recipe
        choice = {"by": contest.how, "run": str(folder.resolve()), "in_words": choosing["in_words"]} | board[0]
        choice["n_examples"] = len(stream.examples)
        promised = promise(contest, choosing["comparisons"], settings.abstain)
        told, abstaining = promised and promised.record, {}
        if promised:
            abstaining = {"past": promised.past, "abstention": promised.abstention}
        last, calibration = measuring.last_setup(winner.recipe), winner.calibration
        best = AdaptedModel.fit(chosen, stream.examples, last, choice=choice, calibration=calibration, **abstaining)
        if chosen.shows_one_set and not winner.again:  # its label prior is that of other prompts
            shown = {e.id for e in best.pool}
            asked = [e for e in stream.examples if e.id not in shown and not is_of_generator(e)][:MOST_ASKED]
            more = task.unlabelled[: ENOUGH_ASKED - len(asked)] if chosen.asks_unlabelled(task) else ()
            best = best.calibrated_by([*asked, *(question.answered() for question in more)])
        best = best.with_model(language_model)  # the store is closed below

        def leave_behind(staged: Path) -> None:
            save(best, staged / BEST)
            # Its prompts may say what the model has written: from the store
            recorder.write(staged, contest, choosing, told, paid=ledger.record())
            add_report(staged, folder)

        commit(folder, leave_behind)
    finally:
        store.close()

    for tracker in trackers:
        try:
            tracker(folder)
        except Exception as error:
            raise StorageError(
                f"The run is finished in {folder}, but a tracker could not log it: {type(error).__name__}: {error}. "
                "Run the same command again: it logs the run and computes nothing."
            ) from error
    return Run(folder, tuple(board), winner.recipe.name, best, ledger.cost, choosing["in_words"], told, ledger.record())


def _say(progress: Progress, said: Sequence[str | None]) -> None:
    for text in filter(None, said):
        progress.say(f"note: {text}")


def about_data(prepared: Prepared) -> list[str]:
    """Return what a user should know before a model is loaded."""
    task, stream = prepared.task, prepared.stream
    said = [*task.notes, *grave_problems(task)]
    if stream.removed:
        first = ", ".join(stream.removed[:5])
        n = len(stream.removed)
        said.append(f"{n} row{'s' * (n > 1)} left out, as an earlier row has the same input: {first}")
    seen = {label for e in stream.examples for label in (read(e.output) if task.is_multi_label else (e.output,))}
    unseen = [label for label in task.labels if label not in seen]
    if unseen:
        first = ", ".join(unseen[:5])
        other = "" if task.is_multi_label else ", or name fine-tune:teacher=hard-negatives, which does not"
        said.append(
            f"{len(unseen)} of {len(task.labels)} labels have no example: {first}{', …' if unseen[5:] else ''}; "
            f"recipes that train may unlearn these: add examples of them{other}"
        )
    if n := len(task.unlabelled):
        users = [r.name for r in prepared.recipes if r.uses_unlabelled or r.asks_unlabelled(task)]
        who = f"can be used by {', '.join(users[:5])}{', …' if users[5:] else ''}" if users else "are used by no recipe"
        said.append(f"{n} unlabelled inputs {who}" if n > 1 else f"1 unlabelled input {who.replace('are', 'is')}")
    if n := sum(map(is_of_generator, stream.examples)):
        said.append(
            f"{n} of the {len(stream.examples)} examples were made by a generator (column 'made'): they are learnt, "
            "after what they were made from, and not scored"
        )
    used = [part for recipe in prepared.recipes for part in recipe.all_parts]
    said += dict.fromkeys(caution for part in used if (caution := part.caution(task)))
    n_contexts = sum(bool(e.context) for e in stream.examples)
    if n_contexts and not any(part.uses_contexts for part in used) and (names := about_contexts()):
        said.append(
            f"{n_contexts} of {len(stream.examples)} examples have a context; recipes that make the model rest its "
            f"answers on it are run when they are named: {', '.join(names)}"
        )
    for recipe in prepared.recipes:
        if n := len(recipe.known(task)):
            said.append(
                f"{recipe.name}: its retriever has learnt from {n} of the {len(task.train)} examples; what is measured "
                "on these is too good. Hold the task out (`kshot retriever --hold-out`), or let llm-r learn in the run"
            )
    return said


def _about_model(task: Task, model: TaskModel, stream: Stream) -> list[str | None]:
    """Return what a user should know about the model on this task before the run."""
    script = model.composer.compose(task, (), stream.examples[0].question)
    cut = cut_answers(task, task.train, model.layout.terminator)
    return list(filter(None, (*cut, model.model.remark, *model.layout.remarks(script))))


def _default_folder(task: Task, model: LanguageModel, identity: dict[str, Any]) -> Path:
    name = "-".join((task.name, Path(model.name).name, digest(identity)[:8]))
    return Path("kshot-runs") / re.sub(r"[^\w.-]+", "-", name)  # a task may be called "a/b"
