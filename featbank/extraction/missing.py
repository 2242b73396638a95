"""What a bank lacks of the rows asked for, and which of it other banks of the cache hold.

An image is pushed once, whatever dataset it is in: features under an equal key at the same cut are copied
from any bank that has them, row by row. Banks stay independent: either can be removed. A shard that comes out
byte for byte as the other bank's is the same file on disk, under two names.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import file_digest, temporary_path
from featbank.banks import Bank, CutArray, CutWriter, ShardPlan, SlotTable
from featbank.errors import BankError, UnknownNameError
from featbank.extraction.settings import CLIPPED, stored_dtype
from featbank.manifest import Manifest, RowStatus

__all__ = ["LenderError", "Missing", "SlotsToPush", "find_missing"]

logger = logging.getLogger(__name__)


class LenderError(Exception):
    """A bank whose features were to be copied is damaged, or gone.

    Parameters
    ----------
    bank : Bank
    reason : str
    """

    def __init__(self, bank: Bank, reason: str) -> None:
        super().__init__(reason)
        self.bank = bank


@dataclass(frozen=True, eq=False)
class Missing:
    """The shards a bank lacks, and who holds rows of them; made by `find_missing`.

    Parameters
    ----------
    bank : Bank
        With the rows asked for; its folder need not be there.
    writers : mapping of str to CutWriter
        Of the cuts asked for, and of others that need features of images that got new slots.
    shards : mapping of str to list of ShardPlan
        What each cut lacks.
    lenders : sequence of Bank
        Banks of an equal key, seen through the same rows.
    held : mapping of str to ndarray of int16, shape (n_samples,)
        Cut -> for each row which of the lenders has it, -1 for none.
    renewed : frozenset of bytes
        Digests of images that get new slots.
    """

    bank: Bank
    writers: Mapping[str, CutWriter]
    shards: Mapping[str, list[ShardPlan]]
    lenders: Sequence[Bank]
    held: Mapping[str, NDArray[np.int16]]
    renewed: frozenset[bytes]
    _lent: dict[tuple[str, int], _Lent] = field(default_factory=dict)

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        return self.bank.slot_first_rows()

    def slots(self) -> NDArray[np.int64]:
        """Return the slots whose image has to be pushed, in order."""
        needed = np.zeros(len(self.bank.slot_table), bool)
        for cut, shards in self.shards.items():
            for shard in shards:
                needed[shard.start : shard.stop] |= self._unheld(cut, shard)
        return np.flatnonzero(needed)

    def copied(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows whose features are copied at a cut, by the name of the bank they come from."""
        found: dict[str, set[int]] = {}
        for cut, shards in self.shards.items():
            for shard in shards:
                rows, sources = self._sources(cut, shard)
                for number in np.unique(sources[sources >= 0]).tolist():
                    found.setdefault(self.lenders[number].name, set()).update(
                        rows[sources == number].tolist()
                    )
        return {name: np.array(sorted(rows), np.int64) for name, rows in found.items()}

    def size_bytes(self, cut: str) -> int:
        """Return how many bytes of features a cut lacks, those that are copied included."""
        writer = self.writers[cut]
        row_bytes = int(np.prod(writer.shape, dtype=np.int64)) * writer.dtype.itemsize
        return sum(shard.n_rows for shard in self.shards[cut]) * row_bytes

    def to_copy(self) -> list[tuple[str, ShardPlan]]:
        """List the shards of which nothing has to be pushed."""
        return [
            (cut, shard)
            for cut, shards in self.shards.items()
            for shard in shards
            if not self._unheld(cut, shard).any()
        ]

    def write(
        self,
        cut: str,
        shard: ShardPlan,
        made_by: Mapping[str, str],
        slots: NDArray[np.int64] | None = None,
        features: NDArray[Any] | None = None,
        statuses: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write a shard of what was computed and what other banks hold.

        Parameters
        ----------
        cut, shard
            Which one.
        made_by : mapping of str to str
            What computed the features.
        slots : ndarray of int64, shape (n,), optional
            Where the computed rows stand.
        features : ndarray, shape (n, *shape), optional
        statuses : ndarray of uint8, shape (n,), optional

        Raises
        ------
        LenderError
            If a row cannot be copied.
        """
        writer = self.writers[cut]
        whole = np.zeros((shard.n_rows, *writer.shape), writer.dtype)
        found = np.full(shard.n_rows, RowStatus.ABSENT, np.uint8)
        makers = [made_by] if slots is not None and len(slots) else []
        if slots is not None and features is not None and statuses is not None:
            whole[slots - shard.start], found[slots - shard.start] = features, statuses
        rows, sources = self._sources(cut, shard)
        twins: list[Path] = []
        for number in np.unique(sources[sources >= 0]).tolist():
            at, lender = np.flatnonzero(sources == number), self.lenders[number]
            try:
                lent = self._lent.get((cut, number)) or _Lent(lender, writer)
                self._lent[cut, number] = lent
                twins += lent.check(rows[at])
                whole[at] = lent.array.read(rows[at], dtype=writer.dtype)
            except (BankError, OSError) as error:
                raise LenderError(lender, str(error)) from error
            makers.append(lent.made_by)
            found[at] = RowStatus.OK
        made = _joined(makers)
        path = self.bank.cut_writer(cut, writer.shape, writer.dtype, made_by=made).write(shard, whole, found)
        for twin in twins:
            if twin.name == path.name:  # and so are the bytes: one file on disk is enough
                _link_over(twin, path)

    def _unheld(self, cut: str, shard: ShardPlan) -> NDArray[np.bool_]:
        rows, sources = self._sources(cut, shard)
        return (rows >= 0) & (sources < 0)

    def _sources(self, cut: str, shard: ShardPlan) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """Return the row of each slot of a shard, and which lender has it; -1 for none."""
        rows = self._first_rows[shard.start : shard.stop]
        held = self.held.get(cut)
        sources = np.full(len(rows), -1, np.int16) if held is None else np.where(rows >= 0, held[rows], -1)
        return rows, sources

    def as_pushed(self, made_by: Mapping[str, str]) -> SlotsToPush:
        """Return the slots to push as a bank of their own, for a `Pass`."""
        slots = self.slots()
        rows, table = self._first_rows[slots], self.bank.slot_table
        shards: dict[str, list[ShardPlan]] = {}
        whole: dict[str, list[ShardPlan]] = {}
        bounds = {0, len(slots)}
        for cut in self.writers:
            whole[cut] = [one for one in self.shards[cut] if self._unheld(cut, one).any()]
            shards[cut] = [
                ShardPlan(number, *np.searchsorted(slots, [one.start, one.stop]).tolist())
                for number, one in enumerate(whole[cut])
            ]
            bounds |= {bound for one in shards[cut] for bound in (one.start, one.stop)}
        part = SlotTable(table.digests[slots], np.array(sorted(bounds), np.int64), table.statuses[slots])
        writers = {cut: _FilledWriter(self, cut, whole[cut], slots, made_by) for cut in self.writers}
        return SlotsToPush(self.bank.manifest, part, rows, writers, shards)


class _Lent:
    """What a bank lends of one cut."""

    def __init__(self, lender: Bank, writer: CutWriter) -> None:
        there = lender.cut_writer(writer.cut, writer.shape, writer.dtype)
        self.array = lender[writer.cut]
        self.made_by = {name: ", ".join(values) for name, values in there.made_by().items()}
        self._slots = lender.row_slots
        self._shards = there.plans()
        self._starts = np.array([one.start for one in self._shards], np.int64)
        names = lender.shard_names(writer.cut)
        self._files = {int(name.partition("-")[0]): there.folder / name for name in names}
        self._checked: set[Path] = set()

    def check(self, rows: NDArray[np.int64]) -> list[Path]:
        """Return the files that hold these rows; each must be what its name says, byte for byte."""
        places = np.searchsorted(self._starts, self._slots[rows], side="right") - 1
        used = []
        for place in np.unique(places).tolist():
            path = self._files.get(self._shards[place].number)
            if path is None:
                raise BankError(f"its shard {self._shards[place].number} is gone")
            if path not in self._checked:
                if not path.stem.endswith(f"-{file_digest(path)[:16]}"):
                    raise BankError(f"{str(path)!r} is not what was written")
                self._checked.add(path)
            used.append(path)
        return used


@dataclass(frozen=True, eq=False)
class SlotsToPush:
    """The slots of a bank that nobody holds, close together: what a `Pass` needs of a bank, and no more.

    Parameters
    ----------
    manifest : Manifest
        Of the bank.
    slot_table : SlotTable
        Those slots; no batch crosses the end of a shard of the bank, as each is a segment's end here.
    rows : ndarray of int64, shape (n_slots,)
        The first row of each.
    writers : mapping of str to _FilledWriter
    missing : mapping of str to list of ShardPlan
        The shards, counted in these slots.
    """

    manifest: Manifest
    slot_table: SlotTable
    rows: NDArray[np.int64]
    writers: Mapping[str, _FilledWriter]
    missing: Mapping[str, list[ShardPlan]]

    def slot_first_rows(self) -> NDArray[np.int64]:
        """As `Bank.slot_first_rows`."""
        return self.rows


class _FilledWriter:
    """Takes the computed rows of a shard for a `CutWriter`, with what other banks hold beside them."""

    def __init__(
        self,
        missing: Missing,
        cut: str,
        shards: Sequence[ShardPlan],
        slots: NDArray[np.int64],
        made_by: Mapping[str, str],
    ) -> None:
        self._missing, self.cut, self._shards = missing, cut, shards
        self._slots, self._made_by = slots, made_by
        self.shape, self.dtype = missing.writers[cut].shape, missing.writers[cut].dtype

    def write(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> None:
        slots = self._slots[plan.start : plan.stop]
        self._missing.write(self.cut, self._shards[plan.number], self._made_by, slots, features, statuses)


def find_missing(
    bank: Bank,
    manifest: Manifest,
    cuts: Sequence[str],
    dtype: str,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    lenders: Iterable[Bank] = (),
    made_by: Mapping[str, str] | None = None,
    wide: Collection[str] = (),
    others: Collection[str] = (),
) -> Missing:
    """Find out what a bank lacks, from what is on disk now; nothing is changed.

    Parameters
    ----------
    bank : Bank
        As it is, or as it would be made.
    manifest : Manifest
        The rows asked for.
    cuts : sequence of str
        The cuts asked for.
    dtype : str
        That of the key.
    shapes : mapping of str to tuple of int
        Shape of a row, of cuts that neither the bank nor a lender has.
    lenders : iterable of Bank
        Other banks of the same key.
    made_by : mapping of str to str, optional
        As of `Bank.cut_writer`.
    wide : collection of str
        Cuts that float16 does not hold.
    others : collection of str
        Cuts to be looked at besides.
    """
    lenders = [one.with_rows(manifest) for one in lenders]

    def looked_at(renewed: AbstractSet[bytes], others: Collection[str]) -> Missing:
        seen = bank.with_rows(manifest, renew=renewed)
        writers = {}
        for cut in dict.fromkeys([*cuts, *others]):
            there = next((one for one in (seen, *lenders) if _array(one, cut) is not None), None)
            array = None if there is None else _array(there, cut)
            kind = np.dtype(np.float32) if cut in wide else _cut_dtype(cut, dtype, there, array)
            shape = shapes[cut] if array is None else array.shape[1:]
            writers[cut] = seen.cut_writer(cut, shape, kind, made_by=made_by or {})
        shards = {cut: writer.missing() for cut, writer in writers.items()}
        return Missing(seen, writers, shards, lenders, {}, frozenset(renewed))

    found = looked_at(frozenset(), others)
    absent = set[bytes]().union(*(one.absent() for one in found.writers.values()))
    if absent:
        # A shard never changes: what it lacks gets a slot of its own, at the cuts that are whole as well.
        found = looked_at(absent, [*others, *(cut for cut in found.bank.cuts if cut not in cuts)])
    n_rows = len(manifest)
    held = {cut: _held(lenders, writer, n_rows) for cut, writer in found.writers.items() if found.shards[cut]}
    return replace(found, held=held)


def _held(lenders: Sequence[Bank], writer: CutWriter, n_rows: int) -> NDArray[np.int16]:
    found = np.full(n_rows, -1, np.int16)
    for number, lender in enumerate(lenders):
        array = _array(lender, writer.cut)
        if array is None or (array.dtype, array.shape[1:]) != (writer.dtype, writer.shape):
            continue
        try:
            found[lender.rows_ok(writer.cut) & (found < 0)] = number
        except (BankError, OSError) as error:  # `banks verify` is where damage is looked for
            logger.warning(
                "features of bank %s cannot be taken, its images are pushed: %s", lender.name, error
            )
    return found


def _array(bank: Bank, cut: str) -> CutArray | None:
    """Return what a bank has of a cut; None if it has nothing, or nothing that can be read."""
    with contextlib.suppress(UnknownNameError, BankError, OSError):
        return bank[cut]
    return None


def _cut_dtype(cut: str, dtype: str, there: Bank | None, array: CutArray | None) -> np.dtype[Any]:
    """Return what a cut is stored as: what it is already, if an overflow has made it float32."""
    wanted = stored_dtype(cut, dtype)
    if there is None or array is None or dtype == CLIPPED:
        return wanted
    if wanted == np.float16 and array.dtype == np.float32:
        logger.info("cut %r of bank %s is stored in float32: an earlier run had to", cut, there.name)
        kind: np.dtype[Any] = array.dtype
        return kind
    return wanted


def _joined(makers: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what made the rows of a shard that come from several banks."""
    names = dict.fromkeys(name for one in makers for name in one)
    parts = {
        name: {part for one in makers for part in one.get(name, "").split(", ") if part} for name in names
    }
    return {name: ", ".join(sorted(values)) for name, values in parts.items()}


def _link_over(source: Path, path: Path) -> None:
    """Give a file the place of one with the same bytes; where that cannot be, there are two files."""
    temporary = temporary_path(path)
    with contextlib.suppress(OSError):
        os.link(source, temporary)
        temporary.replace(path)
