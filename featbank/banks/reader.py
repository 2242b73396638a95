"""Reads slots of one cut: from the mapped shards of a folder, or from one packed file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank.banks._codecs import Codec, chunk_rows, decode
from featbank.banks.index import ShardPlan, SlotTable
from featbank.banks.shards import CutLayout, Shard, check_place, read_shard, shard_files
from featbank.errors import IncompleteBankError
from featbank.manifest import RowStatus

#: Maps kept open at once; each holds a file descriptor, of which many systems allow 1024.
_MAPS_LIMIT = 64

#: From this size on, rows are copied one by one: the copy outweighs the loop, and no second copy is made.
_LARGE_ROW_BYTES = 32 * 1024

#: Bytes of smaller rows gathered at once before they are put in their places; small enough for a cache.
_BLOCK_BYTES = 256 * 1024

#: Decoded chunks kept for the next reading, in bytes (one at least): rows come back in small batches.
_KEPT_BYTES = 16 * 1024 * 1024

#: Stands in `CutReader` for a slot whose shard has not been opened yet.
_UNKNOWN = 255


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


class CutReader:
    """The slots of one cut in a folder, memory-mapped shard by shard, each checked once.

    Parameters
    ----------
    folder : pathlib.Path
        The cut's folder.
    layout : CutLayout
        What its shards must look like.
    table : SlotTable
        The bank's slots.
    lacks : callable
        Turns a `ShardPlan` without a file into the text of the error.
    """

    def __init__(
        self, folder: Path, layout: CutLayout, table: SlotTable, lacks: Callable[[ShardPlan], str]
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.table = table
        self.plans = table.plan(layout.shard_rows)
        self._starts = np.array([plan.start for plan in self.plans], np.int64)
        self._lacks = lacks
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[int, Path] | None = None
        self._shards: dict[int, Shard] = {}
        self._maps: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._statuses = np.full(len(self.table), _UNKNOWN, np.uint8)

    def _own_process(self) -> None:
        # after a fork the lock may be held by a thread that does not exist here
        if self._pid != os.getpid():
            self._reset()

    def numbers_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard number of each slot."""
        return np.searchsorted(self._starts, slots, side="right").astype(np.int64) - 1

    def _path(self, number: int) -> Path:
        if self._files is None or number not in self._files:  # new shards may have come since
            self._files = shard_files(self.folder)
        if number not in self._files:
            raise IncompleteBankError(self._lacks(self.plans[number]))
        return self._files[number]

    def shard(self, number: int) -> Shard:
        """Return what one shard says of itself, checked.

        Raises
        ------
        IncompleteBankError
            If it has no file.
        CorruptBankError, BankReadError, BankFormatError
            As `read_shard` and `check_place`.
        """
        self._own_process()
        known = self._shards.get(number)
        if known is None:
            plan = self.plans[number]
            try:
                known = read_shard(self._path(number))
            except FileNotFoundError as error:  # removed since the folder was listed
                raise self._gone(number) from error
            check_place(known, self.layout, plan, self.table.digests[plan.start : plan.stop])
            self._statuses[plan.start : plan.stop] = known.statuses
            self._shards[number] = known.lean()  # the digests are the table's
        return known

    def _gone(self, number: int) -> IncompleteBankError:
        self._files = None
        self._shards.pop(number, None)
        return IncompleteBankError(self._lacks(self.plans[number]))

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the status of each slot in this cut; every shard asked for must be there."""
        self._own_process()
        found = self._statuses[slots]
        unknown = found == _UNKNOWN
        if unknown.any():
            for number in np.unique(self.numbers_of(slots[unknown])).tolist():
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

    def _map(self, number: int) -> NDArray[Any]:
        with self._lock:
            mapped = self._maps.get(number)
            if mapped is not None:
                self._maps.move_to_end(number)
                return mapped
        try:
            mapped = self.shard(number).features()
        except FileNotFoundError as error:  # removed since it was checked
            raise self._gone(number) from error
        with self._lock:
            self._maps[number] = mapped
            while len(self._maps) > _MAPS_LIMIT:
                self._maps.popitem(last=False)
        return mapped

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the features of `slots` into `out`, shape (len(slots), *shape), of any float dtype."""
        self._own_process()
        numbers = self.numbers_of(slots)
        if len(slots) and (numbers == numbers[0]).all():
            copy_rows(self._map(int(numbers[0])), slots - self._starts[numbers[0]], out)
            return
        # shard by shard and upwards in each: a disk that is not cached is read in order
        for places in _runs(numbers, np.argsort(slots, kind="stable")):
            number = int(numbers[places[0]])
            _copy_to(self._map(number), slots[places] - self._starts[number], out, places)


class MappedRows:
    """Rows of a packed file that stand there in one piece, memory-mapped."""

    def __init__(self, mapped: NDArray[Any]) -> None:
        self._mapped, self.shape, self.dtype = mapped, mapped.shape, mapped.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self._mapped[rows]

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy `rows` into `out`, shape (len(rows), *shape of one row), of any float dtype."""
        if len(rows):
            copy_rows(self._mapped, rows, out)


class ChunkedRows:
    """Rows of a packed file in compressed chunks; each chunk that is needed is decoded once per reading.

    Parameters
    ----------
    descriptor : int
        The file, open for reading.
    codec : Codec
        How its chunks are compressed.
    shape : tuple of int
        ``(n_rows, *shape of one row)``.
    dtype : numpy.dtype
        Type of its values.
    places : ndarray of int64, shape (n_chunks, 2)
        Where each chunk begins in the file, and how many bytes it takes.
    """

    def __init__(
        self,
        descriptor: int,
        codec: Codec,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        places: NDArray[np.int64],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._descriptor, self._codec, self._places = descriptor, codec, places
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._chunk_rows = chunk_rows(row_bytes, shape[0])
        self._chunk_bytes = self._chunk_rows * row_bytes
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        index = np.arange(*rows.indices(len(self)))
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        self.gather(index, out)
        return out

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy `rows` into `out`; raises `ValueError` if a chunk is damaged."""
        numbers = rows // self._chunk_rows
        for places in _runs(numbers, np.argsort(numbers, kind="stable")):
            number = int(numbers[places[0]])
            _copy_to(self._chunk(number), rows[places] - number * self._chunk_rows, out, places)

    def _chunk(self, number: int) -> NDArray[Any]:
        known = self._kept.get(number)
        if known is None:
            known = self._kept[number] = self._decoded(number)
            while len(self._kept) > max(1, _KEPT_BYTES // self._chunk_bytes):
                with contextlib.suppress(KeyError):  # another thread was first
                    self._kept.popitem(last=False)
        else:
            with contextlib.suppress(KeyError):
                self._kept.move_to_end(number)
        return known

    def _decoded(self, number: int) -> NDArray[Any]:
        offset, size = self._places[number].tolist()
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise ValueError(f"chunk {number} is not all in the file")
        try:
            values = decode(self._codec, data, self._chunk_bytes, self.dtype)
        except ValueError as error:
            raise ValueError(f"chunk {number} is damaged: {error}") from error
        return values.reshape(self._chunk_rows, *self.shape[1:])


def _runs(numbers: NDArray[np.int64], order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut `order` where the number changes."""
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return [one for one in parts if len(one)]


def _copy_to(
    source: NDArray[Any], local: NDArray[np.int64], out: NDArray[Any], places: NDArray[np.int64]
) -> None:
    """Copy the rows `local` of an array to these places of `out`."""
    first, n = int(places[0]), len(places)
    if places[-1] - first == n - 1 and (np.diff(places) == 1).all():
        copy_rows(source, local, out[first : first + n])
    else:
        _scatter(source, local, out, places)


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
