"""The manifest: the ordered rows of a dataset. Plain arrays, known to datasets and banks alike."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from featbank._registry import abbreviated
from featbank.errors import InvalidInputError, LeakWarning, MissingPackageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SPLITS", "Ids", "Manifest", "RowStatus"]

#: Names of the splits, in the order of their codes; rows of ``"none"`` belong to no split.
SPLITS = ("train", "val", "test", "none")


class RowStatus(IntEnum):
    """What became of one row when its image was to be pushed.

    Examples
    --------
    >>> statuses = np.uint8([0, 1, 0])
    >>> np.flatnonzero(statuses == RowStatus.QUARANTINED), RowStatus(2).name
    (array([1]), 'ABSENT')
    """

    OK = 0
    #: The image could not be read; the row's features are zeros and must not be used.
    QUARANTINED = 1
    #: The image was gone before this cut was extracted.
    ABSENT = 2


def shown_group(name: bytes) -> bytes:
    r"""Return a group's name as it is shown, with ", " between the parts that ``--group-by`` found.

    They are kept with a zero byte between them, which no path has.

    Examples
    --------
    >>> shown_group(b"hospital 1\0patient 7")
    b'hospital 1, patient 7'
    """
    return name.replace(b"\0", b", ")


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


def short_repr(self: Any) -> str:
    """Return a `repr` for dataclasses that fits a screen, however much is in their fields."""
    parts = []
    for one in fields(self):
        if one.repr:
            parts.append(f"{one.name}={abbreviated(getattr(self, one.name))}")
    return f"{type(self).__name__}({', '.join(parts)})"


#: A notebook is shown so many lines of a table.
_MOST_LINES = 40


def as_html(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *below: str, above: str = ""
) -> str:
    """Return a title, a table of at most 40 lines and what stands above and below as HTML, for a notebook.

    Examples
    --------
    >>> as_html("a & b", ["cut"], [["fc7"]])
    '<p><b>a &amp; b</b></p><table><tr><th>cut</th></tr><tr><td>fc7</td></tr></table>'
    """
    from html import escape

    lines = [("th", head), *(("td", row) for row in rows[:_MOST_LINES])]
    table = "".join(
        f"<tr>{''.join(f'<{tag}>{escape(printable(cell))}</{tag}>' for cell in cells)}</tr>"
        for tag, cells in lines
    )
    more = [f"and {len(rows) - _MOST_LINES} more lines"] if len(rows) > _MOST_LINES else []
    first, last = (
        "".join(f"<p>{escape(printable(one))}</p>" for one in said if one)
        for said in ((above,), (*more, *below))
    )
    return f"<p><b>{escape(printable(title))}</b></p>{first}<table>{table}</table>{last}"


def as_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a pandas data frame; raises `MissingPackageError` if pandas is not installed."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingPackageError("to_frame needs pandas; install it: pip install pandas") from error
    return pd.DataFrame(list(rows))


class Ids(Sequence[bytes]):
    """Ids of images as two arrays: a million of them take 35 MB, not 100, and are compared without a loop.

    Parameters
    ----------
    data : ndarray of uint8
        All ids one behind the other.
    offsets : ndarray of int64, shape (n + 1,)
        Id i is ``data[offsets[i]:offsets[i + 1]]``.

    Examples
    --------
    >>> ids = Ids.of([b"cat/1.jpg", b"dog/2.jpg"])
    >>> ids[1], len(ids), ids == [b"cat/1.jpg", b"dog/2.jpg"]
    (b'dog/2.jpg', 2, True)
    """

    __slots__ = ("data", "offsets")
    #: Ids handled at once.
    _BLOCK = 65_536

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.data, self.offsets = data, offsets

    @classmethod
    def of(cls, ids: Iterable[bytes]) -> Ids:
        """Put ids one behind the other."""
        if isinstance(ids, Ids):
            return ids
        parts = ids if isinstance(ids, list | tuple) else list(ids)
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Ids: ...

    def __getitem__(self, index: int | slice) -> bytes | Ids:
        if isinstance(index, slice):
            return Ids.of([self[row] for row in range(*index.indices(len(self)))])
        row = range(len(self))[index]  # Python's own rules, and its IndexError
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        for begin in range(0, len(self), self._BLOCK):
            bounds = self.offsets[begin : begin + self._BLOCK + 1]
            data = self.data[bounds[0] : bounds[-1]].tobytes()
            places = (bounds - bounds[0]).tolist()
            yield from (data[start:stop] for start, stop in pairwise(places))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list | tuple):
            return len(other) == len(self) and all(a == b for a, b in zip(self, other, strict=True))
        if not isinstance(other, Ids):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return abbreviated(tuple(self[row] for row in range(min(len(self), 4))))

    def has_twice(self) -> bool:
        """Say whether an id stands twice."""
        keys = np.fromiter(map(hash, self), np.int64, len(self))
        keys.sort()  # where it is: a million of them take 8 MB
        alike = np.unique(keys[1:][keys[1:] == keys[:-1]])
        if not len(alike):
            return False
        hashes = set(alike.tolist())
        found = [one for one in self if hash(one) in hashes]  # now the bytes decide
        return len(set(found)) < len(found)


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of a dataset, in order.

    Parameters
    ----------
    ids : sequence of bytes, length n_samples
        Relative path of each image with ``/`` between the parts, byte for byte as the file system has it;
        kept as `Ids`.
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
    groups : ndarray of int32, shape (n_samples,), optional
        Index into `group_names`: images of one patient, place or video, which no split tears apart; None
        where nobody named groups.
    group_names : sequence of bytes
        Names of the groups, each once; kept as `Ids`.

    Raises
    ------
    InvalidInputError
        If the lengths differ, an index is out of range, or an id stands twice.

    Examples
    --------
    >>> zeros, digests = np.zeros(3, np.uint8), np.arange(96, dtype=np.uint8).reshape(3, 32)
    >>> manifest = Manifest(
    ...     ids=[b"cat/1.jpg", b"cat/2.jpg", b"dog/1.jpg"],
    ...     labels=np.int32([0, 0, 1]),
    ...     classes=("cat", "dog"),
    ...     splits=np.uint8([0, 2, 0]),
    ...     digests=digests,
    ...     statuses=zeros,
    ... )
    >>> manifest.counts(), manifest.rows("train"), manifest.ids[2]
    ({'train': 2, 'test': 1}, array([0, 2]), b'dog/1.jpg')
    """

    ids: Sequence[bytes]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    splits: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    statuses: NDArray[np.uint8]
    groups: NDArray[np.int32] | None = None
    group_names: Sequence[bytes] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        ids, names = Ids.of(self.ids), Ids.of(self.group_names)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "group_names", names)
        n = len(ids)
        shapes = {
            "labels": (self.labels.shape, (n,)),
            "splits": (self.splits.shape, (n,)),
            "digests": (self.digests.shape, (n, 32)),
            "statuses": (self.statuses.shape, (n,)),
        }
        if self.groups is not None:
            shapes["groups"] = (self.groups.shape, (n,))
        wrong = [f"{name} has shape {got}, not {want}" for name, (got, want) in shapes.items() if got != want]
        if not wrong:
            if ids.has_twice():
                wrong.append("an id stands twice")
            if n and not (int(self.labels.min()) >= -1 and int(self.labels.max()) < len(self.classes)):
                wrong.append(f"a label is outside -1..{len(self.classes) - 1}")
            if n and int(self.splits.max()) >= len(SPLITS):
                wrong.append(f"a split code is over {len(SPLITS) - 1}")
            groups = self.groups if self.groups is not None and n else np.zeros(0, np.int32)
            if groups.size and not (int(groups.min()) >= 0 and int(groups.max()) < len(names)):
                wrong.append(f"a group is outside 0..{len(names) - 1}")
            if names.has_twice():
                wrong.append("a group stands twice")
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

    def group(self, row: int) -> str | None:
        """Return the name of a row's group, fit for a terminal; None where nobody named groups."""
        if self.groups is None:
            return None
        return printable(shown_group(self.group_names[int(self.groups[row])]))

    def digest(self) -> str:
        """Return the SHA-256 of everything the manifest says, as 64 hexadecimal digits."""
        found = hashlib.sha256()
        classes = Ids.of([one.encode("utf-8", "surrogateescape") for one in self.classes])
        grouped = () if self.groups is None else (Ids.of(self.group_names),)
        for names in (Ids.of(self.ids), classes, *grouped):
            found.update(len(names).to_bytes(8, "little"))
            found.update(np.ascontiguousarray(names.offsets).data)
            found.update(np.ascontiguousarray(names.data).data)
        arrays = (self.labels, self.splits, self.digests, self.statuses)
        for array in arrays if self.groups is None else (*arrays, self.groups):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def replaced(self, **changes: Any) -> Manifest:
        """Return a copy with some of its arrays replaced."""
        return replace(self, **changes)


def duplicates_across_splits(manifest: Manifest) -> list[tuple[int, int]]:
    """Find val and test images whose bytes are also those of a training image.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    list of (int, int)
        One pair for each such val or test row: the first training row with the same digest, and the row;
        in the order of the second. Rows that could not be read are left out.

    Examples
    --------
    >>> digests = np.zeros((4, 32), np.uint8)
    >>> digests[:, 0] = [1, 2, 1, 3]  # rows 0 and 2 are one picture under two names
    >>> labels, splits, zeros = np.int32([0, 1, 0, 1]), np.uint8([0, 0, 2, 2]), np.zeros(4, np.uint8)
    >>> manifest = Manifest([b"a", b"b", b"c", b"d"], labels, ("cat", "dog"), splits, digests, zeros)
    >>> duplicates_across_splits(manifest)
    [(0, 2)]
    """
    codes = manifest.splits
    readable = manifest.statuses == RowStatus.OK
    train = np.flatnonzero(readable & (codes == SPLITS.index("train")))
    others = np.flatnonzero(readable & np.isin(codes, (SPLITS.index("val"), SPLITS.index("test"))))
    first = _first_alike(manifest.digests, np.concatenate([train, others]))[len(train) :]
    copies = first < len(train)
    return list(zip(train[first[copies]].tolist(), others[copies].tolist(), strict=True))


def named_row(manifest: Manifest, row: int) -> str:
    """Return the id of an image, and of which group it is."""
    group = manifest.group(row)
    return printable(manifest.ids[row]) + ("" if group is None else f" of group {group!r}")


def tell_groups(manifest: Manifest) -> list[str]:
    """Warn of groups that have training images and validation or test images, and return the message."""
    if manifest.groups is None:
        return []
    train, *others = (np.unique(manifest.groups[manifest.rows(name)]) for name in ("train", "val", "test"))
    torn = np.intersect1d(train, np.concatenate(others))
    if not len(torn):
        return []
    row = int(np.flatnonzero(manifest.groups == torn[0])[0])
    message = (
        f"{len(torn)} of {len(manifest.group_names)} groups have training and validation or test images "
        f"(first: {manifest.group(row)!r}); accuracies are flattered, split by group"
    )
    warnings.warn(message, LeakWarning, stacklevel=4)
    return [message]


def tell_copies(manifest: Manifest) -> list[str]:
    """Warn of validation and test images that are training images byte for byte, and return the message."""
    pairs = duplicates_across_splits(manifest)
    if not pairs:
        return []
    train, other = pairs[0]
    are = (
        "image is byte for byte a training image"
        if len(pairs) == 1
        else "images are byte for byte training images"
    )
    message = (
        f"{len(pairs)} validation or test {are} (first: {named_row(manifest, other)} = "
        f"{named_row(manifest, train)}); accuracies are flattered, remove the copies and extract again"
    )
    warnings.warn(message, LeakWarning, stacklevel=4)
    return [message]


def duplicates_across_labels(manifest: Manifest) -> list[tuple[int, int]]:
    """Find images whose bytes are also those of an image of another class.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    list of (int, int)
        One pair for each row with another label than the first row with the same digest: that row, and the
        row; in the order of the second. Rows without a label, and those that could not be read, are left out.

    Examples
    --------
    >>> digests, zeros = np.zeros((3, 32), np.uint8), np.zeros(3, np.uint8)
    >>> digests[:, 0] = [1, 2, 1]  # rows 0 and 2 are one picture
    >>> manifest = Manifest([b"a", b"b", b"c"], np.int32([0, 1, 1]), ("cat", "dog"), zeros, digests, zeros)
    >>> duplicates_across_labels(manifest)
    [(0, 2)]
    """
    rows = np.flatnonzero((manifest.labels >= 0) & (manifest.statuses == RowStatus.OK))
    first = rows[_first_alike(manifest.digests, rows)]
    other = manifest.labels[first] != manifest.labels[rows]
    return list(zip(first[other].tolist(), rows[other].tolist(), strict=True))


def _first_alike(digests: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return, for each of `rows`, the place in it of the first that has the same digest."""
    first = np.arange(len(rows))
    # Eight of the bytes are hardly ever alike where the digests are not, and cheap to sort a million of.
    heads = np.ascontiguousarray(digests[rows, :8]).view("<u8").ravel()
    order = np.argsort(heads, kind="stable")
    alike = np.flatnonzero(heads[order][1:] == heads[order][:-1])
    some = np.sort(order[np.union1d(alike, alike + 1)])
    words = np.ascontiguousarray(digests[rows[some]]).view("<u8")  # (n, 4)
    order = np.lexsort(words.T)
    starts = np.ones(len(some), bool)
    starts[1:] = (words[order][1:] != words[order][:-1]).any(axis=1)
    first[some[order]] = some[order[np.maximum.accumulate(np.where(starts, np.arange(len(some)), 0))]]
    return first


def of_one_origin(manifest: Manifest, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number images so that those of one group, and copies byte for byte, have one number.

    Parameters
    ----------
    manifest : Manifest
    rows : ndarray of int64, shape (n_rows,)

    Returns
    -------
    ndarray of int64, shape (n_rows,)
        Groups that have an image in common are one.

    Examples
    --------
    >>> digests = np.zeros((4, 32), np.uint8)
    >>> digests[:, 0] = [1, 2, 2, 3]
    >>> manifest = Manifest(
    ...     (b"a", b"b", b"c", b"d"), np.zeros(4, np.int32), ("x",), np.zeros(4, np.uint8), digests,
    ...     np.zeros(4, np.uint8), np.array([0, 0, 1, 2], np.int32), (b"p", b"q", b"r"))
    >>> of_one_origin(manifest, np.arange(4)).tolist()
    [0, 0, 0, 1]
    """
    found = _first_alike(manifest.digests, rows).astype(np.int64)
    group_of = np.zeros(0, np.int32) if manifest.groups is None else manifest.groups[rows]
    moved = len(group_of) > 0
    while moved:  # the least number goes round in each group, then among its copies
        in_group = np.full(int(group_of.max()) + 1, len(rows))
        np.minimum.at(in_group, group_of, found)
        in_copies = np.full(len(rows), len(rows))
        np.minimum.at(in_copies, found, in_group[group_of])
        before, found = found, in_copies[found]
        moved = not np.array_equal(before, found)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
