from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from featbank.errors import FitWarning
from featbank.heads import FeatureSpace, SoftmaxClassifier, _exact, fit_stack, softmax
from featbank.heads import space as spaces

#: What ``C="auto"`` chooses from by itself.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


def reference(X: np.ndarray, y: np.ndarray, C: float) -> LogisticRegression:
    # newton-cg: scikit-learn's lbfgs stops up to 1e-5 short of the optimum at any tolerance
    return LogisticRegression(C=C, tol=1e-10, max_iter=10_000, solver="newton-cg").fit(X, y)


def standardized(space: FeatureSpace, X: np.ndarray) -> np.ndarray:
    return (X.astype(np.float64) - space.mean_) / space.scale_


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_agrees_with_scikit_learn_on_few_features(blobs, C: float) -> None:
    X, y = blobs
    head = SoftmaxClassifier(solver="lbfgs", C=C).fit(X, y)
    expected = reference(standardized(head.space_, X), y, C)
    assert head.converged_
    np.testing.assert_allclose(
        head.predict_proba(X), expected.predict_proba(standardized(head.space_, X)), atol=1e-5
    )


@pytest.mark.parametrize("C", [1e-4, 1.0])
def test_agrees_with_scikit_learn_on_more_features_than_samples(sparse, C: float) -> None:
    X, y = sparse(5, 6, 3000, seed=0)
    other, _ = sparse(5, 6, 3000, seed=1)
    head = SoftmaxClassifier(solver="lbfgs", C=C).fit(X, y)
    expected = reference(standardized(head.space_, X), y, C)
    for rows in (X, other):
        np.testing.assert_allclose(
            head.predict_proba(rows), expected.predict_proba(standardized(head.space_, rows)), atol=1e-5
        )


@pytest.mark.parametrize("stored", [True, False], ids=["stored rows", "float32"])
def test_rows_in_float32_lead_to_the_optimum_too(monkeypatch, stored) -> None:
    # a shift of all intercepts moves no probability: without care, steps along it are rounding over rounding
    monkeypatch.setattr(softmax, "COPY_BYTES", 0 if stored else softmax.COPY_BYTES)
    monkeypatch.setattr(_exact, "FLOAT64_SIZE", 0)
    random = np.random.default_rng(1)
    y = np.arange(1200) % 4
    X = (0.2 * random.normal(size=(4, 30))[y] + random.normal(size=(1200, 30))).astype(np.float32)
    for C in (1e-4, 1e-2, 1.0):
        head = SoftmaxClassifier(solver="lbfgs", C=C).fit(X, y)  # a warning is an error
        assert head.converged_, C
        Z = standardized(head.space_, X)
        np.testing.assert_allclose(
            head.predict_proba(X), reference(Z, y, C).predict_proba(Z), atol=2e-5, err_msg=str(C)
        )


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
@pytest.mark.parametrize("validated", [True, False], ids=["validation rows", "folds"])
def test_what_is_not_finite_is_not_chosen_and_fails(blobs, monkeypatch, monitor, validated) -> None:
    X, y = blobs
    found = _exact.solve

    def broken(Z, problems, **settings):  # the smallest C, which is tried first
        return [
            replace(one, weights=one.weights * np.nan, converged=False) if problem.C <= 1e-3 else one
            for problem, one in zip(problems, found(Z, problems, **settings), strict=True)
        ]

    monkeypatch.setattr(softmax, "solve", broken)
    settings = {"solver": "lbfgs", "monitor": monitor}
    head = SoftmaxClassifier(C="auto", Cs=2, C_min=1e-3, C_max=1.0, **settings)
    head.fit(X, y, **({"X_val": X, "y_val": y} if validated else {}))
    assert (head.C_, head.failed_) == (1.0, None)
    with pytest.warns(FitWarning, match="not finite") as told:
        head = SoftmaxClassifier(C=1e-3, **settings).fit(X, y)
    assert "smaller" not in str(told[0].message)
    assert head.failed_
    assert (head.stop_reason_, head.converged_) == ("not finite", False)


@pytest.mark.parametrize("C", [1.0, 100.0])
def test_an_image_twice_with_two_labels_is_shared_between_them(C: float) -> None:
    # the two pull the weights in opposite directions, each very strongly
    random = np.random.default_rng(0)
    y = np.arange(40) % 4
    X = np.abs(random.normal(size=(40, 4096))) + 0.2 * random.normal(size=(4, 4096))[y]
    X[1] = X[0]
    X = X.astype(np.float32)
    head = SoftmaxClassifier(solver="lbfgs", C=C, rotate=False).fit(X, y)
    p = head.predict_proba(X)
    Z = standardized(head.space_, X)
    gradient = head._standardized_weights() / C + Z.T @ (p - np.eye(4)[y])
    assert np.abs(gradient).max() < 1e-5
    np.testing.assert_allclose(p.sum(axis=0), 10.0, atol=1e-5)
    np.testing.assert_allclose(p[:2, :2], 0.5, atol=2e-3)


def test_two_classes_are_penalised_as_scikit_learn_does(blobs) -> None:
    X, y = blobs[0][:60], blobs[1][:60]
    head = SoftmaxClassifier(solver="lbfgs", C=0.01).fit(X, y)
    expected = reference(standardized(head.space_, X), y, 0.01)
    np.testing.assert_allclose(
        head.predict_proba(X), expected.predict_proba(standardized(head.space_, X)), atol=1e-5
    )
    assert head.coef_.shape == (1, 40)
    np.testing.assert_allclose(X @ head.coef_[0] + head.intercept_[0], head.decision_function(X), atol=1e-6)


def test_a_subset_of_a_common_space_is_solved_in_its_own_span(sparse) -> None:
    X, y = sparse(5, 8, 3000, seed=0)
    space = FeatureSpace()
    Z = space.fit_transform(X)
    rows = np.flatnonzero(np.arange(40) % 8 < 3)
    (head,) = fit_stack([SoftmaxClassifier(solver="lbfgs")], Z, y, [rows], space=space)
    expected = reference(standardized(space, X[rows]), y[rows], 1.0)
    np.testing.assert_allclose(
        head.predict_proba(X), expected.predict_proba(standardized(space, X)), atol=1e-5
    )


def problem(y: np.ndarray, C: float) -> _exact.Problem:
    return _exact.Problem(np.arange(len(y)), y, int(y.max()) + 1, C)


def decision(Z: np.ndarray, one: _exact.Optimum) -> np.ndarray:
    logits = Z @ one.weights + one.intercept
    return logits - logits.mean(axis=1, keepdims=True)


def test_the_optimum_is_that_of_scikit_learn(blobs) -> None:
    Z, y = blobs[0].astype(np.float64) / 10, blobs[1]
    (optimum,) = _exact.solve(Z, [problem(y, 1.0)])
    assert optimum.converged
    assert optimum.gradient <= 2 * _exact.TOLERANCE
    assert np.abs(decision(Z, optimum) - reference(Z, y, 1.0).decision_function(Z)).max() < 1e-6


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
def test_tol_is_the_largest_part_of_the_gradient_of_the_mean_loss(blobs, tol: float) -> None:
    X, y = blobs
    head = SoftmaxClassifier(solver="lbfgs", tol=tol).fit(X, y)
    Z = standardized(head.space_, X)
    difference = head.predict_proba(X) - (y[:, None] == np.arange(6))
    gradient = Z.T @ difference / len(y) + head.weights_[0] / len(y)
    assert head.converged_
    assert np.abs(gradient).max() <= 1.01 * tol
    sharper = SoftmaxClassifier(solver="lbfgs", tol=tol / 100).fit(X, y)
    assert head.n_iter_ < sharper.n_iter_


def test_long_problems_on_different_rows_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y = np.arange(600) % 4
    Z = (random.normal(size=(4, 30))[y] + 2 * random.normal(size=(600, 30))).astype(np.float32)
    subsets = [np.sort(random.permutation(600)[:size]) for size in (400, 400, 150, 600)]
    problems = [_exact.Problem(rows, y[rows], 4, C) for rows in subsets for C in (0.01, 1.0)]
    fits = []
    made = _exact._Fit.__init__

    def counted(self, A, problems, *args):
        fits.append(len(problems))
        made(self, A, problems, *args)

    monkeypatch.setattr(_exact._Fit, "__init__", counted)
    together = _exact.solve(Z, problems)
    assert fits == [4, 2, 2]
    for one, optimum in zip(problems, together, strict=True):
        expected = reference(Z[one.rows].astype(np.float64), y[one.rows], one.C).decision_function(Z)
        np.testing.assert_allclose(
            decision(Z, optimum), expected - expected.mean(1, keepdims=True), atol=1e-5
        )


def test_problems_on_few_of_many_rows_go_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together each would go through the rows of all."""
    random = np.random.default_rng(0)
    y = np.arange(20_000) % 4
    Z = (random.normal(size=(4, 200))[y] + 2 * random.normal(size=(20_000, 200))).astype(np.float32)
    subsets = [np.sort(random.permutation(20_000)[:900]) for _ in range(3)]
    problems = [_exact.Problem(rows, y[rows], 4, C) for rows in subsets for C in (0.01, 1.0)]
    fits = []
    made = _exact._Fit.__init__

    def counted(self, A, problems, *args):
        fits.append((len(problems), len(A)))
        made(self, A, problems, *args)

    monkeypatch.setattr(_exact._Fit, "__init__", counted)
    apart = _exact.solve(Z, problems)
    assert fits == [(2, 900)] * 3
    monkeypatch.setattr(_exact, "APART", 100.0)
    together = _exact.solve(Z, problems)
    assert fits[3][0] == 6
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(decision(Z, one), decision(Z, other), atol=1e-5)


def test_problems_of_two_and_more_classes_in_one_call(blobs) -> None:
    Z, y = blobs[0].astype(np.float64) / 10, blobs[1]
    two = np.flatnonzero(y < 2)
    problems = [problem(y, 0.1), _exact.Problem(two, y[two], 2, 0.1)]
    many, few = _exact.solve(Z, problems)
    expected = reference(Z, y, 0.1).decision_function(Z)
    np.testing.assert_allclose(decision(Z, many), expected - expected.mean(1, keepdims=True), atol=1e-6)
    logits = decision(Z, few)
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], reference(Z[two], y[two], 0.1).decision_function(Z), atol=1e-6
    )


@pytest.mark.parametrize("n_rows", [40, 250])
def test_rows_in_float32_and_their_products_lead_to_the_same(monkeypatch, n_rows: int) -> None:
    random = np.random.default_rng(0)
    y = np.arange(n_rows) % 4
    Z = (
        random.normal(size=(4, 50))[y] + random.normal(size=(n_rows, 50)) * np.geomspace(3, 0.01, 50)
    ).astype(np.float32)
    expected = reference(Z.astype(np.float64), y, 10.0).predict_proba(Z.astype(np.float64))
    monkeypatch.setattr(_exact, "FLOAT64_SIZE", 0)
    monkeypatch.setattr(_exact, "SPAN_PART", 0)
    monkeypatch.setattr(_exact, "QUASI_STEPS_32", 5)
    made = []
    due = _exact._Preconditioner.due

    def noted(self, *args, **settings):
        made.append(due(self, *args, **settings))
        return made[-1]

    monkeypatch.setattr(_exact._Preconditioner, "due", noted)
    (optimum,) = _exact.solve(Z, [problem(y, 10.0)])
    assert optimum.converged
    assert any(made)
    assert not all(made)
    logits = Z @ optimum.weights + optimum.intercept
    given = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(given / given.sum(axis=1, keepdims=True), expected, atol=1e-5)


def test_features_too_many_to_copy_are_standardised_in_every_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    random = np.random.default_rng(0)
    y = np.arange(300) % 3
    X = (random.normal(size=(3, 40))[y] * 5 + random.normal(size=(300, 40)) * 3 + 7).astype(np.float16)
    np.save(tmp_path / "X.npy", X)
    expected = SoftmaxClassifier(solver="lbfgs").fit(X, y)
    monkeypatch.setattr("featbank.heads.softmax.COPY_BYTES", 0)
    monkeypatch.setattr("featbank.heads.space.BLOCK_BYTES", 4 * 40 * 100)
    monkeypatch.setattr("featbank.heads.softmax.MEASURED_ROWS", 100)
    shapes = []
    scaling = spaces.Scaling.__call__

    def noted(self, raw, *args):
        shapes.append(raw.shape)
        return scaling(self, raw, *args)

    monkeypatch.setattr(spaces.Scaling, "__call__", noted)
    head = SoftmaxClassifier(solver="lbfgs").fit(np.load(tmp_path / "X.npy", mmap_mode="r"), y)
    assert {shape for shape in shapes if shape[0] > 100} == set()
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(X), atol=1e-5)


def test_several_penalties_come_back_in_the_order_given(blobs) -> None:
    Z, y = blobs[0].astype(np.float64) / 10, blobs[1]
    penalties = [1.0, 0.01, 100.0]
    together = _exact.solve(Z, [problem(y, C) for C in penalties])
    for C, one in zip(penalties, together, strict=True):
        (alone,) = _exact.solve(Z, [problem(y, C)])
        np.testing.assert_allclose(one.weights, alone.weights, atol=1e-5)
    sizes = [float((one.weights**2).sum()) for one in together]
    assert sizes[1] < sizes[0] < sizes[2]


def test_steps_in_float32_reach_the_optimum_where_probabilities_are_nearly_0_and_1(blobs) -> None:
    Z, y = blobs[0].astype(np.float64), blobs[1]
    (optimum,) = _exact.solve(Z, [problem(y, 1e4)])
    assert optimum.converged
    exact = reference(Z, y, 1e4)
    logits = Z @ optimum.weights + optimum.intercept
    difference = logits - exact.decision_function(Z)
    difference -= difference.mean(axis=1, keepdims=True)
    assert np.abs(difference).max() < 1e-4 * np.abs(logits).max()


def test_penalties_on_the_same_rows_are_solved_once(sparse, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = sparse(6, 5, 300, seed=0)
    space = FeatureSpace()
    Z = space.fit_transform(X)
    subsets = [np.flatnonzero(np.arange(len(y)) // 5 % 3 != left) for left in (0, 1)]
    calls = []

    made = _exact._Fit.__init__

    def counted(self, A, problems, *args):
        calls.append(len(problems))
        made(self, A, problems, *args)

    monkeypatch.setattr(_exact._Fit, "__init__", counted)
    heads = [SoftmaxClassifier(solver="lbfgs", C=C) for C in (1.0, 0.01) for _ in subsets]
    together = fit_stack(heads, Z, y, subsets * 2, space=space)
    assert calls == [4]
    for head, rows in zip(together, subsets * 2, strict=True):
        (alone,) = fit_stack([SoftmaxClassifier(solver="lbfgs", C=head.C)], Z, y, [rows], space=space)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-6)


def test_automatic_penalty_is_that_of_lowest_validation_loss(blobs) -> None:
    X, y = blobs
    train, val = np.arange(0, len(y), 2), np.arange(1, len(y), 2)
    head = SoftmaxClassifier(solver="lbfgs", C="auto")
    head.fit(X[train], y[train], X_val=X[val], y_val=y[val])
    losses = {}
    for C in PENALTIES:
        one = SoftmaxClassifier(solver="lbfgs", C=C).fit(X[train], y[train], X_val=X[val], y_val=y[val])
        losses[C] = one.history_["val_loss"][0]
    assert min(losses, key=losses.__getitem__) == head.C_
    assert head.history_["val_loss"][0] == pytest.approx(losses[head.C_], rel=1e-5)


def test_automatic_penalty_goes_by_cross_validation_without_validation_rows(blobs) -> None:
    X, y = blobs
    head = SoftmaxClassifier(solver="lbfgs", C="auto").fit(X, y, X_test=X, y_test=y)
    assert head.C_ in PENALTIES
    assert min(PENALTIES) < head.C_  # with labels that mean something, the least is not best
    again = SoftmaxClassifier(solver="lbfgs", C=head.C_).fit(X, y)
    np.testing.assert_allclose(head.coef_, again.coef_, atol=1e-5)  # fitted to all rows, none left out
    assert "val_loss" not in head.history_
    noise = np.random.default_rng(0).permutation(y)
    assert SoftmaxClassifier(solver="lbfgs", C="auto").fit(X, noise).C_ < head.C_


@pytest.mark.parametrize("counts", [(1, 2), (1, 1, 5), (2, 2), (3, 1, 4)])
def test_automatic_penalty_of_few_samples(counts) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    X = np.random.default_rng(1).normal(size=(len(y), 30)) + y[:, None]
    head = SoftmaxClassifier(solver="lbfgs", C="auto").fit(X, y)
    assert head.C_ in PENALTIES
    assert head.classes_.tolist() == sorted(set(y.tolist()))


def test_one_sample_of_each_class_leaves_nothing_to_choose_by() -> None:
    X = np.random.default_rng(1).normal(size=(4, 30))
    with pytest.warns(
        FitWarning, match=r"C='auto' has nothing to choose by.* one sample of each class; C=1 was"
    ):
        head = SoftmaxClassifier(solver="lbfgs", C="auto").fit(X, [0, 1, 2, 3])
    assert head.C_ == 1.0


def test_an_optimum_not_reached_is_told(blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exact, "MAX_NEWTON_STEPS", 1)
    monkeypatch.setattr(_exact, "QUASI_STEPS", 0)
    with pytest.warns(
        FitWarning, match=r"1 Newton steps did not reach the optimum at C=1 \(.*\); use a smaller C"
    ):
        SoftmaxClassifier(solver="lbfgs").fit(*blobs)
    X, y = blobs
    with pytest.warns(FitWarning, match=r"did not reach the optimum at C=1 \(.*\); use standardize=True$"):
        SoftmaxClassifier(solver="lbfgs", standardize=False).fit(X + 1000, y)


def largest_gradient(Z: np.ndarray, y: np.ndarray, one: _exact.Optimum, C: float) -> float:
    """Return the largest part of the gradient of the mean loss, in float64."""
    logits = Z @ one.weights + one.intercept
    P = np.exp(logits - logits.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    P[np.arange(len(y)), y] -= 1
    return float(max(np.abs(one.weights / C + Z.T @ P).max(), np.abs(P.sum(axis=0)).max()) / len(y))


def test_a_loose_tolerance_in_the_span_is_about_the_features(sparse) -> None:
    X, y = sparse(5, 6, 3000, seed=0)
    Z = FeatureSpace(rotate=False).fit_transform(X)
    tol = 1e-3
    (loose,) = _exact.solve(Z, [problem(y, 0.01)], tol=tol)
    (tight,) = _exact.solve(Z, [problem(y, 0.01)])
    found = largest_gradient(Z.astype(np.float64), y, loose, 0.01)
    assert tol / 50 < found < tol * 1.01
    assert loose.n_iter < tight.n_iter
    assert loose.gradient == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize(("tol", "held"), [(1e-4, True), (0.0, True), (0.0, False)])
def test_rounded_rows_lead_to_the_same_optimum(blobs, monkeypatch, tol: float, held: bool) -> None:
    X, y = blobs
    Z = FeatureSpace(rotate=False).fit_transform(X)
    subsets = [np.arange(len(y)), np.flatnonzero(np.arange(len(y)) % 5)]
    problems = [_exact.Problem(rows, y[rows], 6, C) for rows in subsets for C in (0.01, 1.0)]
    expected = _exact.solve(Z, problems)
    made = []
    original = _exact._RoundedRows.times
    monkeypatch.setattr("featbank.heads._exact.MIN_ROUNDED", 0)
    if not held:  # of many classes, logits are not: then only conjugate gradients are of rounded rows
        monkeypatch.setattr("featbank.heads._exact.MAX_ROUNDED_LOGITS", 0)
    monkeypatch.setattr("featbank.heads._exact._multiplies_rounded", lambda: True)
    monkeypatch.setattr(
        _exact._RoundedRows, "times", lambda self, *args: (made.append(1), original(self, *args))[1]
    )
    for one, other, job in zip(_exact.solve(Z, problems, tol=tol), expected, problems, strict=True):
        # where it ends is judged by rows that are not rounded
        gradient = largest_gradient(Z[job.rows].astype(np.float64), job.targets, one, job.C)
        assert one.converged
        assert gradient < max(1.01 * tol, 1e-8)
        if not tol:
            np.testing.assert_allclose(decision(Z, one), decision(Z, other), atol=1e-5)
    assert made


@pytest.mark.parametrize(
    ("said", "rounds"), [("flags : avx2 avx512_bf16", True), ("flags : avx512f", False), (None, False)]
)
def test_rounding_hangs_on_the_processor_and_the_size_alone(
    monkeypatch, said: str | None, rounds: bool
) -> None:
    """Not on a clock, nor on whether torch happens to be imported: the same fit gives the same bits."""

    def read_text(*_: object) -> str:
        if said is None:
            raise FileNotFoundError
        return said

    import torch  # noqa: F401

    monkeypatch.setattr("featbank.heads._exact.Path.read_text", read_text)
    _exact._multiplies_rounded.cache_clear()
    rows = np.zeros((2**10, 2**10), np.float32)
    assert (_exact._round_rows(rows, 2**10) is not None) == rounds
    assert _exact._round_rows(rows, 2**10 - 1) is None
    _exact._multiplies_rounded.cache_clear()


@pytest.mark.parametrize("metric", [None, 3.0])
def test_steps_of_lbfgs_are_those_of_the_textbook(metric: float | None) -> None:
    random = np.random.default_rng(0)
    steps, pairs = _exact._Steps(10, 2.0), []
    scale = np.repeat([1.0, 2.0], [10, 2])  # an intercept counts as the weight of a column of 2
    given = None if metric is None else lambda Q: Q / metric / scale**2  # any number at once
    g = random.normal(size=12)
    for number in range(_exact.MEMORY + 2):
        s = random.normal(size=12)
        y = s * random.uniform(1, 2, size=12) * (-1 if number == 5 else 1)
        pairs.append((s / scale, y * scale))
        steps.add(s[None], y[None])
        found = steps.next(g[None], given)
    q, taken, kept = g * scale, [], pairs[-_exact.MEMORY :]
    kept.pop(5 - 2)  # the one whose gradient fell the wrong way, as rounding has it, says nothing
    for s, y in reversed(kept):
        taken.append(s @ q / (s @ y))
        q -= taken[-1] * y
    if metric is None:
        q *= kept[-1][0] @ kept[-1][1] / (kept[-1][1] @ kept[-1][1])
    else:
        s, y = kept[-1]  # scaled as the last step says
        q = (s @ y) / (y @ (y / metric / scale**2)) * q / metric / scale**2
    for (s, y), a in zip(kept, reversed(taken), strict=True):
        q += (a - y @ q / (s @ y)) * s
    np.testing.assert_allclose(found[0], -q * scale, rtol=1e-4, atol=1e-5)
    if metric is not None:  # of another one, all changes are turned anew
        steps.next(g[None], lambda Q: Q, renewed=True)
        np.testing.assert_allclose(steps.next(g[None], given, renewed=True), found, rtol=1e-4, atol=1e-5)


def test_factors_from_the_first_step_on_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y = np.arange(600) % 4
    inside = random.normal(size=(4, 50))[y] + random.normal(size=(600, 50))
    Z = ((inside * np.geomspace(3, 0.1, 50)) @ random.normal(size=(50, 50)) / 7).astype(np.float32)
    (early,) = _exact.solve(Z, [problem(y, 0.1)], tol=1e-4)
    monkeypatch.setattr(_exact, "EXPECTED_PASSES", 0)
    (late,) = _exact.solve(Z, [problem(y, 0.1)], tol=1e-4)
    assert 1.3 * early.n_iter < late.n_iter
    for one in (early, late):
        assert one.converged
        assert largest_gradient(Z.astype(np.float64), y, one, 0.1) < 1.01e-4


def test_two_classes_of_many_rows_begin_with_factors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y = np.arange(4000) % 2
    inside = random.normal(size=(2, 40))[y] * 0.3 + random.normal(size=(4000, 40))
    Z = ((inside * np.geomspace(3, 0.1, 40)) @ random.normal(size=(40, 40)) / 6).astype(np.float32)
    (early,) = _exact.solve(Z, [problem(y, 0.1)], tol=1e-4)
    monkeypatch.setattr(_exact, "LIGHT_ALONE", 1000)
    (late,) = _exact.solve(Z, [problem(y, 0.1)], tol=1e-4)
    assert 1.3 * early.n_iter < late.n_iter
    assert early.converged
    np.testing.assert_allclose(decision(Z, early), decision(Z, late), atol=0.1)


def test_problems_in_a_span_of_orthogonal_columns_take_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y = np.arange(120) % 6
    inside = random.normal(size=(6, 300))[y] * 0.3 + random.normal(size=(120, 300))
    Z = ((inside * (1 + np.arange(300)) ** -0.5) @ random.normal(size=(300, 2000))).astype(np.float32)
    Z = (Z - Z.mean(axis=0)) / Z.std(axis=0)
    problems = [problem(y, C) for C in (0.001, 0.01, 0.1)]
    aligned = _exact.solve(Z, problems, tol=1e-4)
    monkeypatch.setattr(_exact, "ALIGNED_COLUMNS", 0)
    plain = _exact.solve(Z, problems, tol=1e-4)
    assert 1.5 * sum(one.n_iter for one in aligned) < sum(one.n_iter for one in plain)
    for one, other in zip(problems, aligned, strict=True):
        assert other.converged
        assert largest_gradient(Z.astype(np.float64), y, other, one.C) < 1.01e-4


def test_no_pass_is_made_for_a_step_that_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y = np.arange(400) % 40
    Z = (random.normal(size=(40, 20))[y] + random.normal(size=(400, 20))).astype(np.float32)
    monkeypatch.setattr(_exact, "FLOAT64_SIZE", 0)
    monkeypatch.setattr(_exact, "SPAN_PART", 0)
    passes: list[int] = []
    step, spend = _exact._Fit.newton_step, _exact._Preconditioner.spend

    def noted(self, *args):
        passes.append(0)
        try:
            return step(self, *args)
        finally:
            passes.append(-1)

    def spent(self, columns):
        if passes and passes[-1] >= 0:
            passes[-1] += 1
        spend(self, columns)

    monkeypatch.setattr(_exact._Fit, "newton_step", noted)
    monkeypatch.setattr(_exact._Preconditioner, "spend", spent)
    (optimum,) = _exact.solve(Z, [problem(y, 1.0)])
    made = passes[::2]
    assert optimum.converged
    assert max(made) > 5
    assert made[-1] == 0
    given, expected = decision(Z, optimum), reference(Z.astype(np.float64), y, 1.0).decision_function(Z)
    np.testing.assert_allclose(given, expected - expected.mean(1, keepdims=True), atol=1e-4)


def test_a_loose_tolerance_that_rounding_keeps_it_from_is_told() -> None:
    random = np.random.default_rng(0)
    y = np.arange(300) % 3
    far = (random.normal(size=(3, 10))[y] + random.normal(size=(300, 10)) + 100).astype(np.float32)
    with pytest.warns(FitWarning, match="did not reach the optimum"):
        head = SoftmaxClassifier(solver="lbfgs", tol=1e-6, standardize=False).fit(far, y)
    assert not head.converged_


def test_two_classes_are_measured_as_they_are_answered_and_rows_are_left_as_they_are(blobs) -> None:
    X, y = blobs[0][blobs[1] < 2].astype(np.float32) / 10, blobs[1][blobs[1] < 2]
    X.setflags(write=False)
    head = SoftmaxClassifier(solver="lbfgs", C=0.01, standardize=False).fit(X, y)
    own = head.predict_proba(X)[np.arange(len(y)), y]
    assert head.history_["train_loss"][0] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert head.history_["train_accuracy"][0] == head.score(X, y)


def test_rows_that_problems_share_are_expressed_in_their_span_once(sparse, monkeypatch) -> None:
    X, y = sparse(6, 5, 300, seed=0)
    Z = FeatureSpace(rotate=False).fit_transform(X)
    subsets = [np.delete(np.arange(30), left) for left in (0, 7)]
    jobs = [_exact.Problem(rows, y[rows], 6, C) for rows in subsets for C in (0.1, 1.0)]
    spans = []
    made = _exact._Span.__init__

    def noted(self, rows, *args):
        spans.append(len(rows))
        made(self, rows, *args)

    monkeypatch.setattr(_exact._Span, "__init__", noted)
    together = _exact.solve(Z, jobs)
    assert spans == [30]
    for one, job in zip(together, jobs, strict=True):
        (alone,) = _exact.solve(Z, [job])
        np.testing.assert_allclose(decision(Z, one), decision(Z, alone), atol=1e-5)


@pytest.mark.parametrize("tol", [1e-4, 1e-10])
@pytest.mark.parametrize("width", [3, 5, 300])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rows_that_are_all_alike_give_the_shares_of_the_classes(value: float, width: int, tol: float) -> None:
    """As scikit-learn has it: weights of zero, intercepts of the classes' shares."""
    y = np.array([0, 0, 1, 1, 2, 2, 2])
    for standardize in (True, False):
        head = SoftmaxClassifier(solver="lbfgs", tol=tol, standardize=standardize)
        head.fit(np.full((7, width), value), y)
        assert head.predict_proba(np.full((1, width), value)) == pytest.approx(
            np.array([[2, 2, 3]]) / 7, abs=1e-3 if tol > 1e-6 else 1e-5
        )


@pytest.mark.parametrize(
    ("seed", "size", "scale", "C"), [(36, (6, 300, 3), 1, 1.0), (2, (60, 128, 3), 30, 0.01)]
)
def test_rounding_of_the_objective_does_not_end_steps_before_the_tolerance(seed, size, scale, C) -> None:
    random = np.random.default_rng(seed)
    n, d, n_classes = size
    y = np.arange(n) % n_classes
    inside = random.normal(size=(n_classes, d))[y] * 0.3 + random.normal(size=(n, d))
    (one,) = _exact.solve((scale * inside).astype(np.float32), [problem(y, C)], tol=1e-5)
    assert one.converged, one.gradient


def test_the_tolerance_is_of_standardised_features_in_wide_spaces_too() -> None:
    random = np.random.default_rng(0)
    y = np.arange(40) % 4
    X = (random.normal(size=(4, 2**15))[y] * 0.1 + random.normal(size=(40, 2**15))).astype(np.float32)
    space = FeatureSpace(rotate=False)
    Z = space.fit_transform(X)
    assert space.gain_ == 0.125
    head = SoftmaxClassifier(solver="lbfgs", tol=1e-4, C=0.01)
    fit_stack([head], Z, y, [np.arange(40)], space=space)
    standardized = (Z / np.float32(space.gain_)).astype(np.float64)
    found = _exact.Optimum(head._standardized_weights(), head.weights_[1], 0, True, 0.0)
    assert largest_gradient(standardized, y, found, 0.01) < 1.05e-4


@pytest.mark.parametrize("noise", [0.01, 0.001])
def test_rows_with_one_direction_in_common_keep_the_others(noise: float) -> None:
    random = np.random.default_rng(0)
    y = np.arange(120) % 4
    common = random.normal(size=(120, 1)) @ random.normal(size=(1, 1500))
    Z = (common + noise * random.normal(size=(120, 1500))).astype(np.float32)
    Z = (Z - Z.mean(axis=0)) / Z.std(axis=0)
    problems = [problem(y, C) for C in (1.0, 100.0, 1e4)]
    for one, found in zip(problems, _exact.solve(Z, problems, tol=1e-4), strict=True):
        assert found.converged
        assert largest_gradient(Z.astype(np.float64), y, found, one.C) < 1.05e-4
