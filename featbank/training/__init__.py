"""Trains networks from scratch and backbones further; each is a backbone afterwards."""

from featbank.training.data import DecodedImages, load_images
from featbank.training.recipe import RECIPES, Recipe, recipe_for
from featbank.training.train import TrainResult, find_training, read_training, train
from featbank.training.training import TrainedNetwork, TrainingImages, train_network

__all__ = [
    "RECIPES",
    "DecodedImages",
    "Recipe",
    "TrainResult",
    "TrainedNetwork",
    "TrainingImages",
    "find_training",
    "load_images",
    "read_training",
    "recipe_for",
    "train",
    "train_network",
]
