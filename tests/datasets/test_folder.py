"""Folders of class folders: what is found, under which name, and what is said when it makes no dataset."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank.datasets import build_manifest, open_dataset
from featbank.errors import DatasetError, ImageDecodeError, MissingDataError
from featbank.manifest import SPLITS

WANTED = "wanted: FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg beside val/ and test/"


def put(folder, *paths):
    for path in paths:
        full = folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(path.encode())


def error(kind, folder):
    with pytest.raises(kind) as caught:
        open_dataset(folder)
    return str(caught.value)


def test_class_folders_in_name_order_at_any_depth(tmp_path):
    put(tmp_path, "dog/2.jpg", "cat/b/1.PNG", "cat/a.jpeg", "cat/z.jpg", "dog/10.webp")
    dataset = open_dataset(str(tmp_path))
    assert dataset.ids == (b"cat/a.jpeg", b"cat/b/1.PNG", b"cat/z.jpg", b"dog/10.webp", b"dog/2.jpg")
    assert dataset.labels == ("cat", "cat", "cat", "dog", "dog")
    assert dataset.classes == ("cat", "dog")
    assert dataset.splits is None
    assert dataset.location == str(tmp_path)
    assert [dataset.read(index) for index in range(5)] == list(dataset.ids)


def test_split_folders(tmp_path):
    put(
        tmp_path,
        "train/cat/1.jpg",
        "train/dog/1.jpg",
        "Valid/cat/1.jpg",
        "validation/dog/1.jpg",
        "test/cat/1.jpg",
    )
    dataset = open_dataset(tmp_path)
    assert dict(zip(dataset.ids, dataset.splits, strict=True)) == {
        b"train/cat/1.jpg": "train",
        b"train/dog/1.jpg": "train",
        b"Valid/cat/1.jpg": "val",
        b"validation/dog/1.jpg": "val",
        b"test/cat/1.jpg": "test",
    }
    assert list(dataset.ids) == sorted(dataset.ids)
    assert dataset.classes == ("cat", "dog")


def test_a_class_that_is_named_like_a_split_is_a_class_beside_others(tmp_path):
    put(tmp_path, "train/1.jpg", "bus/1.jpg")
    assert open_dataset(tmp_path).classes == ("bus", "train")
    assert open_dataset(tmp_path).splits is None


def test_name_is_the_folders_made_safe(tmp_path):
    put(tmp_path, "my pets!/cat/1.jpg", "my pets!/dog/1.jpg")
    assert open_dataset(tmp_path / "my pets!").name == "my-pets"
    assert open_dataset(str(tmp_path / "my pets!") + "/").name == "my-pets"
    assert open_dataset(tmp_path / "my pets!", name="../x").name == "x"


def test_hidden_files_and_litter_are_left_out_without_a_word(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/._1.jpg", "cat/.DS_Store", "dog/Thumbs.db", ".git/x/1.jpg")
    put(tmp_path, "cat/__MACOSX/1.jpg")
    assert open_dataset(tmp_path).ids == (b"cat/1.jpg", b"dog/1.jpg")
    assert caplog.text == ""


def test_other_suffixes_are_counted_in_one_line(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/README.txt", "cat/2.txt", "dog/3.heic", "LICENSE")
    assert open_dataset(tmp_path).ids == (b"cat/1.jpg", b"dog/1.jpg")
    assert [record.getMessage() for record in caplog.records] == [
        f"left out 1 images in {tmp_path} whose format is not decoded (.heic: 1): convert them to JPEG or PN"
        "G",
        f"skipped 3 files in {tmp_path} that are not images by their suffix (.txt: 2, no suffix: 1)",
    ]


def test_a_file_with_an_image_suffix_is_kept_whatever_it_holds(tmp_path):
    put(tmp_path, "cat/1.jpg", "dog/not-an-image.png")
    assert b"dog/not-an-image.png" in open_dataset(tmp_path).ids


def test_odd_entries_are_skipped_without_hanging(tmp_path, caplog):
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(root, "cat/1.jpg", "dog/1.jpg")
    put(outside, "secret/1.jpg")
    cat = root / "cat"
    (cat / "loop").symlink_to(".")
    (cat / "self.jpg").symlink_to("self.jpg")
    (cat / "dangling.jpg").symlink_to("nowhere.jpg")
    (cat / "out.jpg").symlink_to(outside / "secret" / "1.jpg")
    (cat / "linked").symlink_to(root / "dog")
    (root / "bird").symlink_to(outside / "secret")
    os.mkfifo(cat / "pipe.jpg")
    (cat / "inside.jpg").symlink_to("1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(cat)  # a socket's path has 108 bytes at most
        server.bind("socket.jpg")
        os.chdir(here)
        dataset = open_dataset(root)
    assert dataset.ids == (b"cat/1.jpg", b"cat/inside.jpg", b"dog/1.jpg")
    assert dataset.read(1) == b"cat/1.jpg"
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped 8 entries in {root} that are no files of it, the first is 'bird': a link to a folder"
    ]


def test_a_folder_that_only_begins_alike_is_outside(tmp_path):
    put(tmp_path, "root/cat/1.jpg", "root/dog/1.jpg", "root-2/secret.jpg")
    (tmp_path / "root/cat/out.jpg").symlink_to(tmp_path / "root-2/secret.jpg")
    assert open_dataset(tmp_path / "root").ids == (b"cat/1.jpg", b"dog/1.jpg")


def test_a_pipe_put_in_the_place_of_an_image_does_not_hang(tmp_path):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    dataset = open_dataset(tmp_path)
    (tmp_path / "cat/1.jpg").unlink()
    os.mkfifo(tmp_path / "cat/1.jpg")
    with pytest.raises(OSError, match="is not a regular file"):
        dataset.read(0)


def test_a_file_too_large_for_memory_is_refused(tmp_path):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with (tmp_path / "cat/1.jpg").open("r+b") as file:
        file.truncate((1 << 30) + 1)  # sparse
    with pytest.raises(ImageDecodeError) as caught:
        open_dataset(tmp_path).read(0)
    assert caught.value.reason == "too-many-bytes"


def test_images_outside_class_folders_are_told_of(tmp_path, caplog):
    put(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/stray.jpg", "top.jpg")
    assert len(open_dataset(tmp_path).ids) == 2
    assert caplog.messages == [
        f"skipped 2 images in {tmp_path} outside class folders, the first is 'top.jpg'"
    ]


def test_a_class_folder_without_images_is_dropped(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "bird").mkdir()
    assert open_dataset(tmp_path).classes == ("cat", "dog")
    assert caplog.messages == [f"class folder 'bird' in {tmp_path} has no images: left out"]


def test_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError) as caught:
        open_dataset("nowhere")
    assert str(caught.value) == (
        f"no images at 'nowhere' (looked for '{tmp_path}/nowhere'); give a folder of class folders, "
        "a CSV file, 'torchvision:NAME' or 'digits'"
    )
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("path", ["", "x" * 5000, "a\0b"])
def test_paths_that_cannot_be(path):
    with pytest.raises(MissingDataError):
        open_dataset(path)


def test_an_empty_folder(tmp_path):
    assert error(DatasetError, tmp_path) == f"no images in '{tmp_path}'; {WANTED}"


def test_one_class(tmp_path):
    put(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    assert error(DatasetError, tmp_path) == (
        f"'{tmp_path}' has only one class, 'cat'; a classifier needs at least two"
    )


def test_images_without_class_folders(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    assert error(DatasetError, tmp_path) == f"'{tmp_path}' holds 2 images but no class folders; {WANTED}"


def test_a_split_folder_without_class_folders(tmp_path):
    put(tmp_path, "train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg")
    assert error(DatasetError, tmp_path) == (
        f"'test/' in '{tmp_path}' holds 1 images but no class folders; {WANTED}"
    )


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if path.endswith(b"/dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert error(DatasetError, tmp_path) == (
        f"cannot list 'dog' in '{tmp_path}': Permission denied; make it readable or move it away"
    )


def test_an_archive_is_no_dataset(tmp_path):
    put(tmp_path, "x.tar.gz")
    assert error(DatasetError, tmp_path / "x.tar.gz") == (
        f"'{tmp_path}/x.tar.gz' is a file but no .csv; unpack an archive first, then give "
        "a folder of class folders, a CSV file, 'torchvision:NAME' or 'digits'"
    )


#: Folders of these names are no classes.
NO_CLASSES = {b"__macosx", b"lost+found", b"train", b"val", b"valid", b"validation", b"test"}
NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda name: not set(b"/\0") & set(name) and not name.startswith(b".") and name.lower() not in NO_CLASSES
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=4), min_size=2, max_size=4))
def test_any_bytes_a_file_system_takes_come_back(tree):
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(folder)
        paths = {}
        for label, names in tree.items():
            Path(os.fsdecode(root + b"/" + label)).mkdir()
            for name in names:
                path = label + b"/" + name + b".jpg"
                Path(os.fsdecode(root + b"/" + path)).write_bytes(b"content of " + path)
                paths[path] = label
        dataset = open_dataset(folder)
        manifest = build_manifest(dataset, split="1,0,0")
        assert manifest.ids == tuple(sorted(paths))
        for row, path in enumerate(manifest.ids):
            assert dataset.read(row) == b"content of " + path
            assert os.fsencode(manifest.classes[manifest.labels[row]]) == paths[path]
        trained = [paths[manifest.ids[row]] for row in manifest.rows("train")]
        assert sorted(trained) == sorted(tree)
        assert set(manifest.splits.tolist()) <= {SPLITS.index("train"), SPLITS.index("none")}


def test_a_folder_whose_own_name_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    put(folder, "cat/1.jpg", "dog/1.jpg")
    dataset = open_dataset(folder)
    assert dataset.read(0) == b"cat/1.jpg"
    assert (dataset.name, dataset.location) == ("caf", f"{tmp_path}/caf\\xe9")


def test_twins_in_two_unicode_forms_stay_two(tmp_path):
    put(tmp_path, "caf\u00e9/1.jpg", "cafe\u0301/1.jpg")
    assert len(open_dataset(tmp_path).classes) == 2


def test_nothing_is_logged_about_a_clean_folder(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    open_dataset(tmp_path)
    assert caplog.messages == []
