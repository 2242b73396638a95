"""Synthetic datasets on disk as their publishers lay them out, and a study small enough for a test."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def picture(code: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels whose mean colour tells the class, with noise that tells the image."""
    random = np.random.default_rng([code, number])
    colour = np.random.default_rng(code).integers(40, 200, size=shape[2:])
    return np.clip(colour + random.integers(-30, 30, size=shape), 0, 255).astype(np.uint8)


def write_classes(folder: Path, names: list[str], n: int, *, inside: str = "", suffix: str = ".jpg") -> None:
    for code, name in enumerate(names):
        (folder / name / inside).mkdir(parents=True, exist_ok=True)
        for number in range(1, n + 1):
            stem = f"{name}_{number:04d}"
            pixels = picture(code, number, (36, 40, 3))
            Image.fromarray(pixels).save(folder / name / inside / f"{stem}{suffix}")


def caltech256(root: Path, n_classes: int, n: int) -> Path:
    """Class folders as in 256_ObjectCategories, with the clutter that studies leave out."""
    folder = root / "caltech256" / "256_ObjectCategories"
    names = [f"{code + 1:03d}.thing{code + 1}" for code in range(n_classes)]
    names.append("257.clutter")
    for code, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(1, n + 1):
            Image.fromarray(picture(code, number, (36, 40, 3))).save(
                folder / name / f"{code + 1:03d}_{number:04d}.jpg"
            )
    return root


def food101(root: Path, n_classes: int, n: int) -> Path:
    folder = root / "food-101"
    names = [f"dish_{code:03d}" for code in range(n_classes)]
    write_classes(folder / "images", names, n)
    (folder / "meta").mkdir()
    cut = n * 3 // 4
    for split, part in (("train", range(1, cut + 1)), ("test", range(cut + 1, n + 1))):
        listed = {name: [f"{name}/{name}_{number:04d}" for number in part] for name in names}
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))
    return root


def mnist(root: Path, n_classes: int, n: int) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, each in (("train", n), ("t10k", max(2, n // 4))):
        labels = np.tile(np.arange(n_classes, dtype=np.uint8), each)
        images = np.stack(
            [picture(int(code), 1000 * each + at, (28, 28, 1))[..., 0] for at, code in enumerate(labels)]
        )
        for kind, array in (("images", images), ("labels", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{part}-{kind}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    return root


def cifar10(root: Path, n_classes: int, n: int) -> Path:
    """The python batches; the published checksums are those of the published pixels, so they are let be."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for part in range(6):
        labels = [code for code in range(n_classes) for _ in range(max(1, n // 5))]
        rows = [
            picture(code, 100 * part + at, (32, 32, 3)).transpose(2, 0, 1).ravel()
            for at, code in enumerate(labels)
        ]
        name = "test_batch" if part == 5 else f"data_batch_{part + 1}"
        (folder / name).write_bytes(pickle.dumps({"data": np.stack(rows), "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR10}))
    return root


def tiny_imagenet(root: Path, n_classes: int, n: int) -> Path:
    folder = root / "tiny-imagenet-200"
    names = [f"n{code:08d}" for code in range(n_classes)]
    write_classes(folder / "train", names, n, inside="images", suffix=".JPEG")
    lines = []
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    for number in range(2 * n_classes):
        code = number % n_classes
        Image.fromarray(picture(code, 5000 + number, (64, 64, 3))).save(
            folder / "val" / "images" / f"val_{number}.JPEG"
        )
        lines.append(f"val_{number}.JPEG\t{names[code]}\t0\t32\t44\t62")
    Image.fromarray(picture(0, 9999, (64, 64, 3))).save(folder / "test" / "images" / "test_0.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("\n".join(names) + "\n")
    return root


def class_folders(name: str) -> Callable[[Path, int, int], Path]:
    def make(root: Path, n_classes: int, n: int) -> Path:
        write_classes(root / name, [f"tribe_{code:02d}" for code in range(n_classes)], n)
        return root

    return make


def photographs(root: Path, n: int = 2) -> Path:
    """A user's own photographs of CIFAR-10's classes, wide enough for the blur to do something."""
    for code, name in enumerate(CIFAR10):
        (root / "photographs" / name.capitalize()).mkdir(parents=True)
        for number in range(n):
            Image.fromarray(picture(code, 7000 + number, (120, 160, 3))).save(
                root / "photographs" / name.capitalize() / f"{number}.png"
            )
    return root


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).exists())


SMALL = """
title = "Three colours"
question = "Can it tell colours apart?"
differs = ["colours, not photographs"]

[data]
source = "photos"
how = "paint some"
name = "colours"
split = "4,2,2"
n_classes_published = 5

[backbone]
name = "minivgg"
weights = "random"
precision = "float32"

[sweep]
samples_per_class = "1,2,4"
repeats = 2

[heads.ncm]
standardize = true

[[experiment]]
name = "deep"
sweep.cuts = ["block5_pool", "fc7"]
sweep.heads = ["ncm"]

[[experiment]]
name = "shallow"
sweep.cuts = ["block3_pool"]
sweep.heads = ["ncm"]
heads.ncm.standardize = false

[published]
report = "a report on colours"

[[published.figures]]
label = "fc7, test"
value = 0.75
experiment = "deep"
cut = "fc7"

[[published.claims]]
text = "gains shrink"
check = "gains-shrink"
experiments = ["deep"]
"""


@pytest.fixture
def small(tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of 24 pictures in the working directory, with its data where it looks for it."""
    photo_folder(n_per_class=8, name="data/photos")
    (tmp_path / "small.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)
    monkeypatch.delenv("FEATBANK_DATA", raising=False)
    return tmp_path / "small.toml"


@pytest.fixture
def edited(small: Path) -> Callable[..., Path]:
    """Write the small study with some of its text replaced: ``edited(("old", "new"), ...)``."""

    def write(*changes: tuple[str, str], name: str = "edited.toml") -> Path:
        text = SMALL
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        file = small.with_name(name)
        file.write_text(text)
        return file

    return write


#: Study -> what makes its data, images of each class at the small and at the published size, classes.
LAYOUTS = {
    "caltech256_fc7": (caltech256, (41, 41), (4, 256)),
    "caltech256_depth": (caltech256, (41, 41), (4, 256)),
    "caltech256_samples": (caltech256, (21, 21), (4, 256)),
    "caltech256_pools": (caltech256, (21, 21), (4, 256)),
    "caltech256_temperature": (caltech256, (21, 21), (4, 256)),
    "urban_tribes": (class_folders("urban_tribes"), (60, 117), (3, 11)),
    "food101_frozen": (food101, (24, 40), (4, 101)),
    "backbones_mnist": (mnist, (6, 200), (10, 10)),
    "backbones_cifar10": (cifar10, (10, 200), (10, 10)),
    "backbones_tiny_imagenet": (tiny_imagenet, (12, 20), (5, 200)),
    "cifar10_mobilenet": (cifar10, (10, 200), (10, 10)),
    "cifar10_own_net": (cifar10, (10, 200), (10, 10)),
    "cifar10_alexnet": (cifar10, (10, 200), (10, 10)),
    "cifar10_googlenet": (cifar10, (10, 200), (10, 10)),
    "cifar10_imp": (cifar10, (20, 200), (10, 10)),
    "food101_custom": (food101, (8, 40), (4, 101)),
    "partial_unfreezing": (food101, (24, 40), (4, 101)),
    "mobilenet_tail": (cifar10, (10, 200), (10, 10)),
}


@pytest.fixture
def laid_out(tmp_path: Path, no_checksums: None) -> Callable[..., Path]:
    """Make the data of a study, as its publisher has it, and say where: ``laid_out(name, full=False)``."""

    def make(name: str, full: bool = False) -> Path:
        maker, images, classes = LAYOUTS[name]
        root = maker(tmp_path / "published", classes[full], images[full])
        return photographs(root) if name in ("cifar10_mobilenet", "mobilenet_tail") else root

    return make
