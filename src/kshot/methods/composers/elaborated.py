"""The situation of a question, elaborated by the model before it answers: what moves people, what will come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from kshot.core.errors import SettingError
from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.composers.asking import can_be_said, written
from kshot.methods.contracts import Composer
from kshot.prompts.fitting import fits
from kshot.retrieval.corpus import unlisted
from kshot.taskmodel.taskmodel import TaskModel

# How each dimension is asked for, and what is said of the situations of `_SHOWN`
_DIMENSIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "motivation": (
        "Why do they do it?",
        (
            "Mia wants her neighbour to feel less alone.",
            "Tom hopes that nobody will find out what he did.",
            "Ada is eager to see the sea before it gets dark.",
        ),
    ),
    "emotion": (
        "How do they feel afterwards?",
        ("Mia feels content and a little proud.", "Tom feels guilty.", "Ada feels cold but happy."),
    ),
    "rule of thumb": (
        "Which rule of thumb holds here?",
        (
            "It is kind to look after people who live alone.",
            "You should own up to what you have broken.",
            "It is wise to take warm clothes to the coast.",
        ),
    ),
    "consequence": (
        "What is likely to happen next?",
        (
            "The neighbour thanks Mia and invites her to stay for tea.",
            "Tom's sister finds the pieces and asks who broke the vase.",
            "Ada catches a cold and stays in bed the next day.",
        ),
    ),
}
_SHOWN = (
    "Mia brings a bowl of soup to the old man next door, who lives alone.",
    "Tom breaks his sister's vase and hides the pieces under his bed.",
    "Ada runs down to the beach in a thin shirt, although it is windy.",
)
ALL = "+".join(_DIMENSIONS)


@dataclass(frozen=True)
class Elaborated(Composer):
    """Let the model write a sentence on each dimension of the situation, and say them as context of the question.

    For each dimension d the model writes e_d after three situations with theirs; it then answers by
    p(answer | demonstrations with their e, e_1 e_2 …, question). Of a question with options only what stands before
    them is elaborated, so that no option speaks through a sentence. Where the model has no room for all sentences, or
    to write one, the first that fit are said, or none (`left_out`). Cost of a question: a short text for each
    dimension; those of demonstrations are written once.

    Attributes:
        dimensions: What is written, with "+" between: "motivation", "emotion", "rule of thumb" and "consequence" have
            prompts of their own, any other word is asked for as "What is the … in this situation?". Leaving one out is
            the ablation.
        demonstrations: Whether demonstrations are elaborated too.
        max_tokens: The most tokens of a sentence.

    Source: Gu, Dalvi Mishra and Clark (2022), DREAM: Improving Situational QA by First Elaborating the Situation,
    https://arxiv.org/abs/2112.08656.
    Differs: the model that answers elaborates, shown three situations, instead of a T5-11B trained for it.
    """

    dimensions: str = ALL
    demonstrations: bool = True
    max_tokens: int = setting(40, least=4, most=1000)
    _said: str | None = state()
    _said_of: Mapping[str, str] | None = state()

    version = 2
    needs = frozenset({Capability.GENERATE})
    considers = True

    def __post_init__(self):
        super().__post_init__()
        names = self._names
        if not all(names) or len(set(names)) < len(names):
            raise SettingError(
                f"dimensions must be different words with + between them, such as emotion+consequence; got "
                f"'{self.dimensions}'."
            )

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(" ".join(name.split()) for name in self.dimensions.split("+"))

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return the usual script, with what was written of each question before it."""
        usual = UsualWording().compose(task, shown, question)
        if self._said is None:
            return usual
        pieces = list[Piece](usual.opening)
        told = [*((self._said_of or {}).get(e.id, "") for e in shown), self._said]
        for turn, text in zip(usual.turns, told, strict=True):
            pieces += [*([Piece("context", text)] if text else []), *turn]
        return replace(usual, pieces=tuple(pieces))

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Return what the model writes of each question's situation, and of those of its demonstrations.

        Returns:
            For each question its "elaboration", a sentence for each dimension; how many were "left_out", where some did
            not fit the model; and what is said of demonstrations, by their ids, "of_shown".
        """
        task, shows = model.task, self.demonstrations
        own = [situation(task, question) for _, question in asked]
        theirs = [[situation(task, e.question) for e in shown] if shows else [] for shown, _ in asked]
        new = [text for texts in theirs for text in texts if (model.model.fingerprint, text) not in self._written]
        new_ones = self._elaborations(tuple(dict.fromkeys((*own, *new))), model)
        self._written.update({(model.model.fingerprint, text): new_ones[text] for text in new})
        known = {**{text: e for (of, text), e in self._written.items() if of == model.model.fingerprint}, **new_ones}
        found = []
        for (shown, question), text, texts in zip(asked, own, theirs, strict=True):
            of_shown = {e.id: _joined(known[its]) for e, its in zip(shown, texts, strict=True)} if shows else {}
            about = self._that_can_be_said(known[text], question, model)
            found.append({**about, **({"of_shown": of_shown} if of_shown else {})})
        return found

    def _that_can_be_said(self, sentences: Mapping[str, str], question: Question, model: TaskModel) -> dict[str, Any]:
        """Return as many sentences as can be said, the first ones, and how many others did not fit."""
        text, room = situation(model.task, question), {"answer_tokens": self.max_tokens}
        requests = [model.layout.request(_asking(name, text)) for name in self._names]
        left_out, some = sum(not fits(request, model.model, **room) for request in requests), dict(sentences)
        while some and not can_be_said(replace(model, composer=self.knowing({"elaboration": some})), question):
            some.popitem()
            left_out += 1
        return {"elaboration": some, **({"left_out": left_out} if left_out else {})}

    def remark(self, found: Sequence[Mapping[str, Any]]) -> str:
        """Return of how many questions not all that was to be elaborated could be."""
        n = sum(about.get("left_out", 0) > 0 for about in found)
        said = f"{n} of {len(found)} questions had no room for all sentences and were asked with fewer or none"
        return f"{said} (`found` in samples.jsonl)" if n else ""

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return it with what was written for one question."""
        return replace(self, _said=_joined(found["elaboration"]), _said_of=found.get("of_shown", {}))

    @cached_property
    def _written(self) -> dict[tuple[str, str], Mapping[str, str]]:
        """What was written of demonstrations: a saved model, which keeps no store, is asked once."""
        return {}

    def _elaborations(self, situations: Sequence[str], model: TaskModel) -> dict[str, Mapping[str, str]]:
        """Return for each situation a sentence on each dimension, without those that say nothing new."""
        requests = [_asking(name, text) for text in situations for name in self._names]
        replies = written(model, requests, max_tokens=self.max_tokens, stop=("\n",))
        found = {}
        for text in situations:
            sentences = {name: first_sentence(replies.get(_asking(name, text), "")) for name in self._names}
            kept = dict[str, str]()
            for name, sentence in sentences.items():
                is_new = sentence not in kept.values() and sentence.rstrip(".").lower() not in text.lower()
                if sentence and is_new:
                    kept[name] = sentence
            found[text] = kept
        return found


def situation(task: Task, question: Question) -> str:
    """Return the situation of a question: its context and its text, without options that stand at its end."""
    return " ".join(f"{question.context or ''} {unlisted(task, question)}".split())


def first_sentence(text: str) -> str:
    """Return the first sentence of what was written."""
    text = " ".join(text.split())
    ends = [i + 1 for i, sign in enumerate(text) if sign in ".!?" and text[i + 1 : i + 2] in ("", " ")]
    return text[: ends[0]] if ends else text


def _joined(sentences: Mapping[str, str]) -> str:
    return " ".join(sentences.values())


def _asking(dimension: str, text: str) -> str:
    """Return the text after which the model writes a sentence on one dimension."""
    asks, said = _DIMENSIONS.get(dimension, (f"What is the {dimension} in this situation?", ()))
    shown = "".join(f"Situation: {s}\n{asks} {e}\n\n" for s, e in zip(_SHOWN, said, strict=False))
    return f"{shown}Situation: {text}\n{asks}"
