"""A trained adapter's files as peft loads them: its base under a name that others can load, with its revision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.models import Capability, LanguageModel, TrainableModel
from kshot.models.model_files import ADAPTER_CONFIG
from kshot.models.white_box import source_of

SHORT = 12  # of a commit, in words


@dataclass(frozen=True)
class Base:
    """Where a language model's files are.

    Attributes:
        name: Hub id, or a folder of this machine.
        revision: The commit on the hub, if it is known.
        on_hub: Whether others find it by its name.
    """

    name: str
    revision: str | None
    on_hub: bool

    @property
    def in_words(self) -> str:
        """Its name, with the revision."""
        return f"{self.name} at {self.revision[:SHORT]}" if self.revision else self.name


def base_of(model: LanguageModel) -> Base:
    """Return where the files of a language model are.

    Raises:
        UserError: It has none, or is an adapter itself.
    """
    if Capability.GRADIENTS not in model.capabilities or model.name == "tiny":
        raise UserError(
            f"The base of an adapter must be a model with files of its own; '{model.name}' has none. Adapt a hub id, a "
            "folder, gguf:FILE or demo."
        )
    source = source_of(model.name)
    on_hub = not Path(source).is_dir()
    revision = model.origin.get("revision")
    if on_hub:
        from kshot.models.checkpoint import Checkpoint

        if Checkpoint(source, model.name, revision).adapter_config():
            raise _is_adapter(model.name)
        from kshot.engine.session import Session

        assert isinstance(model, Session)
        revision = getattr(model.backbone.model.config, "_commit_hash", None) or revision
    elif (Path(source) / ADAPTER_CONFIG).is_file():
        raise _is_adapter(model.name)
    return Base(str(source), revision, on_hub)


def _is_adapter(name: str) -> UserError:
    return UserError(
        f"The base of an adapter must be a whole model; '{name}' is an adapter itself. Write the whole model with "
        "`kshot merge`."
    )


def write_adapter(trained: TrainableModel, base: Base, folder: Path, **changed: Any) -> None:
    """Write a trained adapter as peft loads it.

    Args:
        trained: With LoRA weights.
        base: What it is for.
        folder: Made if it is not there.
        changed: Other values of its config.
    """
    trained.save_weights(folder)
    file = folder / ADAPTER_CONFIG
    config = from_json(file.read_text("utf-8"))
    config |= {"base_model_name_or_path": base.name, "revision": base.revision, **changed}
    file.write_text(to_json(config, indent=1, sort_keys=True) + "\n", "utf-8")
