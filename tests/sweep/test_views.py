"""Sweeps on views: which rows train, which are scored, and what a prediction averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featbank.banks import Bank
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.exporting import export_run
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.prediction import RunClassifier
from featbank.sweep import run_sweep


@pytest.fixture(name="bank", scope="module")
def fixture_bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    made = extract(
        "digits",
        backbone="minivgg",
        weights="random",
        cuts=["block4_pool", "logits"],
        views=["hflip", "rot10"],
        split="6,3,6",
        limit=150,
        precision="float32",
        compile="off",
        cache_dir=tmp_path_factory.mktemp("views"),
    )
    return Bank.open(made.bank)


class Recorder:
    """Another's estimator that keeps what it is given."""

    given: list[tuple[Any, Any]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any) -> Recorder:
        self.given.append((np.array(X), np.array(y)))
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X), np.int64)

    def predict_proba(self, X: Any) -> Any:
        self.given.append((np.array(X), None))
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def test_views_of_drawn_images_train_and_no_others(bank: Bank) -> None:
    Recorder.given.clear()
    run_sweep(
        bank,
        cuts=["block4_pool"],
        heads=[("mine", Recorder())],
        samples_per_class=3,
        repeats=1,
        views=["hflip", "rot10"],
        save_heads="none",
    )
    X, y = Recorder.given[0]
    n = len(y) // 3
    np.testing.assert_array_equal(y, np.tile(y[:n], 3))
    everything = {
        view: bank.features(f"block4_pool{view}", dtype=np.float32) for view in ("", "@hflip", "@rot10")
    }
    for at, (_, rows) in enumerate(everything.items()):
        found = [int(np.flatnonzero((rows == one).all(1))[0]) for one in X[at * n : (at + 1) * n]]
        if not at:
            first = found
        assert found == first
        assert set(found) <= set(bank.manifest.rows("train").tolist())
    judged = [X for X, y in Recorder.given if y is None]
    assert {len(one) for one in judged} <= {
        n,
        len(bank.manifest.rows("val")),
        len(bank.manifest.rows("test")),
    }


@pytest.mark.parametrize("head", ["softmax", "logreg", "mlp"])
def test_views_train_heads_and_probabilities_are_averaged(bank: Bank, head: str) -> None:
    quick = {"softmax": {"max_epochs": 5}, "mlp": {"max_epochs": 3, "hidden_units": 20}}
    fitted = fit_heads(
        bank,
        cuts=["block4_pool:gap"],
        heads=[head],
        head_params={head: quick.get(head, {})},
        samples_per_class=4,
        repeats=2,
        views=["hflip"],
        average_views=True,
        cache_dir=bank.path.parents[2],
    )
    entry = fitted.run.entry(None)
    estimator = fitted.run.load_head(entry["name"])
    test = bank.manifest.rows("test")
    both = [
        estimator.predict_proba(bank.features(cut, test))
        for cut in ("block4_pool:gap", "block4_pool:gap@hflip")
    ]
    kept = fitted.run.predictions(entry["name"])
    averaged = (both[0] + both[1]) / 2
    np.testing.assert_allclose(kept.p_pred, averaged.max(1), rtol=1e-4)
    np.testing.assert_array_equal(kept.y_pred, estimator.classes_[averaged.argmax(1)])
    with pytest.raises(InvalidInputError, match="sees images at the views hflip, and a file takes them as"):
        export_run(fitted.run, bank.path / "x.onnx", head=entry["name"])
    # and so does a prediction, from pixels
    classifier = RunClassifier(fitted.run, entry["name"])
    from featbank.inspection import RunImages

    images = RunImages(fitted.run.manifest, fitted.run.provenance())
    pixels = np.stack([classifier.preprocessing.apply_geometry(images.read(int(row))) for row in test[:4]])
    found = classifier.probabilities(pixels)
    np.testing.assert_allclose(found[:, estimator.classes_], averaged[:4], rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(classifier.labels(pixels), found.argmax(1))
    # what is pooled when it is read is stored as the map is
    assert classifier.cut_dtype == "float16"
    fitted.run.facts["source"]["cut_dtypes"]["block4_pool"] = "float32"
    assert classifier.cut_dtype == "float32"


def test_without_averaging_the_images_themselves_are_scored(bank: Bank) -> None:
    fitted = fit_heads(
        bank,
        cuts=["block4_pool"],
        heads=["logreg"],
        samples_per_class=4,
        repeats=1,
        views=["hflip"],
        cache_dir=bank.path.parents[2],
    )
    entry = fitted.run.entry(None)
    estimator = fitted.run.load_head(entry["name"])
    kept = fitted.run.predictions(entry["name"])
    test = bank.manifest.rows("test")
    scores = estimator.predict_proba(bank.features("block4_pool", test))
    np.testing.assert_allclose(kept.p_pred, scores.max(1), rtol=1e-4)
    assert fitted.result.fits[0].n_train == 40


class Given:
    """Features from outside."""

    cuts = ("mine",)

    def __init__(self, bank: Bank) -> None:
        self.manifest = bank.manifest

    def features(self, cut: str, rows: Any = None, dtype: Any = np.float32) -> Any:
        raise AssertionError("nothing is read")

    softmax = features


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"views": ["zoom2"]}, UnknownNameError, "no cut 'block4_pool@zoom2'.*extract it with --view zoom2"),
        ({"views": ["flip"]}, UnknownNameError, "unknown view 'flip'"),
        ({"average_views": True}, InvalidInputError, "has no views to average"),
        ({"views": ["hflip"], "average_views": True, "heads": ["svm"]}, InvalidInputError, "'svm' has none"),
        ({"views": ["hflip"], "cuts": ["block4_pool@rot10"]}, InvalidInputError, "is a view itself"),
    ],
)
def test_views_that_cannot_be_are_one_line(
    bank: Bank, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        run_sweep(bank, **{"cuts": ["block4_pool"], "heads": ["ncm"], **options})
    assert "\n" not in str(caught.value)


def test_features_from_outside_have_no_views(bank: Bank) -> None:
    with pytest.raises(UnknownNameError, match="given from outside, and a view is made of images"):
        run_sweep(Given(bank), cuts=["mine"], views=["hflip"])


def test_a_sweep_of_all_cuts_leaves_views_out(bank: Bank) -> None:
    result = run_sweep(bank, heads=["ncm"], samples_per_class=2, repeats=1, save_heads="none")
    assert result.cuts == ("block4_pool", "logits")
