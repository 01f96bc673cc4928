"""Write an adapted model for other software, which is then asked the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.paths import path_of
from kshot.core.progress import Progress
from kshot.core.types import Example, Task
from kshot.export.targets import Exported, target_of, write_export
from kshot.reports.saved_record import read_record
from kshot.store.run_folder import RESULTS

LIMIT = 20  # inputs that both are asked


def export(
    adapted: AdaptedModel,
    to: str,
    out: str | Path,
    *,
    check: Task | Sequence[Example] | None = None,
    limit: int = LIMIT,
    context: int | None = None,
    gguf: str | Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write an adapted model for a target, score it again by the target, and say how far that is from kshot.

    Args:
        adapted: The adapted model.
        to: "messages", "prompt", "dspy", "langchain", "peft", "vllm" or "gguf-lora".
        out: A new or empty folder.
        check: A task whose test rows both are asked, or examples; by default the demonstrations that it may show.
        limit: At most so many of them; 0 asks nothing.
        context: Which of several contexts is written, from 1, where the answers after several are averaged.
        gguf: The base as a GGUF file, with which `gguf-lora` is scored; by default the one that was adapted.
        progress: Told how far it is.

    Raises:
        UserError: An unknown target, or one that cannot express the model; or the folder holds something.
    """
    if limit < 0:
        raise UserError(f"--limit must be 0 or more; got {limit}. 0 writes without asking anything.")
    if adapted.task.is_multi_label:
        raise UserError(
            f"Other programs ask for one answer; '{adapted.task.name}' is multi_label, of which each label is "
            "read by itself. Serve it with `kshot serve`, or use it in Python: kshot.load(folder).predict(texts)."
        )
    target = target_of(to, gguf=path_of(gguf) if gguf else None)
    if isinstance(check, Task):
        check = adapted.check_rows(check).test
    known = examples = tuple(adapted.pool if check is None else check)
    if adapted.task.is_open:
        examples = [e for e in examples if e.output]  # what is compared is how likely the output is
    how: Any = {"known": known, "context": context, "progress": progress}
    return write_export(adapted, target, path_of(out), examples=tuple(examples)[:limit], **how)


def asked_in_run(folder: str | Path, adapted: AdaptedModel) -> tuple[Example, ...]:
    """Return the examples that a finished run has asked, as far as they can be asked again; else none.

    Args:
        folder: A run, or something else.
        adapted: What it has chosen: questions with choices of their own are not kept.
    """
    run = path_of(folder)
    if not (run / RESULTS).is_file() or adapted.task.kind == "multiple_choice":
        return ()
    rows = read_record(run)["prompts"]["examples"]
    return tuple(Example(row["input"], row["output"], row["id"], row["context"]) for row in rows)
