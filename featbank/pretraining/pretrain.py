"""From a dataset to a weights file with its model card."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import make_folder, sha256, write_file
from featbank._cache import user_path
from featbank.backbones import Preprocessing, get_spec
from featbank.backbones.minivgg import MINIVGG_MEAN, MINIVGG_STD, build_minivgg
from featbank.datasets import Dataset, build_manifest, decode_image, open_dataset, row_indices
from featbank.errors import DatasetError, InvalidInputError, MissingWeightsError, WeightsError
from featbank.manifest import Manifest
from featbank.pretraining.recipe import PretrainSettings
from featbank.pretraining.training import PretrainedWeights, TrainingImages, train_network

__all__ = ["PretrainResult", "load_training_images", "pretrain"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainResult:
    """What a pretraining left.

    Parameters
    ----------
    weights : pathlib.Path
        The float16 safetensors file.
    card : pathlib.Path
        Its model card, with the log of every epoch.
    test_accuracy : float
        Top-1 accuracy on the test split, of the weights as trained (float32).
    sha256 : str
        Digest of the weights file.
    """

    weights: Path
    card: Path
    test_accuracy: float
    sha256: str


def load_training_images(dataset: Dataset, manifest: Manifest, split: str, size: int) -> TrainingImages:
    """Decode one split into memory, each image scaled to a square.

    Parameters
    ----------
    dataset : Dataset
        Where the bytes come from.
    manifest : Manifest
        Its rows.
    split : {"train", "val", "test"}
        Which rows.
    size : int
        Side of the square, in pixels.

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
    squash = Preprocessing(size, size, mode="squash")
    indices = row_indices(dataset, manifest)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(
            lambda row: squash.apply_geometry(decode_image(dataset.read(int(indices[row])))), rows
        )
        images = np.stack(list(decoded))
    return TrainingImages(images, manifest.labels[rows].astype(np.int64))


def pretrain(
    data: str | os.PathLike[str] | Dataset,
    *,
    output: str | os.PathLike[str],
    settings: PretrainSettings | None = None,
    initial_weights: str | os.PathLike[str] | None = None,
    split: str | None = None,
    layout: str | None = None,
    skip_empty_classes: bool = False,
    override_split: bool = False,
    device: str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> PretrainResult:
    """Train minivgg on a dataset and write weights, model card and log.

    Parameters
    ----------
    data : str, path or Dataset
        A dataset with train and test rows, see `featbank.open_dataset`.
    output : path
        Folder for ``minivgg-<dataset>.safetensors``, ``.md`` and ``.checkpoint.safetensors``; a run that was
        interrupted goes on from the checkpoint.
    settings : PretrainSettings, optional
        The recipe.
    initial_weights : path, optional
        A minivgg ``.safetensors`` file to start from instead of random weights.
    split : str, optional
        As for `featbank.extract`. Rows of ``val`` are trained on too where the source has no split of that
        name: nothing is chosen by them.
    layout, skip_empty_classes, override_split : optional
        As for `featbank.extract`.
    device : str, default="cpu"
        Where to train.
    on_step, on_epoch : callable, optional
        See `train_network`.

    Returns
    -------
    PretrainResult

    Raises
    ------
    InvalidInputError
        If the checkpoint in `output` was made with other settings.
    DatasetError
        If there are no train or test rows.
    """
    settings = settings or PretrainSettings()
    initial = None
    if initial_weights is not None:
        initial, digest = _initial(user_path(initial_weights))
        settings = replace(settings, initial_weights=digest)
    dataset = open_dataset(data, layout=layout, skip_empty_classes=skip_empty_classes)
    manifest = build_manifest(
        dataset, split=split, skip_empty_classes=skip_empty_classes, override_split=override_split
    )
    if split is None and dataset.splits is not None and "val" not in dataset.splits:
        # The validation rows were taken from train for the sake of heads; here every training image counts.
        manifest = manifest.replaced(
            splits=np.where(manifest.splits == 1, 0, manifest.splits).astype(np.uint8)
        )
    size = get_spec("minivgg").default_image_size
    train = load_training_images(dataset, manifest, "train", size)
    test = load_training_images(dataset, manifest, "test", size)
    if len(manifest.classes) < 2:
        raise InvalidInputError(f"{dataset.name!r} has {len(manifest.classes)} class; two are the least")
    folder = make_folder(user_path(output))
    stem = f"minivgg-{dataset.name}"
    trained = train_network(
        lambda: build_minivgg(len(manifest.classes)),
        train,
        test,
        mean=MINIVGG_MEAN,
        std=MINIVGG_STD,
        settings=settings,
        initial=initial,
        checkpoint=folder / f"{stem}.checkpoint.safetensors",
        device=device,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    weights, card = folder / f"{stem}.safetensors", folder / f"{stem}.md"
    # One entry alone: safetensors writes several in an order that changes, and with it the file's digest.
    digest = trained.to_safetensors(weights, {"classes": json.dumps(manifest.classes)})
    write_file(card, _model_card(dataset, manifest, trained, weights, digest).encode())
    return PretrainResult(weights, card, trained.test_accuracy, digest)


def _initial(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Read a weights file to start from, with its digest."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not path.is_file():
        raise MissingWeightsError(f"initial weights {str(path)!r} do not exist")
    data = path.read_bytes()
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WeightsError(f"initial weights {str(path)!r} are no safetensors file ({error})") from error
    return {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in tensors.items()}, sha256(data)


def _model_card(
    dataset: Dataset, manifest: Manifest, trained: PretrainedWeights, weights: Path, digest: str
) -> str:
    import torch

    counts = manifest.counts()
    last = trained.settings.averaged_epochs
    which = f"of the mean of the weights after the last {last} epochs" if last else "after the last epoch"
    recipe = "\n".join(f"| {name} | {value} |" for name, value in asdict(trained.settings).items())
    log = "\n".join(
        f"| {entry['epoch']:.0f} | {entry['lr']:.4f} | {entry['train_loss']:.4f} "
        f"| {entry['train_accuracy']:.4f} "
        f"| {entry['test_accuracy']:.4f} | {entry['duration_s']:.0f} |"
        for entry in trained.log
    )
    classes = ", ".join(manifest.classes)
    return f"""# minivgg on {dataset.name}

| | |
|---|---|
| file | `{weights.name}`, {weights.stat().st_size:,} bytes, float16 |
| SHA-256 | `{digest}` |
| network | VGG16's plan (2-2-3-3-3 convolutions), widths 32-64-128-128-128, batch norm, 32x32 RGB |
| data | {dataset.name}: {counts.get("train", 0):,} training and {counts.get("test", 0):,} test images |
| digest of the data | `{_data_digest(manifest)}` |
| classes | {classes} |
| test accuracy | {trained.test_accuracy:.4f} top-1 {which}; no epoch was picked by it |
| versions | Python {platform.python_version()}, torch {torch.__version__} |
| again | `featbank pretrain DATA --output FOLDER{_options(trained.settings)}` |

## Recipe
| setting | value |
|---|---|
{recipe}

Everything random in an epoch is seeded by (random_state, epoch). Bits differ between devices and versions.

## Log
Accuracy on the training images is measured while training, on augmented images.

| epoch | lr at its start | train loss | train accuracy | test accuracy | seconds |
|---|---|---|---|---|---|
{log}
"""


def _data_digest(manifest: Manifest) -> str:
    return sha256(manifest.digests.tobytes() + manifest.labels.tobytes() + manifest.splits.tobytes())


def _options(settings: PretrainSettings) -> str:
    usual = asdict(PretrainSettings())
    changed = {name: value for name, value in asdict(settings).items() if value != usual[name]}
    if changed.pop("initial_weights", ""):
        changed["initial_weights"] = "FILE"
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
