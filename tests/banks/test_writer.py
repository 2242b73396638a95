"""Shards are whole or absent: kills, concurrent writers, wrong input, full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from featbank import _atomic
from featbank.banks import Bank, BankStore, import_bank, pack
from featbank.banks.shards import ShardPlan, SlotTable
from featbank.errors import (
    BankChangedError,
    CacheWriteError,
    CorruptBankError,
    IncompleteBankError,
    InvalidInputError,
)

SCRIPT = """
import importlib.util, os, sys
import numpy as np
from featbank.banks import Bank, QuarantineRecord
spec = importlib.util.spec_from_file_location("material", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
root, mode = sys.argv[2:4]

def write():
    bank = kit.BankStore(root).create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    manifest = kit.make_manifest([f"image {i}" for i in range(40)] + ["image 1"])
    bank.set_manifest(manifest)
    kit.extract(bank, ["block1_pool", "fc7"], quarantined=frozenset([kit.digest_of("image 7")]))
    bank.write_quarantine([QuarantineRecord(b"c1/0007.jpg", kit.digest_of("image 7").hex(), "truncated")])

def die_at(call):  # at one fsync of many, before it or (negative) after it
    fsync, count = os.fsync, [0]
    def counted(descriptor):
        count[0] += 1
        if count[0] == call: os.kill(os.getpid(), 9)
        fsync(descriptor)
        if count[0] == -call: os.kill(os.getpid(), 9)
    os.fsync = counted

def check():  # what has a name is whole, and what can be read is right
    path = os.path.join(root, "shapes", "minivgg-fa4f2b3c")
    if not os.path.exists(os.path.join(path, "bank.json")): return
    bank = Bank.open(path)
    assert bank.verify().ok, bank.verify()
    for cut in {*bank.cuts, *bank.partial_cuts}:
        mask = bank.rows_ok(cut)
        assert (bank[cut][mask] == kit.expected(cut, bank.manifest)[mask]).all(), cut

if mode == "wait":
    print("ready", flush=True)
    sys.stdin.readline()
if mode in ("wait", "whole"):
    write()
else:  # a list of calls to die at; a fork spares the start of an interpreter for each
    kills = 0
    for call in [*map(int, mode.split(",")), 0]:
        pid = os.fork()
        if pid == 0:
            die_at(call)
            try: write()
            except BaseException as error: print(error, file=sys.stderr); os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        check()
        if status == 0: break
        assert os.WTERMSIG(status) == 9, status
        kills += 1
    print(kills)
"""


def start(kit, root, mode="whole"):
    command = [sys.executable, "-c", SCRIPT, str(kit.file), str(root), mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def uninterrupted(kit, tmp_path):
    root = tmp_path / "uninterrupted"
    process = start(kit, root)
    process.communicate()
    assert process.returncode == 0
    found = kit.tree(root)
    assert len(found) == 1 + 1 + 1 + 2 + 5 + 4  # bank, manifest, quarantine, two cut.json, shards
    return found


@pytest.mark.slow
def test_killed_at_any_moment_the_bank_ends_the_same(kit, tmp_path, uninterrupted):
    rng = random.Random(os.environ.get("FEATBANK_TEST_SEED", "7"))
    for trial in range(int(os.environ.get("FEATBANK_TEST_TRIALS", "2"))):
        root = tmp_path / f"trial {trial}"
        # a shard takes two fsyncs (file, folder), the whole bank about 30
        calls = [rng.choice([-1, 1]) * rng.randint(1, 9) for _ in range(12)]
        process = start(kit, root, ",".join(map(str, calls)))
        said, _ = process.communicate()
        assert process.returncode == 0
        assert int(said) >= 3
        assert kit.tree(root) == uninterrupted


@pytest.mark.slow
def test_killed_from_outside_the_bank_ends_the_same(kit, tmp_path, uninterrupted):
    root, rng = tmp_path / "killed", random.Random(3)
    for _ in range(2):
        process = start(kit, root, "wait")
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.communicate()
    process = start(kit, root)
    process.communicate()
    assert process.returncode == 0
    assert kit.tree(root) == uninterrupted


@pytest.mark.slow
def test_two_writers_at_once(kit, tmp_path, uninterrupted):
    root = tmp_path / "both"
    processes = [start(kit, root, "wait") for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert kit.tree(root) == uninterrupted


@pytest.fixture
def writer(store, manifest, kit):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    bank.set_manifest(manifest)
    return bank.cut_writer("fc7", (5,), "float16", shard_bytes=140)


def rows(plan, value=1.0):
    return np.full((plan.n_rows, 5), value, np.float16), np.zeros(plan.n_rows, np.uint8)


def test_a_shard_is_named_by_its_bytes_which_are_always_the_same(writer):
    plan = writer.missing()[0]
    path = writer.write(plan, *rows(plan))
    data = path.read_bytes()
    assert path.name == f"00000-{hashlib.sha256(data).hexdigest()[:16]}.h5"
    path.unlink()
    time.sleep(1.1)  # HDF5 time stamps count seconds
    assert writer.write(plan, *rows(plan)).read_bytes() == data
    assert (writer.shard_rows, writer.cut, writer.shape, writer.dtype) == (12, "fc7", (5,), np.float16)


def test_shard_features_can_be_mapped_on_a_page(writer):
    import h5py

    plan = writer.missing()[0]
    path = writer.write(plan, *rows(plan, 2.5))
    with h5py.File(path) as file:
        assert file["features"].chunks is None
        offset = file["features"].id.get_offset()
        place = {"key", "cut", "shard", "start", "stop", "shard_rows"}
        assert set(file.attrs) == place | {"max_abs", "n_zero", "n_nonfinite", "n_values"}
        assert not any(dataset.dtype.hasobject for dataset in file.values())
    assert offset % 4096 == 0
    assert (np.memmap(path, np.float16, "r", offset, (12, 5)) == 2.5).all()


def test_a_shard_another_process_wrote_first_is_kept(writer, caplog):
    plan = writer.missing()[0]
    first = writer.write(plan, *rows(plan, 1.0))
    assert writer.write(plan, *rows(plan, 1.0)) == first
    assert not caplog.records
    assert writer.write(plan, *rows(plan, 2.0)) == first
    assert "was written by another process with other bytes; kept" in caplog.text
    assert list(writer.folder.glob("*.h5")) == [first]


@pytest.mark.parametrize(
    "spoil", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + b"\x01"]
)
@pytest.mark.parametrize("value", [1.0, 2.0])
def test_a_damaged_shard_is_replaced(writer, caplog, spoil, value):
    plan = writer.missing()[0]
    first = writer.write(plan, *rows(plan, 1.0))
    first.write_bytes(spoil(first.read_bytes()))
    again = writer.write(plan, *rows(plan, value))
    assert list(writer.folder.glob("*.h5")) == [again]
    assert "is replaced" in caplog.text
    assert (writer._bank["fc7"][[0, 1]] == value).all()


def test_shards_of_another_layout_are_never_removed_nor_mixed(writer):
    bank = writer._bank
    other = bank.cut_writer("fc7", (5,), "float16", shard_bytes=1)  # began at the same time
    assert other.shard_rows == 4
    first = writer.write(writer.plans()[0], *rows(writer.plans()[0], 1.0))
    for number in (0, 1, 7):  # what stands there, and what does not
        plan = other.plans()[number]
        with pytest.raises(BankChangedError, match=r"with 12 rows of .* a shard, not 4 of .*: run the same"):
            other.write(plan, *rows(plan, 1.0))
    assert list(writer.folder.glob("*.h5")) == [first]
    assert writer.write(writer.plans()[1], *rows(writer.plans()[1])).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f, s: (f[:-1], s), "features have shape (11, 5), not (12, 5)"),
        (lambda f, s: (f.astype("f4"), s), "features have dtype float32, not float16"),
        (lambda f, s: (f, s[:-1]), "statuses are uint8 (11,), not uint8 (12,)"),
        (lambda f, s: (f, s.astype(int)), "statuses are int64 (12,), not uint8 (12,)"),
        (lambda f, s: (f, s + np.uint8(3)), "statuses have 3, the largest is 2"),
        (lambda f, s: (f, s + np.uint8(1)), "rows that are not OK have features, they must be zeros"),
    ],
)
def test_wrong_input_is_refused(writer, change, said):
    plan = writer.missing()[0]
    with pytest.raises(InvalidInputError) as caught:
        writer.write(plan, *change(*rows(plan)))
    assert str(caught.value) == f"shard 0 of cut 'fc7': {said}"
    assert len(writer.missing()) == 3


@pytest.mark.parametrize(
    "plan", [ShardPlan(0, 0, 11), ShardPlan(3, 33, 40), ShardPlan(-1, 24, 33), ShardPlan(1, 0, 12)]
)
def test_a_plan_of_nobody_is_refused(writer, plan):
    with pytest.raises(InvalidInputError, match="is no shard of cut 'fc7'; take plans from missing"):
        writer.write(plan, *rows(plan))


def test_finish_needs_every_shard(writer):
    for plan in writer.missing()[:2]:
        writer.write(plan, *rows(plan))
    assert not writer.finished
    with pytest.raises(IncompleteBankError, match=r"lacks shard 2 \(slots 24 to 32\)"):
        writer.finish({})
    for plan in writer.missing():
        writer.write(plan, *rows(plan))
    assert not writer.finished
    with pytest.raises(InvalidInputError, match="cannot be stored as JSON"):
        writer.finish({"error": float("nan")})
    writer.finish({})
    assert writer.finished


def test_an_existing_cut_keeps_its_layout(bank, kit):
    assert bank.cut_writer("fc7", (5,), "float16").shard_rows == 12  # not what 64 MiB would give
    for shape, dtype in (((6,), "float16"), ((5,), "float32"), ((5, 1), "float16")):
        with pytest.raises(InvalidInputError, match=r"stores float16 \(5,\), not "):
            bank.cut_writer("fc7", shape, dtype)


@pytest.mark.parametrize("cut", ["", "../x", ".hidden", "a/b", "x" * 101, "é"])
def test_cut_names_are_safe(bank, cut):
    with pytest.raises(InvalidInputError, match="cannot name a folder"):
        bank.cut_writer(cut, (5,), "float16")


def test_softmax_is_never_stored(bank):
    with pytest.raises(InvalidInputError, match="never stored"):
        bank.cut_writer("softmax", (5,), "float32")


@pytest.mark.parametrize(
    ("shape", "dtype"), [((), "float16"), ((0,), "float16"), ((3, -1), "float16"), ((3,), "int8")]
)
def test_what_cannot_be_stored_is_refused(bank, shape, dtype):
    with pytest.raises(InvalidInputError, match="cannot be stored; one or more sides of at least 1"):
        bank.cut_writer("fc6", shape, dtype)


def test_views_are_cuts(bank, kit):
    writer = bank.cut_writer("fc7@hflip", (5,), "float16")
    for plan in writer.missing():
        writer.write(plan, *rows(plan))
    writer.finish({})
    assert "fc7@hflip" in bank.cuts


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_is_an_error_and_nothing_more(writer, monkeypatch, call, number):
    first, second, _ = writer.missing()
    kept = writer.write(first, *rows(first))
    real, count = getattr(os, call), [0]

    def failing(*args, **kwargs):
        count[0] += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(
        CacheWriteError, match="free some space" if number == errno.ENOSPC else "it resumes"
    ) as caught:
        writer.write(second, *rows(second))
    assert caught.value.errno == number
    assert count[0] == 1
    monkeypatch.setattr(os, call, real)
    assert sorted(path.name for path in writer.folder.iterdir()) == [".lock", kept.name]
    assert [plan.number for plan in writer.missing()] == [1, 2]
    writer.write(second, *rows(second))


def test_leftovers_of_dead_processes_are_removed(bank):
    from featbank._atomic import temporary_path

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        for folder in (bank.path, bank.path / "fc7"):
            mine = temporary_path(folder / "x.h5")
            mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{pid}-")).write_bytes(b"half")
    assert [finding.kind for finding in bank.verify().findings] == ["temporary"] * 4
    bank.cut_writer("fc7", (5,), "float16").prepare()
    left = sorted(bank.path.rglob(".tmp-*"))
    assert [f"-{os.getpid()}-" in path.name for path in left] == [True, True]


def test_a_writer_survives_another_process_adding_rows(store, kit):
    mine = store.create_or_open("shapes", kit.KEY, {})
    mine.set_manifest(kit.make_manifest([str(i) for i in range(9)]))
    theirs = BankStore(store.root).create_or_open("shapes", kit.KEY, {})
    theirs.set_manifest(kit.make_manifest([str(i) for i in range(12)]))
    kit.extract(mine, ["fc7"], quarantined=frozenset([kit.digest_of("3")]))
    again = Bank.open(mine.path)
    assert len(again.manifest) == 12  # what the other set is not undone
    assert again.manifest.statuses.tolist() == [0, 0, 0, 1, *[0] * 8]
    assert again.partial_cuts["fc7"].rows_stored == 9


def test_without_rows_the_slots_stay(bank, kit, manifest):
    kit.extract(bank, ["fc7"])
    (shard,) = bank.shard_names("fc7")[:1]
    before = bank.slot_table.segments.tolist()
    bank.set_manifest(kit.make_manifest([]))
    assert len(bank) == 0
    for one in (bank, Bank.open(bank.path)):
        assert one.slot_table.segments.tolist() == before
    bank.set_manifest(kit.make_manifest(["image 1", "later"]))
    assert bank.slot_table.segments.tolist() == [*before, before[-1] + 1]
    assert shard in bank.shard_names("fc7")
    assert [one.n_rows for one in bank.cut_writer("fc7", (5,), "float16").missing()] == [1]


def test_threads_build_shards_at_once(store, kit):
    # libhdf5 refuses two files of one name at a time, also in memory
    bank = store.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([str(i) for i in range(64)]))
    writer = bank.cut_writer("fc7", (50_000,), "float16", shard_bytes=1)
    plans = writer.missing()
    zeros = np.zeros((4, 50_000), np.float16)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda plan: writer.write(plan, zeros, np.zeros(4, np.uint8)), plans))
    writer.finish({})
    assert bank.verify().findings == []


def test_writers_that_disagree_leave_one_file(writer):
    # without the lock both find no file and both write theirs
    plan = writer.missing()[0]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda value: writer.write(plan, *rows(plan, value)), range(1, 17)))
    assert len(set(paths)) == 1
    assert list(writer.folder.glob("*.h5")) == [paths[0]]


def test_rows_that_came_later_are_not_finished_before_finish(bank, kit, manifest):
    bank.set_manifest(kit.make_manifest(["image 1", "later"]))
    kit.extract(bank, ["fc7"], finish=False)
    writer = bank.cut_writer("fc7", (5,), "float16")
    assert writer.missing() == []
    assert not writer.finished
    writer.finish({})
    assert writer.finished


def test_whenever_the_power_goes_no_two_files_claim_one_number(writer, monkeypatch):
    plan = writer.missing()[0]
    first = writer.write(plan, *rows(plan))
    first.write_bytes(first.read_bytes()[:-1])

    def fails(path, target):
        raise CacheWriteError("the disk is full")

    monkeypatch.setattr("featbank.banks.bank.move_file", fails)
    with pytest.raises(CacheWriteError):
        writer.write(plan, *rows(plan, 2.0))
    assert [path.name for path in writer.folder.glob("*.h5")] == []


@pytest.fixture
def listings(monkeypatch):
    """How many names were listed, and how many shards planned."""
    counts, names, real_plan = Counter(), os.listdir, SlotTable.plan
    for call, real in (("scandir", os.scandir), ("listdir", os.listdir)):

        def counting(path, real=real):
            counts["names"] += len(names(path))
            return real(path)

        monkeypatch.setattr(os, call, counting)

    def plan(self, shard_rows):
        found = real_plan(self, shard_rows)
        counts["plans"] += len(found)
        return found

    monkeypatch.setattr(SlotTable, "plan", plan)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("n_shards", [50, 400])
def test_the_work_per_shard_does_not_grow_with_their_number(store, kit, listings, n_shards):
    bank = store.create_or_open("many", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([f"image {i}" for i in range(4 * n_shards)]))
    writer = bank.cut_writer("logits", (4,), "float32", shard_bytes=1)
    plans = writer.missing()
    listings.clear()
    for plan in plans:
        writer.write(plan, np.ones((4, 4), np.float32), np.zeros(4, np.uint8))
    assert len(plans) == n_shards
    assert listings["names"] + listings["plans"] <= 5 * n_shards
    writer.finish({})
    listings.clear()
    assert bank.verify().ok
    assert listings["names"] + listings["plans"] <= 8 * n_shards


def test_a_writer_sees_what_another_wrote_in_between(writer):
    bank, plans = writer._bank, writer.missing()
    other = Bank.open(bank.path).cut_writer("fc7", (5,), "float16", shard_bytes=140)
    first = writer.write(plans[0], *rows(plans[0], 1.0))
    theirs = other.write(plans[1], *rows(plans[1], 2.0))
    assert writer.write(plans[1], *rows(plans[1], 3.0)) == theirs
    # removed by hand, then by a repair: written again, whoever has seen it
    first.unlink()
    assert writer.write(plans[0], *rows(plans[0], 4.0)).exists()
    assert other.write(plans[0], *rows(plans[0], 5.0)) == writer._present[0]
    assert len(list(writer.folder.glob("*.h5"))) == 2


def test_what_made_a_shard_stands_in_it_and_travels_with_it(store, kit, manifest, tmp_path):
    bank = store.create_or_open("made", kit.KEY, {})
    bank.set_manifest(manifest)
    old, new = {"torch": "2.10.0", "device": "cpu"}, {"torch": "2.11.0", "device": "cpu"}
    made = {"shape": (5,), "dtype": "float16", "shard_bytes": 140}
    plans = bank.cut_writer("fc7", **made).missing()
    for plan, made_by in zip(plans, (old, new, {}), strict=True):
        values = np.ones((plan.n_rows, 5), np.float16)
        bank.cut_writer("fc7", **made, made_by=made_by).write(plan, values, np.zeros(plan.n_rows, np.uint8))
    writer = bank.cut_writer("fc7", **made)
    assert writer.made_by() == {"device": ("cpu",), "torch": ("2.10.0", "2.11.0")}
    writer.finish({})
    said = []
    for path in sorted(writer.folder.glob("*.h5")):
        with h5py.File(path) as file:
            said.append(file.attrs.get("made_by"))
    assert said == [b'{"device":"cpu","torch":"2.10.0"}', b'{"device":"cpu","torch":"2.11.0"}', None]
    assert bank.verify().ok
    # taken in from a folder and from a pack, the same shards again
    for number, source in enumerate((bank.path, pack(bank, tmp_path / "pack.h5"))):
        again = import_bank(source, BankStore(tmp_path / f"{number}"))
        assert kit.tree(again.path) == kit.tree(bank.path)


@pytest.mark.parametrize("said", [[1], "{", {"torch": 2}, {"torch": "\x1b[31m"}, {"a": "x" * 201}])
def test_what_made_a_shard_is_checked_when_it_is_taken_in(store, kit, manifest, tmp_path, said):
    bank = store.create_or_open("made", kit.KEY, {})
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"])
    path = next(bank.path.glob("fc7/00001-*.h5"))
    path.write_bytes(kit.forged(path.read_bytes(), lambda header: header["facts"].update(made_by=said)))
    path.rename(path.with_name(f"00001-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.h5"))
    assert [fault.kind for fault in bank.verify().faults] == ["unreadable"]
    with pytest.raises(CorruptBankError, match="cannot be taken in"):
        import_bank(bank.path, BankStore(tmp_path / "other"))


def test_threads_wait_for_the_disk_together(store, kit, monkeypatch):
    """Hashing and fsync are not under the lock: as many shards are on their way as there are threads."""
    bank = store.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([str(i) for i in range(16)]))
    writer = bank.cut_writer("fc7", (5,), "float16", shard_bytes=1)
    together = threading.Barrier(4)

    def aside(*of, real=_atomic.fill):
        together.wait(timeout=60)
        return real(*of)

    monkeypatch.setattr("featbank.banks.bank.fill", aside)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda plan: writer.write(plan, *rows(plan)), writer.missing()))
    writer.finish({})
    assert bank.verify().findings == []
    assert "fc7" in bank
