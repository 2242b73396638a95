"""Lists of values make families of heads, fitted together and told apart by their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads import FeatureSpace, make
from featbank.manifest import SPLITS, Manifest
from featbank.metrics import expected_calibration_error
from featbank.sweep import features, run_sweep
from featbank.sweep.spec import make_grids


class Rows:
    """A bank in memory: 3 classes, 20 train, 8 val and 12 test rows of each."""

    cuts = ("fc7",)

    def __init__(self) -> None:
        counts = {"train": 20, "val": 8, "test": 12}
        labels = np.concatenate([np.tile(np.arange(3), n) for n in counts.values()])
        splits = np.concatenate([np.full(3 * n, SPLITS.index(name)) for name, n in counts.items()])
        rng = np.random.default_rng(0)
        self.manifest = Manifest(
            ids=tuple(b"%d" % row for row in range(len(labels))),
            labels=labels.astype(np.int32),
            classes=("ant", "bee", "cat"),
            splits=splits.astype(np.uint8),
            digests=rng.integers(0, 256, (len(labels), 32), dtype=np.uint8),
            statuses=np.zeros(len(labels), np.uint8),
        )
        centres = rng.normal(size=(3, 30))
        self.X = (centres[labels] + 1.8 * rng.normal(size=(len(labels), 30))).astype(np.float32)

    def features(self, cut, rows=None, dtype=np.float32):
        return self.X[rows].astype(dtype or np.float32)

    def softmax(self, temperature, rows=None):
        raise NotImplementedError


SIZES = {"samples_per_class": "4,8", "repeats": 3}


@pytest.fixture
def bank() -> Rows:
    return Rows()


def names_of(params, heads=("logreg",)) -> list[str]:
    return [member.name for grid in make_grids(heads, params) for member in grid.members]


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"C": [0.01, 0.1, 1]}, ["logreg(C=0.01)", "logreg(C=0.1)", "logreg(C=1)"]),
        ({"C": 0.1}, ["logreg"]),
        ({"C": (0.1,)}, ["logreg(C=0.1)"]),
        ({"C": [1, 1.0, 2]}, ["logreg(C=1)", "logreg(C=2)"]),
        ({"C": [0.12345678]}, ["logreg(C=0.12345678)"]),
        ({"C": ["auto", 1]}, ["logreg(C=auto)", "logreg(C=1)"]),
        (
            {"C": [1, 2], "standardize": [True, False]},
            [f"logreg(C={c} standardize={s})" for c in (1, 2) for s in (True, False)],
        ),
    ],
)
def test_names_say_the_values(params, names):
    assert names_of({"logreg": params}) == names


def test_a_value_that_is_no_list_is_passed_through():
    (grid,) = make_grids(["logreg"], {"logreg": {"C": "auto"}})
    assert grid.members[0].make(3).C == "auto"


def test_no_value_is_no_head():
    with pytest.raises(InvalidInputError) as caught:
        make_grids(["logreg"], {"logreg": {"C": []}})
    assert str(caught.value) == "head 'logreg': C=[] lists no value; give at least one"


def test_all_values_of_a_size_go_into_one_call(bank, monkeypatch):
    from featbank import heads

    calls = []
    inner = heads.fit_stack

    def watching(estimators, Z, y, subsets, **options):
        calls.append(([one.C for one in estimators], [tuple(rows) for rows in subsets]))
        return inner(estimators, Z, y, subsets, **options)

    monkeypatch.setattr("featbank.heads.head.fit_stack", watching)
    values = [0.01, 0.1, 1.0]
    result = run_sweep(bank, heads=["logreg"], head_params={"logreg": {"C": values}}, **SIZES)
    assert len(calls) == 2  # one per size
    for (penalties, subsets), size in zip(calls, (8, 4), strict=True):
        assert sorted(penalties) == sorted(values * 3)
        assert {len(rows) for rows in subsets} == {3 * size}
        assert len(set(subsets)) == 3  # the repeats, and every one with each value
    assert [(fit.head, fit.C) for fit in result.fits[::6]] == [(f"logreg(C={c:g})", c) for c in values]


def test_a_member_is_the_head_it_would_be_alone(bank):
    family = run_sweep(bank, heads=["logreg"], head_params={"logreg": {"C": [0.01, 1.0]}}, **SIZES)
    alone = run_sweep(bank, heads=["logreg"], head_params={"logreg": {"C": 1.0}}, **SIZES)
    mine = [fit for fit in family.fits if fit.head == "logreg(C=1)"]
    assert [(fit.top1, fit.val_top1, fit.random_state) for fit in mine] == [
        (fit.top1, fit.val_top1, fit.random_state) for fit in alone.fits
    ]
    assert len(family.heads) == 2
    assert {kept.name for kept in family.heads} > {alone.heads[0].name.replace("logreg", "logreg-C=1")}


def test_learning_rates_are_recorded(bank):
    params = {"softmax": {"lr": [0.001, 0.03], "max_epochs": 3}}
    result = run_sweep(bank, heads=["softmax", "ncm"], head_params=params, **SIZES)
    assert {(fit.head, fit.lr, fit.C) for fit in result.fits} == {
        ("softmax(lr=0.001)", 0.001, None),
        ("softmax(lr=0.03)", 0.03, None),
        ("ncm", None, None),
    }


def test_what_a_head_chose_itself_is_recorded(bank, monkeypatch):
    from featbank.heads import SoftmaxClassifier

    inner = SoftmaxClassifier._fit_many.__func__

    def choosing(cls, heads, *arguments):
        inner(cls, heads, *arguments)
        for head in heads:
            head.C_ = 0.25

    monkeypatch.setattr(SoftmaxClassifier, "_fit_many", classmethod(choosing))
    result = run_sweep(bank, heads=["logreg"], samples_per_class="4", repeats=1)
    assert result.fits[0].C == 0.25


def test_calibration_is_fitted_on_validation_rows(bank):
    """The temperature is the validation rows' own: the one of the test rows would flatter."""
    result = run_sweep(
        bank, heads=["logreg"], head_params={"logreg": {"C": 100.0}}, samples_per_class="8", repeats=1
    )
    (fit,), (kept,) = result.fits, result.heads
    rows = {name: bank.manifest.rows(name) for name in ("train", "val", "test")}
    y = bank.manifest.labels
    probabilities = {name: kept.estimator.predict_proba(bank.X[at]) for name, at in rows.items()}

    def loss(split: str, temperature: float) -> float:
        scaled = probabilities[split] ** (1 / temperature)
        scaled /= scaled.sum(axis=1, keepdims=True)
        return float(-np.log(scaled[np.arange(len(scaled)), y[rows[split]]]).mean())

    T = fit.calibration_temperature
    assert abs(np.log(T)) > 0.1  # something is there to be mended
    assert loss("val", T) <= min(loss("val", T * 1.02), loss("val", T / 1.02))
    assert loss("test", T) != pytest.approx(
        min(loss("test", T * step) for step in np.geomspace(0.5, 2, 81)), abs=1e-6
    )
    scaled = probabilities["test"] ** (1 / T)
    scaled /= scaled.sum(axis=1, keepdims=True)
    assert fit.ece_scaled == pytest.approx(expected_calibration_error(y[rows["test"]], scaled), abs=1e-6)
    assert fit.ece_scaled != fit.ece


def test_hits_are_the_answers(bank):
    result = run_sweep(bank, heads=["logreg", "ridge"], **SIZES)
    assert len(result.fits) == 12
    for fit in result.fits:
        hits = fit.hits
        assert hits.split == "test"
        assert hits.top1.mean() == fit.top1
        assert (hits.top5 is None) == (fit.top5 is None) == (fit.head == "ridge")


def test_a_bootstrap_interval_is_over_test_rows(bank):
    result = run_sweep(bank, heads=["logreg"], **SIZES)
    (over_repeats, _), (over_rows, _) = result.points(), result.points(interval="bootstrap")
    assert over_repeats.mean("top1") == over_rows.mean("top1")
    right = np.array([fit.hits.top1 for fit in result.fits if fit.n_per_class == 4]).mean(axis=0)
    standard_error = right.std() / np.sqrt(len(right))
    low, high = over_rows.interval("top1")
    half = (high - low) / 2
    assert half == pytest.approx(1.96 * standard_error, rel=0.1)
    assert over_rows.mean("val_top1") == over_repeats.mean("val_top1")
    assert over_rows.interval("val_top1") is None  # the rows of another split are not what was resampled
    result.fits = [replace(fit, hits=None) for fit in result.fits]
    with pytest.raises(InvalidInputError) as caught:
        result.points(interval="bootstrap")
    assert str(caught.value) == (
        "the answers of 'fc7/logreg' were not recorded row by row, which interval='bootstrap' needs; fit "
        "again with this version"
    )
    with pytest.raises(InvalidInputError, match="interval='T' is not one of 't', 'bootstrap'"):
        result.points(interval="T")


def test_one_repeat_has_a_bootstrap_interval(bank):
    result = run_sweep(bank, heads=["logreg"], samples_per_class="4", repeats=1)
    assert result.points()[0].scores["top1"].low is None
    point = result.points(interval="bootstrap")[0]
    assert point.scores["top1"].low < point.mean("top1") < point.scores["top1"].high


def test_warnings_of_one_cause_are_added_up(bank):
    params = {"softmax": {"lr": 1e-9, "max_epochs": 4, "solver": "sgd"}}
    with pytest.warns(FitWarning) as caught:
        result = run_sweep(bank, heads=["softmax"], head_params=params, **SIZES)
    assert len([one for one in caught if issubclass(one.category, FitWarning)]) == 1
    assert str(caught[0].message).startswith("fc7, softmax: 6 of 6 heads: ")
    assert result.notes[:-1] == [str(caught[0].message)]
    assert result.notes[-1].startswith("softmax: 6 of 6 heads were still getting better")


def test_spaces_of_a_family_may_differ(bank):
    params = {"logreg": {"standardize": [True, False]}}
    result = run_sweep(bank, heads=["logreg"], head_params=params, samples_per_class="8", repeats=1)
    rows, y = bank.manifest.rows("train"), bank.manifest.labels
    for fit, kept in zip(result.fits, result.heads, strict=True):
        standardize = fit.head == "logreg(standardize=True)"
        space = FeatureSpace(standardize=standardize).fit(bank.X[rows])
        assert np.allclose(kept.estimator.space_.scale_, space.scale_)
        assert (
            np.mean(
                kept.estimator.predict(bank.X[bank.manifest.rows("test")]) == y[bank.manifest.rows("test")]
            )
            == fit.top1
        )
    assert make("logreg").standardize is True


@pytest.mark.parametrize("head", ["knn", "logreg", "svm"])
def test_rows_are_told_alike_in_blocks(bank, head, monkeypatch):
    asked = {"cuts": bank.cuts[:1], "heads": [head], "samples_per_class": [4], "repeats": 2}
    (whole, blocks) = [], []
    run_sweep(bank, **asked, metrics=["log_loss"], on_result=whole.extend)
    seen = []
    told = features._told
    monkeypatch.setattr(features, "_told", lambda *given: (seen.append(len(given[0])), told(*given))[1])
    monkeypatch.setattr(features, "_BLOCK", 50)
    run_sweep(bank, **asked, metrics=["log_loss"], on_result=blocks.extend)
    assert len(whole) == len(blocks) == 2
    assert head == "svm" or len(seen) > len(set(seen)) > 1  # rows came in several blocks
    for one, other in zip(whole, blocks, strict=True):
        assert one.status == other.status == "ok"
        for name in (
            "top1",
            "top5",
            "val_top1",
            "train_top1",
            "ece",
            "ece_scaled",
            "calibration_temperature",
        ):
            first, second = getattr(one, name), getattr(other, name)
            assert first == second or first == pytest.approx(second, rel=1e-6), name
        assert one.metrics == pytest.approx(other.metrics, rel=1e-6)
        np.testing.assert_array_equal(one.hits.top1, other.hits.top1)
