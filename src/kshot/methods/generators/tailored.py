"""New examples that teach the model most: drafts ranked by what each saves it, shown alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.script import WORDS
from kshot.core.types import Example, Task
from kshot.methods.contracts import Made
from kshot.methods.generators.intake import Intake
from kshot.methods.generators.new_inputs import NOT_IN_FORM
from kshot.methods.generators.writer import UNFIT, Writer, can_be_asked, finished, in_one_line, room_for
from kshot.methods.teachers.preferences import chosen_probes, values
from kshot.taskmodel.taskmodel import TaskModel

USELESS, LESS = "shown alone it saves the model nothing", "others save the model more"
UNTRIED = "it was written from every example that it could be tried on"


@dataclass(frozen=True)
class Tailored(Writer):
    """Let the model write more examples than are wanted, with their answers, and keep those that teach it most.

    Each is written after `shown` known ones, and is worth what it saves, shown alone, on other known ones, the probes:

        value = mean over probes j of log2 p(y_j | draft, x_j) - log2 p(y_j | x_j)   bits a probe

    (`kshot.methods.demonstration_value`), where no probe counts that the draft was written from. The best `n` are kept,
    none that saves nothing. Costs `drafts` x n texts and as many x `probes` scorings.

    Attributes:
        drafts: How many are written for each that is kept, in all rounds.
        shown: Known examples that each is written from; one at least is left to try it on.
        probes: The most known examples on which drafts are tried.

    Source: Liu et al. (2024), ARTE, https://arxiv.org/abs/2406.19227, the drafts and their preference.
    Differs: the model itself writes, and is the student; bits saved in place of right answers written; the ranking
    chooses what is kept, and nobody is trained by it (`teacher=preferences` does that); no reasons are written.
    """

    drafts: int = setting(4, least=1, most=100)
    shown: int = setting(3, least=1, most=100)
    probes: int = setting(16, least=1, most=1000)

    version = 2
    needs = frozenset({Capability.GENERATE, Capability.SCORE})
    least = 2

    def suits(self, task: Task) -> bool:
        """Return whether examples can be written: those of multiple choice bring choices of their own."""
        return task.kind != "multiple_choice"

    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return the drafts that are worth most; see `kshot.methods.contracts.Generator`."""
        intake = Intake("tailored", seeds, model.task, near=self.near)
        for _ in range(self.rounds):
            if (missing := self.drafts * self.n - len(intake.taken)) > 0:
                self.draft(missing, seeds, intake, model=model, rng=rng)
        if not intake.taken:
            return intake.made
        probes = chosen_probes(intake.taken, seeds, self.probes, model, rng)
        worth = values(intake.taken, probes, model)
        kept, rejected = [], list(intake.rejected)
        for i in np.argsort(-worth, kind="stable"):
            draft = intake.taken[i]
            if np.isnan(worth[i]):
                rejected.append((draft.input, UNTRIED))
            elif worth[i] <= 0:
                rejected.append((draft.input, USELESS))
            elif len(kept) == self.n:
                rejected.append((draft.input, LESS))
            else:
                kept.append(replace(draft, meta={**draft.meta, "value": round(float(worth[i]), 4)}))
        return Made(tuple(kept), tuple(rejected))

    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Write `n` examples with their answers."""
        most = min(self.shown, max(1, len(seeds) - 1))
        lists = [[seeds[i] for i in rng.permutation(len(seeds))[:most]] for _ in range(n)]
        room = room_for([f"{_block(e, model.task)}" for own in lists for e in own], model)
        texts = [_request(own, model.task) for own in lists]
        said = self.written(texts, stop=("\n\n",), max_tokens=room, model=model, rng=rng)
        for i, text in finished(said, ["" for _ in lists], intake):
            found = _read(text, model.task, has_context=bool(lists[i][0].context))
            if found is None:
                intake.reject(text, NOT_IN_FORM)
            elif not can_be_asked(found, (model,)):
                intake.reject(found.input, UNFIT)
            else:
                intake.take(found, lists[i])


def _request(shown: Sequence[Example], task: Task) -> str:
    head = [task.instruction] if task.instruction else []
    return "\n\n".join((*head, *(_block(e, task) for e in shown), f"{_first(shown[0].context, task)}:"))


def _first(context: str | None, task: Task) -> str:
    return "Passage" if context else WORDS[task.kind][0]


def _block(example: Example, task: Task) -> str:
    """Return an example as lines, each with its name."""
    given, wanted = WORDS[task.kind]
    passage = f"Passage: {in_one_line(example.context)}\n" if example.context else ""
    return f"{passage}{given}: {in_one_line(example.input)}\n{wanted}: {in_one_line(example.output)}"


def _read(text: str, task: Task, *, has_context: bool) -> Example | None:
    """Return the example that a text is, which goes on after the name of its first line; None in another form."""
    given, wanted = WORDS[task.kind]
    context, mark, rest = text.partition(f"\n{given}:") if has_context else (None, " ", text)
    asked, also, answer = rest.partition(f"\n{wanted}:")
    if not (mark and also and asked.strip() and answer.strip()):
        return None
    return Example(asked.strip(), answer.strip().split("\n")[0], "draft", context and context.strip())
