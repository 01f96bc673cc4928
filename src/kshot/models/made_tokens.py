"""Tokens that no text has: vectors that a small trained module makes of other tokens, for a network that stays as is.

A made token has an id above those of all words. It depends on what the token is made of alone, so that prompts that
begin with the same share it, as they share words, wherever ids are compared: in packed rows, in stores, in what is
remembered. Its vector is made anew when the network runs it, which in a packed row is once, and in training has a
gradient.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from kshot.core.errors import UserError
from kshot.core.seeding import digest
from kshot.models.hf import Backbone
from kshot.models.weights import WEIGHTS_FILE, take_over

FIRST_MADE = 2**32
_HEX_DIGITS = 11  # so ids stay below 2**48, where a tree's marks begin
_MOST_ASKED = 2**13


class Made(NamedTuple):
    """What a token is made of.

    Attributes:
        content: The tokens that are read, in whatever form the module reads them.
        number: Which of the tokens that are made of them.
    """

    content: Any
    number: int


class MadeTokens(ABC):
    """A module that makes tokens, and which tokens were asked of it.

    Args:
        backbone: The network, whose weights stay as they are.
        module: What is trained.
    """

    kind: str  # as in `WEIGHTS_FILE`
    soft = None  # the vectors have ids, unlike those of `kshot.models.prefix`

    def __init__(self, backbone: Backbone, module: nn.Module):
        self.backbone, self.module = backbone, module.to(backbone.device)
        self.parameters = dict(module.named_parameters())
        self._asked: OrderedDict[Any, tuple[int, ...]] = OrderedDict()  # the ids of each content
        self._known: dict[int, Made] = {}
        _ = backbone.n_words  # looked up while the network's own embeddings are in their place
        self._own = backbone.model.get_input_embeddings()
        paths = [path for path, m in backbone.model.named_modules() if m is self._own]
        self._parent, _, self._attribute = paths[0].rpartition(".")

    def ids_of(self, content: Any, n: int = 1) -> tuple[int, ...]:
        """Return the ids of the tokens that are made of something, as many as there always are."""
        with self.backbone.lock:  # nobody forgets meanwhile
            if content in self._asked:
                self._asked.move_to_end(content)
            else:
                name = digest(self.kind, content)
                self._asked[content] = tuple(self._id_of(name, Made(content, number)) for number in range(n))
            return self._asked[content]

    def _id_of(self, name: str, made: Made) -> int:
        i = FIRST_MADE + int(digest(name, made.number)[:_HEX_DIGITS], 16)
        while self._known.setdefault(i, made) != made:  # never seen: one in 2**44 for each pair
            i += 1
        return i

    def forget_old(self) -> None:
        """Forget what was not asked for lately, if it is much; whoever calls it waits for none of it to be run."""
        while len(self._asked) > _MOST_ASKED:
            for i in self._asked.popitem(last=False)[1]:
                del self._known[i]

    def made_of(self, ids: Iterable[int]) -> list[Made]:
        """Return what made tokens are made of."""
        return [self._known[i] for i in ids]

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the network's own vectors of words, `[n, width]`, float32."""
        return self._own(torch.tensor(ids, dtype=torch.int64, device=self.backbone.device)).float()

    @abstractmethod
    def make(self, wanted: Sequence[Made]) -> torch.Tensor:
        """Return the vectors of tokens, `[n, width]`."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the backbone know made tokens; inside it, they can be used, not nested."""
        parent = self.backbone.model.get_submodule(self._parent)
        setattr(parent, self._attribute, _Embeddings(self._own, lambda ids: self.make(self.made_of(ids))))
        try:
            yield
        finally:
            setattr(parent, self._attribute, self._own)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights by name, detached, not copied."""
        return {name: p.detach() for name, p in self.parameters.items()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over weights by name.

        Raises:
            UserError: Other names or shapes: they belong to another model or other settings.
        """
        take_over(self.parameters, tensors, self.backbone.name)

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the weights, and what identifies them."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.cpu().contiguous() for name, t in self.tensors().items()}
        save_file(tensors, folder / WEIGHTS_FILE[self.kind], metadata={"format": "pt", "kshot": fingerprint})

    def save_merged(self, folder: Path) -> None:
        """Refuse.

        Raises:
            UserError: Always: what is trained is no change of the model's weights.
        """
        raise UserError(
            "Only weights of the model itself can be worked into it; here a module beside it was trained, which kshot "
            "runs. Use `kshot serve`, or adapt with fine-tune or icl+ft."
        )


class _Embeddings(nn.Module):
    """A network's embeddings of words, which know made tokens too.

    Args:
        own: Those of words.
        make: Returns the vectors of made tokens `[n, width]`.
    """

    def __init__(self, own: nn.Module, make: Callable[[list[int]], torch.Tensor]):
        super().__init__()
        self.own, self._make = own, make

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return vectors `[..., width]` of ids `[...]`."""
        is_made = ids >= FIRST_MADE
        vectors = self.own(ids.masked_fill(is_made, 0))
        if bool(is_made.any()):
            made = self._make(ids[is_made].tolist()).to(vectors.dtype)
            vectors = vectors.index_put(is_made.nonzero(as_tuple=True), made)
        if torch.is_grad_enabled() and not vectors.requires_grad:
            vectors.requires_grad_(True)  # a text without made tokens has a gradient too: 0
        return vectors


def drawn_(module: nn.Module, seed: int) -> None:
    """Draw the matrices and lists of vectors of a module: normal, so that what they multiply keeps its size."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            if p.ndim > 1:
                n_inputs = p.shape[1] if name.endswith("weight") else 1
                p.copy_(torch.randn(p.shape, generator=source) / n_inputs**0.5)


def size_of_words(backbone: Backbone) -> float:
    """Return the root mean square of a network's embeddings of words, over 4,096 of them at most."""
    some = torch.arange(0, backbone.n_words, max(1, backbone.n_words // 4096), device=backbone.device)
    return float(backbone.embed(some).float().square().mean().sqrt())
