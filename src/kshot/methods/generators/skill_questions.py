"""New questions for the skills that the model's own mistakes need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, islice, zip_longest
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.script import WORDS
from kshot.core.types import Example, Task
from kshot.methods.generators.consensus import check_possible, consensus
from kshot.methods.generators.intake import Intake
from kshot.methods.generators.new_inputs import Shown, write_inputs
from kshot.methods.generators.writer import Writer, votes
from kshot.methods.skill_profile import Skilled, missed, mistakes
from kshot.taskmodel.taskmodel import TaskModel

DISAGREE = "its solutions do not agree"
RETRIEVED, QUESTIONS = 3, 2  # known examples that a draft is written from, and drafts of a skill that a mistake needs


@dataclass(frozen=True)
class SkillQuestions(Skilled, Writer):
    """Write two new questions for each skill that a mistake of the model needs, and keep those whose solutions agree.

    The model is asked the known examples, each by what was known before it. For every mistake and skill that it needs,
    the skills of most mistakes first, two questions are written after three known ones with the skill; each is solved
    `solutions` times, after different demonstrations, and kept where `agree` of the solutions are the same. Without
    mistakes nothing is written. Costs an answer for each known example, once, and a text and `solutions` answers for
    each draft.

    Attributes:
        solutions: How often a draft is solved.
        agree: So many have to be the same.
        shots: Demonstrations after which mistakes are made and drafts are solved.
        most: The most known examples of which it is asked whether they are mistakes, the first ones.
        encoder: "minilm", or a sentence-transformers hub id or folder.

    Source: He et al. (2025), STAT, https://arxiv.org/abs/2510.10023, STAT-Syn.
    Differs: skills are those of the rows, or clusters of their reasons, as no teacher model lists them; a mistake needs
    all skills of its example; the model that errs writes and solves; solutions are answers, without reasons.
    """

    solutions: int = setting(3, least=2, most=100)
    agree: int = setting(2, least=2, most=100)
    shots: int = setting(4, least=0, most=1000)
    most: int = setting(128, least=1, most=100_000)
    _needed: tuple[tuple[str, int], ...] = state(())  # a skill, and the place of a mistake that needs it
    _owners: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )  # the places of the examples with a skill

    def __post_init__(self):
        super().__post_init__()
        check_possible(self.agree, solutions=self.solutions)

    def suits(self, task: Task) -> bool:
        """Return whether new questions can be written: those of multiple choice bring choices of their own."""
        return task.kind != "multiple_choice"

    def knowing(self, seeds: Sequence[Example], *, model: TaskModel) -> Self:
        """Return it with the skills that mistakes need: each skill once, that of most mistakes first, then again."""
        skills = self.skills_of(seeds)
        wrong = mistakes(seeds[: self.most], shots=self.shots, model=model)
        counts = missed(skills[: len(wrong)], wrong)
        model.note({"generator": "skills", "mistakes": counts})
        by_skill = {
            skill: [i for i, is_missed in enumerate(wrong) if is_missed and skill in skills[i]] for skill in counts
        }
        turns = zip_longest(*([(skill, i) for i in own] for skill, own in by_skill.items() if own))
        owners = {skill: tuple(i for i, own in enumerate(skills) if skill in own) for skill in counts}
        return replace(self, _needed=tuple(filter(None, chain.from_iterable(turns))), _owners=owners)

    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Write `n` questions, two for each skill of a mistake and then again, and take those whose solutions agree."""
        planned = list(islice(cycle([pair for pair in self._needed for _ in range(QUESTIONS)]), n))
        lists, skill_of = list[Shown](), dict[int, tuple[str, int]]()
        for skill, mistake in planned:
            own = [seeds[i] for i in self._owners[skill]]
            shown = tuple(own[i] for i in rng.permutation(len(own))[:RETRIEVED])
            heading = f"{WORDS[model.task.kind][0]}s that need the skill '{skill}':"
            one = Shown(shown, bool(shown[0].context), heading)
            lists.append(one)
            skill_of[id(one)] = skill, mistake
        drafts = write_inputs(lists, seeds, self, intake, asked=(model,), rng=rng)
        how = {
            "voters": self.solutions,
            "shots": self.shots,
            "apart": [()] * len(drafts),
            "models": (model,),
            "rng": rng,
        }
        said = votes([draft for draft, _ in drafts], seeds, **how)
        for (draft, shown), answers in zip(drafts, said, strict=True):
            answer = consensus(answers, least=self.agree, is_open=False, are_labels=not model.task.is_open)
            if answer is None:
                intake.reject(draft.input, DISAGREE)
            else:
                skill, mistake = skill_of[id(shown)]
                about = {"skills": [skill], "mistake": seeds[mistake].id, "votes": answers}
                intake.take(replace(draft, output=answer), shown.examples, **about)
