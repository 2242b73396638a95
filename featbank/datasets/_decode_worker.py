"""The process that reads and decodes images for `DecodePool`. It may die at any moment without harm.

It gets one socket (requests in, outcomes out), one block of shared memory (pixels), and a file with its work.
That and the requests are pickles, because they come from the process that started this one; outcomes are
JSON, because a decoder that a hostile file has taken over must not be able to hand objects to its parent.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.datasets.decode_pool import ALIGNED, CONTROL_BYTES, Work, receive, send
from featbank.errors import FeatbankError, ImageDecodeError, InvalidInputError

__all__ = ["main"]

#: A decoder that has gone mad must not fill the disk with its complaints.
_MAX_FILE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1


def _unpack(descriptor: int) -> Work:
    # private: what one process does to its arrays is not seen by the others
    shared = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    lengths = pickle.load(shared)
    view, at, parts = memoryview(shared), shared.tell(), []
    for length in lengths:
        start = at + -at % ALIGNED
        at = start + length
        parts.append(view[start:at])
    work: Work = pickle.loads(parts[0], buffers=parts[1:])
    return work


def main(socket_fd: int, memory_fd: int, work_fd: int, number: int, parent: int) -> None:
    """Serve requests until the socket closes."""
    _die_with(parent)
    connection = socket.socket(fileno=socket_fd)
    memory = mmap.mmap(memory_fd, 0)
    os.close(memory_fd)
    try:
        work = _unpack(work_fd)
        os.close(work_fd)
        if work.max_pixels is not None:
            # Imported here, before memory is limited: what the limit counts is what an image takes.
            from featbank.datasets import decoding  # noqa: F401
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        send(connection, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    _limit(work.max_memory_bytes)
    send(connection, b"{}")
    # What decoders print is no use to anyone.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    serve(connection, memory, np.frombuffer(memory, np.int64, 2, number * CONTROL_BYTES), work)


def _die_with(parent: int) -> None:
    """Have this process killed when its parent's thread ends, even in the middle of a decoder that hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we could ask
        sys.exit(0)


def _limit(max_memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    statm = Path("/proc/self/statm")
    if statm.exists():
        in_use = int(statm.read_text().split()[0]) * mmap.PAGESIZE
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = in_use + max_memory_bytes
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(connection: socket.socket, memory: mmap.mmap, control: NDArray[np.int64], work: Work) -> None:
    """Answer each request with the failures among its images; pixels go to their places."""
    images = work.images(memory)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while (message := receive(connection)) is not None:
        places, indices, digests = pickle.loads(message)
        reply: dict[str, Any] = {"failures": []}
        for position, (place, index) in enumerate(zip(places.tolist(), indices.tolist(), strict=True)):
            control[1] = time.monotonic_ns()
            control[0] = position
            # The parent ends a decoder that hangs; where the parent is gone as well, the kernel does.
            signal.setitimer(signal.ITIMER_REAL, 2 * work.timeout_s + 1)
            try:
                images[place] = _pixels(index, None if digests is None else digests[position], work)
            except ImageDecodeError as error:
                reply["failures"].append([position, error.reason, error.detail])
            except MemoryError:
                detail = f"decoding needs more than {work.max_memory_bytes} bytes"
                reply["failures"].append([position, "out-of-memory", detail])
            except OSError as error:
                reply["failures"].append([position, "unreadable", error.strerror or str(error)])
            except FeatbankError as error:
                reply = {"error": str(error), "kind": type(error).__name__}
                break
            except Exception:  # noqa: BLE001 - a bug: its traceback is raised in the parent
                reply = {"bug": traceback.format_exc()}
                break
        control[0] = -1
        signal.setitimer(signal.ITIMER_REAL, 0)
        with suppress(ConnectionError):
            send(connection, json.dumps(reply).encode())


def _pixels(index: int, digest: NDArray[np.uint8] | None, work: Work) -> NDArray[np.uint8]:
    data = work.dataset.read(index)
    if digest is not None and hashlib.sha256(data).digest() != digest.tobytes():
        raise ImageDecodeError("changed", "the file changed while it was being extracted")
    if work.max_pixels is None:
        pixels = work.to_pixels(data)
    else:
        from featbank.datasets.decoding import decode_image

        pixels = work.to_pixels(decode_image(data, max_pixels=work.max_pixels))
    if pixels.shape != work.shape or pixels.dtype != np.uint8:
        raise InvalidInputError(
            f"to_pixels gave {pixels.dtype} of shape {pixels.shape}, not uint8 of shape {work.shape}"
        )
    return pixels
