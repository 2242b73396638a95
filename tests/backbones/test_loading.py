"""A loaded backbone recognises what it sees: real weights, real photographs."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.backbones import Backbone, load_backbone, truncate
from featbank.backbones.minivgg import MINIVGG_CLASSES, MINIVGG_WEIGHTS
from featbank.errors import InvalidInputError, MissingWeightsError, UnknownNameError

SHARED = Path(__file__).parents[2].parent / "shared"
WEIGHTS = SHARED / "weights" / "mobilenet_v2-imagenet1k.safetensors"
PHOTOGRAPHS = SHARED / "data" / "caltech101-32"
SHIPPED = Path(str(files("featbank.backbones"))) / "pretrained" / MINIVGG_WEIGHTS


def test_image_size_and_transform_reach_the_preprocessing() -> None:
    backbone = load_backbone("minivgg", weights="random", image_size=64, transform="contrast")
    assert (backbone.name, backbone.preprocessing.image_size) == ("minivgg", 64)
    assert backbone.preprocessing.contrast
    network = truncate(backbone, ["block5_pool"])
    assert network.image_size == 64
    assert network.cut_shapes == {"block5_pool": (128, 2, 2)}


@pytest.mark.slow
def test_a_vision_transformer_is_built_for_its_image_size() -> None:
    backbone = load_backbone("vit_b_32", weights="random", image_size=64)
    assert truncate(backbone, ["encoder.ln"]).cut_shapes == {"encoder.ln": (5, 768)}


def test_bad_requests() -> None:
    with pytest.raises(UnknownNameError, match="unknown backbone 'minvgg'; known: 'minivgg'"):
        load_backbone("minvgg")
    with pytest.raises(UnknownNameError, match="unknown transform 'sqash'; known: 'squash'"):
        load_backbone("minivgg", weights="random", transform="sqash")
    with pytest.raises(InvalidInputError, match="image_size=8 is too small for 'minivgg'"):
        load_backbone("minivgg", weights="random", image_size=8)


def test_minivgg_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featbank.backbones.minivgg.MINIVGG_WEIGHTS", "absent.safetensors")
    with pytest.raises(
        MissingWeightsError, match="the weights of 'minivgg' are missing from this installation"
    ):
        load_backbone("minivgg")


@pytest.mark.parametrize("weights", [None, "CIFAR10", "DEFAULT"])
def test_minivgg_ships_with_its_weights(weights: str | None) -> None:
    backbone = load_backbone("minivgg", weights=weights)
    assert backbone.weights == "CIFAR10"
    assert backbone.weights_sha256 == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert backbone.class_names == MINIVGG_CLASSES


needs_shared = pytest.mark.skipif(
    not (WEIGHTS.is_file() and PHOTOGRAPHS.is_dir()),
    reason="no shared weights or photographs beside the checkout",
)


@pytest.fixture(name="mobilenet", scope="module")
def fixture_mobilenet() -> Backbone:
    return load_backbone("mobilenet_v2", weights=WEIGHTS)


@pytest.mark.shared
@needs_shared
def test_real_weights_load(mobilenet: Backbone) -> None:
    assert mobilenet.weights == WEIGHTS.name
    assert mobilenet.weights_sha256 == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert (mobilenet.preprocessing.resize_size, mobilenet.preprocessing.image_size) == (256, 224)
    assert {one.dtype for one in mobilenet.module.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize(
    ("folder", "names", "least"),
    [
        ("airplanes", {"airliner", "warplane", "wing"}, 24),
        ("laptop", {"notebook", "laptop"}, 24),
        ("revolver", {"revolver"}, 32),
    ],
)
def test_real_weights_recognise_photographs(
    mobilenet: Backbone, folder: str, names: set[str], least: int
) -> None:
    photographs = sorted((PHOTOGRAPHS / folder).glob("*.jpg"))
    assert len(photographs) == 40
    pixels = []
    for file in photographs:
        with Image.open(file) as image:
            pixels.append(mobilenet.preprocessing.apply_geometry(image.convert("RGB")))
    network = truncate(mobilenet, ["logits", "avgpool"])
    with torch.inference_mode():
        features = network(mobilenet.preprocessing.normalise(torch.from_numpy(np.stack(pixels))))
    assert features["avgpool"].shape == (40, 1280)
    assert mobilenet.class_names is not None
    predicted = [mobilenet.class_names[index] for index in features["logits"].argmax(1).tolist()]
    # ImageNet has other names for some of these photographs (amphibian, hand-held computer).
    assert sum(one in names for one in predicted) >= least, predicted
