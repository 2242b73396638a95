"""Folders of class folders: what is found, under which name, and what is said when it makes no dataset."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank.datasets import _files, build_manifest, list_images, open_dataset
from featbank.datasets._folder import SPLIT_FOLDERS
from featbank.errors import DatasetError, ImageDecodeError, InvalidInputError, MissingDataError
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


def test_name_is_the_folders_made_safe(tmp_path):
    put(tmp_path, "my pets!/cat/1.jpg", "my pets!/dog/1.jpg")
    assert open_dataset(tmp_path / "my pets!").name == "my-pets"
    assert open_dataset(str(tmp_path / "my pets!") + "/").name == "my-pets"
    assert open_dataset(tmp_path / "my pets!", name="../x").name == "x"


def test_hidden_files_and_litter_are_left_out_and_counted(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg", ".git/x/1.jpg", "cat/__MACOSX/1.jpg", "dog/@eaDir/1.jpg/T.jpg")
    put(tmp_path, "cat/._1.jpg", "dog/._1.jpg", "cat/@eaDir/1.jpg/T.jpg", "$RECYCLE.BIN/1.jpg")
    assert open_dataset(tmp_path).ids == (b"cat/1.jpg", b"dog/1.jpg")
    assert caplog.messages == [
        f"skipped 7 hidden or system entries in {tmp_path} (2 hidden images, 2 @eaDir, 1 $RECYCLE.BIN, "
        "1 .git, 1 __MACOSX)"
    ]


@pytest.mark.parametrize(
    "litter",
    [
        "@eaDir", ".thumbnails", ".picasaoriginals", "_thumbs", "$Recycle.Bin", ".Trash-1000", "RECYCLER",
        "System Volume Information", "lost+found", ".ipynb_checkpoints", "__pycache__", "#recycle",
        ".stfolder", ".stversions", ".dropbox.cache", "@Recycle", "#snapshot", ".@__thumb", "__macosx",
    ],
)  # fmt: skip
def test_litter_is_no_class_and_holds_no_images_of_one(tmp_path, litter):
    put(
        tmp_path,
        "cat/1.jpg",
        "dog/1.jpg",
        f"{litter}/1.jpg",
        f"cat/{litter}/1.jpg",
        f"dog/a/{litter}/b/1.jpg",
    )
    assert open_dataset(tmp_path).ids == (b"cat/1.jpg", b"dog/1.jpg")
    found = list_images(tmp_path)
    assert found == [tmp_path / "cat" / "1.jpg", tmp_path / "dog" / "1.jpg"]


@pytest.mark.parametrize(
    "name", ["_background_noise_", "@home", "#1", "$5", "recycle", "thumbs", "~cat", "__x__"]
)
def test_a_class_may_begin_with_any_other_sign(tmp_path, name):
    put(tmp_path, "cat/1.jpg", f"{name}/1.jpg")
    assert set(open_dataset(tmp_path).classes) == {"cat", name}


def test_litter_that_could_not_be_an_image_is_not_worth_a_word(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/.DS_Store", "dog/Thumbs.db", "dog/desktop.ini", "Icon\r")
    open_dataset(tmp_path)
    assert caplog.messages == []


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
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    cat = tmp_path / "cat"
    (cat / "README").symlink_to("nowhere")
    os.mkfifo(cat / "pipe.jpg")
    (cat / "inside.jpg").symlink_to("1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(cat)  # a socket's path has 108 bytes at most
        server.bind("socket.jpg")
        os.chdir(here)
        dataset = open_dataset(tmp_path)
    assert dataset.ids == (b"cat/1.jpg", b"cat/inside.jpg", b"dog/1.jpg")
    assert dataset.read(1) == b"cat/1.jpg"
    assert caplog.messages == [
        f"skipped 3 entries in {tmp_path} that are no files of it, the first is 'cat/README': a link that "
        "leads nowhere (No such file or directory)"
    ]


def test_links_to_class_folders_and_files_are_followed_and_those_that_lead_out_are_told(tmp_path, caplog):
    store, root = tmp_path / "store", tmp_path / "root"
    put(store, "cats/1.jpg", "cats/young/2.jpg", "3.jpg")
    put(root, "dog/1.jpg")
    (root / "cat").symlink_to(store / "cats")
    (root / "dog" / "3.jpg").symlink_to("../../store/3.jpg")
    (root / "dog" / "4.jpg").symlink_to("1.jpg")
    dataset = open_dataset(root)
    assert dataset.ids == (b"cat/1.jpg", b"cat/young/2.jpg", b"dog/1.jpg", b"dog/3.jpg", b"dog/4.jpg")
    assert [dataset.read(index) for index in range(5)] == [
        b"cats/1.jpg",
        b"cats/young/2.jpg",
        b"dog/1.jpg",
        b"3.jpg",
        b"dog/1.jpg",
    ]
    assert caplog.messages == [f"2 links in {root} lead out of it and are followed, the first is 'cat'"]


def test_a_folder_that_only_begins_alike_is_outside(tmp_path, caplog):
    put(tmp_path, "root/cat/1.jpg", "root/dog/1.jpg", "root-2/1.jpg")
    (tmp_path / "root/cat/out.jpg").symlink_to(tmp_path / "root-2/1.jpg")
    open_dataset(tmp_path / "root")
    assert caplog.messages == [
        f"1 links in {tmp_path}/root lead out of it and are followed, the first is 'cat/out.jpg'"
    ]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/loop", "."),
        ("cat/loop", ".."),
        ("cat/loop", "../.."),
        ("loop", "."),
        ("cat/a/loop", "../../cat"),
    ],
)
def test_links_that_lead_back_are_told_and_not_followed(tmp_path, caplog, link, target):
    root = tmp_path / "root"
    put(root, "cat/1.jpg", "cat/a/2.jpg", "dog/1.jpg")
    (root / link).symlink_to(target)
    assert open_dataset(root).ids == (b"cat/1.jpg", b"cat/a/2.jpg", b"dog/1.jpg")
    assert caplog.messages == [
        f"skipped 1 entries in {root} that are no files of it, the first is '{link}': it leads back to a "
        "folder that it is in"
    ]


def test_folders_that_link_each_other_come_to_an_end(tmp_path):
    names = [f"c{index}" for index in range(12)]
    for one in names:
        put(tmp_path, f"store/{one}/1.jpg")
        for other in names:
            (tmp_path / "store" / one / f"to-{other}").symlink_to(f"../{other}")
    (tmp_path / "root").mkdir()
    for one in names:
        (tmp_path / "root" / one).symlink_to(f"../store/{one}")
    started = time.monotonic()
    dataset = open_dataset(tmp_path / "root", layout="class")
    assert time.monotonic() - started < 20
    assert set(dataset.classes) == set(names)
    assert len(list_images(tmp_path / "store")) >= 12


def test_a_link_to_no_image_is_a_row_that_cannot_be_read(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "dog" / "self.png").symlink_to("self.png")
    manifest = build_manifest(open_dataset(tmp_path))
    assert manifest.ids == (b"cat/1.jpg", b"cat/gone.jpg", b"dog/1.jpg", b"dog/self.png")
    assert manifest.statuses.tolist() == [0, 1, 0, 1]
    assert "2 of 4 images of" in caplog.text
    assert "'cat/gone.jpg': No such file or directory" in caplog.text


def test_a_class_folder_that_is_a_link_to_nothing_is_an_empty_class(tmp_path):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "bird").symlink_to("/not/mounted")
    assert "without images: 'bird' (a link that leads nowhere (No such" in error(DatasetError, tmp_path)
    assert open_dataset(tmp_path, skip_empty_classes=True).classes == ("cat", "dog")


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


def test_a_class_folder_without_images_is_refused_unless_asked_for(tmp_path, caplog):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg", "fish/1.xcf", "fish/a/2.xcf")
    (tmp_path / "bird" / "chicks").mkdir(parents=True)
    fault = f"2 class folders of '{tmp_path}' without images: 'bird' (empty), 'fish' (2 .xcf)"
    assert error(DatasetError, tmp_path) == (
        f"{fault}; add images, move the folders away, or leave these classes out with --skip-empty-classes "
        "(skip_empty_classes=True)"
    )
    caplog.clear()
    assert open_dataset(tmp_path, skip_empty_classes=True).classes == ("cat", "dog")
    assert caplog.messages[-1] == f"{fault}; left out"


def test_a_class_without_images_in_one_split_only_is_told(tmp_path, caplog):
    put(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg")
    (tmp_path / "test" / "dog").mkdir()
    assert open_dataset(tmp_path).classes == ("cat", "dog")
    assert caplog.messages == [
        f"1 class folder of {tmp_path} without images, where other splits have some: 'test/dog'"
    ]


def test_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError) as caught:
        open_dataset("nowhere")
    assert str(caught.value) == (
        f"no images at 'nowhere' (looked for '{tmp_path}/nowhere' and '{tmp_path}/data/nowhere'); "
        "give a folder of class folders or an archive of one, a .csv, .txt or .parquet file, "
        "'torchvision:NAME', 'hf:NAME', "
        "'webdataset:FILES', 'parquet:FOLDER', 'crops:FILE' or 'digits'"
    )
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, FileNotFoundError)


def test_paths_that_cannot_be():
    with pytest.raises(MissingDataError, match=r"^no images at ''"):
        open_dataset("")
    for path, why in (("x" * 5000, "is too long"), ("a\0b", "has a zero byte")):
        with pytest.raises(InvalidInputError, match=rf"^no file can be called .*: it {why}"):
            open_dataset(path)


def test_an_empty_folder(tmp_path):
    assert error(DatasetError, tmp_path) == f"no images in '{tmp_path}'; {WANTED}"


def test_one_class(tmp_path):
    put(tmp_path, "cat/1.jpg")
    assert error(DatasetError, tmp_path) == (
        f"'{tmp_path}' has only one class, 'cat'; a classifier needs at least two"
    )


def test_images_without_class_folders(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    assert error(DatasetError, tmp_path) == f"'{tmp_path}' holds 2 images but no class folders; {WANTED}"


def test_a_split_folder_without_class_folders(tmp_path):
    put(tmp_path, "train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg")
    assert error(DatasetError, tmp_path) == (
        f"'test/' in '{tmp_path}' holds 1 image but no class folders; {WANTED}; if such folders are "
        "classes: --layout class (layout='class')"
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


#: Folders of these names are no classes.
NO_CLASSES = {*_files._LITTER_FOLDERS, *(word.encode() for word in SPLIT_FOLDERS)}
NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda name: not set(b"/\0") & set(name) and not name.startswith(b".") and name.lower() not in NO_CLASSES
)


@pytest.mark.slow
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
        dataset = open_dataset(folder, layout="class")
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
