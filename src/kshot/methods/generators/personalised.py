"""Problems rewritten for what somebody likes, with the same numbers and the same answer."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import SequenceMatcher

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.measures.text_metrics import numbers_in
from kshot.methods.generators.intake import NO_CHOICES, Intake, parted
from kshot.methods.generators.writer import UNFIT, Writer, can_be_asked, finished, in_one_line, room_for, votes
from kshot.methods.skill_profile import is_wrong
from kshot.taskmodel.taskmodel import TaskModel

OTHER_NUMBERS, OTHER_ANSWER = "its numbers are others", "the model solves it otherwise"
TOPIC, ITEM = "topic", "item"
_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_WORDS = {word: Decimal(i) for i, word in enumerate(_NAMES, 2)}  # "one" is a pronoun, too
_WORD = re.compile(r"[^\W\d_]+")
ASKED = """Rewrite the problem for somebody who likes {liked}. Keep every number and what is asked.{grain}

Problem: A shop has 12 boxes with 6 pens each. It sells 30 pens. How many pens are left?
For somebody who likes trains: A station has 12 trains with 6 cars each. 30 cars leave. How many cars are left?

Problem: {problem}
For somebody who likes {liked}:"""
GRAINS = {TOPIC: "", ITEM: " Name something that belongs to it, such as a person, a place or a thing."}


@dataclass(frozen=True)
class Personalised(Writer):
    """An analogue of a field study: rewrite problems for what somebody likes, and keep those with the same numbers.

    A text is taken if it has the same numbers as often as the problem (figures, and two to twelve in words), and if the
    model, after other examples, gives it the same answer as the problem itself. Its output stays. `meta["edits"]` is
    the ledger of what was changed, [words taken out, words put in] in their order, for somebody who reviews it;
    `corrected` adds what a person changes then, and how long that took. Costs a text and two answers for each draft.

    Attributes:
        likes: What somebody likes, with a + between several.
        grain: "topic" leaves it at the field; "item" wants something of it by name.
        near: As for all that write; words may stay, so it is larger here.
        shots: Demonstrations after which problem and text are solved.
        solve: Whether the model's answer must stay too, beside the numbers.

    Source: an analogue of Teacher-in-the-loop (2026), Should There be a Teacher In-the-Loop? A Study of Generative AI
    Personalized Tasks Middle School; no public text at hand, known from its description.
    Differs: the study has teachers who correct a chat model; here the check is that numbers and answer stay.
    """

    likes: str = "football+music+animals"
    grain: str = setting(ITEM, choices=(TOPIC, ITEM))
    near: float = setting(0.95, least=0, most=1)
    shots: int = setting(8, least=0, most=1000)
    solve: bool = True

    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Rewrite `n` problems, of the examples in turn, and take those with the same numbers and answer."""
        order = [seeds[i] for _ in range(-(-n // len(seeds))) for i in rng.permutation(len(seeds))][:n]
        likes = [one.strip() for one in self.likes.split("+") if one.strip()] or ["football"]
        asked = list[tuple[Example, str, str, str]]()
        for e in order:
            liked, part = likes[int(rng.integers(len(likes)))], parted(e, model.task)
            if part is None:
                intake.reject(e.input, NO_CHOICES)
            else:
                asked.append((e, *part, liked))
        grain = GRAINS[self.grain]
        texts = [ASKED.format(problem=in_one_line(stem), liked=liked, grain=grain) for _, stem, _, liked in asked]
        room = room_for([stem for _, stem, *_ in asked], model)
        said = self.written(texts, stop=("\n",), max_tokens=room, model=model, rng=rng)
        drafts = list[tuple[Example, Example, str]]()
        for i, text in finished(said, [e.input for e, *_ in asked], intake):
            seed, _, rest, liked = asked[i]
            draft = replace(seed, input=text + rest if text else "", explanation=None)
            if fault := intake.fault(draft) or (None if can_be_asked(draft, (model,)) else UNFIT):
                intake.reject(draft.input, fault)
            elif numbers(draft.input) != numbers(seed.input):
                intake.reject(draft.input, OTHER_NUMBERS)
            else:
                drafts.append((draft, seed, liked))
        same = self._are_solved_alike(drafts, seeds, model, rng)
        for (draft, seed, liked), is_same in zip(drafts, same, strict=True):
            if is_same:
                intake.take(draft, [seed], likes=liked, edits=edits(seed.input, draft.input))
            else:
                intake.reject(draft.input, OTHER_ANSWER)

    def _are_solved_alike(
        self,
        drafts: Sequence[tuple[Example, Example, str]],
        seeds: Sequence[Example],
        model: TaskModel,
        rng: np.random.Generator,
    ) -> list[bool]:
        """Return of which drafts the model's answer is that to the problem; all where it is not asked."""
        if not self.solve:
            return [True] * len(drafts)
        asked = [e for draft, seed, _ in drafts for e in (draft, seed)]
        apart = [[seed.id] for _, seed, _ in drafts for _ in range(2)]
        how = {"voters": 1, "shots": self.shots, "apart": apart, "models": (model,), "rng": rng}
        answers = [answer for (answer,) in votes(asked, seeds, **how)]
        pairs = zip(answers[::2], answers[1::2], drafts, strict=True)
        return [
            not is_wrong(model.task, replace(e, output=before, references=()), after)
            for after, before, (_, e, _) in pairs
        ]


def corrected(made: Example, text: str, *, seconds: float) -> Example:
    """Return an example with a person's text in place of its own, and that in its ledger.

    Args:
        made: What a generator has made, or what was corrected before.
        text: What the person has written.
        seconds: How long it took.

    Returns:
        The example; its `meta["corrections"]` has one entry more, with `edits` and `seconds`.

    Raises:
        UserError: The text has other numbers.
    """
    if numbers(text) != numbers(made.input):
        before, after = (", ".join(map(str, sorted(numbers(one).elements()))) for one in (made.input, text))
        raise UserError(
            f"A corrected problem must have the numbers that '{made.id}' has: {before}; got {after}. Put them back, or "
            "write a new example, with its own answer."
        )
    entry = {"edits": edits(made.input, text), "seconds": seconds}
    return replace(made, input=text, meta={**made.meta, "corrections": [*made.meta.get("corrections", ()), entry]})


def numbers(text: str) -> Counter[Decimal]:
    """Return how often a text has each number, in figures or, from two to twelve, in words.

    Example:
        >>> numbers("Two cats and 2 dogs") == numbers("2 trains, two cars")
        True
    """
    words = (_WORDS[word] for word in map(str.lower, _WORD.findall(text)) if word in _WORDS)
    return Counter([*numbers_in(text), *words])


def edits(before: str, after: str) -> list[list[str]]:
    """Return what was changed in a text, [words taken out, words put in] for each place, in their order.

    Put into `before` in turn they give `after`, but for white space.

    Example:
        >>> edits("12 boxes of pens", "12 trains of cars")
        [['boxes', 'trains'], ['pens', 'cars']]
    """
    a, b = before.split(), after.split()
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [[" ".join(a[i:j]), " ".join(b[k:m])] for what, i, j, k, m in blocks if what != "equal"]
