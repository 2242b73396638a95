"""Every value of every parameter is allowed, or refused before anything is fitted, with what is allowed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.heads import (
    LinearSVMClassifier,
    MLPClassifier,
    NearestMeanClassifier,
    NeighborsClassifier,
    RidgeClassifier,
    SoftmaxClassifier,
    catalogue,
    fit_stack,
    make,
)
from featbank.heads.space import FeatureSpace

KINDS = (
    SoftmaxClassifier,
    MLPClassifier,
    NearestMeanClassifier,
    NeighborsClassifier,
    LinearSVMClassifier,
    RidgeClassifier,
)
#: What no parameter of any head takes.
NONSENSE = [
    "nonsense",
    b"adam",
    float("nan"),
    float("inf"),
    -float("inf"),
    -1,
    10**400,
    [1, 2],
    (0.1,),
    {"C": 1},
    np.ones(3),
    1j,
    object,
]
BY_NAME = [(name, one) for name in catalogue.names() for one in catalogue.parameters(name)]
BY_CLASS = [(kind, one) for kind in KINDS for one in kind().get_params()]


@pytest.fixture
def data() -> tuple[Any, Any]:
    y = np.repeat([0, 1, 2], 4)
    return np.random.default_rng(0).normal(size=(12, 5)) + y[:, None], y


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_nonsense_is_refused_by_every_parameter_of_every_head(value, data) -> None:
    for name, parameter in BY_NAME:
        if parameter == "device" and isinstance(value, str):
            continue
        with pytest.raises(InvalidInputError) as caught:
            make(name, **{parameter: value})
        text = str(caught.value)
        assert text.startswith(f"head {name!r} cannot be fitted with {parameter}="), text
        assert "(allowed: " in text
        assert "\n" not in text
        assert len(text) < 300
    for kind, parameter in BY_CLASS:
        if (parameter == "device" and isinstance(value, str)) or (
            parameter == "class_weight" and isinstance(value, dict)
        ):
            continue  # a mapping of labels is no nonsense to a class
        with pytest.raises(InvalidInputError, match=f"^{kind.__name__} cannot be fitted with {parameter}="):
            kind(**{parameter: value}).fit(*data)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("svm", "C", "auto"),
        ("ridge", "alpha", "auto"),
        ("knn", "n_neighbors", "auto"),
        ("knn", "n_neighbors", 2.0),
        ("knn", "n_neighbors", True),
        ("logreg", "C", True),
        ("logreg", "C", 0),
        ("logreg", "C", "0.1"),
        ("softmax", "max_epochs", 10.5),
        ("softmax", "max_epochs", "10"),
        ("softmax", "dropout", 1),
        ("softmax", "standardize", 1),
        ("softmax", "standardize", "no"),
        ("softmax", "rotate", 0),
        ("mlp", "solver", "lbfgs"),
        ("mlp", "solver", "ADAM"),
        ("mlp", "batch_size", 0),
        ("mlp", "device", 0),
    ],
)
def test_values_that_others_take(name, parameter, value) -> None:
    with pytest.raises(InvalidInputError, match=f"^head '{name}' cannot be fitted with {parameter}="):
        make(name, **{parameter: value})


def test_numbers_of_numpy_are_numbers(data) -> None:
    make("knn", n_neighbors=np.int32(2)).fit(*data)
    make("logreg", C=np.float32(0.5), standardize=np.bool_(True)).fit(*data)
    make("softmax", max_epochs=np.int64(2), dropout=np.float64(0.1), solver=np.str_("sgd")).fit(*data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n_features", [5, 40])
def test_rows_that_hold_no_numbers_are_named(kind, bad, dtype, n_features) -> None:
    y = np.repeat([0, 1, 2], 4)
    X = (np.random.default_rng(0).normal(size=(12, n_features)) + y[:, None]).astype(dtype)
    wrong = X.copy()
    wrong[[3, 7], 2] = bad
    message = r"^2 of 12 rows hold NaN or infinity: 3, 7 \(counted from 0\); drop or replace them$"
    with pytest.raises(InvalidInputError, match=message):
        kind().fit(wrong, y)
    head = kind().fit(X, y)
    for method in ("predict", "decision_function", "predict_proba"):
        if hasattr(head, method):
            with pytest.raises(InvalidInputError, match=message):
                getattr(head, method)(wrong)
    Z = head.space_.transform(X)
    Z[[3, 7], 0] = bad
    for method in ("predict_columns", "predict_proba_columns"):
        if hasattr(head, method):
            with pytest.raises(InvalidInputError, match=message):
                getattr(head, method)(Z)
    with pytest.raises(InvalidInputError, match=message):
        head.space_.transform(wrong)
    with pytest.raises(InvalidInputError, match=message):
        fit_stack([kind()], Z, y, [np.arange(12)], space=head.space_)
    if kind in (SoftmaxClassifier, MLPClassifier):
        for split in ("val", "test"):
            with pytest.raises(InvalidInputError, match=message):
                kind().fit(X, y, **{f"X_{split}": wrong, f"y_{split}": y})


def test_angles_are_the_same_in_a_rotated_space() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2, 3], 10)
    X = np.abs(rng.normal(size=(40, 200)) + 0.15 * y[:, None]) + 3
    seen = np.abs(rng.normal(size=(300, 200)) + 0.15 * rng.integers(0, 4, size=(300, 1))) + 3
    plain, rotated = (
        NeighborsClassifier(n_neighbors=3, standardize=False, rotate=rotate).fit(X, y)
        for rotate in (False, True)
    )
    assert rotated.space_.rotated_
    np.testing.assert_array_equal(rotated.predict(seen), plain.predict(seen))
    np.testing.assert_allclose(rotated.predict_proba(seen), plain.predict_proba(seen))


def test_stacks_trained_at_once_leave_the_number_of_threads_alone() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        y = np.tile(np.arange(4), 20)
        X = np.random.default_rng(0).normal(size=(80, 16)) + y[:, None]
        space = FeatureSpace()
        Z = space.fit_transform(X)

        def fit() -> None:
            for _ in range(5):
                heads = [SoftmaxClassifier(max_epochs=2, random_state=seed) for seed in range(4)]
                fit_stack(heads, Z, y, [np.arange(80)] * 4, space=space)

        callers = [threading.Thread(target=fit) for _ in range(3)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
        fit()
        seen: list[int] = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert (seen, torch.get_num_threads()) == ([2], 2)
    finally:
        torch.set_num_threads(before)
