"""What a bank's rows lose when its dataset is extracted again."""

from __future__ import annotations

import logging

from featbank.manifest import Manifest

__all__ = ["tell_changes"]

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


def _counts(manifest: Manifest) -> str:
    return ", ".join(f"{count} {split}" for split, count in manifest.counts().items())
