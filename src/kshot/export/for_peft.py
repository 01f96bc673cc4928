"""A trained adapter with its prompt, as peft loads it."""

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from kshot.adapted.adapter_files import Base, base_of, write_adapter
from kshot.export.for_prompt import ForPrompt, written_prompt
from kshot.export.handover import Handover
from kshot.export.target import Reader, filled
from kshot.prompts.chat import Chat

ADAPTER = "adapter"


@dataclass(frozen=True)
class ForPeft:
    """Writes `adapter/` in peft's format, and `prompt.txt`: what was measured is both together."""

    name: str = "peft"
    weights: bool = True

    def write(self, given: Handover, folder: Path) -> None:
        """Write adapter and prompt."""
        trained = given.fitted.trained
        assert trained is not None
        write_adapter(trained, base_of(given.model), folder / ADAPTER)
        ForPrompt().write(given, folder)

    def usage(self, given: Handover) -> str:
        """Say how peft loads it."""
        base = base_of(given.model)
        return f"{loading(base, repr(ADAPTER))}\n\n{ForPrompt().usage(given)}"

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return peft's own model with these files beside its base."""
        return adapter_reader(given, folder, f"peft {version('peft')}")


def loading(base: Base, adapter: str) -> str:
    """Return, in Markdown, how peft loads an adapter.

    Args:
        base: What it is for.
        adapter: Where it is, as Python.
    """
    revision = f", revision={base.revision!r}" if base.revision else ""
    return (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base.name!r}{revision})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base.name!r}{revision})\n"
        f"model = PeftModel.from_pretrained(base, {adapter})\n```"
    )


def adapter_reader(given: Handover, folder: Path, name: str) -> Reader:
    """Return what reads prompt and adapter of a folder by peft."""
    from kshot.engine.session import Session
    from kshot.engine.whole_text import WholeText
    from kshot.models.peft_adapter import load_unmerged

    session = given.model
    assert isinstance(session, Session)
    trusts = bool(session.origin.get("trust_remote_code"))
    model, tokenizer = load_unmerged(folder / ADAPTER, session.backbone.dtype, trust_remote_code=trusts)
    whole = WholeText(model.to(session.backbone.device), tokenizer)
    spells = isinstance(given.task_model.layout, Chat)
    text = written_prompt(folder)
    read = partial(whole.log_probs, spells_first_token=spells)
    return Reader(name, partial(filled, text), read, given.answer)
