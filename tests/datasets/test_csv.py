"""CSV files: what they list, and all their faults at once."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from featbank.datasets import open_dataset
from featbank.errors import DatasetError, InvalidInputError, MissingDataError


@pytest.fixture
def images(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
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
            "has 2 faults: no column 'path' (it has 'file', 'lable'; name it with --path-column); "
            "no column 'label' (it has 'lable', 'file'; name it with --label-column)",
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


def four(folder, column, values, **options):
    rows = zip("abcd", ("cat", "dog", "cat", "dog"), values, strict=True)
    return open_dataset(
        listed(folder, f"path,label,{column}\n" + "".join(f"{one}.jpg,{y},{v}\n" for one, y, v in rows)),
        **options,
    )


@pytest.mark.parametrize(
    "column", ["set", "Subset", "fold", "partition", "phase", "Usage", "dataset", "split_name", "tvt", "w x"]
)
def test_a_column_of_splits_is_taken_whatever_its_name_and_that_is_said(images, column, caplog):
    dataset = four(images, column, ["train", "VALID", "Test", "training"])
    assert dataset.splits == ("train", "val", "test", "train")
    (said,) = caplog.messages
    assert f"its column {column!r} is taken as the split (train 2, val 1, test 1)" in said
    assert "--split-column none" in said
    caplog.clear()
    assert four(images, column, ["train", "val", "test", "train"], split_column="none").splits is None
    assert four(images, column, ["train", "val", "test", "train"], split_column=column.upper()).splits
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Usage", ["Training", "PublicTest", "PrivateTest", "Training"]),
        ("set", ["train", "test", "extra", "train"]),
        ("original_split", ["A", "B", "A", "B"]),
        ("is_test", ["0", "1", "0", "0"]),
        ("train_test", ["1", "2", "1", "1"]),
    ],
)
def test_a_column_that_says_a_split_in_part_is_refused(images, column, values):
    with pytest.raises(DatasetError, match=rf"looks split by the column '{column}' .*--split-column none$"):
        four(images, column, values)
    assert four(images, column, values, split_column="none").splits is None


@pytest.mark.parametrize(
    ("column", "values"),
    [("fold", "0123"), ("cv_fold", "0101"), ("partition", "0012"), ("dataset", "ABAB"), ("is_valid", "0100")],
)
def test_a_column_that_may_be_a_split_is_told(images, column, values, caplog):
    assert four(images, column, values).splits is None
    (said,) = caplog.messages
    assert f"the column {column!r} (" in said
    assert f"it is not used; if it is one, write these words into it and give --split-column {column}" in said


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("width", "3456"),
        ("set", "1111"),
        ("object", ["train", "bus", "test", "car"]),
        ("patient_age", "3344"),
    ],
)
def test_other_columns_are_no_business_of_ours(images, column, values, caplog):
    assert four(images, column, values).splits is None
    assert caplog.messages == []


def test_two_columns_that_say_two_splits_are_refused(images):
    text = "path,label,set,my phase\na.jpg,cat,train,test\nb.jpg,dog,test,train\n"
    assert error(images, text) == (
        "has 2 columns that say different splits; take one with --split-column set, "
        "--split-column 'my phase', or none with --split-column none"
    )
    assert open_dataset(images / "list.csv", split_column="my phase").splits == ("test", "train")


def test_a_cell_without_a_split_is_said_with_its_column(images):
    text = "path,label,set\na.jpg,cat,train\nb.jpg,dog,\nc.jpg,dog,test\n"
    assert error(images, text) == "has 1 fault: line 3 has no split in its column 'set'"


def test_columns_of_other_names(images):
    text = "File Name,split,diagnosis,path\na.jpg,train,mole,x\nb.jpg,test,melanoma,y\n"
    names = {"path_column": "file name", "label_column": "diagnosis"}
    dataset = open_dataset(listed(images, text), **names)
    assert dataset.ids == (b"a.jpg", b"b.jpg")
    assert dataset.labels == ("mole", "melanoma")
    assert dataset.columns == names
    with pytest.raises(DatasetError, match="no column 'sett'"):
        open_dataset(images / "list.csv", **names, split_column="sett")
    with pytest.raises(DatasetError, match="the column 'File Name' cannot be two things"):
        open_dataset(images / "list.csv", path_column="file name", label_column="file name")
    for data in ("digits", images, "torchvision:CIFAR10"):
        with pytest.raises(InvalidInputError, match=r"^path_column='x' is for CSV files"):
            open_dataset(data, path_column="x")


@pytest.mark.parametrize(
    "column",
    ["patient_id", "PatientID", "Subject", "sites", "video", "case number", "slide", "StudyInstanceUID"],
)
def test_groups_that_a_split_tears_apart_are_told(images, column, caplog):
    four(images, column, "1122")
    (said,) = caplog.messages
    assert f"the column {column!r} looks like groups" in said
    assert "a split by featbank puts its 2 values on both sides" in said
    caplog.clear()
    torn = "path,label,split,{}\na.jpg,x,train,1\nb.jpg,y,test,1\nc.jpg,x,train,2\nd.jpg,y,{},2\n"
    open_dataset(listed(images, torn.format(column, "train")))
    assert "1 of its 2 values stand on both sides of the split" in caplog.text
    caplog.clear()
    kept = "path,label,split,{}\na.jpg,x,train,1\nb.jpg,y,train,1\nc.jpg,x,test,2\nd.jpg,y,val,2\n"
    open_dataset(listed(images, kept.format(column)))
    open_dataset(listed(images, f"path,label,split,{column}\na.jpg,x,train,1\nb.jpg,y,test,2\n"))
    assert caplog.messages == []


def test_a_path_may_begin_with_a_tilde(images, monkeypatch):
    monkeypatch.setenv("HOME", str(images))
    (images / "~b.jpg").write_bytes(b"tilde")
    dataset = open_dataset(listed(images, "path,label\n~/a.jpg,cat\n~b.jpg,dog\n"))
    assert dataset.ids == (b"~/a.jpg", b"~b.jpg")
    assert [dataset.read(index) for index in range(2)] == [b"a.jpg", b"tilde"]
    assert "lists 'a.jpg' again" in error(images, "path,label\n~/a.jpg,cat\na.jpg,dog\n")


@pytest.mark.slow
def test_memory_is_that_of_the_rows_not_of_the_text(images):
    """Ids of 30 bytes, one table to find repeats, no text and no object for each cell."""
    n = 40_000
    names = [f"{'./' * 8}../{images.name}/{number:06d}.jpg" for number in range(n)]
    text = "path,label,split,note\n" + "".join(
        f"{name},{'cat' if at % 2 else 'dog'},train,{'x' * 200}\n" for at, name in enumerate(names)
    )
    file = listed(images, text)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=f"has {n} faults: line 2: there is no file"):
            open_dataset(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(text), peak


@pytest.mark.parametrize(
    ("separator", "encoding", "said"),
    [
        (";", "utf-8-sig", "semicolons"),
        ("\t", "utf-8", "tabs"),
        ("\t", "utf-16", "tabs and in UTF-16"),
        (",", "utf-16", "commas and in UTF-16"),
    ],
)
def test_what_spreadsheets_write_is_read_and_told(images, caplog, separator, encoding, said):
    rows = [("path", "label", "note"), ("a.jpg", "h\xf6hle, tief" if separator != "," else "h\xf6hle", "1")]
    text = "\r\n".join(separator.join(row) for row in [*rows, ("b.jpg", "wald", "")])
    dataset = open_dataset(listed(images, text.encode(encoding)))
    assert (dataset.ids, dataset.labels) == ((b"a.jpg", b"b.jpg"), (rows[1][1], "wald"))
    assert f"read as separated by {said}" in caplog.text


def test_bytes_of_another_encoding_are_named(images):
    text = "path;label\nh\xf6hle.jpg;a\na.jpg;b;c\n".encode("latin-1")
    assert error(images, text) == (
        "has 2 faults: line 2: there is no file 'h\\xf6hle.jpg' "
        "(not UTF-8: byte 0xf6; save the list as UTF-8); "
        "line 3 has 3 cells under 2 columns (quote a cell with a semicolon)"
    )
    cut = "path,label\na.jpg,a\n".encode("utf-16")[:-1]
    assert error(images, cut).endswith("is not UTF-16 (truncated data); save the list as UTF-8")
