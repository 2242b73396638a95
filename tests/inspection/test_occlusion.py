"""A patch slides over an image: a network of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from featbank.errors import InvalidInputError
from featbank.inspection import OcclusionDisplay


def image() -> np.ndarray:
    """Dark, with one bright square in the lower right."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[12:16, 14:18] = 255
    return pixels


class Brightness:
    """Says class 1 by how much of the bright square is seen; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        seen = (images[:, 12:16, 14:18, 0] == 255).mean(axis=(1, 2))
        return np.stack([1 - seen, seen], axis=1)


def test_what_is_hidden_is_what_counts(whole) -> None:
    predict = Brightness()
    seen: list[tuple[int, int]] = []
    display = OcclusionDisplay.from_image(
        *(predict, image(), 1),
        class_name="lamp",
        patch=4,
        stride=2,
        batch_size=7,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert display.tops == display.lefts == list(range(0, 17, 2))
    assert max(predict.sizes) == 7
    assert sum(predict.sizes) == 1 + 81
    assert seen[-1] == (81, 81)
    assert display.facts() == {
        "class": "lamp",
        "probability": 1.0,
        "patch": 4,
        "positions": 81,
        "lowest": 0.0,
        "lowest_at": {"top": 12, "left": 14},
        "highest": 1.0,
    }
    assert display.change.min() == display.change[12:16, 14:18].min() < -50
    assert (display.change[:8] == 0).all()
    # a pixel in the middle of the square: the means of the four patches on it, which hide 1, 1/2, 1/2, 1/4
    assert display.change[13, 15] == pytest.approx(-100 * (1 + 0.5 + 0.5 + 0.25) / 4)
    display.plot()
    assert display.ax_[0].get_title(loc="left") == "lamp: 100.0 %\nwith the patch in the frame: 0.0 %"
    assert {patch.get_xy() for patch in display.ax_[0].patches} == {(14, 12)}
    whole(display)


def test_the_last_patch_touches_the_edge_and_the_patch_is_grey() -> None:
    def edge(images):
        rows, columns = np.nonzero((images[-1] == 15).all(axis=2))  # the mean of the image is 10.2... -> 10
        return np.zeros((len(images), 1)) + len(rows) + len(columns)

    display = OcclusionDisplay.from_image(edge, image(), 0, patch=6, stride=5)
    assert display.tops == [0, 5, 10, 14]
    assert np.isfinite(display.change).all()
    colours: list[int] = []
    OcclusionDisplay.from_image(
        lambda images: (colours.append(int(images[-1, 0, 0, 0])), np.zeros((len(images), 1)))[1],
        *(image(), 0),
        patch=20,
    )
    assert colours == [0, round(image().mean())]


def test_defaults_are_shares_of_the_image() -> None:
    display = OcclusionDisplay.from_image(Brightness(), image(), 1)
    assert (display.patch, display.lefts[:2], display.class_name) == (5, [0, 1], "1")


def test_a_probability_that_rises(whole) -> None:
    display = OcclusionDisplay.from_image(Brightness(), image(), 0, patch=4, stride=4).plot()
    assert display.change.max() > 20
    low, high = display.ax_[1].images[0].get_clim()
    assert high == pytest.approx(np.abs(display.change).max())
    assert low == -high  # no change is white, in the middle of the colour bar
    assert display.ax_[1].images[0].cmap.name == "PuOr"
    middle = display.ax_[1].images[0].cmap(0.5)[:3]
    assert min(middle) > 0.95
    (bar,) = (axes for axes in display.figure_.axes if axes.get_label() == "<colorbar>")
    assert bar.get_ylabel().replace("\n", " ") == "Change of the probability (percentage points)"
    whole(display)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 21}, "patch=21 must be 1 to 20, the side of the image in pixels"),
        ({"patch": 0}, "patch=0 must be 1 to 20, the side of the image in pixels"),
        ({"stride": 0}, "stride=0 and batch_size=32 must be at least 1"),
        ({"target": 2}, "target=2 is no column of the probabilities, which have shape (1, 2)"),
    ],
)
def test_options_out_of_range(options, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        OcclusionDisplay.from_image(Brightness(), image(), **{"target": 1, **options})
    assert str(caught.value) == message


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(InvalidInputError, match=r"an image has shape \(h, w, 3\), got \(20, 20\)"):
        OcclusionDisplay.from_image(Brightness(), image()[..., 0], 1)
    with pytest.raises(InvalidInputError, match="2 rows of 1 patches cannot have probabilities of shape"):
        OcclusionDisplay(image(), [0, 1], [0], 2, [[0.5]], 0.5, "x")
    with pytest.raises(InvalidInputError, match="an occlusion is drawn on 2 axes, got 1"):
        OcclusionDisplay(image(), [0], [0], 2, [[0.5]], 0.5, "x").plot([Figure().add_subplot()])
