"""What several tests of extractions need."""

from __future__ import annotations

import pytest


@pytest.fixture
def batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch in each shard and each run: a few images are then many steps to be interrupted between."""
    monkeypatch.setattr(
        "featbank.banks.bank.shard_rows_for", lambda row_bytes, batch_size, shard_bytes: batch_size
    )
    monkeypatch.setattr("featbank.extraction.forward._RUN", 1)
    monkeypatch.setattr("featbank.extraction.images._RUN", 1)
