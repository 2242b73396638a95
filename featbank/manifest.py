"""The manifest: the ordered rows of a dataset. Plain arrays, known to datasets and banks alike."""

from __future__ import annotations

import hashlib
import os
import reprlib
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError

__all__ = ["SPLITS", "Manifest", "RowStatus", "printable", "short_repr"]

#: Names of the splits, in the order of their codes; rows of ``"none"`` belong to no split.
SPLITS = ("train", "val", "test", "none")


class RowStatus(IntEnum):
    """What became of one row when its image was to be pushed."""

    OK = 0
    #: The image could not be read; the row's features are zeros and must not be used.
    QUARANTINED = 1
    #: The image was gone before this cut was extracted.
    ABSENT = 2


def printable(name: bytes | str) -> str:
    r"""Return a name fit for a terminal or a log: undecodable bytes and control characters are escaped.

    Examples
    --------
    >>> printable(b"cat/caf\xe9\x1b[31m.jpg")
    'cat/caf\\xe9\\x1b[31m.jpg'
    """
    text = os.fsdecode(name) if isinstance(name, bytes) else name
    parts = []
    for char in text:
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode hands it over
            parts.append(f"\\x{code - 0xDC00:02x}")
        else:
            parts.append(char if char.isprintable() else char.encode("unicode_escape").decode())
    return "".join(parts)


_SHORT = reprlib.Repr()
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 3
_SHORT.maxstring = _SHORT.maxother = 80


def short_repr(self: Any) -> str:
    """Return a `repr` for dataclasses that fits a screen, however much is in their fields."""
    parts = []
    for one in fields(self):
        if one.repr:
            # arrays come on several lines
            parts.append(f"{one.name}={' '.join(_SHORT.repr(getattr(self, one.name)).split())}")
    return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of a dataset, in order.

    Parameters
    ----------
    ids : tuple of bytes, length n_samples
        Relative path of each image with ``/`` between the parts, byte for byte as the file system has it.
    labels : ndarray of int32, shape (n_samples,)
        Index into `classes`; -1 where the image has no label.
    classes : tuple of str
        Class names, in the order of their index.
    splits : ndarray of uint8, shape (n_samples,)
        Index into `SPLITS`.
    digests : ndarray of uint8, shape (n_samples, 32)
        SHA-256 of each image's bytes.
    statuses : ndarray of uint8, shape (n_samples,)
        `RowStatus` of each row.

    Raises
    ------
    InvalidInputError
        If the lengths differ, an index is out of range, or an id stands twice.
    """

    ids: tuple[bytes, ...]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    splits: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    statuses: NDArray[np.uint8]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        n = len(self.ids)
        shapes = {
            "labels": (self.labels.shape, (n,)),
            "splits": (self.splits.shape, (n,)),
            "digests": (self.digests.shape, (n, 32)),
            "statuses": (self.statuses.shape, (n,)),
        }
        wrong = [f"{name} has shape {got}, not {want}" for name, (got, want) in shapes.items() if got != want]
        if not wrong:
            if len(set(self.ids)) != n:
                wrong.append("an id stands twice")
            if n and not (int(self.labels.min()) >= -1 and int(self.labels.max()) < len(self.classes)):
                wrong.append(f"a label is outside -1..{len(self.classes) - 1}")
            if n and int(self.splits.max()) >= len(SPLITS):
                wrong.append(f"a split code is over {len(SPLITS) - 1}")
        if wrong:
            raise InvalidInputError(f"manifest of {n} rows does not hold together: {'; '.join(wrong)}")

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str | None = None, *, readable: bool = True) -> NDArray[np.int64]:
        """Return the row numbers of one split (all rows for None), in order.

        Parameters
        ----------
        split : {"train", "val", "test", "none"} or None
            Which split.
        readable : bool, default=True
            Leave out rows whose image could not be read.

        Returns
        -------
        ndarray of int64, shape (n_rows,)
        """
        mask = np.ones(len(self), dtype=bool)
        if split is not None:
            if split not in SPLITS:
                raise InvalidInputError(f"split={split!r} is not one of {', '.join(SPLITS)}")
            mask &= self.splits == SPLITS.index(split)
        if readable:
            mask &= self.statuses == RowStatus.OK
        return np.flatnonzero(mask).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Return how many rows (readable or not) each split has, splits without rows left out."""
        return {
            name: int(count)
            for name, count in zip(SPLITS, np.bincount(self.splits, minlength=len(SPLITS)), strict=True)
            if count
        }

    def present_classes(self) -> tuple[str, ...]:
        """Return the names of the classes that have a readable row, in their order."""
        labels = self.labels[self.statuses == RowStatus.OK]
        return tuple(self.classes[code] for code in np.unique(labels[labels >= 0]).tolist())

    def digest(self) -> str:
        """Return the SHA-256 of everything the manifest says, as 64 hexadecimal digits."""
        found = hashlib.sha256()
        for name in (*self.ids, *(one.encode("utf-8", "surrogateescape") for one in self.classes)):
            found.update(len(name).to_bytes(8, "little") + name)
        for array in (self.labels, self.splits, self.digests, self.statuses):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def replaced(self, **changes: Any) -> Manifest:
        """Return a copy with some of its arrays replaced."""
        return replace(self, **changes)
