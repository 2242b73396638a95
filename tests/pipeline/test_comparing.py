"""Which measured number stands beside a published one, and what is said of the difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from featbank.pipeline import BackboneChoice, Data, Experiment, Figure, Sweep
from featbank.pipeline.comparing import StudyPoint, computed_differences, measure
from featbank.sweep import Score


def point(value, *, cut="fc7", n=16, at=None):
    score = Score(value, value - 0.01, value + 0.02)
    return StudyPoint(cut, "softmax", n, {"val_top1": score}, at, n_repeats=5, experiment="e")


@pytest.mark.parametrize(
    ("of", "value"),
    [
        ({}, 0.6),
        ({"n_per_class": 4}, 0.3),
        ({"n_per_class": 5}, None),
        ({"cut": "p5"}, 0.2),
        ({"head": "mlp"}, None),
        ({"metric": "top1"}, None),
        ({"experiment": "other"}, None),
    ],
)
def test_which_point(of, value):
    points = [point(0.3, n=4), point(0.6), point(0.2, cut="p5")]
    found = measure(replace(Figure("x", 0.65, "val_top1", "e"), **{"cut": "fc7", **of}), points)
    assert found["value"] == value
    if value is not None:
        assert (found["low"], found["high"]) == (pytest.approx(value - 0.01), pytest.approx(value + 0.02))
        assert found["n_repeats"] == 5


def test_temperatures():
    points = [point(0.4, at=1.0), point(0.6, at=1.81), point(0.5, at=4.0)]
    figure = Figure("x", 1.81, "val_top1", "e")
    assert measure(figure, points)["value"] == 0.6
    assert measure(replace(figure, temperature=4.0), points)["value"] == 0.5
    found = measure(replace(figure, what="temperature"), points)
    assert (found["value"], found["low"], found["temperature"]) == (1.81, None, 1.81)


def test_what_a_run_made_different():
    data = Data("d", "d", n_classes_published=256)
    written = Experiment("e", data, BackboneChoice("vgg16", "IMAGENET1K_V1"), Sweep(("fc7",)))
    same = {"weights": "VGG16_Weights.IMAGENET1K_V1", "n_classes": 256}
    assert computed_differences([(written, written, same)], None) == []
    other = replace(written, backbone=BackboneChoice("minivgg"))
    assert computed_differences([(written, other, {"weights": "random", "n_classes": 10})] * 2, 100) == [
        "backbone minivgg instead of vgg16",
        "minivgg has RANDOM weights: its features are those of no training",
        "10 classes here, 256 in the report",
        "at most 100 images (--limit)",
    ]
    file = replace(written, backbone=BackboneChoice("vgg16", "mine.pth"))
    assert computed_differences([(written, file, {"weights": "mine.pth", "n_classes": 256})], None) == [
        "vgg16 has the weights mine.pth instead of IMAGENET1K_V1"
    ]
