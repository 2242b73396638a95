"""JSON objects that carry the SHA-256 of their own content, so that damage shows when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featbank._atomic import canonical_json, sha256
from featbank.banks.key import FORMAT_VERSION
from featbank.errors import BankFormatError, CorruptBankError, InvalidInputError

SEAL = "sha256"


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
        raise wrong_version(path, version)
    if seal != sha256(content):
        raise CorruptBankError(
            f"{what} {str(path)!r} is damaged: its content does not match its own sha256; {advice}"
        )
    return document


def wrong_version(path: Path, version: int) -> BankFormatError:
    """Return the error for a bank file of another format version."""
    return BankFormatError(
        f"{str(path)!r} has format version {version}, this featbank reads version {FORMAT_VERSION}: "
        f"install the featbank that wrote it, or extract the bank again with this one (another --cache-dir "
        f"keeps the old one)"
    )


def read_bytes(path: Path, *, what: str) -> bytes:
    """Read a file whole; raises `CorruptBankError` if it exists and cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptBankError(
            f"{what} {str(path)!r} cannot be read ({error.strerror}): check its permissions and the disk"
        ) from error
