"""Files of a stranger, read through a disposable process: this process never opens them with libhdf5."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank._child_process import child_environment
from featbank.banks import _reader_process as process
from featbank.banks._codecs import CODECS, Codec, chunk_rows, most_decoded, require
from featbank.errors import CorruptBankError
from featbank.manifest import printable

#: Bytes read at once; the process may take a good deal more.
_BLOCK_BYTES = 16 * 1024 * 1024
#: One row may not be larger: the deepest cut of the largest network has a hundredth of it.
_ROW_BYTES = 128 * 1024 * 1024
_PART_BYTES = 64 * 1024
#: Time a file may take: so many seconds, and one more for so many bytes.
_PATIENCE_S, _BYTES_PER_S = 30, 20_000_000


class GuestError(CorruptBankError):
    """What is wrong with a stranger's file, without its name; whoever knows the name says it."""


@dataclass(frozen=True)
class Ended:
    """How a reading process ended: its wait status, the most memory it had, and its processor time."""

    status: int
    peak_bytes: int
    cpu_s: float

    @property
    def signal(self) -> int | None:
        """The signal that ended it."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None


class GuestArray:
    """One array of a file that is open in the process; slices of rows come over as numbers."""

    def __init__(
        self, reader: GuestReader, name: str, dtype: str, shape: tuple[int, ...], codec: Codec | None = None
    ) -> None:
        self._reader, self._name = reader, name
        #: How it is compressed, if it is.
        self.codec = codec
        self.dtype, self.shape = np.dtype(dtype), shape
        self.row_bytes = self.dtype.itemsize * int(np.prod(shape[1:], dtype=object))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        step = max(1, _BLOCK_BYTES // max(1, self.row_bytes))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            out[first - start : last - start] = self._reader._rows(self, first, last)
        return out

    def all(self) -> NDArray[Any]:
        """Return the whole array."""
        return self[:]

    def places(self) -> NDArray[np.int64]:
        """Return where its chunks stand in the file, or all of it: pairs of first byte and length."""
        n_places = 1
        if self.codec is not None:
            n_places = -(-len(self) // chunk_rows(self.row_bytes, len(self)))
        return self._reader._places(self, n_places)


@dataclass(frozen=True)
class GuestFile:
    """A file that passed all checks: its arrays by path, and the attributes of its root."""

    arrays: Mapping[str, GuestArray]
    attributes: Mapping[str, Any]


class GuestReader:
    """One disposable process; a context manager that ends it.

    Parameters
    ----------
    server : GuestServer
        Forks the process.
    size_bytes : int
        How much it is to read, which decides how long it may take.
    """

    def __init__(self, server: GuestServer, size_bytes: int) -> None:
        patience_s = _PATIENCE_S + size_bytes // _BYTES_PER_S
        self._server = server
        self._deadline = time.monotonic() + 2 * patience_s
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._pid = server._fork(theirs.fileno(), patience_s)
        except BaseException:
            self._connection.close()
            raise
        self.ended: Ended | None = None
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, and end the process if it does not end by itself."""
        if self.ended is None:
            self._connection.close()
            self.ended = self._server._wait(self._pid)

    def open(self, descriptor: int, kind: str, offset: int = 0) -> GuestFile:
        """Have a file checked; `descriptor` is that of a regular file, opened for reading.

        Raises
        ------
        GuestError
            If something in it is not on the list of `_allowed`, or the process dies of it.
        """
        size = os.fstat(descriptor).st_size - offset
        if size <= 0:
            raise GuestError("it is empty")
        if self._is_open:
            self._ask({})
        self._is_open = True
        request = {"kind": kind, "offset": offset, "size": size}
        answer = self._ask(request, descriptor)
        try:
            compressed = {
                str(name): (CODECS[codec], int(n_bytes))
                for name, (codec, n_bytes) in answer.get("compressed", {}).items()
            }
            arrays = {
                str(name): GuestArray(
                    self,
                    str(name),
                    str(dtype),
                    tuple(int(side) for side in shape),
                    compressed[name][0] if name in compressed else None,
                )
                for name, (dtype, shape) in answer["arrays"].items()
            }
            attributes = dict(answer["attributes"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise GuestError("the process that reads it gave no sensible answer") from error
        for name, one in arrays.items():
            if one.dtype.kind not in "fiuS" or min(one.shape, default=-1) < 0 or one.row_bytes > _ROW_BYTES:
                raise GuestError(f"{name!r} has rows of type {one.dtype} and shape {one.shape[1:]}")
        plain = sum(one.row_bytes * len(one) for one in arrays.values() if one.codec is None)
        if plain + sum(n_bytes for _, n_bytes in compressed.values()) > size:
            raise GuestError("it says it holds more bytes than it has")
        decoded = sum(one.row_bytes * len(one) for one in arrays.values())
        if decoded > most_decoded(size):
            raise GuestError(f"its {size} bytes say they hold {decoded}, far more than features shrink")
        for codec, _ in compressed.values():
            require(codec)
        return GuestFile(arrays, attributes)

    def _places(self, source: GuestArray, n_places: int) -> NDArray[np.int64]:
        answer = self._ask({"array": source._name})
        if answer.get("n_bytes") != 16 * n_places:
            raise GuestError(f"the places of {source._name!r} have not the bytes they must have")
        return np.frombuffer(self._receive(16 * n_places), np.int64).reshape(n_places, 2)

    def _rows(self, source: GuestArray, start: int, stop: int) -> NDArray[Any]:
        shape = (stop - start, *source.shape[1:])
        n_bytes = source.row_bytes * (stop - start)
        answer = self._ask({"array": source._name, "start": start, "stop": stop})
        if answer.get("n_bytes") != n_bytes:
            raise GuestError(f"rows {start} to {stop} of {source._name!r} have not the bytes they must have")
        return np.frombuffer(self._receive(n_bytes), source.dtype).reshape(shape)

    def _ask(self, request: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        data = json.dumps(request).encode()
        message = process.LENGTH.pack(len(data)) + data
        try:
            if descriptor is None:
                self._connection.sendall(message)
            else:
                rights = array.array("i", [descriptor]).tobytes()
                sent = self._connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                self._connection.sendall(message[sent:])
        except OSError as error:
            raise self._died() from error
        (size,) = process.LENGTH.unpack(self._receive(process.LENGTH.size))
        if size > process.ANSWER_BYTES:
            raise GuestError("the process that reads it gave no sensible answer")
        try:
            answer = json.loads(self._receive(size))
            refused = answer.get("refused")
        except (AttributeError, ValueError, RecursionError) as error:
            raise GuestError("the process that reads it gave no sensible answer") from error
        if refused is not None:
            raise GuestError(printable(str(refused)[:500]))
        return dict(answer)

    def _receive(self, size: int) -> bytes:
        parts = bytearray()
        try:
            while len(parts) < size:  # the time that is left, not so much for each part
                self._connection.settimeout(max(0.01, self._deadline - time.monotonic()))
                parts += process.receive(self._connection, min(size - len(parts), _PART_BYTES))
            return bytes(parts)
        except TimeoutError as error:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.close()
            raise GuestError("reading it takes far longer than its size explains; it was given up") from error
        except (EOFError, OSError) as error:
            raise self._died() from error

    def _died(self) -> GuestError:
        self.close()
        ended = self.ended
        if ended is not None and ended.signal == signal.SIGXCPU:
            return GuestError("reading it takes far longer than its size explains; it was given up")
        how = f"signal {ended.signal}" if ended and ended.signal else "of too little memory, or at its limits"
        return GuestError(f"the process that read it died ({how}), as of a file made to do harm")


class GuestServer:
    """Forks reading processes from one that has everything imported; a context manager."""

    def __init__(self) -> None:
        #: How the process that ended last did.
        self.last: Ended | None = None
        self._control, theirs = socket.socketpair()
        environment = {
            **child_environment(),
            "HDF5_PLUGIN_PRELOAD": "::",  # no filter is ever loaded from a folder
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        environment.pop("HDF5_PLUGIN_PATH", None)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {process.__name__} import main; main({theirs.fileno()})"],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which hangs up
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        self._control.close()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def reader(self, size_bytes: int) -> GuestReader:
        """Fork a process that may read about so many bytes; one at a time."""
        return GuestReader(self, size_bytes)

    def _fork(self, descriptor: int, cpu_s: int) -> int:
        rights = array.array("i", [descriptor]).tobytes()
        try:
            self._control.sendmsg(
                [process.STARTED.pack(cpu_s)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            )
            (pid,) = process.STARTED.unpack(process.receive(self._control, process.STARTED.size))
        except (EOFError, OSError) as error:
            raise GuestError("no process could be started to read it in") from error
        return int(pid)

    def _wait(self, pid: int) -> Ended:
        self._control.settimeout(5)
        try:
            try:
                data = process.receive(self._control, process.ENDED.size)
            except TimeoutError:  # it did not see that the parent hung up
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._control.settimeout(None)
                data = process.receive(self._control, process.ENDED.size)
        except (EOFError, OSError):  # the server is gone, and its readers with it
            self.last = Ended(int(signal.SIGKILL), 0, 0.0)
            return self.last
        finally:
            self._control.settimeout(None)
        status, peak_bytes, cpu_s = process.ENDED.unpack(data)
        self.last = Ended(status, peak_bytes, cpu_s)
        return self.last
