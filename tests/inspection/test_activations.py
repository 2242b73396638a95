"""Maps of one image at the cuts of a backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from featbank.backbones import load_backbone
from featbank.datasets import decode_image
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.inspection import ActivationsDisplay
from featbank.inspection.activations import Activation

IMAGE = np.zeros((8, 8, 3), np.uint8)


def test_values_are_those_of_the_network(minivgg, digit, whole) -> None:
    caught = {}
    hooks = [
        minivgg.module.get_submodule(path).register_forward_hook(
            lambda _, __, output, path=path: caught.update({path: output[0].clone()})
        )
        for path in ("features.0", "features.6", "classifier.6")
    ]
    with torch.no_grad():
        minivgg.module(minivgg.preprocessing.normalise(torch.from_numpy(digit[None])))
    for hook in hooks:
        hook.remove()
    display = ActivationsDisplay.from_image(minivgg, digit, ["softmax", "pool1"], title="a digit").plot()
    assert [one.cut for one in display.activations] == ["block1_pool", "logits"]  # by depth
    for one, path in zip(display.activations, ("features.6", "classifier.6"), strict=True):
        np.testing.assert_allclose(one.values, caught[path].numpy(), atol=1e-4)
    np.testing.assert_allclose(display.responses, caught["features.0"].numpy(), atol=1e-4)
    np.testing.assert_array_equal(display.filters, minivgg.module.features[0].weight.numpy())
    assert not minivgg.module.features[0]._forward_hooks
    whole(display)


@pytest.mark.slow
def test_all_cuts_from_input_to_output(minivgg, digit, whole) -> None:
    display = ActivationsDisplay.from_image(minivgg, digit, filters=False, maps=15).plot()
    names = [axes.get_ylabel().splitlines()[0] for axes in display.ax_]
    assert names == ["input", *[f"block{at}_pool" for at in range(1, 6)], "fc6", "fc7", "logits"]
    assert "largest: " in display.ax_[-1].get_ylabel()
    assert display.activations[-1].names == minivgg.class_names
    whole(display)


def test_dark_maps_are_counted() -> None:
    values = np.zeros((6, 2, 2), np.float32)
    values[0, 1, 1], values[1, 0, 0], values[2] = 5.0, 0.051, 0.049  # 1 % of the largest is dark
    one = Activation("relu", values)
    assert (one.n_dark, one.signed) == (4, False)
    values[5, 0, 0] = -4.0
    assert (one.n_dark, one.signed) == (3, True)
    assert one.strongest(3).tolist() == [0, 5, 1]
    assert Activation("dead", np.zeros((7, 3, 3), np.float32)).n_dark == 7
    display = ActivationsDisplay(IMAGE, [one]).plot()
    assert display.ax_[1].get_ylabel() == "relu\n6 maps, 2×2\n3 dark, sign left out"
    assert display.facts() == [
        {"cut": "relu", "shape": [6, 2, 2], "channels": 6, "dark": 3, "strongest": [0, 5, 1, 2, 3, 4]}
    ]


def test_of_equal_peaks_the_larger_area_comes_first() -> None:
    values = np.zeros((3, 2, 2), np.float32)
    values[0, 0, 0] = values[1] = 6.0
    assert Activation("relu6", values).strongest(3).tolist() == [1, 0, 2]


def test_brightness_is_the_size_relative_to_the_cut(whole) -> None:
    values = np.array([[[2.0, 0.0]], [[-4.0, 1.0]]], np.float32)
    display = ActivationsDisplay(IMAGE, [Activation("a", values)]).plot()
    drawn = np.asarray(display.ax_[1].images[0].get_array())
    assert set(np.unique(drawn[np.isfinite(drawn)])) == {0.0, 25.0, 50.0, 100.0}
    assert [text.get_text() for text in display.ax_[1].texts] == ["1", "0"]
    label = display.figure_.axes[-1].get_ylabel().replace("\n", " ")
    assert label == "Size of the activation (% of the cut's largest)"
    whole(display)


def test_a_vector_is_drawn_in_the_order_of_its_numbers(whole) -> None:
    display = ActivationsDisplay(IMAGE, [Activation("fc7", np.arange(100, dtype=np.float32))]).plot()
    drawn = display.ax_[1].images[0].get_array()
    assert drawn.shape == (2, 64)
    np.testing.assert_allclose(drawn.ravel()[:100], 100 * np.arange(100) / 99)
    assert display.ax_[1].get_ylabel() == "fc7\n100 numbers\n1 dark"
    whole(display)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ActivationsDisplay(IMAGE[0], []), "an image has shape (h, w, 3), got (8, 3)"),
        (lambda: ActivationsDisplay(IMAGE, []), "no activations to draw; name at least one cut"),
        (
            lambda: ActivationsDisplay(IMAGE, [Activation("a", np.ones((2, 2), np.float32))]),
            "cut 'a' has values of shape (2, 2); maps (channels, h, w) and vectors (n,) can be drawn",
        ),
        (
            lambda: ActivationsDisplay(IMAGE, [Activation("a", np.ones(2, np.float32))], maps=0),
            "maps=0 must be at least 1",
        ),
        (
            lambda: ActivationsDisplay(
                IMAGE, [Activation("a", np.ones(2, np.float32))], filters=np.ones((1, 3, 1, 1))
            ),
            "filters and responses go together; give both or neither",
        ),
        (
            lambda: ActivationsDisplay(IMAGE, [Activation("a", np.ones(2, np.float32))]).plot(
                Figure().subplots(3)
            ),
            "this image is drawn on 2 axes, got 3",
        ),
    ],
)
def test_what_cannot_be_drawn(call, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value) == message


def test_an_unknown_cut(minivgg, digit) -> None:
    with pytest.raises(UnknownNameError, match="unknown cut 'block9_pool' of backbone 'minivgg'"):
        ActivationsDisplay.from_image(minivgg, digit, ["block9_pool"])


@pytest.mark.slow
@pytest.mark.shared
def test_a_photograph_through_real_weights(shared, whole) -> None:
    weights = shared / "weights" / "mobilenet_v2-imagenet1k.safetensors"
    photo = sorted((shared / "data" / "caltech101-32" / "elephant").iterdir())[2]
    backbone = load_backbone("mobilenet_v2", weights=weights)
    pixels = backbone.preprocessing.apply_geometry(decode_image(photo.read_bytes()))
    display = ActivationsDisplay.from_image(backbone, pixels, ["features.1", "features", "logits"]).plot()
    block, relu, logits = display.activations
    assert block.signed
    assert not relu.signed
    assert 0 < relu.n_dark < 640
    assert "elephant" in logits.names[int(logits.values.argmax())]
    whole(display)
