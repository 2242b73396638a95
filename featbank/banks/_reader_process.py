"""The disposable process that reads HDF5 files nobody vouches for, and the server that forks it.

libhdf5 was not written for hostile input: it may crash, hang or be taken over. So the files of a stranger
are opened here, in a process that has nothing to lose: it gets descriptors that are open already, can open
no file, write no file, start no process, use little memory and time, and hands out plain numbers. The
server has everything imported, so that a fresh process costs milliseconds.

`_guest` starts it, with a socket to the parent.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featbank.banks._allowed import Survey, check_head, dtype_of, survey
from featbank.banks._allowed_dataset import Refused
from featbank.banks._chunks import ChunkedRows
from featbank.banks._codecs import CODECS, decode, encoder, require
from featbank.banks._confined import confine
from featbank.banks._hdf5 import READ_ERRORS
from featbank.banks._shard_file import CutLayout, encode_shard
from featbank.banks.slots import ShardPlan
from featbank.errors import MissingPackageError

#: Memory the process may take beyond what it has when it starts; one block of rows is far below it.
MEMORY_BYTES = 512 * 1024 * 1024
#: Longest request and longest answer (rows follow an answer as they are).
REQUEST_BYTES, ANSWER_BYTES = 64 * 1024, 4 * 1024 * 1024
LENGTH = struct.Struct("<I")
STARTED = struct.Struct("<q")
ENDED = struct.Struct("<qqd")


class Window:
    """A run of bytes of an open file, as the file object h5py reads from."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self.offset, self.size, self._place = descriptor, offset, size, 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Move; to the end when libhdf5 asks how long the file is."""
        self._place = self.size if whence == os.SEEK_END else place
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, which must lie inside the window."""
        view = memoryview(buffer).cast("B")
        if self._place < 0 or self._place + len(view) > self.size:
            raise OSError(f"bytes {self._place} to {self._place + len(view)} are not in the file")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], self.offset + self._place + done)
            if not count:
                raise OSError("the file was cut short while it was read")
            done += count
        return done

    def read(self, size: int) -> bytes:
        """Return bytes; h5py takes what can do this for a file."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def flush(self) -> None:
        """Nothing is ever written."""


def receive(connection: socket.socket, size: int) -> bytes:
    """Receive exactly `size` bytes; `EOFError` if the other side is gone."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def receive_descriptor(connection: socket.socket, size: int) -> tuple[bytes, int | None]:
    """Receive a message of at most `size` bytes and the descriptor that came with it."""
    data, control, _, _ = connection.recvmsg(size, socket.CMSG_SPACE(array.array("i").itemsize))
    found: int | None = None
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found = array.array("i", payload[: array.array("i").itemsize])[0]
    return data, found


class Reader:
    """Answers the requests of one parent about one file after another."""

    def __init__(self) -> None:
        self._file: Any = None
        self._descriptor: int | None = None
        self._survey: Survey | None = None
        self._chunked: dict[str, ChunkedRows] = {}

    def open(self, request: dict[str, Any], descriptor: int) -> dict[str, Any]:
        """Open a file in a window of a descriptor, check all of it, and say what is in it."""
        self.close()
        self._descriptor = descriptor
        window = Window(descriptor, request["offset"], request["size"])
        head = bytearray(min(48, window.size))
        window.readinto(head)
        check_head(bytes(head), window.size)
        self._file = h5py.File(window, "r")
        self._survey = survey(self._file, request["kind"], window.size)
        contents = self._survey.contents()
        for path, (codec, places) in self._survey.chunks.items():
            dtype, shape = contents[path]
            self._chunked[path] = ChunkedRows(
                descriptor, window.offset, codec, shape, np.dtype(dtype), places, kept_bytes=0
            )
        return {
            "arrays": contents,
            "attributes": self._survey.attributes,
            "compressed": {
                path: [codec.name, int(places[:, 1].sum())]
                for path, (codec, places) in self._survey.chunks.items()
            },
        }

    def read(self, request: dict[str, Any]) -> bytes:
        """Return rows of one array as their bytes; or where its bytes stand, as pairs of begin and length."""
        if self._survey is None:
            raise Refused("no file is open")
        path = request["array"]
        dataset = self._survey.datasets[path]
        if "start" not in request:
            if path in self._chunked:
                return self._survey.chunks[path].places.tobytes()
            return np.array([[dataset.get_offset() or 0, dataset.get_storage_size()]], np.int64).tobytes()
        start, stop = request["start"], request["stop"]
        if path in self._chunked:  # never by HDF5, which would run its filters
            return self._chunked[path][start:stop].tobytes()
        shape = (stop - start, *dataset.shape[1:])
        out = np.empty(shape, dtype_of(dataset))
        place = dataset.get_space()
        place.select_hyperslab((start, *[0] * (len(shape) - 1)), shape)
        dataset.read(h5py.h5s.create_simple(shape), place, out, mtype=dataset.get_type())
        return out.tobytes()

    def close(self) -> None:
        """Let go of the file and its descriptor."""
        self._survey = None
        self._chunked = {}
        if self._file is not None:
            with contextlib.suppress(*READ_ERRORS):
                self._file.close()
            self._file = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def serve(connection: socket.socket) -> None:
    """Answer until the parent hangs up."""
    reader = Reader()
    while True:
        head, descriptor = receive_descriptor(connection, LENGTH.size)
        if not head:
            return
        head += receive(connection, LENGTH.size - len(head))
        (size,) = LENGTH.unpack(head)
        if size > REQUEST_BYTES:
            return
        request = json.loads(receive(connection, size))
        rows = b""
        try:
            if descriptor is not None:
                answer = reader.open(request, descriptor)
            elif not request:  # there is room for one descriptor only
                reader.close()
                answer = {}
            else:
                rows = reader.read(request)
                answer = {"n_bytes": len(rows)}
        except (Refused, MemoryError, *READ_ERRORS) as error:
            rows, answer = b"", {"refused": str(error)[:500] or type(error).__name__}
        data = json.dumps(answer).encode()
        if len(data) > ANSWER_BYTES:
            return
        connection.sendall(LENGTH.pack(len(data)) + data)
        connection.sendall(rows)


def limit(cpu_s: int) -> None:
    """Take from this process what reading needs not; descriptors 0 to 3 are its own, 4 is for the file."""
    pages = 0
    with contextlib.suppress(OSError), Path("/proc/self/statm").open() as statm:
        pages = int(statm.read().split()[0])
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 5,
        resource.RLIMIT_NPROC: 0,
    }
    if pages:
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + MEMORY_BYTES
    for name, most in limits.items():
        # a second more for the hard limit of time: its signal, SIGKILL, would not say why
        resource.setrlimit(name, (most, most + (name == resource.RLIMIT_CPU)))


def _become_reader(descriptor: int, cpu_s: int) -> None:
    os.dup2(descriptor, 3)
    os.closerange(4, 256)
    limit(cpu_s)
    confine()
    serve(socket.socket(fileno=3))


def _warm_up() -> None:
    """Read one small shard, so that everything that is imported late is there before files are forbidden."""
    layout = CutLayout("0" * 64, "fc7", (1,), np.dtype(np.float32), 1)
    row = np.zeros((1, 32), np.uint8)
    _, image = encode_shard(layout, ShardPlan(0, 0, 1), np.zeros((1, 1), np.float32), row, row[0, :1])
    with tempfile.TemporaryFile() as file:
        file.write(image)
        file.flush()
        reader = Reader()
        reader.open({"kind": "shard", "offset": 0, "size": len(image)}, os.dup(file.fileno()))
        reader.read({"array": "features", "start": 0, "stop": 1})
        reader.close()
    for codec in CODECS.values():
        with contextlib.suppress(MissingPackageError):  # the parent says so when a file needs it
            require(codec)
            decode(codec, encoder(codec)(np.zeros((1, 1), np.float32)), 4, np.dtype(np.float32))


def main(descriptor: int) -> None:
    """Fork a reader for each request of the parent, and tell how each ended; one at a time."""
    control = socket.socket(fileno=descriptor)
    _warm_up()  # before standard error goes: an installation that cannot do it says why
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    while True:
        try:
            data, connection = receive_descriptor(control, STARTED.size)
        except ConnectionError:
            return
        if len(data) < STARTED.size or connection is None:
            return
        (cpu_s,) = STARTED.unpack(data)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                with contextlib.suppress(ConnectionError):  # the parent has hung up
                    _become_reader(connection, cpu_s)
                status = 0
            finally:
                os._exit(status)
        os.close(connection)
        control.sendall(STARTED.pack(pid))
        _, code, usage = os.wait4(pid, 0)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        control.sendall(ENDED.pack(code, peak, usage.ru_utime + usage.ru_stime))
