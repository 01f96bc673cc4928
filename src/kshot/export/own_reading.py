"""The language model of an adapted model reads what was written for others, as they would read it."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, cast

from kshot.core.models import Capability, LanguageModel, ScoringModel
from kshot.core.types import FloatArray, Prompt, Role, ScoreRequest, Segment
from kshot.export.handover import Handover
from kshot.export.target import NotReadError, Said
from kshot.prompts.chat import Chat
from kshot.prompts.layout import Layout, layout_for

_ROLES: dict[str, Role] = {"system": "instruction", "user": "demonstration", "assistant": "answer"}


class OwnReading:
    """Reads texts and messages with the language model before training.

    Args:
        given: What was handed over.
    """

    def __init__(self, given: Handover):
        self._model: LanguageModel = given.model
        self._layout, self._ledger = given.task_model.layout, given.task_model.ledger
        self._whole = _whole_text(self._model)

    @property
    def name(self) -> str:
        """What reads."""
        return f"transformers {version('transformers')}" if self._whole else f"the model '{self._model.name}' itself"

    @property
    def chat_layout(self) -> Layout:
        """How answers stand in a chat of the model.

        Raises:
            NotReadError: It has no chats.
        """
        if isinstance(self._layout, Chat) or self._layout.record["layout"] == "messages":
            return self._layout
        if self._model.chat is None:
            raise NotReadError(
                f"the model '{self._model.name}', with which the prompt was measured, has no chat template, so it "
                "cannot read messages. Adapt with a chat model, or use --to prompt."
            )
        return layout_for(self._model, "turns")

    def log_probs(self, said: Said, answers: Sequence[str]) -> FloatArray:
        """Return log-probabilities in nats of answers after a text, or after the messages of a chat."""
        if isinstance(said, str):
            written = isinstance(self._layout, Chat)  # by the template, with the first token
            return self._of_text(said, answers, spells_first_token=written)
        if self._model.chat:
            return self._of_text(self._model.chat.render(said, open_answer=True), answers, spells_first_token=True)
        last = len(said) - 1
        segments = [Segment("query" if i == last else _ROLES[m["role"]], m["content"]) for i, m in enumerate(said)]
        return self._asked(Prompt(tuple(segments), spells_first_token=True), answers)

    def _of_text(self, text: str, answers: Sequence[str], *, spells_first_token: bool) -> FloatArray:
        if self._whole:
            return self._whole.log_probs(text, answers, spells_first_token=spells_first_token)
        return self._asked(Prompt((Segment("query", text),), spells_first_token), answers)

    def _asked(self, prompt: Prompt, answers: Sequence[str]) -> FloatArray:
        return cast(ScoringModel, self._model).score([ScoreRequest(prompt, tuple(answers))], ledger=self._ledger)[0]


def _whole_text(model: LanguageModel) -> Any:
    """Return what reads texts with the weights of a model; None where it has none here."""
    if Capability.ACTIVATIONS not in model.capabilities:
        return None
    from kshot.engine.session import Session  # which imports torch: models behind an API need none
    from kshot.engine.whole_text import WholeText

    assert isinstance(model, Session)
    return WholeText.of(model)
