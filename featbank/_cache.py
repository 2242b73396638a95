"""The cache: where banks and runs live, in which order they were asked for, digests of files from before."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import (
    READ_ONLY,
    change_file,
    file_digest,
    json_bytes,
    locked,
    remove_stale_temporaries,
    sha256,
    write_file,
)
from featbank._bucket import BucketPath, path_of_url
from featbank.errors import CacheWriteError, InvalidInputError
from featbank.manifest import printable

__all__ = [
    "MAX_ENTRIES",
    "SETTLE_S",
    "DigestCache",
    "Found",
    "banks_folder",
    "cache_folder",
    "make_newest",
    "networks_folder",
    "oldest_first",
    "runs_folder",
    "text_of",
    "user_path",
]

logger = logging.getLogger(__name__)

#: In the folder of the banks, and in that of the runs: names, the one asked for last at the end. Times are
#: no order: clocks differ between machines, and go backwards.
_ORDER_FILE = ".order.json"


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` and ``~name`` as a shell reads them; nothing is looked up.

    An address, such as ``s3://bucket/prefix``, is a place in a bucket.

    Shells do so for words of their own only: not in ``--weights=~/x.pth``, environment variables, TOML, CSV
    or Python. A name that begins with ``~`` is written ``./~name``, as in a shell; a `Path` cannot keep that
    dot, so such a path comes back absolute. A ``~name`` without a home stays.

    Raises
    ------
    InvalidInputError
        If no file can have the name: it, or a part, is too long, or has a zero byte or half a character. If
        it is an address of no bucket.

    Examples
    --------
    >>> user_path("~/features") == Path.home() / "features", str(user_path("a/~b"))
    (True, 'a/~b')
    """
    asked = text_of(path)
    text = os.path.expanduser(asked)  # noqa: PTH111  # pathlib's raises where there is no such home
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        name = b"\0"
    longest = max(map(len, name.split(b"/")))
    most_name, most = os.pathconf("/", "PC_NAME_MAX"), os.pathconf("/", "PC_PATH_MAX")
    if b"\0" in name or longest > most_name or len(name) >= most:
        fault = (
            "has a zero byte or half a character in it"
            if b"\0" in name
            else f"is too long (a name of {longest} bytes, {len(name)} in all)"
        )
        raise InvalidInputError(f"no file can be called {printable(asked[:100])!r}...: it {fault}")
    in_bucket = path_of_url(text) if "://" in text else None
    if in_bucket is not None:
        return in_bucket
    found = Path(text)
    return found.absolute() if str(found).startswith("~") else found


def text_of(path: str | os.PathLike[str]) -> str:
    """Return a path as its user writes it, wherever it leads."""
    return str(path) if isinstance(path, BucketPath) else os.fspath(path)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache: `cache_dir`, else ``$FEATBANK_CACHE``, else ``./cache``; nothing is created.

    Of these the first that is a folder: a bucket holds banks alone, and runs, networks and digests of files
    stay on this machine.

    Examples
    --------
    >>> cache_folder("/tmp/features").as_posix()
    '/tmp/features'
    """
    places = (user_path(one) for one in (cache_dir, os.environ.get("FEATBANK_CACHE")) if one)
    return next((one for one in places if not isinstance(one, BucketPath)), Path("cache")).absolute()


def banks_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the banks inside the cache, which may be in a bucket."""
    return user_path(cache_dir or os.environ.get("FEATBANK_CACHE") or "cache").absolute() / "banks"


def runs_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the runs inside the cache."""
    return cache_folder(cache_dir) / "runs"


def networks_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the networks that were trained, inside the cache."""
    return cache_folder(cache_dir) / "networks"


def make_newest(folder: Path, path: Path) -> None:
    """Record that a bank, or a run, below `folder` was made or asked for last, durably.

    Where nothing can be written, nothing changes.
    """
    name = path.relative_to(folder).as_posix()

    def make() -> bytes | None:
        if not isinstance(folder, BucketPath):
            remove_stale_temporaries(folder)
        names = _recorded(folder)
        if names[-1:] == [name]:
            return None
        return json_bytes([*(one for one in names if one != name and (folder / one).is_dir()), name])

    try:
        change_file(folder / _ORDER_FILE, make, folder / ".lock")
    except CacheWriteError as error:
        if error.errno not in READ_ONLY:
            logger.warning("%s is not recorded as the newest: %s", name, error)


def oldest_first(folder: Path, paths: Iterable[Path], age: Callable[[Path], Any]) -> list[Path]:
    """Sort banks, or runs, below `folder`: as they were asked for here, the last one at the end.

    What was copied in, and not asked for since, comes before all these, by `age`.
    """
    places = {name: place for place, name in enumerate(_recorded(folder))}
    return sorted(
        paths, key=lambda path: (places.get(path.relative_to(folder).as_posix(), -1), age(path), str(path))
    )


def _recorded(folder: Path) -> list[str]:
    path = folder / _ORDER_FILE
    try:
        names = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
        if isinstance(names, list) and all(isinstance(one, str) for one in names):
            return names
        said = "it is no list of names"
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, RecursionError) as error:
        said = str(error)
    logger.warning("the order of what is in %s is not known (%s cannot be read: %s)", folder, path, said)
    return []


# SHA-256 digests of files, kept from one run to the next: what has not changed is not read again -----
#
# A file is known by its path, size, inode, device and its two times in nanoseconds. The time of its last
# change (ctime) is among them because no program can set it: a copy that keeps size and mtime, or an edit
# whose mtime was put back, is seen. A file that changed less than `SETTLE_S` before it was looked at is not
# remembered: it could change once more within the same tick of the file system's clock. What no stat can see
# (a disk that rots, a file system that makes its times up) is found by reading again: ``rehash``.

#: Seconds: the coarsest clock of a file system in use (FAT) ticks every two.
SETTLE_S = 2.0
#: Most digests that are kept, about 220 MB on disk; those not asked for longest go first.
MAX_ENTRIES = 1 << 22
#: A digest that was asked for counts as used this day; days nearer than these are not written anew for it.
_FRESH_DAYS = 30
_MAGIC = b"featbank digests 1\n"
_COLUMNS: tuple[np.dtype[Any], ...] = (np.dtype("<u8"), np.dtype("<u8"), np.dtype("<u4"), np.dtype("V32"))
_Columns = tuple[NDArray[Any], ...]
_ENTRY_BYTES = sum(one.itemsize for one in _COLUMNS)
#: So many new digests are sorted in at once, to be found again; more are when they are saved.
_SMALL = 10_000


@dataclass
class Found:
    """What a cache knows of some files, or of some names.

    Parameters
    ----------
    keys : ndarray of uint64, shape (n, 2)
        A hash of path and stat of each.
    digests : ndarray of uint8, shape (n, 32)
        SHA-256 of each file that is known; zeros elsewhere.
    known : ndarray of bool, shape (n,)
        Which are known.
    settled : ndarray of bool, shape (n,)
        Which may be remembered: False for a file that is not there or has changed only now.
    """

    keys: NDArray[np.uint64]
    digests: NDArray[np.uint8]
    known: NDArray[np.bool_]
    settled: NDArray[np.bool_]


class _Table:
    """Digests in the order of their keys."""

    def __init__(self, *columns: NDArray[Any]) -> None:
        self.columns = columns
        self.heads, self.checks, self.days, self.digests = self.columns

    @classmethod
    def empty(cls) -> _Table:
        return cls(*(np.empty(0, one) for one in _COLUMNS))

    def find(self, found: Found) -> NDArray[np.int64]:
        """Fill in what is known here; return the entries that were."""
        if not len(self.heads):
            return np.empty(0, np.int64)
        at = np.searchsorted(self.heads, found.keys[:, 0])
        at[at == len(self.heads)] = 0
        hit = np.flatnonzero((self.heads[at] == found.keys[:, 0]) & (self.checks[at] == found.keys[:, 1]))
        found.digests[hit] = self.digests[at[hit]].view(np.uint8).reshape(-1, 32)
        found.known[hit] = True
        return at[hit]


class DigestCache:
    """Digests of files by path and stat, in one file that any number of processes share.

    A cache that cannot be read is begun anew, one that cannot be written costs speed only; both are said at
    debug level. Not for several threads at once.

    Parameters
    ----------
    file : path, optional
        Where the digests are kept; None: only as long as this object.
    settle_s : float, default=2.0
        How long before a look a file must have changed last for its digest to be remembered.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     cache = DigestCache(None, settle_s=-1.0)
    ...     before = cache.find([file.name.encode()]).known.tolist()
    ...     digest = cache.file_digest(file.name)
    ...     before, cache.find([file.name.encode()]).known.tolist(), digest[:8]
    ([False], [True], 'e3b0c442')
    """

    def __init__(self, file: Path | None, *, settle_s: float = SETTLE_S) -> None:
        self.file, self._settle_ns = file, int(settle_s * 1e9)
        self._disk: _Table | None = None
        self._new = _Table.empty()
        self._added: list[_Columns] = []
        self._used: list[NDArray[np.uint64]] = []

    @classmethod
    def of(cls, cache_dir: str | os.PathLike[str] | None = None) -> DigestCache:
        """Return the one of a cache folder; nothing is created."""
        return cls(cache_folder(cache_dir) / ".digests")

    def find(self, paths: Sequence[bytes]) -> Found:
        """Look at files, reading none: one stat each, links followed.

        Parameters
        ----------
        paths : sequence of bytes, length n
            Absolute. Some 10,000 at a time keep memory small.

        Returns
        -------
        Found
            To be handed to `add` with the digests of what was not known.
        """
        now, hashed, settled = time.time_ns(), [], np.zeros(len(paths), bool)
        for row, path in enumerate(paths):
            try:
                one = os.stat(path)  # noqa: PTH116 - bytes, and a million of them
            except (OSError, ValueError):  # ValueError: a zero byte in the name
                hashed.append(bytes(16))
                continue
            settled[row] = one.st_ctime_ns < now - self._settle_ns
            said = (path, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino, one.st_dev)
            hashed.append(hashlib.blake2b(b"%b\0%d %d %d %d %d" % said, digest_size=16).digest())
        found = self._look_up(hashed, settled)
        found.known &= settled
        return found

    def find_name(self, name: bytes) -> Found:
        """Look up what was computed once and depends on `name` alone, such as a digest of digests."""
        return self._look_up([hashlib.blake2b(b"\0" + name, digest_size=16).digest()], np.ones(1, bool))

    def add(self, found: Found, rows: NDArray[np.intp], digests: NDArray[np.uint8]) -> None:
        """Remember digests of files, as they were before they were read.

        Parameters
        ----------
        found : Found
            From `find` or `find_name`, before the reading began.
        rows : ndarray of int, shape (n_rows,)
            Which of them.
        digests : ndarray of uint8, shape (n_rows, 32)
        """
        keep = found.settled[rows]
        if keep.any():
            keys, values = found.keys[rows[keep]], np.ascontiguousarray(digests[keep]).view("V32").ravel()
            days = np.full(len(keys), _today(), np.uint32)
            self._added.append((keys[:, 0], keys[:, 1], days, values))

    def file_digest(self, path: str | os.PathLike[str], *, rehash: bool = False) -> str:
        """Return the SHA-256 of one file as 64 hexadecimal digits, read only if it is not known.

        Parameters
        ----------
        path : path
        rehash : bool, default=False
            Read it in any case.

        Raises
        ------
        OSError
            If it has to be read and cannot be.
        """
        found = self.find([os.fsencode(Path(path).absolute())])
        if found.known[0] and not rehash:
            return str(found.digests[0].tobytes().hex())
        digest = file_digest(path)
        self.add(found, np.zeros(1, np.intp), np.frombuffer(bytes.fromhex(digest), np.uint8).reshape(1, 32))
        return digest

    def save(self) -> None:
        """Write what is new beside what other processes wrote meanwhile, whole or not at all.

        Nothing is written, and nothing lost, while the folder is not there: call it again once it is.
        """
        if self.file is None or not self.file.parent.is_dir():
            return
        # also where nothing is new: what a killed process left would stay as long as that is so
        remove_stale_temporaries(self.file.parent)
        if not len(self._new.heads) and not self._added and not self._used:
            return
        try:
            with locked(self.file.with_name(f"{self.file.name}.lock")):
                heads, checks, days, digests = self._read().columns
                if self._used:
                    days = np.where(np.isin(heads, np.concatenate(self._used)), _today(), days)
                # those of this process win
                _write(self.file, [(heads, checks, days, digests), self._new.columns, *self._added])
        except CacheWriteError as error:
            logger.debug("digests are not kept for the next run: %s", error)
            self._take_in()
        else:
            self._disk, self._new = None, _Table.empty()  # read again when it is asked for
            self._added, self._used = [], []

    def _look_up(self, hashed: list[bytes], settled: NDArray[np.bool_]) -> Found:
        n = len(hashed)
        keys = np.frombuffer(b"".join(hashed), "<u8").astype(np.uint64).reshape(n, 2)
        found = Found(keys, np.zeros((n, 32), np.uint8), np.zeros(n, bool), settled)
        if self._disk is None:
            self._disk = self._read()
        used = self._disk.find(found)
        old = used[self._disk.days[used] < _today() - _FRESH_DAYS]
        if len(old):
            self._used.append(self._disk.heads[old].astype(np.uint64))
        if len(self._new.heads) + sum(len(columns[0]) for columns in self._added) < _SMALL:
            self._take_in()
        self._new.find(found)
        return found

    def _take_in(self) -> None:
        """Sort what was added among what is new."""
        if self._added:
            parts = [self._new.columns, *self._added]
            order = _last_of_each(parts)
            self._new = _Table(*(_column(parts, at)[order] for at in range(len(_COLUMNS))))
            self._added = []

    def _read(self) -> _Table:
        """Return what is on disk; nothing, if it is not whole."""
        if self.file is None:
            return _Table.empty()
        try:
            data = self.file.read_bytes()
            n, rest = divmod(len(data) - len(_MAGIC) - 32, _ENTRY_BYTES)
            end = n * _ENTRY_BYTES
            if n < 0 or rest or data[end:-32] != _MAGIC or sha256(memoryview(data)[:end]) != data[-32:].hex():
                raise ValueError("its checksum is wrong")
        except FileNotFoundError:
            return _Table.empty()
        except (OSError, ValueError) as error:
            logger.debug("%s is not used, files are read again: %s", self.file, error)
            return _Table.empty()
        columns, start = [], 0
        for dtype in _COLUMNS:
            columns.append(np.frombuffer(data, dtype, n, start))
            start += n * dtype.itemsize
        return _Table(*columns)


def _column(parts: Sequence[_Columns], at: int) -> NDArray[Any]:
    return np.concatenate([columns[at] for columns in parts])


def _last_of_each(parts: Sequence[_Columns]) -> NDArray[np.intp]:
    """Return the order of the keys, of equal ones the last."""
    heads, checks = _column(parts, 0), _column(parts, 1)
    order = np.lexsort((checks, heads))
    last = np.ones(len(order), bool)
    last[:-1] = (np.diff(heads[order]) != 0) | (np.diff(checks[order]) != 0)
    return order[last]


def _write(path: Path, parts: Sequence[_Columns]) -> None:
    """Write entries column by column and their checksum behind them."""
    order = _last_of_each(parts)
    if len(order) > MAX_ENTRIES:
        newest = np.argsort(_column(parts, 2)[order], kind="stable")[-MAX_ENTRIES:]
        order = order[np.sort(newest)]
    columns = [_column(parts, at)[order].astype(dtype, copy=False) for at, dtype in enumerate(_COLUMNS)]
    blocks: list[bytes | memoryview] = [one.view(np.uint8).data for one in columns]
    seal = hashlib.sha256()
    for block in blocks:
        seal.update(block)
    write_file(path, [*blocks, _MAGIC + seal.digest()])


def _today() -> int:
    return int(time.time() // 86400)
