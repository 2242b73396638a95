from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.heads import FeatureSpace
from featbank.heads.space import RowProducts


@pytest.fixture
def rows() -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(30, 400)) + 3).astype(np.float16)


class Unreadable:
    """Rows whose shape is known, and that must not be read."""

    def __init__(self, like: np.ndarray) -> None:
        self.shape, self.dtype = like.shape, like.dtype

    def __getitem__(self, rows: object) -> np.ndarray:
        raise AssertionError("read")


@pytest.mark.parametrize("standardize", [True, False])
def test_a_space_from_products_is_that_from_rows_and_reads_none(rows: np.ndarray, standardize: bool) -> None:
    train, test = rows[:20], rows[20:]
    products = RowProducts.of(train, {"test": test}, standardize=standardize)
    space = FeatureSpace(standardize=standardize, rotate=True)
    expected = FeatureSpace(standardize=standardize, rotate=True)
    Z = space.fit_transform(Unreadable(train), products=products)
    np.testing.assert_array_equal(Z, expected.fit_transform(train))
    np.testing.assert_array_equal(space.transform_products(products, "test"), expected.transform(test))
    np.testing.assert_array_equal(space.mean_, expected.mean_)
    np.testing.assert_array_equal(space.scale_, expected.scale_)


def test_products_stay_as_they_were(rows: np.ndarray) -> None:
    products = RowProducts.of(rows, {})
    before = products.train.copy()
    FeatureSpace(rotate=True).fit(rows, products=products)
    np.testing.assert_array_equal(products.train, before)


def test_products_of_other_rows_are_refused(rows: np.ndarray) -> None:
    products = RowProducts.of(rows[:20], {})
    with pytest.raises(InvalidInputError) as caught:
        FeatureSpace(rotate=True).fit(rows, products=products)
    assert str(caught.value) == (
        "products are of 20 rows of 400 features, X has 30 of 400; give those of the same rows"
    )
    with pytest.raises(InvalidInputError, match="made with standardize=True, this space has False"):
        FeatureSpace(standardize=False, rotate=True).fit(rows[:20], products=products)
    with pytest.raises(InvalidInputError, match="of use to a rotated space only; leave them out"):
        FeatureSpace(rotate=False).fit(rows[:20], products=products)
    with pytest.raises(InvalidInputError, match="of use to a rotated space only; use transform"):
        FeatureSpace(rotate=False).fit(rows[:20]).transform_products(products, "test")


def test_auto_rotates_where_features_outnumber_rows() -> None:
    assert FeatureSpace().rotates(10, 11)
    assert not FeatureSpace().rotates(10, 10)
    assert not FeatureSpace().rotates(10_000, 20_000)
    assert FeatureSpace(rotate=True).rotates(10, 5)
