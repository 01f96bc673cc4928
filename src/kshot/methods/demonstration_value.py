"""What demonstrations are worth: the bits that others' outputs cost the model after them."""

from collections.abc import Sequence

from kshot.core.types import Example, FloatArray
from kshot.taskmodel.taskmodel import TaskModel


def bits_after(sets: Sequence[Sequence[Example]], asked: Sequence[Example], model: TaskModel) -> FloatArray:
    """Return the bits of each asked example's output after each set of demonstrations, `[n_sets, n_asked]`.

    A set may be empty, or a single example: what that saves against the empty one is what it is worth alone.
    """
    # Queries of a set stand together: its demonstrations are read once.
    bits = model.code_lengths([shown for shown in sets for _ in asked], [*asked] * len(sets))
    return bits.reshape(len(sets), len(asked))


def saved_alone(shown: Sequence[Example], asked: Sequence[Example], model: TaskModel) -> FloatArray:
    """Return the bits that each example, shown alone, saves on each other one's output, `[n_shown, n_asked]`.

    value_ij = log2 p(output j | example i, input j) - log2 p(output j | input j).
    """
    bits = bits_after([(), *((e,) for e in shown)], asked, model)
    return bits[0] - bits[1:]
