"""Paths as users write them, and where banks and runs live when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from featbank.errors import InvalidInputError
from featbank.manifest import printable

__all__ = ["banks_folder", "cache_folder", "runs_folder", "user_path"]


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` and ``~name`` as a shell reads them; nothing is looked up.

    Shells do so for words of their own only: not in ``--weights=~/x.pth``, environment variables, TOML, CSV
    or Python. A name that begins with ``~`` is written ``./~name``, as in a shell; a `Path` cannot keep that
    dot, so such a path comes back absolute. A ``~name`` without a home stays.

    Raises
    ------
    InvalidInputError
        If no file can have the name: it, or a part, is too long, or has a zero byte or half a character.

    Examples
    --------
    >>> user_path("~/features") == Path.home() / "features", str(user_path("a/~b"))
    (True, 'a/~b')
    """
    asked = os.fspath(path)
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
    found = Path(text)
    return found.absolute() if str(found).startswith("~") else found


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache: `cache_dir`, else ``$FEATBANK_CACHE``, else ``./cache``; nothing is created.

    Examples
    --------
    >>> cache_folder("/tmp/features").as_posix()
    '/tmp/features'
    """
    return user_path(cache_dir or os.environ.get("FEATBANK_CACHE") or "cache").absolute()


def banks_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the banks inside the cache."""
    return cache_folder(cache_dir) / "banks"


def runs_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the runs inside the cache."""
    return cache_folder(cache_dir) / "runs"
