"""Images of a run's rows, read again: found by their bytes whatever their names, never another one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from featbank.errors import MissingDataError
from featbank.inspection import RunImages


def images_of(bank, data=None):
    return RunImages(bank.manifest, bank.provenance, data)


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_the_image_of_every_row(photo_bank, tmp_path) -> None:
    images = images_of(photo_bank)
    for row, name in enumerate(photo_bank.manifest.ids):
        np.testing.assert_array_equal(
            np.asarray(images.read(row)), pixels(tmp_path / "photos" / name.decode())
        )


def test_an_id_or_a_path_that_ends_in_one(photo_bank, tmp_path) -> None:
    images = images_of(photo_bank)
    last = len(photo_bank) - 1
    assert images.row_of("red/005.png") == last
    assert images.row_of(tmp_path / "elsewhere" / "red" / "005.png") == last
    assert images.row_of("5.png") is None
    assert images.row_of("inferred/005.png") is None


def test_a_folder_that_has_moved(photo_bank, tmp_path) -> None:
    old, new = tmp_path / "photos", tmp_path / "moved"
    before = np.asarray(images_of(photo_bank).read(4))
    old.rename(new)
    with pytest.raises(MissingDataError) as caught:
        images_of(photo_bank)
    assert str(caught.value) == (
        f"the run's images are no longer where they came from, {str(old)!r}; say where they are with --data"
    )
    np.testing.assert_array_equal(np.asarray(images_of(photo_bank, new).read(4)), before)
    with pytest.raises(MissingDataError, match="no images at 'nowhere'"):
        images_of(photo_bank, "nowhere")


@pytest.mark.slow
def test_renamed_moved_to_another_class_and_swapped(photo_bank, tmp_path) -> None:
    folder = tmp_path / "photos"
    before = {row: np.asarray(images_of(photo_bank).read(row)) for row in range(len(photo_bank))}
    (folder / "blue" / "000.png").rename(folder / "blue" / "zzz.png")
    (folder / "blue" / "001.png").rename(folder / "red" / "001b.png")
    (folder / "green" / "000.png").rename(folder / "green" / "x.png")
    (folder / "green" / "001.png").rename(folder / "green" / "000.png")
    (folder / "green" / "x.png").rename(folder / "green" / "001.png")
    images = images_of(photo_bank)
    for row, expected in before.items():
        np.testing.assert_array_equal(np.asarray(images.read(row)), expected)


@pytest.mark.slow
def test_a_file_that_is_gone_or_another(photo_bank, tmp_path, save_photo) -> None:
    folder = tmp_path / "photos"
    opened_before = images_of(photo_bank)
    (folder / "blue" / "000.png").unlink()
    save_photo(folder / "blue" / "001.png", 999)
    end = f"{str(folder)!r}, and no other image there has its bytes; say where it is with --data"
    for images, row, name, problem in (
        (opened_before, 0, "blue/000.png", "cannot be read (No such file or directory) in"),
        (images_of(photo_bank), 0, "blue/000.png", "is gone from"),
        (images_of(photo_bank), 1, "blue/001.png", "is another one now in"),
    ):
        with pytest.raises(MissingDataError) as caught:
            images.read(row)
        assert str(caught.value) == f"image {name!r} {problem} {end}"


@pytest.mark.slow
def test_a_bank_that_is_gone_is_not_needed(photo_bank, tmp_path) -> None:
    manifest = photo_bank.manifest
    assert RunImages(manifest, {}, tmp_path / "photos").read(3).mode == "RGB"
    with pytest.raises(MissingDataError, match="nothing says where the images came from; say it with --data"):
        RunImages(manifest, {})
