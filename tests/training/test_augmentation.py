"""Augmentation: torchvision's arithmetic, each image by numbers of its own, drawn by the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featbank.training.augmentation import Augmentation, inverse_affine
from featbank.training.recipe import Recipe

SIZE, N = 12, 40
NOTHING = {"flip": False, "crop_padding": 0, "cutout": 0}


def applied(recipe, images, seed=0):
    random = np.random.default_rng(seed)
    drawn = Augmentation.draw(recipe, random, len(images), images.shape[1], torch.device("cpu"))
    mean = torch.full((1, 3, 1, 1), 100.0)
    return drawn, drawn.apply(torch.from_numpy(images), torch.arange(len(images)), slice(None), mean)


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)


def as_tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def test_nothing_changes_nothing(images):
    _, found = applied(Recipe(**NOTHING), images)
    assert torch.equal(found, as_tensor(images))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_half_of_the_images_are_mirrored(images):
    _, found = applied(Recipe(**NOTHING | {"flip": True}), images)
    mirrored = [torch.equal(one, old.flip(2)) for one, old in zip(found, as_tensor(images), strict=True)]
    same = [torch.equal(one, old) for one, old in zip(found, as_tensor(images), strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 10 < sum(mirrored) < 30


def test_crops_are_those_of_an_image_with_reflected_borders(images):
    drawn, found = applied(Recipe(**NOTHING | {"crop_padding": 3}), images)
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    for at, (top, left) in enumerate(drawn.corners.tolist()):
        expected = padded[at, top : top + SIZE, left : left + SIZE]
        assert torch.equal(found[at], torch.from_numpy(expected.copy()).permute(2, 0, 1).float())
    assert len(set(map(tuple, drawn.corners.tolist()))) > 10


def test_turns_shifts_and_zooms_are_torchvisions():
    """Where nothing comes in from outside: there torchvision has black, and this the border."""
    random = np.random.default_rng(0)
    angles, shifts, scales = (
        random.uniform(-20, 20, 8), random.uniform(-3, 3, (8, 2)), random.uniform(0.7, 1.2, 8)
    )  # fmt: skip
    images = torch.from_numpy(random.uniform(0, 255, (8, 3, 32, 32)).astype(np.float32))
    matrices = torch.from_numpy(inverse_affine(angles, shifts, scales, 32).astype(np.float32))
    grid = torch.nn.functional.affine_grid(matrices, [8, 3, 32, 32], align_corners=False)
    found = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for at in range(8):
        options = {
            "angle": angles[at], "translate": shifts[at].tolist(), "scale": scales[at], "shear": [0.0, 0.0],
            "interpolation": InterpolationMode.BILINEAR,
        }  # fmt: skip
        inside = functional.affine(torch.ones(1, 32, 32), **options)[0] > 0.999
        assert inside.sum() > 200
        expected = functional.affine(images[at], **options)
        torch.testing.assert_close(found[at][:, inside], expected[:, inside], rtol=0, atol=0.01)


def test_each_image_is_turned_by_an_angle_of_its_own(images):
    drawn, found = applied(Recipe(**NOTHING | {"rotation": 20.0, "zoom_out": 0.3, "zoom_in": 0.2}), images)
    assert len(torch.unique(drawn.affine[:, 0, 0])) == N
    scales = 1 / drawn.affine[:, :, :2].det().sqrt()
    assert 0.7 <= scales.min() < 0.8
    assert 1.1 < scales.max() <= 1.2
    assert found.min() >= 0
    assert found.max() <= 255


def test_brightness_moves_a_whole_image_within_what_a_pixel_can_be(images):
    grey = np.full_like(images, 100)
    drawn, found = applied(Recipe(**NOTHING | {"channel_shift": 0.2}), grey)
    torch.testing.assert_close(found[:, 0, 0, 0], 100 + drawn.brightness)
    assert drawn.brightness.abs().max() <= 51
    _, bright = applied(Recipe(**NOTHING | {"channel_shift": 0.5}), np.full_like(images, 250))
    assert bright.max() == 255


def test_a_square_is_painted_over(images):
    drawn, found = applied(Recipe(**NOTHING | {"cutout": 4}), images)
    changed = (found != as_tensor(images)).any(1)
    for at, (row, column) in enumerate(drawn.holes.tolist()):
        assert (found[at][:, changed[at]] == 100).all()
        assert found[at, :, row, column].tolist() == [100, 100, 100]
        assert changed[at].sum() <= 16


def test_the_seed_decides(images):
    recipe = Recipe(rotation=10.0, shift=0.1, channel_shift=0.1)
    first, again, other = (applied(recipe, images, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_gets_the_numbers_of_its_places(images):
    recipe = Recipe(rotation=10.0, channel_shift=0.1, crop_padding=2, cutout=0)
    drawn, whole = applied(recipe, images)
    rows = torch.arange(N)[5:9]
    part = drawn.apply(torch.from_numpy(images), rows, slice(5, 9), torch.zeros(1, 3, 1, 1))
    assert torch.equal(part, whole[5:9])
