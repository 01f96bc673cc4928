"""Answers of several recipes, weighed by how well each teaches: shown as an example, what does it do for an exam?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import TypedDict

from kshot.core.fields import setting, state
from kshot.core.script import Script, UsualWording, usual, without_empty_lines
from kshot.core.types import Example, FloatArray, Prediction, Question, Task
from kshot.measures.averages import averaged
from kshot.methods.contracts import Combiner
from kshot.retrieval.lexical import LexicalIndex
from kshot.taskmodel.taskmodel import TaskModel

MOST_KNOWN = 1000


class _Remembered(TypedDict):
    _calibrations: list[dict[str, Any]]
    _known: list[dict[str, Any]]
    _scores: list[float]


@dataclass(frozen=True)
class Taught(Combiner):
    """Weigh each recipe's answer to a question by how well it teaches a student who is shown it.

    A member's answer, with its reason where it has written one, is shown as the one example before each of `exam` known
    questions that share most words with the question; the student is the language model, without any training. The
    member's score s_m is the mean probability of the right answers of this exam. Then

        sum: p(y) = sum over the members m of s_m p_m(y) / sum of the s_m;
        max: p(y) is that of the member with the best score, the first of equals.

    Of an open task the text with the greatest sum of scores is the answer, of equals the one that more members have
    written and then the first; the output's probability is weighed likewise. Without an exam, as long as nothing is
    known and with `exam=0`, it is the average, and of texts the most frequent one. It costs a scoring for each exam
    question and different pair of answer and reason.

    Attributes:
        by: "sum" or "max".
        exam: Questions of an exam.

    Source: Ning et al. (2024), Can LLMs Learn by Teaching for Better Reasoning? A Preliminary Study, section 3 (M1),
    https://arxiv.org/abs/2406.14629.
    Differs: answers come from several recipes, not from many samples of one; the probability of right answers in place
    of their number, so that one reading of each exam question is enough; probabilities are weighed, where there are
    some, not votes.
    """

    by: str = setting("sum", choices=("sum", "max"))
    exam: int = setting(3, least=0, most=100)
    _known: tuple[Mapping[str, Any], ...] = state(())
    _scores: tuple[float, ...] = state(())

    learns: ClassVar[bool] = True
    examines: ClassVar[bool] = True
    remembered: ClassVar[type | None] = _Remembered

    def knowing(self, task: Task, known: Sequence[Example]) -> Self:
        """Return it with what exams are made of: the last `MOST_KNOWN` examples."""
        names = ("input", "output", "id", "context", "choices")
        rows = tuple({name: getattr(e, name) for name in names} for e in known[-MOST_KNOWN:]) if self.exam else ()
        return replace(self, _known=rows)

    def examining(self, question: Question, said: Sequence[Prediction], *, model: TaskModel) -> Self:
        """Return it with the score of each member's answer to a question; see `Combiner.examining`."""
        if not (self._known and self.exam) or any(p.answer is None for p in said) or len(said) < 2:
            return self
        known = [Example(**about) for about in self._known]
        likeness = LexicalIndex([e.text for e in known]).scores(question.text)
        others = [i for i in np.argsort(-likeness, kind="stable") if known[int(i)].id != question.id]
        asked = [known[int(i)] for i in others[: self.exam]]
        pairs = [_pair(question, p) for p in said]
        scores = {pair: exam_score(model, pair, asked) for pair in dict.fromkeys(pairs)} if asked else {}
        return replace(self, _scores=tuple(scores[pair] for pair in pairs) if scores else ())

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return the members' answers, weighed by the scores of this question's exam."""
        whole, scores = averaged(members, mean="arithmetic", is_open=task.is_open), np.array(self._scores)
        if len(scores) != len(members) or not scores.sum() > 0:
            return whole
        if self.by == "max":
            return members[int(np.argmax(scores))]
        weights = scores / scores.sum()
        logs = np.array([p.log_probs for p in members]) if task.is_open else np.log([p.probs for p in members])
        found: FloatArray = np.logaddexp.reduce(logs + np.log(weights)[:, None], axis=0)
        if not task.is_open:
            found -= np.logaddexp.reduce(found)
            answer = whole.candidates[int(np.argmax(found))]
        else:
            answer = best_taught([str(p.answer) for p in members], self._scores)
        written = next((p for p in members if p.answer == answer), whole)
        return replace(
            whole,
            log_probs=tuple(found.tolist()),
            probs=tuple(np.exp(found).tolist()),
            answer=answer,
            cut_off=written.cut_off if task.is_open else False,
        )


def best_taught(answers: Sequence[str], scores: Sequence[float]) -> str:
    """Return the answer with the greatest sum of scores; of equals the most frequent one, and then the first.

    Args:
        answers: Some may be the same.
        scores: Of each; none at all, or only 0, leaves the most frequent answer.

    Example:
        >>> best_taught(["7", "7", "9"], [0.1, 0.2, 0.9]), best_taught(["7", "7", "9"], [])
        ('9', '7')
    """
    own = scores or [0.0] * len(answers)
    worth = {
        answer: (sum(s for a, s in zip(answers, own, strict=True) if a == answer), answers.count(answer))
        for answer in dict.fromkeys(answers)
    }
    return max(worth, key=lambda answer: worth[answer])  # the first of equals


def exam_score(model: TaskModel, shown: Example, asked: Sequence[Example]) -> float:
    """Return how well an example teaches: the mean probability of the right answers after it."""
    if shown.explanation:
        model = replace(model, composer=_Reasoned())
    return float(np.mean(2.0 ** -model.code_lengths([(shown,)] * len(asked), asked)))


@dataclass(frozen=True)
class _Reasoned(UsualWording):
    """Says the reason of a demonstration before its answer."""

    def compose(self, task: Task, demonstrations: Sequence[Example], question: Question) -> Script:
        return usual(task, demonstrations, question, reasons="before")


def _pair(question: Question, said: Prediction) -> Example:
    """Return a member's answer to a question, with the reason that it has written, as an example."""
    reason = next((str(found["reason"]) for found in said.found if found.get("reason")), "")
    answered = question.answered(said.answer or "")
    return replace(answered, id=f"{question.id}~said", explanation=without_empty_lines(reason) or None, meta={})
