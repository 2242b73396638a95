"""What a bank says of itself and how its features are read, whether it is a folder or one packed file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featbank.banks._documents import BankDocument
from featbank.banks.arrays import CutArray, SoftmaxArray
from featbank.banks.index import SlotTable, StoredManifest
from featbank.banks.key import BankKey
from featbank.banks.reader import SlotReader
from featbank.errors import BankChangedError, IncompleteBankError
from featbank.manifest import Manifest, RowStatus, printable

SOFTMAX, LOGITS = "softmax", "logits"


class StoredFeatures(ABC):
    """Name, key, rows and features of a bank; `Bank` is the folder, `Archive` the packed file."""

    path: Path
    _document: BankDocument
    #: None while there is no manifest.
    _state: StoredManifest | None

    @abstractmethod
    def _reader(self, cut: str) -> SlotReader:
        """Return what reads a stored cut; raises `UnknownNameError` if there is nothing of it."""

    @property
    def _stored(self) -> StoredManifest:
        if self._state is None:
            raise IncompleteBankError(f"bank {self.name!r} has no rows yet; run `{self._document.command()}`")
        return self._state

    @property
    def _pin(self) -> tuple[str, str | None]:
        """What a pickled handle goes by: the digests of the key and of the rows it was opened with."""
        return self.key.digest(), self._state.rows_digest if self._state else None

    def _refuse_other_rows(self, rows: str | None, key: str | None = None) -> None:
        """Raise `BankChangedError` if these are not the rows (and the key) of a pickled handle."""
        if (key or self._pin[0], rows) != self._pin:
            raise BankChangedError(
                f"bank {self.name!r} in {printable(str(self.path))!r} was extracted again with other rows "
                f"(images, labels, splits or classes) since this handle was pickled, whose row numbers mean "
                f"others now: open it again, and take row numbers and labels from its manifest"
            )

    def __len__(self) -> int:
        return self._state.n_rows if self._state else 0

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self._document.dataset

    @property
    def key(self) -> BankKey:
        """What decides its numbers."""
        return self._document.key

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it came from, as it was given when the bank was made; ``location`` is where that is now."""
        return self._document.provenance

    @property
    def name(self) -> str:
        """``<dataset>/<backbone>-<digest8>``, fit for a terminal."""
        return printable(f"{self.dataset}/{self.key.backbone}-{self.key.digest8}")

    @property
    def manifest(self) -> Manifest:
        """Its rows; statuses are those of the dataset, and where these are OK what extraction found."""
        return self._stored.manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self._stored.classes

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
            If there is nothing of this cut.
        """
        if cut == SOFTMAX:
            return self._softmax_array(LOGITS, 1.0)
        return CutArray(self, self._reader(cut), self._stored)

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
        return self._softmax_array(LOGITS, temperature).read(rows)

    def _softmax_array(self, cut: str, temperature: float) -> SoftmaxArray:
        return SoftmaxArray(self, self._reader(cut), self._stored, temperature)

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

    def load(
        self, cut: str, *, split: str | None = None, rows: slice | ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return features and labels as scikit-learn takes them; rows of unreadable images are left out.

        Parameters
        ----------
        cut : str
            Its name, or ``"softmax"``.
        split : {"train", "val", "test", "none"} or None
            Rows of this split only; None takes all.
        rows : slice, array-like of int or bool, or None
            Only these rows, in this order; None takes all, in the order of the manifest.

        Returns
        -------
        X : ndarray of float32, shape (n_rows, n_features)
            Maps are flattened.
        y : ndarray of int64, shape (n_rows,)
            Index into `classes`; -1 where an image has no label.

        Raises
        ------
        UnknownNameError
            If there is nothing of this cut.
        IncompleteBankError
            If one of the rows has not been extracted yet.
        InvalidInputError
            If there is no such split.

        Examples
        --------
        >>> import tempfile
        >>> from featbank.banks import BankKey, BankStore
        >>> from featbank.manifest import Manifest
        >>> key = BankKey("minivgg", "0" * 64, {}, 32, "float32", "float16", 64, "pillow-12.3.0")
        >>> digests, zeros = np.arange(96, dtype=np.uint8).reshape(3, 32), np.zeros(3, np.uint8)
        >>> rows = Manifest([b"a", b"b", b"c"], np.int32([0, 1, 0]), ("x", "y"), zeros, digests, zeros)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bank = BankStore(folder).create_or_open("three", key, {})
        ...     bank.set_manifest(rows)
        ...     writer = bank.cut_writer("fc7", (2,), "float16")
        ...     path = writer.write(*writer.missing(), np.float16([[1, 2], [3, 4], [5, 6]]), zeros)
        ...     bank.load("fc7", split="train", rows=[2, 1])
        (array([[5., 6.],
               [3., 4.]], dtype=float32), array([0, 1]))
        """
        array, stored = self[cut], self._stored
        index = array._row_numbers(rows)
        if split is not None:
            wanted = np.zeros(len(self), bool)
            wanted[self.manifest.rows(split, readable=False)] = True
            index = index[wanted[index]]
        usable = stored.statuses[index] == RowStatus.OK
        usable[usable] = array._reader.statuses(stored.row_slots[index[usable]]) == RowStatus.OK
        index = index[usable]
        X = array.read(index, dtype=np.float32).reshape(len(index), array.n_features)
        return X, stored.labels[index].astype(np.int64)

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
        return self._reader(LOGITS if cut == SOFTMAX else cut).usable(self.row_slots)
