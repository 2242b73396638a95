"""Protocols of the field give what independent implementations of their publications give."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import featbank
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.heads import load_head, save_head
from featbank.sweep import SweepSettings, protocols, run_sweep
from featbank.sweep.fitting import Sweep
from featbank.sweep.protocols import find_protocol, protocol_names

POINT = 0.001  # a tenth of a point of accuracy


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Real digits through the small network that ships with the package: 600 images, ten classes."""
    cache = tmp_path_factory.mktemp("cache")
    options = {"backbone": "minivgg", "cuts": ["block4_pool:gap"], "limit": 600, "cache_dir": cache}
    made = featbank.extract("digits", **options)
    return featbank.open_bank(made.bank)


def rows(bank, split):
    at = bank.manifest.rows(split)
    return bank.features("block4_pool:gap", at).astype(np.float64), bank.manifest.labels[at]


def weighted_knn(X, y, X_new, k, T):
    """DINO's evaluation, by its publication: the vote of the k nearest, exp(cosine / T) each."""
    train, new = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (X, X_new))
    cosines = new @ train.T
    nearest = np.argsort(-cosines, axis=1)[:, :k]
    votes = np.zeros((len(new), y.max() + 1))
    for row in range(len(new)):
        for one in nearest[row]:
            votes[row, y[one]] += np.exp(cosines[row, one] / T)
    return votes.argmax(axis=1)


def cl2n(X, y, X_new, mean):
    """SimpleShot, by its publication."""
    train, new = ((one - mean) / np.linalg.norm(one - mean, axis=1, keepdims=True) for one in (X, X_new))
    means = np.stack([train[y == code].mean(axis=0) for code in range(y.max() + 1)])
    return np.linalg.norm(new[:, None] - means[None], axis=2).argmin(axis=1)


def test_dino_knn(bank):
    found = run_sweep(bank, protocol="dino-knn")
    (X, y), (X_test, y_test) = rows(bank, "train"), rows(bank, "test")
    assert [one.head for one in found.fits] == [f"knn(n_neighbors={k})" for k in (10, 20, 100, 200)]
    for one, k in zip(found.fits, (10, 20, 100, 200), strict=True):
        assert one.n_train == len(y)
        assert one.top1 == pytest.approx(np.mean(weighted_knn(X, y, X_test, k, 0.07) == y_test), abs=POINT)


def test_simpleshot_of_all_and_of_few_images(bank, tmp_path):
    found = run_sweep(bank, protocol="simpleshot", samples_per_class="5,all", repeats=3, save_heads="all")
    (X, y), (X_test, y_test) = rows(bank, "train"), rows(bank, "test")
    mean = X.mean(axis=0)
    (whole,) = (one for one in found.fits if one.n_train == len(y))
    assert whole.top1 == pytest.approx(np.mean(cl2n(X, y, X_test, mean) == y_test), abs=POINT)
    from featbank.sampling import draw_nested

    for one, draw in zip(found.fits, draw_nested(y, [5], repeats=3), strict=False):
        expected = cl2n(X[draw[5]], y[draw[5]], X_test, mean)
        assert one.top1 == pytest.approx(np.mean(expected == y_test), abs=POINT)
        np.testing.assert_array_equal(one.estimator.predict(X_test), expected)
    save_head(tmp_path / "head", whole.estimator)
    np.testing.assert_array_equal(load_head(tmp_path / "head")[0].predict(X_test), cl2n(X, y, X_test, mean))


@pytest.mark.slow
def test_dinov3_logreg_is_scikit_learn_at_the_same_c(bank):
    """The tenth is drawn by another generator than DINO's, so C may be the neighbour of theirs."""
    found = run_sweep(bank, protocol="dinov3-logreg", random_state=0)
    (one,) = found.fits
    (X, y), (X_test, y_test) = rows(bank, "train"), rows(bank, "test")
    grid = 10 ** np.linspace(-6, 5, 45)
    assert np.isclose(grid, one.C).any()
    theirs = LogisticRegression(C=one.C, tol=1e-8, max_iter=5000, solver="newton-cg").fit(X, y)
    assert one.top1 == pytest.approx(theirs.score(X_test, y_test), abs=POINT)


def test_c_is_the_most_accurate_on_the_held_out_tenth():
    """An independent choice on the same tenth: scikit-learn fits and judges each value of the grid."""
    from featbank.heads import make

    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 30)
    X = rng.normal(size=(90, 5)) + 0.8 * rng.normal(size=(3, 5))[y]
    options = {"Cs": 7, "C_min": 1e-4, "C_max": 1e2, "validation_fraction": 0.1, "monitor": "accuracy"}
    head = make("logreg", C="auto", standardize=False, **options).fit(X, y)
    held = np.random.default_rng(0).permutation(90)[:9]  # every class stays in the rest
    rest = np.setdiff1d(np.arange(90), held)
    scores = {
        C: LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(X[rest], y[rest]).score(X[held], y[held])
        for C in 10.0 ** np.arange(-4, 3)
    }
    assert pytest.approx(max(scores, key=scores.__getitem__)) == head.C_
    whole = LogisticRegression(C=head.C_, tol=1e-10, max_iter=5000).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), whole.predict_proba(X), atol=1e-4)


def test_what_is_shipped_says_its_steps_and_its_reference():
    assert protocol_names() == ["dino-knn", "dinov3-logreg", "simpleshot"]
    for name in protocol_names():
        one = find_protocol(name)
        assert len(one.steps) >= 3
        assert one.reference
        assert SweepSettings(protocol=name).heads == one.heads


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"protocol": "dino"}, UnknownNameError, "unknown protocol 'dino' (--protocol); known: "),
        (
            {"protocol": "dino-knn", "heads": ["ncm"]},
            InvalidInputError,
            "protocol 'dino-knn' (--protocol) says heads, their parameters and val itself; leave heads=",
        ),
        (
            {"protocol": "dino-knn", "val": 0.2},
            InvalidInputError,
            "protocol 'dino-knn' (--protocol) says heads, their parameters and val itself; leave val=0.2 out",
        ),
    ],
)
def test_what_contradicts_a_protocol_is_one_line(options, kind, message):
    with pytest.raises(kind) as caught:
        SweepSettings(**options)
    assert str(caught.value).startswith(message)


def test_a_protocol_of_ones_own_and_a_broken_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pipelines" / "protocols"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(
        'title = "t"\nreference = "r"\nsteps = ["s"]\nheads = ["ridge"]\nval = 0.2\n'
        "[head_params.ridge]\nalpha = 3.0\n"
    )
    (folder / "broken.toml").write_text('title = "t"\n')
    settings = SweepSettings(protocol="mine")
    assert (settings.labels, settings.val) == (("ridge",), 0.2)
    assert settings.grids[0].members[0].make(0).alpha == 3.0
    with pytest.raises(
        InvalidInputError, match="is no protocol: keys missing or unknown: head_params, heads"
    ):
        SweepSettings(protocol="broken")


def test_a_sweep_travels_without_the_file_of_its_protocol(bank, tmp_path, monkeypatch):
    (tmp_path / "pipelines" / "protocols").mkdir(parents=True)
    shipped = Path(protocols.__file__).parents[2] / "pipelines" / "protocols" / "dino-knn.toml"
    shutil.copy(shipped, tmp_path / "pipelines" / "protocols" / "mine.toml")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Sweep(bank, SweepSettings(protocol="mine")))
    monkeypatch.chdir("/")
    assert pickle.loads(data).settings.labels[0] == "knn(n_neighbors=10)"


def test_lengths_of_parts_are_refused():
    from featbank.heads import make

    with pytest.raises(InvalidInputError, match=r"normalize=True \(--normalize\) is of whole rows"):
        make("ncm", normalize=True)
    with pytest.raises(InvalidInputError, match=r"C_min=10\.0 .* must be less than C_max=1.0"):
        make("logreg", C_min=10.0, C_max=1.0)
