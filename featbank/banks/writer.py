"""Writes the shards of one cut: says which are missing, publishes each whole, records facts at the end."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import (
    locked,
    make_folder,
    move_file,
    remove_file,
    remove_stale_temporaries,
    write_aside,
)
from featbank.banks._documents import LOCK_FILE, CutDocument
from featbank.banks.index import ShardPlan, StoredManifest
from featbank.banks.reader import CutReader
from featbank.banks.shards import (
    CutLayout,
    Measures,
    check_hash,
    check_place,
    encode_shard,
    read_shard,
    shard_files,
)
from featbank.errors import CorruptBankError, IncompleteBankError, InvalidInputError
from featbank.manifest import RowStatus

__all__ = ["CutWriter"]

logger = logging.getLogger(__name__)


class WritableBank(Protocol):
    """What a writer needs of its bank."""

    path: Path

    @property
    def cuts(self) -> tuple[str, ...]: ...

    @property
    def _stored(self) -> StoredManifest: ...

    def facts(self, cut: str) -> dict[str, Any]: ...

    def held(self) -> AbstractContextManager[Self]: ...

    def _reader_of(self, layout: CutLayout) -> CutReader: ...

    def _lacks(self, cut: str, plan: ShardPlan) -> str: ...

    def _fold_statuses(self, found: NDArray[np.uint8]) -> None: ...


class CutWriter:
    """Writes one cut; comes from ``bank.cut_writer(cut, shape, dtype)``.

    ``for plan in writer.missing(): writer.write(plan, features, statuses)``, then ``writer.finish(facts)``
    (also when nothing was missing but `finished` is False: the last run died just before it).
    Several threads and several processes may write one cut at once; each shard ends up once.

    Parameters
    ----------
    bank : Bank
        The bank, its manifest set.
    layout : CutLayout
        What the shards look like.
    made_by : mapping of str to str
        What computes the features.
    """

    def __init__(self, bank: WritableBank, layout: CutLayout, made_by: Mapping[str, str]) -> None:
        self._made_by = dict(made_by)
        self._bank = bank
        self._layout = layout
        self._name = secrets.token_hex(8)
        self._present: dict[int, Path] = {}
        self.folder: Path = bank.path / layout.cut
        self._ready = False

    def prepare(self) -> None:
        """Make the cut's folder, and remove what killed processes left in it; `write` does so too."""
        if not self._ready:
            make_folder(self.folder)
            remove_stale_temporaries(self.folder)
            remove_stale_temporaries(self._bank.path)
            self._ready = True

    @property
    def cut(self) -> str:
        """Name of the cut."""
        return self._layout.cut

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What features are stored as."""
        return self._layout.dtype

    @property
    def shard_rows(self) -> int:
        """Rows of a full shard, a multiple of the key's batch size."""
        return self._layout.shard_rows

    def plans(self) -> list[ShardPlan]:
        """List the planned shards that hold a row of the manifest, in order."""
        plans = self._reader().plans
        return [plans[number] for number in np.flatnonzero(self._bank._stored.rows_in(plans)).tolist()]

    def missing(self) -> list[ShardPlan]:
        """List the planned shards that have no file and hold a row of the manifest, in order.

        Returns
        -------
        list of ShardPlan

        Raises
        ------
        CorruptBankError
            If a shard that is there is damaged; the message says what to do.
        """
        reader = self._reader()
        present = shard_files(self.folder)
        missing = []
        for plan in self.plans():
            try:
                if plan.number in present:
                    reader.shard(plan.number)
                    continue
            except IncompleteBankError:  # gone since the folder was listed, or a link to nothing
                pass
            missing.append(plan)
        return missing

    def absent(self) -> set[bytes]:
        """Return the digests of images of the manifest that a stored shard was to hold, and does not.

        They were gone when it was written, or not among the rows of who wrote it; a shard is never changed,
        so they need a new slot (`Bank.set_manifest`, `Bank.renew`) to be pushed after all.

        Returns
        -------
        set of bytes
        """
        reader, slots = self._reader(), self._bank._stored.row_slots
        slots = slots[reader.present()[reader.numbers_of(slots)]]
        gone = np.unique(slots[reader.statuses(slots) == RowStatus.ABSENT])
        return {reader.table.digests[slot].tobytes() for slot in gone.tolist()}

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and `finish` has recorded it."""
        return self.cut in self._bank.cuts

    def write(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> Path:
        """Write one shard; when this returns it survives power loss. Threads may write several at once.

        Parameters
        ----------
        plan : ShardPlan
            Which one, from `missing`.
        features : ndarray, shape (plan.n_rows, *shape)
            Rows in slot order, in exactly the stored dtype; zeros where the status is not OK. Written from
            where they are, without a copy, if they are contiguous.
        statuses : ndarray of uint8, shape (plan.n_rows,)
            `RowStatus` of each row.

        Returns
        -------
        pathlib.Path
            The shard's file: the one written, or an intact one that another process finished first.

        Raises
        ------
        InvalidInputError
            If the arrays do not fit the plan, or the plan is none of this cut.
        CacheWriteError
            If the file cannot be written; shards written before are not touched.
        """
        self._check_input(plan, features, statuses)
        self.prepare()
        digests = self._reader().table.digests[plan.start : plan.stop]
        name, parts = encode_shard(self._layout, plan, features, digests, statuses, self._made_by)
        path = self.folder / name
        with locked(self.folder / LOCK_FILE, self._name) as again:
            there = self._standing(plan, digests, again)[0]
        if there is None:
            aside = write_aside(path, parts)  # without the lock: others write, and wait for the disk, too
            moved = False
            try:
                with locked(self.folder / LOCK_FILE, self._name) as again:
                    there, faults = self._standing(plan, digests, again)
                    if there is None:
                        for damaged, fault in faults.items():
                            logger.warning("shard %s is replaced: %s", damaged, fault)
                            # first, and durably: whenever the power goes, no two files claim one number
                            remove_file(damaged)
                        move_file(aside, path)
                        moved = True
                        self._present[plan.number] = path
                        return path
            finally:
                if not moved:  # it failed, or another's stands there
                    with suppress(OSError):
                        aside.unlink()
        if there.name != name and (read_shard(there).statuses == statuses).all():
            logger.warning("shard %s was written by another process with other bytes; kept", there)
        return there

    def _standing(
        self, plan: ShardPlan, digests: NDArray[np.uint8], again: bool
    ) -> tuple[Path | None, dict[Path, str]]:
        """Return the intact file that is there for a shard, or what is wrong with the one that is."""
        if not again:  # else nobody has written here since this one did: a long folder is listed once
            self._present = shard_files(self.folder)
        there = self._present.get(plan.number)
        if there is None or not os.path.lexists(there):
            return None, {}
        try:
            fault = check_hash(there)
            if fault is None:
                check_place(read_shard(there), self._layout, plan, digests)
        except (CorruptBankError, FileNotFoundError) as error:  # one that cannot be read now is not replaced
            fault = str(error)
        return (there, {}) if fault is None else (None, {there: fault})

    def finish(self, facts: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Record that the cut is complete for the rows of this bank, with what there is to say about it.

        Rows whose features could not be had get their status in the manifest. Where another process has set
        other rows since, theirs stay, and shards that others wrote are recorded as well.

        Parameters
        ----------
        facts : mapping of str to JSON values, or callable
            E.g. ``precision_error``, ``duration_s``; replaces earlier facts. A function is given those (as
            `Bank.facts` gives them) and returns the new ones. What the shards say of their numbers is added:
            ``max_abs``, ``n_zero``, ``n_nonfinite`` and ``n_values``.

        Raises
        ------
        IncompleteBankError
            If a shard is missing.
        InvalidInputError
            If the facts cannot be stored as JSON.
        """
        missing = self.missing()
        if missing:
            raise IncompleteBankError(self._bank._lacks(self.cut, missing[0]))
        self.prepare()
        with self._bank.held() as there:
            reader = there._reader_of(self._layout)  # with the slots others have added
            present = np.flatnonzero(reader.present()).tolist()
            found = np.zeros(len(reader.table), np.uint8)
            measures = Measures()
            for number in present:
                plan = reader.plans[number]
                measures += reader.shard(number).measures
                found[plan.start : plan.stop] = reader.statuses(np.arange(plan.start, plan.stop))
            self._bank._fold_statuses(found)
            said = facts(there.facts(self.cut) if present else {}) if callable(facts) else facts
            absent = np.flatnonzero(found == RowStatus.ABSENT).tolist()
            CutDocument(
                self._layout, frozenset(present), {**said, **asdict(measures)}, frozenset(absent)
            ).write(self.folder)

    def made_by(self) -> dict[str, tuple[str, ...]]:
        """Return what made the shards that are there, e.g. ``{"torch": ("2.11.0",), "device": ("cpu",)}``.

        More than one value of a name: the last bits of some rows may be others than one machine would give.
        """
        reader, found = self._reader(), dict[str, set[str]]()
        for number in np.flatnonzero(reader.present()).tolist():
            for name, value in reader.shard(number).made_by.items():
                found.setdefault(name, set()).add(value)
        return {name: tuple(sorted(values)) for name, values in sorted(found.items())}

    def _reader(self) -> CutReader:
        return self._bank._reader_of(self._layout)

    def _check_input(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> None:
        plans: Sequence[ShardPlan] = self._reader().plans
        if not (0 <= plan.number < len(plans)) or plans[plan.number] != plan:
            raise InvalidInputError(f"{plan} is no shard of cut {self.cut!r}; take plans from missing()")
        want = (plan.n_rows, *self.shape)
        faults = []
        if features.shape != want:
            faults.append(f"features have shape {features.shape}, not {want}")
        if features.dtype != self.dtype:  # a silent cast could overflow to inf
            faults.append(f"features have dtype {features.dtype}, not {self.dtype}")
        if statuses.shape != (plan.n_rows,) or statuses.dtype != np.uint8:
            faults.append(f"statuses are {statuses.dtype} {statuses.shape}, not uint8 ({plan.n_rows},)")
        elif (statuses > max(RowStatus)).any():
            faults.append(f"statuses have {int(statuses.max())}, the largest is {int(max(RowStatus))}")
        elif not faults and features[statuses != RowStatus.OK].any():
            faults.append("rows that are not OK have features, they must be zeros")
        if faults:
            raise InvalidInputError(f"shard {plan.number} of cut {self.cut!r}: {'; '.join(faults)}")
