"""The verb `evaluate`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kshot.cli.options import (
    AbstainOption,
    AllowCodeOption,
    ApiOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KindOption,
    OtherDtypeOption,
    RevisionOption,
    SkipBadRowsOption,
    TaskArgument,
    TrustOption,
    abstaining,
    load_asked,
    load_named,
    load_task,
    placing,
)
from kshot.cli.output import TerminalProgress, guarded, print_json, stdout, tell_paid
from kshot.core.errors import UserError
from kshot.core.paths import path_of

RECIPE = "recipe:"


@guarded
def evaluate(
    system: Annotated[
        str, typer.Argument(metavar="DIR", help="An adapted model, a finished run, or recipe:RECIPE, with --model.")
    ],
    task: TaskArgument,
    limit: Annotated[int | None, typer.Option(help="Only the first so many test rows.")] = None,
    suite: Annotated[str | None, typer.Option(help="An evaluator, such as letter-case or ./mine.py:Mine.")] = None,
    against: Annotated[
        str | None, typer.Option(help="With --suite: another system that is asked the same, as in DIR.")
    ] = None,
    abstain: AbstainOption = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    skip_bad_rows: SkipBadRowsOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="The language model: of a recipe; of DIR, where it is not found any more (as saved)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For a recipe (0).")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    api: ApiOption = None,
    allow_code: AllowCodeOption = False,
    allow_other_dtype: OtherDtypeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure an adapted model on a task's test rows.

    Of a single file all rows count.

    With recipe:RECIPE a recipe is measured that has learnt the task's training rows.
    """
    from kshot.adapted.folder import is_loaded_here, load, saved_task
    from kshot.evaluators import EVALUATORS
    from kshot.reports.suite_record import read_suites
    from kshot.verbs.evaluate import evaluate as run_suite
    from kshot.verbs.evaluate import fitted, keep, load_models_of

    if suite:
        EVALUATORS.build(suite)  # before a model is loaded
    if suite and abstain is not None:
        raise UserError("--abstain must come without --suite, which looks at all answers; leave one of them out.")
    if against and not suite:
        raise UserError("--against must come with --suite, which says what both systems are asked; add one.")
    recipe, is_recipe = _recipe_of(system)
    if is_recipe and model is None:
        raise UserError(
            "--model must be given with recipe:RECIPE: a hub id or folder, demo, gguf:FILE, tiny or scripted."
        )
    if seed is not None and not (is_recipe or (against or "").startswith(RECIPE)):
        raise UserError("--seed must come with recipe:RECIPE; a saved model has its own seed. Leave it out.")
    if suite and not is_recipe:
        read_suites(path_of(system))  # what is to be added to, before anything is asked
    known = None if is_recipe else saved_task(system)
    loaded = (
        load_asked(task, columns, skip_bad_rows, known=known, kind=kind)
        if known
        else load_task(task, columns, kind, skip_bad_rows)
    )
    with TerminalProgress() as progress:
        how: dict[str, Any] = {"seed": seed or 0, "progress": progress}
        placed = placing(device, dtype, revision, trust_remote_code, allow_code, allow_other_dtype)
        placed |= {"api": api}
        others = {name: placed[name] for name in ("device", "dtype", "trust_remote_code", "api")}
        traces = load_models_of(suite, **others) if suite else None  # before a recipe is fitted
        apart = {name: value for name, value in placed.items() if not name.startswith("allow_")}
        named = load_named(model, **apart) if is_recipe else None
        adapted = fitted(recipe, loaded, named, **how) if is_recipe else load(system, model=model, **placed)
        systems = [adapted]
        if suite:
            other, other_is_recipe = _recipe_of(against or "")
            allowed: dict[str, Any] = {"allow_code": allow_code, "allow_other_dtype": allow_other_dtype}
            if against and not other_is_recipe and is_loaded_here(against):
                allowed |= {"device": device, "trust_remote_code": trust_remote_code}
            own, base = adapted.fitted.model, adapted.fitted.untrained or named
            if other_is_recipe and base is None and model:  # beside a classifier, which has none
                base = load_named(model, **apart)
            layout = own.layout.record["layout"] if own else "auto"  # recipes are compared, not layouts
            beside = (
                fitted(other, loaded, base, layout=layout, **how)
                if other_is_recipe
                else against and load(against, **allowed)
            )
            systems += [beside] if beside else []
            result = run_suite(
                adapted, loaded, suite, against=beside or None, limit=limit, traces=traces, progress=progress
            )
        else:
            result = abstaining(adapted, abstain).evaluate(loaded, limit=limit, progress=progress)
        tell_paid(*systems)
    _print(result, bool(suite), as_json)
    if suite and not is_recipe:  # told already, where it cannot be kept
        keep(path_of(system), loaded.name, result, against=against, of=adapted.choice.get("recipe"))


def _recipe_of(system: str) -> tuple[str, bool]:
    """Return a recipe that is named in place of a saved model, and whether it is one."""
    return system.removeprefix(RECIPE), system.startswith(RECIPE)


def _print(result: Mapping[str, Any], is_report: bool, as_json: bool) -> None:
    from kshot.reports.suite_record import in_lines

    if as_json:
        print_json(result)
    elif is_report:
        for line in in_lines(result):
            stdout.print(line)
    else:
        stdout.print(
            f"{result['metric_name']} {result['metric']:.3f} ({result['low']:.3f} - {result['high']:.3f}), "
            f"{result['bits_per_example']:.2f} bits/example, on {result['n']} test rows"
        )
        others = {name: three for name, three in result["metrics"].items() if name != result["metric_name"]}
        if others:
            told = (f"{name} {value:.3f} ({low:.3f} - {high:.3f})" for name, (value, low, high) in others.items())
            stdout.print("; ".join(told))
        if "abstention" in result:
            stdout.print(_in_words(result["abstention"], result["n"]))


def _in_words(abstention: Mapping[str, Any], n: int) -> str:
    """Return how a model that abstains has done, in a sentence."""
    share, right = (
        f"{100 * value:.1f} % ({100 * low:.1f} - {100 * high:.1f})" if value is not None else ""
        for value, low, high in (abstention["share"], abstention["precision"])
    )
    wanted = f"{100 * abstention['wanted']:g} % were wanted"
    if not abstention["n_answered"]:
        return f"unsure of all {n} rows; {wanted}"
    return f"answered {share} of the rows; of these answers {right} are right, {wanted}"
