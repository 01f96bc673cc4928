"""Let a saved model forget: it answers some questions no more, and all others as before."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from kshot.adapted.folder import check_outside, check_replaceable, save
from kshot.adapted.model import AdaptedModel
from kshot.adapted.recall import recall, recovered
from kshot.core.call import parse_call
from kshot.core.errors import UserError, keeping
from kshot.core.lessons import DivergedError
from kshot.core.models import Capability, ScoringModel
from kshot.core.paths import path_of
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import digest, generator
from kshot.core.termination import interrupted_by_sigterm
from kshot.core.types import Example, Task
from kshot.core.version import __version__
from kshot.evaluators.forgetting import forgetting
from kshot.learners.unlearning import can_continue, nearest, unlearnt, without
from kshot.measures.samples import primary_metric
from kshot.methods.teachers.bidirectional import FORGET
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.store.run_folder import alone_in, read_object
from kshot.store.summed import SUM, fits, write_summed
from kshot.tasks.built import check_task
from kshot.tasks.load import load_task
from kshot.tasks.validate import duplicate_key, without_duplicates

USUAL = {"lr": "1e-4", "rank": "8", "steps": "5", "batch": "8", "teacher": "unlearn"}
HELD_OUT = 4  # one row in so many of what is to stay is measured, and not learnt from
ENOUGH = 8  # rows, so that some are held out
GROUPS = ("forget", "attack", "retain", "held_out", "neighbour")
_NAMED = 5  # rows in a message

Rows = Task | str | Path | Sequence[Example]


@dataclass(frozen=True)
class Unlearnt:
    """A model that has forgotten.

    Attributes:
        model: The adapted model with its new weights.
        report: How well it answered before and after, as JSON: see `unlearn`.
        folder: Where it was saved; None where it was not.
    """

    model: AdaptedModel
    report: Mapping[str, Any]
    folder: Path | None = None


def unlearn(
    adapted: AdaptedModel,
    forget: Rows,
    *,
    retain: Rows | None = None,
    settings: str = "",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Unlearnt:
    """Train an adapted model until it does not answer the questions of some rows any more.

    Demonstrations that ask them are not shown any more either. The report has for each group of rows `n`, and the
    task's metric `before` and `after`, with `bits_before` and `bits_after` of the known answers:

    * forget: the rows that are to be forgotten;
    * attack: of these, the share whose answer the model completes where its beginning is given (no bits);
    * retain: the rows that are to stay; `held_out` those of them that were not learnt from, a quarter where there are 8
      or more; `neighbour` those that are most like the rows to forget by their words.

    Groups without rows are left out. `general` is the perplexity of plain English text, before and after.

    With `out`, training and report are kept beside it until the end, and the same call goes on where it was stopped:
    at most the training of the last 20 seconds is lost.

    Args:
        adapted: Of an open task; prompted, or with LoRA or full weights of its own, which are trained further. It stays
            as it is.
        forget: Questions with the answers that are to be forgotten: a file of rows, a task's training rows, or
            examples.
        retain: Rows of the same kind that are to stay; by default those that the model shows.
        settings: Of the training, such as "lr=3e-4,steps=10" (steps for each row that is to be forgotten), or
            "teacher=unlearn(weight=1)".
        out: Where the model is saved; by default it is not.
        progress: Told how far it is.

    Raises:
        UserError: A closed task, a model that cannot be trained so, rows that are none or that overlap, or unknown
            settings.
        DivergedError: The learning rate is too large.
        StorageError: `out`, or what is kept beside it, could not be written.
    """
    progress = progress or Silence()
    _check_model(adapted)
    recipe = _recipe(settings, adapted)
    gone = _rows(adapted, forget, "forget")
    place = None if out is None else path_of(out)
    if place:
        check_replaceable(place)
        check_outside(place)
    bare, n_shown = without(adapted.fitted, gone)
    kept = _rows(adapted, retain, "retain") if retain is not None else _renamed(bare.pool, "retain")
    _check_apart(gone, kept)
    for note in _notes(adapted, gone, n_shown, has_retain=bool(kept)):
        progress.say(f"note: {note}")
    held = _held_out(len(kept), adapted.seed)
    learnt = [replace(e, meta={**e.meta, FORGET: False}) for i, e in enumerate(kept) if i not in held]
    marked = [replace(e, meta={**e.meta, FORGET: True}) for e in gone]
    tuner, teacher = recipe.part("tuner"), recipe.part("teacher")
    groups = {
        "forget": range(len(gone)),
        "retain": range(len(gone), len(gone) + len(kept)),
        "held_out": [len(gone) + i for i in sorted(held)],
        "neighbour": [len(gone) + i for i in sorted(set(nearest(gone, kept)))],
    }
    with _kept(place, _key(adapted, recipe, gone, kept) if place else "") as (state, measured):
        found = unlearnt(bare, marked, learnt, tuner, teacher, batch=tuner.batch, progress=progress, kept=state)
        after = AdaptedModel(found, choice={})
        report = _measured_before(measured) if measured else None
        if report is None:
            report = _report(adapted, after, (*gone, *kept), groups, gone, progress)
            report |= {"demonstrations_left_out": n_shown, "settings": recipe.name.partition(":")[2]}
            if measured:
                write_summed(measured, report)
        model = replaced(after, adapted, report)
        if place:
            save(model, place)
    return Unlearnt(model, report, place)


@contextmanager
def _kept(place: Path | None, key: str) -> Iterator[tuple[Path | None, Path | None]]:
    """Name the files beside `place` that keep training and report until the end; without a place nothing is kept."""
    if place is None:
        yield None, None
        return
    place = Path(os.path.realpath(place))
    folder = place.with_name(f".{place.name}.kept")
    with interrupted_by_sigterm(), alone_in(folder), keeping():
        state, is_done = folder / f"{key}.safetensors", False
        try:
            yield state, folder / f"{key}.json"
            is_done = True
        except DivergedError:  # it would again
            state.unlink(missing_ok=True)
            raise
        finally:
            if is_done or not any(folder.glob("*.safetensors")):
                shutil.rmtree(folder, ignore_errors=True)


def _measured_before(file: Path) -> dict[str, Any] | None:
    """Return the report that is kept; None where there is none that is whole."""
    found = read_object(file) or {}
    said = found.pop(SUM, None)
    return found if fits(found, said) else None


def _key(adapted: AdaptedModel, recipe: Recipe, forget: Sequence[Example], retain: Sequence[Example]) -> str:
    """Identify all that the training and the report depend on."""
    fitted = adapted.fitted
    assert fitted.model is not None
    asked = fitted.model.model.fingerprint, dict(fitted.model.layout.record), fitted.model.answer_tokens
    rows = [replace(fitted.task, train=tuple(some), test=()).fingerprint for some in (forget, retain, fitted.pool)]
    own = fitted.recipe.fingerprint, fitted.notes, fitted.contexts, dict(fitted.bits), fitted.calibration.record()
    return digest(__version__, asked, rows, own, fitted.seed, recipe.fingerprint)[:16]


def replaced(after: AdaptedModel, before: AdaptedModel, report: Mapping[str, Any]) -> AdaptedModel:
    """Return the model with its record: what was measured of the one before stands under `before`."""
    choice = {"in_words": in_words(report), "unlearnt": dict(report), "before": before.choice}
    return AdaptedModel(after.fitted, choice=choice)


def in_words(report: Mapping[str, Any]) -> str:
    """Return what was forgotten, and what stayed, in a sentence."""
    metric, said = report["metric"], []
    names = {"forget": "what it was to forget", "attack": "that with the beginning of the answer given",
             "retain": "what was to stay", "neighbour": "those of it that are most like what it forgot"}  # fmt: skip
    for group, name in names.items():
        if one := report.get(group):
            said.append(f"{name}: {one['before']:.3f} before, {one['after']:.3f} now ({one['n']} rows)")
    return f"It has forgotten. {metric} of {'; '.join(said)}."


def _check_model(adapted: AdaptedModel) -> None:
    """Refuse a model whose answers are no texts, or that cannot be trained so."""
    task, recipe, model = adapted.task, adapted.recipe, adapted.fitted.untrained
    if not task.is_open:
        raise UserError(
            "unlearn needs a task whose answers are texts, as one of them has to tell nothing; this one is "
            f"{task.kind}, with a list of answers. Leave the rows out of the training examples, and adapt again."
        )
    own, what = recipe.part("tuner"), None
    if model is None:
        what = "asks no language model"
    elif adapted.fitted.members:
        what = "combines several recipes"
    elif "steerer" in recipe.parts:
        what = "steers the model, which would be another one then"
    elif own and not can_continue(own.training):
        what = f"has trained a module beside the model ({own.weights})"
    elif Capability.GRADIENTS not in model.capabilities:
        what = f"asks '{model.name}', whose weights cannot be trained"
    if what:
        raise UserError(
            f"To forget, an adapted model must have weights that can be trained: be prompted, or have LoRA or full "
            f"weights; '{recipe.name}' {what}. Adapt with a recipe such as zero-shot, random or fine-tune."
        )


def _recipe(settings: str, adapted: AdaptedModel) -> Recipe:
    """Return how it is trained: a tuner and a teacher, with one value for every setting."""
    given = parse_call(f"fine-tune:{settings}" if settings else "fine-tune").settings
    own = adapted.recipe.part("tuner")
    if own and (fixed := [key for key in ("weights", "rank") if key in given]):
        raise UserError(
            f"--settings must leave {fixed[0]} out, as the weights of '{adapted.recipe.name}' are trained further; got "
            f"{fixed[0]}={given[fixed[0]]}."
        )
    every = ",".join(f"{key}={value}" for key, value in {**USUAL, **given}.items())
    recipe = parse_recipe(f"fine-tune:{every}", shots=1, raced=False)
    if recipe.parts.keys() != {"tuner", "teacher"} or recipe.part("tuner").is_guided:
        odd = sorted(recipe.parts.keys() - {"tuner", "teacher"}) or ["guidance"]
        raise UserError(
            f"--settings must be those of fine-tune and its teacher; got {odd[0]}, of which forgetting has no use. "
            "Leave it out."
        )
    return recipe


def _rows(adapted: AdaptedModel, given: Rows, what: str) -> tuple[Example, ...]:
    """Return different rows that the model can be asked, with ids of their own."""
    own = adapted.task
    if isinstance(given, str | Path):
        task = load_task(given, kind=own.kind, learnt=own)
        rows = task.train
    elif isinstance(given, Task):
        task, rows = given, given.train
    else:
        task, rows = replace(own, name=what, train=()), tuple(given)
    if not rows:
        raise UserError(f"The rows to {what} must be one or more; got none. Give some.")
    if not isinstance(given, str | Path):
        check_task(replace(task, train=rows, test=()))
    checked = adapted.check_rows(replace(task, metrics=own.metrics, train=(), test=rows)).test
    return _renamed(without_duplicates(checked)[0], what)


def _renamed(rows: Sequence[Example], what: str) -> tuple[Example, ...]:
    return tuple(replace(e, id=f"{what} {e.id}") for e in rows)


def _check_apart(forget: Sequence[Example], retain: Sequence[Example]) -> None:
    """Refuse rows that are to be forgotten and to stay."""
    known = {duplicate_key(e): e for e in retain}
    both = [(e.id, known[key].id) for e in forget if (key := duplicate_key(e)) in known]
    if both:
        named = ", ".join(f"'{one}' and '{other}'" for one, other in both[:_NAMED])
        ask, more = "rows of both ask" if len(both) > 1 else "row of both asks", ", …" if both[_NAMED:] else ""
        raise UserError(
            f"What is to be forgotten must not be what is to stay; {len(both)} {ask} the same: {named}{more}. Leave "
            "each out of one of the two files."
        )


def _notes(adapted: AdaptedModel, forget: Sequence[Example], n_shown: int, *, has_retain: bool) -> list[str]:
    """Return what a user should know before it is trained."""
    said = []
    if n_shown:
        said.append(f"{n_shown} demonstrations ask what is to be forgotten, and are not shown any more")
    if not has_retain:
        said.append(
            "nothing says what has to stay, so that more than the rows may be forgotten; give such rows with --retain"
        )
    told = [note for note in (*adapted.notes, *adapted.fitted.notes) if any(e.output in note for e in forget)]
    if told:
        said.append(
            f"the model is still told an answer that is to be forgotten, in {len(told)} of its notes: '{told[0][:60]}';"
            " remove them with `kshot notes remove`"
        )
    return said


def _held_out(n: int, seed: int) -> set[int]:
    """Return the places of the rows that are measured and not learnt from."""
    if n < ENOUGH:
        return set()
    return set(generator(seed, "unlearn", "held out").permutation(n)[: n // HELD_OUT].tolist())


def _report(
    before: AdaptedModel,
    after: AdaptedModel,
    rows: Sequence[Example],
    groups: Mapping[str, Sequence[int]],
    forget: Sequence[Example],
    progress: Progress,
) -> dict[str, Any]:
    """Return how groups of rows are answered by both models."""
    found = [recall(model, rows, progress) for model in (before, after)]
    report: dict[str, Any] = {"metric": primary_metric(before.task)}
    for name, places in groups.items():
        if places:
            (score, bits), (score_after, bits_after) = (one.of(places) for one in found)
            values = {"before": score, "after": score_after, "bits_before": bits, "bits_after": bits_after}
            report[name] = {"n": len(places), **values}
    completed = [recovered(model, forget, progress) for model in (before, after)]
    shares = [sum(one) / len(one) for one in completed]
    report["attack"] = {"n": len(forget), "before": shares[0], "after": shares[1]}
    assert after.fitted.trained is not None
    models = [cast(ScoringModel, model.fitted.language_model) for model in (before, after)]
    return {**report, "general": dict(forgetting(models[0], models[1]))}
