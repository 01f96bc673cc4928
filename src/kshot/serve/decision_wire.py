"""Decisions as they are asked and answered.

In the shape of OpenAI's SDK 3.57 (`client.decisions.create`), and of System One (`/v1/systemone`).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, field_validator

from kshot.serve.bodies import Shape
from kshot.serve.plain_wire import Name, Row, Text

MOST_CHOICES, MOST_QUESTIONS = 255, 400


class TextPart(Shape):
    """A piece of text."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, JsonValue] | None = None


class JsonPart(Shape):
    """A row: an object with `input` and, where the task has it, `context`."""

    type: Literal["input_json"]
    data: dict[str, JsonValue] | list[dict[str, JsonValue]]


class UserMessage(Shape):
    """The input."""

    role: Literal["user"]
    content: str | list[Annotated[TextPart | JsonPart, Field(discriminator="type")]]
    type: Literal["message"] = "message"


class _Question(Shape):
    instructions: str | list[TextPart] = Field(description="the question's words")
    name: Name | None = None


class Predicate(_Question):
    """Whether something is true."""

    type: Literal["predicate"]


class Choice(Shape):
    """An option."""

    value: str | bool
    description: str | None = None


class ChoiceQuestion(_Question):
    """Which of some options."""

    type: Literal["choice"]
    choices: Annotated[list[Choice], Field(min_length=2, max_length=MOST_CHOICES)] = Field(
        description='the labels, each once, as [{"value": label}, …]'
    )

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: list[Choice]) -> list[Choice]:
        return _all_different(choices, [(type(c.value), c.value) for c in choices])


class Level(Shape):
    """A level."""

    label: str
    description: str | None = None


class ScoreQuestion(_Question):
    """Which of some levels, the lowest first."""

    type: Literal["score"]
    levels: Annotated[list[Level], Field(min_length=2, max_length=MOST_CHOICES)] = Field(
        description='the labels from the lowest level to the highest, each once, as [{"label": label}, …]'
    )

    @field_validator("levels")
    @classmethod
    def _differ(cls, levels: list[Level]) -> list[Level]:
        return _all_different(levels, [level.label for level in levels])


def _all_different(values: list[Any], keys: list[Any]) -> list[Any]:
    if len(set(keys)) < len(keys):
        raise ValueError("each must be there once")
    return values


DecisionQuestion = Annotated[Predicate | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]


class DecisionRequest(Shape):
    """Questions about an input; what concerns other servers' caches is read and has no use here."""

    model: Name
    input: Text | Annotated[list[UserMessage], Field(min_length=1, max_length=1)] = Field(
        description="the input's text, or one message of the role user with it"
    )
    questions: Annotated[list[DecisionQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)] = Field(
        description='a list of questions, each {"type": "choice", "instructions": words, "choices": [{"value": label}, '
        "…]}, or of the type score or predicate"
    )
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, JsonValue] | None = None
    safety_identifier: str | None = None


class PredicateAnswer(BaseModel):
    """How probable it is that it is true."""

    type: Literal["predicate"] = "predicate"
    name: str | None = None
    probability: float


class ChoiceProbability(BaseModel):
    """How probable an option is."""

    value: str | bool
    probability: float


class ChoiceAnswer(BaseModel):
    """The option that is the model's answer: the most probable one, or the median where ordered labels are answered so.

    Attributes:
        confidence: 0 where all options are equally probable, 1 where one has it all.
    """

    type: Literal["choice"] = "choice"
    name: str | None = None
    choice: str | bool
    confidence: float
    probabilities: list[ChoiceProbability]


class LevelProbability(BaseModel):
    """How probable a level is; `value` counts from 0."""

    value: int
    label: str
    probability: float


class ScoreAnswer(BaseModel):
    """The mean level, from 0."""

    type: Literal["score"] = "score"
    name: str | None = None
    score: float
    confidence: float
    probabilities: list[LevelProbability]


class Refusal(BaseModel):
    """No answer, and why: the model is not sure enough, or has not learnt to answer this."""

    type: Literal["refusal"] = "refusal"
    name: str | None = None
    reason: str


class CachedTokens(BaseModel):
    """Tokens that were not run, as they were remembered."""

    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningTokens(BaseModel):
    """None: answers are read, not written."""

    reasoning_tokens: int = 0


class DecisionUsage(BaseModel):
    """Tokens of the prompts."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int = 0
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int


class DecisionAnswer(BaseModel):
    """Answers in the order of the questions."""

    model: str
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer | Refusal]
    usage: DecisionUsage


Said = str | dict[str, JsonValue] | list[JsonValue] | None


class Noul(Shape):
    """Whether something is true; `criteria` may say what true and false mean."""

    type: Literal["noul"]
    instructions: Said = ""
    criteria: dict[str, JsonValue] | None = None


class SystemOneChoice(Shape):
    """Which of some options: each with what it means, or null."""

    type: Literal["choice"]
    instructions: Said = ""
    criteria: Annotated[dict[str, JsonValue], Field(min_length=2, max_length=MOST_CHOICES)] = Field(
        description="an object with each of the labels as a key and what it means, or null, as its value: "
        '{"spam": null, …}'
    )


class SystemOneScore(Shape):
    """Which of some levels, the lowest first; one that is no text is read and is no label."""

    type: Literal["score"]
    instructions: Said = ""
    criteria: Annotated[list[JsonValue], Field(min_length=2, max_length=MOST_CHOICES)] = Field(
        description='a list of the labels from the lowest level to the highest, each once: ["low", "high", …]'
    )

    @field_validator("criteria")
    @classmethod
    def _differ(cls, criteria: list[JsonValue]) -> list[JsonValue]:
        texts = [level for level in criteria if isinstance(level, str)]
        _all_different(texts, texts)
        return criteria


SystemOneQuestion = Annotated[Noul | SystemOneChoice | SystemOneScore, Field(discriminator="type")]


class SystemOneRequest(Shape):
    """Questions about a state, under ids of one's own; a state is the input's text, or an object with `input`."""

    model: Name | None = None
    state: Text | Row = Field(description='the input\'s text, or {"input": text} with "context" where the task has it')
    questions: Annotated[dict[Name, SystemOneQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)] = Field(
        description='an object with a question under each id: {"my-id": {"type": "choice", "criteria": {label: null, '
        "…}}}, or of the type score or noul"
    )


class NoulAnswer(BaseModel):
    """How probable it is that it is true."""

    type: Literal["noul"] = "noul"
    noul: float


class SystemOneChosen(BaseModel):
    """The answer; it and confidence as in `ChoiceAnswer`."""

    type: Literal["choice"] = "choice"
    choice: str
    confidence: float
    probabilities: dict[str, float]


class SystemOneScored(BaseModel):
    """The mean level, from 0; keys are the levels' numbers."""

    type: Literal["score"] = "score"
    score: float
    confidence: float
    probabilities: dict[str, float]
    legend: dict[str, str]


class SystemOneRefusal(BaseModel):
    """No answer, and why."""

    type: Literal["refusal"] = "refusal"
    reason: str


class SystemOneUsage(BaseModel):
    """Tokens of the prompts."""

    input_tokens: int
    output_tokens: int = 0


class SystemOneAnswer(BaseModel):
    """Answers under the ids of their questions."""

    model: str
    answers: dict[str, NoulAnswer | SystemOneChosen | SystemOneScored | SystemOneRefusal]
    usage: SystemOneUsage
