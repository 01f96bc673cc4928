"""What is sent to `/predict` and comes back, with what all endpoints share, as pydantic models.

They check, and the document shows them. What other servers have and an adapted model cannot honour is no field here,
so that it is refused and not overlooked.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from kshot.serve.bodies import Shape

MOST_INPUTS = 256

Text = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"\S")]
Name = Annotated[str, StringConstraints(max_length=200)]


class Row(Shape):
    """An input with more than its text."""

    input: Text
    context: Text | None = Field(None, description="a text that is not empty, or leave it out")
    choices: list[Text] | None = Field(None, description="a list of texts, or leave it out")
    id: Name | int | None = Field(None, description="a text or a whole number, or leave it out")


class PredictRequest(Shape):
    """Inputs to be answered.

    Attributes:
        show: Return the demonstrations that each answer was given after.
    """

    inputs: Annotated[list[Text | Row], Field(min_length=1, max_length=MOST_INPUTS)] = Field(
        description=f'a list of 1 to {MOST_INPUTS} inputs, each a text, or {{"input": text}} with "context" or '
        '"choices" where the task has them'
    )
    show: bool = Field(False, description="true or false")


class Shown(BaseModel):
    """A demonstration; its output is a list where any number of labels can be right."""

    input: str
    output: str | list[str]


class Predicted(BaseModel):
    """An answer.

    Attributes:
        answer: The most probable label or choice, or the written text, or the list of labels that are right; None where
            the model is not sure enough.
        probabilities: Of each label or choice, as they were measured; empty where answers are written.
        unsure: Whether it gives no answer, as it is not sure enough.
        cut_off: A written answer came to no end.
        disagreement: Which share of several contexts answers otherwise; None where there is one.
        stated: How sure a written answer says that it is, in 0..1; None where it says nothing.
        prompt_tokens: Of all its prompts.
        contexts: With `show`: the demonstrations of each prompt; of a combination those of one of its recipes.
        found: With `show`: what was found out about the input before it was asked, for each prompt, such as the notes
            that it was asked with.
    """

    answer: str | list[str] | None
    probabilities: dict[str, float]
    unsure: bool = False
    cut_off: bool = False
    disagreement: float | None = None
    stated: float | None = None
    prompt_tokens: int
    contexts: list[list[Shown]] | None = None
    found: list[dict[str, Any]] | None = None


class PredictAnswer(BaseModel):
    """Answers, in the order of the inputs."""

    model: str
    predictions: list[Predicted]


class About(BaseModel):
    """What the model does.

    Attributes:
        abstains_below: The probability below which it is unsure; 1 where nothing can be promised and it never answers,
            None where it always does.
        says_from: The probability from which on a label is said, where any number of them can be right; else None.
    """

    model: str
    kind: str
    labels: list[str]
    instruction: str
    recipe: str
    abstains_below: float | None
    says_from: float | None = None


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
