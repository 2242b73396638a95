"""Poolings: what nothing stored holds is pooled before it is stored, the rest when it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank.backbones import TruncatedNetwork, cut_table
from featbank.banks import Bank, import_bank, open_archive, pack
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.extraction import ExtractionSettings, estimate, extract, plan, repair_bank

Folder = Callable[..., Path]
ARITHMETIC: dict[str, Any] = {"precision": "float32", "compile": "off", "batch_size": 4}
MINI: dict[str, Any] = {"backbone": "minivgg", "weights": "random", **ARITHMETIC}


@pytest.fixture(name="photos")
def fixture_photos(photo_folder: Folder) -> Path:
    return photo_folder()


@pytest.mark.parametrize("pooling", ["gap", "gmp", "gem3", "grid2"])
def test_derived_from_a_stored_map_is_what_is_pushed_to_float16(
    pooling: str, photos: Path, tmp_path: Path
) -> None:
    cut = f"block3_pool:{pooling}"
    pushed = extract(photos, cuts=[cut], cache_dir=tmp_path / "pushed", **MINI)
    extract(photos, cuts=["block3_pool"], cache_dir=tmp_path / "stored", **MINI)
    derived = extract(photos, cuts=[cut], cache_dir=tmp_path / "stored", **MINI)
    assert (pushed.pushed > 0, derived.pushed) == (True, 0)
    there, here = Bank.open(pushed.bank), Bank.open(derived.bank)
    assert (there.cuts, here.cuts) == ((cut,), ("block3_pool",))
    assert (there.sources(cut), here.sources(cut)) == ((cut,), ("block3_pool",))
    one, other = there[cut][:], here[cut][:]
    np.testing.assert_array_equal(here.features(cut), other.reshape(len(other), -1).astype(np.float32))
    assert one.dtype == other.dtype == np.float16
    assert one.shape == other.shape
    scale = np.abs(one.astype(np.float32)).max()
    np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), rtol=2e-3, atol=1e-3 * scale)


def test_a_pooling_is_never_stored_beside_what_it_is_derived_from(photos: Path, tmp_path: Path) -> None:
    result = extract(photos, cuts=["pool3:gap", "block3_pool", "fc7"], cache_dir=tmp_path, **MINI)
    assert set(result.cuts) == {"block3_pool", "fc7"}
    bank = Bank.open(result.bank)
    assert bank.cuts == ("block3_pool", "fc7")
    assert bank.load("block3_pool:gap")[0].shape == (len(bank), 128)


def test_new_images_complete_what_a_pooling_is_derived_from(
    photos: Path, tmp_path: Path, save_photo: Callable[..., None]
) -> None:
    extract(photos, cuts=["block3_pool"], cache_dir=tmp_path, **MINI)
    save_photo(photos / "red" / "new.png", 99)
    again = extract(photos, cuts=["block3_pool:gap"], cache_dir=tmp_path, **MINI)
    assert again.pushed == 1
    bank = Bank.open(again.bank)
    assert bank.cuts == ("block3_pool",)
    assert bank.rows_ok("block3_pool:gap").all()


def test_a_packed_bank_pools_too(photos: Path, tmp_path: Path) -> None:
    result = extract(photos, cuts=["block3_pool"], cache_dir=tmp_path, **MINI)
    bank = Bank.open(result.bank)
    file = pack(bank, tmp_path / "bank.h5")
    from featbank.banks import BankStore

    other = import_bank(file, BankStore(tmp_path / "other"))
    for one in (Bank.open(other.path), bank):
        np.testing.assert_array_equal(one["block3_pool:gmp"][:], bank["block3_pool:gmp"][:])


def test_a_pack_of_a_pooled_view_is_read(photos: Path, tmp_path: Path) -> None:
    result = extract(photos, cuts=["block3_pool:gap", "fc7"], views=["hflip"], cache_dir=tmp_path, **MINI)
    bank = Bank.open(result.bank)
    packed = open_archive(pack(bank, tmp_path / "bank.h5"))
    assert set(packed.cuts) == {"block3_pool:gap", "block3_pool:gap@hflip", "fc7", "fc7@hflip"}
    for cut in packed.cuts:
        np.testing.assert_array_equal(packed[cut][:], bank[cut][:])


def test_a_repaired_cut_is_pooled_as_before(photos: Path, tmp_path: Path) -> None:
    path = extract(photos, cuts=["block3_pool"], cache_dir=tmp_path, **MINI).bank
    before = Bank.open(path)["block3_pool:gap"][:]
    (path / "block3_pool" / "cut.json").write_text("{}")
    assert repair_bank(path).report.ok
    np.testing.assert_array_equal(Bank.open(path)["block3_pool:gap"][:], before)


def test_a_map_stored_before_its_axes_were_recorded_gets_them(photos: Path, tmp_path: Path) -> None:
    path = extract(photos, cuts=["block3_pool"], cache_dir=tmp_path, **MINI).bank
    bank = Bank.open(path)
    facts = {name: one for name, one in bank.facts("block3_pool").items() if name != "axes"}
    bank.cut_writer("block3_pool", bank["block3_pool"].shape[1:], bank["block3_pool"].dtype).finish(facts)
    again = extract(photos, cuts=["block3_pool", "block3_pool:gap"], cache_dir=tmp_path, **MINI)
    assert again.pushed == 0
    assert Bank.open(path)["block3_pool:gap"].shape == (len(bank), 128)


def test_a_pooled_cut_says_beforehand_what_it_takes(tmp_path: Path) -> None:
    row = next(one for one in cut_table("vgg16") if one.name == "block4_pool")
    assert (row.row_bytes, row.poolings["gap"], row.poolings["grid2"]) == (200_704, 1_024, 4_096)
    settings = ExtractionSettings(**MINI, cuts=["block4_pool:gap"], cache_dir=tmp_path)
    assert estimate(1_000, settings).cut_bytes == {"block4_pool:gap": 1_000 * 128 * 2}
    with plan("digits", ExtractionSettings(**MINI, cuts=["block4_pool:gap"], limit=10)) as todo:
        assert todo.cut_bytes == {"block4_pool:gap": 10 * 128 * 2}


def test_all_poolings_of_a_map_come_from_one_pass(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    forward = TruncatedNetwork.forward

    def counting(self: TruncatedNetwork, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if batch.device.type != "meta":
            batches.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(TruncatedNetwork, "forward", counting)
    cuts = [f"block3_pool:{one}" for one in ("gap", "gmp", "gem3", "grid2")]
    result = extract(photos, cuts=cuts, cache_dir=tmp_path, **MINI)
    assert result.rows <= sum(batches) < result.rows + 4
    assert Bank.open(result.bank).cuts == tuple(sorted(cuts))


def test_a_compiled_network_pools_too(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    options = {**MINI, "views": ["hflip"]}
    cuts = ["block3_pool:gap", "fc7"]
    eager = Bank.open(extract(photos, cuts=cuts, cache_dir=tmp_path / "eager", **options).bank)
    options["compile"] = "on"
    compiled = Bank.open(extract(photos, cuts=cuts, cache_dir=tmp_path / "compiled", **options).bank)
    assert compiled.key.precision == "float32+compiled"
    for cut in ("block3_pool:gap", "block3_pool:gap@hflip", "fc7@hflip"):
        np.testing.assert_array_equal(compiled[cut][:], eager[cut][:])


@pytest.mark.parametrize(
    ("cut", "error", "said"),
    [
        ("block3_pool:cls", InvalidInputError, "gives a map, which 'cls' does not take"),
        ("fc7:gap", InvalidInputError, "there is nothing to pool"),
        ("block3_pool:gpa", UnknownNameError, "unknown pooling 'gpa'"),
        ("block3_pool:map", InvalidInputError, "learned attention pooler"),
        ("block3_pool:grid5", InvalidInputError, "too small for 'grid5'"),
        ("last4:cls", InvalidInputError, "no blocks of tokens"),
        ("block3_pool@turn", UnknownNameError, "unknown view 'turn'"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    cut: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said) as caught:
        extract("digits", cuts=[cut], limit=10, cache_dir=tmp_path, **MINI)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.h5"))
