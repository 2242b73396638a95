"""A sweep fits what it was told on the rows it may use, and says exactly what came out."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from featbank.errors import FitWarning, InvalidInputError, LeakWarning, UnknownNameError
from featbank.manifest import SPLITS, Manifest, RowStatus
from featbank.sweep import run_sweep
from featbank.sweep.features import CutFeatures

CLASSES = ("ant", "bee", "cat")
FAST = {"softmax": {"max_epochs": 12, "lr": 0.02}}
BOTH = {**FAST, "mlp": {"max_epochs": 8, "lr": 0.02, "hidden_units": 16}}
OFFSETS = (-0.04, -0.02, 0.0, 0.02, 0.04)


@dataclass
class MemoryBank:
    """What `featbank.sweep.FeatureSource` asks for; remembers which rows were read."""

    manifest: Manifest
    arrays: dict[str, Any]
    key: Any = None
    read: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def cuts(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def features(self, cut, rows=None, dtype=np.float32):
        self.read.append((cut, np.asarray(rows)))
        return self.arrays[cut][rows].astype(dtype or self.arrays[cut].dtype)

    def softmax(self, temperature, rows=None):
        scaled = self.arrays["logits"][rows] / temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def make_manifest(counts: dict[str, int], classes: tuple[str, ...] = CLASSES) -> Manifest:
    """`counts` rows per class and split; every digest its own."""
    splits = np.concatenate([np.full(n * len(classes), SPLITS.index(name)) for name, n in counts.items()])
    labels = np.concatenate([np.tile(np.arange(len(classes)), n) for n in counts.values()])
    n_rows = len(labels)
    digests = np.zeros((n_rows, 32), np.uint8)
    digests[:, :2] = np.arange(n_rows, dtype=">u2").view(np.uint8).reshape(n_rows, 2)
    return Manifest(
        ids=tuple(f"{row:05d}.jpg".encode() for row in range(n_rows)),
        labels=labels.astype(np.int32),
        classes=classes,
        splits=splits.astype(np.uint8),
        digests=digests,
        statuses=np.zeros(n_rows, np.uint8),
    )


def make_bank(counts: dict[str, int], *, noise: float = 0.7, seed: int = 0) -> MemoryBank:
    manifest = make_manifest(counts)
    rng = np.random.default_rng(seed)
    centres = 1.5 * rng.normal(size=(3, 12))
    clean = centres[manifest.labels]
    arrays = {
        "block1_pool": (clean + 3 * noise * rng.normal(size=clean.shape)).astype(np.float16),
        "fc7": (clean + noise * rng.normal(size=clean.shape)).astype(np.float16),
        "logits": (clean[:, :3] + noise * rng.normal(size=(len(clean), 3))).astype(np.float32),
    }
    return MemoryBank(manifest, arrays)


@pytest.fixture
def bank() -> MemoryBank:
    """20 train, 6 val, 10 test, 4 unused rows per class; besides: unlabelled and unreadable training rows."""
    made = make_bank({"train": 22, "val": 6, "test": 10, "none": 4})
    labels, statuses = made.manifest.labels.copy(), made.manifest.statuses.copy()
    labels[:3] = -1
    statuses[3:6] = RowStatus.QUARANTINED
    made.manifest = made.manifest.replaced(labels=labels, statuses=statuses)
    return made


@pytest.fixture
def backbone_key():
    return SimpleNamespace(backbone="vgg16")


class Known:
    """Right on a share of the rows that is a known function of the samples per class and of the repeat.

    Rows say their class (column 0) and their place within it, from 0 to 1 (column 1).
    """

    calls: ClassVar[list[int]] = []

    def fit(self, X, y):
        n = int(np.bincount(y).max())
        self.calls.append(n)
        repeat = (self.calls.count(n) - 1) % len(OFFSETS)
        self.score = 0.3 + 0.1 * np.log2(n) + OFFSETS[repeat]
        return self

    def predict(self, X):
        truth = X[:, 0].astype(int)
        return np.where(X[:, 1] < self.score, truth, (truth + 1) % 3)


def known_bank() -> MemoryBank:
    manifest = make_manifest({"train": 16, "val": 50, "test": 100})
    place = np.concatenate([np.repeat((np.arange(n) + 0.5) / n, 3) for n in (16, 50, 100)])
    return MemoryBank(manifest, {"fc7": np.stack([manifest.labels, place], axis=1).astype(np.float32)})


def test_a_known_head_gives_exactly_the_expected_curve_and_spread():
    Known.calls.clear()
    result = run_sweep(known_bank(), heads=[("known", Known())], samples_per_class="4..16", repeats=5)
    assert len(result.fits) == 15
    assert [round(one.top1, 10) for one in result.fits[:5]] == [0.46, 0.48, 0.5, 0.52, 0.54]
    curve = result.points()
    assert [(one.cut, one.head, one.n_per_class, one.n_repeats) for one in curve] == [
        ("fc7", "known", 4, 5),
        ("fc7", "known", 8, 5),
        ("fc7", "known", 16, 5),
    ]
    # Student's t for 4 degrees of freedom is 2.7764; the offsets have variance 0.001, and draws of 16
    # are correlated as their share of it says.
    correlation = {n: 0.65 * n / 16 + 0.2 * (n / 16) ** 2 for n in (4, 8)}
    half = {n: 2.7764451052 * np.sqrt(0.001 * (1 / 5 + one / (1 - one))) for n, one in correlation.items()}
    for point, mean in zip(curve, (0.5, 0.6, 0.7), strict=True):
        assert point.mean("top1") == pytest.approx(mean, abs=1e-12)
        if point.n_per_class == 16:  # all there are: five times the same draw
            assert point.scores["top1"].low is point.scores["top1"].high is None
        else:
            assert point.scores["top1"].low == pytest.approx(mean - half[point.n_per_class], abs=1e-9)
            assert point.scores["top1"].high == pytest.approx(mean + half[point.n_per_class], abs=1e-9)
        assert point.mean("val_top1") == pytest.approx(mean, abs=1e-12)
        assert point.mean("top5") is None  # the head has no probabilities


class Spy:
    """Remembers the rows it was fitted to and those it was asked about; rows carry their number."""

    fitted: ClassVar[list[np.ndarray]] = []
    asked: ClassVar[list[np.ndarray]] = []

    def fit(self, X, y):
        self.fitted.append(X[:, 0].astype(int))
        return self

    def predict(self, X):
        self.asked.append(X[:, 0].astype(int))
        return np.zeros(len(X), int)


def test_validation_test_and_unused_rows_never_train(bank):
    Spy.fitted.clear()
    Spy.asked.clear()
    manifest = bank.manifest
    numbers = np.arange(len(manifest), dtype=np.float32)[:, None]
    run_sweep(MemoryBank(manifest, {"fc7": numbers}), heads=[Spy()], samples_per_class="4,20,all", repeats=3)
    usable = [row for row in manifest.rows("train") if manifest.labels[row] >= 0]
    assert len(usable) == 60
    assert len(Spy.fitted) == 6  # 20 per class is all there is
    for rows in Spy.fitted:
        assert set(rows) <= set(usable)
        assert len(set(np.bincount(manifest.labels[rows]))) == 1
    assert set(Spy.fitted[0]) == set(usable)  # the largest come first
    val, test = manifest.rows("val"), manifest.rows("test")
    others = [rows for rows in Spy.asked if not set(rows) <= set(usable)]
    assert len(others) == 12
    for rows in others:  # the same rows, in the same order, for every fit
        assert np.array_equal(rows, val) or np.array_equal(rows, test)


def test_test_rows_change_nothing_but_the_test_figures(bank):
    run = {"cuts": ["fc7"], "heads": ["softmax", "mlp"], "samples_per_class": "4,8", "repeats": 2}
    first = run_sweep(bank, head_params=BOTH, **run)
    test = bank.manifest.rows("test")
    labels = bank.manifest.labels.copy()
    labels[test] = (labels[test] + 1) % 3
    second = run_sweep(
        MemoryBank(bank.manifest.replaced(labels=labels), bank.arrays), head_params=BOTH, **run
    )
    for a, b in zip(first.fits, second.fits, strict=True):
        assert (a.train_top1, a.val_top1, a.best_epoch, a.n_epochs) == (
            b.train_top1,
            b.val_top1,
            b.best_epoch,
            b.n_epochs,
        )
        assert a.top1 > 0.5 > 0.3 > b.top1
    assert [one.name for one in first.heads] == [one.name for one in second.heads]


def test_real_heads_learn_and_every_figure_is_filled(bank):
    result = run_sweep(
        bank,
        cuts=["fc7"],
        heads=["softmax", "mlp", "ncm"],
        samples_per_class="8",
        repeats=2,
        head_params=BOTH,
    )
    for fit in result.fits:
        assert fit.status == "ok"
        assert (fit.n_train, fit.n_features, fit.temperature) == (24, 12, None)
        assert fit.top1 > 0.6
        if fit.head != "ncm":
            assert fit.top5 == fit.val_top5 == 1.0
            assert fit.best_top1 == pytest.approx(fit.top1)  # the weights kept are those of the best epoch
            assert fit.best_val_top1 == pytest.approx(fit.val_top1)
            assert fit.final_top1 is not None
            assert 1 <= fit.best_epoch <= fit.n_epochs <= 12
            assert 0 <= fit.ece < 0.5
    assert len({fit.random_state for fit in result.fits}) == 2


def test_other_sizes_repeats_and_heads_change_no_fit(bank):
    run = {"cuts": ["fc7"], "repeats": 2}
    small = run_sweep(
        bank, heads=["softmax"], samples_per_class="8", head_params=FAST, cuts=["fc7"], repeats=1
    )
    large = run_sweep(bank, heads=["mlp", "softmax"], samples_per_class="4,8,16", head_params=BOTH, **run)
    (fit,) = small.fits
    (same,) = [one for one in large.fits if one.key == fit.key and (one.n_per_class, one.repeat) == (8, 0)]
    assert same.random_state == fit.random_state
    assert (same.top1, same.val_top1, same.n_epochs) == (fit.top1, fit.val_top1, fit.n_epochs)
    other = run_sweep(bank, samples_per_class="8", random_state=1, head_params=FAST, **run).fits[0]
    assert other.random_state != fit.random_state


def test_each_cut_is_read_once_per_split(bank):
    run_sweep(bank, cuts=["fc7", "block1_pool"], heads=["ncm", "ridge"], samples_per_class="4,8", repeats=2)
    whole = [(cut, len(rows)) for cut, rows in bank.read if len(rows) > 1]
    assert whole == [(cut, n) for cut in ("fc7", "block1_pool") for n in (60, 18, 30)]
    assert len(bank.read) == 8  # and a row of each, to see how long it is


@pytest.mark.parametrize("rotate", [False, True])
def test_rows_that_no_fit_draws_are_read_in_runs_for_their_statistics(bank, monkeypatch, rotate):
    run = {
        "cuts": ["fc7"], "heads": ["logreg", "ridge"], "samples_per_class": "2,4", "repeats": 2,
        "head_params": {"logreg": {"rotate": rotate}, "ridge": {"rotate": rotate}},
    }  # fmt: skip
    whole = run_sweep(bank, **run)
    bank.read.clear()
    monkeypatch.setattr("featbank.sweep.features._HELD_BYTES", 100)
    monkeypatch.setattr("featbank.heads.space.SLAB_BYTES", 7 * 12 * 2)  # seven rows of 12 float16
    again = run_sweep(bank, **run)
    assert [(fit.top1, fit.val_top1, fit.train_top1) for fit in again.fits] == [
        (fit.top1, fit.val_top1, fit.train_top1) for fit in whole.fits
    ]
    train = set(bank.manifest.rows("train").tolist())
    of_training = [rows for _, rows in bank.read if set(np.atleast_1d(rows).tolist()) <= train]
    drawn = 0 if rotate else 24  # two draws of four of each of three classes, which overlap
    assert max(map(len, of_training)) <= max(7, drawn)
    assert [kept.estimator.predict(bank.arrays["fc7"][:50]).tolist() for kept in again.heads] == [
        kept.estimator.predict(bank.arrays["fc7"][:50]).tolist() for kept in whole.heads
    ]


def test_features_that_are_projected_are_let_go_of(bank, monkeypatch):
    run = {"cuts": ["fc7"], "heads": ["logreg", NearestCentroid()], "samples_per_class": "4", "repeats": 2}
    kept = run_sweep(bank, **run)
    monkeypatch.setattr("featbank.sweep.features._KEPT_BYTES", 0)
    held = []
    project = CutFeatures.project

    def noted(self, *args):
        projected = project(self, *args)
        held.append(list(self._features))
        return projected

    monkeypatch.setattr(CutFeatures, "project", noted)
    again = run_sweep(bank, **run)
    assert held
    assert not any(held)
    assert [(fit.head, fit.top1, fit.train_top1) for fit in again.fits] == [
        (fit.head, fit.top1, fit.train_top1) for fit in kept.fits
    ]


def test_wide_rows_are_judged_in_runs(bank, monkeypatch):
    asked = {
        "cuts": ["fc7"],
        "heads": ["ncm", "knn", "ridge", "logreg"],
        "samples_per_class": [3],  # fewer rows than columns: they stay as they are stored
        "head_params": {name: {"rotate": False} for name in ("ncm", "knn", "ridge", "logreg")},
    }
    whole = run_sweep(bank, **asked)
    bank.read.clear()
    for name, value in (("_HELD_BYTES", 100), ("_KEPT_BYTES", 0)):
        monkeypatch.setattr(f"featbank.sweep.features.{name}", value)
    monkeypatch.setattr("featbank.heads.space.BLOCK_BYTES", 7 * 12 * 8)
    monkeypatch.setattr("featbank.heads.space.ONCE_BYTES", 7 * 12 * 2)
    monkeypatch.setattr("featbank.sweep.features._ROWS_BLOCK", 7 * 12)
    runs = run_sweep(bank, **asked)
    test = np.flatnonzero(bank.manifest.splits == SPLITS.index("test"))
    sizes = [len(rows) for _, rows in bank.read if np.isin(rows, test).all()]
    assert max(sizes) <= 7 < len(test)
    for one, other in zip(whole.fits, runs.fits, strict=True):
        assert (one.top1, one.val_top1, one.train_top1) == (other.top1, other.val_top1, other.train_top1)
        assert (one.hits.top1 == other.hits.top1).all()


def test_a_wide_row_to_judge_that_is_no_number_is_named(bank, monkeypatch):
    row = int(np.flatnonzero(bank.manifest.splits == SPLITS.index("test"))[5])
    bank.arrays["fc7"][row, 3] = np.nan
    monkeypatch.setattr("featbank.sweep.features._HELD_BYTES", 100)
    monkeypatch.setattr("featbank.sweep.features._KEPT_BYTES", 0)
    found = run_sweep(
        bank,
        cuts=["fc7"],
        heads=["ncm"],
        samples_per_class=[4],
        head_params={"ncm": {"rotate": False}},
    )
    assert f"1 of 30 test images hold NaN or infinity: {row:05d}.jpg; " in found.fits[0].message
    assert found.fits[0].status == "failed"


def test_estimators_of_others_see_and_read_the_rows_drawn_alone(bank):
    run_sweep(bank, cuts=["fc7"], heads=[NearestCentroid()], samples_per_class="2", repeats=2)
    assert max(len(rows) for _, rows in bank.read) == 30  # the test rows; 12 of 60 to train on at most


def test_softmax_is_read_at_each_temperature(bank):
    result = run_sweep(
        bank, cuts=["softmax"], temperatures=[0.5, 2], samples_per_class="8", repeats=2, head_params=FAST
    )
    assert [one.temperature for one in result.fits] == [0.5, 0.5, 2.0, 2.0]
    assert [point.temperature for point in result.points()] == [0.5, 2.0]
    kept = [one.name.rpartition("-r")[0] for one in result.heads]
    assert kept == ["softmax-T0.5-softmax-n8", "softmax-T2-softmax-n8"]
    plain = run_sweep(bank, cuts=["softmax"], samples_per_class="8", repeats=1, head_params=FAST)
    assert [one.temperature for one in plain.fits] == [1.0]


def test_all_takes_uneven_classes_as_they_are(bank):
    labels = bank.manifest.labels.copy()
    labels[np.flatnonzero(labels == 0)[0]] = 1
    bank.manifest = bank.manifest.replaced(labels=labels)
    result = run_sweep(bank, cuts=["fc7"], heads=["ncm"], samples_per_class="19,all", repeats=1)
    assert [(one.n_per_class, one.n_train) for one in result.fits] == [(19, 57), (20, 60)]


class Fragile:
    """Fails at one size, in one repeat."""

    calls: ClassVar[list[int]] = []

    def __init__(self, error: type[Exception]):
        self.error = error

    def fit(self, X, y):
        self.calls.append(len(y))
        if len(y) == 24 and self.calls.count(24) == 1:
            raise self.error("singular\nmatrix")
        return self

    def predict(self, X):
        return np.zeros(len(X), int)


def test_a_failed_fit_is_a_line_and_no_part_of_the_curve(bank):
    Fragile.calls.clear()
    heads = [("fragile", Fragile(np.linalg.LinAlgError))]
    result = run_sweep(bank, cuts=["fc7"], heads=heads, samples_per_class="4,8", repeats=2)
    (failed,) = result.failed
    assert (failed.n_per_class, failed.repeat, failed.top1) == (8, 0, None)
    assert failed.message == "LinAlgError: singular matrix"
    assert result.notes == ["1 of 4 fits failed: LinAlgError: singular matrix"]
    points = result.points()
    assert [(one.n_per_class, one.n_repeats, one.n_failed) for one in points] == [
        (4, 2, 0),
        (8, 1, 1),
    ]
    assert all(np.isfinite(one.mean("top1")) for one in points)
    assert points[1].scores["top1"].low is None
    # One repeat only, and it fails: the size has no point.
    Fragile.calls.clear()
    alone = run_sweep(bank, cuts=["fc7"], heads=heads, samples_per_class="4,8", repeats=1)
    assert [one.n_per_class for one in alone.points()] == [4]


def test_a_bug_in_a_head_is_not_hidden(bank):
    Fragile.calls.clear()
    with pytest.raises(KeyError):
        run_sweep(bank, cuts=["fc7"], heads=[Fragile(KeyError)], samples_per_class="8", repeats=1)


def test_a_head_that_diverges_is_a_failed_fit(bank):
    bad = {"softmax": {"lr": 1e38, "solver": "sgd", "max_epochs": 5}}
    with pytest.warns(FitWarning, match="fc7, softmax: "):
        result = run_sweep(bank, cuts=["fc7"], samples_per_class="8", repeats=2, head_params=bad)
    assert [one.status for one in result.fits] == ["failed", "failed"]
    assert "too large" in result.fits[0].message
    assert result.points() == []
    assert result.heads == []
    assert any("fc7, softmax" in note for note in result.notes)


def test_kept_heads_are_chosen_by_validation(bank):
    run = {"cuts": ["fc7", "block1_pool"], "samples_per_class": "4,8", "repeats": 4, "head_params": FAST}
    best = run_sweep(bank, **run)
    assert [kept.cut for kept in best.heads] == ["fc7", "block1_pool"]
    for kept in best.heads:
        rivals = [one for one in best.fits if one.key == kept.key and one.n_per_class == 8]
        assert kept.val_top1 == max(one.val_top1 for one in rivals)
        assert kept.predictions.split == "test"
        np.testing.assert_array_equal(kept.predictions.rows, bank.manifest.rows("test"))
        assert np.mean(kept.predictions.y_pred == kept.predictions.y_true) == kept.top1
        # The head answers from original features what the sweep counted.
        X = bank.features(kept.cut, kept.predictions.rows)
        np.testing.assert_array_equal(kept.estimator.predict(X), kept.predictions.y_pred)
        assert set(kept.history) >= {"train_loss", "val_accuracy", "test_accuracy"}
    assert len({kept.name for kept in run_sweep(bank, save_heads="all", **run).heads}) == 16
    assert run_sweep(bank, save_heads="none", **run).heads == []


def test_many_test_rows_and_classes_are_scored_but_not_watched(bank, monkeypatch):
    ask = {"cuts": ["fc7"], "samples_per_class": [4], "repeats": 1, "head_params": FAST}
    (watched,) = run_sweep(bank, **ask).heads
    monkeypatch.setattr("featbank.sweep.fitting.WATCHED_TEST_LOGITS", 1)
    (alone,) = run_sweep(bank, **ask).heads
    assert "test_accuracy" in watched.history
    assert "test_accuracy" not in alone.history
    assert (alone.top1, alone.val_top1) == (watched.top1, watched.val_top1)
    assert watched.best_top1 is not None
    assert alone.best_top1 is None


def test_without_validation_rows_the_result_says_so(bank):
    splits = bank.manifest.splits.copy()
    splits[bank.manifest.rows("val")] = 3
    bank.manifest = bank.manifest.replaced(splits=splits)
    result = run_sweep(bank, cuts=["fc7"], samples_per_class="4,8", repeats=3, head_params=FAST)
    assert result.notes == [
        "no validation rows: training stops by the training loss, C='auto' goes by cross-validation within "
        "each draw, and the head kept of each curve is that of the first repeat; --val 0.2 would hold a "
        "fifth of each draw out for that",
        "softmax: 6 of 6 heads were still getting better, by the training loss, at the last of 12 epochs; "
        "max_epochs=24 (fit-head --max-epochs, in a study [heads.NAME]) lets them go on",
    ]
    assert (result.heads[0].repeat, result.heads[0].n_per_class) == (0, 8)
    assert {one.val_top1 for one in result.fits} == {None}
    assert result.points()[0].mean("top1") > 0.5


def test_without_test_rows_the_validation_rows_are_judged(bank):
    splits = bank.manifest.splits.copy()
    splits[bank.manifest.rows("test")] = 3
    bank.manifest = bank.manifest.replaced(splits=splits)
    result = run_sweep(bank, cuts=["fc7"], samples_per_class="4", repeats=2, head_params=FAST)
    assert result.notes == [
        "no test rows: accuracies are those on the validation rows, which also chose when to stop, "
        "and flatter",
        "softmax: 2 of 2 heads were still getting better, by the validation rows, at the last of 12 epochs; "
        "max_epochs=24 (fit-head --max-epochs, in a study [heads.NAME]) lets them go on",
    ]
    point = result.points()[0]
    assert point.mean("top1") is None
    assert point.mean("val_top1") > 0.5
    assert result.heads[0].predictions.split == "val"


def test_copies_across_splits_are_told_before_fitting(bank):
    digests = bank.manifest.digests.copy()
    train, test = bank.manifest.rows("train")[5], bank.manifest.rows("test")[2]
    digests[test] = digests[train]
    bank.manifest = bank.manifest.replaced(digests=digests)
    told: list[bool] = []

    class Late(Spy):
        def fit(self, X, y):
            told.append(bool(caught))
            return self

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run_sweep(bank, cuts=["fc7"], heads=[("late", Late())], samples_per_class="4", repeats=1)
    message = (
        "1 validation or test image is byte for byte a training image "
        f"(first: {test:05d}.jpg = {train:05d}.jpg); accuracies are flattered, "
        "remove the copies and extract again"
    )
    assert [(one.category, str(one.message)) for one in caught] == [(LeakWarning, message)]
    assert told == [True]
    assert result.notes == [message]


def test_cuts_come_in_the_order_of_depth(bank, backbone_key):
    bank.arrays["conv@hflip"] = bank.arrays["fc7"]
    bank.key = backbone_key
    result = run_sweep(
        bank, cuts=["conv@hflip", "softmax", "fc7", "logits", "block1_pool"], heads=["ncm"],
        samples_per_class="4", repeats=1,
    )  # fmt: skip
    assert result.cuts == ("block1_pool", "fc7", "logits", "softmax", "conv@hflip")
    backbone_key.backbone = "of another version"
    again = run_sweep(bank, cuts=["logits", "fc7"], heads=["ncm"], samples_per_class="4", repeats=1)
    assert again.cuts == ("logits", "fc7")


def test_groups_and_progress_are_told_as_they_come(bank):
    groups, steps = [], []
    result = run_sweep(
        bank, cuts=["fc7", "block1_pool"], heads=["ncm", "ridge"], samples_per_class="4,8", repeats=2,
        on_result=groups.append, progress=lambda *step: steps.append(step),
    )  # fmt: skip
    told = [fit for group in groups for fit in group]
    assert sorted(told, key=result.fits.index) == result.fits
    assert [(fit.n_per_class, fit.repeat) for fit in told[:4]] == [(8, 0), (8, 1), (4, 0), (4, 1)]
    assert [len(group) for group in groups] == [2] * 8  # those of a size together
    assert [one.name for group in groups for one in group if one.estimator] == [
        one.name for one in result.heads
    ]
    assert {total for _, total in steps} == {16}
    assert {0, 4, 8, 12, 16} <= {done for done, _ in steps}
    assert steps == sorted(steps)


def test_estimators_of_others_run_on_threads_with_the_same_result(bank):
    from sklearn.ensemble import RandomForestClassifier

    forest = ("forest", RandomForestClassifier(n_estimators=5))
    run = {"cuts": ["fc7"], "heads": [forest], "samples_per_class": "4,8", "repeats": 2}
    one, two = run_sweep(bank, **run), run_sweep(bank, n_jobs=2, **run)
    assert [fit.top1 for fit in one.fits] == [fit.top1 for fit in two.fits]
    assert one.fits[0].top5 == 1.0
    assert forest[1].get_params()["random_state"] is None  # the caller's object is not touched


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"save_heads": "some"},
            InvalidInputError,
            "save_heads='some' (--save-heads) is not one of 'best', 'all', 'none'",
        ),
        (
            {"n_jobs": 0},
            InvalidInputError,
            "n_jobs=0 leaves nobody to fit; give 1 or more, or -1 for one per",
        ),
        (
            {"cuts": ["fc6"]},
            UnknownNameError,
            "the bank has no cut 'fc6'; it has 'fc7', 'block1_pool', 'logits'",
        ),
        ({"heads": ["sofmax"]}, UnknownNameError, "unknown head 'sofmax'; known: 'softmax', "),
        ({"heads": []}, InvalidInputError, "no head was asked for; name at least one, e.g. 'softmax'"),
        (
            {"heads": ["softmax", "linear"]},
            InvalidInputError,
            "head 'softmax' is asked for twice; give one of them as (name, estimator)",
        ),
        (
            {"heads": [3]},
            InvalidInputError,
            "head 3 has no fit and no predict; give a name, an estimator or (name, estimator)",
        ),
        (
            {"head_params": {"mlp": {"lr": 1.0}}},
            InvalidInputError,
            "head_params for 'mlp', which is not fitted; fitted: 'softmax'",
        ),
        (
            {"head_params": {"softmax": {"hidden_units": 3}}},
            InvalidInputError,
            "head 'softmax' has no parameter 'hidden_units'; it has ",
        ),
        (
            {"head_params": {"softmax": {"random_state": 3}}},
            InvalidInputError,
            "head 'softmax': random_state belongs to the sweep, not to head_params",
        ),
        (
            {"temperatures": [2.0]},
            InvalidInputError,
            "temperatures=[2.0] (--temperature) are for the cut 'softmax', got 'block1_pool', 'fc7', "
            "'logits'; add --cut softmax",
        ),
        (
            {"cuts": ["softmax"], "temperatures": [1, 0]},
            InvalidInputError,
            "temperature=0.0 must be a finite number over 0",
        ),
        (
            {"cuts": ["softmax"], "temperatures": []},
            InvalidInputError,
            "temperature=None must be a finite number",
        ),
        (
            {"samples_per_class": "4..32"},
            InvalidInputError,
            "n_per_class=32 (--samples-per-class) asks for "
            "more samples than 3 of 3 classes have: class 'ant' has 20, "
            "class 'bee' has 20, class 'cat' has 20. Use at most 20, drop these classes, or add --up-to, "
            "which takes what they have.",
        ),
        ({"samples_per_class": 0}, InvalidInputError, "samples_per_class='0' asks for 0 samples per class; "),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_read(bank, arguments, kind, message):
    with pytest.raises(kind) as caught:
        run_sweep(bank, **{"samples_per_class": "4", **arguments})
    assert str(caught.value).startswith(message)
    assert bank.read == []


@pytest.fixture
def untrained(bank):
    statuses = bank.manifest.statuses.copy()
    statuses[(bank.manifest.labels == 1) & (bank.manifest.splits == 0)] = RowStatus.QUARANTINED
    bank.manifest = bank.manifest.replaced(statuses=statuses)
    return bank


@pytest.mark.parametrize("heads", [["ncm", "ridge", "knn", "svm"], ["softmax", "mlp"], ["logreg"]])
@pytest.mark.parametrize(
    ("policy", "became"),
    [
        ("drop", "are left out (--untrained-classes keep counts them as wrong)"),
        ("keep", "count as wrong (--untrained-classes drop leaves them out)"),
    ],
)
def test_a_class_without_training_images_is_told(untrained, policy, became, heads):
    run = {"cuts": ["fc7"], "heads": heads, "samples_per_class": "4,all", "repeats": 1}
    params = (
        {"logreg": {"C": "auto"}}
        if heads == ["logreg"]
        else {name: BOTH[name] for name in heads if name in BOTH}
    )
    with pytest.warns(FitWarning, match="1 class without training images"):
        result = run_sweep(untrained, untrained_classes=policy, head_params=params, **run)
    assert result.notes[0] == (
        "1 class without training images, which no head can answer: bee; their 6 validation and 10 test "
        f"images {became}"
    )
    assert result.untrained == {"policy": policy, "classes": {"bee": {"val": 6, "test": 10}}}
    n_test = 20 if policy == "drop" else 30
    assert result.n_rows["test"] == n_test
    for fit in result.fits:
        assert fit.status == "ok"
        assert len(fit.hits.top1) == n_test
        assert fit.top1 <= (1.0 if policy == "drop" else 20 / 30)
        assert fit.n_classes == 2


def test_nothing_but_untrained_classes_to_judge_by_is_refused(untrained):
    labels, splits = untrained.manifest.labels, untrained.manifest.splits.copy()
    splits[(labels != 1) & (splits != 0)] = 3
    untrained.manifest = untrained.manifest.replaced(splits=splits)
    with pytest.raises(
        InvalidInputError, match=r"without training images.* there is nothing left to score on"
    ):
        run_sweep(untrained, samples_per_class="4")


def test_a_class_without_test_images_is_told(bank):
    splits = bank.manifest.splits.copy()
    splits[(bank.manifest.labels == 1) & (splits == 2)] = 3
    bank.manifest = bank.manifest.replaced(splits=splits)
    result = run_sweep(bank, cuts=["fc7"], heads=["ncm"], samples_per_class="4", repeats=1)
    assert result.notes == [
        "1 of 3 classes without test images: bee; accuracies say nothing of how well they are recognised"
    ]


def test_heads_that_no_seed_changes_are_fitted_to_all_samples_once(bank):
    run = {"cuts": ["fc7"], "samples_per_class": "4,all", "repeats": 3}
    exact = ["logreg", "ncm", "knn", "svm", "ridge"]
    told = []
    result = run_sweep(
        bank,
        heads=[*exact, "softmax"],
        head_params=FAST,
        progress=lambda *said: told.append(said[:2]),
        **run,
    )
    counts = Counter((one.head, one.n_per_class) for one in result.fits)
    assert counts == {(head, 4): 3 for head in [*exact, "softmax"]} | {(head, 20): 1 for head in exact} | {
        ("softmax", 20): 3
    }
    assert told[-1] == (26, 26)
    stranger = run_sweep(bank, heads=[("mine", NearestCentroid())], **run)
    assert len(stranger.fits) == 6  # nobody knows whether it is random


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (3, "the bank has no labelled training rows; extract again with --split, e.g. 0.7,0.1,0.2"),
        (
            0,
            "the bank has neither test nor validation rows to score on; extract again with --split, "
            "e.g. 0.7,0.1,0.2",
        ),
    ],
)
def test_a_bank_without_splits_is_told(splits, message):
    bank = make_bank({"train": 8})
    bank.manifest = bank.manifest.replaced(splits=np.full(24, splits, np.uint8))
    with pytest.raises(InvalidInputError) as caught:
        run_sweep(bank, samples_per_class="4")
    assert str(caught.value) == message


def test_importing_the_sweep_loads_no_torch():
    code = "import featbank.sweep, featbank.plots, featbank.runs, sys; " + (
        "sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'matplotlib', 'scipy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cut_that_says_nothing_is_failed_lines_and_the_others_go_on():
    bank = make_bank({"train": 8, "val": 4, "test": 4})
    bank.arrays = {"dead": np.ones((len(bank.manifest), 200), np.float32), **bank.arrays}
    result = run_sweep(bank, heads=["softmax"], samples_per_class="2,4", repeats=2, head_params=FAST)
    dead = [fit for fit in result.fits if fit.cut == "dead"]
    assert [fit.status for fit in dead] == ["failed"] * 4
    assert all(fit.message for fit in dead)
    assert {fit.status for fit in result.fits if fit.cut != "dead"} == {"ok"}
    assert "dead" not in {point.cut for point in result.points()}


@pytest.mark.parametrize("head", ["softmax", "mlp", "logreg", "ncm", "knn", "svm", "ridge"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_rows_that_hold_no_numbers_fail_every_head_and_are_named(bank, head, split):
    row = bank.manifest.rows(split)[4]
    bank.arrays["fc7"][row, 3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = run_sweep(
            bank, cuts=["fc7", "logits"], heads=[head], samples_per_class="4", repeats=1, head_params={}
        )
    (message,) = {fit.message for fit in result.fits if fit.cut == "fc7"}
    n = len(bank.manifest.rows(split)) - (3 if split == "train" else 0)
    assert message == (
        f"InvalidInputError: 1 of {n} {split} images hold NaN or infinity: {row:05d}.jpg; drop or "
        "replace them"
    )
    assert {fit.status for fit in result.fits if fit.cut == "logits"} == {"ok"}


def test_heads_cut_off_by_their_epochs_are_told_once(bank):
    params = {
        "softmax": {"max_epochs": 3, "lr": [0.01, 0.02]},
        "mlp": {"max_epochs": 400, "patience": 1, "monitor": "loss", "lr": 0.05},
    }
    result = run_sweep(
        bank,
        cuts=["fc7", "block1_pool"],
        heads=["softmax", "mlp", "logreg"],
        head_params=params,
        samples_per_class="4,8",
        repeats=2,
    )
    assert [note for note in result.notes if "--max-epochs" in note] == [
        "softmax: 16 of 16 heads were still getting better, by the validation rows, at the last of 3 epochs; "
        "max_epochs=6 (fit-head --max-epochs, in a study [heads.NAME]) lets them go on"
    ]


def test_shares_of_votes_have_no_temperature(bank):
    heads = ["knn", "logreg", "softmax", ("trees", RandomForestClassifier(5)), LogisticRegression()]
    result = run_sweep(
        bank,
        cuts=["fc7"],
        heads=heads,
        samples_per_class="8",
        repeats=1,
        head_params={"softmax": FAST["softmax"]},
    )
    scaled = {fit.head: fit.ece_scaled is not None for fit in result.fits}
    assert scaled == {
        "knn": False,
        "logreg": True,
        "softmax": True,
        "trees": False,
        "LogisticRegression": True,
    }
    assert {fit.calibration_temperature is not None for fit in result.fits if not scaled[fit.head]} == {False}
    assert all(fit.ece is not None for fit in result.fits)


def test_scores_from_probabilities_are_those_of_scikit_learn(bank):
    """A head without probabilities has none of them."""
    from sklearn.metrics import log_loss, roc_auc_score

    names = ("log_loss", "roc_auc", "cohen_kappa")
    result = run_sweep(
        bank,
        cuts=["fc7"],
        heads=["logreg", "ridge"],
        samples_per_class="4",
        repeats=1,
        metrics=names,
        save_heads="all",
    )
    fits = {one.head: one for one in result.fits}
    assert set(fits["ridge"].metrics) == {"cohen_kappa", "val_cohen_kappa"}
    rows = bank.manifest.rows("test")
    p = fits["logreg"].estimator.predict_proba(bank.features("fc7", rows))
    y = bank.manifest.labels[rows]
    assert fits["logreg"].metrics["log_loss"] == pytest.approx(log_loss(y, p))
    assert fits["logreg"].metrics["roc_auc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))


def test_of_many_rows_those_drawn_and_some_for_the_statistics_are_read(monkeypatch):
    from featbank.sweep import features

    asked = {"cuts": ["fc7"], "heads": ["ncm"], "samples_per_class": "4", "repeats": 1}
    bank = make_bank({"train": 400, "test": 20})
    whole = run_sweep(bank, **asked).fits[0]
    assert len(np.unique(np.concatenate([rows for _, rows in bank.read]))) == 1260
    for name, value in (("_MOST_POOL", 1000), ("_STATISTICS_ROWS", 120), ("_STATISTICS_RUN", 6)):
        monkeypatch.setattr(features, name, value)
    bank.read.clear()
    some = run_sweep(bank, **asked).fits[0]
    read = np.unique(np.concatenate([rows for _, rows in bank.read]))
    assert len(read) <= 60 + 12 + 120
    assert len(features.rows_for_statistics(1200)) == 120
    assert features.rows_for_statistics(1200)[[0, -1]].tolist() == [0, 1199]
    assert some.top1 == pytest.approx(whole.top1, abs=0.05)
    # where one of these is not finite it is named
    bank.arrays["fc7"][features.rows_for_statistics(1200)[7]] = np.nan
    failed = run_sweep(bank, **asked).fits[0]
    assert "1 of 120 train images hold NaN or infinity: " in failed.message


class Shaped:
    """Says what it is told to, whatever the rows."""

    def __init__(self, how):
        self.how = how

    def fit(self, X, y):
        self.y = y
        return self

    def predict(self, X):
        return self.how(len(X), self.y)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda n, y: 3, r"shape \(\) for 12 rows; return one class for each, of shape \(12,\)"),
        (lambda n, y: [0], r"shape \(1,\) for 12 rows"),
        (lambda n, y: np.zeros((n, 1)), r"shape \(12, 1\) for 12 rows"),
        (lambda n, y: np.zeros((n, 3)), r"shape \(12, 3\) for 12 rows"),
        (lambda n, y: None, r"shape \(\) for 12 rows"),
        (lambda n, y: np.full(n, "cup"), "predict returned <U3 such as .*cup.*; return class numbers"),
        (lambda n, y: np.full(n, 0.5), "predict returned float64 such as .*0.5"),
        (lambda n, y: np.full(n, np.nan), "predict returned float64 such as .*nan"),
    ],
)
def test_answers_that_are_no_class_for_each_row_fail_the_fit(bank, how, message):
    result = run_sweep(
        bank, cuts=["fc7"], heads=[("own", Shaped(how)), "ncm"], samples_per_class=[4], repeats=1
    )
    assert {one.head: one.status for one in result.fits} == {"own": "failed", "ncm": "ok"}
    assert re.search(message, result.failed[0].message)


def test_answers_that_are_whole_numbers_are_classes(bank):
    whole = ("own", Shaped(lambda n, y: np.zeros(n)))
    result = run_sweep(bank, cuts=["fc7"], heads=[whole], samples_per_class=[4], repeats=1)
    assert result.fits[0].status == "ok"
