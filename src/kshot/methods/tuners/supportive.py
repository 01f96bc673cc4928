"""Supportive texts: train on those of a corpus whose gradients agree with that of answering after demonstrations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import SettingError, UserError
from kshot.core.fields import setting, state
from kshot.core.given_files import text_of
from kshot.core.gradient_settings import GradientSettings
from kshot.core.json_text import from_json, to_json
from kshot.core.lessons import Lesson
from kshot.core.paths import path_of
from kshot.core.seeding import digest
from kshot.core.types import Example, FloatArray
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import draw
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.plain_texts import plain_texts

FILE = "supportive.json"


@dataclass(frozen=True)
class Supportive(Tuner):
    """Learn the texts of a corpus that support answering after demonstrations; no example of the task is learnt.

    Round i takes the `n` texts w, of those not yet taken, with the highest
    cos(grad L(w) at theta_0, grad L_ICL at theta_{i-1}),
    where L is the mean loss of a text's tokens and L_ICL that of the answers to examples of the past after
    demonstrations from it. theta_i is then one pass over all texts that were taken, always from theta_0, the model as
    it was. That is done anew whenever the past has doubled. Gradients are those of the adapters, projected at random.

    The loss of an answer is over all texts, or with over=seen over the labels so far.

    Costs a forward and backward pass over the corpus once, and at each doubling of the past `rounds` of them over
    `queries` prompts, and over n (1 + 2 + … + rounds) texts.

    Attributes:
        corpus: The file of texts: one a line, or rows (.jsonl, .json, .csv, .tsv, .parquet) with `text`, or `input`.
        n: Texts that a round takes.
        rounds: How often texts are taken.
        batch: Texts in a step of training.
        k: Demonstrations in a prompt whose answer's gradient is taken, and in the prompt of a query.
        queries: The most such prompts.
        balanced: Their demonstrations are of as equal numbers of each output as were seen.
        candidates: The most texts that are looked at; of a larger corpus so many are drawn.
        length: Of a longer text its first so many tokens are learnt.
        projection: Most dimensions of a gradient; 0 keeps all.
        control: "random" takes texts at random: what training on any of them does.
        weights: "lora": its gradients are small enough to be kept for each text.

    Source: Han et al. (2023), Understanding In-Context Learning via Supportive Pretraining Data (ORCA-ICL),
    https://arxiv.org/abs/2306.15091.
    Differs: adapters instead of all weights, and projections of their gradients; a corpus of the user's in place of
    2.5 million documents of pretraining; smaller sets; the number of rounds is raced, where theirs is the best of five.
    """

    corpus: str = ""
    n: int = setting(32, least=1, most=100_000)
    rounds: int = setting(3, least=1, most=100)
    batch: int = setting(8, least=1, most=1000)
    k: int = setting(4, least=1, most=1000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    queries: int = setting(32, least=1, most=10_000)
    balanced: bool = False
    candidates: int = setting(512, least=1, most=1_000_000)
    length: int = setting(256, least=2, most=100_000)
    projection: int = setting(8192, least=0, most=1_000_000)
    control: str = setting("none", choices=("none", "random"))
    weights: str = setting("lora", choices=("lora",))
    align: str = setting("none", choices=("none",), hint="Texts of a corpus have no counterpart in a source task.")
    _texts: tuple[str, ...] | None = state()
    _digest: str = state("")
    _seed: int = state(0)
    _candidates: tuple[Example, ...] = state(())
    _gradients: NDArray[np.float32] | None = state()
    _taken: tuple[int, ...] = state(())
    _pass: tuple[Example, ...] = state(())

    least = 2
    grids: ClassVar[Mapping[str, Mapping[str, str]]] = {"lora": {"lr": "1e-4/3e-4/1e-3", "rounds": "1/3"}}

    def __post_init__(self):
        super().__post_init__()
        if not self.corpus or self._texts is not None:
            return
        texts = plain_texts(self.corpus)
        object.__setattr__(self, "corpus", str(path_of(self.corpus).absolute()))
        object.__setattr__(self, "_texts", texts)
        object.__setattr__(self, "_digest", digest(texts))
        wanted, there = self.n * self.rounds, min(len(texts), self.candidates)
        if there < wanted:
            of = f"{self.corpus} holds {there} different ones" if there == len(texts) else f"candidates is {there}"
            raise SettingError(
                f"corpus must hold at least {wanted} texts, as n={self.n} are chosen in each of {self.rounds} rounds; "
                f"{of}. Choose fewer with n or rounds, or give more."
            )

    @property
    def makes(self) -> bool:
        """Whether lessons are of something else than the task's examples."""
        return True

    @property
    def passes(self) -> int:
        """A pass a round; texts that are drawn are drawn at once."""
        return 1 if self.control == "random" else self.rounds

    @property
    def steps(self) -> int:
        """Steps of the next pass."""
        return ceil(len(self._pass) / self.batch)

    def aligned(self) -> Self:
        """Return it as it is: a source task has no texts of the corpus."""
        return self

    def knowing(self, seen: Sequence[Example], *, model: TaskModel) -> Self:
        """Return itself, if it was told of a corpus."""
        if not self.corpus:
            raise SettingError(
                "corpus must name a file of texts; got none. Write supportive:corpus=FILE, a text with one a line, or "
                "rows with 'text'."
            )
        return self

    def choosing(self, seen: Sequence[Example], *, model: TaskModel, number: int, rng: np.random.Generator) -> Self:
        """Return it with the texts of the next pass; see `kshot.methods.contracts.Tuner`."""
        ready = self if number else self._beginning(model, rng)
        rest = [i for i in range(len(ready._candidates)) if i not in set(ready._taken)]
        about: dict[str, Any] = {}
        if self.control == "random":
            new = rng.permutation(rest)[: self.n * self.rounds].tolist()
        else:
            if ready._gradients is None:
                texts = [_bare(text) for text in ready._candidates]
                ready = replace(ready, _gradients=ready._gradients_of(texts, model, is_kept=True))
            assert ready._gradients is not None
            asked = self._asked(seen, model, rng)
            scores = agreement(ready._gradients, ready._gradients_of(asked, model, is_kept=False).mean(axis=0))
            new = sorted(rest, key=lambda i: (-scores[i], i))[: self.n]
            others = float(np.mean([scores[i] for i in rest]))
            about = {"cosine": round(float(np.mean(scores[new])), 4), "cosine_of_all": round(others, 4)}
        taken = (*ready._taken, *new)
        rows = [int(ready._candidates[i].id) for i in new]
        model.note({"tuner": "supportive", "n_pool": len(seen), "round": number + 1, "chosen": rows, **about})
        order = rng.permutation(len(taken))
        return replace(ready, _taken=taken, _pass=tuple(ready._candidates[taken[i]] for i in order))

    def _beginning(self, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return it before the first round, with the texts that are looked at: the same at each doubling."""
        seed = int(rng.integers(2**32))
        texts: tuple[str, ...] = self._texts or ()
        drawn: list[int] = sorted(rng.permutation(len(texts))[: self.candidates].tolist())
        found = self._candidates
        if not found:
            most = min(self.length, model.model.max_tokens - 1)
            cut = [(i, beginning(texts[i], most, model.model.count_tokens)) for i in drawn]
            found = tuple(Example("", text, str(i + 1), meta={"made": "supportive"}) for i, text in cut)
        return replace(self, _seed=seed, _candidates=found, _taken=(), _pass=())

    def _asked(self, seen: Sequence[Example], model: TaskModel, rng: np.random.Generator) -> list[Lesson]:
        """Return prompts with answers from the past, each once."""
        among = tuple(dict.fromkeys(e.output for e in seen)) if self.over == "seen" else ()
        drawn = [draw(seen, self.k, target="any-seen", evenly=self.balanced, rng=rng) for _ in range(self.queries)]
        lessons = {tuple(e.id for e in (*shown, target)): (shown, target) for target, shown in drawn}
        return [Lesson(shown, target, "last", among=among) for shown, target in lessons.values()]

    def _gradients_of(self, lessons: Sequence[Lesson], model: TaskModel, *, is_kept: bool) -> NDArray[np.float32]:
        how = GradientSettings(of="lora", rank=self.rank, epochs=0, loss="mean", projection=self.projection)
        return np.array(model.lesson_gradients(lessons, how, seed=self._seed, is_kept=is_kept))

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the texts of one step of a pass."""
        return [_bare(text) for text in self._pass[step * self.batch : (step + 1) * self.batch]]

    def record(self) -> dict[str, Any]:
        """Return what it is; the corpus counts by its texts, wherever the file is."""
        record = super().record()
        file = record["settings"].pop("corpus")
        return {**record, "file": file, "texts": self._digest}

    def save(self, folder: Path) -> None:
        """Write which corpus it was."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(to_json({"file": self.corpus, "texts": self._digest}), "utf-8")

    @classmethod
    def rebuilt(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """Return it as it was saved; the corpus need not be there, as what was learnt of it is in the weights."""
        try:
            kept = from_json(text_of(folder / FILE))
            file, texts = str(kept["file"]), str(kept["texts"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{folder / FILE} must tell of the corpus that was learnt. Adapt again.") from None
        return cls(**{**settings, "corpus": file}, _texts=(), _digest=texts)


def agreement(gradients: NDArray[np.float32], aim: NDArray[np.float32]) -> FloatArray:
    """Return the cosine of each gradient `[n_texts, dim]` with another one `[dim]`; 0 where one of them is 0."""
    rows, wanted = gradients.astype(np.float64), aim.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
    cosines: FloatArray = np.divide(rows @ wanted, lengths, out=np.zeros(len(rows)), where=lengths > 0)
    return np.round(cosines, 6)  # equal texts tie, whose gradients differ by rounding


def beginning(text: str, most: int, count: Callable[[str], int]) -> str:
    """Return a text, or of a longer one as many of its characters as have at most so many tokens, without half a word.

    Args:
        text: Any text.
        most: Tokens.
        count: Returns how many tokens a text has.
    """
    if count(text) <= most:
        return text
    low, high = 1, len(text)  # a text of one character is as short as it gets
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(text[:middle]) <= most else (low, middle)
    words = text[:low].rsplit(maxsplit=1)
    is_whole = text[low].isspace() or len(words) < 2
    return text[:low].rstrip() if is_whole else words[0]


def _bare(text: Example) -> Lesson:
    return Lesson((), text, "last", is_apart=True, is_bare=True)
