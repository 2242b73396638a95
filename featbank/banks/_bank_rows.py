"""The rows of a bank: what stands in ``bank.json`` and ``manifest.h5``, and how rows are added."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import READ_ONLY, locked, write_file
from featbank._cache import make_newest
from featbank.banks import _bank_files as files
from featbank.banks._described import Described
from featbank.banks._manifest_file import MANIFEST_FILE, StoredManifest, read_manifest
from featbank.banks.slots import SlotTable
from featbank.errors import CacheWriteError
from featbank.manifest import Manifest


class BankRows(Described):
    """Key, provenance, manifest and slots of a bank: all of it but the features.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    document : BankDocument
        What ``bank.json`` says.
    stored : StoredManifest or None
        What ``manifest.h5`` says; None while it has not been written.
    """

    def __init__(self, path: Path, document: files.BankDocument, stored: StoredManifest | None) -> None:
        self.path = path
        self._document = document
        self._state = stored
        #: Whether this is what a bank would be: its folder need not be there.
        self._is_planned = False

    @property
    def slot_table(self) -> SlotTable:
        """Its slots, shared by all cuts; without slots while there is no manifest."""
        return self._state.table if self._state else SlotTable.empty()

    @property
    def row_slots(self) -> NDArray[np.int64]:
        """Slot of each row, shape (n_samples,)."""
        return self._stored.row_slots

    def slot_first_rows(self) -> NDArray[np.int64]:
        """Return the first row that has each slot, shape (n_slots,); -1 where no row does."""
        return self.slot_table.first_rows(self.row_slots)

    def with_rows(self, manifest: Manifest, *, renew: AbstractSet[bytes] = frozenset()) -> Self:
        """Return what this bank would be after `set_manifest`, from what is on disk now; writes nothing.

        Parameters
        ----------
        manifest, renew
            As of `set_manifest`.

        Returns
        -------
        Bank
            Its folder need not be there.
        """
        there = read_manifest(self.path) if self.path.is_dir() else None
        planned = type(self)(self.path, self._document, _planned(there, manifest, renew))
        planned._is_planned = True
        return planned

    def _cut_folders(self) -> list[Path]:
        return [] if self._is_planned and not self.path.is_dir() else files.cut_folders(self.path)

    def same_slots(self, other: BankRows) -> bool:
        """Say whether another bank's rows stand in the same slots, of equally many."""
        return np.array_equal(self.row_slots, other.row_slots) and np.array_equal(
            self.slot_table.segments, other.slot_table.segments
        )

    def set_manifest(self, manifest: Manifest, *, renew: AbstractSet[bytes] = frozenset()) -> None:
        """Set the rows; images that have no slot yet get one, nothing stored is moved or lost.

        Other processes that are extracting into this bank keep the rows they have set themselves.

        Parameters
        ----------
        manifest : Manifest
            The rows. Nothing is touched, not even the lock, if nothing changes.
        renew : set of bytes, default=frozenset()
            Digests of images to be pushed again, in all cuts; see `CutWriter.absent`.

        Raises
        ------
        CacheWriteError
            If the manifest cannot be written.
        """
        there = read_manifest(self.path)
        self._state = _planned(there, manifest, renew)
        if there is None or not there.same(self._state):  # else also where nothing can be written
            with self._locked():
                there = read_manifest(self.path)
                self._state = _planned(there, manifest, renew)
                self._write(self._state, there)

    def renew(self, digests: AbstractSet[bytes]) -> None:
        """Give images of these rows new slots, without setting the rows of the bank anew.

        Another process may have set its own rows since: they stay, and the renewed images among them are
        found in the new slots as well.

        Parameters
        ----------
        digests : set of bytes
            As of `CutWriter.absent`.

        Raises
        ------
        CacheWriteError
            If the manifest cannot be written.
        """
        with self._locked():
            own, there = self._stored, read_manifest(self.path) or self._stored
            table, row_slots = there.table.with_digests(own.digests, digests)
            self._state = own.with_table(table, row_slots)
            newest = table.slot_of()
            moved = [newest[one.tobytes()] if one.tobytes() in digests else -1 for one in there.digests]
            theirs = np.where(np.array(moved, np.int64) >= 0, np.array(moved, np.int64), there.row_slots)
            self._write(there.with_table(table, theirs), there)

    def set_location(self, location: str) -> None:
        """Remember where the images of this bank are now, in ``source.json``; ``bank.json`` never changes.

        Parameters
        ----------
        location : str
            As of `featbank.datasets.Dataset`; ``bank.provenance["location"]`` is this from now on.

        Raises
        ------
        CacheWriteError
            If it cannot be written.
        """
        if location != self.provenance.get("location"):
            with self._locked():
                files.write_source(self.path, location)
            self._document = self._document.moved_to(location)

    def touch(self) -> None:
        """Make this the newest bank of its cache: it was asked for last."""
        make_newest(self.path.parent.parent, self.path)
        with suppress(OSError):  # a read-only bank stays where it is in the list
            os.utime(self.path / files.LOCK_FILE)

    def copy_manifest(self, folder: Path) -> None:
        """Write the rows as this bank has them now into another folder, where `read_manifest` finds them.

        Raises
        ------
        CacheWriteError
            If the file cannot be written.
        """
        write_file(folder / MANIFEST_FILE, self._stored.encode())

    def refresh(self) -> None:
        """Learn what other processes have found out of the images of these rows since."""
        there = read_manifest(self.path)
        if there is not None:
            self._state = self._stored.with_table(there.table)

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Hold the bank's lock, so that nobody changes its rows, and hand over the bank as it is on disk.

        A bank that may not be written is read without the lock.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked())
            except CacheWriteError as error:
                if error.errno not in READ_ONLY:
                    raise
            yield type(self)(self.path, self._document, read_manifest(self.path) or self._stored)

    def _locked(self) -> AbstractContextManager[bool]:
        return locked(self.path / files.LOCK_FILE)

    def _write(self, state: StoredManifest, there: StoredManifest | None) -> None:
        if there is None or not there.same(state):
            write_file(self.path / MANIFEST_FILE, state.encode())

    def _fold_statuses(self, found: NDArray[np.uint8]) -> None:
        """Fold in what a cut found of the images of these rows; the bank's lock is held.

        Of an image that is not among them nothing was found out, whatever its slot holds.
        """
        own, there = self._stored, read_manifest(self.path) or self._stored
        grown = np.zeros(len(there.table), np.uint8)
        grown[own.row_slots] = found[own.row_slots]
        table = there.table.with_statuses(grown)
        self._write(there.with_table(table), there)
        self._state = own.with_table(table)


def _planned(there: StoredManifest | None, manifest: Manifest, renew: AbstractSet[bytes]) -> StoredManifest:
    table = there.table if there else SlotTable.empty()
    return StoredManifest.of(manifest, *table.with_digests(manifest.digests, renew))
