"""No language model, where none was given: whoever asks it is told to give one."""

import sys
from collections.abc import Mapping
from typing import Any, NoReturn, Self

from kshot.core.errors import UserError
from kshot.core.models import Capability, Store


class NoModel:
    """Stands where a language model would be, for those who may not have to ask it.

    Args:
        message: What is said to whoever asks.
    """

    name = "none"
    fingerprint = weights_id = old_fingerprint = ""
    origin: Mapping[str, Any] = {}
    capabilities = frozenset(Capability)
    max_tokens = sys.maxsize
    remark = None
    is_remote = False
    about: Mapping[str, Any] = {}
    chat = None
    in_messages = False
    control_tokens = ()

    def __init__(self, message: str):
        self._message = message

    def with_store(self, store: Store | None) -> Self:
        """Return itself: there is nothing to keep."""
        return self

    def count_tokens(self, text: str) -> int:
        """Return 0: it reads nothing."""
        return 0

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError(self._message)

    score = generate = gradients = _refuse
