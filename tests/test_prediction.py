"""From a photograph to an answer, and that it is the one the bank's features get."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.backbones import load_backbone
from featbank.banks import Bank
from featbank.errors import (
    InvalidInputError,
    MissingDataError,
    MissingWeightsError,
    RunError,
    RunNotFoundError,
    UnknownNameError,
    WeightsError,
)
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.prediction import RunClassifier, activation_map, occlude, predict
from featbank.runs import Run

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of several sizes; the third class is hard to tell from the second."""
    folder = tmp_path_factory.mktemp("prediction") / "photos"
    for number, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for index in range(10):
            random = np.random.default_rng(100 * number + index)
            pixels = random.integers(0, 120, size=(40 + index, 60 - index, 3), dtype=np.uint8)
            pixels[..., min(number, 1)] += 80
            pixels[:, : 8 + 2 * number] //= 4  # a dark edge, which a crop takes away and a squash does not
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


def bank_of(photos: Path, transform: str, cut: str = "block4_pool", weights: str | None = "random") -> Path:
    """A bank in which everything differs from what a prediction would do by default."""
    return extract(
        photos,
        backbone="minivgg",
        weights=weights,
        random_state=3,
        image_size=48,
        transform=transform,
        precision="float32",
        cuts=(cut,),
        split="6,2,2",
        batch_size=4,
        cache_dir=photos.parent / "cache",
    ).bank


def run_of(bank: Path, heads: tuple[str, ...], cache: Path, **options: object) -> Run:
    """A run with the best head of two repeats."""
    fitted = fit_heads(bank, heads=heads, samples_per_class=4, repeats=2, cache_dir=cache, **options)
    return fitted.run


@pytest.fixture(scope="module")
def fitted(photos: Path) -> Run:
    """Three heads on a pool."""
    bank = bank_of(photos, "contrast")
    quick = {"softmax": {"max_epochs": 6}}
    return run_of(bank, ("softmax", "logreg", "svm"), photos.parent / "cache", head_params=quick)


def expected(run: Run, name: str) -> np.ndarray:
    """What a head gives on the bank's own rows, in the order of the run's classes."""
    entry, bank = run.entry(name), Bank.open(run.source["bank"])
    X = bank.features(entry["cut"]) if entry["temperature"] is None else bank.softmax(entry["temperature"])
    return run.load_head(name).predict_proba(X)


def given(answers: list) -> np.ndarray:
    return np.array(
        [
            [dict(zip(one.classes, one.probabilities, strict=True))[label] for label in CLASSES]
            for one in answers
        ]
    )


@pytest.mark.slow
def test_probabilities_are_those_of_the_banks_own_rows(fitted, photos):
    for name in (one["name"] for one in fitted.heads() if one["head"] != "svm"):
        answers = predict(fitted, [photos], head=name)
        bank = Bank.open(fitted.source["bank"])
        assert [os.fsencode(one.path.relative_to(photos)) for one in answers] == list(bank.manifest.ids)
        np.testing.assert_allclose(given(answers), expected(fitted, name), atol=1e-3)
        assert np.ptp(given(answers), axis=0).min() > 0.2  # not all the same, or anything would do


@pytest.mark.slow
def test_a_head_on_the_softmax_gets_it_at_its_temperature(photos, tmp_path):
    bank = bank_of(photos, "weights", cut="logits", weights=None)  # random logits say nothing
    run = run_of(bank, ("logreg",), tmp_path, cuts=("softmax",), temperatures=(2.0,))
    (entry,) = run.heads()
    assert (entry["cut"], entry["temperature"]) == ("softmax", 2.0)
    answers = given(predict(run, [photos]))
    np.testing.assert_allclose(answers, expected(run, entry["name"]), atol=1e-3)
    assert np.ptp(answers, axis=0).min() > 0.2


@pytest.mark.slow
def test_squashed_images_are_squashed(photos, tmp_path):
    run = run_of(bank_of(photos, "squash"), ("logreg",), tmp_path)
    answers = given(predict(run, [photos]))
    np.testing.assert_allclose(answers, expected(run, run.best_head()["name"]), atol=1e-3)


def test_the_likeliest_come_first(fitted, photos):
    for one in predict(fitted, [photos / "blue"], top=2):
        assert len(one.classes) == len(one.probabilities) == 2
        assert one.probabilities[0] >= one.probabilities[1]
        assert one.classes[0] == "blue"
        assert one.error is None


def test_images_come_back_in_the_order_given(fitted, photos):
    asked = [photos / "red" / "3.png", photos / "blue", photos / "red" / "3.png"]
    answers = predict(fitted, asked)
    assert [one.path for one in answers] == [asked[0], *sorted((photos / "blue").iterdir()), asked[0]]
    assert answers[0] == answers[-1]


def test_an_image_that_cannot_be_read_has_an_error(fitted, photos, tmp_path):
    shutil.copy(photos / "red" / "0.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((photos / "red" / "0.png").read_bytes()[:200])
    (tmp_path / "c.jpg").write_text("no image")
    good, *bad = predict(fitted, [tmp_path])
    assert good.error is None
    assert [(one.classes, one.probabilities) for one in bad] == [((), ())] * 2
    assert bad[1].error.startswith("not-an-image")


def test_the_run_may_be_named(fitted, photos):
    cache = photos.parent / "cache"
    for run in (None, "last", fitted.name, fitted.path):
        assert predict(run, [photos / "red" / "0.png"], cache_dir=cache) == predict(
            fitted, [photos / "red" / "0.png"]
        )


def copy_of(run: Run, folder: Path, **source: object) -> Run:
    """The run somewhere else, made from other weights."""
    shutil.copytree(run.path, folder)
    copy = Run.open(folder)
    copy.facts["source"].update(source)
    copy.write()
    return Run.open(folder)


@pytest.mark.slow
def test_weights_from_a_file_are_found_again_and_changed_ones_refused(photos, tmp_path):
    backbone = load_backbone("minivgg", weights="random", random_state=3)
    file = tmp_path / "weights.pth"
    torch.save(backbone.module.state_dict(), file)
    found = load_backbone("minivgg", weights=file)
    run = run_of(bank_of(photos, "contrast", weights=str(file)), ("logreg",), photos.parent / "cache")
    image = photos / "blue" / "1.png"
    before = predict(run, [image])
    moved = file.rename(tmp_path / "moved.pth")
    with pytest.raises(MissingWeightsError) as caught:
        predict(run, [image])
    assert str(caught.value) == f"weights file '{file}' does not exist; pass another --weights FILE"
    assert predict(run, [image], weights=moved) == before
    other = load_backbone("minivgg", weights="random", random_state=4)
    torch.save(other.module.state_dict(), file)
    changed = load_backbone("minivgg", weights=file)
    with pytest.raises(WeightsError) as caught:
        predict(run, [image])
    assert str(caught.value) == (
        f"run '{run.name}' was made with 'minivgg', weights 'weights.pth' of SHA-256 "
        f"{found.weights_sha256[:16]}..., and '{file}' of 'minivgg' has {changed.weights_sha256[:16]}...; "
        "give the right file with --weights"
    )


@pytest.mark.parametrize("recorded", ["weights_path", "weights"])
def test_weights_that_only_a_run_names_are_not_opened(fitted, photos, tmp_path, recorded):
    backbone = load_backbone("minivgg", weights="random", random_state=3)
    file = tmp_path / "secret.pth"
    torch.save(backbone.module.state_dict(), file)
    run = copy_of(fitted, tmp_path / "run", **{recorded: str(file)})
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
    with pytest.raises(MissingWeightsError) as caught:
        predict(run, [photos / "blue" / "1.png"])
    assert f"was fitted with the weights '{file}', and no bank in the cache says the same" in str(
        caught.value
    )
    assert [one for one in opened if "secret" in str(one)] == []


def test_random_weights_come_from_their_seed(fitted, photos, tmp_path):
    run = copy_of(fitted, tmp_path / "run", random_state=5)
    with pytest.raises(
        WeightsError, match=r"^run 'run' was made with 'minivgg', weights 'random' of SHA-256 "
    ):
        predict(run, [photos / "blue" / "1.png"])


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (["blue"], {"top": 0}, InvalidInputError, "top=0 must be at least 1"),
        (
            ["gone.png"],
            {},
            MissingDataError,
            "no image at '{photos}/gone.png'; give a file or a folder of images",
        ),
        (["blue"], {"head": "x"}, RunError, "run '{run}' has no head 'x'; it has "),
        (["blue"], {"device": "cuda:99"}, InvalidInputError, "device='cuda:99' is not there: "),
    ],
)
def test_wrong_input(fitted, photos, images, options, error, message):
    with pytest.raises(error) as caught:
        predict(fitted, [photos / one for one in images], **options)
    assert str(caught.value).startswith(message.format(photos=photos, run=fitted.name))


def test_no_run(tmp_path, photos):
    with pytest.raises(RunNotFoundError, match="no run in "):
        predict(None, [photos], cache_dir=tmp_path)


def test_a_head_without_probabilities_gives_its_class(fitted, photos):
    head = "block4_pool-svm-n4-r0"
    files = [photos / label / f"{number}.png" for label in CLASSES for number in (1, 2)]
    answers = predict(fitted, files, head=head, top=3)
    assert [one.probabilities for one in answers] == [None] * 6
    assert [len(one.classes) for one in answers] == [1] * 6
    classifier = RunClassifier(fitted, head)
    pixels = np.stack([classifier.pixels(file) for file in files])
    codes = classifier.estimator.predict(classifier.features(pixels))
    assert [one.classes[0] for one in answers] == [fitted.classes[code] for code in codes]
    with pytest.raises(
        InvalidInputError, match=f"^head '{head}' gives no probabilities; choose another with"
    ):
        classifier.probabilities(pixels)


def test_a_run_as_one_function(fitted, photos):
    """A column per class of the run, in its order; 0 where the head never saw the class."""
    classifier = RunClassifier(fitted)
    files = [photos / label / "3.png" for label in CLASSES]
    found = classifier.probabilities(np.stack([classifier.pixels(file) for file in files]))
    np.testing.assert_allclose(found, given(predict(fitted, files)), atol=1e-6)
    classifier.estimator.classes_ = np.array([0, 2])
    two = found[:, :2]
    classifier.estimator.predict_proba = lambda X: two
    unseen = classifier.probabilities(np.stack([classifier.pixels(file) for file in files]))
    np.testing.assert_array_equal(unseen, np.stack([two[:, 0], np.zeros(3), two[:, 1]], axis=1))


def test_occlusion_goes_the_same_way_as_a_prediction(fitted, photos):
    file = photos / "blue" / "3.png"
    display = occlude(fitted, file, patch=24, stride=24)
    (answer,) = predict(fitted, [file])
    told = dict(zip(answer.classes, answer.probabilities, strict=True))
    assert (display.class_name, display.probabilities.shape) == ("blue", (2, 2))
    assert display.whole == pytest.approx(told["blue"], abs=1e-6)
    hidden = display.image.copy()
    hidden[24:48, :24] = np.rint(display.image.mean(axis=(0, 1)))
    expected_share = RunClassifier(fitted).probabilities(hidden[None])[0, 0]
    assert display.probabilities[1, 0] == pytest.approx(expected_share, abs=1e-5)


def test_occlusion_takes_a_test_image_the_head_gets_right(fitted):
    display = occlude(fitted, patch=48)
    answers = fitted.predictions(fitted.best_head()["name"])
    right = answers.rows[answers.y_true == answers.y_pred][0]
    name = Bank.open(fitted.source["bank"]).manifest.ids[right].decode()
    assert display.title.startswith(f"{name} in minivgg: ")
    assert display.class_name == name.split("/")[0]


def test_another_decoder_than_the_banks_is_told(fitted: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert fitted.source["decoder"] == Bank.open(fitted.source["bank"]).key.decoder
    RunClassifier(fitted)
    assert not [one for one in caplog.messages if "decoded" in one]
    source = {**fitted.source, "decoder": "nvjpeg-torchcodec-0.17.0+pillow-13.0.0"}
    RunClassifier(Run(fitted.path, {**fitted.facts, "source": source}))
    assert (
        "the head was fitted on images decoded by nvjpeg-torchcodec-0.17.0+pillow-13.0.0; these are "
        "decoded by Pillow, and may differ by a few steps of 255"
    ) in caplog.messages


@pytest.mark.slow
def test_a_class_activation_map_goes_the_same_way_as_a_prediction(fitted, photos):
    name = next(one["name"] for one in fitted.heads() if one["head"] == "logreg")
    file = photos / "red" / "9.png"
    display = activation_map(fitted, file, head=name, occlusion=False)
    (answer,) = predict(fitted, [file], head=name)
    assert display.class_name == answer.classes[0]
    assert display.probability == pytest.approx(answer.probabilities[0])
    assert display.cut == "block4_pool"
    estimator, classifier = fitted.load_head(name), RunClassifier(fitted, name)
    maps = classifier.maps(classifier.pixels(file)[None], "block4_pool")[0]
    coefficients = estimator.coef_ - estimator.coef_.mean(axis=0)
    weights = coefficients[CLASSES.index(display.class_name)].reshape(maps.shape).sum(axis=(1, 2))
    np.testing.assert_allclose(display.evidence, np.tensordot(weights, maps, axes=1), rtol=0.02, atol=0.02)
    other = activation_map(fitted, file, head=name, class_name="blue", occlusion=False)
    assert not np.allclose(other.evidence, display.evidence)
    with pytest.raises(UnknownNameError, match="unknown class 'rde'; known: 'red'"):
        activation_map(fitted, file, head=name, class_name="rde")
