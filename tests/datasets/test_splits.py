"""Split rules: what is read, who goes where, and what stays put when images come."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featbank.datasets import SplitRule, parse_split
from featbank.datasets.building import assign_splits
from featbank.errors import InvalidInputError
from featbank.manifest import SPLITS

EXAMPLE = "write counts per class like '28,4,8' or fractions like '0.7,0.1,0.2'"
TRAIN, VAL, TEST, NONE = range(4)


def digests_of(names):
    flat = b"".join(hashlib.sha256(str(name).encode()).digest() for name in names)
    return np.frombuffer(flat, dtype=np.uint8).reshape(-1, 32)


def starting_with(*heads):
    """Digests whose first eight bytes are given as whole numbers."""
    out = np.zeros((len(heads), 32), dtype=np.uint8)
    for row, head in enumerate(heads):
        out[row, :8] = np.frombuffer(head.to_bytes(8, "big"), dtype=np.uint8)
        out[row, 8:] = 255
    return out


def assigned(text, digests, labels=None):
    labels = np.zeros(len(digests), dtype=np.int32) if labels is None else np.asarray(labels, dtype=np.int32)
    classes = [f"c{index}" for index in range(max(labels, default=0) + 1)]
    return assign_splits(parse_split(text), labels=labels, classes=classes, digests=digests)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("28,4,8", SplitRule("counts", (28, 4, 8))),
        (" 1 , 0 , 0 ", SplitRule("counts", (1, 0, 0))),
        ("0.7,0.1,0.2", SplitRule("fractions", (0.7, 0.1, 0.2))),
        ("1.0,0,0", SplitRule("fractions", (1.0, 0.0, 0.0))),
        (".5,0.25,1e-1", SplitRule("fractions", (0.5, 0.25, 0.1))),
    ],
)
def test_rules_are_read(text, want):
    assert parse_split(text) == want
    assert parse_split(str(want)) == want


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", f"split='' is not three numbers; {EXAMPLE}"),
        ("a,b,c", f"split='a,b,c' is not three numbers; {EXAMPLE}"),
        ("70%,10%,20%", f"split='70%,10%,20%' is not three numbers; {EXAMPLE}"),
        ("0.8,0.2", f"split='0.8,0.2' has 2 numbers where train,val,test are wanted; {EXAMPLE}"),
        ("5", f"split='5' has 1 number where train,val,test are wanted; {EXAMPLE}"),
        ("1,2,3,4", f"split='1,2,3,4' has 4 numbers where train,val,test are wanted; {EXAMPLE}"),
        ("0,0,0", f"split='0,0,0' gives no image to any split; {EXAMPLE}"),
        ("-1,2,3", f"split='-1,2,3' is neither whole counts nor fractions within 0..1; {EXAMPLE}"),
        ("0.5,10,2", f"split='0.5,10,2' is neither whole counts nor fractions within 0..1; {EXAMPLE}"),
        ("nan,0.1,0.1", f"split='nan,0.1,0.1' is neither whole counts nor fractions within 0..1; {EXAMPLE}"),
        ("0.7,0.2,0.2", f"split='0.7,0.2,0.2' has fractions that sum to 1.1, over 1; {EXAMPLE}"),
    ],
)
def test_other_texts_are_refused(text, fault):
    with pytest.raises(InvalidInputError) as caught:
        parse_split(text)
    assert str(caught.value) == fault


@pytest.mark.parametrize(
    "arguments",
    [("counts", (1.5, 0, 0)), ("counts", (-1, 2, 2)), ("fractions", (0.5, 0.5)), ("share", (1, 0, 0))],
)
def test_rules_made_in_code_are_checked_too(arguments):
    with pytest.raises(InvalidInputError):
        SplitRule(*arguments)


def test_counts_take_the_first_of_each_class_in_order():
    labels = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -1]
    got = assigned("2,1,1", digests_of(range(11)), labels)
    assert got.dtype == np.uint8
    assert got[0::2].tolist() == [TRAIN, TRAIN, VAL, TEST, NONE, NONE]
    assert got[1::2].tolist() == [TRAIN, TRAIN, VAL, TEST, NONE]


def test_too_few_images_are_named():
    labels = [0] * 5 + [1] * 2 + [2] * 3 + [4] * 4
    with pytest.raises(InvalidInputError) as caught:
        assign_splits(
            parse_split("2,1,1"),
            labels=np.array(labels, dtype=np.int32),
            classes=["cat", "cup\x1b", "crab", "nobody", "dog"],
            digests=digests_of(range(14)),
        )
    assert str(caught.value) == (
        "split='2,1,1' takes 4 images of each class, more than 2 of 4 classes have: 'cup\\x1b' has 2, "
        "'crab' has 3. Use smaller counts, or fractions like '0.7,0.1,0.2'."
    )


def test_only_the_first_five_short_classes_are_named():
    with pytest.raises(InvalidInputError, match=r"'c4' has 1 and 2 more\. Use"):
        assigned("2,0,0", digests_of(range(7)), range(7))


def test_fractions_at_their_exact_limits():
    half, three_quarters, top = 2**63, 3 * 2**62, 2**64 - 1
    heads = [0, half - 1, half, three_quarters - 1, three_quarters, top]
    assert assigned("0.5,0.25,0.25", starting_with(*heads)).tolist() == [TRAIN, TRAIN, VAL, VAL, TEST, TEST]
    assert assigned("0.5,0.25,0.0", starting_with(*heads)).tolist() == [TRAIN, TRAIN, VAL, VAL, NONE, NONE]
    assert assigned("0.5,0.0,0.25", starting_with(*heads)).tolist() == [TRAIN, TRAIN, TEST, TEST, NONE, NONE]
    assert assigned("1.0,0.0,0.0", starting_with(*heads)).tolist() == [TRAIN] * 6


def test_fractions_that_sum_to_one_only_nearly_leave_no_row_out():
    for text in ("0.7,0.1,0.2", "0.1,0.2,0.7", "0.3333333333,0.3333333333,0.3333333333"):
        assert assigned(text, starting_with(2**64 - 1)).tolist() == [TEST]


def test_shares_come_out_as_asked():
    got = assigned("0.7,0.1,0.2", digests_of(range(20_000)))
    shares = np.bincount(got, minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2, 0.0], atol=0.01)


def test_rows_without_a_label_go_to_no_split():
    assert assigned("1.0,0.0,0.0", digests_of(range(3)), [0, -1, 0]).tolist() == [TRAIN, NONE, TRAIN]


@given(st.sets(st.integers(0, 10_000), min_size=1), st.sets(st.integers(0, 10_000)), st.randoms())
def test_a_row_keeps_its_split_when_others_come_or_go(first, more, random):
    def split_of(names):
        names = list(names)
        random.shuffle(names)
        return dict(zip(names, assigned("0.5,0.2,0.2", digests_of(names)).tolist(), strict=True))

    before, after = split_of(first), split_of(first | more)
    assert all(after[name] == code for name, code in before.items())


def test_codes_are_those_of_the_manifest():
    assert SPLITS == ("train", "val", "test", "none")


def test_fractions_that_leave_images_out_say_so(caplog: pytest.LogCaptureFixture) -> None:
    digests = np.zeros((4, 32), np.uint8)
    digests[:, 0] = (0, 100, 200, 250)
    labels = np.zeros(4, np.int32)
    codes = assign_splits(parse_split("0.5,0.2,0.2"), labels=labels, classes=["a"], digests=digests)
    assert codes.tolist() == [0, 0, 2, 3]
    assert "split='0.5,0.2,0.2': the fractions sum to 0.9, 1 of 4 images are in no split" in caplog.text
    caplog.clear()
    assign_splits(parse_split("0.7,0.1,0.2"), labels=labels, classes=["a"], digests=digests)
    assert not caplog.text


@pytest.mark.parametrize("n", [3, 6])
def test_a_part_that_no_image_comes_to_is_told_with_a_split_that_works(caplog, n):
    labels = np.repeat(np.arange(2, dtype=np.int32), n)
    digests = np.zeros((2 * n, 32), np.uint8)  # all of them in train
    how = {"labels": labels, "classes": ["a", "b"], "digests": digests}
    assign_splits(parse_split("0.7,0.1,0.2"), **how)
    said = caplog.messages[0]
    assert f"none of {2 * n} images comes to val and test; with classes this small count: --split " in said
    rule = parse_split(said.rpartition(" ")[2])
    assert np.bincount(assign_splits(rule, **how)).min() >= 2  # one of each class at least
    assert n != 6 or str(rule) == "3,1,2"
