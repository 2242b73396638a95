"""Writes the shards of one cut: says which are missing, publishes each whole, records facts at the end."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import locked, make_folder, remove_file, remove_stale_temporaries, write_file
from featbank.banks._bank_files import LOCK_FILE
from featbank.banks._cut_reader import CutReader, shard_files
from featbank.banks._shard_file import (
    CutLayout,
    Measures,
    check_facts,
    check_hash,
    encode_shard,
    read_facts,
)
from featbank.banks.slots import ShardPlan
from featbank.errors import CorruptBankError, IncompleteBankError, InvalidInputError
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from featbank.banks.bank import Bank

__all__ = ["CutWriter"]

logger = logging.getLogger(__name__)


class CutWriter:
    """Writes one cut; comes from ``bank.cut_writer(cut, shape, dtype)``.

    ``for plan in writer.missing(): writer.write(plan, features, statuses)``, then ``writer.finish(facts)``
    (also when nothing was missing but `finished` is False: the last run died just before it).
    Several processes may write one cut at once; each shard ends up once.

    Parameters
    ----------
    bank : Bank
        The bank, its manifest set.
    layout : CutLayout
        What the shards look like.
    made_by : mapping of str to str
        What computes the features.
    """

    def __init__(self, bank: Bank, layout: CutLayout, made_by: Mapping[str, str]) -> None:
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
        reader = self._reader()
        needed = np.unique(reader.numbers_of(self._bank.row_slots)).tolist()
        return [reader.plans[number] for number in needed]

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
                    reader.facts(plan.number)
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
        reader, slots = self._reader(), self._bank.row_slots
        slots = slots[np.isin(reader.numbers_of(slots), list(shard_files(self.folder)))]
        gone = np.unique(slots[reader.statuses(slots) == RowStatus.ABSENT])
        return {reader.table.digests[slot].tobytes() for slot in gone.tolist()}

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and `finish` has recorded it."""
        return self.cut in self._bank.cuts

    def write(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> Path:
        """Write one shard; when this returns it survives power loss.

        Parameters
        ----------
        plan : ShardPlan
            Which one, from `missing`.
        features : ndarray, shape (plan.n_rows, *shape)
            Rows in slot order, in exactly the stored dtype; zeros where the status is not OK.
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
        table = self._bank.slot_table
        digests = table.digests[plan.start : plan.stop]
        name, image = encode_shard(self._layout, plan, features, digests, statuses, self._made_by)
        path = self.folder / name
        with locked(self.folder / LOCK_FILE, self._name) as again:
            if not again:  # else nobody has written here since this one did: a long folder is listed once
                self._present = shard_files(self.folder)
            there = self._present.get(plan.number)
            if there is not None and os.path.lexists(there):
                fault = self._fault(there, plan, digests)
                if fault is None:
                    if there.name != name and (read_facts(there).statuses == statuses).all():
                        logger.warning(
                            "shard %s was written by another process with other bytes; kept", there
                        )
                    return there
                logger.warning("shard %s is replaced: %s", there, fault)
                # first, and durably: whenever the power goes, no two files claim one number
                remove_file(there)
            write_file(path, image)
            self._present[plan.number] = path
        return path

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
            present = sorted(number for number in shard_files(self.folder) if number < len(reader.plans))
            found = np.zeros(len(reader.table), np.uint8)
            measures = Measures()
            for number in present:
                plan, shard = reader.plans[number], reader.facts(number)
                found[plan.start : plan.stop] = shard.statuses
                measures += shard.measures
            self._bank._fold_statuses(found)
            said = facts(there.facts(self.cut) if present else {}) if callable(facts) else facts
            absent = np.flatnonzero(found == RowStatus.ABSENT).tolist()
            self._bank._write_cut_facts(self._layout, present, absent, {**said, **asdict(measures)})

    def made_by(self) -> dict[str, tuple[str, ...]]:
        """Return what made the shards that are there, e.g. ``{"torch": ("2.11.0",), "device": ("cpu",)}``.

        More than one value of a name: the last bits of some rows may be others than one machine would give.
        """
        reader, found = self._reader(), dict[str, set[str]]()
        for number in shard_files(self.folder):
            if number < len(reader.plans):
                for name, value in reader.facts(number).made_by.items():
                    found.setdefault(name, set()).add(value)
        return {name: tuple(sorted(values)) for name, values in sorted(found.items())}

    def _reader(self) -> CutReader:
        return self._bank._reader_of(self._layout)

    def _fault(self, path: Path, plan: ShardPlan, digests: NDArray[np.uint8]) -> str | None:
        try:
            fault = check_hash(path)
            if fault is None:
                check_facts(read_facts(path), self._layout, plan, digests)
        except (CorruptBankError, FileNotFoundError) as error:  # one that cannot be read now is not replaced
            return str(error)
        return fault

    def _check_input(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> None:
        plans = self._reader().plans
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
