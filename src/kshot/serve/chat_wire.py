"""Chats and completions as they are asked and answered, in the shape of OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from kshot.serve.bodies import Shape
from kshot.serve.plain_wire import MOST_INPUTS, Name, Text


class StreamOptions(Shape):
    """What a stream ends with."""

    include_usage: bool = False


class _Answering(Shape):
    """What both endpoints take: the answer is the model's own, the most probable one."""

    model: Name
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = Field(1, description="1, or leave it out: there is one answer, the most probable one")
    temperature: Literal[0] | float | None = Field(None, description="0, or leave it out")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="a whole number from 1 on, or leave it out"
    )
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

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1)] = Field(
        description='one message alone, {"role": "user", "content": the input\'s text}: instruction and demonstrations '
        "are the model's own"
    )
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="a whole number up to 20, with logprobs true"
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _asked_for(self) -> Any:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs must come with logprobs")
        return self


class CompletionRequest(_Answering):
    """One or more inputs as prompts."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS)] = Field(
        description=f"an input's text, or a list of 1 to {MOST_INPUTS}"
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="a whole number up to 20")


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
