"""Digests from one run to the next: what has changed is read again, what has not is not."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from featbank import _atomic, _cache
from featbank._cache import DigestCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode() * 10)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache.digests"


def open_cache(file: Path | None) -> DigestCache:
    return DigestCache(file, settle_s=-3600.0)  # everything has settled: tests write and look at once


def known(cache: DigestCache, *paths: Path) -> list[bool]:
    return cache.find([os.fsencode(one) for one in paths]).known.tolist()


def remember(file: Path, *paths: Path) -> None:
    cache = open_cache(file)
    for path in paths:
        cache.file_digest(path)
    cache.save()


def test_a_digest_is_the_files_and_outlives_the_process(folder: Path, file: Path) -> None:
    remember(file, folder / "a", folder / "b")
    found = open_cache(file).find([os.fsencode(folder / one) for one in "abc"])
    assert found.known.tolist() == [True, True, False]
    assert [one.tobytes() for one in found.digests] == [
        hashlib.sha256(b"a" * 10).digest(),
        hashlib.sha256(b"b" * 10).digest(),
        bytes(32),
    ]


def test_a_known_file_is_not_read(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(file, folder / "a")
    monkeypatch.setattr(_cache, "file_digest", lambda path: pytest.fail(f"{path} was read"))
    assert open_cache(file).file_digest(folder / "a") == hashlib.sha256(b"a" * 10).hexdigest()


def replaced_by_rename(path: Path) -> None:
    """Same size, same mtime."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"x" * before.st_size)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def edited_in_place(path: Path) -> None:
    """Same size, same inode, and the mtime put back."""
    before = path.stat()
    with path.open("r+b") as opened:
        opened.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def grown(path: Path) -> None:
    with path.open("ab") as opened:
        opened.write(b"x")


def cut_short(path: Path) -> None:
    os.truncate(path, 3)


def made_anew(path: Path) -> None:
    n = path.stat().st_size
    path.unlink()
    path.write_bytes(b"x" * n)


def moved_here(path: Path) -> None:
    (path.parent / "b").replace(path)


def changed_by_another_name(path: Path) -> None:
    """A hard link is the same file."""
    other = path.with_name("other")
    other.hardlink_to(path)
    edited_in_place(other)


@pytest.mark.parametrize(
    "change",
    [
        replaced_by_rename, edited_in_place, grown, cut_short, made_anew, moved_here,
        changed_by_another_name, os.utime,
    ],
)  # fmt: skip
def test_a_changed_file_is_read_again(folder: Path, file: Path, change) -> None:  # type: ignore[no-untyped-def]
    remember(file, folder / "a", folder / "b", folder / "c")
    time.sleep(0.02)  # more than a tick of the clock
    change(folder / "a")
    assert known(open_cache(file), folder / "a", folder / "c") == [False, True]
    assert (
        open_cache(file).file_digest(folder / "a") == hashlib.sha256((folder / "a").read_bytes()).hexdigest()
    )


def test_a_file_that_changed_only_now_is_not_remembered(folder: Path, file: Path) -> None:
    cache = DigestCache(file)
    cache.file_digest(folder / "a")
    cache.save()
    assert known(DigestCache(file), folder / "a") == known(open_cache(file), folder / "a") == [False]


def test_a_file_that_has_settled_is_remembered(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns() + 5_000_000_000
    monkeypatch.setattr(_cache.time, "time_ns", lambda: now)
    cache = DigestCache(file)
    cache.file_digest(folder / "a")
    cache.save()
    assert known(DigestCache(file), folder / "a") == [True]


def test_a_file_from_the_future_is_read_each_time(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(file, folder / "a")
    past = time.time_ns() - 3_600_000_000_000  # a server whose clock is ahead, or ours was put back
    monkeypatch.setattr(_cache.time, "time_ns", lambda: past)
    cache = DigestCache(file)
    assert known(cache, folder / "a") == [False]
    assert cache.file_digest(folder / "a") == hashlib.sha256(b"a" * 10).hexdigest()
    assert known(cache, folder / "a") == [False]


def test_an_mtime_in_the_future_is_no_hindrance(folder: Path, file: Path) -> None:
    ahead = time.time() + 1e6  # a camera with a wrong clock; the ctime is the system's own
    os.utime(folder / "a", (ahead, ahead))
    remember(file, folder / "a")
    assert known(open_cache(file), folder / "a") == [True]


def test_a_link_is_known_by_where_it_leads(folder: Path, file: Path) -> None:
    link = folder / "link"
    link.symlink_to("a")
    remember(file, link)
    assert known(open_cache(file), link) == [True]
    link.unlink()
    link.symlink_to("b")
    assert known(open_cache(file), link) == [False]
    link.unlink()
    link.symlink_to("nothing")
    assert known(open_cache(file), link) == [False]


def test_what_is_not_there_is_not_known_and_not_remembered(folder: Path, file: Path) -> None:
    cache = open_cache(file)
    found = cache.find([os.fsencode(folder / "gone"), b"/a\0b"])
    assert found.known.tolist() == found.settled.tolist() == [False, False]
    cache.add(found, np.arange(2), np.ones((2, 32), np.uint8))
    cache.save()
    assert not file.exists()


def test_rehash_reads_and_what_it_finds_is_kept(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(file, folder / "a")
    monkeypatch.setattr(_cache, "file_digest", lambda path: "ab" * 32)  # a disk that rots
    cache = open_cache(file)
    assert cache.file_digest(folder / "a", rehash=True) == "ab" * 32
    assert cache.file_digest(folder / "a") == "ab" * 32
    cache.save()
    assert open_cache(file).file_digest(folder / "a") == "ab" * 32


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other", "folder"])
def test_a_damaged_cache_is_begun_anew(
    folder: Path, file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    remember(file, folder / "a", folder / "b")
    data = bytearray(file.read_bytes())
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        data[3] ^= damage == "bit"
        file.write_bytes({"cut": data[:-1], "bit": data, "empty": b"", "other": b"x" * 500}[damage])
    with caplog.at_level(logging.DEBUG, "featbank._cache"):
        assert known(open_cache(file), folder / "a") == [False]
        assert "is not used, files are read again" in caplog.text
        remember(file, folder / "a")
    assert known(open_cache(file), folder / "a") == [damage != "folder"]
    assert all(one.levelno == logging.DEBUG for one in caplog.records)


def test_a_folder_that_cannot_be_written_costs_only_speed(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(_atomic.os, "open", refused)  # root may write anywhere, so permissions do not do
    cache = open_cache(file)
    cache.file_digest(folder / "a")
    cache.save()
    monkeypatch.undo()
    assert not file.exists()
    assert known(cache, folder / "a") == [True]


def test_nothing_is_made_before_the_folder_is_there(folder: Path, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache" / ".digests")
    cache.file_digest(folder / "a")
    cache.save()
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    cache.save()  # nothing was lost
    assert known(open_cache(tmp_path / "cache" / ".digests"), folder / "a") == [True]


def test_nothing_is_written_when_nothing_is_new(folder: Path, file: Path) -> None:
    remember(file, folder / "a")
    before = file.stat()
    remember(file, folder / "a")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_a_killed_process_left_goes_although_nothing_is_new(folder: Path, file: Path) -> None:
    remember(file, folder / "a")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = f"{_atomic.host_name()}-{_atomic._pid_space()}-{dead.pid}"
    left = file.with_name(f".tmp-{file.name}-{owner}-0123456789ab")
    left.write_bytes(b"half")
    remember(file, folder / "a")
    assert not left.exists()


_WRITER = """
import sys
from pathlib import Path
from featbank._cache import DigestCache
file, folder, start = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
cache = DigestCache(file, settle_s=-3600.0)
for at in range(start, start + 10):
    cache.file_digest(folder / str(at))
    cache.save()
"""


def test_processes_that_write_at_once_lose_nothing(folder: Path, file: Path) -> None:
    for at in range(40):
        (folder / str(at)).write_bytes(str(at).encode())
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, file, folder, str(start)])
        for start in range(0, 40, 10)
    ]
    assert [one.wait() for one in writers] == [0] * 4
    assert all(known(open_cache(file), *(folder / str(at) for at in range(40))))


def test_what_was_not_asked_for_longest_goes_first(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cache, "MAX_ENTRIES", 2)
    for day, name in enumerate("abc"):
        monkeypatch.setattr(_cache, "_today", lambda day=day: 20_000 + 40 * day)
        cache = open_cache(file)
        cache.file_digest(folder / "a")  # asked for each time
        cache.file_digest(folder / name)
        cache.save()
    assert known(open_cache(file), *(folder / name for name in "abc")) == [True, False, True]


def test_names_stand_beside_files(file: Path) -> None:
    cache = open_cache(file)
    found = cache.find_name(b"weights of vgg16")
    assert not found.known[0]
    cache.add(found, np.zeros(1, np.intp), np.full((1, 32), 7, np.uint8))
    cache.save()
    again = open_cache(file).find_name(b"weights of vgg16")
    assert again.known[0]
    assert again.digests.tolist() == [[7] * 32]
    assert not open_cache(file).find_name(b"weights of vgg19").known[0]
