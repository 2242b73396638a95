"""Takes in a bank that somebody else made: a packed file or a bank folder, checked as if it meant harm."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from featbank._atomic import make_folder, publish, remove_stale_temporaries, temporary_path, write_file
from featbank._cache import user_path
from featbank.banks import _bank_files as files
from featbank.banks._guest import GuestError, GuestServer
from featbank.banks._guest_checks import LONGEST_TEXT, checked_shards
from featbank.banks._guest_folder import FolderSource
from featbank.banks._guest_pack import PackSource, decoded_bytes
from featbank.banks._manifest_file import MANIFEST_FILE
from featbank.banks._sealed import is_of_the_system, unreadable
from featbank.banks._shard_file import encode_shard
from featbank.banks.bank import Bank
from featbank.banks.key import check_name
from featbank.banks.listing import folder_bytes
from featbank.errors import (
    BankFormatError,
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    FeatbankError,
    InvalidInputError,
    MissingPackageError,
)
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.banks.store import BankStore

__all__ = ["import_bank"]

logger = logging.getLogger(__name__)

_REASON = re.compile(r"[a-z0-9-]{1,40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def import_bank(path: str | os.PathLike[str], store: BankStore) -> Bank:
    """Make a bank from one that this user did not write: a packed file, or the folder of a bank.

    The files are opened by a disposable process that can open nothing else, write nothing and use little
    memory and time. It lets in only what featbank itself writes, and hands over plain numbers; these are
    checked against each other and written anew. This process never opens a file of the stranger's with HDF5.
    What cannot be found out is whether the features are those of the images they claim to be of.

    Parameters
    ----------
    path : str or path-like
        The packed file, or the bank's folder. Links inside it are refused.
    store : BankStore
        Where the bank goes, under its own name.

    Returns
    -------
    Bank
        With the same rows, cuts and numbers; cuts that were not finished are left out, with a warning.

    Raises
    ------
    BankNotFoundError
        If there is nothing at `path`.
    BankFormatError
        If it was written in another version of the format.
    CorruptBankError
        If it is no bank, is damaged, or has anything in it that featbank does not write; nothing is left
        behind.
    BankReadError
        If it cannot be read now.
    InvalidInputError
        If the store has this bank already.
    CacheWriteError
        If the bank cannot be written.
    MissingPackageError
        If its features are compressed, and the package for that is not installed.
    """
    with GuestServer() as server:
        return take_in(user_path(path), store, server)


class _ExistsError(InvalidInputError):
    """The store has the bank; no fault of the one that is taken in."""


def take_in(path: Path, store: BankStore, server: GuestServer) -> Bank:
    """`import_bank` with a server that is there already."""
    shown = printable(str(path))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if is_of_the_system(error):
            raise unreadable(path, error, what="bank") from error
        raise BankNotFoundError(
            f"no bank {shown!r} to take in ({error.strerror}); name a packed file, or the folder of a bank"
        ) from error
    try:
        if stat.S_ISDIR(mode):
            with (
                server.reader(folder_bytes(path)) as reader,
                contextlib.closing(FolderSource(path, reader)) as folder,
            ):
                return _Copy(folder, store).make(path)
        if not stat.S_ISREG(mode):
            raise GuestError("it is neither a file nor a folder")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # compressed, it takes as long as what it holds is large
            n_bytes = max(os.fstat(descriptor).st_size, decoded_bytes(server, descriptor))
            with server.reader(n_bytes) as reader:
                return _Copy(PackSource(path, reader, descriptor), store).make(path)
        finally:
            os.close(descriptor)
    except (BankFormatError, BankReadError, CacheWriteError, MissingPackageError, _ExistsError):
        raise
    except MemoryError as error:
        raise unreadable(path, error, what="bank") from error
    except (FeatbankError, OSError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, OSError) and is_of_the_system(error):
            raise unreadable(path, error, what="bank") from error
        raise CorruptBankError(
            f"bank {shown!r} cannot be taken in ({printable(str(error)[:500])}); nothing of it was kept: get "
            f"it again from where it is whole, from somebody you trust"
        ) from error


class _Copy:
    """The files of a bank, written anew from the parts of another."""

    def __init__(self, source: FolderSource | PackSource, store: BankStore) -> None:
        self._source = source
        self.target = store.path_for(source.document.dataset, source.document.key)
        if self.target.exists():
            raise _ExistsError(
                f"{str(self.target)!r} exists already; remove it with `featbank banks rm`, or unpack into "
                f"another cache"
            )

    def make(self, path: Path) -> Bank:
        """Write the bank aside and give it its name."""
        needed = self._source.size_bytes
        existing = next(one for one in self.target.parents if one.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise CacheWriteError(
                f"bank {printable(str(path))!r} has {needed / 1e9:.2f} GB, {str(existing)!r} has "
                f"{free / 1e9:.2f} GB free; free some space, or take it into another cache"
            )
        make_folder(self.target.parent)
        remove_stale_temporaries(self.target.parent)
        aside = temporary_path(self.target)
        try:
            self._write(make_folder(aside))
            publish(aside, self.target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):  # there is no bank of this dataset
                self.target.parent.rmdir()
        bank = Bank.open(self.target)
        bank.touch()
        return bank

    def _write(self, folder: Path) -> None:
        source = self._source
        for cut in source.unfinished():
            logger.warning("cut %r was not finished and is left out", cut)
        for cut in source.cuts():
            self._write_cut(folder, check_name("cut", cut))
        records = files.parse_quarantine(folder / files.QUARANTINE_FILE, source.quarantine)
        for record in records:
            texts = (record.reason, record.detail, record.digest)
            if not all(isinstance(one, str) and len(one) <= LONGEST_TEXT for one in texts) or not (
                _REASON.fullmatch(record.reason) and _DIGEST.fullmatch(record.digest)
            ):
                raise GuestError("its quarantine has entries featbank does not write")
        if source.quarantine:
            files.write_quarantine(folder, records)
        write_file(folder / MANIFEST_FILE, source.stored.encode())
        source.document.write(folder)
        files.mark_verified(folder)

    def _write_cut(self, folder: Path, cut: str) -> None:
        source = self._source
        cut_folder = make_folder(folder / cut)
        data = source.cut_json(cut)
        document = files.parse_cut_document(
            cut_folder / files.CUT_FILE, data, cut, source.document.key.digest()
        )
        table = source.stored.table
        shards = source.shards(cut, document)
        for plan, features, statuses, made_by in checked_shards(shards, cut, document, source.stored):
            digests = table.digests[plan.start : plan.stop]
            name, image = encode_shard(document.layout, plan, features, digests, statuses, made_by)
            write_file(cut_folder / name, image)
        document.write(cut_folder)
