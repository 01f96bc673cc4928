"""Demonstrations that need the skill which a query is foreseen to need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.script import WORDS
from kshot.core.seeding import digest
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.encoders.encoder import Encoder, load_encoder
from kshot.methods.contracts import Selector
from kshot.methods.embeds import Embeds
from kshot.methods.selectors.nearest import nearest_last, question_text
from kshot.prompts.fitting import fits
from kshot.taskmodel.taskmodel import TaskModel

FILE = "skills.safetensors"
LEAST = 32  # examples to learn from; with fewer the encoder searches as it is
COLLAPSED = 0.3  # nats, below which skills tell little of the reasons (measured: 0.06 to 0.17; healthy ones 0.5 to 6.6)


@dataclass(frozen=True)
class Lars(Embeds, Selector):
    """Take the `k` examples whose latent skill is nearest to the one foreseen for the query, the nearest last.

    A skill z is what the reason for an answer tells beyond its question. From the embeddings x of questions and r of
    reasons three small networks learn q(z | x, r), p(z | x) and the reason from both, by

        loss = weight |d(x, z) - r|^2 + KL(q || p) - 0.01 log p(mean of q | x)

    An example's skill is the mean of q, a query's the mean of p, which needs no reason; they are compared by cosine.
    Below 32 examples nothing is learnt and the embeddings of questions are compared.

    Costs a reason of up to `tokens` tokens for each example that has none, written once, and seconds of training at 32,
    64, 128, … examples. Where the model has no room to write one, the example's output stands for it, and that is said.

    Attributes:
        encoder: "minilm", or a sentence-transformers hub id or folder; it stays as it is.
        rationales: "given" are the examples' `explanation` (the output where one is missing); "written" ones are
            written by the model from question and answer; "auto" are written where none is given.
        tokens: The most tokens of a written one.
        size: Numbers in a skill.
        weight: Of the reconstruction. At 1 skills collapse on embeddings of length 1: they tell nothing of the reason,
            and are worse than the questions.
        steps: Of Adam, on `batch` examples each.
        lr: Its learning rate.
        batch: The most examples in a step.

    Source: Xu et al. (2023), LaRS: Latent Reasoning Skills for Chain-of-Thought Reasoning,
    https://arxiv.org/abs/2312.04684.
    Differs: the reconstruction counts 100 times, and log variances are taken as such and kept within -8..4; 64 numbers
    instead of 128, 200 steps of 1e-3 on 64 examples instead of 400 to 2,000 epochs of 1e-4 on 256, as pools are small;
    MiniLM. More steps fit small pools so closely that the question foretells every skill: the divergence falls.
    """

    rationales: str = setting("auto", choices=("auto", "given", "written"))
    tokens: int = setting(32, least=1, most=1024)
    size: int = setting(64, least=1, most=4096)
    weight: float = setting(100.0, above=0)
    steps: int = setting(200, least=1, most=1_000_000)
    lr: float = setting(1e-3, above=0)
    batch: int = setting(64, least=1, most=100_000)
    _encoder: Encoder | None = state()
    _skills: Any = state()  # LatentSkills, a module with torch
    _written: dict[str, str] | None = state()  # reasons, by what was asked; all that are fitted from one have it
    _bank: FloatArray | None = state()
    _rehearses: bool = state(False)

    version = 2
    per_query = True

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the model that it asks must be able to do: to write, unless reasons are given."""
        return frozenset() if self.rationales == "given" else frozenset({Capability.GENERATE})

    def missing_field(self, task: Task) -> str | None:
        """Return "explanation" where reasons are to be given and no example has one."""
        is_there = self.rationales != "given" or any(e.explanation for e in task.train)
        return None if is_there else "explanation"

    @property
    def has_learnt(self) -> bool:
        """Whether it knows how it compares examples, so that `fit` learns nothing."""
        return self._encoder is not None or self._skills is not None

    def rehearsing(self) -> Self:
        """Return a selector that has the reasons written, and learns nothing of them."""
        return replace(self, _rehearses=True)

    def learnt(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a selector that has learnt the skills of `pool`; with few examples, the encoder as it is."""
        encoder = load_encoder(self.encoder)
        ready = replace(self, _encoder=encoder, _written={})
        if len(pool) < LEAST:
            return ready
        reasons = ready._reasons(pool, model)
        if self._rehearses:
            return ready
        from kshot.encoders.latent_skills import SkillSettings, learn_skills  # here and not above: torch

        how = SkillSettings(self.size, self.weight, self.steps, self.lr, self.batch)
        model.progress.begin("learning skills", self.steps)
        questions = encoder.embed([e.text for e in pool])
        skills, kl = learn_skills(questions, encoder.embed(reasons), how, rng=rng, progress=model.progress.advance)
        assert ready._written is not None
        noted = {"n_learnt": len(pool), "kl_nats": round(kl, 3), "written": len(ready._written)}
        model.note({"selector": "lars", **noted})
        if kl < COLLAPSED:
            model.progress.say(
                f"lars: the skills have collapsed (KL {kl:.2f} nats, below {COLLAPSED}): they tell little of the "
                "reasons that the questions do not; raise weight, or give more examples"
            )
        return replace(ready, _skills=skills)

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Find the pool's skills, `[n_pool, size]`, after learning them if that has not been done yet."""
        if not self.has_learnt:
            return self.learnt(pool, model=model, rng=rng).fit(pool, model=model, rng=rng)
        encoder = self._encoder or load_encoder(self.encoder)
        bank = encoder.embed([e.text for e in pool])
        if self._skills:
            bank = self._skills.of_examples(bank, encoder.embed(self._reasons(pool, model)))
        return replace(self, _encoder=encoder, _bank=_unit(bank))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of the `k` nearest, the nearest last."""
        assert self._bank is not None, "fit comes before select"
        assert self._encoder is not None
        vector = self._encoder.embed([question_text(question, "lars")])
        if self._skills:
            vector = self._skills.of_questions(vector)
        return nearest_last(np.round(self._bank @ _unit(vector)[0], 9), k)

    def save(self, folder: Path) -> None:
        """Write the networks and the reasons that were written; nothing where nothing was learnt."""
        if self._skills:
            self._skills.save(folder / FILE, {"written": self._written})

    @classmethod
    def rebuilt(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """Return the selector with what `save` wrote."""
        if not (folder / FILE).exists():
            return cls(**settings)
        from kshot.encoders.latent_skills import LatentSkills  # here and not above: torch

        skills, about = LatentSkills.read(folder / FILE)
        return cls(**settings, _skills=skills, _written=dict(about["written"]))

    def _reasons(self, pool: Sequence[Example], model: TaskModel) -> list[str]:
        """Return the reason of each example; those that are not known yet are written."""
        assert self._written is not None
        given = {} if self.rationales == "written" else {e: e.explanation for e in pool if e.explanation}
        if self.rationales == "given":
            return [given.get(e) or e.output for e in pool]
        asked = {_key(e): e for e in pool if e not in given and _key(e) not in self._written}
        if asked:
            model.progress.begin("writing reasons", len(asked))
            prompts = {key: model.layout.request(_request(e, model)) for key, e in asked.items()}
            fitting = {key: one for key, one in prompts.items() if fits(one, model.model, answer_tokens=self.tokens)}
            how: Any = {"max_tokens": self.tokens, "stop": ("\n",), "progress": model.progress.advance}
            texts = [found.text.strip() for found in model.write_each(list(fitting.values()), **how)]
            self._written.update({**dict.fromkeys(prompts, ""), **dict(zip(fitting, texts, strict=True))})
            if n := len(prompts) - len(fitting):
                model.note({"selector": "lars", "no_room": n})
                model.progress.say(
                    f"lars: {n} of {len(prompts)} examples leave no room for a reason of {self.tokens} tokens; their "
                    "answers stand for it"
                )
        return [given.get(e) or self._written[_key(e)] or e.output for e in pool]


def _request(example: Example, model: TaskModel) -> str:
    """Return what asks for the reason of an example's answer."""
    given, wanted = WORDS[model.task.kind]
    (answer,) = model.said((example.output,), example)
    return f"{given}: {example.text}\n{wanted}: {answer}\nReason: The answer is {answer} because"


def _key(example: Example) -> str:
    """Return what tells one question with its answer from others."""
    return digest(example.text, example.output)[:16]


def _unit(rows: Any) -> FloatArray:
    values = np.asarray(rows, dtype=np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
