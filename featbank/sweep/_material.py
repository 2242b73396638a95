"""What one fit needs of a cut: its training rows, and the rows it is scored on."""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featbank.heads import FeatureSpace, RowProducts
    from featbank.sweep._products import ProductCache

__all__ = ["ColumnMaterial", "FeatureMaterial", "Material", "Plan", "SplitRows", "StoredRows"]

Read = Callable[[NDArray[np.int64]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Plan:
    """One draw: `rows` are positions among the training rows."""

    n_per_class: float
    repeat: int
    rows: NDArray[np.int64]
    seed: int


class SplitRows:
    """The labelled rows of each split at one cut; `rows` are their numbers in the manifest.

    Features are read when they are first asked for, once per split.
    """

    def __init__(
        self,
        read: Read,
        labels: Mapping[str, NDArray[np.int64]],
        rows: Mapping[str, NDArray[np.int64]],
        products: ProductCache | None = None,
    ) -> None:
        self._read = read
        self._products = products
        self.rows = {name: at for name, at in rows.items() if len(at)}
        self.labels = {name: labels[name] for name in self.rows}
        self._features: dict[str, NDArray[Any]] = {}
        self._columns: dict[tuple[bool, Any], ColumnMaterial] = {}

    def features(self, split: str) -> NDArray[Any]:
        """Return the features of a split, (n_rows, n_features), in their stored dtype."""
        if split not in self._features:
            self._features[split] = self._read(self.rows[split])
        return self._features[split]

    @property
    def n_features(self) -> int:
        """Length of a row."""
        return int(np.prod(self.features("train").shape[1:]))

    def columns(self, standardize: bool, rotate: Any) -> ColumnMaterial:
        """Return the rows in a feature space, made once for all heads that agree on it."""
        from featbank.heads import FeatureSpace

        known = self._columns.get((standardize, rotate))
        if known is None:
            space = FeatureSpace(standardize=standardize, rotate=rotate)
            X, others = self.features("train"), [name for name in self.rows if name != "train"]
            if self._products is not None and space.rotates(len(X), self.n_features):
                products = self._products.get(
                    (len(X), self.n_features), standardize, lambda: self._compute_products(standardize)
                )
                Z = {"train": space.fit_transform(X, products=products)}
                Z |= {name: space.transform_products(products, name) for name in others}
            else:
                Z = {"train": space.fit_transform(X)}
                Z |= {name: space.transform(self.features(name)) for name in others}
            known = self._columns[standardize, rotate] = ColumnMaterial(Z, self.labels, self.rows, space)
        return known

    def _compute_products(self, standardize: bool) -> RowProducts:
        from featbank.heads import RowProducts

        others = {name: self.features(name) for name in self.rows if name != "train"}
        return RowProducts.of(self.features("train"), others, standardize=standardize)


class Material(Protocol):
    """Rows a head is fitted to and scored on; travels to other processes without its features."""

    @property
    def rows(self) -> Mapping[str, NDArray[np.int64]]:
        """Manifest rows of each split."""

    def fit(self, estimators: Sequence[Any], plans: Sequence[Plan]) -> None:
        """Fit each estimator to the rows of its plan."""

    def inputs(self, plan: Plan) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
        """Yield (split, rows as the head takes them, labels); of the training rows those of the plan."""

    @property
    def ending(self) -> str:
        """End of the names of the methods that predict from these rows."""


@dataclass(frozen=True, eq=False)
class ColumnMaterial:
    """Rows in a feature space that many heads share."""

    Z: dict[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.int64]]
    rows: Mapping[str, NDArray[np.int64]]
    space: FeatureSpace
    ending: str = "_columns"

    def fit(self, estimators: Sequence[Any], plans: Sequence[Plan]) -> None:
        """Fit all of them in one call; see `featbank.heads.fit_stack`."""
        from featbank.heads import fit_stack

        fit_stack(
            estimators,
            self.Z["train"],
            self.labels["train"],
            [plan.rows for plan in plans],
            space=self.space,
            Z_val=self.Z.get("val"),
            y_val=self.labels.get("val"),
            Z_test=self.Z.get("test"),
            y_test=self.labels.get("test"),
        )

    def inputs(self, plan: Plan) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
        """Yield (split, columns, labels)."""
        for split, Z in self.Z.items():
            at: Any = plan.rows if split == "train" else slice(None)
            yield split, Z[at], self.labels[split][at]

    def without_space(self) -> ColumnMaterial:
        """Return a copy that travels: its space has the columns and the gain, but no way from features."""
        from featbank.heads import FeatureSpace

        n = self.space.n_columns_
        stand_in = FeatureSpace.from_arrays(np.zeros(n), np.ones(n), gain=self.space.gain_)
        return ColumnMaterial(self.Z, self.labels, self.rows, stand_in)

    def adopt(self, estimator: Any) -> Any:
        """Give a head that was fitted in a copy `without_space` its real space."""
        estimator.space_, estimator.n_features_in_ = self.space, self.space.n_features_
        return estimator


@dataclass(frozen=True, eq=False)
class FeatureMaterial:
    """Rows as they are stored, for estimators of others."""

    split_rows: SplitRows
    ending: str = ""

    @property
    def labels(self) -> Mapping[str, NDArray[np.int64]]:
        """Labels of each split."""
        return self.split_rows.labels

    @property
    def rows(self) -> Mapping[str, NDArray[np.int64]]:
        """Manifest rows of each split."""
        return self.split_rows.rows

    def fit(self, estimators: Sequence[Any], plans: Sequence[Plan]) -> None:
        """Fit each to a copy of its rows."""
        for estimator, plan in zip(estimators, plans, strict=True):
            X = self.split_rows.features("train")[plan.rows].astype(np.float32)
            estimator.fit(X, self.labels["train"][plan.rows])

    def inputs(self, plan: Plan) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
        """Yield (split, features, labels)."""
        for split in self.rows:
            at: Any = plan.rows if split == "train" else slice(None)
            X = self.split_rows.features(split)[at]
            yield split, X.astype(np.float32), self.labels[split][at]


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Where the rows of a cut are on disk: what another process gets instead of the features."""

    #: The pickled bank: it is reopened with the rows that `rows` counts, or not at all.
    bank: bytes = field(repr=False)
    cut: str
    temperature: float | None
    labels: Mapping[str, NDArray[np.int64]] = field(repr=False)
    rows: Mapping[str, NDArray[np.int64]] = field(repr=False)
    #: Tells sweeps apart: a worker outlives a sweep, and the bank may have changed before the next one.
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def open(self) -> FeatureMaterial:
        """Open the bank and return its rows; the process keeps those it opened last.

        Raises
        ------
        BankChangedError
            If the bank has other rows by now.
        """
        if self.token not in _opened:
            _opened.clear()
            read = reader(pickle.loads(self.bank), self.cut, self.temperature)
            _opened[self.token] = SplitRows(read, self.labels, self.rows)
        return FeatureMaterial(_opened[self.token])


#: Of this process: one entry at most.
_opened: dict[str, SplitRows] = {}


def reader(bank: Any, cut: str, temperature: float | None) -> Read:
    """Return what reads rows of a cut from a bank."""

    def read(rows: NDArray[np.int64]) -> NDArray[Any]:
        if temperature is not None:
            softmax: NDArray[np.float32] = bank.softmax(temperature, rows)
            return softmax
        # float16 stays float16: 200,704 features of 1,000 images are 400 MB instead of 800, and blocks are
        # converted where they are used.
        features: NDArray[Any] = bank.features(cut, rows, dtype=None)
        return features

    return read
