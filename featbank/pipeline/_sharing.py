"""Features that are there already for a study's bank: taken over from other banks of the same images.

A study has a bank of its own for the rows and splits it takes, so that it changes nobody else's. What was
extracted of the same images under the same key is not extracted again: shards never change, so the files are
linked, and take no room twice. Either bank can be removed, and the other one stays whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from featbank import _atomic
from featbank._cache import banks_folder
from featbank.banks import CUT_FILE, Bank, BankStore
from featbank.datasets import Dataset
from featbank.errors import BankError, FeatbankError
from featbank.manifest import Manifest
from featbank.pipeline.study import BackboneChoice

__all__ = ["take_over"]

logger = logging.getLogger(__name__)

_MANIFEST_FILE = "manifest.h5"
#: Images that are compared by their bytes before two banks are taken for banks of the same images.
_COMPARED = 8


def take_over(
    dataset: Dataset,
    base: str,
    choice: BackboneChoice,
    cache_dir: str | os.PathLike[str] | None,
) -> dict[Path, str]:
    """Give a study's banks the features that other banks have of its images.

    Parameters
    ----------
    dataset : Dataset
        The study's images; its name is that of the study's own bank.
    base : str
        Name of the images without the study's protocol: banks called so, or so and a protocol, are asked.
    choice : BackboneChoice
    cache_dir : path-like or None

    Returns
    -------
    dict of pathlib.Path to str
        Banks that were made by this, each with the name of the bank whose features it has. Which of them has
        the right key the extraction will say; the others are to be removed.
    """
    store = BankStore(banks_folder(cache_dir))
    made = {}
    for donor in _donors(store, dataset, base, choice):
        target = store.path_for(dataset.name, donor.key)
        try:
            if not target.exists():
                _lend_bank(donor, store, dataset.name)
                made[target] = donor.name
            else:
                _lend_cuts(donor, Bank.open(target, check="size"))
        except (FeatbankError, OSError) as error:  # then the images are pushed: slower, and nothing worse
            logger.info("features of %s cannot be shared: %s", donor.name, error)
    return made


def _donors(store: BankStore, dataset: Dataset, base: str, choice: BackboneChoice) -> list[Bank]:
    """Return for each key the bank that has most of the images."""
    wanted = {one: index for index, one in enumerate(dataset.ids)}
    best: dict[str, tuple[int, Bank]] = {}
    for path in store.paths():
        name = path.parent.name
        if name == dataset.name or not (name == base or name.startswith(f"{base}.")):
            continue
        if not path.name.startswith(f"{choice.name}-"):
            continue
        try:
            bank = Bank.open(path)
            key = bank.key
            fits = (key.backbone, key.dtype) == (choice.name, choice.dtype)
            fits &= choice.image_size in (None, key.image_size)
            fits &= choice.batch_size in (None, key.batch_size)
            if not fits or not len(bank):
                continue
            rows = [(row, wanted[one]) for row, one in enumerate(bank.manifest.ids) if one in wanted]
        except (BankError, OSError):  # `banks verify` is where damage is looked for
            continue
        if len(rows) <= best.get(key.digest(), (0,))[0] or not _same_images(bank, dataset, rows):
            continue
        best[key.digest()] = len(rows), bank
    return [bank for _, bank in best.values()]


def _same_images(bank: Bank, dataset: Dataset, rows: list[tuple[int, int]]) -> bool:
    """Say whether one of the first images is the one that was extracted; a name alone says little."""
    for row, index in rows[:_COMPARED]:
        try:
            data = dataset.read(index)
        except (FeatbankError, OSError):
            continue
        if hashlib.sha256(data).digest() == bank.manifest.digests[row].tobytes():
            return True
    return False


def _lend_bank(donor: Bank, store: BankStore, name: str) -> None:
    """Make the bank of this name and of the donor's key, with the donor's files and no rows; whole or not."""
    target = store.path_for(name, donor.key)
    _atomic.make_folder(target.parent)
    aside = _atomic.temporary_path(target)
    try:
        made = BankStore(aside).create_or_open(name, donor.key, donor.provenance).path
        _atomic.link_file(donor.path / _MANIFEST_FILE, made / _MANIFEST_FILE)
        # the slots without the rows, which are the study's to say
        Bank.open(made).set_manifest(_no_rows(donor))
        for cut in (*donor.cuts, *donor.partial_cuts):
            names = donor.shard_names(cut)
            if (donor.path / cut / CUT_FILE).exists():
                names.append(CUT_FILE)
            _link_into(_atomic.make_folder(made / cut), donor.path / cut, names)
        _atomic.publish(made, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _no_rows(bank: Bank) -> Manifest:
    rows = bank.manifest
    return Manifest((), rows.labels[:0], rows.classes, rows.splits[:0], rows.digests[:0], rows.statuses[:0])


def _lend_cuts(donor: Bank, target: Bank) -> None:
    """Give a bank the shards of cuts it has not begun, as far as both have the same images in the same slots.

    Without ``cut.json``: the extraction that follows writes it, once it has pushed what is still missing.
    """
    n_slots = _common_slots(donor, target)
    known = {*target.cuts, *target.partial_cuts}
    for cut in donor.cuts if n_slots else ():
        if cut in known:
            continue
        shard_rows = int(json.loads((donor.path / cut / CUT_FILE).read_bytes())["shard_rows"])
        shared = {plan.number for plan in donor.slot_table.plan(shard_rows) if plan.stop <= n_slots}
        names = [one for one in donor.shard_names(cut) if int(one.partition("-")[0]) in shared]
        if names:
            aside = _atomic.make_folder(_atomic.temporary_path(target.path / cut))
            try:
                _link_into(aside, donor.path / cut, names)
                _atomic.publish(aside, target.path / cut)
            finally:
                shutil.rmtree(aside, ignore_errors=True)


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
        _atomic.link_file(source / name, folder / name)
    _atomic.fsync_folder(folder)
