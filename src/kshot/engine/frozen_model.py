"""A language model that stays as it is, with a small trained module beside it that makes some of its tokens.

A prompt is written as always, and encoded otherwise: demonstrations become a few made tokens in their place
(`ContextEngine`), or the first token of a question becomes one with what stands before it (`PooledEngine`). All else,
scoring, packing, stores, writing and training, sees token ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.lessons import Batch, Resampling, StepLog, TrainingText
from kshot.core.types import FloatArray, GenerateRequest, Generation, Prompt, ScoreRequest
from kshot.engine.encoding import Encoder, Piece, question_at
from kshot.engine.trained_model import TrainedEngine
from kshot.engine.training_rows import TrainingRow
from kshot.models.hf import Backbone
from kshot.models.made_tokens import FIRST_MADE, MadeTokens
from kshot.models.resampler import ContextVectors, Demonstration
from kshot.models.segment_map import PooledTokens

_SAID_TO_ALL = ("instruction", "note")  # what stands before a question and is no demonstration


class _MadeEncoder(Encoder):
    """Encodes prompts with made tokens; what a teacher reads is as it is written, as no module is active then."""

    def __init__(self, backbone: Backbone):
        super().__init__(backbone)
        self._as_written = Encoder(backbone)

    def training_row(self, text: TrainingText, *, marked: bool = False, first_token: bool = False) -> TrainingRow:
        """Turn a text to be learnt into a row."""
        row = super().training_row(replace(text, teacher=None), marked=marked, first_token=first_token)
        if text.teacher is None:
            return row
        taught = TrainingText(text.teacher, "last")
        return replace(row, teacher=self._as_written.training_row(taught))


class _ContextEncoder(_MadeEncoder):
    """Puts made tokens in the place of demonstrations."""

    def __init__(self, backbone: Backbone, vectors: ContextVectors):
        super().__init__(backbone)
        self._vectors = vectors

    def _pieces(self, prompt: Prompt) -> list[Piece]:
        pieces = super()._pieces(prompt)
        n = question_at([role for role, _ in pieces])
        shown = [i for i in range(n) if pieces[i][0] not in _SAID_TO_ALL]
        if not shown:
            return pieces
        first, kept = shown[0], ()
        if prompt.spells_first_token and first == 0:  # as a chat template does; no text is read without it
            kept, pieces[0] = pieces[0][1][:1], (pieces[0][0], pieces[0][1][1:])
        content = tuple(sorted(_demonstrations([pieces[i] for i in shown])))  # a set: their order tells nothing
        made: Piece = ("demonstration", (*kept, *self._vectors.ids_of(content, self._vectors.n_latents)))
        rest = [pieces[i] for i in range(first, len(pieces)) if i not in shown]
        return [*pieces[:first], made, *rest]


def _demonstrations(pieces: Sequence[Piece]) -> list[Demonstration]:
    """Divide the pieces of demonstrations: each ends with its answer, or with the reason after it."""
    found: list[list[tuple[int, bool]]] = [[]]
    is_answered = False
    for role, ids in pieces:
        if is_answered and role not in ("answer", "reason"):
            found.append([])
            is_answered = False
        found[-1] += [(i, role == "answer") for i in ids]
        is_answered = is_answered or role == "answer"
    return [tuple(one) for one in found if one]


class _PooledEncoder(_MadeEncoder):
    """Makes the first tokens of questions of themselves and what they depend on, once a gate is open.

    Args:
        backbone: The network.
        tokens: What makes them.
        learns: Makes them before too, as gates are learnt.
    """

    def __init__(self, backbone: Backbone, tokens: PooledTokens, *, learns: bool = False):
        super().__init__(backbone)
        self._tokens, self._learns = tokens, learns

    def _pieces(self, prompt: Prompt) -> list[Piece]:
        pieces = super()._pieces(prompt)
        if not (self._learns or self._tokens.is_open):
            return pieces
        asked = next((i for i, (role, _) in enumerate(pieces) if role == "query"), len(pieces))
        n = question_at([role for role, _ in pieces])
        told = tuple(i for role, ids in pieces[:n] if role in _SAID_TO_ALL for i in ids)
        shown = tuple(i for role, ids in pieces[:n] if role not in _SAID_TO_ALL for i in ids)
        found, context = list[Piece](), tuple[int, ...]()
        for i, (role, ids) in enumerate(pieces):
            is_asked = i == asked
            segments = (context, shown if is_asked else (), told if is_asked else ())
            if (is_asked or role == "demonstration") and ids and any(segments):
                ids = (*self._tokens.ids_of((ids[0], segments)), *ids[1:])
            found.append((role, ids))
            context = (*context, *ids) if role == "context" else ()
        return found


class FrozenEngine(TrainedEngine):
    """A `TrainableModel` whose tokens are made by a module that is trained; arguments as `TrainedEngine`."""

    _weights: MadeTokens

    def learn(self, batch: Batch) -> StepLog:
        """Take one step, as `TrainedEngine.learn`.

        Raises:
            UserError: Beside its reasons there, that the model before training would be asked about a prompt that is
                encoded for the module.
        """
        if not batch.objective.reads <= {"teacher", "advantage"}:
            does = "rejects answers" if "rejected" in batch.objective.reads else "asks what was said before training"
            raise UserError(
                f"What is trained beside a model learns answers, or to answer like a teacher; got a teacher that "
                f"{does}, and weights={self._how.weights}. Leave the teacher out, or use icl+ft."
            )
        if batch.objective.asks == "average":  # which makes tokens, and teachers read none of them
            raise UserError(
                f"A teacher that follows its student must read with the weights that are trained; weights="
                f"{self._how.weights} are beside the model, and it reads without. Use rate=0, or fine-tune or icl+ft."
            )
        return super().learn(batch)

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return log-probabilities, as `Session.score`."""
        with self.backbone.lock:  # nobody else's tokens wait to be run
            self._weights.forget_old()
            return super().score(requests, progress=progress, ledger=ledger)

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[Generation]:
        """Return answers, as `Session.generate`."""
        with self.backbone.lock:
            self._weights.forget_old()
            return super().generate(requests, progress=progress, ledger=ledger)


class ContextEngine(FrozenEngine):
    """A model whose demonstrations are read by a resampler; of them it runs `latents` tokens itself.

    A token that the resampler alone reads counts as much as the resampler has parameters beside the model's.
    """

    def _first_weights(self, seed: int) -> ContextVectors:
        assert isinstance(self._how, Resampling)
        self._vectors = ContextVectors(self.backbone, self._how.rank, self._how.latents, seed=seed)
        self._encoder = _ContextEncoder(self.backbone, self._vectors)
        return self._vectors

    def run_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens of a prompt the model itself runs."""
        return len(self._encoder.prompt(prompt).ids)

    def learn(self, batch: Batch) -> StepLog:
        """Take one step, as `FrozenEngine.learn`; what the resampler reads is counted."""
        log = super().learn(batch)
        texts = (*batch.texts, *batch.support, *batch.source)
        n_read = self._n_read([self._encoder.prompt(text.prompt).ids for text in texts])
        return replace(log, tokens=log.tokens + n_read)

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return how many tokens have to be run to score `requests`, with what the resampler reads."""
        read = self._n_read([self._encoder.score(request)[0] for request in requests])
        return super().forward_tokens(requests) + read

    def _each_once(
        self,
        unique: Mapping[str, Any],
        keys: Any,
        get: Any,
        put: Any,
        run: Any,
        written: Any,
        progress: Any,
        ledger: Any,
    ) -> list[Any]:
        """Run requests as `Session`; what the resampler reads is counted once for each set of demonstrations."""

        def counted(requests: Mapping[str, Any], missing: Sequence[str]) -> tuple[int, Any]:
            n_tokens, parts = run(requests, missing)
            return n_tokens + self._n_read([ids for ids, _ in requests.values()]), parts

        run_as = counted if self._memory is None else run
        return super()._each_once(unique, keys, get, put, run_as, written, progress, ledger)

    def _after_beginnings(
        self, lengths: Sequence[int], keys: Sequence[str], writes: bool, requests: Mapping[str, Any], missing: Any
    ) -> tuple[int, Any]:
        """Run requests as `Session`; what the resampler reads is counted where no beginning is remembered."""
        assert self._memory is not None
        length = dict(zip(keys, lengths, strict=True))
        begun = {requests[key][0][: length[key]] for key in missing}
        n_read = self._n_read([ids for ids in begun if not self._memory.get((self.fingerprint, ids))])
        n_tokens, parts = super()._after_beginnings(lengths, keys, writes, requests, missing)
        return n_tokens + n_read, parts

    def _n_read(self, prompts: Sequence[Sequence[int]]) -> int:
        """Return what it counts to read the sets of demonstrations in prompts, each once."""
        made = self._vectors.made_of({i for ids in prompts for i in ids if i >= FIRST_MADE})
        return ceil(self._vectors.share * sum(len(d) for one in made if not one.number for d in one.content))


class PooledEngine(FrozenEngine):
    """A model whose questions begin with a token to which the segments before it are added through gates."""

    def _first_weights(self, seed: int) -> PooledTokens:
        tokens = PooledTokens(self.backbone, self._how.rank, seed=seed)
        self._encoder = _PooledEncoder(self.backbone, tokens)
        self._learning = _PooledEncoder(self.backbone, tokens, learns=True)
        return tokens

    def training_row(self, text: TrainingText) -> TrainingRow:
        """Turn a text to be learnt into a row, with made tokens whether gates are open or not."""
        return self._learning.training_row(text)


ENGINES: Mapping[str, Callable[..., TrainedEngine]] = {"resampler": ContextEngine, "segment-map": PooledEngine}
