"""The parent's side of one decoding process: a thread that feeds it, watches it and replaces it."""

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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featbank._child_process import child_environment, pickle_for_child
from featbank.datasets._decode_worker import ALIGNED, CONTROL_BYTES, Work, receive, send
from featbank.errors import DecoderProcessError, FeatbankError, InvalidInputError

__all__ = ["Chunk", "DecodeFailure", "Shared", "WorkerHandle"]

_START_S = 60.0
#: Deaths in a row that no image can be blamed for.
_MAX_DEATHS = 5
_CODE = "import sys; from featbank.datasets._decode_worker import main; main(*map(int, sys.argv[1:]))"
# One image is decoded by one thread; the pools of numerical libraries would only cost address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


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


@dataclass(frozen=True)
class Chunk:
    """Some images of one batch, for one process.

    Parameters
    ----------
    positions, places, indices : ndarray of int64, shape (n,)
        Of each image: where in its batch, where in the shared memory, and what the dataset calls it.
    digests : ndarray of uint8, shape (n, 32), or None
        SHA-256 each must have.
    done : callable
        To be called once with the failures.
    """

    positions: NDArray[np.int64]
    places: NDArray[np.int64]
    indices: NDArray[np.int64]
    digests: NDArray[np.uint8] | None
    done: Callable[[list[DecodeFailure]], None]


def _pack(work: Work, file: IO[bytes]) -> set[str]:
    """Write `work` to a file, arrays so that all processes share them; return the modules it needs."""
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    modules = pickle_for_child(work, head, buffers.append)
    parts: list[memoryview] = [head.getbuffer(), *(one.raw() for one in buffers)]
    file.write(pickle.dumps([len(part) for part in parts]))
    for part in parts:
        file.write(bytes(-file.tell() % ALIGNED))
        file.write(part)
    file.flush()
    return modules


class Shared:
    """What the processes of a pool share: the queue, the memory, and the failure that ends them all."""

    def __init__(self, work: Work, memory_file: int, memory: mmap.mmap, work_file: int) -> None:
        self.work = work
        self.memory_file, self.memory, self.work_file = memory_file, memory, work_file
        try:
            with open(work_file, "wb", closefd=False) as file:
                self.modules = _pack(work, file)
        except Exception as error:
            raise InvalidInputError(
                f"the dataset {work.dataset.name!r} ({type(work.dataset).__name__}), or to_pixels="
                f"{work.to_pixels!r}, cannot be sent to a decoding process ({type(error).__name__}: {error});"
                " let it be pickled (no open file, connection or lock in it)"
            ) from error
        self.chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self.closing = threading.Event()
        self.failure: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """End everything: whoever waits gets `error`, the first one."""
        if self.failure is None:
            self.failure = error


class _Died(Exception):  # noqa: N818 - never seen outside
    """The process is gone, or had to be ended."""

    def __init__(self, position: int, reason: str, detail: str, *, by_signal: bool = False) -> None:
        super().__init__(detail)
        self.position, self.reason, self.detail, self.by_signal = position, reason, detail, by_signal


class WorkerHandle(threading.Thread):
    """One process and the thread that looks after it."""

    def __init__(self, number: int, shared: Shared) -> None:
        super().__init__(name=f"featbank-decode-{number}", daemon=True)
        self._number, self._shared = number, shared
        self._control = np.frombuffer(shared.memory, np.int64, 2, number * CONTROL_BYTES)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._deaths = 0

    def run(self) -> None:
        """Take chunks until there are no more, or everything has failed."""
        try:
            self._start()
            while (chunk := self._shared.chunks.get()) is not None and not self._shared.closing.is_set():
                if self._shared.failure is None:
                    self._settle(chunk)
        except BaseException as error:  # noqa: BLE001 - raised where the batches are waited for
            if not self._shared.closing.is_set():
                self._shared.fail(error)
        finally:
            self._end()

    def kill(self) -> None:
        """End the process now; may be called from any thread."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def _settle(self, chunk: Chunk) -> None:
        failures: list[DecodeFailure] = []
        todo = [np.arange(len(chunk.positions))]
        alone: set[int] = set()
        while todo:
            part = todo.pop()
            try:
                failures += [
                    DecodeFailure(int(chunk.positions[part[at]]), reason, detail)
                    for at, reason, detail in self._ask(chunk, part)
                ]
                self._deaths = 0
            except _Died as death:
                if self._shared.closing.is_set():
                    return
                blamed = 0 <= death.position < len(part)
                if not blamed:
                    self._bury(death)
                self._start()
                if not blamed:
                    todo.append(part)
                    continue
                one, rest = int(part[death.position]), np.delete(part, death.position)
                # A crash may be another image's fault, or nobody's; once more, alone, tells.
                if death.reason == "timeout" or one in alone:
                    failures.append(DecodeFailure(int(chunk.positions[one]), death.reason, death.detail))
                else:
                    alone.add(one)
                    todo.append(np.array([one]))
                if len(rest):
                    todo.append(rest)
        chunk.done(failures)

    def _ask(self, chunk: Chunk, part: NDArray[np.int64]) -> list[tuple[int, str, str]]:
        """Have images decoded; returns (number within `part`, reason, detail) of those that cannot be."""
        connection = self._connection
        if connection is None:
            raise _Died(-1, "crashed", "it is not running")
        self._control[:] = -1, 0
        sent = time.monotonic_ns()
        connection.settimeout(self._shared.work.timeout_s)
        digests = None if chunk.digests is None else chunk.digests[part]
        try:
            send(connection, pickle.dumps((chunk.places[part], chunk.indices[part], digests)))
            connection.settimeout(None)
            self._wait(connection, sent)
            reply = receive(connection)
        except TimeoutError:
            raise _Died(-1, "timeout", "it does not listen") from None
        except OSError:
            reply = None
        if reply is None:
            raise self._death()
        return _outcome(json.loads(reply), len(part))

    def _wait(self, connection: socket.socket, sent: int) -> None:
        timeout_s = self._shared.work.timeout_s
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        left_s = timeout_s
        while not poll.poll(1000 * left_s):
            since = max(sent, int(self._control[1]))
            left_s = timeout_s - (time.monotonic_ns() - since) / 1e9
            if left_s <= 0:
                raise _Died(self._position(), "timeout", f"not decoded after {timeout_s:g} seconds")

    def _position(self) -> int:
        return int(self._control[0])

    def _death(self) -> _Died:
        process = self._process
        code = None if process is None else process.wait()
        position = self._position()
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
        self._end()
        while not self._shared.closing.is_set():
            try:
                return self._start_once()
            except _Died as death:  # killed from outside, before it was ready
                self._end()
                self._bury(death)

    def _start_once(self) -> None:
        shared = self._shared
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as said:
            descriptors = (theirs.fileno(), shared.memory_file, shared.work_file)
            with self._lock:
                if shared.closing.is_set():
                    ours.close()
                    return
                self._connection = ours
                numbers = map(str, (*descriptors, self._number, os.getpid()))
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-c", _CODE, *numbers],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=said,
                        pass_fds=descriptors,
                        env={**child_environment(shared.modules), **_ENVIRONMENT},
                        process_group=0,  # Ctrl-C is for the parent, which ends this one
                    )
                except OSError as error:
                    raise DecoderProcessError(f"cannot start a decoding process: {error}") from error
            theirs.close()
            self._greet(ours, said)

    def _greet(self, connection: socket.socket, said: IO[bytes]) -> None:
        connection.settimeout(_START_S)
        reply = None
        with suppress(OSError):
            reply = receive(connection)
        if reply is None:
            if self._shared.closing.is_set():
                return
            death = self._death()
            if death.by_signal:
                raise death
            said.seek(0)
            lines = said.read(65536).decode(errors="replace").strip().splitlines()
            raise DecoderProcessError(
                f"a decoding process did not start ({lines[-1] if lines else death.detail}); "
                f"it was {sys.executable!r}"
            )
        error = json.loads(reply).get("error")
        if error:
            raise InvalidInputError(
                f"the dataset or to_pixels is not known to a decoding process ({error}); define it in a "
                "module that can be imported, or in the script itself"
            )

    def _end(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._process = self._connection = None


def _outcome(reply: Any, n_items: int) -> list[tuple[int, str, str]]:
    """Check what a process says: it may have been taken over by what it decoded."""
    if "error" in reply:
        known = {
            one.__name__: one
            for one in vars(sys.modules[FeatbankError.__module__]).values()
            if isinstance(one, type)
        }
        kind = known.get(str(reply.get("kind")))
        if kind is None or not issubclass(kind, FeatbankError):
            kind = InvalidInputError
        raise kind(str(reply["error"]))
    if "bug" in reply:
        raise RuntimeError(f"the dataset or to_pixels failed in a decoding process:\n{reply['bug']}")
    failures = [(int(at), str(reason), str(detail)) for at, reason, detail in reply["failures"]]
    if any(not 0 <= at < n_items for at, _, _ in failures):
        raise DecoderProcessError(f"a decoding process answered for images it was not given: {failures!r}")
    return failures
