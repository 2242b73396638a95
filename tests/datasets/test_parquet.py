"""Parquet files and folders of Hugging Face's `save_to_disk`: images, class names, splits, bad files."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.datasets import _parquet, build_manifest, open_dataset
from featbank.datasets.sources import reopen_dataset
from featbank.errors import DatasetError, FeatbankError, MissingDataError, MissingPackageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
NAMES = ["cat", "dog", "none here"]


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(n: int, *, seed: int = 0, told: bool = True, names: list = NAMES, **more: list) -> pa.Table:
    """As `datasets` lays it out."""
    images = [{"bytes": photo(seed + at), "path": f"{at}.png"} for at in range(n)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(images, kind), "label": pa.array([at % 2 for at in range(n)]), **more}
    found = pa.table(columns)
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return found.replace_schema_metadata(metadata) if told else found


def saved(folder: Path, parts: dict[str, pa.Table]) -> Path:
    """As `DatasetDict.save_to_disk` leaves it."""
    for split, part in parts.items():
        (folder / split).mkdir(parents=True)
        with (
            pa.OSFile(str(folder / split / "data-0.arrow"), "wb") as file,
            pa.ipc.new_stream(file, part.schema) as stream,
        ):
            stream.write_table(part, max_chunksize=2)
        (folder / split / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-0.arrow"}]})
        )
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return folder


def error(data: object, **options: object) -> str:
    with pytest.raises(FeatbankError) as caught:
        open_dataset(data, **options)
    assert isinstance(caught.value, (DatasetError, MissingDataError, MissingPackageError))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_as_the_hub_has_it(tmp_path):
    data = tmp_path / "pets/data"
    data.mkdir(parents=True)
    pq.write_table(table(5), data / "train-00000-of-00001.parquet", row_group_size=2)
    pq.write_table(table(3, seed=50), data / "test-00000-of-00001.parquet")
    dataset = open_dataset(f"parquet:{data}")
    assert (dataset.name, dataset.classes) == ("pets", tuple(NAMES))
    assert dataset.splits == ("test",) * 3 + ("train",) * 5
    assert dataset.ids[3] == b"train-00000-of-00001.parquet/000000"
    assert dataset.labels == ("cat", "dog", "cat", "cat", "dog", "cat", "dog", "cat")
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert [one.read(at) for at in (7, 0, 4, 3)] == [photo(4), photo(50), photo(1), photo(0)]
    assert _parquet.chosen_columns(table(2, names=["crane", "x", "crane"]).schema, "", None, None) == (
        "image",
        "label",
        ["crane (0)", "x", "crane (2)"],
    )
    manifest = build_manifest(dataset)  # by the decoding processes
    assert not manifest.statuses.any()
    assert reopen_dataset({"location": dataset.location}).ids == dataset.ids


def test_a_file_of_another_layout(tmp_path):
    file = tmp_path / "x.parquet"
    columns = {"jpeg": [photo(0), photo(1)], "kind": ["b", "a"], "other": ["x", "y"], "id": [7, 8]}
    pq.write_table(pa.table(columns), file)
    said = f"'{file}' has several columns of labels; say which of kind, other, id with --label-column (it has"
    assert said in error(file)
    dataset = open_dataset(file, label_column="kind")
    assert (dataset.name, dataset.classes, dataset.labels) == ("x", ("a", "b"), ("b", "a"))
    assert dataset.columns == {"label_column": "kind"}
    assert dataset.read(1) == photo(1)
    assert open_dataset(file, path_column="jpeg", label_column="id").classes == ("7", "8")
    assert "no column of image bytes called 'id'" in error(file, path_column="id", label_column="kind")
    other = file.rename(tmp_path / "x.data")
    assert reopen_dataset(
        {
            "location": open_dataset(f"parquet:{other}", label_column="id").location,
            "columns": {"label_column": "id"},
        }
    ).labels == ("7", "8")
    two = table(4, thumbnail=pa.array([photo(9)] * 4), told=False).rename_columns(["a", "label", "b"])
    pq.write_table(two, file)
    assert "several columns of image bytes; say which of a, b with --path-column" in error(file)


def test_rows_and_files_without_bytes(tmp_path):
    file = tmp_path / "x.parquet"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = pa.array([{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}], kind)
    pq.write_table(pa.table({"image": paths, "label": ["a", "b"]}), file)
    assert f"'{file}' has no bytes of images: its column 'image' has paths alone" in error(file)
    some = pa.array([{"bytes": None, "path": "a.png"}, {"bytes": photo(1), "path": "b.png"}], kind)
    pq.write_table(pa.table({"image": some, "label": ["a", "b"]}), file)
    dataset = open_dataset(file)
    with pytest.raises(OSError, match=r"has no bytes, only the path 'a\.png'"):
        dataset.read(0)
    assert dataset.read(1) == photo(1)
    pq.write_table(pa.table({"id": [1, 2], "label": ["a", "b"]}), file)
    assert f"'{file}' has no column of image bytes (it has id: int64, label: string)" in error(file)


def test_files_that_are_damaged_or_too_large_to_hold(tmp_path, monkeypatch):
    file = tmp_path / "x.parquet"
    pq.write_table(table(6), file)
    whole = file.read_bytes()
    at = whole.index(b"label")
    no_text = whole[:at] + b"\xff" + whole[at + 1 :]
    for data in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(80) + b"PAR1", no_text):
        file.write_bytes(data)
        assert "is no Parquet file, is cut short or damaged" in error(file)
    file.write_bytes(whole)
    monkeypatch.setattr("featbank.datasets._parquet.MAX_FILE_BYTES", 1000)
    assert "write it again with fewer rows in each" in error(file)
    assert "no .parquet file at" in error(f"parquet:{tmp_path}/gone")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install 'featbank[parquet]'" in error(file)


def test_a_folder_of_save_to_disk(tmp_path):
    folder = saved(tmp_path / "pets", {"train": table(5), "validation": table(2, seed=50), "more": table(2)})
    dataset = open_dataset(f"hf:{folder}")
    assert (dataset.name, dataset.classes) == ("pets", tuple(NAMES))
    assert dict(zip(dataset.ids, dataset.splits, strict=True)) == {
        **{f"more/{at:06d}".encode(): "none" for at in range(2)},
        **{f"train/{at:06d}".encode(): "train" for at in range(5)},
        **{f"validation/{at:06d}".encode(): "val" for at in range(2)},
    }
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert [one.read(at) for at in (6, 7)] == [photo(4), photo(50)]
    assert reopen_dataset({"location": dataset.location}).ids == dataset.ids
    (folder / "train/data-0.arrow").write_bytes((folder / "train/data-0.arrow").read_bytes()[:400])
    assert "the part 'train' of" in error(f"hf:{folder}")
    (folder / "train/state.json").write_text('{"_data_files": [{"filename": "../x"}]}')
    assert "names no files of its folder" in error(f"hf:{folder}")
    (folder / "train/state.json").unlink()
    assert "is no folder of save_to_disk" in error(f"hf:{folder}")


@pytest.mark.slow
def test_a_name_on_the_hub_is_not_asked_for_unbidden(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "fetch it with --download" in error("hf:nobody/has-this")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert "needs the package datasets; install it" in error("hf:nobody/has-this")


@pytest.mark.slow
def test_what_datasets_itself_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES[:2])})
    rows = {"image": [Image.open(io.BytesIO(photo(at))) for at in range(4)], "label": [0, 1, 0, 1]}
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "x.parquet"))
    for data in (f"hf:{tmp_path / 'saved'}", tmp_path / "x.parquet"):
        dataset = open_dataset(data)
        assert dataset.classes == ("cat", "dog")
        assert (
            np.asarray(Image.open(io.BytesIO(dataset.read(1)))).tolist()
            == np.asarray(rows["image"][1]).tolist()
        )
