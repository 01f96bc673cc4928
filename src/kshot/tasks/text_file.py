"""Text of files: UTF-8, or UTF-16 and UTF-32 that say so at their beginning."""

import codecs
import errno
from collections.abc import Mapping
from pathlib import Path

from kshot.core.errors import UserError
from kshot.core.given_files import bytes_of
from kshot.tasks.packed import is_packed, unpacked

MOST_ROWS = 1_000_000
MOST_BYTES = 256_000_000  # of a file of rows, also of what one that is packed or in another format becomes

# UTF-32's mark begins with UTF-16's, so it is looked for first.
MARKS: Mapping[bytes, str] = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# How files begin that are no text, whatever their name says.
NO_TEXT: Mapping[bytes, str] = {
    b"\x1f\x8b": "packed with gzip; unpack it with gunzip",
    b"BZh": "packed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "packed with xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it with unzstd",
    b"PK\x03\x04": "a zip archive or an Excel sheet; unpack it, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel sheet; save it as CSV UTF-8",
    b"PAR1": "Parquet; give it a name that ends in .parquet",
}


def read_text(file: Path) -> str:
    """Return the text of a file, without its byte order mark; one whose name ends in `.gz` is unpacked.

    Raises:
        UserError: The file cannot be read or unpacked, is too large, or is no text in UTF-8.
    """
    try:
        data = bytes_of(file, MOST_BYTES)
    except OSError as error:
        raise cannot_be_read(str(file), error) from None
    return decoded(unpacked(data, MOST_BYTES, str(file)) if is_packed(file) else data, str(file))


def cannot_be_read(source: str, error: OSError) -> UserError:
    """Return the error that says why, and what to do."""
    remedy = "give a sample of its rows" if error.errno == errno.EFBIG else "check its name and its permissions"
    return UserError(f"{source} cannot be read: {error.strerror}; {remedy}.")


def decoded(data: bytes, source: str) -> str:
    """Return bytes as text, without the byte order mark: UTF-8, unless the mark says UTF-16 or UTF-32.

    Raises:
        UserError: They are something else.
    """
    for start, what in NO_TEXT.items():
        if data.startswith(start):
            raise UserError(f"{source} must be text in UTF-8, but it is {what}.")
    mark, encoding = next(((m, e) for m, e in MARKS.items() if data.startswith(m)), (b"", "utf-8"))
    try:
        text = data.removeprefix(mark).decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_decoded(source, data, len(mark) + error.start, encoding) from None
    if text[:1000].count("\0") * 3 > len(text[:1000]):  # ASCII in UTF-16 is valid UTF-8 with a NUL beside each letter
        raise UserError(
            f"{source} must be UTF-8, but it looks like UTF-16 without a byte order mark; save it as UTF-8."
        )
    return text


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text that end with \n or \r\n, or with \r where there is no \n.

    Unlike splitlines(), which also breaks at U+2028 and others, which may stand within a text.
    """
    if "\n" not in text:
        return text.split("\r")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _not_decoded(source: str, data: bytes, place: int, encoding: str) -> UserError:
    if encoding != "utf-8":
        return UserError(
            f"{source} must be {encoding.upper()}, as its first bytes say, but it is not; save it as UTF-8."
        )
    row, start = data.count(b"\n", 0, place) + 1, data.rfind(b"\n", 0, place) + 1
    letter = data[place : place + 1].decode("cp1252", "replace")
    guess = f", '{letter}' in Windows-1252 and Latin-1" if letter.isalpha() else ""
    return UserError(
        f"{source} row {row} must be UTF-8, but byte {place - start + 1} of the row is 0x{data[place]:02x}{guess}; "
        "save the file as UTF-8, as with: iconv -f WINDOWS-1252 -t UTF-8"
    )
