"""No language model, where none was given: it can be asked for nothing."""

from collections.abc import Mapping

from kshot.core.models import Capability, Store


class NoModel:
    """Stands where a language model would be; whoever asks it is told to give one."""

    name = "none"
    fingerprint = ""
    origin: Mapping[str, str] = {}
    capabilities: frozenset[Capability] = frozenset()
    max_tokens = 0
    remark = None
    chat = None

    def with_store(self, store: Store | None) -> "NoModel":
        """Return itself: there is nothing to keep."""
        return self

    def count_tokens(self, text: str) -> int:
        """Return 0: it reads nothing."""
        return 0
