"""What `open_dataset` takes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

import featbank.datasets
from featbank.datasets import Dataset, open_dataset
from featbank.datasets.sources import safe_name
from featbank.errors import InvalidInputError


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
        f"data={data!r} is no dataset; give a folder of class folders, a CSV file, "
        "'torchvision:NAME' or 'digits'"
    )


def test_options_that_do_not_go_with_the_data(tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        open_dataset("digits", download=True)
    assert str(caught.value) == "download=True is for 'torchvision:NAME' only, and data='digits' is none"
    with pytest.raises(InvalidInputError) as caught:
        open_dataset(tmp_path, data_root="there")
    assert (
        str(caught.value)
        == f"data_root='there' is for 'torchvision:NAME' only, and data='{tmp_path}' is none"
    )
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
