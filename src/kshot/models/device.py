"""Where a model runs, and how precisely: names that users give, tried before anything is loaded."""

from typing import Any

import torch

from kshot.core.errors import UserError, in_short

_DTYPES = ("float32", "bfloat16", "float16")


def device_of(name: str | None) -> torch.device:
    """Return the device of that name; by default CUDA if there is one.

    Raises:
        UserError: torch knows no such device, or has none here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError) as error:
        raise UserError(
            f"--device must be one that torch has here, such as cpu; got '{name}' "
            f"({in_short(error)}). Leave it out, or write cpu."
        ) from error
    if device.type == "meta":  # shapes without numbers
        raise UserError(f"--device must be one that can compute; got '{name}'. Leave it out, or write cpu.")
    return device


def dtype_of(name: str, device: torch.device) -> Any:
    """Return torch's precision of that name, or "auto" for the files' own; "auto" is float32 on the CPU.

    Raises:
        UserError: Another name.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in _DTYPES:
        raise UserError(f"--dtype must be auto, float32, bfloat16 or float16; got '{name}'.")
    return getattr(torch, name)
