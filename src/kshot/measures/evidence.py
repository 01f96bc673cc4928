"""How well evidence that was named fits the evidence that there is."""

from collections.abc import Collection


def evidence_f1(named: Collection[int], gold: Collection[int]) -> float:
    """Return F1 = 2 |named and gold| / (|named| + |gold|) of two sets of paragraphs; 1 where both are empty.

    Example:
        >>> evidence_f1([2], [2, 3])
        0.6666666666666666
    """
    named, gold = set(named), set(gold)
    return 2 * len(named & gold) / (len(named) + len(gold)) if named or gold else 1.0
