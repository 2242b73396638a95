"""The rows of a bank: what stands in ``bank.json`` and ``manifest.h5``, and how rows are added."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import locked, write_file
from featbank._cache import make_newest
from featbank.banks import _bank_files as files
from featbank.banks._described import Described
from featbank.banks._manifest_file import MANIFEST_FILE, StoredManifest, read_manifest
from featbank.banks.slots import SlotTable
from featbank.errors import CacheWriteError
from featbank.manifest import Manifest, RowStatus


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

    def set_manifest(self, manifest: Manifest, *, renew: AbstractSet[bytes] = frozenset()) -> None:
        """Set the rows; images that have no slot yet get one, nothing stored is moved or lost.

        Parameters
        ----------
        manifest : Manifest
            The rows. The file is not touched if nothing changes.
        renew : set of bytes, default=frozenset()
            Digests of images to be pushed again, in all cuts; see `absent_digests`.

        Raises
        ------
        CacheWriteError
            If the manifest cannot be written.
        """
        state, same = self._with_rows(manifest, renew)
        if same:  # the bank may be read-only
            self._state = state
            return
        with self._locked():
            self._write_state(self._with_rows(manifest, renew)[0])

    def _with_rows(self, manifest: Manifest, renew: AbstractSet[bytes]) -> tuple[StoredManifest, bool]:
        """Return what is stored with other rows, and whether that is what is stored already."""
        old = read_manifest(self.path)
        table, row_slots = (old.table if old else SlotTable.empty()).with_digests(manifest.digests, renew)
        new = StoredManifest.of(manifest, table, row_slots)
        if old is None or table is not old.table or new.rows_digest != old.rows_digest:
            return new, False
        same = np.array_equal(new.given_statuses, old.given_statuses)
        return new, same and np.array_equal(row_slots, old.row_slots)

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

    def absent_digests(self, manifest: Manifest) -> set[bytes]:
        """Return the digests of `manifest` whose image was gone for some cut; pass them as `renew`."""
        table = self.slot_table
        absent = {
            digest for digest, slot in table.slot_of().items() if table.statuses[slot] == RowStatus.ABSENT
        }
        return absent.intersection(digest.tobytes() for digest in manifest.digests) if absent else set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the bank's lock: the rows are read anew, and no other process changes them meanwhile.

        A bank that may not be written is read without the lock.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked())
            except CacheWriteError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
            self._state = read_manifest(self.path) or self._state
            yield

    def _locked(self) -> AbstractContextManager[bool]:
        return locked(self.path / files.LOCK_FILE)

    def _write_state(self, state: StoredManifest) -> None:
        path, data = self.path / MANIFEST_FILE, state.encode()
        if not path.exists() or path.read_bytes() != data:
            write_file(path, data)
        self._state = state

    def _fold_statuses(self, found: NDArray[np.uint8]) -> None:
        with self._locked():
            state = read_manifest(self.path) or self._stored  # another process may have added slots
            grown = np.zeros(len(state.table), np.uint8)
            grown[: len(found)] = found
            self._write_state(state.with_table(state.table.with_statuses(grown)))
