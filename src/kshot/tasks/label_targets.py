"""Targets of scikit-learn's kind where any number of labels can be right: lists of labels, or a matrix of 0 and 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from kshot.core.errors import InvalidInputError
from kshot.core.label_sets import indicator, written
from kshot.tasks.containers import as_objects, as_plain, columns_of
from kshot.tasks.label_sets_given import label_flaw
from kshot.tasks.missing import is_absent

_SETS = (list, tuple, set, frozenset, np.ndarray)


@dataclass(frozen=True)
class Form:
    """In what form sets of labels were given.

    Attributes:
        dtype: Of a matrix; None for lists.
    """

    dtype: np.dtype | None = None

    def answers(self, found: Sequence[Sequence[str]], labels: Sequence[str], classes: np.ndarray) -> np.ndarray:
        """Return answers in that form: `[n]` lists of classes, or `[n, n_classes]`."""
        holds = indicator([written(one, labels) for one in found], labels)
        if self.dtype is not None:
            return holds.astype(self.dtype)
        rows = np.empty(len(holds), dtype=object)
        for i, row in enumerate(holds):
            rows[i] = classes[row].tolist()
        return rows


@dataclass(frozen=True)
class LabelSets:
    """The targets of all texts.

    Attributes:
        holds: Which classes each text has, `[n, n_classes]`.
        classes: The classes, `[n_classes]`.
        form: In what form they were given.
    """

    holds: np.ndarray
    classes: np.ndarray
    form: Form

    def outputs(self, labels: Sequence[str]) -> list[str]:
        """Return the targets as outputs of a task whose labels stand for the classes."""
        for label in labels:
            if flaw := label_flaw(label):
                raise InvalidInputError(f"y: {flaw}")
        return [written([label for label, h in zip(labels, row, strict=True) if h], labels) for row in self.holds]


def label_sets(y: Any) -> LabelSets | None:
    """Return targets that are sets of labels; None of anything else.

    Args:
        y: A sparse matrix; an array or frame of zeros and ones with two columns or more, or as many lists of as many
            zeros and ones; or a list, an array or a series of lists, tuples or sets of labels.

    Raises:
        InvalidInputError: Sets of what cannot be labels.
    """
    y = _dense(y)
    if (matrix := _matrix(y)) is not None:
        names = columns_of(y) or list(range(matrix.shape[1]))
        return LabelSets(matrix.astype(bool), np.array(names), Form(matrix.dtype))
    if (rows := _rows(y)) is None:
        return None
    rows = [list(map(as_plain, row)) for row in rows]
    items = [item for row in rows for item in row]
    for number, row in enumerate(rows, 1):
        if bad := [item for item in row if isinstance(item, (*_SETS, dict)) or is_absent(item)]:
            raise InvalidInputError(
                f"y must hold the labels of each text; of number {number} one is {bad[0]!r}. Write them as a list of "
                "texts, such as ['sport', 'news']."
            )
    if not items:
        raise InvalidInputError("y must have at least two classes; all of its lists are empty. Name the labels.")
    is_text = [isinstance(item, str) for item in items]
    if any(is_text) and not all(is_text):
        raise InvalidInputError("Labels must all be texts, or none. Write all of them as texts: str(label).")
    classes = np.unique(np.array(items))
    place = {value: i for i, value in enumerate(classes.tolist())}
    holds = np.zeros((len(rows), len(classes)), dtype=bool)
    for own, row in zip(holds, rows, strict=True):
        own[[place[item] for item in np.array(list(row), dtype=classes.dtype).tolist()]] = True
    return LabelSets(holds, classes, Form())


def as_sets(y: Any, classes: np.ndarray, form: Form) -> list[set[Any]]:
    """Return targets or answers of known classes as sets of these.

    Args:
        y: As in `label_sets`. The columns of a matrix are the classes in their order, but for a frame that names them.
        classes: The classes, `[n_classes]`.
        form: That of the targets which were learnt: what can be read as both is a matrix only where these were one.

    Raises:
        InvalidInputError: Something else, or a matrix with another number of columns.
    """
    y = _dense(y)
    matrix = _matrix(y)
    are_lists = matrix is None or (form.dtype is None and isinstance(y, list | tuple))
    if are_lists and (rows := _rows(y)) is not None:
        return [set(map(as_plain, row)) for row in rows]
    if matrix is None or matrix.shape[1] != len(classes):
        got = type(y).__name__ if matrix is None else f"a matrix with {matrix.shape[1]} columns"
        raise InvalidInputError(
            f"y must hold a list of labels for each text, or zeros and ones in {len(classes)} columns, one for each of "
            f"the classes that were learnt; got {got}."
        )
    names = columns_of(y)
    own = np.array(names) if set(names) == set(classes.tolist()) else classes
    return [set(own[row].tolist()) for row in matrix.astype(bool)]


def _dense(y: Any) -> Any:
    return y.toarray() if hasattr(y, "toarray") else y


def _rows(y: Any) -> list[Any] | None:
    """Return the sets of all texts; None of what holds none, or a table.

    Raises:
        InvalidInputError: Some rows are sets, and others are not; or a table that is no matrix of zeros and ones.
    """
    is_column = hasattr(y, "__array__") and getattr(y, "ndim", 1) == 1 and not hasattr(y, "columns")  # polars: no ndim
    if not isinstance(y, list | tuple) and not is_column:
        _check_no_table(y)
        return None
    rows = list(y if isinstance(y, list | tuple) else as_objects(y))
    is_set = [isinstance(row, _SETS) and getattr(row, "ndim", 1) > 0 for row in rows]
    if not any(is_set):
        return None
    if not all(is_set):
        number = is_set.index(False)
        remedy = "Write [] where none is right." if is_absent(rows[number]) else f"Write [{rows[number]!r}] for one."
        raise InvalidInputError(
            f"y must hold a list of labels for each text, as it does for others; number {number + 1} is "
            f"{rows[number]!r}. {remedy}"
        )
    return rows


def _check_no_table(y: Any) -> None:
    """Refuse a table of several columns with zeros or ones in it, and say what is neither."""
    table: Any = as_objects(y) if hasattr(y, "__array__") else np.empty(0)
    if table.ndim != 2 or table.shape[1] < 2:
        return
    is_other = np.array([[is_absent(value) or value not in (0, 1) for value in row] for row in table])
    if is_other.all():
        return
    i, j = np.unravel_index(is_other.argmax(), is_other.shape)
    column = (columns_of(y) or range(table.shape[1]))[j]
    raise InvalidInputError(
        "y must hold one label or a list of labels per text; or zeros and ones, in a column for each label, but number "
        f"{i + 1} of the column {column!r} is {table[i, j]!r}. Choose one column, or write 1 where its label is right "
        "and 0 elsewhere."
    )


def _matrix(y: Any) -> np.ndarray | None:
    """Return what is a matrix of zeros and ones with two columns or more."""
    if isinstance(y, list | tuple) and not all(
        isinstance(row, list | tuple | np.ndarray) and len(row) == len(y[0]) for row in y
    ):
        return None
    try:
        found = np.asarray(y)
    except ValueError:
        return None
    if found.ndim != 2 or found.shape[1] < 2:
        return None
    if found.dtype == object and all(isinstance(v, np.bool_ | Real) for v in found.flat):
        found = np.array(found.tolist())  # a frame whose columns differ in their types
    return found if found.dtype.kind in "biuf" and np.isin(found, (0, 1)).all() else None


def check_lengths(texts: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Refuse another number of texts than of targets."""
    if len(texts) != len(outputs):
        raise InvalidInputError(
            "X and y must have one set of labels per text; got inconsistent numbers of samples, "
            f"{len(texts)} texts and {len(outputs)} sets. Choose the same rows for both."
        )
