"""Inputs made by gradient ascent: that they excite, that they are chosen and repeated as promised."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from featbank.backbones import truncate
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.inspection import DreamDisplay
from featbank.inspection.dream import Dream

QUICK = {"steps": 6, "candidates": 16}


def excitement(backbone, cut, images, channel) -> np.ndarray:
    """The mean activation of a channel, from the network itself."""
    network = truncate(backbone, [cut])
    with torch.no_grad():
        features = network(backbone.preprocessing.normalise(torch.from_numpy(images)))[cut]
    return features[:, channel].flatten(1).mean(dim=1).numpy()


@pytest.mark.slow
def test_a_dream_excites_its_channel_more_than_any_other_dream_does(minivgg, whole) -> None:
    display = DreamDisplay.from_backbone(minivgg, ["pool3", "logits"], n=4, steps=16, candidates=8)
    pool, logits = display.dreams
    assert (pool.cut, pool.n_tried, pool.n_channels, pool.images.shape) == (
        *("block3_pool", 8, 128),
        (4, 32, 32, 3),
    )
    for at, channel in enumerate(pool.channels):
        assert excitement(minivgg, "block3_pool", pool.images, channel).argmax() == at
    assert (logits.n_tried, logits.names) == (8, minivgg.class_names)
    best = int(logits.channels[0])
    with torch.no_grad():
        scores = minivgg.module(minivgg.preprocessing.normalise(torch.from_numpy(logits.images[:1])))[0]
    assert int(scores.argmax()) == best
    for one in display.dreams:
        assert (np.diff(one.gains) <= 0).all()
        assert one.gains[-1] > 0
    labels = [text.get_text() for text in display.plot().ax_[1].texts]
    assert labels[0] == f"{minivgg.class_names[best]}: +{logits.gains[0]:.1f}"
    whole(display)


def test_the_gain_is_what_the_network_says(minivgg) -> None:
    one, longer = (
        DreamDisplay.from_backbone(minivgg, ["block2_pool"], channels=[5], steps=steps).dreams[0]
        for steps in (1, 12)
    )
    difference = excitement(minivgg, "block2_pool", np.concatenate([longer.images, one.images]), 5)
    assert longer.gains[0] - one.gains[0] == pytest.approx(difference[0] - difference[1], abs=0.05)
    assert longer.gains[0] > 2 * one.gains[0] > 0


@pytest.mark.slow
def test_the_channels_of_the_highest_gain_are_chosen(minivgg) -> None:
    options = {"cuts": ["block1_pool"], "steps": 8}
    (every,) = DreamDisplay.from_backbone(minivgg, **options, n=32).dreams
    (best,) = DreamDisplay.from_backbone(minivgg, **options, n=3).dreams
    assert (every.n_tried, best.n_tried) == (32, 32)
    assert set(best.channels) <= set(every.channels[:8])  # ranked by a shorter ascent
    (given,) = DreamDisplay.from_backbone(minivgg, **options, channels=[9, 2]).dreams
    assert given.channels.tolist() == [9, 2]
    (few,) = DreamDisplay.from_backbone(minivgg, **options, n=2, candidates=4).dreams
    assert few.n_tried == 4
    assert set(few.channels) <= {0, 10, 20, 31}


def test_a_seed_repeats_it_and_neighbours_do_not_matter(minivgg) -> None:
    def dream(channels, seed=0):
        return DreamDisplay.from_backbone(
            minivgg, ["block2_pool"], channels=channels, steps=5, random_state=seed
        ).dreams[0]

    one, again, other, pair = dream([3]), dream([3]), dream([3], seed=1), dream([8, 3])
    np.testing.assert_array_equal(one.images, again.images)
    assert np.abs(one.images[0].astype(int) - other.images[0]).mean() > 5
    # another size of batch may round the last bit differently
    assert np.abs(one.images[0].astype(int) - pair.images[1]).mean() < 0.5


def test_each_regularisation_does_its_work(minivgg) -> None:
    def dream(**options):
        plain = {"jitter": 0, "blur": 0.0, "decay": 0.0, "steps": 12, **options}
        found = DreamDisplay.from_backbone(minivgg, ["block3_pool"], channels=[78], **plain)
        return found.dreams[0].images[0].astype(float)

    def roughness(pixels):
        return np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()

    mean = 255 * np.array(minivgg.preprocessing.mean)
    plain = dream()
    assert roughness(dream(blur=1.5)) < 0.9 * roughness(plain)
    assert np.abs(dream(decay=0.2) - mean).mean() < 0.8 * np.abs(plain - mean).mean()
    assert np.abs(dream(jitter=3) - plain).mean() > 3


def test_a_dead_channel_sleeps(minivgg, whole) -> None:
    module = copy.deepcopy(minivgg.module)
    with torch.no_grad():
        module.features[4].weight[7], module.features[4].bias[7] = 0.0, -1.0  # the batch norm before the pool
    backbone = dataclasses.replace(minivgg, module=module)
    display = DreamDisplay.from_backbone(backbone, ["block1_pool"], channels=[7], **QUICK).plot()
    assert display.dreams[0].gains.tolist() == [0.0]
    assert [text.get_text() for text in display.ax_[0].texts] == ["7: asleep"]
    whole(display)


def test_another_size_and_no_change_to_the_network(minivgg) -> None:
    before = {name: value.clone() for name, value in minivgg.module.state_dict().items()}
    (one,) = DreamDisplay.from_backbone(minivgg, ["block2_pool"], channels=[0], image_size=48, steps=2).dreams
    assert one.images.shape == (1, 48, 48, 3)
    assert not minivgg.module.training
    assert all(torch.equal(before[name], value) for name, value in minivgg.module.state_dict().items())
    assert not any(one.requires_grad for one in minivgg.module.parameters())


def test_input_that_loses_its_own_mean(minivgg) -> None:
    contrast = minivgg.preprocessing.with_transform("contrast")
    backbone = dataclasses.replace(minivgg, preprocessing=contrast)
    (one,) = DreamDisplay.from_backbone(backbone, ["block2_pool"], channels=[5], steps=8).dreams
    assert one.gains[0] > 0
    assert excitement(backbone, "block2_pool", one.images, 5)[0] > one.gains[0] - 1


def test_many_cuts_fit(whole) -> None:
    random = np.random.default_rng(0)
    dreams = [
        Dream(f"cut{at}", np.arange(9), random.integers(0, 255, (9, 8, 8, 3), np.uint8), np.ones(9), 9, 9)
        for at in range(3)
    ]
    whole(DreamDisplay(dreams, title="dreams of somebody's network, " * 5).plot())
    one = Dream("a", np.arange(1), dreams[0].images[:1], np.ones(1), 1, 1)
    whole(DreamDisplay([one], title="dreams, " * 9).plot())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0, "lr": -1.0}, "steps=0 must be at least 1; lr=-1.0 must be a finite number over 0"),
        (
            {"jitter": -1, "blur": -0.5, "decay": 1.0, "image_size": 4},
            "jitter=-1 must be at least 0; blur=-0.5 must be a finite number of at least 0; "
            "decay=1.0 must be in [0, 1); image_size=4 must be at least 8",
        ),
        ({"n": 0}, "n=0 and candidates=64 must be at least 1"),
        ({"channels": [32]}, "cut 'block1_pool' has no channel 32; it has 0 to 31"),
        ({"channels": []}, "no dreams to draw; name at least one cut and one channel"),
    ],
)
def test_options_out_of_range(minivgg, options, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        DreamDisplay.from_backbone(minivgg, ["block1_pool"], **options)
    assert str(caught.value) == message


def test_an_unknown_cut_and_the_wrong_axes(minivgg) -> None:
    with pytest.raises(UnknownNameError, match="unknown cut 'pool9'"):
        DreamDisplay.from_backbone(minivgg, ["pool9"])
    display = DreamDisplay([Dream("a", np.arange(1), np.zeros((1, 8, 8, 3), np.uint8), np.ones(1), 1, 1)])
    with pytest.raises(InvalidInputError, match="this dream is drawn on 1 axes, got 2"):
        display.plot(Figure().subplots(2))
