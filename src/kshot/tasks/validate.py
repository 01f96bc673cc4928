"""Look for what can be worked with but may be wrong: repeated rows, leakage, missing labels, long rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, median_low
from typing import Any
from unicodedata import normalize

from kshot.core.control_tokens import Speller
from kshot.core.label_sets import read
from kshot.core.models import LanguageModel
from kshot.core.types import Example, Question, Task
from kshot.tasks.label_sets_given import problems_of_sets
from kshot.tasks.labels import missing, shortened, variants
from kshot.tasks.missing import trimmed
from kshot.tasks.unused import option_columns

LONG_ROW_CHARACTERS = 2000
LONG_ROW_TIMES_MEDIAN = 8
MAX_GRAVE = 3
_SPELLED = "They are sent as plain text, and mean nothing more."
_IMITATED = "The model may take it for another answer or turn: change these rows, or use another --layout."


@dataclass(frozen=True)
class Report:
    """What a task holds and what is odd about it.

    Attributes:
        problems: One sentence each.
        n_tokens: Fewest, median and most tokens of an input with its context; None without a model.
    """

    kind: str
    n_train: int
    n_test: int
    labels: tuple[str, ...]
    problems: tuple[str, ...]
    n_tokens: tuple[int, int, int] | None = None
    n_unlabelled: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot validate --json` prints."""
        return {
            "kind": self.kind,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "labels": list(self.labels),
            "problems": list(self.problems),
            **({"n_unlabelled": self.n_unlabelled} if self.n_unlabelled else {}),
        }


def validate(task: Task, model: LanguageModel | None = None, *, marks: Sequence[str] = ()) -> Report:
    """Report what is odd about a task that could be loaded.

    Args:
        task: Its examples are valid already; see `load_task`.
        model: Counts tokens, and says how many a row may have, and what is more than text to it.
        marks: What the layout writes around texts and a row can imitate (`Layout.marks`).
    """
    rows = [*task.train, *task.test]
    problems = [*_repeats(task), *_conflicts(task), *_leaks(task), *_labels(task), *_variants(task), *_missing(task)]
    problems += [*_options(task), *_long_rows(rows), *_choices(task, rows), *_no_numbers(task, rows)]
    problems += cut_answers(task, rows)
    problems += _imitations(
        rows,
        lambda text: [mark for mark in marks if mark in text],
        "with what the layout writes around texts, such as",
        _IMITATED,
    )
    n_tokens = None
    if model is not None:
        inputs = [model.count_tokens(e.context or "") + model.count_tokens(e.input) for e in rows]
        totals = [n + model.count_tokens(e.output) for n, e in zip(inputs, rows, strict=True)]
        n_tokens = (min(inputs), median_low(inputs), max(inputs))
        longer = [e.id for e, n in zip(rows, totals, strict=True) if n > model.max_tokens]
        spell = Speller(model.control_tokens)
        spelled = "with control tokens of the model, such as"
        problems += _imitations(rows, lambda text: [*spell.found(text).values()], spelled, _SPELLED)
        problems += _problem(longer, f"longer than the {model.max_tokens} tokens that '{model.name}' reads")
    sizes = len(task.train), len(task.test)
    return Report(task.kind, *sizes, task.labels, tuple(problems), n_tokens, len(task.unlabelled))


def grave_problems(task: Task) -> list[str]:
    """Return the problems that change what a run finds, a sentence each, at most a few.

    Args:
        task: As for `validate`.
    """
    looks = (_options, _variants, _missing, _conflicts, _leaks)
    found = [problem for look in looks for problem in look(task)] + _no_numbers(task, task.train)
    more = len(found) - MAX_GRAVE
    rest = [f"{more} more problem{'s' * (more > 1)} like these; `kshot validate` says all"] if more > 0 else []
    return found[:MAX_GRAVE] + rest


def duplicate_key(example: Example | Question) -> tuple[str, ...]:
    """Return input, context and sorted choices; rows with equal keys ask the same.

    White space is collapsed, and an accent is the same written as one character with its letter or as two (NFC).
    """
    texts = (normalize("NFC", text) for text in (example.input, example.context or "", *example.choices))
    asked, passage, *choices = (" ".join(text.split()) for text in texts)
    return asked, passage, *sorted(choices)


def without_duplicates(examples: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Keep the first of the rows that ask the same question.

    Returns:
        The examples kept, in their order, and the ids of those removed.
    """
    kept: dict[tuple[str, ...], Example] = {}
    removed = []
    for example in examples:
        if (key := duplicate_key(example)) in kept:
            removed.append(example.id)
        else:
            kept[key] = example
    return tuple(kept.values()), tuple(removed)


def _repeats(task: Task) -> list[str]:
    _, repeated = without_duplicates(task.train)
    return _problem(repeated, "of train with the input of an earlier row")


def _conflicts(task: Task) -> list[str]:
    """Name rows of train that ask the same and are answered differently, with both answers."""
    asked: dict[tuple[str, ...], list[Example]] = {}
    for e in task.train:
        asked.setdefault(duplicate_key(e), []).append(e)
    groups = [group for group in asked.values() if len({e.output for e in group}) > 1]
    if not groups:
        return []
    different = list({e.output: e for e in reversed(groups[0])}.values())[::-1]
    first, second = (f"{e.id} {shortened(e.output)}" for e in different[:2])
    what = "labels" if task.labels else "outputs"
    ids = [e.id for group in groups for e in group]
    (said,) = _problem(ids, "of train with the same input as another but a different output")
    return [f"{said} Their {what} differ, as {first} and {second}; only the first of such rows is learnt: keep one."]


def _leaks(task: Task) -> list[str]:
    known = set(map(duplicate_key, task.train))
    return _problem([e.id for e in task.test if duplicate_key(e) in known], "of test with an input that train has too")


def _variants(task: Task) -> list[str]:
    counts = Counter(label for e in task.train for label in _labels_of(e, task))
    return variants({label: counts[label] for label in task.labels})


def _labels_of(example: Example, task: Task) -> tuple[str, ...]:
    return read(example.output) if task.is_multi_label else (example.output,)


def _missing(task: Task) -> list[str]:
    """Name outputs and inputs that other programs write where there is no value."""
    rows = (*task.train, *task.test)
    found = []
    for what, texts in (("output", [e.output for e in rows]), ("input", [e.input for e in rows])):
        for text, _ in missing(texts):
            ids = [e.id for e, other in zip(rows, texts, strict=True) if trimmed(other) == text]
            (said,) = _problem(ids, f"with the {what} '{text}'")
            found.append(
                f"{said} That is how programs write a missing value; if it is one, fill it in or leave the row out."
            )
    return found


def _options(task: Task) -> list[str]:
    """Name columns that hold the options of the questions, where outputs say which of them is right."""
    if task.kind == "multiple_choice":
        return []
    columns = dict.fromkeys(column for e in task.train for column in e.meta)
    options = option_columns(columns, [(e.meta, e.output) for e in task.train])
    if not options:
        return []
    return [
        f"The columns {', '.join(options)} look like the options that outputs name, but are not used, so a model does "
        "not see them: put them into one list 'choices', with the text of the right one as output."
    ]


def _labels(task: Task) -> list[str]:
    if task.is_multi_label:
        return problems_of_sets(task.train, task.labels)
    if task.kind != "classification":
        return []
    seen = {e.output for e in task.train}
    same = [f"All rows of train have the label '{label}'." for label in seen if len(seen) == 1]
    return same + [f"No row of train has the label '{label}'." for label in task.labels if label not in seen]


def _long_rows(rows: Sequence[Example]) -> list[str]:
    lengths = [len(e.context or "") + len(e.input) + len(e.output) for e in rows]
    limit = max(LONG_ROW_CHARACTERS, int(LONG_ROW_TIMES_MEDIAN * median(lengths)))
    long = [e.id for e, n in zip(rows, lengths, strict=True) if n > limit]
    return _problem(long, f"longer than {limit} characters, far more than most")


def _choices(task: Task, rows: Sequence[Example]) -> list[str]:
    if task.kind != "multiple_choice":
        return []
    fewest, most = min(len(e.choices) for e in rows), max(len(e.choices) for e in rows)
    differing = [f"Rows have {fewest} to {most} choices."] if fewest < most else []
    hidden = [e.id for e in rows if task.choices_in_input and not all(c in e.input for c in e.choices)]
    return differing + _problem(hidden, "answered by a letter whose input does not list the choices")


def _no_numbers(task: Task, rows: Sequence[Example]) -> list[str]:
    if "exact_match_number" not in task.metrics:
        return []
    without = [e.id for e in rows if not any(character.isdigit() for character in e.output)]
    return _problem(without, "whose output holds no number, which is all that exact_match_number compares")


def cut_answers(task: Task, rows: Sequence[Example], terminator: str = "\n\n") -> list[str]:
    """Name outputs in which an answer would end too early.

    Args:
        task: What the rows are.
        rows: Train rows, or others.
        terminator: What ends an answer in prompts, if anything; by default an empty line, as in the plain layout.
    """
    ids = [e.id for e in rows if terminator in e.output.strip()] if task.is_open and terminator else []
    if terminator != "\n\n":
        return _problem(ids, f"whose output holds {terminator!r}, at which an answer ends")
    remedy = (
        "The plain layout ends an answer at its first empty line, so these cannot be generated in full: "
        "use a chat model, or replace the empty lines."
    )
    return [f"{said} {remedy}" for said in _problem(ids, "whose output holds an empty line")]


def _imitations(rows: Sequence[Example], signs_in: Callable[[str], Sequence[str]], what: str, remedy: str) -> list[str]:
    """Return a problem that names the rows in whose texts there are signs, with the first sign."""
    found = {e.id: signs_in("\0".join((e.input, e.context or "", e.output, *e.choices))) for e in rows}
    ids = [i for i, signs in found.items() if signs]
    return [f"{said} {remedy}" for said in _problem(ids, f"{what} '{found[ids[0]][0].strip()}'" if ids else what)]


def _problem(ids: Sequence[str], what: str) -> list[str]:
    """Return a sentence that counts and names the rows, or nothing where there are none."""
    first = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
    return [f"There {'is 1 row' if len(ids) == 1 else f'are {len(ids)} rows'} {what}: {first}."] if ids else []
