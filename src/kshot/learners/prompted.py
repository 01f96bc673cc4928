"""Prompts at work on a stream: each query is asked after demonstrations from its own past."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import numpy as np

from kshot.core.label_sets import SURE, having
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.steering import Steering
from kshot.core.types import Example, FloatArray, Prediction, Prompt, Query, Question
from kshot.learners.demonstrations import Contexts, chosen, fitted, pool_of, shown, worded
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup, refitted
from kshot.learners.preparation import Prepared, prepared
from kshot.measures.averages import averaged
from kshot.measures.probabilities import each_by_itself, normalised
from kshot.methods.contracts import Composer, Selector
from kshot.methods.orders import MOST_CONFIDENT_LAST, ZeroShotBits
from kshot.prompts.fitting import run_tokens
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

MOST_AT_ONCE = 2048  # prompts, where they are of several contexts
CONTENT_FREE = ("N/A", "[MASK]", "")  # inputs without content, of Zhao et al. (2021)


@dataclass(frozen=True)
class _Asked:
    """What is asked of the model for a query with one context."""

    query: Query
    model: TaskModel
    prompt: Prompt
    shown: tuple[Example, ...]
    n_dropped: int
    found: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Shown:
    """What a query is shown; `fit_seconds` and `fit_tokens` are what choosing it took."""

    query: Query
    model: TaskModel
    contexts: Contexts
    fit_seconds: float
    fit_tokens: float


class PromptLearner(Learner):
    """Shows demonstrations chosen from the past and reads the answers' log-probabilities.

    Attributes:
        model: The language model that answers; a learner that trains it puts its own here.
        steering: What is changed in its activations; a learner that steers it puts that here.
        bits: Of examples without demonstrations, where the order goes by them.
        considers: Whether the composer finds something out about each question first.
    """

    def __init__(self, recipe: Recipe, setup: Setup):
        assert setup.model is not None
        self.recipe, self.model, self._seed = recipe, setup.model, setup.seed
        if setup.task.is_open and "composer" in recipe.parts:  # known in advance, as labels are
            untold, rng = replace(setup.model, notes=None), generator(setup.seed, "compose", 0)
            self.model = setup.model.with_room_for(recipe.part("composer").fit((), model=untold, rng=rng))
        self._setup, self._making = setup, setup.model  # what is made of the past does not depend on training
        self.steering: Steering | None = None
        self._selecting = replace(setup.selector_model or setup.model, told=None)
        self.bits = ZeroShotBits(self._selecting)
        self.considers = recipe.considers
        self._selector: Selector | None = None  # fitted on `_pool`
        self._for_all: list[list[int]] | None = None  # the contexts that a task-level selector has chosen from it
        self._pool: tuple[Example, ...] = ()
        self._learnt: Selector | None = None  # from `_lesson`
        self._lesson: tuple[Example, ...] = ()
        self._prepared: tuple[int, Prepared] | None = None  # from so many examples

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; prompts go to the model together, so that they share prefixes."""
        return [self._whole(members) for members in self.of_each_context(queries, progress=progress)]

    def of_each_context(
        self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None
    ) -> list[list[Prediction]]:
        """Return for each query what is said after each of its contexts; arguments as `predict`.

        Memory does not grow with the number of contexts: of more than `MOST_AT_ONCE` prompts some contexts are asked
        after others, each for all queries.
        """
        shown = [s for _, some in groupby(queries, key=lambda query: id(query.past)) for s in self._shown(list(some))]
        pairs = sorted((n, i) for i, s in enumerate(shown) for n in range(len(s.contexts)))
        tell = _up_to(len(queries), progress)
        told = tell and _in_proportion(len(pairs), len(queries), tell)
        at_once = len(queries) * max(1, MOST_AT_ONCE // max(1, len(queries)))
        found: list[list[Prediction]] = [[] for _ in shown]
        for start in range(0, len(pairs), max(1, at_once)):
            block = pairs[start : start + at_once]
            predictions = self._predicted([(shown[i], n) for n, i in block], told)
            for (_, i), prediction in zip(block, predictions, strict=True):
                found[i].append(prediction)
        if tell:
            tell(len(queries))
        for own, s in zip(found, shown, strict=True):
            own[0] = replace(own[0], fit_seconds=s.fit_seconds, fit_tokens=s.fit_tokens)
        return found

    def _predicted(self, pairs: Sequence[tuple[_Shown, int]], tell: Callable[[int], None] | None) -> list[Prediction]:
        """Return what the model says to queries after contexts, each with its share of what it took together.

        Args:
            pairs: What a query is shown, and the number of the context.
            tell: Told of the prompts that are done.
        """
        answering = self.model.steered(self.steering) if self.steering else self.model
        considering, scoring, written = (replace(answering, ledger=self.model.ledger.part()) for _ in range(3))
        found = self._considered(considering, pairs, tell) if self.considers else [None] * len(pairs)
        asked = [self._asked(shown, n, about) for (shown, n), about in zip(pairs, found, strict=True)]
        scores = self._scores(scoring, asked, tell)
        seconds = (considering.ledger.cost.seconds + scoring.ledger.cost.seconds) / max(1, len(asked))
        writing = [i for i, a in enumerate(asked) if self.model.task.is_open and a.query.wants_text]
        generated = written.generate([asked[i].prompt for i in writing], progress=tell)
        texts = dict(zip(writing, generated, strict=True))
        judged = [i for i in writing if asked[i].query.wants_sureness]
        said = written.sureness([asked[i].prompt for i in judged], [texts[i].text.strip() for i in judged])
        sureness = dict(zip(judged, said, strict=True))
        text_seconds = written.ledger.cost.seconds / max(1, len(writing))
        ran = considering.ledger.cost.tokens + scoring.ledger.cost.tokens + written.ledger.cost.tokens
        tokens = ran / max(1, len(asked))
        predictions = []
        for i, (a, row) in enumerate(zip(asked, scores, strict=True)):
            prediction = self._prediction(a, row)
            took = seconds + (text_seconds if i in texts else 0.0)
            prediction = replace(prediction, seconds=took, tokens=tokens)
            if i in texts:
                text = texts[i].text.strip()
                answer = a.model.heard(text, a.query.example)
                about = {"cut_off": not texts[i].finished, "sureness": sureness.get(i)}
                about["stated"] = a.model.composer.stated(text)
                prediction = replace(prediction, answer=answer, **about)
            predictions.append(prediction)
        return predictions

    def _whole(self, members: Sequence[Prediction]) -> Prediction:
        """Return the mean of what is said after each context, with what all of it took."""
        if len(members) == 1:
            return members[0]
        sure = [p.sureness for p in members if p.sureness is not None]
        return replace(
            averaged(
                members,
                mean=self.recipe.mean,
                is_open=self.model.task.is_open,
                is_label_set=self.model.task.is_multi_label,
            ),
            contexts=tuple(p.demonstrations for p in members),
            dropped=max(p.dropped for p in members),
            found=tuple(about for p in members for about in p.found),
            sureness=sum(sure) / len(sure) if sure else None,
            **{name: sum(getattr(p, name) for p in members) for name in ("prompt_tokens", "seconds", "tokens")},
        )

    def anew(self) -> "PromptLearner":
        """Return a learner that has chosen nothing yet."""
        return PromptLearner(self.recipe, self._setup)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Choose from all examples, or keep what each query is to be chosen from."""
        notes: list[Mapping[str, Any]] = []
        making = replace(self._making, notes=notes.append, progress=self._selecting.progress)
        ready = prepared(self.recipe, examples, making, seed=self._seed)
        recipe, pool = self.recipe.without("generator", "loop"), (*examples, *ready.made)
        selecting = replace(self._selecting, notes=notes.append, composer=ready.model.composer)
        saying, selector, known, contexts = ready.model, recipe.part("selector"), {}, ()
        if selector is None:
            pool = ()
        elif not selector.per_query:
            selector = fitted(selector, pool, model=selecting, seed=self._seed)
            (hands,) = chosen(selector, pool, recipe.k, [None], seed=self._seed, n_contexts=recipe.contexts)
            contexts = shown(recipe, pool, hands, None, seed=self._seed, bits=ZeroShotBits(selecting))
            if "composer" in recipe.parts:
                saying = worded(saying, selector, pool, recipe.k, seed=self._seed)
            pool = pool_of(contexts)
        else:
            if recipe.order == MOST_CONFIDENT_LAST:  # any of them may be shown to a query
                known = dict(zip((e.id for e in pool), ZeroShotBits(selecting)(pool), strict=True))
            if not selector.has_learnt:  # trained once, not anew for each prediction
                recipe = recipe.having(selector=fitted(selector, pool, model=selecting, seed=self._seed))
        if "composer" in recipe.parts:
            recipe = recipe.having(composer=cast(Composer, saying.composer))
        about = {"selection": notes[0]} if notes else {}
        plain = replace(self.model, composer=saying.composer, told=saying.told)
        several = tuple(tuple(e.id for e in context) for context in contexts) if len(contexts) > 1 else ()
        fitted_as = {"contexts": several, "notes": ready.notes, "bits": known, "about": about}
        return Fitted(recipe, self.model.task, self._seed, tuple(pool), plain, **fitted_as)

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what the last fit takes: nothing where demonstrations are chosen for each query."""
        refits = {"generator", "loop", "composer"} & self.recipe.parts.keys()
        chooses = "selector" in self.recipe.parts and not self.recipe.per_query
        return refitted(predictions, known, n_end) if chooses or refits else (0.0, 0.0)

    def _prediction(self, asked: _Asked, row: FloatArray) -> Prediction:
        task, candidates = self.model.task, self.model.answers(asked.query.example)
        is_open = task.is_open
        if is_open:
            row = row - asked.model.unsaid(candidates, asked.query.example)
        if task.is_multi_label:
            candidates, row = task.labels, asked.model.label_log_odds(row)
            probabilities = each_by_itself(row)
        else:
            probabilities = np.exp(row) if is_open else normalised(row)
        best = having(probabilities > SURE, candidates) if task.is_multi_label else None
        return Prediction(
            example_id=asked.query.example.id,
            candidates=candidates,
            log_probs=tuple(row.tolist()),
            probs=tuple(probabilities.tolist()),
            answer=best if best or is_open else candidates[int(np.argmax(probabilities))],
            prompt_tokens=run_tokens(asked.prompt, self.model.model),
            demonstrations=tuple(e.id for e in asked.shown),
            dropped=asked.n_dropped,
            found=() if asked.found is None else (asked.found,),
        )

    def _considered(
        self, model: TaskModel, pairs: Sequence[tuple[_Shown, int]], tell: Callable[[int], None] | None
    ) -> list[Mapping[str, Any]]:
        """Return what the composers find out about each question; those with the same composer and notes together."""
        by_composer: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for i, (own, _) in enumerate(pairs):
            by_composer.setdefault((id(own.model.composer), own.model.task_notes), []).append(i)
        found: dict[int, Mapping[str, Any]] = {}
        for places in by_composer.values():
            prepared = pairs[places[0]][0].model
            asked = [(pairs[i][0].contexts[pairs[i][1]], pairs[i][0].query.example.question) for i in places]
            composer = cast(Composer, prepared.composer)
            asking = replace(model, composer=composer, task_notes=prepared.task_notes, told=prepared.told)
            found |= dict(zip(places, composer.consider(asked, model=asking, seed=self._seed), strict=True))
            if tell:
                tell(0)  # whoever counts what was spent can end here
        return [found[i] for i in range(len(pairs))]

    def _scores(
        self, model: TaskModel, asked: Sequence[_Asked], progress: Callable[[int], None] | None
    ) -> list[FloatArray]:
        """Return log-probabilities of each query's answers; contextual ones are divided by those without content."""
        answers = [a.model.said(a.model.answers(a.query.example), a.query.example) for a in asked]
        prompts = [a.prompt for a in asked]
        known = [i for i, texts in enumerate(answers) if texts]  # of a new input in an open task nothing is scored
        if self.recipe.calibration != "contextual":
            rows = model.score([prompts[i] for i in known], [answers[i] for i in known], progress=progress)
            scored = dict(zip(known, rows, strict=True))
            return [scored.get(i, np.zeros(0)) for i in range(len(asked))]
        # One call, so that a prompt and its versions without content share the demonstrations
        times = 1 + len(CONTENT_FREE)
        for a in asked:
            for empty in _without_content(a.query.example.question):
                prompts.append(a.model.compose(a.shown, empty))
        repeated = [texts for texts in answers for _ in CONTENT_FREE]
        told = progress and _in_proportion(times, 1, progress)
        rows = model.score(prompts, [*answers, *repeated], progress=told)
        corrected = []
        for i, row in enumerate(rows[: len(asked)]):
            start = len(asked) + i * (times - 1)
            empties = [r - np.logaddexp.reduce(r) for r in rows[start : start + times - 1]]
            corrected.append(row - (np.logaddexp.reduce(empties, axis=0) - np.log(len(empties))))
        return corrected

    def _shown(self, queries: Sequence[Query]) -> list[_Shown]:
        """Return what is shown to queries with the same past; what choosing took counts for the first of them."""
        began, selecting = time.perf_counter(), replace(self._selecting, ledger=self._selecting.ledger.part())
        making = replace(self._making, ledger=self._making.ledger.part(), progress=selecting.progress)
        found = self._contexts(queries, selecting, making)
        seconds, tokens = time.perf_counter() - began, selecting.ledger.cost.tokens + making.ledger.cost.tokens
        return [
            _Shown(query, *shown, *((seconds, tokens) if i == 0 else (0.0, 0.0)))
            for i, (query, shown) in enumerate(zip(queries, found, strict=True))
        ]

    def _asked(self, shown: _Shown, context: int, found: Mapping[str, Any] | None) -> _Asked:
        """Return what is asked with a context, of which the first examples are left out to fit the model."""
        query, model, demonstrations = shown.query, shown.model, shown.contexts[context]
        if found is not None:
            model = replace(model, composer=cast(Composer, model.composer).knowing(found))
        question = query.example.question
        prompt, n_dropped = model.prompt(demonstrations, query.example)
        if self.recipe.calibration == "contextual":  # inputs without content can be longer than the query
            empties = _without_content(question)
            n_dropped = max(n_dropped, *(model.prompt(demonstrations, e)[1] for e in empties))
            prompt = model.compose(demonstrations[n_dropped:], question)
        return _Asked(query, model, prompt, demonstrations[n_dropped:], n_dropped, found)

    def demonstrations(self, query: Query) -> tuple[Example, ...]:
        """Return what is shown to a query in the first context, before anything is left out to fit the model."""
        ((_, contexts),) = self._contexts([query], self._selecting, self._making)
        return contexts[0]

    def show_again(self, query: Query) -> None:
        """Find again what a query was shown, and note nothing of it; what is chosen next goes on from it."""
        self._contexts([query], replace(self._selecting, notes=None), replace(self._making, notes=None))
        if self._prepared:  # what is asked by it from here on is noted
            n, ready = self._prepared
            self._prepared = n, replace(ready, model=replace(ready.model, notes=self._making.notes))

    def prepare(self, past: Sequence[Example], making: TaskModel | None = None) -> Prepared:
        """Return what generators, loops and composers make of a past: again whenever it has doubled.

        Args:
            past: All that is known.
            making: The learner's own model with another ledger, for what that takes.
        """
        n = refit_point(len(past))
        if self._prepared is None or self._prepared[0] != n:
            self._prepared = n, prepared(self.recipe, past[:n], making or self._making, seed=self._seed)
        return self._prepared[1]

    def _contexts(
        self, queries: Sequence[Query], selecting: TaskModel, making: TaskModel
    ) -> list[tuple[TaskModel, Contexts]]:
        """Return for queries with the same past what is shown to each, and the model with what it is to be told.

        Args:
            queries: With the same past.
            selecting: What selectors ask, counting what that takes.
            making: What generators, loops and composers ask, counting what that takes.
        """
        past, selector, recipe = queries[0].past, self.recipe.part("selector"), self.recipe
        ready = self.prepare(past, making)
        model = replace(ready.model, ledger=self.model.ledger)
        selecting = replace(selecting, composer=model.composer)
        if selector is None or not past:
            return [(model, ((),))] * len(queries)
        known = tuple(past) if selector.per_query else tuple(past[: refit_point(len(past))])
        pool = (*known, *ready.made)
        if pool != self._pool:
            trained = self._trained(selector, known, selecting)
            self._selector = fitted(trained, pool, model=selecting, seed=self._seed)
            self._pool, self._for_all = pool, None
        assert self._selector is not None
        how: Any = {"seed": self._seed, "n_contexts": recipe.contexts}
        if selector.per_query:
            questions = [query.example.question for query in queries]
            found = chosen(self._selector, pool, recipe.k, questions, **how)
        else:
            if self._for_all is None:
                (self._for_all,) = chosen(self._selector, pool, recipe.k, [None], **how)
            found = [self._for_all] * len(queries)
            if "composer" in recipe.parts:
                model = worded(model, self._selector, pool, recipe.k, seed=self._seed)
        bits = ZeroShotBits(selecting)
        bits.known = self.bits.known
        return [
            (model, shown(recipe, pool, hands, q.example.question, seed=self._seed, bits=bits))
            for q, hands in zip(queries, found, strict=True)
        ]

    def _trained(self, selector: Selector, known: tuple[Example, ...], selecting: TaskModel) -> Selector:
        """Return a selector that learns, having learnt from the first examples that are known; others as they are."""
        if selector.has_learnt:
            return selector
        lesson = known[: refit_point(len(known))]
        if self._learnt is None or lesson != self._lesson:
            rng = generator(self._seed, "learn", len(lesson))
            self._learnt, self._lesson = selector.learnt(lesson, model=selecting, rng=rng), lesson
        return self._learnt


def _without_content(question: Question) -> list[Question]:
    """Return the question with each input without content in place of its own."""
    return [replace(question, input=text, context=None) for text in CONTENT_FREE]


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


def _in_proportion(n: int, whole: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    """Return a progress function for `n` requests that counts as `whole` in all."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        progress((done + more) * whole // n - done * whole // n)
        done += more

    return advance
