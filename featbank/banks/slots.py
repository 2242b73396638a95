"""Storage slots: where the features of each distinct image stand, the same for every cut of a bank."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHARD_BYTES", "ShardPlan", "SlotTable", "shard_rows_for"]

#: Bytes of features one shard holds at most (unless one batch alone is larger).
SHARD_BYTES = 64 * 1024 * 1024


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

    def slot_of(self) -> dict[bytes, int]:
        """Return digest -> slot; the later slot of a digest that has two (it was renewed) wins."""
        return {digest.tobytes(): slot for slot, digest in enumerate(self.digests)}

    def plan(self, shard_rows: int) -> list[ShardPlan]:
        """Cut the slots into shards of `shard_rows`; no shard crosses a segment.

        Examples
        --------
        >>> table = SlotTable(np.zeros((7, 32), np.uint8), np.array([0, 5, 7]), np.zeros(7, np.uint8))
        >>> [(one.number, one.start, one.stop) for one in table.plan(3)]
        [(0, 0, 3), (1, 3, 5), (2, 5, 7)]
        """
        bounds = [
            (start, min(start + shard_rows, int(end)))
            for begin, end in zip(self.segments[:-1], self.segments[1:], strict=True)
            for start in range(int(begin), int(end), shard_rows)
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
            Slot of each row.
        """
        known = self.slot_of()
        for digest in renew:
            known.pop(bytes(digest), None)
        row_slots = np.empty(len(digests), np.int64)
        added: list[bytes] = []
        for row, digest in enumerate(digests):
            name = digest.tobytes()
            slot = known.get(name)
            if slot is None:
                slot = known[name] = len(self) + len(added)
                added.append(name)
            row_slots[row] = slot
        if not added:
            return self, row_slots
        new = np.frombuffer(b"".join(added), np.uint8).reshape(-1, 32)
        table = SlotTable(
            np.concatenate([self.digests, new]),
            np.append(self.segments, len(self) + len(added)).astype(np.int64),
            np.concatenate([self.statuses, np.zeros(len(added), np.uint8)]),
        )
        return table, row_slots

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
