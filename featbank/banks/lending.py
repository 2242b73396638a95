"""Banks that share files: what was extracted of the same images under the same key is not extracted again.

Shards never change, so they are linked, and take no room twice. Either bank can be removed, and the other one
stays whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from featbank._atomic import fsync_folder, link_file, make_folder, publish, temporary_path
from featbank.banks._documents import CUT_FILE, layout_of
from featbank.banks.bank import Bank
from featbank.banks.index import MANIFEST_FILE
from featbank.banks.shards import shard_files
from featbank.banks.store import BankStore
from featbank.manifest import Manifest

__all__ = ["lend_bank", "lend_shards", "lendable_shards"]


def lend_bank(donor: Bank, store: BankStore, dataset: str) -> None:
    """Make the bank of another dataset and the donor's key, with the donor's files and no rows; whole or not.

    Parameters
    ----------
    donor : Bank
        Stays as it is.
    store : BankStore
        Where the bank is to be; it must not be there.
    dataset : str
        Its name.

    Raises
    ------
    CacheWriteError
        If it cannot be made.
    OSError
        If a file can be neither linked nor copied.
    """
    target = store.path_for(dataset, donor.key)
    make_folder(target.parent)
    aside = temporary_path(target)
    try:
        made = BankStore(aside).create_or_open(dataset, donor.key, donor.provenance).path
        link_file(donor.path / MANIFEST_FILE, made / MANIFEST_FILE)
        # the slots without the rows, which are the borrower's to say
        Bank.open(made).set_manifest(_no_rows(donor))
        for cut in (*donor.cuts, *donor.partial_cuts):
            names = donor.shard_names(cut)
            if (donor.path / cut / CUT_FILE).exists():
                names.append(CUT_FILE)
            _link_into(make_folder(made / cut), donor.path / cut, names)
        publish(made, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def lendable_shards(donor: Bank, target: Bank) -> dict[str, dict[int, Path]]:
    """List the shards of cuts that `target` has not begun, where both have the same images in the same slots.

    Returns
    -------
    dict of str to dict of int to pathlib.Path
        Cut -> number -> file of the donor.
    """
    n_slots = _common_slots(donor, target)
    known = {*target.cuts, *target.partial_cuts}
    found = {}
    for cut in donor.cuts if n_slots else ():
        layout = None if cut in known else layout_of(donor.path / cut, donor.key.digest())
        if layout is not None:
            shared = {
                plan.number for plan in donor.slot_table.plan(layout.shard_rows) if plan.stop <= n_slots
            }
            there = shard_files(donor.path / cut)
            found[cut] = {number: path for number, path in there.items() if number in shared}
    return {cut: shards for cut, shards in found.items() if shards}


def lend_shards(donor: Bank, target: Bank) -> None:
    """Give a bank what `lendable_shards` lists; errors as of `lend_bank`.

    Without ``cut.json``: the extraction that follows writes it, once it has pushed what is still missing.
    """
    for cut, shards in lendable_shards(donor, target).items():
        aside = make_folder(temporary_path(target.path / cut))
        try:
            _link_into(aside, donor.path / cut, [path.name for path in shards.values()])
            publish(aside, target.path / cut)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _no_rows(bank: Bank) -> Manifest:
    rows = bank.manifest
    return Manifest((), rows.labels[:0], rows.classes, rows.splits[:0], rows.digests[:0], rows.statuses[:0])


def _common_slots(one: Bank, other: Bank) -> int:
    """Return how many slots both banks begin with, in whole segments, in which the shards are the same."""
    a, b = one.slot_table, other.slot_table
    common = 0
    for end, same in zip(a.segments[1:].tolist(), b.segments[1:].tolist(), strict=False):
        if end != same or not np.array_equal(a.digests[common:end], b.digests[common:end]):
            break
        common = end
    return common


def _link_into(folder: Path, source: Path, names: list[str]) -> None:
    for name in names:
        link_file(source / name, folder / name)
    fsync_folder(folder)
