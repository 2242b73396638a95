"""Where banks and runs live when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["banks_folder", "cache_folder", "runs_folder"]


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache: `cache_dir`, else ``$FEATBANK_CACHE``, else ``./cache``; nothing is created.

    Examples
    --------
    >>> cache_folder("/tmp/features").as_posix()
    '/tmp/features'
    """
    return Path(cache_dir or os.environ.get("FEATBANK_CACHE") or "cache").absolute()


def banks_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the banks inside the cache."""
    return cache_folder(cache_dir) / "banks"


def runs_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the runs inside the cache."""
    return cache_folder(cache_dir) / "runs"
