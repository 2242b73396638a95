"""Sweeps of heads against the loop a user would write; by hand (`make bench`), because it takes minutes.

Ratios within one run are printed next to what is wanted of them. The banks are made once, in
$FEATBANK_BENCH_CACHE where it is set. Of the 200 fits of the exact sweep, the first repeat of each size at
two of the five penalties goes through scikit-learn, and its time is scaled to all of them.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import RidgeClassifier as SklearnRidge
from sklearn.svm import LinearSVC

from featbank.banks import Bank
from featbank.extraction import extract
from featbank.heads import FeatureSpace, LinearSVMClassifier, RidgeClassifier, SoftmaxClassifier, fit_stack
from featbank.sampling import draw_nested

SIZES, REPEATS, PENALTIES = (4, 8, 16, 28), 10, (0.01, 0.1, 1.0, 10.0, 100.0)
SAMPLED_PENALTIES = (0.1, 10.0)
#: scikit-learn's ways to go: (solver, tolerance, dtype). Its default solver, lbfgs, stops up to 1e-4 short of
#: the optimum's probabilities at any tolerance, and takes several times as long there as newton-cg.
OPTIMUM = "newton-cg, tol 1e-11"
LOOPS = {
    OPTIMUM: ("newton-cg", 1e-11, np.float64),
    "lbfgs, default tol": ("lbfgs", 1e-4, np.float64),
    "lbfgs, default tol, float32": ("lbfgs", 1e-4, np.float32),
}

#: The grids: each cell up to so many rows x features x classes at each tolerance; FEATBANK_BENCH_FULL=1 takes
#: all that memory allows, which is hours, most of them in scikit-learn.
FULL = bool(os.environ.get("FEATBANK_BENCH_FULL"))
CELLS = [
    (n, d, k)
    for n in (128, 640, 2048, 10240, 44863)
    for d in (256, 2048, 25088)
    for k in (2, 10, 100)
    if n >= 2 * k
]
LARGEST = {1e-4: 2**40 if FULL else 2**28, 1e-10: 2**40 if FULL else 2**26}
#: Bytes of float32 rows beyond which a cell is left out.
LARGEST_CELL = 5e9
#: What is compared goes by turns, so often or so long.
MAX_ROUNDS, ROUNDS_S = 5, 3.0
#: One fit of scikit-learn that takes longer is not repeated for other values of C.
LONGEST_LOOPED_S = float(os.environ.get("FEATBANK_BENCH_LOOPED_S", "60"))

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    shared = Path(__file__).parents[2].parent / "shared"
    photographs = shared / "data" / "caltech101-32"
    weights = shared / "weights" / "mobilenet_v2-imagenet1k.safetensors"
    if not photographs.is_dir() or not weights.is_file():
        pytest.skip(f"{photographs} or {weights} is not there")
    cache = os.environ.get("FEATBANK_BENCH_CACHE") or tmp_path_factory.mktemp("cache")
    done = extract(
        photographs,
        backbone="mobilenet_v2",
        weights=weights,
        cuts=["avgpool", "features.6", "features"],
        cache_dir=cache,
    )
    return Bank.open(done.bank)


def rows_by_class(bank: Bank, start: int, stop: int) -> np.ndarray:
    """Return the images `start` to `stop` of each class, in the order of their names."""
    labels = np.asarray(bank.manifest.labels)
    return np.concatenate([np.flatnonzero(labels == code)[start:stop] for code in np.unique(labels)])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def probabilities(Z: np.ndarray, weights: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    logits = Z @ weights + intercept
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("cut", "wanted"), [("features.6", (40, 12)), ("avgpool", (1, 1))])
def test_exact_sweep(bank: Bank, cut: str, wanted: tuple[int, int]) -> None:
    train = rows_by_class(bank, 0, 28)
    X, y = bank.features(cut, train, dtype=None), bank.manifest.labels[train].astype(np.int64)
    X_test = bank.features(cut, rows_by_class(bank, 32, 40), dtype=None)
    draws = draw_nested(y, SIZES, repeats=REPEATS, random_state=0)
    subsets = {(n, repeat): rows for repeat, draw in enumerate(draws) for n, rows in draw.items()}

    def sweep() -> dict[tuple[int, int, float], SoftmaxClassifier]:
        space = FeatureSpace()
        Z = space.fit_transform(X)
        space.transform(X_test)
        cells = [(n, repeat, C) for n, repeat in subsets for C in PENALTIES]
        heads = [SoftmaxClassifier(solver="lbfgs", C=C) for _, _, C in cells]
        fit_stack(heads, Z, y, [subsets[n, repeat] for n, repeat, _ in cells], space=space)
        return dict(zip(cells, heads, strict=True))

    ours_s, fitted = timed(sweep)
    space = next(iter(fitted.values())).space_
    standardized = (X.reshape(len(X), -1).astype(np.float64) - space.mean_) / space.scale_
    tested = (X_test.reshape(len(X_test), -1).astype(np.float64) - space.mean_) / space.scale_
    print(f"\n{cut}: {standardized.shape[1]} features, {len(fitted)} fits in {ours_s:.1f} s")  # noqa: T201
    worst = {}
    for name, (solver, tol, dtype) in LOOPS.items():
        Z, Z_test = standardized.astype(dtype), tested.astype(dtype)
        total_s, difference, n_fits = 0.0, 0.0, 0
        for n, rows in draws[0].items():
            for C in SAMPLED_PENALTIES:
                estimator = LogisticRegression(C=C, tol=tol, max_iter=100_000, solver=solver)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    each_s, _ = timed(partial(estimator.fit, Z[rows], y[rows]))
                total_s, n_fits = total_s + each_s, n_fits + 1
                head = fitted[n, 0, C]
                mine = probabilities(tested, head._standardized_weights(), head.weights_[1])
                difference = max(difference, float(np.abs(estimator.predict_proba(Z_test) - mine).max()))
        worst[name] = difference
        scaled_s = total_s * len(fitted) / n_fits
        print(  # noqa: T201
            f"  scikit-learn {name}: {scaled_s:.0f} s, from {n_fits} fits; {scaled_s / ours_s:.1f} times "
            f"as long; largest difference of a test probability {difference:.1e}",
            flush=True,
        )
    print(f"  wanted: {wanted[0]} times to the optimum, {wanted[1]} at the default tolerance")  # noqa: T201
    assert worst[OPTIMUM] < 1e-5


@pytest.mark.parametrize("n_per_class", SIZES)
@pytest.mark.parametrize("cut", ["avgpool", "features.6"])
def test_exact_head_is_scikit_learns_at_tolerance_1e_10(bank: Bank, cut: str, n_per_class: int) -> None:
    rows, other = rows_by_class(bank, 0, n_per_class), rows_by_class(bank, 32, 40)
    X, y = bank.features(cut, rows), bank.manifest.labels[rows]
    head = SoftmaxClassifier(solver="lbfgs").fit(X, y)
    Z, Z_other = ((bank.features(cut, at) - head.space_.mean_) / head.space_.scale_ for at in (rows, other))
    differences = {}
    for solver in ("newton-cg", "lbfgs") if Z.shape[1] < 5000 else ("newton-cg",):
        expected = LogisticRegression(tol=1e-10, max_iter=100_000, solver=solver).fit(Z, y)
        given = head.predict_proba(bank.features(cut, other))
        differences[solver] = float(np.abs(given - expected.predict_proba(Z_other)).max())
    print(f"\n{cut}, {n_per_class} per class: {differences}", end="")  # noqa: T201
    assert differences["newton-cg"] < 1e-5


def stack_problem(bank: Bank, cut: str, rotate: Any) -> tuple[Any, ...]:
    train, test = rows_by_class(bank, 0, 28), rows_by_class(bank, 32, 40)
    space = FeatureSpace(rotate=rotate)
    Z = space.fit_transform(bank.features(cut, train, dtype=None))
    y = bank.manifest.labels[train].astype(np.int64)
    watched = {
        "Z_val": space.transform(bank.features(cut, test, dtype=None)),
        "y_val": bank.manifest.labels[test],
    }
    subsets = [draw[16] for draw in draw_nested(y, [16], repeats=40, random_state=0)]
    return space, Z, y, subsets, watched


def fitted_alone(
    problem: tuple[Any, ...], count: int, rotate: Any = "auto"
) -> tuple[float, list[SoftmaxClassifier]]:
    space, Z, y, subsets, watched = problem
    return timed(
        lambda: [
            fit_stack(
                [SoftmaxClassifier(random_state=i, rotate=rotate)], Z, y, [subsets[i]], space=space, **watched
            )[0]
            for i in range(count)
        ]
    )


def fitted_together(problem: tuple[Any, ...]) -> tuple[float, list[SoftmaxClassifier]]:
    space, Z, y, subsets, watched = problem
    heads = [SoftmaxClassifier(random_state=i) for i in range(len(subsets))]
    return timed(lambda: fit_stack(heads, Z, y, subsets, space=space, **watched))


def test_forty_heads_together(bank: Bank) -> None:
    problem = stack_problem(bank, "avgpool", rotate=False)
    ratios = []
    for _ in range(3):
        alone_s, alone = fitted_alone(problem, 40)
        together_s, together = fitted_together(problem)
        ratios.append(together_s / alone_s)
    print(  # noqa: T201
        f"\n1,280 features: {alone_s:.1f} s alone, {together_s:.1f} s together; ratios {ratios}, wanted 0.33"
    )
    for one, other in zip(alone, together, strict=True):
        for name in one.history_:
            np.testing.assert_allclose(one.history_[name], other.history_[name], rtol=1e-3, atol=1e-4)


def test_forty_heads_together_in_their_span(bank: Bank) -> None:
    count = 8  # of 40: each takes some seconds
    wide = stack_problem(bank, "features.6", rotate=False)
    alone_s, alone = fitted_alone(wide, count, rotate=False)
    start = time.perf_counter()
    problem = stack_problem(bank, "features.6", rotate=True)
    rotation_s = time.perf_counter() - start
    together_s, together = fitted_together(problem)
    ratio = (rotation_s + together_s) / (alone_s * 40 / count)
    print(  # noqa: T201
        f"\n25,088 features: {alone_s:.1f} s for {count} alone, {together_s:.1f} s for 40 together after "
        f"{rotation_s:.1f} s of reading and rotating; ratio {ratio:.3f}, wanted 0.1"
    )
    accuracy = {
        name: np.mean([one.history_["val_accuracy"][one.best_epoch_ - 1] for one in heads[:count]])
        for name, heads in (("alone", alone), ("together", together))
    }
    print(f"accuracies {accuracy}, wanted within 0.005 over the same heads")  # noqa: T201


@pytest.mark.parametrize(
    ("n_features", "n_classes"), [(512, 10), (1280, 32), (1280, 256), (4096, 32), (4096, 256)]
)
def test_the_planner_is_not_slower_than_one_after_another(n_features: int, n_classes: int) -> None:
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), 8)
    X = (random.normal(size=(n_classes, n_features))[y] + random.normal(size=(len(y), n_features))).astype(
        np.float32
    )
    space = FeatureSpace(rotate=False)
    Z = space.fit_transform(X)
    ratios, every = [], np.arange(len(y))
    for _ in range(3):
        settings = {"max_epochs": 6, "rotate": False}
        heads = [SoftmaxClassifier(random_state=i, **settings) for i in range(8)]
        alone_s, _ = timed(lambda h=heads: [fit_stack([one], Z, y, [every], space=space) for one in h])
        together_s, _ = timed(lambda h=heads: fit_stack(h, Z, y, [every] * 8, space=space))
        ratios.append(together_s / alone_s)
    print(f"\n{n_features} x {n_classes}: together / alone {sorted(ratios)[1]:.2f}, wanted at most 1", end="")  # noqa: T201


def draw_features(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised float32 rows whose variances fall by a power law, as a cut's do, and labels."""
    random = np.random.default_rng([n, d, n_classes])
    y = np.arange(n) % n_classes
    r = min(d, 2048)
    spread = (1 + np.arange(r)) ** -0.5
    inside = random.normal(size=(n_classes, r))[y] * 0.3 + random.normal(size=(n, r))
    Z = ((inside * spread) @ random.normal(size=(r, d))).astype(np.float32)
    Z += 0.1 * random.standard_normal(Z.shape, dtype=np.float32) * Z.std()
    Z -= Z.mean(axis=0)
    Z /= Z.std(axis=0)
    return Z, y


def by_turns(calls: dict[str, Callable[[], Any]]) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Return the least seconds of each, by the clock and of the processor, and what it returned.

    Others on the machine lengthen both by turns; of the processor's, they lengthen only waiting threads.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    values = {}
    started = time.perf_counter()
    for _ in range(MAX_ROUNDS):
        for name, call in calls.items():
            clock, processor = time.perf_counter(), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values[name] = call()
            seconds[name].append((time.perf_counter() - clock, time.process_time() - processor))
        if time.perf_counter() - started > ROUNDS_S:
            break
    least = {name: (min(a for a, _ in each), min(b for _, b in each)) for name, each in seconds.items()}
    return least, values


def compared(seconds: dict[str, tuple[float, float]], times: float = 1.0) -> str:
    """Return the seconds of each, and how many times as long as the first the fastest of the others took."""
    ours, *others = seconds
    best = min(others, key=lambda name: seconds[name][1])
    scaled = {name: (clock * times, processor * times) for name, (clock, processor) in seconds.items()}
    scaled[ours] = seconds[ours]
    said = ", ".join(f"{name} {clock:.3f} ({processor:.3f})" for name, (clock, processor) in scaled.items())
    clock, processor = (scaled[best][i] / scaled[ours][i] for i in (0, 1))
    return f"{said} s: {clock:.2f} times by the clock, {processor:.2f} of the processor"


@pytest.mark.parametrize("tol", [1e-4, 1e-10])
@pytest.mark.parametrize(("n", "d", "n_classes"), CELLS)
def test_exact_grid(n: int, d: int, n_classes: int, tol: float) -> None:
    """One fit, and 3 repeats x 5 values of C together, at equal tolerance, on standardised float32 rows."""
    import torch  # noqa: F401 - a second, once, that is nobody's fit

    if 4.0 * n * d > LARGEST_CELL:
        pytest.skip("the rows alone are too many bytes")
    if n * d * n_classes > LARGEST[tol]:
        pytest.skip("scikit-learn takes too long; FEATBANK_BENCH_FULL=1 runs it")
    Z, y = draw_features(n, d, n_classes)

    def sklearn(solver: str, C: float = 1.0, rows: Any = slice(None)) -> LogisticRegression:
        return LogisticRegression(C=C, tol=tol, max_iter=10_000, solver=solver).fit(Z[rows], y[rows])

    calls: dict[str, Callable[[], Any]] = {
        "featbank": lambda: SoftmaxClassifier(solver="lbfgs", tol=tol, standardize=False).fit(Z, y),
        "newton-cg": lambda: sklearn("newton-cg"),
    }
    if tol > 1e-6:  # lbfgs does not come nearer; it tries for long
        calls["lbfgs"] = lambda: sklearn("lbfgs")
    seconds, fitted = by_turns(calls)
    at = slice(0, 4096)
    given = {name: one.predict_proba(Z[at]) for name, one in fitted.items()}
    difference = np.abs(given["featbank"] - given["newton-cg"]).max()
    print(  # noqa: T201
        f"\n{n} x {d} x {n_classes}, tol {tol:g}, one fit: {compared(seconds)}; largest difference "
        f"{difference:.1e}",
        end="",
        flush=True,
    )
    if tol < 1e-6:
        assert difference < 1e-5
    random = np.random.default_rng(0)
    subsets = [np.sort(random.permutation(n)[: n * 9 // 10]) for _ in range(3)]
    jobs = [(rows, C) for rows in subsets for C in PENALTIES]
    space = FeatureSpace(standardize=False, rotate=False).fit(Z)
    best = min((name for name in seconds if name != "featbank"), key=lambda name: seconds[name][1])
    if seconds[best][1] > LONGEST_LOOPED_S:
        print("\n    15 fits: not run, scikit-learn would take too long", end="", flush=True)  # noqa: T201
        return
    looped = subsets if seconds[best][0] < 1 else subsets[:1]

    def together() -> None:
        heads = [SoftmaxClassifier(solver="lbfgs", C=C, tol=tol) for _, C in jobs]
        fit_stack(heads, Z * np.float32(space.gain_), y, [rows for rows, _ in jobs], space=space)

    def loop() -> None:
        for rows in looped:
            for C in PENALTIES:
                sklearn(best, C, rows)

    seconds, _ = by_turns({"featbank": together, best: loop})
    print(f"\n    15 fits: {compared(seconds, 3 / len(looped))}", end="", flush=True)  # noqa: T201


@pytest.mark.parametrize(
    ("kind", "reference"),
    [(LinearSVMClassifier, LinearSVC(C=0.01, max_iter=10_000)), (RidgeClassifier, SklearnRidge())],
)
@pytest.mark.parametrize(("n", "d", "n_classes"), [(896, 1280, 32), *CELLS])
def test_svm_and_ridge(kind: Any, reference: Any, n: int, d: int, n_classes: int) -> None:
    """Four sizes x five repeats together, and one fit."""
    if 8.0 * n * d > LARGEST_CELL or n * d * n_classes > LARGEST[1e-10]:
        pytest.skip("scikit-learn takes too long or too much memory; FEATBANK_BENCH_FULL=1 runs more")
    Z, y = draw_features(n, d, n_classes)
    space = FeatureSpace(standardize=False, rotate=False).fit(Z)
    columns = Z * np.float32(space.gain_)
    random = np.random.default_rng(0)
    subsets = [np.sort(random.permutation(n)[: n // part]) for part in (7, 4, 2, 1) for _ in range(5)]
    subsets = [rows for rows in subsets if len(np.unique(y[rows])) > 1]
    calls: dict[str, Callable[[], Any]] = {
        "featbank": lambda: fit_stack([kind() for _ in subsets], columns, y, subsets, space=space),
        "scikit-learn": lambda: [reference.fit(Z[rows], y[rows]) for rows in subsets[::5]],
    }
    swept = compared(by_turns(calls)[0], 5)
    calls = {
        "featbank": lambda: fit_stack([kind()], columns, y, [np.arange(n)], space=space),
        "scikit-learn": lambda: reference.fit(Z, y),
    }
    one = compared(by_turns(calls)[0])
    print(  # noqa: T201
        f"\n{kind.__name__} {n} x {d} x {n_classes}, {len(subsets)} fits: {swept}\n    one fit: {one}",
        end="",
        flush=True,
    )


@pytest.mark.parametrize("n_classes", [1000, 10_000] if FULL else [1000])
def test_many_classes(n_classes: int) -> None:
    """1,000 classes x 16 samples within minutes and 4 GB; 10,000 classes run."""
    import resource

    Z, y = draw_features(n_classes * (16 if n_classes < 10_000 else 4), 1280, n_classes)
    wall_s, head = timed(lambda: SoftmaxClassifier(solver="lbfgs", tol=1e-4).fit(Z, y))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{n_classes} classes: {wall_s:.0f} s, {head.n_iter_} steps, peak {peak:.1f} GiB", end="")  # noqa: T201
    assert head.converged_
