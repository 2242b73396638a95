"""Decodes images in processes of its own: a decoder that crashes or hangs costs one image, not the run."""

from __future__ import annotations

import mmap
import os
import queue
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank._cores import usable_cores
from featbank.datasets._decode_handle import Chunk, DecodeFailure, Shared, WorkerHandle
from featbank.datasets._decode_worker import CONTROL_BYTES, Work
from featbank.datasets.sources import Dataset
from featbank.errors import InvalidInputError

__all__ = ["DecodeFailure", "DecodePool", "DecodeRequest", "DecodedBatch", "read_by_processes"]

#: Most bytes of pixels a worker is handed at once, and images where one has more: few enough to share a batch
#: out, many enough to hide the way there.
_CHUNK_BYTES, _CHUNK = 2_400_000, 16
_LOOK_AGAIN_S = 0.2
_ROWS_PER_REQUEST = 256
#: Longest time for one image, where nobody asks for another.
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class DecodeRequest:
    """One batch to be decoded.

    Parameters
    ----------
    indices : array-like of int, shape (n,)
        What ``dataset.read`` is called with; below 0: there is no image, its pixels stay 0.
    digests : ndarray of uint8, shape (n, 32), optional
        SHA-256 that each file must have; another one is the failure ``"changed"``.
    """

    indices: Sequence[int] | NDArray[np.int64]
    digests: NDArray[np.uint8] | None = None


@dataclass
class DecodedBatch:
    """The images of one request.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, h, w, 3)
        In memory that is used again, see `DecodePool.batches`. Zeros where there is no image.
    decoded : ndarray of bool, shape (n,)
        Which positions hold an image.
    failures : list of DecodeFailure
        In order of position.
    """

    images: NDArray[np.uint8]
    decoded: NDArray[np.bool_]
    failures: list[DecodeFailure] = field(default_factory=list)


class DecodePool:
    """Processes that read images, decode them and bring them to one size, ahead of whoever uses them.

    A process that dies, or sits on one image for longer than `timeout_s`, is replaced. The image it was on
    fails with ``"crashed"`` (after a second try, alone) or ``"timeout"``; no other is affected. The processes
    know numpy, Pillow and this package, get no key press, and end with this process, however it ends.

    Parameters
    ----------
    dataset : Dataset
        Where the bytes come from: each process gets it and calls its ``read``. It may be defined in a script
        or notebook; it must not hold what cannot be pickled, such as an open file.
    to_pixels : callable
        From an upright RGB Pillow image to uint8 of shape `shape`; can be pickled, e.g. a
        ``Preprocessing``'s ``apply_geometry``.
    shape : tuple of int
        Of each result, such as (h, w, 3).
    batch_size : int
        Most images of one request.
    workers : int
        Number of processes.
    ahead : int, default=3
        Batches decoded ahead of the one in use.
    timeout_s : float, optional
        Longest time for one image, reading included; default: 30.
    max_memory_bytes : int, default=2 GiB
        Most address space one image may take in a process, over what it has when idle. An image that wants
        more fails with ``"out-of-memory"``. Enforced on Linux.
    max_pixels : int or None, default=100_000_000
        As of `decode_image`; None: nothing is decoded, `to_pixels` gets the bytes of the file.

    Raises
    ------
    InvalidInputError
        If an argument cannot work, e.g. a `to_pixels` or a dataset that cannot be pickled.

    Examples
    --------
    >>> from featbank.datasets import open_dataset
    >>> from featbank.backbones import Preprocessing
    >>> to_pixels = Preprocessing(8, 8).apply_geometry
    >>> with DecodePool(open_dataset("digits"), to_pixels, shape=(8, 8, 3), batch_size=4, workers=1) as pool:
    ...     for batch in pool.batches([DecodeRequest([0, 1, -1])]):
    ...         print(batch.images.shape, batch.decoded.tolist(), batch.failures)
    (3, 8, 8, 3) [True, True, False] []
    """

    def __init__(
        self,
        dataset: Dataset,
        to_pixels: Callable[[Any], NDArray[np.uint8]],
        *,
        shape: tuple[int, ...],
        batch_size: int,
        workers: int,
        ahead: int = 3,
        timeout_s: float | None = None,
        max_memory_bytes: int = 2 << 30,
        max_pixels: int | None = 100_000_000,
    ) -> None:
        wrong = [
            f"{name}={value!r}"
            for name, value in (
                ("batch_size", batch_size),
                ("workers", workers),
                ("ahead", ahead),
                ("timeout_s", timeout_s),
                ("max_memory_bytes", max_memory_bytes),
                ("max_pixels", max_pixels),
            )
            if value is not None and not value > 0
        ]
        if wrong:
            raise InvalidInputError(f"{', '.join(wrong)}: must be more than 0")
        timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._batch_size, self._workers, self._shape = batch_size, workers, tuple(shape)
        offset = -(-CONTROL_BYTES * workers // mmap.PAGESIZE) * mmap.PAGESIZE
        n_images = batch_size * (ahead + 1)
        self._file = _memory_file(offset + n_images * int(np.prod(shape)))
        self._memory = mmap.mmap(self._file, 0)
        flat = np.frombuffer(self._memory, np.uint8, n_images * int(np.prod(shape)), offset)
        self._images: NDArray[np.uint8] = flat.reshape(ahead + 1, batch_size, *shape)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(ahead + 1):
            self._free.put(slot)
        self._in_use = False
        work = Work(
            dataset=dataset,
            to_pixels=to_pixels,
            max_pixels=max_pixels,
            offset=offset,
            n_images=n_images,
            shape=self._shape,
            max_memory_bytes=max_memory_bytes,
            timeout_s=timeout_s,
        )
        work_file = _memory_file(0)
        try:
            self._shared = Shared(work, self._file, self._memory, work_file)
        except BaseException:
            os.close(self._file)
            os.close(work_file)
            raise
        self._handles = [WorkerHandle(number, self._shared) for number in range(workers)]
        # Also when nobody closes the pool: at the latest before the interpreter ends.
        self._end = weakref.finalize(self, _end, self._shared, self._handles, self._file, work_file)
        for handle in self._handles:
            handle.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes at once, whatever they are doing; pixels handed out stay readable."""
        self._end()

    def batches(
        self, requests: Iterable[DecodeRequest], *, held: int = 1
    ) -> Generator[DecodedBatch, None, None]:
        """Decode requests ahead of time and hand them over in order.

        Parameters
        ----------
        requests : iterable of DecodeRequest
            Taken from as there is room.
        held : int, default=1
            Batches the caller uses at once, at most `ahead`.

        Yields
        ------
        DecodedBatch
            Its pixels are valid until `held` more have been asked for.

        Raises
        ------
        InvalidInputError
            If a request is longer than `batch_size`, `to_pixels` gives the wrong shape, the pool is closed,
            the batches of an earlier call are still being taken, or `held` is more than there is room for.
        DecoderProcessError
            If the processes cannot be started, or keep dying without an image that could be blamed.
        """
        if self._in_use:
            raise InvalidInputError(
                "batches of this DecodePool are being taken already; exhaust or close those first"
            )
        if not 0 < held < len(self._images):
            raise InvalidInputError(f"held={held!r} must be 1 to {len(self._images) - 1}, what is ahead")
        self._in_use = True
        waiting: deque[_Pending] = deque()
        used: deque[int] = deque()
        try:
            for request in requests:
                # What an earlier call left unfinished holds its memory until no process writes to it.
                while (slot := self._free_slot(wait=not waiting)) is None:
                    yield self._handed_over(waiting, used)
                    if len(used) == held:
                        self._free.put(used.popleft())
                waiting.append(self._submit(request, slot))
            while waiting:
                yield self._handed_over(waiting, used)
        finally:
            self._in_use = False
            for slot in used:
                self._free.put(slot)
            for one in waiting:
                one.drop(self._free)

    def _handed_over(self, waiting: deque[_Pending], used: deque[int]) -> DecodedBatch:
        batch = self._settled(waiting[0])
        used.append(waiting.popleft().slot)
        return batch

    def _free_slot(self, *, wait: bool) -> int | None:
        while self._shared.failure is None:
            with suppress(queue.Empty):
                return self._free.get(block=wait, timeout=_LOOK_AGAIN_S)
            if not wait:
                return None
        raise self._shared.failure

    def _submit(self, request: DecodeRequest, slot: int) -> _Pending:
        n = len(request.indices)
        if n > self._batch_size:
            self._free.put(slot)
            raise InvalidInputError(f"a request of {n} images, batch_size={self._batch_size} is the most")
        indices = np.asarray(request.indices, dtype=np.int64)
        present = np.flatnonzero(indices >= 0)
        most = max(_CHUNK, _CHUNK_BYTES // max(1, int(np.prod(self._shape))))
        size = min(most, max(1, -(-len(present) // (2 * self._workers))))
        pending = _Pending(slot, n, present, -(-len(present) // size))
        for first in range(0, len(present), size):
            part = present[first : first + size]
            digests = None if request.digests is None else request.digests[part]
            places = slot * self._batch_size + part
            self._shared.chunks.put(Chunk(part, places, indices[part], digests, pending.chunk_done))
        return pending

    def _settled(self, pending: _Pending) -> DecodedBatch:
        while not pending.ended.wait(_LOOK_AGAIN_S) and self._shared.failure is None:
            pass
        if self._shared.failure is not None:
            raise self._shared.failure
        images = self._images[pending.slot, : pending.n]
        decoded = np.zeros(pending.n, dtype=bool)
        decoded[pending.present] = True
        failures = sorted(pending.failures, key=lambda one: one.position)
        decoded[[one.position for one in failures]] = False
        images[~decoded] = 0  # an earlier batch, or what a decoder had written when it died
        return DecodedBatch(images, decoded, failures)


class _Pending:
    """A batch that is being decoded."""

    def __init__(self, slot: int, n: int, present: NDArray[np.int64], n_chunks: int) -> None:
        self.slot, self.n, self.present = slot, n, present
        self.failures: list[DecodeFailure] = []
        self.ended = threading.Event()
        self._left = n_chunks
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[int] | None = None
        if not n_chunks:
            self.ended.set()

    def chunk_done(self, failures: list[DecodeFailure]) -> None:
        with self._lock:
            self.failures += failures
            self._left -= 1
            if self._left == 0:
                self.ended.set()
                if self._free is not None:
                    self._free.put(self.slot)

    def drop(self, free: queue.SimpleQueue[int]) -> None:
        """Nobody waits any more: give the memory back as soon as no process writes to it."""
        with self._lock:
            if self._left == 0:
                free.put(self.slot)
            else:
                self._free = free


def read_by_processes(
    dataset: Dataset,
    indices: Sequence[int],
    of_bytes: Callable[[bytes], NDArray[np.uint8]],
    n_bytes: int,
) -> list[NDArray[np.uint8] | DecodeFailure]:
    """Have the decoding processes read images, and return what `of_bytes` makes of each, or why it cannot.

    Parameters
    ----------
    dataset : Dataset
        Its `read` may crash, hang or take all memory: that costs one row.
    indices : sequence of int
    of_bytes : callable
        From the bytes to uint8 of shape (`n_bytes`,).
    n_bytes : int
    """
    starts = range(0, len(indices), _ROWS_PER_REQUEST)
    found: list[NDArray[np.uint8] | DecodeFailure] = []
    with DecodePool(
        dataset,
        of_bytes,
        shape=(n_bytes,),
        batch_size=_ROWS_PER_REQUEST,
        workers=max(1, min(usable_cores(), len(starts))),
        max_pixels=None,
    ) as pool:
        requests = (DecodeRequest(indices[start : start + _ROWS_PER_REQUEST]) for start in starts)
        for batch in pool.batches(requests):
            failed = {one.position: one for one in batch.failures}
            found += [failed.get(at, one.copy()) for at, one in enumerate(batch.images)]
    return found


def _end(shared: Shared, handles: list[WorkerHandle], *files: int) -> None:
    shared.closing.set()
    shared.fail(InvalidInputError("this DecodePool is closed; make another"))
    for handle in handles:
        shared.chunks.put(None)
        handle.kill()
    for handle in handles:
        if handle.ident is not None:
            handle.join()
    for file in files:
        os.close(file)


def _memory_file(n_bytes: int) -> int:
    """Return the descriptor of a file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("featbank-pixels", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix="featbank-pixels-")
        os.unlink(path)  # noqa: PTH108
    os.ftruncate(descriptor, n_bytes)
    return descriptor
