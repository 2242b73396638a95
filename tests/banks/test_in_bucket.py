"""Banks in a bucket, in memory: the same bytes as in a folder, whatever goes wrong on the way."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featbank._atomic import change_file, make_folder, write_file
from featbank._bucket import BucketPath
from featbank._cache import banks_folder, cache_folder, user_path
from featbank.banks import Bank, BankStore, export_bank, fetching, pack, unpack, verify_bank
from featbank.banks.verification import set_damaged_aside
from featbank.errors import (
    BankChangedError,
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    IncompleteBankError,
    InvalidInputError,
    MissingPackageError,
)
from featbank.manifest import Manifest, RowStatus

obstore = pytest.importorskip("obstore")
numbers = itertools.count()


@pytest.fixture(autouse=True)
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched shards are kept."""
    folder = tmp_path / "shards"
    monkeypatch.setenv("FEATBANK_SHARD_CACHE", str(folder))
    monkeypatch.delenv("FEATBANK_SHARD_CACHE_BYTES", raising=False)
    return folder


@pytest.fixture
def there() -> BankStore:
    """A store of banks in a bucket of its own."""
    return BankStore(f"memory://bucket-{next(numbers)}/some/prefix/banks")


def tree(place: Path) -> dict[str, bytes]:
    found = {}
    for one in place.iterdir():
        if one.is_dir():
            found |= {f"{one.name}/{name}": data for name, data in tree(one).items()}
        elif one.name not in (".order.json", ".conditional-puts"):
            found[one.name] = one.read_bytes()
    return found


def filled(kit: SimpleNamespace, store: BankStore, manifest: Manifest) -> Bank:
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    bank.set_manifest(manifest)
    kit.extract(bank)
    return bank


def test_a_bank_has_the_bytes_it_has_in_a_folder_and_is_read_alike(
    kit: SimpleNamespace, there: BankStore, bank: Bank, manifest: Manifest
) -> None:
    made = filled(kit, there, manifest)
    assert tree(made.path) == kit.tree(bank.path)
    opened = Bank.open(there.resolve("shapes"), check="sha256")
    rows = np.array([3, -1, 0, 3, 20])
    for cut in kit.CUTS:
        np.testing.assert_array_equal(opened[cut].read(rows), bank[cut].read(rows))
        np.testing.assert_array_equal(opened[cut][:], kit.expected(cut, manifest))
    here, said = bank.info(), opened.info()
    for one, same in zip(said.cuts, here.cuts, strict=True):
        assert replace(one, size_bytes=0) == replace(same, size_bytes=0)
    assert said.size_bytes == sum(map(len, tree(made.path).values()))
    assert [one.name for one in there.list()] == [here.name]
    report = opened.verify()
    assert report.ok
    assert report.n_shards == bank.verify().n_shards
    assert kit.extract(opened) == 0
    assert [one.name for one in there.root.glob("*/*/[m]*.h5")] == ["manifest.h5"]


def test_a_bank_is_removed_cut_by_cut_or_whole(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest
) -> None:
    bank = filled(kit, there, manifest)
    size = sum(len(data) for name, data in tree(bank.path).items() if name.startswith("fc7/"))
    assert there.remove("shapes", cut="fc7") == size
    assert Bank.open(bank.path).cuts == ("block1_pool", "logits")
    assert there.remove(bank.path) > 0
    assert tree(there.root) == {}
    with pytest.raises(BankNotFoundError, match="no bank in 'memory://"):
        Bank.open(bank.path)


def test_a_removal_that_was_interrupted_is_gone_on_with(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = filled(kit, there, manifest)
    delete, calls = obstore.delete, Counter[str]()

    def once(*of: Any) -> None:
        calls["made"] += 1
        if calls["made"] == 2:
            raise KeyboardInterrupt
        delete(*of)

    monkeypatch.setattr(obstore, "delete", once)
    with pytest.raises(KeyboardInterrupt):
        there.remove("shapes")
    with pytest.raises(BankNotFoundError):
        Bank.open(bank.path)
    assert there.remove("shapes") > 0
    assert tree(there.root) == {}


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, fails: Callable[[int], bool], *, done: bool
) -> list[int]:
    """Let calls of obstore fail: before they are done, or after."""
    from obstore.exceptions import GenericError

    own, made = getattr(obstore, name), [0, 0]

    def call(*of: Any, **options: Any) -> Any:
        made[0] += 1
        bad = fails(made[0])
        if done or not bad:
            found = own(*of, **options)
        if bad:
            made[1] += 1
            raise GenericError("error sending request")
        return found

    monkeypatch.setattr(obstore, name, call)
    monkeypatch.setattr("featbank._bucket._PAUSE_S", 0.0)
    return made


@pytest.mark.parametrize("done", [True, False])
def test_puts_that_fail_or_only_seem_to_change_nothing(
    kit: SimpleNamespace,
    there: BankStore,
    bank: Bank,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    done: bool,
) -> None:
    # what was done and is reported as failed is tried again, and refused: it is recognised by its bytes
    made = failing(monkeypatch, "put", lambda number: number % 2 == 1, done=done)
    opened = there.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    opened.set_manifest(manifest)
    kit.extract(opened)
    assert tree(opened.path) == kit.tree(bank.path)
    assert made[1] > 10
    writer = opened.cut_writer("fc7", (5,), "float16")
    writer.finish(lambda before: {"duration_s": before["duration_s"] + 1.0})
    assert opened.facts("fc7")["duration_s"] == 1.25


@pytest.mark.parametrize("name", ["get", "list", "list_with_delimiter", "head", "get_ranges"])
def test_what_is_read_is_asked_for_again(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    filled(kit, there, manifest)
    made = failing(monkeypatch, name, lambda number: number % 2 == 1, done=False)
    opened = Bank.open(there.resolve("shapes"))
    np.testing.assert_array_equal(opened["fc7"][[0]], kit.expected("fc7", manifest)[[0]])
    opened.set_location("elsewhere")
    assert Bank.open(opened.path).provenance["location"] == "elsewhere"
    assert made[1]
    monkeypatch.setattr(
        obstore, name, obstore.exceptions
    )  # not to be called: whatever else goes wrong is no fault
    with pytest.raises(TypeError):
        getattr(obstore, name)()


def test_a_store_that_stays_away_is_one_line(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = filled(kit, there, manifest)
    failing(monkeypatch, "put", lambda number: True, done=False)
    with pytest.raises(
        CacheWriteError, match=r"cannot write 'memory://.*\(error sending request\): check the net"
    ):
        bank.set_location("elsewhere")
    failing(monkeypatch, "get", lambda number: True, done=False)
    with pytest.raises(
        BankReadError, match=r"'memory://.*json' cannot be read now \(error sending request\)"
    ):
        Bank.open(bank.path)


def test_rows_that_others_set_meanwhile_are_not_lost(
    kit: SimpleNamespace, there: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = there.create_or_open("shapes", kit.KEY, {})
    one.set_manifest(kit.make_manifest(["a", "b"]))
    other, swap, left = Bank.open(one.path), BucketPath.swap, [kit.make_manifest(["c", "d"])]

    def late(self: BucketPath, *of: Any) -> bool:
        if left:  # between looking and writing
            other.set_manifest(left.pop())
        return swap(self, *of)

    monkeypatch.setattr(BucketPath, "swap", late)
    one.set_manifest(kit.make_manifest(["e", "a"]))
    table = Bank.open(one.path).slot_table
    assert [bytes(one) for one in table.digests] == [kit.digest_of(name) for name in "abcde"]
    assert one.row_slots.tolist() == [4, 0]


def test_shards_that_others_wrote_meanwhile_are_recorded(
    kit: SimpleNamespace, there: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = there.create_or_open("shapes", kit.KEY, {})
    one.set_manifest(kit.make_manifest(["a", "b"]))
    kit.extract(one, ["fc7"], finish=False)
    version, others = BucketPath.version, [kit.make_manifest(["a", "b", "c"])]

    def late(self: BucketPath) -> Any:
        if self.name == "cut.json" and others:  # before the version is looked at, another finishes more rows
            other = Bank.open(one.path)
            other.set_manifest(others.pop())
            kit.extract(other, ["fc7"])
        return version(self)

    monkeypatch.setattr(BucketPath, "version", late)
    kit.extract(one, ["fc7"])
    assert Bank.open(one.path).cuts == ("fc7",)


def test_a_file_that_others_always_change_first_is_told(
    there: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featbank._bucket._PAUSE_S", 0.0)
    monkeypatch.setattr(BucketPath, "swap", lambda *of: False)
    with pytest.raises(
        CacheWriteError, match=r"other processes changed it 60 times in a row; run the same command"
    ):
        change_file(there.root / "file", lambda: b"")


def test_two_that_put_other_bytes_of_one_shard_at_once_agree_on_one(
    kit: SimpleNamespace, there: BankStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bank = there.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(kit.make_manifest(["a", "b"]))
    writers = [bank.cut_writer("fc7", (5,), "float16", made_by={"torch": str(number)}) for number in range(4)]
    (plan,), statuses = writers[0].missing(), np.zeros(2, np.uint8)
    features = np.ones((2, 5), np.float16)
    names_from, blind = BucketPath.names_from, [True, False]
    monkeypatch.setattr(
        BucketPath, "names_from", lambda self, start: [] if blind.pop(0) else names_from(self, start)
    )
    wrote = []
    for writer in writers[:3]:  # each looks before the others have put theirs
        blind[:] = [True, False]
        wrote.append(writer.write(plan, features, statuses).name)
    left = bank.shard_names("fc7")
    assert left == [min(wrote)]
    blind[:] = [False, False]
    assert (
        writers[3].write(plan, features, statuses).name == left[0]
    )  # one that comes later keeps what is there
    assert "written by another process with other bytes; kept" in caplog.text
    # one of them was killed before it took its own away: all go by the same one
    spare = bank.path / "fc7" / f"00000-{'f' * 16}.h5"
    spare.put_if_absent(b"left behind")
    np.testing.assert_array_equal(Bank.open(bank.path)["fc7"][:], features)


def test_shards_of_another_layout_are_not_put_beside_those_that_are_there(
    kit: SimpleNamespace, there: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = there.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([f"image {number}" for number in range(40)]))
    large, small = (bank.cut_writer("fc7", (5,), "float16", shard_bytes=size) for size in (1 << 20, 1))
    plan = small.plans()[-1]
    (whole,) = large.plans()
    names_from = BucketPath.names_from

    def put_first(self: BucketPath, start: str) -> list[str]:  # after the other one has looked
        monkeypatch.setattr(BucketPath, "names_from", names_from)
        large.write(whole, np.ones((40, 5), np.float16), np.zeros(40, np.uint8))
        return names_from(self, start)

    monkeypatch.setattr(BucketPath, "names_from", put_first)
    for _ in range(2):
        with pytest.raises(BankChangedError, match=r"with 104856 rows of .* a shard, not 4 of"):
            small.write(plan, np.ones((4, 5), np.float16), np.zeros(4, np.uint8))
        assert len(bank.shard_names("fc7")) == 1
    large.finish({})
    assert (Bank.open(bank.path)["fc7"][:] == 1).all()


@pytest.mark.parametrize("apart", [True, False])
def test_a_shard_of_another_name_takes_the_place_of_one_that_is_gone(
    kit: SimpleNamespace, there: BankStore, apart: bool
) -> None:
    bank = there.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([f"image {number}" for number in range(8)]))
    makers = (bank.cut_writer("fc7", (5,), "float16", made_by={"torch": one}) for one in ("1", "2"))
    writer, other = makers
    (plan,) = writer.plans()
    ok = np.zeros(8, np.uint8)
    first = writer.write(plan, np.ones((8, 5), np.float16), ok)
    writer.finish({})
    reader = Bank.open(bank.path)
    assert reader.rows_ok("fc7").all()
    first.unlink()  # type: ignore[attr-defined]
    bad = ok.copy()
    bad[7] = RowStatus.ABSENT
    features = np.full((8, 5), 2, np.float16)
    features[7] = 0
    assert other.write(plan, features, bad).name != first.name
    rows = [0] if apart else range(7)
    assert (reader["fc7"][list(rows)] == 2).all()
    assert reader.rows_ok("fc7").tolist() == [True] * 7 + [False]


def test_a_forked_process_is_told_instead_of_waiting_for_ever(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = filled(kit, there, manifest)
    with monkeypatch.context() as forked:
        forked.setattr("os.getpid", lambda: -1)
        with pytest.raises(InvalidInputError, match=r"forked .* 'spawn' or 'forkserver'"):
            bank["fc7"][0]
    bank["fc7"][0]


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    made = Counter[str]()

    def count(name: str) -> None:
        own = getattr(BucketPath, name)

        def call(self: BucketPath, *of: Any) -> Any:
            if self.suffix == ".h5" and self.name[0].isdigit():
                made[name] += 1
            return own(self, *of)

        monkeypatch.setattr(BucketPath, name, call)

    for name in ("read_buffer", "read_ranges", "read_start"):
        count(name)
    return made


def test_few_rows_are_read_apart_and_more_are_fetched_once(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, want = filled(kit, there, manifest).path, kit.expected("fc7", manifest)
    made = counted(monkeypatch)
    few, opened = np.array([30, 2, 2]), Bank.open(path)
    np.testing.assert_array_equal(opened["fc7"].read(few, dtype=np.float64), want[few])
    assert (made["read_ranges"], made["read_buffer"], shards.exists()) == (2, 0, False)
    np.testing.assert_array_equal(opened["fc7"][:], want)
    assert made["read_buffer"] == 3
    assert len(list(shards.iterdir())) == 3
    np.testing.assert_array_equal(Bank.open(path)["fc7"][few], want[few])  # from this machine
    assert (made["read_ranges"], made["read_buffer"]) == (2, 3)
    # row by row is not asked for row by row
    for one in shards.iterdir():
        one.unlink()
    opened = Bank.open(path)
    for row in range(10):
        np.testing.assert_array_equal(opened["fc7"][row], want[row])
    assert (made["read_ranges"], made["read_buffer"]) == (2 + 3, 3 + 1)


def test_fetched_shards_are_bounded_checked_and_may_go_at_any_time(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, shards: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path, want = filled(kit, there, manifest).path, kit.expected("fc7", manifest)
    bank = Bank.open(path)
    blocks = [bank["fc7"][start : start + 12] for start in (0, 12, 24)]
    first = min(shards.iterdir())
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    fetching._hashed.clear()
    np.testing.assert_array_equal(Bank.open(path)["fc7"][:], want)
    assert f"{first} is not what was fetched; it is fetched again" in caplog.text
    for one in shards.iterdir():
        one.unlink()
    np.testing.assert_array_equal(np.concatenate(blocks), want[:36])
    np.testing.assert_array_equal(bank["fc7"][:], want)
    most = 2 * max(one.stat().st_size for one in (path / "block1_pool").glob("*.h5"))
    monkeypatch.setenv("FEATBANK_SHARD_CACHE_BYTES", str(most))
    np.testing.assert_array_equal(Bank.open(path)["block1_pool"][:], kit.expected("block1_pool", manifest))
    assert 0 < sum(one.stat().st_size for one in shards.iterdir()) <= most
    monkeypatch.setenv("FEATBANK_SHARD_CACHE_BYTES", "0")
    np.testing.assert_array_equal(Bank.open(path)["logits"][:], kit.expected("logits", manifest))
    monkeypatch.setenv("FEATBANK_SHARD_CACHE_BYTES", "much")
    with pytest.raises(
        InvalidInputError, match="FEATBANK_SHARD_CACHE_BYTES='much' is no number of bytes: 20e9"
    ):
        Bank.open(path)["logits"][:]


def test_where_no_shard_can_be_kept_it_is_read_all_the_same(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(kit, there, manifest).path
    shards.write_bytes(b"a file stands there")
    np.testing.assert_array_equal(Bank.open(path)["fc7"][:], kit.expected("fc7", manifest))
    assert caplog.text.count("FEATBANK_SHARD_CACHE names another folder") == 1


def damage(path: Path) -> None:
    store, data = path._store, bytearray(path.read_bytes())  # type: ignore[attr-defined]
    data[4096 + 8] ^= 1
    obstore.put(store, path._key, bytes(data))  # type: ignore[attr-defined]


def test_damage_is_found_and_set_aside(kit: SimpleNamespace, there: BankStore, manifest: Manifest) -> None:
    bank = filled(kit, there, manifest)
    first, gone = (bank.path / "fc7" / name for name in bank.shard_names("fc7")[:2])
    whole = tree(bank.path)
    damage(first)
    gone.unlink()
    (bank.path / "notes.txt").put_if_absent(b"mine")
    with pytest.raises(
        CorruptBankError, match=r"shard 'memory://.*00000-.*' is damaged: its bytes are not what its"
    ):
        Bank.open(bank.path)["fc7"][:8]
    with pytest.raises(CorruptBankError, match=r"00000-.* is damaged: its bytes have sha256"):
        Bank.open(bank.path, check="sha256")
    report = verify_bank(bank.path)
    assert {one.kind for one in report.findings} == {"corrupt", "missing", "unknown"}
    aside = set_damaged_aside(report)
    assert aside.moved == (first,)
    assert aside.folder is not None
    assert tree(aside.folder).keys() == {f"fc7/{first.name}"}
    kit.extract(bank)
    assert {name: data for name, data in tree(bank.path).items() if name in whole} == whole
    first.unlink()
    with pytest.raises(IncompleteBankError, match="lacks shard 0"):
        Bank.open(bank.path)["fc7"][:1]


def test_a_handle_travels_and_is_pinned_to_its_rows(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest
) -> None:
    bank = filled(kit, there, manifest)
    array = pickle.dumps(bank["fc7"])
    np.testing.assert_array_equal(pickle.loads(array)[3:5], kit.expected("fc7", manifest)[3:5])
    seen = bank["fc7"]
    Bank.open(bank.path).set_manifest(kit.make_manifest(["image 2", "image 1"]))
    np.testing.assert_array_equal(seen[:], kit.expected("fc7", manifest))
    with pytest.raises(BankChangedError):
        pickle.loads(array)


def test_what_could_not_be_read_is_written_down_by_all_who_know(
    kit: SimpleNamespace, there: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featbank.banks import QuarantineRecord

    bank = there.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(kit.make_manifest(["a", "b"]))
    mine, other = (
        QuarantineRecord(one, kit.digest_of(one.decode()).hex(), "truncated") for one in (b"a", b"b")
    )
    swap, left = BucketPath.swap, [[other]]

    def late(self: BucketPath, *of: Any) -> bool:
        if left:
            Bank.open(bank.path).write_quarantine(left.pop())
        return swap(self, *of)

    monkeypatch.setattr(BucketPath, "swap", late)
    bank.write_quarantine(lambda now: [mine, *now.quarantine()])
    assert [one.id for one in bank.quarantine()] == [b"a", b"b"]
    kit.extract(bank, quarantined=frozenset({kit.digest_of("b")}))
    assert Bank.open(bank.path).manifest.statuses.tolist() == [RowStatus.OK, RowStatus.QUARANTINED]


def test_it_is_packed_exported_and_lent_and_what_needs_a_folder_says_so(
    kit: SimpleNamespace, there: BankStore, bank: Bank, manifest: Manifest, tmp_path: Path
) -> None:
    made = filled(kit, there, manifest)
    assert pack(made, tmp_path / "there.h5").read_bytes() == pack(bank, tmp_path / "here.h5").read_bytes()
    np.testing.assert_array_equal(
        np.load(export_bank(made, tmp_path / "npy", to="npy", cuts=["fc7"]) / "fc7.npy"), bank["fc7"][:]
    )
    line = r"^'memory:.*' is in a bucket, and this needs a place on this machine: copy what is there first"
    before = tree(there.root)
    with pytest.raises(InvalidInputError, match=line):
        unpack(tmp_path / "here.h5", BankStore(there.root.parent / "others"))
    assert tree(there.root) == before
    path = made.path
    pure = {name for name in dir(PurePath) if not name.startswith("_")}
    here = {name for name in vars(BucketPath) if not name.startswith("_")}
    asked = {"chmod": (0o600,), "lchmod": (0o600,), "rename": ("x",), "replace": ("x",), "symlink_to": ("x",),
             "hardlink_to": ("x",), "samefile": ("x",), "write_bytes": (b"",),
             "write_text": ("",), "rglob": ("*",), "copy": ("x",), "copy_into": ("x",), "move": ("x",),
             "move_into": ("x",)}  # fmt: skip
    harmless = {"cwd", "home", "from_uri", "expanduser", "is_block_device", "is_char_device", "is_fifo",
                "is_socket", "is_mount", "is_junction", "info", "walk", "link_to", "lstat", "owner",
                "group"}  # fmt: skip
    for name in {name for name in dir(Path) if not name.startswith("_")} - pure - here - harmless:
        with pytest.raises(InvalidInputError, match=line):
            list(getattr(path, name)(*asked.get(name, ())) or ())
    for call in (os.stat, os.listdir, open, make_folder):
        with pytest.raises(InvalidInputError, match=line):
            call(path)
    with pytest.raises(InvalidInputError, match=line):
        write_file(path / "x", b"")
    assert not any(one.name.startswith("memory:") for one in Path.cwd().iterdir())


def test_a_store_that_overwrites_what_it_must_leave_is_refused(
    kit: SimpleNamespace, there: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *of, mode=None, **options: put(*of, **options))
    for _ in range(2):
        with pytest.raises(
            CacheWriteError, match=r"nothing is written to 'memory://.*': its store overwrites what"
        ):
            there.create_or_open("shapes", kit.KEY, {})
    assert tree(there.root) == {}
    monkeypatch.setattr(
        obstore,
        "put",
        lambda *of, mode=None, **options: put(*of, **options, mode="create" if mode == "create" else None),
    )
    with pytest.raises(CacheWriteError, match="conditional puts"):  # it only knows how to create
        there.create_or_open("shapes", kit.KEY, {})


def test_who_may_only_read_reads(
    kit: SimpleNamespace, there: BankStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featbank import _bucket

    path = filled(kit, there, manifest).path

    def forbidden(*_: Any, **__: Any) -> None:
        raise obstore.exceptions.PermissionDeniedError("it lacks the necessary privileges")

    monkeypatch.setattr(obstore, "put", forbidden)
    _bucket._conditional.clear()
    bank = there.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(manifest)
    bank.touch()
    assert kit.extract(bank, finish=False) == 0
    with pytest.raises(
        CacheWriteError, match=r"cannot write 'memory://.*\): no permission: check the credentials"
    ):
        Bank.open(path).set_manifest(kit.make_manifest(["a"]))


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (
            "s4://bucket",
            r"'s4://bucket' is at an address of a kind featbank does not know, 's4'; there are: 's3', ",
        ),
        ("s3://", r"'s3://' names no bucket: write s3://BUCKET/PREFIX"),
        ("s3://bucket/../x", r"names no bucket"),
        ("file://x", r"'file://x' names no folder: write file:///path/to/folder"),
    ],
)
def test_an_address_that_is_none_is_one_line(address: str, line: str) -> None:
    with pytest.raises(InvalidInputError, match=line):
        banks_folder(address)


def test_without_obstore_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "obstore"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"needs obstore: pip install 'featbank\[bucket\]'"):
        BankStore("s3://never-opened/banks").paths()


def test_banks_are_in_the_bucket_and_all_else_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATBANK_CACHE", "here")
    assert str(banks_folder("s3://bucket/of/mine/")) == "s3://bucket/of/mine/banks"
    assert cache_folder("s3://bucket") == tmp_path / "here"
    monkeypatch.setenv("FEATBANK_CACHE", "gs://bucket")
    assert (str(banks_folder()), cache_folder()) == ("gs://bucket/banks", tmp_path / "cache")
    assert banks_folder(f"file://{tmp_path}/x") == tmp_path / "x" / "banks"
    there = user_path("s3://bucket/x")
    assert there == user_path(there) == pickle.loads(pickle.dumps(there))
    assert (there / "a" / "b").relative_to(there) == Path("a/b")
    assert repr(there.parent / "y.h5") == "BucketPath('s3://bucket/y.h5')"
    one = user_path("memory://names/folder")
    assert isinstance(one, BucketPath)
    for name in ("x", "x/y", ".z"):  # an object and a folder may have one name there
        (one / name).put_if_absent(b"")
    assert sorted((entry.name, entry.is_dir()) for entry in one.entries()) == [
        (".z", False), ("x", False), ("x", True)
    ]  # fmt: skip
    assert ((one / "x").read_start(9), one.total_bytes(), one.parent.is_dir()) == ((b"", 0), 0, True)
