"""Reads and decodes images ahead of the forward pass, in order, with bounded memory."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank._cores import usable_cores
from featbank.banks import QuarantineRecord
from featbank.datasets.building import row_indices
from featbank.datasets.decode_pool import DecodeFailure, DecodePool, DecodeRequest
from featbank.manifest import Manifest, RowStatus

if TYPE_CHECKING:
    from torch import Tensor

    from featbank.backbones import Preprocessing
    from featbank.datasets import Dataset

__all__ = ["Batch", "BatchLoader"]

#: Bytes of pixels handed from stage to stage at once, for each core, and over all; and images, where they are
#: small: fewer at a time cost more than they give.
_CORE_BYTES, _RUN_BYTES, _RUN = 2_400_000, 32_000_000, 1024
#: Runs decoded ahead, those in use counted; and those in use at once, of each device.
_AHEAD = 5
IN_USE = 2


@dataclass
class Batch:
    """Decoded images of one run of slots.

    Parameters
    ----------
    start : int
        First slot.
    images : ndarray or Tensor of uint8, shape (n_slots, size, size, 3)
        RGB; zeros where there is no image. A tensor is on the device that decoded it.
    statuses : ndarray of uint8, shape (n_slots,)
        `RowStatus` of each slot: of one that could not be read QUARANTINED, or ABSENT where the file is no
        longer the one that was listed.
    bad : list of QuarantineRecord
        Why, for the rows that could not be read.
    """

    start: int
    images: NDArray[np.uint8] | Tensor
    statuses: NDArray[np.uint8]
    bad: list[QuarantineRecord] = field(default_factory=list)


class BatchLoader:
    """Decodes the images of a dataset in processes of their own, by a `DecodePool`.

    Parameters
    ----------
    dataset : Dataset
        Where the bytes come from.
    manifest : Manifest
        Its rows; a file whose bytes no longer have the listed digest is ABSENT, not silently another image.
    preprocessing : Preprocessing
        Resize and crop.
    workers : int
        Number of processes; they start with the first image, and end with `close`, or with this object.
    batch_size : int
        Slots that go through the network together, at most.
    n_devices : int, default=1
        Devices that take runs in turns.

    Attributes
    ----------
    run_slots : int
        Most slots of one run, `batch_size` or more.
    """

    def __init__(
        self,
        dataset: Dataset,
        manifest: Manifest,
        preprocessing: Preprocessing,
        workers: int,
        batch_size: int,
        n_devices: int = 1,
    ) -> None:
        self._dataset = dataset
        self._n_ahead = max(_AHEAD, IN_USE * n_devices + 1)
        self.manifest = manifest
        self._preprocessing = preprocessing
        self._workers = workers
        side = preprocessing.image_size
        self._shape = (side, side, 3)
        n = min(_RUN, min(usable_cores() * _CORE_BYTES, _RUN_BYTES) // (side * side * 3))
        self.run_slots = max(batch_size, n)
        self._indices = row_indices(dataset, manifest)
        self._started: DecodePool | None = None

    @property
    def _pool(self) -> DecodePool:
        if self._started is None:
            self._started = DecodePool(
                self._dataset,
                self._preprocessing.apply_geometry,
                shape=self._shape,
                batch_size=self.run_slots,
                workers=self._workers,
                ahead=self._n_ahead,
            )
        return self._started

    def close(self) -> None:
        """End the processes; the next image starts new ones."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def load(self, rows: Sequence[int]) -> Batch:
        """Read, check and decode a few rows, as the slots of one batch from 0 on."""
        with contextlib.closing(self.batches([(0, rows)])) as batches:
            return next(batches)

    def batches(
        self, runs: Iterable[tuple[int, Sequence[int] | NDArray[np.int64]]], *, held: int | None = None
    ) -> Generator[Batch, None, None]:
        """Decode runs of slots ahead of time and hand them over in order.

        Parameters
        ----------
        runs : iterable of (int, array-like of int)
            First slot, and the manifest row of each slot (-1: the image is gone).
        held : int, optional
            The images are in memory that is used again when so many more have been asked for, as of
            `DecodePool.batches`; by default they are copies.

        Yields
        ------
        Batch
        """
        asked: deque[tuple[int, NDArray[np.int64]]] = deque()

        def requests() -> Iterator[DecodeRequest]:
            for start, given in runs:
                rows = np.asarray(given, dtype=np.int64)
                asked.append((start, rows))
                # row -1 takes the last row's digest along, which nobody looks at
                indices = np.where(rows >= 0, self._indices[rows], -1)
                yield DecodeRequest(indices, self.manifest.digests[rows])

        with contextlib.closing(self._pool.batches(requests(), held=held or 1)) as decoded:
            for one in decoded:
                start, rows = asked.popleft()
                statuses = np.where(one.decoded, RowStatus.OK, RowStatus.ABSENT).astype(np.uint8)
                bad = []
                unlisted = np.flatnonzero((rows >= 0) & (self._indices[rows] < 0)).tolist()
                gone = [
                    DecodeFailure(place, "unreadable", "its source no longer lists it") for place in unlisted
                ]
                for failure in [*one.failures, *gone]:
                    row = int(rows[failure.position])
                    statuses[failure.position] = self._status(row, failure)
                    digest = self.manifest.digests[row].tobytes().hex()
                    bad.append(
                        QuarantineRecord(self.manifest.ids[row], digest, failure.reason, failure.detail)
                    )
                yield Batch(start, one.images if held else one.images.copy(), statuses, bad)

    def _status(self, row: int, failure: DecodeFailure) -> RowStatus:
        # A row that could not be read when it was listed is quarantined; one gone since is absent.
        known = RowStatus(int(self.manifest.statuses[row])) == RowStatus.QUARANTINED
        gone = failure.reason == "changed" or (failure.reason == "unreadable" and not known)
        return RowStatus.ABSENT if gone else RowStatus.QUARANTINED
