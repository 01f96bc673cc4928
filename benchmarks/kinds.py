"""How often the kind of a task is guessed right: what folders of tasks say of their kind is hidden.

    python benchmarks/kinds.py --data DIR [--rows N]

DIR holds folders with `train.jsonl` and `task.json`, at any depth. With `--rows` only so many rows of each are looked
at. What is refused counts as wrong. Prints a line for each kind, and the tasks that were guessed wrong.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from kshot.core.errors import UserError
from kshot.tasks.load import load_task


def guess(train: Path, rows: int | None) -> str:
    """Return the kind that is guessed from the rows alone, or "refused"."""
    with tempfile.TemporaryDirectory(prefix="kshot-") as folder:
        (Path(folder) / "train.jsonl").write_bytes(b"".join(train.read_bytes().splitlines(keepends=True)[:rows]))
        try:
            return load_task(folder).kind
        except UserError:
            return "refused"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    right, total, wrong = Counter[str](), Counter[str](), []
    for card in sorted(options.data.rglob("task.json")):
        kind, train = json.loads(card.read_text("utf-8"))["kind"], card.with_name("train.jsonl")
        if train.exists():
            found = guess(train, options.rows)
            total[kind] += 1
            right[kind] += found == kind
            if found != kind:
                wrong.append(f"{card.parent.relative_to(options.data)}: {kind}, guessed {found}")
    for kind, n in total.most_common():
        print(f"{kind}: {right[kind]} of {n}")
    print(f"all: {right.total()} of {total.total()}", *wrong, sep="\n")


if __name__ == "__main__":
    main()
