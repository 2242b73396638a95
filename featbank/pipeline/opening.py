"""The images a study takes: from where they are, as its protocol picks them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featbank._atomic import canonical_json, sha256
from featbank._cache import user_path
from featbank.datasets import Dataset, open_dataset, parse_split, select_images
from featbank.datasets.derived import BlurredDataset, is_tiny_imagenet, open_tiny_imagenet, with_test_images
from featbank.datasets.sources import data_folder, find_images
from featbank.errors import FeatbankError, InvalidInputError, MissingDataError
from featbank.manifest import printable
from featbank.pipeline.study import Data, Experiment, TestData, Training

__all__ = ["Opened", "bank_name", "open_each", "open_images"]


@dataclass(frozen=True)
class Opened:
    """A dataset as an experiment takes it.

    Parameters
    ----------
    dataset : Dataset
        Its name is that of the study's own bank, see `bank_name`.
    split : str or None
        For `featbank.extract`.
    limit : int or None
        For `featbank.extract`; None where whole classes were left out instead.
    n_classes : int
        Classes there are.
    data_root : str or None
        Where torchvision found it.
    group_by : str or None
        For `featbank.extract`.
    """

    dataset: Dataset
    split: str | None
    limit: int | None
    n_classes: int
    data_root: str | None
    group_by: str | None = None


def open_images(
    experiment: Experiment | Training,
    *,
    beside: Path | None = None,
    data: str | os.PathLike[str] | None = None,
    test_data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    download: bool = False,
) -> Opened:
    """Open the images of an experiment.

    Parameters
    ----------
    experiment : Experiment or Training
    beside : pathlib.Path, optional
        The study's file.
    data : str or path, optional
        Where the study's data is: for a torchvision dataset the folder torchvision calls root, or a folder
        of class folders; else the folder or CSV file. By default the source's path from the current folder,
        beside the study's file, or below the data root, ``$FEATBANK_DATA`` or else ``./data``; torchvision's
        datasets in that root.
    test_data : str or path, optional
        Where the user's own test images are; by default as `data`.
    limit : int, optional
        At most so many images. Where the split counts images of each class, whole classes are left out, so
        that the counts still hold; else classes are taken in turn.
    download : bool, default=False
        Let torchvision fetch what is not there.

    Returns
    -------
    Opened

    Raises
    ------
    MissingDataError
        If images are not there; the message says how to get them.
    InvalidInputError
        If `limit` leaves fewer than two classes.
    """
    chosen = experiment.data
    name = bank_name(experiment, limit)
    folders = () if beside is None else (beside.parent,)
    dataset, root = _source(chosen, data, download, folders)
    split, rows_limit, classes = chosen.split, limit, chosen.classes
    rule = None if split is None else parse_split(split)
    if limit is not None and rule is not None and rule.kind == "counts":
        each = int(sum(rule.parts))
        fitting = limit // each
        if fitting < 2:
            raise InvalidInputError(
                f"limit={limit} leaves {fitting} of the classes, of which the split {split!r} takes {each} "
                f"images each; use a limit of at least {2 * each}"
            )
        rows_limit = None
        if isinstance(classes, tuple):
            classes = classes[:fitting]
        else:
            classes = fitting if classes is None else min(classes, fitting)
    found = select_images(
        dataset,
        classes=classes,
        without=chosen.without,
        images_per_class=chosen.images_per_class,
        splits=chosen.splits,
        name=name,
    )
    n_classes = len(found.classes)
    if experiment.test_data is not None:
        tested = _test_images(experiment.test_data, test_data, folders)
        found = with_test_images(found, tested, name=name)
    return Opened(found, split, rows_limit, n_classes, root, chosen.group_by)


def open_each(
    experiments: Sequence[Experiment | Training],
    *,
    beside: Path | None = None,
    data: str | os.PathLike[str] | None = None,
    test_data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    download: bool = False,
) -> list[Opened]:
    """Open the images of each experiment, as `open_images` does; those that take the same share them."""
    opened: list[Opened] = []
    for at, one in enumerate(experiments):
        same = (
            before
            for before in range(at)
            if (experiments[before].data, experiments[before].test_data) == (one.data, one.test_data)
        )
        first = next(same, None)
        opened.append(
            open_images(one, beside=beside, data=data, test_data=test_data, limit=limit, download=download)
            if first is None
            else opened[first]
        )
    return opened


def bank_name(experiment: Experiment | Training, limit: int | None = None) -> str:
    """Return what the bank of an experiment's images is called: their name, and what is taken of them.

    Two protocols on the same images have different rows, or the same rows in different splits, and so have
    banks of their own, which no other study and no ``featbank extract`` changes.

    Parameters
    ----------
    experiment : Experiment or Training
    limit : int, optional
        As for `open_images`.

    Returns
    -------
    str
        ``"digits.own-split"``, ``"caltech101-32.28-4-8.40-each"``; what is long to say is a digest.
    """
    data, test = experiment.data, experiment.test_data
    parts = [data.name, "own-split" if data.split is None else data.split.replace(",", "-").replace(" ", "")]
    if data.images_per_class is not None:
        parts.append(f"{data.images_per_class}-each")
    if isinstance(data.classes, int):
        parts.append(f"{data.classes}-classes")
    plain = len(data.without) == 1 and re.fullmatch(r"[A-Za-z0-9._-]+", data.without[0])
    if plain:
        parts.append(f"without-{data.without[0]}")
    if limit is not None:
        parts.append(f"limit-{limit}")
    others = {
        "classes": data.classes if isinstance(data.classes, tuple) else None,
        "splits": dict(data.splits),
        "without": [] if plain else sorted(data.without),
        "test_data": None if test is None else [test.source, test.blur],
    }
    others |= {key: value for key in ("group", "group_by") if (value := getattr(data, key)) is not None}
    if any(others.values()):
        parts.append(sha256(canonical_json(others))[:8])
    name = ".".join(parts)
    # names of folders end somewhere
    return name if len(name) <= 100 else f"{name[:91]}.{sha256(name.encode())[:8]}"


def _source(
    chosen: Data, data: str | os.PathLike[str] | None, download: bool, folders: Sequence[Path]
) -> tuple[Dataset, str | None]:
    """Open the whole dataset; returns where torchvision found it, too."""
    if not chosen.source.startswith("torchvision:"):
        if chosen.source == "digits" and data is None:
            return open_dataset("digits"), None
        if download:
            raise InvalidInputError(f"--download is for torchvision datasets, and this is {chosen.source!r}")
        return _folder(chosen.source, chosen.how, data, "--data", folders, chosen.group), None
    root = os.fspath(data_folder() if data is None else data)
    try:
        return open_dataset(chosen.source, data_root=root, download=download), root
    except MissingDataError as error:
        # Class folders will do as well, as the archive of the dataset's publisher has them.
        if data is not None and not download:
            try:
                return open_dataset(data), None
            except FeatbankError:
                pass
        said = str(error) if download else f"{chosen.source} is not in {printable(root)!r}"
        raise MissingDataError(
            f"{said}: {chosen.how or 'let torchvision fetch it with --download'}; or say where it is with "
            "--data PATH"
        ) from error


def _folder(
    source: str,
    how: str,
    data: str | os.PathLike[str] | None,
    option: str,
    folders: Sequence[Path],
    group: str | None = None,
) -> Dataset:
    place: str | os.PathLike[str] | None = data
    if place is None:
        place, looked_for = find_images(source, *folders)
        if place is None:
            get = how or f"put {source} there"
            raise MissingDataError(
                f"no images at {source!r} (looked for {looked_for}): {get}; or say where they are with "
                f"{option} PATH"
            )
    if group is None and is_tiny_imagenet(user_path(place)):
        return open_tiny_imagenet(user_path(place))
    return open_dataset(place, group_column=group)


def _test_images(
    chosen: TestData, test_data: str | os.PathLike[str] | None, folders: Sequence[Path]
) -> Dataset:
    found = _folder(chosen.source, chosen.how, test_data, "--test-data", folders)
    return found if chosen.blur is None else BlurredDataset(found, chosen.blur)
