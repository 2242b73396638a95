"""What packed files and folders of a stranger have in common: small files with a limit, and the manifest."""

from __future__ import annotations

import hashlib
import os

from featbank.banks._guest import GuestArray, GuestError, GuestReader
from featbank.banks._manifest_file import USER_BLOCK, StoredManifest, from_arrays, seal_of
from featbank.banks.key import FORMAT_VERSION
from featbank.errors import InvalidInputError

#: Longest ``bank.json`` and ``cut.json``, and longest ``quarantine.jsonl``.
JSON_BYTES, ROWS_BYTES = 1024 * 1024, 64 * 1024 * 1024
#: Longest manifest: that of some thirty million images.
_MANIFEST_BYTES = 4 * 1024**3
_BLOCK_BYTES = 1024 * 1024


def small(array: GuestArray, name: str, most: int) -> bytes:
    """Return the bytes in an array of bytes; `GuestError` if they are more than `most`."""
    if len(array) > most:
        raise GuestError(f"{name!r} has {len(array)} bytes, more than {most}")
    return array.all().tobytes()


def read_small(descriptor: int, name: str, most: int) -> bytes:
    """Return the bytes of an open file; `GuestError` if they are more than `most`."""
    size = os.fstat(descriptor).st_size
    if size > most:
        raise GuestError(f"{name!r} has {size} bytes, more than {most}")
    return os.pread(descriptor, size, 0)


def digest_from(descriptor: int, offset: int = 0) -> str:
    """Return the SHA-256 of an open file from `offset` on."""
    digest = hashlib.sha256()
    while part := os.pread(descriptor, _BLOCK_BYTES, offset):
        digest.update(part)
        offset += len(part)
    return digest.hexdigest()


def manifest_in(reader: GuestReader, descriptor: int) -> StoredManifest:
    """Return the manifest in an open ``manifest.h5``."""
    size = os.fstat(descriptor).st_size
    if size > _MANIFEST_BYTES:
        raise GuestError(f"its manifest has {size} bytes, more than {_MANIFEST_BYTES}")
    if os.pread(descriptor, USER_BLOCK, 0) != seal_of(digest_from(descriptor, USER_BLOCK)):
        raise GuestError("its manifest does not match its own sha256")
    opened = reader.open(descriptor, "manifest", USER_BLOCK)
    if opened.attributes["format_version"] != FORMAT_VERSION:
        raise GuestError(f"its manifest has format version {opened.attributes['format_version']}")
    try:
        stored = from_arrays({name: one.all() for name, one in opened.arrays.items()})
        len(stored.manifest)  # which checks labels, splits and ids
    except (InvalidInputError, LookupError, ValueError) as error:
        raise GuestError(f"its manifest does not hold together: {error}") from error
    return stored
