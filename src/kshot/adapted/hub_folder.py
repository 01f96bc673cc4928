"""An adapted model as a repository of the Hugging Face hub: written, pushed and loaded.

At the top stand the card (`README.md`) and, where weights were trained on a model of the hub, the adapter in peft's
format: so peft and vLLM load the repository by its name. The folder `kshot/` is the adapted model, sealed, as
`AdaptedModel.save` writes it; the hub keeps equal bytes once.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kshot.adapted.adapter_files import Base, base_of, write_adapter
from kshot.adapted.folder import check_outside, load, save
from kshot.adapted.model import AdaptedModel
from kshot.adapted.model_card import MODEL, UNNAMED, card_of
from kshot.core.errors import KshotError, ModelError, UserError, in_short, missing_extra
from kshot.engine.load_model import portable_name
from kshot.store.files import write_folder

CARD = "README.md"


def write_repository(adapted: AdaptedModel, folder: Path, name: str | None = None) -> None:
    """Write card, adapter and adapted model into a folder that appears whole.

    Args:
        adapted: What is written.
        folder: New or empty.
        name: What the repository is called in the card; None where it is none yet.

    Raises:
        UserError: The folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} must be new or empty, for the repository; it holds something. Name another folder.")
    check_outside(folder)
    base = _public_base(adapted)
    choice = _without_places(adapted.choice)
    placeless = AdaptedModel(adapted.fitted, choice=choice, past=adapted.past, abstention=adapted.abstention)

    def more(partial: Path) -> None:
        if base:
            assert adapted.fitted.trained
            write_adapter(adapted.fitted.trained, base, partial)
        save(placeless, partial / MODEL)

    write_folder(folder, {CARD: card_of(adapted, name or UNNAMED, base)}, more=more, replaces=False)


def _without_places(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model was chosen without the folder of its run, also of what it was before it forgot."""
    found = {key: value for key, value in choice.items() if key != "run"}
    before = found.get("before")
    return found | ({"before": _without_places(before)} if isinstance(before, Mapping) else {})


def _public_base(adapted: AdaptedModel) -> Base | None:
    """Return the base of a LoRA adapter that others can load; None where there is none."""
    fitted = adapted.fitted
    if not fitted.trained or fitted.recipe.part("tuner").weights != "lora" or fitted.untrained is None:
        return None
    if fitted.untrained.name == "tiny":
        return None
    base = base_of(fitted.untrained)
    return base if base.on_hub else None


def push(adapted: AdaptedModel, repository: str, *, private: bool, token: str | None, message: str | None) -> str:
    """Write an adapted model into a repository of the hub, in one commit, and return the commit's address.

    Arguments and errors as `AdaptedModel.push_to_hub`.
    """
    hub = _hub()
    _check_public(adapted)
    with TemporaryDirectory(prefix="kshot-") as place, _hub_errors(repository):
        folder = Path(place) / "repository"
        write_repository(adapted, folder, repository)
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message or f"{adapted.recipe.name} by kshot",
            delete_patterns=[f"{MODEL}/*", "adapter_*"],  # of a version before
        )
    return done.commit_url


def from_hub(repository: str, *, revision: str | None, token: str | None, how: dict[str, Any]) -> AdaptedModel:
    """Load an adapted model from a folder that `write_repository` wrote, or from the hub.

    Arguments and errors as `AdaptedModel.from_pretrained`.
    """
    place = Path(os.path.expanduser(repository))
    if place.is_dir():
        return load(place / MODEL if (place / MODEL).is_dir() else place, **how)
    hub = _hub()
    with _hub_errors(repository):
        found = hub.snapshot_download(repository, revision=revision, token=token, allow_patterns=[f"{MODEL}/*"])
    if not (Path(found) / MODEL).is_dir():
        raise UserError(
            f"'{repository}' must be an adapted model of kshot; it has no folder {MODEL}/. Give one that push_to_hub "
            "has written."
        )
    with TemporaryDirectory(prefix="kshot-") as copy:  # the hub's cache has links, which the seal refuses
        shutil.copytree(Path(found) / MODEL, Path(copy) / MODEL)
        return load(Path(copy) / MODEL, **how)


def _check_public(adapted: AdaptedModel) -> None:
    """Refuse to publish where files are on this machine."""
    model = adapted.fitted.untrained
    name = portable_name(model.name) if model else ""
    if Path(name.removeprefix("gguf:").removeprefix("scripted:")).is_absolute():
        raise UserError(
            f"What is pushed must name a language model that others can load; '{name}' is a place on this machine. "
            "Adapt with a model of the hub, or write a folder with save_pretrained."
        )


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hf", "The model hub") from error
    return huggingface_hub


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Say of the hub's errors, and of a network without it, what to do."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except KshotError:
        raise
    except HFValidationError as error:
        raise UserError(
            f"A repository must be a folder, or USER/NAME on the hub; got '{repository}' ({in_short(error)}). Correct "
            "the name."
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, LocalTokenNotFoundError) as error:
        raise UserError(
            f"'{repository}' needs the hub, with HF_TOKEN where it is private or written; it says: {in_short(error)}. "
            "Go online, or log in with `hf auth login`."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 404):
            raise UserError(
                f"'{repository}' must be a repository that you may read or write; the hub says: {in_short(error)}. "
                "Correct the name, or give a token that may, by HF_TOKEN."
            ) from None
        raise ModelError(
            f"The hub must answer; of '{repository}' it says: {in_short(error)}. Try again later."
        ) from None
    except Exception as error:
        if not isinstance(error, OSError) and not _is_of_connection(error):
            raise
        raise ModelError(
            f"The hub must be reachable; '{repository}': {in_short(error)}. Go online, and try again."
        ) from None


def _is_of_connection(error: Exception) -> bool:
    """Return whether an error is of the HTTP client, whose package depends on the hub's version."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
