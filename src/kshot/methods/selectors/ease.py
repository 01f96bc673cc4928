"""One ordered list of demonstrations for the task, found by a bandit whose arms are lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kshot.core.fields import setting
from kshot.core.locks import ONE_THREAD
from kshot.core.types import FloatArray
from kshot.encoders.encoder import Encoder, load_encoder
from kshot.methods.embeds import Embeds
from kshot.methods.selectors.ordered_sets import Arm, SearchesOrderedSets, Trials
from kshot.methods.selectors.reward_net import Floats, RewardNet
from kshot.methods.selectors.transport import transport_cost

SAME = 1e-5  # vectors of two orders of a set that are nearer are those of an encoder that ignores order


@dataclass(frozen=True)
class Ease(Embeds, SearchesOrderedSets):
    """Try lists where a network that learns from those tried before expects most, and keep the best one tried.

    An arm is a list of `k` examples in their order; where the composer has alternatives, such as instructions, an arm
    is a list and one of them. Its vector x is the embedding of the list as one text, so order counts; its reward is
    minus the bits that held-out outputs cost after it. Each step learns the rewards so far anew and tries the
    candidate with the highest f(x) + sqrt(sum_j lambda nu g_j^2 / U_j), with g the gradient of f with respect to the
    weights, and U_j = lambda + the sum of g_j^2 over the arms tried. Candidates are random lists, of which those are
    kept that optimal transport finds nearest to the held-out examples.

    Costs evaluations x queries scorings at each refit (at 16, 32, 64, … examples for k = 8), 640 by default, whose
    demonstrations are read once a list, and kept x (evaluations - starts) embeddings.

    Attributes:
        starts: How many lists are drawn at random first, if so many are tried.
        candidates: How many random lists are looked at in a step.
        kept: How many of these are embedded, the nearest to the held-out examples.
        steps: Of training the network, each time.
        enough: Ends early where held-out outputs cost so many bits on average.

    Source: Wu et al. (2024), Prompt Optimization with EASE?, https://arxiv.org/abs/2405.16122; the acquisition is that
    of NeuralUCB, Zhou, Li and Gu (2020), https://arxiv.org/abs/1911.04462.
    Differs: bits instead of accuracy, as 16 held-out examples have 17 accuracies alone; 40 evaluations instead of 165,
    500 candidates a step instead of 50,000, 200 steps of training instead of 1,000; rewards are standardised; the
    instructions are those of the composer, one for each candidate.
    """

    starts: int = setting(10, least=2, most=10_000)
    candidates: int = setting(500, least=1, most=1_000_000)
    kept: int = setting(50, least=1, most=10_000)
    steps: int = setting(200, least=1, most=100_000)
    enough: float = setting(0.01, least=0)

    def search(self, trials: Trials, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Try random lists, then the most promising one at a time."""
        trials.run_random(min(self.starts, self.evaluations), rng=rng)
        vectors = _Vectors(load_encoder(self.encoder), trials)
        ignores_order = vectors.ignore_order(next(iter(trials.bits)))
        if ignores_order:
            trials.model.progress.say(
                f"ease: the encoder '{self.encoder}' gives two orders of the same demonstrations the same vector, so "
                "orders are found by chance alone; name another encoder"
            )
        net = RewardNet(vectors.dim, rng)
        while trials.left and min(trials.bits.values()) > self.enough:
            arms = self._near(vectors, trials, rng)
            net_arms, tried = vectors.of(arms), vectors.of(list(trials.bits))
            best = _best(net, net_arms, tried, -np.array(list(trials.bits.values())), self.steps)
            trials.run([arms[best]])
        return {"order": "ignored" if ignores_order else "seen", "blocks": vectors.n_blocks}

    def _near(self, vectors: "_Vectors", trials: Trials, rng: np.random.Generator) -> list[Arm]:
        """Return new random arms, those whose examples are nearest to the held-out ones."""
        arms: list[Arm] = []
        while not arms:
            arms = trials.drawn(self.candidates, rng=rng)
        if len(arms) <= self.kept:
            return arms
        costs = [transport_cost(vectors.costs[list(arm.hand)]) for arm in arms]
        return [arms[i] for i in np.argsort(np.round(costs, 9), kind="stable")[: self.kept]]


def _best(net: RewardNet, arms: Floats, tried: Floats, rewards: FloatArray, steps: int) -> int:
    """Return which of the arms to try, after the network has learnt the rewards of those tried."""
    from threadpoolctl import threadpool_limits

    mean, spread = tried.mean(axis=0), np.maximum(tried.std(axis=0), 1e-6)
    values = ((rewards - rewards.mean()) / max(float(rewards.std()), 1e-9)).astype(np.float32)
    with ONE_THREAD, threadpool_limits(1):  # so that sums have one order
        net.fit((tried - mean) / spread, values, steps=steps)
        best = int(np.argmax(net.bounds((arms - mean) / spread)))
        net.tried((arms[best] - mean) / spread)
    return best


class _Vectors:
    """Arms as an encoder sees them, and how far examples are from those held out.

    Attributes:
        n_blocks: Into so many pieces a list is cut, each with a vector of its own, so that no text is cut off.
        dim: Numbers in an arm's vector.
        costs: 1 - cosine of each example with each held-out one, `[n_pool, n_held_out]`.
    """

    def __init__(self, encoder: Encoder, trials: Trials):
        self._encoder = encoder
        self._texts = [f"{e.text}\n{e.output}" for e in trials.pool]
        question = trials.pool[trials.held_out[0]].question
        scripts = [composer.compose(trials.model.task, (), question) for composer in trials.wordings]
        self._openings = ["\n".join(piece.text for piece in script.opening) for script in scripts]
        if len(scripts) == 1:
            self._openings = [""]
        self.n_blocks, arms = 1, list(trials.bits)
        while self.n_blocks < trials.k and encoder.n_cut([text for arm in arms for text in self._pieces(arm)]):
            self.n_blocks += 1
        self.dim = encoder.dim * self.n_blocks
        questions = encoder.embed([e.text for e in trials.pool]).astype(np.float64)
        self.costs = 1 - questions @ questions[trials.held_out].T

    def of(self, arms: Sequence[Arm]) -> Floats:
        """Return the vectors of arms, `[n_arms, dim]`."""
        rows = self._encoder.embed([text for arm in arms for text in self._pieces(arm)])
        return rows.reshape(len(arms), self.dim)

    def ignore_order(self, arm: Arm) -> bool:
        """Return whether the arm's vector stays as it is when the order of its examples is turned."""
        turned = arm._replace(hand=arm.hand[::-1])
        one, other = self.of([arm, turned])
        return self._pieces(arm) != self._pieces(turned) and bool(np.abs(one - other).max() < SAME)

    def _pieces(self, arm: Arm) -> list[str]:
        blocks = ["\n\n".join(self._texts[i] for i in block) for block in np.array_split(arm.hand, self.n_blocks)]
        opening = self._openings[arm.wording]
        return [f"{opening}\n\n{blocks[0]}", *blocks[1:]] if opening else blocks
