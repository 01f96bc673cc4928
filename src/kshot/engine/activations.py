"""Activations of a language model: read at the ends of prompts, changed by many steerings at once, mixed by gates."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.core.errors import ModelError
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Training
from kshot.core.steering import Shape, Steering
from kshot.core.types import FloatArray, Prompt, ScoreRequest
from kshot.engine.attention import TreeAttention
from kshot.engine.context_mass import context_mass
from kshot.engine.gated import GatedEngine
from kshot.engine.saliency import Place, saliency
from kshot.engine.scoring import placed, run_pack, score_packed
from kshot.engine.session import Session
from kshot.engine.trie import Tree, build_tree, cut
from kshot.models.gates import Gates
from kshot.models.hooks import check, reading, shape_of, steered, write_heads
from kshot.models.interchange import Interchange


class Activations:
    """What can be asked of an engine's activations beside its answers; implements `SteerableModel.activations`."""

    def __init__(self, engine: Session):
        self._engine = engine
        self._backbone = engine.backbone

    @cached_property
    def shape(self) -> Shape:
        """Number of layers and sizes.

        Raises:
            ModelError: The architecture has not the modules where activations are changed.
        """
        return shape_of(self._backbone)

    def read(
        self,
        prompts: Sequence[Prompt],
        site: str,
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> NDArray[np.float32]:
        """Return the activations at the last token of each prompt.

        Args:
            prompts: Prefixes that they share are run once.
            site: "mlp", "heads" or "block".
            progress: Called with the number of prompts read since the last call.
            ledger: What it takes is added to.

        Returns:
            `[n_prompts, n_layers, width]`; for "heads" `[n_prompts, n_layers, n_heads, head_dim]`.

        Raises:
            ModelError: As `shape`.
            UserError: A prompt too long for the model, or empty.
        """
        engine, sizes, ledger = self._engine, self.shape.at(site), ledger or Ledger()
        encoded = [engine._encoder.score(ScoreRequest(prompt, ("a",)))[0] for prompt in prompts]
        found = np.zeros((len(prompts), self.shape.n_layers, *sizes), dtype=np.float32)
        tell = progress or (lambda n: None)
        obstacle = engine.obstacle  # tried before the backbone is held
        with engine.active():
            if obstacle is not None:
                for i, ids in enumerate(encoded):
                    found[i] = self._read_plain(ids, site).reshape(found[i].shape)
                    ledger.add(Cost(tokens=len(ids)))
                    tell(1)
                return found
            tree = engine._tree(encoded, [[(0,)]] * len(encoded))
            packs = cut(tree, max_tokens=engine._pack_tokens, max_scored=len(tree.tokens))
            attend, nothing = TreeAttention(tree, self._backbone), np.zeros(0, dtype=np.int64)
            for number, (start, stop) in enumerate(packs):
                inside = slice(*np.searchsorted(tree.positions, [start, stop]))
                places = placed(self._backbone, tree.positions[inside] - start)
                with reading(self._backbone, site, places) as layers:
                    run_pack(self._backbone, tree, attend, start, stop, nothing)
                slots = tree.slots[inside]
                found[slots] = torch.stack(layers, 1).reshape(len(slots), *found.shape[1:]).cpu().numpy()
                if number + 1 < len(packs):
                    attend.close(packs[number + 1][0])
                tell(len(slots))
        ledger.add(Cost(tokens=len(tree.tokens)))
        return found

    def _read_plain(self, ids: Sequence[int], site: str) -> NDArray[np.float32]:
        places = {1: placed(self._backbone, [len(ids) - 1])}
        with reading(self._backbone, site, places[1]) as layers:
            self._backbone.plain_logits([ids], places)
        return torch.stack(layers, 1).cpu().numpy()

    def score_under(
        self,
        requests: Sequence[ScoreRequest],
        steerings: Sequence[Steering],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return for each request its log-probabilities in nats under each steering, `[n_steerings, n_continuations]`.

        Where steerings change nothing but last tokens, all else is computed once for all of them.

        Args:
            requests: Prompts with their continuations.
            steerings: One without edits stands for the model as it is.
            progress: Called with the number of requests finished since the last call.
            ledger: What it takes is added to.

        Raises:
            ModelError: A steering is another model's.
        """
        engine, ledger = self._engine, ledger or Ledger()
        for steering in steerings:
            check(self._backbone, steering)
        if engine.steering is not None:
            raise ModelError("Steerings are tried on a model without one; this one is steered. Give the bare model.")
        if engine.obstacle is not None or not all(s.last_only for s in steerings):
            rows = [engine.steered(steering).score(requests, ledger=ledger) for steering in steerings]
            return [np.stack(of_request) for of_request in zip(*rows, strict=True)]
        tree = self._tree_under(requests, len(steerings))
        sizes = [len(request.continuations) for request in requests for _ in steerings]
        sums = np.zeros(sum(sizes))
        packs = cut(tree, max_tokens=engine._pack_tokens, max_scored=engine._pack_scored)
        told = 0
        with engine.active(), steered(self._backbone, steerings):
            for number, (slots, values) in enumerate(score_packed(self._backbone, tree, packs)):
                np.add.at(sums, slots, values)
                done = (number + 1) * len(requests) // len(packs)
                if progress and done > told:
                    progress(done - told)
                    told = done
        ledger.add(Cost(tokens=len(tree.tokens)))
        stops = np.cumsum([0, *sizes])[:: len(steerings)]
        return [sums[a:b].reshape(len(steerings), -1) for a, b in zip(stops, stops[1:], strict=False)]

    def tokens_under(self, requests: Sequence[ScoreRequest], steerings: Sequence[Steering]) -> int:
        """Return how many tokens have to be run to score requests under steerings, without running any."""
        if self._engine.obstacle is not None or not all(s.last_only for s in steerings):
            return sum(self._engine.steered(steering).forward_tokens(requests) for steering in steerings)
        return len(self._tree_under(requests, len(steerings)).tokens)

    def _tree_under(self, requests: Sequence[ScoreRequest], n_steerings: int) -> Tree:
        """Return the tree in which each prompt ends once for each steering, with its mark."""
        encoded = [self._engine._encoder.score(request) for request in requests for _ in range(n_steerings)]
        marks = [1 + i % n_steerings for i in range(len(encoded))]
        return build_tree([p for p, _ in encoded], [a for _, a in encoded], marks)

    def write_heads(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what outputs of heads `[n_layers, n_heads, head_dim]` add to their attention, each alone.

        Returns:
            `[n_layers, n_heads, width]`, without the projection's bias.
        """
        return write_heads(self._backbone, torch.from_numpy(heads)).cpu().numpy()

    def context_mass(
        self,
        texts: Sequence[tuple[Prompt, str, str]],
        layer: int,
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[float]:
        """Return how much attention is on a passage while an answer is said; see `kshot.engine.context_mass`."""
        return context_mass(self._engine, texts, layer, progress=progress, ledger=ledger)

    def saliency(
        self,
        texts: Sequence[tuple[Prompt, str, Sequence[Place]]],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return how strongly each text's answer follows places of its prompt; see `kshot.engine.saliency`."""
        return saliency(self._engine, texts, progress=progress, ledger=ledger)

    def gated(self, vectors: NDArray[np.float32], how: Training) -> GatedEngine:
        """Return the model with gates, one for each head, that mix `vectors` into the last token of a prompt.

        Args:
            vectors: `[n_layers, n_heads, head_dim]`.
            how: How the gates are trained: optimiser, lr, clip.
        """
        return GatedEngine(self._engine, lambda backbone: Gates(backbone, vectors), how)

    def interchange(self, layer: int, direction: NDArray[np.float32], how: Training) -> GatedEngine:
        """Return the model in which a prompt's last token has, along one direction, what another prompt's has.

        Args:
            layer: After which layer, from 0.
            direction: Where training begins, `[width]`.
            how: How it is trained: optimiser, lr, clip.
        """
        return GatedEngine(self._engine, lambda backbone: Interchange(backbone, layer, direction), how)
