"""Keeps Pillow's warnings about odd files away from the user, for the decoding thread only.

The filters of `warnings` belong to whoever runs the program: they are one list for all threads, others copy
and pickle it (scikit-learn does, for its workers), and ``warnings.catch_warnings`` in two threads can leave
the wrong one behind. So they are not touched. Pillow's modules find in the place of `warnings` what asks
first whether this thread is inside `quiet_pillow`; every other warning takes its usual way.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet_pillow", "watch_pillow"]


class _Depth(threading.local):
    depth = 0


class _Warnings:
    """The module `warnings`, as Pillow's modules see it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, **options: Any) -> None:
        if not _decoding.depth:
            warnings.warn(message, category, stacklevel + 1, **options)


_decoding = _Depth()
_in_pillow = _Warnings()


def watch_pillow() -> None:
    """Make `quiet_pillow` work for the modules of Pillow that are loaded by now."""
    for name, module in list(sys.modules.items()):
        if name.startswith("PIL.") and getattr(module, "warnings", None) is warnings:
            module.warnings = _in_pillow  # type: ignore[attr-defined]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Drop warnings that modules of Pillow raise in this thread inside the block."""
    _decoding.depth += 1
    try:
        yield
    finally:
        _decoding.depth -= 1
