"""New examples whose answer several voters agree on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.types import Example, Task
from kshot.methods.generators.consensus import check_possible, consensus
from kshot.methods.generators.intake import Intake
from kshot.methods.generators.new_inputs import drawn_lists, write_inputs
from kshot.methods.generators.writer import Writer, votes
from kshot.methods.roles import another
from kshot.taskmodel.taskmodel import TaskModel

NO_CONSENSUS = "the voters do not agree"


@dataclass(frozen=True)
class Ensemble(Writer):
    """Let the model go on with lists of known inputs, and keep new ones whose answer enough voters agree on.

    There are two forms of a list: where the known examples have a passage, a passage with its question is written;
    where they have none, a line. Each draft is then answered by several voters: one model after different
    demonstrations, or several models in turn (`models`). What `agree` of them say the same is its answer; in open tasks
    also the answer most like the others, if all share words (`kshot.methods.generators.consensus`). Each example
    says in `meta` what it was written from, its form, and what every voter has said.

    Costs a text and `voters` answers for each draft.

    Attributes:
        voters: How many answer each draft.
        agree: So many have to say the same.
        shown: The most examples in a list; a quarter of them may be made ones.
        shots: Demonstrations of a voter.
        models: Names of more language models that vote in turn after the one that writes, with a + between them.

    Source: Lee et al. (2023), Ensemble-Instruct, https://arxiv.org/abs/2310.13961.
    Differs: new inputs of one task, whose instruction stays, not new tasks: a passage is what an input is there; voters
    are one model with several draws of demonstrations unless others are named, and none is asked without any; no list
    of forbidden words; labels need voters that say the same.
    """

    voters: int = setting(3, least=2, most=100)
    agree: int = setting(2, least=2, most=100)
    shown: int = setting(8, least=1, most=1000)
    shots: int = setting(8, least=0, most=1000)
    models: str = ""

    def __post_init__(self):
        super().__post_init__()
        check_possible(self.agree, voters=self.voters)
        if self.voters < (n := 1 + len(self._others)):
            raise SettingError(
                f"voters must be {n} or more, so that the model and each of `models` votes; got {self.voters}."
            )

    @property
    def named_models(self) -> dict[str, list[str]]:
        """Who votes beside the model that writes."""
        return {"models": self._others}

    def suits(self, task: Task) -> bool:
        """Return whether new inputs can be written: those of multiple choice bring choices of their own."""
        return task.kind != "multiple_choice"

    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Write `n` inputs, let voters answer them, and take those with a consensus."""
        lists = drawn_lists(n, seeds, intake.taken, self.shown, rng)
        voting = self._voting(model)
        drafts = write_inputs(lists, seeds, self, intake, asked=voting, rng=rng)
        how = {"voters": self.voters, "shots": self.shots, "apart": [()] * len(drafts), "models": voting, "rng": rng}
        said = votes([draft for draft, _ in drafts], seeds, **how)
        for (draft, own), answers in zip(drafts, said, strict=True):
            answer = consensus(answers, least=self.agree, are_labels=not model.task.is_open)
            if answer is None:
                intake.reject(draft.input, NO_CONSENSUS)
            else:
                about = {"form": own.template, "votes": answers, "voters": [m.model.name for m in voting]}
                intake.take(replace(draft, output=answer), own.examples, **about)

    def _voting(self, model: TaskModel) -> tuple[TaskModel, ...]:
        """Return who votes: the model that writes, then those that are named."""
        return (model, *(another(name, model, "ensemble:models") for name in self._others))

    @property
    def _others(self) -> list[str]:
        return [name for name in self.models.split("+") if name]
