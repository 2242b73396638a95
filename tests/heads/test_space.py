from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from featbank.errors import InvalidInputError
from featbank.heads import FeatureSpace
from featbank.heads import space as spaces


@pytest.fixture
def wide(sparse):
    return sparse(5, 8, 3000, seed=0)[0], sparse(5, 4, 3000, seed=1)[0]


def test_not_rotated_is_the_standard_scaler(blobs) -> None:
    X, _ = blobs
    X[:, 3] = 0.1  # constant: divided by 1, not by the rounding error of its variance
    expected = StandardScaler().fit_transform(X.astype(np.float64))
    space = FeatureSpace().fit(X)
    assert not space.rotated_
    assert space.gain_ == 1.0
    assert space.scale_[3] == 1.0
    np.testing.assert_allclose(space.transform(X), expected, atol=1e-5)
    assert space.transform(X).dtype == np.float32


def test_rotation_keeps_all_products_of_rows(wide) -> None:
    X, other = wide
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z, Z_other = scaler.transform(X.astype(np.float64)), scaler.transform(other.astype(np.float64))
    space = FeatureSpace()
    columns = space.fit_transform(X) / space.gain_
    assert columns.shape == (40, 39)  # centred: one direction fewer than rows
    np.testing.assert_allclose(columns @ columns.T, Z @ Z.T, atol=2e-3)
    np.testing.assert_allclose(space.transform(other) / space.gain_ @ columns.T, Z_other @ Z.T, atol=2e-3)


def test_columns_have_mean_square_one_and_none_stands_out(wide) -> None:
    shared = np.random.default_rng(1).normal(size=(40, 1)).astype(np.float16)
    space = FeatureSpace()
    squares = (space.fit_transform(wide[0] + 3 * shared).astype(np.float64) ** 2).mean(axis=0)
    assert space.eigenvalues_[0] > 30 * space.eigenvalues_[-1]
    assert squares.mean() == pytest.approx(1.0, abs=1e-5)
    # along the eigenvectors the first would be 30 times another, and Adam would treat the two alike
    assert squares.max() < 3.0


@pytest.mark.parametrize("rotate", [True, False])
def test_fit_transform_and_transform_agree_through_rows_and_basis(wide, rotate: bool) -> None:
    X, other = wide
    space = FeatureSpace(rotate=rotate)
    Z = space.fit_transform(X)
    before = space.transform(other)
    np.testing.assert_allclose(space.transform(X), Z, atol=1e-4)
    basis = space.basis()
    np.testing.assert_allclose(space.transform(other), before, atol=1e-4)
    if rotate:
        assert basis is not None
        assert basis.dtype == np.float32
        np.testing.assert_allclose(basis.T @ basis, np.eye(39), atol=1e-4)
    else:
        assert basis is None


def test_weights_go_back_to_the_original_features(wide, blobs) -> None:
    for X in (wide[0], blobs[0]):
        space = FeatureSpace()
        Z = space.fit_transform(X).astype(np.float64)
        weights = np.random.default_rng(0).normal(size=(Z.shape[1], 3))
        for _ in range(2):  # through the fitting rows, then through the basis
            coefficients, shift = space.to_feature_space(weights)
            assert coefficients.shape == (X.shape[1], 3)
            np.testing.assert_allclose(X.astype(np.float64) @ coefficients + shift, Z @ weights, atol=1e-2)
            space.basis()


class _RowsOnly:
    """Gives run of rows, and no more than that, as a cut of a bank does."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, 0

    def __getitem__(self, key: slice) -> np.ndarray:
        part = self.array[key]
        self.most = max(self.most, len(part))
        return part


def test_a_source_of_row_slices_gives_the_same_in_pieces(wide, monkeypatch: pytest.MonkeyPatch) -> None:
    X, other = wide
    monkeypatch.setattr(spaces, "SLAB_BYTES", 7 * 3000 * 2)
    source = _RowsOnly(X.reshape(40, 30, 10, 10))
    space, expected = FeatureSpace(), FeatureSpace()
    Z = expected.fit_transform(X)
    np.testing.assert_allclose(space.fit_transform(source), Z, atol=1e-3)
    assert source.most <= 7
    np.testing.assert_allclose(space.transform(other), expected.transform(other), atol=1e-3)
    np.testing.assert_allclose(space.basis(), expected.basis(), atol=1e-4)


def test_memory_stays_far_below_a_float64_copy(sparse) -> None:
    X, _ = sparse(4, 16, 200_704, seed=0)
    tracemalloc.start()
    FeatureSpace().fit_transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.size * 8 / 2  # and nothing of n_features x n_features, which would be 322 GB


def test_float64_with_a_large_offset_keeps_its_digits() -> None:
    X = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(
        FeatureSpace().fit_transform(X + 1e9), StandardScaler().fit_transform(X), atol=1e-5
    )


class _Open(_RowsOnly):
    def __reduce__(self) -> str:
        raise TypeError("an open file cannot be pickled")


def test_a_pickled_space_needs_no_rows(wide) -> None:
    X, other = wide
    space = FeatureSpace().fit(_Open(X))
    expected = space.transform(other)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(space)).transform(other), expected, atol=1e-4)


def test_standardize_off_leaves_the_scale(blobs, wide) -> None:
    X, _ = blobs
    np.testing.assert_array_equal(FeatureSpace(standardize=False).fit_transform(X), X)
    plain = wide[0].astype(np.float64)
    space = FeatureSpace(standardize=False)
    Z = space.fit_transform(wide[0]) / space.gain_
    assert space.rotated_
    np.testing.assert_allclose(Z @ Z.T, plain @ plain.T, rtol=1e-3, atol=1e-2)
    seen = space.transform(wide[1]) / space.gain_
    np.testing.assert_allclose(seen @ Z.T, wide[1].astype(np.float64) @ plain.T, rtol=1e-3, atol=1e-1)


def test_auto_rotates_only_when_there_are_more_features_than_rows() -> None:
    random = np.random.default_rng(0)
    assert not FeatureSpace().fit(random.normal(size=(30, 30))).rotated_
    assert FeatureSpace().fit(random.normal(size=(29, 30))).rotated_
    assert FeatureSpace(rotate=True).fit(random.normal(size=(90, 30))).n_columns_ == 30


def test_a_wide_space_that_is_not_rotated_is_shrunk() -> None:
    assert FeatureSpace(rotate=False).fit(np.random.default_rng(0).normal(size=(4, 8192))).gain_ == 0.5


def test_bad_input_is_told(wide) -> None:
    with pytest.raises(InvalidInputError, match=r"^rotate='yes' is not known; allowed: True, False, 'auto'$"):
        FeatureSpace(rotate="yes")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"^features have shape \(3,\); give one row per sample"):
        FeatureSpace().fit([1.0, 2.0, 3.0])
    with pytest.raises(InvalidInputError, match=r"^features have dtype dtype\('<U1'\); give float16"):
        FeatureSpace().fit([["a"], ["b"]])
    bad = wide[0].copy()
    bad[2, 7] = np.inf
    with pytest.raises(InvalidInputError, match=r"^1 of 40 rows hold NaN or infinity: 2 \("):
        FeatureSpace().fit(bad)
    with pytest.raises(
        InvalidInputError, match=r"^this FeatureSpace is not fitted yet; call fit\(X\) first$"
    ):
        FeatureSpace().transform(wide[0])
    with pytest.raises(InvalidInputError, match=r"^X has 2999 features, but FeatureSpace is expecting 3000"):
        FeatureSpace().fit(wide[0]).transform(wide[0][:, 1:])
    with pytest.raises(InvalidInputError, match=r"^all 3 rows are identical after standardisation"):
        FeatureSpace().fit(np.ones((3, 9)))


def test_finite_values_whose_sum_is_not_are_taken() -> None:
    spaces.check_finite(np.full((4, 3), 3e38, dtype=np.float32))
    with pytest.raises(InvalidInputError, match=r"1 of 4 rows hold NaN or infinity: 2 "):
        spaces.check_finite(np.array([[3e38], [3e38], [np.nan], [3e38]], dtype=np.float32))
