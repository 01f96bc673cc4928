"""What is in files, by its sha256: a large file that was read once is known by its size and times of change."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from kshot.core.errors import StorageError
from kshot.core.paths import cache_folder
from kshot.store.run_folder import read_object
from kshot.store.summed import SUM, fits, sum_of_file, write_summed

KEPT = "hashes.json"
WORTH_KEEPING_BYTES = 2**20
_YOUNG_S = 2.0  # it may change again within the grain of a file system's clock


def sha256_of(files: Iterable[Path]) -> list[str]:
    """Return the sha256 of what is in each file, as 64 hex digits.

    What large files held is kept in the cache folder, under path, size, inode and times of change: 0.6 s a gigabyte
    once, then nothing. A file that changed less than two seconds ago, or while it was read, is read again the next
    time, and so is everything where the kept hashes are damaged or cannot be written.

    Args:
        files: Links are followed.

    Raises:
        OSError: One cannot be read.
    """
    places = [file.resolve(strict=True) for file in files]
    before = {str(place): _state(place) for place in places}
    large = {path for path, (size, *_) in before.items() if size >= WORTH_KEEPING_BYTES}
    kept = _kept() if large else {}
    found = {path: kept[path][1] for path in large if path in kept and kept[path][0] == before[path]}
    unknown = [path for path in before if path in large and path not in found]
    with ThreadPoolExecutor() as threads:  # it starts none for nothing; hashlib lets others run meanwhile
        found |= zip(unknown, threads.map(sum_of_file, map(Path, unknown)), strict=True)
    found |= {path: sum_of_file(Path(path)) for path in before if path not in large}  # sooner than a thread begins
    new = [path for path in unknown if _state(Path(path)) == before[path] and _is_old(before[path])]
    if new:
        _keep({path: [before[path], found[path]] for path in new})
    return [found[str(place)] for place in places]


def _state(file: Path) -> list[int]:
    """Return what changes when a file does: size, inode, and the times of change of its content and of the inode."""
    stat = file.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _is_old(state: list[int]) -> bool:
    return time.time() - max(state[2:]) / 1e9 > _YOUNG_S


def _kept() -> dict[str, Any]:
    """Return state and sha256 by path; nothing where what was kept is not as it was written."""
    found = read_object(cache_folder() / KEPT) or {}
    files = found.get("files")
    return files if isinstance(files, dict) and fits(found, found.get(SUM)) else {}


def _keep(new: Mapping[str, Any]) -> None:
    """Add to what is kept, but for files that are gone; of two processes at once the later one counts."""
    files = {path: row for path, row in {**_kept(), **new}.items() if Path(path).exists()}
    with suppress(StorageError, OSError, UnicodeError):  # then they are read the next time too
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_summed(cache_folder() / KEPT, {"files": files})
