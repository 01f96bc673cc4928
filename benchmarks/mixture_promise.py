"""How often a mixture breaks a promise of `--abstain`, by what the promise rests on: simulated, no model is asked.

Three members with made log-odds of three labels, n = 100, wanted precision 0.88. Along the stream they show other
demonstrations than in the end: their skill is drawn anew at 16, 32 and 64 examples and for what is handed over. The
mixture is fitted on its members' stream, as it was before, or on their second looks; the promise rests on what the
mixture has said along the stream, or on each fifth of the second looks by the others. A promise is one of 95 %.

    python benchmarks/mixture_promise.py [RUNS]
"""

import sys
from collections.abc import Sequence

import numpy as np

from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Prediction, Task
from kshot.measures.abstention import Abstention, PastAnswers
from kshot.measures.calibration import calibrated
from kshot.measures.probabilities import code_length_bits, mixed, normalised
from kshot.methods.combiners.mix import Mix
from kshot.methods.contracts import Answered, Combiner

RUNS, N, N_NEW, WANTED, MEMBERS, PARTS, SHARED = 200, 100, 1000, 0.88, 3, 5, 0.2
LABELS = ("a", "b", "c")
TASK = Task("made", "classification", tuple(Example(f"q{i}", LABELS[i % 3], f"e{i}") for i in range(6)), labels=LABELS)


def said(right: Sequence[int], skill: FloatArray, shared: FloatArray, rng: np.random.Generator) -> list[Prediction]:
    """Return a member's predictions: the right label's log-odds are higher by its skill `[n]` than noise."""
    logs = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * rng.normal(size=shared.shape)
    logs[np.arange(len(right)), right] += skill
    rows = [mixed(normalised(row)) for row in 2 * logs]
    return [Prediction("", LABELS, tuple(np.log(p)), tuple(p), LABELS[int(p.argmax())], prompt_tokens=9) for p in rows]


def past(examples: Sequence[Example], members: Sequence[Sequence[Prediction]]) -> list[Answered]:
    """Return what a combiner knows of its members."""
    rows = zip(examples, zip(*members, strict=True), strict=True)
    return [Answered(e, own, tuple(code_length_bits(TASK, e.output, p) for p in own)) for e, own in rows]


def answers(mix: Combiner, rows: Sequence[Answered]) -> list[tuple[float, bool]]:
    """Return how sure the mixture is of each row, and whether it is right."""
    mix, kept = mix.kept(MEMBERS)
    found = [mix.combine(TASK, [row.said[i] for i in kept]) for row in rows]
    return [(max(p.probs), p.answer == row.example.output) for p, row in zip(found, rows, strict=True)]


def broken(record: Sequence[tuple[float, bool]], new: Sequence[tuple[float, bool]]) -> bool:
    """Return whether fewer of the new rows above the threshold are right than the record promises."""
    found: Abstention = PastAnswers.of(record).abstention(WANTED)
    right = [is_right for sure, is_right in new if found.threshold is not None and sure >= found.threshold]
    return bool(right) and float(np.mean(right)) < WANTED


def run(seed: int) -> list[bool]:
    """Return of one run whether each way has broken its promise."""
    rng = generator(seed, "promise")
    rights = [rng.integers(3, size=n) for n in (N, N_NEW)]
    examples, new = ([Example("", LABELS[y], "") for y in right] for right in rights)
    shared, of_new = (rng.normal(size=(n, 3)) for n in (N, N_NEW))
    drawn = np.clip(np.log2(np.maximum(1, np.arange(N))).astype(int) - 3, 0, 3)  # one for each 16, 32, 64
    stream, again, test = [], [], []
    for _ in range(MEMBERS):
        skills, last = 1.5 + 0.4 * rng.normal(size=4), 1.5 + 0.4 * rng.normal()
        along, calibration = calibrated(said(rights[0], skills[drawn], shared, rng), examples)
        stream.append(along)
        again.append([calibration.of(p) for p in said(rights[0], np.full(N, last), shared, rng)])
        test.append([calibration.of(p) for p in said(rights[1], np.full(N_NEW, last), of_new, rng)])
    ours, looks, rows = past(examples, stream), past(examples, again), past(new, test)
    along = [one for i in range(N) for one in answers(Mix().fit(TASK, ours[:i]), ours[i : i + 1])]
    crossed = [(0.0, False)] * N
    for part in range(PARTS):
        others = [row for i, row in enumerate(looks) if i % PARTS != part]
        crossed[part::PARTS] = answers(Mix().fit(TASK, others), looks[part::PARTS])
    by_stream, by_looks = (answers(Mix().fit(TASK, known), rows) for known in (ours, looks))
    return [broken(along, by_stream), broken(along, by_looks), broken(crossed, by_looks)]


if __name__ == "__main__":
    n = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    shares = np.mean([run(seed) for seed in range(n)], axis=0)
    ways = (
        "fitted and recorded along the stream",
        "fitted on second looks, recorded along the stream",
        "both on looks",
    )
    for way, share in zip(ways, shares, strict=True):
        print(f"{way:52} broken in {share:.3f} of {n} runs")
