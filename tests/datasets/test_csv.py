"""CSV files: what they list, and all their faults at once."""

from __future__ import annotations

import os

import pytest

from featbank.datasets import open_dataset
from featbank.errors import DatasetError, MissingDataError


@pytest.fixture
def images(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def listed(folder, text):
    file = folder / "list.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def error(folder, text):
    file = listed(folder, text)
    with pytest.raises(DatasetError) as caught:
        open_dataset(file)
    message = str(caught.value)
    assert message.startswith(f"'{file}' ")
    return message.removeprefix(f"'{file}' ")


def test_rows_in_name_order_with_splits(images):
    dataset = open_dataset(
        listed(images, f"path,label,split\nc.jpg,dog,test\na.jpg,cat,train\n{images}/b.jpg,dog,Valid\n")
    )
    assert dataset.ids == (os.fsencode(images) + b"/b.jpg", b"a.jpg", b"c.jpg")
    assert dataset.labels == ("dog", "cat", "dog")
    assert dataset.splits == ("val", "train", "test")
    assert dataset.classes == ("cat", "dog")
    assert (dataset.name, dataset.location) == ("list", str(images / "list.csv"))
    assert [dataset.read(index) for index in range(3)] == [b"b.jpg", b"a.jpg", b"c.jpg"]


def test_no_split_column_any_column_order_other_columns_blank_lines_and_a_byte_order_mark(images):
    text = '\ufeffLabel, width, path\r\ncat,3,a.jpg\r\n\r\n"dog, big",4,b.jpg\r\n'
    dataset = open_dataset(listed(images, text))
    assert dataset.splits is None
    assert dataset.labels == ("cat", "dog, big")


def test_bytes_that_are_not_utf8_survive(images):
    name = b"caf\xe9.jpg"
    with open(os.fsencode(images) + b"/" + name, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    dataset = open_dataset(listed(images, b"path,label\n" + name + b",caf\xe9\na.jpg,b\n"))
    assert dataset.ids == (b"a.jpg", name)
    assert os.fsencode(dataset.labels[1]) == b"caf\xe9"
    assert dataset.read(1) == b"x"


def test_all_faults_are_gathered(images):
    text = (
        "path,label,split\n"
        "a.jpg,,train\n"
        ",cat,train\n"
        "b.jpg,cat,tset\n"
        "b.jpg,cat,\n"
        "nowhere.jpg,cat,test\n"
        "./a.jpg,cat,test\n"
        "c.jpg,big, cat,test\n"
    )
    assert error(images, text) == (
        "has 8 faults: line 2 has no label; line 3 has no path; "
        "line 4 has the unknown split 'tset' (train, val, test, none are known); line 5 has no split; "
        "line 5 lists 'b.jpg' again (first in line 4); and 3 more"
    )


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("path,label\nnowhere.jpg,cat\n", "has 1 fault: line 2: there is no file 'nowhere.jpg'"),
        ("path,label\na\0.jpg,cat\n", "has 1 fault: line 2: there is no file 'a\\x00.jpg'"),
        ("path,label\n.,cat\n", "has 1 fault: line 2: '.' is not a file"),
        ("path,label\na.jpg\n", "has 1 fault: line 2 has no label"),
        (
            "path,label\nc.jpg,big, cat\n",
            "has 1 fault: line 2 has 3 cells under 2 columns (quote a cell with a comma)",
        ),
        ("path,label\na.jpg,x\n./a.jpg,y\n", "has 1 fault: line 3 lists './a.jpg' again (first in line 2)"),
        (
            "file,lable\na.jpg,cat\n",
            "has 2 faults: no column 'path' (it has 'file', 'lable'); "
            "no column 'label' (it has 'lable', 'file')",
        ),
        ("path,path,label\na.jpg,b.jpg,cat\n", "has 1 fault: the column 'path' stands 2 times"),
        ("", "is empty; its first line must be path,label or path,label,split"),
        ("path,label\n", "has a header but lists no images"),
        ("path,label\na.jpg,cat\n", "has only one class, 'cat'; a classifier needs at least two"),
    ],
)
def test_each_fault(images, text, want):
    assert error(images, text) == want


def test_a_cell_without_end(images):
    assert "is not CSV (field larger than field limit" in error(
        images, "path,label\n" + "x" * 200_000 + ",cat\n"
    )


def test_control_characters_are_not_printed_raw(images):
    assert "\x1b" not in error(images, "path,label\n\x1b[31m.jpg,cat\n")


def test_no_file(tmp_path):
    with pytest.raises(MissingDataError, match="no images at"):
        open_dataset(tmp_path / "list.csv")


def test_a_file_that_goes_away_is_an_os_error(images):
    dataset = open_dataset(listed(images, "path,label\na.jpg,cat\nb.jpg,dog\n"))
    (images / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        dataset.read(0)
