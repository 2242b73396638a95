"""A plan that many processes push: the bank is byte for byte that of one, whoever dies and runs again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank._atomic import canonical_json, sha256
from featbank.backbones import Backbone, TruncatedNetwork, load_backbone
from featbank.backbones.loading import absolute_weights
from featbank.banks import Bank, verify_bank
from featbank.datasets import building, open_dataset
from featbank.datasets.sources import absolute_source
from featbank.errors import (
    BankChangedError,
    BankNotFoundError,
    CacheWriteError,
    CorruptBankError,
    FeatureOverflowError,
    IncompleteBankError,
    InvalidInputError,
    MissingDataError,
)
from featbank.extraction import (
    ExtractionSettings,
    SavedPlan,
    extract,
    finish_plan,
    open_plan,
    plan,
    push,
    push_tasks,
    save_plan,
    slices_of,
    tasks_left,
)
from featbank.extraction.extracting import plan_path
from featbank.extraction.pushing import Pushing

Folder = Callable[..., Path]
FAULTS = Path(__file__).parents[1] / "faults"
#: Shards of 2, 4, 4 and 8 images, once `small_shards` is in place.
CUTS = ("block4_pool", "fc7", "fc7@hflip", "block3_pool:gap")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featbank.extraction.planning.SHARD_BYTES", 2048)


def settings_for(cache: Path, **options: Any) -> ExtractionSettings:
    fixed: dict[str, Any] = {
        "backbone": "minivgg",
        "cuts": CUTS,
        "precision": "float32",
        "compile": "off",
        "batch_size": 2,
        "workers": 1,
        "cache_dir": cache,
    }
    return ExtractionSettings(**fixed | options)


def saved(data: Path | str, cache: Path, n_slices: int | None = None, **options: Any) -> Path:
    with plan(data, settings_for(cache, **options)) as todo:
        return save_plan(todo, n_slices=n_slices)


def pushed(path: Path, number: int, n_slices: int) -> Any:
    return push(open_plan(path, workers=1).slice(number, n_slices))


def said_of(bank: Path) -> dict[str, bytes]:
    """What a bank holds but for the plan, and for what of a cut no slice knows: the time all took."""
    found = {}
    for file in sorted(bank.rglob("*")):
        content = file.read_bytes() if file.is_file() else b""
        if not content or file.name.startswith((".", "plan-")):
            continue
        if file.name == "cut.json":
            document = json.loads(content)
            found["facts"] = document.pop("sha256") and b""
            for fact in ("duration_s", "passes"):
                document["facts"].pop(fact, None)
            content = canonical_json(document)
        found[str(file.relative_to(bank))] = content
    return found


def test_slices_in_any_order_make_the_bank_of_one_machine(tmp_path: Path) -> None:
    one = extract("digits", settings_for(tmp_path / "one", limit=61))
    path = saved("digits", tmp_path / "many", 4, limit=61)
    results = [pushed(path, number, 4) for number in (3, 1, 3, 4, 2, 1)]
    assert (
        sum(one.pushed for one in results) == 61
    )  # each once, at all cuts, twice the slices that came twice
    assert [one.left for one in results] == [45, 29, 29, 16, 0, 0]
    assert [one.pushed + one.skipped + one.left for one in results] == [61] * 6
    assert said_of(path.parent) == said_of(one.bank)
    assert verify_bank(path.parent).findings == []
    again = extract("digits", settings_for(tmp_path / "many", limit=61))
    assert (again.bank, again.pushed) == (path.parent, 0)


def test_killed_slices_run_again_and_one_runs_twice_at_once() -> None:
    command = [sys.executable, str(FAULTS), "--scale", "0.015", "--only", "slices"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    figures = json.loads(done.stdout.partition("\n\n")[0])["results"]["slices"]["figures"]
    assert done.returncode == 0, done.stderr
    assert figures["kills"] >= 1
    assert figures["banks identical"] == figures["rounds of four slices"] == 3


@pytest.mark.slow
def test_a_begun_bank_and_new_cuts_are_sliced_as_one_machine_goes_on(
    photo_folder: Folder, tmp_path: Path
) -> None:
    data = photo_folder()
    for cache in ("one", "many"):
        extract(data, settings_for(tmp_path / cache, cuts=["fc7"], limit=7))
    one = extract(data, settings_for(tmp_path / "one"))
    path = saved(data, tmp_path / "many", 3)
    before = tasks_left(path)
    assert {cut for task in before for cut in task.cuts} == set(CUTS)
    sizes = []
    for number in (2, 3, 1):
        sizes.append(pushed(path, number, 3).pushed)
        left = tasks_left(path)  # what is done does not move what is not
        assert [task for task in before if f"{task.number % 3 + 1}/3" in slices_of(left, 3)] == left
    assert (min(sizes) > 0, left) == (True, [])
    assert said_of(path.parent) == said_of(one.bank)


@pytest.mark.slow
def test_a_plan_that_is_not_saved_has_slices_too(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    one = extract(data, settings_for(tmp_path / "one"))
    for number in (2, 1):
        with plan(data, settings_for(tmp_path / "many")) as todo:
            part = todo.slice(number, 2)
            assert 0 < part.to_push < todo.to_push or number == 1
            assert part.size_bytes < todo.size_bytes or number == 1
            result = push(part)
    assert said_of(result.bank) == said_of(one.bank)


@pytest.mark.slow
def test_what_other_banks_hold_is_copied_by_slices(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    other = tmp_path / "other"
    shutil.copytree(data / "red", other / "red")
    shutil.copytree(data / "blue", other / "blue")
    extract(other, settings_for(tmp_path / "cache"))
    path = saved(data, tmp_path / "cache", 2)
    with open_plan(path) as todo:
        assert list(todo.to_copy) == [f"other/{path.parent.name}"]
    results = [pushed(path, number, 2) for number in (1, 2)]
    assert sum(one.pushed for one in results) < 12
    alone = Bank.open(extract(data, settings_for(tmp_path / "alone")).bank)
    for cut in CUTS:
        np.testing.assert_array_equal(Bank.open(path.parent)[cut].read(), alone[cut].read())
    # and pushed where that bank is gone since
    path = saved(data, tmp_path / "cache", 2, cuts=["block5_pool"])
    shutil.rmtree(tmp_path / "cache" / "banks" / "other")
    assert sum(pushed(path, number, 2).pushed for number in (1, 2)) == 18


@pytest.mark.slow
def test_tasks_hash_nothing_and_keep_the_backbone(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()
    one = extract(data, settings_for(tmp_path / "one"))
    path = saved(data, tmp_path / "many")
    loads: list[str] = []

    def counted(name: str, **options: Any) -> Backbone:
        loads.append(name)
        return load_backbone(name, **options)

    def hashed(*of: Any, **options: Any) -> Any:
        raise AssertionError("a file was hashed")

    monkeypatch.setattr("featbank.backbones.loading.load_backbone", counted)
    monkeypatch.setattr(building, "row_digests", hashed)
    monkeypatch.setattr("featbank._cache.DigestCache.find", hashed)
    tasks = tasks_left(str(path))
    assert [(one.number, one.n_images) for one in tasks] == [(0, 8), (1, 8), (2, 2)]
    with pytest.raises(IncompleteBankError, match="18 images are still to be pushed"):
        finish_plan(path)
    assert push_tasks(str(path), [2], workers=1) == 2
    assert [one.number for one in tasks_left(path)] == [0, 1]
    assert push_tasks(str(path), [0, 2], workers=1) == 8
    assert push_tasks(str(path), [0], workers=1) == 0  # another did it
    assert Bank.open(path.parent).cuts == ()
    assert push_tasks(str(path), [1], workers=1) == 8
    assert loads == ["minivgg"]
    assert finish_plan(path).left == 0
    assert said_of(path.parent) == said_of(one.bank)


@pytest.mark.slow
def test_an_image_that_changed_since_is_none_of_another(
    photo_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder()
    path = saved(data, tmp_path / "cache", 2)
    (data / "red" / "002.png").write_bytes((data / "blue" / "001.png").read_bytes())
    (data / "green" / "003.png").unlink()
    pushed(path, 2, 2)
    result = pushed(path, 1, 2)
    assert (result.quarantined, result.left) == (2, 0)
    bank = Bank.open(path.parent)
    assert bank.cuts == tuple(sorted(CUTS))
    reasons = {one.id: one.reason for one in bank.quarantine()}
    assert reasons == {b"green/003.png": "unreadable", b"red/002.png": "changed"}
    assert not bank.rows_ok("fc7")[[list(bank.manifest.ids).index(one) for one in reasons]].any()


def test_what_cannot_be_sliced_is_one_line(photo_folder: Folder, tmp_path: Path) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    path = saved(data, cache, 4)
    for number, n, said in (
        (5, 4, "1/4 to 4/4"),
        (0, 4, "1/4 to 4/4"),
        (1, 0, "1/1"),
        (3, 8, "i/4, or plan"),
    ):
        with open_plan(path) as todo, pytest.raises(InvalidInputError, match=said):
            todo.slice(number, n)
    with pytest.raises(BankNotFoundError, match=r"cuts is \[.*\], not \['fc6'\].*--plan-only"):
        plan_path(data, settings_for(cache, cuts=["fc6"]))
    assert plan_path(data, settings_for(cache, workers=3, device="cpu", rehash=True)) == path
    with pytest.raises(BankNotFoundError, match="--plan-only"):
        open_plan(path.with_name("plan-0123456789abcdef.json"))
    with pytest.raises(BankNotFoundError, match="no plan"):
        open_plan(path.with_name("bank.json"))
    # planned again, with other images and another number of slices: a slice of before finishes nothing
    with open_plan(path) as before:
        first = before.slice(1, 4)
        (data / "red" / "002.png").unlink()
        assert saved(data, cache, 2) == path
        with pytest.raises(BankChangedError, match="another plan by now"):
            before.need_work().saved.check_rows(Bank.open(path.parent))  # type: ignore[union-attr]
        assert push(first).pushed > 0  # what it pushes is right all the same
    extract(data, settings_for(cache, limit=5, cuts=["fc7"]))
    with pytest.raises(BankChangedError, match="17 then, 5 now"):
        open_plan(path)
    assert {pushed(saved(data, cache, 2), number, 2).left for number in (1, 2)} > {0}
    assert verify_bank(path.parent).findings == []


@pytest.mark.slow
def test_a_plan_is_found_on_a_node_without_the_images(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    photo_folder().rename(tmp_path / "data" / "mine")
    settings = settings_for(tmp_path / "cache", cuts=["fc7"])
    path = saved("mine", tmp_path / "cache", 4, cuts=["fc7"])
    assert plan_path("mine", settings) == path
    (tmp_path / "data").rename(tmp_path / "unmounted")
    assert plan_path("mine", settings) == path
    (tmp_path / "mine").mkdir()  # other images are meant
    with pytest.raises(BankNotFoundError, match=r"data is '.*/data/mine', not '.*/mine'"):
        plan_path("mine", settings)


def test_names_are_no_paths_whatever_stands_in_the_folder(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "minivgg"):
        (tmp_path / name).mkdir()
    plan = SavedPlan.read(saved("digits", tmp_path / "cache", limit=4, cuts=["fc7"]))
    assert (plan.data, plan.settings.backbone) == ("digits", "minivgg")
    said = [absolute_source(one) for one in (Path("digits"), "./digits", "crops:a.csv", "hf:a/b", "digits:")]
    here = str(tmp_path)
    assert said == [f"{here}/digits", f"{here}/digits", f"crops:{here}/a.csv", "hf:a/b", "digits:"]
    assert (
        absolute_source("webdataset:a-{0..1}.tar::b.tar") == f"webdataset:{here}/a-{{0..1}}.tar::{here}/b.tar"
    )
    # names may hold a #; else the last one begins the key
    (tmp_path / "a#b").touch()
    asked = ["a#b", "a#b#c", "minivgg", "random", "DEFAULT"]
    assert [absolute_weights(one) for one in asked] == [
        f"{here}/a#b", f"{here}/a#b#c", f"{here}/minivgg", "random", "DEFAULT"
    ]  # fmt: skip


def test_a_plan_whose_images_are_all_others_is_refused(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder()
    path = saved(data, tmp_path / "cache")
    for one in list(data.glob("*/*")):
        one.rename(one.with_name(f"other-{one.name}"))
    with pytest.raises(MissingDataError, match=r"none of the 18 images of the plan is in .* now"):
        open_plan(path)


def test_rows_that_another_process_sets_meanwhile_are_not_pinned(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, begin = photo_folder(), Pushing.begin

    def begun(self: Pushing) -> None:
        begin(self)
        monkeypatch.setattr(Pushing, "begin", begin)
        extract(data, settings_for(tmp_path / "cache", limit=5, cuts=["fc7"]))

    monkeypatch.setattr(Pushing, "begin", begun)
    with pytest.raises(BankChangedError, match="another extraction has set other rows of bank"):
        saved(data, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/banks/*/*/plan-*.json"))


def test_a_plan_that_only_copies_is_for_no_machine(photo_folder: Folder, tmp_path: Path) -> None:
    data, other = photo_folder(), tmp_path / "other"
    shutil.copytree(data, other)
    extract(other, settings_for(tmp_path / "cache"))
    path = saved(data, tmp_path / "cache", 2)
    assert SavedPlan.read(path).machine == {}
    with open_plan(path) as todo:
        assert todo.to_push == 0
    shutil.rmtree(tmp_path / "cache" / "banks" / "other")
    with pytest.raises(InvalidInputError, match=r"every image was to be copied .* plan again"):
        pushed(path, 1, 2)


def test_another_machine_can_finish_where_images_are_bad(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()
    (data / "red" / "000.png").write_bytes(b"no image")
    path = saved(data, tmp_path / "cache", cuts=["fc7"])
    push_tasks(path, [one.number for one in tasks_left(path)])
    monkeypatch.setattr("featbank.extraction.saved_plan.machine", lambda devices: {"torch": "another"})
    assert finish_plan(path).quarantined == 1
    (record,) = Bank.open(path.parent).quarantine()
    assert record.reason == "not-an-image"


def test_a_plan_needs_names_and_room(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()
    with (
        plan(open_dataset(data), settings_for(tmp_path / "a")) as todo,
        pytest.raises(InvalidInputError, match="by name or path"),
    ):
        save_plan(todo)
    monkeypatch.setattr("featbank.extraction.planning.free_bytes", lambda folder: 0)
    with pytest.raises(CacheWriteError, match="GB free"):
        saved(data, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_another_machine_follows_the_plan_or_refuses(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo_folder()
    path = saved(data, tmp_path / "cache", 2)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(InvalidInputError, match=r"torch was 2\..*, here it is 9\.9\.9"):
            pushed(path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "SVE256")
        with pytest.raises(InvalidInputError, match=r"cpu was .*, here it is SVE256"):
            pushed(path, 1, 2)
    with monkeypatch.context() as patch:  # a card that is here too changes nothing
        patch.setattr("torch.cuda.is_available", lambda: True)
        assert pushed(path, 1, 2).pushed > 0
    rewritten(path, device="cuda", machine={"torch": torch.__version__, "device": "NVIDIA H100"})
    with pytest.raises(InvalidInputError, match="planned on NVIDIA H100, and no CUDA device is visible"):
        pushed(path, 2, 2)
    with pytest.raises(InvalidInputError, match="device was NVIDIA H100, here it is cpu"):
        push(open_plan(path, device="cpu").slice(2, 2))
    assert len(tasks_left(path)) == 1  # nothing is lost


def rewritten(path: Path, **changes: Any) -> None:
    """Change what a plan says, its seal with it."""
    document = {**json.loads(path.read_text()), **changes}
    document.pop("sha256")
    path.write_text(json.dumps({**document, "sha256": sha256(canonical_json(document))}))


@pytest.mark.parametrize(
    "changes",
    [
        {"shapes": {"fc7": []}, "dtypes": {"fc7": "float16"}},
        {"shapes": {"fc7": [1 << 40]}, "dtypes": {"fc7": "float16"}},
        {"shapes": {"../fc7": [4]}, "dtypes": {"../fc7": "float16"}},
        {"shapes": {"fc7": [4]}, "dtypes": {}},
        {"dtypes": {"fc7": "object"}},
        {"lenders": ["../../etc"]},
        {"lenders": ["photos/.."]},
        {"lenders": 7},
        {"slices": 0},
        {"slices": True},
        {"device": "meta"},
        {"machine": []},
        {"errors": {"fc7": "far"}},
        {"rows": "many"},
        {"asked": {"data": "digits", "settings": {}}},
        {"asked": 5},
    ],
)
def test_a_plan_from_a_stranger_is_bounded_json(
    tmp_path: Path, plan_of_a_bank: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / plan_of_a_bank.name
    document = json.loads(plan_of_a_bank.read_text())
    if "fc7" in changes.get("dtypes", {}):
        changes = {"shapes": {"fc7": document["shapes"]["fc7"]}} | changes
    path.write_text(plan_of_a_bank.read_text())
    assert SavedPlan.read(path).n_slices == 4
    rewritten(path, **changes)
    with pytest.raises(CorruptBankError, match=r"plan .* makes no sense .*: delete it and plan again"):
        SavedPlan.read(path)


@pytest.fixture(scope="module")
def plan_of_a_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("plan")
    return saved("digits", cache, 4, limit=20, cuts=["fc7"])


def test_a_damaged_plan_is_told_and_set_aside(tmp_path: Path, plan_of_a_bank: Path) -> None:
    bank = shutil.copytree(plan_of_a_bank.parent, tmp_path / "bank")
    path = bank / plan_of_a_bank.name
    assert [one.kind for one in verify_bank(bank).findings] == ["unfinished"]
    for content in (b"", b"{" * 100_000, path.read_bytes()[:-20], b" " * (1 << 20) + path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CorruptBankError, match="damaged"):
            open_plan(path)
        assert [one.path for one in verify_bank(bank).faults] == [path]


@pytest.mark.slow
def test_a_slice_that_overflows_does_not_begin_the_cut_anew(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(photo_folder(), tmp_path / "cache", 2, cuts=["fc7"], on_overflow="float32")
    pushed(path, 1, 2)
    before = said_of(path.parent)
    forward = TruncatedNetwork.forward

    def larger(self: TruncatedNetwork, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {cut: values * 1e6 for cut, values in forward(self, batch).items()}

    monkeypatch.setattr(TruncatedNetwork, "forward", larger)
    with pytest.raises(FeatureOverflowError, match="other slices store 'fc7' in float16: plan again"):
        pushed(path, 2, 2)
    assert said_of(path.parent) == before
