"""A study's bank is its own, and what others extracted of the same images is not extracted again."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from featbank.backbones.network import TruncatedNetwork
from featbank.banks import Bank, BankStore, verify_bank
from featbank.extraction import extract, push
from featbank.pipeline import load_study, study_costs
from featbank.pipeline.planning import bank_name, open_images, plan_bank


@pytest.fixture
def pushed(monkeypatch):
    """Count the images that go through a network, whatever anybody says of it."""
    counts = []
    forward = TruncatedNetwork.forward

    def counted(self, batch, *args, **options):
        counts.append(len(batch))
        return forward(self, batch, *args, **options)

    monkeypatch.setattr(TruncatedNetwork, "forward", counted)
    return counts


@pytest.fixture
def own(small, pushed):
    """The user's bank of the study's images, under the study's name for them, in another split."""
    made = extract(
        small.parent / "data" / "photos",
        name="colours",
        backbone="minivgg",
        weights="random",
        precision="float32",
        compile="off",
        cuts=("block5_pool", "fc7"),
        split="6,1,1",
    )
    pushed.clear()
    return made.bank


def files(bank):
    return {
        str(path.relative_to(bank)): path.read_bytes()
        for path in bank.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def studied(file, cuts=("block5_pool", "fc7")):
    """Extract what the first experiment of a study needs."""
    first = load_study(file).experiments[0]
    plan = plan_bank(first.backbone, cuts, open_images(first), None, 1, None)
    return dict(plan.to_copy), push(plan)


@pytest.mark.slow
def test_the_users_bank_keeps_its_rows_and_lends_its_features(small, own, pushed):
    before = files(own)
    copied, result = studied(small)
    assert files(own) == before
    assert Bank.open(own).manifest.counts() == {"train": 18, "val": 3, "test": 3}
    assert pushed == []
    assert (result.pushed, result.skipped) == (0, 24)
    assert copied == {f"colours/{own.name}": 24}
    assert result.copied == 24
    bank = Bank.open(result.bank)
    assert (bank.dataset, bank.path.name) == ("colours.4-2-2", own.name)
    assert bank.manifest.counts() == {"train": 12, "val": 6, "test": 6}
    assert verify_bank(bank.path).findings == []
    for cut in ("block5_pool", "fc7"):
        (shard,) = bank.shard_names(cut)
        assert (bank.path / cut / shard).samefile(own / cut / shard)
        assert (bank.features(cut) == Bank.open(own).features(cut)).all()
    # the second time there is nothing to share, and nothing to do
    copied, result = studied(small)
    assert (copied, result.pushed, result.copied) == ({}, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["own", "study"])
def test_either_bank_can_be_removed(small, own, pushed, first):
    _, result = studied(small)
    gone, left = (own, result.bank) if first == "own" else (result.bank, own)
    BankStore(own.parents[1]).remove(gone)
    assert verify_bank(left).findings == []
    assert len(Bank.open(left).features("fc7")) == 24


@pytest.mark.slow
def test_only_what_nobody_has_is_pushed(small, own, pushed):
    _, result = studied(small, ("fc7", "block3_pool"))
    assert result.pushed == 24
    # the user's next cut is shared too, though the study's bank is there already
    again = extract(
        small.parent / "data" / "photos",
        name="colours",
        backbone="minivgg",
        weights="random",
        precision="float32",
        compile="off",
        cuts=("block2_pool",),
        split="6,1,1",
    )
    assert again.pushed == 24
    pushed.clear()
    _, result = studied(small, ("block2_pool",))
    assert (result.pushed, pushed) == (0, [])
    bank = Bank.open(result.bank)
    assert bank.cuts == ("block2_pool", "block3_pool", "fc7")
    assert (bank.features("block2_pool") == Bank.open(own).features("block2_pool")).all()
    assert verify_bank(bank.path).findings == []


@pytest.mark.slow
def test_only_the_images_that_came_later_are_pushed(small, own, pushed, photo_folder):
    photo_folder(n_per_class=8, classes=("blue", "green", "red", "orange", "violet"), name="more")
    for name in ("orange", "violet"):
        shutil.move(small.parent / "more" / name, small.parent / "data" / "photos" / name)
    _, result = studied(small)
    assert (result.pushed, result.skipped) == (16, 24)
    assert verify_bank(result.bank).findings == []


def stamps(cache):
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in cache.rglob("*")
    }


@pytest.mark.slow
def test_a_plan_touches_nothing(small, own, pushed, tmp_path, edited):
    before = stamps(tmp_path / "cache")
    (cost,) = study_costs(small)
    assert (cost.plan.rows, cost.plan.to_push) == (24, 24)  # block3_pool, which nobody has
    assert cost.plan.bank.parent.name == "colours.4-2-2"
    shared = edited(('["block3_pool"]', '["fc7"]'))
    assert stamps(tmp_path / "cache") == before
    assert study_costs(shared)[0].plan.to_push == 0  # the user's bank lends it
    assert stamps(tmp_path / "cache") == before
    studied(small, ("block5_pool",))  # now the study's bank is there, without fc7
    before = stamps(tmp_path / "cache")
    assert study_costs(shared)[0].plan.to_push == 0
    assert stamps(tmp_path / "cache") == before


def test_bytes_count_and_not_names(small, own, pushed, photo_folder):
    shutil.rmtree(small.parent / "data" / "photos")
    photo_folder(n_per_class=8, classes=("red", "green", "blue"), name="data/photos")
    before = files(own)
    copied, result = studied(small)
    assert (copied, result.pushed) == ({f"colours/{own.name}": 24}, 0)  # the same pictures, of other classes
    assert files(own) == before


@pytest.mark.slow
def test_a_bank_of_another_key_lends_nothing(small, own, pushed, edited):
    copied, result = studied(edited(('precision = "float32"', 'precision = "float32"\nimage_size = 48')))
    assert (copied, result.pushed) == ({}, 24)
    copied, result = studied(edited(('weights = "random"', 'dtype = "float32"\nweights = "random"')))
    assert (copied, result.pushed) == ({}, 24)
    # another backbone's weights are found out when they are read: nothing is left of the bank made for it
    copied, result = studied(edited(('weights = "random"\n', "")))
    assert (copied, result.pushed) == ({}, 24)
    names = {path.name for path in result.bank.parent.iterdir()}
    assert own.name not in names


@pytest.mark.parametrize("code", [errno.EPERM, errno.EIO])
def test_without_hard_links_there_are_two_files(small, own, pushed, monkeypatch, code):
    def refuse(*_args, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.link", refuse)
    copied, result = studied(small)
    assert (copied, result.pushed) == ({f"colours/{own.name}": 24}, 0)
    (shard,) = Bank.open(result.bank).shard_names("fc7")
    assert not (result.bank / "fc7" / shard).samefile(own / "fc7" / shard)
    assert verify_bank(result.bank).findings == []


@pytest.mark.slow
def test_a_damaged_bank_lends_nothing(small, own, pushed):
    (own / "manifest.h5").write_bytes(b"no")
    copied, result = studied(small)
    assert (copied, result.pushed) == ({}, 24)


def test_names_of_banks(edited):
    def named(*changes, limit=None):
        return bank_name(load_study(edited(*changes)).experiments[0], limit)

    split = 'split = "4,2,2"'
    assert named() == "colours.4-2-2"
    assert named(limit=17) == "colours.4-2-2.limit-17"
    assert named((split, 'split = "0.7, 0.1,0.2"')) == "colours.0.7-0.1-0.2"
    assert named((split, "classes = 2\nimages_per_class = 5")) == "colours.own-split.5-each.2-classes"
    assert named((split, 'without = ["red"]')) == "colours.own-split.without-red"
    others = {
        named((split, text))
        for text in (
            'classes = ["red", "blue"]',
            'classes = ["blue", "red"]',
            'without = ["red", "blue"]',
            'without = ["a class"]',
            'splits = {val = "test"}',
        )
    }
    assert len(others) == 5
    assert all(
        one.startswith("colours.own-split.") and len(one) == len("colours.own-split.") + 8 for one in others
    )
    long = named(('name = "colours"', f'name = "{"c" * 100}"'))
    assert len(long) == 100
