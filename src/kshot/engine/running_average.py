"""A running average of the weights that are trained, which can be asked in their place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from kshot.core.errors import DamagedError
from kshot.core.lessons import Averaging


class RunningAverage:
    """An average that begins as the weights do and follows them after each step; in single precision at least.

    Args:
        how: By how much it follows.
        parameters: What the network computes with.
        masters: The same as the optimiser changes them, in single precision; themselves where they have it.
    """

    def __init__(self, how: Averaging, parameters: Sequence[torch.Tensor], masters: Sequence[torch.Tensor]):
        self.how, self._parameters, self._masters = how, parameters, masters
        self._means = [master.detach().clone() for master in masters]

    @torch.no_grad()
    def follow(self, t: int) -> None:
        """Move towards the weights, as they are after `t` steps."""
        for mean, master in zip(self._means, self._masters, strict=True):
            mean.lerp_(master, self.how.rate(t))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the average stand in place of the weights."""
        own = [p.data for p in self._parameters]
        for p, mean in zip(self._parameters, self._means, strict=True):
            p.data = mean.to(p.dtype)
        try:
            yield
        finally:
            for p, data in zip(self._parameters, own, strict=True):
                p.data = data

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what it is, not copied."""
        return {str(i): mean for i, mean in enumerate(self._means)}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` has returned.

        Raises:
            DamagedError: It is of other weights.
        """
        own = self.tensors()
        if {i: t.shape for i, t in own.items()} != {i: t.shape for i, t in tensors.items()}:
            raise DamagedError(
                f"A state of training must hold the running average of the weights, {len(own)} tensors; it holds "
                f"{len(tensors)}, or others. Delete it: training then begins again."
            )
        for i, mean in own.items():
            mean.copy_(tensors[i])
