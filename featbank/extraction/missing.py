"""What a bank lacks of the rows asked for, and which of it other banks of the cache hold.

An image is pushed once, whatever dataset it is in: features under an equal key at the same cut are copied
from any bank that has them, row by row. Banks stay independent: either can be removed. A shard that comes out
byte for byte as the other bank's is the same file on disk, under two names.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import beside, file_digest, sha256
from featbank._bucket import BucketPath
from featbank.banks import Bank, CutArray
from featbank.banks.bank import CutWriter
from featbank.banks.shards import SHARD_BYTES, ShardPlan, shard_files
from featbank.errors import BankError, UnknownNameError
from featbank.extraction.settings import CLIPPED, stored_dtype
from featbank.manifest import Manifest, RowStatus

__all__ = ["LenderError", "Missing", "SlotsToPush", "Task", "find_missing"]

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
class Part:
    """A shard that a cut lacks: the row of each of its slots, and which lender has it; -1 for none."""

    cut: str
    shard: ShardPlan
    rows: NDArray[np.int64]
    sources: NDArray[np.int16]

    @property
    def unheld(self) -> NDArray[np.bool_]:
        """Which of its slots have to be pushed."""
        return (self.rows >= 0) & (self.sources < 0)

    @property
    def lending(self) -> list[int]:
        """Numbers of the lenders that have some of it."""
        found: list[int] = np.unique(self.sources[self.sources >= 0]).tolist()
        return found


class Task(NamedTuple):
    """What one process pushes at a time: a run of slots, which is a shard of the cut with the smallest rows.

    Parameters
    ----------
    number : int
        Counts the runs of a bank; it stays, whatever is pushed, or added, meanwhile.
    n_images : int
        Images in it that some cut lacks.
    cuts : tuple of str
        Those that lack a shard of it.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import ExtractionSettings, plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     todo.tasks()
    [Task(number=1, n_images=10, cuts=('fc7',))]
    """

    number: int
    n_images: int
    cuts: tuple[str, ...]


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
    wide : frozenset of str
        Cuts that float16 does not hold.
    mine : container of int, or None
        Numbers of the tasks whose shards are written here; None: all.
    """

    bank: Bank
    writers: Mapping[str, CutWriter]
    shards: Mapping[str, list[ShardPlan]]
    lenders: Sequence[Bank]
    held: Mapping[str, NDArray[np.int16]]
    renewed: frozenset[bytes]
    wide: frozenset[str] = frozenset()
    mine: Container[int] | None = None
    _lent: dict[tuple[str, int], _Lent] = field(default_factory=dict)

    @cached_property
    def parts(self) -> list[Part]:
        """The shards to be written here, cut after cut, with who has what of each."""
        first_rows, parts = self.bank.slot_first_rows(), []
        for cut, shards in self.shards.items():
            held = self.held.get(cut, np.full(len(self.bank), -1, np.int16))
            for shard, number in zip(shards, self._tasks_of(shards), strict=True):
                if self.mine is not None and number not in self.mine:
                    continue
                rows = first_rows[shard.start : shard.stop]
                parts.append(Part(cut, shard, rows, np.where(rows >= 0, held[rows], np.int16(-1))))
        return parts

    @cached_property
    def _task_starts(self) -> NDArray[np.int64]:
        """Where tasks begin: shards of other cuts are parts of them, as `shard_rows_for` makes them."""
        most = max(writer.shard_rows for writer in self.writers.values())
        return np.array([one.start for one in self.bank.slot_table.plan(most)], np.int64)

    def _tasks_of(self, shards: Sequence[ShardPlan]) -> list[int]:
        """Return the number of the task of each shard: where it begins, if it reaches into the next."""
        starts = np.array([one.start for one in shards], np.int64)
        found: list[int] = (np.searchsorted(self._task_starts, starts, side="right") - 1).tolist()
        return found

    def tasks(self) -> list[Task]:
        """List what is still to be done, by whomever, in order."""
        first_rows, found = self.bank.slot_first_rows(), dict[int, dict[str, list[ShardPlan]]]()
        for cut, shards in self.shards.items():
            for shard, number in zip(shards, self._tasks_of(shards), strict=True):
                found.setdefault(number, {}).setdefault(cut, []).append(shard)
        tasks = []
        for number, cuts in sorted(found.items()):
            shards = [shard for one in cuts.values() for shard in one]
            slots = np.unique(np.concatenate([np.arange(one.start, one.stop) for one in shards]))
            tasks.append(Task(number, int((first_rows[slots] >= 0).sum()), tuple(cuts)))
        return tasks

    def refreshed(self) -> Missing:
        """Leave out shards that have come since this was found; names alone are looked at."""
        shards = {}
        for cut, writer in self.writers.items():
            there = shard_files(writer.folder)
            shards[cut] = [one for one in self.shards[cut] if one.number not in there]
        return replace(self, shards=shards)

    def slots(self) -> NDArray[np.int64]:
        """Return the slots whose image has to be pushed, in order."""
        needed = np.zeros(len(self.bank.slot_table), bool)
        for part in self.parts:
            needed[part.shard.start : part.shard.stop] |= part.unheld
        return np.flatnonzero(needed)

    def copied(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows whose features are copied at a cut, by the name of the bank they come from."""
        found: dict[str, set[int]] = {}
        for part in self.parts:
            for number in part.lending:
                rows = part.rows[part.sources == number].tolist()
                found.setdefault(self.lenders[number].name, set()).update(rows)
        return {name: np.array(sorted(rows), np.int64) for name, rows in found.items()}

    def size_bytes(self, cut: str) -> int:
        """Return how many bytes of features of a cut are to be written here, those copied included."""
        writer = self.writers[cut]
        n_rows = sum(part.shard.n_rows for part in self.parts if part.cut == cut)
        return n_rows * prod(writer.shape) * writer.dtype.itemsize

    def to_copy(self) -> list[Part]:
        """List the shards of which nothing has to be pushed."""
        return [part for part in self.parts if not part.unheld.any()]

    def copy(self, part: Part) -> None:
        """Write a shard of which nothing has to be pushed."""
        writer, none = self.writers[part.cut], np.zeros(0, np.int64)
        self.write(part, {}, none, np.zeros((0, *writer.shape), writer.dtype), none.astype(np.uint8))

    def write(
        self,
        part: Part,
        made_by: Mapping[str, str],
        slots: NDArray[np.int64],
        features: NDArray[Any],
        statuses: NDArray[np.uint8],
    ) -> None:
        """Write a shard of what was computed and what other banks hold.

        Parameters
        ----------
        part : Part
            Which one.
        made_by : mapping of str to str
            What computed the features.
        slots : ndarray of int64, shape (n,)
            Where the computed rows stand.
        features : ndarray, shape (n, *shape)
        statuses : ndarray of uint8, shape (n,)

        Raises
        ------
        LenderError
            If a row cannot be copied.
        """
        cut, shard, writer = part.cut, part.shard, self.writers[part.cut]
        if not part.lending and len(slots) == shard.n_rows:
            writer.write(shard, features, statuses)
            return
        whole = np.zeros((shard.n_rows, *writer.shape), writer.dtype)
        found = np.full(shard.n_rows, RowStatus.ABSENT, np.uint8)
        whole[slots - shard.start], found[slots - shard.start] = features, statuses
        makers = [made_by] if len(slots) else []
        twins: list[Path] = []
        for number in part.lending:
            at, lender = np.flatnonzero(part.sources == number), self.lenders[number]
            try:
                lent = self._lent.get((cut, number)) or _Lent(lender, writer)
                self._lent[cut, number] = lent
                twins += lent.check(part.rows[at])
                whole[at] = lent.array.read(part.rows[at], dtype=writer.dtype)
            except (BankError, OSError) as error:
                raise LenderError(lender, str(error)) from error
            makers.append(lent.made_by)
            found[at] = RowStatus.OK
        path = writer.write(shard, whole, found, _joined(makers))
        for twin in twins:
            if twin.name == path.name:  # and so are the bytes: one file on disk is enough
                _link_over(twin, path)

    def to_push(self, made_by: Mapping[str, str]) -> SlotsToPush:
        """Return the slots to push, close together: whole shards, or what no other bank holds of them."""
        parts = [part for part in self.parts if part.unheld.any()]
        needed = np.zeros(len(self.bank.slot_table), bool)
        for part in parts:
            needed[part.shard.start : part.shard.stop] |= part.unheld if part.lending else True
        slots = np.flatnonzero(needed)
        writers, shards, bounds = {}, {}, set[int]()
        for cut in self.writers:
            own = [part for part in parts if part.cut == cut]
            ends = np.searchsorted(slots, [(one.shard.start, one.shard.stop) for one in own]).tolist()
            writers[cut] = ShardWriter(self, cut, own, slots, made_by)
            shards[cut] = [ShardPlan(number, *one) for number, one in enumerate(ends)]
            bounds.update(end for one in ends for end in one)
        rows, digests = self.bank.slot_first_rows()[slots], self.bank.slot_table.digests[slots]
        return SlotsToPush(rows, digests, sorted(bounds), writers, shards)


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
                in_bucket = isinstance(path, BucketPath)
                digest = sha256(path.read_bytes()) if in_bucket else file_digest(path)
                if not path.stem.endswith(f"-{digest[:16]}"):
                    raise BankError(f"{str(path)!r} is not what was written")
                self._checked.add(path)
            used.append(path)
        return [path for path in used if not isinstance(path, BucketPath)]


@dataclass(frozen=True, eq=False)
class SlotsToPush:
    """The slots of a bank whose images are pushed, close together.

    Parameters
    ----------
    rows : ndarray of int64, shape (n_slots,)
        The first row of each; -1 where the image is gone.
    digests : ndarray of uint8, shape (n_slots, 32)
    bounds : list of int
        Where shards of the bank begin and end: no batch crosses one.
    writers : mapping of str to ShardWriter
    shards : mapping of str to list of ShardPlan
        What each cut lacks, counted in these slots.
    """

    rows: NDArray[np.int64]
    digests: NDArray[np.uint8]
    bounds: list[int]
    writers: Mapping[str, ShardWriter]
    shards: Mapping[str, list[ShardPlan]]


@dataclass(frozen=True, eq=False)
class ShardWriter:
    """Takes the computed rows of a cut's shards; what other banks hold comes beside them."""

    missing: Missing
    cut: str
    parts: Sequence[Part]
    slots: NDArray[np.int64]
    made_by: Mapping[str, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.missing.writers[self.cut].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What features are stored as."""
        return self.missing.writers[self.cut].dtype

    def write(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> None:
        """Write one shard; `plan` counts in the slots to push."""
        slots = self.slots[plan.start : plan.stop]
        self.missing.write(self.parts[plan.number], self.made_by, slots, features, statuses)


def find_missing(
    bank: Bank,
    manifest: Manifest,
    cuts: Sequence[str],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    lenders: Iterable[Bank] = (),
    made_by: Mapping[str, str] | None = None,
    wide: Collection[str] = (),
    others: Collection[str] = (),
    shard_rows: int | None = None,
    mine: Container[int] | None = None,
    renews: bool = True,
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
    shard_rows : int, optional
        Rows of a shard at most, of cuts that are new.
    mine : container of int, optional
        As of `Missing`.
    renews : bool, default=True
        Give images that a stored shard lacks new slots; without, they count as gone.
    """
    lenders = [one.with_rows(manifest) for one in lenders]

    def looked_at(renewed: AbstractSet[bytes], others: Collection[str]) -> Missing:
        seen = bank.with_rows(manifest, renew=renewed)
        writers = {}
        for cut in dict.fromkeys([*cuts, *others]):
            there = next((one for one in (seen, *lenders) if _array(one, cut) is not None), None)
            array = None if there is None else _array(there, cut)
            kind = np.dtype(np.float32) if cut in wide else _cut_dtype(cut, bank.key.dtype, there, array)
            shape = tuple(shapes[cut] if array is None else array.shape[1:])
            most = SHARD_BYTES if shard_rows is None else shard_rows * prod(shape) * kind.itemsize
            writers[cut] = seen.cut_writer(
                cut, shape, kind, shard_bytes=min(SHARD_BYTES, most), made_by=made_by or {}
            )
        shards = {cut: writer.missing() for cut, writer in writers.items()}
        return Missing(seen, writers, shards, lenders, {}, frozenset(renewed), frozenset(wide), mine)

    found = looked_at(frozenset(), others)
    absent = set[bytes]().union(*(one.absent() for one in found.writers.values() if renews))
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
    """Return what a bank stores of a cut; None if it has nothing, or nothing that can be read.

    What another bank could derive is pushed: its last bits would be others.
    """
    with contextlib.suppress(UnknownNameError, BankError, OSError):
        return bank[cut] if bank.sources(cut) == (cut,) else None
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
    with contextlib.suppress(OSError), beside(path) as temporary:
        os.link(source, temporary)
        temporary.replace(path)
