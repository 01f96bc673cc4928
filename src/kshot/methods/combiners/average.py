"""The average of several recipes' probabilities, or of several draws of one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Prediction, Task
from kshot.methods.contracts import Combiner


@dataclass(frozen=True)
class Average(Combiner):
    """Average the probabilities of several recipes, or of several draws of one (`random:contexts=4`).

    p(y) = mean over the members m of p_m(y), each with its 1 % of uniform; with `mean=geometric` proportional to the
    exponential of the mean log p_m(y). Of an open task the output's probabilities are averaged, and the text is the one
    that most members have written, the first of equals.

    Attributes:
        mean: "arithmetic" or "geometric".

    Source: Wang et al. (2022), Rationale-Augmented Ensembles, https://arxiv.org/abs/2207.00747, for ensembles over
    demonstrations; texts: Wang et al. (2022), Self-Consistency, https://arxiv.org/abs/2203.11171.
    Differs: probabilities are averaged where answers are scored, no votes.
    """

    mean: str = setting("arithmetic", choices=("arithmetic", "geometric"))

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return the average of the members' predictions of one question; it costs what all of them do."""
        first = members[0]
        # [n_members, n_candidates]; the probability of a long text can be too small for a number
        logs = np.array([p.log_probs for p in members]) if task.is_open else np.log([p.probs for p in members])
        mean = logs.mean(axis=0)
        if self.mean == "arithmetic":
            mean = np.logaddexp.reduce(logs, axis=0) - np.log(len(members))
        probabilities = np.exp(mean) if task.is_open else np.exp(mean - np.logaddexp.reduce(mean))
        answer = first.answer if task.is_open else first.candidates[int(np.argmax(probabilities))]
        if task.is_open and answer is not None:
            answer = Counter(p.answer for p in members).most_common(1)[0][0]
        return replace(first, log_probs=tuple(mean.tolist()), probs=tuple(probabilities.tolist()), answer=answer)
