from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads import SoftmaxClassifier, _gradient

XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 16, dtype=np.float64)
XOR_LABELS = np.array(["even", "odd", "odd", "even"] * 16)


def test_xor_is_beyond_it() -> None:
    head = SoftmaxClassifier(random_state=0, batch_size=64)
    with pytest.warns(FitWarning, match="has not moved after three epochs"):
        head.fit(XOR, XOR_LABELS)
    assert head.score(XOR, XOR_LABELS) <= 0.75
    assert not head.converged_


def test_defaults_come_close_to_logistic_regression(blobs) -> None:
    X, y = blobs
    train = np.arange(len(y)) % 3 > 0
    expected = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[train], y[train])
    head = SoftmaxClassifier(random_state=0).fit(X[train], y[train])
    assert head.score(X[~train], y[~train]) >= expected.score(X[~train], y[~train]) - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize(("n_features", "n_per_class"), [(4096, 16), (25_088, 16), (200_704, 4)])
def test_defaults_learn_at_every_width(sparse, solver: str, n_features: int, n_per_class: int) -> None:
    n_classes = 32
    noise = 2.0 * (n_features / 4096) ** 0.25  # as hard with more features as with few
    X, y = sparse(n_classes, n_per_class, n_features, seed=0, noise=noise)
    X_test, y_test = sparse(n_classes, 2, n_features, seed=1, noise=noise)
    head = SoftmaxClassifier(solver=solver, max_epochs=30, random_state=0).fit(X, y)
    assert head.score(X, y) > 0.95
    assert head.score(X_test, y_test) > 0.5  # chance is 0.03


def test_validation_decides_when_to_stop_and_what_is_kept(blobs) -> None:
    X, y = blobs
    train, val = np.arange(len(y)) % 3 > 0, np.arange(len(y)) % 3 == 0
    settings = {"lr": 0.05, "lr_schedule": "constant", "patience": 5, "random_state": 0}
    for monitor, column, best in (("loss", "val_loss", np.argmin), ("accuracy", "val_accuracy", np.argmax)):
        head = SoftmaxClassifier(monitor=monitor, **settings)
        head.fit(X[train], y[train], X_val=X[val], y_val=y[val])
        assert head.stop_reason_ == "tolerance"
        assert head.n_epochs_ == head.best_epoch_ + 5 == len(head.history_["lr"])
        values = head.history_[column]
        assert values[head.best_epoch_ - 1] == values[best(values)]
        # the weights kept are those of the best epoch, not of the last
        assert head.score(X[val], y[val]) == pytest.approx(
            head.history_["val_accuracy"][head.best_epoch_ - 1]
        )
    last = SoftmaxClassifier(restore="last", **settings)
    last.fit(X[train], y[train], X_val=X[val], y_val=y[val])
    assert last.score(X[val], y[val]) == pytest.approx(last.history_["val_accuracy"][-1])


def test_equal_accuracies_are_told_apart_by_the_loss(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(monitor="accuracy", max_epochs=40, random_state=0)
    head.fit(X, y, X_val=X, y_val=y)
    accuracy, loss = head.history_["val_accuracy"], head.history_["val_loss"]
    tied = np.flatnonzero(accuracy == accuracy.max())
    assert head.best_epoch_ - 1 == tied[loss[tied].argmin()]
    assert len(tied) > 1


def test_validation_and_test_rows_are_never_trained_on(blobs) -> None:
    X, y = blobs
    train = np.arange(len(y)) % 3 > 0
    settings = {"max_epochs": 5, "restore": "last", "random_state": 0}
    alone = SoftmaxClassifier(**settings).fit(X[train], y[train])
    watched = SoftmaxClassifier(**settings).fit(
        X[train], y[train], X_val=X[~train], y_val=y[~train], X_test=X[~train], y_test=y[~train]
    )
    np.testing.assert_array_equal(alone.weights_[0], watched.weights_[0])
    np.testing.assert_array_equal(watched.history_["val_loss"], watched.history_["test_loss"])


def test_without_validation_it_stops_when_the_loss_stops_falling(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(alpha=0.3, lr=0.01, patience=5, max_epochs=500, random_state=0).fit(X, y)
    assert head.stop_reason_ == "tolerance"
    assert head.converged_
    assert set(head.history_) == {"lr", "train_loss", "train_accuracy"}


def test_equal_seeds_give_equal_heads(blobs) -> None:
    X, y = blobs
    heads = [SoftmaxClassifier(max_epochs=3, random_state=seed).fit(X, y) for seed in (1, 1, 2)]
    first, second, other = heads
    np.testing.assert_array_equal(first.weights_[0], second.weights_[0])
    assert np.abs(first.weights_[0] - other.weights_[0]).max() > 1e-4


def test_the_learning_rate_falls_as_asked(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(lr=0.1, lr_schedule_epochs=2, max_epochs=4, random_state=0).fit(X, y)
    np.testing.assert_allclose(head.history_["lr"], [0.1, 0.1 / 1.5, 0.05, 0.04])
    by_step = SoftmaxClassifier(
        lr=0.1, lr_schedule_epochs=2, lr_schedule_per="step", max_epochs=4, random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(by_step.history_["lr"], head.history_["lr"])
    assert np.abs(by_step.weights_[0] - head.weights_[0]).max() > 1e-4


def test_the_rate_taken_without_asking_grows_as_columns_become_few(blobs) -> None:
    X, y = blobs
    assert SoftmaxClassifier(max_epochs=1).fit(X, y).lr_ == pytest.approx(0.02)
    assert SoftmaxClassifier(max_epochs=1, solver="sgd").fit(X, y).lr_ == pytest.approx(1e-3 * 1024 / 40)
    assert SoftmaxClassifier(max_epochs=1, lr=1e-3).fit(X, y).lr_ == 1e-3


def test_dropout_and_penalty_do_something(blobs) -> None:
    X, y = blobs
    plain, dropped, small = (
        SoftmaxClassifier(max_epochs=10, random_state=0, **settings).fit(X, y)
        for settings in ({}, {"dropout": 0.5}, {"alpha": 1.0})
    )
    assert dropped.history_["train_loss"][-1] > plain.history_["train_loss"][-1]
    assert np.abs(small.weights_[0]).sum() < 0.5 * np.abs(plain.weights_[0]).sum()


def test_coefficients_are_those_of_the_original_features(blobs, sparse) -> None:
    for X, y in (blobs, sparse(4, 6, 500, seed=0), (blobs[0][:60], blobs[1][:60])):
        head = SoftmaxClassifier(max_epochs=5, random_state=0).fit(X, y)
        scores = X.astype(np.float64) @ head.coef_.T + head.intercept_
        expected = head.decision_function(X)
        np.testing.assert_allclose(scores.reshape(expected.shape), expected, atol=1e-4)
        np.testing.assert_allclose(
            head.predict_proba_columns(head.space_.transform(X)), head.predict_proba(X), atol=1e-5
        )


def test_it_works_in_a_pipeline_and_a_grid_search(blobs) -> None:
    X, y = blobs
    names = np.array(["ant", "bee", "cat", "dog", "elk", "fox"])[y]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SoftmaxClassifier(max_epochs=10, random_state=0)),
        {"softmaxclassifier__lr": [1e-3, 1e-2], "softmaxclassifier__standardize": [True, False]},
        cv=2,
    )
    search.fit(X, names)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ > 0.5
    assert set(search.predict(X)) <= set(names)


def test_a_pickled_head_carries_no_training_rows_and_predicts_the_same(sparse) -> None:
    X, y = sparse(4, 6, 20_000, seed=0)
    head = SoftmaxClassifier(max_epochs=5, random_state=0).fit(X, y)
    data = pickle.dumps(head)
    assert len(data) < 20_000 * (4 * 4 + 2 * 8) * 1.2
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(X), head.predict_proba(X))
    assert clone(head).get_params() == head.get_params()


def test_a_loss_that_is_not_finite_is_told_and_the_weights_stay_finite(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(solver="sgd", lr=1e38, random_state=0)
    with pytest.warns(FitWarning) as caught:
        head.fit(X, y)
    assert len(caught) == 1
    assert str(caught[0].message) == head.failed_
    assert head.failed_ == (
        "training loss became nan in epoch 1 (lr=1e+38, solver='sgd', 40 columns): the learning rate "
        "is too large for these features; use a smaller lr, or standardize=True; nothing was learned"
    )
    assert caught[0].filename == __file__
    assert head.stop_reason_ == "not finite"
    assert not head.converged_
    assert np.isfinite(head.weights_[0]).all()
    assert np.isfinite(head.predict_proba(X)).all()


def test_weights_that_overflow_in_the_last_step_are_not_kept(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(
        solver="sgd", lr=3e38, max_epochs=1, batch_size=180, standardize=False, restore="last"
    )
    with pytest.warns(FitWarning, match="training loss became nan in epoch 1"):
        head.fit(X, y)
    assert head.failed_ is not None
    assert np.isfinite(head.weights_[0]).all()


def test_a_second_fit_forgets_the_first(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(max_epochs=3, random_state=0).fit(X, y)
    head.predict(X)
    expected = SoftmaxClassifier(max_epochs=3, random_state=0).fit(-X, y).predict_proba(X)
    np.testing.assert_array_equal(head.fit(-X, y).predict_proba(X), expected)


def test_a_loss_that_does_not_move_is_told_with_the_remedy(blobs) -> None:
    X, y = blobs
    with pytest.warns(FitWarning) as caught:
        SoftmaxClassifier(lr=1e-9, max_epochs=5, random_state=0).fit(X, y)
    assert [str(one.message) for one in caught] == [
        "training loss has not moved after three epochs (1.792 -> 1.792; lr=1e-09, solver='adam', "
        "40 columns): the learning rate is too small, or the features say nothing about the classes to a "
        "head of this kind; use a larger lr, a deeper cut, or the mlp head"
    ]
    with pytest.warns(FitWarning, match="the learning rate is too large for these features; use"):
        SoftmaxClassifier(lr=1e4, solver="sgd", max_epochs=5, random_state=0).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "newton"}, "solver='newton' (allowed: 'adam', 'sgd' or 'lbfgs')"),
        ({"lr": 0.0}, "lr=0.0 (allowed: a number over 0, 'auto' or None)"),
        ({"lr": float("nan")}, "lr=nan (allowed: a number over 0, 'auto' or None)"),
        ({"dropout": 1.0}, "dropout=1.0 (allowed: a number from 0 below 1)"),
        (
            {"max_epochs": 0, "batch_size": -1},
            "max_epochs=0 (allowed: a whole number from 1); batch_size=-1 (allowed: a whole number from 1)",
        ),
        ({"monitor": "f1"}, "monitor='f1' (allowed: 'accuracy', 'loss' or 'metric')"),
        ({"restore": "first"}, "restore='first' (allowed: 'best' or 'last')"),
        ({"lr_schedule_per": "batch"}, "lr_schedule_per='batch' (allowed: 'epoch' or 'step')"),
        ({"alpha": -1.0}, "alpha=-1.0 (allowed: a number from 0)"),
    ],
)
def test_parameters_out_of_range(blobs, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SoftmaxClassifier(**settings).fit(*blobs)  # type: ignore[arg-type]
    assert str(caught.value) == f"SoftmaxClassifier cannot be fitted with {message}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"Cs": 5}, "Cs=5 (--Cs) is for C='auto' (--C auto), and C=1.0: leave one out"),
        (
            {"validation_fraction": 0.1, "C": 2.0},
            "validation_fraction=0.1 (--validation-fraction) is for C='auto' (--C auto), and C=2.0: leave "
            "one out",
        ),
        (
            {"C": "auto", "monitor": "metric"},
            "monitor='metric' (--monitor) needs the metric; name it with --metric (metrics=)",
        ),
    ],
)
def test_what_would_change_nothing_is_refused(blobs, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SoftmaxClassifier(solver="lbfgs", **settings).fit(*blobs)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_labels_that_cannot_work(blobs) -> None:
    X, y = blobs
    with pytest.raises(InvalidInputError) as caught:
        SoftmaxClassifier().fit(X, np.full(len(y), "cat"))
    assert str(caught.value) == (
        "a head needs samples of at least 2 classes, but the data holds only one class: 'cat'; add samples "
        "of another class"
    )
    with pytest.raises(InvalidInputError) as caught:
        SoftmaxClassifier().fit(X[:60], y[:60], X_val=X, y_val=y)
    assert str(caught.value) == (
        "y_val holds classes the training labels do not: 2, 3, 4, 5; leave those samples out"
    )
    with pytest.raises(InvalidInputError, match=r"^only one of X_test and y_test was given; give both"):
        SoftmaxClassifier().fit(X, y, X_test=X)
    with pytest.raises(InvalidInputError, match=r"^device='tpu' cannot be used here; allowed: 'cpu', 'auto'"):
        SoftmaxClassifier(device="tpu").fit(X, y)
    with pytest.raises(
        InvalidInputError,
        match=r"^SoftmaxClassifier cannot be fitted with C=0 \(allowed: a number over 0 or 'auto'\)$",
    ):
        SoftmaxClassifier(solver="lbfgs", C=0).fit(X, y)


def test_importing_the_package_loads_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, featbank.heads as heads; heads.names(); heads.FeatureSpace; "
        "raise SystemExit(' '.join(m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "\n"), done.stderr


def test_automatic_rate_is_the_smallest_that_gets_through_most_of_the_loss(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(lr="auto", random_state=0).fit(X, y)
    epochs = max(_gradient.TRIAL_EPOCHS, -(-_gradient.TRIAL_STEPS // -(-len(y) // 32)))
    left = {}
    for rate in _gradient.RATES:
        settings = {"max_epochs": epochs, "patience": epochs, "lr_schedule": "constant"}
        one = SoftmaxClassifier(lr=rate, restore="last", random_state=0, **settings).fit(X, y)
        left[rate] = one.history_["train_loss"][-1] / np.log(6)
    assert head.lr_ == min(rate for rate, loss in left.items() if loss <= _gradient.LOSS_LEFT)
    assert _gradient.RATES[0] < head.lr_ < _gradient.RATES[-1]
    again = SoftmaxClassifier(lr=head.lr_, random_state=0).fit(X, y)
    np.testing.assert_allclose(head.coef_, again.coef_, atol=1e-6)


def test_automatic_rate_where_nothing_can_be_learned_is_that_of_the_lowest_loss() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(2000, 2)), random.integers(0, 2, size=2000)
    head = SoftmaxClassifier(lr="auto", random_state=0, max_epochs=20).fit(X, y)
    assert head.lr_ in _gradient.RATES
    assert head.failed_ is None
