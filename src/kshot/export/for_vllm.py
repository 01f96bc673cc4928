"""A trained adapter as vLLM serves it: of a rank that it has room for, with the command line."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kshot.adapted.adapter_files import base_of, write_adapter
from kshot.core.errors import UserError
from kshot.core.json_text import from_json
from kshot.export.for_peft import ADAPTER, adapter_reader
from kshot.export.for_prompt import ForPrompt
from kshot.export.handover import Handover
from kshot.export.target import Reader
from kshot.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

RANKS = (8, 16, 32, 64)  # --max-lora-rank


@dataclass(frozen=True)
class ForVllm:
    """Writes `adapter/` with a rank of vLLM's, and `prompt.txt`; `README.md` has the command line.

    A rank between two of vLLM's is made the next one by rows and columns of zeros, which change no answer. Modules are
    named by their last word, as vLLM looks them up, and no module is saved whole beside the adapter.
    """

    name: str = "vllm"
    weights: bool = True

    def write(self, given: Handover, folder: Path) -> None:
        """Write adapter and prompt."""
        trained = given.fitted.trained
        assert trained is not None
        rank = _rank(given)
        place = folder / ADAPTER
        write_adapter(trained, base_of(given.model), place)
        config = from_json((place / ADAPTER_CONFIG).read_text("utf-8"))
        modules = sorted({module.rpartition(".")[2] for module in config["target_modules"]})
        scaled = config["lora_alpha"] * rank // config["r"]  # what is added is times alpha / r
        wide = {"r": rank, "lora_alpha": scaled, "target_modules": modules, "modules_to_save": None}
        write_adapter(trained, base_of(given.model), place, **wide)
        if rank > config["r"]:
            _widen(place / ADAPTER_WEIGHTS, rank)
        ForPrompt().write(given, folder)

    def usage(self, given: Handover) -> str:
        """Say the command line."""
        base, rank = base_of(given.model), _rank(given)
        revision = f" --revision {base.revision}" if base.revision else ""
        dtype = given.model.origin.get("dtype", "float32")
        return (
            f"```\nvllm serve {base.name}{revision} --dtype {dtype} --enable-lora --max-lora-rank {rank} "
            f"--lora-modules kshot=./{ADAPTER}\n```\n\n"
            f"Ask the model `kshot`, by `/v1/completions`. It was measured in {dtype}; another `--dtype` gives other "
            f"probabilities, and logits of bfloat16 move in steps of 1/8 nat.\n\n{ForPrompt().usage(given)}"
        )

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return peft's own model with these files: vLLM reads the same ones, and wants a server of its own."""
        return adapter_reader(given, folder, f"peft {version('peft')}, for vLLM,")


def _rank(given: Handover) -> int:
    own = given.fitted.recipe.part("tuner").rank
    if own > RANKS[-1]:
        raise UserError(
            f"--to vllm needs an adapter of rank {RANKS[-1]} or less; '{given.fitted.recipe.name}' has rank {own}. Use "
            "`kshot merge` and serve the whole model, or adapt with a smaller rank."
        )
    return next(rank for rank in RANKS if rank >= own)


def _widen(file: Path, rank: int) -> None:
    """Add zeros to the matrices of an adapter until they have a rank."""
    from safetensors.numpy import load_file, save_file

    tensors = {}
    for name, values in load_file(file).items():
        axis = 0 if ".lora_A." in name else 1  # A is [rank, n_in], B is [n_out, rank]
        missing = [(0, 0), (0, 0)]
        missing[axis] = (0, rank - values.shape[axis])
        tensors[name] = np.pad(values, missing)
    save_file(tensors, file, metadata={"format": "pt"})
