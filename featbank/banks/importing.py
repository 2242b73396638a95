"""Takes in a bank that somebody else made: a packed file or a bank folder, checked as if it meant harm."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from featbank._atomic import make_folder, publish, remove_stale_temporaries, temporary_path, write_file
from featbank._cache import user_path
from featbank.banks import _documents as files
from featbank.banks._files import is_of_the_system, unreadable, wrong_version
from featbank.banks._format import FormatError, VersionError, map_rows
from featbank.banks.archive import (
    JSON_BYTES,
    LONGEST_TEXT,
    ROWS_BYTES,
    Pack,
    ShardContent,
    checked_shards,
)
from featbank.banks.bank import Bank
from featbank.banks.index import MANIFEST_FILE, ShardPlan, decode_manifest
from featbank.banks.key import check_name
from featbank.banks.listing import folder_bytes
from featbank.banks.shards import Measures, check_place, encode_shard, shard_in, shard_name, shard_number
from featbank.banks.store import BankStore
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

__all__ = ["import_bank", "unpack"]

logger = logging.getLogger(__name__)

_REASON = re.compile(r"[a-z0-9-]{1,40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: More entries than a folder of a bank has.
_MOST_ENTRIES = 100_000
#: What a shard has besides its rows; longest manifest: that of some forty million images.
_OVERHEAD_BYTES, _MANIFEST_BYTES = 128 * 1024, 4 * 1024**3
_KNOWN = frozenset({files.BANK_FILE, MANIFEST_FILE, files.QUARANTINE_FILE, files.SOURCE_FILE})


def unpack(path: str | os.PathLike[str], store: BankStore) -> Bank:
    """Make a bank from a file that `pack` wrote: the same manifest, cuts and shards again.

    The file may come from anybody: see `import_bank`, which does this and whose errors these are.

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
    """
    if not user_path(path).is_file():
        raise BankNotFoundError(f"no packed bank {printable(str(path))!r}; `featbank banks pack` makes one")
    return import_bank(path, store)


def import_bank(path: str | os.PathLike[str], store: BankStore) -> Bank:
    """Make a bank from one that this user did not write: a packed file, or the folder of a bank.

    Each file is a header of limited length, JSON that must be exactly as featbank writes it, and numbers at
    places that lie inside the file and not on each other; these are checked against each other and written
    anew. No file of the stranger's is opened with HDF5.
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
    source = user_path(path)
    shown = printable(str(source))
    try:
        mode = source.stat().st_mode
    except OSError as error:
        if is_of_the_system(error):
            raise unreadable(source, error, what="bank") from error
        raise BankNotFoundError(
            f"no bank {shown!r} to take in ({error.strerror}); name a packed file, or the folder of a bank"
        ) from error
    try:
        if stat.S_ISDIR(mode):
            with contextlib.closing(_Folder(source)) as folder:
                return _take_in(source, folder, store)
        if not stat.S_ISREG(mode):
            raise FormatError("it is neither a file nor a folder")
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _take_in(source, Pack(source, descriptor), store)
        finally:
            os.close(descriptor)
    except VersionError as error:
        raise wrong_version(source, error.version) from error
    except (BankFormatError, BankReadError, CacheWriteError, MissingPackageError, _ExistsError):
        raise
    except MemoryError as error:
        raise unreadable(source, error, what="bank") from error
    except (FeatbankError, OSError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, OSError) and is_of_the_system(error):
            raise unreadable(source, error, what="bank") from error
        raise CorruptBankError(
            f"bank {shown!r} cannot be taken in ({printable(str(error)[:500])}); nothing of it was kept: get "
            f"it again from where it is whole, from somebody you trust"
        ) from error


class _ExistsError(InvalidInputError):
    """The store has the bank; no fault of the one that is taken in."""


def _take_in(path: Path, source: _Folder | Pack, store: BankStore) -> Bank:
    """Write a bank aside, anew from the parts of another, and give it its name."""
    target = store.path_for(source.document.dataset, source.document.key)
    if target.exists():
        raise _ExistsError(
            f"{str(target)!r} exists already; remove it with `featbank banks rm`, or unpack into another "
            f"cache"
        )
    existing = next(one for one in target.parents if one.exists())
    free = shutil.disk_usage(existing).free
    if source.size_bytes > free:
        raise CacheWriteError(
            f"bank {printable(str(path))!r} has {source.size_bytes / 1e9:.2f} GB, {str(existing)!r} has "
            f"{free / 1e9:.2f} GB free; free some space, or take it into another cache"
        )
    make_folder(target.parent)
    remove_stale_temporaries(target.parent)
    aside = temporary_path(target)
    try:
        _write(make_folder(aside), source)
        publish(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is no bank of this dataset
            target.parent.rmdir()
    bank = Bank.open(target)
    bank.touch()
    return bank


def _write(folder: Path, source: _Folder | Pack) -> None:
    for cut, document in source.documents.items():
        cut_folder = make_folder(folder / check_name("cut", cut))
        shards = checked_shards(source.shards(cut), cut, document, source.stored)
        for plan, features, statuses, made_by in shards:
            digests = source.stored.table.digests[plan.start : plan.stop]
            name, parts = encode_shard(document.layout, plan, features, digests, statuses, made_by)
            write_file(cut_folder / name, parts)
        document.write(cut_folder)
    records = files.parse_quarantine(folder / files.QUARANTINE_FILE, source.quarantine)
    for record in records:
        texts = (record.reason, record.detail, record.digest)
        if not all(isinstance(one, str) and len(one) <= LONGEST_TEXT for one in texts) or not (
            _REASON.fullmatch(record.reason) and _DIGEST.fullmatch(record.digest)
        ):
            raise FormatError("its quarantine has entries featbank does not write")
    if source.quarantine:
        files.write_quarantine(folder, records)
    write_file(folder / MANIFEST_FILE, source.stored.encode())
    source.document.write(folder)
    files.mark_verified(folder)


class _Folder:
    """The parts of a stranger's bank folder; nothing in it is followed anywhere."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = folder_bytes(path)
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._names: dict[str, list[str]] = {}
            for name, is_folder in _entries(self._root, path.name):
                if is_folder:
                    self._names[check_name("cut", name)] = self._cut_entries(name)
                elif name not in _KNOWN:
                    raise FormatError(f"{printable(name)!r} in it is nothing featbank writes")
            data = self._bytes(files.BANK_FILE, JSON_BYTES)
            self.document = files.parse_bank_document(path / files.BANK_FILE, data)
            with contextlib.suppress(FileNotFoundError):
                data = self._bytes(files.SOURCE_FILE, JSON_BYTES)
                self.document = self.document.moved_to(files.parse_source(path / files.SOURCE_FILE, data))
            self.quarantine = b""
            with contextlib.suppress(FileNotFoundError):
                self.quarantine = self._bytes(files.QUARANTINE_FILE, ROWS_BYTES)
            data = self._bytes(MANIFEST_FILE, _MANIFEST_BYTES)
            self.stored = decode_manifest(path / MANIFEST_FILE, data)
            len(self.stored.manifest)  # which checks that no id stands twice
            self.documents: dict[str, files.CutDocument] = {}
            for cut, names in sorted(self._names.items()):
                if files.CUT_FILE not in names:
                    logger.warning("cut %r was not finished and is left out", cut)
                    continue
                data = self._bytes(files.CUT_FILE, JSON_BYTES, cut)
                self.documents[cut] = files.parse_cut_document(
                    path / cut / files.CUT_FILE, data, cut, self.document.key.digest()
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._root)

    def _cut_entries(self, cut: str) -> list[str]:
        names = []
        folder = os.open(cut, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        try:
            for name, is_folder in _entries(folder, cut):
                if is_folder or (name != files.CUT_FILE and shard_number(name) is None):
                    raise FormatError(f"{printable(f'{cut}/{name}')!r} in it is nothing featbank writes")
                names.append(name)
        finally:
            os.close(folder)
        return names

    @contextlib.contextmanager
    def _open(self, name: str, cut: str | None = None) -> Iterator[int]:
        """Open a regular file, never one that a link points to; O_NONBLOCK, because a fifo would wait."""
        folder = self._root
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        if cut is not None:
            folder = os.open(cut, flags | os.O_DIRECTORY, dir_fd=self._root)
        try:
            descriptor = os.open(name, flags | os.O_NONBLOCK, dir_fd=folder)
        finally:
            if cut is not None:
                os.close(folder)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FormatError(f"{printable(name)!r} in it is no file")
            yield descriptor
        finally:
            os.close(descriptor)

    def _bytes(self, name: str, most: int, cut: str | None = None) -> bytes:
        with self._open(name, cut) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            size = os.fstat(descriptor).st_size
            if size > most:
                raise FormatError(f"{name!r} has {size} bytes, more than {most}")
            return file.read(size)

    def shards(self, cut: str) -> Iterator[ShardContent]:
        """Yield the shards of a cut, each compared with its name."""
        document = self.documents[cut]
        plans = self.stored.table.plan(document.layout.shard_rows)
        numbers: set[int] = set()
        for name in sorted(self._names[cut]):
            number = shard_number(name)
            if number is None:
                continue
            if number in numbers or number >= len(plans):
                raise FormatError(f"{cut}/{name} is one shard too many")
            numbers.add(number)
            with self._open(name, cut) as descriptor:
                yield self._shard(descriptor, self._path / cut / name, document, plans[number])

    def _shard(
        self, descriptor: int, path: Path, document: files.CutDocument, plan: ShardPlan
    ) -> ShardContent:
        layout, name = document.layout, f"{path.parent.name}/{path.name}"
        size = os.fstat(descriptor).st_size
        if size > plan.n_rows * (layout.row_bytes + 64) + _OVERHEAD_BYTES:
            # before it is hashed: a hole of a terabyte takes an hour
            raise FormatError(f"{name} has {size} bytes, its rows take less")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.name != shard_name(plan.number, digest):
            raise FormatError(f"the bytes of {name} are not what its name says")
        shard = shard_in(path, descriptor)
        check_place(shard, layout, plan, self.stored.table.digests[plan.start : plan.stop])
        features = map_rows(descriptor, layout.dtype, (plan.n_rows, *layout.shape), shard.offset).copy()
        found = Measures.of(features, shard.statuses)
        wrong = [one for one, value in asdict(found).items() if getattr(shard.measures, one) != value]
        if wrong:
            raise FormatError(f"{name} says of itself what is not so: {', '.join(wrong)}")
        return plan, features, shard.statuses, shard.made_by


def _entries(folder: int, shown: str) -> Iterator[tuple[str, bool]]:
    """Yield the entries of an open folder, and whether each is a folder; refuse all but files and folders."""
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= _MOST_ENTRIES:
                raise FormatError(f"{printable(shown)!r} has more than {_MOST_ENTRIES} entries")
            mode = entry.stat(follow_symlinks=False).st_mode
            is_folder = stat.S_ISDIR(mode)
            if not is_folder and not stat.S_ISREG(mode):
                raise FormatError(f"{printable(entry.name)!r} in it is neither a file nor a folder")
            passed_over = entry.name.startswith((".tmp-", "damaged-")) or entry.name in (
                files.LOCK_FILE,
                files.VERIFIED_FILE,
            )
            if not passed_over:  # locks, marks, leavings: never read, never copied
                yield entry.name, is_folder
