"""The verb `distil`."""

from typing import Annotated, Any

import typer

from kshot.cli.options import (
    AllowCodeOption,
    BudgetOption,
    DryRunOption,
    JsonOption,
    MovedModelOption,
    PricesOption,
    TaskArgument,
    load_task,
)
from kshot.cli.output import print_json, resumable


@resumable
def distil(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    task: TaskArgument,
    student: Annotated[
        str | None, typer.Option(help="Another model that learns, such as a small one; by default that of DIR.")
    ] = None,
    settings: Annotated[str, typer.Option(help="Of the training, such as lr=1e-4/3e-4,steps=3.")] = "",
    inputs: Annotated[
        str | None, typer.Option(help="More inputs, without answers, that the recipe is asked about.")
    ] = None,
    budget: BudgetOption = None,
    prices: PricesOption = None,
    out: Annotated[str | None, typer.Option(help="The student's run folder.")] = None,
    dry_run: DryRunOption = False,
    model: MovedModelOption = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put an adapted model's demonstrations into the weights.

    A student learns to say the same without them.

    With --student the weights are those of another model, and that of DIR, which may be behind an API, teaches it.
    """
    from kshot.adapted.folder import load
    from kshot.cli.live import RaceProgress, print_run
    from kshot.cli.planned import print_plan
    from kshot.race.ranking import compared_by
    from kshot.verbs.adapt import run
    from kshot.verbs.distil import settings_of
    from kshot.verbs.prepare import prepare

    adapted = load(folder, model=model, allow_code=allow_code)
    learnt = adapted.fitted.task
    loaded = load_task(task, None, None if task.startswith("builtin:") else learnt.kind, None, learnt=learnt)
    how: dict[str, Any] = {"student": student, "settings": settings, "inputs": inputs, "out": out}
    prepared = prepare(settings_of(adapted, loaded, budget=budget, prices=prices, **how))
    if dry_run:
        print_plan(prepared, as_json=as_json)
        return
    by = compared_by(prepared.task, "metric")
    with RaceProgress(prepared.task.metrics[0], by) as progress:
        done = run(prepared, progress=progress)
    if as_json:
        print_json(done.to_json())
    else:
        print_run(done, prepared.task.metrics[0], by)
