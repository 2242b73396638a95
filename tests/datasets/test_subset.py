"""Parts of a dataset, and the test images of somebody else beside it."""

from __future__ import annotations

import pytest

from featbank.datasets import build_manifest, open_dataset, select_images
from featbank.datasets.derived import with_test_images
from featbank.errors import DatasetError, InvalidInputError, UnknownNameError


class Rows:
    """A dataset of texts: its images are their own ids."""

    def __init__(self, rows, *, name="rows", classes=None, split=True):
        self.name, self.location = name, f"/{name}"
        self.ids = tuple(one for one, _, _ in rows)
        self.labels = tuple(label for _, label, _ in rows)
        self.classes = classes or tuple(sorted({one for one in self.labels if one}))
        self.splits = tuple(one for _, _, one in rows) if split else None

    def read(self, index):
        return self.name.encode() + b":" + self.ids[index]


@pytest.fixture
def rows():
    return Rows(
        [
            (f"{split}/{label}{number}".encode(), label, split)
            for split in ("test", "train")
            for label in ("a", "b", "c", "z")
            for number in range(3)
        ]
    )


def ids(dataset):
    return [one.decode() for one in dataset.ids]


def test_the_first_classes_and_images_of_each_split(rows):
    found = select_images(rows, classes=2, images_per_class=2)
    assert ids(found) == [f"{split}/{one}" for split in ("test", "train") for one in ("a0", "a1", "b0", "b1")]
    assert (found.classes, found.labels[2], found.splits[3]) == (("a", "b"), "b", "test")
    assert found.read(5) == b"rows:train/a1"
    assert (found.name, found.location) == ("rows", "/rows")


def test_a_class_left_out_is_not_counted(rows):
    assert select_images(rows, without=["a"], classes=2).classes == ("b", "c")
    assert select_images(rows, without=["clutter"]).classes == ("a", "b", "c", "z")


def test_named_classes_keep_the_order_of_the_dataset(rows):
    assert select_images(rows, classes=["z", "b"]).classes == ("b", "z")
    with pytest.raises(UnknownNameError) as caught:
        select_images(rows, classes=["a", "y"])
    assert str(caught.value) == "'rows' has no class 'y'; it has 'a', 'b', 'c', 'z'"


def test_images_without_a_label_stay_only_where_nothing_is_chosen():
    rows = Rows([(b"1", "a", "train"), (b"2", None, "train"), (b"3", "b", "train")])
    assert ids(select_images(rows)) == ["1", "2", "3"]
    assert ids(select_images(rows, images_per_class=5)) == ["1", "3"]


def test_splits_get_other_names(rows):
    found = select_images(rows, splits={"test": "val"})
    assert set(found.splits) == {"train", "val"}
    assert build_manifest(found).counts()["val"] == 12
    with pytest.raises(InvalidInputError, match=r"splits has 'tset'; known: train, val, test, none"):
        select_images(rows, splits={"tset": "val"})
    with pytest.raises(DatasetError, match="'digits' has no splits of its own to rename; give it a split"):
        select_images(open_dataset("digits"), splits={"test": "val"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes=1 must be at least 2, or a list of names"),
        ({"images_per_class": 0}, "images_per_class=0 must be at least 1"),
    ],
)
def test_numbers_out_of_range(rows, options, message):
    with pytest.raises(InvalidInputError) as caught:
        select_images(rows, **options)
    assert str(caught.value) == message


def test_too_little_is_left(rows):
    with pytest.raises(DatasetError, match="has only one class, 'a'"):
        select_images(rows, classes=["a"])


def test_the_rows_of_a_part_are_the_first_of_the_whole():
    digits = open_dataset("digits")
    part = select_images(digits, classes=3, images_per_class=4)
    whole = select_images(digits, images_per_class=4)
    assert whole.ids[: len(part.ids)] == part.ids


def test_other_images_are_the_test(rows):
    own = Rows([(b"x", "C", "train"), (b"y", "a", "train"), (b"z", None, "train")], name="own")
    found = with_test_images(rows, own)
    assert found.ids[: len(rows.ids)] == rows.ids
    assert found.ids[len(rows.ids) :] == (b"~test_data/x", b"~test_data/y", b"~test_data/z")
    assert found.labels[-3:] == ("c", "a", None)
    assert found.splits[-3:] == ("test",) * 3
    assert found.splits.count("none") == 12  # what was the test before
    assert found.read(len(rows.ids) + 1) == b"own:y"
    assert found.classes == rows.classes


def test_other_images_of_other_classes(rows):
    own = Rows([(b"x", "a", "train"), (b"y", "cow", "train"), (b"z", "yak", "train")], name="own")
    with pytest.raises(DatasetError) as caught:
        with_test_images(rows, own)
    assert str(caught.value) == (
        "the test images in '/own' have the class 'cow' and 1 more, which is none of 'rows': "
        "'c', 'a', 'b', 'z'"
    )
    with pytest.raises(DatasetError, match="'digits' has no splits of its own, so no other images"):
        with_test_images(open_dataset("digits"), own)
