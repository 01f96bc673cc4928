"""The verb `study`."""

from typing import Annotated

import typer

from kshot.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    TrustOption,
    load_named,
)
from kshot.cli.output import TerminalProgress, guarded, print_json, stdout
from kshot.core.errors import UserError


@guarded
def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Such as label-frequencies, or ./mine.py:Mine.")],
    model: ModelOption = None,
    recipes: Annotated[str, typer.Option(help="Names with settings.")] = "majority,zero-shot,all-past",
    n: Annotated[int, typer.Option("-n", help="Training examples of a task.")] = 32,
    tasks: Annotated[int, typer.Option(help="How many tasks are drawn.")] = 4,
    shots: Annotated[int, typer.Option(help="Most demonstrations in a prompt.")] = 16,
    seed: Annotated[int, typer.Option(help="For tasks and recipes.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hold recipes against the best possible answer on made-up tasks where that is known."""
    from kshot.recipes.grammar import parse_recipes
    from kshot.studies import STUDIES
    from kshot.verbs.study import study as run_study

    STUDIES.build(name)  # these two before a model is loaded
    parse_recipes(recipes, shots=shots)
    language_model = load_named(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    if language_model is None:
        raise UserError("--model must be given: a hub id or folder, demo, gguf:FILE, tiny or scripted.")
    sizes = {"n": n, "tasks": tasks, "shots": shots, "seed": seed}
    with TerminalProgress() as progress:
        found = run_study(name, language_model, recipes=recipes, progress=progress, **sizes).to_json()
    if as_json:
        print_json(found)
        return
    stdout.print(f"{found['tasks']} tasks of {found['n']} examples; bits an example, in all and in the last quarter")
    for row in found["rows"]:
        line = f"{row['recipe']:30} {row['bits_per_example']:.3f} {row['late_bits']:.3f}"
        stdout.print(f"{line}, {row['above_best']:+.3f} above the best")
