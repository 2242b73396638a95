"""What a bank holds, as plain values for lists and tables; cheap enough for ``banks ls``."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featbank.manifest import SPLITS, short_repr

__all__ = ["BankInfo", "CutInfo", "CutProgress"]


class CutProgress(NamedTuple):
    """How far a cut is extracted: rows of the manifest stored, and rows of the manifest."""

    rows_stored: int
    rows_needed: int


@dataclass(frozen=True)
class CutInfo:
    """One cut of a bank.

    Parameters
    ----------
    name : str
        Its name.
    shape : tuple of int
        Shape of one row.
    dtype : str
        What is stored.
    rows_stored, rows_needed : int
        Rows of the manifest that are stored, and that there are.
    complete : bool
        Whether everything is stored and recorded.
    size_bytes : int
        Bytes of its files.
    facts : mapping of str to JSON values
        What extraction recorded; empty while it is not complete.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows_stored: int
    rows_needed: int
    complete: bool
    size_bytes: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class BankInfo:
    """One bank.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    dataset, backbone, digest8 : str
        The parts of its name ``<dataset>/<backbone>-<digest8>``.
    rows : int
        Rows of the manifest.
    classes : tuple of str
        Class names.
    splits : mapping of str to int
        Rows per split.
    cuts : tuple of CutInfo
        Its cuts, complete or not.
    quarantined : int
        Rows that have no features in at least one cut.
    created : str
        When it was made, as its provenance says; "" if it does not.
    changed : float
        When ``manifest.h5`` or ``bank.json`` last changed, in seconds since 1970.
    size_bytes : int
        Bytes of all its files.
    error : str or None
        Why the bank cannot be opened; the fields that would need it are empty then.
    """

    path: Path
    dataset: str
    backbone: str
    digest8: str
    rows: int = 0
    classes: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    cuts: tuple[CutInfo, ...] = ()
    quarantined: int = 0
    created: str = ""
    changed: float = 0.0
    size_bytes: int = 0
    error: str | None = None

    __repr__ = short_repr

    @property
    def name(self) -> str:
        """``<dataset>/<backbone>-<digest8>``."""
        return f"{self.dataset}/{self.backbone}-{self.digest8}"


def split_counts(splits: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many rows each split has, splits without rows left out."""
    counts = np.bincount(splits, minlength=len(SPLITS))
    return {name: int(count) for name, count in zip(SPLITS, counts, strict=True) if count}


def changed(folder: Path) -> float:
    """Return when a bank was last extracted to, in seconds since 1970; 0 if it has none of its files."""
    times = [0.0]
    for name in ("bank.json", "manifest.h5", ".lock"):  # see `Bank.touch`
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; files that vanish meanwhile count 0."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name), follow_symlinks=False).st_size  # noqa: PTH116, PTH118 - fast
    return total


def shared_bytes(folder: Path) -> int:
    """Return the bytes of files below a folder that have another name too: those that banks share."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 else 0
    return total
