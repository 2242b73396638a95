"""What tests of pictures need: a check that nothing is cut off, a backbone, and a bank of photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank.backbones import Backbone, load_backbone
from featbank.banks import Bank
from featbank.datasets import decode_image, open_dataset
from featbank.extraction import extract
from featbank.plots import Display


def _check(display: Display) -> None:
    figure = display.figure_
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # inches
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            assert axes.get_ylabel().endswith(")")
        elif axes.axison and len(axes.get_xticks()):
            assert axes.get_xlabel().endswith(")")
            assert axes.get_ylabel().endswith(")")
    names = [axes.yaxis.label.get_window_extent() for axes in figure.axes if axes.get_ylabel()]
    for at, one in enumerate(names):
        assert not any(one.overlaps(other) for other in names[at + 1 :])


@pytest.fixture
def whole() -> Callable[[Display], None]:
    """Check that all that is drawn lies within the figure, scales have units, names do not touch."""
    return _check


@pytest.fixture(scope="session")
def minivgg() -> Backbone:
    """The network that ships with featbank, with its weights; not to be changed."""
    return load_backbone("minivgg")


@pytest.fixture(scope="session")
def digit(minivgg: Backbone) -> np.ndarray:
    """A handwritten seven, as minivgg sees it."""
    digits = open_dataset("digits")
    seven = next(at for at, label in enumerate(digits.labels) if label == "7")
    return minivgg.preprocessing.apply_geometry(decode_image(digits.read(seven)))


@pytest.fixture
def photo_bank(photo_folder: Callable[..., Path], tmp_path: Path) -> Bank:
    """Eighteen photographs of three classes in ``photos/``, and their bank."""
    made = extract(
        photo_folder(),
        backbone="minivgg",
        weights="random",
        cuts=("block5_pool",),
        split="2,2,2",
        cache_dir=tmp_path / "cache",
    )
    return Bank.open(made.bank)
