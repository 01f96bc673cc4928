"""What is searched and what is searched for: the examples of one or many tasks, and how encoders read them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Example, Question, Task, named_choice
from kshot.tasks.validate import without_duplicates


@dataclass(frozen=True)
class Item:
    """An example of a task, as a query or as a document."""

    task: Task = field(repr=False)
    example: Example

    @property
    def key(self) -> str:
        """Its name among those of all tasks."""
        return f"{self.task.name}/{self.example.id}"

    @property
    def query(self) -> str:
        """What an encoder reads of a query: the input with its context, without choices that it lists."""
        return replace(self.example, input=unlisted(self.task, self.example)).text

    @property
    def answer(self) -> str:
        """The output; of a letter the choice that it stands for."""
        if self.task.kind == "multiple_choice" and self.task.choices_in_input:
            return self.example.choices[self.task.candidates(self.example).index(self.example.output)]
        return self.example.output

    @property
    def document(self) -> str:
        """What an encoder reads of a document: the input with its context, then the answer."""
        return f"{self.query}\n{self.answer}"


def option_texts(task: Task) -> Task:
    """Return a multiple-choice task without letters: the choices leave the input, and the output is one's text.

    Other tasks are returned as they are.

    Source: Wang, Yang and Wei (2024), whose multiple-choice prompts hold the text of the right option alone.
    """
    if task.kind != "multiple_choice" or not task.choices_in_input:
        return task

    def plain(e: Example) -> Example:
        return replace(e, input=unlisted(task, e), output=Item(task, e).answer, references=())

    train, test = (tuple(map(plain, split)) for split in (task.train, task.test))
    return replace(task, train=train, test=test, choices_in_input=False)


def unlisted(task: Task, e: Example | Question) -> str:
    """Return the input without the choices that stand at its end."""
    if task.kind != "multiple_choice" or not task.choices_in_input:
        return e.input
    text, bare = e.input.rstrip(), task.letter_form.strip("()[].:")
    for form in (f"({bare})", f"{bare}.", f"{bare})", f"{bare}:"):
        lines = [f"{named_choice(form, i)} {choice}" for i, choice in enumerate(e.choices)]
        text = text.removesuffix("\n".join(lines))
    return text.rstrip().removesuffix("Options:").rstrip()


def read_pool(task: Task) -> list[Item]:
    """Return a task's training examples as documents, without repeated ones.

    Raises:
        UserError: All have the same label: nothing tells a helpful one from others.
    """
    kept, _ = without_duplicates(task.train)
    if task.kind == "classification" and len({e.output for e in kept}) < 2:
        raise UserError(
            f"A task must have examples of two labels or more to learn a retriever; all of '{task.name}' are "
            f"'{kept[0].output}'."
        )
    return [Item(task, e) for e in kept]


def read_pools(tasks: Sequence[Task]) -> dict[str, list[Item]]:
    """Return each task's documents by its name.

    Raises:
        UserError: Two tasks with the same name, or as `read_pool`.
    """
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Tasks must have different names; '{name}' comes {names.count(name)} times.")
    return {task.name: read_pool(task) for task in tasks}


def training_queries(pool: Sequence[Item], most: int, *, seed: int) -> list[Item]:
    """Return at most `most` of a pool's items, drawn at random: equal caps keep large tasks from ruling."""
    if not pool:
        return []
    order = generator(seed, "queries", pool[0].task.name).permutation(len(pool))[:most]
    return [pool[i] for i in order]
