"""Images decoded ahead of the forward pass, in order, with bounded memory: in processes, or on a card."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank._process import usable_cores
from featbank.banks import QuarantineRecord
from featbank.datasets.building import row_indices
from featbank.datasets.decode_pool import DecodeFailure, DecodePool, DecodeRequest
from featbank.errors import ImageDecodeError
from featbank.extraction.jpeg_decoder import plain_jpeg_size
from featbank.manifest import Manifest, RowStatus

if TYPE_CHECKING:
    from torch import Tensor

    from featbank.backbones import Preprocessing
    from featbank.datasets import Dataset
    from featbank.extraction.jpeg_decoder import JpegDecoder

__all__ = ["Batch", "BatchLoader", "DeviceBatchLoader"]

logger = logging.getLogger(__name__)

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


# Plain JPEGs decoded, resized and cropped on the device that computes -------------------------------

#: Batches read and decoded ahead of the ones that wait for what the processes decode.
_AHEAD_OF_DEVICE = 2
#: Larger files are left to the processes: at most `batch_size` times this waits in memory, for each batch.
_MAX_FILE_BYTES = 8 << 20
#: Images of the first run that Pillow decodes as well, as a proof.
_N_COMPARED = 5
#: Pixels decoded in one call, 3 bytes each on the device; no single image has more.
_MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class _File:
    """A plain JPEG as it was listed."""

    data: bytes
    n_pixels: int


@dataclass
class _Decoded:
    """What the device made of one run of slots; `others` are the rows left to the processes."""

    images: Tensor
    on_device: NDArray[np.bool_]
    others: NDArray[np.int64]


class DeviceBatchLoader(BatchLoader):
    """Decodes plain JPEGs on a device, in batches, and every other image as `BatchLoader` does.

    Which way an image takes depends on its bytes alone. Whatever the device's decoder refuses goes the way of
    the others before it is called bad, so statuses, reasons and failures are those of `BatchLoader`. A few of
    the first images are decoded both ways: where they are not the same pictures, nothing is handed out.

    A file that crashes the device's decoder ends the run: it is not decoded in a process of its own, as the
    others are.

    Parameters
    ----------
    dataset, manifest, preprocessing, workers, batch_size
        As of `BatchLoader`; so many threads read files, too.
    decoder : JpegDecoder
        Of the device, see `open_jpeg_decoder`.

    Attributes
    ----------
    run_slots : int
        As of `BatchLoader`.
    n_on_device : int
        Images decoded on the device so far.
    n_refused : int
        Plain JPEGs the device's decoder refused so far.
    steps_off : float or None
        How far its pixels are from Pillow's, in steps of 8 bits: the mean over an image, of the middle one of
        a few from the first run; None before, and where too few could be compared.
    """

    def __init__(
        self,
        dataset: Dataset,
        manifest: Manifest,
        preprocessing: Preprocessing,
        workers: int,
        batch_size: int,
        *,
        decoder: JpegDecoder,
    ) -> None:
        super().__init__(dataset, manifest, preprocessing, workers, batch_size)
        self.n_on_device = self.n_refused = 0
        self.steps_off: float | None = None
        self._compared = False
        self._decoder = decoder

    def batches(
        self, runs: Iterable[tuple[int, Sequence[int] | NDArray[np.int64]]], *, held: int | None = None
    ) -> Generator[Batch, None, None]:
        """Decode runs of slots ahead of time and hand them over in order.

        Parameters
        ----------
        runs : iterable of (int, sequence of int)
            First slot, and the manifest row of each slot (-1: the image is gone).
        held : int, optional
            As of `BatchLoader.batches`; the images of each batch are a tensor of their own here.

        Yields
        ------
        Batch
            As of `BatchLoader.batches`, with the images as a tensor on the device.

        Raises
        ------
        DecoderProcessError
            If the device's decoder, or the processes, cannot work any more, or the device's pictures are not
            Pillow's.
        """
        done: deque[_Decoded] = deque()
        before = self.n_on_device, self.n_refused
        with contextlib.ExitStack() as stack:
            ahead = stack.enter_context(contextlib.closing(self._ahead(runs)))

            def others() -> Iterator[tuple[int, Sequence[int]]]:
                for start, one in ahead:
                    done.append(one)
                    yield start, one.others.tolist()

            # One request a run, also where nothing is left to the processes: they keep the runs in order.
            by_processes = super().batches(others(), held=1)
            for rest in stack.enter_context(contextlib.closing(by_processes)):
                yield self._joined(done.popleft(), rest)
        logger.info(
            "%d images decoded by %s, which refused %d; the others by Pillow%s",
            self.n_on_device - before[0],
            self._decoder.name,
            self.n_refused - before[1],
            "" if self.steps_off is None else f", whose pixels are {self.steps_off:.2g} steps of 255 off",
        )

    def _ahead(
        self, runs: Iterable[tuple[int, Sequence[int] | NDArray[np.int64]]]
    ) -> Generator[tuple[int, _Decoded], None, None]:
        """Read files in threads and decode them on one more, a few runs ahead."""
        waiting: deque[tuple[int, Future[_Decoded]]] = deque()
        readers = ThreadPoolExecutor(self._workers, "featbank-read")
        device = ThreadPoolExecutor(1, "featbank-device-decode")
        try:
            for start, given in runs:
                rows = np.asarray(given, dtype=np.int64)
                files = [readers.submit(self._plain_jpeg, row) for row in rows.tolist()]
                waiting.append((start, device.submit(self._decoded, rows, files)))
                if len(waiting) > _AHEAD_OF_DEVICE:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            # in this order: what decodes may be waiting for a file that will not be read any more
            readers.shutdown(cancel_futures=True)
            device.shutdown(cancel_futures=True)

    def _plain_jpeg(self, row: int) -> _File | None:
        """Read the file of a row; None if it is not for the device, for whatever reason."""
        if row < 0:
            return None
        index = int(self._indices[row])
        path_of = getattr(self._dataset, "path_of", None)  # of a large file no byte is read here
        # What cannot be read, or is not what was listed, is found so again by the processes, which say why.
        try:
            if path_of is not None and os.stat(path_of(index)).st_size > _MAX_FILE_BYTES:  # noqa: PTH116
                return None
            data = self._dataset.read(index)
        except (OSError, ImageDecodeError):
            return None
        size = plain_jpeg_size(data) if len(data) <= _MAX_FILE_BYTES else None
        if size is None or size[0] * size[1] > _MAX_PIXELS:
            return None
        if hashlib.sha256(data).digest() != self.manifest.digests[row].tobytes():
            return None
        return _File(data, size[0] * size[1])

    def _decoded(self, rows: NDArray[np.int64], files: Sequence[Future[_File | None]]) -> _Decoded:
        import torch

        plain = {position: file for position, one in enumerate(files) if (file := one.result()) is not None}
        side = self._preprocessing.image_size
        with self._decoder.stream():
            images = torch.zeros((len(rows), side, side, 3), dtype=torch.uint8, device=self._decoder.device)
            on_device = np.zeros(len(rows), bool)
            for positions in _in_calls(plain):
                contents = [plain[position].data for position in positions]
                for position, square in zip(
                    positions, self._decoder.squares(contents, self._preprocessing), strict=True
                ):
                    if square is not None:
                        images[position] = square.permute(1, 2, 0)  # (side, side, 3)
                        on_device[position] = True
            self._decoder.release(images)
            if not self._compared:
                self._compare(plain, images, on_device)
        self.n_on_device += int(on_device.sum())
        self.n_refused += len(plain) - int(on_device.sum())
        return _Decoded(images, on_device, np.where(on_device, -1, rows))

    def _compare(self, plain: dict[int, _File], images: Tensor, on_device: NDArray[np.bool_]) -> None:
        positions = np.flatnonzero(on_device)[:_N_COMPARED].tolist()
        files = [plain[position].data for position in positions]
        squares = [images[position].permute(2, 0, 1) for position in positions]  # (3, side, side)
        self.steps_off = self._decoder.steps_off(files, squares, self._preprocessing)
        self._compared = self.steps_off is not None

    def _joined(self, decoded: _Decoded, rest: Batch) -> Batch:
        """Put what the processes decoded beside what the device did."""
        import torch

        images = decoded.images
        elsewhere = np.flatnonzero(rest.statuses == RowStatus.OK)
        if len(elsewhere):
            with self._decoder.stream():  # in the default one the copy would wait for the forward passes
                pixels = torch.from_numpy(rest.images[elsewhere]).to(images.device)
                images[torch.from_numpy(elsewhere).to(images.device)] = pixels
                self._decoder.wait()
        statuses = np.where(decoded.on_device, RowStatus.OK, rest.statuses).astype(np.uint8)
        return Batch(rest.start, images, statuses, rest.bad)


def _in_calls(files: dict[int, _File]) -> Iterator[list[int]]:
    """Share positions out over calls of the decoder, so that the pixels of each have room on the device."""
    positions: list[int] = []
    n_pixels = 0
    for position, file in files.items():
        if positions and n_pixels + file.n_pixels > _MAX_PIXELS:
            yield positions
            positions, n_pixels = [], 0
        positions.append(position)
        n_pixels += file.n_pixels
    if positions:
        yield positions
