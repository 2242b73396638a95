"""Trains networks from scratch and backbones further; each is a backbone afterwards."""

from featbank.training.recipe import RECIPES, Recipe, recipe_for
from featbank.training.train import DecodedImages, TrainResult, train

__all__ = [
    "RECIPES",
    "DecodedImages",
    "Recipe",
    "TrainResult",
    "recipe_for",
    "train",
]
