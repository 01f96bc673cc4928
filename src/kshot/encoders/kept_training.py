"""The state of a training of an encoder in a file, from which it goes on after an interruption to the same bits."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kshot.core.errors import DamagedError
from kshot.models.training_state import read_state, write_state

SECONDS_BETWEEN_STATES = 60.0


@dataclass
class KeptTraining:
    """Where a training survives: weights, optimiser, schedule and chance.

    Attributes:
        file: It is there while the training is not finished.
        say: Told where what is there cannot be used.
        key: Identifies what is trained on what; a state of another training is not used.
    """

    file: Path
    say: Callable[[str], None]
    key: str = ""
    _found: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None
    _saved_at: float = field(default_factory=time.monotonic)

    def n_done(self) -> int:
        """Return how many steps were taken before; 0 where there is no state that is whole and of this training."""
        self._found = self._read()
        return self._found[1]["n_done"] if self._found else 0

    def go_on(self, model: Any, optimizer: Any, schedule: Any) -> None:
        """Put weights, optimiser and schedule into the state that was kept; `n_done` comes before."""
        assert self._found is not None
        tensors, about = self._found
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.requires_grad:
                    weight.copy_(tensors[f"weights.{name}"])
        state: dict[int, dict[str, Any]] = {}
        for name, values in tensors.items():
            part, _, rest = name.partition(".")
            if part == "optimizer":
                i, _, what = rest.partition(".")
                state.setdefault(int(i), {})[what] = values
        groups = optimizer.state_dict()["param_groups"]
        for group, lr in zip(groups, about["lr"], strict=True):
            group["lr"] = lr
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        schedule.load_state_dict({**schedule.state_dict(), **about["schedule"]})

    def draw_on(self) -> None:
        """Put chance into the state that was kept, which is not needed any more; `go_on` comes before."""
        assert self._found is not None
        (tensors, about), self._found = self._found, None
        version, numbers, gauss = about["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, keys, *rest = about["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002 - the trainers' own
        torch.default_generator.set_state(tensors["chance"])

    def keep(self, n_done: int, model: Any, optimizer: Any, schedule: Any) -> None:
        """Write the state after a step, if the last one is a minute old.

        Raises:
            StorageError: It cannot be written.
        """
        if time.monotonic() - self._saved_at < SECONDS_BETWEEN_STATES:
            return
        tensors = {f"weights.{name}": p for name, p in model.named_parameters() if p.requires_grad}
        for i, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{what}": value for what, value in values.items()}
        tensors["chance"] = torch.default_generator.get_state()
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the trainers' own
        about = {
            "key": self.key,
            "n_done": n_done,
            "lr": [group["lr"] for group in optimizer.param_groups],
            "schedule": {name: schedule.state_dict()[name] for name in ("last_epoch", "_step_count", "_last_lr")},
            "python": random.getstate(),
            "numpy": [kind, np.asarray(keys).tolist(), *rest],
        }
        write_state(self.file, tensors, about)
        self._saved_at = time.monotonic()

    def _read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the tensors and what is said of them; None, and it is said, where they cannot be used."""
        if not self.file.exists():
            return None
        try:
            tensors, about = read_state(self.file)
        except DamagedError:
            why = "damaged"
        else:
            if about.get("key") == self.key:
                return tensors, about
            why = "of another training"
        self.say(f"{self.file} is {why}: the training begins again")
        self.file.unlink()
        return None
