"""Training from scratch: it learns, it resumes to the same weights, and it writes what the package ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from featbank.backbones import load_backbone
from featbank.errors import DatasetError, InvalidInputError, MissingWeightsError, WeightsError
from featbank.extraction import extract
from featbank.pretraining import PretrainedWeights, PretrainSettings, pretrain

SETTINGS = PretrainSettings(epochs=3, batch_size=8, lr=0.02, warmup_epochs=0.5, precision="float32")


@pytest.fixture
def data(photo_folder: Callable[..., Path]) -> Path:
    return photo_folder(n_per_class=10)


@pytest.mark.slow
def test_it_learns_and_writes_weights_that_load(data: Path, tmp_path: Path) -> None:
    epochs: list[dict[str, float]] = []
    result = pretrain(data, output=tmp_path / "out", settings=SETTINGS, split="7,0,3", on_epoch=epochs.append)
    assert [entry["epoch"] for entry in epochs] == [1, 2, 3]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    tensors = load_file(result.weights)
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    card = result.card.read_text()
    assert result.sha256 in card
    assert f"{result.test_accuracy:.4f} top-1 after the last epoch" in card
    assert "featbank pretrain DATA --output FOLDER --epochs 3 --batch-size 8" in card
    backbone = load_backbone("minivgg", weights=result.weights)
    assert backbone.weights_sha256 == result.sha256
    bank = extract(
        data, backbone="minivgg", weights=result.weights, cuts=["logits"], cache_dir=tmp_path / "cache"
    )
    assert bank.cuts["logits"] == (3,)


@pytest.mark.slow
@pytest.mark.parametrize("averaged_epochs", [0, 2])
def test_an_interrupted_training_ends_with_the_same_weights(
    data: Path, tmp_path: Path, averaged_epochs: int
) -> None:
    settings = replace(SETTINGS, averaged_epochs=averaged_epochs)
    whole = pretrain(data, output=tmp_path / "whole", settings=settings, split="7,0,3")

    def interrupt(entry: dict[str, float]) -> None:
        if entry["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(data, output=tmp_path / "broken", settings=settings, split="7,0,3", on_epoch=interrupt)
    epochs: list[float] = []
    resumed = pretrain(
        data,
        output=tmp_path / "broken",
        settings=settings,
        split="7,0,3",
        on_epoch=lambda entry: epochs.append(entry["epoch"]),
    )
    assert epochs == [3]
    assert resumed.sha256 == whole.sha256
    assert resumed.test_accuracy == whole.test_accuracy


@pytest.mark.slow
def test_averaging_keeps_the_mean_of_the_last_weights(data: Path, tmp_path: Path) -> None:
    """The mean over epochs 2 and 3 is the mean of what runs that stop there end with."""
    settings = replace(SETTINGS, annealing="constant", warmup_epochs=0.0)
    ends = [
        load_file(
            pretrain(
                data, output=tmp_path / str(n), settings=replace(settings, epochs=n), split="7,0,3"
            ).weights
        )
        for n in (2, 3)
    ]
    mean = pretrain(
        data, output=tmp_path / "mean", settings=replace(settings, averaged_epochs=2), split="7,0,3"
    )
    name = "features.0.weight"
    expected = (ends[0][name].astype(np.float32) + ends[1][name].astype(np.float32)) / 2
    tensors = load_file(mean.weights)
    np.testing.assert_allclose(tensors[name].astype(np.float32), expected, atol=2e-4)
    # 21 images in batches of 8: the statistics are those of one pass with the averaged weights, no more
    assert tensors["features.1.num_batches_tracked"] == 3


@pytest.mark.slow
def test_training_can_start_from_weights(data: Path, tmp_path: Path) -> None:
    first = pretrain(data, output=tmp_path / "first", settings=SETTINGS, split="7,0,3")
    settings = replace(SETTINGS, epochs=1, lr=1e-12)
    second = pretrain(
        data, output=tmp_path / "second", settings=settings, initial_weights=first.weights, split="7,0,3"
    )
    name = "classifier.6.weight"
    np.testing.assert_array_equal(load_file(second.weights)[name], load_file(first.weights)[name])
    assert first.sha256 in second.card.read_text()
    with pytest.raises(MissingWeightsError, match=r"initial weights '.*none.safetensors' do not exist"):
        pretrain(data, output=tmp_path / "x", initial_weights=tmp_path / "none.safetensors", split="7,0,3")
    (data / "violet").mkdir()
    for file in (data / "red").iterdir():
        (data / "violet" / file.name).write_bytes(file.read_bytes() + b" ")
    with pytest.raises(WeightsError, match=r"the initial weights are those of another network: "):
        pretrain(data, output=tmp_path / "y", initial_weights=first.weights, split="7,0,3")


def test_a_checkpoint_of_another_recipe_is_refused(data: Path, tmp_path: Path) -> None:
    pretrain(data, output=tmp_path / "out", settings=SETTINGS, split="7,0,3")
    other = PretrainSettings(epochs=3, batch_size=8, lr=0.01, warmup_epochs=0.5, precision="float32")
    with pytest.raises(InvalidInputError, match=r"made with other settings \(lr: 0.02 there, 0.01 asked\)"):
        pretrain(data, output=tmp_path / "out", settings=other, split="7,0,3")


def test_adam_and_bfloat16_train_too(data: Path, tmp_path: Path) -> None:
    settings = PretrainSettings(epochs=1, batch_size=8, optimizer="adam", lr=1e-3, annealing="inverse-time")
    assert pretrain(data, output=tmp_path / "out", settings=settings, split="7,0,3").weights.exists()


def test_every_training_image_counts_when_the_source_has_no_validation(data: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    for part in ("train", "test"):
        (split / part).mkdir(parents=True)
    for label in data.iterdir():
        for index, file in enumerate(sorted(label.iterdir())):
            folder = split / ("train" if index < 8 else "test") / label.name
            folder.mkdir(exist_ok=True)
            file.rename(folder / file.name)
    settings = PretrainSettings(epochs=1, batch_size=8, lr=0.01)
    card = pretrain(split, output=tmp_path / "out", settings=settings).card.read_text()
    assert "24 training and 6 test images" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"optimizer": "lion"}, "optimizer='lion' is not one of sgd, adam"),
        ({"annealing": "none", "lr": 0}, "annealing='none' is not one of .*; lr=0 must be over 0"),
        ({"cutout": -1}, "cutout=-1 must be at least 0"),
    ],
)
def test_wrong_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PretrainSettings(**options)  # type: ignore[arg-type]


def test_no_test_images_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no labelled test images; give a --split with some"):
        pretrain(data, output=tmp_path / "out", settings=SETTINGS, split="7,3,0")


def test_weights_that_do_not_fit_float16_are_refused(tmp_path: Path) -> None:
    weights = PretrainedWeights({"w": np.array([1e6], np.float32)})
    with pytest.raises(WeightsError, match="'w' does not fit float16"):
        weights.to_safetensors(tmp_path / "w.safetensors", {})


def test_the_shipped_weights_say_what_the_card_says() -> None:
    from featbank.backbones import weights as module

    folder = Path(module.__file__).parent / "pretrained"
    card = (folder / "minivgg-cifar10.md").read_text()
    file = folder / "minivgg-cifar10.safetensors"
    backbone = load_backbone("minivgg")
    assert backbone.weights_sha256 in card
    assert f"{file.stat().st_size:,} bytes" in card
    assert file.stat().st_size <= 3_000_000
    assert backbone.class_names is not None
    assert ", ".join(backbone.class_names) in card


@pytest.mark.slow
@pytest.mark.shared
def test_the_shipped_weights_are_as_accurate_as_the_card_says(shared: Path, tmp_path: Path) -> None:
    """A tenth of CIFAR-10's test images: binomial standard error 1 %."""
    import tarfile

    from featbank.datasets import decode_image

    backbone = load_backbone("minivgg")
    assert backbone.class_names is not None
    labels, images = [], []
    with tarfile.open(shared / "data" / "cifar10-jpeg.tar.gz") as archive:
        for member in archive:
            parts = member.name.strip("./").split("/")
            if parts[0] != "test":
                if labels:
                    break
                continue
            if len(parts) == 3 and hash_of(parts[2]) % 10 == 0:
                content = archive.extractfile(member)
                assert content is not None
                images.append(backbone.preprocessing.apply_geometry(decode_image(content.read())))
                labels.append(backbone.class_names.index(parts[1]))
    with torch.inference_mode():
        logits = backbone.module(backbone.preprocessing.normalise(torch.from_numpy(np.stack(images))))
    accuracy = float((logits.argmax(1).numpy() == np.array(labels)).mean())
    assert len(labels) > 500
    assert accuracy > 0.86, json.dumps({"n": len(labels), "accuracy": accuracy})


def hash_of(name: str) -> int:
    import zlib

    return zlib.crc32(name.encode())
