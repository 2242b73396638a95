"""Torchvision datasets by name: real formats on disk, and classes of every shape of constructor."""

from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from featbank.datasets import build_manifest, decode_image, decode_pool, open_dataset
from featbank.datasets._torchvision import TorchvisionDataset
from featbank.errors import DatasetError, ImageDecodeError, MissingDataError, UnknownNameError

torchvision = pytest.importorskip("torchvision")
from torch.utils.data import Dataset as TorchDataset  # noqa: E402
from torchvision import datasets as tv  # noqa: E402


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def read_here(monkeypatch):
    """Labels are read in this process: those that decode import torch first, for each dataset anew."""

    def read(dataset, indices, of_bytes, n_bytes):
        return np.stack([of_bytes(dataset.read(index)) for index in indices]), {}

    monkeypatch.setattr(decode_pool, "read_by_processes", read)


@pytest.fixture
def mnist(tmp_path):
    """MNIST in the four files it is published as; 20 training and 10 test images."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = {}
    for part, size in (("train", 20), ("t10k", 10)):
        images[part] = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images[part]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(size, dtype=np.uint8) % 10))
    return tmp_path, images


def test_mnist_from_its_files(mnist):
    root, images = mnist
    dataset = open_dataset("torchvision:mnist", data_root=root)  # upper and lower case do not matter
    assert (dataset.name, dataset.location) == ("torchvision-mnist", "torchvision:MNIST")
    assert dataset.ids[0] == b"test/000000"
    assert list(dataset.ids) == sorted(dataset.ids)
    assert dataset.splits.count("train") == 20
    assert dataset.splits.count("test") == 10
    assert dataset.classes[:2] == ("0 - zero", "1 - one")
    assert dataset.labels[3] == "3 - three"
    for row in (0, 9, 10, 29):
        split, index = dataset.ids[row].decode().split("/")
        want = images["train" if split == "train" else "t10k"][int(index)]
        assert dataset.read(row) == b"P5\n28 28\n255\n" + want.tobytes()
        np.testing.assert_array_equal(np.asarray(decode_image(dataset.read(row)))[..., 1], want)


def test_cifar10_from_its_files(read_here, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = {}
    for name, _ in tv.CIFAR10.train_list + tv.CIFAR10.test_list:
        batches[name] = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
        content = {"data": batches[name].reshape(4, -1), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(content))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    # The published checksums are those of the published pixels.
    monkeypatch.setattr(tv.cifar, "check_integrity", lambda path, md5=None: path.endswith((*batches, "meta")))
    dataset = open_dataset("torchvision:CIFAR10", data_root=tmp_path)
    assert dataset.name == "torchvision-cifar10"
    assert dataset.classes == tuple(names)
    assert len(dataset.ids) == 24
    first_train = dataset.ids.index(b"train/000000")
    want = batches["data_batch_1"][0].transpose(1, 2, 0)
    assert dataset.read(first_train) == b"P6\n32 32\n255\n" + want.tobytes()
    assert dataset.labels[first_train + 3] == "truck"


@pytest.mark.slow
def test_svhn_like_split_argument_and_labels_attribute(monkeypatch, tmp_path):
    monkeypatch.setattr(tv, "Small", Small, raising=False)
    dataset = open_dataset("torchvision:Small", data_root=tmp_path)
    assert set(dataset.splits) == {"train", "val", "test"}
    assert dataset.classes == ("0", "1", "2")
    assert Small.built == [("train", False), ("valid", False), ("test", False)]
    assert [dataset.splits.count(split) for split in ("train", "val", "test")] == [9, 9, 9]
    # 16-bit grey stays 16-bit
    row = dataset.ids.index(b"train/000003")
    assert dataset.read(row) == b"P5\n2 2\n65535\n" + (768).to_bytes(2, "big") * 4
    assert decode_image(dataset.read(row)).getpixel((0, 0)) == (3, 3, 3)


class Small(TorchDataset):
    """Splits train, valid and test; labels in ``_labels``; 16-bit grey images."""

    built = []  # noqa: RUF012

    def __init__(self, root, split="train", transform=None, download=False):
        from torchvision.datasets.utils import verify_str_arg

        verify_str_arg(split, "split", ("train", "valid", "test"))
        Small.built.append((split, download))
        self._labels = np.arange(9) % 3
        self.offset = {"train": 0, "valid": 1000, "test": 2000}[split]

    def __len__(self):
        return 9

    def __getitem__(self, index):
        level = self.offset + index * 256
        return Image.fromarray(np.full((2, 2), level, dtype=np.uint16)), int(self._labels[index])


@pytest.fixture(autouse=True)
def forget():
    Small.built.clear()


def in_code(items, **attributes):
    """Read a dataset as torchvision's are; without its base class the decoding processes need no torch."""

    def length(self):
        return len(items)

    def item(self, index):
        if index >= len(items):
            raise IndexError(index)
        got = items[index]
        if isinstance(got, Exception):
            raise got
        return got

    made = type("Made", (), {"__len__": length, "__getitem__": item, **attributes})
    return TorchvisionDataset({"": made()}, name="made", location="torchvision:Made")


def plain(level, size=(2, 1)):
    return Image.new("L", size, level)


def test_fake_data_without_root_or_split(read_here, monkeypatch):
    class FakeData(tv.FakeData):
        def __init__(self):
            super().__init__(size=12, image_size=(3, 8, 8), num_classes=3)

    monkeypatch.setattr(tv, "FakeData", FakeData)
    dataset = open_dataset("torchvision:FakeData")
    assert dataset.splits is None
    assert dataset.ids[0] == b"000000"
    assert dataset.read(0).startswith(b"P6\n8 8\n255\n")
    assert len(dataset.ids) == 12


def test_labels_are_read_from_items_where_the_attribute_says_otherwise():
    items = [(plain(0), 1), (plain(1), 0), (plain(2), 1)]
    dataset = in_code(items, targets=[0, 0, 0], classes=["a", "b"])
    assert dataset.labels == ("b", "a", "b")


def test_labels_from_an_attribute_decode_only_both_ends():
    items = [(plain(0), 0), OSError("decoded"), (plain(2), 1)]
    assert in_code(items, targets=[0, 1, 1]).labels == ("0", "1", "1")


def test_images_without_a_label():
    items = [(plain(0), 0), (plain(1), 1), (plain(2), -1), (plain(3), None)]
    dataset = in_code(items)
    assert dataset.labels == ("0", "1", None, None)
    assert build_manifest(dataset).labels.tolist() == [0, 1, -1, -1]


def test_classes_of_one_name_are_told_apart():
    items = [(plain(0), 0), (plain(1), 1), (plain(2), 2)]
    dataset = in_code(items, classes=[("crane",), ("crane",), ("heron", "egret")])
    assert dataset.classes == ("crane (0)", "crane (1)", "heron, egret")


def test_other_modes_become_upright_rgb_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = plain(9, (2, 1))
    tall.info["exif"] = exif.tobytes()
    items = [(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), 0), (tall, 1), (Image.new("1", (1, 1), 1), 1)]
    dataset = in_code(items)
    assert dataset.read(0) == b"P6\n1 1\n255\n\xff\xff\xff"
    assert dataset.read(1) == b"P5\n1 2\n255\n\x09\x09"
    assert dataset.read(2) == b"P6\n1 1\n255\n\xff\xff\xff"


def test_an_image_torchvision_cannot_decode():
    items = [(plain(0), 0), SyntaxError("broken\nPNG"), (plain(2), 1)]
    dataset = in_code(items, targets=[0, 1, 1])
    with pytest.raises(ImageDecodeError, match=r"^decoder-error: SyntaxError: broken PNG$"):
        dataset.read(1)
    assert build_manifest(dataset).statuses.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("items", "want"),
    [
        (
            [(np.zeros((2, 2)), 0), (np.zeros((2, 2)), 1)],
            "torchvision:Made gives (ndarray, int) where (Pillow image, whole number) is wanted",
        ),
        (
            [(plain(0), "cat"), (plain(0), "dog")],
            "torchvision:Made gives a label of type str, not one whole number",
        ),
        ([(plain(0), np.array([1, 2]))], "torchvision:Made gives several numbers as a label, not one"),
        (
            [(plain(0), 0), (plain(1), 0)],
            "torchvision:Made has only one class, '0'; a classifier needs at least two",
        ),
        ([], "torchvision:Made has no images"),
    ],
)
def test_what_makes_no_classification_dataset(items, want):
    with pytest.raises(DatasetError) as caught:
        in_code(items)
    assert str(caught.value) == want


def test_an_unknown_name():
    with pytest.raises(UnknownNameError) as caught:
        open_dataset("torchvision:CIFR10")
    message = str(caught.value)
    assert message.startswith("unknown torchvision dataset 'CIFR10'; known: 'CIFAR10', 'CIFAR100', ")
    assert message.endswith(" more")
    assert message.count("'") == 12


def test_data_that_is_not_there(tmp_path):
    want = (
        f"torchvision:CIFAR10 is not in '{tmp_path}'; fetch it with --download (download=True) or say where "
        "it is with --data-root (data_root=...)"
    )
    with pytest.raises(MissingDataError) as caught:
        open_dataset("torchvision:CIFAR10", data_root=tmp_path)
    assert str(caught.value) == want
    assert caught.value.exit_code == 3


def test_a_data_root_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match="torchvision:Caltech256 is not in 'data'; fetch it"):
        open_dataset("torchvision:Caltech256")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails(tmp_path, monkeypatch):
    from urllib.error import URLError

    def no_network(self):
        raise URLError("no\nnetwork")

    monkeypatch.setattr(tv.CIFAR10, "download", no_network)
    with pytest.raises(MissingDataError) as caught:
        open_dataset("torchvision:CIFAR10", data_root=tmp_path, download=True)
    assert str(caught.value) == (
        f"torchvision:CIFAR10 cannot be had in '{tmp_path}': <urlopen error no network>; put its files "
        "there by hand, or say where they are with --data-root (data_root=...)"
    )


def test_download_is_handed_on_and_never_left_to_torchvisions_default(read_here, monkeypatch, tmp_path):
    monkeypatch.setattr(tv, "Small", Small, raising=False)
    open_dataset("torchvision:Small", data_root=tmp_path, download=True)
    assert Small.built == [("train", True), ("valid", True), ("test", True)]

    def downloaded(self):
        raise AssertionError("SEMEION downloads by default")

    monkeypatch.setattr(tv.SEMEION, "download", downloaded)
    with pytest.raises(MissingDataError):
        open_dataset("torchvision:SEMEION", data_root=tmp_path)


def test_emnist_hands_its_arguments_on(read_here, tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "test"):
        (raw / f"emnist-balanced-{part}-images-idx3-ubyte").write_bytes(
            idx(np.zeros((4, 28, 28), dtype=np.uint8))
        )
        (raw / f"emnist-balanced-{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(4, dtype=np.uint8)))
    dataset = open_dataset("torchvision:EMNIST", data_root=tmp_path)
    assert dataset.splits == ("test",) * 4 + ("train",) * 4


def test_a_dataset_that_needs_more_arguments(monkeypatch):
    with pytest.raises(
        DatasetError, match=r"torchvision:PhotoTour cannot be opened by name \(.*'name'\); build it"
    ):
        open_dataset("torchvision:PhotoTour", data_root=".")


def test_caltech256_from_its_files(read_here, tmp_path):
    for label, n in (("001.ak47", 2), ("002.american-flag", 3)):
        folder = tmp_path / "caltech256" / "256_ObjectCategories" / label
        folder.mkdir(parents=True)
        for index in range(1, n + 1):
            Image.new("RGB", (4, 3), (index, 0, 0)).save(folder / f"{label[:3]}_{index:04d}.jpg")
    dataset = open_dataset("torchvision:Caltech256", data_root=tmp_path)
    assert dataset.classes == ("001.ak47", "002.american-flag")
    assert dataset.labels == ("001.ak47",) * 2 + ("002.american-flag",) * 3
    assert decode_image(dataset.read(4)).size == (4, 3)


def test_torch_is_imported_for_torchvision_only():
    code = (
        "import sys; from featbank.datasets import open_dataset; open_dataset('digits');"
        "print(sorted({'torch', 'torchvision', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gzipped_mnist_is_missing_without_download(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(MissingDataError, match="torchvision:MNIST is not in"):
        open_dataset("torchvision:MNIST", data_root=tmp_path)
