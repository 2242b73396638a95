"""A bank: the features of one dataset under one key, one array per cut."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featbank._atomic import READ_ONLY, locked, write_file
from featbank._cache import make_newest, user_path
from featbank._registry import nearest
from featbank.banks import _documents as files
from featbank.banks.features import SOFTMAX, StoredFeatures
from featbank.banks.index import (
    MANIFEST_FILE,
    SHARD_BYTES,
    ShardPlan,
    StoredManifest,
    read_manifest,
    shard_rows_for,
)
from featbank.banks.key import check_name
from featbank.banks.listing import BankInfo, CutInfo, CutProgress, changed, folder_bytes, split_counts
from featbank.banks.reader import CutReader
from featbank.banks.shards import CutLayout
from featbank.banks.verification import VerifyReport, verify_bank
from featbank.banks.writer import CutWriter
from featbank.errors import (
    BankNotFoundError,
    CacheWriteError,
    IncompleteBankError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.manifest import Manifest, RowStatus

__all__ = ["Bank"]


class CutState(NamedTuple):
    """What one look at a cut finds: its layout, recorded facts, progress, and whether it is complete."""

    layout: CutLayout
    facts: dict[str, Any]
    progress: CutProgress
    complete: bool


class Bank(StoredFeatures):
    """An opened bank; comes from `Bank.open` or `BankStore.create_or_open`.

    ``bank["fc7"]`` is an array of features, rows in the order of ``bank.manifest``: those it was opened with,
    whatever another process makes of the bank meanwhile. Pickles as its path and the digest of its rows;
    unpickling it raises `BankChangedError` once the bank has other rows.

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
        self._readers: dict[str, CutReader] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: Literal["auto", "size", "sha256"] = "auto") -> Bank:
        """Open the bank in a folder.

        Parameters
        ----------
        path : str or path-like
            The bank's folder.
        check : {"auto", "size", "sha256"}, default="auto"
            Which checks to make at once: every shard's SHA-256, only sizes and embedded facts (made for each
            shard when it is first read, always), or hashes only when the folder was copied here since.

        Returns
        -------
        Bank

        Raises
        ------
        BankNotFoundError
            If there is no bank.
        BankFormatError
            If it was written in another version of the format.
        CorruptBankError
            If one of its files is damaged.
        BankReadError
            If one of them cannot be read now.
        InvalidInputError
            If `check` is none of the three.
        """
        if check not in ("auto", "size", "sha256"):
            raise InvalidInputError(f"check={check!r} is not one of 'auto', 'size', 'sha256'")
        folder = user_path(path)
        document = files.read_bank_document(folder)
        stored = read_manifest(folder)
        if check == "sha256" or (check == "auto" and not files.is_verified_copy(folder)):
            files.check_all_hashes(folder)
            files.mark_verified(folder)
        return cls(folder, document, stored)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, *self._pin)

    def __repr__(self) -> str:
        return f"<Bank {self.name!r}, {len(self)} rows>"  # says nothing that must be looked for on the disk

    # rows ------------------------------------------------------------------------------------------

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
        there = read_manifest(self.path, self._state) if self.path.is_dir() else None
        planned = type(self)(self.path, self._document, StoredManifest.planned(there, manifest, renew))
        planned._is_planned = True
        return planned

    def same_slots(self, other: Bank) -> bool:
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
        there = read_manifest(self.path, self._state)
        self._state = StoredManifest.planned(there, manifest, renew)
        if there is None or not there.same(self._state):  # else also where nothing can be written
            with self._locked():
                there = read_manifest(self.path, there)
                self._state = StoredManifest.planned(there, manifest, renew)
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
            own, there = self._stored, read_manifest(self.path, self._state) or self._stored
            table, row_slots = there.table.with_digests(own.digests, digests)
            self._state = own.with_table(table, row_slots)
            self._write(there.renewed(digests, table), there)

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
        there = read_manifest(self.path, self._state)
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
            yield type(self)(self.path, self._document, read_manifest(self.path, self._state) or self._stored)

    def _locked(self) -> AbstractContextManager[bool]:
        return locked(self.path / files.LOCK_FILE)

    def _write(self, state: StoredManifest, there: StoredManifest | None) -> None:
        if there is None or not there.same(state):
            write_file(self.path / MANIFEST_FILE, state.encode())

    def _fold_statuses(self, found: NDArray[np.uint8]) -> None:
        """Fold in what a cut found of the images of these rows; the bank's lock is held.

        Of an image that is not among them nothing was found out, whatever its slot holds.
        """
        own, there = self._stored, read_manifest(self.path, self._state) or self._stored
        grown = np.zeros(len(there.table), np.uint8)
        grown[own.row_slots] = found[own.row_slots]
        table = there.table.with_statuses(grown)
        self._write(there.with_table(table), there)
        self._state = own.with_table(table)

    # cuts ------------------------------------------------------------------------------------------

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the cuts that are complete for every row of the manifest, sorted."""
        return tuple(one.layout.cut for one in self._states() if one.complete)

    @property
    def partial_cuts(self) -> dict[str, CutProgress]:
        """Cuts that were begun, with how many rows are stored of how many needed."""
        return {one.layout.cut: one.progress for one in self._states() if not one.complete}

    def shard_names(self, cut: str) -> list[str]:
        """Return the file names of a cut's shards, which carry the SHA-256 of their bytes, sorted."""
        return sorted(path.name for path in (self.path / cut).glob("[0-9]*.h5"))

    def _cut_folders(self) -> list[Path]:
        return [] if self._is_planned and not self.path.is_dir() else files.cut_folders(self.path)

    def _states(self) -> list[CutState]:
        """Look at every cut once."""
        if self._state is None:
            return []
        states = (self._state_of(folder) for folder in self._cut_folders())
        return [one for one in states if one is not None]

    def _state_of(self, folder: Path) -> CutState | None:
        """Look at one cut; None if there is nothing of it."""
        document = files.read_cut_document(folder, self.key.digest())
        layout = document.layout if document else files.layout_of(folder, self.key.digest())
        stored = self._state
        if layout is None or stored is None:
            return None
        reader = self._reader_of(layout)
        rows, present = stored.rows_in(reader.plans), reader.present()
        n_stored = int(rows[present].sum())
        if document and document.absent:  # of what is gone the table knows; the others can be had
            slots = np.array([slot for slot in document.absent if slot < len(stored.table)], np.int64)
            slots = slots[stored.table.statuses[slots] == RowStatus.OK]
            slots = slots[present[reader.numbers_of(slots)]]
            n_stored -= int((stored.rows_before[slots + 1] - stored.rows_before[slots]).sum())
        needed = set(np.flatnonzero(rows).tolist())
        whole = document is not None and needed <= document.shards and n_stored == stored.n_rows
        facts = document.facts if document else {}
        return CutState(layout, facts, CutProgress(n_stored, stored.n_rows), whole)

    def facts(self, cut: str) -> dict[str, Any]:
        """Return what extraction recorded about a cut; {} while it is not finished."""
        document = files.read_cut_document(self._layout(cut)[0], self.key.digest())
        return document.facts if document else {}

    def __contains__(self, cut: object) -> bool:
        state = self._state_of(self.path / cut) if self._may_be_cut(cut) else None
        return state is not None and state.complete

    def _may_be_cut(self, cut: object) -> TypeGuard[str]:
        name = isinstance(cut, str) and cut == Path(cut).name and not cut.startswith(".")
        return name and (self.path / str(cut)).is_dir()

    def _reader(self, cut: str) -> CutReader:
        return self._reader_of(self._layout(cut)[1])

    def _layout(self, cut: str) -> tuple[Path, CutLayout]:
        folder = self.path / str(cut)
        layout = files.layout_of(folder, self.key.digest()) if self._may_be_cut(cut) else None
        if layout is None:
            known = [one.name for one in self._cut_folders()]
            raise UnknownNameError(
                f"bank {self.name!r} holds no cut {cut!r}, it holds {nearest(str(cut), known)}; "
                f"`{self._document.command(str(cut))}` adds it"
            )
        return folder, layout

    def _reader_of(self, layout: CutLayout) -> CutReader:
        reader = self._readers.get(layout.cut)
        if reader is None or reader.layout != layout or reader.table is not self.slot_table:
            reader = CutReader(
                self.path / layout.cut, layout, self.slot_table, lambda plan: self._lacks(layout.cut, plan)
            )
            self._readers[layout.cut] = reader
        return reader

    def _lacks(self, cut: str, plan: ShardPlan) -> str:
        return (
            f"cut {cut!r} of bank {self.name!r} lacks shard {plan.number} "
            f"(slots {plan.start} to {plan.stop - 1}); `{self._document.command(cut)}` again extracts it"
        )

    # writing ---------------------------------------------------------------------------------------

    def cut_writer(
        self,
        cut: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        shard_bytes: int = SHARD_BYTES,
        made_by: Mapping[str, str] = MappingProxyType({}),
    ) -> CutWriter:
        """Begin or resume writing a cut.

        Parameters
        ----------
        cut : str
            Its name; ``block4_pool@hflip`` for a view.
        shape : tuple of int
            Shape of one row, each side at least 1.
        dtype : {"float16", "float32"}
            What is stored.
        shard_bytes : int, default=SHARD_BYTES
            About how large a shard is; only used when the cut is new.
        made_by : mapping of str to str, optional
            What computes the features and is not in the key, such as ``torch`` and ``device``; recorded in
            each shard that is written.

        Returns
        -------
        CutWriter

        Raises
        ------
        InvalidInputError
            If the name cannot be used, or the cut exists with another shape or dtype.
        IncompleteBankError
            If the manifest has not been set.
        """
        check_name("cut", cut)
        kind, sides = np.dtype(dtype), tuple(int(side) for side in shape)
        if cut == SOFTMAX:
            raise InvalidInputError(
                "cut='softmax' is never stored: store 'logits', bank.softmax(temperature) derives it"
            )
        if kind.name not in ("float16", "float32") or not sides or min(sides) < 1:
            raise InvalidInputError(
                f"cut {cut!r}: shape={shape!r} and dtype={dtype!r} cannot be stored; "
                f"one or more sides of at least 1, and float16 or float32"
            )
        if self._state is None:
            raise IncompleteBankError(
                f"bank {self.name!r} has no rows yet; set_manifest comes before cut_writer"
            )
        digest = self.key.digest()
        existing = files.layout_of(self.path / cut, digest) if (self.path / cut).is_dir() else None
        if existing is None:
            row_bytes = CutLayout(digest, cut, sides, kind, 1).row_bytes
            existing = CutLayout(
                digest, cut, sides, kind, shard_rows_for(row_bytes, self.key.batch_size, shard_bytes)
            )
        elif (existing.shape, existing.dtype) != (sides, kind):
            raise InvalidInputError(
                f"cut {cut!r} of bank {self.name!r} stores {existing.dtype} {existing.shape}, "
                f"not {kind} {sides}; `featbank banks rm` removes it if it is to be extracted anew"
            )
        return CutWriter(self, existing, made_by)

    def write_quarantine(self, records: Iterable[files.QuarantineRecord]) -> None:
        """Replace ``quarantine.jsonl``, whole, by these records."""
        files.write_quarantine(self.path, records)

    def quarantine(self) -> list[files.QuarantineRecord]:
        """Read ``quarantine.jsonl``; empty if there is none."""
        return files.read_quarantine(self.path)

    # looking ---------------------------------------------------------------------------------------

    def info(self) -> BankInfo:
        """Describe the bank in plain values; reads no features."""
        stored = self._state
        return BankInfo(
            path=self.path,
            dataset=self.dataset,
            backbone=self.key.backbone,
            digest8=self.key.digest8,
            rows=len(self),
            classes=stored.classes if stored else (),
            splits=split_counts(stored.splits) if stored else {},
            cuts=tuple(
                CutInfo(
                    one.layout.cut,
                    one.layout.shape,
                    one.layout.dtype.name,
                    *one.progress,
                    one.complete,
                    folder_bytes(self.path / one.layout.cut),
                    one.facts,
                )
                for one in self._states()
            ),
            quarantined=int((stored.statuses != RowStatus.OK).sum()) if stored else 0,
            created=str(self.provenance.get("created", "")),
            changed=changed(self.path),
            size_bytes=folder_bytes(self.path),
        )

    def verify(self) -> VerifyReport:
        """Hash and check every file; see `featbank.banks.verify_bank`."""
        return verify_bank(self.path)


def _reopen(path: Path, key: str, rows: str | None) -> Bank:
    if not path.exists():
        raise BankNotFoundError(
            f"the bank this array came from is gone: {str(path)!r}; open it again where it is now"
        )
    bank = Bank.open(path, check="size")
    bank._refuse_other_rows(rows, key)
    return bank
