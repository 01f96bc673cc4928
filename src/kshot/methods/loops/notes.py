"""A note on the task that the model writes itself, kept where it helps on examples that it was not written from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.methods.contracts import Artefact, Loop
from kshot.methods.loops.refine import halves
from kshot.prompts.fitting import fits
from kshot.taskmodel.taskmodel import TaskModel

ASKED = "What is the rule that leads from each input to its output? In one sentence:"


@dataclass(frozen=True)
class Notes(Loop):
    """Let the model write `rounds` notes on what leads from inputs to outputs, and keep the one that saves most bits.

    For each note it is shown some of one half of the examples; its worth is what the outputs of the other half cost
    in bits without demonstrations, with the note after the instruction. Where no note saves bits, none is kept.

    Attributes:
        rounds: How many notes are written.
        shown: Examples that each is written from, or as many of them as the model reads at once.
        asked: The most examples of the other half that it is tried on.
        tokens: The longest note.

    Source: Zhou et al. (2022), Large Language Models Are Human-Level Prompt Engineers (APE),
    https://arxiv.org/abs/2211.01910.
    Differs: one round of proposals without resampling; a note beside the instruction, not in its place; bits.
    """

    rounds: int = setting(4, least=1, most=1000)
    shown: int = setting(8, least=1, most=1000)
    asked: int = setting(16, least=1, most=10_000)
    tokens: int = setting(40, least=1, most=10_000)

    version = 2
    least = 4

    def run(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Artefact:
        """Return the note, or none; see `kshot.methods.contracts.Loop`."""
        source, held = halves(examples, rng, self.asked)
        notes: list[str] = []
        for _ in range(self.rounds):
            drawn = [source[i] for i in rng.permutation(len(source))[: self.shown]]
            seed = int(rng.integers(2**31))
            while drawn and not fits(model.layout.request(_request(drawn)), model.model, answer_tokens=self.tokens):
                drawn.pop()
            if drawn:
                text = model.write(_request(drawn), max_tokens=self.tokens, stop=("\n",), seed=seed).text.strip()
                notes += [text] * bool(text and text not in notes)
        nobody: list[tuple[Example, ...]] = [()] * len(held)
        bits = [float(model.noted(some).code_lengths(nobody, held).sum()) for some in ((), *((n,) for n in notes))]
        best = int(np.argmin(bits))
        model.note(
            {
                "loop": "notes",
                "bits": [round(b / len(held), 3) for b in bits],
                "kept": notes[best - 1] if best else None,
            }
        )
        return Artefact(notes=(notes[best - 1],) if best else ())


def _request(examples: Sequence[Example]) -> str:
    blocks = [f"Input: {e.text}\nOutput: {e.output}" for e in examples]
    return "\n\n".join((*blocks, ASKED))
