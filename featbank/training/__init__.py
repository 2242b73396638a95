"""Trains networks from scratch and backbones further; each is a backbone afterwards."""

from featbank.training.data import DecodedImages, load_images
from featbank.training.recipe import RECIPES, Recipe, recipe_for
from featbank.training.train import TrainResult, train
from featbank.training.training import TrainedNetwork, TrainingImages, train_network

__all__ = [
    "RECIPES",
    "DecodedImages",
    "Recipe",
    "TrainResult",
    "TrainedNetwork",
    "TrainingImages",
    "load_images",
    "recipe_for",
    "train",
    "train_network",
]
