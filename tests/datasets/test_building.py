"""From datasets to manifests: digests, splits of the source, limits, files that cannot be read."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank._cache import DigestCache
from featbank.datasets import (
    _files,
    build_manifest,
    decode_image,
    duplicates_across_labels,
    duplicates_across_splits,
    open_dataset,
    parse_split,
    select_images,
)
from featbank.datasets.building import row_indices
from featbank.errors import DatasetError, ImageDecodeError, InvalidInputError
from featbank.manifest import SPLITS, RowStatus

CALTECH = Path(__file__).parents[2].parent / "shared" / "data" / "caltech101-32"


@dataclass
class Listed:
    """A dataset as a user would write one."""

    ids: tuple[bytes, ...]
    labels: tuple[str | None, ...]
    splits: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ("cat", "dog")
    name: str = "listed"
    location: str = "here"

    def read(self, index):
        return b"content of " + self.ids[index]


def listed(n=100, splits=None, classes=("cat", "dog")):
    ids = tuple(f"{label}/{index:04d}".encode() for label in classes for index in range(n))
    labels = tuple(label for label in classes for _ in range(n))
    return Listed(ids, labels, splits, classes)


def test_rows_follow_the_dataset():
    dataset = listed(50)
    manifest = build_manifest(dataset)
    assert manifest.ids == dataset.ids
    assert manifest.classes == ("cat", "dog")
    assert manifest.labels.tolist() == [0] * 50 + [1] * 50
    for row in range(100):
        assert manifest.digests[row].tobytes() == hashlib.sha256(dataset.read(row)).digest()
    assert set(manifest.statuses.tolist()) == {RowStatus.OK}


def test_the_default_is_seven_tenths_one_two_by_digest():
    dataset = listed(1000)
    by_default = build_manifest(dataset)
    np.testing.assert_array_equal(by_default.splits, build_manifest(dataset, split="0.7,0.1,0.2").splits)
    assert len(by_default.counts()) == 3


def test_a_rule_may_be_given_as_text_or_object():
    dataset = listed(9)
    assert build_manifest(dataset, split="5,2,1").counts() == {"train": 10, "val": 4, "test": 2, "none": 2}
    np.testing.assert_array_equal(
        build_manifest(dataset, split="5,2,1").splits,
        build_manifest(dataset, split=parse_split("5,2,1")).splits,
    )


def test_the_splits_of_the_source_are_kept(caplog):
    caplog.set_level(logging.INFO)
    splits = ("train", "val", "test", "none") * 5
    assert build_manifest(listed(10, splits)).counts() == {"train": 5, "val": 5, "test": 5, "none": 5}
    assert caplog.messages == []


@pytest.mark.parametrize(
    "given",
    [
        ("train", "test"),
        ("train", "train", "train", "test"),
        ("train", "val"),
        ("train", "test", "none"),
        ("train",),
        ("train", "val", "test"),
    ],
)
def test_the_splits_of_a_source_are_taken_as_they_are(given, caplog):
    caplog.set_level(logging.INFO)
    splits = (given * 200)[:200]
    manifest = build_manifest(listed(100, splits))
    assert [SPLITS[code] for code in manifest.splits] == list(splits)
    assert caplog.messages == []


def test_a_rule_replaces_the_splits_of_the_source_only_when_told_to(caplog):
    own = listed(10, ("train",) * 16 + ("test",) * 4)
    with pytest.raises(InvalidInputError) as caught:
        build_manifest(own, split="2,2,2")
    assert str(caught.value) == (
        "split='2,2,2' would replace the split that 'listed' has itself (train 16, test 4): leave it out to "
        "keep that, or add --override-split (override_split=True)"
    )
    manifest = build_manifest(own, split="2,2,2", override_split=True)
    assert manifest.counts() == {"train": 4, "val": 4, "test": 4, "none": 8}
    assert caplog.messages == ["split '2,2,2' replaces the split that listed has itself (train 16, test 4)"]
    with pytest.raises(InvalidInputError, match="needs the split to take instead"):
        build_manifest(own, override_split=True)
    # where nothing is said, nothing is replaced
    assert build_manifest(listed(10, ("none",) * 20), split="2,2,2").counts()["train"] == 4


def test_identical_files_never_stand_on_two_sides_of_fractions():
    dataset = listed(200)
    dataset.read = lambda index: b"%d" % (index % 50)
    assert duplicates_across_splits(build_manifest(dataset)) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 64, 65, 299, 300, 1000])
def test_a_limit_takes_from_each_class_in_turn(limit):
    dataset = listed(100, classes=("a", "b", "c"))
    manifest = build_manifest(dataset, limit=limit)
    kept = min(limit, 300)
    assert len(manifest) == kept
    assert list(manifest.ids) == sorted(manifest.ids)
    counts = np.bincount(manifest.labels, minlength=3)
    assert counts.tolist() == [kept // 3 + (index < kept % 3) for index in range(3)]
    for label in range(3):
        mine = [one for one, code in zip(manifest.ids, manifest.labels, strict=True) if code == label]
        assert mine == list(dataset.ids[label * 100 : label * 100 + len(mine)])


def test_a_limit_takes_from_each_split_of_the_source_too():
    splits = (("test",) * 50 + ("train",) * 50) * 2
    assert build_manifest(listed(100, splits), limit=8, split=None).counts()["test"] == 4


def test_a_limit_comes_before_the_split():
    assert build_manifest(listed(100), limit=10, split="3,1,1").counts() == {"train": 6, "val": 2, "test": 2}
    with pytest.raises(InvalidInputError, match="takes 6 images of each class"):
        build_manifest(listed(100), limit=10, split="4,1,1")


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_other_limits_are_refused(limit):
    with pytest.raises(InvalidInputError) as caught:
        build_manifest(listed(), limit=limit)
    assert str(caught.value) == f"limit={limit!r} must be a whole number of at least 1, or None for all rows"


def test_row_indices_lead_back_to_the_dataset():
    dataset = listed(100)
    manifest = build_manifest(dataset, limit=10)
    indices = row_indices(dataset, manifest)
    assert [dataset.ids[index] for index in indices] == list(manifest.ids)
    for row, index in enumerate(indices):
        assert manifest.digests[row].tobytes() == hashlib.sha256(dataset.read(index)).digest()
    assert indices.tolist() != list(range(10))
    shorter = listed(3)
    assert row_indices(shorter, manifest).tolist() == [0, 1, 2, -1, -1, 3, 4, 5, -1, -1]


def test_a_file_that_cannot_be_read_is_quarantined(tmp_path, caplog):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    dataset = open_dataset(tmp_path)
    (tmp_path / "cat" / "2.jpg").unlink()
    manifest = build_manifest(dataset, split="1,0,0")
    assert manifest.statuses.tolist() == [RowStatus.OK, RowStatus.QUARANTINED, RowStatus.OK]
    assert manifest.digests[1].tobytes() == hashlib.sha256(b"unreadable\0cat/2.jpg").digest()
    assert caplog.messages == [
        f"1 of 3 images of {dataset.name} cannot be read, the first is 'cat/2.jpg': No such file or directory"
    ]


def test_an_image_the_source_cannot_decode_is_quarantined():
    dataset = listed(3)

    def read(index):
        if index == 4:
            raise ImageDecodeError("truncated", "half")
        return b"%d" % index

    dataset.read = read
    assert np.flatnonzero(build_manifest(dataset).statuses).tolist() == [4]


def test_nothing_readable_is_an_error():
    dataset = listed(3)

    def read(index):
        raise PermissionError(errno.EACCES, "Permission denied")

    dataset.read = read
    with pytest.raises(DatasetError) as caught:
        build_manifest(dataset)
    assert str(caught.value) == (
        "none of the 6 images of 'listed' can be read, the first is 'cat/0000': Permission denied"
    )


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_faults_of_this_process_quarantine_nothing(code):
    dataset = listed(100)

    def read(index):
        if index == 150:
            raise OSError(code, "ours")
        return b"x"

    dataset.read = read
    with pytest.raises(OSError, match="ours"):
        build_manifest(dataset)


def test_an_error_stops_the_reading_early():
    dataset = listed(5000)
    read = []
    lock = threading.Lock()

    def fail(index):
        with lock:
            read.append(index)
        raise KeyError("a bug")

    dataset.read = fail
    with pytest.raises(KeyError):
        build_manifest(dataset)
    assert len(read) < 5000


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"labels": ("cat",)}, "'listed' has 4 ids, 1 labels; it must have as many of each"),
        (
            {"splits": ("train",)},
            "'listed' has 4 ids, 4 labels and 1 splits; it must have as many of each",
        ),
        ({"ids": (b"a", b"a", b"b", b"c")}, "'listed' has an id twice; ids must be unique"),
        (
            {"labels": ("cat", "cat", "dgo", "dog")},
            "'listed' has the label 'dgo', which is none of its classes: 'dog', 'cat'",
        ),
        ({"labels": ("cat",) * 4}, "'listed' has only one class, 'cat'; a classifier needs at least two"),
        ({"labels": (None,) * 4}, "'listed' has no labelled image; a classifier needs at least two classes"),
        ({"splits": ("tset",) * 4}, "'listed' has the split 'tset'; known: train, val, test, none"),
    ],
)
def test_datasets_that_do_not_hold_together(changes, want):
    dataset = listed(2)
    for name, value in changes.items():
        setattr(dataset, name, value)
    with pytest.raises(DatasetError) as caught:
        build_manifest(dataset)
    assert str(caught.value) == want


def test_classes_without_a_training_image_are_told_of(caplog):
    splits = ("train",) * 10 + ("test",) * 5 + ("val",) * 5
    build_manifest(listed(10, splits))
    assert caplog.messages == ["1 of 2 classes of listed have no training image, the first is 'dog'"]


@pytest.mark.shared
@pytest.mark.skipif(not CALTECH.is_dir(), reason="the real images of ../shared/data are not here")
def test_caltech_has_32_classes_of_40():
    dataset = open_dataset(CALTECH)
    assert (dataset.name, len(dataset.classes), len(dataset.ids)) == ("caltech101-32", 32, 1280)
    manifest = build_manifest(dataset, split="28,4,8")
    assert manifest.counts() == {"train": 896, "val": 128, "test": 256}
    assert np.bincount(manifest.labels).tolist() == [40] * 32
    assert manifest.ids[27:29] == (b"Faces/image_0028.jpg", b"Faces/image_0029.jpg")
    assert manifest.splits[27:29].tolist() == [0, 1]
    for row in range(0, 1280, 40):
        assert decode_image(dataset.read(row)).mode == "RGB"


@pytest.mark.parametrize("what", ["try again", "grows", "a pipe", "a folder", "a socket", "a loop"])
def test_what_gives_no_bytes_costs_its_own_row(tmp_path, monkeypatch, caplog, what):
    """A kernel log is a regular file by its name, and says "try again"; a file may grow while it is read."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    dataset = open_dataset(tmp_path)
    path = tmp_path / "a" / "1.png"
    path.unlink()
    if what == "try again":
        os.mkfifo(path)
        held = os.open(path, os.O_RDWR)
        monkeypatch.setattr(_files.stat, "S_ISREG", lambda mode: True)
        said = "it gives no bytes now, as a log or a pipe does"
    elif what == "grows":
        path.write_bytes(bytes(2000))
        small = (tmp_path / "b" / "1.png").stat()
        monkeypatch.setattr(_files, "MAX_FILE_BYTES", 1000)
        monkeypatch.setattr(_files.os, "fstat", lambda descriptor: small)
        said = "too-many-bytes: it has more than the limit of 1000"
    elif what == "a pipe":
        os.mkfifo(path)
        said = "is not a regular file"
    elif what == "a folder":
        path.mkdir()
        said = "Is a directory"
    elif what == "a socket":
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
        said = "No such device or address"
    else:
        path.symlink_to(path.name)
        said = "Too many levels of symbolic links"
    manifest = build_manifest(dataset)
    assert np.flatnonzero(manifest.statuses == RowStatus.QUARANTINED).tolist() == [1]
    assert said in caplog.text
    if what == "try again":
        os.close(held)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("Cat", "cat"), "'Cat' and 'cat'"),
        (("cat", "cat "), "'cat' and 'cat '"),
        (("cat", "cat\u200b"), "'cat' and 'cat\\u200b'"),
        (("\ufeffcat", "cat"), "'\\ufeffcat' and 'cat'"),
        (("a\u00a0cat", "a cat"), "'a\\xa0cat' and 'a cat'"),
        (("caf\u00e9", "cafe\u0301"), "'caf\\xe9' and 'cafe\\u0301'"),
        (("ｃａｔ", "CAT"), "'ｃａｔ' and 'CAT'"),
        (("stra\u00dfe", "STRASSE"), "'stra\u00dfe' and 'STRASSE'"),
        (("cat", "cat\ufe0f"), "'cat' and 'cat\\ufe0f'"),
        (("a  cat", "a cat"), "'a  cat' and 'a cat'"),
        (("cat", "c\u00adat"), "'cat' and 'c\\xadat'"),
    ],
)
def test_labels_that_look_the_same_are_told_and_stay_two(caplog, labels, told):
    manifest = build_manifest(listed(2, classes=(*labels, "dog")))
    assert len(manifest.present_classes()) == 3
    assert f"1 labels of listed look like another one and are classes of their own: {told}" in caplog.messages


def test_labels_that_look_the_same_are_told_of_folders_and_of_lists(tmp_path, caplog):
    for label in ("Cat", "cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "1.jpg").write_text(label)
    (tmp_path / "list.csv").write_text(
        "path,label\nphotos/Cat/1.jpg,cat\nphotos/cat/1.jpg,Cat\nphotos/dog/1.jpg,dog\n"
    )
    for data in ("photos", "list.csv"):
        caplog.clear()
        build_manifest(open_dataset(tmp_path / data))
        assert any("look like another one" in one and "'Cat' and 'cat'" in one for one in caplog.messages)


def test_labels_that_differ_are_not_told(caplog):
    build_manifest(listed(1, classes=("cat", "cats", "c-at", "c at", "c_at", "\u0441at")))
    assert "look like" not in caplog.text


def test_one_file_under_two_labels_is_told_with_both(caplog):
    class Copies(Listed):
        def read(self, index):
            return b"one" if self.ids[index].endswith(b"1") else super().read(index)

    whole = listed(3)
    pairs = duplicates_across_labels(build_manifest(Copies(whole.ids, whole.labels)))
    assert pairs == [(1, 4)]
    assert (
        "1 images of listed are byte for byte images of another class: 'cat/0001' (cat) = 'dog/0001' (dog)"
        in caplog.messages
    )


def test_copies_under_one_label_or_without_a_label_are_no_conflict():
    class Same(Listed):
        def read(self, index):
            return b"one" if self.labels[index] != "dog" else b"two"

    labels = ("cat", "cat", "dog", "dog", None)
    manifest = build_manifest(Same(tuple(b"%d" % index for index in range(5)), labels))
    assert duplicates_across_labels(manifest) == []


class Unreadable(Listed):
    """All images of cats are gone."""

    def read(self, index):
        if self.labels[index] == "cat":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return super().read(index)


def test_a_class_that_cannot_be_read_at_all_is_refused_unless_asked_for(caplog):
    whole = listed(3, classes=("cat", "dog", "owl"))
    gone = Unreadable(whole.ids, whole.labels, classes=whole.classes)
    with pytest.raises(DatasetError) as caught:
        build_manifest(gone)
    assert str(caught.value) == (
        "none of the images of 'cat' (3) in listed can be read; mend or replace them, or go on without these "
        "classes by --skip-empty-classes (skip_empty_classes=True)"
    )
    assert build_manifest(gone, skip_empty_classes=True).present_classes() == ("dog", "owl")
    assert "none of the images of 'cat' (3) in listed can be read: nothing can be learned" in caplog.text
    # A few images for a trial say nothing of the class.
    assert len(build_manifest(gone, limit=4)) == 4


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(20):
            (folder / label / f"{index:02d}.png").write_bytes(f"{label} {index}".encode())
    return folder


@pytest.fixture
def reads(monkeypatch):
    """Paths of the files that are read, in any order."""
    opened = []
    original = _files.open_regular_file
    monkeypatch.setattr(_files, "open_regular_file", lambda path: opened.append(path) or original(path))
    return opened


def remembering(dataset, tmp_path, **options):
    """Build a manifest as one run after another does."""
    digests = DigestCache(tmp_path / "digests", settle_s=-3600.0)  # the tests write and look at once
    manifest = build_manifest(dataset, digests=digests, **options)
    digests.save()
    return manifest


def test_a_second_manifest_reads_no_file_that_has_not_changed(photos, tmp_path, reads):
    first = remembering(open_dataset(photos), tmp_path)
    assert len(reads) == 40
    reads.clear()
    second = remembering(open_dataset(photos), tmp_path)
    assert reads == []
    assert first.digest() == second.digest() == build_manifest(open_dataset(photos)).digest()


def test_a_changed_file_alone_is_read_again(photos, tmp_path, reads):
    remembering(open_dataset(photos), tmp_path)
    reads.clear()
    changed = photos / "cat" / "03.png"
    before = changed.stat()
    other = tmp_path / "other"
    other.write_bytes(b"x" * before.st_size)  # of the size and time of the first, but another file
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(changed)
    (photos / "dog" / "new.png").write_bytes(b"new")
    manifest = remembering(open_dataset(photos), tmp_path)
    assert sorted(one.rpartition(b"/")[2] for one in reads) == [b"03.png", b"new.png"]
    row = manifest.ids.index(b"cat/03.png")
    assert manifest.digests[row].tobytes() == hashlib.sha256(b"x" * before.st_size).digest()


def test_rehash_reads_every_file(photos, tmp_path, reads):
    remembering(open_dataset(photos), tmp_path)
    reads.clear()
    remembering(open_dataset(photos), tmp_path, rehash=True)
    assert len(reads) == 40


def test_a_file_that_cannot_be_read_is_tried_each_time(photos, tmp_path, reads):
    (photos / "cat" / "03.png").unlink()
    (photos / "cat" / "03.png").symlink_to("/proc/self/mem")  # there, and never readable from its start
    for _ in range(2):
        manifest = remembering(open_dataset(photos), tmp_path)
        assert manifest.ids[int(np.flatnonzero(manifest.statuses)[0])] == b"cat/03.png"


def test_an_image_is_known_wherever_it_is_listed(photos, tmp_path, reads):
    remembering(open_dataset(photos), tmp_path)
    reads.clear()
    rows = "".join(f"{label}/{at:02d}.png,{label}\n" for label in ("cat", "dog") for at in range(5))
    (photos / "list.csv").write_text("path,label\n" + rows)
    remembering(select_images(open_dataset(photos), images_per_class=3), tmp_path)
    opened = [one for one in reads if not one.endswith(b".csv")]
    remembering(open_dataset(photos / "list.csv"), tmp_path)
    assert opened == [one for one in reads if not one.endswith(b".csv")] == []


def test_a_user_dataset_with_paths_of_its_own(photos, tmp_path, reads, monkeypatch):
    monkeypatch.chdir(photos)

    class Mine(Listed):
        def path_of(self, index):
            return self.ids[index]  # relative to where we are

        def read(self, index):
            reads.append(self.ids[index])
            return (photos / os.fsdecode(self.ids[index])).read_bytes()

    ids = tuple(f"{label}/{at:02d}.png".encode() for label in ("cat", "dog") for at in range(3))
    dataset = Mine(ids, ("cat",) * 3 + ("dog",) * 3)
    first = remembering(dataset, tmp_path)
    reads.clear()
    assert remembering(dataset, tmp_path).digest() == first.digest()
    assert reads == []


def test_digests_are_kept_for_files_alone(tmp_path):
    remembering(listed(5), tmp_path)
    assert not (tmp_path / "digests").exists()
