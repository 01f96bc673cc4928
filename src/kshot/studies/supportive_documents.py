"""Which documents of its training support a small network in answering after demonstrations, and what they are like."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.locks import ONE_THREAD
from kshot.core.progress import Progress, Silence
from kshot.core.types import FloatArray
from kshot.encoders.encoder import one_thread
from kshot.measures.comparison import Difference, bits_difference
from kshot.models.gradient_mode import learning
from kshot.studies.document_statistics import frontier, nearest_centres
from kshot.studies.experiment import Cell, Claim, Curve, Experiment, Findings, Plot, Row
from kshot.studies.made_documents import (
    HOLLOW,
    LABELS,
    N_TOKENS,
    N_WORDS,
    START,
    Documents,
    Prompts,
    documents,
    prompts,
)
from kshot.studies.networks import Decoder, made, n_weights, train

STEPS, EVERY = 800, 25
MOST = 1_000_000  # documents
SHOTS = (0, 1, 2, 4, 8, 12)  # demonstrations
ASKED, TESTED = 512, 1000  # prompts whose gradient is taken, and of each test
BEGUN = 8  # after so many demonstrations it is looked whether answering has begun
SHORT, LONG, APART = 8, 32, 4  # tokens before one that is predicted, for the information gain; one of so many is
CLUSTERS = 16
START_SET, SUPPORTIVE, RANDOM = "start", "supportive", "random"
MEASURES = {
    "structure": "labels that a document's own mapping gives, share",
    "hollow": "hollow lists, share",
    "in_domain": "documents in the task's domain, share",
    "zipf": "Zipf coefficient",
    "gain_nats": "information gain of long context, nats a token",
    "recency": "recency",
    "alike_words": "likeness of its words to the task's, 0 to 1",
    "alike_states": "likeness of states to the task's, 0 to 1",
}


@dataclass(frozen=True)
class SupportiveDocuments(Experiment):
    """Find documents whose gradients agree with that of answering after demonstrations, and learn them once more.

    A small decoder is trained on documents of four kinds until answering after demonstrations has begun (theta_0).
    Round i takes the documents w of its corpus, of those not yet taken, with the highest
    cos(grad L(w) at theta_0, grad L_ICL at theta_{i-1}); theta_i is one pass over all that were taken, from theta_0. As
    many random documents are learnt beside them. What is chosen is then described: its structure, its domain, how its
    words are distributed, and how much long context tells in it.

    Attributes:
        worlds: Networks, each with a corpus and tasks of its own.
        corpus: Documents that the network is trained on.
        pool: How many of them can be chosen.
        n: Documents that a round takes.
        rounds: How many; that after which L_ICL is lowest counts.
        draws: Random sets of each size.
        begun: Training ends when after 8 demonstrations the network has come so far from its usual answers to the best.
        length: Tokens in a document.
        width: Of the decoder's blocks.
        layers: How many blocks.
        heads: Of a block; they divide the width.
        batch: Documents in a step of training; in a pass an eighth of that.
        lr: AdamW's, in training; there is a warm-up of 50 steps.
        pass_lr: In a pass.

    Source: Han et al. (2023), Understanding In-Context Learning via Supportive Pretraining Data,
    https://arxiv.org/abs/2306.15091. Differs: a made-up world and networks of 70,000 weights in place of a
    language model; all of its gradients; each place of the network reads the token before it too, so that answering
    from context comes soon; see `made_documents` and `document_statistics`.
    """

    worlds: int = setting(5, least=2, most=100)
    corpus: int = setting(4096, least=2, most=MOST)
    pool: int = setting(1024, least=2, most=MOST)
    n: int = setting(48, least=1, most=MOST)
    rounds: int = setting(3, least=1, most=20)
    draws: int = setting(3, least=1, most=20)
    begun: float = setting(0.35, least=0.0, most=1.0)
    length: int = setting(64, least=LONG + APART + 1, most=512)
    width: int = setting(48, least=8, most=1024)
    layers: int = setting(2, least=1, most=24)
    heads: int = setting(4, least=1, most=64)
    batch: int = setting(32, least=8, most=1024)
    lr: float = setting(3e-3, above=0.0)
    pass_lr: float = setting(1e-3, above=0.0)

    minutes: ClassVar[float] = 3.0

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise SettingError(f"heads must divide width={self.width}; got {self.heads}.")
        if self.pool > self.corpus:
            raise SettingError(f"pool must be at most corpus={self.corpus}; got {self.pool}.")
        if self.n * self.rounds > self.pool:
            raise SettingError(
                f"pool must hold at least {self.n * self.rounds} documents, as n={self.n} are taken in each of "
                f"{self.rounds} rounds; got {self.pool}."
            )

    def cells(self) -> list[Cell]:
        """Return a cell for each world; see `kshot.studies.experiment.Experiment`."""
        return [Cell(f"world-{i}", STEPS, {"world": i}) for i in range(self.worlds)]

    def run(
        self, cell: Cell, *, rng: np.random.Generator, progress: Progress, scale: float, state: Path | None = None
    ) -> list[dict[str, Any]]:
        """Train one network, choose, and learn what was chosen; see `kshot.studies.experiment.Experiment`."""
        for_corpus, for_tasks, for_sets, for_bins = rng.spawn(4)
        corpus = documents(self.corpus, self.length, rng=for_corpus)
        tests = [prompts(TESTED, k, rng=for_tasks) for k in SHOTS]
        asked = [prompts(ASKED, k, rng=for_tasks) for k in (BEGUN, max(SHOTS))]
        network = made(self._network, rng)
        watched, enough = asked[0], _from_to(asked[0], self.begun)

        def loss(rng: np.random.Generator) -> Tensor:
            return losses(network, corpus.tokens[rng.integers(self.corpus, size=self.batch)]).mean()

        steps = cell.steps_at(scale)
        trained = train(network, loss, lambda: {"accuracy": _accuracy(network, watched)}, steps=steps, rng=rng,
                        progress=progress, lr=self.lr, warmup=50, measured=ceil(steps / EVERY), state=state,
                        until=lambda row: row["accuracy"] >= enough)  # fmt: skip
        with ONE_THREAD, one_thread(), learning():
            pool = corpus.tokens[: self.pool]
            about = _described(network, corpus, self.pool, for_bins)

            def told(net: Decoder, which: str, number: int, chosen: NDArray[np.int64] | None) -> dict[str, Any]:
                found = _answers(net, tests) | {"icl_nats": float(_icl(net, asked).detach())}
                return {"set": which, "round": number, **found, **(about(chosen) if chosen is not None else {})}

            rows = [told(network, START_SET, 0, np.arange(self.pool))]
            rows[0] |= {"steps": trained[-1]["step"], "best": [float(test.best.mean()) for test in tests]}
            rows[0]["best_unusual"] = [float(test.best[test.unusual].mean()) for test in tests]
            taken, now, ways = np.empty(0, np.int64), network, directions(network, pool)
            for i in range(1, self.rounds + 1):
                scores = agreement(ways, gradient(now, lambda net: _icl(net, asked)))
                scores[taken] = -np.inf
                taken = np.concatenate([taken, np.argsort(-scores, kind="stable")[: self.n]])
                now = self._passed(network, pool[for_sets.permutation(taken)])
                rows.append(told(now, SUPPORTIVE, i, taken) | {"cosine": float(scores[taken[-self.n :]].mean())})
            for draw in range(self.draws):
                order = for_sets.permutation(self.pool)
                for i in range(1, self.rounds + 1):
                    drawn = order[: i * self.n]
                    net = self._passed(network, pool[for_sets.permutation(drawn)])
                    rows.append(told(net, RANDOM, i, drawn) | {"draw": draw})
        return rows

    def _network(self) -> Decoder:
        return Decoder(2 * N_TOKENS, N_TOKENS, width=self.width, layers=self.layers, heads=self.heads,
                       length=self.length)  # fmt: skip

    def _passed(self, start: Decoder, tokens: NDArray[np.int64]) -> Decoder:
        """Return a network that has learnt documents, each once, from where another one stands."""
        network = deepcopy(start)
        size = self.batch // 8
        batches: Iterator[NDArray[np.int64]] = iter(np.array_split(tokens, ceil(len(tokens) / size)))
        train(network, lambda _: losses(network, next(batches)).mean(), dict, steps=ceil(len(tokens) / size),
              rng=np.random.default_rng(0), progress=Silence(), lr=self.pass_lr, measured=1)  # fmt: skip
        return network

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Return what came out; see `kshot.studies.experiment.Experiment`."""
        worlds = [_World.of([row for row in rows if row["world"] == i]) for i in range(self.worlds)]
        shots, rounds = list(SHOTS), list(range(self.rounds + 1))
        names = {"theta_0": START_SET, "supportive documents": SUPPORTIVE, "random documents": RANDOM}
        curves = [Curve(name, shots, _mean([w.chosen(which)["unusual"] for w in worlds])) for name, which in
                  names.items()]  # fmt: skip
        curves.append(Curve("best answer", shots, _mean([w.start["best_unusual"] for w in worlds])))
        whole = [Curve(name, shots, _mean([w.chosen(which)["accuracy"] for w in worlds])) for name, which in
                 names.items()]  # fmt: skip
        whole.append(Curve("best answer", shots, _mean([w.start["best"] for w in worlds])))
        by_round = [
            Curve(f"{kind}, {name}", rounds, _mean([[w.at(which, i)[key][k] for i in rounds] for w in worlds]))
            for which, kind in ((SUPPORTIVE, "supportive"), (RANDOM, "random"))
            for name, key, k in ((f"{BEGUN} demonstrations", "accuracy", SHOTS.index(BEGUN)), ("none", "accuracy", 0))
        ]
        richer = [Curve(which, rounds[1:], _mean([[w.richer(which, i) for i in rounds[1:]] for w in worlds])) for which
                  in (SUPPORTIVE, RANDOM)]  # fmt: skip
        return Findings(
            plots=[
                Plot("Answers after demonstrations", "demonstrations", "share right", whole),
                Plot("Words whose label is not the usual one: the context alone tells it", "demonstrations",
                     "share right", curves, chance=1 / LABELS),
                Plot("By the number of rounds", "rounds", "share right", by_round),
                Plot("Structure in the documents that were taken", "rounds", "times that of the corpus", richer),
            ],
            columns=("measure", "at theta_0, of the corpus", "supportive", "random", "difference", "plus or minus"),
            table=[_line(name, read, worlds) for name, read in _measures().items()],
            claims=_claims(worlds),
        )  # fmt: skip


@dataclass(frozen=True)
class _World:
    """The rows of one cell.

    Attributes:
        start: Of theta_0; what is said of its documents is of all that can be chosen.
        sets: (set, round) -> rows, those of random sets one a draw.
    """

    start: Row
    sets: Mapping[tuple[str, int], Sequence[Row]]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_World":
        sets: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            sets.setdefault((row["set"], row["round"]), []).append(row)
        return cls(rows[0], sets)

    @property
    def round(self) -> int:
        """The one after which the loss of the prompts that were used to choose is lowest."""
        supportive = [rows[0] for (which, _), rows in self.sets.items() if which == SUPPORTIVE]
        return min(supportive, key=lambda row: row["icl_nats"])["round"]

    def at(self, which: str, number: int) -> dict[str, Any]:
        """Return the mean of the draws of a set after a round, by measure; after none it is theta_0."""
        rows = self.sets[which, number] if number and which != START_SET else [self.start]
        keys = [key for key, value in rows[0].items() if isinstance(value, float | list)]
        return {key: np.mean([row[key] for row in rows], axis=0).tolist() for key in keys}

    def chosen(self, which: str) -> dict[str, Any]:
        """Return the same after the round that counts."""
        return self.at(which, self.round)

    def richer(self, which: str, number: int) -> float:
        """Return how many times the corpus's share of structure that of a set is."""
        return self.at(which, number)["structure"] / self.start["structure"]


Read = Callable[[Mapping[str, Any]], float]


def _measures() -> dict[str, Read]:
    """Return what the table has, name -> how it is read from what stands for a set."""

    def right(k: int, key: str) -> Read:
        return lambda row: row[key][SHOTS.index(k)]

    found: dict[str, Read] = {f"right after {k} demonstrations": right(k, "accuracy") for k in SHOTS}
    found[f"right after {BEGUN}, unusual labels"] = right(BEGUN, "unusual")
    found["nats, no demonstrations"] = lambda row: row["zero_nats"]
    return found | {name: (lambda row, key=key: row[key]) for key, name in MEASURES.items()}


def _difference(read: Read, worlds: Sequence[_World]) -> Difference:
    """Return supportive less random, over worlds, with Student's interval of 95 %."""
    pairs = [(read(w.chosen(SUPPORTIVE)), read(w.chosen(RANDOM))) for w in worlds]
    return bits_difference([a for a, _ in pairs], [b for _, b in pairs])


def _line(name: str, read: Read, worlds: Sequence[_World]) -> list[str | float | None]:
    means = [float(np.mean([read(w.chosen(which)) for w in worlds])) for which in (START_SET, SUPPORTIVE, RANDOM)]
    found = _difference(read, worlds)
    return [name, *means, found.mean, (found.high - found.low) / 2]


def _claims(worlds: Sequence[_World]) -> list[Claim]:
    reads = _measures()
    richer = float(np.mean([w.richer(SUPPORTIVE, w.round) for w in worlds]))
    more = _difference(reads[f"right after {BEGUN} demonstrations"], worlds)
    unusual = _difference(reads[f"right after {BEGUN}, unusual labels"], worlds)
    zero = _difference(reads["right after 0 demonstrations"], worlds)
    found = [
        Claim("Supportive documents have more than twice the structure of the corpus (times)", richer, 2.0),
        Claim(f"After {BEGUN} demonstrations they give more right answers than random ones (lower end of the interval)",
              more.low, 0.0),
        Claim("So with labels that are not the usual ones (lower end)", unusual.low, 0.0),
        Claim("Without demonstrations as many answers are right, within 0.02 (difference)", abs(zero.mean), 0.02,
              below=True),
    ]  # fmt: skip
    for key, what in (("alike_words", "words"), ("alike_states", "states")):
        alike = _difference(reads[MEASURES[key]], worlds)
        found.append(Claim(f"By their {what} they are no nearer to the task's domain, nor farther (difference, and its "
                           "interval's half)", abs(alike.mean), (alike.high - alike.low) / 2, below=True))  # fmt: skip
    for key, what in (("zipf", "Zipf coefficient"), ("gain_nats", "information gain of long context")):
        lower = _difference(reads[MEASURES[key]], worlds)
        found.append(Claim(f"Their {what} is lower (upper end of the interval)", lower.high, 0.0, below=True))
    return found


def _mean(values: Sequence[Sequence[float]]) -> list[float]:
    return np.mean(values, axis=0).tolist()


def _from_to(test: Prompts, share: float) -> float:
    """Return the accuracy that lies so far between that of the usual labels and the best one."""
    usual = float(1 - test.unusual.mean())
    return usual + share * (float(test.best.mean()) - usual)


def vectors(tokens: NDArray[np.int64]) -> Tensor:
    """Return what a network reads: each token and the one before it, one-hot, `[n, length, 2 * N_TOKENS]`."""
    one = torch.eye(N_TOKENS)
    before = np.concatenate([tokens[:, :1], tokens[:, :-1]], axis=1)
    return torch.cat([one[torch.from_numpy(tokens)], one[torch.from_numpy(before)]], dim=2)


def losses(network: Decoder, tokens: NDArray[np.int64]) -> Tensor:
    """Return the loss of each document `[n, length]`: the mean over its tokens but the first, `[n]`, nats."""
    said = network(vectors(tokens))[:, :-1].transpose(1, 2)
    return functional.cross_entropy(said, torch.from_numpy(tokens[:, 1:]), reduction="none").mean(1)


def gradient(network: Decoder, loss: Callable[[Decoder], Tensor]) -> Tensor:
    """Return the gradient of a loss, of all weights in a row, `[n_weights]`."""
    found = torch.autograd.grad(loss(network), list(network.parameters()))
    return torch.cat([values.reshape(-1) for values in found])


def directions(network: Decoder, tokens: NDArray[np.int64]) -> Tensor:
    """Return the gradient of each document's loss `[n, length]`, of length 1, `[n, n_weights]`."""
    found = torch.empty(len(tokens), n_weights(network))
    for i, row in enumerate(tokens):
        found[i] = functional.normalize(gradient(network, lambda net, row=row: losses(net, row[None]).mean()), dim=0)
    return found


def agreement(ways: Tensor, aim: Tensor) -> FloatArray:
    """Return the cosine of each of some directions `[n, n_weights]` with a gradient `[n_weights]`, `[n]`."""
    return (ways @ functional.normalize(aim, dim=0)).double().numpy()


def _icl(network: Decoder, asked: Sequence[Prompts]) -> Tensor:
    """Return the mean loss of answers after demonstrations."""
    found = [
        functional.cross_entropy(network(vectors(p.tokens))[:, -1], torch.from_numpy(N_WORDS + p.answers))
        for p in asked
    ]
    return torch.stack(found).mean()


def _hits(network: Decoder, test: Prompts) -> NDArray[np.bool_]:
    with torch.no_grad():
        said = network(vectors(test.tokens))[:, -1, N_WORDS : N_WORDS + LABELS]
    return said.argmax(1).numpy() == test.answers


def _accuracy(network: Decoder, test: Prompts) -> float:
    return float(_hits(network, test).mean())


def _answers(network: Decoder, tests: Sequence[Prompts]) -> dict[str, Any]:
    """Return shares of right answers by the number of demonstrations, and the loss of those without."""
    hits = [_hits(network, test) for test in tests]
    with torch.no_grad():
        zero = float(_icl(network, tests[:1]))
    return {
        "accuracy": [float(found.mean()) for found in hits],
        "unusual": [float(found[test.unusual].mean()) for found, test in zip(hits, tests, strict=True)],
        "zero_nats": zero,
    }


def gains(network: Decoder, tokens: NDArray[np.int64]) -> FloatArray:
    """Return the information gain of documents `[n, length]`, `[n]`: nats that long context saves over short.

    That is the mean, over some tokens that have as many before them, of the loss after the SHORT tokens before less
    that after the LONG ones. Both begin with START.
    """
    n, length = tokens.shape
    saved = []
    for at in range(LONG + 1, length, APART):
        wanted = torch.from_numpy(tokens[:, at])
        found = []
        for context in (SHORT, LONG):
            seen = np.concatenate([np.full((n, 1), START), tokens[:, at - context : at]], axis=1)
            with torch.no_grad():
                said = network(vectors(seen))[:, -1]
            found.append(functional.cross_entropy(said, wanted, reduction="none").double().numpy())
        saved.append(found[0] - found[1])
    return np.mean(saved, axis=0)


def _described(
    network: Decoder, corpus: Documents, n: int, rng: np.random.Generator
) -> Callable[[NDArray[np.int64]], dict[str, float]]:
    """Return what tells what documents are like, of the first `n`."""
    task = prompts(ASKED, max(SHOTS), rng=rng)
    gain = gains(network, corpus.tokens[:n])
    with torch.no_grad():
        states = [network.states(vectors(tokens))[:, 1:].mean(1).double().numpy() for tokens in
                  (corpus.tokens[:n], task.tokens)]  # fmt: skip
    bins = nearest_centres(np.concatenate(states), CLUSTERS, rng)

    def words(tokens: NDArray[np.int64]) -> FloatArray:
        return np.bincount(tokens[tokens < N_WORDS], minlength=N_WORDS).astype(float)

    def alike(chosen: NDArray[np.int64]) -> float:
        return frontier(*(np.bincount(b, minlength=CLUSTERS).astype(float) for b in (bins[:n][chosen], bins[n:])))

    def about(chosen: NDArray[np.int64]) -> dict[str, float]:
        found = {
            "structure": corpus.structure[chosen], "hollow": corpus.kinds[chosen] == HOLLOW,
            "in_domain": corpus.domains[chosen] == 0, "zipf": corpus.zipf[chosen], "gain_nats": gain[chosen],
            "recency": corpus.recency[chosen],
            "alike_words": frontier(words(corpus.tokens[chosen]), words(task.tokens)), "alike_states": alike(chosen),
        }  # fmt: skip
        return {name: float(np.mean(value)) for name, value in found.items()}

    return about
