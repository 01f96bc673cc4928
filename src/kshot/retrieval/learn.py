"""The stages of learning a retriever, in memory: candidates, scores, reward, distillation, and again.

Source: Wang, Yang and Wei (2024), LLM-R, https://arxiv.org/abs/2307.07164, and its official code.
Differs: candidates are searched within the query's own task unless `mixed`; the retriever learns from the scores
themselves unless `target=reward`; smaller encoders, and steps by the number of queries instead of fixed ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from kshot.core.errors import UserError
from kshot.core.progress import Progress
from kshot.core.seeding import generator
from kshot.encoders.encoder import Encoder
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
    ranked: Sequence[Candidates], pools: Pools, settings: RetrieverSettings, *, seed: int, progress: Progress
) -> list[Candidates]:
    """Train a reward model on the language model's scores, and score all candidates with it.

    Args:
        ranked: Candidates with the language model's scores, as the rules leave them.
        pools: What fills short groups.
        settings: How it is trained.
        seed: For its head, orders and dropout.
        progress: Told of both.
    """
    from kshot.encoders.encoder_training import train_reward_model

    rows, batches = _epochs(ranked, pools, settings, REWARD_NEGATIVES, settings.reward_epochs, seed=seed)
    columns = {"query": [_asked(g.query, settings) for g in rows]} | _documents(rows)
    pairs = [(_asked(row.query, settings), d.document) for row in ranked for d in row.documents]
    progress.begin("learning the reward", len(rows))
    how = {"lr": settings.reward_lr, "seed": seed}
    model = train_reward_model(settings.reward_encoder, columns, batches, progress=progress.advance, **how)
    if n := model.n_cut(pairs):
        progress.say(f"{n} of {len(pairs)} pairs are longer than what '{settings.reward_encoder}' reads, and are cut")
    progress.begin("rewarding candidates", len(pairs))
    values = iter(model.scores(pairs, progress=progress.advance))
    return [replace(row, scores=tuple(float(next(values)) for _ in row.documents)) for row in ranked]


def distil(
    ranked: Sequence[Candidates], pools: Pools, settings: RetrieverSettings, *, seed: int, progress: Progress
) -> Encoder:
    """Train a retriever on scored candidates: the reward model's, or the language model's own.

    Arguments as `reward_scores`; `ranked` may be those of several iterations, one behind the other.
    """
    from kshot.encoders.encoder_training import train_retriever

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
    )
    texts = [item.document for item in chain.from_iterable(pools.values())]
    if n := encoder.n_cut(texts):
        progress.say(f"{n} of {len(texts)} documents are longer than what '{settings.encoder}' reads, and are cut")
    return encoder


def targets(
    scored: Sequence[Candidates], pools: Pools, settings: RetrieverSettings, *, seed: int, progress: Progress
) -> list[Candidates]:
    """Return candidates with the scores that the retriever learns from, as `settings.target` says.

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
        return reward_scores(ranked, pools, settings, seed=seed, progress=progress)
    return [standardised(row, settings.sharpness) for row in ranked] if settings.target == "llm" else ranked


def learn(
    pools: Pools,
    models: Mapping[str, TaskModel],
    settings: RetrieverSettings,
    *,
    iterations: int,
    seed: int,
    progress: Progress,
) -> Encoder:
    """Run all stages, `iterations` times; each begins with the untrained encoder and learns from all scores so far."""
    encoder: Encoder | None = None
    ranked: list[Candidates] = []
    for number in range(1, iterations + 1):
        found = find_candidates(pools, settings, seed=seed, iteration=number, encoder=encoder)
        scored = one_shot(found, models)
        ranked += targets(scored, pools, settings, seed=seed, progress=progress)
        encoder = distil(ranked, pools, settings, seed=seed, progress=progress)
    assert encoder is not None
    return encoder


def rehearse(
    pools: Pools,
    models: Mapping[str, TaskModel],
    settings: RetrieverSettings,
    encoder: Encoder,
    *,
    iterations: int,
    seed: int,
) -> None:
    """Ask the models as much as `learn` does and train nothing: `encoder` stands for the retrievers between."""
    for number in range(1, iterations + 1):
        search = None if number == 1 else encoder
        one_shot(find_candidates(pools, settings, seed=seed, iteration=number, encoder=search), models)


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
