"""Whether a correction that is kept as a note reaches the questions that follow from it, and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.types import FloatArray, Question, Task
from kshot.evaluators.evaluator import Evaluator
from kshot.evaluators.fact_edits import FOLLOWS, MOST_EDITS, Asked, Edit, edits_of, made_edits, unrelated_notes
from kshot.measures.measured import Measured
from kshot.measures.text_metrics import squad_says
from kshot.methods.composers.kept_notes import Notes
from kshot.methods.composers.wording import Wording
from kshot.methods.skill_profile import answers_after
from kshot.taskmodel.taskmodel import TaskModel

_TASK = Task("facts", "qa", (), metrics=("exact_match",), instruction="Answer the question with a name or a word.")
_MOST_NEW = 16  # tokens of an answer


@dataclass(frozen=True)
class Edits(Evaluator):
    """Give the system notes on facts that are to be others from now on, and ask about them and about what is near them.

    ES is the share of the edited questions and their paraphrases whose answer says the edit; BP the share of the
    unrelated questions (the same of a neighbour, another relation of the same subject) whose answer is, to the letter,
    that of the system without notes; EQ = 2 ES BP / (ES + BP). An answer is the first line of what is written.

    All notes are kept at once, as `kshot notes add` would keep them: in the system's own notes, with their settings,
    where its composer keeps some, else as the composer `notes` does by itself. The system is asked in the usual words,
    without demonstrations.

    Attributes:
        edits: How many facts are edited, of those made up here: up to 12 countries, and people who never were.
        file: A file of edits in place of those (`kshot.evaluators.fact_edits.edits_of`).
        steps: 2 judges first whether the notes bear on a question, 1 says them in any case; 0: as the system does.
        more: So many notes more that no question has to do with.

    Source: Chen et al. (2024), Robust and Scalable Model Editing for Large Language Models (EREN), section 4,
    https://arxiv.org/abs/2403.17431.
    Differs: small made-up edits, or a user's file; the edit has to stand in the answer as words of its own, as small
    models answer in sentences.
    """

    asks_model: ClassVar[bool] = True
    needs = frozenset({Capability.GENERATE})

    edits: int = setting(24, least=1, most=MOST_EDITS)
    file: str = ""
    steps: int = setting(0, least=0, most=2)
    more: int = setting(0, least=0, most=100_000)

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return ES, BP and EQ, how often notes were told, and each answer."""
        assert model is not None
        edits = edits_of(self.file) if self.file else made_edits(self.edits, rng=rng)
        composer = self._keeping(model)
        notes = [*dict.fromkeys(edit.note for edit in edits), *unrelated_notes(self.more)]
        return {"n_notes": len(notes), "steps": composer.steps, **measured(edits, composer.noting(notes), model)}

    def _keeping(self, model: TaskModel) -> Notes:
        own = model.composer
        if isinstance(own, Notes):
            composer = replace(own, inner=Wording())
        else:
            composer = replace(Notes(), lookup="bm25") if Notes().missing_package else Notes()
        return replace(composer, steps=self.steps) if self.steps else composer


def measured(edits: Sequence[Edit], composer: Notes, model: TaskModel) -> dict[str, Any]:
    """Return what the questions about edits are answered with notes, beside the answers without any.

    Args:
        edits: Whose questions are asked.
        composer: With the notes that it keeps.
        model: The system's.
    """
    asked = [(edit, one) for edit in edits for one in edit.asked]
    questions = [Question(one.question, f"question {i}") for i, (_, one) in enumerate(asked, 1)]
    plain = model.on(_TASK, answer_tokens=_MOST_NEW)
    before = answers_after([()] * len(questions), [q.answered() for q in questions], model=plain, what="asking")
    before = [_line(text) for text in before]
    after, told = _answered(questions, before, replace(plain, composer=composer))
    rows, follows = list(zip(questions, asked, before, after, told, strict=True)), set(FOLLOWS)
    right, saying = list[list[float]](), dict[str, list[tuple[str, float, float]]]()
    for question, (edit, one), old, new, said in rows:
        is_edit = one.kind in follows
        is_good = float(squad_says(one.answer, new) if is_edit else new == old)
        right.append([is_good, np.nan] if is_edit else [np.nan, is_good])
        saying.setdefault(one.kind, []).append(
            (question.id, is_good, float(edit.note in said if is_edit else bool(said)))
        )
    ids = [question.id for question in questions]
    es, bp = ([(i, row[at]) for i, row in zip(ids, right, strict=True) if not np.isnan(row[at])] for at in (0, 1))
    return {
        "n_questions": len(rows),
        "es": _share(es),
        "bp": _share(bp),
        "eq": Measured(ids, right, quality),
        "right": {kind: _share([(i, good) for i, good, _ in some]) for kind, some in saying.items()},
        "told": {kind: _share([(i, told) for i, _, told in some]) for kind, some in saying.items()},
        "known_before": _share([(q.id, squad_says(one.before, old)) for q, (_, one), old, _, _ in rows if one.before]),
        "answers": [_row(one, old, new, said) for _, (_, one), old, new, said in rows],
    }


def _answered(
    questions: Sequence[Question], before: Sequence[str], model: TaskModel
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the answers to questions, and the notes that each is told; asked alone is what is told some."""
    composer = model.composer
    assert isinstance(composer, Notes)
    found = composer.consider([((), question) for question in questions], model=model, seed=0)
    told = [tuple(about["notes"]) for about in found]
    places = [i for i, said in enumerate(told) if said]
    prompts = [replace(model, composer=composer.knowing(found[i])).prompt((), questions[i])[0] for i in places]
    model.progress.begin("asking with notes", len(prompts))
    texts, answers = model.generate(prompts, progress=model.progress.advance), list(before)
    for i, text in zip(places, texts, strict=True):
        answers[i] = _line(text.text)
    return answers, told


def quality(rows: FloatArray) -> float:
    """Return EQ of rows of (edited question right, unrelated answer as before), one of them NaN; 0 where both are 0."""
    if np.isnan(rows).all(axis=0).any():
        return float("nan")
    es, bp = np.nanmean(rows, axis=0)
    return float(2 * es * bp / (es + bp)) if es + bp else 0.0


def _share(rows: Sequence[tuple[str, float]]) -> Measured:
    return Measured([i for i, _ in rows], [value for _, value in rows])


def _line(text: str) -> str:
    """Return the first line of what was written: base models go on with questions of their own."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _row(one: Asked, old: str, new: str, said: Sequence[str]) -> dict[str, Any]:
    wanted = {"wanted": one.answer} if one.answer else {}
    return {"question": one.question, "kind": one.kind, **wanted, "before": old, "after": new, "told": list(said)}
