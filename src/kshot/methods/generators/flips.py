"""The same words in another context, in which they have another label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.script import WORDS
from kshot.core.types import Example, Task
from kshot.methods.generators.intake import Intake
from kshot.methods.generators.writer import UNFIT, Writer, can_be_asked, finished, in_one_line, room_for, votes
from kshot.taskmodel.taskmodel import TaskModel

NO_FLIP, HALF = "the model does not change its answer in it", "the other one of its pair was not taken"
ALL_RIGHT = "each label is right for it"
HEAD = "Describe in one sentence a situation in which the words have the label."
WORKED = (  # where no known example has a context
    ("Nice work!", "praise", "A teacher hands back a test without a mistake."),
    ("Nice work!", "mockery", "A waiter has just dropped a tray of glasses."),
)


@dataclass(frozen=True)
class Flips(Writer):
    """An analogue of COBRA: write for the words of an example contexts in which they have opposite labels.

    An example with a context gets one more, in which the same words are to have another label; one without gets two,
    one for each. A pair is taken where the model, after other examples, answers each new context as wanted. What is
    made names in `meta["pair"]` the known example whose words it has. Whoever reads no context gives the two of a pair
    the same answer, and is right in exactly one of them: half of a set of pairs (`kshot evaluate … --suite flips`).

    Attributes:
        near: As for all that write, of input and context together; the input is the same by design.
        shown: Examples with contexts that a context is written after.
        shots: Demonstrations after which the contexts are tried.

    Source: an analogue of Zhou et al. (2023), COBRA Frames, https://arxiv.org/abs/2306.01985, which generates contexts
    of statements and explains their harms.
    Differs: labels of any task in place of frames of offence; no harmful statements come with it; contexts are kept by
    the model's own answers.
    """

    near: float = setting(1.0, least=0, most=1)
    shown: int = setting(4, least=1, most=100)
    shots: int = setting(8, least=0, most=1000)

    version = 2

    def suits(self, task: Task) -> bool:
        """Return whether there are labels to flip."""
        return task.kind == "classification" and len(task.labels) > 1

    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Write contexts for up to `n` new examples, and take the pairs that flip."""
        order, pairs, n_planned = [seeds[i] for i in rng.permutation(len(seeds))], list[list[Example]](), 0
        for seed in order:
            if n_planned >= n:
                break
            others = [label for label in model.task.labels if label not in seed.accepted]
            if not others:
                intake.reject(seed.input, ALL_RIGHT)
                pairs.append([])
                continue
            same = replace(seed, references=(), explanation=None)  # a context is for one label
            flipped = replace(same, output=others[int(rng.integers(len(others)))], context=None)
            pairs.append([flipped] if seed.context else [same, flipped])
            n_planned += len(pairs[-1])
        wanted = [(e, order[i]) for i, own in enumerate(pairs) for e in own]
        contexts = self._contexts([e for e, _ in wanted], seeds, intake, model, rng)
        drafts: list[tuple[Example, Example]] = []
        for (e, seed), context in zip(wanted, contexts, strict=True):
            if context is None:
                continue
            draft = replace(e, context=context)
            if fault := intake.fault(draft) or (None if can_be_asked(draft, (model,)) else UNFIT):
                intake.reject(draft.text, fault)
            else:
                drafts.append((draft, seed))
        self._take(drafts, seeds, intake, model, rng)

    def _contexts(
        self,
        wanted: Sequence[Example],
        seeds: Sequence[Example],
        intake: Intake,
        model: TaskModel,
        rng: np.random.Generator,
    ) -> list[str | None]:
        """Return a context for each example, None where none came to an end."""
        known = [(e.input, e.output, e.context) for e in seeds if e.context]
        texts = []
        for e in wanted:
            others = [one for one in known if one[0] != e.input] or list(WORKED)
            texts.append(_request([others[i] for i in rng.permutation(len(others))[: self.shown]], e, model.task))
        room = room_for([context for *_, context in known or WORKED], model)
        said = self.written(texts, stop=("\n",), max_tokens=room, model=model, rng=rng)
        found: list[str | None] = [None] * len(wanted)
        for i, text in finished(said, [e.input for e in wanted], intake):
            found[i] = text
        return found

    def _take(
        self,
        drafts: Sequence[tuple[Example, Example]],
        seeds: Sequence[Example],
        intake: Intake,
        model: TaskModel,
        rng: np.random.Generator,
    ) -> None:
        """Take the drafts that the model answers as wanted, where all that belong together are."""
        apart = [[e.id for e in seeds if e.input == seed.input] for _, seed in drafts]
        how = {"voters": 1, "shots": self.shots, "apart": apart, "models": (model,), "rng": rng}
        flips: dict[str, list[Example]] = {}
        for (draft, seed), (answer,) in zip(drafts, votes([draft for draft, _ in drafts], seeds, **how), strict=True):
            if answer == draft.output:
                flips.setdefault(seed.id, []).append(draft)
            else:
                intake.reject(draft.text, NO_FLIP)
        for seed in {seed.id: seed for _, seed in drafts}.values():
            own = flips.get(seed.id, [])
            for draft in own:
                if len(own) == (1 if seed.context else 2):
                    intake.take(draft, [seed], pair=seed.id)
                else:
                    intake.reject(draft.text, HALF)


def _request(shown: Sequence[tuple[str, str, str]], asked: Example, task: Task) -> str:
    given, wanted = WORDS[task.kind]
    blocks = [f"{given}: {in_one_line(x)}\n{wanted}: {y}\nSituation: {in_one_line(c)}" for x, y, c in shown]
    last = f"{given}: {in_one_line(asked.input)}\n{wanted}: {asked.output}\nSituation:"
    return "\n\n".join((HEAD, *blocks, last))
