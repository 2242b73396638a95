"""WebDataset shards: samples, labels, splits; what is said of shards that are none."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pytest

from featbank.datasets import open_dataset
from featbank.datasets.sources import absolute_source, reopen_dataset
from featbank.errors import DatasetError, FeatbankError, MissingDataError


def shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w:") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def error(data: str, **options: object) -> str:
    with pytest.raises(FeatbankError) as caught:
        open_dataset(data, **options)
    assert isinstance(caught.value, (DatasetError, MissingDataError))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("asked", ["pets", "pets/s-{1..2}.tar", "pets/s-1.tar::pets/s-2.tar"])
def test_shards_are_looked_for_where_folders_are(tmp_path, monkeypatch, asked):
    for number in (1, 2):
        files = {"a.jpg": b"a", "a.cls": b"cat", "b.jpg": b"b", "b.cls": b"dog"}
        shard(tmp_path / f"root/pets/s-{number}.tar", files)
    monkeypatch.chdir(tmp_path)
    assert error(f"webdataset:{asked}")
    monkeypatch.setenv("FEATBANK_DATA", "root")
    assert len(open_dataset(f"webdataset:{asked}").ids) == 4
    place = "::".join(f"{tmp_path}/root/{one}" for one in asked.split("::"))
    assert absolute_source(f"webdataset:{asked}") == f"webdataset:{place}"
    assert absolute_source("hf:pets/none") == "hf:pets/none"  # one of the hub


def test_samples_of_several_shards(tmp_path, caplog):
    for number in (8, 9, 10):
        shard(
            tmp_path / f"pets/s-{number:03d}.tar",
            {
                f"a/{number}.x.cls": b"ignored",
                f"{number}.jpg": b"image %d" % number,
                f"{number}.cls": b"%d\n" % number,
                "./in/0.seg.png": b"no image of the sample",
                "./in/0.png": b"png",
                "./in/0.json": b'{"label": 9, "fine": "tabby", "caption": "a cat"}',
                "bare.webp": b"bare",
            },
        )
    pattern = f"webdataset:{tmp_path}/pets/s-{{008..010}}.tar"
    dataset = open_dataset(pattern)
    assert dataset.name == "pets"
    assert dataset.ids[:3] == (b"s-008.tar/8.jpg", b"s-008.tar/bare.webp", b"s-008.tar/in/0.png")
    assert dataset.labels == ("8", None, "9", "9", None, "9", "10", None, "9")
    assert dataset.classes == ("8", "9", "10")
    assert dataset.splits is None
    again = pickle.loads(pickle.dumps(dataset))
    assert [again.read(at) for at in (0, 1, 2, 6)] == [b"image 8", b"bare", b"png", b"image 10"]
    assert caplog.messages == [f"3 of 9 images of {pattern} have no label"]
    assert reopen_dataset({"location": dataset.location}).ids == dataset.ids
    assert open_dataset(f"webdataset:{tmp_path}/pets").ids == dataset.ids
    fine = open_dataset(pattern, label_column="cls")
    assert fine.labels[:3] == ("8", None, None)
    assert "has only one class, 'tabby'" in error(pattern, label_column="fine")


def test_names_of_shards_say_splits(tmp_path):
    for split in ("train", "val"):
        shard(tmp_path / f"{split}-0.tar", {f"{n}.{e}": b"%d" % n for n in (0, 1) for e in ("jpg", "cls")})
    dataset = open_dataset(f"webdataset:{tmp_path}/{{train,val}}-0.tar")
    assert dataset.splits == ("train", "train", "val", "val")
    assert dataset.ids[0] == b"train-0.tar/0.jpg"


def test_what_is_no_shard_is_one_line(tmp_path):
    shard(tmp_path / "x-0.tar", {"1.jpg": bytes(900), "1.txt": b"1", "2.jpg": bytes(900), "2.txt": b"2"})
    assert "wanted: KEY.cls, or KEY.json with one of cls, label, class" in error(f"webdataset:{tmp_path}")
    assert open_dataset(f"webdataset:{tmp_path}", label_column="txt").classes == ("1", "2")
    said = error(f"webdataset:{tmp_path}/x-{{0..2}}.tar")
    assert f"2 of 3 shards of 'webdataset:{tmp_path}/x-{{0..2}}.tar' are not there" in said
    whole = (tmp_path / "x-0.tar").read_bytes()
    (tmp_path / "x-0.tar").write_bytes(whole[:3000])
    assert "cut short or damaged" in error(f"webdataset:{tmp_path}")
    assert "stands for more than 100000 shards" in error("webdataset:x-{0..99999999}.tar")
    shard(tmp_path / "y/0.tar", {"1.jpg": b"1", "1.json": b"{"})
    assert "'1.json' of" in error(f"webdataset:{tmp_path}/y")
    shard(tmp_path / "z/0.tar", {"1.jpg": b"1", "1.cls": b"1", "2.jpg": b"2", "2.cls": b"1"})
    assert "has only one class, '1'" in error(f"webdataset:{tmp_path}/z")
    assert f"shard '{tmp_path}/z/0.tar' is listed twice" in error(
        f"webdataset:{tmp_path}/z::{tmp_path}/z/0.tar"
    )
    with tarfile.open(tmp_path / "z/0.tar", "a:") as archive:
        archive.addfile(tarfile.TarInfo("./2.jpg"))
    assert "z/0.tar' has the entry './2.jpg' twice" in error(f"webdataset:{tmp_path}/z")
    (tmp_path / "empty").mkdir()
    assert "the folder holds no .tar" in error(f"webdataset:{tmp_path}/empty")
