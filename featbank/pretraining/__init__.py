"""Trains a backbone of ours from scratch; the weights that ship with featbank come from here."""

from featbank.pretraining.pretrain import PretrainResult, load_training_images, pretrain
from featbank.pretraining.recipe import PretrainSettings
from featbank.pretraining.training import PretrainedWeights, TrainingImages, train_network

__all__ = [
    "PretrainResult",
    "PretrainSettings",
    "PretrainedWeights",
    "TrainingImages",
    "load_training_images",
    "pretrain",
    "train_network",
]
