"""Files of a bank as bytes, errors of reading them, and JSON that carries the SHA-256 of its own content."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from featbank._atomic import canonical_json, sha256
from featbank.banks.key import FORMAT_VERSION
from featbank.errors import BankFormatError, BankReadError, CorruptBankError, InvalidInputError
from featbank.manifest import printable

SEAL = "sha256"

#: What keeps a file from being read that may well be whole.
_OF_THE_SYSTEM = (
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.EAGAIN,
)


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """Return `document` with its seal as the last entry; raises `InvalidInputError` if it is not JSON."""
    if SEAL in document:
        raise InvalidInputError(f"a stored document must not have an entry {SEAL!r} of its own")
    try:
        content = canonical_json(document)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"cannot be stored as JSON ({error}): use text, finite Python numbers, lists and mappings"
        ) from error
    return {**document, SEAL: sha256(content)}


def unsealed(path: Path, data: bytes, *, what: str) -> dict[str, Any]:
    """Parse sealed JSON and check version and seal.

    Raises
    ------
    BankFormatError
        If it was written in another version of the format.
    CorruptBankError
        If it is not JSON, or not what was written.
    """
    advice = "copy it again from where it is whole, or remove it and run `featbank extract` again"
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        seal = document.pop(SEAL, None)
        content = canonical_json(document)
    except (ValueError, RecursionError) as error:  # the latter: lists in lists in lists
        raise CorruptBankError(
            f"{what} {str(path)!r} is damaged: no JSON object ({error}); {advice}"
        ) from error
    version = document.get("format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise wrong_version(path, version, document)
    if seal != sha256(content):
        raise CorruptBankError(
            f"{what} {str(path)!r} is damaged: its content does not match its own sha256; {advice}"
        )
    return document


def wrong_version(path: Path, version: int, document: Mapping[str, Any] | None = None) -> BankFormatError:
    """Return the error for a file of another format version; a ``bank.json`` says what extracts it again."""
    return BankFormatError(
        f"{str(path)!r} has format version {version}, this featbank reads version {FORMAT_VERSION}: "
        f"install the featbank that wrote it, or extract the bank again with this one, "
        f"`{extract_command(document or {})}` (another --cache-dir keeps the old one)"
    )


def extract_command(document: Mapping[str, Any], cut: str | None = None) -> str:
    """Return what extracts a bank (again), by what its ``bank.json`` says, whatever that is."""
    key, provenance = (
        said if isinstance(said := document.get(name), dict) else {} for name in ("key", "provenance")
    )
    words = ["featbank", "extract"]
    location = provenance.get("location") or document.get("dataset")
    if location:
        words.append(printable(str(location)))
    for option, value in (("--backbone", key.get("backbone")), ("--layout", provenance.get("layout"))):
        words += [option, printable(str(value))] if value else []
    return shlex.join([*words, "--cut", "logits" if cut == "softmax" else cut] if cut else words)


def read_bytes(path: Path, *, what: str) -> bytes:
    """Read a file whole; raises `FileNotFoundError`, or `BankReadError` if it is there and cannot be read."""
    with opened(path, what=what) as file:
        return file.read()


@contextlib.contextmanager
def opened(path: Path, *, what: str) -> Iterator[BufferedReader]:
    """Open a file of a bank for reading.

    Raises
    ------
    FileNotFoundError
        If there is none.
    BankReadError
        If it cannot be opened, or the system fails to read it inside the block.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            yield file
    except (FileNotFoundError, BankReadError, CorruptBankError):
        raise
    except (OSError, MemoryError) as error:
        raise unreadable(path, error, what=what) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a fifo would be waited for


def is_of_the_system(error: Exception) -> bool:
    """Say whether it was the system that could not open or read something, whatever stands in it."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM)


def unreadable(path: Path, error: OSError | MemoryError, *, what: str) -> BankReadError:
    """Return the error for a file or folder that cannot be read at the moment."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno or 0
    advice = {
        errno.EACCES: "check its permissions and those of the folders above it",
        errno.EPERM: "check its permissions and those of the folders above it",
        errno.EMFILE: "close some files of this process, or raise its limit (ulimit -n)",
        errno.ENFILE: "the system has too many files open: try again when some are closed",
        errno.ENOMEM: "free some memory",
        errno.EISDIR: "a folder has the name of a file: move it away",
        errno.EINVAL: "move away what has its name",
        errno.ELOOP: "a link points in a circle: remove it",
        errno.EIO: "the disk, or the way to it, fails: if it stays so, delete the file and extract it again",
    }.get(number, "try again once the cause is gone")
    said = getattr(error, "strerror", None) or os.strerror(number)
    return BankReadError(
        f"{what} {str(path)!r} cannot be read now ({said}), which says nothing of its bytes: {advice}"
    )
