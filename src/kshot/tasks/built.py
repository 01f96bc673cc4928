"""Tasks that are built in Python, not loaded: what must hold before a verb works with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from kshot.core.errors import NotFiniteError, UserError, did_you_mean, in_short
from kshot.core.json_text import to_json
from kshot.core.kind_names import meant_kind
from kshot.core.types import KINDS, LABELLED, Answer, Example, Kind, Question, Rows, Task
from kshot.tasks.answers import MARK, check_answer, check_choices
from kshot.tasks.label_sets_given import label_flaw
from kshot.tasks.load import DEFAULT_METRIC, load_task
from kshot.tasks.missing import trimmed
from kshot.tasks.rows import SURROGATE, shown, text_flaw
from kshot.tasks.unlabelled import tidied, with_inputs
from kshot.tasks.worked import apart

TEXTS = ("input", "output", "id")
OPTIONAL_TEXTS = ("context", "explanation")
TUPLES = ("train", "test", "labels", "metrics", "worked", "unlabelled")
LISTS = ("choices", "references")


def given_task(
    given: Task | str | Path | Rows,
    *,
    test: str | Path | Rows | None = None,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    skip_bad_rows: bool = False,
    inputs: Any = None,
) -> Task:
    """Return the task that a verb was given: loaded by its name, or built in Python and then checked.

    Args:
        given: The task, or where to load it from, or its rows (`kshot.tasks.objects`).
        test: Test rows beside the training rows, as for `load_task`, as are the others.
        columns: Which column holds a field.
        kind: What a task that is loaded is.
        skip_bad_rows: Whether rows of files that cannot be used are left out.
        inputs: Unlabelled inputs beside those of the task, as for `with_inputs`; None: there are none.

    Raises:
        UserError: As `load_task`, `check_task` and `with_inputs`; or a setting of files for a task that is none.
    """
    if not isinstance(given, Task):
        task = load_task(given, test=test, columns=columns, kind=kind, skip_bad_rows=skip_bad_rows)
        return task if inputs is None else with_inputs(task, inputs, skip_bad_rows=skip_bad_rows)
    if test is not None:
        raise UserError(
            f"test is for rows that come beside training rows, and the task '{given.name}' was given as an object; "
            "leave it out, or give the object its own: dataclasses.replace(task, test=…)."
        )
    for flag, value in (("columns", columns), ("kind", kind), ("skip_bad_rows", skip_bad_rows)):
        if value:
            raise UserError(
                f"{flag} says how a task's files are read, and the task '{given.name}' was given as an object; leave "
                f"it out, or say it to Task.load(…, {flag}=…)."
            )
    check_task(given)
    return tidied(given) if inputs is None else with_inputs(tidied(given), inputs)


def check_task(task: Task) -> None:
    """Refuse a task whose examples or labels no verb could work with.

    Raises:
        UserError: The first thing that is wrong, with the example.
    """
    check_form(task)
    where = f"the task '{task.name}'"
    if not task.train:
        raise UserError(f"{where} must have training examples; it has none; give it some as train=(Example(…), …).")
    check_labels(task)
    check_ordered(task)
    for split, examples in (("train", task.train), ("test", task.test), ("worked", task.worked)):
        check_answered(task, examples, split)
    _check_worked(task)
    _check_unlabelled(task)


def _check_worked(task: Task) -> None:
    """Refuse worked examples without a reason, and those that tell the answer to one of the task's own."""
    kept, _ = apart(task.worked, task.train, task.test)
    for number, example in enumerate(task.worked, 1):
        place = f"the task '{task.name}', worked example {number}"
        if not example.explanation:
            raise UserError(f"{place} must have an explanation, which says how its answer is found; give it one.")
        if example not in kept:
            raise UserError(f"{place} asks what an example of train or test asks, and tells its answer; leave it out.")


def _check_unlabelled(task: Task) -> None:
    """Refuse unlabelled inputs that are no questions of the task, or have the id of another example."""
    seen = {e.id: split for split in ("train", "test", "worked") for e in getattr(task, split)}
    for number, question in enumerate(task.unlabelled, 1):
        place = f"the task '{task.name}', unlabelled input {number}"

        def fail(message: str, place: str = place) -> NoReturn:
            raise UserError(f"{place}: {message}")

        if not isinstance(question, Question):
            raise UserError(f"{place} must be a Question; got {shown(question)}; write it as Question(input, id).")
        asked = question.answered()
        _check_fields(asked, place, [field for field in TEXTS if field != "output"])
        if not task.is_open:
            check_choices(asked, task, fail)
        if question.id in seen:
            fail(f"the id '{question.id}' is that of an example in {seen[question.id]} too; give it its own id.")
        seen[question.id] = "unlabelled"


def check_answered(task: Task, examples: Sequence[Example], split: str) -> None:
    """Refuse what `check_examples` does, and examples whose outputs are no answers of their task."""
    check_examples(task, examples, split)
    for number, example in enumerate(examples, 1):

        def fail(message: str, place: str = f"the task '{task.name}', {split} example {number}") -> NoReturn:
            raise UserError(f"{place}: {message}")

        check_answer(example, task, fail)


def check_form(task: Task) -> None:
    """Refuse a task whose fields are not of their types, before any of them is used.

    Raises:
        UserError: The first field that is not as it must be.
    """
    for field in ("name", "instruction"):
        value = getattr(task, field)
        if not isinstance(value, str) or text_flaw(value):
            raise UserError(
                f"A task's {field} must be a text that can be written; got {value!r}; write it as {field}='…'."
            )
    where = f"the task '{task.name}'"
    for field in TUPLES:
        value = getattr(task, field)
        if not isinstance(value, tuple):
            raise UserError(f"{where}: {field} must be a tuple; got {shown(value)}; write it as {field}=(…, …).")
    if task.kind not in KINDS:
        raise UserError(f"{where}: there is no kind '{task.kind}'.{did_you_mean(meant_kind(str(task.kind)), KINDS)}")
    if not task.metrics:
        raise UserError(
            f"{where} must have a metric; it has none; name it as metrics=('{DEFAULT_METRIC[task.kind]}',)."
        )
    form = MARK.fullmatch(task.letter_form) if isinstance(task.letter_form, str) else None
    if form is None or form["name"] not in ("A", "a", "1"):
        raise UserError(
            f"{where}: letter_form must be how inputs name their first choice; got {task.letter_form!r}; write it as "
            "'(A)', 'a)' or '1.'."
        )


def check_examples(task: Task, examples: Sequence[Example], split: str) -> None:
    """Refuse examples that are none: other types, texts that are empty, an id that is there twice.

    Raises:
        UserError: The first thing that is wrong, with the example.
    """
    seen = dict[str, int]()
    for number, example in enumerate(examples, 1):
        place = f"the task '{task.name}', {split} example {number}"
        _check_example(example, place)
        if (earlier := seen.setdefault(example.id, number)) != number:
            raise UserError(
                f"{place}: the id '{example.id}' is that of example {earlier} too; give each example its own id."
            )


def check_labels(task: Task) -> None:
    """Refuse labels that are not different texts, or that a task of its kind has not."""
    labels, where = task.labels, f"the task '{task.name}'"
    if not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where}: labels must be texts; got {labels!r}; write them as labels=('yes', 'no').")
    if task.kind not in LABELLED:
        if labels:
            raise UserError(
                f"{where}: labels are for the kinds classification and multi_label; leave them out for {task.kind}."
            )
        return
    if not labels:
        raise UserError(f"{where}: a {task.kind} must have labels; name all of them, as labels=('yes', 'no').")
    if task.is_multi_label and (flaw := next(filter(None, map(label_flaw, labels)), None)):
        raise UserError(f"{where}: {flaw}")
    for label in labels:
        if not trimmed(label) or text_flaw(label):
            raise UserError(f"{where}: each label must be a text that can be written; got {label!r}; rename it.")
    if len(set(map(trimmed, labels))) < len(labels):
        twice = next(label for label in labels if sum(trimmed(other) == trimmed(label) for other in labels) > 1)
        raise UserError(f"{where}: labels must differ, also without white space; '{twice}' is there twice; remove one.")


def check_ordered(task: Task) -> None:
    """Refuse an order of labels that there are not, and a way to answer that is none."""
    where = f"the task '{task.name}'"
    if not isinstance(task.ordered, bool) or (task.ordered and len(task.labels) < 2):
        raise UserError(
            f"{where}: ordered must be True, with two labels or more, the lowest first, or False; got "
            f"{task.ordered!r} with {len(task.labels)} labels; leave it out where labels have no order."
        )
    if task.answer not in get_args(Answer) or (task.answer == "median" and not task.ordered):
        raise UserError(
            f"{where}: answer must be 'most-probable', or of ordered labels 'median'; got {task.answer!r}; leave it "
            "out."
        )


def _check_example(example: Any, place: str) -> None:
    if not isinstance(example, Example):
        raise UserError(f"{place} must be an Example; got {shown(example)}; write it as Example(input, output, id).")
    _check_fields(example, place, TEXTS)


def _check_fields(example: Example, place: str, texts: Sequence[str]) -> None:
    """Refuse an example some of whose texts are none, or whose other fields are not of their types."""
    for field in (*texts, *OPTIONAL_TEXTS):
        value = getattr(example, field)
        if value is None and field in OPTIONAL_TEXTS:
            continue
        if not isinstance(value, str):
            raise UserError(f"{place}: '{field}' must be a text; got {shown(value)}; give it as a str.")
        if flaw := text_flaw(value):
            raise UserError(f"{place}: '{field}' must be text, but {flaw}.")
        if not trimmed(value):
            raise UserError(f"{place}: '{field}' must not be empty; fill it in, or leave the example out.")
    for field in LISTS:
        values = getattr(example, field)
        if not isinstance(values, tuple) or not all(isinstance(v, str) and trimmed(v) for v in values):
            raise UserError(
                f"{place}: '{field}' must be a tuple of texts that are not empty; got {shown(values)}; write it as "
                f"{field}=('…', '…')."
            )
        if flaw := next(filter(None, map(text_flaw, values)), None):
            raise UserError(f"{place}: '{field}' must hold texts, but {flaw}.")
    if flaw := _flaw_of_meta(example.meta):
        raise UserError(
            f"{place}: 'meta' must be a mapping of JSON (finite numbers, texts, lists, mappings), but {flaw}; leave it "
            "out."
        )


def _flaw_of_meta(meta: Any) -> str | None:
    """Return why `meta` cannot be written down, or None."""
    if not isinstance(meta, Mapping):
        return f"it is {shown(meta)}"
    try:
        text = to_json(dict(meta))
    except (TypeError, RecursionError) as error:
        return in_short(error)
    except NotFiniteError:
        return "a number in it is not finite"
    return "it holds half of a surrogate pair" if SURROGATE.search(text) else None
