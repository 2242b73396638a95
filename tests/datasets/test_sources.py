"""What `open_dataset` takes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import featbank.datasets
from featbank.datasets import Dataset, build_manifest, open_dataset
from featbank.datasets.decode_pool import DecodePool, DecodeRequest
from featbank.datasets.sources import SOURCES, safe_name
from featbank.errors import InvalidInputError, MissingDataError, MissingPackageError


def put(folder, *paths):
    for path in paths:
        full = folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(b"x")


def test_a_dataset_is_returned_as_it_is():
    digits = open_dataset("digits")
    assert isinstance(digits, Dataset)
    assert open_dataset(digits) is digits


def test_every_source_is_a_dataset(tmp_path):
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "list.CSV").write_text("path,label\ncat/1.jpg,cat\ndog/1.jpg,dog\n")
    for data in (tmp_path, tmp_path / "list.CSV"):
        assert isinstance(open_dataset(data), Dataset)


def test_a_folder_named_digits_needs_its_dot(tmp_path, monkeypatch):
    put(tmp_path, "digits/cat/1.jpg", "digits/dog/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("digits").ids) == 1797
    assert len(open_dataset("./digits").ids) == 2


@pytest.mark.parametrize("data", [3, None, b"bytes", object, ["a"]])
def test_other_objects_are_refused(data):
    with pytest.raises(InvalidInputError) as caught:
        open_dataset(data)
    assert str(caught.value) == (
        f"data={data!r} is no dataset; give a folder of class folders or an archive of one, a .csv, .txt "
        "or .parquet file, 'torchvision:NAME', 'hf:NAME', 'webdataset:FILES', 'parquet:FOLDER', 'crops:FILE' "
        "or 'digits'"
    )


def test_options_that_do_not_go_with_the_data(tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        open_dataset("digits", download=True)
    said = "'torchvision:NAME', 'hf:NAME' and lists of addresses only"
    assert str(caught.value) == f"download=True is for {said}, and data='digits' is none"
    with pytest.raises(InvalidInputError) as caught:
        open_dataset(tmp_path, data_root="there")
    assert (
        str(caught.value) == "data_root='there' is for 'torchvision:NAME' and lists of addresses only, and "
        f"data='{tmp_path}' is none"
    )
    for missing, options in (
        ("x.txt", {"data_root": "/tmp", "download": True}),
        ("x.csv", {"group_column": "g"}),
    ):
        with pytest.raises(MissingDataError, match=r"^no images at "):
            open_dataset(tmp_path / missing, **options)
    with pytest.raises(InvalidInputError, match=r"^download=True is for "):
        open_dataset(tmp_path / "x.zip", download=True)
    with pytest.raises(InvalidInputError, match=r"^name='x' is for datasets given as text"):
        open_dataset(open_dataset("digits"), name="x")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("flowers_17.v2-b", "flowers_17.v2-b"),
        ("my photos (2024)", "my-photos-2024"),
        ("..", "dataset"),
        ("", "dataset"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("a/b\\c:d", "a-b-c-d"),
        ("\udce9t\u00e9", "t"),
        ("x" * 300, "x" * 100),
    ],
)
def test_names_are_safe_for_folders(text, want):
    assert safe_name(text) == want


def test_the_public_names_are_there():
    for name in featbank.datasets.__all__:
        assert getattr(featbank.datasets, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        featbank.datasets.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, featbank.datasets;"
        "print(sorted({'torch', 'torchvision', 'PIL', 'sklearn', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


#: A source of another package: images made up from a number, `stripes:SIZE`, and a list in a file of its own.
PLUG_IN = (Path(__file__).parents[1] / "plug_ins" / "stripes_plug_in.py").read_text()
ENTRY_POINTS = """
[featbank.datasets]
stripes = stripes_plug_in:Stripes
.stripes = stripes_plug_in:open_list
digits = stripes_plug_in:Stripes
broken = stripes_plug_in:Nothing
"""


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """A package as pip installs it, on the path."""
    site = tmp_path / "site"
    put(
        site, "stripes_plug_in.py", "stripes-1.0.dist-info/METADATA", "stripes-1.0.dist-info/entry_points.txt"
    )
    (site / "stripes_plug_in.py").write_text(PLUG_IN)
    (site / "stripes-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\n")
    (site / "stripes-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(SOURCES, "_values", dict(SOURCES._values))  # what it loads is forgotten afterwards
    yield
    sys.modules.pop("stripes_plug_in", None)


def test_another_package_adds_sources(plug_in, tmp_path):
    assert len(PLUG_IN.strip().splitlines()) <= 40
    dataset = open_dataset("stripes:5", name="mine")
    assert (dataset.name, dataset.location, len(dataset.ids)) == ("mine", "stripes:5", 10)
    assert isinstance(dataset, Dataset)
    manifest = build_manifest(dataset)
    assert manifest.labels.tolist() == [0] * 5 + [1] * 5
    (tmp_path / "a.STRIPES").write_text("4")
    assert len(open_dataset(tmp_path / "a.STRIPES").ids) == 8
    assert {"stripes", ".stripes", "digits", "folder", ".csv", "torchvision"} <= set(SOURCES.names())
    # the decoding processes know it too
    assert [one.shape for one in decoded(dataset, [0, 9])] == [(2, 2, 3)] * 2


def decoded(dataset, rows):
    with DecodePool(dataset, np.asarray, shape=(2, 2, 3), batch_size=4, workers=1) as pool:
        for batch in pool.batches([DecodeRequest(rows)]):
            assert batch.failures == []
            return list(batch.images.copy())


def test_options_of_a_plug_in_are_those_it_takes(plug_in):
    assert open_dataset("stripes:2", split_column="x").splits == ("train", "test") * 2
    with pytest.raises(InvalidInputError) as caught:
        open_dataset("stripes:2", layout="class")
    assert (
        str(caught.value)
        == "layout='class' is for folders and archives of images only, and data='stripes:2' is none"
    )


def test_a_plug_in_replaces_nothing_and_says_when_it_cannot_be_loaded(plug_in):
    assert len(open_dataset("digits").ids) == 1797
    with pytest.raises(MissingPackageError) as caught:
        open_dataset("broken:x")
    assert str(caught.value) == (
        "source 'broken' of the package 'stripes' cannot be loaded from 'stripes_plug_in:Nothing' "
        "(AttributeError: module 'stripes_plug_in' has no attribute 'Nothing'); mend or uninstall that "
        "package"
    )


def test_a_folder_with_a_colon_is_a_folder(tmp_path, monkeypatch):
    put(tmp_path, "my:photos/cat/1.jpg", "my:photos/dog/1.jpg", "digits:1/cat/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("my:photos").ids) == 2
    with pytest.raises(
        InvalidInputError, match=r"^data='digits:1' is unknown; the digits are called 'digits'"
    ):
        open_dataset("digits:1")
    for option in ("path_column", "download", "layout"):
        with pytest.raises(InvalidInputError, match=f"^{option}="):
            open_dataset("digits", **{option: "x"})
