"""``featbank train``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from featbank.backbones import load_backbone
from featbank.errors import InvalidInputError
from featbank.training import Recipe

QUICK = ("train", "photos", "--split", "6,3,3", "--epochs", 1, "--batch-size", 16)
SMALL = ("--network", "own_net", "--param", "widths=4,4,8", "--param", "hidden=8,8")


@pytest.mark.slow
def test_weights_card_and_scores(call, place):
    done = call(*QUICK, *SMALL, "--output", "trained", "--json")
    assert done.code == 0
    found = done.json
    assert Path(found["weights"]) == Path("trained/network.safetensors")
    assert Path(found["card"]).exists()
    assert sorted(found["figures"]) == ["confusion", "history"]
    assert all(Path(one).read_bytes().startswith(b"\x89PNG") for one in found["figures"].values())
    assert 0 <= found["scores"]["test_top1"] <= 1
    assert "epoch 1: loss " in done.err
    # and what was trained can be used at once
    plain = ("--cut", "conv3", "--split", "6,3,3", "--cache-dir", "new")
    assert call("extract", "photos", "--backbone", found["folder"] + "/", *plain).code == 0
    # also alone
    (answer,) = call("predict", "trained", "photos/red/00.png", "--json").json["predictions"]
    network = load_backbone("trained/")
    with Image.open("photos/red/00.png") as image:
        pixels = network.preprocessing.apply_geometry(image.convert("RGB"))
    mean, std = (
        torch.tensor(one)[:, None, None] for one in (network.preprocessing.mean, network.preprocessing.std)
    )
    batch = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
    with torch.inference_mode():
        wanted = network.module(batch[None]).softmax(1)[0].sort(descending=True)
    assert answer["classes"] == [found["classes"][at] for at in wanted.indices.tolist()][:5]
    assert answer["probabilities"] == pytest.approx(wanted.values.tolist()[:5], abs=1e-5)
    refused = call("predict", "trained", "photos/red/00.png", "--head", "softmax")
    assert (refused.code, "a network has its own" in refused.err) == (2, True)
    again = call(*QUICK, *SMALL, "--output", "trained")
    assert again.code == 0
    assert "trained before" in again.err
    assert "it is a backbone: featbank extract DATA --backbone trained" in again.out


def test_without_other_images_than_those_of_train(call, place):
    done = call("train", "photos", "--split", "1,0,0", "--epochs", 1, *SMALL, "--output", "trained", "--json")
    assert done.code == 0, done.err
    assert list(done.json["figures"]) == ["history"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--optimizer", "adagrad", "--lr", 0),
            "optimizer='adagrad' is not one of sgd, adam, adamw; lr=0.0 must be over 0",
        ),
        (
            ("--recipe", "lr=0.5", "--lr", 0.1),
            "--lr 0.1 and --recipe lr=0.5 say the same field; give one",
        ),
        (("--recipe", "rotation"), "--recipe 'rotation' is no NAME=VALUE"),
        (("--recipe", "rotation=-3"), "rotation=-3 must be at least 0"),
        (
            ("--network", "own_net", "--image-size", 2),
            "image_size=2 is too small for 'own_net': its pools leave nothing; use at least 8",
        ),
    ],
)
def test_wrong_options(call, place, options, message):
    done = call(*QUICK, "--output", "trained", *options)
    assert done.code == 2
    assert done.message == message
    assert not (place / "trained").exists()


@pytest.mark.parametrize(
    ("options", "seed"), [((), 0), (("--recipe", "random_state=3"), 3), (("--seed", 4), 4)]
)
def test_the_seed_is_the_one_that_was_given(call, place, monkeypatch, options, seed):
    asked = []

    def train(*_, recipe, **__):
        asked.append(Recipe(**recipe).random_state)
        raise InvalidInputError("seen")

    monkeypatch.setattr("featbank.training.train", train)
    assert call(*QUICK, *options).message == "seen"
    assert asked == [seed]
