"""A bank: the features of one dataset under one key, one array per cut."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featbank._cache import user_path
from featbank._registry import nearest
from featbank.banks import _bank_files as files
from featbank.banks._bank_rows import BankRows
from featbank.banks._cut_reader import CutReader, shard_files
from featbank.banks._manifest_file import StoredManifest, read_manifest
from featbank.banks._shard_file import CutLayout
from featbank.banks.arrays import CutArray, SoftmaxArray
from featbank.banks.key import check_name
from featbank.banks.listing import BankInfo, CutProgress, CutState, QuarantineRecord, describe
from featbank.banks.slots import SHARD_BYTES, ShardPlan, shard_rows_for
from featbank.banks.writer import CutWriter
from featbank.errors import BankNotFoundError, IncompleteBankError, InvalidInputError, UnknownNameError
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from featbank.banks.verification import VerifyReport

__all__ = ["Bank", "open_bank"]

_SOFTMAX, _LOGITS = "softmax", "logits"


class Bank(BankRows):
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
        super().__init__(path, document, stored)
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
        if layout is None or self._state is None:
            return None
        row_shards = self._reader_of(layout).numbers_of(self.row_slots)
        present = set(shard_files(folder))
        needed = set(np.unique(row_shards).tolist())
        stored = np.isin(row_shards, list(present))
        if document and document.absent:  # of what is gone the table knows; the others can be had
            unknown = self.slot_table.statuses[self.row_slots] == RowStatus.OK
            stored &= ~(unknown & np.isin(self.row_slots, list(document.absent)))
        whole = document is not None and needed <= document.shards and bool(stored.all())
        facts = document.facts if document else {}
        return CutState(layout, facts, CutProgress(int(stored.sum()), len(row_shards)), whole)

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

    def __getitem__(self, cut: str) -> CutArray:
        """Return the features of a cut; ``"softmax"`` is derived from ``logits`` at temperature 1.

        Parameters
        ----------
        cut : str
            Its name. A cut that is only partly extracted can be opened; reading a missing row is an error.

        Returns
        -------
        CutArray

        Raises
        ------
        UnknownNameError
            If the bank holds nothing of this cut.
        """
        if cut == _SOFTMAX:
            return self._softmax_array(_LOGITS, 1.0)
        return CutArray(self, self._reader_of(self._layout(cut)[1]), self._stored)

    def softmax(self, temperature: float, rows: slice | ArrayLike | None = None) -> NDArray[np.float32]:
        """Return ``softmax(logits / temperature)``.

        Parameters
        ----------
        temperature : float
            Finite and over 0.
        rows : slice, array-like of int or bool, or None
            Which rows; None takes all.

        Returns
        -------
        ndarray of float32, shape (n_rows, n_classes)

        Raises
        ------
        InvalidInputError
            If the temperature is not a finite number over 0.
        UnknownNameError
            If the bank holds no ``logits``.
        """
        return self._softmax_array(_LOGITS, temperature).read(rows)

    def _softmax_array(self, cut: str, temperature: float) -> SoftmaxArray:
        return SoftmaxArray(self, self._reader_of(self._layout(cut)[1]), self._stored, temperature)

    def features(
        self, cut: str, rows: slice | ArrayLike | None = None, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """Return features as a table for a head.

        Parameters
        ----------
        cut : str
            Its name, or ``"softmax"``.
        rows : slice, array-like of int or bool, or None
            Which rows; None takes all.
        dtype : dtype, default=float32
            What to return.

        Returns
        -------
        ndarray of `dtype`, shape (n_rows, n_features)
        """
        array = self[cut]
        block = array.read(rows, dtype=dtype)
        return block.reshape(len(block), array.n_features)

    def rows_ok(self, cut: str) -> NDArray[np.bool_]:
        """Say which rows can be read in a cut: stored, and neither quarantined nor absent.

        Parameters
        ----------
        cut : str
            Its name, or ``"softmax"``.

        Returns
        -------
        ndarray of bool, shape (n_samples,)

        Raises
        ------
        CorruptBankError
            If a shard that is there is damaged.
        """
        folder, layout = self._layout(_LOGITS if cut == _SOFTMAX else cut)
        reader, slots = self._reader_of(layout), self.row_slots
        stored = np.isin(reader.numbers_of(slots), list(shard_files(folder)))
        usable = np.zeros(len(slots), bool)
        usable[stored] = reader.statuses(slots[stored]) == RowStatus.OK
        return usable

    def _layout(self, cut: str) -> tuple[Path, CutLayout]:
        folder = self.path / str(cut)
        layout = files.layout_of(folder, self.key.digest()) if self._may_be_cut(cut) else None
        if layout is None:
            known = [one.name for one in self._cut_folders()]
            raise UnknownNameError(
                f"bank {self.name!r} holds no cut {cut!r}, it holds {nearest(str(cut), known)}; "
                f"`{self._command(str(cut))}` adds it"
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
            f"(slots {plan.start} to {plan.stop - 1}); `{self._command(cut)}` again extracts it"
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
        if cut == _SOFTMAX:
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

    def _write_cut_facts(
        self, layout: CutLayout, shards: Iterable[int], absent: Iterable[int], facts: Mapping[str, Any]
    ) -> None:
        document = files.CutDocument(layout, frozenset(shards), dict(facts), frozenset(absent))
        document.write(self.path / layout.cut)

    def write_quarantine(self, records: Iterable[QuarantineRecord]) -> None:
        """Replace ``quarantine.jsonl``, whole, by these records."""
        files.write_quarantine(self.path, records)

    def quarantine(self) -> list[QuarantineRecord]:
        """Read ``quarantine.jsonl``; empty if there is none."""
        return files.read_quarantine(self.path)

    # looking ---------------------------------------------------------------------------------------

    def info(self) -> BankInfo:
        """Describe the bank in plain values; reads no features."""
        return describe(self)

    def verify(self) -> VerifyReport:
        """Hash and check every file; see `featbank.banks.verify_bank`."""
        from featbank.banks.verification import verify_bank

        return verify_bank(self.path)


def open_bank(
    bank: str | os.PathLike[str] | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> Bank:
    """Open a bank by what a user says.

    Parameters
    ----------
    bank : str, path-like or None
        As in `BankStore.resolve`: a folder, a name or a unique part of one; None takes the newest.
    cache_dir : str or path-like, optional
        The cache; ``$FEATBANK_CACHE`` or ``./cache`` by default.

    Returns
    -------
    Bank

    Raises
    ------
    BankNotFoundError
        If there is none.
    InvalidInputError
        If several fit.
    """
    from featbank._cache import banks_folder
    from featbank.banks.store import BankStore

    return Bank.open(BankStore(banks_folder(cache_dir)).resolve(bank))


def _reopen(path: Path, key: str, rows: str | None) -> Bank:
    if not path.exists():
        raise BankNotFoundError(
            f"the bank this array came from is gone: {str(path)!r}; open it again where it is now"
        )
    bank = Bank.open(path, check="size")
    bank._refuse_other_rows(rows, key)
    return bank
