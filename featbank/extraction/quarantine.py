"""Why images could not be read: settled once per extraction, in the bank's ``quarantine.jsonl``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.banks import QuarantineRecord
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from featbank.banks import Bank
    from featbank.extraction.device_images import ImageLoader
    from featbank.extraction.images import BadImage

__all__ = ["settle_quarantine"]

logger = logging.getLogger(__name__)

_UNKNOWN = "unknown"


def settle_quarantine(bank: Bank, loader: ImageLoader, bad: Sequence[BadImage]) -> int:
    """Write why each quarantined row is quarantined.

    Parameters
    ----------
    bank : Bank
        The bank, all cuts finished.
    loader : BatchLoader or DeviceBatchLoader
        Looks again at images whose reason was never written down: an interrupted run came to their status.
    bad : sequence of BadImage
        What this run could not read.

    Returns
    -------
    int
        How many of this run's rows are quarantined.
    """
    own = loader.manifest
    found = {own.digests[one.row].tobytes(): (one.reason, one.detail) for one in bad}
    bank.refresh()  # what others came to counts, where there was nothing left for this run
    mine = int((bank.manifest.statuses != RowStatus.OK).sum())
    if not mine and not bank.quarantine():
        return 0
    with bank.held() as there:  # another process may have set its own rows, or write down its own, just now
        manifest, before = there.manifest, bank.quarantine()
        known = {
            bytes.fromhex(record.digest): (record.reason, record.detail)
            for record in before
            if record.reason != _UNKNOWN
        } | found
        records = []
        for row in np.flatnonzero(manifest.statuses).tolist():
            digest = manifest.digests[row].tobytes()
            if digest not in known:
                known[digest] = _look_again(loader, digest)
            records.append(QuarantineRecord(manifest.ids[row], digest.hex(), *known[digest]))
        if records or before:
            bank.write_quarantine(records)
    reasons = Counter(
        known.get(own.digests[row].tobytes(), (_UNKNOWN, ""))[0]
        for row in np.flatnonzero(bank.manifest.statuses).tolist()
    )
    if reasons:
        logger.warning(
            "%d of %d images could not be read (%s); %s says why",
            mine,
            len(own),
            ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()),
            bank.path / "quarantine.jsonl",
        )
    return mine


def _look_again(loader: ImageLoader, digest: bytes) -> tuple[str, str]:
    rows = np.flatnonzero((loader.manifest.digests == np.frombuffer(digest, np.uint8)).all(axis=1))
    if not len(rows):
        return _UNKNOWN, "another extraction came to it"
    bad = loader.load(rows[:1].tolist()).bad
    return (bad[0].reason, bad[0].detail) if bad else (_UNKNOWN, "readable by now")
