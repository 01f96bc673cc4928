"""A decision service, asked as it is: what a user without kshot would take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from kshot.core.api_settings import parse_address
from kshot.core.errors import ModelError, SettingError, UserError
from kshot.core.fields import setting, state
from kshot.core.ledger import Ledger
from kshot.core.models import ScoringModel, Store
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.methods.contracts import Classifier
from kshot.models.remote.decision_question import MOST_OPTIONS, decision_request

if TYPE_CHECKING:
    from kshot.models.remote.openai import ApiModel


@lru_cache(maxsize=8)
def _model_of(service: str, route: str) -> "ApiModel":
    """Return the service as a model, once a process: it is looked at before it is asked.

    Raises:
        ModelError: It cannot be asked.
    """
    from kshot.models.remote.openai import load_api_model

    try:
        return load_api_model(service, {"route": route}, takes_refusal=True)
    except UserError as error:  # no fault of the run, whose other recipes need no service
        raise ModelError(str(error)) from error


@dataclass(frozen=True)
class DecisionService(Classifier):
    """Ask a decision service with the task's instruction and labels; it sees no example.

    Labels that are yes and no or true and false are asked for as a predicate, 3 to 10 consecutive whole numbers as a
    score, others as a choice.

    Attributes:
        service: openai:NAME, or openai:http://host/v1#NAME.
        route: "decisions" as OpenAI, vLLM and kshot itself serve it, or "systemone" as llama.cpp, Ollama, vLLM and
            SGLang do.

    Source: OpenAI (2026), Decisions, https://developers.openai.com/api/reference/resources/decisions; TypeSafe (2026),
    System One, https://docs.typesafe.ai/api.
    Differs: labels have no descriptions; a refusal is read as the uniform.
    """

    learns: ClassVar[bool] = False

    service: str = ""
    route: str = setting("decisions", choices=("decisions", "systemone"))
    _task: Task | None = state()
    _model: ScoringModel | None = state()
    _store: Store | None = state()
    _ledger: Ledger | None = state()
    _rehearses: bool = state(False)

    def __post_init__(self):
        super().__post_init__()
        if self.service:
            parse_address(self.service)

    def suits(self, task: Task) -> bool:
        """Return whether the task's answers come from a list."""
        return task.kind in ("classification", "multiple_choice")

    def asking(self, store: Store | None, ledger: Ledger) -> Self:
        """Return one that keeps each answer of the service in `store`, and counts it in `ledger`."""
        return replace(self, _store=store, _ledger=ledger)

    def rehearsing(self) -> Self:
        """Return one that asks nothing, and says the uniform."""
        return replace(self, _rehearses=True)

    @property
    def remark(self) -> str | None:
        """That the service has refused the questions by which it is looked at, if it has."""
        refused = _model_of(self.service, self.route).found.why_not.get(self.route)
        return refused and f"'{self.service}' is taken as it is, and not looked at: {refused}"

    def fit(self, task: Task, examples: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Look whether the service is there and can be trusted; nothing is learnt.

        One that refuses what it is looked at by, as it has learnt another question, is taken as it is.

        Raises:
            UserError: No service is named, or there are more labels than a choice can have.
            ModelError: It is not there, has no such route, or cannot be trusted.
        """
        if not self.service:
            raise SettingError(
                "service must name a decision service; got none. Write decisions:service=openai:http://host/v1#NAME, "
                "or service=openai:NAME for OpenAI's own."
            )
        if len(task.labels) > MOST_OPTIONS:
            raise UserError(
                f"A decision service chooses among 2 to {MOST_OPTIONS} labels; this task has {len(task.labels)}. Leave "
                "the recipe 'decisions' out."
            )
        model = None if self._rehearses else _model_of(self.service, self.route)
        return replace(self, _task=task, _model=model)

    def probabilities(self, questions: Sequence[Question]) -> list[FloatArray]:
        """Return one probability per candidate for each question, all of which are asked at once.

        Raises:
            ModelError: The service fails.
        """
        assert self._task is not None, "fit comes before probabilities"
        instruction, candidates = self._task.instruction, [self._task.candidates(q) for q in questions]
        if self._model is None:
            return [np.full(len(some), 1 / len(some)) for some in candidates]
        asked = [decision_request(instruction, q.text, some) for q, some in zip(questions, candidates, strict=True)]
        try:
            rows = self._model.with_store(self._store).score(asked, ledger=self._ledger)
        except UserError as error:  # such as a key that is taken no more
            raise ModelError(str(error)) from error
        return [np.exp(row - np.logaddexp.reduce(row)) for row in rows]
