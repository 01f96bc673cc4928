"""A note on the task that a writer and a coach work out: the coach asks questions, and says when it is good."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, not_made
from kshot.methods.contracts import Artefact
from kshot.methods.loops.talking import Talking
from kshot.methods.roles import spoken
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

STOP = "GOOD"
_WRITER = (
    "Here are inputs and the outputs that belong to them.\n\n{pairs}\n\n{talk}Write one sentence that tells somebody "
    "how to find the output of any input.{better}\nSentence:"
)
_COACH = (
    "Somebody writes a sentence that should tell how to find the output of any input. Here are some.\n\n{pairs}\n\n"
    f"{{talk}}If the sentence is clear, right and complete, answer {STOP}. If not, ask the writer one question that "
    "leads to a better one; do not write it yourself.\nAnswer:"
)


@dataclass(frozen=True)
class Refine(Talking):
    """Let a writer propose a note on the task and a coach answer with a question or the stop signal; keep the best.

    In each turn the writer writes a sentence; it is scored by the bits that the outputs of the other half of the
    examples cost with it after the instruction; then the coach, who sees the sentences and not the scores, asks a
    question or says that it is good. The loop ends with that signal or after `turns` sentences. The best so far is
    kept, not the last, as long talks drift; where none saves bits, none is.

    Attributes:
        turns: The most sentences.
        shown: Pairs that writer and coach see, of one half of the examples.
        asked: The most examples of the other half that a sentence is scored on.
        length: The most tokens of a sentence or a question.
        writer: Who writes: "model", "person", or another model.
        coach: Who asks, likewise.

    Source: "Reflecting in the Reflection: Integrating a Socratic Questioning Framework into Automated AI-Based
    Question Generation" (2026), for the two roles and the stop signal.
    Differs: what is written is a note on a task, not a reflection question; scored by bits on examples that nobody
    has seen, not by a judge; the best is kept; prompts are our own.
    """

    turns: int = setting(6, least=1, most=1000)
    shown: int = setting(8, least=1, most=1000)
    asked: int = setting(16, least=1, most=10_000)
    length: int = setting(60, least=1, most=10_000)
    writer: str = "model"
    coach: str = "model"

    version = 3
    players: ClassVar[tuple[str, ...]] = ("writer", "coach")

    @property
    def calls_a_round(self) -> int:
        """The scores without a sentence, one sentence, and its scores."""
        return 2 * self.asked + 1

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield the best note after each turn; see `Talking.rounds`."""
        seen, held = halves(examples, rng, self.asked)
        pairs = listed(seen[: self.shown])
        transcript: list[tuple[str, str]] = []
        least, best = worth(talk, model, held, ""), Artefact()
        for _ in range(self.turns):
            said = f"{spoken(transcript)}\n\n" if transcript else ""
            better = " Make it better by the last question." if transcript else ""
            request = _WRITER.format(pairs=pairs, talk=said, better=better)
            note = talk.ask_for("writer", request, one_line, "one sentence", most=self.length)
            transcript.append(("Sentence", note))
            bits = worth(talk, model, held, note)
            if bits < least:
                least, best = bits, Artefact(notes=(note,))
            yield best
            request = _COACH.format(pairs=pairs, talk=f"{spoken(transcript)}\n\n")
            question = talk.ask_for("coach", request, one_line, f"{STOP} or one question", most=self.length)
            if question.strip(" .!\"'").upper() == STOP:
                return
            transcript.append(("Question", question))


def halves(examples: Sequence[Example], rng: np.random.Generator, most: int) -> tuple[list[Example], list[Example]]:
    """Return the examples that roles may see, and at most so many others, by which what they say is judged.

    It is judged by none that was made, unless the others all were, and roles see nothing that was made from these.
    """
    order = [examples[i] for i in rng.permutation(len(examples))]
    seen, others = order[: len(order) // 2], order[len(order) // 2 :]
    held = list(not_made(others)[:most])
    ids = {e.id for e in held}
    return [e for e in seen if ids.isdisjoint(e.sources)], held


def worth(talk: Talk, model: TaskModel, held: Sequence[Example], note: str) -> float:
    """Return the bits of the outputs of held examples without demonstrations, with a note; "" is none."""
    nobody: list[tuple[Example, ...]] = [()] * len(held)
    return float(talk.bits(model.noted((note,)) if note else model, nobody, held).sum())


def listed(examples: Sequence[Example]) -> str:
    """Return examples as pairs of input and output, with empty lines between them."""
    return "\n\n".join(f"Input: {e.text}\nOutput: {e.output}" for e in examples)


def one_line(text: str) -> str | None:
    """Return the first line of a text that says something; None where none does."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if any(c.isalnum() for c in line)), None)
