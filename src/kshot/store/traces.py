"""What is said in loops, kept message by message: a killed loop goes on at the last finished one."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kshot.core.errors import DamagedError
from kshot.core.json_text import from_json, to_json
from kshot.core.models import LanguageModel, Store
from kshot.core.seeding import digest
from kshot.store.files import sync, writable, write_text

TRACES = "traces"


class Trace:
    """The messages of one loop, in their order.

    Args:
        file: JSON lines, one a message, each with a checksum of it and of all before it; None keeps them in memory.

    Raises:
        DamagedError: The file is not as it was written. What a process that was killed has left of a last line is no
            damage, and is taken away.
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        self.messages: list[dict[str, Any]] = []
        self._sum = ""
        if file and file.exists():
            self._read(file)

    def _read(self, file: Path) -> None:
        *lines, rest = file.read_text("utf-8", "replace").split("\n")
        for i, line in enumerate(lines):
            try:
                row = from_json(line)
                found = row.pop("sum")
            except (ValueError, AttributeError, KeyError):
                found, row = None, {}
            self._sum = digest(self._sum, row)
            if found != self._sum:
                raise DamagedError(
                    f"{file} must be as kshot wrote it; line {i + 1} is not. Delete it and run the same command again: "
                    "what was said is asked for anew."
                )
            self.messages.append(row)
        if rest:
            self.cut(len(self.messages))

    def add(self, message: Mapping[str, Any]) -> None:
        """Keep a message: it is on the disk when this returns.

        Raises:
            StorageError: It cannot be written.
        """
        self.messages.append(dict(message))
        self._sum = digest(self._sum, self.messages[-1])
        if self.file is None:
            return
        with writable(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.file.exists()
            with self.file.open("a", encoding="utf-8") as opened:
                opened.write(to_json({**message, "sum": self._sum}) + "\n")
                opened.flush()
                os.fsync(opened.fileno())
            if is_new:
                sync(self.file.parent)

    def cut(self, n: int) -> None:
        """Forget all but the first `n` messages."""
        kept, self.messages, self._sum = self.messages[:n], [], ""
        lines = list[str]()
        for message in kept:
            self.messages.append(message)
            self._sum = digest(self._sum, message)
            lines.append(to_json({**message, "sum": self._sum}) + "\n")
        if self.file:
            write_text(self.file, "".join(lines))


@dataclass(frozen=True)
class Traces:
    """Where the traces of a run are kept.

    Attributes:
        folder: A file for each loop at each refit point; None keeps nothing beyond the process.
        store: Where the texts of further models are kept that speak in them.
        rehearses: Nobody but the language model itself is asked: what a run would take is counted.
        placing: How the models of the run are loaded: arguments of `load_model`.
    """

    folder: Path | None = None
    store: Store | None = field(default=None, repr=False, compare=False)
    rehearses: bool = False
    placing: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _open: dict[str, Trace] = field(default_factory=dict, repr=False, compare=False)
    _models: dict[str, LanguageModel] = field(default_factory=dict, repr=False, compare=False)

    def of(self, name: str) -> Trace:
        """Return the trace of this name, with what is in it already."""
        if name not in self._open:
            self._open[name] = Trace(self.folder / f"{name}.jsonl" if self.folder else None)
        return self._open[name]

    def model(self, name: str, load: Callable[[str], LanguageModel]) -> LanguageModel:
        """Return a further model that speaks in the run's loops, loaded once, which keeps its texts in `store`."""
        if name not in self._models:
            self._models[name] = load(name).with_store(self.store)
        return self._models[name]

    def kept_in(self, folder: Path, store: Store) -> "Traces":
        """Return those of a run, to which the further models come that are loaded here."""
        models = {name: one.with_store(store) for name, one in self._models.items()}
        return Traces(folder, store, placing=self.placing, _models=models)


def read_traces(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the messages of a run's traces by name, those with fewer examples first.

    Raises:
        DamagedError: As `Trace`.
    """

    def by_size(file: Path) -> tuple[str, int, str]:
        loop, n, _ = file.stem.rsplit("-", 2)
        return loop, int(n), file.stem

    files = [file for file in (run / TRACES).glob("*-*-*.jsonl") if file.stem.rsplit("-", 2)[1].isdecimal()]
    return {file.stem: Trace(file).messages for file in sorted(files, key=by_size)}
