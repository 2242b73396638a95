"""Names of cuts and what poolings compute, in torch and in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from featbank._cuts import CutName, Layout, check_view, pool, pooled_shape, with_views
from featbank.errors import InvalidInputError, UnknownNameError

MAPS = np.random.default_rng(0).normal(size=(3, 5, 7, 7)).astype(np.float32)
TOKENS = np.random.default_rng(0).normal(size=(3, 21, 6)).astype(np.float32)
_TORCH = torch.from_numpy(MAPS)
REFERENCES = {
    "gap": functional.adaptive_avg_pool2d(_TORCH, 1).flatten(1),
    "gmp": functional.adaptive_max_pool2d(_TORCH, 1).flatten(1),
    "grid2": functional.adaptive_avg_pool2d(_TORCH, 2),
    "grid3": functional.adaptive_avg_pool2d(_TORCH, 3),
    "gem3": functional.avg_pool2d(_TORCH.clamp(min=1e-6).pow(3), 7).pow(1 / 3).flatten(1),
}


@pytest.mark.parametrize("pooling", REFERENCES)
@pytest.mark.parametrize("axes", ["CHW", "HWC"])
def test_poolings_of_maps_are_those_of_torch(pooling: str, axes: str) -> None:
    maps = MAPS if axes == "CHW" else np.ascontiguousarray(MAPS.transpose(0, 2, 3, 1))
    for features, xp in ((maps, np), (torch.from_numpy(maps), torch)):
        found = np.asarray(pool(features, Layout(axes), pooling, xp))
        np.testing.assert_allclose(found, REFERENCES[pooling], rtol=1e-5, atol=1e-7)
        assert found.shape[1:] == pooled_shape("cut", maps.shape[1:], Layout(axes), pooling)


def test_poolings_of_tokens_leave_the_prefix_out() -> None:
    layout = Layout("NC", 5, has_cls=True)
    for features, xp in ((TOKENS, np), (torch.from_numpy(TOKENS), torch)):
        cls, mean = (np.asarray(pool(features, layout, one, xp)) for one in ("cls", "patch-mean"))
        np.testing.assert_array_equal(cls, TOKENS[:, 0])
        np.testing.assert_allclose(mean, TOKENS[:, 5:].mean(1), rtol=1e-5, atol=1e-7)
        both = np.asarray(pool(features, layout, "cls+mean", xp))
        np.testing.assert_array_equal(both, np.concatenate([cls, mean], 1))


@pytest.mark.parametrize(
    ("shape", "prefix", "expected"),
    [
        ((64, 8, 8), 0, "CHW"),
        ((8, 8, 64), 0, "HWC"),
        ((8, 8, 8), 0, None),  # it could be either
        ((4, 6, 8), 0, None),
        ((196, 768), 0, "NC"),
        ((197, 768), 1, "NC"),
        ((768, 196), 1, None),  # channels first, as before a transposition
        ((9, 64), 5, None),  # 9 patches, or 4 behind 5 others
        ((1000,), 0, None),
    ],
)
def test_axes_are_told_by_the_shape_or_not_at_all(
    shape: tuple[int, ...], prefix: int, expected: str | None
) -> None:
    found = Layout.of(shape, prefix, has_cls=True)
    assert (found and found.axes) == expected


def test_a_part_before_the_prefix_has_none() -> None:
    assert Layout.of((196, 768), 1, has_cls=True) == Layout("NC")


@pytest.mark.parametrize("name", ["fc7", "layer4:gap", "fc7@hflip", "last4:cls+mean@hflip+rot-10"])
def test_names_come_back(name: str) -> None:
    assert str(CutName.parse(name)) == name


@pytest.mark.parametrize("name", ["", ":gap", "fc7:", "fc7@", "@hflip"])
def test_names_with_a_part_missing_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"is not CUT\[:POOLING\]\[@VIEW\]"):
        CutName.parse(name)


def test_views_are_added_to_cuts_that_name_none() -> None:
    assert with_views(["a", "b:gap@rot5"], ["hflip"]) == ["a", "b:gap@rot5", "a@hflip"]


@pytest.mark.parametrize("view", ["flip", "rot", "zoom0", "hflip+", "rot10 ", "zoom-1", ""])
def test_views_that_are_none_are_refused(view: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown view"):
        check_view(view)
