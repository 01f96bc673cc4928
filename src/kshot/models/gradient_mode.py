"""Gradients whatever the caller has switched off: torch's modes are settings of a thread, and may be anything."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def learning() -> Iterator[None]:
    """Let gradients be taken inside, and make tensors that can be trained, which those of inference mode cannot."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
