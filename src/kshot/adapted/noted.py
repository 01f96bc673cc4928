"""Notes on a recipe that has learnt: added and removed by a sentence, without learning anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kshot.core.errors import UserError
from kshot.core.types import Question, Task
from kshot.methods.composers.kept_notes import Notes
from kshot.methods.contracts import Composer
from kshot.recipes.recipe import Recipe
from kshot.retrieval.note_memory import NoteMemory, clean_note
from kshot.tasks.containers import check_question

AS_MEASURED = (
    "what was measured of the model, and its calibration, is from before; `kshot evaluate` measures it with the notes"
)


@dataclass(frozen=True)
class Noted:
    """A recipe with other notes.

    Attributes:
        recipe: The recipe.
        said: What a user should know of the change, a sentence each.
    """

    recipe: Recipe
    said: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """All of its notes."""
        return notes_in(self.recipe)


def notes_in(recipe: Recipe) -> tuple[str, ...]:
    """Return the notes of a recipe, in the order in which they came."""
    composer = recipe.part("composer")
    return (composer.notes if composer else None) or ()


def counts_for(notes: Sequence[str]) -> dict[int, int]:
    """Return which notes say otherwise than a later one, which counts instead: place -> the later one's, from 0."""
    return dict(NoteMemory().add(notes).overruled)


@dataclass(frozen=True)
class Tried:
    """What a question would be told of the notes.

    Attributes:
        limit: The likeness that the best note must be above.
        notes: Each with its likeness, the most like first.
        said: Those that are said.
    """

    limit: float
    notes: tuple[tuple[str, float], ...]
    said: tuple[str, ...]


def tried(recipe: Recipe, task: Task, question: Question) -> Tried:
    """Return which notes a question would be told, by their likeness; no language model is asked.

    Raises:
        UserError: The recipe keeps no notes, or something else than likeness decides; or the question is no text.
    """
    check_question(question.input, "QUESTION")
    composer = recipe.part("composer")
    if not isinstance(composer, Notes) or not composer.notes:
        raise UserError("There must be notes to try; the model has none. `kshot notes add` adds some.")
    notes = composer.likeness_of_all(task, question)
    return Tried(composer.limit, tuple(notes), tuple(composer.said_of(notes)))


def with_notes(recipe: Recipe, task: Task, notes: Sequence[str], *, threshold: float | None = None) -> Noted:
    """Return a recipe with more notes; one without a composer that keeps notes gets one around its own.

    Args:
        recipe: The recipe.
        task: Its task.
        notes: What is added.
        threshold: What the relevance of notes must be above from now on, so that a question is told them; None leaves
            it as it is.

    Raises:
        UserError: It asks no language model, combines recipes, or calibrates by inputs without content; or a note
            cannot be used.
    """
    if isinstance(notes, str):
        raise UserError("Notes must be a list of texts; got one text. Put it into a list.")
    if not notes:
        raise UserError("There must be notes to add; got none. Give a sentence.")
    composer = _keeping(recipe, task)
    before = composer.notes or ()
    new = [clean_note(note) for note in notes]
    changed = composer.noting((*before, *new))
    if threshold is not None:
        if not isinstance(changed, Notes):
            raise UserError("A threshold is for composer=notes; the model's notes are kept by another. Leave it out.")
        changed = replace(changed, threshold=f"{threshold:g}")
    after, said = changed.notes or (), []
    for note in dict.fromkeys(new):
        if note in before and note not in after[len(before) :]:
            said.append(f"note {before.index(note) + 1} says it already: {note}")
    overruled = counts_for(after)
    said += [f"note {i + 1}: {after[i]}" for i in range(len(before), len(after))]
    said += [
        f"note {late + 1} counts instead of note {early + 1}, which says otherwise: {after[early]}"
        for early, late in overruled.items()
        if late >= len(before)
    ]
    if len(after) > len(before) or threshold is not None:
        said += [*([_when_said(changed)] if isinstance(changed, Notes) else []), AS_MEASURED]
    return Noted(recipe.having(composer=changed), tuple(said))


def _when_said(composer: Notes) -> str:
    if composer.steps == 1:
        return f"each question is told the {composer.k} notes that are most like it"
    relevance = "likeness to a note" if composer.gate == "likeness" else "relevance of the notes"
    return (
        f"a question is told notes where the {relevance} is above {composer.limit:.2g}; `kshot notes try` shows it for "
        "a question, --threshold sets it"
    )


def without_note(recipe: Recipe, number: int) -> Noted:
    """Return a recipe without one of its notes, by its number from 1.

    Raises:
        UserError: There is no such note.
    """
    notes = notes_in(recipe)
    if not 1 <= number <= len(notes):
        has = f"notes 1 to {len(notes)}" if notes else "no notes"
        raise UserError(f"There must be a note {number} to remove; the model has {has}. `kshot notes list` shows them.")
    changed = recipe.part("composer").noting((*notes[: number - 1], *notes[number:]))
    before, after = (set(some) - {some[i] for i in counts_for(some)} for some in (notes, changed.notes))
    again = [note for note in notes if note in after - before]
    said = (f"note {number} is removed: {notes[number - 1]}", *(f"it counts again: {note}" for note in again))
    return Noted(recipe.having(composer=changed), (*said, AS_MEASURED))


def _keeping(recipe: Recipe, task: Task) -> Composer:
    """Return the composer that keeps the notes of a recipe: its own, or one around it."""
    if "classifier" in recipe.parts:
        raise UserError(
            f"Notes are said to a language model; '{recipe.name}' asks none. Adapt with recipes that ask one, such as "
            "random."
        )
    if recipe.members:
        raise UserError(
            f"Notes are kept by one recipe; '{recipe.name}' combines several. Adapt with one of them alone, or name it "
            "with composer=notes."
        )
    composer = recipe.part("composer")
    if composer is None or composer.notes is None:
        notes = Notes() if composer is None else Notes(inner=composer)
        composer = replace(notes, lookup="bm25") if notes.missing_package else notes
    if not recipe.having(composer=composer).suits(task):
        raise UserError(
            f"Notes need a recipe that is not calibrated by inputs without content, as notes are about some; "
            f"'{recipe.name}' is. Adapt with another calibration."
        )
    return composer
