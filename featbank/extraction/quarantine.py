"""Why images could not be read: settled once per extraction, in the bank's ``quarantine.jsonl``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.banks import QuarantineRecord

if TYPE_CHECKING:
    from featbank.banks import Bank
    from featbank.extraction.images import BadImage, BatchLoader

__all__ = ["settle_quarantine"]

logger = logging.getLogger(__name__)


def settle_quarantine(bank: Bank, loader: BatchLoader, bad: Sequence[BadImage]) -> int:
    """Write why each quarantined row is quarantined.

    Parameters
    ----------
    bank : Bank
        The bank, all cuts finished.
    loader : BatchLoader
        Looks again at images whose reason was never written down: an interrupted run came to their status.
    bad : sequence of BadImage
        What this run could not read.

    Returns
    -------
    int
        How many rows are quarantined.
    """
    manifest = bank.manifest
    digests = {
        row: manifest.digests[row].tobytes().hex() for row in np.flatnonzero(manifest.statuses).tolist()
    }
    known = {record.digest: (record.reason, record.detail) for record in bank.quarantine()}
    known |= {digests[one.row]: (one.reason, one.detail) for one in bad if one.row in digests}
    records = []
    for row, digest in digests.items():
        if digest not in known:
            again = loader.load([row]).bad
            known[digest] = (again[0].reason, again[0].detail) if again else ("unknown", "readable by now")
        records.append(QuarantineRecord(manifest.ids[row], digest, *known[digest]))
    if records or bank.quarantine():
        bank.write_quarantine(records)
    if records:
        logger.warning(
            "%d of %d images could not be read (%s); %s says why",
            len(records),
            len(manifest),
            ", ".join(f"{n} {reason}" for reason, n in Counter(one.reason for one in records).most_common()),
            bank.path / "quarantine.jsonl",
        )
    return len(records)
