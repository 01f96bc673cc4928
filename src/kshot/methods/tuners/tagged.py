"""Answers that depend on the context are learnt with a tag in the question, the others without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting, state
from kshot.core.lessons import Lesson
from kshot.core.models import Capability, LanguageModel
from kshot.core.script import Script
from kshot.core.types import Example, Task
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw
from kshot.methods.tuners.held_answers import remark_on_answers
from kshot.taskmodel.taskmodel import TaskModel

TAGGED, PLAIN = "tagged", "plain"
# Tokens that models keep for others' use: their vectors are there, and no text has them
_UNUSED = ("<unused0>", "<|reserved_special_token_0|>", "<|extra_0|>", "<extra_id_0>", "[unused0]", "<reserved_0>")


@dataclass(frozen=True)
class Tagged(Tuner):
    """Learn answers that rest on their context with a tag after the question, which then asks for such answers.

    How much an answer rests on its context is s = mean over its tokens of the most that a head attends to the context
    (`kshot.engine.context_mass`), at one layer of the model before training; above `threshold` it is tagged.

    Attributes:
        steps: Steps of training for each new example.
        batch: Examples in a step, drawn from those seen.
        target: "any-seen" draws all of them; "current" always has the new one among them.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.
        threshold: The least score of a tagged answer, above which it is.
        layer: Where attention is read, from 0; -1 is two thirds up.
        tag: What the tag is; empty: a token that the model's vocabulary has and keeps unused.
        split: Take a tag though the tokenizer splits it.
        ask: How questions with a context are asked: "tagged", or "plain" without the tag.

    Source: Wang et al. (2024), On the Loss of Context-awareness in General Instruction Fine-tuning (CA-IND), section 4,
    https://arxiv.org/abs/2411.02688.
    Differs: the score is of the model before training, and at the tokens from which the answer is predicted; a token
    of the vocabulary in place of the text "[IND]"; the threshold is ours (theirs is 0.6 or 0.8): at two thirds of
    Gemma-3-270M the median is 0.40 where the passage is about the question, and 0.21 where it is not.
    """

    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(4, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    balanced: bool = False
    threshold: float = setting(0.3, least=0, most=1)
    layer: int = setting(-1, least=-1, most=10_000)
    tag: str = ""
    split: bool = False
    ask: str = setting(TAGGED, choices=(TAGGED, PLAIN))
    _scores: Mapping[str, float] = state()

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.ACTIVATIONS})
    uses_contexts = True
    ties = True

    def knowing(self, seen: Sequence[Example], *, model: TaskModel) -> Self:
        """Return the tuner with the scores of examples; see `kshot.methods.contracts.Tuner`."""
        tag_of(self.tag, model.model, split=self.split)
        known = self._scores or {}
        new = [e for e in seen if e.id not in known]
        if not new:
            return self
        n = model.activations.shape.n_layers
        if self.layer >= n:
            raise UserError(f"layer must be in 0..{n - 1}, the model's layers, or -1; got {self.layer}.")
        layer = round(2 * n / 3) if self.layer < 0 else self.layer
        scores = model.context_mass(new, min(layer, n - 1))
        return replace(self, _scores={**known, **dict(zip((e.id for e in new), scores, strict=True))})

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        target, others = draw(seen, self.batch - 1, target=self.target, evenly=self.balanced, rng=rng)
        scores = self._scores or {}
        return [
            Lesson((), e, "last", asked=TAGGED if scores.get(e.id, 0.0) > self.threshold else PLAIN)
            for e in (*others, target)
        ]

    def told(self, script: Script, *, asked: str, model: TaskModel) -> Script:
        """Return the script with the tag after what is asked; see `kshot.methods.contracts.Tuner`."""
        has_context = any(piece.role == "context" for piece in script.turns[-1])
        if not has_context or (asked or self.ask) == PLAIN:
            return script
        tag = tag_of(self.tag, model.model, split=self.split)
        at = max(i for i, piece in enumerate(script.pieces) if piece.role == "question")
        pieces = [replace(piece, mark=tag) if i == at else piece for i, piece in enumerate(script.pieces)]
        return replace(script, pieces=tuple(pieces))

    def caution(self, task: Task) -> str | None:
        """Return that no passage holds its answer, where that is so."""
        return remark_on_answers("tagged", task)


def tag_of(tag: str, model: LanguageModel, *, split: bool) -> str:
    """Return the tag for a model: the one that is named, or an unused token of its vocabulary.

    Args:
        tag: Empty: any unused token.
        model: Its tokenizer says what one token is.
        split: Take a tag of several tokens.

    Raises:
        UserError: The tokenizer splits the tag, or the vocabulary has no unused token.
    """
    unused = next((text for text in _UNUSED if _n_tokens(model, text) == 1), None)
    if not tag and unused:
        return unused
    n = _n_tokens(model, tag or "[IND]")
    if n == 1 or split:
        return tag or "[IND]"
    said = f"got '{tag}', which is {n}" if tag else f"it has none that is unused, and '[IND]' is {n}"
    hint = f"Leave tag out, which is '{unused}' then" if unused else "Name a word of its vocabulary"
    raise UserError(f"tag must be one token for '{model.name}'; {said}. {hint}, or take it as it is with split=true.")


def _n_tokens(model: LanguageModel, text: str) -> int:
    try:
        return cast(int, model.count_tokens(text))
    except UserError:  # a token without a vector
        return 0
