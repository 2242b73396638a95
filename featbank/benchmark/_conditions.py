"""What has to be the same in every round: nothing said, nothing compiled before."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["empty_compiler_cache", "quiet"]


@contextlib.contextmanager
def quiet(name: str = "featbank") -> Iterator[None]:
    """Hold back warnings: the first extraction has said them, and there are many on the same images."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def empty_compiler_cache(folder: Path) -> Iterator[None]:
    """Compile as on the first day: what earlier runs left behind would make it look cheap."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
        shutil.rmtree(folder, ignore_errors=True)
