"""Products of rows are made once per bank, cut and split, and never taken for those of others."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.banks import Bank
from featbank.extraction import extract
from featbank.heads.space import RowProducts
from featbank.sweep import features, run_sweep


@pytest.fixture
def bank(photo_folder: Callable[..., Path], tmp_path: Path) -> Bank:
    options = {"backbone": "minivgg", "weights": "random", "precision": "float32", "split": "4,1,1"}
    done = extract(photo_folder(), cuts=["block3_pool"], cache_dir=tmp_path / "cache", **options)
    return Bank.open(done.bank)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Count how often products are really made, of rows as few as these."""
    calls: list[bool] = []
    make = RowProducts.of.__func__

    def counted(cls: type[RowProducts], X: Any, others: Any, *, standardize: bool = True) -> RowProducts:
        calls.append(standardize)
        return make(cls, X, others, standardize=standardize)

    monkeypatch.setattr(RowProducts, "of", classmethod(counted))
    monkeypatch.setattr(features, "_LEAST_WORK", 0)
    return calls


def sweep(bank: Bank, **options: Any) -> list[float | None]:
    heads = {"logreg": {"standardize": options.pop("standardize", True)}}
    result = run_sweep(
        bank, heads=["logreg"], samples_per_class="2,4", repeats=2, head_params=heads, **options
    )
    assert not result.failed
    return [value for fit in result.fits for value in (fit.top1, fit.val_top1, fit.ece)]


def kept(bank: Bank) -> list[Path]:
    return sorted((bank.path.parents[2] / "products").glob("*.safetensors"))


@pytest.mark.slow
def test_a_second_sweep_reads_them_and_finds_the_same(bank: Bank, computed: list[bool]) -> None:
    first = sweep(bank)
    assert computed == [True]
    assert len(kept(bank)) == 1
    assert sweep(bank) == first
    assert computed == [True]
    assert sweep(bank, standardize=False) != []
    assert computed == [True, False]
    assert len(kept(bank)) == 2


@pytest.mark.slow
def test_other_features_and_other_rows_are_others(
    bank: Bank, computed: list[bool], photo_folder: Callable[..., Path], tmp_path: Path
) -> None:
    sweep(bank)
    options: dict[str, Any] = {"backbone": "minivgg", "weights": "random", "precision": "float32"}
    data = photo_folder(name="others")
    for split, seed in (("3,1,2", 0), ("4,1,1", 1)):
        done = extract(
            data,
            cuts=["block3_pool"],
            cache_dir=tmp_path / "cache",
            split=split,
            random_state=seed,
            **options,
        )
        run_sweep(Bank.open(done.bank), heads=["logreg"], samples_per_class="2", repeats=1)
    assert len(computed) == 3


def test_a_damaged_file_is_made_again(
    bank: Bank, computed: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    first = sweep(bank)
    (file,) = kept(bank)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert sweep(bank) == first
    assert len(computed) == 2
    assert "is damaged; it is made again" in caplog.text
    sweep(bank)
    assert len(computed) == 2


def test_a_bank_outside_a_cache_leaves_nothing_beside_it(
    bank: Bank, computed: list[bool], tmp_path: Path
) -> None:
    shutil.copytree(bank.path, tmp_path / "elsewhere" / "bank")
    sweep(Bank.open(tmp_path / "elsewhere" / "bank"))
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["bank"]
    assert computed == [True]


def test_small_products_are_not_worth_a_file(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(bank)
    assert kept(bank) == []


def test_the_oldest_make_room(bank: Bank, computed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(bank)
    (first,) = kept(bank)
    monkeypatch.setattr(features, "_MOST_BYTES_TOGETHER", first.stat().st_size + 10)
    sweep(bank, standardize=False)
    assert len(kept(bank)) == 1
    assert kept(bank) != [first]


def test_a_cache_that_cannot_be_written_serves_as_well(
    bank: Bank, computed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from featbank.errors import CacheWriteError

    def full(path: Path, data: bytes) -> None:
        raise CacheWriteError("no space left")

    monkeypatch.setattr(features, "write_file", full)
    assert np.isfinite(np.array(sweep(bank), dtype=float)).all()
    assert kept(bank) == []


def test_files_of_others_make_no_room(
    bank: Bank, computed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(bank)
    (first,) = kept(bank)
    mine = first.with_name("my-weights.safetensors")
    mine.write_bytes(bytes(1000))
    os.utime(mine, (1, 1))
    monkeypatch.setattr(features, "_MOST_BYTES_TOGETHER", 10)
    sweep(bank, standardize=False)
    assert mine.exists()
    assert not first.exists()
