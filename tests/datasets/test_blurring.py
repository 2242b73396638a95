"""Blurred images: the kernel, and that only the pixels change."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.datasets import decode_image, open_dataset
from featbank.datasets.derived import BlurredDataset, blur_pixels, kernel_width
from featbank.errors import InvalidInputError


@pytest.mark.parametrize(
    ("image", "width"), [(32, 1), (149, 1), (150, 3), (224, 3), (300, 5), (640, 9), (749, 9), (750, 11)]
)
def test_the_kernel_is_odd_and_a_75th_of_the_width(image, width):
    assert kernel_width(image, 75) == width


def test_the_kernel_is_opencvs():
    """One white pixel becomes the kernel; its weights are those OpenCV prints for 5 pixels and sigma 0."""
    pixels = np.zeros((9, 9, 3), dtype=np.uint8)
    pixels[4, 4] = 255
    one = np.array([0.07076, 0.24446, 0.36957, 0.24446, 0.07076])  # getGaussianKernel(5, 1.1)
    want = np.rint(255 * np.outer(one, one))
    found = blur_pixels(pixels, 5)
    np.testing.assert_allclose(found[2:7, 2:7, 0], want, atol=1)
    assert found[..., 1].sum() == pytest.approx(255, abs=8)
    assert not found[:2].any()


def test_a_plain_picture_stays_plain_to_its_edges():
    pixels = np.full((20, 30, 3), 77, dtype=np.uint8)
    assert (blur_pixels(pixels, 7) == 77).all()


def test_only_the_pixels_change(photo_folder):
    plain = open_dataset(photo_folder())
    blurred = BlurredDataset(plain, 6)  # a kernel of 7 on 36 pixels
    assert blurred.name == "photos-blurred"
    assert (blurred.ids, blurred.labels, blurred.classes) == (plain.ids, plain.labels, plain.classes)
    before, after = (np.asarray(decode_image(one.read(0))).astype(int) for one in (plain, blurred))
    assert after.shape == before.shape
    assert after.std() < 0.5 * before[..., 1].std() + before.mean(axis=(0, 1)).std()
    np.testing.assert_allclose(after.mean(axis=(0, 1)), before.mean(axis=(0, 1)), atol=2)
    assert np.array_equal(np.asarray(decode_image(BlurredDataset(plain, 75).read(0))), before)


@pytest.mark.parametrize("per_width", [0, -1, float("inf"), float("nan")])
def test_a_kernel_that_is_none(per_width):
    with pytest.raises(InvalidInputError, match="must be a finite number over 0"):
        BlurredDataset(open_dataset("digits"), per_width)
