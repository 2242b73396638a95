"""Images that a small network learns in a blink, and networks small enough for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from featbank.backbones.minivgg import build_network
from featbank.backbones.own_networks import network_plan
from featbank.training import Recipe, recipe_for
from featbank.training.loop import TrainingImages

#: own_net at a fraction of its width, and a recipe that takes milliseconds.
SMALL = {"widths": [4, 4, 8], "hidden": [8, 8]}
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 8, "precision": "float32", "lr": 0.01}


@pytest.fixture
def data(photo_folder: Callable[..., Path]) -> Path:
    return photo_folder(n_per_class=10)


@pytest.fixture
def images() -> TrainingImages:
    """24 noisy pictures of three brightnesses."""
    random = np.random.default_rng(0)
    labels = np.arange(24) % 3
    pixels = random.integers(0, 60, (24, 16, 16, 3)) + 70 * labels[:, None, None, None]
    return TrainingImages(pixels.astype(np.uint8), labels.astype(np.int64))


@pytest.fixture
def build() -> Callable[[], nn.Module]:
    plan = network_plan("own_net", {**SMALL, "image_size": 16})
    return lambda: build_network(plan, 3)


@pytest.fixture
def quick() -> Callable[..., Recipe]:
    return lambda **changes: recipe_for("own_net", {**QUICK, **changes})
