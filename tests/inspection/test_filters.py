"""Filters of the first convolution."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from featbank.errors import InvalidInputError
from featbank.inspection import FiltersDisplay
from featbank.inspection.filters import filter_tiles


def test_colours_are_the_weights() -> None:
    weights = np.zeros((2, 3, 1, 2))
    weights[0, 0, 0, 0], weights[0, 2, 0, 1], weights[1, 1, 0, 0] = 2.0, -2.0, 1.0
    shared = filter_tiles(weights, shared=True)
    np.testing.assert_allclose(shared[0, 0], [[1, 0.5, 0.5], [0.5, 0.5, 0]])
    np.testing.assert_allclose(shared[1, 0], [[0.5, 0.75, 0.5], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(filter_tiles(weights, shared=False)[1, 0, 0], [0.5, 1.0, 0.5])


def test_a_dead_filter_stays_grey_on_its_own_scale() -> None:
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3))
    weights[1] *= 1e-6
    weights[2] = 0
    tiles = filter_tiles(weights, shared=False)
    assert (tiles[1:] == 0.5).all()
    assert tiles[0].max() == 1.0 or tiles[0].min() == 0.0


def test_of_a_backbone(minivgg, whole) -> None:
    display = FiltersDisplay.from_backbone(minivgg).plot()
    np.testing.assert_array_equal(display.weights, minivgg.module.features[0].weight.numpy())
    assert display.title == "minivgg (CIFAR10), first convolution features.0"
    assert [axes.get_xlabel() for axes in display.ax_] == ["32 filters of 3×3 weights (grey: weight 0)"] * 2
    assert [text.get_text() for text in display.ax_[0].texts] == [str(at) for at in range(32)]
    whole(display)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 5, 64, 100])
def test_64_at_most(n, whole, tmp_path) -> None:
    display = FiltersDisplay(
        np.random.default_rng(0).normal(size=(n, 3, 7, 7)), scaling="shared", title="x" * 40
    )
    whole(display.plot())
    assert len(display.ax_) == 1
    assert len(display.ax_[0].texts) == min(n, 64)
    assert display.ax_[0].get_xlabel().startswith(f"{n} filters" if n <= 64 else "64 of 100 filters")
    one, two = (display.save(tmp_path / f"{at}.svg").read_bytes() for at in (1, 2))
    assert one == two


def test_on_axes_of_the_caller() -> None:
    axes = Figure().subplots(1, 2)
    display = FiltersDisplay(np.ones((2, 3, 3, 3)))
    assert list(display.plot(axes).ax_) == list(axes)
    with pytest.raises(InvalidInputError) as caught:
        display.plot(axes[:1])
    assert str(caught.value) == "a grid of filters is drawn on 2 axes, got 1"


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 1, 3, 3), {}, "filters of RGB images have shape (n, 3, h, w), got (4, 1, 3, 3)"),
        ((0, 3, 3, 3), {}, "filters of RGB images have shape (n, 3, h, w), got (0, 3, 3, 3)"),
        ((1, 3, 3, 3), {"scaling": "own"}, "scaling='own' is not one of both, shared, per-filter"),
        ((1, 3, 3, 3), {"most": 0}, "most=0 must be at least 1"),
    ],
)
def test_what_cannot_be_drawn(shape, options, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FiltersDisplay(np.ones(shape), **options)
    assert str(caught.value) == message


def test_a_long_title_takes_several_lines(whole) -> None:
    whole(FiltersDisplay(np.ones((2, 3, 3, 3)), title="a_file_of_weights_with_a_long_name " * 4).plot())
