"""Features as arrays: rows in manifest order, read from disk when they are indexed.

They stand in blocks: the mapped shards of a folder, or the chunks of a packed file.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featbank._bucket import BucketPath
from featbank._cuts import LOGITS, MAP, SOFTMAX, CutName, Layout, last_blocks, pool, pooled_shape
from featbank.banks.documents import BankDocument, BankKey, CutLayout
from featbank.banks.fetching import in_threads, is_fetched
from featbank.banks.shards import (
    Shard,
    ShardPlan,
    SlotTable,
    StoredManifest,
    check_place,
    read_shard,
    shard_files,
)
from featbank.errors import (
    BankChangedError,
    BankError,
    BankReadError,
    IncompleteBankError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.manifest import Manifest, RowStatus, printable

_T = TypeVar("_T")
#: Maps kept open at once: each holds a file descriptor, of which many systems allow 1024. And their bytes:
#: pages that have been read count as the process's memory until the map is closed.
_MAPS_LIMIT, _MAPS_BYTES = 64, 128 * 2**20
#: From this size on, rows are copied one by one: the copy outweighs the loop, and no second copy is made.
_LARGE_ROW_BYTES = 32 * 1024
#: Bytes of smaller rows gathered at once before they are put in their places; small enough for a cache.
_BLOCK_BYTES = 256 * 1024
#: Rows further apart are fetched alone: a disk gives about so much in the time it takes to answer.
_APART_BYTES = 256 * 1024
#: Stands in `CutReader` for a slot whose shard has not been opened yet.
_UNKNOWN = 255
#: Of a shard in a bucket at most this part of the rows is read apart; then it is fetched whole. And so many
#: are fetched at once.
_PART, _FETCHED_AT_ONCE = 1 / 4, 4
#: Rows of `iter_batches` and of whole-array reads that must be derived.
_BATCH = 1024
#: Numbers that cuts are derived from at once.
_DERIVED_NUMBERS = 4_000_000


class BlockRows(ABC):
    """Rows that stand in blocks, which are loaded when they are needed; the last ones are kept.

    Without a lock, which a fork could copy while a thread holds it: two threads may load one block each.
    """

    def __init__(self, starts: NDArray[np.int64]) -> None:
        self._starts = starts  # first row of each block
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()

    @abstractmethod
    def _load(self, number: int) -> NDArray[Any]:
        """Return the rows of a block."""

    @abstractmethod
    def _most_kept(self) -> int:
        """Return how many blocks are kept."""

    def numbers_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the block of each row."""
        return np.searchsorted(self._starts, rows, side="right").astype(np.int64) - 1

    def _block(self, number: int) -> NDArray[Any]:
        block = self._kept.get(number)
        if block is None:
            block = self._kept[number] = self._load(number)
        with contextlib.suppress(KeyError):  # another thread was first
            self._kept.move_to_end(number)
            while len(self._kept) > self._most_kept():
                self._kept.popitem(last=False)
        return block

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy `rows` into `out`, shape (len(rows), *shape of one row), of any float dtype."""
        if not len(rows):
            return
        numbers = self.numbers_of(rows)
        if (numbers == numbers[0]).all():
            block, local = self._block(int(numbers[0])), rows - self._starts[numbers[0]]
            _advise(block, local)
            copy_rows(block, local, out)
            return
        # block by block and upwards in each: a disk that is not cached is read in order
        for number, places in _by_number(numbers, rows):
            self._copy(self._block(number), number, rows, places, out)

    def _copy(
        self,
        block: NDArray[Any],
        number: int,
        rows: NDArray[np.int64],
        places: NDArray[np.intp],
        out: NDArray[Any],
    ) -> None:
        """Copy the rows that stand in one block to their places."""
        local, first, n = rows[places] - self._starts[number], int(places[0]), len(places)
        _advise(block, local)
        if places[-1] - first == n - 1 and (np.diff(places) == 1).all():
            copy_rows(block, local, out[first : first + n])
        else:
            _scatter(block, local, out, places)


class SlotReader(Protocol):
    """What reads slots of one cut, wherever they are stored."""

    @property
    def layout(self) -> CutLayout:
        """Name, shape and dtype."""

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the status of each slot; all must be stored."""

    def usable(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which slots are stored, and neither quarantined nor absent."""

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the features of `slots` into `out`, shape (len(slots), *shape), of any float dtype."""


class CutReader(BlockRows):
    """The slots of one cut in a folder, memory-mapped shard by shard, each checked once.

    In a bucket a shard is fetched whole and mapped then, unless only some of its rows are asked for. `lacks`
    turns a `ShardPlan` without a file into the text of the error.
    """

    def __init__(
        self, folder: Path, layout: CutLayout, table: SlotTable, lacks: Callable[[ShardPlan], str]
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.table = table
        self.plans = table.plan(layout.shard_rows)
        super().__init__(np.array([plan.start for plan in self.plans], np.int64))
        self._lacks = lacks
        self._files: dict[int, Path] | None = None
        self._shards: dict[int, Shard] = {}
        self._read_apart: dict[int, int] = {}
        self._statuses = np.full(len(table), _UNKNOWN, np.uint8)

    def _path(self, number: int) -> Path:
        files = self._files  # another thread may find a file gone meanwhile, and forget them all
        if files is None or number not in files:  # new shards may have come since
            files = self._files = shard_files(self.folder)
        if number not in files:
            raise IncompleteBankError(self._lacks(self.plans[number]))
        return files[number]

    def _found(self, number: int, read: Callable[[], _T]) -> _T:
        """Return what `read` reads of a shard, by the file that now has its number where that has gone."""
        try:
            return read()
        except FileNotFoundError:
            self._forget(number)
        try:
            return read()
        except FileNotFoundError as error:
            self._forget(number)
            raise IncompleteBankError(self._lacks(self.plans[number])) from error

    def shard(self, number: int) -> Shard:
        """Return what one shard says of itself, checked; `IncompleteBankError` if it has no file."""
        known = self._shards.get(number)
        if known is None:
            plan = self.plans[number]
            known = self._found(number, lambda: read_shard(self._path(number)))
            check_place(known, self.layout, plan, self.table)
            self._statuses[plan.start : plan.stop] = known.statuses
            # digests and statuses, which the table and this reader have, are not kept twice
            nothing = known.digests[:0].copy()
            known = self._shards[number] = replace(known, digests=nothing, statuses=nothing[:, 0])
        return known

    def look_ahead(self, numbers: Iterable[int]) -> None:
        """Read what shards of a bucket say of themselves at once: each request is waited for.

        Of what goes wrong here it is told when the shard's turn has come.
        """
        if isinstance(self.folder, BucketPath):
            unknown = [one for one in numbers if one not in self._shards and one < len(self.plans)]
            if len(unknown) > 1 and self._files is None:
                self._files = shard_files(self.folder)

            def look(number: int) -> None:
                with contextlib.suppress(BankError, OSError):
                    self.shard(number)

            in_threads(look, unknown)

    def _forget(self, number: int) -> None:
        plan, self._files = self.plans[number], None
        self._shards.pop(number, None)
        self._statuses[plan.start : plan.stop] = _UNKNOWN

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the status of each slot in this cut; every shard asked for must be there."""
        found = self._statuses[slots]
        unknown = found == _UNKNOWN
        if unknown.any():
            numbers = np.unique(self.numbers_of(slots[unknown])).tolist()
            self.look_ahead(numbers)
            for number in numbers:
                self.shard(number)
            found = self._statuses[slots]
        return found

    def present(self) -> NDArray[np.bool_]:
        """Say which of the planned shards have a file now, shape (n_plans,)."""
        there = np.zeros(len(self.plans), bool)
        there[[number for number in shard_files(self.folder) if number < len(self.plans)]] = True
        return there

    def usable(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which slots are stored, and neither quarantined nor absent."""
        found = self.present()[self.numbers_of(slots)]
        found[found] = self.statuses(slots[found]) == RowStatus.OK
        return found

    def _load(self, number: int) -> NDArray[Any]:
        return self._found(number, lambda: self.shard(number).features())

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the features of `slots` into `out`, shape (len(slots), *shape), of any float dtype."""
        if not isinstance(self.folder, BucketPath) or not len(slots):
            super().gather(slots, out)
            return
        of_shard = dict(_by_number(self.numbers_of(slots), slots))
        self.look_ahead(of_shard)
        apart = [number for number, places in of_shard.items() if self._is_apart(number, len(places))]
        in_threads(lambda number: self._gather_apart(number, slots, of_shard[number], out), apart)
        whole = sorted(of_shard.keys() - {*apart})
        for first in range(0, len(whole), _FETCHED_AT_ONCE):
            some = whole[first : first + _FETCHED_AT_ONCE]
            for number, block in zip(some, in_threads(self._block, some), strict=True):
                self._copy(block, number, slots, of_shard[number], out)

    def _is_apart(self, number: int, n_rows: int) -> bool:
        """Say whether rows of a shard are read apart: few, and it is not on this machine."""
        path = self._path(number)
        if number in self._kept or (isinstance(path, BucketPath) and is_fetched(path)):
            return False
        so_far = self._read_apart.get(number, 0) + n_rows
        self._read_apart[number] = so_far
        return so_far <= self.plans[number].n_rows * _PART

    def _gather_apart(
        self, number: int, slots: NDArray[np.int64], places: NDArray[np.intp], out: NDArray[Any]
    ) -> None:
        row_bytes = self.layout.row_bytes
        local, at = np.unique(slots[places] - self._starts[number], return_inverse=True)

        def read() -> list[bytes]:
            path = self.shard(number).path
            begins = (self.shard(number).offset + local * row_bytes).tolist()
            return path.read_ranges(begins, [row_bytes] * len(begins)) if isinstance(path, BucketPath) else []

        rows = b"".join(self._found(number, read))
        if len(rows) != row_bytes * len(local):
            raise BankReadError(
                f"shard {str(self._path(number))!r} gave {len(rows)} bytes for {len(local)} rows: try again"
            )
        out[places] = np.frombuffer(rows, self.layout.dtype).reshape(-1, *self.layout.shape)[at]

    def _most_kept(self) -> int:
        shard_bytes = self.layout.shard_rows * self.layout.row_bytes
        return max(1, min(_MAPS_LIMIT, _MAPS_BYTES // max(1, shard_bytes)))


def _by_number(numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    """Return where the rows of each block stand among `rows`: block by block, and upwards in each."""
    order = np.argsort(rows, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return [(int(numbers[places[0]]), places) for places in groups]


def _advise(block: NDArray[Any], local: NDArray[np.int64]) -> None:
    """Ask for the rows `local` of a mapped block, and where they lie far apart for nothing between them.

    Around each row that it has to fetch the system reads as much as the disk is set to, on some 8 MB.
    """
    base: Any = block
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    if not isinstance(base, mmap.mmap):
        return
    row_bytes, rows = block.nbytes // len(block), np.sort(local)
    ends = np.flatnonzero(np.diff(rows) > 1 + _APART_BYTES // row_bytes)
    if not len(ends):
        base.madvise(mmap.MADV_NORMAL)
        return
    base.madvise(mmap.MADV_RANDOM)
    begin = block.ctypes.data - np.frombuffer(base, np.uint8, 1).ctypes.data
    for first, last in zip(
        rows[np.append(0, ends + 1)].tolist(), rows[np.append(ends, -1)].tolist(), strict=True
    ):
        start = (begin + first * row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        base.madvise(mmap.MADV_WILLNEED, start, begin + (last + 1) * row_bytes - start)


def copy_rows(mapped: NDArray[Any], local: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy the rows `local` of an array, at least one, into `out`, of any float dtype."""
    first, n = int(local[0]), len(local)
    if local[-1] - first == n - 1 and (n == 1 or (np.diff(local) == 1).all()):
        out[...] = mapped[first : first + n]
    elif out.dtype == mapped.dtype and out.flags.c_contiguous:
        np.take(mapped, local, axis=0, out=out, mode="clip")  # "raise" would copy through a buffer
    else:
        _scatter(mapped, local, out, np.arange(n))


def _scatter(
    mapped: NDArray[Any], local: NDArray[np.int64], out: NDArray[Any], places: NDArray[np.int64]
) -> None:
    row_bytes = mapped.nbytes // len(mapped)
    if row_bytes >= _LARGE_ROW_BYTES:
        for place, row in zip(places.tolist(), local.tolist(), strict=True):
            out[place] = mapped[row]
        return
    step = min(len(local), max(1, _BLOCK_BYTES // row_bytes))
    block = np.empty((step, *mapped.shape[1:]), mapped.dtype)
    for start in range(0, len(local), step):
        part = local[start : start + step]
        np.take(mapped, part, axis=0, out=block[: len(part)], mode="clip")
        out[places[start : start + step]] = block[: len(part)]


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
    temperature : float, optional
        Of softmax features.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> features = bank["fc7"]
    >>> features.shape, features.dtype, features[[7, 0, 3]].shape
    ((300, 256), dtype('float16'), (3, 256))
    >>> [len(batch) for batch in features.iter_batches(128)]
    [128, 128, 44]
    """

    def __init__(
        self,
        bank: StoredFeatures,
        reader: SlotReader,
        stored: StoredManifest,
        temperature: float | None = None,
    ) -> None:
        self._bank = bank
        self._reader = reader
        self._stored = stored
        self._row_slots = stored.row_slots
        self.temperature = temperature

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
        return _reopen, (self._bank, self.cut, self._stored.rows_digest, self.temperature)

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
        self._reader.gather(slots, out)
        return out

    def _refuse_unusable(self, index: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        bad = np.flatnonzero(self._reader.statuses(slots) != RowStatus.OK)
        if not len(bad):
            return
        rows = list(dict.fromkeys(index[bad].tolist()))
        shown = ", ".join(repr(printable(self._stored.manifest.ids[row])) for row in rows[:5])
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


class DerivedReader:
    """Slots of a cut that is computed, when it is read, from slots of cuts that are stored.

    Parameters
    ----------
    layout : CutLayout
        Of what is computed.
    sources : sequence of SlotReader
        What it is computed from; they may be derived themselves.
    compute : callable
        Maps the sources' rows, in float64 for softmax and else in float32, to the rows of the cut.
    """

    def __init__(
        self,
        layout: CutLayout,
        sources: Sequence[SlotReader],
        compute: Callable[[list[NDArray[Any]]], NDArray[Any]],
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.layout = layout
        self._sources, self._compute, self._dtype = tuple(sources), compute, np.dtype(dtype)
        # of maps, which are large, a few at once: of some thousand all poolings are computed in the cache
        largest = max(one.layout.n_features for one in self._sources)
        self._step = max(1, min(_BATCH, _DERIVED_NUMBERS // largest))

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the status of each slot: the worst that a source has."""
        found = [one.statuses(slots) for one in self._sources]
        return functools.reduce(np.maximum, found)

    def usable(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which slots all sources can give."""
        return functools.reduce(np.logical_and, [one.usable(slots) for one in self._sources])

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Compute the features of `slots` into `out`."""
        for start in range(0, len(slots), self._step):
            part, blocks = slots[start : start + self._step], []
            for one in self._sources:
                block = np.empty((len(part), *one.layout.shape), self._dtype)
                one.gather(part, block)
                blocks.append(block)
            # rounded as if it were stored, whatever it is read as: a head gets the same numbers everywhere
            out[start : start + self._step] = self._compute(blocks).astype(self.layout.dtype)


def softmax_reader(logits: SlotReader, temperature: float) -> DerivedReader:
    """Return ``softmax(logits / temperature)`` in float32, of stored logits.

    Raises
    ------
    InvalidInputError
        If the temperature is not a finite number over 0, or a row of the cut has more than one axis.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    number = isinstance(temperature, int | float | np.integer | np.floating)
    if not number or isinstance(temperature, bool) or not (0 < temperature < math.inf):
        raise InvalidInputError(
            f"temperature={temperature!r} must be a finite number over 0; "
            f"1 gives the network's own probabilities"
        )
    layout = logits.layout
    if len(layout.shape) != 1:
        raise InvalidInputError(
            f"cut {layout.cut!r} has rows of shape {layout.shape}; softmax needs one axis of classes"
        )

    def softmax(blocks: list[NDArray[Any]]) -> NDArray[Any]:
        (block,) = blocks
        block -= block.max(axis=1, keepdims=True)  # exp never overflows
        with np.errstate(over="ignore", under="ignore"):  # a tiny temperature: the rest becomes 0
            block /= float(temperature)
            np.exp(block, out=block)
        block /= block.sum(axis=1, keepdims=True)
        return block

    name = str(replace(CutName.parse(layout.cut), base=SOFTMAX))
    kind = np.dtype(np.float32)
    return DerivedReader(replace(layout, cut=name, dtype=kind), [logits], softmax, dtype=np.float64)


def _reopen(bank: StoredFeatures, cut: str, rows: str, temperature: float | None) -> CutArray:
    bank._refuse_other_rows(rows)  # an array may be older than the bank it travels with
    return bank._array(cut, 1.0 if temperature is None else temperature)


class StoredFeatures(ABC):
    """Name, key, rows and features of a bank; `Bank` is the folder, `Archive` the packed file."""

    path: Path
    _document: BankDocument
    #: None while there is no manifest.
    _state: StoredManifest | None

    @classmethod
    @abstractmethod
    def _again(cls, path: Path) -> Self:
        """Open it where a pickled handle says it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        # absolute: another process may be in another folder
        return _reopen_bank, (type(self), self.path.absolute(), *self._pin)

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
        """Return the features of a cut: as they are stored, or derived when they are read.

        Parameters
        ----------
        cut : str
            ``CUT[:POOLING][@VIEW]``. ``"softmax"`` is derived from ``logits`` at temperature 1, and a pooling
            that is not stored from the map or the tokens that are. A cut that is only partly extracted can
            be opened; reading a missing row is an error.

        Returns
        -------
        CutArray

        Raises
        ------
        UnknownNameError
            If there is nothing of this cut, nor what it can be derived from.
        InvalidInputError
            If the pooling does not go with the cut.
        """
        return self._array(cut, 1.0)

    def sources(self, cut: str) -> tuple[str, ...]:
        """Return the stored cuts that ``bank[cut]`` reads: itself, or those it is derived from.

        Raises
        ------
        UnknownNameError, InvalidInputError
            As indexing does.
        """
        return tuple(dict.fromkeys(self._found_reader(cut)[1]))

    @abstractmethod
    def facts(self, cut: str) -> dict[str, Any]:
        """Return what extraction recorded of a stored cut; {} while it is not finished."""

    @abstractmethod
    def _stored_cuts(self) -> tuple[str, ...]:
        """Return the names of what is stored, complete or not."""

    def _array(self, cut: str, temperature: float) -> CutArray:
        reader, _ = self._found_reader(cut, temperature)
        is_softmax = CutName.parse(cut).base == SOFTMAX
        return CutArray(self, reader, self._stored, temperature if is_softmax else None)

    def _found_reader(self, cut: str, temperature: float = 1.0) -> tuple[SlotReader, list[str]]:
        """Return what reads a cut, and the stored cuts that it reads."""
        try:
            return self._reader(cut), [cut]
        except UnknownNameError as error:
            unknown = error
        try:
            name = CutName.parse(cut)
        except InvalidInputError:
            raise unknown from None
        if name.base == SOFTMAX and name.pooling is None:
            needed = str(replace(name, base=LOGITS))
            return softmax_reader(self._reader(needed), temperature), [needed]
        found = self._pooled(name)
        if found is None:
            raise unknown
        return found

    def _pooled(self, name: CutName) -> tuple[SlotReader, list[str]] | None:
        """Return what pools stored features when they are read; None where none are stored."""
        if name.pooling is None or name.pooling == MAP:
            return None
        if name.n_last is not None:
            layouts = {
                one: Layout.from_dict(self.facts(one))
                for one in self._stored_cuts()
                if CutName.parse(one).view == name.view
            }
            # a block may be stored whole, or as this pooling alone
            bases = {CutName.parse(one).base: layout for one, layout in layouts.items() if layout}
            blocks = last_blocks(bases, name.n_last)
            if blocks is None:
                return None
            try:
                found = [self._found_reader(str(replace(name, base=block))) for block in blocks]
            except UnknownNameError:
                return None
            readers, stored = [one for one, _ in found], [cut for _, cuts in found for cut in cuts]
            shape: tuple[int, ...] = (sum(one.layout.shape[0] for one in readers),)
            return self._derived(name, readers, shape, lambda blocks: np.concatenate(blocks, 1)), stored
        source = str(replace(name, pooling=None))
        try:
            reader = self._reader(source)
        except UnknownNameError:
            return None
        layout = Layout.from_dict(self.facts(source))
        if layout is None and len(reader.layout.shape) > 1:  # from before this was recorded, or not finished
            return None
        pooling = name.pooling
        shape = pooled_shape(source, reader.layout.shape, layout, pooling)
        if layout is None:
            return None
        return self._derived(name, [reader], shape, lambda blocks: pool(blocks[0], layout, pooling, np)), [
            source
        ]

    def _derived(
        self,
        name: CutName,
        readers: Sequence[SlotReader],
        shape: tuple[int, ...],
        compute: Callable[[list[NDArray[Any]]], NDArray[Any]],
    ) -> DerivedReader:
        dtype = np.result_type(*(one.layout.dtype for one in readers))
        return DerivedReader(
            replace(readers[0].layout, cut=str(name), shape=shape, dtype=dtype), readers, compute
        )

    def softmax(
        self, temperature: float, rows: slice | ArrayLike | None = None, *, view: str | None = None
    ) -> NDArray[np.float32]:
        """Return ``softmax(logits / temperature)``.

        Parameters
        ----------
        temperature : float
            Finite and over 0.
        rows : slice, array-like of int or bool, or None
            Which rows; None takes all.
        view : str, optional
            Of the images at this view.

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
        return self._array(str(CutName(SOFTMAX, view=view)), temperature).read(rows)

    def features(
        self, cut: str, rows: slice | ArrayLike | None = None, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """Return features as a table for a head.

        Parameters
        ----------
        cut : str
            Its name, as of ``bank[cut]``.
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
            Its name, as of ``bank[cut]``.
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
        >>> import featbank
        >>> bank = featbank.open_bank("digits")
        >>> X, y = bank.load("fc7", split="train")
        >>> X.shape, X.dtype.name, y.dtype.name
        ((214, 256), 'float32', 'int64')
        >>> bank.classes[y[0]]
        '0'
        """
        array, stored = self[cut], self._stored
        index = array._row_numbers(rows)
        if split is not None:
            wanted = np.zeros(len(self), bool)
            wanted[self.manifest.rows(split, readable=False)] = True
            index = index[wanted[index]]
        usable = stored.row_statuses[index] == RowStatus.OK
        usable[usable] = array._reader.statuses(stored.row_slots[index[usable]]) == RowStatus.OK
        index = index[usable]
        X = array.read(index, dtype=np.float32).reshape(len(index), array.n_features)
        return X, stored.labels[index].astype(np.int64)

    def rows_ok(self, cut: str) -> NDArray[np.bool_]:
        """Say which rows can be read in a cut: stored, and neither quarantined nor absent.

        Parameters
        ----------
        cut : str
            Its name, as of ``bank[cut]``.

        Returns
        -------
        ndarray of bool, shape (n_samples,)

        Raises
        ------
        CorruptBankError
            If a shard that is there is damaged.
        """
        return self._found_reader(cut)[0].usable(self.row_slots)


def _reopen_bank(kind: type[StoredFeatures], path: Path, key: str, rows: str | None) -> StoredFeatures:
    bank = kind._again(path)
    bank._refuse_other_rows(rows, key)
    return bank
