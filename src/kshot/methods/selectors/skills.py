"""Demonstrations of the skills that a question needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.types import Example, Question
from kshot.encoders.encoder import load_encoder
from kshot.methods.contracts import Selector
from kshot.methods.selectors.nearest import nearest_last, question_text
from kshot.methods.skill_profile import Skilled, asked_skills
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Skills(Skilled, Selector):
    """Take an example of each skill that the question needs, drawn at random, and the first of the pool for the rest.

    With fewer skills than `k` further examples of the first skill are drawn; where these run out, the first examples of
    the pool fill up, as fixed shots would: there are always `k`, all different. The first skill stands next to the
    question. A question's skills are those that it names (`meta.skills`; of these only `meta.missing_skills`, where an
    attempt was found to lack some); of one that names none, those of the examples whose questions are the most similar,
    by the cosine of embeddings, added up.

    Attributes:
        near: How many similar examples lend their skills to a question that names none.
        encoder: "minilm", or a sentence-transformers hub id or folder.

    Source: He et al. (2025), AdaptMI, https://arxiv.org/abs/2505.00147, stage 2, and its code.
    Differs: no example is shown twice; skills may be clusters of rationales instead of a strong model's labels, and a
    question without any borrows those of its neighbours.
    """

    near: int = setting(3, least=1, most=1000)
    _pool: tuple[Example, ...] = state(())
    _skills: tuple[tuple[str, ...], ...] = state(())

    per_query = True
    draws = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Find the skills of the pool."""
        return replace(self, _pool=tuple(pool), _skills=tuple(self.skills_of(pool)))

    def needed(self, question: Question) -> tuple[str, ...]:
        """Return the skills that a question needs, the surest first."""
        named = asked_skills(question, (skill for own in self._skills for skill in own))
        able = [i for i, own in enumerate(self._skills) if own]
        if named or not able:
            return named
        encoder = load_encoder(self.encoder)
        rows = encoder.embed([self._pool[i].text for i in able]).astype(np.float64)
        cosines = np.round(rows @ encoder.embed([question.text])[0], 9)
        total: dict[str, float] = {}
        for place in reversed(nearest_last(cosines, self.near)):
            for skill in self._skills[able[place]]:
                total[skill] = total.get(skill, 0.0) + float(cosines[place])
        return tuple(sorted(total, key=lambda skill: -total[skill]))  # of equals the nearest neighbour's

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices (all of a smaller pool): what fills up, then the skills, the first one's last."""
        question_text(question, "skills")
        assert question is not None
        needed, chosen = self.needed(question), list[int]()
        for skill in (*needed, *needed[:1] * k)[:k]:
            able = [i for i, own in enumerate(self._skills) if skill in own and i not in chosen]
            if able:
                chosen.append(int(rng.choice(able)))
        rest = [i for i in range(len(self._pool)) if i not in chosen][: k - len(chosen)]
        return [*rest, *reversed(chosen)]
