"""``metrics=`` decides: what heads stop by, which C and head are chosen, what is drawn and compared."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as theirs
from sklearn.linear_model import RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads import SoftmaxClassifier, fit_stack, make
from featbank.heads.softmax import C_MAX, C_MIN, CS, _grid
from featbank.heads.space import FeatureSpace
from featbank.manifest import SPLITS, Manifest
from featbank.metrics import balanced_accuracy, catalogue, confusion_matrix, per_class_scores
from featbank.plots import CurveDisplay
from featbank.runs import answer_of
from featbank.sweep import SweepSettings, compare, run_sweep
from featbank.sweep.curves import main_metric
from featbank.sweep.features import CutFeatures
from featbank.sweep.records import Draw

COUNTS = {"train": (60, 24, 8), "val": (40, 12, 6), "test": (80, 30, 12)}


class Source:
    """Overlapping classes of very different size: what a sweep needs of a bank."""

    cuts = ("here",)

    def __init__(self, n_classes=3):
        rng = np.random.default_rng(0)
        labels, splits = [], []
        for split, counts in COUNTS.items():
            for code, count in enumerate(counts[:n_classes]):
                labels += [code] * count
                splits += [SPLITS.index(split)] * count
        n = len(labels)
        digests = np.zeros((n, 32), np.uint8)
        digests[:, :8] = np.arange(1, n + 1, dtype="<u8")[:, None].view(np.uint8)
        self.manifest = Manifest(
            tuple(b"%d" % row for row in range(n)),
            np.array(labels, np.int32),
            ("ant", "bee", "cat")[:n_classes],
            np.array(splits, np.uint8),
            digests,
            np.zeros(n, np.uint8),
        )
        self.X = rng.normal(size=(n, 12)) + 0.5 * rng.normal(size=(n_classes, 12))[labels]

    def rows(self, split):
        rows = self.manifest.rows(split)
        return self.X[rows].astype(np.float32), self.manifest.labels[rows]

    def features(self, cut, rows=None, dtype=np.float32):
        return self.X[rows].astype(dtype or np.float32)

    def softmax(self, temperature, rows=None):
        raise NotImplementedError


def in_scikit_learn(y, answers, p):
    n = p.shape[1]
    return {
        "balanced_accuracy": theirs.balanced_accuracy_score(y, answers),
        "macro_f1": theirs.f1_score(y, answers, average="macro"),
        "cohen_kappa": theirs.cohen_kappa_score(y, answers),
        "roc_auc": theirs.roc_auc_score(y, p[:, 1] if n == 2 else p, multi_class="ovr"),
        "log_loss": theirs.log_loss(y, p, labels=np.arange(n)),
    }


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_metric_is_that_of_scikit_learn_on_the_same_answers(n_classes):
    source = Source(n_classes)
    names = ["balanced_accuracy", "macro_f1", "cohen_kappa", "roc_auc", "log_loss"]
    assert {*names} <= {*catalogue.names()}
    result = run_sweep(source, heads=["logreg", "knn"], samples_per_class="4,8", repeats=2, metrics=names)
    assert len(result.heads) == 2
    for one in result.heads:
        for prefix, split in (("", "test"), ("val_", "val")):
            X, y = source.rows(split)
            head = one.estimator
            expected = in_scikit_learn(y, head.predict(X), head.predict_proba(X))
            for name in names:
                assert one.score(f"{prefix}{name}") == pytest.approx(expected[name], abs=1e-6), name
    columns = result.to_csv().partition("\n")[0].split(",")
    assert {f"metric:{prefix}{name}" for name in names for prefix in ("", "val_")} <= set(columns)


def test_scores_of_each_class_and_their_intervals():
    rng = np.random.default_rng(1)
    y, answers = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    answers[y == 1] = np.where(rng.random((y == 1).sum()) < 0.9, 1, 2)
    found = per_class_scores(confusion_matrix(y, answers, 4))
    expected = theirs.precision_recall_fscore_support(y, answers)
    for code, (precision, recall, f1, n) in enumerate(zip(*expected, strict=True)):
        one = found[code]
        assert (one.precision, one.recall, one.f1, one.n_true) == pytest.approx((precision, recall, f1, n))
        interval = binomtest(one.n_right, one.n_true).proportion_ci(method="wilson")
        assert (one.recall_low, one.recall_high) == pytest.approx((interval.low, interval.high))
    assert (found[3].recall, found[3].precision, found[3].f1, found[3].recall_low) == (None,) * 4


@pytest.mark.parametrize("name", ["balanced_accuracy", "log_loss"])
def test_curves_comparisons_and_the_answer_go_by_the_first_metric(name):
    result = run_sweep(
        Source(),
        heads=["ncm", "logreg", "softmax"],
        samples_per_class="2,8",
        repeats=3,
        metrics=[name, "macro_f1"],
        head_params={"softmax": {"max_epochs": 20}},
    )
    assert main_metric(result.points()) == name
    compared = compare(result)
    assert (compared.metric, compared.ranked_by) == (name, f"val_{name}")
    ranks = [one.rank for one in compared.curves]
    assert ranks == sorted(ranks, reverse=name != "log_loss")
    caption = result.table()[2]
    assert caption.startswith(f"test {name}")
    assert f"comes to {name}" in str(answer_of(result))
    display = CurveDisplay(result.points()).plot()
    assert display.ax_.get_ylabel() == f"{name} on test images" + (" (%)" if name != "log_loss" else "")
    sign = -1 if name == "log_loss" else 1
    kept = result.curve("here", "logreg").fits
    best = max(kept, key=lambda one: (one.n_per_class, sign * one.score(f"val_{name}")))
    assert [one.repeat for one in result.heads if one.head == "logreg"] == [best.repeat]


def test_heads_stop_by_the_metric_unless_told_otherwise():
    (grid,) = SweepSettings(heads=["softmax"], metrics=["macro_f1"]).grids
    assert grid.members[0].make(0).monitor == "metric"
    (grid,) = SweepSettings(
        heads=["softmax"], metrics=["macro_f1"], head_params={"softmax": {"monitor": "loss"}}
    ).grids
    assert grid.members[0].make(0).monitor == "loss"
    (grid,) = SweepSettings(heads=["softmax"]).grids
    assert grid.members[0].make(0).monitor == "loss"

    result = run_sweep(Source(), heads=["softmax"], samples_per_class="8", repeats=4, metrics=["macro_f1"])
    for one in result.fits:
        assert one.best_epoch <= one.n_epochs
    (kept,) = result.heads
    history = kept.history
    best = int(np.argmax(history["val_metric"]))
    equal = [at for at, value in enumerate(history["val_metric"]) if value == history["val_metric"][best]]
    assert kept.best_epoch - 1 == min(equal, key=lambda at: history["val_loss"][at])
    assert kept.score("val_macro_f1") == pytest.approx(history["val_metric"][best], abs=1e-6)


def test_c_is_chosen_by_the_metric():
    source = Source()
    X, y = source.rows("train")
    X_val, y_val = source.rows("val")
    space = FeatureSpace()
    Z, Z_val = space.fit_transform(X), space.transform(X_val)

    def chosen(score=None, **validation):
        head = SoftmaxClassifier(solver="lbfgs", C="auto", monitor="loss" if score is None else "metric")
        fit_stack([head], Z, y, [np.arange(len(y))], space=space, score=score, **validation)
        return head.C_

    def by_balance(y, answers, p, labels):
        return balanced_accuracy(y, answers)

    def by_the_worst(y, answers, p, labels):
        return -balanced_accuracy(y, answers)

    reached = {
        C: balanced_accuracy(y_val, make("logreg", C=C).fit(X, y).predict(X_val))
        for C in _grid(CS, C_MIN, C_MAX)
    }
    validation = {"Z_val": Z_val, "y_val": y_val}
    assert reached[chosen(by_balance, **validation)] == max(reached.values())
    assert reached[chosen(by_the_worst, **validation)] == min(reached.values())
    assert chosen(by_balance) > chosen(by_the_worst)  # without validation rows by folds


def test_a_head_that_monitors_no_metric():
    X, y = Source().rows("train")
    with pytest.raises(
        InvalidInputError, match=r"monitor='metric' \(--monitor\) needs the metric; name it with"
    ):
        SoftmaxClassifier(monitor="metric").fit(X, y, X_val=X, y_val=y)


def test_heads_that_have_stopped_are_not_scored_on():
    source, calls = Source(), []
    (X, y), (X_val, y_val) = source.rows("train"), source.rows("val")

    def score(y, answers, p, labels):
        calls.append(p.shape)
        return float(np.mean(answers == y))

    heads = [SoftmaxClassifier(monitor="metric", patience=3, random_state=seed) for seed in range(8)]
    space = FeatureSpace()
    fit_stack(
        heads,
        space.fit_transform(X),
        y,
        [np.arange(len(y))] * len(heads),
        space=space,
        score=score,
        Z_val=space.transform(X_val),
        y_val=y_val,
    )
    assert set(calls) == {(len(y_val), 3)}
    assert len(calls) == sum(head.n_epochs_ for head in heads)


def test_a_kappa_below_chance_is_shown_and_has_a_law():
    source = Source()
    source.X = np.random.default_rng(4).normal(size=source.X.shape)
    options = {"samples_per_class": "1,2,4,8", "repeats": 8, "metrics": ["cohen_kappa"]}
    result = run_sweep(source, heads=["ncm"], **options)
    (point, *_) = result.points()
    assert point.interval("cohen_kappa")[0] < 0
    low, _ = CurveDisplay(result.points()).plot().ax_.get_ylim()
    assert low < 100 * point.interval("cohen_kappa")[0]
    law = result.curve("here", "ncm").power_law(metric="cohen_kappa")
    assert law.band([1])[0][0] < 0


def test_without_test_rows_the_metric_of_the_validation_rows_chooses(monkeypatch):
    monkeypatch.setitem(COUNTS, "test", ())
    result = run_sweep(Source(), heads=["logreg"], samples_per_class="4", repeats=8, metrics=["log_loss"])
    best = min(result.fits, key=lambda one: one.score("log_loss"))
    assert best.repeat != max(result.fits, key=lambda one: one.val_top1).repeat
    assert [one.repeat for one in result.heads] == [best.repeat]


OWN = """
import numpy as np

share = 0.5
quick = len

def worst(y_true, y_pred):
    return min(np.mean(y_pred[y_true == code] == code) for code in np.unique(y_true))

def sure(y_true, probabilities, labels):
    return probabilities.max(axis=1).mean()

def undefined(y_true, y_pred):
    return float("nan")

def short(y_true):
    return 1.0

def word(y_true, y_pred):
    return "good"

def each(y_true, y_pred):
    return y_true == y_pred

def much(y_true, y_pred):
    return 25.0

def broken(y_true, y_pred):
    return y_true[10_000]

def leaves(y_true, y_pred):
    raise SystemExit(3)

seen = set()

def codes(y_true, y_pred):
    seen.update(y_true.tolist(), y_pred.tolist())
    return 0.5

def columns(y_true, probabilities, labels):
    seen.update(y_true.tolist(), labels.tolist())
    return 0.5
"""


MODULES = ("own_scores", "ece_scores", "val_scores")


@pytest.fixture
def own_scores(tmp_path, monkeypatch):
    """Write a module into the current folder; return what writes another in its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])

    def write(text=OWN):
        for name in MODULES:
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "fails_scores.py").write_text("1 / 0")

    write()
    yield write
    for name in MODULES:
        sys.modules.pop(name, None)


def test_a_function_of_ones_own_is_a_metric(own_scores):
    names = ["own_scores:worst", "own_scores:sure", "own_scores:undefined"]
    result = run_sweep(Source(), heads=["logreg", "ncm"], samples_per_class="4,8", repeats=2, metrics=names)
    assert main_metric(result.points()) == "own_scores:worst"
    for one in result.heads:
        X, y = Source().rows("test")
        y_pred = one.estimator.predict(X)
        assert one.score("own_scores:worst") == min(np.mean(y_pred[y == code] == code) for code in range(3))
        assert (one.score("own_scores:sure") is None) == (one.head == "ncm")
        assert one.score("own_scores:undefined") is None
    header = result.to_csv().partition("\n")[0]
    assert ",metric:own_scores:worst,metric:own_scores:sure," in header
    assert compare(result).ranked_by == "val_own_scores:worst"


def test_a_function_of_a_module_called_as_calibration_errors_begin_is_no_loss(own_scores):
    assert not catalogue.less_is_better("ece_scores:worst")
    result = run_sweep(
        Source(), heads=["ncm"], samples_per_class="4", repeats=4, metrics=["ece_scores:worst"]
    )
    (kept,) = result.heads
    assert kept.score("val_ece_scores:worst") == max(one.score("val_ece_scores:worst") for one in result.fits)


@pytest.mark.parametrize("name", ["codes", "columns"])
@pytest.mark.parametrize(
    ("head", "params"),
    [("logreg", {"C": "auto", "Cs": 2}), ("softmax", {"max_epochs": 2, "lr": 0.01})],
)
@pytest.mark.parametrize("has_val", [True, False])
def test_a_function_of_ones_own_sees_class_codes_while_heads_choose(own_scores, name, head, params, has_val):
    source = Source()
    manifest = source.manifest  # the first class has no training rows
    splits = np.where((manifest.labels == 0) & (manifest.splits == SPLITS.index("train")), 2, manifest.splits)
    if not has_val:
        splits = np.where(splits == SPLITS.index("val"), SPLITS.index("test"), splits)
    source.manifest = replace(manifest, splits=splits.astype(np.uint8))
    with pytest.warns(FitWarning, match="1 class without training images"):
        run_sweep(
            source,
            heads=[head],
            samples_per_class="4",
            repeats=1,
            metrics=[f"own_scores:{name}"],
            head_params={head: params},
            untrained_classes="drop",
        )
    assert sys.modules["own_scores"].seen == {1, 2}


def test_the_source_of_ones_own_function_is_part_of_what_was_asked_for(own_scores):
    def said():
        return SweepSettings(heads=["ncm"], metrics=["own_scores:worst", "macro_f1"]).to_dict()["plug_ins"]

    before = said()
    assert list(before) == ["metric own_scores:worst"]
    own_scores(OWN.replace("return 1.0", "return 0.5"))  # another function of the module
    assert said() == before
    own_scores(OWN.replace("min(", "max("))
    assert said() != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_scores:worst", r"cannot be had \(ModuleNotFoundError: No module named 'no_scores'\); give "),
        (
            "own_scores:wurst",
            r"cannot be had \(AttributeError: module 'own_scores' has no attribute 'wurst'\)",
        ),
        ("fails_scores:worst", r"cannot be had \(ZeroDivisionError: division by zero\); give module:func"),
        (":worst", r"cannot be had \(ValueError: Empty module name\); give module:function of a modul"),
        ("own_scores:share", r"is 0\.5, which is no function; give module:function of a module in this f"),
        ("own_scores:short", r"takes \(y_true\), and is called with \(y_true, y_pred\), or \(y_true, proba"),
        ("val_scores:worst", r"has a name that featbank gives itself: .*; rename the module"),
        ("own_scores:quick", r"takes \(obj, /\), and is called with \(y_true, y_pred\), or"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_is_fitted(own_scores, name, message):
    with pytest.raises(InvalidInputError, match=rf"^metric '{name}' \(--metric\) {message}[^\n]*$"):
        SweepSettings(heads=["ncm"], metrics=[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("word", r"gave 'good', which is no number from 0 to 1; mend the function"),
        ("each", r"gave an array of shape \(58,\), which is no number from 0 to 1; mend the function"),
        ("much", r"gave 25\.0, which is no number from 0 to 1; mend the function"),
        ("leaves", r"failed on 58 rows \(SystemExit: 3\); mend the function"),
        ("broken", r"failed on 58 rows \(IndexError: index 10000 is out of bounds .*\); mend the function"),
    ],
)
@pytest.mark.parametrize("head", ["ncm", "softmax", "others"])
def test_a_metric_that_gives_no_score_ends_the_sweep_in_one_line(own_scores, name, message, head):
    heads = [("others", KNeighborsClassifier(1))] if head == "others" else [head]
    sweep = partial(run_sweep, Source(), samples_per_class="4", repeats=1, metrics=[f"own_scores:{name}"])
    with pytest.raises(InvalidInputError, match=rf"^metric 'own_scores:{name}' {message}$"):
        sweep(heads=heads)


@pytest.mark.parametrize("has_probabilities", [True, False])
def test_an_estimator_that_works_in_place_spoils_no_other_fit(has_probabilities):
    def sweep(copy):
        last = GaussianNB() if has_probabilities else RidgeClassifier()
        heads = [("in_place", make_pipeline(StandardScaler(copy=copy), last)), "ncm"]
        result = run_sweep(Source(), heads=heads, samples_per_class="4,all", repeats=2)
        assert {one.status for one in result.fits} == {"ok"}
        return [(one.head, one.top1, one.val_top1, one.train_top1, one.ece) for one in result.fits]

    assert sweep(copy=False) == sweep(copy=True)


class Talkative(NearestCentroid):
    def fit(self, X, y):
        raise ValueError(f"cannot fit\n{X.tolist()}")


def test_an_estimator_that_prints_its_rows_is_told_in_one_short_line():
    result = run_sweep(Source(), heads=[("talks", Talkative())], samples_per_class="4", repeats=1)
    (fit,) = result.fits
    assert fit.status == "failed"
    assert fit.message.startswith("ValueError: cannot fit [[")
    assert len(fit.message) < 320


def test_rows_that_are_handed_out_are_not_written_to():
    source = Source()
    rows = {split: source.manifest.rows(split) for split in ("train", "val", "test")}
    features = CutFeatures(source, "here", None, rows, np.arange(len(rows["train"])))
    every = Draw("all", 0, np.arange(len(rows["train"])), 0, np.array(COUNTS["train"]), whole=True)
    for projected in (None, features.project(True, False)):
        assert [X[:2].flags.writeable for _, X, _ in features.parts(every, projected)] == [False] * 3
