"""Draws: nested, balanced, seeded one by one; the text that asks for them; messages word for word."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.sampling import deal_folds, draw_nested, parse_sizes

HOW = "Write 4..32 (doubling), 4..32:4 (steps of 4), 1,5,10 (a list) or all."
Y = np.repeat(np.arange(4), 20)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("4..32", [4, 8, 16, 32]),
        ("4..30", [4, 8, 16]),
        ("3..24", [3, 6, 12, 24]),
        ("5..5", [5]),
        ("4..32:4", [4, 8, 12, 16, 20, 24, 28, 32]),
        ("1..10:4", [1, 5, 9]),
        ("1,5,10", [1, 5, 10]),
        ("10, 1 ,5,5", [1, 5, 10]),
        ("1,2,4..32", [1, 2, 4, 8, 16, 32]),
        ("all", ["all"]),
        ("all,4,8", [4, 8, "all"]),
    ],
)
def test_sizes_are_read(text, sizes):
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "4..2",
            "samples_per_class='4..2' runs backwards: 2 is less than 4. "
            "Write the smaller number first, e.g. 2..4.",
        ),
        ("0..8", f"samples_per_class='0..8' asks for 0 samples per class; the smallest size is 1. {HOW}"),
        ("-4", f"samples_per_class='-4' asks for -4 samples per class; the smallest size is 1. {HOW}"),
        ("-4..8", f"samples_per_class='-4..8' asks for -4 samples per class; the smallest size is 1. {HOW}"),
        ("abc", f"samples_per_class='abc' cannot be read: 'abc' is no number, range or 'all'. {HOW}"),
        ("4,,8", f"samples_per_class='4,,8' cannot be read: '' is no number, range or 'all'. {HOW}"),
        ("4..x", f"samples_per_class='4..x' cannot be read: '4..x' is no number, range or 'all'. {HOW}"),
        ("4.5", f"samples_per_class='4.5' cannot be read: '4.5' is no number, range or 'all'. {HOW}"),
        ("٤", f"samples_per_class='٤' cannot be read: '٤' is no number, range or 'all'. {HOW}"),
        ("", f"samples_per_class='' is empty. {HOW}"),
        ("  ", f"samples_per_class='  ' is empty. {HOW}"),
        ("4..8:0", f"samples_per_class='4..8:0' has step 0; a step is at least 1. {HOW}"),
        (
            "1..999999999:1",
            "samples_per_class='1..999999999:1' is more than 1000 sizes. Use a larger step or doubling.",
        ),
    ],
)
def test_what_cannot_be_read_says_so(text, message):
    with pytest.raises(InvalidInputError) as caught:
        parse_sizes(text)
    assert str(caught.value) == message


def test_draws_are_nested_balanced_and_without_replacement():
    rng = np.random.default_rng(3)
    y = rng.permutation(Y)
    for draw in draw_nested(y, [1, 4, 16, "all"], repeats=5, random_state=7):
        for size, rows in draw.items():
            assert rows.dtype == np.int64
            assert np.all(np.diff(rows) > 0)  # sorted, none twice
            if size != "all":
                assert np.bincount(y[rows]).tolist() == [size] * 4
        assert set(draw[1]) < set(draw[4]) < set(draw[16]) < set(draw["all"])
        assert len(draw["all"]) == 80


def test_a_draw_depends_on_its_seed_repeat_and_class_alone():
    base = draw_nested(Y, [4, 8], repeats=2, random_state=1)
    more = draw_nested(Y, [2, 4, 8, 16, "all"], repeats=5, random_state=1)
    fewer_classes = draw_nested(np.where(Y == 1, -1, Y), [4], repeats=2, random_state=1)
    for repeat in range(2):
        for size in (4, 8):
            np.testing.assert_array_equal(base[repeat][size], more[repeat][size])
        kept = base[repeat][4][Y[base[repeat][4]] != 1]
        np.testing.assert_array_equal(fewer_classes[repeat][4], kept)
    assert not np.array_equal(base[0][8], base[1][8])
    assert not np.array_equal(base[0][8], draw_nested(Y, [8], random_state=2)[0][8])
    # Two classes of equal size are not drawn by the same numbers.
    assert not np.array_equal(base[0][8][:8], base[0][8][8:16] - 20)


def test_a_draw_stays_what_it_was():
    """The seeds are part of what a run records: another numbering would silently redraw every curve."""
    assert draw_nested(Y, [3], random_state=0)[0][3].tolist() == FROZEN


FROZEN = [4, 6, 19, 21, 32, 39, 46, 48, 52, 70, 75, 79]


def test_rows_without_a_label_are_never_drawn():
    y = Y.copy()
    y[::2] = -1
    (draw,) = draw_nested(y, [10, "all"])
    assert np.all(y[draw[10]] >= 0)
    np.testing.assert_array_equal(draw["all"], np.flatnonzero(y >= 0))


def test_a_size_that_takes_everything_makes_the_repeats_coincide():
    draws = draw_nested(Y, [20, "all"], repeats=3)
    for draw in draws:
        np.testing.assert_array_equal(draw[20], np.arange(80))
        np.testing.assert_array_equal(draw["all"], np.arange(80))


COUNTS = [0] * 3 + [1] * 9 + [2] * 9 + [3] * 2 + [4] * 9


@pytest.mark.parametrize(
    ("y", "sizes", "options", "message"),
    [
        (
            COUNTS,
            [2, 5],
            {},
            "n_per_class=5 (--samples-per-class) asks for "
            "more samples than 2 of 5 classes have: class 0 has 3, class 3 has 2. "
            "Use at most 2, drop these classes, or add --up-to, which takes what they have.",
        ),
        (
            COUNTS,
            [3],
            {"class_names": ["ant", "bee", "cat", "do\x1bg", "elk"]},
            r"n_per_class=3 (--samples-per-class) asks for "
            r"more samples than 1 of 5 classes has: class 'do\x1bg' has 2. "
            "Use at most 2, drop this class, or add --up-to, which takes what it has.",
        ),
        (
            np.arange(9),
            [2],
            {},
            "n_per_class=2 (--samples-per-class) asks for "
            "more samples than 9 of 9 classes have: class 0 has 1, class 1 has 1, "
            "class 2 has 1, class 3 has 1, class 4 has 1 and 4 more. "
            "Use at most 1, drop these classes, or add --up-to, which takes what they have.",
        ),
        ([-1, -1], ["all"], {}, "no training row has a label; check the split and the labels"),
        ([], [1], {}, "no training row has a label; check the split and the labels"),
        ([0, 1], [0], {}, "n_per_class=0 must be at least 1, or 'all'"),
        ([0, 1], [1], {"repeats": 0}, "repeats=0 must be at least 1"),
        ([0, 1], [1], {"random_state": -1}, "random_state=-1 must not be negative"),
        ([0.5, 1], [1], {}, "y must be one row of class codes, got shape (2,), dtype float64"),
    ],
)
def test_draws_that_cannot_be_made_say_why(y, sizes, options, message):
    with pytest.raises(InvalidInputError) as caught:
        draw_nested(y, sizes, **options)
    assert str(caught.value) == message


def test_folds_keep_groups_whole_and_classes_even():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 300)
    y = (groups % 3 + rng.integers(0, 2, 300)) % 3
    folds = deal_folds(y, 5, groups=groups, random_state=4)
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in set(groups.tolist()))
    counts = np.array([np.bincount(y[folds == fold], minlength=3) for fold in range(5)])
    assert counts.min() > 0.5 * counts.max()
    np.testing.assert_array_equal(folds, deal_folds(y, 5, groups=groups * 7, random_state=4))
    assert (folds != deal_folds(y, 5, groups=groups, random_state=5)).any()
    alone = deal_folds(y, 5)
    counts = np.array([np.bincount(y[alone == fold], minlength=3) for fold in range(5)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(axis=1)) <= 2


def test_fewer_groups_than_folds():
    with pytest.raises(InvalidInputError, match="2 groups cannot be dealt out to 3 folds; ask for at most 2"):
        deal_folds([0, 0, 1, 1], 3, groups=[1, 1, 2, 2])
