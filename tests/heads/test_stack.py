from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads import FeatureSpace, MLPClassifier, SoftmaxClassifier, _training, fit_stack, make


@pytest.fixture
def problem(blobs):
    X, y = blobs
    train, val, test = (np.arange(180) % 4 % 3 == part for part in range(3))
    space = FeatureSpace()
    Z = space.fit_transform(X[train])
    watched = {"Z_val": space.transform(X[val]), "y_val": y[val]}
    watched |= {"Z_test": space.transform(X[test]), "y_test": y[test]}
    return X[train], Z, y[train], space, watched


def draws(y: np.ndarray, n_per_class: int, n: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        np.concatenate([random.permutation(np.flatnonzero(y == c))[:n_per_class] for c in np.unique(y)])
        for _ in range(n)
    ]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("softmax", {"max_epochs": 30}),
        ("softmax", {"max_epochs": 30, "patience": 2, "monitor": "accuracy"}),
        ("softmax", {"max_epochs": 30, "solver": "sgd", "patience": 2, "monitor": "accuracy"}),
        ("softmax", {"max_epochs": 6, "dropout": 0.3, "lr_schedule_per": "step", "lr_schedule": "cosine"}),
        ("mlp", {"max_epochs": 12, "hidden_units": 24, "dropout": 0.3}),
    ],
)
def test_together_is_as_one_at_a_time(problem, name: str, settings: dict[str, Any]) -> None:
    X, Z, y, space, watched = problem
    subsets = [*draws(y, 4, 6), *draws(y, 7, 3)]  # two sizes: two stacks
    rates = [0.003, 0.01, 0.003, 0.02, 0.01, 0.003, 0.01, 0.01, 0.01]
    alphas = [0.0, 0.1, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.1]

    def new() -> list[Any]:
        return [
            make(name, lr=lr, alpha=alpha, random_state=seed, **settings)
            for seed, (lr, alpha) in enumerate(zip(rates, alphas, strict=True))
        ]

    together = fit_stack(new(), Z, y, subsets, space=space, **watched)
    for head, alone, rows in zip(together, new(), subsets, strict=True):
        fit_stack([alone], Z, y, [rows], space=space, **watched)
        assert head.n_epochs_ == alone.n_epochs_
        assert head.best_epoch_ == alone.best_epoch_
        assert set(head.history_) == {
            "lr",
            *(f"{a}_{b}" for a in ("train", "val", "test") for b in ("loss", "accuracy")),
        }
        for key, values in head.history_.items():
            np.testing.assert_allclose(values, alone.history_[key], atol=1e-4, err_msg=key)
        for mine, theirs in zip(head.weights_, alone.weights_, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-3)
        assert head.space_ is space
        np.testing.assert_allclose(head.predict_proba(X), head.predict_proba_columns(Z), atol=1e-5)
    if "patience" in settings:  # else nothing was dropped from a stack on the way
        assert len({head.n_epochs_ for head in together[:6]}) > 1


def test_heads_really_go_together(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    _, Z, y, space, _ = problem
    sizes: list[int] = []
    train_stack = _training.train_stack

    def counted(recipe: Any, matrix: Any, jobs: Any, n_classes: int, others: Any, **more: Any) -> Any:
        sizes.append(len(jobs))
        return train_stack(recipe, matrix, jobs, n_classes, others, **more)

    monkeypatch.setattr(_training, "train_stack", counted)
    heads = [make("softmax", max_epochs=2, lr=lr) for lr in (0.01, 0.02, 0.03, 0.01, 0.01)]
    fit_stack(heads, Z, y, [*draws(y, 4, 3), *draws(y, 6, 2)], space=space)
    assert sizes == [3, 2]
    monkeypatch.setitem(_training.WIDE_HEAD_BYTES, "cpu", 100)
    fit_stack(heads, Z, y, draws(y, 4, 5), space=space)
    assert sizes == [3, 2, 1, 1, 1, 1, 1]


def test_kinds_are_mixed_and_come_back_in_order(problem) -> None:
    X, Z, y, space, watched = problem
    names = ["knn", "softmax", "logreg", "mlp", "ncm", "svm", "ridge", "softmax"]
    heads = [make(name, random_state=0) for name in names]
    for head in heads:
        if hasattr(head, "max_epochs"):
            head.set_params(max_epochs=20)
    fitted = fit_stack(heads, Z, y, [np.arange(len(y))] * len(heads), space=space, **watched)
    assert all(one is two for one, two in zip(heads, fitted, strict=True))
    for head in fitted:
        assert head.score(X, y) > 0.6
        np.testing.assert_array_equal(head.predict(X), head.predict_columns(Z))
    assert fitted[2].history_.keys() == fitted[1].history_.keys()
    np.testing.assert_allclose(fitted[1].weights_[0], fitted[7].weights_[0], atol=1e-5)


def test_a_subset_of_the_classes_is_watched_on_its_own_classes(problem) -> None:
    _, Z, y, space, watched = problem
    rows = np.flatnonzero(y < 3)
    head = make("softmax", max_epochs=20, random_state=0)
    fit_stack([head], Z, y, [rows], space=space, **watched)
    assert head.classes_.tolist() == [0, 1, 2]
    kept = watched["y_test"] < 3
    last = make("softmax", max_epochs=20, restore="last", random_state=0)
    fit_stack([last], Z, y, [rows], space=space, **watched)
    expected = (last.predict_columns(watched["Z_test"][kept]) == watched["y_test"][kept]).mean()
    assert last.history_["test_accuracy"][-1] == pytest.approx(expected)


def test_one_failed_head_does_not_touch_the_others(problem) -> None:
    _, Z, y, space, watched = problem
    subsets = draws(y, 5, 3)
    rates = [0.01, 1e38, 0.01]
    heads = [
        make("softmax", solver="sgd", lr=lr, max_epochs=10, random_state=seed)
        for seed, lr in enumerate(rates)
    ]
    with pytest.warns(FitWarning, match=r"^1 of 3 heads: training loss became nan in epoch ") as caught:
        fit_stack(heads, Z, y, subsets, space=space, **watched)
    assert len(caught) == 1
    assert [head.failed_ is None for head in heads] == [True, False, True]
    alone = make("softmax", solver="sgd", lr=0.01, max_epochs=10, random_state=2)
    fit_stack([alone], Z, y, subsets[2:], space=space, **watched)
    np.testing.assert_allclose(heads[2].weights_[0], alone.weights_[0], atol=1e-5)


def test_bad_input(problem) -> None:
    _, Z, y, space, _ = problem
    head = make("ncm")
    with pytest.raises(InvalidInputError, match=r"^1 estimators got 2 subsets; give one subset each$"):
        fit_stack([head], Z, y, draws(y, 4, 2), space=space)
    with pytest.raises(
        InvalidInputError, match=r"^Z has shape \(90, 39\), but y has 90 labels and the space 40"
    ):
        fit_stack([head], Z[:, 1:], y, draws(y, 4, 1), space=space)
    with pytest.raises(InvalidInputError, match=r"^subset 0 asks for rows 0 to 90; allowed: 0 to 89$"):
        fit_stack([head], Z, y, [np.arange(91)], space=space)
    with pytest.raises(InvalidInputError, match=r"^subset 0 has shape \(90,\) and dtype bool; give row"):
        fit_stack([head], Z, y, [y == 0], space=space)
    with pytest.raises(InvalidInputError, match="only one class: 0"):
        fit_stack([head], Z, y, [np.flatnonzero(y == 0)], space=space)
    with pytest.raises(
        InvalidInputError, match=r"is no head of featbank; make one with featbank\.heads\.make"
    ):
        fit_stack([object()], Z, y, draws(y, 4, 1), space=space)  # type: ignore[type-var]


def test_a_wide_head_trains_in_the_span_of_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large layer on many columns, few rows: the same answers from rows and from columns, at a fraction."""
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 60)
    X = random.normal(size=(180, 900)).astype(np.float32) + 0.6 * random.normal(size=(3, 900))[y]
    space = FeatureSpace(rotate=False)
    Z = space.fit_transform(X)
    rows = draws(y, 8, 1)[0]
    seen: list[tuple[int, ...]] = []
    train = _training.train_stack

    def watching(recipe: Any, Z: Any, *rest: Any, **more: Any) -> Any:
        seen.append(tuple(Z.shape))
        return train(recipe, Z, *rest, **more)

    monkeypatch.setattr(_training, "train_stack", watching)
    settings: dict[str, Any] = {"hidden_units": 400, "max_epochs": 20, "random_state": 0}
    (head,) = fit_stack([make("mlp", **settings)], Z, y, [rows], space=space, Z_val=Z, y_val=y)
    assert seen[0][0] == 24
    assert seen[0][1] < 24
    assert head.weights_[0].shape == (900, 400)
    assert head.score(X[rows], y[rows]) == 1.0
    assert head.score(X, y) > 0.8
    np.testing.assert_allclose(head.predict_proba(X), head.predict_proba_columns(Z), atol=1e-5)
    loss = -np.log(head.predict_proba(X)[np.arange(180), y]).mean()
    assert head.history_["val_loss"][head.best_epoch_ - 1] == pytest.approx(loss, rel=1e-4)
    (whole,) = fit_stack([make("mlp", rotate=False, **settings)], Z, y, [rows], space=space)
    assert seen[-1] == (180, 900)  # not if the rotation was declined
    assert whole.weights_[0].shape == (900, 400)


def test_small_steps_use_one_thread_and_give_the_others_back(
    problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    _, Z, y, space, watched = problem
    seen: list[int] = []
    step = _training._Stack.step

    def watching(self: Any, *arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return step(self, *arguments)

    monkeypatch.setattr(_training._Stack, "step", watching)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = {"max_epochs": 1, "random_state": 0}
        fit_stack([make("softmax", **settings)], Z, y, draws(y, 4, 1), space=space, **watched)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(_training, "THREADED_STEP", 0)
        fit_stack([make("softmax", **settings)], Z, y, draws(y, 4, 1), space=space, **watched)
    finally:
        torch.set_num_threads(before)
    assert seen[0] == 1
    assert seen[-1] == 2


def test_stacks_on_several_threads_give_the_heads_of_one_thread(
    blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs
    space = FeatureSpace()
    Z = space.fit_transform(X)
    subsets = [np.random.default_rng(seed).permutation(len(y))[:90] for seed in range(5)]
    seen: set[int] = set()
    train = _training.train_stack

    def watching(*args, **more):
        seen.add(threading.get_ident())
        time.sleep(0.05)
        return train(*args, **more)

    monkeypatch.setattr(_training, "train_stack", watching)
    fitted = {}
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            seen.clear()
            heads = [SoftmaxClassifier(random_state=seed, max_epochs=5) for seed in range(5)]
            fitted[n_threads] = fit_stack(heads, Z, y, subsets, space=space)
            assert len(seen) == n_threads
    finally:
        torch.set_num_threads(before)
    for alone, together in zip(fitted[1], fitted[2], strict=True):
        np.testing.assert_allclose(alone.coef_, together.coef_, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ncm", {}),
        ("ncm", {"normalize": True, "rotate": False}),
        ("knn", {}),
        ("svm", {}),
        ("ridge", {}),
        ("ridge", {"class_weight": "balanced"}),
        ("logreg", {}),
        ("logreg", {"C": "auto", "Cs": 2, "tol": 1e-3}),
        ("softmax", {"max_epochs": 8, "random_state": 0}),
        ("softmax", {"max_epochs": 8, "rotate": False, "random_state": 0}),
        ("mlp", {"max_epochs": 8, "hidden_units": 300, "random_state": 0}),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_as_they_are_stored_train_as_standardised_ones(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], dtype: str
) -> None:
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (3 + random.normal(size=(60, 5000)) + 0.3 * random.normal(size=(3, 5000))[y]).astype(dtype)
    space = FeatureSpace(rotate=False).fit(X)
    subsets = [*draws(y, 6, 2), np.arange(30)]
    monkeypatch.setattr(_training, "WIDE_HEAD_BYTES", {"cpu": 1})  # as a head of 200,704 features is
    stored = space.standardized(X)
    monkeypatch.setattr(type(stored), "__array__", lambda *_: pytest.fail("a copy of all rows was made"))
    found = [
        fit_stack([make(name, **settings) for _ in subsets], rows, y, subsets, space=space)
        for rows in (stored, space.transform(X))
    ]
    # Adam goes along the eigenvectors of the rows' products, which rounding turns
    off = 1e-3 if name in ("softmax", "mlp") else 1e-4
    for one, other in zip(*found, strict=True):
        given, expected = (head.decision_function(X) for head in (one, other))
        np.testing.assert_allclose(given, expected, rtol=1e-3, atol=off * np.ptp(expected))


@pytest.mark.parametrize("dtype", [np.float64, ">f4", np.float16])
def test_wide_rows_are_standardised_in_their_own_digits(dtype) -> None:
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = random.normal(size=(3, 20))[y] + random.normal(size=(60, 20))
    X = (X + (1e7 if dtype is np.float64 else 0)).astype(dtype)
    X.setflags(write=False)
    space = FeatureSpace(rotate=False).fit(X)
    found = []
    for rows in (space.standardized(X)[:], space.standardized(X)):
        heads = [SoftmaxClassifier(max_epochs=5, random_state=0), MLPClassifier(max_epochs=5, random_state=0)]
        fit_stack(heads, rows, y, [np.arange(60)] * 2, space=space)
        found.append(np.stack([one.predict_proba(X) for one in heads]))
    np.testing.assert_allclose(*found, atol=1e-3)
