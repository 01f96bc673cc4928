"""A decision service, asked as it is: what a user without kshot would take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from kshot.core.errors import SettingError, UserError
from kshot.core.fields import setting, state
from kshot.core.ledger import Ledger
from kshot.core.models import ScoringModel, Store
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.methods.contracts import Classifier
from kshot.models.remote.decision_question import MOST_OPTIONS, decision_request


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

    def suits(self, task: Task) -> bool:
        """Return whether the task's answers come from a list."""
        return task.kind in ("classification", "multiple_choice")

    def asking(self, store: Store | None, ledger: Ledger) -> Self:
        """Return one that keeps each answer of the service in `store`, and counts it in `ledger`."""
        return replace(self, _store=store, _ledger=ledger)

    def fit(self, task: Task, examples: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Look whether the service is there and can be trusted; nothing is learnt.

        Raises:
            UserError: No service is named, it has no such route, or there are more labels than a choice can have.
        """
        from kshot.models.remote.openai import load_api_model

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
        model: Any = self._model or load_api_model(self.service, {"route": self.route})
        return replace(self, _task=task, _model=model)

    def probabilities(self, questions: Sequence[Question]) -> list[FloatArray]:
        """Return one probability per candidate for each question, all of which are asked at once.

        Raises:
            ModelError: The service fails.
        """
        assert self._task is not None, "fit comes before probabilities"
        assert self._model is not None, "fit comes before probabilities"
        instruction, task = self._task.instruction, self._task
        asked = [decision_request(instruction, q.text, task.candidates(q)) for q in questions]
        rows = self._model.with_store(self._store).score(asked, ledger=self._ledger)
        return [np.exp(row - np.logaddexp.reduce(row)) for row in rows]
