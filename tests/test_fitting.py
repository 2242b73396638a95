"""From a bank to a finished run: what is made when, and that all cuts see the same samples."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pickle
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.banks import Bank, BankStore
from featbank.errors import (
    CacheWriteError,
    FeatbankError,
    InvalidInputError,
    LeakWarning,
    RunError,
    UnknownNameError,
)
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.heads import MLPClassifier, RidgeClassifier
from featbank.runs import Run, list_runs
from featbank.sweep import fitting, run_sweep

QUICK = {"head_params": {"softmax": {"max_epochs": 5}}, "repeats": 2, "samples_per_class": "2,4"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of 150 digits."""
    cache = tmp_path_factory.mktemp("fitting")
    cuts = ("block3_pool", "block5_pool", "logits")
    made = extract(
        *("digits",),
        backbone="minivgg",
        weights="random",
        cuts=cuts,
        split="6,3,6",
        limit=150,
        cache_dir=cache,
    )
    return made.bank


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.slow
def test_a_run_with_its_figures(digits, cache):
    steps: list[tuple[int, int, str]] = []
    fitted = fit_heads(
        digits,
        cuts=("block3_pool", "block5_pool"),
        heads=("softmax", "ncm"),
        cache_dir=cache,
        command=["featbank", "fit-head"],
        progress=lambda *step: steps.append(step),
        **QUICK,
    )
    (path,) = list_runs(cache)
    assert fitted.run.path == path
    assert repr(fitted) == f"<FittedRun '{path.name}', 16 fits>"
    run = Run.open(path)
    assert run.facts["status"] == "finished"
    assert run.facts["parameters"] == {
        "cuts": ["block3_pool", "block5_pool"],
        "heads": ["softmax", "ncm"],
        "samples_per_class": "2,4",
        "repeats": 2,
        "temperatures": None,
        "random_state": 0,
        "head_params": {"softmax": {"max_epochs": 5}},
        "save_heads": "best",
        "untrained_classes": "drop",
        "val": None,
    }
    assert run.result().fits == fitted.result.fits
    assert run.result().cuts == ("block3_pool", "block5_pool")
    assert set(fitted.figures) >= {"curve", "cuts", "confusion", "history"}
    assert {file.parent for file in fitted.figures.values()} == {path / "figures"}
    assert steps[0][:2] == (0, 16)
    assert steps[-1][:2] == (16, 16)
    with (path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 16


def test_the_newest_bank_of_the_cache_is_the_default(digits):
    store = digits.parents[1]
    fitted = fit_heads(cuts=["block5_pool"], cache_dir=store.parent, **QUICK)
    assert fitted.run.source["bank"] == str(digits)
    assert fitted.run.path.parent == store.parent / "runs"
    assert BankStore(store).newest() == digits


@pytest.mark.slow
@pytest.mark.parametrize(("alias", "cut"), [("pool5", "block5_pool"), ("conv-3", "block3_pool")])
def test_a_cut_may_be_called_by_its_alias(digits, cache, alias, cut):
    fitted = fit_heads(digits, cuts=[alias], cache_dir=cache, **QUICK)
    assert {fit.cut for fit in fitted.result.fits} == {cut}
    assert fitted.run.facts["parameters"]["cuts"] == [cut]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"cuts": ["block9_pool"]},
            UnknownNameError,
            "unknown cut 'block9_pool' of backbone 'minivgg'; known: ",
        ),
        ({"cuts": ["block1_pool"]}, UnknownNameError, "the bank has no cut 'block1_pool'; it has "),
        ({"cuts": ["pool5@hflip"]}, UnknownNameError, "the bank has no cut 'block5_pool@hflip'; it has "),
        ({"heads": ["sofmax"]}, UnknownNameError, "unknown head 'sofmax'; known: 'softmax'"),
        ({"samples_per_class": "4..2"}, InvalidInputError, "samples_per_class='4..2' runs backwards"),
        (
            {"samples_per_class": 7},
            InvalidInputError,
            "n_per_class=7 (--samples-per-class) asks for more samples than 10 of 10 ",
        ),
        ({"temperatures": [2.0]}, InvalidInputError, "temperatures=[2.0] (--temperature) are for the cut "),
        ({"repeats": 0}, InvalidInputError, "repeats=0 must be at least 1"),
        ({"repeats": 2.5}, InvalidInputError, "repeats=2.5 must be a whole number"),
        ({"repeats": "3"}, InvalidInputError, "repeats='3' must be a whole number"),
        ({"repeats": True}, InvalidInputError, "repeats=True must be a whole number"),
        ({"random_state": None}, InvalidInputError, "random_state=None must be a whole number"),
        ({"samples_per_class": 2.5}, InvalidInputError, "samples_per_class='2.5' cannot be read"),
        ({"n_jobs": "2"}, InvalidInputError, "n_jobs='2' leaves nobody to fit; give 1 or more"),
        ({"cuts": ["softmax"], "temperatures": [float("nan")]}, InvalidInputError, "temperature=nan must be"),
        ({"val": float("nan")}, InvalidInputError, "val=nan (--val) is not a part of each draw"),
        ({"val": "0.2"}, InvalidInputError, "val='0.2' (--val) is not a part of each draw"),
        ({"save_heads": "some"}, InvalidInputError, "save_heads='some' (--save-heads) is not one of "),
        (
            {"head_params": {"softmax": {"lr": -1.0}}},
            InvalidInputError,
            "head 'softmax' cannot be fitted with lr=-1.0",
        ),
        (
            {"head_params": {"mlp": {"lr": 1.0}}},
            InvalidInputError,
            "head_params for 'mlp', which is not fitted",
        ),
        ({"bank": "photos"}, FeatbankError, "no bank 'photos' in "),
    ],
)
def test_wrong_input_leaves_no_run_behind(digits, cache, options, error, message):
    given = {"bank": digits, "cuts": ["block5_pool"], "cache_dir": cache, **QUICK, **options}
    with pytest.raises(error) as caught:
        fit_heads(given.pop("bank"), **given)
    assert str(caught.value).startswith(message)
    assert not (cache / "runs").exists()


@pytest.mark.slow
def test_a_run_is_made_with_the_first_result_and_not_before(digits, cache):
    seen = []

    def look(done, total):
        seen.append((done, len(list_runs(cache))))

    fit_heads(digits, cuts=["block3_pool", "block5_pool"], cache_dir=cache, progress=look, **QUICK)
    assert seen == [(0, 0), (2, 1), (4, 1), (6, 1), (8, 1)]


def test_an_interrupted_sweep_leaves_what_it_has(digits, cache):
    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_heads(digits, cuts=["block3_pool", "block5_pool"], cache_dir=cache, progress=interrupt, **QUICK)
    (path,) = list_runs(cache)
    run = Run.open(path)
    assert run.facts["status"] == "running"
    assert {fit.cut for fit in run.result().fits} == {"block3_pool"}


def test_all_cuts_and_heads_are_fitted_on_the_same_samples(digits, cache, monkeypatch):
    rows = defaultdict(dict)
    inner = fitting.Sweep._planned

    def watching(self, group):
        planned = inner(self, group)
        for fit in planned:
            rows[fit.n_per_class, fit.repeat][fit.cut, fit.head] = fit.draw.rows.tolist()
        return planned

    monkeypatch.setattr(fitting.Sweep, "_planned", watching)
    fit_heads(digits, cuts=["block3_pool", "block5_pool"], heads=["softmax", "ncm"], cache_dir=cache, **QUICK)
    assert len(rows) == 4
    for (n_per_class, _), by_group in rows.items():
        assert len(by_group) == 4
        (drawn,) = {tuple(one) for one in by_group.values()}
        assert len(drawn) == 10 * n_per_class
    assert set(rows[2, 0]["block3_pool", "ncm"]) < set(rows[4, 0]["block3_pool", "ncm"])
    assert rows[4, 0] != rows[4, 1]


def test_a_sweep_in_which_everything_failed_still_leaves_a_run(digits, cache, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("no luck")

    monkeypatch.setattr("featbank.heads.head.fit_stack", fail)
    fitted = fit_heads(digits, cuts=["block5_pool"], cache_dir=cache, **QUICK)
    assert (fitted.figures, fitted.result.points(), len(fitted.result.failed)) == ({}, [], 4)
    assert Run.open(fitted.run.path).facts["notes"] == ["4 of 4 fits failed: RuntimeError: no luck"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_does_not_lose_the_run(digits, cache):
    # The exact solver has no learning rate, which its history says as NaN, and JSON has none.
    fitted = fit_heads(
        digits, cuts=["block5_pool"], heads=["logreg"], repeats=1, samples_per_class=4, cache_dir=cache
    )
    (history,) = Run.open(fitted.run.path).histories().values()
    assert np.isnan(history["lr"]).all()
    json.loads((fitted.run.path / "histories.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_without_test_rows_the_figures_are_of_the_validation_rows(digits, cache, tmp_path):
    made = extract(
        *("digits",),
        backbone="minivgg",
        weights="random",
        cuts=("block4_pool", "block5_pool"),
        split="6,3,0",
        limit=150,
        cache_dir=tmp_path / "other",
    )
    fitted = fit_heads(made.bank, cache_dir=cache, **QUICK)
    assert set(fitted.figures) >= {"curve", "confusion", "history"}
    assert any("no test rows" in note for note in fitted.result.notes)


def test_runs_that_cannot_be_written(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheWriteError, match="cannot write"):
        fit_heads(digits, cuts=["block5_pool"], cache_dir=tmp_path / "file", **QUICK)


@pytest.mark.slow
def test_an_open_bank_does_as_well(digits, cache):
    fitted = fit_heads(Bank.open(digits), cuts=["block5_pool"], cache_dir=cache, **QUICK)
    assert fitted.run.source["key_digest"] == Bank.open(digits).key.digest()


class Nearest:
    """An estimator of somebody's own; says where it was fitted."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means = np.stack([X[y == code].mean(axis=0) for code in self.classes_])
        self.process, self.thread = os.getpid(), threading.get_ident()
        return self

    def predict(self, X):
        return self.classes_[((X[:, None] - self.means) ** 2).sum(axis=2).argmin(axis=1)]


class Rooted(Nearest):
    """Cannot be pickled."""

    def __deepcopy__(self, memo):
        return Rooted()

    def __reduce__(self):
        raise TypeError("it stays here")


JOBS = {"cuts": ["block5_pool"], "samples_per_class": "2,4", "repeats": 2, "save_heads": "all"}


def own_and_classic(bank, heads, n_jobs):
    result = run_sweep(bank, heads=heads, n_jobs=n_jobs, **JOBS)
    figures = [dataclasses.replace(fit, duration_s=0.0) for fit in result.fits]
    heads = sorted(result.heads, key=lambda kept: kept.name)
    return figures, heads


@pytest.mark.slow
def test_processes_give_what_one_process_gives(digits):
    bank = Bank.open(digits)
    X = bank.features("block5_pool")
    heads = ["ncm", "knn", "svm", ("own", Nearest())]
    (figures, kept), (again, kept_again) = (own_and_classic(bank, heads, n_jobs) for n_jobs in (None, 2))
    assert figures == again
    assert [one.name for one in kept] == [one.name for one in kept_again]
    assert len(kept) == 16
    for one, other in zip(kept, kept_again, strict=True):
        np.testing.assert_array_equal(one.estimator.predict(X), other.estimator.predict(X))
        if one.head == "own":
            assert one.estimator.process == os.getpid() != other.estimator.process
    # a head that was fitted elsewhere is a whole head: it can be saved
    classic = [one for one in kept_again if one.head == "svm"]
    assert classic[0].estimator.space_.n_features_ == X.shape[1] == classic[0].estimator.n_features_in_


def test_what_cannot_be_pickled_is_fitted_in_threads(digits):
    bank = Bank.open(digits)
    (figures, _), (again, kept) = (own_and_classic(bank, [("own", Rooted())], n_jobs) for n_jobs in (None, 2))
    assert figures == again
    assert {one.estimator.process for one in kept} == {os.getpid()}
    assert threading.get_ident() not in {one.estimator.thread for one in kept}


def test_no_features_are_sent_to_other_processes(digits, monkeypatch):
    """What goes there is where the bank is, row numbers and labels."""
    sent = []

    def look(calls, n_jobs, prefer, modules):
        assert (n_jobs, prefer) == (2, "processes")
        assert __name__ in modules
        for call, *arguments in calls:
            sent.append(len(pickle.dumps(arguments)))
            yield call(*arguments)

    monkeypatch.setattr("featbank.sweep.fitting._in_parallel", look)
    bank = Bank.open(digits)
    figures, _ = own_and_classic(bank, [("own", Nearest())], 2)
    assert figures == own_and_classic(bank, [("own", Nearest())], None)[0]
    assert len(sent) == 4
    assert max(sent) < 8000 < bank.features("block5_pool").nbytes


def test_fits_are_written_as_they_are_finished(digits, cache, monkeypatch):
    lines = []
    add = Run.add

    def watching(run, fits):
        add(run, fits)
        lines.append(len(run.result().fits))

    monkeypatch.setattr(Run, "add", watching)
    heads = [("own", Nearest()), "svm"]
    fit_heads(digits, heads=heads, n_jobs=2, cache_dir=cache, **{**JOBS, "save_heads": "none"})
    assert lines == [1, 2, 3, 4, 6, 8]


def test_wrong_interval(digits, cache):
    with pytest.raises(InvalidInputError, match="interval='z' is not one of 't', 'bootstrap'"):
        fit_heads(digits, interval="z", cache_dir=cache, **QUICK)
    assert not (cache / "runs").exists()


@pytest.mark.slow
def test_leaks_and_counts_stand_in_the_run(digits, cache):
    with pytest.warns(LeakWarning, match="near-identical"):
        fitted = fit_heads(digits, cuts=["block5_pool"], check_leaks=0.05, cache_dir=cache, **QUICK)
    facts = Run.open(fitted.run.path).facts
    assert facts["rows"] == {"train": 60, "val": 30, "test": 60}
    assert facts["near_duplicates"]["cut"] == "logits"
    assert facts["near_duplicates"]["count"] == len(facts["near_duplicates"]["pairs"]) > 0
    assert fitted.run.result().near_duplicates == facts["near_duplicates"]
    assert set(facts["draws"]["subsets"]) == {"2", "4"}
    assert facts["draws"]["shares"] == pytest.approx({"2": 2 / 6, "4": 4 / 6})


@pytest.mark.slow
def test_sizes_nobody_gave_reach_as_far_as_the_images(digits: Path, cache: Path, photo_folder) -> None:
    fitted = fit_heads(digits, cuts=("block5_pool",), heads=("ncm",), repeats=1, cache_dir=cache)
    assert fitted.run.facts["parameters"]["samples_per_class"] == "1..6"
    assert {fit.n_per_class for fit in fitted.result.fits} == {1, 2, 4}
    few = extract(
        photo_folder(n_per_class=5),
        backbone="minivgg",
        weights="random",
        cuts=("fc7",),
        split="3,1,1",
        cache_dir=cache,
    )
    fitted = fit_heads(few.bank, heads=("ncm",), repeats=1, cache_dir=cache)
    assert fitted.run.facts["parameters"]["samples_per_class"] == "all"


class Stubborn(LogisticRegression):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("no")


def test_estimators_of_others_are_fitted_into_a_run(digits, cache):
    forest = RandomForestClassifier(n_estimators=5)
    piped = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    heads = ["ncm", forest, ("piped", piped), RidgeClassifier(), MLPClassifier(max_epochs=3)]
    fitted = fit_heads(
        digits, cuts=["block5_pool"], heads=heads, samples_per_class="2,4", repeats=2, cache_dir=cache
    )
    names = ["ncm", "RandomForestClassifier", "piped", "RidgeClassifier", "MLPClassifier"]
    run = Run.open(fitted.run.path)
    assert run.finished
    assert run.facts["parameters"]["heads"] == names
    told = run.facts["parameters"]["estimators"]
    assert list(told) == names[1:]
    assert told["RandomForestClassifier"]["class"].startswith("sklearn.ensemble.")
    assert "n_estimators=5" in told["RandomForestClassifier"]["text"]
    assert {one["head"]: one["saved"] for one in run.heads()} == {
        "ncm": True,
        "RandomForestClassifier": False,
        "piped": False,
        "RidgeClassifier": True,  # a head of featbank, given as an object
        "MLPClassifier": True,
    }
    assert run.best_head()["saved"]
    assert {one.head for one in run.result().fits if one.top1 is not None} == set(names)
    only = fit_heads(
        digits, cuts=["block5_pool"], heads=forest, samples_per_class=2, repeats=1, cache_dir=cache
    ).run
    with pytest.raises(RunError, match=r"saved none of its heads, which are estimators of your own; fit one"):
        only.best_head()


def continued(digits, cache, first, monkeypatch, **then):
    add = Run.add

    def stop(run, fits):
        add(run, fits)
        raise KeyboardInterrupt

    given = {"cuts": ["block5_pool"], "samples_per_class": "2,4", "repeats": 2, "cache_dir": cache}
    with monkeypatch.context() as patch:
        patch.setattr(Run, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_heads(digits, heads=first, **given)
    return fit_heads(digits, **{"heads": first, **given, **then})


@pytest.mark.slow
def test_a_run_with_estimators_of_others_is_continued_where_they_are_the_same(digits, cache, monkeypatch):
    heads = [RandomForestClassifier(n_estimators=5)]
    assert continued(digits, cache, heads, monkeypatch).n_resumed == 1
    other = [RandomForestClassifier(n_estimators=6)]
    assert continued(digits, cache, heads, monkeypatch, heads=other).n_resumed == 0
    assert continued(digits, cache, [Stubborn()], monkeypatch).n_resumed == 0


@pytest.mark.slow
def test_a_run_is_continued_only_where_the_same_decides(digits, cache, monkeypatch):
    assert continued(digits, cache, ["ncm"], monkeypatch).n_resumed == 2
    assert continued(digits, cache, ["ncm"], monkeypatch, val=0.5).n_resumed == 0


@pytest.mark.slow
def test_parameters_of_numpy_are_parameters(digits, cache):
    run = fit_heads(
        digits,
        cuts=["block5_pool"],
        heads=["linear", "logreg"],
        head_params={
            "linear": {"max_epochs": np.int64(3), "lr": (1e-2, 1e-1)},
            "logistic": {"C": np.logspace(-1, 1, 3)},
        },
        samples_per_class=np.array([2, 4]),
        repeats=np.int64(1),
        random_state=np.int32(3),
        cache_dir=cache,
    ).run
    assert run.facts["parameters"]["heads"] == ["softmax", "logreg"]
    assert run.facts["parameters"]["head_params"] == {
        "softmax": {"max_epochs": 3, "lr": [0.01, 0.1]},
        "logreg": {"C": [0.1, 1.0, 10.0]},
    }


@pytest.mark.parametrize(
    ("heads", "params", "message"),
    [
        ([RandomForestClassifier], {}, "head RandomForestClassifier is a class; give an estimator: Random"),
        ([LinearRegression()], {}, "head 'LinearRegression' is a regressor (LinearRegression()); give a c"),
        ([KMeans()], {}, "head 'KMeans' is a clusterer (KMeans()); give a classifier"),
        ([make_pipeline(StandardScaler(), LinearRegression())], {}, "head 'Pipeline' is a regressor (Pipel"),
        ([7], {}, "head 7 has no fit and no predict; give a name, an estimator or (name, estimator)"),
        (
            [MLPClassifier(max_epochs="3")],
            {},
            "MLPClassifier cannot be fitted with max_epochs='3' (allowed: ",
        ),
        (
            [RidgeClassifier(alpha=-1)],
            {},
            "RidgeClassifier cannot be fitted with alpha=-1 (allowed: a number",
        ),
        (7, {}, "heads=7 is no list of names, estimators and (name, estimator)"),
        (
            ["logreg"],
            {"logreg": 5},
            "head_params={'logreg': 5} is no mapping of heads to parameters, such as ",
        ),
        (["logreg"], [("C", 1)], "head_params=[('C', 1)] is no mapping of heads to parameters, such as "),
        (["logreg"], {"logreg": {"c": 1}}, "head 'logreg' has no parameter 'c'; it has 'C', "),
        (["logreg"], {"logreg": {"C": [0.1, "x"]}}, "head 'logreg' cannot be fitted with C='x' (allowed: "),
        (["logreg"], {"logreg": {"C": [[0.1]]}}, "head 'logreg' cannot be fitted with C=[0.1] (allowed: "),
        (["logreg"], {"logreg": {"C": []}}, "head 'logreg': C=[] lists no value; give at least one"),
        (
            ["logreg"],
            {"logreg": {}, "logistic": {}},
            "head_params for 'logreg' and 'logistic', which are one",
        ),
        (
            ["ncm", "softmax"],
            {"softmax": {"lr": float("inf")}},
            "head 'softmax' cannot be fitted with lr=inf",
        ),
    ],
)
def test_heads_that_cannot_be_fitted_leave_no_run_behind(digits, cache, heads, params, message):
    with pytest.raises(InvalidInputError) as caught:
        fit_heads(digits, cuts=["block5_pool"], heads=heads, head_params=params, cache_dir=cache)
    assert str(caught.value).startswith(message)
    assert not (cache / "runs").exists()
    with pytest.raises(InvalidInputError) as caught:
        run_sweep(Bank.open(digits), cuts=["block5_pool"], heads=heads, head_params=params)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("source", [np.ones((3, 3)), object(), {"fc7": np.ones(3)}, 5])
def test_what_is_no_bank(source, cache):
    with pytest.raises(
        InvalidInputError, match=r"^fit_heads writes a run of a bank on disk, got a .*run_sweep"
    ):
        fit_heads(source, cache_dir=cache)
    with pytest.raises(InvalidInputError, match=r" is no source of features: it lacks .*manifest, "):
        run_sweep(source)


def test_the_width_of_a_cut_is_known_without_reading_it(digits, monkeypatch):
    read = []
    features = Bank.features
    monkeypatch.setattr(
        Bank, "features", lambda self, *given, **how: read.append(given) or features(self, *given, **how)
    )
    result = run_sweep(
        Bank.open(digits),
        cuts=["block5_pool", "softmax"],
        heads=[LogisticRegression(max_iter=500)],
        samples_per_class="2",
        repeats=2,
        n_jobs=2,  # by processes, which read the rows themselves
    )
    assert [one.n_features for one in result.fits] == [128, 128, 10, 10]
    assert read == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_held_out_is_the_same_in_other_processes(digits, n_jobs):
    result = run_sweep(
        Bank.open(digits),
        cuts=["block5_pool"],
        heads=["ncm", LogisticRegression(max_iter=500)],
        samples_per_class="4",
        repeats=2,
        n_jobs=n_jobs,
        val=0.4,
    )
    assert {one.n_train for one in result.fits} == {40}
    assert all(one.val_top1 is not None and one.train_top1 is not None for one in result.fits)
    assert result.n_rows["val"] == 0
