"""``featbank pretrain``."""

from __future__ import annotations

from pathlib import Path

import pytest

QUICK = ("pretrain", "photos", "--split", "6,3,3", "--epochs", 1, "--batch-size", 16, "--cutout", 0)


@pytest.mark.slow
def test_weights_card_and_accuracy(call, place):
    done = call(*QUICK, "--output", "trained", "--json")
    assert done.code == 0
    found = done.json
    assert Path(found["weights"]).name == "minivgg-photos.safetensors"
    assert Path(found["card"]).exists()
    assert 0 <= found["test_accuracy"] <= 1
    assert "epoch 1 of 1: loss " in done.err
    # and what was trained can be used at once
    plain = ("--cut", "fc7", "--split", "6,3,3", "--cache-dir", "new")
    assert call("extract", "photos", "--weights", found["weights"], *plain).code == 0


def test_wrong_options(call, place):
    done = call(*QUICK, "--output", "trained", "--optimizer", "adagrad", "--lr", 0)
    assert done.code == 2
    assert done.message == "optimizer='adagrad' is not one of sgd, adam; lr=0.0 must be over 0"
    assert not (place / "trained").exists()
