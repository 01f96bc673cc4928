"""One prediction of several of the same query: the mean of what several contexts, or several recipes, say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kshot.core.label_sets import SURE, having
from kshot.core.types import Prediction

ARITHMETIC, GEOMETRIC = "arithmetic", "geometric"
MEANS = (ARITHMETIC, GEOMETRIC)


def averaged(predictions: Sequence[Prediction], *, mean: str, is_open: bool, is_label_set: bool = False) -> Prediction:
    """Return the mean of predictions of one query, with how many of them answer otherwise; costs are the first's.

    p(y) = mean over the predictions m of p_m(y), each with its 1 % of uniform; if geometric, proportional to the
    exponential of the mean log p_m(y). Of an open task the output's probabilities are averaged, and the text is the one
    that most of them have, the first of equals. Of a set of labels each label's probability is averaged by itself. The
    mean of one is that one.

    Args:
        predictions: At least one, all with the same candidates.
        mean: One of `MEANS`.
        is_open: Whether the task's answers are texts.
        is_label_set: Whether they are sets of labels.

    Source: Wang et al. (2022), Rationale-Augmented Ensembles, https://arxiv.org/abs/2207.00747, for ensembles over
    demonstrations; texts: Wang et al. (2022), Self-Consistency, https://arxiv.org/abs/2203.11171.
    Differs: probabilities are averaged where answers are scored, no votes.
    """
    first, *others = predictions
    if not others:
        return first
    if is_label_set:
        return _of_each_label(predictions, mean=mean)
    # [n_predictions, n_candidates]; the probability of a long text can be too small for a number
    logs = np.array([p.log_probs for p in predictions]) if is_open else np.log([p.probs for p in predictions])
    found = logs.mean(axis=0)
    if mean == ARITHMETIC:
        found = np.logaddexp.reduce(logs, axis=0) - np.log(len(predictions))
    probabilities = np.exp(found) if is_open else np.exp(found - np.logaddexp.reduce(found))
    answer = first.answer if is_open else first.candidates[int(np.argmax(probabilities))]
    if is_open and answer is not None:
        answer = Counter(p.answer for p in predictions).most_common(1)[0][0]
    return replace(
        first,
        log_probs=tuple(found.tolist()),
        probs=tuple(probabilities.tolist()),
        answer=answer,
        cut_off=next(p.cut_off for p in predictions if p.answer == answer) if is_open else False,
        disagreement=None if answer is None else sum(p.answer != answer for p in predictions) / len(predictions),
    )


def _of_each_label(predictions: Sequence[Prediction], *, mean: str) -> Prediction:
    """Return the mean of what is said of each label, right or wrong."""
    first, probs = predictions[0], np.array([p.probs for p in predictions])  # [n_predictions, n_labels]
    yes, no = (logs.mean(axis=0) for logs in (np.log(probs), np.log1p(-probs)))
    if mean == ARITHMETIC:
        yes, no = (np.log(some.mean(axis=0)) for some in (probs, 1 - probs))
    found = np.exp(yes - np.logaddexp(yes, no))
    answer = having(found > SURE, first.candidates)
    return replace(
        first,
        log_probs=tuple((yes - no).tolist()),
        probs=tuple(found.tolist()),
        answer=answer,
        disagreement=sum(p.answer != answer for p in predictions) / len(predictions),
    )
