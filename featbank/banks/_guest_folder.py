"""A bank folder of a stranger, as the parts a bank is made of: nothing in it is followed anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from featbank.banks import _bank_files as files
from featbank.banks._guest import GuestError, GuestReader
from featbank.banks._guest_checks import Shard
from featbank.banks._guest_parts import JSON_BYTES, ROWS_BYTES, digest_from, manifest_in, read_small
from featbank.banks._manifest_file import MANIFEST_FILE
from featbank.banks._shard_file import Measures, checked_made_by, shard_name, shard_number
from featbank.banks.key import FORMAT_VERSION, check_name
from featbank.banks.listing import folder_bytes
from featbank.banks.slots import ShardPlan
from featbank.errors import InvalidInputError
from featbank.manifest import printable

#: More entries than a folder of a bank has.
_MOST_ENTRIES = 100_000
#: What a shard has besides its rows.
_OVERHEAD_BYTES = 128 * 1024
_KNOWN = frozenset({files.BANK_FILE, MANIFEST_FILE, files.QUARANTINE_FILE, files.SOURCE_FILE})


class FolderSource:
    """The parts of a bank folder; a context manager that closes what it holds open.

    Parameters
    ----------
    path : pathlib.Path
        The folder.
    reader : GuestReader
        Reads its HDF5 files.
    """

    def __init__(self, path: Path, reader: GuestReader) -> None:
        self._reader = reader
        self.size_bytes = folder_bytes(path)
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._cuts: dict[str, list[str]] = {}
            for name, is_folder in _entries(self._root, path.name):
                if is_folder:
                    self._cuts[_checked_cut(name)] = self._cut_entries(name)
                elif name not in _KNOWN:
                    raise GuestError(f"{printable(name)!r} in it is nothing featbank writes")
            with self._open(files.BANK_FILE) as descriptor:
                data = read_small(descriptor, files.BANK_FILE, JSON_BYTES)
            self.document = files.parse_bank_document(path / files.BANK_FILE, data)
            with contextlib.suppress(FileNotFoundError), self._open(files.SOURCE_FILE) as descriptor:
                data = read_small(descriptor, files.SOURCE_FILE, JSON_BYTES)
                self.document = self.document.moved_to(files.parse_source(path / files.SOURCE_FILE, data))
            self.quarantine = b""
            with contextlib.suppress(FileNotFoundError), self._open(files.QUARANTINE_FILE) as descriptor:
                self.quarantine = read_small(descriptor, files.QUARANTINE_FILE, ROWS_BYTES)
            with self._open(MANIFEST_FILE) as descriptor:
                self.stored = manifest_in(reader, descriptor)
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
                    raise GuestError(f"{printable(f'{cut}/{name}')!r} in it is nothing featbank writes")
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
                raise GuestError(f"{printable(name)!r} in it is no file")
            yield descriptor
        finally:
            os.close(descriptor)

    def cuts(self) -> list[str]:
        """Names of the cuts that were finished."""
        return sorted(cut for cut, names in self._cuts.items() if files.CUT_FILE in names)

    def unfinished(self) -> list[str]:
        """Names of the cuts that were begun."""
        return sorted(set(self._cuts) - set(self.cuts()))

    def cut_json(self, cut: str) -> bytes:
        """Return the bytes of a cut's ``cut.json``."""
        with self._open(files.CUT_FILE, cut) as descriptor:
            return read_small(descriptor, files.CUT_FILE, JSON_BYTES)

    def shards(self, cut: str, document: files.CutDocument) -> Iterator[Shard]:
        """Yield the shards of a cut: plan, features and statuses of its slots, and what made it."""
        plans = self.stored.table.plan(document.layout.shard_rows)
        numbers: set[int] = set()
        for name in sorted(self._cuts[cut]):
            number = shard_number(name)
            if number is None:
                continue
            if number in numbers or number >= len(plans):
                raise GuestError(f"{cut}/{name} is one shard too many")
            numbers.add(number)
            with self._open(name, cut) as descriptor:
                yield self._shard(descriptor, f"{cut}/{name}", document, plans[number])

    def _shard(self, descriptor: int, name: str, document: files.CutDocument, plan: ShardPlan) -> Shard:
        layout = document.layout
        most = plan.n_rows * (layout.row_bytes + 64) + _OVERHEAD_BYTES
        if os.fstat(descriptor).st_size > most:  # before it is hashed: a hole of a terabyte takes an hour
            raise GuestError(f"{name} has {os.fstat(descriptor).st_size} bytes, its rows take less")
        if name.split("/")[1] != shard_name(plan.number, digest_from(descriptor)):
            raise GuestError(f"the bytes of {name} are not what its name says")
        opened = self._reader.open(descriptor, "shard")
        features, digests, statuses = (
            opened.arrays[one].all() for one in ("features", "digests", "statuses")
        )
        if features.shape != (plan.n_rows, *layout.shape) or features.dtype != layout.dtype:
            raise GuestError(f"{name} has features {features.dtype} {features.shape}")
        if statuses.shape != (plan.n_rows,) or not np.array_equal(
            digests, self.stored.table.digests[plan.start : plan.stop]
        ):
            raise GuestError(f"{name} holds other images than the manifest says")
        said = {
            "format_version": FORMAT_VERSION,
            "key": layout.key_digest,
            "cut": layout.cut,
            "shard": plan.number,
            "start": plan.start,
            "stop": plan.stop,
            "shard_rows": layout.shard_rows,
            **asdict(Measures.of(features, statuses)),
        }
        wrong = [one for one, value in said.items() if opened.attributes[one] != value]
        if wrong:
            raise GuestError(f"{name} says of itself what is not so: {', '.join(wrong)}")
        try:
            made_by = checked_made_by(json.loads(str(opened.attributes.get("made_by", "{}"))))
        except (ValueError, RecursionError) as error:
            raise GuestError(f"{name}: {error}") from error
        return plan, features, statuses, made_by


def _entries(folder: int, shown: str) -> Iterator[tuple[str, bool]]:
    """Yield the entries of an open folder, and whether each is a folder; refuse all but files and folders."""
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= _MOST_ENTRIES:
                raise GuestError(f"{printable(shown)!r} has more than {_MOST_ENTRIES} entries")
            mode = entry.stat(follow_symlinks=False).st_mode
            is_folder = stat.S_ISDIR(mode)
            if not is_folder and not stat.S_ISREG(mode):
                raise GuestError(f"{printable(entry.name)!r} in it is neither a file nor a folder")
            passed_over = entry.name.startswith((".tmp-", "damaged-")) or entry.name in (
                files.LOCK_FILE,
                files.VERIFIED_FILE,
            )
            if not passed_over:  # locks, marks, leavings: never read, never copied
                yield entry.name, is_folder


def _checked_cut(name: str) -> str:
    try:
        return check_name("cut", name)
    except InvalidInputError as error:
        raise GuestError(str(error)) from error
