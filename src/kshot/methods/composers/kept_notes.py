"""What is known beside the examples, kept as plain notes: a question is answered from those that are about it.

A model is corrected by a sentence, without training: the sentence is kept, and questions that it does not bear on are
asked as if it were not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite, log2
from pathlib import Path
from typing import Any, Self

import numpy as np

from kshot.core.errors import SettingError, UserError, in_short
from kshot.core.fields import setting, state
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json
from kshot.core.models import Capability
from kshot.core.paths import path_of
from kshot.core.script import Script
from kshot.core.seeding import digest
from kshot.core.types import Example, FloatArray, Question, Task, not_made
from kshot.encoders.encoder import load_encoder
from kshot.methods.composers.wording import Wording
from kshot.methods.contracts import Composer
from kshot.methods.embeds import Embeds
from kshot.prompts.fitting import prompt_tokens
from kshot.retrieval.corpus import unlisted
from kshot.retrieval.note_memory import NoteMemory, clean_note
from kshot.taskmodel.taskmodel import TaskModel

REFUSAL = "Not in the notes."
# Relevance above which notes bear on a question where no past tells: cosine, nats a token, nats, and that it answers
THRESHOLDS = {"likeness": 0.6, "question": 1.3, "refusal": 0.0, "reply": 0.5}
MOST_TRIED = 64  # examples of the past by which a threshold is chosen
_ELSE = "If the context does not answer the question, answer from what you know."
_NO_NOTES, _ASKS = "(none)", "Question:"


@dataclass(frozen=True)
class Notes(Embeds, Composer):
    """Keep notes, and answer a question from those that are about it; any other as if there were none.

    The notes most like the question are looked up, then it is judged whether they bear on it (`gate`). If so, they are
    said as its context; if not, the prompt is to the byte the one without notes. The relevance r of the notes N that
    were looked up for a question q is, by the gate:
    likeness: r = max over n in N of <v(n), v(q)>, with vectors v of length 1, or the weight of the words of n in q;
    question: r = (ln P(q | N) - ln P(q)) / tokens of q;
    refusal: r = ln P(refusal | q) - ln P(refusal | N, q), with leave to reply "Not in the notes.";
    reply: r = 0 if the model replies so, else 1.
    The notes are said, by likeness the best one and those as like as is usual, where r is above a threshold: a usual
    one, or that with which the right answers of the past, of the last 64 examples at most, would have cost the fewest
    bits, if it saves more than log2 of the number of thresholds that were compared.

    Of notes that say otherwise, as far as their words show, the later one counts, and it is told. Cost of a question:
    nothing more with likeness; two short prompts scored with question and refusal; one reply with reply.

    Attributes:
        file: Notes to begin with: a text with a note a line, or JSON lines, each a text or an object with `note`.
        k: The most notes that are said to a question.
        steps: 2, or 1 to say the notes in any case, with leave to answer from memory: the baseline.
        gate: How it is judged whether notes bear on a question: "likeness", "question", "refusal" or "reply".
        threshold: "auto", or what the relevance must be above: then the past is not asked.
        lookup: By the "dense" vectors of `encoder`, or by words as "bm25" does.
        from_contexts: The contexts of examples are notes too, and a question's own is one, the newest: what it is asked
            with is judged as all others are.
        inner: Says the rest: any composer.

    Source: Chen et al. (2024), Robust and Scalable Model Editing for Large Language Models (EREN),
    https://arxiv.org/abs/2403.17431.
    Differs: the gate goes by likeness unless another is asked for, as small models do not know when to refuse: on 100
    questions of the paper's hard set likeness and question told relevant from irrelevant notes with an area under the
    curve of 0.99, refusal of a model of 270M with 0.3 to 0.5; a question that notes bear on is asked again, without
    the word of refusal; MiniLM instead of Contriever.
    """

    file: str = ""
    k: int = setting(5, least=1, most=100)
    steps: int = setting(2, least=1, most=2)
    gate: str = setting("likeness", choices=tuple(THRESHOLDS))
    threshold: str = "auto"
    lookup: str = setting("dense", choices=("dense", "bm25"))
    from_contexts: bool = False
    inner: Composer = field(default=Wording())
    _notes: tuple[str, ...] | None = state()
    _threshold: float | None = state()
    _said: tuple[str, ...] | None = state()

    version = 2
    considers = True

    def __post_init__(self):
        super().__post_init__()
        if self.threshold != "auto":
            try:
                is_number = isfinite(float(self.threshold))
            except ValueError:
                is_number = False
            if not is_number:
                raise SettingError(f"threshold must be a number or auto; got '{self.threshold}'.")
        if self._notes is None:
            object.__setattr__(self, "_notes", _each_once(notes_of(self.file)) if self.file else ())
        if self.file:
            object.__setattr__(self, "file", str(path_of(self.file).absolute()))

    @property
    def notes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] - never None
        """The notes that it keeps, in the order in which they came."""
        return self._notes or ()

    @cached_property
    def memory(self) -> NoteMemory:
        """The notes, to be looked up."""
        return NoteMemory(encoder=load_encoder(self.encoder) if self.lookup == "dense" else None).add(self.notes)

    def noting(self, notes: Sequence[str]) -> Self:
        """Return it with these notes in place of its own."""
        return replace(self, _notes=_each_once([clean_note(note) for note in notes]))

    @property
    def missing_package(self) -> str | None:
        """The package of the encoder, if it is missing and used, or what the inner composer lacks."""
        return (super().missing_package if self.lookup == "dense" else None) or self.inner.missing_package

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the model must be able to do to judge."""
        judging = {"question": Capability.SCORE, "refusal": Capability.SCORE, "reply": Capability.GENERATE}
        own = {judging[self.gate]} if self.steps == 2 and self.gate in judging else set()
        return frozenset(own) | self.inner.needs

    @property
    def learns(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether what it says depends on the past: its notes, its threshold, or the inner composer."""
        return self.from_contexts or self.inner.learns or (bool(self.notes) and self._fits_threshold)

    @property
    def _fits_threshold(self) -> bool:
        return self.steps == 2 and self.threshold == "auto" and self.gate != "reply"

    @property
    def _usual(self) -> float:
        """The threshold where the past does not tell; likeness by words is another one."""
        return 0.5 if (self.gate, self.lookup) == ("likeness", "bm25") else THRESHOLDS[self.gate]

    @property
    def limit(self) -> float:
        """What the relevance of notes must be above, so that they are said."""
        if self.threshold != "auto":
            return float(self.threshold)
        return self._usual if self._threshold is None else self._threshold

    def suits(self, task: Task) -> bool:
        """Return whether the inner composer does."""
        return self.inner.suits(task)

    def missing_field(self, task: Task) -> str | None:
        """Return what the examples lack."""
        if self.from_contexts and not any(e.context for e in (*task.train, *task.test)):
            return "context"
        return None

    def obstacle(self, task: Task) -> str | None:
        """Return why it cannot be used, or the composer inside."""
        return super().obstacle(task) or self.inner.obstacle(task)

    def record(self) -> dict[str, Any]:
        """Return what it is; a file of notes counts by what it says, and the encoder where it is used."""
        record = super().record()
        if self.lookup == "bm25":
            del record["weights"]
        return {**record, "notes": digest(self.notes)}

    def check_record(self, record: Mapping[str, Any]) -> None:
        """Raise UserError where the encoder is another one than that of a record."""
        if self.lookup == "dense":
            super().check_record(record)

    def save(self, folder: Path) -> None:
        """Write notes, threshold and what the inner composer remembers."""
        super().save(folder)
        self.inner.save(folder / "inner")

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return it with the contexts of the past among its notes, and a threshold that has served the past best."""
        notes, inner = self.notes, self.inner.fit(pool, model=model, rng=rng)
        if self.from_contexts:
            notes = (*notes, *(_flat(e.context) for e in pool if e.context))
        fitted = replace(self, inner=inner, _notes=_each_once(notes), _threshold=None)
        if fitted.notes and self._fits_threshold and pool:
            return replace(fitted, _threshold=fitted._best_threshold(not_made(pool)[-MOST_TRIED:], model))
        return fitted

    def _best_threshold(self, pool: Sequence[Example], model: TaskModel) -> float:
        """Return the threshold with which the answers of the past cost the fewest bits, asked without examples."""
        found = self._looked_up([example.question for example in pool], model)
        tried = [(e, looked) for e, looked in zip(pool, found, strict=True) if looked.notes]
        relevance = np.array([looked.relevance for _, looked in tried], np.float64)
        if not tried:
            return self._usual
        bits = []
        for with_notes in (True, False):
            prompts = []
            for example, looked in tried:
                said = self._bearing(looked, -np.inf)
                composer = replace(self, _said=tuple(said) if with_notes else ())
                prompts.append(replace(model, composer=composer).prompt((), example)[0])
            bits.append(replace(model, composer=self).bits_after(prompts, [example for example, _ in tried]))
        return best_threshold(relevance, bits[0] - bits[1], self._usual)

    @property
    def rewrites(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether the inner composer does."""
        return self.inner.rewrites

    @property
    def reason_weight(self) -> float:
        """How much reasons that are learnt count: as the inner composer has it."""
        return self.inner.reason_weight

    def said(self, task: Task, answer: str, question: Question) -> str:
        """Return how the inner composer says an answer."""
        return self.inner.said(task, answer, question)

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return which answer the inner composer hears."""
        return self.inner.heard(task, text, question)

    def unsaid(self, task: Task, answer: str, question: Question) -> float:
        """Return the nats that the inner composer leaves unsaid."""
        return self.inner.unsaid(task, answer, question)

    def taught(self, task: Task, shown: Sequence[Example], target: Example) -> Script:
        """Return what the inner composer teaches, with the notes that are about the question before it."""
        alone = self._said is not None and self.from_contexts
        return self._with_notes(self.inner.taught(task, shown, replace(target, context=None) if alone else target))

    @property
    def alternatives(self) -> tuple[Composer, ...]:
        """The inner composer's, each with these notes."""
        return tuple(replace(self, inner=inner) for inner in self.inner.alternatives)

    @property
    def shorter(self) -> Self | None:
        """It with what the inner composer has in its place."""
        inner = self.inner.shorter
        return replace(self, inner=inner) if inner else None

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what the inner composer says, with the notes that are about the question before it."""
        alone = self._said is not None and self.from_contexts
        return self._with_notes(self.inner.compose(task, shown, replace(question, context=None) if alone else question))

    def _with_notes(self, script: Script) -> Script:
        if not self._said:
            return script
        script = script.beside_question(["\n".join(self._said)])
        return script.noted([_ELSE]) if self.steps == 1 else script

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Return for each question the notes that it is asked with, and how relevant the best ones were."""
        limit = self.limit
        inner: Sequence[Mapping[str, Any]] = [{}] * len(asked)
        if self.inner.considers:
            inner = self.inner.consider(asked, model=replace(model, composer=self.inner), seed=seed)
        told = []
        for looked, more in zip(self._looked_up([q for _, q in asked], model), inner, strict=True):
            about: dict[str, Any] = {"notes": self._bearing(looked, limit), "relevance": looked.relevance}
            about |= {"too_long": looked.n_long} if looked.n_long else {}
            told.append(about | ({"inner": more} if more else {}))
        return told

    def said_of(self, notes: Sequence[tuple[str, float]]) -> list[str]:
        """Return those of the notes that are said by their likeness, the most like first; length is not looked at."""
        best = tuple(notes[: self.k][::-1])
        return self._bearing(_Looked(best, 0, best[-1][1] if best else None), self.limit)[::-1]

    def _bearing(self, looked: "_Looked", limit: float) -> list[str]:
        """Return the notes that are said where relevance must be above a limit; by likeness the best and its like."""
        if self.steps == 1:
            return [note for note, _ in looked.notes]
        if looked.relevance is None or looked.relevance <= limit:
            return []
        usual = self._usual if self.threshold == "auto" else limit
        least = min(usual, looked.notes[-1][1]) if self.gate == "likeness" else -np.inf
        return [note for note, likeness in looked.notes if likeness >= least]

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return it with the notes that one question is asked with."""
        inner = self.inner.knowing(found["inner"]) if "inner" in found else self.inner
        return replace(self, inner=inner, _said=tuple(found["notes"]))

    def remark(self, found: Sequence[Mapping[str, Any]]) -> str:
        """Return how many questions were asked with notes, and what became of notes that were not said."""
        n_long, n_gone = sum(about.get("too_long", 0) for about in found), len(self.memory.overruled)
        told = [f"{sum(bool(about['notes']) for about in found)} of {len(found)} questions were asked with notes"]
        told += [f"{n_long} times a note was left out, as it left no room for the question"] if n_long else []
        told += [f"{n_gone} of the notes says otherwise than a later one, which counts instead"] if n_gone else []
        inner = self.inner.remark([about["inner"] for about in found if "inner" in about])
        return "; ".join([*told, *([inner] if inner else [])])

    def _looked_up(self, questions: Sequence[Question], model: TaskModel) -> "list[_Looked]":
        """Return for each question the notes most like it, and their relevance."""
        found = []
        for question in questions:
            notes = self._memory_of(question).lookup(self._text(model.task, question), self.k)
            notes = [(note, likeness) for note, likeness in notes if likeness > 0 or self.lookup == "dense"]
            fits = self._fitting(notes, question, model) if notes else []
            found.append(_Looked(tuple(fits[::-1]), len(notes) - len(fits)))
        known = [i for i, looked in enumerate(found) if looked.notes and self.steps == 2]
        judged = self._relevance([questions[i] for i in known], [found[i] for i in known], model) if known else ()
        for i, relevance in zip(known, judged, strict=True):
            found[i] = replace(found[i], relevance=float(relevance))
        return found

    def likeness_of_all(self, task: Task, question: Question) -> list[tuple[str, float]]:
        """Return the notes that count with their likeness to a question, the most like first; no model is asked.

        Raises:
            UserError: The gate is another one than likeness, and asks the model.
        """
        if self.gate != "likeness":
            raise UserError(
                f"gate=likeness must judge which notes bear on a question, so that no model is asked; here it is "
                f"'{self.gate}'. Ask the model: `kshot predict --json` says which notes a question was asked with."
            )
        return self._memory_of(question).lookup(self._text(task, question), len(self.notes) + 1)

    def _memory_of(self, question: Question) -> NoteMemory:
        """Return the memory, with a question's own context as the newest note where contexts are notes."""
        context = question.context if self.from_contexts else None
        if not (self.notes or context):
            return NoteMemory()
        return self.memory.add([_flat(context)]) if context else self.memory

    def _text(self, task: Task, question: Question) -> str:
        """Return what notes must be about: a question without the options that it lists."""
        asked = replace(question, input=unlisted(task, question))
        return asked.input if self.from_contexts else asked.text

    def _fitting(
        self, notes: Sequence[tuple[str, float]], question: Question, model: TaskModel
    ) -> list[tuple[str, float]]:
        """Return the first notes, the best ones, that leave room for the question and half of the model's context."""
        most, asks = model.model.max_tokens, model.layout.request(_judging("", self._text(model.task, question)))
        plain = prompt_tokens(replace(model, composer=self.inner).compose((), question), model.model)
        room = min(most // 2, most - max(plain, prompt_tokens(asks, model.model)) - model.answer_tokens)
        kept = []
        for note, likeness in notes:
            n = model.model.count_tokens(f"{note}\n")
            if n <= room:
                room -= n
                kept.append((note, likeness))
        return kept

    def _relevance(
        self, questions: Sequence[Question], looked: "Sequence[_Looked]", model: TaskModel
    ) -> Sequence[float] | FloatArray:
        """Return how relevant what was looked up is to each question."""
        if self.gate == "likeness":
            return [one.notes[-1][1] for one in looked]
        texts = [self._text(model.task, question) for question in questions]
        notes = ["\n".join(note for note, _ in one.notes) for one in looked]
        judging = [_judging(some, text) for some, text in zip(notes, texts, strict=True)]
        if self.gate == "reply":
            replies = model.write_each(list(map(model.layout.request, judging)), max_tokens=16, stop=("\n",))
            return [float(not is_refusal(reply.text)) for reply in replies]
        if self.gate == "question":
            written, bare, said = [f"{some}\n\n{_ASKS}" for some in notes], [_ASKS] * len(texts), texts
        else:
            written, bare, said = judging, [_judging(_NO_NOTES, text) for text in texts], [REFUSAL] * len(texts)
        prompts = [model.layout.request(text) for text in (*written, *bare)]
        rows = np.array([row[0] for row in model.score(prompts, [(text,) for text in said] * 2)])
        gains = rows[: len(texts)] - rows[len(texts) :]
        if self.gate == "refusal":
            return -gains
        return gains / [model.model.count_tokens(model.layout.answer(text)) for text in texts]


@dataclass(frozen=True)
class _Looked:
    """What was looked up for a question.

    Attributes:
        notes: Each with its likeness, the best one last.
        n_long: How many were left out, as they left no room for the question.
        relevance: None where nothing was found or judged.
    """

    notes: tuple[tuple[str, float], ...]
    n_long: int = 0
    relevance: float | None = None


def _flat(text: str) -> str:
    return " ".join(text.split())


def _each_once(notes: Sequence[str]) -> tuple[str, ...]:
    """Return notes as a memory keeps them: again only where one says again what another has overruled."""
    return NoteMemory().add(notes).notes


def _judging(notes: str, question: str) -> str:
    """Return the text that asks whether notes answer a question."""
    asks = f"Answer from the notes alone. If they do not answer the question, say: {REFUSAL}"
    return f"Notes:\n{notes}\n\nQuestion: {question}\n{asks}\nAnswer:"


def is_refusal(reply: str) -> bool:
    """Return whether a reply is that the notes do not answer the question."""
    return REFUSAL.rstrip(".").lower() in " ".join(reply.lower().split())


def best_threshold(relevance: FloatArray, costs: FloatArray, usual: float) -> float:
    """Return the threshold above which saying notes costs least in all; of those that are alike the nearest to `usual`.

    It is the usual one unless another saves more bits than it takes to say which: chance finds one that saves a few.

    Args:
        relevance: Of the notes of each example, `[n]`.
        costs: Bits of the answer with notes, less those without, `[n]`.
        usual: What it is where the past does not tell.
    """
    steps = np.unique(relevance)
    if not len(steps):
        return usual
    edges = np.concatenate(([-np.inf], steps, [np.inf]))  # with a threshold in [edges[i], edges[i + 1]) all is alike
    total = np.array([costs[relevance > edge].sum() for edge in edges[:-1]])
    if costs[relevance > usual].sum() - total.min() <= log2(len(total)):
        return usual
    ways = [(_between(low, high), cost) for low, high, cost in zip(edges, edges[1:], total, strict=False)]
    return min((way for way, cost in ways if cost <= total.min() + 1e-9), key=lambda way: (abs(way - usual), way))


def _between(low: float, high: float) -> float:
    if np.isfinite(low) and np.isfinite(high):
        return float(low + high) / 2
    return float(low) if np.isfinite(low) else float(high) - 1


def notes_of(file: str | Path) -> list[str]:
    """Read notes: a text with one a line, or JSON lines, each a text or an object with `note`.

    Raises:
        UserError: There is no such file, it holds something else, or no note.
    """
    place = path_of(file)
    try:
        lines = text_of(place).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{place} must be a text file of notes; {in_short(error)}. Name another file.") from None
    notes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where, note = f"{place}, line {number}: a note", line
        if place.suffix in (".jsonl", ".json"):
            try:
                note = from_json(line)
            except ValueError as error:
                raise UserError(f"{where} must be JSON; {in_short(error)}. Correct the line.") from None
            note = note.get("note") if isinstance(note, dict) else note
        notes.append(clean_note(note, where))
    if not notes:
        raise UserError(f"{place} must hold notes, one a line; it is empty. Name another file, or leave it out.")
    return notes
