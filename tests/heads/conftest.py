"""Features like those of a convolutional cut: many columns, rectified, sparse, of a few classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Features = tuple[NDArray[np.float16], NDArray[np.int64]]


def draw_sparse(n_classes: int, n_per_class: int, n_features: int, seed: int, noise: float = 2.0) -> Features:
    """Return X float16 (n, n_features), about 30 % non-zero, and y; the class means depend on sizes only."""
    means = np.random.default_rng(n_features).normal(size=(n_classes, n_features)).astype(np.float32)
    random = np.random.default_rng([seed, n_features])
    y = np.repeat(np.arange(n_classes), n_per_class)
    X = means[y]
    X += noise * random.standard_normal(X.shape, dtype=np.float32)
    X -= 1.0
    return np.maximum(X, 0.0, out=X).astype(np.float16), y


@pytest.fixture
def sparse() -> Callable[..., Features]:
    return draw_sparse


@pytest.fixture
def blobs() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Six overlapping classes in 40 features, 30 samples each."""
    random = np.random.default_rng(3)
    y = np.repeat(np.arange(6), 30)
    X = random.normal(size=(6, 40))[y] + 2.0 * random.normal(size=(180, 40))
    return (3.0 + 5.0 * X).astype(np.float32), y
