"""The manifest: rows that hold together, and names fit for a terminal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featbank.errors import InvalidInputError
from featbank.manifest import SPLITS, Manifest, RowStatus, printable


def fields(n=4, **changes):
    return {
        "ids": tuple(b"%d" % index for index in range(n)),
        "labels": np.arange(n, dtype=np.int32) % 2,
        "classes": ("cat", "dog"),
        "splits": np.arange(n, dtype=np.uint8) % 4,
        "digests": np.zeros((n, 32), dtype=np.uint8),
        "statuses": np.zeros(n, dtype=np.uint8),
        **changes,
    }


def test_length_rows_and_counts():
    statuses = np.array([0, 0, 0, 0, RowStatus.QUARANTINED, 0, RowStatus.ABSENT, 0], dtype=np.uint8)
    manifest = Manifest(**fields(8, statuses=statuses))
    assert len(manifest) == 8
    assert manifest.rows("train").tolist() == [0]
    assert manifest.rows("train", readable=False).tolist() == [0, 4]
    assert manifest.rows().tolist() == [0, 1, 2, 3, 5, 7]
    assert manifest.rows(readable=False).tolist() == list(range(8))
    assert manifest.rows("val").dtype == np.int64
    assert manifest.counts() == {"train": 2, "val": 2, "test": 2, "none": 2}


def test_splits_without_rows_are_not_counted():
    assert Manifest(**fields(2)).counts() == {"train": 1, "val": 1}


def test_a_manifest_may_be_empty():
    manifest = Manifest(**fields(0))
    assert (len(manifest), manifest.counts(), manifest.rows("test").tolist()) == (0, {}, [])


def test_an_unknown_split():
    with pytest.raises(InvalidInputError) as caught:
        Manifest(**fields()).rows("tset")
    assert str(caught.value) == "split='tset' is not one of train, val, test, none"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"labels": np.zeros(3, dtype=np.int32)}, "labels has shape (3,), not (4,)"),
        ({"splits": np.zeros((4, 1), dtype=np.uint8)}, "splits has shape (4, 1), not (4,)"),
        ({"digests": np.zeros((4, 20), dtype=np.uint8)}, "digests has shape (4, 20), not (4, 32)"),
        ({"statuses": np.zeros(5, dtype=np.uint8)}, "statuses has shape (5,), not (4,)"),
        ({"ids": (b"a", b"b", b"a", b"c")}, "an id stands twice"),
        ({"labels": np.array([0, 1, 2, 0], dtype=np.int32)}, "a label is outside -1..1"),
        ({"labels": np.array([0, 1, -2, 0], dtype=np.int32)}, "a label is outside -1..1"),
        ({"splits": np.array([0, 1, 4, 0], dtype=np.uint8)}, "a split code is over 3"),
        (
            {"ids": (b"a", b"a", b"b", b"c"), "splits": np.full(4, 9, dtype=np.uint8)},
            "an id stands twice; a split code is over 3",
        ),
    ],
)
def test_rows_that_do_not_hold_together(changes, fault):
    with pytest.raises(InvalidInputError) as caught:
        Manifest(**fields(**changes))
    assert str(caught.value) == f"manifest of 4 rows does not hold together: {fault}"


def test_replaced_is_a_checked_copy():
    manifest = Manifest(**fields())
    other = manifest.replaced(splits=np.zeros(4, dtype=np.uint8))
    assert other.counts() == {"train": 4}
    assert manifest.counts() != other.counts()
    with pytest.raises(InvalidInputError):
        manifest.replaced(splits=np.zeros(3, dtype=np.uint8))


def test_codes_that_stand_in_files_never_change():
    assert SPLITS == ("train", "val", "test", "none")
    assert [status.value for status in RowStatus] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        (b"cat/1.jpg", "cat/1.jpg"),
        ("caf\u00e9 \u6f22\u5b57", "caf\u00e9 \u6f22\u5b57"),
        (b"caf\xe9", "caf\\xe9"),
        ("caf\udce9", "caf\\xe9"),
        (b"a\nb\tc", "a\\nb\\tc"),
        (b"\x1b[31m", "\\x1b[31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
    ],
)
def test_printable(name, want):
    assert printable(name) == want


@given(st.binary() | st.text())
def test_printable_is_always_fit_for_a_terminal(name):
    text = printable(name)
    assert text.isprintable()
    text.encode("utf-8")


def test_a_manifest_fits_a_screen():
    n = 10_000
    codes = np.zeros(n, np.uint8)
    manifest = Manifest(
        ids=tuple(b"%d.jpg" % row for row in range(n)),
        labels=codes.astype(np.int32),
        classes=tuple(f"class {code}" for code in range(1000)),
        splits=codes,
        digests=np.zeros((n, 32), np.uint8),
        statuses=codes,
    )
    said = repr(manifest)
    assert said.startswith("Manifest(ids=(b'0.jpg', b'1.jpg', b'2.jpg', ...), labels=array([0, 0, 0")
    assert len(said) < 1000
    assert "\n" not in said
