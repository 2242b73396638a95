"""A bucket in the place of a folder: list, read, read a range, put if absent, swap, delete.

`BucketPath` answers to what banks ask of a path, so that they are read by the same code wherever they are.
What writes knows the difference: a folder has locks and renames; a bucket has neither, and needs none: each
object is put whole, if there is none of its name (`BucketPath.put_if_absent`), or in the place of the one
that was looked at (`BucketPath.change`).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path, PosixPath
from typing import Any, Literal, NamedTuple, NoReturn, Self, TypeVar

from featbank._atomic import Data
from featbank._registry import nearest
from featbank.errors import BankReadError, CacheWriteError, InvalidInputError, MissingPackageError
from featbank.manifest import printable

__all__ = ["BucketPath", "Entry", "path_of_url"]

_T = TypeVar("_T")

#: Scheme of the address -> prefix of the environment variables that say how to get there.
_SCHEMES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_", "memory": ""}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
#: Tries of one request, each of which obstore repeats a few times itself where the store is busy.
_TRIES, _PAUSE_S = 6, 0.05
_OBSTORE_RETRIES: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(seconds=0.05), "max_backoff": timedelta(seconds=5), "base": 2},
}
#: Swaps of one file before it is said that others are always first.
_MOST_SWAPS = 60
#: In which a shard must be there: 64 MiB at 1.8 Mbit/s.
_TIMEOUT = timedelta(seconds=300)
#: Stands in the folder of the banks: by it each process sees whether the store overwrites what it must not.
_PROBE, _PROBE_TEXT = (
    ".conditional-puts",
    b"featbank sees by this that the store refuses to overwrite an object\n",
)


def path_of_url(text: str) -> Path | None:
    """Return the place an address means, such as ``s3://bucket/prefix``; None for what is no address.

    ``file://`` is a folder like any other. Nothing is looked up.

    Raises
    ------
    InvalidInputError
        If nothing is known of such addresses, or they name no bucket.

    Examples
    --------
    >>> path_of_url("s3://features/banks"), path_of_url("file:///tmp/cache"), path_of_url("cache/banks")
    (BucketPath('s3://features/banks'), PosixPath('/tmp/cache'), None)
    """
    match = _URL.fullmatch(text)
    if match is None:
        return None
    scheme, rest = match["scheme"], match["rest"]
    if scheme == "file":
        if not rest.startswith("/"):
            raise InvalidInputError(f"{printable(text)!r} names no folder: write file:///path/to/folder")
        return Path(rest)
    if scheme not in _SCHEMES:
        raise InvalidInputError(
            f"{printable(text)!r} is at an address of a kind featbank does not know, {scheme!r}; there are: "
            f"{nearest(scheme, [*_SCHEMES, 'file'])}"
        )
    parts = [part for part in rest.split("/") if part]
    if not parts or any(part in (".", "..") or not part.isprintable() for part in parts):
        raise InvalidInputError(
            f"{printable(text)!r} names no bucket: write {scheme}://BUCKET/PREFIX, without dots as names"
        )
    return BucketPath(f"{scheme}:", *parts)


class Entry(NamedTuple):
    """What stands in a folder of a bucket: an object, or what several names begin with."""

    name: str
    size_bytes: int | None

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.size_bytes is None


class BucketPath(PosixPath):
    """A place in a bucket, ``s3://bucket/prefix/name``; what looks at a path looks at the bucket.

    What would write, or hand the path to the system, is refused with a line that says so: `put_if_absent`,
    `change` and `delete` are the ways to write here. Failed requests are repeated; what stays is a
    `BankReadError`, or a `CacheWriteError`, and `FileNotFoundError` where there is no such object.
    """

    def __str__(self) -> str:
        scheme, *names = self.parts
        return f"{scheme}//{'/'.join(names)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __fspath__(self) -> NoReturn:
        raise InvalidInputError(
            f"{printable(str(self))!r} is in a bucket, and this needs a place on this machine: copy what is "
            f"there first, or give another place"
        )

    @property
    def _key(self) -> str:
        return "/".join(self.parts[2:])

    @property
    def _store(self) -> Any:
        return _open_store(*self._address)

    @property
    def _address(self) -> tuple[str, ...]:
        """What tells one store from another: scheme, bucket, and the settings in the environment."""
        if len(self.parts) < 2:  # above the bucket
            os.fspath(self)
        scheme = self.parts[0][:-1]
        start = _SCHEMES[scheme]
        names = sorted(name for name in os.environ if start and name.startswith(start))
        return (scheme, self.parts[1], *(f"{name}={os.environ[name]}" for name in names))

    # looking ---------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """List what stands directly here, by name; nothing if there is no such folder."""
        obstore = _library(self)

        key = self._key
        found = self._tried("read", lambda: obstore.list_with_delimiter(self._store, key or None))
        folders = [Entry(one.rstrip("/").rpartition("/")[2], None) for one in found["common_prefixes"]]
        files = [Entry(one["path"].rpartition("/")[2], one["size"]) for one in found["objects"]]
        return sorted([*folders, *(one for one in files if one.name)], key=lambda one: one.name)

    def names_from(self, start: str) -> list[str]:
        """List the objects directly here whose name begins with `start`, by name; one page of a listing."""
        obstore = _library(self)

        def page() -> list[str]:
            found = []
            listed = obstore.list(self._store, self._key, offset=(self / start)._key, chunk_size=50)
            for chunk in listed:
                names = [one["path"][len(self._key) + 1 :] for one in chunk]
                found += [name for name in names if name.startswith(start) and "/" not in name]
                if any(not name.startswith(start) for name in names):
                    break
            return sorted(found)

        return self._tried("read", page)

    def total_bytes(self) -> int:
        """Return the bytes of all objects below this place."""
        return sum(one["size"] for one in self._below())

    def _below(self) -> list[Any]:
        obstore = _library(self)

        return self._tried("read", lambda: list(obstore.list(self._store, self._key or None).collect()))

    def _head(self) -> Any | None:
        obstore = _library(self)

        if not self._key:
            return None
        with contextlib.suppress(FileNotFoundError):
            return self._tried("read", lambda: obstore.head(self._store, self._key))
        return None

    def exists(self, **_: Any) -> bool:
        """Say whether there is an object of this name, or one below it."""
        return self.is_file() or self.is_dir()

    def is_file(self, **_: Any) -> bool:
        """Say whether there is an object of this name."""
        return self._head() is not None

    def is_dir(self, **_: Any) -> bool:
        """Say whether there is an object below this name."""
        obstore = _library(self)

        def first() -> bool:
            return any(len(chunk) for chunk in obstore.list(self._store, self._key or None, chunk_size=1))

        return self._tried("read", first)

    def is_symlink(self) -> bool:
        """Say that there are no links here."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return size and time of an object, or the latest time of those below; `FileNotFoundError`."""
        found = self._head()
        if found is not None:
            return _status(stat.S_IFREG | 0o644, found["size"], found["last_modified"].timestamp())
        times = [one["last_modified"].timestamp() for one in self._below()]
        if not times:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return _status(stat.S_IFDIR | 0o755, 0, max(times))

    def relative_to(self, other: Any, *_: Any, **__: Any) -> Path:  # type: ignore[override] # as of 3.11
        """Return the rest of this place below another one; `ValueError` if it is not below it."""
        super().relative_to(other)
        return Path(*self.parts[len(BucketPath(other).parts) :])

    def iterdir(self) -> Iterator[Self]:  # type: ignore[override] # a generator there
        """Return the places directly below this one."""
        return iter([self / one.name for one in self.entries()])

    def glob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override] # a generator there
        """Return what stands here, or as many folders further down as the pattern says, and fits."""
        first, slash, rest = pattern.partition("/")
        if "**" in pattern:
            os.fspath(self)
        for one in self.entries():
            if fnmatch.fnmatchcase(one.name, first):
                if not slash:
                    yield self / one.name
                elif one.is_dir():
                    yield from (self / one.name).glob(rest)

    def rglob(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse; `delete` and `total_bytes` know what is below."""
        os.fspath(self)
        raise AssertionError

    walk = rglob  # type: ignore[assignment, unused-ignore] # as of 3.12

    def resolve(self, strict: bool = False) -> Self:
        """Return this place: there are no links."""
        return self

    def samefile(self, other_path: Any) -> bool:
        """Say whether another path is this place."""
        return bool(self == other_path)

    def absolute(self) -> Self:
        """Return this place."""
        return self

    # reading ---------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return an object whole."""
        return bytes(self.read_buffer())

    def read_buffer(self) -> memoryview:
        """Return an object whole, without a copy of it."""
        obstore = _library(self)

        return self._tried("read", lambda: memoryview(obstore.get(self._store, self._key).bytes()))

    def read_start(self, n_bytes: int) -> tuple[bytes, int]:
        """Return the first bytes of an object, and how many it has."""
        obstore = _library(self)

        def read() -> tuple[bytes, int]:
            try:
                found = obstore.get(self._store, self._key, options={"range": (0, n_bytes)})
            except obstore.exceptions.GenericError:
                if obstore.head(self._store, self._key)["size"]:
                    raise
                return b"", 0  # no range of nothing
            return bytes(found.bytes()), int(found.meta["size"])

        return self._tried("read", read)

    def read_ranges(self, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return parts of an object; those that are close together come in one request."""
        obstore = _library(self)

        def read() -> list[bytes]:
            found = obstore.get_ranges(self._store, self._key, starts=starts, lengths=sizes)
            return [bytes(one) for one in found]

        return self._tried("read", read)

    def version(self) -> dict[str, str] | None:
        """Return what tells an object from the one that takes its place; None if there is none."""
        found = self._head()
        if found is None:
            return None
        return {name: found[name] for name in ("e_tag", "version") if found.get(name) is not None}

    # writing ---------------------------------------------------------------------------------------

    def put_if_absent(self, data: Data) -> bool:
        """Write an object, whole or not at all, unless there is one of this name; say whether it was written.

        False may also mean that it was, and the answer got lost.
        """
        return self._put(data, "create")

    def swap(self, data: Data, seen: dict[str, str] | None) -> bool:
        """Put an object in the place of the one of version `seen`, or of none; say whether it now is there.

        A put that was reported as failed, and was not, is recognised by its bytes.
        """
        if self._put(data, "create" if seen is None else seen):
            return True
        with contextlib.suppress(FileNotFoundError):
            return self.read_bytes() == b"".join(_parts(data))
        return False

    def change(self, make: Callable[[], Data | None]) -> None:
        """Swap this object for what `make` makes of it; where another process was first, it makes it again.

        As `change_file` of a folder's files, which calls this; nothing is put where `make` returns None.

        Raises
        ------
        CacheWriteError
            If others are always first.
        """
        for number in range(_MOST_SWAPS):
            seen = self.version()  # before it is read
            data = make()
            if data is None or self.swap(data, seen):
                return
            time.sleep(random.uniform(0, _PAUSE_S * min(number + 1, 20)))
        raise CacheWriteError(
            f"cannot write {printable(str(self))!r}: other processes changed it {_MOST_SWAPS} times in a "
            f"row; run the same command again, it resumes"
        )

    def _put(self, data: Data, mode: Literal["create"] | dict[str, str]) -> bool:
        obstore = _library(self)
        refused = (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError)
        whole = data if isinstance(data, bytes) else b"".join(_parts(data))

        def put() -> bool:
            try:
                obstore.put(self._store, self._key, whole, mode=mode, use_multipart=False)
            except refused:
                return False
            except FileNotFoundError as error:  # what was to be replaced is gone, or so is the bucket
                if mode == "create" or "NoSuchBucket" in str(error):
                    raise
                return False
            except obstore.exceptions.NotSupportedError as error:
                raise self._not_conditional() from error
            return True

        return self._tried("write", put)

    def refuse_unconditional(self) -> None:
        """Raise `CacheWriteError` if the store of this folder overwrites objects that it was told to leave.

        Two machines that write into such a bucket would lose each other's rows without a word.
        """
        if self._address in _conditional:
            return
        probe = self / _PROBE
        probe.put_if_absent(_PROBE_TEXT)
        other = {"e_tag": f'"{"0" * 32}"', "version": "1"}
        if probe._put(_PROBE_TEXT, "create") or probe._put(_PROBE_TEXT, other):
            raise probe._not_conditional()
        _conditional.add(self._address)

    def _not_conditional(self) -> CacheWriteError:
        return CacheWriteError(
            f"nothing is written to {printable(str(self.parent))!r}: its store overwrites what it must leave "
            f"(If-None-Match, If-Match), so two machines would lose each other's rows; use one with "
            f"conditional puts (Amazon S3, Google Cloud Storage, Azure, MinIO), or extract into a folder "
            f"and copy the bank"
        )

    def delete(self, *, first: Iterable[str] = (), last: Iterable[str] = ()) -> int:
        """Delete all objects below this place, those named in `first` before and in `last` after the others.

        Returns
        -------
        int
            Their bytes.
        """
        obstore = _library(self)

        there = {one["path"]: one["size"] for one in self._below()}
        ahead, behind = ({(self / name)._key for name in names} & there.keys() for names in (first, last))
        for keys in (ahead, there.keys() - ahead - behind, behind):
            if keys:
                with contextlib.suppress(FileNotFoundError):  # another process deletes it, too
                    self._tried("write", functools.partial(obstore.delete, self._store, sorted(keys)))
        return sum(there.values())

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object of this name; none is as good."""
        obstore = _library(self)

        with contextlib.suppress(FileNotFoundError):
            self._tried("write", lambda: obstore.delete(self._store, self._key))

    def copy_to(self, target: BucketPath) -> None:
        """Copy an object within its bucket."""
        obstore = _library(self)

        self._tried("write", lambda: obstore.copy(self._store, self._key, target._key))

    # what goes wrong -------------------------------------------------------------------------------

    def _tried(self, what: Literal["read", "write"], request: Callable[[], _T]) -> _T:
        """Make a request, again where it failed for no reason of ours."""
        errors = _library(self).exceptions
        for left in reversed(range(_TRIES)):
            try:
                return request()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                    raise self._failed(what, error) from error
                raise
            except (errors.GenericError, TimeoutError, ConnectionError) as error:
                if not left or _is_final(str(error)):
                    raise self._failed(what, error) from error
                time.sleep(random.uniform(0.5, 1.5) * _PAUSE_S * 2 ** (_TRIES - 1 - left))
            except (errors.BaseError, ValueError) as error:
                if isinstance(error, InvalidInputError):
                    raise
                raise self._failed(what, error) from error
        raise AssertionError  # the last try returns or raises

    def _failed(self, what: Literal["read", "write"], error: Exception) -> BankReadError | CacheWriteError:
        text, place = str(error), printable(str(self))
        code = re.search(r"<Code>(\w+)</Code>", text)
        said = code[1] if code else printable(text.split("\n")[0].rpartition(" - ")[2])[:200]
        kind = type(error).__name__
        number = None
        if "NoSuchBucket" in text or "ContainerNotFound" in text:
            advice = f"there is no bucket {self.parts[1]!r}: make it, or give another --cache-dir"
        elif kind in ("PermissionDeniedError", "UnauthenticatedError") or re.search(r"\b(403|401)\b", text):
            number = errno.EACCES
            advice = (
                "no permission: check the credentials, and that they may list, read, put and delete there"
            )
        else:
            names = _SCHEMES[self.parts[0][:-1]]
            advice = (
                f"check the network, the address and the {names}... variables of the environment, then run "
                f"the same command again, it resumes"
            )
        if what == "read":
            return BankReadError(f"{place!r} cannot be read now ({said}): {advice}")
        wrapped = CacheWriteError(f"cannot write {place!r} ({said}): {advice}")
        wrapped.errno = number
        return wrapped


#: The process that asked for a bucket first, as ``"pid"``; one that is forked has this, too.
_used_by: dict[str, int] = {}
#: Buckets of which this process has seen that they refuse to overwrite.
_conditional: set[tuple[str, ...]] = set()


def _parts(data: Data) -> Sequence[bytes | memoryview]:
    return (data,) if isinstance(data, bytes | memoryview) else data


def _status(mode: int, size: int, changed: float) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, 0, 0, size, changed, changed, changed))


def _is_final(said: str) -> bool:
    """Say whether it is of no use to ask again."""
    status = re.search(r"status code: (\d+)", said)
    return status is not None and status[1][0] in "34" and status[1] not in ("408", "409", "429")


def _library(place: BucketPath) -> Any:
    """Return obstore, which is imported when the first bucket is asked for.

    Its threads are not in a process that is forked afterwards, where each request would wait for ever.
    """
    if _used_by.setdefault("pid", os.getpid()) != os.getpid():
        raise InvalidInputError(
            f"{printable(str(place))!r} is in a bucket, which a process that was forked cannot read once its "
            f"parent has: start processes by 'spawn' or 'forkserver' (DataLoader(multiprocessing_context="
            f"'spawn'), multiprocessing.get_context('spawn'))"
        )
    try:
        import obstore
        import obstore.exceptions
    except ImportError as error:
        raise MissingPackageError(
            f"{printable(str(place))!r} is in a bucket, which needs obstore: pip install 'featbank[bucket]'"
        ) from error
    return obstore


@functools.lru_cache(maxsize=64)
def _open_store(scheme: str, bucket: str, *_: str) -> Any:
    """Open a bucket as the environment says; a setting that changed gives another one."""
    from obstore.store import MemoryStore, from_url

    if scheme == "memory":
        return MemoryStore()
    options: Any = {"timeout": _TIMEOUT}
    if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
        options["allow_http"] = True
    return from_url(f"{scheme}://{bucket}", client_options=options, retry_config=_OBSTORE_RETRIES)
