"""From a dataset to a backbone: what a training leaves, what it refuses, and that cuts can be read of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from featbank.backbones import get_spec, load_backbone, truncate
from featbank.backbones.own_networks import NETWORKS
from featbank.banks import Bank
from featbank.errors import (
    DatasetError,
    InvalidInputError,
    MissingWeightsError,
    RunError,
    UnknownNameError,
    WeightsError,
)
from featbank.extraction import extract
from featbank.training import TrainResult, train

from .conftest import QUICK, SMALL

Train = Callable[..., TrainResult]


@pytest.fixture
def trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train a small own_net on ten pictures of each colour, into the cache of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)

    def run(**options: Any) -> TrainResult:
        usual: dict[str, Any] = {"network": "own_net", "params": SMALL, "recipe": QUICK, "split": "6,2,2"}
        return train(data, **{**usual, **options})

    return run


def test_what_a_training_leaves(trained: Train) -> None:
    result = trained()
    assert sorted(one.name for one in result.folder.iterdir()) == [
        "card.md", "network.safetensors", "training.json",
    ]  # fmt: skip
    tensors = load_file(result.weights)
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    card = result.card.read_text()
    assert result.sha256 in card
    assert "18 train, 6 val, 6 test images" in card
    assert f"| test_top1 | {result.scores['test_top1']:.4f} |" in card
    assert result.confusion.sum() == 6
    assert result.n_per_class == (6, 6, 6)
    assert not result.reused
    assert (result.dataset, result.n_images) == ("photos", {"train": 18, "val": 6, "test": 6})
    again = trained()
    assert (again.facts["data"], again.dataset, again.versions) == (
        result.facts["data"],
        "photos",
        result.versions,
    )
    assert again.reused
    assert (again.sha256, again.scores) == (result.sha256, result.scores)
    assert repr(again.history) == repr(result.history)  # epoch 1 is not epoch 1.0
    np.testing.assert_array_equal(again.confusion, result.confusion)


@pytest.mark.parametrize("how", ["name", "folder", "file"])
def test_what_was_trained_is_a_backbone(trained: Train, how: str) -> None:
    result = trained()
    name = {"name": result.folder.name, "folder": f"cache/networks/{result.folder.name}"}.get(
        how, str(result.weights)
    )
    spec = get_spec(name)
    assert spec.cut_names == (
        "conv1", "pool1", "conv2", "pool2", "conv3", "pool3", "fc1", "fc2", "logits", "softmax",
    )  # fmt: skip
    assert spec.cut("conv3").shape == (8, 8, 8)
    backbone = load_backbone(name)
    assert backbone.weights_sha256 == result.sha256
    assert backbone.class_names == ("blue", "green", "red")
    assert get_spec(spec.name).name == spec.name  # as a bank writes it
    network = truncate(backbone, ["conv3", "logits"])
    pixels = torch.rand(2, 3, 32, 32)
    found = network(pixels)
    assert found["conv3"].shape == (2, 8, 8, 8)
    torch.testing.assert_close(found["logits"], backbone.module(pixels))


@pytest.mark.slow
def test_a_bank_of_what_was_trained_classifies_as_the_network_did(trained: Train, data: Path) -> None:
    result = trained(recipe={**QUICK, "epochs": 12})
    pushed = extract(
        data, backbone=result.folder, cuts=["conv3", "logits"], split="6,2,2", precision="float32"
    )
    bank = Bank.open(pushed.bank)
    rows = bank.manifest.rows("test")
    taken_for = bank["logits"][rows].argmax(1)
    assert (taken_for == bank.manifest.labels[rows]).mean() == pytest.approx(result.scores["test_top1"])


@pytest.mark.parametrize("name", [one for one in NETWORKS if one != "own_net"])
@pytest.mark.slow
def test_every_network_trains_and_is_cut(trained: Train, name: str) -> None:
    plan = NETWORKS[name]
    params: dict[str, Any] = {}
    if hasattr(plan, "widths"):
        params = {"widths": [4] * len(plan.widths), "hidden": [8]}
    elif name == "googlenet_part":
        params = {"blocks": [[4] * 6] * 3}
    else:
        params = {"blocks": [[4, depth] for _, depth in plan.blocks], "hidden": [8]}
    result = trained(network=name, params=params, recipe={**QUICK, "epochs": 1})
    backbone = load_backbone(str(result.folder))
    cuts = [one for one in backbone.spec.cut_names if one != "softmax"]
    found = truncate(backbone, cuts)(torch.rand(1, 3, plan.image_size, plan.image_size))
    assert {cut: tuple(one.shape[1:]) for cut, one in found.items()} == {
        cut: backbone.spec.cut(cut).shape for cut in cuts
    }


def test_minivgg_is_still_minivgg(trained: Train) -> None:
    result = trained(network=None, params=None, recipe={**QUICK, "epochs": 1})
    backbone = load_backbone("minivgg", weights=result.weights)
    assert backbone.weights_sha256 == result.sha256
    assert backbone.class_names == ("blue", "green", "red")


def test_training_can_start_from_weights(trained: Train) -> None:
    first = trained()
    second = trained(recipe={**QUICK, "epochs": 1, "lr": 1e-12}, initial_weights=first.weights)
    name = "conv2.layer.weight"
    np.testing.assert_array_equal(load_file(second.weights)[name], load_file(first.weights)[name])
    assert first.sha256 in second.card.read_text()
    with pytest.raises(MissingWeightsError, match=r"initial weights '.*none.safetensors' do not exist"):
        trained(initial_weights="none.safetensors")
    with pytest.raises(WeightsError, match=r"the initial weights are those of another network: "):
        trained(initial_weights=first.weights, params={"hidden": [4]})


def test_a_folder_of_something_else_is_refused(trained: Train, data: Path, save_photo: Any) -> None:
    trained(output="x")
    with pytest.raises(
        InvalidInputError, match=r"a training of something else \(lr: 0.01 there, 0.5 asked\)"
    ):
        trained(output="x", recipe={**QUICK, "lr": 0.5})
    (data / "violet").mkdir()
    for number in range(10):
        save_photo(data / "violet" / f"{number}.png", seed=number)
    with pytest.raises(InvalidInputError, match=r"classes: \['blue', 'green', 'red'\] there, \['blue'"):
        trained(output="x")
    (Path("x") / "training.json").write_text("{")
    with pytest.raises(RunError, match=r"is damaged .*; remove its folder to train again"):
        trained(output="x")


def test_classes_other_than_the_checkpoints(trained: Train, data: Path, save_photo: Any) -> None:
    def interrupt(entry: dict[str, float]) -> None:
        if entry["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(output="x", on_epoch=interrupt)
    assert (Path("x") / "checkpoint.safetensors").exists()
    (data / "violet").mkdir()
    for number in range(10):
        save_photo(data / "violet" / f"{number}.png", seed=number)
    with pytest.raises(
        InvalidInputError, match=r"was made otherwise \(.*classes: \['blue', 'green', 'red'\]"
    ):
        trained(output="x")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "own_nett"}, UnknownNameError, "unknown network 'own_nett'; known: 'own_net'"),
        ({"params": {"kernel": 3}}, UnknownNameError, "has no parameter 'kernel'; known: 'kernels'"),
        ({"params": {"kernels": [5, 5]}}, InvalidInputError, r"kernels=\(5, 5\) has 2 entries for 3"),
        ({"params": {"kernels": [4, 4, 4]}}, InvalidInputError, r"kernels=\(4, 4, 4\) must be odd"),
        ({"params": {"activation": "gelu"}}, InvalidInputError, "activation='gelu' is unknown; known: 'elu'"),
        ({"params": {"dropout": 1.0}}, InvalidInputError, "dropout=1.0 must be from 0 to below 1"),
        ({"params": {"widths": "x"}}, InvalidInputError, "widths='x' must be a whole number"),
        ({"image_size": 4}, InvalidInputError, "image_size=4 is too small for 'own_net': .* use at least 8"),
        ({"backbone": "vgg16"}, InvalidInputError, "trains from scratch, backbone='vgg16' fine-tunes"),
        ({"unfreeze": "3"}, InvalidInputError, "unfreeze='3' is for a backbone; name one"),
        ({"weights": "x.pth"}, InvalidInputError, "weights='x.pth' are a backbone's"),
        (
            {"val": 0.2, "train_on_val": True},
            InvalidInputError,
            "val=0.2 holds images out and train_on_val=True trains on them; choose one",
        ),
        ({"val": 0.01}, InvalidInputError, "val=0.01 of each class's training images is less than one"),
        ({"val": 1.5}, InvalidInputError, "val=1.5 must be over 0 and below 1"),
    ],
)
def test_what_cannot_be_trained(trained: Train, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        trained(**options)
    assert "\n" not in str(caught.value)
    assert not Path("cache").exists()


def test_no_images_to_train_on(trained: Train) -> None:
    with pytest.raises(DatasetError, match="has no labelled train images; give a --split with some"):
        trained(split="0,5,5")


def test_validation_images_are_held_out_or_trained_on(trained: Train) -> None:
    assert "24 train, 6 test images" in trained(split="8,0,2", output="none").card.read_text()
    assert "18 train, 6 val, 6 test images" in trained(split="8,0,2", val=0.25, output="a").card.read_text()
    assert "24 train, 6 test images" in trained(train_on_val=True, output="b").card.read_text()


def test_blurred_test_images_are_measured_too(trained: Train) -> None:
    result = trained(blur=4.0)
    assert {"test_top1", "blurred_top1", "blurred_top5"} <= set(result.scores)
    assert not trained().reused  # without them it is another training


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "KeyError"),
        ({"classes": "[]", "featbank": "{"}, "JSONDecodeError"),
        ({"classes": '["a"]', "featbank": '{"facts": {"name": "x"}, "preprocessing": {}}'}, "TypeError"),
        (
            {
                "classes": '["a", "b"]',
                "featbank": '{"facts": {"name": "x", "params": {}}, '
                '"preprocessing": {"image_size": 32, "resize_size": 32}}',
            },
            "unknown network 'x'",
        ),
    ],
)
def test_a_file_that_is_no_network_of_ours(tmp_path: Path, metadata: Any, said: str) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match=rf"is no network of 'featbank train' \(.*{said}") as caught:
        get_spec(str(path))
    assert "\n" not in str(caught.value)


def test_a_place_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"no network at .*: neither a file nor a folder with"):
        get_spec(str(tmp_path / "none"))


# trained further -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backbone_that_is_trained_further(trained: Train) -> None:
    lines: list[str] = []
    result = trained(
        network=None, params=None, backbone="minivgg", unfreeze="every:5", recipe={**QUICK, "epochs": 1},
        say=lines.append,
    )  # fmt: skip
    (line,) = lines
    assert line.startswith(
        "4 of 16 layers of minivgg move, the first is number 5: each of 1 epochs pushes 18 "
    )
    assert "a bank takes one" in line
    before, after = load_backbone("minivgg"), load_backbone(str(result.folder))
    assert after.class_names == ("blue", "green", "red")
    assert after.preprocessing == before.preprocessing
    assert after.spec.cut("fc7").shape == (256,)
    old, new = before.module.state_dict(), after.module.state_dict()
    moved = {
        name for name in old if old[name].shape == new[name].shape and not torch.equal(old[name], new[name])
    }
    layers = {name.rpartition(".")[0] for name in moved if name.endswith("weight")}
    # the 5th, 10th and 15th layer, the norms of the convolutions among them, and the new last one
    assert layers == {"features.14", "features.15", "features.30", "features.31", "classifier.3"}
    norms = {name for name in moved if name.endswith("running_mean")}
    assert norms == {"features.15.running_mean", "features.31.running_mean"}


@pytest.mark.slow
def test_images_of_another_size_are_another_training(trained: Train) -> None:
    def tuned(**more: Any) -> TrainResult:
        asked = {"network": None, "params": None, "backbone": "minivgg", "unfreeze": "none", **more}
        return trained(recipe={**QUICK, "epochs": 1}, **asked)

    first, other = tuned(image_size=32), tuned(image_size=40)
    assert (first.reused, other.reused) == (False, False)
    assert first.folder != other.folder
    assert tuned(image_size=32).reused
    first.weights.unlink()  # what has no network is not finished
    again = tuned(image_size=32)
    assert (again.reused, again.sha256) == (False, first.sha256)


@pytest.mark.parametrize("asked", ["every:0", "every:16", "every:x", "0", "17", "", "last"])
def test_layers_that_are_none(trained: Train, asked: str) -> None:
    with pytest.raises(InvalidInputError, match="is none of 'every:N' and 'N' with N from 1 to 15, 'none'"):
        trained(network=None, params=None, backbone="minivgg", unfreeze=asked)


# the weights that ship -------------------------------------------------------------------------------------


def test_the_shipped_weights_say_what_the_card_says() -> None:
    from featbank.backbones import loading as module

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
