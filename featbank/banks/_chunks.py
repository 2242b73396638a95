"""Features inside a packed file, read by position: compressed chunk by chunk, or mapped where they are plain.

No HDF5 here: whoever has checked the file's structure knows where everything stands. HDF5's own list index
decodes a chunk again for every row that is taken from it.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.banks._codecs import Codec, chunk_rows, decode
from featbank.banks._cut_reader import copy_rows

#: Decoded chunks kept for the next reading, in bytes (one at least): rows come back in small batches.
_KEPT_BYTES = 16 * 1024 * 1024


class ChunkError(ValueError):
    """A chunk that cannot be decoded, or is not in the file."""


class ChunkedRows:
    """Rows of one compressed dataset; each chunk that is needed is decoded once per reading.

    Parameters
    ----------
    descriptor : int
        The file, open for reading.
    offset : int
        Where the HDF5 file begins in it.
    codec : Codec
        How its chunks are compressed.
    shape : tuple of int
        ``(n_rows, *shape of one row)``.
    dtype : numpy.dtype
        Type of its values.
    places : ndarray of int64, shape (n_chunks, 2)
        Where each chunk begins, and how many bytes it takes.
    kept_bytes : int, optional
        Decoded chunks that stay in memory.
    """

    def __init__(
        self,
        descriptor: int,
        offset: int,
        codec: Codec,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        places: NDArray[np.int64],
        kept_bytes: int | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._descriptor, self._offset, self._codec, self._places = descriptor, offset, codec, places
        self._row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self.chunk_rows = chunk_rows(self._row_bytes, shape[0])
        kept_bytes = _KEPT_BYTES if kept_bytes is None else kept_bytes
        self._most_kept = max(1, kept_bytes // (self.chunk_rows * self._row_bytes))
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        index = np.arange(*rows.indices(len(self)))
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        self.gather(index, out)
        return out

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy `rows` into `out`, shape (len(rows), *shape of one row), of any float dtype."""
        if not len(rows):
            return
        numbers = rows // self.chunk_rows
        order = np.argsort(numbers, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            number = int(numbers[places[0]])
            chunk, local = self._chunk(number), rows[places] - number * self.chunk_rows
            first, n = int(places[0]), len(places)
            if places[-1] - first == n - 1 and (np.diff(places) == 1).all():
                copy_rows(chunk, local, out[first : first + n])
            else:
                out[places] = chunk[local]

    def _chunk(self, number: int) -> NDArray[Any]:
        known = self._kept.get(number)
        if known is None:
            known = self._decoded(number)
            self._kept[number] = known
            while len(self._kept) > self._most_kept:
                with contextlib.suppress(KeyError):  # another thread was first
                    self._kept.popitem(last=False)
        else:
            with contextlib.suppress(KeyError):
                self._kept.move_to_end(number)
        return known

    def _decoded(self, number: int) -> NDArray[Any]:
        offset, size = self._places[number].tolist()
        data = os.pread(self._descriptor, size, self._offset + offset)
        if len(data) != size:
            raise ChunkError(f"chunk {number} is not all in the file")
        try:
            values = decode(self._codec, data, self.chunk_rows * self._row_bytes, self.dtype)
        except ValueError as error:
            raise ChunkError(f"chunk {number} is damaged: {error}") from error
        return values.reshape(self.chunk_rows, *self.shape[1:])


class MappedRows:
    """Rows of one dataset that is stored in one piece, memory-mapped; parameters as in `ChunkedRows`.

    Parameters
    ----------
    descriptor : int
        The file, open for reading.
    shape : tuple of int
        ``(n_rows, *shape of one row)``.
    dtype : numpy.dtype
        Type of its values.
    offset : int
        Where its values begin in the file.
    """

    def __init__(self, descriptor: int, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
        self.shape, self.dtype = shape, dtype
        self._mapped: NDArray[Any] = np.zeros(shape if not shape[0] else 0, dtype)
        if shape[0]:  # nothing cannot be mapped
            with os.fdopen(os.dup(descriptor), "rb") as file:
                self._mapped = np.memmap(file, dtype, "r", offset, shape).view(np.ndarray)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self._mapped[rows]

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy `rows` into `out`, shape (len(rows), *shape of one row), of any float dtype."""
        if len(rows):
            copy_rows(self._mapped, rows, out)
