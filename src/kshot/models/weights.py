"""Weights that are trained beside a backbone: LoRA adapters, or copies of all weights but the embeddings.

Many of them can exist on one loaded model: each is put in place while it is used, and nothing of it stays behind.

Source: Hu et al. (2021), LoRA, https://arxiv.org/abs/2106.09685; adapters and their files are those of peft,
https://huggingface.co/docs/peft. Differs: peft's modules are taken out again whenever they are not used.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from kshot.core.errors import ModelError, UserError, in_short
from kshot.core.given_files import opened
from kshot.core.json_text import to_json
from kshot.models.hf import Backbone

WEIGHTS_FILE = {
    "lora": "adapter_model.safetensors",
    "full": "weights.safetensors",
    "resampler": "resampler.safetensors",
    "segment-map": "segment_map.safetensors",
}
_PEFT_PREFIX = "base_model.model."
_NAME = "default"


def take_over(parameters: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Copy saved weights into parameters of the same names; `name` is the model's, for the message.

    Raises:
        UserError: Other names or shapes: they belong to another model or other settings.
    """
    ours = {key: list(p.shape) for key, p in parameters.items()}
    theirs = {key: list(t.shape) for key, t in tensors.items()}
    if ours != theirs:
        odd = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))[0]
        raise UserError(
            f"The saved weights must be those for '{name}' with the same settings; '{odd}' is "
            f"{theirs.get(odd, 'missing')} in place of {ours.get(odd, 'nothing')}. Adapt again."
        )
    with torch.no_grad():
        for key, p in parameters.items():
            p.copy_(tensors[key])


@dataclass(frozen=True)
class _Swap:
    """What stands in place of what: the backbone's own module or weight, and ours."""

    module: nn.Module
    attribute: str
    own: Any
    ours: Any


class TrainedWeights:
    """A model's weights as they are trained, apart from the backbone's own.

    Args:
        backbone: Whose weights are changed; it stays as it is.
        kind: "lora" or "full".
        rank: Of LoRA adapters.
        seed: For the adapters' first weights; their product is zero, so at first nothing changes.

    Raises:
        ModelError: The architecture has no linear layers that LoRA could be put on.
    """

    soft = None  # no vectors stand before a text, as in `kshot.models.prefix`

    def __init__(self, backbone: Backbone, kind: str, *, rank: int, seed: int):
        self.backbone = backbone
        self.kind = kind
        self._swaps: list[_Swap] = []
        self.parameters: dict[str, nn.Parameter] = {}
        self.config: LoraConfig | None = None
        if kind == "lora":
            self._add_lora(rank, seed)
        else:
            self._copy_all()

    def _add_lora(self, rank: int, seed: int) -> None:
        model = self.backbone.model
        is_transposed = any(type(m).__name__ == "Conv1D" for m in model.modules())
        self.config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            fan_in_fan_out=is_transposed,
            base_model_name_or_path=self.backbone.name,
        )
        try:
            inject_adapter_in_model(self.config, model, adapter_name=_NAME)
        except ValueError as error:
            raise ModelError(f"LoRA cannot be put on '{self.backbone.name}': {error}. Use weights=full.") from error
        del model.peft_config
        source = torch.Generator().manual_seed(seed)
        layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
        for name, layer in layers.items():
            first: Any = layer.lora_A[_NAME]
            second: Any = layer.lora_B[_NAME]
            for part, linear in (("A", first), ("B", second)):
                weight = linear.weight
                weight.data = torch.zeros_like(weight, dtype=torch.float32)  # also beside bfloat16: steps are small
                self.parameters[f"{name}.lora_{part}"] = weight
            bound = first.in_features**-0.5  # peft's own: kaiming_uniform_ with a = sqrt(5)
            drawn = torch.rand(first.weight.shape, generator=source, dtype=torch.float32) * 2 * bound - bound
            first.weight.data.copy_(drawn)
            parent, _, attribute = name.rpartition(".")
            self._swaps.append(_Swap(model.get_submodule(parent), attribute, layer.get_base_layer(), layer))
        self._take_out()

    def _copy_all(self) -> None:
        model = self.backbone.model
        frozen = {id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()}
        copies: dict[int, nn.Parameter] = {}  # tied weights stay tied
        for path, module in model.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                if id(weight) in frozen:
                    continue
                if id(weight) not in copies:
                    copies[id(weight)] = nn.Parameter(weight.detach().clone())
                    self.parameters[f"{path}.{name}"] = copies[id(weight)]
                self._swaps.append(_Swap(module, name, weight, copies[id(weight)]))

    def _take_out(self) -> None:
        for swap in self._swaps:
            setattr(swap.module, swap.attribute, swap.own)

    def linear_layers(self) -> list[Any]:
        """Return the adapters' own linear layers, in the order of `parameters`."""
        parts = [(swap.ours.lora_A[_NAME], swap.ours.lora_B[_NAME]) for swap in self._swaps]
        return [layer for pair in parts for layer in pair]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the backbone compute with these weights; inside it, they can be used, not nested."""
        for swap in self._swaps:
            setattr(swap.module, swap.attribute, swap.ours)
        try:
            yield
        finally:
            self._take_out()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights by name, detached, not copied."""
        return {name: p.detach() for name, p in self.parameters.items()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over weights by name.

        Raises:
            UserError: Other names or shapes: they belong to another model or other settings.
        """
        take_over(self.parameters, tensors, self.backbone.name)

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the weights, and what identifies them: LoRA as an adapter that plain peft loads."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.cpu().contiguous() for name, t in self.tensors().items()}
        if self.config is not None:
            tensors = {_in_peft(name): t for name, t in tensors.items()}
            # As peft's own save_pretrained, which writes sets as lists, unsorted
            values = {k: sorted(v) if isinstance(v, set) else v for k, v in self.config.to_dict().items()}
            values["inference_mode"] = True
            (folder / "adapter_config.json").write_text(to_json(values, indent=1, sort_keys=True) + "\n", "utf-8")
        save_file(tensors, folder / WEIGHTS_FILE[self.kind], metadata={"format": "pt", "kshot": fingerprint})

    def save_merged(self, folder: Path) -> None:
        """Write a whole model with these weights worked in, as transformers loads it, with its tokenizer."""
        weights = dict(self.backbone.model.state_dict())
        if self.kind == "full":
            weights |= self.tensors()
        else:
            layers = {id(swap.own): swap.ours for swap in self._swaps}
            for path, module in self.backbone.model.named_modules():
                if layer := layers.get(id(module)):
                    added = layer.get_delta_weight(_NAME).detach()
                    weights[f"{path}.weight"] = (module.weight.float() + added).to(module.weight.dtype)
        self.backbone.save(folder, weights)


def _in_peft(name: str) -> str:
    """Return what peft calls a weight in its files."""
    return f"{_PEFT_PREFIX}{name}.weight"


def read_adapter(folder: Path, kind: str, fingerprint: str) -> dict[str, torch.Tensor]:
    """Read the weights that `TrainedWeights.save` wrote, or `MadeTokens.save`, under our names.

    Raises:
        UserError: The file is not there, cannot be read, or holds other weights, or ones that are not numbers.
    """
    file = folder / WEIGHTS_FILE[kind]
    try:
        opened(file).close()  # safetensors would wait for a pipe
        tensors = load_file(file)
        with safe_open(file, framework="pt") as weights:
            found = (weights.metadata() or {}).get("kshot")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} must hold the trained weights; {in_short(error)}. Copy the whole folder, or adapt again."
        ) from error
    if found != fingerprint:
        raise UserError(
            f"{file} must hold the weights that kshot.json beside it tells of; it holds others. Copy the whole folder, "
            "or adapt again."
        )
    for name, values in tensors.items():
        if not values.isfinite().all():
            raise UserError(
                f"The weights in {file} must be finite numbers; '{name}' holds NaN or infinity. Adapt again."
            )
    if kind != "lora":
        return tensors
    return {name.removeprefix(_PEFT_PREFIX).removesuffix(".weight"): t for name, t in tensors.items()}
