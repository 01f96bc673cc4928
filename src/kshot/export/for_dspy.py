"""A program of dspy: the state of a `dspy.Predict`, with the demonstrations as its demos."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kshot.core.json_text import to_json
from kshot.core.types import Example, Question
from kshot.export.handover import Handover
from kshot.export.own_reading import OwnReading
from kshot.export.target import NotReadError, Reader
from kshot.prompts.messages import paragraphs

PROGRAM = "program.json"
_DEFAULT = "Given the fields {inputs}, produce the fields `output`."  # dspy's own words


@dataclass(frozen=True)
class ForDspy:
    """Writes `program.json`, which `dspy.Predict(SIGNATURE).load` reads.

    dspy words the prompt in its own way: instruction and demonstrations are those that were measured, the text around
    them is not.
    """

    name: str = "dspy"
    weights: bool = False

    def write(self, given: Handover, folder: Path) -> None:
        """Write the state of the program."""
        names = _inputs(given)
        opening = paragraphs(given.for_any.opening)
        fields = [{"prefix": f"{name.title()}:", "description": f"${{{name}}}"} for name in (*names, "output")]
        words = opening or _DEFAULT.format(inputs=", ".join(f"`{name}`" for name in names))
        state = {
            "traces": [],
            "train": [],
            "demos": [_fields(given, e.question) | {"output": given.said(e.output)} for e in given.shown],
            "signature": {"instructions": words, "fields": fields},
            "lm": None,
            "metadata": {"dependency_versions": {}},
        }
        (folder / PROGRAM).write_text(to_json(state, indent=1) + "\n", "utf-8")

    def usage(self, given: Handover) -> str:
        """Say how dspy loads it."""
        asked = ", ".join(f'{name}="…"' for name in _inputs(given))
        return (
            f"```python\nimport dspy\n\nprogram = dspy.Predict({signature(given)!r})\n"
            f'program.load("{PROGRAM}")\nprogram({asked}).output\n```\n\n'
            "dspy puts words of its own around instruction and demonstrations, so that its probabilities are not those "
            "that were measured."
        )

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return dspy's own prompt of the loaded program, read by the model that was measured."""
        try:
            import dspy  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise NotReadError(
                "dspy writes the prompt of its program; it is not installed. Install it, in an environment of its own, "
                "with: pip install 'kshot[frameworks]'"
            ) from None
        own = OwnReading(given)
        layout, program = own.chat_layout, dspy.Predict(signature(given))
        program.load(folder / PROGRAM)
        adapter = dspy.ChatAdapter()

        def prompt(question: Question) -> Sequence[dict[str, str]]:
            return adapter.format(program.signature, program.demos, _fields(given, question))

        def answer(text: str) -> str:
            said = given.said(text)
            return layout.answer(adapter.format_assistant_message_content(program.signature, {"output": said}).strip())

        return Reader(f"dspy {version('dspy')} with {own.name}", prompt, own.log_probs, answer)


def signature(given: Handover) -> str:
    """Return dspy's signature of the task: its labels are the only outputs.

    dspy refuses a second "->", wherever it stands: that of a label is written as Python reads it too.
    """
    labels = [repr(given.said(label)).replace("->", r"-\x3e") for label in given.task.labels]
    kind = f"Literal[{', '.join(labels)}]" if labels else "str"
    return f"{', '.join(_inputs(given))} -> output: {kind}"


def _inputs(given: Handover) -> tuple[str, ...]:
    return ("context", "input") if given.has_context else ("input",)


def _fields(given: Handover, question: Question | Example) -> dict[str, Any]:
    context = {"context": question.context or ""} if given.has_context else {}
    return {**context, "input": question.input}
