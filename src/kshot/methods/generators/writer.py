"""Generators that let the model write drafts, round after round, until there are enough."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.plugins import origin_of
from kshot.core.types import Example, Generation
from kshot.methods.composers.asking import can_be_said
from kshot.methods.contracts import Generator, Made
from kshot.methods.generators.intake import Intake
from kshot.methods.skill_profile import answers_after
from kshot.prompts.fitting import fits
from kshot.taskmodel.taskmodel import TaskModel

CUT, UNFIT = "it came to no end", "it does not fit the model"
LEAST_TOKENS, MOST_TOKENS = 32, 512


@dataclass(frozen=True)
class Writer(Generator):
    """Lets the model write drafts, in rounds of as many as are missing.

    Attributes:
        near: The greatest likeness (ROUGE-L, 0 to 1) of a draft and a known text; 1: only what is known is rejected.
        rounds: The most rounds; each asks for as many drafts as are missing.
        temperature: Of the drafts; 0 takes the most probable words, so that rounds differ by what they show alone.
    """

    near: float = setting(0.7, least=0, most=1)
    rounds: int = setting(3, least=1, most=1000)
    temperature: float = setting(1.0, least=0, most=10)

    needs = frozenset({Capability.GENERATE})

    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return what was taken of the drafts; see `kshot.methods.contracts.Generator`."""
        intake = Intake(origin_of(type(self)).name, seeds, model.task, near=self.near)
        ready = self.knowing(seeds, model=model)
        for _ in range(self.rounds):
            if (missing := self.n - len(intake.taken)) > 0 and seeds:
                ready.draft(missing, seeds, intake, model=model, rng=rng)
        return Made(tuple(intake.taken[: self.n]), tuple(intake.rejected))

    def knowing(self, seeds: Sequence[Example], *, model: TaskModel) -> Self:
        """Return it with what it finds out about the known examples before the first draft."""
        return self

    @abstractmethod
    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Write about `n` drafts, and offer them to the intake."""

    def written(
        self,
        texts: Sequence[str],
        *,
        stop: tuple[str, ...],
        max_tokens: int,
        model: TaskModel,
        rng: np.random.Generator,
    ) -> list[Generation | None]:
        """Return what the model writes after each text, other words after the same text; None where it does not fit.

        Args:
            texts: What it is asked; the same may be there several times.
            stop: As in `GenerateRequest`.
            max_tokens: Likewise.
            model: Who writes.
            rng: One draw is taken of it.
        """
        seed, times = int(rng.integers(2**31)), Counter[str]()
        rounds: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            rounds.setdefault(times[text], []).append(i)
            times[text] += 1
        found: list[Generation | None] = [None] * len(texts)
        model.progress.begin("writing", len(texts))
        for number, places in rounds.items():
            prompts = {i: model.layout.request(texts[i]) for i in places}
            fitting = {i: p for i, p in prompts.items() if fits(p, model.model, answer_tokens=max_tokens)}
            how = {"temperature": self.temperature, "seed": seed + number, "progress": model.progress.advance}
            said = model.write_each(list(fitting.values()), max_tokens=max_tokens, stop=stop, **how)
            for i, one in zip(fitting, said, strict=True):
                found[i] = one
            model.progress.advance(len(places) - len(fitting))
        return found


def room_for(texts: Sequence[str], model: TaskModel) -> int:
    """Return how many tokens a draft may have: half as many again as the longest of these texts, within 32..512."""
    longest = max((model.model.count_tokens(text) for text in texts), default=0)
    most = min(MOST_TOKENS, max(1, model.model.max_tokens // 4))
    return min(most, max(LEAST_TOKENS, longest + longest // 2))


def finished(said: Sequence[Generation | None], texts: Sequence[str], intake: Intake) -> list[tuple[int, str]]:
    """Return the places and texts of those drafts that came to an end; the others are rejected.

    Args:
        said: As `Writer.written` returns it.
        texts: What stands for a draft that was not written.
        intake: Told of those that are rejected.
    """
    found = []
    for i, (one, asked) in enumerate(zip(said, texts, strict=True)):
        if one is None:
            intake.reject(asked, UNFIT)
        elif not one.finished:
            intake.reject(one.text.strip(), CUT)
        else:
            found.append((i, one.text.strip()))
    return found


def in_one_line(text: str) -> str:
    """Return a text with single blanks in place of all white space, so that a line of a prompt holds it."""
    return " ".join(text.split())


def votes(
    drafts: Sequence[Example],
    seeds: Sequence[Example],
    *,
    voters: int,
    shots: int,
    apart: Sequence[Sequence[str]],
    models: Sequence[TaskModel],
    rng: np.random.Generator,
) -> list[list[str]]:
    """Return what each of some voters answers to each draft, `[n_drafts][voters]`.

    A voter is a model with its own draw of demonstrations, so that its prompts share their beginning; of these a draft
    is shown the first `shots` that it does not say again. Models take turns.

    Args:
        drafts: Questions; their outputs are not told.
        seeds: What is shown.
        voters: How many.
        shots: Demonstrations of each.
        apart: For each draft the ids of examples that are not shown: those that it says again.
        models: Who is asked, the first one first.
        rng: For the draws.
    """
    found: list[list[str]] = [[] for _ in drafts]
    asked = [Example(e.input, "", e.id, e.context, choices=e.choices) for e in drafts]
    for number in range(voters):
        order = [seeds[i] for i in rng.permutation(len(seeds))]
        shown = [[e for e in order if e.id not in own][:shots] for own in apart]
        answers = answers_after(shown, asked, model=models[number % len(models)], what="answering drafts")
        for own, answer in zip(found, answers, strict=True):
            own.append(answer)
    return found


def can_be_asked(draft: Example, models: Sequence[TaskModel]) -> bool:
    """Return whether each of some models can read a draft."""
    return all(can_be_said(model, draft.question) for model in models)
