"""What each stage does while it is timed is what it says it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.banks import Bank
from featbank.benchmark import _stages as stages
from featbank.extraction import extract

Folder = Callable[..., Path]


@pytest.fixture
def bank(photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    """Twenty-one rows in six shards a cut, one of them of an image that cannot be read."""
    monkeypatch.setattr("featbank.banks.bank.shard_rows_for", lambda row_bytes, batch_size, shard_bytes: 4)
    data = photo_folder(n_per_class=7)
    (data / "green" / "003.png").write_bytes(b"no image")
    done = extract(
        data,
        backbone="minivgg",
        cuts=["block3_pool", "fc7"],
        weights="random",
        precision="float32",
        batch_size=4,
        cache_dir=tmp_path / "cache",
    )
    return Bank.open(done.bank)


def test_writing_writes_the_same_shards_again(bank: Bank, tmp_path: Path) -> None:
    duration_s = stages.time_write(bank, tmp_path / "copy")
    assert duration_s > 0
    shards = {path.relative_to(bank.path): path.read_bytes() for path in bank.path.glob("*/*.h5")}
    (copy,) = (tmp_path / "copy").glob("*/*")
    # Six shards a cut; the names carry the hashes, so equal names and bytes are equal shards.
    assert len(shards) == 12
    assert {path.relative_to(copy): path.read_bytes() for path in copy.glob("*/*.h5")} == shards


@pytest.mark.parametrize("cut", ["block3_pool", "fc7"])
def test_the_memory_maps_give_the_rows_the_bank_gives(bank: Bank, cut: str) -> None:
    rows = np.random.default_rng(0).permutation(np.flatnonzero(bank.rows_ok(cut)))
    maps = stages._MappedShards(bank.path / cut)
    np.testing.assert_array_equal(maps.read(maps.locate(bank.row_slots[rows])), bank[cut][rows])


def test_reading_reads_every_row_at_every_cut_both_ways(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_READING_S", 0.0)  # one pass
    monkeypatch.setattr(stages, "_ROWS_AT_ONCE", 8)
    read: dict[str, list[int]] = {}
    mapped: list[int] = []
    array_read, maps_read = type(bank["fc7"]).read, stages._MappedShards.read

    def by_bank(self: Any, rows: Any) -> Any:
        read.setdefault(self.cut, []).extend(np.asarray(rows).tolist())
        return array_read(self, rows)

    def by_maps(self: Any, placed: tuple[list[int], Sequence[int]]) -> Any:
        mapped.append(len(placed[0]))
        return maps_read(self, placed)

    monkeypatch.setattr(type(bank["fc7"]), "read", by_bank)
    monkeypatch.setattr(stages._MappedShards, "read", by_maps)
    rows = np.flatnonzero(bank.rows_ok("fc7"))
    durations = stages.time_read(bank, rows, seed=0)
    assert min(durations) > 0
    for cut in ("block3_pool", "fc7"):
        # twice: once to warm up, once timed; in random order
        assert sorted(read[cut]) == sorted([*rows.tolist(), *rows.tolist()])
        assert read[cut][:20] != sorted(read[cut][:20])
    assert sum(mapped) == 2 * 2 * len(rows)
