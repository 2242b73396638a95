"""An image is pushed once, whatever dataset it is in: what another bank holds is copied, bit for bit."""

from __future__ import annotations

import csv
import gc
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank.backbones import TruncatedNetwork
from featbank.banks import Bank, BankStore, verify_bank
from featbank.extraction import ExtractionResult, ExtractionSettings, extract, plan

Folder = Callable[..., Path]
CUTS = ("block5_pool", "fc7")


def options(cache: Path, **changes: Any) -> dict[str, Any]:
    fixed = {"backbone": "minivgg", "cuts": CUTS, "precision": "float32", "compile": "off", "workers": 1}
    return {**fixed, "batch_size": 4, "cache_dir": cache, **changes}


def listed(paths: Sequence[Path], place: Path) -> Path:
    """Write a CSV of images, in this order."""
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((path, path.parent.name) for path in paths)])
    return place


def images(data: Path) -> list[Path]:
    return sorted(data.glob("*/*.png"))


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the batches that go through a network, whatever anybody says of it."""
    batches: list[int] = []
    forward = TruncatedNetwork.forward

    def counted(self: TruncatedNetwork, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if batch.device.type != "meta":
            batches.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(TruncatedNetwork, "forward", counted)
    return batches


@pytest.fixture
def whole(photo_folder: Folder, tmp_path: Path, pushed: list[int]) -> ExtractionResult:
    made = extract(photo_folder(), **options(tmp_path / "cache"))
    pushed.clear()
    return made


def same_as_alone(result: ExtractionResult, data: Path, tmp_path: Path, **changes: Any) -> None:
    """The bank holds, byte for byte, the features of one that pushed everything itself."""
    alone = Bank.open(extract(data, **options(tmp_path / "alone", **changes)).bank)
    bank = Bank.open(result.bank)
    assert (bank.manifest.ids, bank.cuts) == (alone.manifest.ids, alone.cuts)
    assert verify_bank(bank.path).findings == []
    for cut in CUTS:
        good = bank.rows_ok(cut)
        np.testing.assert_array_equal(good, alone.rows_ok(cut))
        np.testing.assert_array_equal(
            bank[cut].read(np.flatnonzero(good)), alone[cut].read(np.flatnonzero(good))
        )


@pytest.mark.parametrize("shards", ["small", "large"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_list_of_half_the_images_pushes_nothing(
    whole: ExtractionResult,
    tmp_path: Path,
    pushed: list[int],
    request: pytest.FixtureRequest,
    backwards: bool,
    shards: str,
) -> None:
    if shards == "small":
        request.getfixturevalue("batch_by_batch")
    half = images(tmp_path / "photos")[::2]
    half.append(half[0].with_name("copy.png"))  # one stands twice
    shutil.copy(half[0], half[-1])
    data = listed(half[::-1] if backwards else half, tmp_path / "half.csv")
    settings = ExtractionSettings(**options(tmp_path / "cache"))
    with plan(data, settings) as todo:
        assert (todo.rows, todo.to_push) == (10, 0)
        assert todo.to_copy == {f"photos/{whole.bank.name}": 9}
    result = extract(data, settings)
    assert (result.rows, result.pushed, result.copied, result.skipped, pushed) == (10, 0, 9, 10, [])
    same_as_alone(result, data, tmp_path)
    BankStore(tmp_path / "cache" / "banks").remove(whole.bank)
    assert verify_bank(result.bank).findings == []


def test_a_bank_that_was_copied_from_is_let_go_of(whole: ExtractionResult, tmp_path: Path) -> None:
    def open_banks() -> int:
        gc.collect()
        return sum(type(one) is Bank for one in gc.get_objects())

    assert whole.pushed
    before = open_banks()
    result = extract(
        listed(images(tmp_path / "photos")[::2], tmp_path / "half.csv"), **options(tmp_path / "cache")
    )
    assert result.copied
    assert open_banks() == before


@pytest.mark.slow
@pytest.mark.parametrize("shards", ["small", "large"])
def test_of_a_mix_only_the_new_ones_are_pushed(
    whole: ExtractionResult,
    tmp_path: Path,
    save_photo: Callable[..., None],
    pushed: list[int],
    request: pytest.FixtureRequest,
    shards: str,
) -> None:
    if shards == "small":
        request.getfixturevalue("batch_by_batch")
    new = [tmp_path / "more" / label / f"{number}.png" for label in ("blue", "red") for number in range(3)]
    for number, path in enumerate(new):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_photo(path, seed=700 + number)
    bad = tmp_path / "more" / "red" / "bad.png"
    bad.write_bytes(b"no image")
    old = images(tmp_path / "photos")
    mixed = [old[3], new[5], old[9], new[0], new[1], *old[:3], bad, new[2], *old[10:], new[3], new[4]]
    data = listed(mixed, tmp_path / "mix.csv")
    result = extract(data, **options(tmp_path / "cache"))
    assert (result.pushed, result.copied, result.quarantined) == (6, len(mixed) - 7, 1)
    assert len(pushed) == (2 if shards == "large" else len(pushed))  # six images and a bad one: two batches
    same_as_alone(result, data, tmp_path)


def test_a_cut_that_another_bank_lacks_is_pushed_and_the_other_is_copied(
    whole: ExtractionResult, tmp_path: Path
) -> None:
    data = listed(images(tmp_path / "photos"), tmp_path / "all.csv")
    result = extract(data, **options(tmp_path / "cache", cuts=("fc7", "block4_pool")))
    assert (result.pushed, result.copied) == (18, 0)
    bank, other = Bank.open(result.bank), Bank.open(whole.bank)
    np.testing.assert_array_equal(bank.features("fc7"), other.features("fc7"))
    # the other way round: rows of several banks
    more = extract(tmp_path / "photos", **options(tmp_path / "cache", cuts=("block4_pool",)))
    assert (more.bank, more.pushed, more.copied) == (whole.bank, 0, 18)


def test_what_was_quarantined_there_is_looked_at_here(
    photo_folder: Folder, tmp_path: Path, pushed: list[int]
) -> None:
    data = photo_folder()
    old = images(data)
    (data / "red" / "bad.png").write_bytes(b"no image")
    extract(data, **options(tmp_path / "cache"))
    pushed.clear()
    half = listed([*old[::3], data / "red" / "bad.png"], tmp_path / "half.csv")
    result = extract(half, **options(tmp_path / "cache"))
    assert (result.pushed, result.quarantined) == (0, 1)
    assert [one.reason for one in Bank.open(result.bank).quarantine()] == ["not-an-image"]
    same_as_alone(result, half, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
@pytest.mark.parametrize("damage", ["flipped", "gone", "bank gone"])
def test_a_damaged_bank_lends_nothing_and_that_is_said(
    whole: ExtractionResult, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    data = listed(images(tmp_path / "photos"), tmp_path / "all.csv")
    settings = ExtractionSettings(**options(tmp_path / "cache"))

    def break_it(_: object) -> None:
        shard = sorted((whole.bank / "fc7").glob("*.h5"))[-1]
        if damage == "flipped":
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        elif damage == "gone":
            shard.unlink()
        else:
            shutil.rmtree(whole.bank)

    result = extract(data, settings, on_plan=break_it)
    assert result.pushed > 0
    assert result.pushed + result.skipped == 18
    if damage == "flipped":
        assert f"bank photos/{whole.bank.name} is damaged or gone, its images are pushed" in caplog.text
    same_as_alone(result, data, tmp_path)


def test_what_was_chosen_for_one_bank_is_chosen_for_a_part_of_its_images(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pushed: list[int]
) -> None:
    from featbank.extraction import choosing

    monkeypatch.setattr(choosing, "_CACHE_BYTES", 32 * 32 * 32 * 4 * 4)  # batches of 4
    data = photo_folder()
    made = extract(data, **options(tmp_path / "cache", precision="auto", batch_size=None))
    monkeypatch.undo()
    half = listed(images(data)[::2], tmp_path / "half.csv")
    result = extract(half, **options(tmp_path / "cache", precision="auto", batch_size=None))
    assert Bank.open(result.bank).key == Bank.open(made.bank).key
    assert (result.pushed, result.copied) == (0, 9)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"image_size": 48}, {"dtype": "float32"}, {"weights": "random"}])
def test_another_key_is_nothing_to_copy_from(
    whole: ExtractionResult, tmp_path: Path, changes: dict[str, Any]
) -> None:
    data = listed(images(tmp_path / "photos")[::2], tmp_path / "half.csv")
    assert extract(data, **options(tmp_path / "cache", **changes)).pushed == 9


@pytest.mark.parametrize("cuts", [("block3_pool:gap",), ("block3_pool:gap", "fc7", "block3_pool:gmp")])
def test_what_another_bank_could_derive_is_pushed(
    photo_folder: Folder, tmp_path: Path, pushed: list[int], cuts: tuple[str, ...]
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    extract(data, **options(cache, cuts=("block3_pool", "fc7")))
    pushed.clear()
    again = options(cache, cuts=cuts, name="again")
    with plan(data, ExtractionSettings(**again)) as todo:
        assert (todo.to_push, todo.bank.parent.name) == (todo.rows, "again")
    made = extract(data, **again)
    assert sum(pushed) >= made.pushed == len(images(data))
    assert set(Bank.open(made.bank).cuts) == set(cuts)
