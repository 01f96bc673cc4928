"""A converted model in the cache folder: its files are as they were when it was made, or it is made anew."""

from pathlib import Path

from kshot.store.file_hashes import sha256_of
from kshot.store.files import write_json
from kshot.store.run_folder import read_object

RECORD = "kshot-files.json"


def seal(folder: Path) -> None:
    """Write down what is in the files of a folder."""
    write_json(folder / RECORD, _hashes(folder))


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds the files that `seal` saw; one of an older kshot, which has no record, does not.

    It costs nothing where the files have not changed since they were read last (`kshot.store.file_hashes`).
    """
    try:
        return read_object(folder / RECORD) == _hashes(folder)
    except OSError:  # a file that cannot be read
        return False


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.name != RECORD)
    return dict(zip([file.name for file in files], sha256_of(files), strict=True))
