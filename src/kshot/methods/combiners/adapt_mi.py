"""Fixed shots first, and demonstrations of the skills only where the answer is doubtful."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from typing_extensions import TypedDict

from kshot.core.fields import state
from kshot.core.models import Capability
from kshot.core.types import Example, Prediction, Prompt, Question, Task
from kshot.methods.contracts import Answered, Combiner
from kshot.methods.gates import Gate
from kshot.methods.gates.gate import First
from kshot.methods.gates.log_prob import LogProb
from kshot.methods.skill_profile import LACKED, known_skills
from kshot.prompts.fitting import first_to_fit
from kshot.taskmodel.taskmodel import TaskModel

TOKENS = 48  # of a list of skills
ASKED = "Which of these skills did the attempt lack? Name only skills of the list, separated by commas:"


class _Remembered(TypedDict):
    _calibrations: list[dict[str, Any]]
    _most: float | None
    _skills: list[str]


@dataclass(frozen=True)
class AdaptMi(Combiner):
    """Answer with the first recipe, and ask the second, which shows skills, where a gate finds the answer doubtful.

    Alone it is `adapt-mi(random:k=5, skills:k=5)`. Skills in a prompt help where the model fails, and hurt where it
    does not need them; so an easy question's prompt and answer stay those of the first recipe. The gate learns from the
    first recipe's answers, so that along a stream, too, the second is asked for doubtful questions alone. In tasks of
    texts the first recipe's text is written for each question, as the gate reads it.

    Attributes:
        gate: "log-prob" (a probability below a quantile of the past's), "disagreement" (of contexts) or "steps" (scores
            of a reward model), or one's own; with settings as in `gate=log-prob(quantile=0.3)`.
        plus: AdaptMI+: the language model reads the question and the attempt and says which of the skills that the rows
            name (`meta.skills`) it lacked; the second recipe is told these (`meta.missing_skills`). Where it names none
            of them, or the model has no room to be asked, the question's own skills stay. Costs one short text for each
            doubtful question.

    Source: He et al. (2025), AdaptMI, https://arxiv.org/abs/2505.00147, and its code for the thresholds.
    Differs: without a reward model doubt is a low probability; no fixed shots are sampled from; the labelling model is
    the one that answers.
    """

    gate: Gate = LogProb()
    plus: bool = False
    _most: float | None = state(None)
    _skills: tuple[str, ...] = state(())

    version: ClassVar[int] = 2
    learns: ClassVar[bool] = True
    lazy: ClassVar[bool] = True
    by_first: ClassVar[bool] = True
    most_members: ClassVar[int] = 2
    usual: ClassVar[tuple[str, ...]] = ("random:k=5", "skills:k=5")
    remembered: ClassVar[type | None] = _Remembered

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the gate needs, and a model that writes where it lists skills."""
        return self.gate.needs | (frozenset({Capability.GENERATE}) if self.plus else frozenset())

    @property
    def reads_text(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether the gate, or who lists skills, reads what was written."""
        return self.gate.reads_text or self.plus

    @property
    def reads_sureness(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether the gate reads how sure the model is of it."""
        return self.gate.reads_sureness

    def missing_field(self, task: Task) -> str | None:
        """Return what is missing for a list of skills."""
        return "meta.skills" if self.plus and not known_skills(task.train) else None

    def check(self, members: Sequence[First]) -> None:
        """Raise a UserError where the first recipe does not say what the gate reads."""
        self.gate.check(members[0])

    def fit(self, task: Task, past: Sequence[Answered]) -> Self:
        """Return it with the doubt from which on the second is asked, by the first recipe's answers of the past."""
        return replace(self, _most=self.gate.most([self.gate.doubt(task, row.said[0]) for row in past]))

    def knowing(self, task: Task, known: Sequence[Example]) -> Self:
        """Return it with the skills that known examples name."""
        return replace(self, _skills=known_skills(known))

    def asks(self, task: Task, said: Sequence[Prediction]) -> bool:
        """Return whether the first recipe's answer is doubtful."""
        return self._most is not None and self.gate.doubt(task, said[0]) > self._most

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return what the last one says that was asked."""
        return members[-1]

    def tells(
        self, questions: Sequence[Question], said: Sequence[Sequence[Prediction]], *, model: TaskModel
    ) -> list[Mapping[str, Any]]:
        """Return the skills that each attempt lacked, as the model says; nothing where it names none of those known."""
        if not (self.plus and self._skills):
            return [{} for _ in questions]
        prompts = [self._request(question, own[0], model) for question, own in zip(questions, said, strict=True)]
        texts = iter(model.write_each([p for p in prompts if p], max_tokens=TOKENS, stop=("\n",)))
        found = [named_skills(next(texts).text, self._skills) if prompt else () for prompt in prompts]
        for question, prompt, skills in zip(questions, prompts, found, strict=True):
            if not skills:
                why = "no known skill was named" if prompt else "it leaves no room to ask for skills"
                model.note({"adapt-mi": question.id, "said": f"{why}; its own skills stay"})
        return [{LACKED: list(skills)} if skills else {} for skills in found]

    def _request(self, question: Question, said: Prediction, model: TaskModel) -> Prompt | None:
        """Return what asks for the skills, without the attempt's reason if it does not fit; None where nothing does."""
        reason = next((str(found["reason"]) for found in said.found if found.get("reason")), "")
        skills, answer = ", ".join(self._skills), said.answer or ""
        attempts = dict.fromkeys((" ".join(part for part in (reason, answer) if part), answer))
        texts = (f"Skills: {skills}\n\nQuestion: {question.text}\nAttempt: {one}\n\n{ASKED}" for one in attempts)
        return first_to_fit(map(model.layout.request, texts), model.model, answer_tokens=TOKENS)


def named_skills(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the known skills that a text names as whole words, in its order; a longer one counts for its parts.

    Example:
        >>> named_skills("Long division; also Sums.", ("division", "long division", "sums", "areas"))
        ('long division', 'sums')
    """
    longest = sorted(known, key=lambda skill: (-len(skill), skill))
    either = "|".join(rf"(?<!\w){re.escape(skill.lower())}(?!\w)" for skill in longest)
    by_text = {skill.lower(): skill for skill in reversed(longest)}
    return tuple(dict.fromkeys(by_text[hit] for hit in re.findall(either, text.lower())))
