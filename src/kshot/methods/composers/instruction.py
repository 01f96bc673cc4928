"""The instruction that the past prefers: the task's own, by rules, or one that the model has written from examples."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.script import WORDS, Script, UsualWording
from kshot.core.types import Example, Kind, Prompt, Question, Task, not_made
from kshot.methods.composers.verbalised import plain_words
from kshot.methods.contracts import Composer
from kshot.prompts.fitting import first_to_fit
from kshot.taskmodel.taskmodel import TaskModel

SOURCES = ("auto", "model", "rules")
LEAST = 4  # examples, before the model writes an instruction from the newer half of them
_ASKING = (
    "I gave a friend an instruction and some inputs. The friend followed the instruction and wrote an output for each "
    "input. Here are the pairs:\n\n{pairs}\n\nThe instruction was:"
)
_SENTENCES: Mapping[Kind, tuple[str, ...]] = {
    "multiple_choice": ("Choose the right answer to the question.", "Answer with the letter of the right choice."),
    "qa": ("Answer the question.", "Answer the question in as few words as you can."),
    "math": ("Solve the problem and give the answer.", "Work out the number that is asked for."),
    "generation": ("Write the output that belongs to the input.", "Do with each input what '{name}' says."),
    "parsing": ("Write the meaning of the input in the form of the examples.", "Parse the input: {name}."),
}
_OF_LABELS = (
    "Classify the {given} as {either}.",
    "Read the {given} and answer with one of these: {listed}.",
    "Which {wanted} does the {given} have: {either}?",
    "{Name}: give each {given} its {wanted}.",
)
_QUOTED = re.compile(r"(?<!\w)['\"“‘]([^'\"“”‘’\n]{1,40})['\"”’](?!\w)")
_CHOICE = re.compile(r"(?:\bone of(?: these| the following)?:?|\beither|\bas|\bis|\bare|:)\s+([^.:;?!]*\w)")
_OR = re.compile(r",\s*or\s+|,\s*|\s+or\s+")


@dataclass(frozen=True)
class _Candidate:
    """An instruction, and the ids of the examples that it was written from."""

    text: str
    source: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Instruction(Composer):
    """Say the instruction under which past outputs have cost the fewest bits.

    Candidates are the task's own instruction, some by rules from the task's kind, name and labels, and some that the
    model writes: at 4, 8, 16, … examples it is shown pairs of the newer half and asked for the instruction that leads
    from inputs to outputs, `seeds` times at temperature 1. A candidate's worth is

        sum over x of bits(x under it) - bits(x under the task's own),

    over the first `asked` examples of the past without those that it was written from. The `candidates` best go on to
    the next refit point, and the best one is said; without evidence it is the task's own. All of it rests on the past
    alone. Of a model that only writes, an output costs few bits where it is what the model writes.

    A candidate is rejected, and counted by the reason in the run's record, that is empty or came to no end, has more
    than `longest` tokens, is nothing but labels, repeats an example that it was written from, lists labels that the
    task does not have or only some of those that it has, or is there already.

    Costs seeds texts and at most (candidates + seeds) x asked scorings at each refit point; what a run has asked
    before is not asked again.

    Attributes:
        candidates: How many go on, the task's own beside them.
        seeds: How many the model writes at each refit point.
        shown: Pairs that each is written from.
        asked: The most examples that they are scored on.
        joint: After how many demonstrations, the first of the past, they are scored; 0: without. With recipes that
            show some it is best as many.
        source: "rules" asks the model to write none, "model" leaves out the rules, "auto" is both, and the rules alone
            for a model that only scores.
        longest: Tokens of an instruction.

    Source: Zhou et al. (2022), Large Language Models Are Human-Level Prompt Engineers (APE), sections 3.1 and 4,
    https://arxiv.org/abs/2211.01910.
    Differs: bits instead of accuracy; candidates never compete on examples that they were written from, and come up
    for election again whenever the past has doubled, instead of one round on a training set; no resampling around the
    best.

    Example:
        >>> task = Task("pets", "classification", (), labels=("cat", "dog"), instruction="Which pet?")
        >>> by_rules(task)[0]
        'Classify the text as cat or dog.'
    """

    candidates: int = setting(6, least=1, most=1000)
    seeds: int = setting(3, least=1, most=100)
    shown: int = setting(5, least=1, most=100)
    asked: int = setting(32, least=1, most=10_000)
    joint: int = setting(0, least=0, most=1000)
    source: str = setting("auto", choices=SOURCES)
    longest: int = setting(60, least=1, most=1000)
    _texts: tuple[str, ...] = state(())  # the best first

    version = 2
    learns = True

    @property
    def needs(self) -> frozenset[Capability]:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """What the model must be able to do: to write, where nothing else makes candidates."""
        return frozenset({Capability.GENERATE}) if self.source == "model" else frozenset()

    @property
    def alternatives(self) -> tuple[Composer, ...]:
        """One for each candidate that is left, the best first."""
        return tuple(self._saying(text) for text in self._texts) or (self,)

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return it with the candidates that the past has left, the best first."""
        task, rejected = model.task, Counter[str]()
        own = _Candidate(task.instruction)
        kept, worth = [own], dict[str, float]()
        if self.source != "model":
            self._add(kept, [(text, frozenset()) for text in by_rules(task)], (), model, rejected)
        for n in _points(len(pool)):
            newer = pool[n // 2 : n][: self.shown]
            if n >= LEAST and self.source != "rules" and Capability.GENERATE in model.model.capabilities:
                ids = frozenset(e.id for e in newer)
                self._add(kept, [(text, ids) for text in self._written(newer, model, rejected)], newer, model, rejected)
            worth = self._worth(kept, pool[:n], model)
            others = sorted(kept[1:], key=lambda one: worth[one.text])  # stable: the oldest first
            kept = [own, *others[: self.candidates]]
        best = sorted((one.text for one in kept), key=lambda text: worth.get(text, 0.0))
        told = [{"instruction": text, "bits": round(worth.get(text, 0.0), 2)} for text in best]
        model.note({"composer": "instruction", "candidates": told, "rejected": dict(sorted(rejected.items()))})
        return replace(self, _texts=tuple(best))

    @property
    def shorter(self) -> Self | None:
        """It with the task's own instruction."""
        return replace(self, _texts=()) if self._texts else None

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with the best instruction in the place of the task's own."""
        said = replace(task, instruction=self._texts[0]) if self._texts else task
        return UsualWording().compose(said, shown, question)

    def _saying(self, text: str) -> Self:
        return replace(self, _texts=(text, *(other for other in self._texts if other != text)))

    def _add(
        self,
        kept: list[_Candidate],
        found: Sequence[tuple[str, frozenset[str]]],
        examples: Sequence[Example],
        model: TaskModel,
        rejected: Counter[str],
    ) -> None:
        """Put candidates beside those that are kept, and count why others are not."""
        for text, source in found:
            reason = fault(text, model.task, examples)
            if not reason and model.model.count_tokens(text) > self.longest:
                reason = "too long"
            if not reason and text.casefold() in {one.text.casefold() for one in kept}:
                reason = "there already"
            if reason:
                rejected[reason] += 1
            else:
                kept.append(_Candidate(text, source))

    def _written(self, examples: Sequence[Example], model: TaskModel, rejected: Counter[str]) -> list[str]:
        """Return what the model takes for the instruction; empty where it came to no end, or no pair fits the model."""
        prompt = self._request(examples, model)
        if prompt is None:
            rejected["no room"] += self.seeds
            return []
        model.progress.begin("writing instructions", self.seeds)
        found = []
        for seed in range(self.seeds):
            how = {"temperature": 1.0, "seed": seed, "progress": model.progress.advance}
            (written,) = model.write_each([prompt], max_tokens=self.longest, stop=("\n\n",), **how)
            found.append(cleaned(written.text, finished=written.finished))
        return found

    def _request(self, examples: Sequence[Example], model: TaskModel) -> Prompt | None:
        """Return the question for the instruction, with as many pairs as fit the model; None where none does."""
        pairs = [f"Input: {_cut(e.text, 400)}\nOutput: {_cut(e.output, 200)}" for e in examples]
        texts = (_ASKING.format(pairs="\n\n".join(pairs[:n])) for n in range(len(pairs), 0, -1))
        return first_to_fit(map(model.layout.request, texts), model.model, answer_tokens=self.longest)

    def _worth(self, kept: Sequence[_Candidate], past: Sequence[Example], model: TaskModel) -> dict[str, float]:
        """Return the bits that each candidate costs more than the first, on examples it was not written from."""
        demonstrations, others = tuple(past[: self.joint]), past[self.joint :]
        held = not_made(others)[: self.asked]
        found, plain = dict[str, float](), dict[str, float]()
        for one in kept:
            asked = [e for e in held if e.id not in one.source]
            saying = replace(model, composer=self._saying(one.text))
            bits = saying.code_lengths([demonstrations] * len(asked), asked).tolist() if asked else []
            plain = plain or dict(zip((e.id for e in asked), bits, strict=True))
            found[one.text] = sum(b - plain[e.id] for e, b in zip(asked, bits, strict=True))
        return found


def by_rules(task: Task) -> tuple[str, ...]:
    """Return instructions that follow from a task's kind, labels and name."""
    given, wanted = (word.lower() for word in WORDS[task.kind])
    name, labels = plain_words(task.name), task.labels
    either = f"{', '.join(labels[:-1])} or {labels[-1]}" if len(labels) > 1 else "".join(labels)
    sentences = _OF_LABELS if labels else _SENTENCES.get(task.kind, ())
    also = {"name": name, "Name": name[:1].upper() + name[1:], "either": either, "listed": ", ".join(labels)}
    return tuple(text.format(given=given, wanted=wanted, **also) for text in sentences)


def cleaned(text: str, *, finished: bool = True) -> str:
    """Return the instruction in what a model has written: its first line without quotes; of one that was cut sentences.

    Example:
        >>> cleaned(' "Name the animal. Then st', finished=False)
        'Name the animal.'
    """
    line, *more = [line for line in text.splitlines() if line.strip()] or [""]
    line = re.sub(r"^\W*(the )?instruction( was)?\s*:", "", line, flags=re.IGNORECASE)
    line = " ".join(line.strip(" \t\"'“”‘’*`").split())
    if finished or more:
        return line
    ends = [m.end() for m in re.finditer(r"[.?!](?=\W|$)", line)]
    return line[: ends[-1]] if ends else ""


def fault(text: str, task: Task, examples: Sequence[Example]) -> str | None:
    """Return why a text is no instruction for a task; None where nothing is wrong.

    Args:
        text: The candidate.
        task: What it is for.
        examples: Those that it was written from.
    """
    said, labels = f" {_plain(text)} ", [f" {_plain(label)} " for label in task.labels]
    if not said.strip():
        return "empty"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn") or c == "\ufffd" for c in text if c != "\n"):
        return "not plain text"
    rest = said
    for label in sorted(labels, key=len, reverse=True):
        rest = rest.replace(label, " ")
    if labels and not re.sub(r"\b(or|and|label|labels|output|answer)\b", "", rest).strip():
        return "nothing but labels"
    for e in examples:
        given, output = _plain(e.input), _plain(e.output)
        if given and (f" {given} " in said or (len(said) > 20 and said.strip() in given)):
            return "repeats an example"
        if task.is_open and len(output) > 3 and f" {output} " in said:
            return "repeats an example"
    return "other labels" if task.labels and _lists_others(text, said, labels) else None


def _lists_others(text: str, said: str, labels: Sequence[str]) -> bool:
    """Return whether a text lists labels that the task does not have, or some of those that it has and not the rest."""
    named = [label for label in labels if label in said]
    if 1 < len(named) < len(labels):
        return True
    lists = [_QUOTED.findall(text)]
    for listed in _CHOICE.findall(text):
        items = _OR.split(listed)
        lists += [items] * all(len(item.split()) <= 3 for item in items)
    for sentence in re.split(r"[.:;?!]", text):
        items = [item for item in _OR.split(sentence)[1:] if len(item.split()) <= 2]
        lists += [items] * any(f" {_plain(item)} " in labels for item in items)
    plain = [[f" {_plain(item)} " for item in items if _plain(item)] for items in lists]
    return any(len(items) > 1 and not set(items) <= set(labels) for items in plain)


def _plain(text: str) -> str:
    """Return words in small letters with single spaces."""
    return " ".join(re.findall(r"\w+", plain_words(text)))


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"


def _points(n: int) -> list[int]:
    """Return the refit points up to `n`: 1, 2, 4, … and `n` itself."""
    powers = [1 << i for i in range(n.bit_length())]
    return powers if n in powers else [*powers, n] if n else []
