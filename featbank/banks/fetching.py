"""Shards of a bucket on this machine: fetched whole into a bounded folder, or read in parts.

The folder is nobody's truth: each file has the name of its shard, which carries the SHA-256 of the bytes, and
is hashed when a process first opens it. It may be removed at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import beside, remove_stale_temporaries
from featbank._bucket import BucketPath
from featbank._cache import user_path
from featbank.banks._format import map_rows
from featbank.errors import CorruptBankError, InvalidInputError

__all__ = ["ShardRanges", "fetched", "in_threads", "is_fetched", "shard_cache"]

logger = logging.getLogger(__name__)

#: Bytes of shards that are kept on this machine, unless ``FEATBANK_SHARD_CACHE_BYTES`` says another number.
_MOST_BYTES = 20_000_000_000
#: Requests at once: each is waited for much longer than it takes to be computed.
_REQUESTS = 16
#: Read of a shard first: its header, and all of a small one. From where an array begins, the rest of the file
#: is read with it if that is not too much.
_START_BYTES, _TAIL_BYTES = 1 << 16, 1 << 20
_T = TypeVar("_T")
_R = TypeVar("_R")


def shard_cache() -> Path:
    """Return the folder of fetched shards: ``$FEATBANK_SHARD_CACHE``, else one in the user's cache folder."""
    said = os.environ.get("FEATBANK_SHARD_CACHE")
    if said:
        return user_path(said)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "featbank" / "shards"


def _most_bytes() -> int:
    said = os.environ.get("FEATBANK_SHARD_CACHE_BYTES", str(_MOST_BYTES))
    try:
        most = float(said)
        if not 0 <= most < float("inf"):
            raise ValueError
    except ValueError:
        raise InvalidInputError(
            f"FEATBANK_SHARD_CACHE_BYTES={said!r} is no number of bytes: 20e9 keeps 20 GB of shards, 0 none"
        ) from None
    return int(most)


def in_threads(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return what a function that waits for requests returns of each, at once; the first error is raised."""
    todo = list(items)
    if len(todo) < 2:
        return [function(one) for one in todo]
    with ThreadPoolExecutor(min(_REQUESTS, len(todo)), "featbank-bucket") as threads:
        return list(threads.map(function, todo))


class ShardRanges:
    """A shard in a bucket, read in parts: with one request its header, with another what stands last."""

    def __init__(self, path: BucketPath) -> None:
        self._path = path
        start, self.size = path.read_start(_START_BYTES)
        self._windows = {0: start}

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return so many bytes, or what there is of them."""
        size = min(size, self.size - offset)
        for start, window in self._windows.items():
            if start <= offset and offset + size <= start + len(window):
                return window[offset - start : offset - start + size]
        rest = self.size - offset
        (window,) = self._path.read_ranges([offset], [rest if rest <= _TAIL_BYTES else size])
        self._windows[offset] = window
        return window[:size]


def _name_fits(path: Path, data: memoryview) -> bool:
    return path.stem.rpartition("-")[2] == hashlib.sha256(data).hexdigest()[:16]


#: Fetched files that this process has hashed: their name, size and time of change.
_hashed: set[tuple[str, int, int]] = set()
_making_room = threading.Lock()
#: Folders of which this process has said that nothing can be kept in them.
_told: set[Path] = set()


def is_fetched(path: BucketPath) -> bool:
    """Say whether a shard lies on this machine."""
    return (shard_cache() / path.name).is_file()


def fetched(path: BucketPath, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Return the features of a shard, read-only: mapped from a copy on this machine, made if there is none.

    Where no file can be written they are in memory.

    Raises
    ------
    FileNotFoundError
        If there is no such shard.
    BankReadError
        If it cannot be read now.
    CorruptBankError
        If its bytes are not those its name stands for.
    """
    copy = shard_cache() / path.name
    with contextlib.suppress(OSError):
        found = _mapped(copy, dtype, shape, offset)
        if found is not None:
            return found
    data = path.read_buffer()
    if not _name_fits(path, data):
        raise CorruptBankError(
            f"shard {str(path)!r} is damaged: its bytes are not what its name says; `featbank banks verify "
            f"--repair` sets it aside and extracts its rows again"
        )
    try:
        mapped = _keep(copy, data, dtype, shape, offset)
    except OSError as error:
        _tell_once(copy.parent, error.strerror or str(error))
    else:
        if mapped is not None:
            return mapped
    n_values = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(data, dtype, n_values, offset).reshape(shape)


def _mapped(copy: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any] | None:
    """Map a fetched shard; None, and it is removed, if its bytes are others than its name says."""
    with copy.open("rb") as file:
        status = os.fstat(file.fileno())
        known = (copy.name, status.st_size, status.st_mtime_ns)
        if known not in _hashed:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if copy.stem.rpartition("-")[2] != digest[:16]:
                logger.warning("%s is not what was fetched; it is fetched again", copy)
                copy.unlink()
                return None
            _hashed.add(known)
        with contextlib.suppress(OSError):  # by when they were used last room is made
            os.utime(file.fileno(), ns=(time.time_ns(), status.st_mtime_ns))
        try:
            return map_rows(file.fileno(), dtype, shape, offset)
        except ValueError as error:  # cut short since it was hashed
            raise OSError(errno.EIO, str(error)) from error


def _keep(
    copy: Path, data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> NDArray[Any] | None:
    """Write a fetched shard down and map it; it need not survive a loss of power."""
    if len(data) > _most_bytes():
        return None
    copy.parent.mkdir(parents=True, exist_ok=True)
    with beside(copy) as temporary:
        temporary.write_bytes(data)
        temporary.replace(copy)
    with copy.open("rb") as file:
        status = os.fstat(file.fileno())
        _hashed.add((copy.name, status.st_size, status.st_mtime_ns))
        mapped = map_rows(file.fileno(), dtype, shape, offset)
    _make_room(copy.parent)
    return mapped


def _make_room(folder: Path) -> None:
    """Remove the fetched shards that were used longest ago until the rest is small enough; maps stay."""
    with _making_room:
        remove_stale_temporaries(folder)
        there = []
        for one in folder.glob("*.h5"):
            with contextlib.suppress(OSError):  # another process was first
                status = one.stat()
                there.append((status.st_atime_ns, status.st_size, one))
        over = sum(size for _, size, _ in there) - _most_bytes()
        for _, size, one in sorted(there):
            if over <= 0:
                return
            with contextlib.suppress(OSError):
                one.unlink()
            over -= size


def _tell_once(folder: Path, said: str) -> None:
    with _making_room:
        if folder in _told:
            return
        _told.add(folder)
    logger.warning(
        "shards of the bucket are not kept in %s (%s), and are fetched each time they are needed: "
        "FEATBANK_SHARD_CACHE names another folder",
        folder,
        said,
    )
