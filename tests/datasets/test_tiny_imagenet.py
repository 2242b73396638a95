"""Tiny-ImageNet as its archive has it."""

from __future__ import annotations

import pytest

from featbank.datasets import build_manifest
from featbank.datasets.derived import is_tiny_imagenet, open_tiny_imagenet
from featbank.errors import DatasetError


@pytest.fixture
def archive(tmp_path, save_photo):
    for label in ("n01", "n02"):
        (tmp_path / "train" / label / "images").mkdir(parents=True)
        save_photo(tmp_path / "train" / label / "images" / f"{label}_0.JPEG", seed=int(label[1:]))
        (tmp_path / "train" / label / f"{label}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t9\t9\n")
    for split, n in (("val", 3), ("test", 2)):
        (tmp_path / split / "images").mkdir(parents=True)
        for number in range(n):
            save_photo(tmp_path / split / "images" / f"{split}_{number}.JPEG", seed=10 * n + number)
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\nval_2.JPEG\tn02\t0\t0\t9\t9\n"
    )
    return tmp_path


def test_labels_of_val_come_from_the_list(archive):
    assert is_tiny_imagenet(archive)
    assert not is_tiny_imagenet(archive / "train")
    found = open_tiny_imagenet(archive)
    assert found.classes == ("n01", "n02")
    assert dict(zip(found.ids, zip(found.labels, found.splits, strict=True), strict=True)) == {
        b"train/n01/images/n01_0.JPEG": ("n01", "train"),
        b"train/n02/images/n02_0.JPEG": ("n02", "train"),
        b"val/images/val_0.JPEG": ("n02", "val"),
        b"val/images/val_1.JPEG": ("n01", "val"),
        b"val/images/val_2.JPEG": ("n02", "val"),
    }
    assert build_manifest(found).counts()["val"] == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "image 'val/images/val_1.JPEG' of .* is not in 'val/val_annotations.txt'"),
        ("val_1.JPEG\tn03\n", "val_1.JPEG' of .* has the class 'n03', unknown to train, in"),
    ],
)
def test_a_list_that_does_not_fit(archive, line, message):
    file = archive / "val" / "val_annotations.txt"
    file.write_text(file.read_text().replace("val_1.JPEG\tn01\t0\t0\t9\t9\n", line))
    with pytest.raises(DatasetError, match=message):
        open_tiny_imagenet(archive)
