"""The composer everybody starts with: instruction, demonstrations, query, in a fixed layout for base models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.core.types import Example, Kind, Prompt, Role, Segment, Task

# What input and output are called, chosen by the bits on training rows with the 270M model (JOURNAL.md, 2026-11-22).
WORDS: dict[Kind, tuple[str, str]] = {
    "classification": ("Text", "Label"),
    "multiple_choice": ("Question", "Answer"),
    "qa": ("Question", "Answer"),
    "math": ("Question", "Answer"),
    "generation": ("Input", "Output"),
    "parsing": ("Input", "Output"),
}


@dataclass(frozen=True)
class Template:
    r"""Lay out a prompt as blocks of two lines with an empty line between them.

    The lines are "Text: …" and "Label: …" for classification, "Question: …" and "Answer: …" for multiple choice, qa and
    math, "Input: …" and "Output: …" for generation and parsing. Every answer is
    followed by `terminator`, also the one that is scored: a label that is the beginning of another one ("yes",
    "yes sir") is then a different text.

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"), instruction="Say a or b.")
        >>> Template().compose(task, [Example("1", "a", "x")], Example("2", "", "y")).text
        'Say a or b.\n\nText: 1\nLabel: a\n\nText: 2\nLabel:'
    """

    terminator: str = "\n\n"

    @property
    def record(self) -> Mapping[str, str]:
        """The layout's name."""
        return {"layout": "plain"}

    def compose(self, task: Task, demonstrations: Sequence[Example], query: Example) -> Prompt:
        """Return the prompt with all demonstrations in the order given, the last one next to the query."""
        segments = [Segment("instruction", f"{task.instruction}\n\n")] if task.instruction else []
        for example in demonstrations:
            segments += self._question(task, example, "demonstration")
            segments.append(Segment("answer", self.answer(example.output)))
        return Prompt((*segments, *self._question(task, query, "query")))

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`."""
        return f" {text}{self.terminator}"

    def _question(self, task: Task, example: Example, role: Role) -> list[Segment]:
        context = [Segment("context", f"Context: {example.context}\n")] if example.context else []
        given, wanted = WORDS[task.kind]
        return [*context, Segment(role, f"{given}: {example.input}\n{wanted}:")]
