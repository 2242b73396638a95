"""Heads and metrics of other packages: one file of 40 lines or less each, and an entry point."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from featbank.errors import FitWarning, InvalidInputError, MissingPackageError, UnknownNameError
from featbank.fitting import fit_heads
from featbank.heads import catalogue, load_head, make
from featbank.metrics import catalogue as metrics_catalogue
from featbank.runs import Run
from featbank.runs.store import sweep_digest
from featbank.sweep import SweepSettings, run_sweep

PLUG_INS = Path(__file__).parents[1] / "plug_ins"
#: In the feature space of a sweep, saved with a run, with an option of its own.
HEAD = (PLUG_INS / "median_plug_in.py").read_text()
METRIC = (PLUG_INS / "worst_plug_in.py").read_text()
ENTRY_POINTS = """
[featbank.heads]
median = median_plug_in:MedianClassifier
forest = sklearn.ensemble:RandomForestClassifier
ncm = median_plug_in:MedianClassifier
number = math:pi

[featbank.metrics]
worst_class = worst_plug_in:worst_class
nonsense = worst_plug_in:nonsense
"""
SWEEP = {"cuts": ["fc7"], "samples_per_class": "1,4", "repeats": 2}


@pytest.fixture
def plug_ins(tmp_path, monkeypatch):
    """A package as pip installs it, on the path."""
    site = tmp_path / "site"
    (site / "some-1.0.dist-info").mkdir(parents=True)
    (site / "median_plug_in.py").write_text(HEAD)
    nonsense = "\n\ndef nonsense(y_true, y_pred):\n    return 'good'\n"
    (site / "worst_plug_in.py").write_text(METRIC + nonsense)
    (site / "some-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1.0\n")
    (site / "some-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    for registry in (catalogue._heads, metrics_catalogue._metrics):  # what is loaded is forgotten afterwards
        monkeypatch.setattr(registry, "_loaded", {})
    yield
    for name in ("median_plug_in", "worst_plug_in"):
        sys.modules.pop(name, None)


def test_a_head_of_another_package_is_like_one_of_ours(plug_ins, flowers, tmp_path):
    assert max(len(text.strip().splitlines()) for text in (HEAD, METRIC)) <= 40
    assert {"median", "forest", "softmax"} < set(catalogue.names())
    assert catalogue.summary("median") == "The class whose median is nearest."
    assert catalogue.parameters("median") == ("power", "standardize", "rotate")
    with pytest.raises(
        InvalidInputError, match=r"head 'median' cannot be fitted with power=0 \(allowed: a num"
    ):
        make("median", power=0)
    with pytest.warns(FitWarning, match="^fc7, median: 4 of 8 heads: one sample is its own median$"):
        fitted = fit_heads(
            flowers,
            heads=["median", "forest"],
            head_params={"median": {"power": [1.0, 2.0]}, "forest": {"n_estimators": 3}},
            metrics=["worst_class", "balanced_accuracy", "worst_class"],
            cache_dir=tmp_path,
            **SWEEP,
        )
    run = Run.open(fitted.run.path)
    assert {one["head"]: one["saved"] for one in run.heads()} == {
        "median(power=1)": True,
        "median(power=2)": True,
        "forest": False,
    }
    (kept,) = (fit for fit in fitted.result.heads if fit.head == "median(power=1)")
    X = flowers.features("fc7")
    head, facts = load_head(run.path / "heads" / kept.name)
    np.testing.assert_array_equal(head.predict(X), kept.estimator.predict(X))
    assert (type(head).__name__, head.power) == ("MedianClassifier", 1.0)
    assert facts["class_names"] == list(flowers.classes)  # what the head answers, without the run
    assert "fc7, median: 4 of 8 heads: one sample is its own median" in run.facts["notes"]
    # the scores of the other package stand with every fit, and make curves
    assert run.facts["parameters"]["metrics"] == ["worst_class", "balanced_accuracy"]
    assert run.result().fits == fitted.result.fits
    for fit in run.result().fits:
        assert 0 <= fit.metrics["worst_class"] <= fit.metrics["balanced_accuracy"] == pytest.approx(fit.top1)
    curve = run.result().curve("fc7", "median(power=2)")
    assert curve.scores("worst_class").shape == (2, 2)
    assert curve.points()[0].to_dict()["worst_class_mean"] == pytest.approx(
        curve.scores("worst_class")[0].mean()
    )
    columns = [
        f"metric:{prefix}{name}" for prefix in ("", "val_") for name in ("worst_class", "balanced_accuracy")
    ]
    assert f",{','.join(columns)}\n" in (run.path / "results.csv").read_text()


def test_a_sweep_of_another_version_of_a_plug_in_is_another_sweep(plug_ins, flowers, tmp_path):
    asked = SweepSettings(heads=["median", "ncm"], metrics=["worst_class"])
    assert asked.to_dict()["plug_ins"] == {"head median": "some 1.0", "metric worst_class": "some 1.0"}
    assert "plug_ins" not in SweepSettings(heads=["ncm"], metrics=["macro_f1"]).to_dict()
    before = sweep_digest(flowers, "x", asked.to_dict())
    metadata = tmp_path / "site" / "some-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    assert sweep_digest(flowers, "x", asked.to_dict()) != before


def test_an_estimator_that_calls_anything_its_history_ends_no_sweep(flowers):
    class Odd(GaussianNB):
        history_: Any = "none"
        best_epoch_ = "last"

    class Numbers(GaussianNB):
        history_ = {"train_loss": 3.0, "lr": [0.1, 0.2], 5: [1.0]}  # noqa: RUF012 - as somebody wrote it

    result = run_sweep(flowers, heads=[Odd(), Numbers()], save_heads="all", **SWEEP)
    assert [fit.status for fit in result.fits] == ["ok"] * len(result.fits)
    assert next(fit.history for fit in result.fits if fit.head == "Numbers") == {"lr": [0.1, 0.2]}


def test_a_plug_in_replaces_nothing_and_says_when_it_is_none(plug_ins, flowers):
    assert type(make("ncm")).__name__ == "NearestMeanClassifier"
    with pytest.raises(
        MissingPackageError, match=r"head 'number' is 3\.14.*, which is no class with fit and pred"
    ):
        make("number")
    with pytest.raises(
        MissingPackageError, match="metric 'nonsense' gave 'good', which is no number from 0 to"
    ):
        run_sweep(flowers, heads=["ncm"], metrics=["nonsense"], **SWEEP)
    with pytest.raises(UnknownNameError, match="unknown metric 'worst'; known: 'worst_class', "):
        run_sweep(flowers, heads=["ncm"], metrics=["worst"], **SWEEP)
