"""What differs from what was extracted before: rows that leave a bank's list, keys that reuse nothing."""

from __future__ import annotations

import logging
from typing import Any

from featbank.banks import BankKey, BankStore, CutWriter
from featbank.manifest import Manifest, printable

__all__ = ["tell_changes", "tell_makers", "tell_other_keys"]

logger = logging.getLogger(__name__)


def tell_changes(before: Manifest, after: Manifest) -> None:
    """Say what this extraction changes in a bank's list of rows: which are in it, and in which split."""
    old = dict(zip(before.ids, before.splits.tolist(), strict=True))
    new = dict(zip(after.ids, after.splits.tolist(), strict=True))
    gone = len(old.keys() - new.keys())
    if gone:
        # Whether a file was deleted, or is left out this time, is not to be seen here: both are said.
        logger.warning(
            "%d of the bank's %d rows are not among the %d asked for now (their images are gone, or --limit "
            "or a choice of classes leaves them out): they leave the bank's list, their features stay, and "
            "nothing is pushed when they are asked for again",
            gone,
            len(old),
            len(new),
        )
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
    nearest: tuple[int, int, str, str] | None = None
    for place, bank in enumerate(store.banks(dataset, key.backbone)):  # newest first
        differing = bank.key.differences(key)
        said = "; ".join(_difference(name, *values) for name, values in differing.items())
        found = (len(differing), place, bank.name, said)
        nearest = found if nearest is None else min(nearest, found)
    if nearest is not None:
        logger.warning("a new bank: no row of %s is reused, its %s", nearest[2], nearest[3])


def tell_makers(writer: CutWriter) -> dict[str, str]:
    """Say when the shards of a cut were made by more than one version of torch, or kind of device.

    Returns
    -------
    dict of str to str
        Facts of the cut: what made it, and under ``mixed`` what differs between its shards.
    """
    made_by = writer.made_by()
    facts = {name: ", ".join(values) for name, values in made_by.items()}
    mixed = "; ".join(f"{name} {' and '.join(values)}" for name, values in made_by.items() if len(values) > 1)
    if mixed:
        logger.warning(
            "cut %r has shards of %s: the last bits of their features may differ, as if each had an error of "
            "its own; `featbank banks rm` and `featbank extract` make all of it in one way",
            writer.cut,
            mixed,
        )
        facts["mixed"] = mixed
    return facts


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
