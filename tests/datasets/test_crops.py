"""Crops: boxes of images in a CSV."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from featbank.datasets import build_manifest, open_dataset
from featbank.datasets.sources import reopen_dataset
from featbank.errors import DatasetError, ImageDecodeError


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a#1.png")
    return pixels


def listed(tmp_path, *lines, header="path,x,y,w,h,label"):
    (tmp_path / "boxes.csv").write_text("\n".join((header, *lines)) + "\n")
    return f"crops:{tmp_path / 'boxes.csv'}"


def test_a_list_of_boxes_is_looked_for_where_other_lists_are(tmp_path, photo, monkeypatch):
    listed(tmp_path, "a#1.png,0,0,30,20,whole", "a#1.png,3,5.4,10,7,part")
    monkeypatch.setenv("FEATBANK_DATA", str(tmp_path))
    monkeypatch.chdir("/")
    assert open_dataset("crops:boxes.csv").labels == ("whole", "part")


def test_a_crop_is_what_is_in_its_box(tmp_path, photo):
    lines = ("a#1.png,0,0,30,20,whole", "a#1.png,3,5.4,10,7,part", "a#1.png,25,0,10,9,part")
    dataset = open_dataset(listed(tmp_path, *lines))
    assert dataset.ids == (b"a#1.png#0,0,30,20", b"a#1.png#25,0,10,9", b"a#1.png#3,5,10,7")
    assert dataset.labels == ("whole", "part", "part")
    assert dataset.name == "boxes"
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert (np.asarray(Image.open(io.BytesIO(one.read(0)))) == photo).all()
        assert (np.asarray(Image.open(io.BytesIO(one.read(2)))) == photo[5:12, 3:13]).all()
    with pytest.raises(ImageDecodeError, match=r"crop-outside: 25,0,10,9 is not inside 'a#1.png', 30 x 20"):
        dataset.read(1)
    manifest = build_manifest(dataset)  # by the decoding processes; a box that is outside costs its row
    assert manifest.statuses.astype(bool).tolist() == [False, True, False]
    assert not (manifest.digests[0] == manifest.digests[2]).all()
    assert reopen_dataset({"location": dataset.location, "columns": dataset.columns}).ids == dataset.ids


def test_other_columns_and_splits(tmp_path, photo):
    header = "file,X,y,W,h,kind,split"
    data = listed(tmp_path, "a#1.png,0,0,3,3,a,train", "a#1.png,0,0,3,4,b,test", header=header)
    dataset = open_dataset(data, path_column="file", label_column="kind")
    assert dataset.splits == ("train", "test")
    again = reopen_dataset({"location": dataset.location, "columns": dataset.columns})
    assert again.labels == ("a", "b")


def test_boxes_of_one_image_on_two_sides_are_told(tmp_path, photo, caplog):
    lines = ("a#1.png,0,0,3,3,a,train", "a#1.png,0,0,3,4,b,val")
    open_dataset(listed(tmp_path, *lines, header="path,x,y,w,h,label,split"))
    open_dataset(listed(tmp_path, *(line.rpartition(",")[0] for line in lines)))
    assert [one.partition(": boxes ")[2][:66] for one in caplog.messages] == [
        "of one image stand on both sides of the split (1 images): accuraci",
        "of one image stand on both sides of the split (1 images), if featb",
    ]
    assert "--group-by '^[^#]*', or a column 'split', keeps those of an image together" in caplog.text
    caplog.clear()
    grouped = [f"{line.rpartition(',')[0]},{group}" for line, group in zip(lines, "pp", strict=True)]
    open_dataset(listed(tmp_path, *grouped, header="path,x,y,w,h,label,who"), group_column="who")
    assert not caplog.messages
    torn = [grouped[0], grouped[1].removesuffix("p") + "q"]
    open_dataset(listed(tmp_path, *torn, header="path,x,y,w,h,label,who"), group_column="who")
    assert len(caplog.messages) == 1
    caplog.clear()
    both = [line.replace("val", "train") for line in lines]
    open_dataset(listed(tmp_path, *both, header="path,x,y,w,h,label,split"))
    assert not caplog.messages


def test_boxes_that_are_none_are_gathered(tmp_path, photo):
    lines = (
        "a#1.png,0,0,3,3,a",
        "a#1.png,0,0,3,x,a",
        "a#1.png,-1,0,3,3,a",
        "a#1.png,1,0,0,3,a",
        "a#1.png,0,0,3,3,b",
        "gone.png,0,0,inf,3,b",
    )
    with pytest.raises(DatasetError) as caught:
        open_dataset(listed(tmp_path, *lines))
    said = str(caught.value)
    for part in (
        "has 5 faults: line 3 has the box '0, 0, 3, x', not four numbers",
        "line 4 has the box '-1, 0, 3, 3', which begins outside of the image or is empty",
        "line 5 has the box '1, 0, 0, 3'",
        "line 6 lists 'a#1.png#0,0,3,3' again (first in line 2)",
        "line 7 has the box '0, 0, inf, 3'",
    ):
        assert part in said
    with pytest.raises(DatasetError, match="the column 'w' stands 0 times; the column 'h' stands 0 times"):
        open_dataset(listed(tmp_path, "a#1.png,1,2,a", header="path,x,y,label"))
