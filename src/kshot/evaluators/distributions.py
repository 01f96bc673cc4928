"""What a model knows of distributions: can it be steered by samples, does it cover what is possible, do its odds hold?

Beside the answers of a finished system its language model is asked, with the weights and the steering that it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.models import Capability, WritingModel
from kshot.core.types import Example, FloatArray, GenerateRequest, Prediction, Question, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.measured import Measured, amount
from kshot.measures.probabilities import code_length_bits, jensen_shannon
from kshot.methods.processes import Process, make_process
from kshot.taskmodel.taskmodel import TaskModel

_MOST_NEW = 16  # tokens of a sample


@dataclass(frozen=True)
class Distribution(Evaluator):
    """Measure steerability by samples, coverage of what is valid, and alignment with known probabilities.

    Steerability: bits of an output after 0, 1, 2, … others of the same sequence were shown: of test rows, and of
    made-up people with opinions; and the bits that all of them together save. Coverage: of texts that the model draws
    for made-up ranges of numbers, the share that is valid, the share that is unique, and how many are both. Alignment:
    the Jensen-Shannon divergence in bits between the model's probabilities of an urn's colours, told what it holds, and
    the right ones. All processes are those held out from the tuner `spectrum`.

    Attributes:
        sequences: How many sequences steerability is measured on.
        shown: The most samples that are shown.
        generations: Texts drawn for each of three ranges; 0: none.
        urns: How many urns alignment is measured on.

    Source: Sorensen et al. (2025), Spectrum Tuning, https://arxiv.org/abs/2510.06084.
    Differs: small made-up processes and the user's own test rows; answers among candidates by their probabilities.
    """

    asks_model: ClassVar[bool] = True
    needs = frozenset({Capability.SCORE})

    sequences: int = setting(16, least=1, most=10_000)
    shown: int = setting(8, least=1, most=100)
    generations: int = setting(100, least=0, most=10_000)
    urns: int = setting(20, least=1, most=10_000)

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each test row as it is; see `kshot.evaluators.evaluator.Evaluator`."""
        return [Case(example) for example in task.test]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return the bits of the system's own answers, as it shows what it shows."""
        bits = [code_length_bits(task, c.example.output, p) for c, p in zip(cases, predictions, strict=True)]
        return {"n": len(cases), "bits_per_example": Measured([c.example.id for c in cases], bits, amount)}

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return the three axes; see `kshot.evaluators.evaluator.Evaluator`.

        Raises:
            UserError: All texts that it draws are empty.
        """
        assert model is not None
        own = [[task.test[i] for i in rng.permutation(len(task.test))[: self.shown + 1]] for _ in range(self.sequences)]
        people = [make_process("persona", rng=rng, held_out=True) for _ in range(self.sequences)]
        urns = [make_process("urn", rng=rng, held_out=True) for _ in range(self.urns)]
        ranges = [make_process("range", rng=rng, held_out=True) for _ in range(3)]
        told = [(about(model, one), one.sample(self.shown + 1, rng=rng)) for one in people]
        found: dict[str, Any] = {
            "steerability_bits": _curve(steerability([(model, some) for some in own])),
            "steerability_bits_people": _curve(steerability(told)),
            "alignment_bits": Measured(_numbered("urn", self.urns), alignment(model, urns), amount),
            "alignment_bits_uniform": float(np.mean([jensen_shannon(_uniform(one), one.probs[0]) for one in urns])),
        }
        if self.generations and Capability.GENERATE in model.model.capabilities:
            texts = [drawn(model, one, self.generations, seed=int(rng.integers(2**31))) for one in ranges]
            found["coverage"] = _coverage(texts, ranges, model.model.name)
        return found


def about(model: TaskModel, process: Process) -> TaskModel:
    """Return the same model asked about a process, in the usual words."""
    task = Task(process.kind, "classification", (), labels=process.outcomes, instruction=process.description)
    return model.on(task)


def steerability(sequences: Sequence[tuple[TaskModel, Sequence[Example]]]) -> FloatArray:
    """Return the bits of an output after 0, 1, 2, … samples of its sequence, `[n_sequences, length]`.

    Args:
        sequences: Each with the model on its task, which tells the description; all of one length.
    """
    rows = [model.code_lengths([some[:i] for i in range(len(some))], some) for model, some in sequences]
    return np.array(rows)


def _curve(bits: FloatArray) -> dict[str, Measured]:
    """Return the mean bits after each number of samples, and how many fewer they are after all than after none."""
    names = _numbered("sequence", len(bits))
    found = {f"after_{i}": Measured(names, column, amount) for i, column in enumerate(bits.T)}
    return found | {"saved": Measured(names, bits[:, 0] - bits[:, -1], amount)}


def _numbered(what: str, n: int) -> list[str]:
    return [f"{what} {i}" for i in range(1, n + 1)]


def alignment(model: TaskModel, processes: Sequence[Process]) -> FloatArray:
    """Return how far the model's odds are from each process's, told its description alone: bits `[n_processes]`.

    It is the Jensen-Shannon divergence over the outcomes to the first of its inputs, 0 to 1.
    """
    found = []
    for process in processes:
        asker = about(model, process)
        (row,) = asker.score([asker.compose((), Question(process.inputs[0], "asked"))], [process.outcomes])
        odds = np.exp(row - np.logaddexp.reduce(row))
        found.append(jensen_shannon(odds, process.chances(process.inputs[0])))
    return np.array(found)


def drawn(model: TaskModel, process: Process, n: int, *, seed: int) -> list[str]:
    """Return `n` texts that the model draws for a process.

    Args:
        model: One that writes.
        process: What is told.
        n: How many are drawn, at temperature 1.
        seed: For the draws.
    """
    asker = about(model, process)
    prompt = asker.compose((), Question(process.inputs[0], "asked"))
    stop = (asker.layout.terminator,) if asker.layout.terminator else ()
    requests = [GenerateRequest(prompt, _MOST_NEW, stop, temperature=1.0, seed=seed + i) for i in range(n)]
    found = cast(WritingModel, model.model).generate(requests, ledger=model.ledger)
    return [asker.layout.reply(one.text).strip() for one in found]


def coverage(texts: Sequence[str], process: Process) -> dict[str, float]:
    """Return of texts drawn for a process the shares that are `valid` and `unique`, and `unique_valid`, a count.

    Args:
        texts: One or more.
        process: Its outcomes are what is valid.
    """
    valid = set(process.outcomes)
    return {
        "valid": sum(text in valid for text in texts) / len(texts),
        "unique": len(set(texts)) / len(texts),
        "unique_valid": float(len(valid & set(texts))),
    }


def _coverage(texts: Sequence[Sequence[str]], processes: Sequence[Process], name: str) -> dict[str, Measured]:
    n = sum(map(len, texts))
    if not any(text for some in texts for text in some):
        raise UserError(
            f"What is drawn for coverage must hold text; all {n} texts that '{name}' drew are empty. Try another "
            "--layout or model, or leave coverage out: --suite distribution:generations=0."
        )
    valid, unique = list[bool](), list[bool]()
    for some, one in zip(texts, processes, strict=True):
        valid += [text in one.outcomes for text in some]
        unique += [text not in some[:i] for i, text in enumerate(some)]
    names = [f"range {r}, draw {i}" for r, some in enumerate(texts, 1) for i in range(1, len(some) + 1)]
    both = [a and b for a, b in zip(valid, unique, strict=True)]
    return {"valid": Measured(names, valid), "unique": Measured(names, unique), "unique_valid": Measured(names, both)}


def _uniform(process: Process) -> FloatArray:
    return np.full(len(process.outcomes), 1 / len(process.outcomes))
