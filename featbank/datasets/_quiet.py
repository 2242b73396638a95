"""Keeps Pillow's warnings about odd files away from the user, for the decoding thread only.

``warnings.catch_warnings`` swaps a list that all threads share, so two decoding threads can leave the
wrong list behind. Here one filter entry stands in that list for good and matches only while the thread
that asks is inside `quiet_pillow`; every other warning of every other thread takes its usual way.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

__all__ = ["quiet_pillow"]


class _WhileDecoding(threading.local):
    """Stands where a filter has the regular expression of the module name."""

    depth = 0

    def match(self, module: str) -> bool:
        return self.depth > 0 and (module == "PIL" or module.startswith("PIL."))


_decoding = _WhileDecoding()
_ENTRY = ("ignore", None, Warning, _decoding, 0)
_lock = threading.Lock()


def _put_first() -> None:
    # Whoever called simplefilter() or left a catch_warnings block since has put another entry first.
    filters = cast("list[Any]", warnings.filters)
    if filters and filters[0] is _ENTRY:
        return
    with _lock:
        filters[:] = [_ENTRY, *(entry for entry in filters if entry is not _ENTRY)]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Drop warnings that modules of Pillow raise in this thread inside the block."""
    _put_first()
    _decoding.depth += 1
    try:
        yield
    finally:
        _decoding.depth -= 1
