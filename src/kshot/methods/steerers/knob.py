"""A knob: one direction of the residual stream that says whether an answer comes from the context or from memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.intents import INTENTS, answer_under, conflicting, lacking, opposite, told
from kshot.core.lessons import Training
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example, FloatArray, Task
from kshot.methods.contracts import Steerer
from kshot.methods.steerers.held_out import MOST_ASKED, held_out, held_out_best
from kshot.methods.steerers.icv import check_layer
from kshot.taskmodel.taskmodel import TaskModel

FACTORS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
DIRECTIONS = ("trained", "mean")
MOST_KNOWN = 48  # examples that a direction is of
MOST_PATCHED = 8  # examples whose prompts are patched at every layer
REACHED = 0.5  # of the most that replacing a whole state does: from that layer on the decision can be there
_LOOKS = 4  # at what is held out, while the direction is trained
_NO_LENGTH = 1e-6


@dataclass(frozen=True)
class Knob(Steerer):
    """Set one component of one layer's residual stream, at the last token of a prompt, to what it is under an intent.

    From examples whose context says another answer than `meta.memory_answer`, each asked with either intent in a
    sentence (`kshot.core.intents`), it finds a layer and a unit vector u, and the means of u . h under both intents. A
    question is then asked without a sentence, with h + (c - u . h) u for h.

    Attributes:
        ask: Whose constant is set: answers from the "context", or from "memory" in spite of it.
        direction: "mean" is the difference of both intents' mean activations; "trained" goes on from there, on the
            answers of the other intent's prompt.
        layer: After which layer, from 0; -1 searches.
        factor: How far the constant is from the middle of both means, where 1 is the intent's own; 0 chooses.
        shots: Demonstrations before the prompts with intents, with both in turn, so that a model that was never
            trained for them knows what they mean; at most half of the examples. Predictions show none.
        steps: Steps of training.
        batch: Prompts in a step.
        lr: Learning rate, of Adam.

    Source: Minder et al. (2024), Controllable Context Sensitivity and the Knob Behind It, sections 4 and 5,
    https://arxiv.org/abs/2411.07404.
    Differs: whole states after a layer are replaced in place of ranges of attention outputs, and among the layers from
    where that decides, the one whose direction moves held-out answers most is taken; u begins at the difference of
    means; constants are calibrated on held-out examples, theirs are given for each model.
    """

    ask: str = setting("context", choices=INTENTS)
    direction: str = setting("trained", choices=DIRECTIONS)
    layer: int = setting(-1, least=-1, most=10_000)
    factor: float = setting(0.0, least=0)
    shots: int = setting(4, least=0, most=1000)
    steps: int = setting(40, least=1, most=100_000)
    batch: int = setting(8, least=1, most=1000)
    lr: float = setting(1e-3, least=0)

    least = 4

    def missing_field(self, task: Task) -> str | None:
        """Return "context" or "meta.memory_answer" where no training example has it."""
        return lacking(task)

    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.methods.contracts.Steerer`. Without edits where answers differ too rarely.

        Raises:
            UserError: Fewer than four examples, or a layer that the model has not.
            DivergedError: Training has left the finite numbers.
        """
        check_layer(self.layer, model)
        if len(examples) < self.least:
            raise UserError(f"knob needs at least {self.least} examples; got {len(examples)}.")
        pairs = conflicting(examples, model.task)
        about = {"steerer": "knob", "ask": self.ask, "pairs": len(pairs)}
        if len(pairs) < self.least:
            note = (
                f"{len(pairs)} of {len(examples)} examples have another answer in meta.memory_answer than from their "
                f"context, and it takes {self.least}; nothing is steered"
            )
            model.progress.say(f"knob: {note}")
            return Steering((), model.unsteered, {**about, "note": note})
        held, known = held_out(pairs, most=MOST_ASKED, rng=rng)
        n_shots = min(self.shots, len(known) // 2) // 2 * 2
        known = known[: n_shots + MOST_KNOWN]
        shown = [told(e, INTENTS[i % 2]) for i, e in enumerate(known[:n_shots])]
        learnt, tried = (Asked.of(some, shown, model) for some in (known[n_shots:], held))
        right = np.concatenate([learnt.right, tried.right])
        about |= {"pair_accuracy": round(float(right.all(axis=1).mean()), 4), "accuracy": _rounded(right.mean(axis=0))}
        obeyed = learnt.right[:, 0] & learnt.right[:, 1]
        if obeyed.sum() >= self.least:
            learnt = learnt.only(obeyed)
        else:
            about["note"] = "the direction is of all examples, as too few are right with both intents"
            model.progress.say(f"knob: {about['note']}")
        first = unit(learnt.gap)
        layer = self.layer
        if layer < 0:
            patched, moved = reached_by_layer(first, tried.first(MOST_PATCHED), model)
            layer = chosen_layer(patched, moved)
            about |= {"patched": _rounded(patched), "moved": _rounded(moved)}
        u = first[layer]
        if self.direction == "trained":
            u = self._trained(layer, u, learnt, tried, model=model, rng=rng)
        along = learnt.states[:, :, layer] @ u  # [n, 2]
        constants, separability = along.mean(axis=0), separation(tried.states[:, :, layer] @ u)
        middle, half = constants.mean(), (constants - constants.mean())[INTENTS.index(self.ask)]
        factors = (self.factor,) if self.factor else FACTORS
        options = [
            Steering((set_to(layer, u, middle + factor * half),), model.unsteered, {"factor": factor})
            for factor in factors
        ]
        wanted = [replace(e, output=answer_under(e, self.ask), references=()) for e in held]
        best = options[0] if len(options) == 1 else options[held_out_best([(options, wanted)], model)]
        means = dict(zip(INTENTS, _rounded(constants), strict=True))
        about |= {"layer": layer, "means": means, "separability": round(separability, 4), **best.about}
        return replace(best, about=about)

    def _trained(
        self,
        layer: int,
        first: NDArray[np.float32],
        learnt: "Asked",
        tried: "Asked",
        *,
        model: TaskModel,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Return the direction, of those at some steps of training, that moves held-out answers most."""
        how = Training(lr=self.lr, clip=0.0)
        trained = model.activations.interchange(layer, first, how)
        loss = "all" if model.task.is_open else "choice"
        queries, sources = learnt.crossed(layer)
        order = np.concatenate(
            [rng.permutation(len(queries)) for _ in range(1 + self.steps * self.batch // len(queries))]
        )
        kept = [first]
        model.progress.begin("training the direction", self.steps)
        every = -(-self.steps // _LOOKS)
        for step in range(1, self.steps + 1):
            drawn = order[(step - 1) * self.batch : step * self.batch]
            some = [queries[i] for i in drawn]
            model.learn(trained, some, loss=loss, shown=[learnt.shown] * len(some), sources=sources[drawn])
            if step % every == 0 or step == self.steps:
                kept += [edit.vectors[0] for edit in trained.steering().edits]
        shares = moved_share([[set_to(layer, u, s @ u) for u in kept] for s in tried.crossed(layer)[1]], tried, model)
        return kept[int(np.argmax(shares))]


@dataclass(frozen=True, eq=False)
class Asked:
    """Examples asked with both intents.

    Attributes:
        pairs: The examples.
        shown: The demonstrations before each.
        states: Activations where the answers begin `[n, n_intents, n_layers, width]`.
        right: Whether the right answer of each intent is the more probable one `[n, n_intents]`.
    """

    pairs: list[Example]
    shown: list[Example]
    states: NDArray[np.float32]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, pairs: Sequence[Example], shown: list[Example], model: TaskModel) -> "Asked":
        """Ask a model about the examples of `conflicting`."""
        queries = [told(e, intent) for e in pairs for intent in INTENTS]
        others = [answer_under(e, opposite(intent)) for e in pairs for intent in INTENTS]
        states = model.prompts_at_end([shown] * len(queries), queries, "block")
        prompts = [model.prompt(shown, query)[0] for query in queries]
        answers = [model.said((q.output, other), q) for q, other in zip(queries, others, strict=True)]
        odds = np.array([row[0] - row[1] for row in model.score(prompts, answers)])
        size = len(pairs), len(INTENTS)
        return cls(list(pairs), shown, states.reshape(*size, *states.shape[1:]), odds.reshape(size) > 0)

    def only(self, taken: NDArray[np.bool_]) -> "Asked":
        """Return those that are taken."""
        pairs = [e for e, is_taken in zip(self.pairs, taken, strict=True) if is_taken]
        return Asked(pairs, self.shown, self.states[taken], self.right[taken])

    def first(self, n: int) -> "Asked":
        """Return the first n."""
        return self.only(np.arange(len(self.pairs)) < n)

    @property
    def gap(self) -> NDArray[np.float32]:
        """The mean difference of the first intent from the second `[n_layers, width]`."""
        return (self.states[:, 0] - self.states[:, 1]).mean(axis=0)

    def crossed(self, layer: int) -> tuple[list[Example], NDArray[np.float32]]:
        """Return each prompt with the answer of the other intent, and the state after a layer of the other's prompt."""
        queries = [
            replace(told(e, intent), output=answer_under(e, opposite(intent)), references=())
            for e in self.pairs
            for intent in INTENTS
        ]
        return queries, self.states[:, ::-1, layer].reshape(len(queries), -1)


def reached_by_layer(directions: NDArray[np.float32], asked: Asked, model: TaskModel) -> tuple[FloatArray, FloatArray]:
    """Return how probable the other intent's answer becomes at each layer, `[n_layers]` twice.

    Once with the whole state after the layer replaced by that of the other intent's prompt, once with its component
    along the layer's direction alone; where the two answers are all there are, on average over the prompts.
    """
    n_layers = len(directions)
    own, crossed = (states.reshape(-1, *states.shape[2:]) for states in (asked.states, asked.states[:, ::-1]))
    one = np.ones(1, dtype=np.float32)
    edits = [
        [Edit(i, "block", "add", True, (source - target)[i][None], one) for i in range(n_layers)]
        + [set_to(i, directions[i], float(source[i] @ directions[i])) for i in range(n_layers)]
        for source, target in zip(crossed, own, strict=True)
    ]
    shares = moved_share(edits, asked, model)
    return shares[:n_layers], shares[n_layers:]


def moved_share(edits: Sequence[Sequence[Edit]], asked: Asked, model: TaskModel) -> FloatArray:
    """Return how probable the other intent's answer is under each edit of each prompt, on average, `[n_edits]`."""
    queries, _ = asked.crossed(0)
    others = [answer_under(e, intent) for e in asked.pairs for intent in INTENTS]
    steerings = [[Steering((edit,)) for edit in own] for own in edits]
    odds = model.odds_under(steerings, queries, others, [asked.shown] * len(queries))
    odds = np.clip(np.nan_to_num(odds, nan=-np.inf), -50, 50)
    return (1 / (1 + np.exp(-odds))).mean(axis=1)


def chosen_layer(patched: FloatArray, moved: FloatArray) -> int:
    """Return the layer whose direction moves most, of those from the first on whose whole state has half the most."""
    begins = int(np.argmax(patched >= REACHED * patched.max()))
    return begins + int(np.argmax(moved[begins:]))


def set_to(layer: int, u: NDArray[np.float32], constant: float) -> Edit:
    """Return what sets the component along a unit vector `[width]` to a constant: u . h becomes the constant."""
    size = np.copysign(max(abs(constant), _NO_LENGTH), constant)  # a vector of no length has no direction
    return Edit(layer, "block", "set", True, (size * u)[None].astype(np.float32), np.ones(1, dtype=np.float32))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors `[n, width]` with length 1; one that is 0 becomes the first axis."""
    found = vectors.copy()
    found[~vectors.any(axis=-1), 0] = 1
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def separation(along: NDArray[np.float32]) -> float:
    """Return how often the first intent's component is above the second's, over all two prompts; `[n, 2]` -> 0..1."""
    first, second = along[:, 0, None], along[None, :, 1]
    return float(((first > second) + 0.5 * (first == second)).mean())


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return np.round(values.astype(np.float64), 4).tolist()
