"""The rows of a bank and where their features stand: storage slots, and ``manifest.h5``, one checked file.

A slot holds the features of one distinct image, the same slot in every cut of a bank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.banks._files import opened, wrong_version
from featbank.banks._format import Buffer, Contents, FormatError, VersionError, digest_of, encode
from featbank.errors import BankReadError, CorruptBankError
from featbank.manifest import SPLITS, Ids, Manifest, RowStatus

__all__ = ["MANIFEST_FILE", "SHARD_BYTES", "ShardPlan", "SlotTable", "read_manifest", "shard_rows_for"]

MANIFEST_FILE = "manifest.h5"

#: Bytes of features one shard holds at most (unless one batch alone is larger).
SHARD_BYTES = 64 * 1024 * 1024

_STATUSES = max(RowStatus) + 1
#: Digests compared at once.
_BLOCK_ROWS = 65_536
_ADVICE = "copy it again from where it is whole, or remove the bank and run `featbank extract` again"


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
    """Return how many rows a full shard holds: whole batches, at least one, about `shard_bytes`.

    Examples
    --------
    >>> shard_rows_for(200_704, batch_size=64), shard_rows_for(4_000, batch_size=64)
    (320, 16768)
    >>> shard_rows_for(1_605_632, batch_size=64)
    64
    """
    return max(batch_size, shard_bytes // row_bytes // batch_size * batch_size)


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
    """Give equal digests equal numbers, from 0 on, whichever of the tables they stand in."""
    words = [np.ascontiguousarray(one).view(np.uint64).reshape(-1, 4) for one in tables]
    ends = np.cumsum([len(one) for one in tables])
    keys = np.concatenate([one[:, 0] for one in words])
    order = np.argsort(keys, kind="stable")
    alike = keys[order[1:]] == keys[order[:-1]]
    pairs = np.flatnonzero(alike)
    for start in range(0, len(pairs), _BLOCK_ROWS):  # those that begin alike are compared as a whole
        part = pairs[start : start + _BLOCK_ROWS]
        if (_rows_of(words, ends, order[part]) != _rows_of(words, ends, order[part + 1])).any():
            whole = np.concatenate(words)
            order = np.lexsort(whole.T)
            alike = (whole[order[1:]] == whole[order[:-1]]).all(axis=1)
            break
    numbers = np.zeros(len(keys), np.int64)
    numbers[order[1:]] = np.cumsum(~alike)
    return np.split(numbers, ends[:-1])


def _rows_of(tables: list[NDArray[Any]], ends: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[Any]:
    """Take rows of several tables, counted through them all."""
    found = np.empty((len(places), tables[0].shape[1]), tables[0].dtype)
    for table, end in zip(tables, ends.tolist(), strict=True):
        inside = (places < end) & (places >= end - len(table))
        found[inside] = table[places[inside] - (end - len(table))]
    return found


@dataclass(frozen=True, eq=False)
class StoredManifest:
    """What ``manifest.h5`` holds.

    Parameters
    ----------
    ids, labels, splits, given_statuses
        As in `featbank.manifest.Manifest`; the statuses are those the dataset gave.
    classes : tuple of str
        Class names.
    table : SlotTable
        The slots.
    row_slots : ndarray of int64, shape (n_samples,)
        Slot of each row.
    """

    ids: Ids
    labels: NDArray[np.int32]
    splits: NDArray[np.uint8]
    given_statuses: NDArray[np.uint8]
    classes: tuple[str, ...]
    table: SlotTable
    row_slots: NDArray[np.int64]
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
        return cls(
            Ids.of(manifest.ids),
            manifest.labels.astype(np.int32, copy=False),
            manifest.splits.astype(np.uint8, copy=False),
            manifest.statuses.astype(np.uint8, copy=False),
            tuple(manifest.classes),
            table,
            row_slots,
        )

    def with_table(self, table: SlotTable, row_slots: NDArray[np.int64] | None = None) -> StoredManifest:
        """Return the same rows over another table, in the same slots if no others are given."""
        row_slots = self.row_slots if row_slots is None else row_slots
        return replace(self, table=table, row_slots=row_slots, seal=None)

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
        mine, theirs = self._arrays(), other._arrays()
        return all(one is theirs[name] or np.array_equal(one, theirs[name]) for name, one in mine.items())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        classes = _class_ids(self.classes)
        return {
            "ids": self.ids.data,
            "id_offsets": self.ids.offsets,
            "labels": self.labels,
            "splits": self.splits,
            "statuses": self.given_statuses,
            "class_names": classes.data,
            "class_offsets": classes.offsets,
            "row_slots": self.row_slots,
            "slot_digests": self.table.digests,
            "segments": self.table.segments,
            "slot_statuses": self.table.statuses,
        }

    @property
    def n_rows(self) -> int:
        """How many rows; no ``len()``, by which a manifest with slots and no rows would be falsy."""
        return len(self.labels)

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of the image of each row, shape (n_samples, 32)."""
        in_order = len(self.row_slots) == len(self.table) and bool((np.diff(self.row_slots) == 1).all())
        return self.table.digests if in_order else self.table.digests[self.row_slots]

    @cached_property
    def statuses(self) -> NDArray[np.uint8]:
        """Status of each row, shape (n_samples,): the dataset's, else what extraction found."""
        found = self.table.statuses[self.row_slots]
        return np.where(self.given_statuses != RowStatus.OK, self.given_statuses, found).astype(np.uint8)

    @cached_property
    def manifest(self) -> Manifest:
        """The rows, with `statuses`."""
        return Manifest(self.ids, self.labels, self.classes, self.splits, self.digests, self.statuses)

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of what the rows are: of everything but their slots, and whether they can be read."""
        found = hashlib.sha256()
        names = _class_ids(self.classes)
        rows = (self.ids.data, self.ids.offsets, self.labels, self.splits, self.digests)
        for array in (*rows, names.data, names.offsets):
            found.update(len(array).to_bytes(8, "little"))
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

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
        return encode("manifest", self._arrays(), {"rows": self.n_rows}, sealed=True)


def _class_ids(classes: tuple[str, ...]) -> Ids:
    return Ids.of([name.encode("utf-8", "surrogateescape") for name in classes])


def decode_manifest(path: Path, data: bytes) -> StoredManifest:
    """Parse the bytes of a ``manifest.h5``.

    Raises
    ------
    CorruptBankError
        If they are not what was written.
    BankReadError
        If they are, and cannot be read.
    BankFormatError
        If they were written in another version of the format.
    """
    try:
        contents = Contents(data, "manifest")
        if contents.rest != digest_of([memoryview(data)[contents.block :]]):
            raise FormatError("its bytes do not match its own sha256")
    except VersionError as error:
        raise wrong_version(path, error.version) from error
    except FormatError as error:
        raise CorruptBankError(
            f"manifest {str(path)!r} is damaged: its {len(data)} bytes do not match its own sha256; {_ADVICE}"
        ) from error
    try:
        stored = _from_arrays({name: contents.read(name) for name in contents.places})
        return replace(stored, seal=data[: data.index(b"\n") + 1])
    except (LookupError, TypeError, ValueError, MemoryError) as error:
        raise BankReadError(
            f"manifest {str(path)!r} cannot be read now ({error}), though its bytes are those that were "
            f"written: free some memory and try again, or use the featbank that wrote it"
        ) from error


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> StoredManifest:
    """Put a manifest together from the arrays of its file; raises `LookupError` or `ValueError`.

    Everything that points somewhere is checked, so that no reader can be led astray by it later.
    """
    rows, slots = len(arrays["labels"]), len(arrays["slot_digests"])
    shapes = {
        "ids": (len(arrays["ids"]),),
        "id_offsets": (rows + 1,),
        "labels": (rows,),
        "splits": (rows,),
        "statuses": (rows,),
        "class_names": (len(arrays["class_names"]),),
        "class_offsets": (len(arrays["class_offsets"]),),
        "row_slots": (rows,),
        "slot_digests": (slots, 32),
        "segments": (len(arrays["segments"]),),
        "slot_statuses": (slots,),
    }
    kinds = {
        "labels": "<i4",
        **dict.fromkeys(("id_offsets", "class_offsets", "row_slots", "segments"), "<i8"),
    }
    wrong = sorted(set(arrays).symmetric_difference(shapes))
    wrong += [
        name
        for name, shape in shapes.items()
        if arrays[name].shape != shape or arrays[name].dtype.str != kinds.get(name, "|u1")
    ]
    if not wrong:
        for offsets, end in (
            ("id_offsets", len(arrays["ids"])),
            ("class_offsets", len(arrays["class_names"])),
            ("segments", slots),
        ):
            bounds = arrays[offsets]
            if not len(bounds) or bounds[0] != 0 or bounds[-1] != end or (bounds[1:] < bounds[:-1]).any():
                wrong.append(offsets)
        for name, limit in (("splits", len(SPLITS)), ("statuses", _STATUSES), ("slot_statuses", _STATUSES)):
            if arrays[name].max(initial=0) >= limit:
                wrong.append(name)
        if arrays["row_slots"].min(initial=0) < 0 or arrays["row_slots"].max(initial=-1) >= slots:
            wrong.append("row_slots")
        labels, n_classes = arrays["labels"], len(arrays["class_offsets"]) - 1
        if labels.min(initial=0) < -1 or labels.max(initial=-1) >= n_classes:
            wrong.append("labels")
    if wrong:
        raise ValueError(f"its {', '.join(dict.fromkeys(wrong))} do not hold together")
    return StoredManifest(
        Ids(arrays["ids"], arrays["id_offsets"]),
        arrays["labels"],
        arrays["splits"],
        arrays["statuses"],
        tuple(
            name.decode("utf-8", "surrogateescape")
            for name in Ids(arrays["class_names"], arrays["class_offsets"])
        ),
        SlotTable(arrays["slot_digests"], arrays["segments"], arrays["slot_statuses"]),
        arrays["row_slots"],
    )


def read_manifest(folder: Path, known: StoredManifest | None = None) -> StoredManifest | None:
    """Read the manifest of a bank; None if the bank has none yet, and `known` if that is what it holds."""
    path = folder / MANIFEST_FILE
    try:
        with opened(path, what="manifest") as file:
            if known is not None and known.seal and file.read(len(known.seal)) == known.seal:
                return known
            file.seek(0)
            data = file.read()
    except FileNotFoundError:
        return None
    return decode_manifest(path, data)
