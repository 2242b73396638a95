"""Training rows of several views: drawn by heads with gradients, taken as more rows by the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.heads import FeatureSpace, fit_stack, make

N, CLASSES = 60, 3
RANDOM = np.random.default_rng(0)
Y = np.arange(N) % CLASSES
X = RANDOM.normal(size=(N, 8)).astype(np.float32) + 2 * np.eye(CLASSES, 8, dtype=np.float32)[Y]


def fitted(name: str, Z: Any, n_views: int, rows: Any = None, **params: Any) -> Any:
    space = FeatureSpace(rotate=False, standardize=False).fit(Z)
    rows = np.arange(N) if rows is None else rows
    y = Y if n_views * N == len(Z) else np.tile(Y, len(Z) // N)
    (head,) = fit_stack([make(name, **params)], Z, y, [rows], space=space, n_views=n_views)
    return head


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_views_that_are_alike_change_nothing(name: str) -> None:
    params = {"max_epochs": 8, "random_state": 1} | ({"hidden_units": 16} if name == "mlp" else {})
    one = fitted(name, X, 1, **params)
    two = fitted(name, np.concatenate([X, X]), 2, **params)
    for a, b in zip(one.weights_, two.weights_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_tail_draws_a_view_for_each_image_and_epoch() -> None:
    """One of two views for each image, not both: as many steps, of other rows where the views differ."""
    torch = pytest.importorskip("torch")

    class Through:
        backbone, weights_sha256, cut, shape, width = "net", "ab" * 32, "a", (8,), 8

        def body(self) -> Any:
            layer = torch.nn.Linear(8, 8, bias=False)
            layer.weight.data = torch.eye(8)
            return layer.requires_grad_(False)

        def trained(self, train: Any, *, batch_norm: bool = False) -> list[str]:
            return []

    def head(Z: Any, n_views: int) -> Any:
        made = make("tail", max_epochs=8, random_state=1, lr=0.05, batch_size=N).attach(Through())
        space = FeatureSpace(rotate=False, standardize=False).fit(Z)
        return fit_stack([made], Z, Y, [np.arange(N)], space=space, n_views=n_views)[0]

    one, alike = head(X, 1), head(np.concatenate([X, X]), 2)
    np.testing.assert_allclose(one.weights_[0], alike.weights_[0], rtol=1e-4, atol=1e-6)
    assert np.abs(head(np.concatenate([X, 3 * X]), 2).weights_[0] - one.weights_[0]).max() > 1e-3


def test_a_head_with_gradients_sees_every_view_of_its_own_images_alone() -> None:
    """Each view says which class it is by a column of its own; rows that are not drawn by another."""
    views = []
    for view in range(3):
        Z = np.zeros((N, 12), np.float32)
        Z[np.arange(N), 3 * view + Y] = 1
        Z[30:] = 0
        Z[30:, 9:] = 1
        views.append(Z)
    head = fitted("softmax", np.concatenate(views), 3, np.arange(30), max_epochs=10, random_state=0)
    used = np.abs(head.weights_[0]).max(axis=1)
    assert (used[:9] > 1e-3).all()
    np.testing.assert_array_equal(used[9:], 0)
    again = fitted("softmax", np.concatenate(views), 3, np.arange(30), max_epochs=10, random_state=0)
    np.testing.assert_array_equal(head.weights_[0], again.weights_[0])
    other = fitted("softmax", np.concatenate(views), 3, np.arange(30), max_epochs=10, random_state=1)
    assert not np.array_equal(head.weights_[0], other.weights_[0])


@pytest.mark.parametrize("name", ["logreg", "svm", "ridge", "ncm", "knn"])
def test_other_heads_take_views_as_more_rows(name: str) -> None:
    both = np.concatenate([X, X[:, ::-1]])
    rows = np.arange(0, N, 2)
    one = fitted(name, both, 2, rows)
    two = fitted(name, both, 1, np.concatenate([rows, rows + N]))
    np.testing.assert_array_equal(one.predict(both), two.predict(both))


def test_cross_validation_keeps_the_views_of_an_image_together() -> None:
    """Where features say nothing a copy in another fold would make the largest C look best."""
    noise = np.random.default_rng(1).normal(size=(N, 200)).astype(np.float32)
    alone = fitted("logreg", noise, 1, C="auto")
    copied = fitted("logreg", np.concatenate([noise, noise]), 2, C="auto")
    assert copied.C_ <= alone.C_


def test_rows_that_are_not_so_many_blocks_are_refused() -> None:
    space = FeatureSpace(rotate=False, standardize=False).fit(X)
    with pytest.raises(InvalidInputError, match="2 views"):
        fit_stack([make("softmax")], X, Y, [np.arange(N)], space=space, n_views=2)
