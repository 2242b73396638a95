"""Why images could not be read, when several extractions of one bank come to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featbank.banks import Bank
from featbank.extraction import ExtractionPlan, ExtractionResult, ExtractionSettings, plan, push

Folder = Callable[..., Path]


def planned(data: Path, cache: Path, **options: Any) -> ExtractionPlan:
    fixed: dict[str, Any] = {"backbone": "minivgg", "weights": "random", "cuts": ["fc7"], "compile": "off"}
    return plan(data, ExtractionSettings(cache_dir=cache, **{**fixed, "precision": "float32", **options}))


@pytest.fixture
def data(photo_folder: Folder) -> Path:
    folder = photo_folder()
    (folder / "red" / "zz.png").write_bytes(b"<html>not found</html>")
    (folder / "blue" / "zz.png").write_bytes(b"")
    return folder


def reasons(bank: Path) -> list[str]:
    return [record.reason for record in Bank.open(bank).quarantine()]


@pytest.mark.slow
def test_what_another_extraction_wrote_down_stays(data: Path, tmp_path: Path) -> None:
    # the second finds nothing left to do, and its view of the bank is from before the first was through
    late = planned(data, tmp_path / "cache")
    done = push(planned(data, tmp_path / "cache"))
    wanted = reasons(done.bank)
    assert len(wanted) == 2
    found = push(late)
    assert (found.pushed, found.quarantined) == (0, 2)
    assert reasons(done.bank) == wanted


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
def test_rows_of_another_extraction_keep_their_reasons(data: Path, tmp_path: Path) -> None:
    def another(done: int, total: int) -> None:
        if not others:
            others.append(push(planned(data, tmp_path / "cache", batch_size=2)))

    others: list[ExtractionResult] = []
    few = push(planned(data, tmp_path / "cache", limit=4, batch_size=2), progress=another)
    assert (few.rows, few.pushed, few.quarantined) == (4, 4, 0)  # its own, whatever the bank has now
    assert (others[0].rows, others[0].quarantined) == (20, 2)
    assert len(Bank.open(few.bank)) == 20
    assert sorted(reasons(few.bank)) == ["empty", "not-an-image"]
