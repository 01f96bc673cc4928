"""A prompt as text: what the model is asked, byte for byte, with a place for the query."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kshot.core.errors import UserError
from kshot.export.handover import Handover
from kshot.export.own_reading import OwnReading
from kshot.export.target import Reader, filled

PROMPT = "prompt.txt"
_AS_IT_IS = (
    " The text begins as the model's chat template does, with its first token where it has one: no other must be added "
    'before it. So say `tokenizer(text, add_special_tokens=False)` in transformers and `"add_special_tokens": false` '
    "in a request to vLLM; to llama-server send as `prompt` the tokens that its `/tokenize` makes of the text, with "
    '`"add_special": false`.'
)
_BREAKS = ' It holds carriage returns: read it without changing its line breaks (`newline=""` in Python).'


def written_prompt(folder: Path) -> str:
    """Return the text that `ForPrompt` has written, its line breaks as they are."""
    return (folder / PROMPT).read_bytes().decode("utf-8")


@dataclass(frozen=True)
class ForPrompt:
    """Writes `prompt.txt`, as the model's layout has it: paragraphs for a base model, its template for a chat model."""

    name: str = "prompt"
    weights: bool = False

    def write(self, given: Handover, folder: Path) -> None:
        """Write the text.

        Raises:
            UserError: The model is asked in messages, which a service writes as it likes.
        """
        if given.task_model.layout.record["layout"] == "messages":
            raise UserError(
                f"--to prompt writes a text; '{given.model.name}' was asked in the messages of a chat. "
                "Use --to messages."
            )
        (folder / PROMPT).write_text(given.text(given.for_any), "utf-8", newline="")

    def usage(self, given: Handover) -> str:
        """Say how a query is put in."""
        return (
            f"Put the query in place of the last `{{input}}` of `{PROMPT}`"
            + (", its passage in place of the last `{context}`" if given.has_context else "")
            + ": replace, do not format, as all other braces are those of the examples. The answer begins where the "
            "text ends; `export.json` has each label as it is written there (`answers`) and what ends an answer "
            "(`stop`)."
            + _BREAKS * ("\r" in given.text(given.for_any))
            + _AS_IT_IS * given.task_model.layout.write(given.for_any).spells_first_token
        )

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return the model that was measured, which reads the text as one string."""
        own, text = OwnReading(given), written_prompt(folder)
        return Reader(own.name, partial(filled, text), own.log_probs, given.answer)
