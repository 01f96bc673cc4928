"""Demonstrations that a retriever finds, which has learnt from the language model which ones help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.fields import place, setting, state
from kshot.core.models import Capability
from kshot.core.types import Example, Question, Task
from kshot.encoders.encoder import Encoder, fresh_model, load_encoder, missing_package
from kshot.encoders.encoder_identity import encoder_id
from kshot.methods.contracts import Selector
from kshot.methods.selectors.nearest import nearest_last, question_text
from kshot.retrieval.corpus import Item
from kshot.retrieval.learn import Rehearsal, Stages
from kshot.retrieval.retriever_settings import RetrieverSettings
from kshot.retrieval.saved import SavedRetriever, fingerprint, read_retriever, save_retriever
from kshot.taskmodel.taskmodel import TaskModel

FOLDER = "retriever"
LEAST = 32  # examples to learn from; with fewer the encoder searches as it is


@dataclass(frozen=True)
class LlmR(RetrieverSettings, Selector):
    """Take the `k` examples that a trained retriever finds nearest to the query, the nearest last.

    The retriever learns from the language model's own scores: how probable it finds the right answer behind each of
    some candidates alone. An example is searched by its input with its answer. With a `retriever` nothing is trained;
    without one it is trained on the examples themselves, along a stream at 32, 64, 128, … of them: queries x candidates
    scorings of one demonstration each, and minutes of training on a CPU.

    Attributes:
        retriever: A folder of `kshot retriever train`; empty trains one.
        iterations: Rounds of training; from the second on the retriever of the last one draws the candidates.
        mmr: How much likeness to those already taken counts against an example, 0 (not at all) to 1: near copies of one
            text tell no more than it does.
        weights: What is in `retriever`, for the record; no setting.

    Source: Wang, Yang and Wei (2024), LLM-R, https://arxiv.org/abs/2307.07164; `mmr`: Carbonell and Goldstein (1998),
    https://doi.org/10.1145/290941.291025.
    Differs: MiniLM instead of E5-base and ELECTRA-base; learns from the scores, standardised for each query, as they
    were the better teacher here than a reward model (`target=reward`); no label rule; trained on the task's own
    examples unless a retriever of many tasks is named; `mmr` is not in the paper.
    """

    retriever: str = place("")
    iterations: int = setting(1, least=1, most=100)
    mmr: float = setting(0.0, least=0, most=1)
    weights: str = field(default="", init=False)
    _saved: SavedRetriever | None = state()
    _encoder: Encoder | None = state()
    _embeddings: NDArray[np.float64] | None = state()
    _lesson: tuple[str, ...] = state(())
    _rehearses: bool = state(False)

    version = 2
    per_query = True

    def __post_init__(self):
        super().__post_init__()
        if self.retriever:
            saved = self._saved or read_retriever(self.retriever)
            if self.encoder not in (saved.encoder, RetrieverSettings.encoder):
                raise UserError(
                    f"llm-r:encoder must be that of the retriever; {self.retriever} was trained from "
                    f"'{saved.encoder}', got '{self.encoder}'. Leave encoder out, or train another retriever."
                )
            object.__setattr__(self, "_saved", saved)
            object.__setattr__(self, "weights", saved.weights)

    @property
    def missing_package(self) -> str | None:
        """The package of the encoder, if it is missing."""
        return missing_package(self.encoder)

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the model that it asks must be able to do: nothing where the retriever is trained."""
        return frozenset() if self.has_learnt else frozenset({Capability.SCORE})

    @property
    def has_learnt(self) -> bool:
        """Whether there is a retriever, so that `fit` trains none."""
        return bool(self.retriever) or self._encoder is not None

    def known(self, task: Task) -> frozenset[str]:
        """Return the ids of a task's training examples that the retriever has learnt from."""
        return self._saved.known(task) if self._saved else frozenset()

    def learnt(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a selector with a retriever that has learnt from `pool`; with few examples, the encoder as it is."""
        seed = int(rng.integers(2**31))
        if len(pool) < LEAST:
            return replace(self, _encoder=load_encoder(self.encoder))
        most = min(self.candidates, len(pool) - 1)
        settings = RetrieverSettings(**{f.name: getattr(self, f.name) for f in fields(RetrieverSettings)})
        settings, task = replace(settings, candidates=most), model.task
        pools = {task.name: [Item(task, e) for e in pool]}
        stages = Rehearsal if self._rehearses else Stages
        learning = stages(pools, settings, seed=seed, progress=model.progress)
        encoder = learning.learn({task.name: model}, iterations=self.iterations)
        lesson = () if self._rehearses else tuple(map(fingerprint, pools[task.name]))
        return replace(self, _encoder=encoder, _lesson=lesson)

    def rehearsing(self) -> Self:
        """Return a selector that asks for the scores it would learn from, and searches with the untrained encoder."""
        return replace(self, _rehearses=True)

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Embed the pool, `[n_pool, dim]`, after training if there is no retriever yet."""
        if not self.has_learnt:
            return self.learnt(pool, model=model, rng=rng).fit(pool, model=model, rng=rng)
        encoder = self._ready
        embeddings = encoder.embed([Item(model.task, e).document for e in pool])
        return replace(self, _encoder=encoder, _embeddings=embeddings.astype(np.float64))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of the `k` nearest, the nearest last."""
        assert self._embeddings is not None, "fit comes before select"
        assert self._encoder is not None
        vector = self._encoder.embed([question_text(question, "llm-r")])[0]  # [dim]
        scores = np.round(self._embeddings @ vector, 9)  # equal texts tie, whose products differ by rounding
        return self._diverse(scores, k) if self.mmr else nearest_last(scores, k)

    def _diverse(self, scores: NDArray[np.float64], k: int) -> list[int]:
        """Return the best by (1 - mmr) score - mmr likeness to the likest that is taken already, the first one last."""
        assert self._embeddings is not None
        taken: list[int] = []
        likeness = np.full(len(scores), 0.0)
        for _ in range(min(k, len(scores))):
            worth = (1 - self.mmr) * scores - self.mmr * likeness
            worth[taken] = -np.inf
            best = int(np.argmax(np.round(worth, 9)))
            own = self._embeddings @ self._embeddings[best]
            likeness = np.maximum(likeness, own) if taken else own
            taken.append(best)
        return taken[::-1]

    def save(self, folder: Path) -> None:
        """Write the retriever."""
        saved = self._saved
        name, queries = (saved.encoder, saved.queries) if saved else (self.encoder, self._lesson)
        save_retriever(self._ready, folder / FOLDER, {"encoder": name}, queries)

    @classmethod
    def rebuilt(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """Return the selector with the retriever that `save` wrote."""
        saved = read_retriever(folder / FOLDER)
        encoder = Encoder(fresh_model(str(saved.folder)))  # now: the folder may be another one tomorrow
        settings = {**settings, "retriever": str(saved.folder), "encoder": saved.encoder}
        return cls(**settings, _saved=saved, _encoder=encoder)

    def record(self) -> dict[str, Any]:
        """Return what it is; a retriever that is named, or else what becomes one, counts by its files."""
        begins = [self.encoder, *([self.reward_encoder] if self.target == "reward" else [])]
        return {**super().record(), "weights": self.weights or " ".join(map(encoder_id, begins))}

    @property
    def _ready(self) -> Encoder:
        assert self.has_learnt, "learnt or fit comes before"
        if self._encoder:
            return self._encoder
        assert self._saved is not None
        return _retriever(str(self._saved.folder), self.weights)


@lru_cache(maxsize=4)
def _retriever(folder: str, weights: str) -> Encoder:
    """Load a retriever once, and again when its weights are others."""
    return Encoder(fresh_model(folder))
