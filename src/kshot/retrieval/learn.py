"""The stages of learning a retriever: candidates, scores, reward, distillation, and again.

Source: Wang, Yang and Wei (2024), LLM-R, https://arxiv.org/abs/2307.07164, and its official code.
Differs: candidates are searched within the query's own task unless `mixed`; the retriever learns from the scores
themselves unless `target=reward`; smaller encoders, and steps by the number of queries instead of fixed ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.core.progress import Progress
from kshot.core.seeding import generator
from kshot.encoders.encoder import Encoder, load_encoder
from kshot.retrieval.candidates import Candidates, by_meaning, by_words, check_enough, draw
from kshot.retrieval.corpus import Item, training_queries
from kshot.retrieval.feedback import one_shot, standardised, with_rules
from kshot.retrieval.groups import RETRIEVER_NEGATIVES, REWARD_NEGATIVES, Group, groups, usable
from kshot.retrieval.retriever_settings import RetrieverSettings
from kshot.taskmodel.taskmodel import TaskModel

Pools = Mapping[str, Sequence[Item]]  # each task's documents, by its name


def find_candidates(
    pools: Pools, settings: RetrieverSettings, *, seed: int, iteration: int = 1, encoder: Encoder | None = None
) -> list[Candidates]:
    """Draw candidates for the training queries of all tasks.

    Args:
        pools: Each task's documents, of which the queries are drawn.
        settings: How many of what.
        seed: For the queries, which are the same in each iteration, and the draws.
        iteration: Which one.
        encoder: The current retriever; None, in the first iteration, searches by words.

    Raises:
        UserError: A task has fewer examples than candidates.
    """
    everything = list(chain.from_iterable(pools.values()))
    found = []
    for name, pool in pools.items():
        check_enough(name, len(pool), settings)
        searched = everything if settings.mixed else pool
        search = by_words(searched) if encoder is None else by_meaning(searched, encoder)
        queries = training_queries(pool, settings.queries, seed=seed)
        found += draw(searched, queries, search, settings, seed=seed + iteration - 1)
    return found


def reward_scores(
    ranked: Sequence[Candidates],
    pools: Pools,
    settings: RetrieverSettings,
    *,
    seed: int,
    progress: Progress,
    kept: Path | None = None,
) -> list[Candidates]:
    """Train a reward model on the language model's scores, and score all candidates with it.

    Args:
        ranked: Candidates with the language model's scores, as the rules leave them.
        pools: What fills short groups.
        settings: How it is trained.
        seed: For its head, orders and dropout.
        progress: Told of both.
        kept: The file in which training survives an interruption.
    """
    from kshot.encoders.encoder_training import train_reward_model
    from kshot.encoders.kept_training import KeptTraining

    rows, batches = _epochs(ranked, pools, settings, REWARD_NEGATIVES, settings.reward_epochs, seed=seed)
    columns = {"query": [_asked(g.query, settings) for g in rows]} | _documents(rows)
    pairs = [(_asked(row.query, settings), d.document) for row in ranked for d in row.documents]
    progress.begin("learning the reward", len(rows))
    how: Any = {"lr": settings.reward_lr, "seed": seed, "kept": KeptTraining(kept, progress.say) if kept else None}
    model = train_reward_model(settings.reward_encoder, columns, batches, progress=progress.advance, **how)
    if n := model.n_cut(pairs):
        progress.say(f"{n} of {len(pairs)} pairs are longer than what '{settings.reward_encoder}' reads, and are cut")
    progress.begin("rewarding candidates", len(pairs))
    values = iter(model.scores(pairs, progress=progress.advance))
    return [replace(row, scores=tuple(float(next(values)) for _ in row.documents)) for row in ranked]


def distil(
    ranked: Sequence[Candidates],
    pools: Pools,
    settings: RetrieverSettings,
    *,
    seed: int,
    progress: Progress,
    kept: Path | None = None,
) -> Encoder:
    """Train a retriever on scored candidates: the reward model's, or the language model's own.

    Arguments as `reward_scores`; `ranked` may be those of several iterations, one after the other.
    """
    from kshot.encoders.encoder_training import train_retriever
    from kshot.encoders.kept_training import KeptTraining

    how = {"seed": seed, "same_label": False}
    rows, batches = _epochs(ranked, pools, settings, RETRIEVER_NEGATIVES, settings.epochs, **how)
    columns = {"query": [g.query.query for g in rows]} | _documents(rows) | {"scores": [list(g.scores) for g in rows]}
    progress.begin("learning the retriever", len(rows))
    encoder = train_retriever(
        settings.encoder,
        columns,
        batches,
        lr=settings.lr,
        alpha=settings.alpha,
        temperature=settings.temperature,
        distil=settings.target != "none",
        seed=seed,
        progress=progress.advance,
        kept=KeptTraining(kept, progress.say) if kept else None,
    )
    texts = [item.document for item in chain.from_iterable(pools.values())]
    if n := encoder.n_cut(texts):
        progress.say(f"{n} of {len(texts)} documents are longer than what '{settings.encoder}' reads, and are cut")
    return encoder


def targets(
    scored: Sequence[Candidates],
    pools: Pools,
    settings: RetrieverSettings,
    *,
    seed: int,
    progress: Progress,
    kept: Path | None = None,
) -> list[Candidates]:
    """Return candidates with the scores that the retriever learns from, as `settings.target` says.

    Arguments as `reward_scores`.

    Raises:
        UserError: There is no query that can be learnt from.
    """
    ranked = usable(with_rules(scored, settings))
    if not ranked:
        raise UserError(
            "A retriever must have queries to learn from, with three candidates within the rules; there is none. Use "
            "more candidates, or label_rule=false."
        )
    if settings.target == "reward":
        return reward_scores(ranked, pools, settings, seed=seed, progress=progress, kept=kept)
    return [standardised(row, settings.sharpness) for row in ranked] if settings.target == "llm" else ranked


class Stages:
    """The stages of some iterations, each done once: candidates, scores, targets, retriever, and again.

    Each iteration begins with the untrained encoder and learns from all targets so far. What is done is kept in memory;
    a subclass keeps it elsewhere.

    Args:
        pools: Each task's documents.
        settings: How a retriever is learnt.
        seed: For every random choice.
        progress: Told of the work.
    """

    def __init__(self, pools: Pools, settings: RetrieverSettings, *, seed: int, progress: Progress):
        self.pools, self.settings, self.seed, self.progress = pools, settings, seed, progress
        self._done: dict[tuple[str, int], Any] = {}

    def learn(self, models: Mapping[str, TaskModel], *, iterations: int) -> Encoder:
        """Run all stages of all iterations, and return the last retriever.

        Args:
            models: The language model on each task, by the task's name.
            iterations: How many, 1 or more.
        """
        for number in range(1, iterations + 1):
            if iterations > 1:
                self.progress.say(f"iteration {number} of {iterations}")
            self.candidates(number)
            self.scores(number, models)
            self.targets(number)
            self.retriever(number)
        return self.retriever(iterations)

    def candidates(self, number: int) -> list[Candidates]:
        """Return the candidates of an iteration: of the first by words, of later ones by the retriever before it."""

        def find() -> list[Candidates]:
            encoder = None if number == 1 else self.done("retriever", number - 1)
            return find_candidates(self.pools, self.settings, seed=self.seed, iteration=number, encoder=encoder)

        return self.once("candidates", number, find)

    def scores(self, number: int, models: Mapping[str, TaskModel]) -> list[Candidates]:
        """Return the candidates with the language model's one-shot scores."""
        found = self.done("candidates", number)
        return self.once("scores", number, lambda: one_shot(found, models))

    def targets(self, number: int) -> list[Candidates]:
        """Return the candidates with the scores that the retriever learns from."""
        scored, kept = self.done("scores", number), self.training_file("targets", number)
        how: Any = {"seed": self.seed, "progress": self.progress, "kept": kept}
        return self.once("targets", number, lambda: targets(scored, self.pools, self.settings, **how))

    def retriever(self, number: int) -> Encoder:
        """Return the retriever, trained on the targets of this iteration and those before it."""

        def train() -> Encoder:
            ranked = list(chain.from_iterable(self.done("targets", i + 1) for i in range(number)))
            kept = self.training_file("retriever", number)
            return distil(ranked, self.pools, self.settings, seed=self.seed, progress=self.progress, kept=kept)

        return self.once("retriever", number, train)

    def once(self, stage: str, number: int, make: Callable[[], Any]) -> Any:
        """Return what a stage of an iteration has left, or let it make and keep it."""
        if (stage, number) not in self._done:
            self._done[stage, number] = make()
        return self._done[stage, number]

    def training_file(self, stage: str, number: int) -> Path | None:
        """Return where the training of a stage survives an interruption: in memory nowhere."""
        return None

    def done(self, stage: str, number: int) -> Any:
        """Return what a stage that comes first has left."""
        return self._done[stage, number]


class Rehearsal(Stages):
    """Asks the models as much as learning does and trains nothing: the encoder stands for every retriever."""

    def targets(self, number: int) -> list[Candidates]:
        """Return nothing to learn from."""
        return self.once("targets", number, list)

    def retriever(self, number: int) -> Encoder:
        """Return the untrained encoder."""
        return self.once("retriever", number, lambda: load_encoder(self.settings.encoder))


def _epochs(
    ranked: Sequence[Candidates],
    pools: Pools,
    settings: RetrieverSettings,
    n_negatives: int,
    n_epochs: int,
    *,
    seed: int,
    same_label: bool = True,
) -> tuple[list[Group], list[list[int]]]:
    """Return the groups of all epochs, and the rows of each step, which are of one task.

    Texts of another task are no test for a retriever that searches within one, and texts of one task are about as long.
    """
    everything = list(chain.from_iterable(pools.values()))
    rows: list[Group] = []
    batches: list[list[int]] = []
    for epoch in range(n_epochs):
        how = {"n_negatives": n_negatives, "epoch": epoch, "seed": seed, "same_label": same_label}
        by_task: dict[str, list[int]] = {}
        for group in groups(ranked, settings, everything, **how):
            by_task.setdefault(group.query.task.name, []).append(len(rows))
            rows.append(group)
        cut = [some[i : i + settings.batch] for some in by_task.values() for i in range(0, len(some), settings.batch)]
        batches += [cut[i] for i in generator(seed, "batches", epoch).permutation(len(cut))]
    return rows, batches


def _asked(query: Item, settings: RetrieverSettings) -> str:
    return query.document if settings.reward_sees_answer else query.query


def _documents(rows: Sequence[Group]) -> dict[str, list[str]]:
    n = len(rows[0].documents)
    return {f"document_{i}": [g.documents[i].document for g in rows] for i in range(n)}
