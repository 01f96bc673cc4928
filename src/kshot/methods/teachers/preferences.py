"""Prefer the right answer to wrong ones that teach the model less: what an answer is worth as a demonstration."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.lessons import Lesson
from kshot.core.models import Capability
from kshot.core.objective_settings import Answers, Mixture, Preference
from kshot.core.types import Example, FloatArray, not_made
from kshot.measures.item_response import item_response
from kshot.methods.contracts import Teacher
from kshot.methods.demonstration_value import saved_alone
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.skill_profile import is_wrong
from kshot.taskmodel.taskmodel import TaskModel

PILOT = 48  # answers by which probes are chosen
CANDIDATES = 4  # examples for each probe that is chosen
SHOWN = 4  # demonstrations after which texts are drafted


class Pair(NamedTuple):
    """The answer that is learnt of an example, and those that it is preferred to, the least worth first."""

    winner: str
    losers: tuple[str, ...]


@dataclass(frozen=True)
class Preferences(Teacher):
    """Learn to prefer an example's right answer to wrong ones that teach the model less (DPO).

    An answer y to an example with input x is worth what (x, y), shown alone, saves the model on other examples, the
    probes: value = mean over probes j of log2 p(y_j | x, y, x_j) - log2 p(y_j | x_j), in bits. Of an example's answers
    (its labels or choices; in open tasks the known ones and texts that the model drafts) the right one of the greatest
    value wins; wrong ones that are worth less lose. A lesson of an example with a pair learns

        known x -log p(winner) + -log sigmoid(beta ((log p(winner) - log r(winner)) - (log p(loser) - log r(loser)))),

    where r is the model before training and the loser is drawn. An example without a loser, or that came after values
    were last asked for, is learnt as the tuner says, without the second term.

    Probes are examples of the past. Where there are more than `probes`, those are taken that tell most of an answer, by
    item response (`kshot.measures.item_response`): an answer passes a probe that it saves bits on. An example is never
    a probe of its own answers, nor of those of an example that was made from it. Values are those of the model before
    training, asked anew whenever the past has doubled: most x drafts x probes scorings, and 48 x 4 probes to choose the
    probes.

    Attributes:
        probes: The most examples by which answers are judged.
        drafts: The most answers of an example, the known one among them.
        most: The most examples whose answers are judged, drawn anew each time.
        margin: Bits a probe by which the winner must be worth more.
        beta: How near the model is kept to the one before training; larger is nearer.
        known: How much the winner is learnt by itself, beside being preferred.

    Source: Liu et al. (2024), ARTE, https://arxiv.org/abs/2406.19227, and Ning et al. (2024), LbT,
    https://arxiv.org/abs/2406.14629, M2; the loss: Rafailov et al. (2023), https://arxiv.org/abs/2305.18290, with the
    term of Pang et al. (2024), https://arxiv.org/abs/2404.19733.
    Differs: the model that is trained judges its own answers; bits saved in place of right answers written; winners are
    right, as far as the task's metric says; probes are spread over the outputs; no new questions are written.
    """

    probes: int = setting(16, least=1, most=1000)
    drafts: int = setting(4, least=2, most=100, hint="A single answer has none to be preferred to.")
    most: int = setting(64, least=1, most=100_000)
    margin: float = setting(0.0, least=0)
    beta: float = setting(0.1, above=0)
    known: float = setting(1.0, above=0)
    _rehearses: bool = state(False)

    version = 2
    needs = frozenset({Capability.SCORE})
    replaces = True

    @property
    def objective(self) -> Mixture:
        """What is made small over the lessons."""
        return Mixture((Answers(), Preference(self.beta)), (self.known, 1.0))

    def rehearsing(self) -> Self:
        """Return a teacher to whom each wrong answer is a loser."""
        return replace(self, _rehearses=True)

    def ask(self, seen: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Mapping[str, Pair]:
        """Return pairs of answers, by the examples' ids; see `kshot.methods.contracts.Teacher`."""
        if len(seen) < 2:  # nothing to be judged by
            return {}
        judged = [seen[i] for i in sorted(rng.permutation(len(seen))[: self.most].tolist())]
        answers = drafted(judged, seen, self.drafts, model, rng)
        shown = [answered(e, text) for e, own in zip(judged, answers, strict=True) for text in own]
        probes = chosen_probes(shown, seen, self.probes, model, rng)
        worth = np.array_split(values(shown, probes, model), np.cumsum([len(own) for own in answers])[:-1])
        pairs = {
            e.id: pair
            for e, own, value in zip(judged, answers, worth, strict=True)
            if (pair := self._pair(e, own, value, model))
        }
        counts = {"judged": len(judged), "answers": len(shown), "probes": len(probes), "pairs": len(pairs)}
        model.note({"teacher": "preferences", "n": len(seen), **counts})
        if not pairs:
            model.progress.say(
                f"preferences: none of {len(judged)} examples has a wrong answer that is worth less, shown alone, than "
                "its right one, so nothing is preferred and answers are learnt alone, until the past has doubled. "
                "Raise drafts or probes, or leave the teacher out."
            )
        return pairs

    def _pair(self, e: Example, answers: Sequence[str], value: FloatArray, model: TaskModel) -> Pair | None:
        """Return the winner and the losers among answers of which the values are known; None without a loser."""
        right = [i for i, text in enumerate(answers) if not is_wrong(model.task, e, text)]
        best = max(right, key=lambda i: value[i], default=None)
        if best is None:
            return None
        wrong = [
            i
            for i in range(len(answers))
            if i not in right and (value[best] - value[i] > self.margin or self._rehearses)
        ]
        losers = sorted(wrong, key=lambda i: value[i])
        return Pair(answers[best], tuple(answers[i] for i in losers)) if losers else None

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons with rejected answers, where there are pairs; see `kshot.methods.contracts.Teacher`."""
        pairs: Mapping[str, Pair] = knowledge.asked() or {}
        return [_with_pair(lesson, pairs.get(lesson.target.id), rng) for lesson in lessons]


def _with_pair(lesson: Lesson, pair: Pair | None, rng: np.random.Generator) -> Lesson:
    if pair is None:
        return lesson
    loser = pair.losers[int(rng.integers(len(pair.losers)))]
    return replace(lesson, target=replace(lesson.target, output=pair.winner), rejected=loser)


def answered(example: Example, answer: str) -> Example:
    """Return an example with one of its answers, and no reason, which would be about another one."""
    return replace(example, output=answer, explanation=None)


def drafted(
    examples: Sequence[Example], seen: Sequence[Example], most: int, model: TaskModel, rng: np.random.Generator
) -> list[list[str]]:
    """Return different answers to each example, the known one first.

    In open tasks the other ones are those that are right too, then texts that the model writes, drawn at temperature
    1 after other examples of the past.

    Args:
        examples: What is answered.
        seen: The past.
        most: The most answers of each, 2 or more.
        model: Who writes them.
        rng: For every random choice.
    """
    if not model.task.is_open:
        others = [[y for y in model.answers(e) if y != e.output] for e in examples]
        return [
            [e.output, *(own[i] for i in rng.permutation(len(own))[: most - 1])]
            for e, own in zip(examples, others, strict=True)
        ]
    prompts = []
    for e in examples:
        rest = [s for s in seen if s.id != e.id and s.text != e.text]
        prompts.append(model.prompt([rest[i] for i in rng.permutation(len(rest))[:SHOWN]], e)[0])
    stop = (model.layout.terminator,) if model.layout.terminator else ()
    found = [list(e.accepted) for e in examples]
    for _ in range(most - 1):
        seed = int(rng.integers(2**31))
        texts = model.write_each(prompts, max_tokens=model.answer_tokens, stop=stop, temperature=1.0, seed=seed)
        for e, own, text in zip(examples, found, texts, strict=True):
            if text.finished and text.text.strip():
                own.append(model.heard(text.text.strip(), e))
    return [list(dict.fromkeys(own))[: max(most, 2)] for own in found]


def chosen_probes(
    shown: Sequence[Example], seen: Sequence[Example], most: int, model: TaskModel, rng: np.random.Generator
) -> list[Example]:
    """Return the examples of the past by which answers are judged: those that tell most of what is shown.

    Args:
        shown: Examples with answers, of which some are asked for this.
        seen: The past.
        most: How many.
        model: Judges.
        rng: For every random choice.
    """
    given = not_made(seen)
    items = [given[i] for i in sorted(rng.permutation(len(given))[: CANDIDATES * most].tolist())]
    if len(items) <= most:
        return items
    takers = [shown[i] for i in rng.permutation(len(shown))[:PILOT]]
    saved = without_own(saved_alone(takers, items, model), takers, items)
    passed = np.where(np.isnan(saved), np.nan, saved > 0)
    best = most_telling(item_response(passed).information, [e.output for e in items], most)
    return [items[i] for i in sorted(best)]


def most_telling(information: FloatArray, outputs: Sequence[str], most: int) -> list[int]:
    """Return the places of the items that tell most, from as many outputs as there are.

    Where a shown answer makes the model say the same again, all items of that output tell the same.
    """
    times: Counter[str] = Counter()
    rounds = {}
    for i in sorted(range(len(outputs)), key=lambda i: -information[i]):
        rounds[i] = times[outputs[i]]
        times[outputs[i]] += 1
    return sorted(rounds, key=lambda i: (rounds[i], -information[i]))[:most]


def values(shown: Sequence[Example], probes: Sequence[Example], model: TaskModel) -> FloatArray:
    """Return what each example, shown alone, saves on probes of which it knows nothing, in bits a probe `[n_shown]`.

    NaN where there is no such probe.
    """
    saved = without_own(saved_alone(shown, probes, model), shown, probes)
    n = (~np.isnan(saved)).sum(axis=1)
    return np.where(n > 0, np.nansum(saved, axis=1), np.nan) / np.maximum(n, 1)


def without_own(saved: FloatArray, shown: Sequence[Example], asked: Sequence[Example]) -> FloatArray:
    """Return a copy `[n_shown, n_asked]` with NaN where the same is asked that is shown, or what it was made from."""
    own = np.array([[a.id == e.id or a.text == e.text or a.id in e.sources for a in asked] for e in shown])
    return np.where(own, np.nan, saved)
