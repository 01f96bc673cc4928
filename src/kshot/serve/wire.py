"""What is sent and what comes back, endpoint by endpoint, as pydantic models: they check, and the document shows them.

Decisions are in the shape of OpenAI's SDK 3.57 (`client.decisions.create`) and of System One (`/v1/systemone`), chats
and completions in that of OpenAI's API. What those have and an adapted model cannot honour is no field here, so that
it is refused and not overlooked.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints, field_validator, model_validator

from kshot.serve.bodies import Shape

MOST_INPUTS, MOST_CHOICES, MOST_QUESTIONS = 256, 255, 400

Text = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"\S")]
Name = Annotated[str, StringConstraints(max_length=200)]


# --- /predict


class Row(Shape):
    """An input with more than its text."""

    input: Text
    context: Text | None = None
    choices: list[Text] | None = None


class PredictRequest(Shape):
    """Inputs to be answered.

    Attributes:
        show: Return the demonstrations that each answer was given after.
    """

    inputs: Annotated[list[Text | Row], Field(min_length=1, max_length=MOST_INPUTS)]
    show: bool = False


class Shown(BaseModel):
    """A demonstration."""

    input: str
    output: str


class Predicted(BaseModel):
    """An answer.

    Attributes:
        answer: The most probable label or choice, or the written text; None where the model is not sure enough.
        probabilities: Of each label or choice, as they were measured; empty where answers are written.
        unsure: Whether it gives no answer, as it is not sure enough.
        cut_off: A written answer came to no end.
        prompt_tokens: Of all its prompts.
        contexts: With `show`: the demonstrations of each prompt.
    """

    answer: str | None
    probabilities: dict[str, float]
    unsure: bool = False
    cut_off: bool = False
    prompt_tokens: int
    contexts: list[list[Shown]] | None = None


class PredictAnswer(BaseModel):
    """Answers, in the order of the inputs."""

    model: str
    predictions: list[Predicted]


# --- /v1/decisions


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
    instructions: str | list[TextPart]
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
    choices: Annotated[list[Choice], Field(min_length=2, max_length=MOST_CHOICES)]

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
    levels: Annotated[list[Level], Field(min_length=2, max_length=MOST_CHOICES)]

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
    input: Text | Annotated[list[UserMessage], Field(min_length=1, max_length=1)]
    questions: Annotated[list[DecisionQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)]
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
    """The most probable option.

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


# --- /v1/systemone

Said = str | dict[str, JsonValue] | list[JsonValue]


class Noul(Shape):
    """Whether something is true; `criteria` may say what true and false mean."""

    type: Literal["noul"]
    instructions: Said = ""
    criteria: dict[str, JsonValue] | None = None


class SystemOneChoice(Shape):
    """Which of some options: each with what it means, or null."""

    type: Literal["choice"]
    instructions: Said = ""
    criteria: Annotated[dict[str, JsonValue], Field(min_length=2, max_length=MOST_CHOICES)]


class SystemOneScore(Shape):
    """Which of some levels, the lowest first."""

    type: Literal["score"]
    instructions: Said = ""
    criteria: Annotated[list[str], Field(min_length=2, max_length=MOST_CHOICES)]

    @field_validator("criteria")
    @classmethod
    def _differ(cls, criteria: list[str]) -> list[str]:
        return _all_different(criteria, criteria)


SystemOneQuestion = Annotated[Noul | SystemOneChoice | SystemOneScore, Field(discriminator="type")]


class SystemOneRequest(Shape):
    """Questions about a state, under ids of one's own; a state is the input's text, or an object with `input`."""

    model: Name | None = None
    state: Text | Row
    questions: Annotated[dict[Name, SystemOneQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)]


class NoulAnswer(BaseModel):
    """How probable it is that it is true."""

    type: Literal["noul"] = "noul"
    noul: float


class SystemOneChosen(BaseModel):
    """The most probable option; confidence as in `ChoiceAnswer`."""

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


# --- /v1/chat/completions, /v1/completions, /v1/models


class StreamOptions(Shape):
    """What a stream ends with."""

    include_usage: bool = False


class _Answering(Shape):
    """What both endpoints take: the answer is the model's own, the most probable one."""

    model: Name
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    temperature: Literal[0] | float | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    user: str | None = None

    @field_validator("temperature")
    @classmethod
    def _greedy(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("the answer is the most probable one, so temperature must be 0 or left out")
        return value

    @model_validator(mode="after")
    def _streamed(self) -> Any:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options must come with stream")
        return self


class ChatText(Shape):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ChatMessage(Shape):
    """The input: demonstrations and instruction are the model's own."""

    role: Literal["user"]
    content: Text | Annotated[list[ChatText], Field(min_length=1)]
    name: str | None = None


class ChatRequest(_Answering):
    """An input as the only message of a chat."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _asked_for(self) -> Any:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs must come with logprobs")
        return self


class CompletionRequest(_Answering):
    """One or more inputs as prompts."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TopLogprob(BaseModel):
    """A label in the place of a token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The answer in the place of a token, with the most probable labels."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """A label counts as one token: its log-probability is the log of the label's calibrated probability."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The answer; where the model is not sure enough there is none, and `refusal` says so."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None


class ChatChoice(BaseModel):
    """The answer; `length` where a written one came to no end."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None = None


class PromptDetails(BaseModel):
    """Tokens that were not run, as they were remembered."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatAnswer(BaseModel):
    """A chat's answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(BaseModel):
    """A label counts as one token, as in `ChatLogprobs`."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """The answer to a prompt; "unsure" where the model is not sure enough."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: CompletionLogprobs | None = None


class CompletionAnswer(BaseModel):
    """The answers to the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelCard(BaseModel):
    """What is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["kshot"] = "kshot"


class ModelList(BaseModel):
    """The only model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


# --- /about, /health, errors


class About(BaseModel):
    """What the model does."""

    model: str
    kind: str
    labels: list[str]
    instruction: str
    recipe: str
    abstains_below: float | None


class Health(BaseModel):
    """Whether it answers."""

    status: Literal["ok"] = "ok"
    model: str
    waiting: int


class ErrorText(BaseModel):
    """What must hold, what was got, what to do."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """Why a request was not answered."""

    error: ErrorText
