"""Recipes: what they refuse, and how the learning rate moves."""

from __future__ import annotations

import pytest

from featbank.backbones.own_networks import NETWORKS
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.training import RECIPES, Recipe, recipe_for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"optimizer": "lion"}, "optimizer='lion' is not one of sgd, adam, adamw"),
        ({"lr_schedule": "none", "lr": 0}, "lr_schedule='none' is not one of .*; lr=0 must be over 0"),
        ({"cutout": -1}, "cutout=-1 must be at least 0"),
        ({"shift": 1.0}, "shift=1.0 must be from 0 to below 1"),
        ({"lr": float("nan")}, "lr=nan must be a finite number"),
        ({"epochs": 1.5}, "epochs=1.5 must be a whole number"),
        ({"flip": 1}, "flip=1 must be true or false"),
        ({"averaged_epochs": 50}, "averaged_epochs=50 must be from 0 to epochs=45"),
        ({"averaged_epochs": 5, "patience": 5}, "averaged_epochs and patience do not go together"),
    ],
)
def test_what_cannot_work(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Recipe(**options)


def test_every_network_has_a_recipe():
    assert set(RECIPES) == {*NETWORKS, "fine-tuning"}
    with pytest.raises(UnknownNameError, match="a recipe has no 'epoch'; known: 'epochs'"):
        recipe_for("own_net", {"epoch": 3})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0]),
        ("inverse-time", [1.0, 0.5, 1 / 3]),
        ("step", [1.0, 0.1, 0.01]),
        ("cosine", [1.0, 0.5, 0.0]),
    ],
)
def test_the_learning_rate(schedule, expected):
    recipe = Recipe(epochs=22, lr=1.0, warmup_epochs=2.0, lr_schedule=schedule, lr_schedule_epochs=10.0)
    assert recipe.learning_rate(1.0) == pytest.approx(0.5)
    assert [recipe.learning_rate(2.0 + t) for t in (0, 10, 20)] == pytest.approx(expected)
