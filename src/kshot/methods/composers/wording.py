"""How a task is worded: what question and answer are called, and what is said before them.

Which words a small model understands best differs from task to task (JOURNAL.md, 2026-11-22), so the race can choose:
`random:composer=wording(labels=true/false)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from kshot.core.fields import setting
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.contracts import Composer

NAMES = {
    "text-label": ("Text", "Label"),
    "input-output": ("Input", "Output"),
    "question-answer": ("Question", "Answer"),
    "bare": ("", "Answer"),
}


@dataclass(frozen=True)
class Wording(Composer):
    """Say instruction, demonstrations and question, in words of choice; without settings as they are said by default.

    What question and answer are called is seen where a layout names them: in plain prompts and in the layout "block".
    In turns of a chat they have no names, so `words` changes the list of labels alone.

    Attributes:
        words: "text-label", "input-output", "question-answer" or "bare", in which the question has no name and the
            answer is called "Answer"; "auto" goes by the kind of the task: text and label for classification, input
            and output for generation and parsing, else question and answer.
        instruction: Whether the task's instruction is said; a task may have none.
        labels: Whether the labels are listed after the instruction, in a paragraph of their own: "Labels: tech, sport",
            or "Answers: …" where an answer is called that; not to a question that does not fit the model with them.
            Nothing is listed where the task has no labels, as in open tasks, and where each row brings its own choices.

    Source: Sclar et al. (2024), Quantifying Language Models' Sensitivity to Spurious Features in Prompt Design,
    https://arxiv.org/abs/2310.11324.
    Differs: a few wordings that are raced on the stream, instead of formats drawn at random; punctuation stays.

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"), instruction="Choose.")
        >>> [piece.text for piece in Wording(labels=True).compose(task, (), Question("1", "x")).pieces]
        ['Choose.', 'Labels: a, b', '1']
    """

    multi_label = True

    words: str = setting("auto", choices=("auto", *NAMES))
    instruction: bool = True
    labels: bool = False

    @property
    def shorter(self) -> Self | None:
        """It without the list of labels."""
        return replace(self, labels=False) if self.labels else None

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with all demonstrations in the order given, the last one next to the question."""
        usual = UsualWording().compose(task, shown, question)
        given, wanted = NAMES.get(self.words, (usual.given, usual.wanted))
        opening = usual.opening if self.instruction else ()
        if self.labels and task.labels:
            opening = (*opening, Piece("instruction", f"{wanted}s: {', '.join(task.labels)}"))
        rest = usual.pieces[len(usual.opening) :]
        return replace(usual, pieces=(*opening, *rest), given=given, wanted=wanted)
