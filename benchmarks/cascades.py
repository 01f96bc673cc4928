"""What a cascade loses and saves, with a threshold from the stream or from second looks: pairs of recorded recipes.

`python benchmarks/cascades.py` reads docs/results/choice.json. For each pair of recipes on each closed stream that has
the recipes that train: points of accuracy against the second recipe alone on the training rows beyond the stream, by
which ways are compared, and on test rows, and the second's prompt tokens that a query takes.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
from choice_page import calibrated_streams
from choice_rules import as_said, is_open
from mixtures import replayed

CHEAP = ("zero-shot", "embedding-lr", "tfidf-lr", "random", "fine-tune:batch=8,lr=3e-4,steps=1")
DEAR = ("random", "random:contexts=8", "diverse", "all-past", "bm25", "dense")
WAYS = ("cascade", "cascade:quality=1", "cascade:price=0.5")


def main() -> None:
    """Print a line for each way."""
    found: dict[tuple[str, bool], list[list[float]]] = {}
    for rows in calibrated_streams(json.loads(Path("docs/results/choice.json").read_text("utf-8"))["rows"]).values():
        pairs = [(c, d) for c, d in product(CHEAP, DEAR) if c != d and not is_open(rows) and {c, d} <= rows.keys()]
        for cheap, dear in pairs:
            both = [as_said(rows[name]) for name in (cheap, dear)]
            alone, tokens = replayed(both[1:], "mix:most=1"), rows[dear]["query_tokens"][0]
            for way, again in product(WAYS, (False, True)):
                one = replayed(both, way, again=again)
                lost = [100 * (one.accuracy(part) - alone.accuracy(part)) for part in ("rest", "test")]
                found.setdefault((way, again), []).append([*lost, one.query_tokens / tokens])
    for (way, again), values in found.items():
        rest, test, tokens = np.array(values).T
        by = "second looks" if again else "stream"
        print(
            f"{way:18} {by:12} {len(rest)} pairs: {rest.mean():+.1f} points, on test rows {test.mean():+.1f}, "
            f"the worst {test.min():+.0f}; {tokens.mean():.2f} of the tokens"
        )


if __name__ == "__main__":
    main()
