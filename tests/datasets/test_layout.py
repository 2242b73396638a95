"""Which folders are splits, which are classes, and what is asked when it could be either."""

from __future__ import annotations

import shlex
from collections import Counter

import pytest

from featbank.datasets import open_dataset
from featbank.datasets.sources import reopen_dataset
from featbank.errors import DatasetError, InvalidInputError


def put(folder, *paths):
    for path in paths:
        full = folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(path.encode())


def classes_in(*folders, n=1):
    """Paths of n images of cat and dog below each folder."""
    return [
        f"{folder}/{label}/{index}.jpg"
        for folder in folders
        for label in ("cat", "dog")
        for index in range(n)
    ]


def counts(dataset):
    return dict(Counter(dataset.splits))


def refused(folder):
    with pytest.raises(DatasetError) as caught:
        open_dataset(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("training", "validation", "testing"),
        ("Train", "Valid", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("train", "dev", "eval"),
        ("train", "valid", "holdout"),
        ("train_images", "val_images", "test_images"),
        ("images_train", "images_val", "images_test"),
        ("train2017", "val2017", "test2017"),
        ("train_256", "val_256", "test_256"),
        ("Training_Set", "Validation_Set", "test_set"),
        ("training-data", "validation-split", "hold-out"),
        ("TrainSet", "ValSet", "TestSet"),
        ("trainset", "validset", "testdata"),
        ("seg_train", "seg_val", "seg_test"),
        ("asl_alphabet_train", "asl_alphabet_dev", "asl_alphabet_test"),
        ("train.zip.extracted", "val.zip.extracted", "test.zip.extracted"),
        ("01 train", "02 validation", "03 test"),
        ("train-jpg", "dev-jpg", "evaluation-jpg"),
        ("trainval", "Val", "held_out"),
        ("ｔｒａｉｎ", "val", "test"),
        ("train_128x128", "val_128x128", "test_128x128"),
    ],
)
def test_names_of_splits_as_they_are_spelled(tmp_path, train, val, test):
    put(tmp_path, *classes_in(train, n=3), *classes_in(val, n=2), *classes_in(test))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert counts(dataset) == {"train": 6, "val": 4, "test": 2}


@pytest.mark.parametrize(
    "name",
    ["validation_stamp", "trainer", "testudo", "trains", "valley", "devil", "bullet_train", "steam train",
     "crash_test", "devices", "test tube", "evaluator", "valet", "interval", "train_test", "training_shoe"],
)  # fmt: skip
def test_names_of_classes_that_only_remind_of_a_split(tmp_path, name):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg", f"{name}/1.jpg")
    dataset = open_dataset(tmp_path)
    assert set(dataset.classes) == {"cat", "dog", name}
    assert dataset.splits is None


@pytest.mark.parametrize(
    "wrappers", [("data/{}", "data/{}"), ("a/b/c/{}", "a/b/c/{}"), ("{}/{}", "{}/{}"), ("x/{}/{}", "x/{}/{}"),
                 ("{}/images", "{}/images"), ("{}", "{}/{}"), ("train_test/{}", "train_test/{}")]
)  # fmt: skip
def test_folders_that_only_wrap_another_are_no_level(tmp_path, wrappers):
    train, test = (
        one.format(*[split] * 2) for one, split in zip(wrappers, ("seg_train", "seg_test"), strict=True)
    )
    put(tmp_path, *classes_in(train, n=2), *classes_in(test))
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, counts(dataset)) == (("cat", "dog"), {"train": 4, "test": 2})


def test_wrapped_classes(tmp_path):
    put(tmp_path, *classes_in("a/b"), "a/readme.txt")
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, dataset.splits) == (("cat", "dog"), None)


def test_folders_without_images_beside_splits_are_told(tmp_path, caplog):
    put(
        tmp_path,
        *classes_in("train", "test"),
        "annotations/a.xml",
        "__MACOSX/train/cat/._1.jpg",
        "masks/m.npy",
    )
    (tmp_path / "docs").mkdir()
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, counts(dataset)) == (("cat", "dog"), {"train": 2, "test": 2})
    assert f"folders of {tmp_path} without images: 'annotations', 'docs', 'masks'" in caplog.messages


def test_a_wrapper_beside_folders_without_images(tmp_path):
    put(tmp_path, *classes_in("images"), "annotations/a.xml", "list.txt")
    assert open_dataset(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize("empty", ["val", "validation_set"])
def test_an_empty_split_is_told(tmp_path, caplog, empty):
    put(tmp_path, *classes_in("train", "test"))
    (tmp_path / empty).mkdir()
    assert counts(open_dataset(tmp_path)) == {"train": 2, "test": 2}
    assert caplog.messages == [f"folders of {tmp_path} without images: '{empty}'"]


@pytest.mark.parametrize(
    "flat", ["test/1.jpg", "test/test/1.jpg", "test/images/1.jpg", "pred/1.jpg", "pred/pred/1.jpg"]
)
def test_images_of_a_split_without_labels_are_left_out_and_told(tmp_path, caplog, flat):
    put(tmp_path, *classes_in("train", "val"), flat)
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, counts(dataset)) == (("cat", "dog"), {"train": 2, "val": 2})
    (folder,) = {flat.partition("/")[0]}
    assert len(caplog.messages) == 1
    assert f"skipped 1 images of {tmp_path} that no class folder labels: '{folder}" in caplog.messages[0]


def test_a_folder_that_holds_the_images_of_two_unlabelled_splits_is_no_class(tmp_path, caplog):
    put(tmp_path, "train/n1/images/1.jpg", "train/n2/images/1.jpg", "val/images/1.jpg", "test/images/1.jpg")
    assert open_dataset(tmp_path).classes == ("n1", "n2")
    assert "2 images of" in caplog.text


@pytest.mark.parametrize("name", ["{}", "{}/{}"])
def test_splits_without_any_class_folder_are_no_classes(tmp_path, name):
    put(
        tmp_path, *(f"{name.format(one, one)}/{one}.{at}.jpg" for one in ("train", "test") for at in range(2))
    )
    assert "holds 2 images but no class folders" in refused(tmp_path)


@pytest.mark.parametrize("tree", [
    ["bus/1.jpg", "train/1.jpg", "car/1.jpg"],
    ["bus/1.jpg", "Test/1.jpg"],
    ["annot/1.jpg", *classes_in("train", "test")],
    ["ground_truth/cat/1.png", *classes_in("train", "test")],
    ["cat/1.jpg", "dog/1.jpg", "test_set/1.jpg"],
    ["wrapper/bus/1.jpg", "wrapper/train/1.jpg"],
    ["cat/1.jpg", *classes_in("my_train", "my_test")],
])  # fmt: skip
def test_a_split_name_among_classes_is_refused_with_both_readings(tmp_path, tree):
    put(tmp_path, *tree)
    text = refused(tmp_path)
    assert f"'{tmp_path}' can be read in two ways: " in text
    command = f"featbank extract {shlex.quote(str(tmp_path))} --layout"
    assert f"'{command} split/class'" in text
    assert f"'{command} class'" in text


def test_both_readings_are_had_by_the_option(tmp_path, caplog):
    put(tmp_path, *classes_in("train", n=3), *classes_in("test", n=2), "annot/1.jpg")
    text = refused(tmp_path)
    assert "2 classes ('cat', 'dog') in splits (train 6, test 4) without 'annot'" in text
    assert "3 classes ('annot', 'test', 'train'): " in text
    splits = open_dataset(tmp_path, layout="split/class")
    assert (splits.classes, counts(splits)) == (("cat", "dog"), {"train": 6, "test": 4})
    assert (
        f"skipped 1 images in folders of {tmp_path} that are not called like a split: 'annot'" in caplog.text
    )
    as_classes = open_dataset(tmp_path, layout="class")
    assert (as_classes.classes, as_classes.splits) == (("annot", "test", "train"), None)
    assert len(as_classes.ids) == 11


def test_a_class_called_train_is_had_by_the_option(tmp_path):
    put(tmp_path, "bus/1.jpg", "train/1.jpg", "test/1.jpg")
    assert open_dataset(tmp_path, layout="class").classes == ("bus", "test", "train")


def test_splits_below_classes(tmp_path):
    put(tmp_path, "cat/train/1.jpg", "cat/test/1.jpg", "dog/Train/1.jpg", "dog/Test/1.jpg", "dog/val/2.jpg")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dict(zip(dataset.ids, dataset.splits, strict=True)) == {
        b"cat/train/1.jpg": "train",
        b"cat/test/1.jpg": "test",
        b"dog/Train/1.jpg": "train",
        b"dog/Test/1.jpg": "test",
        b"dog/val/2.jpg": "val",
    }


def test_splits_below_some_classes_only_are_refused(tmp_path):
    put(tmp_path, "cat/train/1.jpg", "cat/test/1.jpg", "dog/1.jpg")
    text = refused(tmp_path)
    assert "--layout class/split'" in text
    assert "--layout class'" in text
    assert open_dataset(tmp_path, layout="class").splits is None


@pytest.mark.parametrize(("around", "layout"), [("", "any/split/class"), ("data/", "any/any/split/class")])
def test_folds_and_categories_with_splits_of_their_own_are_refused(tmp_path, around, layout):
    put(tmp_path, *classes_in(*(f"{around}fold{n}/{split}" for n in (1, 2) for split in ("train", "test"))))
    text = refused(tmp_path)
    assert "can be read in three ways" in text
    assert f"--layout {layout}'" in text
    dataset = open_dataset(tmp_path, layout=layout)
    assert (dataset.classes, counts(dataset)) == (("cat", "dog"), {"train": 4, "test": 4})


@pytest.mark.parametrize("around", ["", "data/"])
def test_classes_that_hold_the_same_folders_are_refused(tmp_path, around):
    put(tmp_path, *classes_in(f"{around}A", f"{around}B"))
    text = refused(tmp_path)
    levels = "any/any/class" if around else "any/class"
    assert f"--layout {levels}'" in text
    assert "--layout class'" in text
    assert open_dataset(tmp_path, layout=levels).classes == ("cat", "dog")
    assert open_dataset(tmp_path, layout="class").classes == ("A", "B")


def test_parts_whose_classes_lie_deeper_are_refused(tmp_path):
    put(tmp_path, *classes_in("amazon/images", "webcam/images"))
    assert "--layout any/any/class'" in refused(tmp_path)
    assert open_dataset(tmp_path, layout="any/any/class").classes == ("cat", "dog")


@pytest.mark.parametrize(("around", "layout"), [("", "split/any/class"), ("data/", "any/split/any/class")])
def test_parts_within_splits_are_refused(tmp_path, around, layout):
    put(tmp_path, *classes_in(*(f"{around}{split}/{part}" for split in ("train", "test") for part in "AB")))
    assert f"--layout {layout}'" in refused(tmp_path)
    dataset = open_dataset(tmp_path, layout=layout)
    assert (dataset.classes, counts(dataset)) == (("cat", "dog"), {"train": 4, "test": 4})


def test_one_folder_in_each_class_is_no_second_reading(tmp_path):
    put(tmp_path, "cat/images/1.jpg", "dog/images/1.jpg")
    assert open_dataset(tmp_path).classes == ("cat", "dog")


def test_two_folders_for_one_split_are_told(tmp_path, caplog):
    put(tmp_path, *classes_in("train", "val", "validation"))
    assert counts(open_dataset(tmp_path)) == {"train": 2, "val": 4}
    assert caplog.messages == [f"'val', 'validation' in {tmp_path} are all taken as val"]


def test_a_training_set_of_one_class_only(tmp_path):
    put(tmp_path, "train/good/1.png", "test/good/2.png", "test/broken/1.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, counts(dataset)) == (("broken", "good"), {"train": 1, "test": 2})


@pytest.mark.parametrize(
    "layout", ["classes", "", "split", "class/class", "split/split/class", "Class", 3, "class/"]
)
def test_a_layout_that_is_none(tmp_path, layout):
    put(tmp_path, *classes_in("train"))
    with pytest.raises(InvalidInputError, match="write 'class', 'split/class', 'class/split'"):
        open_dataset(tmp_path, layout=layout)


def test_a_layout_without_a_split_that_is_known(tmp_path):
    put(tmp_path, *classes_in("A", "B"))
    with pytest.raises(DatasetError, match=r"none of 'A', 'B' is called like a split"):
        open_dataset(tmp_path, layout="split/class")


def test_a_layout_is_for_folders(tmp_path):
    put(tmp_path, *classes_in("x"))
    (tmp_path / "x.csv").write_text("path,label\nx/cat/0.jpg,cat\nx/dog/0.jpg,dog\n")
    for data in ("digits", tmp_path / "x.csv", open_dataset("digits"), "torchvision:MNIST"):
        with pytest.raises(InvalidInputError, match="is for folders and archives of images only"):
            open_dataset(data, layout="class")


def test_what_was_said_once_holds_when_the_images_are_looked_up_again(tmp_path):
    put(tmp_path, "bus/1.jpg", "train/1.jpg")
    dataset = reopen_dataset({"location": str(tmp_path), "layout": "class"})
    assert dataset.classes == ("bus", "train")
    put(tmp_path, "list.csv")
    (tmp_path / "list.csv").write_text("path,label\nbus/1.jpg,bus\ntrain/1.jpg,train\n")
    there = {"location": str(tmp_path), "layout": "class"}
    assert reopen_dataset(there, tmp_path / "list.csv").classes == ("bus", "train")
