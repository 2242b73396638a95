"""A damaged bank is made whole: the same bytes again, nothing deleted, nothing else touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.banks import Bank, verify_bank
from featbank.errors import (
    BankReadError,
    CorruptBankError,
    InvalidInputError,
    MissingDataError,
    MissingWeightsError,
)
from featbank.extraction import choosing, extract, repair_bank

Save = Callable[..., None]
CUTS = ("block4_pool", "fc7", "logits")


def one_batch(row_bytes: int, batch_size: int, shard_bytes: int) -> int:
    return batch_size


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, one of them broken and one that stands twice, and their bank: four shards in each cut."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("repair")
    for number, label in enumerate(("blue", "red")):
        (place / "photos" / label).mkdir(parents=True)
        for index in range(7):
            pixels = np.random.default_rng(100 * number + index).integers(0, 255, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / label / f"{index}.png")
    (place / "photos" / "red" / "copy.png").write_bytes((place / "photos" / "red" / "0.png").read_bytes())
    (place / "photos" / "red" / "bad.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featbank.banks.bank.shard_rows_for", one_batch)
        run(place)
    return place


def run(place: Path, **options: Any) -> Path:
    options = {"backbone": "minivgg", "weights": "random", "batch_size": 4, "precision": "float32", **options}
    return extract(place / "photos", cuts=CUTS, cache_dir=place / "cache", **options).bank


@pytest.fixture
def place(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one's own, of photographs that stand where the bank says they do."""
    monkeypatch.setattr("featbank.banks.bank.shard_rows_for", one_batch)
    shutil.copytree(made_once / "cache", tmp_path / "cache")
    shutil.copytree(made_once / "photos", tmp_path / "photos")
    monkeypatch.setattr(Bank, "provenance", property(lambda self: moved(self, tmp_path)))
    return tmp_path


def moved(bank: Bank, place: Path) -> dict[str, Any]:
    return {**bank._document.provenance, "location": str(place / "photos")}


@pytest.fixture
def bank(place: Path) -> Path:
    (found,) = (place / "cache" / "banks" / "photos").iterdir()
    return found


def tree(bank: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(bank)): path.read_bytes()
        for path in sorted(bank.rglob("*"))
        if path.is_file()
        and path.name not in (".lock", ".verified.json", ".order.json")
        and not path.relative_to(bank).parts[0].startswith("damaged-")
    }


def shards(bank: Path, cut: str = "fc7") -> list[Path]:
    return sorted((bank / cut).glob("*.h5"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def swap_names(bank: Path) -> None:
    first, second = shards(bank)[:2]
    first.rename(first.with_name(f"00001{first.name[5:]}"))
    second.rename(second.with_name(f"00000{second.name[5:]}"))


def swap_contents(bank: Path) -> None:
    first, second = shards(bank)[:2]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def foreign(bank: Path) -> None:
    mine, other = shards(bank)[1], shards(bank, "logits")[1]
    mine.unlink()
    shutil.copy(other, mine.parent)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda bank: flip(shards(bank)[1]),
    "the last shard": lambda bank: flip(shards(bank)[-1]),
    "cut short": lambda bank: cut_short(shards(bank)[2]),
    "emptied": lambda bank: shards(bank)[0].write_bytes(b""),
    "missing": lambda bank: shards(bank)[3].unlink(),
    "all of a cut": lambda bank: [flip(path) for path in shards(bank)],
    "all of a cut missing": lambda bank: [path.unlink() for path in shards(bank)],
    "two cuts": lambda bank: (flip(shards(bank, "logits")[0]), shards(bank)[1].unlink()),
    "swapped names": swap_names,
    "swapped contents": swap_contents,
    "a foreign shard": foreign,
    "one that nobody planned": lambda bank: shutil.copy(
        shards(bank)[0], shards(bank)[0].with_name(f"00099{shards(bank)[0].name[5:]}")
    ),
    "quarantine": lambda bank: (bank / "quarantine.jsonl").write_text("{}\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_the_same_bytes_again(bank: Path, damage: Callable[[Path], object]) -> None:
    before = tree(bank)
    damage(bank)
    broken = tree(bank)
    assert not verify_bank(bank).ok
    done = repair_bank(bank)
    assert tree(bank) == before
    assert done.report.ok
    assert done.differing == ()
    assert [one.kind for one in done.report.findings] == (["aside"] if done.folder else [])
    kept = {
        str(path): path.read_bytes() for path in (done.folder or bank / "no").rglob("*") if path.is_file()
    }
    # nothing was deleted: what was damaged stands in the other folder, byte for byte
    assert sorted(kept.values()) == sorted(data for name, data in broken.items() if before.get(name) != data)


@pytest.mark.slow
def test_damaged_rows_alone_are_pushed(bank: Path) -> None:
    flip(shards(bank)[1])
    done = repair_bank(bank)
    assert (done.shards, done.pushed, len(done.set_aside)) == (1, 4, 1)
    last = shards(bank, "logits")[-1]  # it holds three images and the one that is none
    last.unlink()
    done = repair_bank(bank)
    assert (done.shards, done.set_aside, done.folder) == (1, (), None)
    assert done.pushed == 2


def test_a_whole_bank_is_left_alone(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featbank.backbones.loading.load_backbone", None)
    before = tree(bank)
    done = repair_bank(bank)
    assert (done.folder, done.set_aside, done.shards, done.pushed) == (None, (), 0, 0)
    assert tree(bank) == before


def test_a_cut_file_is_written_anew(bank: Path) -> None:
    before, n_values = tree(bank), Bank.open(bank).facts("fc7")["n_values"]
    (bank / "fc7" / "cut.json").write_text("{")
    done = repair_bank(bank)
    assert (done.shards, done.pushed) == (0, 0)
    after = tree(bank)
    assert {name for name in after if after[name] != before[name]} == {"fc7/cut.json"}
    facts = Bank.open(bank).facts("fc7")
    assert facts["precision_error"] == 0
    assert facts["n_values"] == n_values == 14 * 256
    assert "duration_s" not in facts  # only the first extraction knew


@pytest.mark.slow
def test_a_cut_of_which_nothing_is_left(bank: Path) -> None:
    before = tree(bank)
    (bank / "fc7" / "cut.json").write_text("{")
    for path in shards(bank):
        cut_short(path)
    done = repair_bank(bank)
    assert (done.shards, done.pushed) == (4, 14)
    assert tree(bank).keys() == before.keys()
    assert [path.read_bytes() for path in shards(bank)] == [before[f"fc7/{one.name}"] for one in shards(bank)]
    assert done.report.ok


def test_one_of_two_shards_for_one_place_is_enough(bank: Path) -> None:
    before = tree(bank)
    kept = shards(bank)[1]
    twin = kept.with_name("00001-0123456789abcdef.h5")
    twin.write_bytes(kept.read_bytes()[:-1] + b"x")
    done = repair_bank(bank)
    assert done.set_aside == (twin,)
    assert (done.shards, tree(bank)) == (0, before)


@pytest.mark.parametrize("name", ["bank.json", "manifest.h5"])
def test_without_key_or_rows_nothing_can_be_done(bank: Path, name: str) -> None:
    flip(bank / name)
    (bank / name).write_bytes((bank / name).read_bytes()[:-2])
    flip(shards(bank)[0])
    before = tree(bank)
    with pytest.raises(CorruptBankError, match=f"cannot be repaired, {name} is corrupt and says what was"):
        repair_bank(bank)
    assert tree(bank) == before


def test_images_that_are_gone_or_others_are_told_before_anything_moves(
    place: Path, bank: Path, save_photo: Save
) -> None:
    flip(shards(bank)[0])
    before = tree(bank)
    (place / "photos" / "blue" / "1.png").unlink()
    save_photo(place / "photos" / "blue" / "2.png", seed=5)
    with pytest.raises(MissingDataError) as caught:
        repair_bank(bank)
    assert str(caught.value) == (
        "2 of the 4 images whose features are damaged are not what they were, first 'blue/1.png' (the source "
        "no longer lists it); nothing was changed: put them back, say where they are with --data, or run "
        "`featbank extract`, which takes the images as they are now"
    )
    assert tree(bank) == before


@pytest.mark.slow
def test_other_images_may_change(place: Path, bank: Path) -> None:
    before = tree(bank)
    flip(shards(bank)[0])
    (place / "photos" / "red" / "6.png").unlink()
    assert repair_bank(bank).report.ok
    assert tree(bank) == before


def test_data_that_has_moved(place: Path, bank: Path) -> None:
    before = tree(bank)
    flip(shards(bank)[0])
    (place / "photos").rename(place / "elsewhere")
    with pytest.raises(
        MissingDataError, match=r"cannot be opened \(no images at .*\); say where the images are"
    ):
        repair_bank(bank)
    assert repair_bank(bank, data=place / "elsewhere").report.ok
    assert tree(bank) == before


def test_another_key_is_refused(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(shards(bank)[0])
    before = tree(bank)
    monkeypatch.setattr(choosing, "decoder_name", lambda: "pillow-99")
    with pytest.raises(
        InvalidInputError, match=r"would not fit the others: decoder was '.*', is 'pillow-99'; n"
    ):
        repair_bank(bank)
    monkeypatch.undo()
    assert tree(bank) == before


def test_other_weights_are_refused(bank: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from featbank.backbones import load_backbone

    flip(shards(bank)[0])
    before = tree(bank)
    other = load_backbone("minivgg", weights="random", random_state=7)
    save_file(
        {name: one.contiguous() for name, one in other.module.state_dict().items()},
        tmp_path / "o.safetensors",
    )
    with pytest.raises(InvalidInputError, match="would not fit the others: weights_sha256 was '"):
        repair_bank(bank, weights=tmp_path / "o.safetensors")
    with pytest.raises(MissingWeightsError):
        repair_bank(bank, weights=tmp_path / "gone.safetensors")
    assert tree(bank) == before


@pytest.mark.slow
def test_bytes_that_differ_are_told(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(shards(bank)[2])
    from featbank.extraction.forward import Forward

    push = Forward._push_batch
    monkeypatch.setattr(
        Forward, "_push_batch", lambda *args: {cut: one * 1.01 for cut, one in push(*args).items()}
    )
    done = repair_bank(bank)
    assert done.report.ok
    assert [path.name[:5] for path in done.differing] == ["00002"]


@pytest.mark.slow
def test_another_torch_is_told(bank: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    import torch

    flip(shards(bank)[2])
    monkeypatch.setattr(torch, "__version__", "99.0")
    repair_bank(bank)
    assert "this is 99.0: the last bit of its new rows may be another" in caplog.text


@pytest.mark.slow
def test_rows_that_have_left_the_dataset_are_told(place: Path, bank: Path, caplog: Any) -> None:
    (place / "photos" / "blue" / "1.png").unlink()
    run(place)
    caplog.clear()
    flip(shards(bank)[0])
    done = repair_bank(bank)
    assert "1 of the damaged rows are of images that have left the dataset" in caplog.text
    assert (done.report.ok, done.pushed) == (True, 3)
    opened = Bank.open(bank)
    good = opened.manifest.rows()
    assert opened.rows_ok("fc7")[good].all()


@pytest.mark.slow
def test_an_unfinished_cut_stays_unfinished(place: Path, bank: Path) -> None:
    (bank / "fc7" / "cut.json").unlink()
    for path in shards(bank)[2:]:
        path.unlink()
    flip(shards(bank)[0])
    done = repair_bank(bank)
    assert done.shards == 1
    assert [one.kind for one in done.report.findings] == ["aside", "unfinished"]
    assert Bank.open(bank).partial_cuts["fc7"].rows_stored == 9  # one image stands twice


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_whole_shard_that_is_open_elsewhere_is_never_set_aside(place: Path, mode: str) -> None:
    import h5py

    bank = run(place)
    with h5py.File(next((bank / "fc7").glob("*.h5")), mode):
        found = repair_bank(bank)
    assert (found.set_aside, found.shards, found.pushed) == ((), 0, 0)
    assert not list(bank.glob("damaged-*"))


@pytest.mark.slow
def test_nothing_is_repaired_while_a_file_cannot_be_read(place: Path) -> None:
    bank = run(place)
    first, second = sorted((bank / "fc7").glob("*.h5"))[:2]
    first.write_bytes(b"")
    second.rename(place / "kept")
    second.mkdir()  # what has its name cannot be read: a folder
    with pytest.raises(BankReadError, match="is not repaired, nothing was changed"):
        repair_bank(bank)
    assert not list(bank.glob("damaged-*"))
    second.rmdir()
    (place / "kept").rename(second)
    assert repair_bank(bank).shards == 1
    assert verify_bank(bank).ok
