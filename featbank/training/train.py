"""From a dataset to a trained network: images, weights that are a backbone, their card, the history."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray
from pydantic import BaseModel, Strict

from featbank._atomic import canonical_json, make_folder, sha256, write_file, write_json
from featbank._cache import networks_folder, user_path
from featbank._validation import CONFIG, Count, Json, Line, check, parse_json, plain_file, short
from featbank.backbones import Preprocessing
from featbank.backbones.minivgg import MINIVGG_MEAN, MINIVGG_STD, build_network
from featbank.backbones.own_networks import network_plan, plan_to_dict
from featbank.backbones.trained import NETWORK_FILE, write_network
from featbank.datasets import BlurredDataset, Dataset, build_manifest, decode_image, open_dataset
from featbank.datasets.building import row_indices
from featbank.errors import DatasetError, InvalidInputError, MissingWeightsError, RunError, WeightsError
from featbank.manifest import Manifest
from featbank.training.loop import TrainingImages, differing, train_network
from featbank.training.recipe import Recipe, recipe_for
from featbank.training.unfreezing import Unfrozen, unfrozen

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DecodedImages",
    "TrainResult",
    "find_training",
    "list_trainings",
    "load_images",
    "read_training",
    "train",
]


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


#: What is left beside the weights.
CARD_FILE, TRAINING_FILE, CHECKPOINT_FILE = "card.md", "training.json", "checkpoint.safetensors"
_MOST_BYTES = 256 * 2**20
#: Images of a confusion: sums of its counts stay within int64.
_MOST_COUNTED = 2**40


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished training, as its folder has it.

    Parameters
    ----------
    folder : pathlib.Path
        Pass it, or its name where it lies in the cache, as ``backbone``.
    weights, card : pathlib.Path
        The safetensors file, with class names and the network's parameters inside; its model card.
    sha256 : str
        Digest of the weights file.
    history : list of dict
        One entry per epoch: ``epoch``, ``lr`` (it began with), ``train_loss``, ``train_top1`` and
        ``train_top5`` (while training, on augmented images), the same of ``val`` and ``test`` where there are
        such images, ``duration_s``. Accuracies are in 0..1.
    scores : dict of str to float
        Accuracies and losses of the weights that were kept, ``test_top1`` and so on, in 0..1.
    confusion : ndarray of int64, shape (n_classes, n_classes)
        Test images by class and by what they were taken for.
    classes : tuple of str
    recipe : Recipe
    best_epoch : int
        Whose weights were kept.
    stopped_early : bool
    n_per_class : tuple of int
        Training images of each class.
    reused : bool
        Whether all this had been done before.
    facts : dict
        What decides the weights: ``recipe``, ``network``, ``classes``, ``data`` (a digest of the images,
        labels and split) and what else there is.
    dataset : str
        Name of the images; empty where an older version did not write it, as the next two.
    n_images : dict of str to int
        Images of each split.
    versions : dict of str to str
        Python's and torch's.

    Examples
    --------
    >>> result = TrainResult(
    ...     Path("net"), Path("net/net.safetensors"), Path("net/card.md"), "9f86d081", [{"duration_s": 3.5}],
    ...     {"test_top1": 0.75}, np.array([[6, 2], [2, 6]]), ("cat", "dog"), Recipe(), 1, False, (40, 40),
    ... )
    >>> result.scores["test_top1"], result.duration_s, dict(zip(result.classes, result.n_per_class))
    (0.75, 3.5, {'cat': 40, 'dog': 40})
    """

    folder: Path
    weights: Path
    card: Path
    sha256: str
    history: list[dict[str, float]]
    scores: dict[str, float]
    confusion: NDArray[np.int64]
    classes: tuple[str, ...]
    recipe: Recipe
    best_epoch: int
    stopped_early: bool
    n_per_class: tuple[int, ...]
    reused: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    dataset: str = ""
    n_images: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds of all epochs."""
        return sum(one["duration_s"] for one in self.history)


@dataclass(frozen=True)
class _Subject:
    """What is trained: how it is built, what its images go through, what its weights file says of it."""

    name: str
    facts: dict[str, Any]
    preprocessing: Preprocessing
    build: Callable[[int], nn.Module]
    tuned: Unfrozen | None = None


def train(
    data: str | os.PathLike[str] | Dataset,
    *,
    network: str | None = None,
    params: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    unfreeze: str | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    image_size: int | None = None,
    initial_weights: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    split: str | None = None,
    layout: str | None = None,
    skip_empty_classes: bool = False,
    override_split: bool = False,
    limit: int | None = None,
    val: float | None = None,
    train_on_val: bool = False,
    blur: float | None = None,
    decoded: DecodedImages | None = None,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train a network from scratch, or a backbone's layers further, and leave it as a backbone.

    Parameters
    ----------
    data : str, path or Dataset
        See `featbank.open_dataset`.
    network : str, optional
        One of `featbank.backbones.own_networks.NETWORKS`; minivgg by default.
    params : mapping, optional
        Fields of its plan with other values: ``{"kernels": [5, 5, 3]}``.
    backbone : str, optional
        Instead of a network from scratch: a backbone whose weights are trained further, under a new last
        layer, every epoch with all images through all of it.
    weights : str or path, optional
        The backbone's, see `featbank.load_backbone`.
    unfreeze : str, optional
        Which of the backbone's layers with weights move besides the new last one: ``"every:3"`` (the 3rd, the
        6th, ...), a number of last ones, ``"none"``, ``"all"`` (the default).
    recipe : Recipe or mapping, optional
        How; a mapping changes the recipe that belongs to the network (`RECIPES`).
    image_size : int, optional
        Side of the images in pixels, instead of the network's own.
    initial_weights : path, optional
        A ``.safetensors`` file of the same network to start from instead of random weights.
    output : path, optional
        Folder for weights, card, history and checkpoint; by default one in the cache whose name says network,
        data, and the digest of all that decides the weights. What is finished there is not done again, and
        what was interrupted goes on.
    split, layout, skip_empty_classes, override_split, limit : optional
        As for `featbank.extract`.
    val : float, optional
        Part of each class's training images that is held out to validate, by digest; where the data has
        validation images, these stay too.
    train_on_val : bool, default=False
        Train on the validation rows too; then there are none to stop by.
    blur : float, optional
        Measure the test images blurred too, by a kernel of their width divided by this.
    decoded : DecodedImages, optional
        Keeps decoded images for the next training.
    device : str, optional
        The best there is by default.
    cache_dir : path, optional
        The cache; else ``$FEATBANK_CACHE``, else ``./cache``.
    say : callable, optional
        Called with lines for people.
    on_step, on_epoch : callable, optional
        Called with (steps done, steps of all epochs), on a card when they are queued; and with the history
        entry of each finished epoch: what it raises ends the training.

    Returns
    -------
    TrainResult

    Raises
    ------
    UnknownNameError
        If there is no such network, backbone, parameter or field of a recipe.
    InvalidInputError
        If a value cannot work, images are smaller than the pools allow, or the folder has a training of
        another network, recipe, data or classes.
    DatasetError
        If there are no train rows, or fewer than two classes.
    TrainingDivergedError
        If the loss runs away.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(
    ...         "digits", network="own_net", params={"widths": [4, 4, 8], "hidden": [8, 8]},
    ...         recipe={"epochs": 1}, split="6,0,4", limit=110, output=folder,
    ...     )
    >>> len(result.history), result.confusion.shape, result.weights.suffix
    (1, (10, 10), '.safetensors')
    """
    if network is not None and backbone is not None:
        raise InvalidInputError(
            f"network={network!r} trains from scratch, backbone={backbone!r} fine-tunes; choose one"
        )
    subject = (
        _fine_tuned(backbone, weights, "all" if unfreeze is None else unfreeze, image_size, params)
        if backbone is not None
        else _from_scratch(network or "minivgg", params, image_size)
    )
    if backbone is None and weights is not None:
        raise InvalidInputError(
            f"weights={weights!r} are a backbone's; a network starts from initial_weights"
        )
    if backbone is None and unfreeze is not None:
        raise InvalidInputError(f"unfreeze={unfreeze!r} is for a backbone; name one (--backbone, backbone=)")
    if val is not None and train_on_val:
        raise InvalidInputError(
            f"val={val!r} holds images out and train_on_val=True trains on them; choose one (--val, "
            "--train-on-val)"
        )
    chosen = _recipe(recipe, subject)
    initial = None
    if initial_weights is not None:
        initial, digest = _initial(user_path(initial_weights))
        chosen = replace(chosen, initial_weights=digest)
    dataset = open_dataset(data, layout=layout, skip_empty_classes=skip_empty_classes)
    manifest = build_manifest(
        dataset,
        split=split,
        limit=limit,
        skip_empty_classes=skip_empty_classes,
        override_split=override_split,
    )
    if len(manifest.classes) < 2:
        raise InvalidInputError(f"{dataset.name!r} has {len(manifest.classes)} class; two are the least")
    if val is not None:
        manifest = _held_out(manifest, val)
    if train_on_val:
        codes = np.where(manifest.splits == 1, 0, manifest.splits)
        manifest = manifest.replaced(splits=codes.astype(np.uint8))
    data_digest = sha256(manifest.digests.tobytes() + manifest.labels.tobytes() + manifest.splits.tobytes())
    identity: dict[str, Any] = {
        "network": subject.facts,
        "classes": list(manifest.classes),
        "data": data_digest,
    }
    if subject.tuned is not None:  # of a network from scratch, its plan says it
        identity["preprocessing"] = subject.preprocessing.to_dict()
    if blur is not None:
        identity["blur"] = blur
    facts = {"recipe": asdict(chosen), **identity}
    name = f"{subject.name}-{dataset.name}-{sha256(canonical_json(facts))[:8]}"
    folder = networks_folder(cache_dir) / name if output is None else user_path(output)
    done = _finished(folder, facts)
    if done is not None:
        return done
    tell = say or (lambda _: None)
    counts = manifest.counts()
    decoded = decoded or DecodedImages()
    images = {
        one: decoded.load(dataset, manifest, one, subject.preprocessing)
        for one in ("train", "val", "test")
        if one == "train" or counts.get(one, 0)
    }
    if subject.tuned is not None:
        tell(subject.tuned.cost(len(images["train"].labels), chosen.epochs))
    also = {}
    if blur is not None and "test" in images:
        blurred = BlurredDataset(dataset, blur)
        also["blurred"] = decoded.load(blurred, manifest, "test", subject.preprocessing, f"blurred {blur:g}")
    preprocessing = _normalised(subject, images["train"])
    trained = train_network(
        lambda: subject.build(len(manifest.classes)),
        images["train"],
        val=images.get("val"),
        test=images.get("test"),
        also=also,
        mean=preprocessing.mean,
        std=preprocessing.std,
        recipe=chosen,
        initial=initial,
        checkpoint=make_folder(folder) / CHECKPOINT_FILE,
        identity=identity,
        device=device,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    digest = write_network(
        folder / NETWORK_FILE,
        trained.state,
        classes=manifest.classes,
        facts=subject.facts,
        preprocessing=preprocessing,
    )
    confusion = trained.confusion if trained.confusion is not None else np.zeros((0, 0), np.int64)
    result = TrainResult(
        folder,
        folder / NETWORK_FILE,
        folder / CARD_FILE,
        digest,
        trained.history,
        trained.scores,
        confusion,
        tuple(manifest.classes),
        chosen,
        trained.best_epoch,
        trained.stopped_early,
        _per_class(images["train"].labels, len(manifest.classes)),
        facts=facts,
        dataset=dataset.name,
        n_images={one: len(found.labels) for one, found in images.items()},
        versions=_versions(),
    )
    write_file(result.card, _card(result, subject, dataset, counts, data_digest).encode())
    # Last: a folder that has it is finished.
    write_json(
        folder / TRAINING_FILE,
        {
            "facts": facts,
            "sha256": digest,
            "scores": trained.scores,
            "best_epoch": trained.best_epoch,
            "stopped_early": trained.stopped_early,
            "n_per_class": result.n_per_class,
            "history": trained.history,
            "confusion": confusion.tolist(),
            "dataset": result.dataset,
            "n_images": result.n_images,
            "versions": result.versions,
        },
    )
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return result


def _from_scratch(network: str, params: Mapping[str, Any] | None, image_size: int | None) -> _Subject:
    changes = dict(params or {})
    if image_size is not None:
        changes["image_size"] = image_size
    plan = network_plan(network, changes)
    facts = {"name": network, "params": plan_to_dict(plan)}
    return _Subject(
        network,
        facts,
        Preprocessing(plan.image_size, plan.image_size, mode="squash"),
        lambda n_classes: build_network(plan, n_classes),
    )


def _fine_tuned(
    backbone: str,
    weights: str | os.PathLike[str] | None,
    unfreeze: str,
    image_size: int | None,
    params: Mapping[str, Any] | None,
) -> _Subject:
    from featbank.backbones import load_backbone

    if params:
        raise InvalidInputError(f"params={dict(params)!r} are a network's from scratch, not a backbone's")
    loaded = load_backbone(backbone, weights=weights, image_size=image_size)
    tuned = unfrozen(loaded, unfreeze)
    facts = {"backbone": loaded.name, "weights_sha256": loaded.weights_sha256, "unfreeze": tuned.asked}
    return _Subject(loaded.name.replace("+", "_"), facts, loaded.preprocessing, tuned.build, tuned)


def _normalised(subject: _Subject, train_images: TrainingImages) -> Preprocessing:
    """Return the preprocessing with the mean and deviation that the weights belong to."""
    if subject.tuned is not None:
        return subject.preprocessing
    # So that --backbone minivgg --weights FILE stays right.
    fixed = subject.name == "minivgg"
    mean, std = (MINIVGG_MEAN, MINIVGG_STD) if fixed else train_images.mean_and_std()
    return replace(subject.preprocessing, mean=mean, std=std)


def _recipe(given: Recipe | Mapping[str, Any] | None, subject: _Subject) -> Recipe:
    if isinstance(given, Recipe):
        return given
    return recipe_for(subject.name if subject.tuned is None else "fine-tuning", given)


def _held_out(manifest: Manifest, part: float) -> Manifest:
    """Move a part of each class's training rows to validation, the first by their digests."""
    if not 0 < part < 1:
        raise InvalidInputError(f"val={part!r} must be over 0 and below 1")
    splits = manifest.splits.copy()
    for code in range(len(manifest.classes)):
        rows = np.flatnonzero((splits == 0) & (manifest.labels == code))
        order = np.argsort([manifest.digests[row].tobytes() for row in rows], kind="stable")
        splits[rows[order[: round(part * len(rows))]]] = 1
    if (splits == manifest.splits).all():
        raise InvalidInputError(
            f"val={part!r} of each class's training images is less than one; give a larger"
        )
    return manifest.replaced(splits=splits)


def _per_class(labels: NDArray[np.int64], n_classes: int) -> tuple[int, ...]:
    return tuple(int(one) for one in np.bincount(labels, minlength=n_classes))


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


def _finished(folder: Path, facts: dict[str, Any]) -> TrainResult | None:
    """Return the training that a folder holds, if it is finished; refuse one of something else."""
    if not (folder / TRAINING_FILE).exists() or not (folder / NETWORK_FILE).exists():
        return None
    found = read_training(folder)
    other = [
        f"{name}: {short(there)} there, {short(here)} asked"
        for name, there, here in differing(found.facts, parse_json(canonical_json(facts)))
    ]
    if not other:
        return replace(found, reused=True)
    raise InvalidInputError(
        f"{str(folder)!r} has a training of something else ({'; '.join(other[:3])}); give another folder "
        "(--output, output=)"
    )


def find_training(
    name: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None
) -> Path | None:
    """Return the folder of the finished training that a path or a name in the cache means, if any does."""
    places = (user_path(name), networks_folder(cache_dir) / os.fspath(name))
    return next((one for one in places if (one / TRAINING_FILE).is_file()), None)


def list_trainings(cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders of the finished trainings in the cache, by name."""
    return sorted(
        one.parent for one in networks_folder(cache_dir).glob(f"*/{TRAINING_FILE}") if one.is_file()
    )


class _Written(BaseModel):
    """``training.json``."""

    model_config = CONFIG

    facts: Json
    sha256: Line
    scores: dict[Line, Annotated[float, Strict()]]
    best_epoch: Count
    stopped_early: bool
    n_per_class: list[Count]
    history: Annotated[list[dict[Line, Annotated[float, Strict()]]], Len(1)]
    confusion: list[list[Count]]
    dataset: Line = ""
    n_images: dict[Line, Count] = {}
    versions: dict[Line, Line] = {}


def read_training(folder: Path) -> TrainResult:
    """Read what a finished training left.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    TrainResult

    Raises
    ------
    RunError
        If its file is damaged, missing, or a link.
    """
    try:
        said = check(_Written, parse_json(plain_file(folder, TRAINING_FILE, _MOST_BYTES).read_bytes()))
        classes = check(Annotated[list[Line], Len(2)], said.facts.get("classes"))
        confusion = np.array(said.confusion or np.zeros((0, 0)), np.int64)
        if confusion.size and confusion.shape != (len(classes), len(classes)):
            shape = "x".join(map(str, confusion.shape))
            raise ValueError(f"its confusion of {len(classes)} classes is {shape}")
        if confusion.size and not {"val_top1", "test_top1"} & said.scores.keys():
            raise ValueError("it has a confusion, and no score of validation or test images")
        if sum(map(sum, said.confusion)) > _MOST_COUNTED:
            raise ValueError(f"its confusion is of more than {_MOST_COUNTED:,} images")
        if len(said.n_per_class) != len(classes):
            raise ValueError(
                f"it counts training images of {len(said.n_per_class)} classes of {len(classes)}"
            )
        if len({frozenset(one) for one in said.history}) > 1 or "duration_s" not in said.history[0]:
            raise ValueError("its epochs do not have the same scores and times")
        if [one.get("epoch") for one in said.history] != [*range(1, len(said.history) + 1)]:
            raise ValueError("its epochs are not numbered from 1")
        if said.best_epoch > len(said.history):
            raise ValueError(f"it kept epoch {said.best_epoch} of {len(said.history)}")
        return TrainResult(
            folder,
            folder / NETWORK_FILE,
            folder / CARD_FILE,
            said.sha256,
            [{**one, "epoch": at} for at, one in enumerate(said.history, 1)],
            said.scores,
            confusion,
            tuple(classes),
            Recipe(**said.facts["recipe"]),
            said.best_epoch,
            said.stopped_early,
            tuple(said.n_per_class),
            facts=said.facts,
            dataset=said.dataset,
            n_images=said.n_images,
            versions=said.versions,
        )
    except FileNotFoundError as error:
        raise RunError(f"there is no finished training in {str(folder)!r}; repeat featbank train") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(
            f"{str(folder / TRAINING_FILE)!r} is damaged ({error}); remove its folder to train again"
        ) from error


def _versions() -> dict[str, str]:
    import torch

    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _card(
    result: TrainResult, subject: _Subject, dataset: Dataset, counts: Mapping[str, int], data_digest: str
) -> str:
    recipe = result.recipe
    which = f"of the mean of the weights after the last {recipe.averaged_epochs} epochs"
    if recipe.patience:
        which = f"after epoch {result.best_epoch}, which was best on the validation images"
    elif not recipe.averaged_epochs:
        which = "after the last epoch; no epoch was picked by it"
    listed = "\n".join(f"| {name} | {value} |" for name, value in asdict(recipe).items())
    plan = "\n".join(f"| {name} | {value} |" for name, value in subject.facts.items())
    columns = [name for name in result.history[-1] if name not in ("epoch", "lr")]
    log = "\n".join(
        f"| {one['epoch']:.0f} | {one['lr']:.5f} | {' | '.join(f'{one[name]:.4f}' for name in columns)} |"
        for one in result.history
    )
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in result.scores.items())
    images = ", ".join(f"{counts[one]:,} {one}" for one in ("train", "val", "test") if counts.get(one))
    return f"""# {subject.name} on {dataset.name}

| | |
|---|---|
| file | `{result.weights.name}`, {result.weights.stat().st_size:,} bytes |
| SHA-256 | `{result.sha256}` |
| data | {dataset.name}: {images} images |
| digest of the data | `{data_digest}` |
| classes | {", ".join(result.classes)} |
| versions | Python {result.versions["python"]}, torch {result.versions["torch"]} |

## Scores
{which[0].upper()}{which[1:]}.

| score | value |
|---|---|
{scores}

## Network
| | |
|---|---|
{plan}

## Recipe
| setting | value |
|---|---|
{listed}

Everything random in an epoch is seeded by (random_state, epoch). Bits differ between devices and versions.

## History
Training scores are taken while training, on augmented images; durations are in seconds.

| epoch | lr at its start | {" | ".join(columns)} |
|---|---|{"---|" * len(columns)}
{log}
"""
