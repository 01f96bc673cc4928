"""Reasons before answers: a chain of thought, after which the answer is read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from kshot.core.errors import TooLongError
from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.script import Piece, Script, Wants, answered, usual, without_empty_lines
from kshot.core.types import Example, Prompt, Question, Task
from kshot.methods.contracts import Composer
from kshot.methods.judges.judge import Judge, steps_of
from kshot.methods.judges.no_judge import NoJudge
from kshot.methods.reasons import Kept, kept_worked, lacks_reasons, with_worked
from kshot.prompts.fitting import prompt_tokens, write_to_fit
from kshot.taskmodel.taskmodel import TaskModel

LEAST, MOST, USUAL = 16, 1024, 128  # tokens of a reason; 128 where none is known, as in Kojima et al. (2022)
SO = "So the answer is:"
_SPARE = 16  # tokens for what stands between reason and answer


@dataclass(frozen=True)
class _Asked:
    """A question of which a reason is wanted.

    Attributes:
        place: Among all that are asked.
        most: The most tokens of its reason.
    """

    place: int
    script: Script
    prompt: Prompt
    most: int


@dataclass(frozen=True)
class ReasonFirst(Composer):
    """Show each demonstration's reason (`explanation`) before its answer, and let the model write the question's own.

    The reason is written first, greedily; then answers have the probability P(answer | shown, question, reason), as
    they have in any prompt: of labels, and of a text that is written, whose known answer is scored after the model's
    own reason. A reason may come to an answer; the right one is never shown to it. Demonstrations without a reason are
    shown without, and only when the answer is asked. Where none has one, the task's worked examples are shown before
    them; where there are none either, a `cue` can begin the reason, and the answer is asked in words too. Where the
    model writes no reason, the question is asked as if there were none. It costs one text a question beside the answer.
    In training the target's reason is learnt before its answer.

    Attributes:
        max_tokens: The longest reason, of which whole sentences are kept; 0: 8 and a quarter more than the longest
            explanation of the task, in 16..1024; 128 where there is none, and at least that after a cue. Never more
            than half of the model's context, or than fits.
        cue: What a reason begins with where nothing that is shown has one, such as "Let's think step by step.".
        judge: What scores the steps of each reason: "none", "plus-minus", or one of your own. Scores are kept with the
            prediction (`found`), for combiners that go by them.
        worked: Show the task's worked examples where the chosen ones have no reasons, as many as fit with the question.
        reason_weight: How much a target's reason counts in training where its answer counts 1, whatever their numbers
            of tokens; 0: reasons are read, not learnt.

    Source: Wei et al. (2022), Chain-of-Thought Prompting Elicits Reasoning in Large Language Models,
    https://arxiv.org/abs/2201.11903; the cue is of Kojima et al. (2022), Large Language Models are Zero-Shot Reasoners,
    https://arxiv.org/abs/2205.11916; the weight of Hsieh et al. (2023), Distilling Step-by-Step!,
    https://arxiv.org/abs/2305.02301.
    Differs: the label's probability is read after the reason, instead of a label in the text that is written; in
    training, reason and answer are one text, each with its mean over tokens, instead of two tasks.
    """

    max_tokens: int = setting(0, least=0, most=4096)
    cue: str = ""
    judge: Judge = NoJudge()
    worked: bool = True
    reason_weight: float = setting(1.0, least=0, most=100)  # pyright: ignore[reportIncompatibleMethodOverride]
    _most: int = state(0)
    _worked: Kept = state(())
    _reason: str = state("")

    version = 2
    needs = frozenset({Capability.GENERATE})
    considers = True

    def missing_field(self, task: Task) -> str | None:
        """Return "explanation" where no example has one and no cue is set."""
        return "explanation" if not self.cue and lacks_reasons(task, worked=self.worked) else None

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a composer that knows the worked examples and how long reasons are.

        That is known in advance, as is the length of answers (`TaskModel.for_task`): the same all along a stream.
        """
        worked = kept_worked(model) if self.worked else ()
        explained = (e.explanation for e in (*model.task.train, *model.task.worked) if e.explanation)
        longest = max((model.model.count_tokens(without_empty_lines(text)) for text in explained), default=0)
        most = min(max(longest + longest // 4 + 8, LEAST), MOST) if longest else USUAL
        return replace(self, _worked=worked, _most=most)

    @property
    def shorter(self) -> Self | None:
        """It with one worked example fewer."""
        return replace(self, _worked=self._worked[:-1]) if self._worked else None

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with the reason that is known; without one, nothing has a reason."""
        if not self._reason:
            return usual(task, shown, question)
        is_begun = self.cue and not self._explained(shown)
        return self._reasoned(task, shown, question, f"{self._reason}\n{SO}" if is_begun else self._reason)

    def taught(self, task: Task, shown: Sequence[Example], target: Example) -> Script:
        """Return what is learnt: the target's explanation, if it has one, and its answer."""
        reason = without_empty_lines(target.explanation or "")
        script = self._reasoned(task, shown, target.question, reason)
        return answered(script, self.said(task, target.output, target.question), target.id)

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return a composer of a question of which that reason was written."""
        return replace(self, _reason=found["reason"])

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Let the model write a reason of each question; see `kshot.methods.contracts.Composer`."""
        wanted = [self._asked(i, shown, question, model) for i, (shown, question) in enumerate(asked)]
        found: list[dict[str, Any]] = [{"reason": "", "finished": True, "step_scores": []} for _ in asked]
        for most in sorted({one.most for one in wanted if one}):
            some = [one for one in wanted if one and one.most == most]
            ends = model.layout.reason_ends(some[0].script)
            texts = model.write_each([one.prompt for one in some], max_tokens=most, stop=ends, seed=seed)
            for one, text in zip(some, texts, strict=True):
                question = asked[one.place][1]
                answers = model.said(model.answers(question), question)
                reason = model.layout.reason(text.text, one.script, answers)
                reason = reason if text.finished else _without_last_part(reason)
                if reason and one.script.pieces[-1].role == "reason":
                    reason = f"{self.cue} {reason}"
                found[one.place] |= {"reason": reason, "finished": text.finished}
        judged = [i for i, about in enumerate(found) if about["reason"]]
        reasons = [(asked[i][1], steps_of(found[i]["reason"])) for i in judged]
        for i, scores in zip(judged, self.judge.scores(reasons, model=model), strict=True):
            found[i]["step_scores"] = list(scores)
        return [*found]

    def remark(self, found: Sequence[Mapping[str, Any]]) -> str:
        """Return how many reasons were not written or were cut."""
        n, n_none = len(found), sum(not about["reason"] for about in found)
        n_cut = sum(not about["finished"] for about in found)
        said = [f"{n_none} of {n} questions got no reason from the model and were asked without"] * bool(n_none)
        said += [f"{n_cut} of {n} reasons did not end and were cut (max_tokens)"] * bool(n_cut)
        return f"{'; '.join(said)} (`found` in samples.jsonl)" if said else ""

    def _reasoned(
        self, task: Task, shown: Sequence[Example], question: Question, reason: str, wants: Wants = "answer"
    ) -> Script:
        script = usual(task, with_worked(self._worked, shown), question, "before")
        reasons = [Piece("reason", reason, question.id)] if reason else []
        return replace(script, pieces=(*script.pieces, *reasons), wants=wants)

    def _explained(self, shown: Sequence[Example]) -> list[Example]:
        """Return what is shown with a reason."""
        return [e for e in with_worked(self._worked, shown) if e.explanation]

    def _asked(self, place: int, shown: Sequence[Example], question: Question, model: TaskModel) -> _Asked | None:
        """Return what is asked for a reason; None where none fits."""
        explained = self._explained(shown)
        shown = [e for e in shown if e.explanation] if explained else shown  # others say to answer at once
        begun, room = "" if explained else self.cue, model.answer_room(question) + _SPARE
        usual_most = max(self._most, USUAL) if begun else self._most or USUAL
        most = min(self.max_tokens or usual_most, model.model.max_tokens // 2)

        def script(some: Sequence[Example]) -> Script:
            return self._reasoned(model.task, some, question, begun, "reason")

        def write(some: Sequence[Example]) -> Prompt:
            return model.written(script(some))

        try:
            prompt, n_dropped = write_to_fit(write, shown, model.model, answer_tokens=most + room, asked=question.id)
        except TooLongError:
            if self.shorter and any(e.explanation for e in shown):  # worked ones would come in place of these
                return self.shorter._asked(place, shown, question, model)
            prompt, n_dropped = write(()), len(shown)
            most = model.model.max_tokens - prompt_tokens(prompt, model.model) - room
        return _Asked(place, script(shown[n_dropped:]), prompt, most) if most >= 1 else None


def _without_last_part(reason: str) -> str:
    """Return a reason that was cut without what has no end, unless that is all of it."""
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s)|\n", reason)]
    return reason[: ends[-1]].strip() if ends else reason
