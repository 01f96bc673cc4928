"""What a run leaves behind for readers: results, sample rows, the examples and the prompts as they were sent."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, cast

from kshot.core.control_tokens import without_marks
from kshot.core.ledger import Ledger
from kshot.core.schedule import refit_point
from kshot.core.types import Example, Prompt, Task
from kshot.core.version import __version__
from kshot.learners.demonstrations import fitted, worded
from kshot.learners.preparation import Prepared, prepared
from kshot.learners.trained import as_trained
from kshot.methods.contracts import Composer, Selector
from kshot.race.race import Race
from kshot.race.stream import Stream
from kshot.race.words import compare_all, in_words
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_json, write_jsonl
from kshot.store.run_folder import BESIDE_RESULTS, PROMPTS, RESULTS, SAMPLES, SECOND_LOOK, UNFINISHED
from kshot.store.summed import SUM, sum_of, sum_of_file, write_summed
from kshot.taskmodel.taskmodel import TaskModel

_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "numpy", "scikit-learn")


@dataclass
class PromptBook:
    """Prompts as they were sent, each segment once.

    A row is the number of segments that it shares with the beginning of the recipe's row before, then the numbers of
    the others: after demonstrations that stay, a prompt takes a few bytes. Where an example was asked after several
    contexts, `rows` has the prompt with the first, and `more` those with the others; each shares with the row before it
    of the context with its number. `selecting` is the model that selectors ask, where it is another one.
    """

    model: TaskModel
    stream: Stream
    seed: int
    selecting: TaskModel | None = None
    segments: dict[tuple[str, str], int] = field(default_factory=dict)
    rows: dict[str, list[list[int]]] = field(default_factory=dict)
    more: dict[str, list[list[list[int]]]] = field(default_factory=dict)
    _last: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # each recipe's last prompt of each context
    _prepared: dict[tuple[str, int], Prepared] = field(default_factory=dict)

    def __post_init__(self):
        self._by_id = {e.id: e for e in self.stream.examples}

    def add(self, recipe: Recipe, samples: Sequence[Mapping[str, Any]]) -> None:
        """Compose a recipe's prompts again from what its rows say was shown; those that are here stay."""
        rows, more = self.rows.setdefault(recipe.name, []), self.more.setdefault(recipe.name, [])
        for sample in samples[len(rows) :]:
            one = as_trained(_of_setting(recipe, sample["setting"]), self.model.task)
            ready = self._ready(one, sample["position"])
            made = {e.id: e for e in ready.made}
            question = self._by_id[sample["example_id"]].question
            sent = []
            for n, ids in enumerate(sample["contexts"] or (sample["demonstrations"],)):
                shown = [self._by_id.get(i) or made[i] for i in ids]
                sent.append(self._row(_knowing(ready.model, sample, n).compose(shown, question), recipe.name, n))
            rows.append(sent[0])
            more.append(sent[1:])

    def _row(self, prompt: Prompt, name: str, context: int) -> list[int]:
        """Return the row of a prompt with the context of a number."""
        texts = [(s.role, without_marks(s.text)) for s in prompt.segments]
        ids = [self.segments.setdefault(text, len(self.segments)) for text in texts]
        before = self._last.get((name, context), [])
        same = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), None)
        same = min(len(ids), len(before)) if same is None else same
        self._last[name, context] = ids
        return [same, *ids[same:]]

    def _ready(self, recipe: Recipe, position: int) -> Prepared:
        """Return what the recipe has made of the examples before a position; what it asked is in the store."""
        n = refit_point(position)
        key = recipe.name, n
        if key not in self._prepared:
            known = self.stream.examples[:n]
            ready = prepared(recipe, known, self.model, seed=self.seed)
            self._prepared[key] = replace(ready, model=self._worded(recipe, known, ready)) if n else ready
        return self._prepared[key]

    def _worded(self, recipe: Recipe, known: tuple[Example, ...], ready: Prepared) -> TaskModel:
        """Return the model as prepared, with the wording that a selector has chosen beside what it shows."""
        selector = recipe.part("selector")
        if selector is None or "composer" not in recipe.parts or type(selector).wording is Selector.wording:
            return ready.model
        pool = (*known, *ready.made)
        selecting = replace(self.selecting or self.model, told=None, composer=ready.model.composer)
        selector = fitted(selector, pool, model=selecting, seed=self.seed)
        return worded(ready.model, selector, pool, recipe.k, seed=self.seed)


def _knowing(model: TaskModel, sample: Mapping[str, Any], context: int) -> TaskModel:
    """Return the model that knows what its composer has found out about a question, with a context."""
    found = sample.get("found")
    return replace(model, composer=cast(Composer, model.composer).knowing(found[context])) if found else model


def _of_setting(recipe: Recipe, setting: str) -> Recipe:
    """Return the recipe whose prompt is told: the configuration or the member that said it, else the first member.

    A recipe in brackets that a teacher passes on has said nothing itself.
    """
    members = recipe.members if recipe.combines else ()
    one = next((other for other in (*recipe.variants, *members) if other.name == setting), recipe)
    return _of_setting(one.members[0], "") if one.combines else one


@dataclass
class Recorder:
    """Writes the record of a run, also while it goes on.

    Attributes:
        folder: Of the run.
        repeat: The command that makes the run again.
        selecting: The model that selectors ask, where it is another one.
    """

    folder: Path
    task: Task
    model: TaskModel
    stream: Stream
    seed: int
    identity: Mapping[str, Any]
    repeat: str
    selecting: TaskModel | None = None
    _prompts: PromptBook = field(init=False)

    def __post_init__(self):
        selecting = self.selecting and replace(self.selecting, ledger=Ledger())
        self._prompts = PromptBook(replace(self.model, ledger=Ledger()), self.stream, self.seed, selecting)

    def choice(self, race: Race) -> dict[str, Any]:
        """Return how the first of the leaderboard compares with the others, in numbers and in words."""
        spread = race.spread()
        board, rows = race.board(), {e.recipe.name: e.rows for e in race.entrants if e.rows}
        comparisons = compare_all(board[0]["recipe"], rows)
        recipes = {e.recipe.name: e.recipe for e in race.entrants}
        words = in_words(self.task, board, rows, recipes, n_known=race.n_end, by=race.compares, prefer=race.prefer)
        return {
            "how": race.how,
            "expected": race.expected(),
            "lead": race.lead(),
            "spread": spread and asdict(spread),
            "comparisons": comparisons,
            "in_words": words,
        }

    def write_unfinished(self, race: Race) -> None:
        """Write how the race stands into unfinished.json, unless the run was finished before."""
        if not (self.folder / RESULTS).exists():
            results, rows, sent = self._all(race, None)
            write_summed(self.folder / UNFINISHED, {"results": results, "samples": rows, "prompts": sent})

    def write(
        self,
        folder: Path,
        race: Race,
        choice: Mapping[str, Any],
        abstention: Mapping[str, Any] | None = None,
        paid: Mapping[str, Any] | None = None,
    ) -> None:
        """Write samples.jsonl, second_look.jsonl, prompts.json and results.json (in the shape of lm-eval, and more).

        Args:
            folder: Where they are written.
            race: At its end.
            choice: What `choice` returns.
            abstention: What is promised where the model may be unsure.
            paid: The calls of models behind an API, if there were any.
        """
        results, rows, sent = self._all(race, choice)
        results["abstention"] = abstention
        if paid:
            results["paid"] = dict(paid)
        write_jsonl(folder / SAMPLES, chain.from_iterable(rows.values()))
        write_jsonl(folder / SECOND_LOOK, (row for e in race.entrants for row in (*e.again, *e.final)))
        write_json(folder / PROMPTS, sent)
        sums = {name: sum_of_file(folder / name) for name in BESIDE_RESULTS}
        write_json(folder / RESULTS, {**results, SUM: {**sums, RESULTS: sum_of(results)}})

    def _all(
        self, race: Race, choice: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return results, each recipe's rows, and the prompts as they were sent."""
        rows = {e.recipe.name: e.rows for e in race.entrants if e.rows}
        for entrant in race.entrants:
            has_prompts = any(r["prompt_tokens"] for r in entrant.rows)
            if has_prompts and not entrant.recipe.combines_run:  # whose prompts are those of the others
                self._prompts.add(entrant.recipe, entrant.rows)
        examples = [
            {"id": e.id, "input": e.input, "context": e.context, "output": e.output} for e in self.stream.examples
        ]
        sent = {
            "examples": examples,
            "segments": [list(key) for key in self._prompts.segments],
            "rows": self._prompts.rows,
            "more": {name: rows for name, rows in self._prompts.more.items() if any(rows)},
        }
        return self._results(race, rows, choice), rows, sent

    def _results(
        self, race: Race, done: Mapping[str, list[dict[str, Any]]], choice: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        board, metrics = race.board(), race.metrics()
        task, found = self.task, {}
        for row in board:
            if row["recipe"] in metrics:
                values = {"alias": f"{task.name} {row['recipe']}", "bits_per_example,none": row["bits_per_example"]}
                for name, three in metrics[row["recipe"]].items():
                    values |= {f"{name}{end},none": v for end, v in zip(("", "_low", "_high"), three, strict=True)}
                found[f"{task.name}|{row['recipe']}"] = values
        n = {"original": len(task.train), "effective": len(self.stream.positions)}
        return {
            "results": found,
            "n-samples": dict.fromkeys(found, n),
            "config": {**self.identity, "model_name": self.model.model.name}
            | ({"asked": dict(asked)} if (asked := self.model.model.about) else {}),
            "task": {
                "name": task.name,
                "kind": task.kind,
                "labels": task.labels,
                "metrics": task.metrics,
                **({"ordered": True} if task.ordered else {}),
                "n_train": len(task.train),
                **({"n_unlabelled": len(task.unlabelled)} if task.unlabelled else {}),
                "notes": task.notes,
            },
            "removed": list(self.stream.removed),
            "leaderboard": list(board),
            "expected_when_deployed": {
                row["recipe"]: _deployed(row) for row in board if row["deployed_bits"] is not None
            },
            "compares": race.compares,
            "chosen": board[0]["recipe"] if choice else None,
            "choice": choice,
            "configurations": {e.recipe.name: e.configurations for e in race.entrants if e.configurations},
            "selections": {e.recipe.name: e.notes for e in race.entrants if e.notes},
            "failures": {e.recipe.name: e.failure for e in race.entrants if e.failure},
            "again": {e.recipe.name: _mean_of(e.again) for e in race.entrants if e.again},
            "tokens": {e.recipe.name: e.tokens for e in race.entrants if e.rows},
            "repeat": self.repeat,
            "environment": dict(environment()),
            "kshot_version": __version__,
            "python": platform.python_version(),
        }


def _deployed(row: Mapping[str, Any]) -> dict[str, list[float] | None]:
    """Return what is expected of a recipe when deployed, with intervals: score, unless texts are written, and bits."""
    score, bits = ([row[f"{key}{end}"] for end in ("", "_low", "_high")] for key in ("deployed", "deployed_bits"))
    return {"score": None if score[0] is None else score, "bits": bits}


def _mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean score and bits of a second look, with how many rows had them."""
    scores = [r["score"] for r in rows if r["score"] is not None]
    return {
        "n": len(rows),
        "score": sum(scores) / len(scores) if scores else None,
        "bits": sum(r["bits"] for r in rows) / len(rows),
    }


@cache
def environment() -> Mapping[str, str]:
    """Return what the numbers were made with; packages are asked for their versions once a process."""
    found = {"kshot": __version__, "python": platform.python_version(), "platform": platform.platform()}
    found["cpu cores"] = str(os.cpu_count())
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
