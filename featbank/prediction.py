"""From a photograph to an answer: backbone, cut, transform and head, all as the run says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.backbones import Backbone, Preprocessing, load_backbone
from featbank.datasets import decode_image, list_images, read_image_file
from featbank.errors import ImageDecodeError, InvalidInputError, WeightsError
from featbank.extraction import Forward, choose_device, split_precision, stored_dtype
from featbank.runs import Run, resolve_run

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Parameters
    ----------
    path : pathlib.Path
        The image.
    classes : tuple of str
        The likeliest classes, likeliest first; empty if the image could not be read.
    probabilities : tuple of float
        Of each, in 0..1.
    error : str or None
        Why the image could not be read.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


def predict(
    run: Run | str | os.PathLike[str] | None,
    images: Sequence[str | os.PathLike[str]],
    *,
    head: str | None = None,
    top: int = 5,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[Prediction]:
    """Classify photographs with a head of a run.

    Backbone, weights, preprocessing, precision, cut, temperature and standardisation are read from the run,
    and the weights are checked against the digest they were extracted with.

    Parameters
    ----------
    run : Run, path, str or None
        The run, its folder, a part of its name, or None for the newest.
    images : sequence of path
        Files, and folders whose images are taken with those of their sub-folders.
    head : str, optional
        Name of a kept head; the best by validation accuracy by default.
    top : int, default=5
        How many classes to give.
    weights : path, optional
        The weights file, if it is no longer where it was.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ...
    cache_dir : path, optional
        The cache in which to look for the run.

    Returns
    -------
    list of Prediction
        One per image, in the order given; an image that cannot be read has an ``error``.

    Raises
    ------
    RunNotFoundError, RunError
        If there is no such run or head.
    MissingDataError
        If a path does not exist or a folder holds no image.
    MissingWeightsError, WeightsError
        If the weights are not there any more, or are others.
    InvalidInputError
        If `top` is under 1 or the head gives no probabilities.
    """
    if top < 1:
        raise InvalidInputError(f"top={top!r} must be at least 1")
    if not isinstance(run, Run):
        run = resolve_run(run, cache_dir)
    entry = run.entry(head)
    estimator = run.load_head(entry["name"])
    if not hasattr(estimator, "predict_proba"):
        raise InvalidInputError(f"head {entry['name']!r} gives no probabilities; choose another with --head")
    paths = [file for image in images for file in list_images(Path(image))]
    extractor = _Extractor(run, entry, weights, device)
    answers: dict[Path, Prediction] = {}
    for start in range(0, len(paths), extractor.batch_size):
        pixels: dict[Path, NDArray[np.uint8]] = {}
        for path in paths[start : start + extractor.batch_size]:
            try:
                pixels[path] = extractor.pixels(path)
            except (ImageDecodeError, OSError) as error:
                answers[path] = Prediction(path, (), (), str(error))
        if not pixels:
            continue
        probabilities = estimator.predict_proba(extractor.features(np.stack(list(pixels.values()))))
        for path, row in zip(pixels, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            classes = tuple(run.classes[int(estimator.classes_[index])] for index in best)
            answers[path] = Prediction(path, classes, tuple(float(row[index]) for index in best))
    return [answers[path] for path in paths]


class _Extractor:
    """The way of an image to the features a head was fitted on, as the run says."""

    def __init__(
        self, run: Run, entry: Mapping[str, Any], weights: str | os.PathLike[str] | None, device: str | None
    ) -> None:
        source = run.source
        #: That of the extraction: another one may round the last bit differently.
        self.batch_size = int(source["batch_size"])
        self._preprocessing = Preprocessing(**source["transform"])
        self._temperature = entry["temperature"]
        self._cut = "logits" if entry["cut"] == "softmax" else str(entry["cut"])
        self._dtype = stored_dtype(self._cut, source["dtype"])
        backbone = _load(source, weights, self._preprocessing.image_size)
        self._forward = Forward(
            replace(backbone, preprocessing=self._preprocessing),
            device=choose_device(device),
            precision=split_precision(source["precision"])[0],
            batch_size=self.batch_size,
        )

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """Read, decode, resize and crop: (size, size, 3)."""
        return self._preprocessing.apply_geometry(decode_image(read_image_file(path)))

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what a bank would hold of these images, (n, n_features)."""
        values = self._forward(images, [self._cut], n_images=len(images))[self._cut]
        # through the stored dtype, as the features the head was fitted on went
        stored: NDArray[np.float32] = values.float().cpu().numpy().astype(self._dtype).astype(np.float32)
        features = stored.reshape(len(images), -1)
        if self._temperature is None:
            return features
        from scipy.special import softmax

        # in float64, as a bank derives it from its logits
        probabilities = softmax(features.astype(np.float64) / self._temperature, axis=1)
        return np.asarray(probabilities, dtype=np.float32)


def _load(source: Mapping[str, Any], weights: str | os.PathLike[str] | None, image_size: int) -> Backbone:
    said = weights or source["weights_path"] or source["weights"]
    backbone = load_backbone(
        source["backbone"], weights=said, image_size=image_size, random_state=source.get("random_state") or 0
    )
    if backbone.weights_sha256 != source["weights_sha256"]:
        raise WeightsError(
            f"the run was made with weights {source['weights']!r} of SHA-256 "
            f"{source['weights_sha256'][:16]}..., "
            f"{str(said)!r} has {backbone.weights_sha256[:16]}...; give the right file with --weights"
        )
    return backbone
