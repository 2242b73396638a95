"""Images of a bank's rows, read again: where they were, where they are now, and not another one."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import MissingDataError
from featbank.inspection import BankImages


def test_the_image_of_every_row(photo_bank, tmp_path) -> None:
    from PIL import Image

    images = BankImages(photo_bank)
    for row, name in enumerate(photo_bank.manifest.ids):
        file = tmp_path / "photos" / name.decode()
        np.testing.assert_array_equal(np.asarray(images.read(row)), np.asarray(Image.open(file)))


def test_an_id_or_a_path_that_ends_in_one(photo_bank, tmp_path) -> None:
    images = BankImages(photo_bank)
    last = len(photo_bank) - 1
    assert images.row_of("red/005.png") == last
    assert images.row_of(tmp_path / "elsewhere" / "red" / "005.png") == last
    assert images.row_of("5.png") is None
    assert images.row_of("inferred/005.png") is None


def test_a_folder_that_has_moved(photo_bank, tmp_path) -> None:
    old, new = tmp_path / "photos", tmp_path / "moved"
    before = np.asarray(BankImages(photo_bank).read(4))
    old.rename(new)
    with pytest.raises(MissingDataError) as caught:
        BankImages(photo_bank)
    assert str(caught.value) == (
        f"the images of bank {photo_bank.name!r} are no longer where they came from, {str(old)!r}; "
        "say where they are with --data"
    )
    np.testing.assert_array_equal(np.asarray(BankImages(photo_bank, new).read(4)), before)
    with pytest.raises(MissingDataError, match="no images at 'nowhere'"):
        BankImages(photo_bank, "nowhere")


def test_another_dataset_is_not_taken_for_it(photo_bank) -> None:
    with pytest.raises(MissingDataError) as caught:
        BankImages(photo_bank, "digits")
    assert str(caught.value) == (
        f"'digits' has none of the 18 images of bank {photo_bank.name!r}; say where they are with --data"
    )


def test_a_file_that_is_gone_or_another(photo_bank, tmp_path, save_photo) -> None:
    images = BankImages(photo_bank)
    folder = tmp_path / "photos"
    (folder / "blue" / "000.png").unlink()
    save_photo(folder / "blue" / "001.png", 999)
    with pytest.raises(MissingDataError) as caught:
        images.read(0)
    assert str(caught.value) == (
        f"image 'blue/000.png' of {str(folder)!r} cannot be read (No such file or directory); "
        "say where the images are with --data"
    )
    with pytest.raises(MissingDataError) as caught:
        BankImages(photo_bank).read(0)
    assert str(caught.value) == (
        f"image 'blue/000.png' is gone from {str(folder)!r}; say where it is with --data"
    )
    with pytest.raises(MissingDataError) as caught:
        images.read(1)
    assert str(caught.value) == (
        f"image 'blue/001.png' of {str(folder)!r} is another than the one that was extracted; "
        "extract again, or say where the old images are with --data"
    )
