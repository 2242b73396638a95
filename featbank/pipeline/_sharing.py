"""Features that are there already for a study's bank: in other banks of the same images.

A study has a bank of its own for the rows and splits it takes, so that it changes nobody else's. What was
extracted of the same images under the same key is not extracted again, see `featbank.banks.lend_bank`.
"""

from __future__ import annotations

import hashlib
import os

from featbank._cache import banks_folder
from featbank.banks import Bank, BankStore
from featbank.datasets import Dataset
from featbank.errors import BankError, FeatbankError
from featbank.pipeline.study import BackboneChoice

__all__ = ["lenders"]

#: Images that are compared by their bytes before two banks are taken for banks of the same images.
_COMPARED = 8


def lenders(
    dataset: Dataset, base: str, choice: BackboneChoice, cache_dir: str | os.PathLike[str] | None
) -> list[Bank]:
    """Return for each key the bank that has most of a study's images.

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
    list of Bank
    """
    store = BankStore(banks_folder(cache_dir))
    wanted = {one: index for index, one in enumerate(dataset.ids)}
    best: dict[str, tuple[int, Bank]] = {}
    for path in store.paths():
        name = path.parent.name
        if name == dataset.name or not (name == base or name.startswith(f"{base}.")):
            continue
        if not path.name.startswith(f"{choice.name}-"):
            continue
        try:
            bank = Bank.open(path, check="size")
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
