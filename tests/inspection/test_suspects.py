"""Wrong labels are found and named, copies do not vouch for each other, odd images and pairs are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from featbank.errors import InvalidInputError, UnknownNameError
from featbank.inspection import SuspectsDisplay, find_suspects
from featbank.manifest import Manifest, RowStatus

CLASSES = ("ant", "bee", "cat", "dog")
N = 40


@dataclass
class Features:
    """What `find_suspects` reads of a bank."""

    manifest: Manifest
    X: Any
    cuts: tuple[str, ...] = ("pool5", "fc7")
    key: Any = None

    def __getitem__(self, cut):
        return {"pool5": np.zeros((1, 4, 3, 3)), "fc7": self.X}[cut]

    def features(self, cut, rows):
        if cut != "fc7":
            raise UnknownNameError(f"the bank has no cut {cut!r}")
        return self.X[rows]


def bank_of(flips=(), seed=0, **changes):
    """Four kinds of 40 points that a straight line can tell apart; `flips` bear the next class's label."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(len(CLASSES)), N)
    X = (2.2 * rng.normal(size=(len(CLASSES), 24))[kinds] + rng.normal(size=(len(kinds), 24))).astype(
        np.float32
    )
    labels = kinds.copy()
    labels[list(flips)] = (labels[list(flips)] + 1) % len(CLASSES)
    digests = np.zeros((len(kinds), 32), np.uint8)
    digests[:, 0] = np.arange(len(kinds))
    manifest = Manifest(
        ids=tuple(f"{row:03d}.png".encode() for row in range(len(kinds))),
        labels=labels.astype(np.int32),
        classes=CLASSES,
        splits=(np.arange(len(kinds)) % 3).astype(np.uint8),
        digests=digests,
        statuses=np.zeros(len(kinds), np.uint8),
    )
    return Features(manifest.replaced(**changes), X)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_come_first_with_their_true_class(seed):
    flips = np.random.default_rng(seed).choice(len(CLASSES) * N, 16, replace=False).tolist()
    bank = bank_of(flips, seed)
    found = find_suspects(bank)
    assert found.cut == "fc7"
    assert {one.row for one in found.labels[:16]} == set(flips)
    assert 12 <= found.n_wrong <= 17  # of the least likely ones it is not sure
    for one in found.labels[:16]:
        assert (
            one.likelier == CLASSES[one.row // N] != one.label == CLASSES[(one.row // N + 1) % len(CLASSES)]
        )
        assert one.p_label < 0.5 < one.p_likelier
        assert one.split == ("train", "val", "test")[one.row % 3]
        assert one.id == f"{one.row:03d}.png"
    order = np.argsort(found.p_label, kind="stable")
    assert set(found.rows[order[:16]].tolist()) == set(flips)


def test_a_clean_bank_is_left_in_peace():
    found = find_suspects(bank_of())
    assert (len(found.labels), found.n_wrong) == (0, 0)
    assert (found.pairs, found.n_pairs) == ((), 0)


def test_copies_do_not_vouch_for_each_other():
    """Five copies of one image with one wrong label: heads that saw four of them would believe the fifth."""
    bank = bank_of()
    rows = np.arange(5)
    bank.X[rows] = bank.X[0]
    labels, digests = bank.manifest.labels.copy(), bank.manifest.digests.copy()
    labels[rows], digests[rows] = 2, digests[0]
    one = find_suspects(Features(bank.manifest.replaced(labels=labels, digests=digests), bank.X))
    assert set(rows.tolist()) <= {suspect.row for suspect in one.labels[:5]}


def test_pairs_under_two_labels_and_odd_images():
    bank = bank_of(flips=[7])
    bank.X[8] = bank.X[7] * 1.01  # the same picture, a little brighter
    bank.X[150] = np.random.default_rng(9).normal(size=24) * 0.01
    found = find_suspects(bank, cosine=0.999)
    (pair,) = found.pairs
    assert (pair.rows, pair.labels) == ((7, 8), ("bee", "ant"))
    assert pair.cosine == pytest.approx(1)
    assert [one.row for one in found.odd] == [150]


def test_where_unrelated_images_are_alike_it_is_said():
    found = find_suspects(bank_of(), cosine=1e-6)
    assert len(found.pairs) == 100 < found.n_pairs
    assert found.pairs[0].cosine == max(one.cosine for one in found.pairs) > 0
    assert "unrelated images are as alike there" in SuspectsDisplay(found, [], []).heading()


def test_rows_without_label_or_image_are_left_out():
    bank = bank_of(flips=[3])
    labels, statuses = bank.manifest.labels.copy(), bank.manifest.statuses.copy()
    labels[0], statuses[1] = -1, next(one for one in RowStatus if one != RowStatus.OK)
    found = find_suspects(Features(bank.manifest.replaced(labels=labels, statuses=statuses), bank.X))
    assert found.rows.tolist() == [*range(2, len(CLASSES) * N)]
    assert found.labels[0].row == 3


def test_the_picture_says_what_is_shown(whole):
    found = find_suspects(bank_of(flips=[3, 50]))
    shown = [(one.row, f"{one.label}\nrather {one.likelier}") for one in found.labels]
    display = SuspectsDisplay(found, [np.zeros((9, 16, 3), np.uint8), None], shown, title="photos").plot()
    whole(display)
    assert [axes.get_title(loc="left") for axes in display.ax_] == [text for _, text in shown]
    assert display.ax_[1].texts[0].get_text() == "image gone"
    assert display.facts()["wrong"] == 2
    with pytest.raises(InvalidInputError, match="2 suspects need as many images, got 1"):
        SuspectsDisplay(found, [None], shown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cosine": 0}, "cosine=0 must lie over 0 and up to 1"),
        ({"folds": 1}, "n_folds=1 must be at least 2"),
        (
            {"folds": 41},
            "160 labelled images of 4 classes are too few to judge each by the others: two classes need "
            "folds=41 images",
        ),
    ],
)
def test_wrong_input_is_refused(options, message):
    with pytest.raises(InvalidInputError) as caught:
        find_suspects(bank_of(), **options)
    assert str(caught.value) == message
    with pytest.raises(UnknownNameError, match="the bank has no cut 'fc9'"):
        find_suspects(bank_of(), "fc9")


def test_images_of_one_group_do_not_vouch_for_each_other():
    """Six near-copies of each patient, labels by lot: only another image of the patient says the label."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 6)
    X = rng.normal(size=(60, 90))[who] + rng.normal(scale=0.02, size=(len(who), 90))
    digests = np.zeros((len(who), 32), np.uint8)
    digests[:, :8] = np.arange(1, len(who) + 1, dtype="<u8")[:, None].view(np.uint8)
    plain = Manifest(
        tuple(b"%d" % row for row in range(len(who))),
        (who % 2).astype(np.int32),
        ("flu", "gout"),
        np.zeros(len(who), np.uint8),
        digests,
        np.zeros(len(who), np.uint8),
    )
    grouped = plain.replaced(groups=who.astype(np.int32), group_names=tuple(b"%d" % one for one in range(60)))
    torn, kept = (find_suspects(Features(one, X.astype(np.float32)), "fc7") for one in (plain, grouped))
    assert torn.p_label.mean() > 0.8
    assert kept.p_label.mean() < 0.6
