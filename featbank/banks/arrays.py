"""The features of one cut as an array: rows in manifest order, read from disk when they are indexed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featbank.errors import IncompleteBankError, InvalidInputError
from featbank.manifest import RowStatus, printable

if TYPE_CHECKING:
    from featbank.banks.index import StoredManifest
    from featbank.banks.reader import SlotReader

__all__ = ["CutArray", "SoftmaxArray"]

#: Rows of `iter_batches` and of whole-array reads that must be derived.
_BATCH = 1024


class CutOwner(Protocol):
    """What a `CutArray` belongs to: a bank, or an archive."""

    @property
    def name(self) -> str:
        """Its name, fit for a terminal."""

    def __getitem__(self, cut: str) -> CutArray: ...

    def _softmax_array(self, cut: str, temperature: float) -> SoftmaxArray: ...

    def _refuse_other_rows(self, rows: str | None) -> None: ...


class CutArray:
    """Features of one cut, one row per row of the manifest; comes from ``bank[cut]`` or ``archive[cut]``.

    Indexing follows numpy on the first axis (integers, slices, integer lists and arrays with negative
    numbers and repetitions, boolean masks; more axes in a tuple) and always gives a fresh array.
    Nothing is read before it is indexed, shards are memory-mapped. Pickles as the path of its bank and the
    digest of its rows; unpickling it raises `BankChangedError` once the bank has other rows.

    Parameters
    ----------
    bank : Bank or Archive
        What it belongs to.
    reader : SlotReader
        What reads its slots.
    stored : StoredManifest
        The rows it has, even if the bank's manifest is set anew later.
    """

    def __init__(self, bank: CutOwner, reader: SlotReader, stored: StoredManifest) -> None:
        self._bank = bank
        self._reader = reader
        self._stored = stored
        self._row_slots = stored.row_slots

    @property
    def cut(self) -> str:
        """Name of the cut."""
        return self._reader.layout.cut

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_samples, *shape of one row)``."""
        return (len(self._row_slots), *self._reader.layout.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What indexing returns."""
        return self._reader.layout.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array in memory."""
        return self.size * self.dtype.itemsize

    @property
    def n_features(self) -> int:
        """Values in one row, all axes flattened."""
        return self._reader.layout.n_features

    def __len__(self) -> int:
        return len(self._row_slots)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} {self.cut!r} shape={self.shape} dtype={self.dtype} of {self._bank.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._bank, self.cut, self._stored.rows_digest)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for batch in self.iter_batches(_BATCH):
            yield from batch

    def iter_batches(self, batch_size: int) -> Iterator[NDArray[Any]]:
        """Yield the rows in order, `batch_size` at a time (the last batch may be shorter).

        Parameters
        ----------
        batch_size : int
            Rows per batch, at least 1.

        Yields
        ------
        ndarray, shape (<= batch_size, *shape)

        Raises
        ------
        InvalidInputError
            If `batch_size` is below 1.
        """
        if batch_size < 1:
            raise InvalidInputError(f"batch_size={batch_size!r} is below 1; give at least 1")
        for start in range(0, len(self), batch_size):
            yield self.read(slice(start, start + batch_size))

    def read(
        self,
        rows: slice | ArrayLike | None = None,
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
    ) -> NDArray[Any]:
        """Read rows; the fast path behind indexing.

        Parameters
        ----------
        rows : slice, array-like of int or bool, or None
            Which rows, as in indexing; None reads all.
        out : ndarray, shape (n_rows, *shape), optional
            Where to put them; its dtype then decides.
        dtype : dtype, optional
            What to return; the stored dtype by default.

        Returns
        -------
        ndarray, shape (n_rows, *shape)
            `out` if it was given.

        Raises
        ------
        IncompleteBankError
            If a row was quarantined or absent when this cut was extracted, or its shard is missing.
        CorruptBankError
            If a shard is damaged.
        IndexError
            If a row number is out of range, or a mask has another length.
        InvalidInputError
            If `out` has another shape, or both `out` and `dtype` are given.
        """
        index = self._row_numbers(rows)
        shape = (len(index), *self.shape[1:])
        if out is None:
            out = np.empty(shape, self.dtype if dtype is None else np.dtype(dtype))
        elif dtype is not None:
            raise InvalidInputError(
                "both out and dtype are given; out has a dtype of its own, leave dtype out"
            )
        elif out.shape != shape:
            raise InvalidInputError(f"out has shape {out.shape}, the rows asked for have {shape}")
        slots = self._row_slots[index]
        self._refuse_unusable(index, slots)
        self._gather(slots, out)
        return out

    def _gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        self._reader.gather(slots, out)

    def _refuse_unusable(self, index: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        bad = np.flatnonzero(self._reader.statuses(slots) != RowStatus.OK)
        if not len(bad):
            return
        rows = list(dict.fromkeys(index[bad].tolist()))
        shown = ", ".join(repr(printable(self._stored.ids[row])) for row in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise IncompleteBankError(
            f"cut {self.cut!r} has no features of {shown}{more}: the images could not be read, or were gone, "
            f"when it was extracted; leave these rows out with bank.rows_ok({self.cut!r}) or "
            f"manifest.rows(), quarantine.jsonl says why"
        )

    def _row_numbers(self, rows: slice | ArrayLike | None) -> NDArray[np.int64]:
        n = len(self)
        if rows is None:
            return np.arange(n)
        if isinstance(rows, slice):
            return np.arange(*rows.indices(n))
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (n,):
                raise IndexError(
                    f"boolean mask has shape {index.shape}, the rows of {self.cut!r} have ({n},)"
                )
            return np.flatnonzero(index)
        if index.ndim != 1:
            raise IndexError(
                f"row numbers have shape {index.shape}, one axis is needed; index the cut instead"
            )
        if not index.size:
            return np.zeros(0, np.int64)
        if index.dtype.kind not in "iu":
            raise IndexError(
                f"row numbers have dtype {index.dtype}; integers, a boolean mask or a slice are needed"
            )
        low, high = int(index.min()), int(index.max())
        if low < -n or high >= n:
            raise IndexError(
                f"row {low if low < -n else high} is out of range for the {n} rows of {self.cut!r}"
            )
        index = index.astype(np.int64)
        return np.where(index < 0, index + n, index)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if first is None or first is Ellipsis or (isinstance(key, tuple) and not key):
            return np.asarray(self.read()[key])  # numpy's own rules; needs all rows
        if isinstance(first, slice):
            block = self.read(first)
            return np.asarray(block[(slice(None), *rest)]) if rest else block
        where = np.asarray(first)
        if where.dtype == bool and where.ndim == 1:
            where = self._row_numbers(where)
        if where.ndim == 0 and where.dtype.kind not in "iu":
            raise IndexError(
                f"row {first!r} is no integer; use integers, slices, integer lists or boolean masks"
            )
        block = self.read(where.ravel())
        # the rows read stand at 0, 1, 2, ...; indexing them so keeps numpy's rules for the further axes
        places = np.arange(len(block)).reshape(where.shape)
        if not rest:
            return block[0] if where.ndim == 0 else block.reshape(*where.shape, *self.shape[1:])
        return np.asarray(block[(0 if where.ndim == 0 else places, *rest)])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("features are read from disk, they cannot become an array without a copy")
        return self.read(dtype=dtype)


class SoftmaxArray(CutArray):
    """``softmax(logits / temperature)`` in float32, derived from the stored logits when it is read.

    Parameters
    ----------
    bank, reader, stored
        As in `CutArray`, of the cut ``logits``.
    temperature : float
        Finite and over 0; 1 gives the network's own probabilities, more makes them flatter.

    Raises
    ------
    InvalidInputError
        If the temperature is not a finite number over 0, or a row of the cut has more than one axis.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2.
    """

    def __init__(
        self, bank: CutOwner, reader: SlotReader, stored: StoredManifest, temperature: float = 1.0
    ) -> None:
        super().__init__(bank, reader, stored)
        number = isinstance(temperature, int | float | np.integer | np.floating)
        if not number or isinstance(temperature, bool) or not (0 < temperature < math.inf):
            raise InvalidInputError(
                f"temperature={temperature!r} must be a finite number over 0; "
                f"1 gives the network's own probabilities"
            )
        if len(reader.layout.shape) != 1:
            raise InvalidInputError(
                f"cut {reader.layout.cut!r} has rows of shape {reader.layout.shape}; "
                f"softmax needs one axis of classes"
            )
        self.temperature = float(temperature)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What indexing returns: float32."""
        return np.dtype(np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._bank, self.cut, self._stored.rows_digest, self.temperature)

    def _gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        for start in range(0, len(slots), _BATCH):
            block = np.empty((len(slots[start : start + _BATCH]), *self.shape[1:]), np.float64)
            self._reader.gather(slots[start : start + _BATCH], block)
            block -= block.max(axis=1, keepdims=True)  # exp never overflows
            with np.errstate(
                over="ignore", under="ignore"
            ):  # a tiny temperature: the rest becomes 0, as it should
                block /= self.temperature
                np.exp(block, out=block)
            block /= block.sum(axis=1, keepdims=True)
            out[start : start + _BATCH] = block


def _reopen(bank: CutOwner, cut: str, rows: str, temperature: float | None = None) -> CutArray:
    bank._refuse_other_rows(rows)  # an array may be older than the bank it travels with
    return bank[cut] if temperature is None else bank._softmax_array(cut, temperature)
