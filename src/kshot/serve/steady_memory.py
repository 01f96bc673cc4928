"""What keeps a process that answers for days at the memory of its first minutes.

Texts are of all lengths, and so are the products of matrices that read them. oneDNN compiles kernels for each shape,
256 kB each, and keeps those of 1,024 shapes; glibc keeps what was freed for later tensors, which do not fit.
"""

import ctypes
import os

KERNELS = 32  # measured: no slower than 1,024
_EACH = 256  # inputs


def keep_few_kernels() -> None:
    """Let oneDNN keep few compiled shapes, unless the environment says how many; before a model runs."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


class GivingBack:
    """Gives what was freed back to the system, once in some hundred inputs; where the C library can."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
        self._n = 0

    def after(self, n: int) -> None:
        """Count inputs that were answered."""
        self._n += n
        if self._trim and self._n >= _EACH:
            self._n = 0
            self._trim(0)
