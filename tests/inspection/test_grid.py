"""Tiles of a mosaic: where they are, how large, what stands above them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featbank.errors import InvalidInputError
from featbank.inspection._grid import first_convolution, mosaic, wrapped


def test_tiles_lie_in_the_order_of_reading() -> None:
    tiles = np.arange(5.0)[:, None, None] * np.ones((5, 12, 12))
    found = mosaic(tiles, columns=3)
    assert (found.width, found.height, found.strip) == (50, 62, 12)  # each pixel four times, a line of two
    for at in range(5):
        top, left = (at // 3) * 62 + 12, (at % 3) * 50
        tile = found.pixels[top : top + 48, left : left + 48]
        assert (tile == at).all()
    assert found.pixels.shape == (2 * 62 - 2, 3 * 50 - 2)
    assert np.isnan(found.pixels[:12]).all()
    assert np.isnan(found.pixels[74:, 100:]).all()  # no sixth tile


def test_large_and_oblong_tiles() -> None:
    assert mosaic(np.ones((1, 112, 112, 3)), columns=1, strip=0).pixels.shape == (112, 112, 3)
    found = mosaic(np.ones((2, 24, 48)), columns=2, strip=0)
    assert np.isfinite(found.pixels).sum() == 2 * 24 * 48
    assert found.pixels.shape[0] == 48


def test_long_names_take_two_lines() -> None:
    assert wrapped("cat", 8) == "cat"
    assert wrapped("a cat in a hat", 8) == "a cat in\na hat"
    assert wrapped("a cat in a very large hat", 8) == "a cat in\na very…"
    assert wrapped("", 8) == ""


def test_the_first_convolution_of_colours() -> None:
    plain = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 5)), nn.Conv2d(3, 9, 1)
    )
    path, found = first_convolution(plain, "toy")
    assert (path, tuple(found.weight.shape)) == ("1.1", (4, 3, 5, 5))
    with torch.no_grad(), pytest.raises(InvalidInputError) as caught:
        first_convolution(nn.Linear(3, 2), "toy")
    assert (
        str(caught.value) == "backbone 'toy' has no convolution of RGB images, so it has no filters to show"
    )
