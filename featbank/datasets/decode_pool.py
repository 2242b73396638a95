"""Decodes images in processes of its own: a decoder that crashes or hangs costs one image, not the run.

A thread for each process takes chunks of batches from one queue, has the process decode them, and replaces it
when it dies; what came of a chunk is a `Future`. The process itself is `featbank.datasets._decode_worker`.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank import errors
from featbank._process import child_environment, pickle_for_child, usable_cores
from featbank.datasets.sources import Dataset
from featbank.errors import DecoderProcessError, FeatbankError, InvalidInputError

__all__ = [
    "DecodeFailure",
    "DecodePool",
    "DecodeRequest",
    "DecodedBatch",
    "decoder_name",
    "read_by_processes",
]

#: Of one worker: position in its request (-1 when idle) and when it came there, in ns of the monotonic clock.
CONTROL_BYTES = 16
#: Of the parts of the file with the work: one pickle, and the arrays that it refers to.
ALIGNED = 64
_LENGTH = struct.Struct("<Q")
#: Most bytes of pixels a worker is handed at once, and images where one has more: few enough to share a batch
#: out, many enough to hide the way there.
_CHUNK_BYTES, _CHUNK = 2_400_000, 16
_LOOK_AGAIN_S = 0.2
_ROWS_PER_REQUEST = 256
#: Longest time for one image, where nobody asks for another.
TIMEOUT_S = 30.0
#: Longest time for a process to be ready, and to end once its connection has.
_START_S, _END_S = 60.0, 5.0
#: Deaths in a row that no image can be blamed for.
_MAX_DEATHS = 5
_CODE = "import sys; from featbank.datasets._decode_worker import main; main(*map(int, sys.argv[1:]))"
# One image is decoded by one thread; the pools of numerical libraries would only cost address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def decoder_name() -> str:
    """Return the decoder and its version, for the key of a bank.

    Examples
    --------
    >>> decoder_name()
    'pillow-...'
    """
    import PIL  # without its decoders, which are the processes' affair

    return f"pillow-{PIL.__version__}"


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


@dataclass(frozen=True)
class DecodeFailure:
    """One image of a batch that gave no pixels.

    Parameters
    ----------
    position : int
        Where in the batch.
    reason : str
        A key of `DECODE_REASONS`; or ``"unreadable"`` (the file cannot be read) or ``"changed"`` (its digest
        is not the one that was asked for).
    detail : str
        More words.
    """

    position: int
    reason: str
    detail: str


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


@dataclass(frozen=True)
class Work:
    """What all processes of a pool are told, once; see `DecodePool`."""

    dataset: Any
    to_pixels: Callable[[Any], NDArray[np.uint8]]
    #: `to_pixels` takes the bytes as they are, if None.
    max_pixels: int | None
    #: Bytes before the pixels, and how many images of what shape follow.
    offset: int
    n_images: int
    shape: tuple[int, ...]
    max_memory_bytes: int
    timeout_s: float

    def images(self, memory: mmap.mmap) -> NDArray[np.uint8]:
        """Return the pixels in the shared memory: (n_images, *shape)."""
        n_bytes = self.n_images * int(np.prod(self.shape))
        return np.frombuffer(memory, np.uint8, n_bytes, self.offset).reshape(self.n_images, *self.shape)


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message; raises `OSError` when the other side is gone."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytearray | None:
    """Return the next message, or None when the other side is gone."""
    head = _exactly(connection, _LENGTH.size)
    return None if head is None else _exactly(connection, _LENGTH.unpack(head)[0])


def _exactly(connection: socket.socket, n_bytes: int) -> bytearray | None:
    message = bytearray(n_bytes)
    rest = memoryview(message)
    while rest:
        try:
            got = connection.recv_into(rest)
        except ConnectionError:
            return None
        if not got:
            return None
        rest = rest[got:]
    return message


@dataclass(frozen=True)
class Chunk:
    """Some images of one batch, for one process: where they are in batch, shared memory and dataset."""

    positions: NDArray[np.int64]
    places: NDArray[np.int64]
    indices: NDArray[np.int64]
    #: SHA-256 each must have, (n, 32).
    digests: NDArray[np.uint8] | None
    failures: Future[list[DecodeFailure]] = field(default_factory=Future)


@dataclass(frozen=True)
class _Shared:
    """What the processes of a pool share, and the threads that look after them."""

    work: Work
    memory: mmap.mmap
    memory_file: int
    work_file: int
    #: Modules the work needs.
    modules: set[str]
    chunks: queue.SimpleQueue[Chunk | None] = field(default_factory=queue.SimpleQueue)
    closed: threading.Event = field(default_factory=threading.Event)

    def refuse_closed(self) -> None:
        if self.closed.is_set():
            raise InvalidInputError("this DecodePool is closed; make another")

    def wait(self, futures: Sequence[Future[Any]]) -> None:
        """Wait for chunks; not for those of a pool that is closed."""
        while wait(futures, _LOOK_AGAIN_S).not_done and not self.closed.is_set():
            pass
        self.refuse_closed()


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
        numbers = {
            "batch_size": batch_size,
            "workers": workers,
            "ahead": ahead,
            "timeout_s": timeout_s,
            "max_memory_bytes": max_memory_bytes,
            "max_pixels": max_pixels,
        }
        wrong = [f"{name}={one!r}" for name, one in numbers.items() if one is not None and not one > 0]
        if wrong:
            raise InvalidInputError(f"{', '.join(wrong)}: must be more than 0")
        self._batch_size, self._workers = batch_size, workers
        work = Work(
            dataset=dataset,
            to_pixels=to_pixels,
            max_pixels=max_pixels,
            offset=-(-CONTROL_BYTES * workers // mmap.PAGESIZE) * mmap.PAGESIZE,
            n_images=batch_size * (ahead + 1),
            shape=tuple(shape),
            max_memory_bytes=max_memory_bytes,
            timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
        )
        work_file = _memory_file(0)
        try:
            modules = _pack(work, work_file)
            memory_file = _memory_file(work.offset + work.n_images * int(np.prod(shape)))
        except BaseException:
            os.close(work_file)
            raise
        self._shared = _Shared(work, mmap.mmap(memory_file, 0), memory_file, work_file, modules)
        self._images = work.images(self._shared.memory).reshape(ahead + 1, batch_size, *shape)
        self._in_use = False
        #: Chunks that an earlier call of `batches` left while a process was on them.
        self._left: list[Future[list[DecodeFailure]]] = []
        self._handles = [WorkerHandle(number, self._shared) for number in range(workers)]
        # Also when nobody closes the pool: at the latest before the interpreter ends.
        self._end = weakref.finalize(self, _end, self._shared, self._handles)
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
        n_places = len(self._images)
        if not 0 < held < n_places:
            raise InvalidInputError(f"held={held!r} must be 1 to {n_places - 1}, what is ahead")
        self._in_use = True
        n_used, waiting = 0, deque[_Pending]()
        try:
            self._shared.wait(self._left)  # a process may still write for them
            for number, request in enumerate(requests):
                while n_used + len(waiting) == n_places:
                    yield self._decoded(waiting)
                    n_used = min(n_used + 1, held - 1)
                waiting.append(self._submit(request, number % n_places))
            while waiting:
                yield self._decoded(waiting)
        finally:
            self._in_use = False
            unfinished = [one for batch in waiting for one in batch.chunks if not one.cancel()]
            self._left = [one for one in self._left if not one.done()] + unfinished

    def _submit(self, request: DecodeRequest, place: int) -> _Pending:
        n = len(request.indices)
        if n > self._batch_size:
            raise InvalidInputError(f"a request of {n} images, batch_size={self._batch_size} is the most")
        indices = np.asarray(request.indices, dtype=np.int64)
        present = np.flatnonzero(indices >= 0)
        most = max(_CHUNK, _CHUNK_BYTES // max(1, int(np.prod(self._images.shape[2:]))))
        size = min(most, max(1, -(-len(present) // (2 * self._workers))))
        pending = _Pending(self._images[place, :n], present, [])
        for first in range(0, len(present), size):
            part = present[first : first + size]
            digests = None if request.digests is None else request.digests[part]
            chunk = Chunk(part, place * self._batch_size + part, indices[part], digests)
            pending.chunks.append(chunk.failures)
            self._shared.chunks.put(chunk)
        return pending

    def _decoded(self, waiting: deque[_Pending]) -> DecodedBatch:
        """Take the first of the batches that wait, once it is done."""
        batch = waiting[0]
        self._shared.wait(batch.chunks)
        failures = sorted(
            (one for chunk in batch.chunks for one in chunk.result()), key=lambda one: one.position
        )
        waiting.popleft()
        decoded = np.zeros(len(batch.images), dtype=bool)
        decoded[batch.present] = True
        decoded[[one.position for one in failures]] = False
        batch.images[~decoded] = 0  # an earlier batch, or what a decoder had written when it died
        return DecodedBatch(batch.images, decoded, failures)


@dataclass(frozen=True)
class _Pending:
    """A batch that is being decoded: its memory, the positions that have an image, and its chunks."""

    images: NDArray[np.uint8]
    present: NDArray[np.intp]
    chunks: list[Future[list[DecodeFailure]]]


def read_by_processes(
    dataset: Dataset, indices: Sequence[int], of_bytes: Callable[[bytes], NDArray[np.uint8]], n_bytes: int
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Have the decoding processes read images, each of which may crash, hang or take all memory.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int, length n
        What its `read` is called with.
    of_bytes : callable
        From the bytes of an image to uint8 of shape (`n_bytes`,); can be pickled.
    n_bytes : int

    Returns
    -------
    found : ndarray of uint8, shape (n, n_bytes)
        What `of_bytes` made of each; zeros where it could not.
    problems : dict of int to str
        For the places in `indices` that cannot be read, why.
    """
    starts = range(0, len(indices), _ROWS_PER_REQUEST)
    found, problems = np.zeros((len(indices), n_bytes), np.uint8), dict[int, str]()
    with DecodePool(
        dataset,
        of_bytes,
        shape=(n_bytes,),
        batch_size=_ROWS_PER_REQUEST,
        workers=max(1, min(usable_cores(), len(starts))),
        max_pixels=None,
    ) as pool:
        requests = (DecodeRequest(indices[start : start + _ROWS_PER_REQUEST]) for start in starts)
        for start, batch in zip(starts, pool.batches(requests), strict=True):
            found[start : start + len(batch.images)] = batch.images
            problems |= {start + one.position: one.detail or one.reason for one in batch.failures}
    return found, problems


def _memory_file(n_bytes: int) -> int:
    """Return the descriptor of a file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("featbank-pixels", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix="featbank-pixels-")
        os.unlink(path)  # noqa: PTH108
    os.ftruncate(descriptor, n_bytes)
    return descriptor


def _pack(work: Work, file: int) -> set[str]:
    """Write `work` to a file, arrays so that all processes share them; return the modules it needs."""
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    try:
        modules = pickle_for_child(work, head, buffers.append)
        parts: list[memoryview] = [head.getbuffer(), *(one.raw() for one in buffers)]
        with open(file, "wb", closefd=False) as writer:
            writer.write(pickle.dumps([len(part) for part in parts]))
            for part in parts:
                writer.write(bytes(-writer.tell() % ALIGNED))
                writer.write(part)
    except Exception as error:
        raise InvalidInputError(
            f"the dataset {work.dataset.name!r} ({type(work.dataset).__name__}), or to_pixels="
            f"{work.to_pixels!r}, cannot be sent to a decoding process ({type(error).__name__}: {error});"
            " let it be pickled (no open file, connection or lock in it)"
        ) from error
    return modules


def _end(shared: _Shared, handles: Sequence[WorkerHandle]) -> None:
    shared.closed.set()
    for handle in handles:
        shared.chunks.put(None)
        handle.kill()
    for handle in handles:
        if handle.ident is not None and handle is not threading.current_thread():
            handle.join()
    os.close(shared.memory_file)
    os.close(shared.work_file)


class _Died(Exception):  # noqa: N818 - never seen outside
    """The process is gone, or had to be ended."""

    def __init__(self, position: int, reason: str, detail: str, *, by_signal: bool = False) -> None:
        super().__init__(detail)
        self.position, self.reason, self.detail, self.by_signal = position, reason, detail, by_signal


class WorkerHandle(threading.Thread):
    """The parent's side of one decoding process: feeds it, watches it and replaces it."""

    def __init__(self, number: int, shared: _Shared) -> None:
        super().__init__(name=f"featbank-decode-{number}", daemon=True)
        self._number, self._shared = number, shared
        self._control = np.frombuffer(shared.memory, np.int64, 2, number * CONTROL_BYTES)
        # a pool that nobody closed may be ended by this very thread, wherever it is
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._deaths = 0

    def run(self) -> None:
        """Take chunks until there are no more."""
        shared = self._shared
        try:
            with suppress(Exception):  # comes again, and is raised, when it is to decode
                self._start()
            while (chunk := shared.chunks.get()) is not None and not shared.closed.is_set():
                if not chunk.failures.set_running_or_notify_cancel():
                    continue
                try:
                    chunk.failures.set_result(self._settle(chunk))
                except BaseException as error:  # noqa: BLE001 - raised where the batch is waited for
                    chunk.failures.set_exception(error)
        finally:
            self._end()

    def kill(self) -> None:
        """End the process now; may be called from any thread."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def _settle(self, chunk: Chunk) -> list[DecodeFailure]:
        failures: list[DecodeFailure] = []
        todo = [np.arange(len(chunk.positions))]
        alone: set[int] = set()
        while todo:
            part = todo.pop()
            try:
                failures += self._ask(chunk, part)
                self._deaths = 0
            except _Died as death:
                self._shared.refuse_closed()
                if not 0 <= death.position < len(part):
                    self._bury(death)
                    self._start()
                    todo.append(part)
                    continue
                self._start()
                one, rest = int(part[death.position]), np.delete(part, death.position)
                # A crash may be another image's fault, or nobody's; once more, alone, tells.
                if death.reason == "timeout" or one in alone:
                    failures.append(DecodeFailure(int(chunk.positions[one]), death.reason, death.detail))
                else:
                    alone.add(one)
                    todo.append(np.array([one]))
                if len(rest):
                    todo.append(rest)
        return failures

    def _ask(self, chunk: Chunk, part: NDArray[np.intp]) -> list[DecodeFailure]:
        """Have images decoded; returns what became of those that cannot be."""
        connection, timeout_s = self._connection, self._shared.work.timeout_s
        if connection is None:
            raise _Died(-1, "crashed", "it is not running")
        self._control[:] = -1, 0
        sent = time.monotonic_ns()
        connection.settimeout(timeout_s)
        digests = None if chunk.digests is None else chunk.digests[part]
        try:
            send(connection, pickle.dumps((chunk.places[part], chunk.indices[part], digests)))
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            left_s = timeout_s
            while not poll.poll(1000 * left_s):
                now = time.monotonic_ns()
                since = min(max(sent, int(self._control[1])), now)
                left_s = timeout_s - (now - since) / 1e9
                if left_s <= 0:
                    late = f"not decoded after {timeout_s:g} seconds"
                    raise _Died(int(self._control[0]), "timeout", late)
            reply = receive(connection)
        except TimeoutError:
            raise _Died(-1, "timeout", "it does not listen") from None
        except OSError:
            reply = None
        if reply is None:
            raise self._death()
        try:
            said = json.loads(reply)
        except ValueError as error:
            raise DecoderProcessError("a decoding process says what is no answer") from error
        return failures_said(said, chunk.positions[part])

    def _death(self) -> _Died:
        position = int(self._control[0])
        try:
            code = None if self._process is None else self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return _Died(position, "crashed", "the decoder closed its connection, and lived on")
        if code == -signal.SIGALRM:
            return _Died(position, "timeout", "not decoded in time")
        if code is not None and code < 0:
            with suppress(ValueError):
                said = f"the decoder died of {signal.Signals(-code).name}"
                return _Died(position, "crashed", said, by_signal=True)
        return _Died(position, "crashed", f"the decoder ended with status {code}")

    def _bury(self, death: _Died) -> None:
        """Count a death that was no image's fault."""
        self._deaths += 1
        if self._deaths > _MAX_DEATHS:
            raise DecoderProcessError(
                f"the decoding processes keep dying before their first image ({death.detail}); "
                "look at the machine's memory, or use fewer workers"
            ) from death

    def _start(self) -> None:
        """Start a process in the place of the one there was; when this returns it is ready."""
        self._end()
        while not self._shared.closed.is_set():
            with tempfile.TemporaryFile() as said:
                connection = self._spawned(said)
                connection.settimeout(_START_S)
                try:
                    reply = receive(connection)
                except TimeoutError:
                    self._end()
                    raise DecoderProcessError(
                        f"a decoding process was not ready after {_START_S:g} seconds; look at what else the "
                        "machine is doing, or use fewer workers"
                    ) from None
                except OSError:
                    reply = None
                if reply is not None:
                    error = json.loads(reply).get("error")
                    if error:
                        raise InvalidInputError(
                            f"the dataset or to_pixels is not known to a decoding process ({error}); define "
                            "it in a module that can be imported, or in the script itself"
                        )
                    return
                if self._shared.closed.is_set():
                    return
                death = self._death()
                if not death.by_signal:
                    said.seek(0)
                    lines = said.read(65536).decode(errors="replace").strip().splitlines()
                    raise DecoderProcessError(
                        f"a decoding process did not start ({lines[-1] if lines else death.detail}); "
                        f"it was {sys.executable!r}"
                    )
                self._end()  # killed from outside, before it was ready
                self._bury(death)

    def _spawned(self, said: IO[bytes]) -> socket.socket:
        shared = self._shared
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            self._connection = ours
            shared.refuse_closed()
            descriptors = (theirs.fileno(), shared.memory_file, shared.work_file)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CODE, *map(str, (*descriptors, self._number, os.getpid()))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=descriptors,
                    env={**child_environment(shared.modules), **_ENVIRONMENT},
                    process_group=0,  # Ctrl-C is for the parent, which ends this one
                )
            except OSError as error:
                raise DecoderProcessError(f"cannot start a decoding process: {error}") from error
        return ours

    def _end(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._process = self._connection = None


def failures_said(reply: Any, positions: NDArray[np.int64]) -> list[DecodeFailure]:
    """Check what a process says: it may have been taken over by what it decoded."""
    if "error" in reply:
        kind = getattr(errors, str(reply.get("kind")), None)
        if not (isinstance(kind, type) and issubclass(kind, FeatbankError)):
            kind = InvalidInputError
        raise kind(str(reply["error"]))
    if "bug" in reply:
        raise RuntimeError(f"the dataset or to_pixels failed in a decoding process:\n{reply['bug']}")
    failures = [(int(at), str(reason), str(detail)) for at, reason, detail in reply["failures"]]
    if any(not 0 <= at < len(positions) for at, _, _ in failures):
        raise DecoderProcessError(f"a decoding process answered for images it was not given: {failures!r}")
    return [DecodeFailure(int(positions[at]), reason, detail) for at, reason, detail in failures]
