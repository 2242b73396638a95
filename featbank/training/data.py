"""Images of a dataset, decoded into memory for training."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from featbank.backbones import Preprocessing
from featbank.datasets import Dataset, decode_image
from featbank.datasets.building import row_indices
from featbank.errors import DatasetError
from featbank.manifest import Manifest
from featbank.training.training import TrainingImages

__all__ = ["DecodedImages", "load_images"]


def load_images(
    dataset: Dataset, manifest: Manifest, split: str, preprocessing: Preprocessing
) -> TrainingImages:
    """Decode one split into memory, each image as a square.

    Parameters
    ----------
    dataset : Dataset
        Where the bytes come from.
    manifest : Manifest
        Its rows.
    split : {"train", "val", "test"}
        Which rows.
    preprocessing : Preprocessing
        How an image becomes a square, and of which size.

    Returns
    -------
    TrainingImages

    Raises
    ------
    DatasetError
        If the split is empty.
    ImageDecodeError
        If an image cannot be read: a training set with holes is not the one that was named.
    """
    rows = manifest.rows(split)
    rows = rows[manifest.labels[rows] >= 0]
    if not len(rows):
        raise DatasetError(f"{dataset.name!r} has no labelled {split} images; give a --split with some")
    indices = row_indices(dataset, manifest)
    size = preprocessing.image_size
    images = np.empty((len(rows), size, size, 3), np.uint8)

    def decode(place: int) -> None:
        content = dataset.read(int(indices[rows[place]]))
        images[place] = preprocessing.apply_geometry(decode_image(content))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode, range(len(rows))):
            pass
    return TrainingImages(images, manifest.labels[rows].astype(np.int64))


class DecodedImages:
    """Splits of a dataset in memory, kept from one training to the next that asks for the same.

    Only those of the last dataset, rows and size are kept.

    Examples
    --------
    >>> import featbank
    >>> decoded = DecodedImages()  # featbank.train(..., decoded=decoded) decodes once for several trainings
    >>> digits = featbank.open_dataset("digits")
    >>> manifest = featbank.build_manifest(digits, limit=20, split="1,0,1")
    >>> decoded.load(digits, manifest, "train", featbank.load_backbone("minivgg").preprocessing).images.shape
    (10, 32, 32, 3)
    """

    def __init__(self) -> None:
        self._key: tuple[str, Preprocessing] | None = None
        self._splits: dict[str, TrainingImages] = {}

    def load(
        self, dataset: Dataset, manifest: Manifest, split: str, preprocessing: Preprocessing, name: str = ""
    ) -> TrainingImages:
        """Return a split as `load_images` does; `name` tells datasets of the same rows apart."""
        key = manifest.digest(), preprocessing
        if key != self._key:
            self._key, self._splits = key, {}
        place = f"{split} {name}"
        if place not in self._splits:
            self._splits[place] = load_images(dataset, manifest, split, preprocessing)
        return self._splits[place]
