"""The tail of a bank's own backbone, fitted by a sweep from what the bank keeps, and used by prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import run_sweep
from featbank.backbones import Backbone, load_backbone
from featbank.banks import Bank
from featbank.errors import InvalidInputError, WeightsError
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.prediction import RunClassifier, predict

BRIEF = {"tail": {"max_epochs": 3, "lr": 0.01}}


@pytest.fixture
def bank(photo_folder, tmp_path: Path) -> Bank:
    folder = photo_folder(8)
    options = {"precision": "float32", "split": "4,2,2", "batch_size": 8, "cache_dir": tmp_path / "cache"}
    return Bank.open(extract(folder, backbone="minivgg", cuts=("block3_pool", "fc7"), **options).bank)


def test_a_run_predicts_as_the_bank_does_and_refuses_other_weights(bank, tmp_path, monkeypatch) -> None:
    fitted = fit_heads(
        bank, cuts=["block3_pool"], heads=["tail"], samples_per_class=4, repeats=2, head_params=BRIEF,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    (entry,) = fitted.run.heads()
    assert {one.status for one in fitted.result.fits} == {"ok"}
    saved = fitted.run.load_head()
    assert (saved.backbone_, saved.digest_) == ("minivgg", bank.key.weights_sha256)
    assert sum("classifier" in name for name in saved.tail_weights_) == 4
    kept = next(one for one in fitted.result.fits if one.estimator is not None).estimator
    expected = kept.predict_proba(bank.features(entry["cut"]))
    answers = predict(fitted.run, [tmp_path / "photos"])
    given = [dict(zip(one.classes, one.probabilities, strict=True)) for one in answers]
    np.testing.assert_allclose([[one[name] for name in bank.classes] for one in given], expected, atol=2e-3)
    assert np.ptp(expected, axis=0).min() > 0.1
    # the same head behind another network of the same name
    monkeypatch.setitem(fitted.run.facts["source"], "weights_sha256", "")
    other = load_backbone("minivgg", weights="random")
    monkeypatch.setattr("featbank.prediction.load_recorded", lambda *_, **__: other)
    with pytest.raises(InvalidInputError, match=r"^the head is the tail of 'minivgg' \(weights "):
        RunClassifier(fitted.run)


def test_it_trains_on_from_the_weights_of_the_backbone(bank) -> None:
    options = {"cuts": ["block3_pool"], "heads": ["tail"], "samples_per_class": 4, "repeats": 1}
    params = {"tail": {"max_epochs": 1, "tail_lr": 1e-12, "train": 1}}
    (fit,) = run_sweep(bank, **options, head_params=params).fits
    own = load_backbone("minivgg").module.state_dict()
    assert set(fit.estimator.tail_weights_) == {"classifier.3.weight", "classifier.3.bias"}
    for name, numbers in fit.estimator.tail_weights_.items():
        np.testing.assert_allclose(numbers, own[name].numpy(), atol=1e-9)


def test_a_grid_of_what_is_trained(bank) -> None:
    params = {"tail": {**BRIEF["tail"], "train": [1, "all"]}}
    found = run_sweep(
        bank, cuts=["block3_pool"], heads=["tail"], samples_per_class="2,4", repeats=2, head_params=params
    )
    assert [one.status for one in found.fits] == ["ok"] * 8
    assert {one.head for one in found.fits} == {"tail(train=1)", "tail(train=all)"}


def test_bad_input_is_one_line_before_any_fit(bank, tmp_path) -> None:
    def refused(kind: type[Exception], match: str, source: object = bank, **options: object) -> None:
        given = {"cuts": ["block3_pool"], "heads": ["softmax", "tail"], "samples_per_class": 4} | options
        with pytest.raises(kind, match=match) as caught:
            fit_heads(source, cache_dir=tmp_path / "cache", **given)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "cache" / "runs").exists()

    refused(InvalidInputError, r"^behind 'fc7' of 'minivgg' no layer with weights lies", cuts=["fc7"])
    refused(
        InvalidInputError, r"^train=9: 8 layers with weights lie behind", head_params={"tail": {"train": 9}}
    )
    refused(
        WeightsError,
        r"^bank '.*' was made with 'minivgg', .*; give the same backbone with the same weights$",
        backbone=load_backbone("minivgg", weights="random"),
    )

    for option in ({"weights": "gone.pth"}, {"backbone": load_backbone("minivgg")}):
        refused(InvalidInputError, r" is for the tail head, which is not among", heads=["ncm"], **option)

    class Source:
        cuts, manifest, features, softmax = bank.cuts, bank.manifest, bank.features, bank.softmax

    with pytest.raises(InvalidInputError, match=r"layers of a bank's backbone, and a Source has none"):
        run_sweep(Source(), cuts=["fc7"], heads=["tail"], samples_per_class=4)


def test_the_tail_of_a_module_of_ones_own(photo_folder, tmp_path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.Flatten(),
        torch.nn.Linear(4 * 12 * 12, 5),
    )  # fmt: skip
    backbone = Backbone.from_module(net, name="mine", preprocessing={"image_size": 16})
    options = {"split": "4,2,2", "cuts": ("1",), "cache_dir": tmp_path / "cache"}
    bank = Bank.open(extract(photo_folder(8), backbone=backbone, **options).bank)
    asked = {"cuts": ["1"], "heads": ["tail"], "samples_per_class": 4, "repeats": 1, "head_params": BRIEF}
    with pytest.raises(Exception, match=r"pass backbone=Backbone\.from_module"):
        run_sweep(bank, **asked)
    (fit,) = run_sweep(bank, **asked, backbone=backbone).fits
    assert fit.status == "ok"
    assert set(fit.estimator.tail_weights_) == {"2.weight", "2.bias"}
