"""Skills of examples, written in their rows or found among their rationales, and which of them a model lacks."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from kshot.core.fields import setting
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.encoders.encoder import load_encoder
from kshot.encoders.encoder_identity import encoder_id
from kshot.measures.metrics import row_score
from kshot.measures.ordered import median
from kshot.measures.probabilities import normalised
from kshot.measures.samples import primary_metric
from kshot.methods.embeds import Embeds
from kshot.methods.selectors.diverse import centres
from kshot.taskmodel.taskmodel import TaskModel

LACKED = "missing_skills"  # in a question's meta: the skills that an attempt at it lacked
META, CLUSTERS = "meta", "clusters"
NAMING = 3  # words in the name of a cluster


def written_skills(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the skills that a row names, each once: texts in `skills` or `skill`, one or a list."""
    named = [meta[key] for key in ("skills", "skill") if key in meta]
    texts = [text for value in named for text in ([value] if isinstance(value, str) else _listed(value))]
    return tuple(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def known_skills(examples: Iterable[Example]) -> tuple[str, ...]:
    """Return all skills that examples name, in the order in which they come."""
    return tuple(dict.fromkeys(skill for e in examples for skill in written_skills(e.meta)))


@dataclass(frozen=True)
class Skilled(Embeds):
    """A method that asks which skills examples and questions need.

    Attributes:
        source: "meta" reads `skills` of the rows; "clusters" takes clusters of the rationales' embeddings for skills;
            "auto" is "meta" where one of the known examples names some.
        clusters: How many clusters of rationales.
    """

    source: str = setting("auto", choices=("auto", META, CLUSTERS))
    clusters: int = setting(8, least=1, most=1000)

    def missing_field(self, task: Task) -> str | None:
        """Return what none of the examples has of what skills are read from."""
        has_skills = any(written_skills(e.meta) for e in task.train)
        has_rationales = any(e.explanation for e in task.train)
        if self.source == META:
            return None if has_skills else "meta.skills"
        if self.source == CLUSTERS:
            return None if has_rationales else "explanation"
        return None if has_skills or has_rationales else "meta.skills or explanation"

    def skills_of(self, examples: Sequence[Example]) -> list[tuple[str, ...]]:
        """Return the skills of each example; none of one that names none, or has no rationale.

        Clusters are those of the rationales that were there when the examples had last doubled in number, so that they
        stay as they are between.
        """
        written = [written_skills(e.meta) for e in examples]
        if self.source == META or (self.source == "auto" and any(written)):
            return written
        first = tuple(e.explanation for e in examples[: refit_point(len(examples))] if e.explanation)
        if not first:
            return [()] * len(examples)
        known, identity = [e.explanation for e in examples], encoder_id(self.encoder)
        middles, names = _clusters(self.encoder, str(identity), first, self.clusters)
        rows = load_encoder(self.encoder).embed([text for text in known if text]).astype(np.float64)
        places = iter(_nearest(rows, middles))
        return [(names[next(places)],) if text else () for text in known]


@lru_cache(maxsize=64)
def _clusters(encoder: str, identity: str, texts: tuple[str, ...], n: int) -> tuple[FloatArray, tuple[str, ...]]:
    """Return the centres of clusters `[n, dim]` and their names; along a stream they are asked for again and again."""
    rows = load_encoder(encoder).embed(texts).astype(np.float64)
    middles = centres(rows, min(n, len(set(texts))), generator(0, "skills"))
    return middles, _named(texts, _nearest(rows, middles), len(middles))


def _nearest(rows: FloatArray, middles: FloatArray) -> list[int]:
    """Return the place of the centre that is nearest to each row; of equals the first."""
    distances = ((rows[:, None] - middles[None]) ** 2).sum(-1)  # [n, n_middles]
    return np.round(distances, 9).argmin(1).tolist()


def _named(texts: Sequence[str], places: Sequence[int], n: int) -> tuple[str, ...]:
    """Return a name for each cluster: its number, and the words that its texts have more often than the others."""
    words = [set(re.findall(r"[^\W\d_]{3,}", text.lower())) for text in texts]
    names = []
    for cluster in range(n):
        inside = [own for own, place in zip(words, places, strict=True) if place == cluster]
        outside = [own for own, place in zip(words, places, strict=True) if place != cluster]
        often = {w: _share(w, inside) - _share(w, outside) for w in set().union(*inside)}
        best = sorted((w for w in often if often[w] > 0), key=lambda w: (-often[w], w))[:NAMING]
        names.append(" ".join((f"cluster {cluster + 1}", *best)))
    return tuple(names)


def _share(word: str, texts: Sequence[set[str]]) -> float:
    return sum(word in own for own in texts) / max(1, len(texts))


def is_wrong(task: Task, example: Example, answer: str) -> bool:
    """Return whether an answer is a mistake: its score by the task's metric is below a half."""
    return row_score(primary_metric(task), example.accepted, answer) < 0.5


def mistakes(examples: Sequence[Example], *, shots: int, model: TaskModel) -> list[bool]:
    """Return which examples of a stream the model gets wrong, each asked by what was known before it.

    An example is shown the first `shots` of those that were known when the past had last doubled before it: all later
    ones share a prompt, and what was asked once stands in the run's store.
    """
    shown = [examples[: min(shots, refit_point(i))] for i in range(len(examples))]
    said = answers_after(shown, examples, model=model)
    return [is_wrong(model.task, e, answer) for e, answer in zip(examples, said, strict=True)]


def answers_after(
    shown: Sequence[Sequence[Example]],
    examples: Sequence[Example],
    *,
    model: TaskModel,
    what: str = "looking for mistakes",
    as_given: bool = False,
) -> list[str]:
    """Return the model's answer to each example after demonstrations.

    Args:
        shown: The demonstrations of each.
        examples: What is asked.
        model: Answers on its task.
        what: What it is told as progress.
        as_given: Of ordered labels the answer is the median where the task says so; otherwise the most probable one.
    """
    prompts = [model.prompt(some, e)[0] for some, e in zip(shown, examples, strict=True)]
    model.progress.begin(what, len(prompts))
    if model.task.is_open:
        texts = model.generate(prompts, progress=model.progress.advance)
        return [model.heard(text.text.strip(), e) for text, e in zip(texts, examples, strict=True)]
    answers = [model.answers(e) for e in examples]
    asked = [model.said(some, e) for some, e in zip(answers, examples, strict=True)]
    rows = model.score(prompts, asked, progress=model.progress.advance)
    rows = [row - model.unsaid(some, e) for row, some, e in zip(rows, answers, examples, strict=True)]
    if as_given and model.task.ordered and model.task.answer == "median":
        return [median(some, normalised(row).tolist()) for some, row in zip(answers, rows, strict=True)]
    return [some[int(np.argmax(row))] for some, row in zip(answers, rows, strict=True)]


def missed(skills: Sequence[tuple[str, ...]], wrong: Sequence[bool]) -> dict[str, int]:
    """Return how many mistakes need each skill, the most first; a mistake counts for each of its skills."""
    counts = Counter({skill: 0 for own in skills for skill in own})
    counts.update(skill for own, is_missed in zip(skills, wrong, strict=True) if is_missed for skill in own)
    return dict(counts.most_common())


def chances(skills: Sequence[tuple[str, ...]], counts: Mapping[str, int]) -> FloatArray:
    """Return the chance of each example where skills are drawn by what they miss, and then an example of the skill.

    p(e) = sum over its skills k of w_k / m_k, with w_k proportional to n_k + 1, n_k the mistakes that need the skill
    and m_k the examples with it. Examples without any share a skill of their own that nobody has missed.

    Returns:
        Chances that sum to 1, `[n]`.
    """
    owned = [own or ("",) for own in skills]
    times = Counter(skill for own in owned for skill in own)
    total = sum(counts.get(skill, 0) + 1 for skill in times)
    return np.array([sum((counts.get(s, 0) + 1) / (total * times[s]) for s in own) for own in owned])


def drawn(chance: FloatArray, n: int, rng: np.random.Generator) -> list[int]:
    """Return `n` different places (all of fewer), drawn one after another by their chances."""
    return rng.choice(len(chance), min(n, len(chance)), replace=False, p=chance / chance.sum()).tolist()


def asked_skills(question: Question, known: Iterable[str]) -> tuple[str, ...]:
    """Return the skills that a question itself names and that are known: those that an attempt lacked, else its own."""
    among = set(known)
    for named in (written_skills({"skills": question.meta.get(LACKED, ())}), written_skills(question.meta)):
        if found := tuple(skill for skill in named if skill in among):
            return found
    return ()
