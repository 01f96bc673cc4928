"""The same backbone in another process: weights are never pickled, but loaded again by their name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from kshot.core.errors import UserError
from kshot.core.locks import LOADING

if TYPE_CHECKING:
    from kshot.models.hf import Backbone

_ALIVE: "WeakValueDictionary[tuple[str, str], Backbone]" = WeakValueDictionary()  # by fingerprint and device
_LAST: "list[Backbone]" = []  # stays alive between the tasks of a worker


def remember(backbone: "Backbone", fingerprint: str) -> None:
    """Let `backbone_again` find a backbone while somebody holds it."""
    _ALIVE[fingerprint, str(backbone.device)] = backbone


def backbone_again(name: str, device: str, origin: Mapping[str, Any], fingerprint: str) -> "Backbone":
    """Return the backbone that was pickled: the one of this process, or loaded once more.

    Raises:
        UserError: What is loaded under its name are other weights.
    """
    from kshot.models.white_box import load_white_box

    with LOADING:
        found = _ALIVE.get((fingerprint, device))
        if found is None:
            found = load_white_box(name, device=device, **origin)
            if found.fingerprint != fingerprint:
                raise UserError(
                    f"The model '{name}' must have the weights with which it was pickled; they have changed. Pickle it "
                    "anew."
                )
        _LAST[:] = [found]
        return found
