"""Why images could not be read, when several extractions of one bank come to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featbank.banks import Bank
from featbank.extraction import Extraction, ExtractionResult

Folder = Callable[..., Path]


def new_task(data: Path, cache: Path, **options: Any) -> Extraction:
    fixed: dict[str, Any] = dict.fromkeys(
        ["split", "image_size", "transform", "limit", "name", "device", "workers", "data_root", "batch_size"]
    )
    fixed |= {"backbone": "minivgg", "weights": "random", "cuts": ["fc7"], "compile": "off"}
    fixed |= {"precision": "float32", "dtype": "float16", "random_state": 0, "download": False}
    return Extraction(data, cache_dir=cache, **{**fixed, **options})


@pytest.fixture
def data(photo_folder: Folder) -> Path:
    folder = photo_folder()
    (folder / "red" / "zz.png").write_bytes(b"<html>not found</html>")
    (folder / "blue" / "zz.png").write_bytes(b"")
    return folder


def reasons(bank: Path) -> list[str]:
    return [record.reason for record in Bank.open(bank).quarantine()]


def test_what_another_extraction_wrote_down_stays(data: Path, tmp_path: Path) -> None:
    # the second finds nothing left to do, and its view of the bank is from before the first was through
    late = new_task(data, tmp_path / "cache")
    done = new_task(data, tmp_path / "cache").run()
    wanted = reasons(done.bank)
    assert len(wanted) == 2
    found = late.run()
    assert (found.pushed, found.quarantined) == (0, 2)
    assert reasons(done.bank) == wanted


@pytest.mark.usefixtures("batch_by_batch")
def test_rows_of_another_extraction_keep_their_reasons(data: Path, tmp_path: Path) -> None:
    def another(done: int, total: int) -> None:
        if not others:
            others.append(new_task(data, tmp_path / "cache", batch_size=2).run())

    others: list[ExtractionResult] = []
    few = new_task(data, tmp_path / "cache", limit=4, batch_size=2).run(another)
    assert (few.rows, few.pushed, few.quarantined) == (4, 4, 0)  # its own, whatever the bank has now
    assert (others[0].rows, others[0].quarantined) == (20, 2)
    assert len(Bank.open(few.bank)) == 20
    assert sorted(reasons(few.bank)) == ["empty", "not-an-image"]
