"""Long contexts are cut to their end and a few sentences from before it: in lessons, and when a question is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from kshot.core.fields import setting
from kshot.core.salient_words import words_in
from kshot.core.script import Script
from kshot.core.sentences import sentences_in
from kshot.core.types import Task
from kshot.methods.tuners.fine_tune import FineTune
from kshot.retrieval.lexical import LexicalIndex
from kshot.taskmodel.taskmodel import TaskModel

UNITS, ANCHORS = ("words", "sentences"), ("question", "first", "none")
GAP = " … "
WHOLE = "whole"  # how a question is asked with all of its context


@dataclass(frozen=True)
class Windowed(FineTune):
    """Read the end of each context, and of what stands before it the sentences that are kept as anchors.

    The model that is trained reads every context so, also those of demonstrations. Beside the teacher `history`, which
    reads all, it learns to answer as if it had read all.

    Attributes:
        window: How much of the end of a context is read.
        unit: What it is counted in: "words" (signs count, too) or "sentences".
        anchors: Which sentences before it are kept: "question" keeps those that share the rarest words with the
            question (BM25 among the sentences of the context), "first" those with which the context begins.
        kept: At most so many.

    Source: Chen et al. (2026), Context Forcing, https://arxiv.org/abs/2602.06028, of video: an analogue in text. The
    window is its fast memory, the anchors its slow one.
    Differs: rows with a long context in place of a video that a model goes on with; nothing is rolled out.
    """

    window: int = setting(100, least=1, most=10_000_000)
    unit: str = setting("words", choices=UNITS)
    anchors: str = setting("question", choices=ANCHORS)
    kept: int = setting(2, least=1, most=10_000)

    cuts_contexts = True

    def missing_field(self, task: Task) -> str | None:
        """Return that no example has a context, where that is so."""
        return None if any(e.context for e in task.train) else "context"

    def told(self, script: Script, *, asked: str, model: TaskModel) -> Script:
        """Return the script with each context cut; see `kshot.methods.contracts.Tuner`."""
        if asked == WHOLE:
            return script
        pieces = list(script.opening)
        for turn in script.turns:
            question = " ".join(piece.text for piece in turn if piece.role == "question")
            pieces += (
                replace(piece, text=self.read(piece.text, question)) if piece.role == "context" else piece
                for piece in turn
            )
        return replace(script, pieces=tuple(pieces))

    def read(self, context: str, question: str) -> str:
        """Return what is read of a context: all of it where the window covers it."""
        return _read(context, question, self)

    def caution(self, task: Task) -> str | None:
        """Return that no context is longer than the window, where that is so."""
        asked = [e for e in task.train if e.context]
        if not asked or any(self._begins(e.context or "") for e in asked):
            return None
        longest = max(len(_units(self.unit, e.context or "")) for e in asked)
        return (
            f"windowed reads the last {self.window} {self.unit} of a context, and the longest of {len(asked)} has "
            f"{longest}: nothing is cut, and a teacher that reads all has nothing to teach. Name a smaller window"
        )

    @property
    def left_behind(self) -> str:
        """What other software that is handed the weights has to do itself."""
        anchors = f", and anchors before these (anchors={self.anchors}, kept={self.kept})"
        return (
            f"kshot cuts contexts to their last {self.window} {self.unit}{anchors if self.anchors != 'none' else ''}; "
            "the target reads what it is given."
        )

    def _begins(self, context: str) -> int:
        """Return where the window begins, in characters; 0 where it covers the context."""
        places = _units(self.unit, context)
        return places[-self.window][0] if len(places) > self.window else 0

    def _before(self, context: str, question: str, begins: int) -> list[tuple[int, int]]:
        """Return where the anchors stand before the window."""
        spans = [(a, min(b, begins)) for a, b in sentences_in(context) if a < begins]
        if self.anchors == "none":
            return []
        if self.anchors == "first":
            return spans[: self.kept]
        scores = LexicalIndex([context[a:b] for a, b in spans]).scores(question)
        best = sorted((i for i in range(len(spans)) if scores[i] > 0), key=lambda i: (-scores[i], -i))  # the later one
        return [spans[i] for i in sorted(best[: self.kept])]


def _units(unit: str, text: str) -> Sequence[tuple[int, int]]:
    return words_in(text) if unit == "words" else sentences_in(text)


@lru_cache(maxsize=4096)
def _read(context: str, question: str, how: Windowed) -> str:
    """Return what is read of a context; the same prompt is written again and again."""
    begins = how._begins(context)
    if not begins:
        return context
    kept, at = "", 0
    for start, stop in (*how._before(context, question, begins), (begins, len(context))):
        is_next = not context[at:start].strip()
        kept += context[at:stop] if is_next else GAP * bool(kept) + context[start:stop]
        at = stop
    return kept
