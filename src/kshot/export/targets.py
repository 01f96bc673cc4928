"""The targets by name, and an export's folder: its files, how they are used, and how far the target is off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError, did_you_mean
from kshot.core.json_text import to_json
from kshot.core.progress import Progress, Silence
from kshot.core.types import Example
from kshot.core.version import __version__
from kshot.export.difference import difference
from kshot.export.for_dspy import ForDspy
from kshot.export.for_gguf_lora import ForGgufLora
from kshot.export.for_langchain import ForLangchain
from kshot.export.for_messages import ForMessages
from kshot.export.for_peft import ForPeft
from kshot.export.for_prompt import ForPrompt
from kshot.export.for_vllm import ForVllm
from kshot.export.handover import Handover, handover
from kshot.export.target import NotReadError, Target
from kshot.store.files import write_folder

RECORD, USAGE = "export.json", "README.md"
TARGETS: dict[str, Callable[[], Target]] = {
    "messages": ForMessages,
    "prompt": ForPrompt,
    "dspy": ForDspy,
    "langchain": ForLangchain,
    "peft": ForPeft,
    "vllm": ForVllm,
    "gguf-lora": ForGgufLora,
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        record: All of `export.json`.
        in_words: How far the target is off, or why that is not known; then what it does not do.
    """

    record: dict[str, Any]
    in_words: tuple[str, ...]


def target_of(name: str, *, gguf: Path | None = None) -> Target:
    """Return a target by its name.

    Args:
        name: One of `TARGETS`.
        gguf: The base as a GGUF file, for `gguf-lora`.

    Raises:
        UserError: There is none of this name, or it has no use for a GGUF file.
    """
    if name not in TARGETS:
        raise UserError(f"--to must name a target; got '{name}'.{did_you_mean(name, TARGETS)}")
    if gguf is None:
        return TARGETS[name]()
    if name != "gguf-lora":
        raise UserError(
            f"--gguf is the base that an adapter is scored with, for --to gguf-lora; leave it out of {name}."
        )
    if not gguf.is_file():
        raise UserError(f"--gguf must be a GGUF file; there is no file '{gguf}'. Give its path.")
    return ForGgufLora(gguf)


def write_export(
    adapted: AdaptedModel,
    target: Target,
    out: Path,
    *,
    examples: Sequence[Example] = (),
    known: Sequence[Example] = (),
    context: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write an adapted model for a target, let the target read it, and say how far it is from what was measured.

    The folder appears whole: the files, `README.md` and `export.json`.

    Args:
        adapted: The adapted model.
        target: What it is written for.
        out: A folder that is new or empty.
        examples: What both are asked; empty: nothing, and the record says so.
        known: More examples of what will be asked, which say whether questions have a passage.
        context: Which of several contexts is written, from 1.
        progress: Told how far it is.

    Raises:
        UserError: The target cannot express the model, or the folder holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out must be new or empty; {out} holds something. Name another folder.")
    given = handover(adapted, target.name, weights=target.weights, context=context, asked=(*examples, *known))
    found: list[tuple[dict[str, Any], str]] = []

    def write(folder: Path) -> None:
        target.write(given, folder)
        told, in_words = _compared(given, target, folder, examples, progress or Silence())
        record = {"to": target.name, "kshot": __version__, **given.record(), "difference": told}
        (folder / RECORD).write_text(to_json(record, indent=1) + "\n", "utf-8")
        (folder / USAGE).write_text(_usage(given, target, in_words), "utf-8")
        found.append((record, in_words))

    write_folder(out, {}, more=write, replaces=False)
    ((record, in_words),) = found
    return Exported(record, (in_words, *given.lost))


def _compared(
    given: Handover, target: Target, folder: Path, examples: Sequence[Example], progress: Progress
) -> tuple[dict[str, Any], str]:
    """Return the difference as JSON and in words, or why there is none."""
    reason = "there was nothing to ask. Give inputs with --check TASK, and a --limit above 0."
    if examples:
        try:
            found = difference(given, target.reader(given, folder), examples, progress)
            return found.record(), found.in_words()
        except NotReadError as error:
            reason = str(error)
    return {"not_scored": reason}, f"What was written for {target.name} could not be compared: {reason}"


def _usage(given: Handover, target: Target, in_words: str) -> str:
    pairs = [(label, given.said(label)) for label in given.task.labels]
    labels = "".join(f"- `{said}`" + f" stands for `{label}`" * (said != label) + "\n" for label, said in pairs)
    what = "words" if any(label != said for label, said in pairs) else "labels"
    lost = "".join(f"- {sentence}\n" for sentence in given.lost)
    return (
        f"# {given.task.name} for {target.name}\n\nThe recipe `{given.fitted.recipe.name}`, written by kshot "
        f"{__version__}.\n\n{target.usage(given)}\n\n"
        + (f"It answers with one of these {what}:\n\n{labels}\n" if labels else "")
        + f"## Is it what was measured?\n\n{in_words}\n"
        + (f"\nWhat kshot does beside it:\n\n{lost}" if lost else "")
    )
