"""What the benchmark `compose` compares: each method with its natural control, on tasks that have what it needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """A recipe with a method, and the one without it that it is to be measured against.

    Attributes:
        method: As it is called on the page.
        question: What the difference says.
    """

    method: str
    recipe: str
    control: str
    tasks: tuple[str, ...]
    question: str


REASONED = ("math/multiarith", "math/gsm8k", "bbh/object_counting")
CLASSES = ("classification/trec", "classification/sst2", "classification/agnews")

COMPARISONS: tuple[Comparison, ...] = ()
