"""Rows, slots and shards: which image stands where, in ``manifest.h5``, and its features, in files of a cut.

A slot holds the features of one distinct image, the same slot in every cut of a bank. A shard holds a fixed
run of slots of one cut; it is built in memory, named by its SHA-256, and checked when it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import struct
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import sha256
from featbank._bucket import BucketPath
from featbank.banks._format import (
    BLOCK,
    Buffer,
    Contents,
    FormatError,
    VersionError,
    block_of,
    digest_of,
    encode,
    map_rows,
)
from featbank.banks.documents import (
    MANIFEST_FILE,
    CutDocument,
    CutLayout,
    cut_folders,
    listed,
    opened,
    unreadable,
    wrong_version,
)
from featbank.banks.fetching import ShardRanges, fetched
from featbank.errors import BankReadError, CorruptBankError, FeatbankError
from featbank.manifest import SPLITS, Ids, Manifest, RowStatus

#: Bytes of features one shard holds at most (unless one batch alone is larger); most hold more than half.
SHARD_BYTES = 64 * 1024 * 1024

#: Bytes of features looked at together: they and what is derived from them fit a processor's cache.
_MEASURED_BYTES = 1 << 20
_STATUSES = max(RowStatus) + 1
_SHARD_NAME = re.compile(r"(?P<number>\d{5,9})-(?P<sha16>[0-9a-f]{16})\.h5")
#: What the header of a shard says of it.
_FACTS = {
    **dict.fromkeys(("key", "cut"), str),
    **dict.fromkeys(("shard", "start", "stop", "shard_rows", "n_zero", "n_nonfinite", "n_values"), int),
    "max_abs": float,
}
_REPAIR = "`featbank banks verify --repair` sets it aside and extracts its rows again"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class ShardPlan:
    """One shard of one cut: a fixed run of slots.

    Parameters
    ----------
    number : int
        Counts the cut's shards from 0, through the segments in order.
    start, stop : int
        Its slots are ``start <= slot < stop``.
    """

    number: int
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        """How many rows the shard holds."""
        return self.stop - self.start


def shard_rows_for(row_bytes: int, batch_size: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Return how many rows a full shard holds: 1, 2, 4, 8, ... batches, as many as fit `shard_bytes`.

    So a shard of one cut is made of whole shards of any other with larger rows, and whoever pushes its images
    pushes none that another needs as well.

    Examples
    --------
    >>> shard_rows_for(200_704, batch_size=64), shard_rows_for(4_000, batch_size=64)
    (256, 16384)
    >>> shard_rows_for(1_605_632, batch_size=64)
    64
    """
    batches = max(1, shard_bytes // row_bytes // batch_size)
    return batch_size << batches.bit_length() - 1


@dataclass(frozen=True, eq=False)
class SlotTable:
    """The slots of a bank. It only ever grows: a slot is never removed, renumbered or given to another image.

    Parameters
    ----------
    digests : ndarray of uint8, shape (n_slots, 32)
        SHA-256 of the image of each slot.
    segments : ndarray of int64, shape (n_segments + 1,)
        Slots ``segments[i]`` to ``segments[i + 1]`` were added together; starts with 0.
    statuses : ndarray of uint8, shape (n_slots,)
        `RowStatus` of each slot over all finished cuts: OK unless one of them could not have it.
    """

    digests: NDArray[np.uint8]
    segments: NDArray[np.int64]
    statuses: NDArray[np.uint8]

    @classmethod
    def empty(cls) -> SlotTable:
        """Return a table without slots."""
        return cls(np.zeros((0, 32), np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.digests)

    def plan(self, shard_rows: int) -> list[ShardPlan]:
        """Cut the slots into shards of `shard_rows`; no shard crosses a segment.

        Examples
        --------
        >>> table = SlotTable(np.zeros((7, 32), np.uint8), np.array([0, 5, 7]), np.zeros(7, np.uint8))
        >>> [(one.number, one.start, one.stop) for one in table.plan(3)]
        [(0, 0, 3), (1, 3, 5), (2, 5, 7)]
        """
        bounds = [
            (start, min(start + shard_rows, end))
            for begin, end in zip(self.segments[:-1].tolist(), self.segments[1:].tolist(), strict=True)
            for start in range(begin, end, shard_rows)
        ]
        return [ShardPlan(number, start, stop) for number, (start, stop) in enumerate(bounds)]

    def with_digests(
        self, digests: NDArray[np.uint8], renew: AbstractSet[bytes] = frozenset()
    ) -> tuple[SlotTable, NDArray[np.int64]]:
        """Find a slot for each row, adding one segment for digests that have none.

        Parameters
        ----------
        digests : ndarray of uint8, shape (n_samples, 32)
            The rows' digests, in manifest order.
        renew : set of bytes, default=frozenset()
            Digests (32 bytes each) that get a new slot though they have one; ignored where no row has them.

        Returns
        -------
        table : SlotTable
            This table, or a longer one.
        row_slots : ndarray of int64, shape (n_samples,)
            Slot of each row; of a digest that has two slots (it was renewed), the later one.
        """
        in_table, in_rows, renewed = _numbered(self.digests, digests, _as_rows(renew))
        n_images = max(int(one.max(initial=-1)) for one in (in_table, in_rows, renewed)) + 1
        slot_of = np.full(n_images, -1, np.int64)
        slot_of[in_table] = np.arange(len(self))  # the last write wins: the later slot
        slot_of[renewed] = -1
        first = np.full(n_images, -1, np.int64)
        first[in_rows[::-1]] = np.arange(len(digests) - 1, -1, -1)
        added = np.flatnonzero((slot_of < 0) & (first >= 0))
        if not len(added):
            return self, slot_of[in_rows]
        added = added[np.argsort(first[added])]
        slot_of[added] = len(self) + np.arange(len(added))
        table = SlotTable(
            np.concatenate([self.digests, digests[first[added]]]),
            np.append(self.segments, len(self) + len(added)).astype(np.int64),
            np.concatenate([self.statuses, np.zeros(len(added), np.uint8)]),
        )
        return table, slot_of[in_rows]

    def with_statuses(self, found: NDArray[np.uint8]) -> SlotTable:
        """Fold in what one cut found, shape (n_slots,): a fault stays, and QUARANTINED outranks ABSENT."""
        rank = np.array([0, 2, 1], np.uint8)  # OK, QUARANTINED, ABSENT
        statuses = np.where(rank[found] > rank[self.statuses], found, self.statuses).astype(np.uint8)
        return SlotTable(self.digests, self.segments, statuses)

    def first_rows(self, row_slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each slot the first row that has it, or -1: no image of the manifest does.

        Examples
        --------
        >>> table = SlotTable(np.zeros((3, 32), np.uint8), np.array([0, 3]), np.zeros(3, np.uint8))
        >>> table.first_rows(np.array([2, 0, 2]))
        array([ 1, -1,  0])
        """
        rows = np.full(len(self), -1, np.int64)
        rows[row_slots[::-1]] = np.arange(len(row_slots) - 1, -1, -1)  # the last write wins: the first row
        return rows


def _as_rows(digests: AbstractSet[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(sorted(bytes(one) for one in digests)), np.uint8).reshape(-1, 32)


def _numbered(*tables: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """Give equal digests equal numbers, whichever of the tables they stand in."""
    columns = np.concatenate([np.ascontiguousarray(one).view(np.uint64).reshape(-1, 4) for one in tables]).T
    _, first, numbers = np.unique(columns[0], return_index=True, return_inverse=True)
    if not all(np.array_equal(one, one[first[numbers]]) for one in columns):  # some begin alike
        numbers = np.unique(columns, axis=1, return_inverse=True)[1].reshape(-1)
    return np.split(numbers, np.cumsum([len(one) for one in tables])[:-1])


# manifest.h5 ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StoredManifest:
    """The arrays of ``manifest.h5``: rows as in `featbank.manifest.Manifest`, and slots as in `SlotTable`.

    `statuses` are those the dataset gave, `row_slots` is the slot of each row. Where nobody named groups,
    their three arrays are None and not in the file.
    """

    ids: NDArray[np.uint8]
    id_offsets: NDArray[np.int64]
    labels: NDArray[np.int32]
    splits: NDArray[np.uint8]
    statuses: NDArray[np.uint8]
    class_names: NDArray[np.uint8]
    class_offsets: NDArray[np.int64]
    row_slots: NDArray[np.int64]
    slot_digests: NDArray[np.uint8]
    segments: NDArray[np.int64]
    slot_statuses: NDArray[np.uint8]
    groups: NDArray[np.int32] | None = None
    group_names: NDArray[np.uint8] | None = None
    group_offsets: NDArray[np.int64] | None = None
    #: How its file begins, which carries the digest of all of it; None for what no file holds.
    seal: bytes | None = None

    @classmethod
    def planned(
        cls, there: StoredManifest | None, manifest: Manifest, renew: AbstractSet[bytes] = frozenset()
    ) -> StoredManifest:
        """Return the rows of `manifest` over the slots that are there, and new ones for new images."""
        table = there.table if there else SlotTable.empty()
        if there and not renew and np.array_equal(there.digests, manifest.digests):
            row_slots = there.row_slots
        else:
            table, row_slots = table.with_digests(manifest.digests, renew)
        ids = Ids.of(manifest.ids)
        classes = Ids.of([name.encode("utf-8", "surrogateescape") for name in manifest.classes])
        names = None if manifest.groups is None else Ids.of(manifest.group_names)
        return cls(
            ids.data,
            ids.offsets,
            manifest.labels.astype(np.int32, copy=False),
            manifest.splits.astype(np.uint8, copy=False),
            manifest.statuses.astype(np.uint8, copy=False),
            classes.data,
            classes.offsets,
            row_slots,
            table.digests,
            table.segments,
            table.statuses,
            None if manifest.groups is None else manifest.groups.astype(np.int32, copy=False),
            None if names is None else names.data,
            None if names is None else names.offsets,
        )

    def with_table(self, table: SlotTable, row_slots: NDArray[np.int64] | None = None) -> StoredManifest:
        """Return the same rows over another table, in the same slots if no others are given."""
        return replace(
            self,
            row_slots=self.row_slots if row_slots is None else row_slots,
            slot_digests=table.digests,
            segments=table.segments,
            slot_statuses=table.statuses,
            seal=None,
        )

    def renewed(self, digests: AbstractSet[bytes], table: SlotTable) -> StoredManifest:
        """Return the same rows over a longer table, those with one of these digests in its newest slots."""
        rows, wanted = _numbered(self.digests, _as_rows(digests))
        moved = np.isin(rows, wanted)
        newest = table.with_digests(self.digests[moved])[1]
        row_slots = self.row_slots.copy()
        row_slots[moved] = newest
        return self.with_table(table, row_slots)

    def same(self, other: StoredManifest) -> bool:
        """Say whether another manifest would be the same file."""
        mine, theirs = self.arrays(), other.arrays()
        return mine.keys() == theirs.keys() and all(
            one is theirs[name] or np.array_equal(one, theirs[name]) for name, one in mine.items()
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by their names in the file."""
        grouped = () if self.groups is None else _GROUP_ARRAYS
        return {name: getattr(self, name) for name in (*_ARRAYS, *grouped)}

    @property
    def n_rows(self) -> int:
        """How many rows; no ``len()``, by which a manifest with slots and no rows would be falsy."""
        return len(self.labels)

    @cached_property
    def table(self) -> SlotTable:
        """Its slots."""
        return SlotTable(self.slot_digests, self.segments, self.slot_statuses)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        names = Ids(self.class_names, self.class_offsets)
        return tuple(name.decode("utf-8", "surrogateescape") for name in names)

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of the image of each row, shape (n_samples, 32)."""
        in_order = len(self.row_slots) == len(self.table) and bool((np.diff(self.row_slots) == 1).all())
        return self.slot_digests if in_order else self.slot_digests[self.row_slots]

    @cached_property
    def row_statuses(self) -> NDArray[np.uint8]:
        """Status of each row, shape (n_samples,): the dataset's, else what extraction found."""
        found = self.slot_statuses[self.row_slots]
        return np.where(self.statuses != RowStatus.OK, self.statuses, found).astype(np.uint8)

    @cached_property
    def manifest(self) -> Manifest:
        """The rows, with `row_statuses`."""
        ids = Ids(self.ids, self.id_offsets)
        rows = Manifest(ids, self.labels, self.classes, self.splits, self.digests, self.row_statuses)
        if self.group_names is None or self.group_offsets is None:
            return rows
        return rows.replaced(groups=self.groups, group_names=Ids(self.group_names, self.group_offsets))

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of what the rows are: of everything but their slots, and whether they can be read."""
        found = hashlib.sha256()
        rows = (self.ids, self.id_offsets, self.labels, self.splits, self.digests)
        grouped = [one for one in (self.groups, self.group_names, self.group_offsets) if one is not None]
        for array in (*rows, self.class_names, self.class_offsets, *grouped):
            found.update(len(array).to_bytes(8, "little"))
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @cached_property
    def places_digest(self) -> str:
        """SHA-256 of what the rows are and of the slot each stands in: what a saved plan counts on."""
        return sha256(self.rows_digest.encode() + np.ascontiguousarray(self.row_slots).tobytes())

    @cached_property
    def rows_before(self) -> NDArray[np.int64]:
        """How many rows have a slot before each, shape (n_slots + 1,)."""
        counts = np.bincount(self.row_slots, minlength=len(self.table))
        return np.append(0, np.cumsum(counts)).astype(np.int64)

    def rows_in(self, plans: list[ShardPlan]) -> NDArray[np.int64]:
        """Return how many rows each shard holds, shape (n_plans,)."""
        bounds = np.array([(one.start, one.stop) for one in plans], np.int64).reshape(-1, 2)
        return self.rows_before[bounds[:, 1]] - self.rows_before[bounds[:, 0]]

    def encode(self) -> list[Buffer]:
        """Return the bytes of the file, in parts; equal content gives equal bytes."""
        return encode("manifest", self.arrays(), {"rows": self.n_rows}, sealed=True)


_GROUP_ARRAYS = ("groups", "group_names", "group_offsets")
_ARRAYS = tuple(one.name for one in fields(StoredManifest) if one.name not in ("seal", *_GROUP_ARRAYS))
#: Types of those that do not hold bytes.
_TYPES = {
    **dict.fromkeys(("labels", "groups"), "<i4"),
    **dict.fromkeys(("id_offsets", "class_offsets", "group_offsets", "row_slots", "segments"), "<i8"),
}


def _misfits(arrays: dict[str, NDArray[Any]]) -> list[str]:
    """Name the arrays of a manifest that do not hold together.

    Everything that points somewhere is checked, so that no reader can be led astray by it later.
    """
    wanted = {*_ARRAYS, *(_GROUP_ARRAYS if "groups" in arrays else ())}
    if set(arrays) != wanted:
        return sorted(set(arrays).symmetric_difference(wanted))
    rows, slots = len(arrays["labels"]), len(arrays["slot_digests"])
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("splits", "statuses", "row_slots", "groups"), (rows,)),
        "id_offsets": (rows + 1,),
        "slot_digests": (slots, 32),
        "slot_statuses": (slots,),
    }
    wrong = [
        name
        for name, array in arrays.items()
        if array.dtype.str != _TYPES.get(name, "|u1") or array.shape != shapes.get(name, (len(array),))
    ]
    if wrong:
        return wrong
    ends = {"id_offsets": len(arrays["ids"]), "class_offsets": len(arrays["class_names"]), "segments": slots}
    if "groups" in arrays:
        ends["group_offsets"] = len(arrays["group_names"])
    for name, end in ends.items():
        bounds = arrays[name]
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != end or (bounds[1:] < bounds[:-1]).any():
            wrong.append(name)
    ranges = {
        "splits": (0, len(SPLITS)),
        "statuses": (0, _STATUSES),
        "slot_statuses": (0, _STATUSES),
        "row_slots": (0, slots),
        "labels": (-1, len(arrays["class_offsets"]) - 1),
    }
    if "groups" in arrays:
        ranges["groups"] = (0, len(arrays["group_offsets"]) - 1)
    for name, (low, below) in ranges.items():
        if arrays[name].size and (arrays[name].min() < low or arrays[name].max() >= below):
            wrong.append(name)
    return wrong


def decode_manifest(path: Path, data: bytes) -> StoredManifest:
    """Parse the bytes of a ``manifest.h5``.

    Raises `CorruptBankError` if they are not what was written, `BankReadError` if they are and cannot be
    read, `BankFormatError` if they are of another version of the format.
    """
    try:
        contents = Contents(data, "manifest")
        if contents.rest != digest_of([memoryview(data)[contents.block :]]):
            raise FormatError("its bytes do not match its own sha256")
    except VersionError as error:
        raise wrong_version(path, error.version) from error
    except FormatError as error:
        raise CorruptBankError(
            f"manifest {str(path)!r} is damaged: its {len(data)} bytes do not match its own sha256; copy it "
            f"again from where it is whole, or remove the bank and run `featbank extract` again"
        ) from error
    try:
        arrays = {name: contents.read(name) for name in contents.places}
        wrong = _misfits(arrays)
        if wrong:
            raise ValueError(f"its {', '.join(wrong)} do not hold together")
        seal = data[: data.index(b"\n") + 1]
        return StoredManifest(**arrays, seal=seal)
    except (LookupError, TypeError, ValueError, MemoryError) as error:
        raise BankReadError(
            f"manifest {str(path)!r} cannot be read now ({error}), though its bytes are those that were "
            f"written: free some memory and try again, or use the featbank that wrote it"
        ) from error


def read_manifest(folder: Path, known: StoredManifest | None = None) -> StoredManifest | None:
    """Read the manifest of a bank; None if the bank has none yet, and `known` if that is what it holds."""
    path = folder / MANIFEST_FILE
    try:
        seal = known.seal if known is not None else None
        if isinstance(path, BucketPath) and seal and path.read_start(len(seal))[0] == seal:
            return known
        with opened(path, what="manifest") as file:
            if known is not None and known.seal and file.read(len(known.seal)) == known.seal:
                return known
            file.seek(0)
            data = file.read()
    except FileNotFoundError:
        return None
    return decode_manifest(path, data)


def manifest_parts(folder: Path, known: StoredManifest) -> list[Buffer]:
    """Return the bytes of a manifest's file: those in `folder`, if `known` was read from them, else new ones.

    They are the same; but libhdf5 makes new ones, and its import takes longer than a copy.
    """
    path = folder / MANIFEST_FILE
    if known.seal and not isinstance(path, BucketPath):
        with contextlib.suppress(FileNotFoundError, BankReadError, FormatError):
            with opened(path, what="manifest") as file:
                data = file.read()
            contents = Contents(data, "manifest")
            rest = memoryview(data)[contents.block :]
            if data.startswith(known.seal) and contents.rest == digest_of([rest]):
                return [data]
    return known.encode()


# shards -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measures:
    """What can be said of the numbers of a shard, or of all shards of a cut together.

    `max_abs` is that of the finite ones; rows without features are not counted.
    """

    max_abs: float = 0.0
    n_zero: int = 0
    n_nonfinite: int = 0
    n_values: int = 0

    @classmethod
    def of(cls, features: NDArray[Any], statuses: NDArray[np.uint8]) -> Measures:
        """Measure the features (n_rows, *shape), float16 or float32, of rows of these statuses."""
        # Without its sign, the bits of a float grow with its magnitude: whole numbers are fast here.
        kind = np.dtype(f"u{features.dtype.itemsize}")
        no_sign = kind.type(np.iinfo(kind).max >> 1)
        infinite = features.dtype.type(np.inf).view(kind)
        total = cls()
        step = max(1, _MEASURED_BYTES // max(1, features[:1].nbytes))
        for start in range(0, len(features), step):
            block = features[start : start + step]
            usable = statuses[start : start + step] == RowStatus.OK
            bits = np.ascontiguousarray(block if usable.all() else block[usable]).view(kind) & no_sign
            if not bits.size:
                continue
            finite = bits < infinite
            n_nonfinite = bits.size - int(np.count_nonzero(finite))
            largest = (np.where(finite, bits, 0) if n_nonfinite else bits).max()
            total += cls(
                float(largest.view(features.dtype)),
                bits.size - int(np.count_nonzero(bits)),
                n_nonfinite,
                bits.size,
            )
        return total

    def __add__(self, other: Measures) -> Measures:
        return Measures(
            max(self.max_abs, other.max_abs),
            self.n_zero + other.n_zero,
            self.n_nonfinite + other.n_nonfinite,
            self.n_values + other.n_values,
        )


@dataclass(frozen=True, eq=False)
class Shard:
    """What a shard file says about itself; `offset` is where its features begin, in bytes.

    `made_by` is what computed it, as `encode_shard` was told.
    """

    path: Path
    layout: CutLayout
    plan: ShardPlan
    digests: NDArray[np.uint8]
    statuses: NDArray[np.uint8]
    measures: Measures
    made_by: dict[str, str]
    offset: int

    def features(self) -> NDArray[Any]:
        """Map the features, shape (n_rows, *shape), read-only; raises as `read_shard`."""
        shape = (self.plan.n_rows, *self.layout.shape)
        if isinstance(self.path, BucketPath):
            return fetched(self.path, self.layout.dtype, shape, self.offset)
        with opened(self.path, what="shard") as file:
            try:
                return map_rows(file.fileno(), self.layout.dtype, shape, self.offset)
            except ValueError as error:  # cut short since it was checked
                raise unusable(self.path, f"it cannot be mapped ({error})") from error


def unusable(path: Path, detail: str) -> FeatbankError:
    """Return the error for a shard that cannot be used: damaged only if its hash says so."""
    if check_hash(path) is not None:
        return damaged(path, detail)
    return BankReadError(
        f"shard {str(path)!r} cannot be used ({detail}), though its bytes are those its name stands for: try "
        f"again, or with the featbank that wrote it; if no featbank did, move it away and extract it again"
    )


class MisplacedError(CorruptBankError):
    """A shard that belongs elsewhere; nothing says that its bytes are not those it was written with."""


def damaged(path: Path, detail: str) -> CorruptBankError:
    """Return the error for a shard whose bytes are not those its name stands for."""
    return CorruptBankError(f"shard {str(path)!r} is damaged: {detail}; {_REPAIR}")


def misplaced(path: Path, detail: str) -> MisplacedError:
    """Return the error for a shard of another place."""
    return MisplacedError(f"shard {str(path)!r} cannot be used, it does not belong here: {detail}; {_REPAIR}")


def shard_number(name: str) -> int | None:
    """Return the number in a shard's file name, or None if the name is none of a shard.

    Examples
    --------
    >>> shard_number("00012-0123456789abcdef.h5"), shard_number("notes.txt")
    (12, None)
    """
    match = _SHARD_NAME.fullmatch(name)
    return int(match["number"]) if match else None


def shard_name(number: int, digest: str) -> str:
    """Return the file name of shard `number` whose bytes have this SHA-256."""
    return f"{number:05d}-{digest[:16]}.h5"


def shard_files(folder: Path) -> dict[int, Path]:
    """List the shards of a cut by number; raises `CorruptBankError` if two files claim one number.

    In a bucket two machines may have put theirs at the same time, and all go by that of the first name.
    """
    found: dict[int, Path] = {}
    in_bucket = isinstance(folder, BucketPath)
    try:
        inside = (one.name for one in listed(folder)) if in_bucket else os.listdir(folder)  # noqa: PTH208
        names = sorted(inside)  # names are all it takes
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise unreadable(folder, error, what="cut folder") from error
    for name in names:
        number = shard_number(name)
        if number is None or (in_bucket and number in found):
            continue
        if number in found:
            raise CorruptBankError(
                f"shard {number} stands twice in {str(folder)!r}: {found[number].name!r} and {name!r}; "
                f"delete the one that `featbank banks verify` calls damaged, or both, and run "
                f"`featbank extract` again"
            )
        found[number] = folder / name
    return found


def encode_shard(
    layout: CutLayout,
    plan: ShardPlan,
    features: NDArray[Any],
    table: SlotTable,
    statuses: NDArray[np.uint8],
    made_by: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, list[Buffer]]:
    """Return the name of a shard and its bytes, in parts; equal content of one maker gives equal bytes."""
    parts = encode(
        "shard",
        {"features": features, "digests": table.digests[plan.start : plan.stop], "statuses": statuses},
        {
            "key": layout.key_digest,
            "cut": layout.cut,
            "shard": plan.number,
            "start": plan.start,
            "stop": plan.stop,
            "shard_rows": layout.shard_rows,
            **asdict(Measures.of(features, statuses)),
            **({"made_by": dict(made_by)} if made_by else {}),
        },
        checked=("digests", "statuses"),
    )
    return shard_name(plan.number, digest_of(parts)), parts


def checked_made_by(said: Any) -> dict[str, str]:
    """Return what made a shard, as its file or a pack says; raises `ValueError` if that makes no sense."""
    texts = [*said, *said.values()] if isinstance(said, dict) else [None]
    short = all(isinstance(one, str) and len(one) <= 200 and one.isprintable() for one in texts)
    if not short or len(texts) > 32:
        raise ValueError("what it says of what made it makes no sense")
    return dict(said)


def check_hash(path: Path) -> str | None:
    """Compare a shard's bytes with its name; return what is wrong, or None. Raises as `opened`.

    The mark of a program that has the file open for writing, and may never write, is none of its bytes.
    """
    with opened(path, what="shard") as file:
        head = file.read(BLOCK)
        block = block_of(head)
        if block:
            head += file.read(block + 48 - len(head))
            head = head[:block] + _as_closed(head[block:])
        start = hashlib.sha256(head)
        digest = hashlib.file_digest(file, lambda: start).hexdigest()
    if path.name != shard_name(shard_number(path.name) or 0, digest):
        return f"its bytes have sha256 {digest[:16]}..., not what its name says"
    return None


def check_all_hashes(folder: Path) -> None:
    """Hash every shard of a bank; raises `CorruptBankError` for the first that is not what its name says."""
    logger.info("hashing the shards of %s: it has been copied or moved", folder)
    for cut in cut_folders(folder):
        for path in shard_files(cut).values():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile, or a link to nothing
                fault = check_hash(path)
                if fault is not None:
                    raise damaged(path, fault)


def _as_closed(head: bytes) -> bytes:
    """Return the first 48 bytes of an HDF5 file as they are while no program has it open for writing.

    libhdf5 marks a file when it opens it for writing, and takes the mark away when it closes it. A head that
    does not bear a whole mark, with the checksum that goes with it, is returned as it is.
    """
    known = len(head) == 48 and head.startswith(b"\x89HDF\r\n\x1a\n") and head[8] in (2, 3) and head[9] == 8
    if not known or not head[11] or head[44:] != _lookup3(head[:44]):
        return head
    closed = head[:11] + b"\0" + head[12:44]
    return closed + _lookup3(closed)


def _lookup3(data: bytes) -> bytes:
    """Return the checksum of HDF5's metadata (Jenkins' lookup3) of `data`, 4 n bytes, not 12 n."""
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    a = b = c = 0xDEADBEEF + len(data)

    def rotated(value: int, bits: int) -> int:
        value &= 0xFFFFFFFF
        return value << bits | value >> 32 - bits

    while len(words) > 3:
        a, b, c = a + words.pop(0), b + words.pop(0), c + words.pop(0)
        for bits in (4, 6, 8, 16, 19, 4):
            a = (a - c) ^ rotated(c, bits)
            c += b
            a, b, c = b, c, a  # the next of the six does the same with the names moved on
    words += [0] * (3 - len(words))
    a, b, c = a + words[0], b + words[1], c + words[2]
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - rotated(b, bits)
        a, b, c = b, c, a
    return struct.pack("<I", b & 0xFFFFFFFF)


def read_shard(path: Path) -> Shard:
    """Read what a shard says about itself, and check that the file is as long as it must be.

    Raises `FileNotFoundError`; `CorruptBankError` if its bytes are not those of its name; `BankReadError` if
    it cannot be read, or is whole and yet no shard that can be used here; `BankFormatError` if it is whole
    and of another version of the format.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(path, BucketPath):
            source: int | ShardRanges = ShardRanges(path)
        else:
            source = stack.enter_context(opened(path, what="shard")).fileno()
        try:
            return shard_in(path, source)
        except VersionError as error:
            if check_hash(path) is not None:
                raise damaged(path, str(error)) from error
            raise wrong_version(path, error.version) from error
        except (LookupError, TypeError, ValueError) as error:
            raise unusable(path, str(error)) from error


def shard_in(path: Path, source: int | ShardRanges) -> Shard:
    """Read an open shard; raises `FormatError`, `LookupError`, `TypeError` or `ValueError`."""
    contents = Contents(source, "shard")
    facts, places = contents.facts, contents.places
    if set(places) != {"features", "digests", "statuses"}:
        raise FormatError("its arrays are not those of a shard")
    features = places["features"]
    if features.codec or features.dtype.kind != "f" or len(features.shape) < 2 or not features.shape[0]:
        raise FormatError("its features are not stored in one piece inside it")
    if any(type(facts.get(name)) is not kind for name, kind in _FACTS.items()):
        raise FormatError("it does not say which shard it is")
    plan = ShardPlan(facts["shard"], facts["start"], facts["stop"])
    wanted = {"digests": ("|u1", (plan.n_rows, 32)), "statuses": ("|u1", (plan.n_rows,))}
    found = {name: (places[name].dtype.str, places[name].shape) for name in wanted}
    if found != wanted or features.shape[0] != plan.n_rows:
        raise FormatError(f"its arrays do not have the {plan.n_rows} rows it says it has")
    # upwards: of a shard in a bucket the end is read in one piece
    read = {name: contents.read(name) for name in sorted(wanted, key=lambda name: places[name].offset)}
    digests, statuses = read["digests"], read["statuses"]
    if (statuses > max(RowStatus)).any():
        raise FormatError("a row has a status that does not exist")
    return Shard(
        path,
        CutLayout(facts["key"], facts["cut"], features.shape[1:], features.dtype, facts["shard_rows"]),
        plan,
        digests,
        statuses,
        Measures(*(facts[one.name] for one in fields(Measures))),
        checked_made_by(facts.get("made_by", {})),
        features.offset,
    )


def check_place(shard: Shard, layout: CutLayout, plan: ShardPlan, table: SlotTable) -> None:
    """Compare a shard with what must stand in its place; raises `MisplacedError`."""
    pairs: list[tuple[str, Any, Any]] = [
        ("bank key", shard.layout.key_digest[:16], layout.key_digest[:16]),
        ("cut", shard.layout.cut, layout.cut),
        ("shard number", shard.plan.number, plan.number),
        ("slots", (shard.plan.start, shard.plan.stop), (plan.start, plan.stop)),
        ("rows per shard", shard.layout.shard_rows, layout.shard_rows),
        ("row shape", shard.layout.shape, layout.shape),
        ("dtype", str(shard.layout.dtype), str(layout.dtype)),
    ]
    wrong = [f"{name} is {got!r}, not {want!r}" for name, got, want in pairs if got != want]
    if not wrong and not np.array_equal(shard.digests, table.digests[plan.start : plan.stop]):
        wrong.append("it holds other images than the manifest says")
    if wrong:
        raise misplaced(shard.path, "; ".join(wrong))


def layout_of(folder: Path, document: CutDocument | None, key_digest: str) -> CutLayout | None:
    """Say what the shards of a cut look like, from ``cut.json`` or the first shard; None without them."""
    if document is not None:
        return document.layout
    for _, path in sorted(shard_files(folder).items()):
        try:
            layout = read_shard(path).layout
        except FileNotFoundError:  # removed since the folder was listed
            continue
        fault = layout.stranger(key_digest, folder.name)
        if fault is not None:
            raise misplaced(path, fault)
        return layout
    return None
