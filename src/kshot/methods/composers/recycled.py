"""Demonstrations that are made from the very passage that is asked about, with the paragraph that each rests on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from kshot.core.errors import TooLongError
from kshot.core.fields import setting, state
from kshot.core.script import WORDS, Piece, Script, UsualWording, opening
from kshot.core.seeding import generator
from kshot.core.types import Example, Prompt, Question, Task
from kshot.methods.composers import made_questions
from kshot.methods.composers.asking import can_be_said, can_write, written
from kshot.methods.composers.passages import CUTS, holding, numbered, paragraphs, passage_of
from kshot.methods.contracts import Composer
from kshot.prompts.fitting import write_to_fit
from kshot.taskmodel.taskmodel import TaskModel

MOST_NAMED = 3  # paragraphs that evidence can name
QUESTION_TOKENS, EVIDENCE_TOKENS = 60, 12


class _Draft(NamedTuple):
    """A question that was made, the number of its paragraph, the answer, and who made it."""

    question: str
    number: int
    answer: str
    by: str


@dataclass(frozen=True)
class Recycled(Composer):
    """Number the paragraphs of the question's passage, and show `k` questions that were made from some of them.

    Said are the instruction, the passage with numbers, once, then for each of `k` paragraphs that are drawn at random a
    question that it answers, its number as the evidence, and the answer, and then the question. The model first names
    the paragraphs that its answer rests on; the answer is read after that. So it is shown how to find an answer in
    this text without any labelled example, for the price of some short lines: the passage is there once.

    What is shown beside that has its own passage numbered in the same way, and as evidence the paragraphs in which its
    answer stands. Where the model names no paragraph that there is, no evidence is said at all. Where the made
    questions do not fit the model there are fewer of them; where none fits, or there is no passage, the prompt is the
    usual one. Cost: `k` short texts written for a question, and its evidence.

    Attributes:
        k: The most questions that are made.
        make: Who makes them: the "model", whose question is dropped where its answer is not in the paragraph, is told
            by the question or the question is the one that is asked; "cloze", a sentence with a blank for a number, a
            name or a long word; "template", a question for what stands next to some words; "auto" is the model, and
            cloze where that is dropped or the model cannot write.
        evidence: Whether paragraphs are named before answers.
        paragraphs: Where the passage is cut: at "blank lines", "lines" or "sentences"; "auto" is the first of them
            that gives two paragraphs or more.

    Source: Cattan et al. (2024), Can Few-shot Work in Long-Context? Recycling the Context to Generate Demonstrations
    (DoubleDipper), https://arxiv.org/abs/2406.13632.
    Differs: made by the model that answers, not by another one; cloze and templates where it cannot; sentences are
    paragraphs where there are no others; the answer is asked for in a second step, so that labels keep probabilities.
    """

    k: int = setting(3, least=1, most=100)
    make: str = setting("auto", choices=("auto", "model", "cloze", "template"))
    evidence: bool = True
    paragraphs: str = setting("auto", choices=CUTS)
    _made: tuple[tuple[str, int, str], ...] = state(())
    _named: tuple[int, ...] = state(())  # none: no evidence is said at all
    _asks_evidence: bool = state(False)

    considers = True

    def missing_field(self, task: Task) -> str | None:
        """Return "context" where no row of the task has a passage."""
        return None if any(passage_of(example) for example in (*task.train, *task.test)) else "context"

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said; the usual wording where no question was made."""
        if not self._made:
            return UsualWording().compose(task, shown, question)
        pieces = opening(task)
        for example in shown:
            evidence = self._evidence(holding(self.cut(example), example.accepted)[:MOST_NAMED])
            pieces += [*self._asked(example), *evidence, Piece("answer", example.output, example.id)]
        *context, target = self._asked(question)
        pieces += context
        for made, number, answer in self._made:
            pieces += [Piece("question", made), *self._evidence([number]), Piece("answer", answer)]
        if self._asks_evidence:
            return Script((*pieces, target), *WORDS[task.kind], wants="reason", grounds="Evidence")
        return Script((*pieces, target, *self._evidence(self._named)), *WORDS[task.kind], grounds="Evidence")

    def cut(self, question: Question | Example) -> tuple[str, ...]:
        """Return the paragraphs of a question's passage; none where it has no passage."""
        found = passage_of(question)
        return paragraphs(found[0], self.paragraphs) if found else ()

    def _asked(self, question: Question | Example) -> list[Piece]:
        """Return the passage with numbers, if there is one, and what is asked of it."""
        found = passage_of(question)
        asked = Piece("question", found[1] if found else question.input, question.id)
        return [Piece("context", numbered(self.cut(question)), question.id), asked] if found else [asked]

    def _evidence(self, numbers: Sequence[int]) -> list[Piece]:
        is_said = numbers and (self._named or self._asks_evidence)
        return [Piece("reason", " ".join(f"[{i}]" for i in numbers))] if is_said else []

    def knowing(self, found: Mapping[str, Any]) -> Self:
        """Return it with the questions that were made and the paragraphs that were named."""
        made = tuple((asked, number, answer) for asked, number, answer in found["made"])
        return replace(self, _made=made, _named=tuple(found["evidence"]))

    def consider(
        self, asked: Sequence[tuple[Sequence[Example], Question]], *, model: TaskModel, seed: int
    ) -> list[Mapping[str, Any]]:
        """Make questions from each passage, as many as fit, and let the model name its evidence.

        Returns:
            For each question "made", (question, number of its paragraph, answer) of each, "by" whom, "left_out", how
            many cannot be said, and "evidence", the numbers that were named.
        """
        drafts = self._drafts([question for _, question in asked], model, seed)
        found = [self._that_can_be_said(q, some, model) for (_, q), some in zip(asked, drafts, strict=True)]
        prompts = [
            self._asking(shown, question, about, model) if about["evidence"] else None
            for (shown, question), about in zip(asked, found, strict=True)
        ]
        some = [prompt for prompt in prompts if prompt]
        named = iter(model.write_each(some, max_tokens=EVIDENCE_TOKENS, stop=("\n",)))
        for (_, question), about, prompt in zip(asked, found, prompts, strict=True):
            about["evidence"] = read_evidence(next(named).text, len(self.cut(question))) if prompt else []
        return list(found)

    def _asking(
        self, shown: Sequence[Example], question: Question, found: Mapping[str, Any], model: TaskModel
    ) -> Prompt | None:
        """Return the prompt after which evidence is written; None where there is no room for it."""
        composer = replace(self.knowing(found), _asks_evidence=True)

        def write(some: Sequence[Example]) -> Prompt:
            return model.written(composer.compose(model.task, some, question))

        try:
            return write_to_fit(write, shown, model.model, answer_tokens=EVIDENCE_TOKENS, asked=question.id)[0]
        except TooLongError:
            return None

    def _drafts(self, questions: Sequence[Question], model: TaskModel, seed: int) -> list[list[_Draft]]:
        """Return up to `k` made questions of each, from different paragraphs that are drawn at random."""
        rngs = [generator(seed, "recycled", question.id) for question in questions]
        orders = [
            [(i, parts[i]) for i in rng.permutation(len(parts)).tolist()]
            for rng, parts in zip(rngs, map(self.cut, questions), strict=True)
        ]
        prompts: dict[str, str] = {}
        if self.make in ("auto", "model"):
            chosen = [part for order in orders for _, part in order[: self.k]]
            prompts = {part: made_questions.ASKED.format(paragraph=part) for part in chosen}
        texts = written(model, prompts.values(), max_tokens=QUESTION_TOKENS, stop=(made_questions.STOP,))
        by_rule = {"auto": made_questions.cloze, "cloze": made_questions.cloze, "template": made_questions.template}
        drafts = []
        for question, order, rng in zip(questions, orders, rngs, strict=True):
            asked, some = (passage_of(question) or ("", question.input))[1], list[_Draft]()
            for place, (i, part) in enumerate(order):
                if len(some) == self.k:
                    break
                text = texts.get(prompts.get(part, ""), "") if place < self.k else ""  # others may have asked for more
                by, made = "model", made_questions.read(text, part, asked)
                if made is None and (rule := by_rule.get(self.make)):
                    by, made = rule.__name__, rule(part, asked, rng)
                if made:
                    some.append(_Draft(made.question, i + 1, made.answer, by))
            drafts.append(some)
        return drafts

    def _that_can_be_said(self, question: Question, drafts: Sequence[_Draft], model: TaskModel) -> dict[str, Any]:
        """Return as many of the drafts as can be said; the longest evidence where it can be said beside them."""
        longest = [len(self.cut(question))] * MOST_NAMED if self.evidence and can_write(model) else []
        for evidence in (longest, []) if longest else ([],):
            for n in range(len(drafts), 0, -1):
                made, by = [list(draft[:3]) for draft in drafts[:n]], [draft.by for draft in drafts[:n]]
                found = {"made": made, "by": by, "left_out": len(drafts) - n, "evidence": evidence}
                if can_be_said(replace(model, composer=self.knowing(found)), question):
                    return found
        return {"made": [], "by": [], "left_out": len(drafts), "evidence": []}


def read_evidence(text: str, n: int) -> list[int]:
    """Return the first different numbers of paragraphs, 1 to `n`, in what a model has written."""
    numbers = [int(number) for number in re.findall(r"\d+", text[:200])]
    return list(dict.fromkeys(number for number in numbers if 1 <= number <= n))[:MOST_NAMED]
