"""What a saved model says of itself: the shape of each of its JSON files, and what must hold between them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from kshot.core.errors import UserError
from kshot.core.given_files import text_of
from kshot.core.models import LanguageModel, SteerableModel
from kshot.core.schema import shaped
from kshot.core.steering import Steering
from kshot.core.types import Answer, Example, Kind, Task
from kshot.learners.fitted import Fitted
from kshot.measures.calibration import UNCALIBRATED, Calibration
from kshot.measures.samples import check_metrics
from kshot.methods.contracts import COMBINER
from kshot.recipes.recipe import MOST_CONTEXTS, Recipe, RecipeRecord
from kshot.taskmodel.taskmodel import MOST_ANSWER_TOKENS
from kshot.tasks.built import check_answered, check_form, check_labels, check_ordered

_REMEDY = "Copy the whole folder, or adapt again."
_MARK = re.compile("[0-9a-f]{16}")
_TUPLES = ("choices", "references")
_MOST_BYTES = 1_000_000_000  # of a file with a line for each example: four times what rows are read from


class ModelAbout(TypedDict):
    """The language model that it was adapted with, before training."""

    name: str
    fingerprint: str
    weights: NotRequired[str]  # not before format 4
    origin: dict[str, Any]


class _Prompt(TypedDict):
    layout: Literal["plain", "turns", "block", "messages"]
    chat_template: NotRequired[str]
    answer_tokens: Annotated[int, Field(ge=1, le=MOST_ANSWER_TOKENS)]


class _Past(TypedDict):
    confidences: list[Annotated[float, Field(ge=0, le=1)]]
    right: list[bool]
    n_alike: Annotated[int, Field(ge=1, le=10**6)]


class _Abstention(TypedDict):
    precision: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0, le=1)] | None


class _Task(TypedDict):
    name: str
    kind: Kind
    labels: list[str]
    metrics: list[str]
    instruction: str
    choices_in_input: bool
    letter_form: str
    positive_label: str | None
    columns: dict[str, str]
    ordered: NotRequired[bool]  # where labels have an order
    answer: NotRequired[Answer]


def fields_of(task: Task) -> tuple[str, ...]:
    """Return which fields of a task are saved."""
    return tuple(name for name in _Task.__annotations__ if task.ordered or name in _Task.__required_keys__)


_LogOdds = Annotated[float, Field(ge=-1e6, le=1e6)]


class _Calibration(TypedDict):
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)]  # those that are fitted are 1/8 to 8
    strength: Annotated[float, Field(ge=0, le=1)]
    prior: list[Annotated[float, Field(gt=0, le=1)]]
    means: NotRequired[list[_LogOdds]]  # these three of multi-label tasks
    offsets: NotRequired[list[_LogOdds]]
    threshold: NotRequired[Annotated[float, Field(gt=0, lt=1)]]


class _Weights(TypedDict):
    fingerprint: str


class MemberAbout(TypedDict):
    """What tells of the files beside it: `kshot.json` of a recipe inside a combination."""

    adapter: _Weights | None
    steering: str | None
    notes: list[str]
    contexts: NotRequired[Annotated[list[list[str]], Field(max_length=MOST_CONTEXTS)]]  # not before format 5
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]


class About(MemberAbout):
    """All of `kshot.json`."""

    format: int
    kshot: str
    model: ModelAbout | None
    prompt: _Prompt | None
    calibration: _Calibration
    past: _Past | None
    abstention: _Abstention | None
    task: _Task
    recipe: RecipeRecord
    choice: dict[str, Any]


class _Row(TypedDict):
    id: str
    input: str
    output: str
    context: NotRequired[str]
    explanation: NotRequired[str]
    choices: NotRequired[list[str]]
    references: NotRequired[list[str]]
    meta: NotRequired[dict[str, Any]]
    bits: NotRequired[Annotated[float, Field(allow_inf_nan=False)]]


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Say of what is wrong inside which file it was read from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def check_saved_task(task: Task) -> None:
    """Refuse a task that nobody could have adapted to.

    Raises:
        UserError: The first thing that is wrong.
    """
    check_form(task)
    check_labels(task)
    check_ordered(task)
    check_metrics(task)


def check_fitted(recipe: Recipe, task: Task, about: About, file: Path) -> None:
    """Refuse a recipe that cannot answer a task with what is told of.

    Args:
        recipe: The recipe.
        task: The task.
        about: What is told.
        file: Where it was read.
    """
    model, prompt = about["model"], about["prompt"]
    if not recipe.suits(task):
        raise UserError(
            f"{file} must have a recipe for tasks of its kind, {task.kind}; got '{recipe.name}'. "
            "Copy the whole folder, or adapt again."
        )
    calibration = calibration_of(about["calibration"])
    if task.is_open and calibration != UNCALIBRATED:
        raise UserError(
            f"{file} must have no calibration, as answers of the kind {task.kind} are written. "
            "Copy the whole folder, or adapt again."
        )
    _check_prior(calibration, task, file)
    check_past(task, about["past"], about["abstention"], file)
    if (model is None) != (prompt is None) or (recipe.asks_model and model is None):
        raise UserError(
            f"{file} must name a language model and its prompt where '{recipe.name}' asks one; it names "
            f"{'no model' if model is None else 'no prompt' if prompt is None else 'both'}. "
            "Copy the whole folder, or adapt again."
        )


def calibration_of(kept: _Calibration) -> Calibration:
    """Return the calibration that is told of."""
    offsets, threshold = tuple(kept.get("offsets", ())), kept.get("threshold", UNCALIBRATED.threshold)
    prior = tuple(kept.get("means", ()) if offsets else kept["prior"])
    return Calibration(kept["temperature"], kept["strength"], prior, offsets, threshold)


def _check_prior(calibration: Calibration, task: Task, file: Path) -> None:
    if len(calibration.offsets) not in {0, len(task.labels) if task.is_multi_label else 0}:
        raise UserError(
            f"{file} must have a number in `offsets` for each label of a multi-label task, and none for others; it has "
            f"{len(calibration.offsets)}. Copy the whole folder, or adapt again."
        )
    if len(calibration.prior) != (len(task.labels) if calibration.strength else 0):
        raise UserError(
            f"{file} must have a label prior with a number for each of its {len(task.labels)} labels where its "
            f"strength is above 0, and none at 0; it has {len(calibration.prior)} at {calibration.strength:g}. "
            "Copy the whole folder, or adapt again."
        )


def check_past(task: Task, past: _Past | None, abstention: _Abstention | None, file: Path) -> None:
    """Refuse past answers and a threshold that do not belong together, or to an open task."""
    rules = {
        "no past answers with probabilities, as those of its kind are written": past is None or not task.is_open,
        "past answers where it says when it is unsure": past is not None or abstention is None,
        "a confidence for each past answer": past is None or len(past["confidences"]) == len(past["right"]),
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise UserError(f"{file} must have {broken[0]}; it is otherwise. Copy the whole folder, or adapt again.")


def check_capabilities(recipe: Recipe, model: LanguageModel, folder: Path) -> None:
    """Refuse a language model that cannot do what a recipe needs of it."""
    if lacking := sorted(recipe.needs - model.capabilities):
        raise UserError(
            f"{folder} needs a language model that offers {', '.join(lacking)}, for '{recipe.name}'; '{model.name}' "
            "does not. Name the one that it was adapted with."
        )


def check_learnt(recipe: Recipe, task: Task, about: MemberAbout, pool: Sequence[Any], folder: Path) -> None:
    """Refuse what a recipe cannot have learnt.

    Args:
        recipe: One of a combination, or the whole.
        task: What it answers.
        about: What is told of its files.
        pool: The rows that it may show.
        folder: Its own.
    """
    trains = recipe.trains and not recipe.members
    rules = {
        "trained weights with recipes that train, and no others": (about["adapter"] is not None) == trains,
        "a steering with recipes that steer alone": about["steering"] is None or "steerer" in recipe.parts,
        "demonstrations with recipes that choose some": bool(pool) or "selector" not in recipe.parts,
        "what a combiner has learnt of its members": _knows_members(recipe, task, folder),
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise UserError(
            f"{folder} must have {broken[0]}; it is otherwise with '{recipe.name}'. "
            "Copy the whole folder, or adapt again."
        )


def _knows_members(recipe: Recipe, task: Task, folder: Path) -> bool:
    """Return whether what a combiner has learnt is of the members and the task that it has."""
    combiner = recipe.part("combiner")
    if combiner is None:
        return True
    for calibration in combiner.calibrations:
        told = {key: list(value) if isinstance(value, tuple) else value for key, value in calibration.items()}
        found = calibration_of(shaped(_Calibration, told, folder / COMBINER, _REMEDY))
        _check_prior(found, task, folder / COMBINER)
    return combiner.holds(task, len(recipe.members))


def check_steering(steering: Steering, fitted: Fitted) -> None:
    """Refuse a steering that is not for the language model that answers.

    Raises:
        ModelError: It is for another one.
    """
    cast(SteerableModel, fitted.language_model).steered(steering)


def pool_of(rows: Sequence[Any], task: Task, file: Path) -> tuple[dict[str, float], tuple[Example, ...]]:
    """Return what is known of the bits of a pool's examples, by id, and the examples.

    Args:
        rows: As they were read.
        task: Their task.
        file: Where they were read.

    Raises:
        UserError: A row is none, or not one of this task.
    """
    bits, examples = {}, []
    for number, value in enumerate(rows, 1):
        row: Any = shaped(_Row, value, f"{file}, row {number},", _REMEDY)
        if "bits" in row:
            bits[row["id"]] = row.pop("bits")
        fields: dict[str, Any] = {k: tuple(v) if k in _TUPLES else v for k, v in row.items()}
        examples.append(Example(**fields))
    with naming(file):
        check_answered(task, examples, "saved")
    return bits, tuple(examples)


def contexts_of(recipe: Recipe, about: MemberAbout, pool: Sequence[Example], file: Path) -> tuple[tuple[str, ...], ...]:
    """Return the ids of the examples in each context that a recipe shows; none where it shows one, or chooses anew.

    Args:
        recipe: One of a combination, or the whole.
        about: What is told of its files.
        pool: The examples that it may show.
        file: Where it was read.

    Raises:
        UserError: They are none that the recipe can have chosen from this pool.
    """
    contexts, known = about.get("contexts", []), {e.id for e in pool}
    rules = {
        "contexts only with a recipe that shows several to all queries": not contexts
        or (recipe.shows_one_set and 1 < len(contexts) <= recipe.contexts),
        "contexts of all the examples that are saved with it, and of no others": {i for ids in contexts for i in ids}
        == known
        or not contexts,
        "no example twice in a context": all(len(set(ids)) == len(ids) for ids in contexts),
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise UserError(
            f"{file} must have {broken[0]}; it is otherwise with '{recipe.name}'. "
            "Copy the whole folder, or adapt again."
        )
    return tuple(map(tuple, contexts))


def lines_of(file: Path) -> list[str]:
    """Return the lines of a file that has one for each example.

    Raises:
        OSError: It cannot be read, or is too large.
        UnicodeDecodeError: It is no text.
    """
    return [line for line in text_of(file, _MOST_BYTES).split("\n") if line]


def marks_of(file: Path) -> list[str]:
    """Return the fingerprints of questions that a file holds, one a line.

    Raises:
        UserError: It holds something else.
    """
    try:
        marks = lines_of(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} must be readable text; {error}. Copy the whole folder, or adapt again.") from None
    if odd := [mark for mark in marks if not _MARK.fullmatch(mark)]:
        raise UserError(
            f"{file} must hold the fingerprint of a question a line; got {odd[0][:40]!r}. "
            "Copy the whole folder, or adapt again."
        )
    return marks
