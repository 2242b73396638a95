"""What differs from what was extracted before: rows a bank loses, keys under which nothing is reused."""

from __future__ import annotations

import logging
from typing import Any

from featbank.banks import BankKey, BankStore
from featbank.manifest import Manifest, printable

__all__ = ["tell_changes", "tell_other_keys"]

logger = logging.getLogger(__name__)


def tell_changes(before: Manifest, after: Manifest) -> None:
    """Say what a bank's rows lose by this extraction: images, or their place in a split."""
    old = dict(zip(before.ids, before.splits.tolist(), strict=True))
    new = dict(zip(after.ids, after.splits.tolist(), strict=True))
    gone = len(old.keys() - new.keys())
    if gone:
        logger.warning("%d of the bank's %d rows are no longer in the data and leave it", gone, len(old))
    moved = sum(old[one] != new[one] for one in old.keys() & new.keys())
    if moved:
        logger.warning(
            "%d images change their split: it was %s, it is %s; the same --split as before keeps it",
            moved,
            _counts(before),
            _counts(after),
        )


def tell_other_keys(store: BankStore, dataset: str, key: BankKey) -> None:
    """Say why no row of the banks of this dataset and backbone that are there can be reused."""
    nearest: tuple[int, float, str, str] | None = None
    for bank in store.banks(dataset, key.backbone):
        differing = bank.key.differences(key)
        said = "; ".join(_difference(name, *values) for name, values in differing.items())
        found = (len(differing), -bank.path.stat().st_mtime, bank.name, said)
        nearest = found if nearest is None else min(nearest, found)
    if nearest is not None:
        logger.warning("a new bank: no row of %s is reused, its %s", nearest[2], nearest[3])


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [one for one in {**old, **new} if old.get(one) != new.get(one)]
        return "; ".join(_difference(f"{name}.{one}", old.get(one), new.get(one)) for one in inner)
    return f"{name} was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:16]}..."


def _counts(manifest: Manifest) -> str:
    return ", ".join(f"{count} {split}" for split, count in manifest.counts().items())
