"""Reads slots of one cut: finds the shards the plan names, checks each once, maps them, gathers rows."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.banks._sealed import unreadable
from featbank.banks._shard_file import CutLayout, ShardFacts, check_facts, read_facts, shard_number
from featbank.banks.slots import ShardPlan, SlotTable
from featbank.errors import CorruptBankError, IncompleteBankError

#: Maps kept open at once; each holds a file descriptor, of which many systems allow 1024.
_MAPS_LIMIT = 64

#: From this size on, rows are copied one by one: the copy outweighs the loop, and no second copy is made.
_LARGE_ROW_BYTES = 32 * 1024

#: Bytes of smaller rows gathered at once before they are put in their places; small enough for a cache.
_BLOCK_BYTES = 256 * 1024

#: Stands in `CutReader` for a slot whose shard has not been opened yet.
_UNKNOWN = 255


def shard_files(folder: Path) -> dict[int, Path]:
    """List the shards of a cut by number.

    Raises
    ------
    BankReadError
        If the folder cannot be listed.
    CorruptBankError
        If two files claim one number.
    """
    found: dict[int, Path] = {}
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names are all it takes
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise unreadable(folder, error, what="cut folder") from error
    for name in names:
        number = shard_number(name)
        if number is None:
            continue
        if number in found:
            raise CorruptBankError(
                f"shard {number} stands twice in {str(folder)!r}: {found[number].name!r} and {name!r}; "
                f"delete the one that `featbank banks verify` calls damaged, or both, and run "
                f"`featbank extract` again"
            )
        found[number] = folder / name
    return found


class CutReader:
    """The slots of one cut, memory-mapped shard by shard.

    Parameters
    ----------
    folder : pathlib.Path
        The cut's folder.
    layout : CutLayout
        What its shards must look like.
    table : SlotTable
        The bank's slots.
    lacks : callable
        Turns a `ShardPlan` without a file into the text of the error.
    """

    def __init__(
        self, folder: Path, layout: CutLayout, table: SlotTable, lacks: Callable[[ShardPlan], str]
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.table = table
        self.plans = table.plan(layout.shard_rows)
        self._starts = np.array([plan.start for plan in self.plans], np.int64)
        self._lacks = lacks
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[int, Path] | None = None
        self._facts: dict[int, ShardFacts] = {}
        self._maps: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._statuses = np.full(len(self.table), _UNKNOWN, np.uint8)

    def _own_process(self) -> None:
        # after a fork the lock may be held by a thread that does not exist here
        if self._pid != os.getpid():
            self._reset()

    def numbers_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard number of each slot."""
        return np.searchsorted(self._starts, slots, side="right").astype(np.int64) - 1

    def _path(self, number: int) -> Path:
        if self._files is None or number not in self._files:  # new shards may have come since
            self._files = shard_files(self.folder)
        if number not in self._files:
            raise IncompleteBankError(self._lacks(self.plans[number]))
        return self._files[number]

    def facts(self, number: int) -> ShardFacts:
        """Return the checked facts of one shard.

        Raises
        ------
        IncompleteBankError
            If it has no file.
        CorruptBankError, BankReadError, BankFormatError
            As `read_facts` and `check_facts`.
        """
        self._own_process()
        known = self._facts.get(number)
        if known is None:
            plan = self.plans[number]
            try:
                known = read_facts(self._path(number))
            except FileNotFoundError as error:  # removed since the folder was listed
                raise self._gone(number) from error
            check_facts(known, self.layout, plan, self.table.digests[plan.start : plan.stop])
            self._statuses[plan.start : plan.stop] = known.statuses
            self._facts[number] = known
        return known

    def _gone(self, number: int) -> IncompleteBankError:
        self._files = None
        self._facts.pop(number, None)
        return IncompleteBankError(self._lacks(self.plans[number]))

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the status of each slot in this cut; every shard asked for must be there."""
        self._own_process()
        found = self._statuses[slots]
        if (found == _UNKNOWN).any():
            for number in np.unique(self.numbers_of(slots[found == _UNKNOWN])).tolist():
                self.facts(number)
            found = self._statuses[slots]
        return found

    def _map(self, number: int) -> NDArray[Any]:
        with self._lock:
            mapped = self._maps.get(number)
            if mapped is not None:
                self._maps.move_to_end(number)
                return mapped
        try:
            mapped = self.facts(number).features()
        except FileNotFoundError as error:  # removed since it was checked
            raise self._gone(number) from error
        with self._lock:
            self._maps[number] = mapped
            while len(self._maps) > _MAPS_LIMIT:
                self._maps.popitem(last=False)
        return mapped

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the features of `slots` into `out`, shape (len(slots), *shape), of any float dtype."""
        self._own_process()
        if not len(slots):
            return
        numbers = self.numbers_of(slots)
        if (numbers == numbers[0]).all():
            copy_rows(self._map(int(numbers[0])), slots - self._starts[numbers[0]], out)
            return
        # shard by shard and upwards in each: a disk that is not cached is read in order
        order = np.argsort(slots, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order])) + 1
        for places in np.split(order, bounds):
            number = int(numbers[places[0]])
            mapped, local = self._map(number), slots[places] - self._starts[number]
            first, n = int(places[0]), len(places)
            if places[-1] - first == n - 1 and (np.diff(places) == 1).all():
                copy_rows(mapped, local, out[first : first + n])
            else:
                _scatter(mapped, local, out, places)


def copy_rows(mapped: NDArray[Any], local: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy the rows `local` of an array, at least one, into `out`, of any float dtype."""
    first, n = int(local[0]), len(local)
    if local[-1] - first == n - 1 and (n == 1 or (np.diff(local) == 1).all()):
        out[...] = mapped[first : first + n]
    elif out.dtype == mapped.dtype and out.flags.c_contiguous:
        np.take(mapped, local, axis=0, out=out, mode="clip")  # "raise" would copy through a buffer
    else:
        _scatter(mapped, local, out, np.arange(n))


def _scatter(
    mapped: NDArray[Any], local: NDArray[np.int64], out: NDArray[Any], places: NDArray[np.int64]
) -> None:
    row_bytes = mapped.nbytes // len(mapped)
    if row_bytes >= _LARGE_ROW_BYTES:
        for place, row in zip(places.tolist(), local.tolist(), strict=True):
            out[place] = mapped[row]
        return
    step = min(len(local), max(1, _BLOCK_BYTES // row_bytes))
    block = np.empty((step, *mapped.shape[1:]), mapped.dtype)
    for start in range(0, len(local), step):
        part = local[start : start + step]
        np.take(mapped, part, axis=0, out=block[: len(part)], mode="clip")
        out[places[start : start + step]] = block[: len(part)]
