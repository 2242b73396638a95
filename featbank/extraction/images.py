"""Reads and decodes images ahead of the forward pass, in order, with bounded memory."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank.datasets import decode_image, row_indices
from featbank.errors import ImageDecodeError
from featbank.manifest import Manifest, RowStatus

if TYPE_CHECKING:
    from featbank.backbones import Preprocessing
    from featbank.datasets import Dataset

__all__ = ["BadImage", "Batch", "BatchLoader"]

#: Batches decoded ahead of the one being pushed: enough to hide decoding, few enough for a laptop's memory.
_AHEAD = 3


@dataclass(frozen=True)
class BadImage:
    """One row that could not be turned into pixels.

    Parameters
    ----------
    row : int
        Row of the manifest.
    status : RowStatus
        QUARANTINED, or ABSENT when the file is no longer the one that was listed.
    reason, detail : str
        As of `ImageDecodeError`.
    """

    row: int
    status: RowStatus
    reason: str
    detail: str


@dataclass
class Batch:
    """Decoded images of one run of slots.

    Parameters
    ----------
    start : int
        First slot.
    images : ndarray of uint8, shape (n_slots, size, size, 3)
        RGB; zeros where there is no image.
    statuses : ndarray of uint8, shape (n_slots,)
        `RowStatus` of each slot.
    bad : list of BadImage
        Why, for the rows that could not be read.
    """

    start: int
    images: NDArray[np.uint8]
    statuses: NDArray[np.uint8]
    bad: list[BadImage] = field(default_factory=list)


class BatchLoader:
    """Decodes the images of a dataset on threads; Pillow lets go of the interpreter while it works.

    Parameters
    ----------
    dataset : Dataset
        Where the bytes come from.
    manifest : Manifest
        Its rows; a file whose bytes no longer have the listed digest is ABSENT, not silently another image.
    preprocessing : Preprocessing
        Resize and crop.
    workers : int
        Number of threads.
    """

    def __init__(
        self, dataset: Dataset, manifest: Manifest, preprocessing: Preprocessing, workers: int
    ) -> None:
        self._dataset = dataset
        self.manifest = manifest
        self._preprocessing = preprocessing
        self._workers = workers
        self._indices = row_indices(dataset, manifest)

    def load(self, row: int) -> NDArray[np.uint8] | BadImage:
        """Read, check and decode one row: (size, size, 3) uint8, or what was wrong with it."""
        try:
            data = self._dataset.read(int(self._indices[row]))
        except ImageDecodeError as error:
            return BadImage(row, RowStatus.QUARANTINED, error.reason, error.detail)
        except OSError as error:
            status = RowStatus(int(self.manifest.statuses[row]))
            # A row that could not be read when it was listed is quarantined; one gone since is absent.
            known = status == RowStatus.QUARANTINED
            return BadImage(
                row,
                RowStatus.QUARANTINED if known else RowStatus.ABSENT,
                "unreadable",
                error.strerror or str(error),
            )
        if hashlib.sha256(data).digest() != self.manifest.digests[row].tobytes():
            return BadImage(row, RowStatus.ABSENT, "changed", "the file changed while it was being extracted")
        try:
            return self._preprocessing.apply_geometry(decode_image(data))
        except ImageDecodeError as error:
            return BadImage(row, RowStatus.QUARANTINED, error.reason, error.detail)

    def batches(self, runs: Iterable[tuple[int, Sequence[int]]]) -> Generator[Batch, None, None]:
        """Decode runs of slots ahead of time and hand them over in order.

        Parameters
        ----------
        runs : iterable of (int, sequence of int)
            First slot, and the manifest row of each slot (-1: the image is gone).

        Yields
        ------
        Batch
        """
        waiting: deque[tuple[int, list[Future[NDArray[np.uint8] | BadImage] | None]]] = deque()
        pending = iter(runs)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="featbank-decode") as pool:

            def submit(count: int) -> None:
                for start, rows in itertools.islice(pending, count):
                    waiting.append(
                        (start, [pool.submit(self.load, row) if row >= 0 else None for row in rows])
                    )

            try:
                submit(_AHEAD)
                while waiting:
                    start, futures = waiting.popleft()
                    batch = self._assemble(start, futures)
                    submit(1)
                    yield batch
            finally:  # an interrupted run must not wait for images nobody will use
                pool.shutdown(wait=True, cancel_futures=True)

    def _assemble(self, start: int, futures: Sequence[Future[NDArray[np.uint8] | BadImage] | None]) -> Batch:
        size = self._preprocessing.image_size
        batch = Batch(
            start,
            np.zeros((len(futures), size, size, 3), dtype=np.uint8),
            np.full(len(futures), RowStatus.ABSENT, dtype=np.uint8),
        )
        for position, future in enumerate(futures):
            if future is None:
                continue
            loaded = future.result()
            if isinstance(loaded, BadImage):
                batch.statuses[position] = loaded.status
                batch.bad.append(loaded)
            else:
                batch.images[position] = loaded
                batch.statuses[position] = RowStatus.OK
        return batch
