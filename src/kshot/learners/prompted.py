"""Prompts at work on a stream: each query is asked behind demonstrations from its own past."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kshot.core.methods import LearningSelector, Selector
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Prediction, Prompt, Query
from kshot.learners.demonstrations import chosen, fitted, shown
from kshot.measures.probabilities import normalised
from kshot.methods.orders import ZeroShotBits
from kshot.prompts.fitting import prompt_tokens
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

CONTENT_FREE = ("N/A", "[MASK]", "")  # inputs without content, of Zhao et al. (2021)


@dataclass(frozen=True)
class _Asked:
    """What is asked of the model for a query; `fit_seconds` and `fit_tokens` are what choosing demonstrations took."""

    query: Query
    prompt: Prompt
    shown: tuple[Example, ...]
    n_dropped: int
    fit_seconds: float
    fit_tokens: float


@dataclass
class PromptLearner:
    """Shows demonstrations chosen from the past and reads the answers' log-probabilities."""

    recipe: Recipe
    asker: TaskModel
    judge: TaskModel
    seed: int
    _selector: Any = None  # fitted on `_pool`
    _for_all: list[int] | None = None  # what a task-level selector has chosen from it
    _pool: tuple[Example, ...] = ()
    _learnt: LearningSelector | None = None  # from `_lesson`
    _lesson: tuple[Example, ...] = ()

    def __post_init__(self):
        self.bits = ZeroShotBits(self.judge)

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; all prompts go to the model at once, so that they share prefixes."""
        asked = [self._ask(query) for query in queries]
        tell = _up_to(len(asked), progress)
        scoring, written = (replace(self.asker, ledger=self.asker.ledger.part()) for _ in range(2))
        scores = self._scores(scoring, asked, tell)
        seconds = scoring.ledger.cost.seconds / max(1, len(asked))
        writing = [i for i, a in enumerate(asked) if self.asker.task.is_open and a.query.wants_text]
        generated = written.generate([asked[i].prompt for i in writing], progress=tell)
        texts = dict(zip(writing, generated, strict=True))
        text_seconds = written.ledger.cost.seconds / max(1, len(writing))
        tokens = (scoring.ledger.cost.tokens + written.ledger.cost.tokens) / max(1, len(asked))
        predictions = []
        for i, (a, row) in enumerate(zip(asked, scores, strict=True)):
            prediction = self._prediction(a, row)
            took = seconds + (text_seconds if i in texts else 0.0)
            prediction = replace(prediction, seconds=took, tokens=tokens)
            if i in texts:
                prediction = replace(prediction, answer=texts[i].text.strip(), cut_off=not texts[i].finished)
            predictions.append(prediction)
        if tell:
            tell(len(asked))
        return predictions

    def _prediction(self, asked: _Asked, row: FloatArray) -> Prediction:
        candidates = self.asker.answers(asked.query.example)
        is_open = self.asker.task.is_open
        probabilities = np.exp(row) if is_open else normalised(row)
        return Prediction(
            example_id=asked.query.example.id,
            candidates=candidates,
            log_probs=tuple(row.tolist()),
            probs=tuple(probabilities.tolist()),
            answer=None if is_open else candidates[int(np.argmax(probabilities))],
            prompt_tokens=prompt_tokens(asked.prompt, self.asker.model),
            fit_seconds=asked.fit_seconds,
            fit_tokens=asked.fit_tokens,
            demonstrations=tuple(e.id for e in asked.shown),
            dropped=asked.n_dropped,
        )

    def _scores(
        self, asker: TaskModel, asked: Sequence[_Asked], progress: Callable[[int], None] | None
    ) -> list[FloatArray]:
        """Return log-probabilities of each query's answers; contextual ones are divided by those without content."""
        answers = [asker.answers(a.query.example) for a in asked]
        prompts = [a.prompt for a in asked]
        known = [i for i, texts in enumerate(answers) if texts]  # of a new input in an open task nothing is scored
        if self.recipe.calibration != "contextual":
            rows = asker.score([prompts[i] for i in known], [answers[i] for i in known], progress=progress)
            scored = dict(zip(known, rows, strict=True))
            return [scored.get(i, np.zeros(0)) for i in range(len(asked))]
        # One call, so that a prompt and its versions without content share the demonstrations
        times = 1 + len(CONTENT_FREE)
        for a in asked:
            for empty in _without_content(a.query.example):
                prompts.append(asker.compose(a.shown, empty))
        repeated = [texts for texts in answers for _ in CONTENT_FREE]
        rows = asker.score(prompts, [*answers, *repeated], progress=_shared_by(times, progress))
        corrected = []
        for i, row in enumerate(rows[: len(asked)]):
            start = len(asked) + i * (times - 1)
            empties = [r - np.logaddexp.reduce(r) for r in rows[start : start + times - 1]]
            corrected.append(row - np.log(np.mean(np.exp(empties), axis=0)))
        return corrected

    def _ask(self, query: Query) -> _Asked:
        began, judge = time.perf_counter(), replace(self.judge, ledger=self.judge.ledger.part())
        chosen = self.demonstrations(query, judge)
        seconds, n_tokens = time.perf_counter() - began, judge.ledger.cost.tokens
        prompt, n_dropped = self.asker.prompt(chosen, query.example)
        if self.recipe.calibration == "contextual":  # inputs without content can be longer than the query
            n_dropped = max(n_dropped, *(self.asker.prompt(chosen, e)[1] for e in _without_content(query.example)))
            prompt = self.asker.compose(chosen[n_dropped:], query.example)
        return _Asked(query, prompt, chosen[n_dropped:], n_dropped, seconds, n_tokens)

    def demonstrations(self, query: Query, judge: TaskModel | None = None) -> tuple[Example, ...]:
        """Return what is shown to a query, before anything is left out to fit the model.

        Args:
            query: The query.
            judge: The learner's own with another ledger, for what choosing takes.
        """
        selector, judge = self.recipe.selector, judge or self.judge
        if selector is None or not query.past:
            return ()
        pool = query.past if selector.per_query else query.past[: refit_point(len(query.past))]
        if (pool := tuple(pool)) != self._pool:
            self._selector = fitted(self._trained(selector, pool, judge), pool, judge=judge, seed=self.seed)
            self._pool, self._for_all = pool, None
        if selector.per_query:
            indices = chosen(self._selector, pool, self.recipe.k, query.example, seed=self.seed)
        else:
            indices = self._for_all = self._for_all or chosen(self._selector, pool, self.recipe.k, None, seed=self.seed)
        bits = ZeroShotBits(judge)
        bits.known = self.bits.known
        return shown(self.recipe, [pool[i] for i in indices], query.example, seed=self.seed, bits=bits)

    def _trained(self, selector: Selector, pool: tuple[Example, ...], judge: TaskModel) -> Selector:
        """Return a selector that learns, having learnt from the pool's first examples; others as they are."""
        if not isinstance(selector, LearningSelector) or selector.has_learnt:
            return selector
        lesson = pool[: refit_point(len(pool))]
        if self._learnt is None or lesson != self._lesson:
            rng = generator(self.seed, "learn", len(lesson))
            self._learnt, self._lesson = selector.learnt(lesson, judge=judge, rng=rng), lesson
        return self._learnt


def _without_content(query: Example) -> list[Example]:
    """Return the query with each input without content in the place of its own."""
    return [replace(query, input=text, context=None) for text in CONTENT_FREE]


def _up_to(total: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Return a progress function that counts `total` at most.

    So a query that is both scored and answered with a text counts once, and what was not told by the model, as it was
    the same request as another one, can be told at the end.
    """
    if progress is None:
        return None
    left = total

    def advance(n: int) -> None:
        nonlocal left
        n = min(n, left)
        left -= n
        progress(n)

    return advance


def _shared_by(times: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Return a progress function that counts one for so many requests."""
    if progress is None:
        return None
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        progress((done + n) // times - done // times)
        done += n

    return advance
