"""Several extractions of one bank with different images, and plans beside them: nobody's rows are lost."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank.banks import Bank, verify_bank
from featbank.errors import CacheWriteError, CorruptBankError, FeatureOverflowError
from featbank.extraction import ExtractionPlan, ExtractionResult, ExtractionSettings, extract, plan

Folder = Callable[..., Path]
SavePhoto = Callable[..., None]
CUTS = ("block5_pool", "fc7")


def run(data: Path, cache: Path, **options: Any) -> ExtractionResult:
    fixed: dict[str, Any] = {"backbone": "minivgg", "precision": "float32", "compile": "off", "cuts": CUTS}
    fixed |= {"batch_size": 2, "workers": 1, "cache_dir": cache, "name": "photos"}
    return extract(data, **fixed | options)


def planned(data: Path, cache: Path, *, measure: bool = False, **options: Any) -> ExtractionPlan:
    fixed: dict[str, Any] = {"backbone": "minivgg", "precision": "float32", "compile": "off", "cuts": CUTS}
    fixed |= {"batch_size": 2, "workers": 1, "cache_dir": cache, "name": "photos"}
    return plan(data, ExtractionSettings(**fixed | options), measure=measure)


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time of change and the bytes of everything below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def sets(made: Path, save_photo: SavePhoto) -> dict[str, Path]:
    """Make folders that share images with the first, by their bytes."""
    few, more, others, changed = (
        made.with_name(f"{name}-photos") for name in ("few", "more", "others", "new")
    )
    for folder in (few, more, changed):
        shutil.copytree(made, folder)
    for path in few.glob("*/*[135].png"):
        path.unlink()
    for label, channel in (("blue", 0), ("green", 1)):
        save_photo(changed / label / "002.png", seed=90 + channel, channel=channel)
        for number in range(3):
            save_photo(more / label / f"x{number}.png", seed=100 + 10 * channel + number, channel=channel)
            (others / label).mkdir(parents=True, exist_ok=True)
            save_photo(others / label / f"{number}.png", seed=200 + 10 * channel + number, channel=channel)
    return {"first": made, "few": few, "more": more, "others": others, "changed": changed}


def check(result: ExtractionResult, data: Path, cache: Path, tmp_path: Path) -> None:
    """The features of these images are stored, all of them, and are what a bank of their own would hold."""
    again = run(data, cache)
    assert (again.bank, again.rows, again.pushed) == (result.bank, result.rows, 0)
    bank, alone = Bank.open(again.bank), Bank.open(run(data, tmp_path / f"alone-{data.name}").bank)
    assert bank.cuts == alone.cuts == tuple(sorted(CUTS))
    assert bank.manifest.ids == alone.manifest.ids
    for cut in CUTS:
        np.testing.assert_array_equal(bank[cut].read(), alone[cut].read())


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
@pytest.mark.parametrize("late", [0, 8])
@pytest.mark.parametrize(
    ("one", "other"),
    [("first", "few"), ("few", "first"), ("first", "more"), ("first", "changed"), ("more", "changed")],
)
def test_one_that_comes_and_goes_beside_another(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto, one: str, other: str, late: int
) -> None:
    data, cache = sets(photo_folder(), save_photo), tmp_path / "cache"
    beside: list[ExtractionResult] = []

    def between(done: int, total: int) -> None:
        if done > late and not beside:
            beside.append(run(data[other], cache))

    result = run(data[one], cache, progress=between)
    n_one, n_other = (len(list(data[name].glob("*/*.png"))) for name in (one, other))
    assert (result.rows, result.pushed, result.quarantined) == (n_one, n_one, 0)
    assert (beside[0].rows, beside[0].quarantined) == (n_other, 0)
    bank = Bank.open(result.bank)
    assert len(bank) == n_other  # its rows were set last
    assert bank.cuts == tuple(sorted(CUTS))
    assert bank.rows_ok("fc7").all()
    assert verify_bank(bank.path).findings == []
    for name, found in ((one, result), (other, beside[0])):
        check(found, data[name], cache, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
def test_three_at_once_each_come_to_their_own_end(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto
) -> None:
    data, cache = sets(photo_folder(), save_photo), tmp_path / "cache"
    done: dict[str, ExtractionResult] = {}

    def beside(name: str, then: Callable[[int, int], None] | None = None) -> Callable[[int, int], None]:
        def between(n_done: int, total: int) -> None:
            if n_done > 2 and name not in done:
                done[name] = None  # type: ignore[assignment]
                done[name] = run(data[name], cache, progress=then)

        return between

    done["more"] = run(data["more"], cache, progress=beside("few", beside("changed")))
    for name, result in done.items():
        assert result.rows == len(list(data[name].glob("*/*.png")))
        assert result.quarantined == 0
    for name, result in done.items():
        check(result, data[name], cache, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
def test_a_cut_extracted_of_few_images_takes_nothing_from_the_others(
    photo_folder: Folder, tmp_path: Path
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    whole = run(data, cache, cuts=["fc7"])
    assert run(data, cache, cuts=["block5_pool"], limit=5).pushed == 5
    again = run(data, cache, cuts=["fc7"])
    bank = Bank.open(again.bank)
    assert (again.bank, again.pushed, bank.cuts) == (whole.bank, 0, ("fc7",))
    assert bank.partial_cuts["block5_pool"] == (5, 18)
    assert len(bank.manifest.rows()) == 18
    assert run(data, cache, cuts=["block5_pool"]).pushed == 13
    bank = Bank.open(again.bank)
    assert bank.cuts == ("block5_pool", "fc7")  # the images that got new slots were stored there as well
    assert bank.rows_ok("fc7").all()
    assert bank.rows_ok("block5_pool").all()
    for shard in bank.path.glob("*/*.h5"):  # those of a cut that was not asked for, too
        with h5py.File(shard) as file:
            assert b"torch" in file.attrs.get("made_by", b"")


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
def test_a_plan_beside_an_extraction_takes_nothing_away(photo_folder: Folder, tmp_path: Path) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    early = planned(data, cache)  # while there is no bank
    assert early.to_push == 18
    assert not cache.exists()
    plans: list[int] = []

    def between(done: int, total: int) -> None:
        with planned(data, cache, limit=9) as beside:
            plans.append(beside.to_push)

    result = run(data, cache, progress=between)
    assert len(plans) == 9
    assert plans == sorted(plans, reverse=True)
    assert len(Bank.open(result.bank)) == 18
    before = stamps(cache)
    early.close()
    assert stamps(cache) == before
    assert Bank.open(result.bank).cuts == tuple(sorted(CUTS))
    assert run(data, cache).pushed == 0


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
@pytest.mark.parametrize("state", ["new", "complete", "partial", "damaged", "copied"])
def test_a_plan_touches_nothing(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto, state: str
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    cache.mkdir()

    def interrupt(done: int, total: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    if state == "partial":
        with pytest.raises(KeyboardInterrupt):
            run(data, cache, progress=interrupt)
    elif state != "new":
        bank = run(data, cache).bank
        if state == "copied":
            shutil.move(cache, tmp_path / "there")
            shutil.copytree(tmp_path / "there", cache)
        if state == "damaged":
            shard = next((bank / "fc7").glob("*.h5"))
            shard.write_bytes(shard.read_bytes()[:-9])
            (bank / "quarantine.jsonl").write_text("{}\n")
    save_photo(data / "blue" / "added.png", seed=7)
    before = stamps(cache)
    for options in (
        {},
        {"split": "2,1,1"},
        {"limit": 4},
        {"cuts": ["fc7", "block3_pool"]},
        {"batch_size": 4},
    ):
        with contextlib.suppress(*([CorruptBankError] if state == "damaged" else [])):
            planned(data, cache, measure=True, **options).close()  # type: ignore[arg-type]
        assert stamps(cache) == before


@pytest.mark.slow
def test_what_fails_after_the_plan_leaves_no_bank(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr("featbank.extraction.planning.free_bytes", lambda folder: 0)
        with pytest.raises(CacheWriteError, match="GB free"):
            run(data, cache)
    assert not cache.exists()
    with monkeypatch.context() as patched:
        patched.setattr("featbank.backbones.network.TruncatedNetwork.forward", _not_a_number)
        with pytest.raises(FeatureOverflowError, match="not finite"):
            run(data, cache)
    assert not cache.exists()
    with monkeypatch.context() as patched:
        patched.setattr("featbank._atomic.write_file", _disk_full)
        with pytest.raises(CacheWriteError, match="disk full"):
            run(data, cache)
    assert not list(cache.glob("banks/[!.]*"))


def _not_a_number(self: Any, batch: Any) -> dict[str, Any]:
    shapes = self.cut_shapes
    return {cut: batch.new_full((len(batch), *shape), float("nan")) for cut, shape in shapes.items()}


def _disk_full(path: Path, data: bytes) -> None:
    raise CacheWriteError(f"cannot write {str(path)!r}: disk full")
