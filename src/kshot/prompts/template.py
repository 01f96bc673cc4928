"""The composer everybody starts with: instruction, demonstrations, query, in a fixed layout for base models."""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.errors import UserError
from kshot.core.types import Example, Kind, LanguageModel, Prompt, Role, Segment, Task

# What input and output are called. "Text" and "Label" cost fewer bits than other pairs on classification tasks with
# the 270M model (JOURNAL.md, 2026-11-22).
WORDS: dict[Kind, tuple[str, str]] = {"classification": ("Text", "Label")}
OTHER_WORDS = ("Input", "Output")


@dataclass(frozen=True)
class Template:
    r"""Lay out a prompt as blocks of two lines with an empty line between them.

    The lines are "Text: …" and "Label: …" for classification, "Input: …" and "Output: …" otherwise. Every answer is
    followed by `terminator`, also the one that is scored: a label that is the beginning of another one ("yes",
    "yes sir") is then a different text.

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"), instruction="Say a or b.")
        >>> Template().compose(task, [Example("1", "a", "x")], Example("2", "", "y")).text
        'Say a or b.\n\nText: 1\nLabel: a\n\nText: 2\nLabel:'
    """

    terminator: str = "\n\n"

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
        given, wanted = WORDS.get(task.kind, OTHER_WORDS)
        return [*context, Segment(role, f"{given}: {example.input}\n{wanted}:")]

    def compose_to_fit(
        self, task: Task, demonstrations: Sequence[Example], query: Example, model: LanguageModel
    ) -> tuple[Prompt, int]:
        """Compose, leaving out whole demonstrations from the front until the prompt fits the model's context.

        The number left out is rounded up to a sixteenth of the demonstrations, so that neighbours in a stream still
        share their beginning.

        Returns:
            The prompt, and how many demonstrations were left out.

        Raises:
            UserError: The query does not fit even without demonstrations.
        """
        n = sum(model.count_tokens(s.text) for s in self.compose(task, (), query).segments)
        longest = max(model.count_tokens(self.answer(c)) for c in task.candidates(query))
        room = model.max_tokens - 1 - longest - n  # one for the first token
        if room < 0:
            raise UserError(
                f"Each example must fit the model's context of {model.max_tokens} tokens; example '{query.id}' needs "
                f"{model.max_tokens - room} with the instruction. Shorten it, remove it, or use another --model."
            )
        sizes = [self._size(task, example, model) for example in demonstrations]
        excess, drop = sum(sizes) - room, 0
        while excess > 0:
            excess -= sizes[drop]
            drop += 1
        step = max(1, len(demonstrations) // 16)
        drop = min(len(demonstrations), -(-drop // step) * step)
        return self.compose(task, demonstrations[drop:], query), drop

    def _size(self, task: Task, example: Example, model: LanguageModel) -> int:
        question = sum(model.count_tokens(s.text) for s in self._question(task, example, "demonstration"))
        return question + model.count_tokens(self.answer(example.output))
