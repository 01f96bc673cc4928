"""Learning a retriever in stages that survive: each is written into the run's folder when it is done.

A folder holds `manifest.json` (tasks, settings, seed), `scores.sqlite` (every score of the language model once), and
for each iteration `candidates.jsonl`, `scores.jsonl`, `targets.jsonl` and `retriever/`. A stage that is there is not
done again; one that was stopped goes on, the scores at the first pack of queries that is not finished.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kshot.core.errors import DamagedError, UserError, keeping
from kshot.core.ledger import Ledger
from kshot.core.models import LanguageModel
from kshot.core.paths import path_of
from kshot.core.plugins import configure
from kshot.core.progress import Progress, Silence
from kshot.core.schema import shaped
from kshot.core.seeding import digest
from kshot.core.types import Task
from kshot.encoders.encoder import Encoder, fresh_model
from kshot.encoders.encoder_identity import encoder_id
from kshot.evaluators.retrieval import RetrievalScores, evaluate_retrieval
from kshot.prompts.layout import layout_for
from kshot.recipes.grammar import parse_recipe
from kshot.retrieval.candidates import Candidates, check_enough
from kshot.retrieval.corpus import Item, option_texts, read_pools
from kshot.retrieval.learn import Stages
from kshot.retrieval.retriever_settings import RetrieverSettings
from kshot.retrieval.saved import fingerprint, save_retriever
from kshot.store.files import writable, write_json
from kshot.store.run_folder import MANIFEST, alone_in, opened_run, read_manifest, read_object
from kshot.store.scores import SqliteStore
from kshot.store.sealed import read_sealed, write_sealed
from kshot.taskmodel.taskmodel import TaskModel

MODEL = "model.json"


@dataclass(frozen=True)
class RetrieverRun:
    """One retriever for many tasks, learnt stage by stage in a folder.

    Attributes:
        folder: Where the stages are kept.
        tasks: Their training examples are what is searched; multiple choice is asked without letters.
        held_out: Names of tasks from which nothing is learnt.
        settings: How it is learnt.
        seed: For every random choice.
        progress: Told of the work.

    Source: Wang, Yang and Wei (2024), LLM-R, https://arxiv.org/abs/2307.07164.
    """

    folder: Path
    tasks: tuple[Task, ...]
    held_out: frozenset[str] = frozenset()
    settings: RetrieverSettings = RetrieverSettings()
    seed: int = 0
    progress: Progress = field(default_factory=Silence)

    @classmethod
    def start(
        cls,
        folder: str | Path,
        sources: Sequence[str],
        *,
        held_out: Sequence[str] = (),
        settings: RetrieverSettings | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> "RetrieverRun":
        """Start a run, or open the one that is there.

        Args:
            folder: New, empty, or a run with the same tasks and settings.
            sources: Where the tasks are loaded from.
            held_out: Names of tasks from which nothing is learnt.
            settings: How it is learnt.
            seed: For every random choice.
            progress: Told of the work.

        Raises:
            UserError: A task that cannot be learnt from, or a folder with another run; the text says what differs.
        """
        settings, progress = settings or RetrieverSettings(), progress or Silence()
        tasks = tuple(option_texts(Task.load(source)) for source in sources)
        if sets := [task.name for task in tasks if task.is_multi_label]:
            raise UserError(
                f"A retriever must have tasks with one right answer a row; '{sets[0]}' is multi_label, where each "
                "label is right or wrong by itself. Leave it out; bm25 and dense search such tasks."
            )
        names = [task.name for task in tasks]
        if unknown := [name for name in held_out if name not in names]:
            raise UserError(f"--hold-out must name given tasks ({', '.join(names)}); got {', '.join(unknown)}.")
        if set(held_out) == set(names):
            raise UserError("A retriever must have a task to learn from; all are held out.")
        run = cls(path_of(folder), tasks, frozenset(held_out), settings, seed, progress)
        for task in tasks:
            if pool := run.pools.get(task.name):
                check_enough(task.name, len(pool), settings)
                if n := len(task.train) - len(pool):
                    progress.say(f"{task.name}: {n} repeated examples are left out")
        places = [source if ":" in source else str(path_of(source).resolve()) for source in sources]
        fingerprints = {task.name: task.fingerprint for task in tasks}
        about = {"tasks": fingerprints, "held_out": sorted(held_out), "seed": seed, **asdict(settings)}
        files = {f"{name}_files": encoder_id(about[name]) for name in ("encoder", "reward_encoder")}
        about |= {"kind": "retriever", "sources": places, **files}
        with opened_run(run.folder, {**about, "checksum": digest(about)}):
            return run

    @classmethod
    def open(cls, folder: str | Path, *, progress: Progress | None = None) -> "RetrieverRun":
        """Open a run that `start` has made.

        Raises:
            UserError: It is none, or its tasks are not what they were.
        """
        about = read_manifest(path_of(folder), verb="retriever")
        if about.get("kind") != "retriever":
            raise UserError(f"{folder} must be a run of `kshot retriever`; it is another one.")
        if about.get("checksum") != digest({k: v for k, v in about.items() if k not in ("format", "checksum")}):
            file = path_of(folder) / MANIFEST
            raise DamagedError(
                f"{file} must be as kshot wrote it; its checksum differs. Run `kshot retriever` "
                "with TASK… and --settings into a new --out, or copy the file again."
            )
        named = {name: about[name] for name in asdict(RetrieverSettings())}
        how: dict[str, Any] = {"held_out": about["held_out"], "settings": RetrieverSettings(**named)}
        return cls.start(folder, about["sources"], seed=about["seed"], progress=progress, **how)

    @cached_property
    def pools(self) -> dict[str, list[Item]]:
        """The documents of each task that is learnt from, by its name."""
        return read_pools([task for task in self.tasks if task.name not in self.held_out])

    @contextmanager
    def _stages(self) -> Iterator["StagesInFolder"]:
        """Give the stages, while nobody else is at work on them."""
        with alone_in(self.folder):
            yield StagesInFolder(self)

    @keeping()
    def candidates(self, iteration: int = 1) -> list[Candidates]:
        """Return the candidates of an iteration: of the first by words, of later ones by the retriever before it."""
        with self._stages() as stages:
            return stages.candidates(iteration)

    @keeping()
    def score(
        self, model: LanguageModel, iteration: int = 1, *, layout: str = "auto", ledger: Ledger | None = None
    ) -> list[Candidates]:
        """Return the candidates with the language model's one-shot scores; what they take is added to `ledger`.

        Raises:
            UserError: Another model has scored here, or in another layout, or there are no candidates yet.
        """
        with self._stages() as stages, self._asked(model, layout, ledger) as models:
            return stages.scores(iteration, models)

    def reward(self, iteration: int = 1) -> list[Candidates]:
        """Return the candidates with the scores that the retriever learns from, as `settings.target` says.

        Raises:
            UserError: There are no scores yet, or none can be learnt from.
        """
        with self._stages() as stages:
            return stages.targets(iteration)

    def distill(self, iteration: int = 1) -> Path:
        """Train the retriever on the targets of this iteration and those before it, and return its folder.

        Raises:
            UserError: There are no targets yet.
        """
        with self._stages() as stages:
            stages.retriever(iteration)
        return self.stage_file(iteration, "retriever")

    @keeping()
    def train(self, model: LanguageModel, *, iterations: int = 2, layout: str = "auto") -> Path:
        """Run all stages of all iterations, and return the folder of the last retriever."""
        check_iterations(iterations)
        with self._stages() as stages, self._asked(model, layout) as models:
            stages.learn(models, iterations=iterations)
        return self.stage_file(iterations, "retriever")

    @contextmanager
    def _asked(self, model: LanguageModel, layout: str, ledger: Ledger | None = None) -> Iterator[dict[str, TaskModel]]:
        """Give the language model on each task, keeping its scores, by the task's name."""
        self._check_model(model, layout_for(model, layout).record)
        store = SqliteStore(self.folder / "scores.sqlite", self.progress.say)
        keeping, told = model.with_store(store), {"progress": self.progress, "ledger": ledger or Ledger()}
        try:
            yield {t.name: replace(TaskModel.for_task(t, keeping, layout), **told) for t in self.tasks}
        finally:
            store.close()

    def evaluate(
        self,
        model: LanguageModel,
        selectors: Sequence[str],
        *,
        k: int = 8,
        limit: int | None = None,
        layout: str | None = None,
    ) -> list[tuple[Task, str, RetrievalScores]]:
        """Measure selectors on the tasks' test rows; tasks without any are left out.

        Args:
            model: Answers.
            selectors: Names with settings, such as "bm25"; "llm-r" alone stands for the retriever of the last
                iteration.
            k: Demonstrations.
            limit: Only the first so many test rows of a task.
            layout: How prompts are laid out; by default as this model's were when it scored for the run, or "auto".

        Raises:
            UserError: No task has test rows, or as `evaluate_retrieval`.
        """
        tested = [task for task in self.tasks if task.test]
        if not tested:
            raise UserError("evaluate needs test rows; none of the tasks has any.")
        ours = f"llm-r:retriever={self.folder}"
        recipes = {name: parse_recipe(ours if name == "llm-r" else name, shots=k, raced=False) for name in selectors}
        written, found = layout or self._layout_of(model), []
        with alone_in(self.folder), closing(SqliteStore(self.folder / "scores.sqlite", self.progress.say)) as store:
            for task in tested:
                asked = replace(TaskModel.for_task(task, model.with_store(store), written), progress=self.progress)
                for name, recipe in recipes.items():
                    self.progress.say(f"{task.name}: {name}")
                    rows = evaluate_retrieval(asked, recipe, task.train, task.test[:limit], seed=self.seed)
                    found.append((task, name, rows))
        return found

    def stage_file(self, iteration: int, stage: str) -> Path:
        """Return where a stage of an iteration is kept: a file, or the retriever's folder."""
        name = stage if stage == "retriever" else f"{stage}.jsonl"
        return self.folder / f"iteration-{iteration}" / name

    def _layout_of(self, model: LanguageModel) -> str:
        """Return the layout of the prompts that a model has scored for the run; "auto" where it has scored none."""
        match read_object(self.folder / MODEL):
            case {"fingerprint": model.fingerprint, "layout": {"layout": str(name)}}:
                return name
        return "auto"

    def _check_model(self, model: LanguageModel, layout: Mapping[str, str]) -> None:
        file = self.folder / MODEL
        about = {"name": model.name, "fingerprint": model.fingerprint, "layout": dict(layout)}
        if not file.exists():
            write_json(file, about)
        kept = read_object(file) or {}
        if kept.keys() | {"layout"} != about.keys():  # runs of before do not say it
            raise DamagedError(
                f"{file} must say which model the scores are of; it is damaged. Delete it and the folders iteration-* "
                "beside it, and run the same command again: what was scored is kept."
            )
        if kept["fingerprint"] != model.fingerprint:
            raise UserError(
                f"All scores of a run must be of one model; by {file} they are of '{kept['name']}' (fingerprint "
                f"{kept['fingerprint'][:12]}), now '{model.name}' ({model.fingerprint[:12]}). Give another --out."
            )
        if (before := kept.get("layout", about["layout"])) != about["layout"]:
            names = [some.get("layout") if isinstance(some, dict) else some for some in (before, about["layout"])]
            raise UserError(
                f"All scores of a run must be of prompts in one layout; by {file} theirs is '{names[0]}', now it is "
                f"'{names[1]}'. Give --layout {names[0]}, or another --out."
            )


class StagesInFolder(Stages):
    """The stages of a run, each kept in the run's folder when it is done."""

    def __init__(self, run: RetrieverRun):
        super().__init__(run.pools, run.settings, seed=run.seed, progress=run.progress)
        self._run = run

    def once(self, stage: str, number: int, make: Callable[[], Any]) -> Any:
        """Return what a stage has left in its file, or let it make and keep it."""
        file = self._run.stage_file(number, stage)
        if file.exists():
            return self.done(stage, number)
        found = make()
        with writable(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        if stage == "retriever":
            self._save(found, file, number)
        else:
            write_sealed(file, map(_row, found))
        self.training_file(stage, number).unlink(missing_ok=True)
        return found

    def training_file(self, stage: str, number: int) -> Path:
        """Return where the training of a stage survives an interruption, until the stage is done."""
        return self._run.stage_file(number, stage).with_name(f"{stage}-training.safetensors")

    def done(self, stage: str, number: int) -> Any:
        """Read what a stage has left.

        Raises:
            UserError: It has left nothing; the text says which verb comes first.
        """
        file = self._run.stage_file(number, stage)
        if not file.exists():
            verb = {"scores": "score", "targets": "reward", "retriever": "distill"}.get(stage, stage)
            raise UserError(f"{file} is not there yet; run `kshot retriever {verb}` first.")
        if stage == "retriever":
            return Encoder(fresh_model(str(file)))
        items = {item.key: item for item in chain.from_iterable(self.pools.values())}
        rows = shaped(list[StageRow], read_sealed(file), file, "Delete it and run the same command again.")
        if unknown := {key for row in rows for key in (row["query"], *row["documents"])} - items.keys():
            raise DamagedError(
                f"{file} must name examples of the tasks; '{min(unknown)}' is none. Delete it and run the same command "
                "again."
            )
        return [
            Candidates(items[row["query"]], tuple(items[key] for key in row["documents"]), tuple(row["scores"]))
            for row in rows
        ]

    def _save(self, encoder: Encoder, folder: Path, number: int) -> None:
        about = {"encoder": self.settings.encoder, "tasks": [t.name for t in self._run.tasks], "iteration": number}
        about |= {"settings": asdict(self.settings), "seed": self.seed}
        ranked = chain.from_iterable(self.done("targets", i + 1) for i in range(number))
        learnt = (item for row in ranked for item in (row.query, *row.documents))
        save_retriever(encoder, folder, about, map(fingerprint, learnt))


def check_iterations(iterations: int) -> None:
    """Raise a UserError unless there is something to do."""
    if iterations < 1:
        raise UserError(f"--iterations must be 1 or more; got {iterations}.")


def parse_settings(text: str) -> RetrieverSettings:
    """Read settings as written on the command line: "candidates=32,lr=1e-4".

    Raises:
        UserError: An unknown setting, or a value of the wrong type.
    """
    pairs = [piece.partition("=") for piece in text.split(",")] if text else []
    return configure(RetrieverSettings, {k.strip(): v.strip() for k, _, v in pairs}, owner="--settings")


class StageRow(TypedDict):
    """What a stage keeps of a query: the names of its documents, and a score for each once there are some."""

    query: str
    documents: list[str]
    scores: list[float]


def _row(row: Candidates) -> dict[str, Any]:
    return {"query": row.query.key, "documents": [d.key for d in row.documents], "scores": list(row.scores)}
