"""Paths as users write them, where banks and runs live, and in which order they were asked for."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from featbank._atomic import READ_ONLY, json_bytes, remove_stale_temporaries
from featbank._bucket import BucketPath, change_file, path_of_url, text_of
from featbank.errors import CacheWriteError, InvalidInputError
from featbank.manifest import printable

__all__ = [
    "banks_folder",
    "cache_folder",
    "make_newest",
    "networks_folder",
    "oldest_first",
    "runs_folder",
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
    in_bucket = path_of_url(text)
    if in_bucket is not None:
        return in_bucket
    found = Path(text)
    return found.absolute() if str(found).startswith("~") else found


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
