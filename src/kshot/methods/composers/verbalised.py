"""Labels said in other words: letters, numbers, plain words, words of choice, or words that the model writes itself.

Which words a model connects with a class depends on the model and the task, so they belong into the race:
`random:composer=verbalised(words=names/natural/letters)`. Answers are the task's own labels all along.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np

from kshot.core.errors import SameTokensError, SettingError, UserError, did_you_mean
from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.types import Example, Prompt, Question, Task, not_made
from kshot.methods.contracts import Composer
from kshot.prompts.fitting import first_to_fit
from kshot.taskmodel.taskmodel import TaskModel

KINDS = ("names", "natural", "letters", "numbers", "model")
_TOKENS = 8  # of a word that the model writes
_LONGEST = 32  # characters of a word that the model writes
_JOINT = re.compile(r"_+|(?<=[^\W\d_])-+(?=[^\W\d_])|(?<=[a-zß-ÿ])(?=[A-Z])")
_EDGES = " \t\"'“”‘’`*.,;:!?()[]{}<>"


@dataclass(frozen=True)
class Verbalised(Composer):
    """Say other words for the labels: where they are shown, asked, scored and learnt.

    A verbaliser is an injective map label -> word. What a prediction says is the label whose word is most probable; a
    demonstration shows the word; the instruction is followed by what each word stands for ("Labels: A (sport), B
    (tech)") unless it is the label's own name in plain letters. With words=names everything is as without it.

    With words=model the model writes `draws` + 1 words for each label from every other text that has it, and the words
    under which the labels of the other texts cost the fewest bits without demonstrations are taken: of these sets, the
    plain words and the names. A set in which two labels have the same word, or words of
    the same tokens, is not taken. Costs (draws + 1) x labels texts of some tokens and (draws + 3) x asked scorings at
    each refit point; the others cost nothing.

    Attributes:
        words: "names" as they are, "natural" plain words ("entity_type" is "entity type", "NotSpam" "not spam"),
            "letters" (A, B, …), "numbers" (1, 2, …), "model", or pairs "label>word" joined by "+"; labels that are not
            named there keep their names. Several are raced: words=names/natural/letters.
        told: Whether it is said after the instruction which label a word stands for, if that fits with the question.
        draws: With words=model: how many words are drawn for each label, beside the most probable one.
        shown: With words=model: texts that a word is written from; without the longest ones where they do not fit.
            A label with no text that fits has its plain word, and that is said.
        asked: With words=model: the most examples on which they are tried.

    Source: Li et al. (2023), Instruction-following Evaluation through Verbalizer Manipulation, section 3,
    https://arxiv.org/abs/2307.10558. Words found on the examples: Schick et al. (2020), Automatically Identifying Words
    That Can Serve as Labels for Few-Shot Text Classification, https://arxiv.org/abs/2010.13641.
    Differs: words are a choice of the race instead of a measure; those of the model are written by it and judged by
    bits, instead of looked for in its vocabulary.

    Example:
        >>> task = Task("t", "classification", (), labels=("is_good", "is_bad"), instruction="How is it?")
        >>> script = Verbalised(words="letters").compose(task, [Example("1", "is_bad", "x")], Question("2", "y"))
        >>> [piece.text for piece in script.pieces]
        ['How is it?', 'Labels: A (is_good), B (is_bad)', '1', 'B', '2']
        >>> Verbalised().said(task, "is_bad", Question("2", "y"))
        'is bad'
    """

    words: str = setting("natural", raced=True)
    told: bool = True
    draws: int = setting(3, least=0, most=100)
    shown: int = setting(4, least=1, most=100)
    asked: int = setting(16, least=1, most=10_000)
    _written: tuple[tuple[str, str], ...] = state(())  # label, word

    version = 2

    def __post_init__(self):
        super().__post_init__()
        if self.words not in KINDS:
            _pairs(self.words)

    @property
    def learns(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether its words depend on examples."""
        return self.words == "model"

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the model must be able to do: to write, where it writes the words."""
        return frozenset({Capability.GENERATE}) if self.words == "model" else frozenset()

    def suits(self, task: Task) -> bool:
        """Return whether the task has a list of labels.

        Raises:
            UserError: It has, and words are given for others.
        """
        return task.kind == "classification" and bool(words_for(self.words, task.labels))

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return it with the words that the model has written; others as they are.

        Raises:
            SameTokensError: Two labels have words that are the same to the model.
        """
        task = model.task
        if self.words != "model":
            saying, asked = replace(model, composer=self), Question("", "any")
            saying.forward_tokens([saying.compose((), asked)], [saying.said(task.labels, asked)])
            return self
        plain = words_for("natural", task.labels)
        source, held = _halves(pool)
        sets = [plain, *self._drawn(source, model, plain), dict(zip(task.labels, task.labels, strict=True))]
        held = not_made(held)[: self.asked]
        tried, bits, same = list[Mapping[str, str]](), list[float](), 0
        for words in sets if held else ():
            if words in tried:
                continue
            saying = replace(model, composer=replace(self, _written=tuple(words.items())))
            try:
                bits.append(float(saying.code_lengths([()] * len(held), held).sum()))
                tried.append(words)
            except SameTokensError:
                same += 1
        best = tried[int(np.argmin(bits))] if tried else plain
        each = [round(b / len(held), 3) for b in bits]
        model.note({"composer": "verbalised", "words": best, "bits": each, "same_tokens": same})
        return replace(self, _written=tuple(best.items()))

    @property
    def shorter(self) -> Self | None:
        """It without what each word stands for."""
        return replace(self, told=False) if self.told else None

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with a word for each label."""
        words = self._words(task)
        script = UsualWording().compose(task, [_answered(e, words.get(e.output, e.output)) for e in shown], question)
        other = {label: word for label, word in words.items() if word not in (label, plain_words(label))}
        if not (self.told and other):
            return script
        key = ", ".join(f"{word} ({label})" if label in other else word for label, word in words.items())
        n = len(script.opening)
        told = Piece("instruction", f"{script.wanted}s: {key}")
        return replace(script, pieces=(*script.pieces[:n], told, *script.pieces[n:]))

    def said(self, task: Task, answer: str, question: Question) -> str:
        """Return a label's word."""
        return self._words(task).get(answer, answer)

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return the label of a word."""
        return next((label for label, word in self._words(task).items() if word == text), text)

    def _words(self, task: Task) -> Mapping[str, str]:
        return dict(self._written) or words_for(self.words, task.labels)

    def _drawn(self, source: Sequence[Example], model: TaskModel, plain: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Return sets of words that the model has written, each with one for every label that `source` has."""
        labels = [label for label in model.task.labels if any(e.output == label for e in source)]
        texts = [[e.text for e in source if e.output == label][: self.shown] for label in labels]
        requests = [_request(label, some, model) for label, some in zip(labels, texts, strict=True)]
        labels = [label for label, request in zip(labels, requests, strict=True) if request]
        prompts = [request for request in requests if request]
        if n := len(requests) - len(prompts):
            model.progress.say(
                f"verbalised: for {n} of {len(requests)} labels the model has no room for a text to write a word from; "
                "each has its plain word"
            )
        model.progress.begin("writing words", len(prompts) * (1 + self.draws))
        sets = []
        for seed in range(1 + self.draws):
            how = {"temperature": float(seed > 0), "seed": seed, "progress": model.progress.advance}
            found = model.write_each(prompts, max_tokens=_TOKENS, stop=("\n",), **how)
            written = {label: _word(text.text) for label, text in zip(labels, found, strict=True)}
            words = {label: written.get(label) or word for label, word in plain.items()}
            times = Counter(word.casefold() for word in words.values())
            words = {label: word if times[word.casefold()] == 1 else plain[label] for label, word in words.items()}
            sets += [words] * (len({word.casefold() for word in words.values()}) == len(words))
        return sets


@lru_cache(maxsize=256)
def words_for(words: str, labels: tuple[str, ...]) -> Mapping[str, str]:
    """Return a word for each label, different ones, as `Verbalised.words` says; for "model" the plain ones.

    Raises:
        UserError: Words are given for labels that are not there, or two labels have the same word.
    """
    if words in ("natural", "model"):
        plain = [plain_words(label) for label in labels]
        times = Counter((*plain, *(label for label, word in zip(labels, plain, strict=True) if label != word)))
        pairs = zip(labels, plain, strict=True)
        return {label: word if word and times[word] == 1 else label for label, word in pairs}
    if words not in KINDS:
        return _own(_pairs(words), labels)
    said = {"names": str, "letters": lambda label: _letters(labels.index(label))}
    number = lambda label: str(labels.index(label) + 1)  # noqa: E731
    return {label: said.get(words, number)(label) for label in labels}


def plain_words(label: str) -> str:
    """Return a label in plain words.

    Example:
        >>> plain_words("entity_type"), plain_words("NotSpam"), plain_words("pre-paid"), plain_words("-1")
        ('entity type', 'not spam', 'pre paid', '-1')
    """
    return " ".join(_JOINT.sub(" ", label).split()).lower()


def _letters(place: int) -> str:
    """Return A, B, …, Z, AA, AB and so on for 0, 1, …, 25, 26, 27."""
    text = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _pairs(words: str) -> list[tuple[str, str]]:
    """Return what "label>word+label>word" says."""
    pairs = [tuple(part.strip() for part in pair.split(">")) for pair in words.split("+")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise SettingError(
            f"words must be {', '.join(KINDS)}, or words for labels; got '{words[:80]}'. Name one of these, or words "
            "such as positive>great+negative>terrible; a label with + / > , or a bracket in it is named by its place, "
            "from 1."
        )
    return [(label, word) for label, word in pairs]


def _own(pairs: Sequence[tuple[str, str]], labels: tuple[str, ...]) -> Mapping[str, str]:
    """Return labels with the words that are given for them, by name or by place; others have their names."""
    places = {str(i + 1): label for i, label in enumerate(labels)}
    named = [(label if label in labels else places.get(label, label), word) for label, word in pairs]
    for label, _ in named:
        if label not in labels:
            raise UserError(
                f"verbalised:words must name labels of the task; got '{label}'.{did_you_mean(label, labels)}"
            )
        if [other for other, _ in named].count(label) > 1:
            raise UserError(f"verbalised:words must name each label once; got '{label}' twice. Leave one out.")
    found = {label: dict(named).get(label, label) for label in labels}
    for label, word in found.items():
        if other := [name for name, said in found.items() if said == word and name != label]:
            raise UserError(
                f"verbalised:words must be different for each label; '{label}' and '{other[0]}' are both '{word}'. "
                "Change one of them."
            )
    return found


def _halves(pool: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return every other example of each label, and the others."""
    times, halves = Counter[str](), (list[Example](), list[Example]())
    for example in pool:
        halves[times[example.output] % 2].append(example)
        times[example.output] += 1
    return halves


@lru_cache(maxsize=4096)
def _answered(example: Example, word: str) -> Example:
    return replace(example, output=word)


def _request(label: str, texts: Sequence[str], model: TaskModel) -> Prompt | None:
    """Return what asks for a word, without the longest texts if they do not fit; None where none of them does."""
    lines = [f"- {' '.join(text.split())[:300]}" for text in texts]
    counts = [model.model.count_tokens(line) for line in lines]
    short = sorted(range(len(lines)), key=lambda i: (counts[i], i))
    some = ("\n".join(lines[i] for i in sorted(short[:n])) for n in range(len(lines), 0, -1))
    told = (
        f"These texts are of one kind, which is called '{label}':\n\n{listed}\n\nThis kind in one other word:"
        for listed in some
    )
    return first_to_fit(map(model.layout.request, told), model.model, answer_tokens=_TOKENS)


def _word(text: str) -> str:
    """Return the word in what a model has written; nothing if that is more than three, or long."""
    word = " ".join(text.split("\n")[0].strip(_EDGES).split())
    return word if len(word) <= _LONGEST and len(word.split()) <= 3 and not set(word) & set(_EDGES[1:]) else ""
