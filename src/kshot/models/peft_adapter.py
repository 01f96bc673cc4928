"""An adapter of peft as a model: its base, with the adapter worked into the weights."""

import warnings
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn

from kshot.core.errors import KshotError, UserError, in_short
from kshot.models.checkpoint import Checkpoint, check_finite, check_vocabulary, some
from kshot.models.fingerprint import of_files
from kshot.models.gradient_mode import learning
from kshot.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    check_safetensors,
    has_tokenizer,
    read_object,
)
from kshot.models.quiet import quiet
from kshot.models.white_box import source_of

_NAME = "default"


def load_adapted(adapter: Checkpoint, folder: Path, dtype: Any) -> tuple[Any, Any, str | None]:
    """Return a base with an adapter merged into it, the tokenizer (the adapter's own, if it has one), and `of_files`.

    Args:
        adapter: What was named.
        folder: Where its config and weights are on this machine.
        dtype: Of the weights.

    Raises:
        UserError: The base cannot be loaded, or the adapter is not one of it, not whole, or not one that can be merged.
    """
    name, about = adapter.name, read_object(folder / ADAPTER_CONFIG)
    if (folder / CONFIG).is_file():
        raise UserError(
            f"--model must name a model or an adapter; '{name}' has both {CONFIG} and {ADAPTER_CONFIG}. Move the "
            "adapter's files to a folder of their own."
        )
    base_name, revision = (about.get(key) for key in ("base_model_name_or_path", "revision"))
    if not isinstance(base_name, str) or not base_name or base_name == "tiny":
        raise UserError(
            f"{folder / ADAPTER_CONFIG} must name the files of the model that the adapter is for; got "
            f"{base_name or 'none'}. Write them there as base_model_name_or_path."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"The adapter '{name}' must hold its weights in {ADAPTER_WEIGHTS}; it has none (pickles are not loaded, "
            "as they can run anything). Save it again with PeftModel.save_pretrained."
        )
    check_safetensors(folder / ADAPTER_WEIGHTS)
    try:
        base = Checkpoint(source_of(base_name), base_name, revision or None, adapter.trust_remote_code)
        model = base.model(dtype)
        has_own = has_tokenizer(folder)
        tokenizer = (adapter if has_own else base).tokenizer()
    except UserError as error:
        raise UserError(
            f"'{name}' is an adapter, and the model that its {ADAPTER_CONFIG} names must be one that can be loaded, "
            f"but '{base_name}' is not (a relative path is looked up from the current folder): {error}"
        ) from error
    adapter.read(lambda: check_vocabulary(tokenizer, model, name))
    found = adapter.read(lambda: of_files(base.folder, tokenizer, folder if has_own else base.folder, model, folder))
    return _merged(model, folder, name), tokenizer, found


def load_unmerged(folder: Path, dtype: Any, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Return a base with an adapter beside its weights, as peft itself loads it, and the base's tokenizer.

    Args:
        folder: With an adapter's config, which names the base, and its weights.
        dtype: Of the base's weights.
        trust_remote_code: Whether Python that comes with the base may be run.

    Raises:
        UserError: The base cannot be loaded, or a weight of the adapter has no place in it.
    """
    about = read_object(folder / ADAPTER_CONFIG)
    name = str(about["base_model_name_or_path"])
    base = Checkpoint(name, name, about.get("revision"), trust_remote_code)
    with learning(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what will be called something else
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            model = PeftModel.from_pretrained(base.model(dtype), str(folder))
        except UserWarning as error:
            raise UserError(
                f"{folder} must be an adapter of '{name}'; peft says: {in_short(error)}. Write it again."
            ) from error
        return model.eval().requires_grad_(False), base.tokenizer()


def _merged(model: Any, folder: Path, name: str) -> Any:
    """Return the base with the adapter's weights added to its own."""
    weights = load_file(folder / ADAPTER_WEIGHTS)
    check_finite(weights.items(), name)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise UserError(
                f"An adapter must be one that can be worked into weights, such as LoRA; '{name}' is of type "
                f"{config.peft_type}. Give another one."
            )
        config.inference_mode = True
        with warnings.catch_warnings():  # peft asks transformers for what will be called something else
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings")  # see `_untie_adapted`
            adapted = get_peft_model(model, config, adapter_name=_NAME)
        _untie_adapted(model)
        found = set_peft_model_state_dict(adapted, weights, adapter_name=_NAME)
        own = adapted.state_dict()  # what words and output share stands there twice, and in the file once
        read = {t.data_ptr() for key, t in own.items() if key not in found.missing_keys}
        missing = sorted(k for k in found.missing_keys if f".{_NAME}" in k and own[k].data_ptr() not in read)
        if odd := missing or sorted(found.unexpected_keys):
            raise UserError(
                f"The adapter '{name}' must hold all weights that its {ADAPTER_CONFIG} tells of, and no other; "
                f"{some(odd)} {'is missing' if missing else 'has no place'}. Save it again, or name its own base there."
            )
        return adapted.merge_and_unload()
    except KshotError:
        raise
    except Exception as error:  # whatever a damaged or foreign adapter makes of peft's code
        raise UserError(
            f"'{name}' must be an adapter of the base that its {ADAPTER_CONFIG} names; peft says: {in_short(error)} "
            f"({type(error).__name__}). Name its own base there, or save it again."
        ) from error


def _untie_adapted(model: Any) -> None:
    """Give the output weights of their own where words and output share them and the adapter is of either.

    Beside shared weights an adapter changes what is read or what is said; added to them it would change both.
    """
    both = model.get_input_embeddings(), model.get_output_embeddings()
    words, said = (cast(Any, m.get_base_layer() if isinstance(m, BaseTunerLayer) else m) for m in both)
    if words.weight is said.weight and any(isinstance(m, BaseTunerLayer) for m in both):
        said.weight = nn.Parameter(said.weight.detach().clone(), requires_grad=False)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
