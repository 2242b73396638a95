"""Views: what is done to an image before it is pushed once more, and stored beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from featbank.backbones import TruncatedNetwork
from featbank.banks import Bank
from featbank.datasets.decode_pool import DecodePool
from featbank.extraction import apply_view, extract

Folder = Callable[..., Path]
MINI: dict[str, Any] = {
    "backbone": "minivgg",
    "weights": "random",
    "precision": "float32",
    "compile": "off",
    "batch_size": 4,
}


@pytest.fixture(name="photos")
def fixture_photos(photo_folder: Folder) -> Path:
    return photo_folder()


@pytest.fixture(name="pushed")
def fixture_pushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    batches: list[int] = []
    forward = TruncatedNetwork.forward

    def counting(self: TruncatedNetwork, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if batch.device.type != "meta":
            batches.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(TruncatedNetwork, "forward", counting)
    return batches


def test_views_are_what_they_are_called() -> None:
    images = torch.randint(0, 256, (2, 3, 33, 33), dtype=torch.uint8)
    assert torch.equal(apply_view(images, "hflip"), v2.RandomHorizontalFlip(1.0)(images))
    assert torch.equal(apply_view(images, "vflip"), images.flip(-2))
    assert torch.equal(apply_view(images, "rot90"), torch.rot90(images, 1, (-2, -1)))
    assert torch.equal(apply_view(images, "zoom1"), images)
    assert torch.equal(apply_view(images, "hflip+rot90"), torch.rot90(images.flip(-1), 1, (-2, -1)))
    smooth = functional.gaussian_blur(images, [9, 9])
    turned, ours = (
        functional.rotate(smooth, 10, functional.InterpolationMode.BILINEAR),
        apply_view(smooth, "rot10"),
    )
    inner = (slice(None), slice(None), slice(8, 25), slice(8, 25))
    assert (turned[inner].int() - ours[inner].int()).abs().max() <= 1
    larger = functional.affine(
        smooth, 0, [0, 0], 1.1, [0, 0], interpolation=functional.InterpolationMode.BILINEAR
    )
    assert (larger.int() - apply_view(smooth, "zoom1.1").int()).abs().max() <= 1


def test_a_view_does_not_depend_on_what_comes_along() -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    for view in ("rot10", "zoom0.9", "hflip"):
        assert torch.equal(apply_view(images, view)[3:4], apply_view(images[3:4], view))


def test_a_view_is_what_the_changed_image_gives(photos: Path, tmp_path: Path) -> None:
    result = extract(photos, cuts=["block3_pool", "logits"], views=["hflip"], cache_dir=tmp_path, **MINI)
    bank = Bank.open(result.bank)
    assert bank.cuts == ("block3_pool", "block3_pool@hflip", "logits", "logits@hflip")
    assert bank["logits@hflip"].dtype == np.float32
    np.testing.assert_allclose(bank.softmax(2.0, view="hflip").sum(1), 1, rtol=1e-5)
    assert bank["softmax@hflip"].shape == bank["softmax"].shape
    # of the same images, flipped in their files
    from PIL import Image, ImageOps

    other = tmp_path / "flipped"
    for path in sorted(photos.rglob("*.png")):
        target = other / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(path)).save(target)
    there = Bank.open(extract(other, cuts=["block3_pool"], cache_dir=tmp_path / "c", **MINI).bank)
    order = [there.manifest.ids.index(one) for one in bank.manifest.ids]
    one, two = bank["block3_pool@hflip"][:].astype(np.float32), there["block3_pool"][order].astype(np.float32)
    assert np.abs(one - two).max() <= 0.05 * np.abs(two).max()  # the resize is not symmetric to the last bit
    assert np.abs(one - bank["block3_pool"][:].astype(np.float32)).max() > 0.1 * np.abs(two).max()


def test_one_more_view_is_pushed_alone(photos: Path, tmp_path: Path, pushed: list[int]) -> None:
    first = extract(photos, cuts=["block3_pool"], views=["hflip"], cache_dir=tmp_path, **MINI)
    assert 2 * first.rows <= sum(pushed) < 2 * first.rows + 8
    stored = {path: path.read_bytes() for path in first.bank.rglob("*.h5")}
    pushed.clear()
    again = extract(photos, cuts=["block3_pool"], views=["hflip", "rot10"], cache_dir=tmp_path, **MINI)
    assert first.rows <= sum(pushed) < first.rows + 4
    assert all(path.read_bytes() == data for path, data in stored.items() if path.name != "manifest.h5")
    assert "block3_pool@rot10" in Bank.open(again.bank).cuts
    pushed.clear()
    extract(photos, cuts=["block3_pool"], views=["rot10"], cache_dir=tmp_path, **MINI)
    assert pushed == []


def test_an_image_is_decoded_once_for_all_its_views(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    batches = DecodePool.batches

    def counting(self: DecodePool, requests: Any, **options: Any) -> Any:
        def seen() -> Any:
            for one in requests:
                decoded.append(int((one.indices >= 0).sum()))
                yield one

        return batches(self, seen(), **options)

    monkeypatch.setattr(DecodePool, "batches", counting)
    views = ["hflip", "rot10", "zoom1.1"]
    result = extract(photos, cuts=["block3_pool"], views=views, cache_dir=tmp_path, **MINI)
    assert sum(decoded) == result.rows == result.pushed


def test_a_pooling_of_a_view_is_derived_from_the_view(photos: Path, tmp_path: Path) -> None:
    extract(photos, cuts=["block3_pool"], views=["hflip"], cache_dir=tmp_path, **MINI)
    again = extract(photos, cuts=["block3_pool:gap"], views=["hflip"], cache_dir=tmp_path, **MINI)
    assert again.pushed == 0
    bank = Bank.open(again.bank)
    assert bank.sources("block3_pool:gap@hflip") == ("block3_pool@hflip",)
    pooled = bank["block3_pool@hflip"][:].astype(np.float32).mean((2, 3))
    np.testing.assert_allclose(bank["block3_pool:gap@hflip"][:], pooled, rtol=1e-3, atol=1e-4)
