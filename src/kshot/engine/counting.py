"""What work would cost: a stand-in for the language model that counts and runs nothing, and this machine's speed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from kshot.core.gradient_settings import FORWARD_AND_BACKWARD, GradientSettings, GradientStore
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Averaging, Batch, StepLog, Training, TrainingText
from kshot.core.models import (
    CalledModel,
    Capability,
    LanguageModel,
    ScoringModel,
    SteerableModel,
    TrainableModel,
    TunableModel,
)
from kshot.core.objective_settings import step_tokens
from kshot.core.steering import Shape, Steering
from kshot.core.types import FloatArray, GenerateRequest, Generation, Prompt, ScoreRequest
from kshot.prompts.fitting import prompt_tokens, run_tokens


class Counting:
    """Answer like no model at all, adding to the ledger the tokens that would be run.

    Args:
        model: Whose tokens are counted.
    """

    def __init__(self, model: LanguageModel):
        self.steps = self._n_written = 0
        self.name, self.fingerprint, self.origin = model.name, model.fingerprint, model.origin
        self.weights_id, self.old_fingerprint = model.weights_id, model.old_fingerprint
        self.capabilities, self.max_tokens = model.capabilities, model.max_tokens
        self.remark, self.chat, self.control_tokens = model.remark, model.chat, model.control_tokens
        self.is_remote, self.about = model.is_remote, model.about
        self.count_tokens, self.in_messages = model.count_tokens, model.in_messages
        self.unsteered, self.model = model.fingerprint, model

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return the model's own count; of one that only writes the tokens of the prompts."""
        if Capability.SCORE not in self.capabilities:
            return sum(prompt_tokens(request.prompt, self) for request in requests)
        return cast(ScoringModel, self.model).forward_tokens(requests)

    def trainable(self, how: Training, *, seed: int, average: Averaging | None = None) -> TrainableModel:
        """Return itself, as what is trained counts too; where prompts are other tokens to it, what counts these."""
        if how.encodes_anew:
            return cast(TrainableModel, _CountingAnew(self, cast(TunableModel, self.model).trainable(how, seed=seed)))
        return cast(TrainableModel, self)

    @property
    def averaged(self) -> Self:
        """Itself: an average of weights runs as many tokens."""
        return self

    def learn(self, batch: Batch) -> StepLog:
        """Count a step; its tokens are in the log, from which the learner counts them."""
        length = self._length
        lengths = [(length(t.prompt), length(t.teacher), length(t.rejected)) for t in batch.texts]
        n_tokens = step_tokens(batch.objective.reads, lengths)
        n_tokens += sum(length(text.prompt) for text in (*batch.support, *batch.source))
        self.steps += 1
        return StepLog(0.0, n_tokens, 0, 0.0)

    def _length(self, text: Prompt | None) -> int:
        """Return how many tokens are run of a text that is learnt."""
        return prompt_tokens(text, self) if text else 0

    def gradients(
        self,
        texts: Sequence[TrainingText],
        how: GradientSettings,
        *,
        seed: int,
        store: GradientStore | None = None,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> NDArray[np.float32]:
        """Count the tokens that would be run, and return equal gradients."""
        if ledger:
            n_tokens = sum(prompt_tokens(text.prompt, self) for text in texts)
            ledger.add(Cost(tokens=how.cost(n_tokens, len(texts))))
        return np.zeros((len(texts), how.n_snapshots), dtype=np.float32)

    def with_store(self, store: object) -> Self:
        """Return itself; nothing is stored."""
        return self

    @property
    def activations(self) -> "CountingActivations":
        """What counts what is asked of activations."""
        return CountingActivations(self)

    def steered(self, steering: Steering) -> Self:
        """Return itself: what is steered runs as many tokens."""
        return self

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Count, and return equal scores."""
        if ledger:
            calls = self.model.expected_calls(requests) if isinstance(self.model, CalledModel) else 0
            ledger.add(Cost(tokens=self.forward_tokens(requests), calls=calls))
        return [np.zeros(len(r.continuations)) for r in requests]

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[Generation]:
        """Count prompts and the longest answers that may be given, and return such answers, each another one."""
        if ledger:
            n_tokens = self.forward_tokens([ScoreRequest(r.prompt, ("\n",)) for r in requests])
            calls = len(requests) if isinstance(self.model, CalledModel) else 0
            ledger.add(Cost(tokens=n_tokens + sum(r.max_tokens for r in requests), calls=calls))
        first, self._n_written = self._n_written, self._n_written + len(requests)
        return [Generation(self._text(i, r.max_tokens), True) for i, r in enumerate(requests, first)]

    def _text(self, number: int, n_tokens: int) -> str:
        """Return a text of about so many tokens, and no more, that begins with a number."""
        begun = str(number)
        n_words = (n_tokens - self.count_tokens(begun)) // max(1, self.count_tokens(" so"))
        return f"{begun}{' so' * max(0, n_words)}"


class _CountingAnew(Counting):
    """Counts for a model to which prompts are other tokens.

    Args:
        whole: What counts the steps.
        model: The model, untrained.
    """

    def __init__(self, whole: Counting, model: TrainableModel):
        super().__init__(model)
        self._whole = whole

    def run_tokens(self, prompt: Prompt) -> int:
        """Return the model's own count."""
        return run_tokens(prompt, self.model)

    def learn(self, batch: Batch) -> StepLog:
        """Count a step, as `Counting`."""
        self._whole.steps += 1
        return super().learn(batch)

    def _length(self, text: Prompt | None) -> int:
        if text is None:
            return 0
        *before, last = text.segments
        request = ScoreRequest(replace(text, segments=tuple(before)), (last.text,))
        return 1 + self.forward_tokens([request])  # the last token, of which nothing is asked, is run too


class CountingActivations:
    """Activations that are all 0, of a model that runs nothing and counts."""

    def __init__(self, counting: Counting):
        self._counting = counting
        self._own = cast(SteerableModel, counting.model).activations
        self._learnt: set[Prompt] = set()

    @property
    def shape(self) -> Shape:
        """The model's own."""
        return self._own.shape

    def read(
        self,
        prompts: Sequence[Prompt],
        site: str,
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> NDArray[np.float32]:
        """Count the prompts."""
        if ledger:
            ledger.add(Cost(tokens=self._counting.forward_tokens([ScoreRequest(p, ("\n",)) for p in prompts])))
        return np.zeros((len(prompts), self.shape.n_layers, *self.shape.at(site)), dtype=np.float32)

    def tokens_under(self, requests: Sequence[ScoreRequest], steerings: Sequence[Steering]) -> int:
        """Return the model's own count."""
        return self._own.tokens_under(requests, steerings)

    def score_under(
        self,
        requests: Sequence[ScoreRequest],
        steerings: Sequence[Steering],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Count, and return equal scores."""
        if ledger:
            ledger.add(Cost(tokens=self.tokens_under(requests, steerings)))
        return [np.zeros((len(steerings), len(r.continuations))) for r in requests]

    def write_heads(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what costs nothing to compute, all 0."""
        return np.zeros((*heads.shape[:2], self.shape.width), dtype=np.float32)

    def gated(self, vectors: NDArray[np.float32], how: Training) -> "CountingActivations":
        """Return itself: steps of gates count too."""
        return self

    def interchange(self, layer: int, direction: NDArray[np.float32], how: Training) -> "CountingActivations":
        """Return itself: steps of a direction count as those of gates do."""
        return self

    def learn(
        self,
        texts: Sequence[TrainingText],
        *,
        first_token: bool,
        sources: NDArray[np.float32] | None = None,
        ledger: Ledger | None = None,
    ) -> StepLog:
        """Count a step: prompts once, and in each step their last tokens and the answers."""
        self._counting.steps += 1
        n_tokens = sum(1 + self._counting.count_tokens(text.prompt.segments[-1].text) for text in texts)
        before = {replace(text.prompt, segments=text.prompt.segments[:-1]) for text in texts} - self._learnt
        self._learnt |= before
        if ledger:
            n_before = sum(prompt_tokens(prompt, self._counting) - 1 for prompt in before)
            ledger.add(Cost(tokens=FORWARD_AND_BACKWARD * n_tokens + n_before))
        return StepLog(0.0, n_tokens, 0, 0.0)

    def steering(self) -> Steering:
        """Return gates that do nothing, but only to last tokens."""
        return Steering(())
