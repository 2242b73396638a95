"""Banks are made, listed, found by what people type, and removed."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from featbank.banks import Bank, BankStore
from featbank.banks.verification import set_damaged_aside
from featbank.errors import (
    BankFormatError,
    BankNotFoundError,
    CacheWriteError,
    CorruptBankError,
    InvalidInputError,
    UnknownNameError,
)


@pytest.fixture
def three(store, kit, manifest):
    """Three banks; the middle one changed last."""
    banks = [
        store.create_or_open("digits", kit.KEY, {}),
        store.create_or_open("digits", kit.new_key(backbone="vgg16"), {}),
        store.create_or_open("shapes", kit.new_key(backbone="vgg16", decoder="other"), {}),
    ]
    for age, bank in zip((300, 100, 200), banks, strict=True):
        bank.set_manifest(manifest)
        for name in ("bank.json", "manifest.h5", ".lock"):
            os.utime(bank.path / name, (1e9 - age, 1e9 - age))
    return banks


def test_create_then_open(store, kit):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    assert bank.path == store.root / "shapes" / "minivgg-fa4f2b3c" == store.path_for("shapes", kit.KEY)
    before = kit.tree(bank.path)
    again = store.create_or_open("shapes", kit.KEY, {"location": "elsewhere"})
    assert again.provenance == kit.PROVENANCE
    assert again.key == kit.KEY
    assert (again.name, again.dataset) == ("shapes/minivgg-fa4f2b3c", "shapes")
    assert kit.tree(bank.path) == before
    written = json.loads((bank.path / "bank.json").read_text())
    assert list(written) == ["format_version", "dataset", "key", "key_digest", "provenance", "sha256"]


def test_another_key_under_this_name_is_refused(store, kit):
    bank = store.create_or_open("shapes", kit.KEY, {})
    other = kit.new_key(image_size=48)
    bank.path.rename(store.path_for("shapes", other))
    with pytest.raises(
        BankFormatError, match=r"has another key \(image_size is 32, not 48\); the folder was renamed"
    ):
        store.create_or_open("shapes", other, {})


@pytest.mark.parametrize("provenance", [{"x": float("nan")}, {"x": object()}, "text", {"x": {1, 2}}])
def test_provenance_must_be_json(store, kit, provenance):
    with pytest.raises(InvalidInputError):
        store.create_or_open("shapes", kit.KEY, provenance)
    assert store.paths() == []


@pytest.mark.parametrize("dataset", ["", "a/b", "..", ".x", "x" * 101, "a b"])
def test_dataset_names_are_safe(store, kit, dataset):
    with pytest.raises(InvalidInputError, match=f"^dataset={dataset!r} cannot name a folder"):
        store.create_or_open(dataset, kit.KEY, {})


def test_list_shows_broken_banks_with_their_error(three, store):
    (three[0].path / "bank.json").write_text("{")
    (three[1].path / "manifest.h5").write_bytes(b"")
    (three[2].path / "bank.json").unlink()
    (store.root / "stray.txt").write_text("x")
    (store.root / "digits" / ".tmp-x").mkdir()
    infos = store.list()
    assert [info.path for info in infos] == [bank.path for bank in three]
    assert [info.name for info in infos] == [bank.name for bank in three]
    assert "bank.json' is damaged: no JSON object" in infos[0].error
    assert "manifest.h5' is damaged" in infos[1].error
    assert "it has no bank.json" in infos[2].error


def test_list_of_nothing(tmp_path):
    assert BankStore(tmp_path / "nothing").list() == []


def test_list_with_a_damaged_cut(bank, store):
    (bank.path / "fc7" / "cut.json").write_text("[]")
    (info,) = store.list()
    assert "cut.json' is damaged" in info.error


def test_newest(three, store, tmp_path):
    assert store.newest() == three[2].path
    three[1].touch()
    assert store.newest() == three[1].path
    assert store.resolve() == three[1].path
    os.utime(three[0].path / "manifest.h5", (2e9, 2e9))  # a clock that is ahead
    assert store.newest() == three[1].path
    assert store.newest_first() == (three[1].path, three[2].path, three[0].path)
    # copied in from a machine whose clock is ahead: behind what this cache has made, until it is extracted to
    copied = store.root / "shapes" / f"copied-{three[0].key.digest8}"
    shutil.copytree(three[0].path, copied)
    assert store.newest_first()[-1] == copied
    Bank.open(copied).touch()
    assert store.newest() == copied
    shutil.rmtree(copied)
    assert store.newest() == three[1].path
    (store.root / ".order.json").unlink()
    assert store.newest_first() == (
        three[0].path,
        three[1].path,
        three[2].path,
    )  # by time
    with pytest.raises(BankNotFoundError) as caught:
        BankStore(tmp_path / "nothing").resolve()
    assert str(caught.value) == (
        f"no bank in {str(tmp_path / 'nothing')!r}; `featbank extract --cut block3_pool` makes one (of the "
        f"handwritten digits inside scikit-learn), --cache-dir looks elsewhere"
    )


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("shapes", 2),
        ("digits/minivgg", 0),
        ("minivgg", 0),
        ("digits/vgg", 1),
        ("digits/vgg16", 1),
        ("fa4f2b3c", 0),
        ("fa4f", 0),
        ("digits/minivgg-fa4f2b3c", 0),
    ],
)
def test_resolve_a_part_of_the_name(three, store, text, which):
    assert store.resolve(text) == three[which].path


def test_resolve_a_path(three, store, monkeypatch):
    assert store.resolve(three[0].path) == three[0].path
    assert store.resolve(str(three[2].path)) == three[2].path
    monkeypatch.chdir(three[0].path.parent)
    assert Bank.open(store.resolve("minivgg-fa4f2b3c")).key == three[0].key


def test_resolve_says_what_fits(three, store):
    with pytest.raises(InvalidInputError) as caught:
        store.resolve("digits")
    assert str(caught.value) == (
        "bank 'digits' fits 2 banks: 'digits/vgg16-c7c304b3', 'digits/minivgg-fa4f2b3c'; "
        "give more of the name"
    )
    with pytest.raises(BankNotFoundError) as missing:
        store.resolve("digets")
    assert str(missing.value) == (
        f"no bank 'digets' in {str(store.root)!r}, there are: 'digits/minivgg-fa4f2b3c', "
        f"'digits/vgg16-c7c304b3', 'shapes/vgg16-117655c0'; `featbank extract` makes one"
    )
    for wrong in ("", store.root / "digits", store.root / "nothing"):
        with pytest.raises(BankNotFoundError):
            store.resolve(wrong)


def test_remove_a_cut(bank, store):
    size = sum(path.stat().st_size for path in (bank.path / "fc7").iterdir())
    assert store.remove("shapes", cut="fc7") == size
    assert Bank.open(bank.path).cuts == ("block1_pool", "logits")
    assert not (bank.path / "fc7").exists()
    assert bank.verify().findings == []
    with pytest.raises(UnknownNameError, match="holds no cut 'fc7', it holds 'block1_pool', 'logits'"):
        store.remove("shapes", cut="fc7")


def test_remove_a_bank(three, store):
    store.remove(three[1].path)
    assert [info.path for info in store.list()] == [three[0].path, three[2].path]
    store.remove("shapes")
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == ["digits"]
    with pytest.raises(BankNotFoundError):
        store.remove("shapes")


def test_a_damaged_bank_can_be_removed(bank, store):
    (bank.path / "bank.json").write_text("{")
    with pytest.raises(CorruptBankError):
        Bank.open(bank.path)
    store.remove("shapes")
    assert store.paths() == []


def test_a_removal_that_dies_leaves_no_half_bank(bank, store, monkeypatch):
    def dies(path, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(CacheWriteError, match="delete it by hand"):
        store.remove("shapes")
    assert store.list() == []


def test_only_a_bank_of_the_store_is_removed(three, store, tmp_path):
    """A folder of somebody else's may hold a file called bank.json, a link may lead to anything."""
    elsewhere = tmp_path / "elsewhere" / three[0].path.parent.name / three[0].path.name
    shutil.copytree(three[0].path, elsewhere)
    project = store.root / "project"
    (project / "thesis").mkdir(parents=True)
    (project / "bank.json").write_text("{}")
    (project / "thesis" / "bank.json").write_text("{}")
    (store.root / "digits" / "linked-01234567").symlink_to(elsewhere)
    (store.root / "linked").symlink_to(elsewhere.parent)
    everything = {path for path in tmp_path.rglob("*") if path.name != ".lock"}
    for asked in (
        elsewhere,
        str(elsewhere),
        project,
        project / "thesis",
        store.root / "project" / "." / "thesis",
        store.root / "digits" / "linked-01234567",
        store.root / "linked" / elsewhere.name,
        "linked-01234567",
        f"linked/{elsewhere.name}",
        f"../../elsewhere/digits/{elsewhere.name}",
        "project/thesis",
    ):
        for cut in (None, "fc7"):
            with pytest.raises(InvalidInputError, match="nothing else is removed"):
                store.remove(asked, cut)
    assert {path for path in tmp_path.rglob("*") if path.name != ".lock"} == everything
    (tmp_path / "place").symlink_to(store.root)  # the store itself may be on another disk
    BankStore(tmp_path / "place").remove(three[0].path)
    assert not three[0].path.exists()


def test_a_linked_cut_is_not_followed(bank, store, tmp_path):
    (bank.path / "fc7").rename(tmp_path / "fc7")
    (bank.path / "fc7").symlink_to(tmp_path / "fc7")
    with pytest.raises(CacheWriteError):
        store.remove("shapes", cut="fc7")
    shard = next((tmp_path / "fc7").glob("*.h5"))
    shard.write_bytes(b"damaged")
    with pytest.raises(CorruptBankError, match="behind a link"):
        set_damaged_aside(bank.verify())
    assert shard.exists()


def test_banks_of_two_datasets_do_not_mix(store, kit, manifest):
    one = store.create_or_open("one", kit.KEY, {})
    other = store.create_or_open("two", kit.KEY, {})
    one.set_manifest(manifest)
    assert (len(one), len(other)) == (37, 0)


def test_a_whole_part_of_a_name_goes_before_a_piece_of_one(store, kit):
    made = store.create_or_open("digits", kit.KEY, {})
    store.create_or_open("digits-large", kit.KEY, {})
    assert store.resolve("digits") == made.path
    assert store.resolve("digits/minivgg") == made.path
    assert store.resolve("large").parent.name == "digits-large"
