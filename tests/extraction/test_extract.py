"""The one pass: what is pushed, where it lands, and what becomes of files that change, vanish or break."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from featbank.backbones import TruncatedNetwork, load_backbone
from featbank.banks import Bank, BankStore, import_bank, pack, verify_bank
from featbank.datasets import decode_image
from featbank.errors import (
    CacheWriteError,
    CorruptBankError,
    FeatureOverflowError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.extraction import ExtractionPlan, extract
from featbank.inspection import RunImages

Folder = Callable[..., Path]
SavePhoto = Callable[..., None]


def run(data: Any, cache: Path, cuts: tuple[str, ...] = ("block2_pool", "fc7"), **options: Any) -> Any:
    # on a busy machine "auto" might compile, and a compiled network is another bank
    fixed = {"backbone": "minivgg", "weights": "random", "precision": "float32", "compile": "off"}
    options = {**fixed, **options}
    return extract(data, cuts=cuts, cache_dir=cache, **options)


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what really goes through the network: one entry per forward, its batch size."""
    batches: list[int] = []
    forward = TruncatedNetwork.forward

    def counting(self: TruncatedNetwork, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if batch.device.type != "meta":
            batches.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(TruncatedNetwork, "forward", counting)
    return batches


def test_a_second_extraction_pushes_nothing(photo_folder: Folder, tmp_path: Path, pushed: list[int]) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = run(data, cache)
    assert (first.rows, first.pushed, first.skipped, first.quarantined) == (18, 18, 0, 0)
    assert pushed == [32]  # one padded batch for both cuts
    pushed.clear()
    again = run(data, cache)
    assert (again.rows, again.pushed, again.skipped, again.quarantined) == (18, 0, 18, 0)
    assert pushed == []
    assert again.bank == first.bank


@pytest.mark.slow
def test_what_is_complete_is_extracted_from_a_read_only_cache(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pushed: list[int]
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = run(data, cache)
    pushed.clear()
    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(cache)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    again = run(data, cache)
    assert (again.bank, again.rows, again.pushed, again.skipped) == (first.bank, 18, 0, 18)
    assert pushed == []
    with pytest.raises(CacheWriteError, match="read-only"):
        run(data, cache, cuts=("block5_pool",))


@pytest.mark.slow
def test_what_made_a_cut_is_recorded_and_a_mix_is_told_once(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder()
    first = run(data, tmp_path, cuts=("fc7",))
    facts = Bank.open(first.bank).facts("fc7")
    assert (facts["torch"], facts["device"], facts.get("mixed")) == (torch.__version__, "cpu", None)
    before = torch.__version__
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert run(data, tmp_path, cuts=("fc7",)).pushed == 0
    assert "has shards of" not in caplog.text
    Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save(next(data.glob("*/*.*")).with_name("new.png"))
    assert run(data, tmp_path, cuts=("fc7",)).bank == first.bank
    assert caplog.text.count(f"cut 'fc7' has shards of torch {before} and 9.9.9") == 1
    assert Bank.open(first.bank).facts("fc7")["mixed"] == f"torch {before} and 9.9.9"
    assert run(data, tmp_path, cuts=("fc7",)).pushed == 0
    assert caplog.text.count("has shards of") == 1


def test_what_made_a_shard_is_recorded_where_the_plan_needed_no_torch(
    photo_folder: Folder, tmp_path: Path
) -> None:
    data = photo_folder()
    bank = Bank.open(run(data, tmp_path, cuts=("fc7",)).bank)

    def lose_a_shard(plan: ExtractionPlan) -> None:
        assert plan.need_work().computing is None
        next((bank.path / "fc7").glob("*.h5")).unlink()

    assert run(data, tmp_path, cuts=("fc7",), on_plan=lose_a_shard).pushed == 18
    facts = Bank.open(bank.path).facts("fc7")
    assert (facts["torch"], facts["device"]) == (torch.__version__, "cpu")


@pytest.mark.slow
def test_the_bank_asked_for_last_is_the_newest(photo_folder: Folder, tmp_path: Path) -> None:
    one, other = photo_folder(name="one"), photo_folder(name="other")
    store = BankStore(tmp_path / "banks")
    for data, cuts in ((one, ("fc7",)), (other, ("fc7",)), (one, ("fc7", "block5_pool")), (other, ("fc7",))):
        asked = run(data, tmp_path, cuts=cuts)
        assert store.newest() == asked.bank
        time.sleep(0.02)
    assert asked.pushed == 0


def test_auto_precision_is_proved_once(photo_folder: Folder, tmp_path: Path, pushed: list[int]) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    run(data, cache, precision="auto")
    pushed.clear()
    assert run(data, cache, precision="auto").pushed == 0
    assert pushed == []


def test_rows_land_where_the_manifest_says(photo_folder: Folder, tmp_path: Path) -> None:
    """Each row equals what a hook in the untouched network sees for the file of that id."""
    data = photo_folder(n_per_class=15)
    result = run(data, tmp_path / "cache", cuts=("block3_pool",), dtype="float32", batch_size=4)
    bank = Bank.open(result.bank)
    backbone = load_backbone("minivgg", weights="random")
    caught: list[torch.Tensor] = []
    backbone.module.get_submodule("features.23").register_forward_hook(
        lambda *args: caught.append(args[2].clone())
    )
    for row, identity in enumerate(bank.manifest.ids):
        image = decode_image((data / os.fsdecode(identity)).read_bytes())
        batch = torch.from_numpy(backbone.preprocessing.apply_geometry(image))[None]
        with torch.inference_mode():
            backbone.module(backbone.preprocessing.normalise(batch))
        np.testing.assert_allclose(bank["block3_pool"][row], caught.pop()[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_features_do_not_depend_on_workers(photo_folder: Folder, tmp_path: Path, workers: int) -> None:
    data = photo_folder()
    one = run(data, tmp_path / "one", batch_size=4, workers=1)
    other = run(data, tmp_path / "other", batch_size=4, workers=workers)
    assert shard_bytes(one.bank) == shard_bytes(other.bank)


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch_size(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    small = Bank.open(run(data, tmp_path / "cache", batch_size=3).bank)
    large = Bank.open(run(data, tmp_path / "cache", batch_size=16).bank)
    assert small.path != large.path  # part of the key: the last bit may differ
    np.testing.assert_allclose(small.features("fc7"), large.features("fc7"), rtol=2e-3, atol=1e-4)


def shard_bytes(bank: Path) -> dict[str, bytes]:
    """Every file of a bank but those that hold a time of day or a duration."""
    files = (path for path in bank.rglob("*") if path.is_file())
    return {
        str(path.relative_to(bank)): path.read_bytes()
        for path in files
        if path.suffix == ".h5" or path.name == "quarantine.jsonl"
    }


@pytest.mark.usefixtures("batch_by_batch")
def test_an_interrupted_extraction_resumes_to_the_same_bytes(
    photo_folder: Folder, tmp_path: Path, pushed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder(n_per_class=8)
    (data / "red" / "zz.png").write_bytes(b"not an image")
    whole = run(data, tmp_path / "whole", batch_size=4)

    def interrupt(done: int, total: int) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "broken", batch_size=4, progress=interrupt)
    (said,) = re.findall(r"(\d+) of (\d+) pushed images are kept \(a shard takes 4 images; ", caplog.text)
    kept, n_pushed = map(int, said)
    pushed.clear()
    resumed = run(data, tmp_path / "broken", batch_size=4)
    assert (24 - kept, n_pushed >= 12) == (resumed.pushed, True)
    assert 0 < resumed.pushed < 24
    assert resumed.pushed + resumed.skipped + resumed.quarantined == resumed.rows == 25
    assert shard_bytes(resumed.bank) == shard_bytes(whole.bank)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
@pytest.mark.parametrize("delay_s", [0.0, 0.1])
def test_a_killed_extraction_resumes_to_the_same_bytes(
    photo_folder: Folder, tmp_path: Path, delay_s: float
) -> None:
    data = photo_folder(n_per_class=20)
    whole = run(data, tmp_path / "whole", batch_size=2)
    code = (
        "import sys, time; from featbank.banks import bank\n"
        "from featbank.extraction import extract, forward, images\n"
        "bank.shard_rows_for = lambda row_bytes, batch_size, shard_bytes: batch_size\n"
        "images._RUN = forward._RUN = 1\n"
        "extract(sys.argv[1], backbone='minivgg', weights='random', precision='float32', compile='off',\n"
        "    batch_size=2, cuts=('block2_pool', 'fc7'), cache_dir=sys.argv[2],\n"
        "    progress=lambda done, total: (print(done, flush=True), time.sleep(0.05)))\n"
    )
    command = [sys.executable, "-c", code, str(data), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()  # the first batch is through
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    resumed = run(data, tmp_path / "killed", batch_size=2)
    assert resumed.rows == 60
    assert delay_s == 0 or 0 < resumed.pushed < 60  # something had been kept
    assert shard_bytes(resumed.bank) == shard_bytes(whole.bank)
    assert not list(resumed.bank.rglob(".tmp-*"))


def test_new_images_alone_are_pushed(photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    before = Bank.open(run(data, cache).bank).features("fc7")
    save_photo(data / "blue" / "000a.png", seed=77)
    result = run(data, cache)
    assert (result.rows, result.pushed, result.skipped) == (19, 1, 18)
    bank = Bank.open(result.bank)
    assert bank.manifest.ids[1] == b"blue/000a.png"
    kept = np.delete(bank.features("fc7"), 1, axis=0)
    np.testing.assert_array_equal(kept, before)


@pytest.mark.slow
def test_a_new_cut_alone_is_extracted(photo_folder: Folder, tmp_path: Path, pushed: list[int]) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = run(data, cache, cuts=("fc7",))
    stamps = {path: path.stat().st_mtime_ns for path in (first.bank / "fc7").iterdir()}
    result = run(data, cache, cuts=("fc7", "block5_pool"))
    assert result.bank == first.bank
    assert result.pushed == 18
    assert Bank.open(result.bank).cuts == ("block5_pool", "fc7")
    assert {
        path: path.stat().st_mtime_ns for path in (first.bank / "fc7").glob("*.h5")
    }.items() <= stamps.items()


@pytest.mark.slow
def test_a_changed_split_and_rows_that_leave_are_told(
    photo_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    run(data, cache, split="4,1,1")
    assert "split" not in caplog.text
    run(data, cache, split="3,1,2")
    assert (
        "6 images change their split: it was 12 train, 3 val, 3 test, it is 9 train, 3 val, 6 test"
        in caplog.text
    )
    (data / "blue" / "000.png").unlink()
    run(data, cache, split="3,1,1")
    assert (
        "1 of the bank's 18 rows are not among the 17 asked for now (their images are gone, or --limit or a "
        "choice of classes leaves them out): they leave the bank's list, their features stay, and nothing is "
        "pushed when they are asked for again" in caplog.text
    )


@pytest.mark.slow
def test_a_changed_file_is_pushed_again_and_a_removed_one_leaves(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    run(data, cache)
    save_photo(data / "red" / "003.png", seed=4242)
    (data / "blue" / "000.png").unlink()
    result = run(data, cache)
    assert (result.rows, result.pushed, result.skipped) == (17, 1, 16)
    assert b"blue/000.png" not in Bank.open(result.bank).manifest.ids


@pytest.mark.slow
def test_identical_files_are_pushed_once(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    (data / "red" / "copy.png").write_bytes((data / "red" / "000.png").read_bytes())
    result = run(data, tmp_path / "cache")
    assert (result.rows, result.pushed, result.skipped) == (19, 18, 1)
    bank = Bank.open(result.bank)
    rows = [bank.manifest.ids.index(name) for name in (b"red/000.png", b"red/copy.png")]
    np.testing.assert_array_equal(*bank.features("fc7", rows))


def test_a_file_that_is_not_an_image_is_quarantined_and_nothing_shifts(
    photo_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder()
    clean = Bank.open(run(data, tmp_path / "clean").bank).features("fc7")
    (data / "blue" / "000b.png").write_text("<html>404</html>")
    result = run(data, tmp_path / "cache")
    assert (result.rows, result.pushed, result.skipped, result.quarantined) == (19, 18, 0, 1)
    (line,) = (result.bank / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "not-an-image"
    assert "1 of 19 images could not be read (1 not-an-image)" in caplog.text
    bank = Bank.open(result.bank)
    assert bank.manifest.ids[1] == b"blue/000b.png"
    np.testing.assert_array_equal(bank.features("fc7", bank.manifest.rows()), clean)
    again = run(data, tmp_path / "cache")
    assert (again.pushed, again.skipped, again.quarantined) == (0, 18, 1)


@pytest.mark.slow
def test_a_file_that_changes_under_the_run_is_absent_then_pushed(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    from featbank.extraction import planning

    build = planning.build_manifest

    def build_then_change(*args: Any, **kwargs: Any) -> Any:
        manifest = build(*args, **kwargs)
        save_photo(data / "red" / "001.png", seed=9999)
        return manifest

    monkeypatch.setattr(planning, "build_manifest", build_then_change)
    result = run(data, cache)
    assert (result.rows, result.pushed, result.quarantined) == (18, 17, 1)
    monkeypatch.undo()
    result = run(data, cache)
    assert (result.rows, result.pushed, result.skipped, result.quarantined) == (18, 1, 17, 0)


@pytest.mark.slow
def test_a_file_that_was_gone_for_a_while_is_pushed_when_it_is_back(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    from featbank.extraction import planning

    build, file = planning.build_manifest, data / "red" / "001.png"
    content = file.read_bytes()

    def build_then_remove(*args: Any, **kwargs: Any) -> Any:
        manifest = build(*args, **kwargs)
        file.unlink()
        return manifest

    monkeypatch.setattr(planning, "build_manifest", build_then_remove)
    assert run(data, cache).pushed == 17
    monkeypatch.undo()
    file.write_bytes(content)
    result = run(data, cache)
    assert (result.rows, result.pushed, result.skipped, result.quarantined) == (18, 1, 17, 0)
    bank = Bank.open(result.bank)
    assert bank.rows_ok("fc7").all()


@pytest.mark.slow
def test_names_that_are_not_utf8_survive(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    odd = os.fsencode(data) + b"/red/caf\xe9\n.png"
    Path(os.fsdecode(odd)).write_bytes((data / "red" / "000.png").read_bytes()[:60])
    result = run(data, tmp_path / "cache")
    assert (result.rows, result.quarantined) == (19, 1)
    bank = Bank.open(result.bank)
    assert b"red/caf\xe9\n.png" in bank.manifest.ids
    assert bank.quarantine()[0].id == b"red/caf\xe9\n.png"


@pytest.mark.slow
def test_logits_are_float32_whatever_is_asked(photo_folder: Folder, tmp_path: Path) -> None:
    bank = Bank.open(run(photo_folder(), tmp_path / "cache", cuts=("logits", "fc7")).bank)
    assert (bank["logits"].dtype, bank["fc7"].dtype) == (np.float32, np.float16)


@pytest.mark.slow
def test_softmax_means_logits(photo_folder: Folder, tmp_path: Path) -> None:
    result = run(photo_folder(), tmp_path / "cache", cuts=("softmax",))
    assert list(result.cuts) == ["logits"]
    np.testing.assert_allclose(Bank.open(result.bank).softmax(2.0).sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_features_that_do_not_fit_are_an_error(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TruncatedNetwork.forward
    monkeypatch.setattr(
        TruncatedNetwork,
        "forward",
        lambda self, batch: {cut: values * 1e6 for cut, values in forward(self, batch).items()},
    )
    data = photo_folder()
    with pytest.raises(
        FeatureOverflowError, match=r"'fc7' of '.*png' reaches .*, float16 ends at 6.55e\+04; .*--dtype"
    ):
        run(data, tmp_path / "cache", cuts=("fc7",))
    assert run(data, tmp_path / "cache", cuts=("fc7",), dtype="float32").pushed == 18


@pytest.mark.slow
def test_features_that_are_not_numbers_are_an_error(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TruncatedNetwork.forward
    monkeypatch.setattr(
        TruncatedNetwork,
        "forward",
        lambda self, batch: {cut: values * float("nan") for cut, values in forward(self, batch).items()},
    )
    with pytest.raises(FeatureOverflowError, match="reaches nan"):
        run(photo_folder(), tmp_path / "cache", cuts=("fc7",), dtype="float32")


def test_a_disk_that_cannot_hold_it_is_refused_before_anything_is_pushed(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pushed: list[int]
) -> None:
    monkeypatch.setattr("featbank.extraction.planning.free_bytes", lambda folder: 1000)
    with pytest.raises(
        CacheWriteError, match=r"18 images at block2_pool, fc7 need 0.00 GB, .* has 0.00 GB free; take"
    ):
        run(photo_folder(), tmp_path / "cache")
    assert pushed == []


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
def test_a_full_disk_keeps_what_was_written(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    write = os.write

    def whole(cut: str) -> set[str]:
        return {shard.name.partition("-")[0] for shard in cache.glob(f"banks/*/*/{cut}/*.h5")}

    def full(descriptor: int, block: Any) -> int:
        if whole("block2_pool") & whole("fc7"):  # several threads write: bytes alone leave nothing whole
            raise OSError(28, "No space left on device")
        return write(descriptor, block)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        CacheWriteError, match="the disk is full; free some space and run the same command again"
    ):
        run(data, cache, batch_size=2)
    monkeypatch.setattr(os, "write", write)
    result = run(data, cache, batch_size=2)
    assert 0 < result.pushed < 18
    assert shard_bytes(result.bank) == shard_bytes(run(data, tmp_path / "whole", batch_size=2).bank)


@pytest.mark.slow
def test_another_dataset_of_the_same_name_is_refused(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto
) -> None:
    cache = tmp_path / "cache"
    run(photo_folder(), cache)
    (tmp_path / "elsewhere" / "photos" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere" / "photos" / "b").mkdir()
    for label in "ab":
        save_photo(tmp_path / "elsewhere" / "photos" / label / "x.png", seed=ord(label))
    with pytest.raises(
        InvalidInputError, match=r"holds the features of '.*photos', and not one image of .*--name"
    ):
        run(tmp_path / "elsewhere" / "photos", cache)
    assert run(tmp_path / "elsewhere" / "photos", cache, name="other").pushed == 2


@pytest.mark.slow
def test_a_moved_dataset_is_recognised_by_its_images(
    photo_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = run(data, cache)
    (tmp_path / "moved").mkdir()
    moved = data.rename(tmp_path / "moved" / "photos")
    document = (first.bank / "bank.json").read_bytes()
    caplog.clear()
    result = run(moved, cache)
    assert (result.bank, result.pushed) == (first.bank, 0)
    assert "--name" not in caplog.text
    bank = Bank.open(first.bank)
    assert bank.provenance["location"] == str(moved)
    assert (first.bank / "bank.json").read_bytes() == document  # it never changes
    assert bank.verify().findings == []
    assert np.asarray(RunImages(bank.manifest, bank.provenance).read(0)).shape == (40, 36, 3)
    # a copy of the bank, a packed one and an imported one know the new place
    copy = shutil.copytree(first.bank, tmp_path / "elsewhere")
    assert Bank.open(copy).provenance["location"] == str(moved)
    assert import_bank(copy, BankStore(tmp_path / "in")).provenance["location"] == str(moved)
    packed = pack(bank, tmp_path / "bank.h5")
    assert import_bank(packed, BankStore(tmp_path / "in2")).provenance["location"] == str(moved)
    run(moved.rename(data), cache)  # and back
    assert Bank.open(first.bank).provenance["location"] == str(data)
    (first.bank / "source.json").write_text("{}")
    assert [one.path.name for one in verify_bank(first.bank).faults] == ["source.json"]
    with pytest.raises(CorruptBankError, match=r"source file .*source.json' is damaged.*remove it and run"):
        Bank.open(first.bank)
    (first.bank / "source.json").unlink()
    assert run(data, cache).pushed == 0


def test_a_renamed_dataset_is_told_where_its_features_are(
    photo_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = run(data, cache)
    renamed = data.rename(tmp_path / "pictures")
    assert run(renamed, cache, name="photos").pushed == 0
    assert Bank.open(first.bank).provenance["location"] == str(renamed)
    assert "already" not in caplog.text
    assert run(renamed, cache).bank != first.bank
    assert f"18 of the 18 images of {renamed} are in bank photos/{first.bank.name} already" in caplog.text
    assert "--name photos continues it" in caplog.text


@pytest.mark.slow
def test_two_folders_of_one_name_do_not_take_over_each_others_bank(
    photo_folder: Folder, tmp_path: Path, save_photo: SavePhoto, caplog: pytest.LogCaptureFixture
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    first = run(data, cache)
    other = tmp_path / "b" / "photos"
    for channel, label in enumerate(("blue", "green")):
        (other / label).mkdir(parents=True)
        for number in range(4):
            save_photo(other / label / f"{number}.png", seed=500 + 10 * channel + number, channel=channel)
    shutil.copy(data / "blue" / "000.png", other / "blue" / "shared.png")
    before = Bank.open(first.bank).manifest.digest()
    with pytest.raises(InvalidInputError, match=r"only 1 of the 9 images of .* is in it; .*another --name"):
        run(other, cache)
    assert Bank.open(first.bank).manifest.digest() == before
    assert Bank.open(first.bank).provenance["location"] == str(data)
    # one that holds most of the images is the same data somewhere else, changed: told, with the way out
    shutil.rmtree(other)
    shutil.copytree(data, other)
    save_photo(other / "blue" / "new.png", seed=900)
    caplog.clear()
    assert run(other, cache).pushed == 1
    assert f"was extracted from {data} and is that of {other} from now on" in caplog.text
    assert "(18 of its 19 images are in it); --name gives" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"cuts": ("blok2_pool",)},
            UnknownNameError,
            r"unknown cut 'blok2_pool' of backbone 'minivgg'; known: 'block2_pool'",
        ),
        ({"cuts": ()}, InvalidInputError, r"no cut was asked for; 'featbank cuts minivgg' lists them"),
        ({"dtype": "int8"}, InvalidInputError, r"dtype='int8' is not one of float16, float32"),
        (
            {"precision": "double"},
            InvalidInputError,
            r"precision='double' is not one of auto, float32, bfloat16, float16",
        ),
        ({"batch_size": 0}, InvalidInputError, r"batch_size=0 must be at least 1"),
        ({"workers": 0}, InvalidInputError, r"workers=0 must be at least 1"),
        (
            {"device": "cuda:99"},
            InvalidInputError,
            r"device='cuda:99' is not there: \d+ CUDA devices are visible",
        ),
        (
            {"device": "gpu"},
            InvalidInputError,
            r"device='gpu' is not a device; use cpu, cuda, cuda:N, mps or auto",
        ),
        ({"transform": "sqash"}, UnknownNameError, r"unknown transform 'sqash'; known: 'squash'"),
        (
            {"mean": (0.5, 0.5)},
            InvalidInputError,
            r"^mean=\(0\.5, 0\.5\), std=.*: pass three numbers each, and",
        ),
        (
            {"std": (1.0, 0.0, 1.0)},
            InvalidInputError,
            r"std=\(1\.0, 0\.0, 1\.0\): pass three numbers each, and",
        ),
        ({"mean": (float("nan"),) * 3}, InvalidInputError, r"^mean=\(nan, nan, nan\), std=.*: pass three"),
        (
            {"interpolation": "cubic"},
            InvalidInputError,
            r"^interpolation='cubic'; use 'bilinear' or 'bicubic'$",
        ),
        (
            {"mean": (0.5,) * 3, "transform": "contrast"},
            InvalidInputError,
            r"^transform='contrast' normalises each image by its own numbers, and mean and std are for all",
        ),
    ],
)
def test_wrong_input(
    photo_folder: Folder, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(photo_folder(), tmp_path / "cache", **{"cuts": ("fc7",), **options})
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_image_size_and_transform_are_part_of_the_key(photo_folder: Folder, tmp_path: Path) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    banks = {
        run(data, cache, cuts=("fc7",), **options).bank
        for options in (
            {},
            {"image_size": 48},
            {"transform": "squash"},
            {"transform": "contrast"},
            {"random_state": 1},
            {"mean": (0.5, 0.5, 0.5)},
            {"std": (0.5, 0.5, 0.5)},
            {"interpolation": "bicubic"},
        )
    }
    assert len(banks) == 8
    own = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    first = run(data, cache, cuts=("fc7",), **own)
    second = run(data, cache, cuts=("fc7",), **own)
    assert (second.bank, second.pushed) == (first.bank, 0)
    key = Bank.open(first.bank).key
    assert {name: key.transform[name] for name in own} == own


def test_a_cache_that_cannot_be_written(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    (tmp_path / "file").write_text("in the way")  # fails for root too, which a mode does not
    with pytest.raises(CacheWriteError, match=r"cannot write .*Not a directory"):
        run(data, tmp_path / "file" / "cache")


def test_one_image_in_many_modes_gives_one_row(photo_folder: Folder, tmp_path: Path) -> None:
    """Grey, palette and RGBA files of one grey picture have the features of the RGB file."""
    data = photo_folder()
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8))
    for name, image in {
        "l": grey,
        "rgb": grey.convert("RGB"),
        "rgba": grey.convert("RGBA"),
        "p": grey.convert("P"),
    }.items():
        image.save(data / "red" / f"mode-{name}.png")
    bank = Bank.open(run(data, tmp_path / "cache").bank)
    rows = [row for row, identity in enumerate(bank.manifest.ids) if b"mode-" in identity]
    features = bank.features("fc7", rows)
    assert len(rows) == 4
    np.testing.assert_array_equal(features, np.broadcast_to(features[0], features.shape))


def test_a_bank_does_not_answer_for_another_file_of_the_folder(photo_folder: Folder, tmp_path: Path) -> None:
    data, weights = photo_folder(), tmp_path / "weights"
    weights.mkdir()
    state = load_backbone("minivgg").module.state_dict()
    save_file(state, weights / "mine.safetensors")
    first = run(data, tmp_path, weights=weights)
    assert run(data, tmp_path, weights=weights).pushed == 0
    save_file({name: one * 0.5 for name, one in state.items()}, weights / "model.safetensors")
    other = run(data, tmp_path, weights=weights)
    assert other.pushed > 0
    assert other.bank != first.bank
