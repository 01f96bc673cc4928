"""The verbs `notes …`: a saved model is corrected by a sentence."""

from typing import TYPE_CHECKING, Annotated

import typer

from kshot.cli.options import AllowCodeOption, JsonOption
from kshot.cli.output import guarded, print_json, stderr, stdout
from kshot.core.errors import UserError

if TYPE_CHECKING:
    pass

app = typer.Typer(
    help="Correct an adapted model by sentences. Questions that they bear on are answered from them.",
    no_args_is_help=True,
)

FolderArgument = Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")]


@app.command()
@guarded
def add(
    folder: FolderArgument,
    notes: Annotated[list[str] | None, typer.Argument(metavar="[NOTE]...", help="A sentence each.")] = None,
    file: Annotated[str | None, typer.Option(help="More notes: a text with one a line, or JSON lines.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Tell a question notes that are like it by more than this; see `notes try`.")
    ] = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add notes to a saved model.

    It is written anew as a whole, and `kshot serve` reads it when it starts.
    """
    from kshot.adapted.folder import rewrite
    from kshot.adapted.noted import with_notes
    from kshot.methods.composers.kept_notes import notes_of

    every = [*(notes or ()), *(notes_of(file) if file else ())]
    if not every:
        raise UserError("notes add must be given a sentence, or --file with some; got none. Give one.")
    changed = rewrite(
        folder, lambda recipe, task: with_notes(recipe, task, every, threshold=threshold), allow_code=allow_code
    )
    _tell(changed.said, changed.notes, as_json)


@app.command("try")
@guarded
def try_notes(
    folder: FolderArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What the model would be asked.")],
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how like a question each note is, and which are told.

    No language model is asked.
    """
    from kshot.adapted.folder import saved_recipe, saved_task
    from kshot.adapted.noted import notes_in, tried
    from kshot.core.types import Question

    recipe = saved_recipe(folder, allow_code=allow_code)
    found, numbers = tried(recipe, saved_task(folder), Question(question, "asked")), notes_in(recipe)
    rows = [
        {"number": numbers.index(note) + 1, "note": note, "likeness": round(likeness, 3), "said": note in found.said}
        for note, likeness in found.notes
    ]
    if as_json:
        print_json({"threshold": found.limit, "notes": rows})
        return
    for row in rows:
        said = ", is said" if row["said"] else ""
        stdout.print(f"{row['number']}: {row['note']} (likeness {row['likeness']:.2f}{said})")
    if not found.said:
        stderr.print(f"none is said: the likeness of the best must be above {found.limit:.2g}")


@app.command("list")
@guarded
def list_notes(folder: FolderArgument, allow_code: AllowCodeOption = False, as_json: JsonOption = False) -> None:
    """List a saved model's notes with their numbers."""
    from kshot.adapted.folder import saved_recipe
    from kshot.adapted.noted import counts_for, notes_in

    notes = notes_in(saved_recipe(folder, allow_code=allow_code))
    overruled = counts_for(notes)
    if as_json:
        rows = [{"number": i, "note": note} for i, note in enumerate(notes, 1)]
        print_json([row | ({"instead": overruled[i] + 1} if i in overruled else {}) for i, row in enumerate(rows)])
        return
    for i, note in enumerate(notes):
        stdout.print(f"{i + 1}: {note}" + (f" (note {overruled[i] + 1} counts instead)" if i in overruled else ""))
    if not notes:
        stderr.print("no notes; `kshot notes add` adds some")


@app.command()
@guarded
def remove(
    folder: FolderArgument,
    number: Annotated[int, typer.Argument(metavar="N", help="The note's number in `kshot notes list`.")],
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a note from a saved model.

    Those after it move up by one.
    """
    from kshot.adapted.folder import rewrite
    from kshot.adapted.noted import without_note

    changed = rewrite(folder, lambda recipe, _: without_note(recipe, number), allow_code=allow_code)
    _tell(changed.said, changed.notes, as_json)


def _tell(said: tuple[str, ...], notes: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json({"said": list(said), "notes": list(notes)})
        return
    for sentence in said:
        stdout.print(sentence)
