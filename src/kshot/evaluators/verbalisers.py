"""Does a model follow the instruction or its habit? The task stays, and other words stand for its labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isinf
from typing import Any, ClassVar, cast

import numpy as np

from kshot.core.errors import SameTokensError, SettingError, UserError
from kshot.core.fields import setting
from kshot.core.models import Capability, ScoringModel
from kshot.core.types import Example, FloatArray, Prompt, Question, ScoreRequest, Segment, Task
from kshot.evaluators.evaluator import Evaluator
from kshot.measures.measured import Measured, Shift
from kshot.methods.composers.verbalised import plain_words
from kshot.taskmodel.taskmodel import TaskModel

NATURAL, NEUTRAL, UNNATURAL = GROUPS = ("natural", "neutral", "unnatural")
_UNRELATED = {
    "words": "apple bridge candle desert engine forest guitar hammer island jacket kettle lemon mirror needle orange "
    "pencil quartz river spoon table umbrella violin window xylophone yellow zebra garden paper stone cloud horse "
    "train coffee ladder button pepper rocket silver tunnel wagon",
    "invented": "foo bar baz qux zip wug dax lep mip nok pif rud sov tam vex yol",
    "letters": "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "numbers": "1 2 3 4 5 6 7 8 9",
    "symbols": "# @ & % $ * = ?",
}
# Words that mean nothing for a label, by their kind
UNRELATED = {kind: tuple(words.split()) for kind, words in _UNRELATED.items()}
# Words in which the same labels are said: a line is used for a task whose labels are all in its first column
_SAID = (
    {"negative": ("bad", "terrible"), "neutral": ("okay", "average"), "positive": ("good", "great")},
    {"no": ("false", "wrong"), "yes": ("true", "right")},
    {"false": ("no", "wrong"), "true": ("yes", "right")},
    {
        "entailment": ("yes", "true"),
        "neutral": ("maybe", "unknown"),
        "contradiction": ("no", "false"),
        "not entailment": ("no", "false"),
    },
    {"objective": ("factual", "fact"), "subjective": ("personal", "opinion")},
    {"ham": ("normal", "wanted"), "spam": ("junk", "unwanted")},
)
_EMPTY = ("N/A", "[MASK]", "")


@dataclass(frozen=True)
class Verbaliser:
    """A word for each label.

    Attributes:
        group: "natural", "neutral" or "unnatural".
        words: In the order of the task's labels.
        base: Of an unnatural one the natural one that it permutes, by its place among these.
    """

    group: str
    words: tuple[str, ...]
    base: int = 0


@dataclass(frozen=True)
class Verbalisers(Evaluator):
    """Ask the task's own test rows with other words for its labels, which the instruction names.

    A verbaliser has a word for each label: natural ones are the labels themselves and words that say the same; neutral
    ones are unrelated words, invented words, letters, numbers or symbols; unnatural ones are natural ones in which no
    label has its own word, of two labels swapped. The answer is the word with the highest log-probability, a token on
    average. Told are the accuracy of each group, `gap` (natural - unnatural), and `override`: of answers that were
    right with natural words the share that is right with these words permuted too, so against what the words mean. A
    model that follows the instruction alone has a gap of 0 and an override of 1; one that follows habit alone has with
    two labels a gap of 1 and an override of 0.

    Words of one verbaliser must differ for the model at the first token at which any of them differ. Unrelated ones
    that do not are left out; of the task's own labels it is told as `begin_alike`.

    Attributes:
        natural: The most natural verbalisers.
        neutral: The most neutral ones, of each kind in turn.
        unnatural: The most unnatural ones.
        rows: The most test rows that are asked with each.
        shots: How many training rows are shown, with the words for their labels.
        words: More natural words, as "great.terrible/fine.awful": a verbaliser each, in the order of the labels.
        calibrated: Take from each word's log-probability what it has where nothing is asked, the mean over "N/A",
            "[MASK]" and an empty text.

    Source: Li et al. (2023), Instruction-following Evaluation through Verbalizer Manipulation, section 3,
    https://arxiv.org/abs/2307.10558; of calibration: Zhao et al. (2021), Calibrate Before Use,
    https://arxiv.org/abs/2102.09690.
    Differs: answers are chosen among the words by their log-probability, not written; the user's own task in place of
    nine data sets; gap, override and calibration are ours.
    """

    asks_model: ClassVar[bool] = True

    natural: int = setting(3, least=1, most=100)
    neutral: int = setting(6, least=0, most=100)
    unnatural: int = setting(3, least=1, most=100)
    rows: int = setting(100, least=1, most=100_000)
    shots: int = setting(0, least=0, most=1000)
    words: str = ""
    calibrated: bool = False

    def __post_init__(self):
        super().__post_init__()
        for said in self._given:
            if "" in said or len({word.casefold() for word in said}) < len(said):
                raise SettingError(
                    f"words must have another word for each label; got '{'.'.join(said)}'. Write words such as "
                    "great.terrible/fine.awful, in the order of the labels."
                )

    @property
    def _given(self) -> list[tuple[str, ...]]:
        return [tuple(word.strip() for word in said.split(".")) for said in self.words.split("/") if self.words]

    def obstacle(self, task: Task) -> str | None:
        """Return in words what the task must have and has not."""
        if task.kind != "classification" or len(task.labels) < 2:
            return (
                f"it must be a classification task with two labels or more; it is {task.kind} with {len(task.labels)}"
            )
        for said in self._given:
            if len(said) != len(task.labels):
                return (
                    f"words must have {len(task.labels)} words, one for each label; '{'.'.join(said)}' has {len(said)}"
                )
        return None

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return accuracies by group and what follows of them; see `kshot.evaluators.evaluator.Evaluator`.

        Raises:
            UserError: Words that were given begin alike for the model, or no neutral words are left.
        """
        assert model is not None
        chosen = self.verbalisers(task, model, rng=rng)
        asked = task.test[: self.rows]
        shown = [task.train[i] for i in rng.permutation(len(task.train))[: self.shots]]
        units = [e.id for e in asked]
        right = [self._right(task, one, shown, asked, model) for one in chosen]
        of = {group: [i for i, one in enumerate(chosen) if one.group == group] for group in GROUPS}
        by_group = {group: np.mean([right[i] for i in some], axis=0) for group, some in of.items() if some}
        found: dict[str, Any] = {
            "n_rows": len(asked),
            **{group: Measured(units, values) for group, values in by_group.items()},
            "gap": Shift(units, by_group[NATURAL] - by_group[UNNATURAL]),
            "override": Measured(units, _kept(chosen, right), ratio),
            "verbalisers": [
                {
                    "group": one.group,
                    "words": dict(zip(task.labels, one.words, strict=True)),
                    "accuracy": float(r.mean()),
                }
                for one, r in zip(chosen, right, strict=True)
            ],
        }
        return found | ({"begin_alike": alike} if (alike := alike_pair(task.labels, model)) else {})

    def verbalisers(self, task: Task, model: TaskModel, *, rng: np.random.Generator) -> list[Verbaliser]:
        """Return the verbalisers of all groups, natural ones first, whose words differ for the model."""
        natural = self._natural(task, model)
        permuted = _permuted(natural, self.unnatural, rng)
        return [*(Verbaliser(NATURAL, words) for words in natural), *self._neutral(task, model, rng), *permuted]

    def _natural(self, task: Task, model: TaskModel) -> list[tuple[str, ...]]:
        """Return the labels themselves, then words that were given, then words that are known to say the same."""
        for words in self._given:
            if alike := alike_pair(words, model):
                raise UserError(
                    f"--suite verbalisers: words of one verbaliser must differ at their first token; '{alike[0]}' and "
                    f"'{alike[1]}' begin alike for '{model.model.name}'. Give other words."
                )
        known = [words for words in _known(task.labels) if not alike_pair(words, model)]
        return list(dict.fromkeys((task.labels, *self._given, *known)))[: self.natural]

    def _neutral(self, task: Task, model: TaskModel, rng: np.random.Generator) -> list[Verbaliser]:
        """Return unrelated words, of each kind in turn, none of them a label or a word for one."""
        taken = {word.casefold() for words in (task.labels, *self._given, *_known(task.labels)) for word in words}
        found = list[Verbaliser]()
        for turn in range(self.neutral):
            kinds = list(UNRELATED.values())
            for kind in (kinds[(turn + i) % len(kinds)] for i in range(len(kinds))):
                drawn = (kind[i] for i in rng.permutation(len(kind)) if kind[i].casefold() not in taken)
                words = _told_apart(drawn, len(task.labels), model)
                if words and words not in (one.words for one in found):
                    found.append(Verbaliser(NEUTRAL, words))
                    break
        if self.neutral and not found:
            raise UserError(
                f"--suite verbalisers needs {len(task.labels)} unrelated words that differ at their first token for "
                f"'{model.model.name}', one for each label; there are fewer. Leave them out with "
                "verbalisers(neutral=0)."
            )
        return found

    def _right(
        self, task: Task, one: Verbaliser, shown: Sequence[Example], asked: Sequence[Example], model: TaskModel
    ) -> FloatArray:
        """Return 1 for each row that is answered with its label's word, else 0 `[n_rows]`."""
        word = dict(zip(task.labels, one.words, strict=True))
        asker = model.on(retold(task, one.words))
        demonstrations = [replace(e, output=word[e.output]) for e in shown]
        prompts = [asker.prompt(demonstrations, e)[0] for e in asked]
        rows = self._scores(asker, prompts, one.words)
        if self.calibrated:
            empty = [asker.prompt(demonstrations, Question(text, "empty"))[0] for text in _EMPTY]
            rows = rows - self._scores(asker, empty, one.words).mean(axis=0)
        best = rows.argmax(axis=1)
        return np.array([float(one.words[b] == word[e.output]) for b, e in zip(best, asked, strict=True)])

    @staticmethod
    def _scores(asker: TaskModel, prompts: Sequence[Prompt], words: Sequence[str]) -> FloatArray:
        """Return the log-probability of each word, a token on average `[n_prompts, n_words]`."""
        lengths = [asker.model.count_tokens(asker.layout.answer(word)) for word in words]
        return np.array(asker.score(prompts, [words] * len(prompts))) / np.array(lengths)


def retold(task: Task, words: Sequence[str]) -> Task:
    """Return the task with these words for its labels, which its instruction names.

    Example:
        >>> task = Task("t", "classification", (), labels=("bad", "good"), instruction="How is it?")
        >>> retold(task, ("good", "bad")).instruction
        'How is it? Answer "good" where that is bad, and "bad" where that is good.'
    """
    named = [f'"{word}" where that is {label}' for label, word in zip(task.labels, words, strict=True)]
    told = f"Answer {', '.join(named[:-1])}, and {named[-1]}."
    return replace(task, labels=tuple(words), instruction=f"{task.instruction or 'Find the label.'} {told}")


def ratio(rows: FloatArray) -> float:
    """Return the sum of the first column by that of the second, of rows that are no NaN; NaN where that is 0."""
    first, second = np.nansum(rows, axis=0)
    return float(first / second) if second else float("nan")


def alike_pair(words: Sequence[str], model: TaskModel) -> tuple[str, str] | None:
    """Return two words of some that go on alike where others differ already, as the model's tokens say.

    The tokens that all begin with, such as a space of its own, do not count. A model that does not say which tokens
    answers share has no such words but equal ones.
    """
    pairs = list(combinations(words, 2))
    shared = [_n_shared(model, *pair) for pair in pairs]
    least = min(shared)
    return next((pair for pair, n in zip(pairs, shared, strict=True) if n > least or isinf(n)), None)


def _n_shared(model: TaskModel, first: str, second: str) -> float:
    """Return how many tokens two answers begin with alike: what is run less where both are scored together."""
    if first == second:
        return float("inf")
    if Capability.SCORE not in model.model.capabilities or model.model.in_messages:
        return 0
    scoring, prompt = cast(ScoringModel, model.model), Prompt((Segment("query", "Text:"),))
    one, other = model.layout.answer(first), model.layout.answer(second)
    run = lambda *answers: scoring.forward_tokens([ScoreRequest(prompt, answers)])  # noqa: E731
    try:
        return run(one) - (run(one, other) - (run(other) - _run_before(scoring, prompt, other)))
    except SameTokensError:
        return float("inf")


def _run_before(model: ScoringModel, prompt: Prompt, answer: str) -> int:
    """Return how many tokens of a prompt are run before an answer, whose own last one is not run."""
    return model.forward_tokens([ScoreRequest(prompt, (answer,))]) - (model.count_tokens(answer) - 1)


def _told_apart(words: Iterator[str], n: int, model: TaskModel) -> tuple[str, ...]:
    """Return the first `n` of some words that differ for the model, each from those before it; nothing if too few."""
    kept, shared = list[str](), list[float]()
    for word in words:
        more = [*shared, *(_n_shared(model, other, word) for other in kept)]
        if not more or max(more) == min(more) < float("inf"):
            kept, shared = [*kept, word], more
        if len(kept) == n:
            return tuple(kept)
    return ()


def _known(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return words that are known to say the same as the labels."""
    plain = [plain_words(label) for label in labels]
    said = [line for line in _SAID if set(plain) <= line.keys()]
    found = [tuple(line[name][i] for name in plain) for line in said for i in range(2)]
    return [words for words in found if len(set(words)) == len(words)]


def _permuted(natural: Sequence[tuple[str, ...]], n: int, rng: np.random.Generator) -> list[Verbaliser]:
    """Return up to `n` of the natural words in other places, none in its own, of each in turn."""
    found = list[Verbaliser]()
    for turn in range(20 * n):  # of three labels or more there are several; most draws are new
        base = turn % len(natural)
        order = _derangement(len(natural[base]), rng)
        one = Verbaliser(UNNATURAL, tuple(natural[base][i] for i in order), base)
        found += [one] * (one.words not in (other.words for other in found) and len(found) < n)
    return found


def _derangement(n: int, rng: np.random.Generator) -> list[int]:
    """Return a permutation without a fixed point, each of them as likely."""
    while True:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order.tolist()


def _kept(chosen: Sequence[Verbaliser], right: Sequence[FloatArray]) -> FloatArray:
    """Return of each row how often it is right in both, and right with natural words alone or in both `[n_rows, 2]`.

    A row that is never right with natural words says nothing of what is kept, and is NaN.
    """
    pairs = [(right[one.base], right[i]) for i, one in enumerate(chosen) if one.group == UNNATURAL]
    rows = np.sum([[natural * unnatural, natural] for natural, unnatural in pairs], axis=0).T
    return np.where(rows[:, 1:] > 0, rows, np.nan)
