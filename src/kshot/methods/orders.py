"""The order of chosen demonstrations: a setting of every recipe, apart from which ones are chosen.

A model attends most to what stands next to the query, so the order alone can move accuracy as much as the choice.

Source: Lu et al. (2022), https://arxiv.org/abs/2104.08786; Zhao et al. (2021), section 4.1,
https://arxiv.org/abs/2102.09690.
Differs: fixed rules instead of a search among orders.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence

import numpy as np

from kshot.core.errors import UserError, did_you_mean
from kshot.core.types import Example, Question
from kshot.taskmodel.taskmodel import TaskModel

AS_SELECTED, MOST_CONFIDENT_LAST = "as-selected", "most-confident-last"
PER_QUERY = ("nearest-last",)  # orders that depend on the query


class ZeroShotBits:
    """The bits of examples' own outputs without demonstrations; the model is asked for each example once.

    Attributes:
        known: What it has said, by the examples' ids.
    """

    def __init__(self, model: TaskModel):
        self._model = model
        self.known: dict[str, float] = {}

    def __call__(self, examples: Sequence[Example]) -> list[float]:
        """Return the bits of each example."""
        new = list({e.id: e for e in examples if e.id not in self.known}.values())
        if new:
            found = self._model.code_lengths([()] * len(new), new).tolist()
            self.known |= zip([e.id for e in new], found, strict=True)
        return [self.known[e.id] for e in examples]


def ordered(
    name: str,
    demonstrations: Sequence[Example],
    question: Question | None,
    *,
    rng: np.random.Generator,
    bits: ZeroShotBits,
) -> tuple[Example, ...]:
    """Return the demonstrations in the order `name` of `ORDERS`.

    Args:
        name: See `check_order`.
        demonstrations: In the selector's order; the last one stands next to the query.
        question: What is to be answered, or None for a whole task.
        rng: For random orders; the others draw nothing.
        bits: For `most-confident-last`; the others ask no model.
    """
    return tuple(ORDERS[name](demonstrations, question, rng, bits))


def check_order(name: str, owner: str) -> None:
    """Raise a UserError that names `owner`, a recipe, unless `name` is an order."""
    if name not in ORDERS:
        raise UserError(f"{owner}: there is no order '{name}'.{did_you_mean(name, ORDERS)}")


def _as_selected(
    demonstrations: Sequence[Example], question: Question | None, rng: np.random.Generator, bits: ZeroShotBits
) -> Sequence[Example]:
    """Keep the selector's order."""
    return demonstrations


def _nearest_last(
    demonstrations: Sequence[Example], question: Question | None, rng: np.random.Generator, bits: ZeroShotBits
) -> Sequence[Example]:
    """Put demonstrations that share rare words with the question last (BM25); ties and a missing query change nothing.

    Where all queries see the same demonstrations, they no longer share a prefix, which costs speed.

    Source: Liu et al. (2022), KATE, https://arxiv.org/abs/2101.06804. Differs: BM25 instead of embeddings.
    """
    from kshot.retrieval.lexical import LexicalIndex  # here and not above: bm25s takes 0.2 s to import

    if question is None:
        return demonstrations
    scores = LexicalIndex([d.text for d in demonstrations]).scores(question.text)
    return [demonstrations[i] for i in np.argsort(scores, kind="stable")]


def _label_interleaved(
    demonstrations: Sequence[Example], question: Question | None, rng: np.random.Generator, bits: ZeroShotBits
) -> Sequence[Example]:
    """Deal the outputs in turn, so that equal ones stand as far apart as possible; each output's own order stays.

    With n demonstrations, m of the most frequent output and c outputs that frequent, equal outputs can all be
    (n - c) // (m - 1) places apart and no farther: laying the most frequent output left that is not among the last
    so many always gets there. It begins at the query, where the most frequent output stands (among equals the one
    selected last), and where one output outnumbers all others its surplus stands in a row far from the query.
    """
    left: dict[str, deque[Example]] = {}
    for example in reversed(demonstrations):
        left.setdefault(example.output, deque()).append(example)
    sizes = Counter(len(examples) for examples in left.values())
    most = max(sizes, default=0)
    gap = (len(demonstrations) - sizes[most]) // (most - 1) if most > 1 else 0
    laid: list[Example] = []  # from the query backwards
    while left:
        near = {e.output for e in laid[-max(1, gap - 1) :]}
        output = max([o for o in left if o not in near] or left, key=lambda o: len(left[o]))
        laid.append(left[output].popleft())
        if not left[output]:
            del left[output]
    return laid[::-1]


def _shuffled(
    demonstrations: Sequence[Example], question: Question | None, rng: np.random.Generator, bits: ZeroShotBits
) -> Sequence[Example]:
    """Draw an order at random."""
    return [demonstrations[i] for i in rng.permutation(len(demonstrations))]


def _most_confident_last(
    demonstrations: Sequence[Example], question: Question | None, rng: np.random.Generator, bits: ZeroShotBits
) -> Sequence[Example]:
    """Put those whose own output costs the model the fewest bits without demonstrations last; ties change nothing.

    Costs one scoring for each example that is ever shown. A single demonstration has one order: nothing is asked.
    """
    if len(demonstrations) < 2:
        return demonstrations
    costs = bits(demonstrations)
    return [demonstrations[i] for i in sorted(range(len(costs)), key=lambda i: -costs[i])]


_Order = Callable[[Sequence[Example], Question | None, np.random.Generator, ZeroShotBits], Sequence[Example]]
ORDERS: dict[str, _Order] = {
    AS_SELECTED: _as_selected,
    "nearest-last": _nearest_last,
    "label-interleaved": _label_interleaved,
    "shuffled": _shuffled,
    MOST_CONFIDENT_LAST: _most_confident_last,
}
