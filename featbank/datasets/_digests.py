"""Digests of the images of a dataset: read on several threads, or by processes where reading decodes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from featbank.datasets.decode_pool import read_by_processes
from featbank.datasets.sources import Dataset
from featbank.errors import ImageDecodeError

__all__ = ["row_digests", "unreadable_digest"]

_ROWS_PER_TASK = 32
_MAX_THREADS = 8
# Faults of this process, not of a file: quarantining images for them would lose good data.
_OUR_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def unreadable_digest(image_id: bytes) -> bytes:
    """Return what stands for the digest of an image that cannot be read; no two of them are alike."""
    return hashlib.sha256(b"unreadable\0" + image_id).digest()


def row_digests(
    dataset: Dataset, indices: NDArray[np.int64] | Sequence[int]
) -> list[tuple[bytes, str | None]]:
    """Read and hash images.

    Where reading decodes, as in torchvision's datasets, the decoding processes do it: an image that crashes
    or hangs them costs one row.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int
        Which images.

    Returns
    -------
    list of (bytes, str or None)
        SHA-256 of each; of one that cannot be read its `unreadable_digest`, and why.

    Raises
    ------
    OSError
        If this process is out of memory or files: that is no image's fault.
    """
    if getattr(dataset, "decodes", False):
        return _hashed_by_processes(dataset, [int(index) for index in indices])
    # Reading and hashing let go of the interpreter lock; more threads than this do not help one disk.
    executor = ThreadPoolExecutor(min(_MAX_THREADS, 2 * (os.cpu_count() or 1)))
    starts = range(0, len(indices), _ROWS_PER_TASK)
    parts = [[int(index) for index in indices[start : start + _ROWS_PER_TASK]] for start in starts]
    try:
        return [one for part in executor.map(lambda part: _hashed(dataset, part), parts) for one in part]
    finally:
        executor.shutdown(cancel_futures=True)


def _hashed_by_processes(dataset: Dataset, indices: list[int]) -> list[tuple[bytes, str | None]]:
    read = read_by_processes(dataset, indices, _digest, hashlib.sha256().digest_size)
    return [
        (found.tobytes(), None)
        if isinstance(found, np.ndarray)
        else (unreadable_digest(dataset.ids[index]), found.detail or found.reason)
        for index, found in zip(indices, read, strict=True)
    ]


def _digest(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def _hashed(dataset: Dataset, indices: list[int]) -> list[tuple[bytes, str | None]]:
    results: list[tuple[bytes, str | None]] = []
    for index in indices:
        try:
            results.append((hashlib.sha256(dataset.read(index)).digest(), None))
        except (OSError, ImageDecodeError) as error:
            if isinstance(error, OSError) and error.errno in _OUR_FAULT:
                raise
            why = getattr(error, "strerror", None) or str(error)
            results.append((unreadable_digest(dataset.ids[index]), why))
    return results
