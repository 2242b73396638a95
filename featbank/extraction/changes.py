"""What differs from what was extracted before: rows that leave a bank's list, keys that reuse nothing."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.banks import Bank, BankKey, BankStore, CutWriter
from featbank.errors import FeatbankError, InvalidInputError
from featbank.manifest import Manifest, printable

__all__ = ["check_same_source", "tell_changes", "tell_makers", "tell_other_keys", "tell_other_names"]

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


def tell_other_names(
    store: BankStore, dataset: str, key: BankKey, location: str, digests: NDArray[np.uint8]
) -> None:
    """Say when a new bank would hold what one of another name holds: a folder was renamed, or copied."""
    wanted, here = store.path_for(dataset, key), {one.tobytes() for one in digests}
    for path in store.paths():
        if path.name != wanted.name or path == wanted:
            continue
        with contextlib.suppress(FeatbankError):
            bank = Bank.open(path, check="size")
            if bank.key != key or not len(bank):
                continue
            common = len(here & {one.tobytes() for one in bank.manifest.digests})
            if 2 * common >= len(here):
                logger.warning(
                    "%d of the %d images of %s are in bank %s already, which was extracted from %s; "
                    "--name %s continues it instead of pushing them again",
                    common,
                    len(here),
                    printable(location),
                    bank.name,
                    printable(str(bank.provenance.get("location"))),
                    printable(bank.dataset),
                )
                return


def check_same_source(bank: Bank, location: str, digests: NDArray[np.uint8]) -> None:
    """Say when the images of a bank are elsewhere now; refuse other images that only have the same name.

    Parameters
    ----------
    bank : Bank
        The bank of this name, as it is.
    location : str
        Where the images are that are to be its rows.
    digests : ndarray of uint8, shape (n_samples, 32)
        Theirs.

    Raises
    ------
    InvalidInputError
        If less than half of the fewer images are also among the others.
    """
    before = bank.provenance.get("location")
    if before == location or not len(bank):
        return
    there = {one.tobytes() for one in bank.manifest.digests}
    here = {one.tobytes() for one in digests}
    common = len(there & here)
    if 2 * common < min(len(there), len(here)):
        said = f"only {common} of the {len(here)} images" if common else "not one image"
        raise InvalidInputError(
            f"{str(bank.path)!r} holds the features of {printable(str(before))!r}, and {said} of "
            f"{printable(location)!r} {'are' if common > 1 else 'is'} in it; give this dataset another --name"
        )
    if there == here:
        logger.info("the images of bank %s are in %s now", bank.name, printable(location))
        return
    logger.warning(
        "bank %s was extracted from %s and is that of %s from now on (%d of its %d images are in it); "
        "--name gives one of the two a bank of its own",
        bank.name,
        printable(str(before)),
        printable(location),
        common,
        len(here),
    )


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
