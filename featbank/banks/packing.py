"""One bank as one plain HDF5 file, and back; made by a process that may crash without harm if it is large."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from featbank._atomic import make_folder, publish, remove_stale_temporaries, temporary_path, write_file
from featbank._cache import user_path
from featbank._child_process import child_environment
from featbank.banks._codecs import codec_named, most_decoded
from featbank.banks._pack_file import pack_bytes, pack_image
from featbank.banks.bank import Bank
from featbank.banks.importing import import_bank
from featbank.errors import (
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    InvalidInputError,
)
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.banks.store import BankStore

__all__ = ["pack", "unpack"]

logger = logging.getLogger(__name__)

#: Larger packs are written to disk by libhdf5 itself, in a process of its own.
_IMAGE_BYTES = 256 * 1024 * 1024


def pack(bank: Bank, path: str | os.PathLike[str], *, compression: str | None = None) -> Path:
    """Write a bank as one HDF5 file that any HDF5 reader opens; verifies it first.

    ``/features/<cut>`` (n_samples, *shape) and ``/statuses/<cut>`` in the order of ``/ids``, ``/labels``,
    ``/split``; ``/classes``; key and provenance as attributes; under ``/bank`` what `unpack` needs beside.
    Rows whose status is not 0 hold zeros. Cuts that are only partly extracted are left out, with a warning.
    Equal banks give equal bytes; compressed, equal versions of the compressing library are needed too, and
    the attribute ``compression_library`` names it.

    Parameters
    ----------
    bank : Bank
        The bank.
    path : str or path-like
        The file to write; replaced if it exists.
    compression : {"zstd", "gzip"}, optional
        Compress the features, without loss, in chunks of whole rows of about 1 MiB: ``zstd`` is smaller and
        several times as fast, other readers need hdf5plugin for it; ``gzip`` is read by every HDF5. Rows of
        more than 32 MiB stay as they are. None stores all in one piece, to be memory-mapped.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    CorruptBankError
        If `Bank.verify` finds a fault; nothing is written.
    BankReadError
        If all it finds is files that cannot be read now.
    IncompleteBankError
        If the bank has no rows yet.
    InvalidInputError
        If there is no such compression, or the features shrink so far that no import would believe it.
    MissingPackageError
        If the package this compression needs is not installed.
    CacheWriteError
        If the file cannot be written; a file that was there stays.
    """
    target = user_path(path)
    codec = None if compression is None else codec_named(compression)
    report = bank.verify()
    if not report.ok:
        faults = report.faults
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        kind = BankReadError if faults == report.unreadable else CorruptBankError
        raise kind(f"bank {bank.name!r} is not packed, it has a fault: {faults[0]}{more}")
    for cut, progress in bank.partial_cuts.items():
        logger.warning("cut %r is not packed: %d of %d rows are extracted", cut, *progress)
    make_folder(target.parent)
    if codec is None and pack_bytes(bank) <= _IMAGE_BYTES:
        write_file(target, pack_image(bank))
        return target
    remove_stale_temporaries(target.parent)
    temporary = temporary_path(target)
    try:
        _write_in_child(bank.path, temporary, compression)
        if most_decoded(temporary.stat().st_size) < 2 * pack_bytes(bank):
            raise InvalidInputError(
                f"compression={compression!r}: bank {bank.name!r} shrinks from {pack_bytes(bank)} bytes to "
                f"{temporary.stat().st_size}, which no import takes for features; pack it without compression"
            )
        publish(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return target


def _write_in_child(bank: Path, temporary: Path, compression: str | None) -> None:
    # libhdf5 brings the process down when the disk runs full while it writes; and what it writes of a filter
    # depends on whether the caller has imported hdf5plugin
    # no filter is ever loaded from a folder
    environment = {**child_environment(), "HDF5_PLUGIN_PRELOAD": "::"}
    command = [
        sys.executable,
        "-P",  # nothing is imported from the current folder
        "-m",
        "featbank.banks._pack_file",
        str(bank.absolute()),
        str(temporary.absolute()),
        *([compression] if compression else []),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise CacheWriteError(
            f"cannot write {str(temporary.parent)!r} ({said}): the disk may be full; "
            f"free some space and pack again"
        )


def unpack(path: str | os.PathLike[str], store: BankStore) -> Bank:
    """Make a bank from a file that `pack` wrote: the same manifest, cuts and shards again.

    The file may come from anybody: see `featbank.banks.import_bank`, which does this.

    Parameters
    ----------
    path : str or path-like
        The packed file.
    store : BankStore
        Where the bank goes, under its own name.

    Returns
    -------
    Bank

    Raises
    ------
    BankNotFoundError
        If there is no such file.
    BankFormatError
        If it was written in another version of the format.
    CorruptBankError
        If it is no packed bank, or damaged; nothing is left behind.
    InvalidInputError
        If the store has this bank already.
    CacheWriteError
        If the bank cannot be written.
    MissingPackageError
        If its features are compressed, and the package for that is not installed.
    """
    if not user_path(path).is_file():
        raise BankNotFoundError(f"no packed bank {printable(str(path))!r}; `featbank banks pack` makes one")
    return import_bank(path, store)
