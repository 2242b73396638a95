"""What many tests need: a folder of real image files made on the spot, and the data beside the checkout."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Before torch is imported, here and in what tests start: what the tests ask of a CPU is not to be done by a
# card where there is one, as --device auto would.
for _name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
    os.environ[_name] = ""

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data and weights beside the checkout; tests that ask for it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data is not beside this checkout")
    return SHARED


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of class folders with PNG files that a classifier can tell apart."""

    def make(
        n_per_class: int = 6, classes: tuple[str, ...] = ("blue", "green", "red"), name: str = "photos"
    ) -> Path:
        folder = tmp_path / name
        for number, label in enumerate(classes):
            (folder / label).mkdir(parents=True)
            for index in range(n_per_class):
                write_photo(
                    folder / label / f"{index:03d}.png", seed=1000 * number + index, channel=number % 3
                )
        return folder

    return make


def write_photo(path: Path, seed: int, channel: int = 0) -> None:
    """Write one small noisy picture in which one colour channel is brightest."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 120, size=(40, 36, 3), dtype=np.uint8)
    pixels[..., channel] += 120
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def _plain_logging() -> Iterator[None]:
    """The command line changes the library's logging; put it back, so that caplog works in the next test."""
    logger = logging.getLogger("featbank")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def save_photo() -> Callable[..., None]:
    """Write one small noisy picture: (path, seed, channel)."""
    return write_photo
