"""The average of several recipes' probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.fields import setting
from kshot.core.types import Prediction, Task
from kshot.measures.averages import MEANS, averaged
from kshot.methods.contracts import Combiner


@dataclass(frozen=True)
class Average(Combiner):
    """Average the probabilities of several recipes.

    p(y) = mean over the members m of p_m(y), each with its 1 % of uniform; with `mean=geometric` proportional to the
    exponential of the mean log p_m(y). Of an open task the output's probabilities are averaged, and the text is the one
    that most members have written, the first of equals. Several contexts of one recipe are averaged by its own setting
    (`random:contexts=4`).

    Attributes:
        mean: "arithmetic" or "geometric".

    Source: Wang et al. (2022), Rationale-Augmented Ensembles, https://arxiv.org/abs/2207.00747, for ensembles over
    demonstrations; texts: Wang et al. (2022), Self-Consistency, https://arxiv.org/abs/2203.11171.
    Differs: probabilities are averaged where answers are scored, no votes.
    """

    multi_label = True

    mean: str = setting(MEANS[0], choices=MEANS)

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return the average of the members' predictions of one question; it costs what all of them do."""
        return averaged(members, mean=self.mean, is_open=task.is_open, is_label_set=task.is_multi_label)
