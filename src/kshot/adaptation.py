"""Adapt a model to a task: try the recipes on one stream, choose one, hand over the adapted model.

The only place that knows all the rooms.
"""

import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kshot.adapted import AdaptedModel
from kshot.asking import Asker
from kshot.core.budget import parse_budget
from kshot.core.errors import StorageError, UserError, missing_extra
from kshot.core.gradients import GradientStore
from kshot.core.progress import Progress, Silence
from kshot.core.protocols import LanguageModel, LearningSelector
from kshot.core.seeding import digest, generator
from kshot.core.types import Task, Work
from kshot.engine.load import load_model
from kshot.evaluation.metrics import check_references
from kshot.evaluation.prequential import Stream, check_metrics, make_stream, primary_metric
from kshot.evaluation.ranking import CHOOSE_BY, PREFER, ChooseBy, Prefer
from kshot.learning.make import lacking, make_learner
from kshot.learning.tuned import Source
from kshot.measuring import Aside, Measuring
from kshot.prompts.chat import Chat
from kshot.racing import Race
from kshot.recipe import Recipe, parse_recipes
from kshot.recording import Recorder
from kshot.reports.html import write_report
from kshot.runs.record import open_run
from kshot.runs.store import SqliteStore

DEFAULT_SHOTS, DEFAULT_LIMIT = 16, 300
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
    """

    folder: Path
    leaderboard: tuple[dict[str, Any], ...]
    chosen: str
    best: AdaptedModel
    work: Work
    in_words: str

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot adapt --json` prints."""
        return {
            "chosen": self.chosen,
            "run": str(self.folder),
            "work": {"scored": self.work.scored, "reused": self.work.reused},
            "leaderboard": list(self.leaderboard),
        }


def adapt(
    task: Task | str | Path,
    model: LanguageModel | str,
    *,
    recipes: str | Sequence[str] = "all",
    shots: int | None = None,
    seed: int = 0,
    limit: int = DEFAULT_LIMIT,
    out: str | Path | None = None,
    budget: str | None = None,
    layout: str = "auto",
    selector_model: LanguageModel | str | None = None,
    source: Task | str | Path | None = None,
    race: bool = True,
    choose_by: ChooseBy = "metric",
    prefer: Prefer | None = None,
    progress: Progress | None = None,
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Measure recipes prequentially on a shuffled stream of the training examples and choose the best.

    The same `out` again resumes a run that was interrupted, to the same result; of a finished run nothing is
    computed again.

    Args:
        task: With at least two different outputs among its training examples; or where to load it from.
        model: A language model, or its name (`load_model`).
        recipes: "all", or names with settings: "random,bm25:k=8", or a list of them.
        shots: The most demonstrations in a prompt, at most the number of training examples; by default 16, or all
            where there are fewer.
        seed: For the order of the stream and every random choice.
        limit: The most examples that are predicted; the others are learnt at the end.
        out: The run folder; by default a name made of task, model and settings, under `kshot-runs`.
        budget: A time such as "10m", or tokens as "500k-tokens" (a token that is learnt counts as three). What the last
            fit of a recipe may take is kept. Once it is spent the choice is made by the examples that all recipes in
            it have predicted; the same `out` with a larger budget goes on.
        layout: "plain", "turns" or "block" of the model's chat template, or "auto": turns for chat models, else plain.
        selector_model: The language model that selectors ask, as `best-of-n`; by default the one that answers.
        source: Another task, or where to load it from, whose gradients are aligned with those of this one while
            recipes train (`align`: gate unless they say pcgrad).
        race: Whether recipes that fall clearly behind are dropped (`kshot.evaluation.race`); otherwise all of them
            predict the whole stream.
        choose_by: "metric", the task's primary one, or "bits"; both as expected once all examples are known
            (`kshot.evaluation.ranking`). Open tasks are always chosen by bits.
        prefer: "cheap-queries" or "cheap-fit": the cheapest of the recipes less than a standard error behind the best.
        progress: Told what is going on.
        trackers: Told the finished run's record, as `kshot.tracking`.

    Returns:
        The run, its chosen recipe fitted on all training examples.

    Raises:
        UserError: Anything wrong with the input, before any work starts.
        StorageError: The run folder could not be written, or a tracker failed; what was committed is kept.
    """
    began, limits = time.monotonic(), parse_budget(budget)
    check_choice(choose_by, prefer)
    progress = progress or Silence()
    if not isinstance(task, Task):
        task = Task.load(task)
    recipes = recipes if isinstance(recipes, str) else ",".join(recipes)
    source = Task.load(source) if isinstance(source, str | Path) else source
    stream, chosen_recipes = prepare(
        task, recipes=recipes, shots=shots, seed=seed, limit=limit, with_source=source is not None
    )
    language_model = load_model(model) if isinstance(model, str) else model
    judge_model = load_model(selector_model) if isinstance(selector_model, str) else selector_model
    asker = Asker.for_task(task, language_model, layout)
    judge = Asker.for_task(task, judge_model) if judge_model else None
    aligned = Source(Asker.for_task(source, language_model, layout), source.train) if source else None
    check_model(task, stream, chosen_recipes, asker, judge, is_named="all" not in recipes)
    identity = {
        "task": task.fingerprint,
        "model": language_model.fingerprint,
        "prompt": dict(asker.composer.record),
        "selector_model": judge_model.fingerprint if judge_model else None,
        "source": source.fingerprint if source else None,
        "seed": seed,
        "limit": limit,
    }
    folder = Path(out) if out else _default_folder(task, language_model, identity)
    open_run(folder, identity | {"task_name": task.name, "model_name": language_model.name})
    store = SqliteStore(folder / "store.sqlite")
    try:
        kept = GradientStore(folder / "gradients")
        asker = replace(asker, model=language_model.with_store(store), gradient_store=kept)
        judge = replace(judge, model=judge.model.with_store(store), gradient_store=kept) if judge else None
        _say(progress, task, asker, stream, chosen_recipes)
        measuring = Measuring(task, asker, judge, aligned, stream, store, folder, seed, progress, limits, began)
        named = ",".join(recipe.name for recipe in chosen_recipes)
        repeat = _command(
            task.name, model=language_model.name, recipes=named, shots=shots, seed=seed, limit=limit, layout=layout,
            selector_model=judge_model and judge_model.name, source=source and source.name, budget=budget,
            choose_by=choose_by, prefer=prefer, race=race,
        )  # fmt: skip
        recorder = Recorder(folder, task, asker, stream, identity, repeat)
        contest = Race(measuring, chosen_recipes, drop=race, by=choose_by, prefer=prefer)
        contest.run(recorder.write)
        contest.check_finished()
        board = contest.board()
        choosing = recorder.choice(contest)
        winner = next(e for e in contest.entrants if e.recipe.name == board[0]["recipe"])
        chosen = winner.settled or winner.recipe
        choice = {"by": contest.how, "run": str(folder.resolve())} | board[0]
        best = AdaptedModel.fit(
            replace(asker, progress=Aside(progress)),
            chosen,
            stream.examples + stream.rest,
            seed=seed,
            choice=choice,
            temperature=winner.temperature,
            judge=judge,
            keep=measuring.keep,
            source=aligned,
        )
        if best.model:  # the store is closed below
            best = best.with_model(best.model.with_store(None) if chosen.tuner else language_model)
        work = asker.model.work
        if judge:
            work = work + judge.model.work
    finally:
        store.close()
    best.save(folder / "best")
    recorder.write(contest, choice=choosing)
    write_report(folder)
    for tracker in trackers:
        try:
            tracker(folder)
        except Exception as error:
            raise StorageError(
                f"The run is finished in {folder}, but a tracker could not log it: {type(error).__name__}: {error}. "
                "The same command logs it again and computes nothing."
            ) from error
    return Run(folder, tuple(board), winner.recipe.name, best, work, choosing["in_words"])


def prepare(
    task: Task,
    *,
    recipes: str = "all",
    shots: int | None = None,
    seed: int = 0,
    limit: int = DEFAULT_LIMIT,
    with_source: bool = False,
) -> tuple[Stream, tuple[Recipe, ...]]:
    """Return stream and recipes of a run, or raise UserError for whatever is wrong with the settings of `adapt`."""
    if limit < 1:
        raise UserError(f"--limit must be 1 or more; got {limit}.")
    stream = make_stream(task, limit=limit, seed=seed)
    n_pool = len(stream.examples) + len(stream.rest)
    shots = min(DEFAULT_SHOTS, n_pool) if shots is None else shots
    if not 1 <= shots <= n_pool:
        raise UserError(f"--shots must be in 1..{n_pool}, the number of different training examples; got {shots}.")
    chosen = parse_recipes(recipes, shots=shots)
    if with_source:
        chosen = tuple(recipe.aligned() for recipe in chosen)
    check_source(chosen, with_source=with_source)
    if not any(recipe.suits(task) for recipe in chosen):
        raise UserError(f"--recipes must name one for tasks of kind {task.kind}; got '{recipes}'. Try 'all'.")
    for recipe in chosen:
        if recipe.k > n_pool:
            raise UserError(f"{recipe.name}: k must be in 1..{n_pool}, the size of the pool; got {recipe.k}.")
        if recipes != "all" and recipe.missing_package:
            raise missing_extra(recipe.missing_package, "retrieval", f"The recipe '{recipe.name}'")
    if len({e.output for e in task.train}) < 2:
        raise UserError(
            f"A task must have at least two different outputs to choose between; all training examples of "
            f"'{task.name}' have '{task.train[0].output}'."
        )
    check_metrics(task)
    for example in stream.examples:
        check_references(primary_metric(task), example.id, example.accepted)
    return stream, chosen


def check_choice(choose_by: str, prefer: str | None) -> None:
    """Raise UserError unless it is known how to choose."""
    for flag, value, known in (("--choose-by", choose_by, CHOOSE_BY), ("--prefer", prefer, (None, *PREFER))):
        if value not in known:
            raise UserError(f"{flag} must be {' or '.join(k for k in known if k)}; got '{value}'.")


def check_source(recipes: Sequence[Recipe], *, with_source: bool) -> None:
    """Raise UserError unless a source task is given where one is needed, and used where one is given."""
    users = [v.name for r in recipes for v in r.variants if v.training and v.training.align != "none"]
    if users and not with_source:
        raise UserError(f"'{users[0]}' aligns with another task; name it with --source, or leave align out.")
    if with_source and not users:
        raise UserError("--source is for recipes that train weights; name one, as --recipes icl+ft.")


def check_model(
    task: Task,
    stream: Stream,
    recipes: Sequence[Recipe],
    asker: Asker,
    judge: Asker | None = None,
    *,
    is_named: bool = True,
) -> None:
    """Raise UserError where a model lacks what a recipe needs, if it was named, or an example is too long for it."""
    for recipe in recipes if is_named else ():
        make_learner(recipe, task, asker, seed=0, judge=judge)
    for tuner in (v.tuner for r in recipes for v in r.variants if not lacking(v, task, asker)):
        first = stream.examples[:2]
        for lesson in tuner.lessons(first, lambda: (), step=1, rng=generator(0, "check")) if tuner else ():
            asker.training_text(lesson)
    if any(r.needs for r in recipes):
        for example in stream.examples:
            asker.prompt((example,), example)
        for example in stream.rest:  # these are only shown, and left out where they do not fit
            asker.composer.compose(task, (example,), example)


def _say(progress: Progress, task: Task, asker: Asker, stream: Stream, recipes: Sequence[Recipe]) -> None:
    """Tell what a user should know before the run."""
    said = [*task.notes, asker.model.remark]
    if isinstance(asker.composer, Chat):
        said.append(f"prompts are in the model's chat template (--layout {asker.composer.record['layout']})")
        said.append(asker.composer.remark(task))
    if stream.removed:
        first = ", ".join(stream.removed[:5])
        said.append(f"{len(stream.removed)} rows left out, as an earlier row has the same input: {first}")
    unseen = [label for label in task.labels if label not in {e.output for e in (*stream.examples, *stream.rest)}]
    if unseen:
        first = ", ".join(unseen[:5])
        said.append(
            f"{len(unseen)} of {len(task.labels)} labels have no example: {first}{', …' if unseen[5:] else ''}; "
            "recipes that train unlearn these, add examples of them"
        )
    for recipe in recipes:
        if isinstance(recipe.selector, LearningSelector) and (n := recipe.selector.n_known(task)):
            said.append(
                f"{recipe.name}: its retriever has learnt from {n} of the {len(task.train)} examples; what is measured "
                "on these is too good. Hold the task out (`kshot retriever --hold-out`), or let llm-r learn in the run"
            )
    for text in said:
        if text:
            progress.say(text)


def _default_folder(task: Task, model: LanguageModel, identity: dict[str, Any]) -> Path:
    name = "-".join((task.name, Path(model.name).name, digest(identity)[:8]))
    return Path("kshot-runs") / re.sub(r"[^\w.-]+", "-", name)  # a task may be called "a/b"


def _command(task: str, **settings: object) -> str:
    """Return how to make the run again in the shell: the settings that were given."""
    flags: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if value is False:
            flags.append(f"--no-{flag}")
        elif value is not None and value is not True:
            flags += [f"--{flag}", str(value)]
    return shlex.join(["kshot", "adapt", task, *flags])
