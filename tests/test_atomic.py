"""Whole or absent, whatever the system calls say."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from featbank import _atomic
from featbank.errors import CacheWriteError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_replaces_in_one_step(tmp_path):
    path = tmp_path / "x"
    _atomic.write_file(path, b"one")
    _atomic.write_file(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"
    _atomic.write_file(path, memoryview(np.arange(3, dtype=np.int64)))
    assert path.read_bytes() == np.arange(3, dtype=np.int64).tobytes()
    _atomic.write_file(path, b"")
    assert path.read_bytes() == b""
    assert names(tmp_path) == ["x"]


def test_a_short_write_goes_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    _atomic.write_file(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failed_call_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(CacheWriteError) as caught:
        _atomic.write_file(path, b"new")
    monkeypatch.undo()
    assert str(caught.value) == (
        f"cannot write {str(path)!r} (No space left on device): the disk is full; free some space and run "
        f"the same command again, it resumes"
    )
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_file_is_durable_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for call in ("write", "fsync", "replace"):
        real = getattr(os, call)
        monkeypatch.setattr(
            os, call, lambda *args, real=real, call=call: (calls.append(call), real(*args))[1]
        )
    _atomic.write_file(tmp_path / "x", b"data")
    assert calls == ["write", "fsync", "replace", "fsync"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _atomic.write_file(tmp_path / "x", b"data")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (
            errno.EACCES,
            "no permission to write there; choose another place with --cache-dir or FEATBANK_CACHE",
        ),
        (
            errno.EROFS,
            "the file system is read-only; choose another place with --cache-dir or FEATBANK_CACHE",
        ),
        (
            errno.EDQUOT,
            "the disk quota is used up; free some space and run the same command again, it resumes",
        ),
        (errno.EIO, "run the same command again once the cause is gone, it resumes"),
    ],
)
def test_the_message_says_what_to_do(tmp_path, monkeypatch, number, advice):
    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(CacheWriteError) as caught:
        _atomic.make_folder(tmp_path / "a")
    assert str(caught.value) == f"cannot write {str(tmp_path / 'a')!r} ({os.strerror(number)}): {advice}"


def test_make_folder(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(_atomic, "fsync_folder", synced.append)
    monkeypatch.setattr(_atomic, "_durable_folders", set())
    assert _atomic.make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert synced[:4] == [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a"]
    synced.clear()
    _atomic.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a" / "b", tmp_path / "a"]  # the way there is known to be safe


def test_a_folder_that_a_killed_process_left_is_made_durable(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    synced = []
    monkeypatch.setattr(_atomic, "fsync_folder", synced.append)
    monkeypatch.setattr(_atomic, "_durable_folders", set())
    _atomic.make_folder(tmp_path / "a" / "b")
    assert synced[:3] == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]


def test_a_folder_above_that_cannot_be_synced_is_not_our_fault_and_a_broken_disk_is(tmp_path, monkeypatch):
    monkeypatch.setattr(_atomic, "_durable_folders", set())
    real = _atomic.fsync_folder

    def fails(number, folder):
        if folder == tmp_path:
            raise OSError(number, os.strerror(number))
        real(folder)

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(_atomic, "fsync_folder", lambda folder: fails(errno.EACCES, folder))
    _atomic.make_folder(tmp_path / "a")
    monkeypatch.setattr(_atomic, "_durable_folders", set())
    monkeypatch.setattr(_atomic, "fsync_folder", lambda folder: fails(errno.EIO, folder))
    with pytest.raises(CacheWriteError):
        _atomic.make_folder(tmp_path / "a")


@pytest.mark.parametrize("below", [".", "x", "x/y"])
def test_no_folder_where_a_file_stands(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheWriteError, match="a file stands where a folder is needed; choose another place"):
        _atomic.make_folder(tmp_path / "file" / below)


def test_a_folder_that_cannot_be_looked_into_is_an_error_of_ours(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(CacheWriteError, match="no permission to write there"):
        _atomic.make_folder(tmp_path / "x")


def test_json(tmp_path):
    path = tmp_path / "x.json"
    value = {"b": [1, 2.5, None], "a": "é", "path": "caf\udce9"}
    _atomic.write_json(path, value)
    assert json.loads(path.read_bytes().decode("utf-8", "surrogateescape")) == value
    assert path.read_bytes().endswith(b"}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        _atomic.write_json(path, float("nan"))


def test_canonical_json_is_one_text_per_value():
    assert (
        _atomic.canonical_json({"b": 1, "a": ["é", "\udce9", 1.0]})
        == b'{"a":["\\u00e9","\\udce9",1.0],"b":1}'
    )
    assert _atomic.canonical_json({"a": 1, "b": 2}) == _atomic.canonical_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        _atomic.canonical_json([float("inf")])


def test_digests(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert _atomic.sha256(b"abc") == _atomic.file_digest(tmp_path / "x") == want


def leave(folder, name, pid, host=None, random="0123456789ab", space=None):
    owner = f"{host or _atomic.host_name()}-{space or _atomic._pid_space()}-{pid}"
    path = folder / f".tmp-{name}-{owner}-{random}"
    path.write_bytes(b"half")
    return path


def test_stale_temporaries_are_removed_and_others_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = leave(tmp_path, "x.h5", dead.pid)
    huge = leave(tmp_path, "x.h5", 10**30)
    folder = tmp_path / f".tmp-bank-{_atomic.host_name()}-{_atomic._pid_space()}-{dead.pid}-0123456789ab"
    (folder / "cut").mkdir(parents=True)
    (folder / "cut" / "shard").write_bytes(b"x")
    kept = {
        leave(tmp_path, "x.h5", os.getpid()),
        leave(tmp_path, "x.h5", 1),
        leave(tmp_path, "x.h5", dead.pid, host="elsewhere"),
        leave(tmp_path, "x.h5", dead.pid, random="short"),
        tmp_path / ".tmp-mine",
    }
    (tmp_path / ".tmp-mine").write_text("x")
    assert _atomic.remove_stale_temporaries(tmp_path) == 3
    assert set(tmp_path.iterdir()) == kept
    assert not gone.exists()
    assert not huge.exists()


def test_what_another_container_or_start_left_goes_when_it_is_old(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    young, old = (leave(tmp_path, "x.h5", dead.pid, space="0a" * 4, random=one * 12) for one in "12")
    alive = leave(tmp_path, "x.h5", os.getpid())
    elsewhere = leave(tmp_path, "x.h5", dead.pid, space="0a" * 4, host="elsewhere")
    for path in (old, alive, elsewhere):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    assert _atomic.remove_stale_temporaries(tmp_path) == 1
    assert set(tmp_path.iterdir()) == {young, alive, elsewhere}


def test_of_a_folder_written_aside_as_much_goes_as_can(tmp_path, monkeypatch):
    real = os.unlink

    def refuses(path, *args, **options):
        if os.fsdecode(path).endswith("1"):
            raise PermissionError(errno.EPERM, "refused", path)
        real(path, *args, **options)

    monkeypatch.setattr(os, "unlink", refuses)
    with _atomic.beside(tmp_path / "bank") as temporary:
        temporary.mkdir()
        for number in range(4):
            (temporary / str(number)).touch()
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == ["1"]


def test_a_link_to_a_folder_is_removed_but_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("mine")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    link = tmp_path / f".tmp-bank-{_atomic.host_name()}-{_atomic._pid_space()}-{dead.pid}-0123456789ab"
    link.symlink_to(tmp_path / "data")
    assert _atomic.remove_stale_temporaries(tmp_path) == 1
    assert (tmp_path / "data" / "x").read_text() == "mine"


def test_what_write_file_leaves_is_known_as_its_own(tmp_path):
    code = (
        "import os, sys, pathlib; from featbank import _atomic\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "_atomic.write_file(pathlib.Path(sys.argv[1]), b'x')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / ("long" * 50))], check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 1
    assert _atomic.remove_stale_temporaries(tmp_path) == 1
    assert names(tmp_path) == []


def test_publish_and_set_aside(tmp_path):
    path = tmp_path / "x"
    temporary = _atomic.temporary_path(path)
    temporary.write_text("new")
    _atomic.publish(temporary, path)
    assert path.read_text() == "new"
    folder = _atomic.temporary_path(tmp_path / "folder")
    folder.mkdir()
    _atomic.publish(folder, tmp_path / "folder")
    assert names(tmp_path) == ["folder", "x"]
    with pytest.raises(CacheWriteError):
        _atomic.publish(temporary, tmp_path / "y")


def test_a_folder_is_removed_by_its_name(tmp_path):
    for name in ("kept", "gone"):
        (tmp_path / "root" / name / "deep").mkdir(parents=True)
        (tmp_path / "root" / name / "deep" / "file").write_text(name)
    (tmp_path / "place").symlink_to(tmp_path / "root")  # whoever has the cache on another disk
    _atomic.remove_folder(tmp_path / "place", "gone")
    _atomic.remove_folder(tmp_path / "place", "kept", "deep")
    assert [str(one.relative_to(tmp_path / "root")) for one in (tmp_path / "root").rglob("*")] == ["kept"]


@pytest.mark.parametrize(
    "names_", [(), ("",), (".",), ("..",), ("../outside",), ("/outside",), ("a/b",), ("a\0",), ("a", "..")]
)
def test_what_names_no_folder_is_not_removed(tmp_path, names_):
    for folder in ("outside", "root/a/b"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(CacheWriteError, match="do not name folders in"):
        _atomic.remove_folder(tmp_path / "root", *names_)
    assert (tmp_path / "outside").is_dir()
    assert (tmp_path / "root" / "a" / "b").is_dir()


def test_no_link_is_followed_to_remove_a_folder(tmp_path, monkeypatch):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "bank").mkdir(parents=True)
    (outside / "bank" / "file").write_text("mine")
    (root / "real" / "bank").mkdir(parents=True)
    (root / "run").symlink_to(outside)
    (root / "file").write_text("no folder")
    for names_ in (("run",), ("run", "bank"), ("file",), ("none",)):
        with pytest.raises(CacheWriteError, match="it is as it was"):
            _atomic.remove_folder(root, *names_)
    replace = os.replace

    def swapped(source, target, **folders):
        """Another process puts a link in the place of the folder, at the last moment."""
        (root / "real").rename(root / "moved")
        (root / "real").symlink_to(outside)
        replace(source, target, **folders)

    monkeypatch.setattr(os, "replace", swapped)
    _atomic.remove_folder(root, "real", "bank")
    assert (outside / "bank" / "file").read_text() == "mine"
    assert list((root / "moved").iterdir()) == []


def test_a_lock_is_no_link(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheWriteError), _atomic.locked(tmp_path / ".lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_keeps_others_out(tmp_path):
    order = []

    def other():
        with _atomic.locked(tmp_path / "lock"):
            order.append("other")

    with _atomic.locked(tmp_path / "lock"):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        order.append("mine")
    thread.join()
    assert order == ["mine", "other"]


def test_a_dead_process_holds_no_lock(tmp_path):
    code = (
        "import os, sys, pathlib; from featbank import _atomic\n"
        "with _atomic.locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False).returncode == -9
    with _atomic.locked(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_is_an_error_of_ours(tmp_path):
    with pytest.raises(CacheWriteError), _atomic.locked(tmp_path / "nothing" / "lock"):
        pass


def test_append_lines_grows_by_whole_lines(tmp_path):
    path = tmp_path / "table.csv"
    _atomic.append_lines(path, b"", header=b"a,b\n")
    assert not path.exists()
    _atomic.append_lines(path, b"1,2\n", header=b"a,b\n")
    _atomic.append_lines(path, b"3,4\n5,6\n", header=b"a,b\n")
    assert path.read_bytes() == b"a,b\n1,2\n3,4\n5,6\n"


@pytest.mark.parametrize(
    ("left", "then"),
    [
        (b"a,b\n1,2\n3,", b"a,b\n1,2\n9,9\n"),
        (b"a,b\n1,2", b"a,b\n9,9\n"),
        (b"a,", b"a,b\n9,9\n"),
        (b"", b"a,b\n9,9\n"),
        (b"a,b\n" + b"x" * 200_000, b"a,b\n9,9\n"),
    ],
    ids=["third line", "second line", "header", "empty", "long"],
)
def test_append_lines_cuts_off_what_a_kill_left(tmp_path, left, then):
    path = tmp_path / "table.csv"
    path.write_bytes(left)
    _atomic.append_lines(path, b"9,9\n", header=b"a,b\n")
    assert path.read_bytes() == then


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_append_lines_adds_all_or_none(tmp_path, monkeypatch, error):
    path = tmp_path / "table.csv"
    _atomic.append_lines(path, b"1,2\n", header=b"a,b\n")
    write, calls = os.write, []

    def half(descriptor, data):
        calls.append(len(data))
        if len(calls) > 1:
            raise error
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises((CacheWriteError, KeyboardInterrupt)) as caught:
            _atomic.append_lines(path, b"3,4\n5,6\n")
    assert len(calls) == 2
    assert path.read_bytes() == b"a,b\n1,2\n"
    if isinstance(error, OSError):
        assert str(caught.value) == (
            f"cannot write {str(path)!r} (No space left on device): the disk is full; free some space and "
            "run the same command again, it resumes"
        )


def test_append_lines_survives_a_kill(tmp_path):
    """A process that appends is killed: every line but the last one is whole, and the next append is too."""
    path = tmp_path / "table.csv"
    code = (
        "import sys\nfrom pathlib import Path\nfrom featbank import _atomic\n"
        "for n in range(10**9):\n"
        "    line = (f'{n},' + 'x' * 5000 + '\\n').encode()\n"
        "    _atomic.append_lines(Path(sys.argv[1]), line, header=b'n,x\\n')\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists() or path.stat().st_size < 200_000:
        time.sleep(0.01)
        assert writer.poll() is None
    writer.kill()
    writer.wait()
    _atomic.append_lines(path, b"last\n")
    first, *lines, last = path.read_text().splitlines()
    assert (first, last) == ("n,x", "last")
    assert lines == [f"{n}," + "x" * 5000 for n in range(len(lines))]


def test_ctrl_c_between_any_two_lines_leaves_the_old_file_or_the_new_one(tmp_path):
    """A signal is raised wherever the interpreter happens to be: each of these places is tried."""
    path = tmp_path / "facts.json"
    place = -1
    while True:
        _atomic.write_file(path, b"old")
        place += 1
        left = itertools.count()

        def interrupt(frame, event, _argument, left=left, place=place):
            if frame.f_code.co_filename != _atomic.__file__:
                return None
            if next(left) == place:
                raise KeyboardInterrupt
            return interrupt

        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            _atomic.write_file(path, b"new")
        except KeyboardInterrupt:
            assert path.read_bytes() in (b"old", b"new")
            assert [one.name for one in tmp_path.iterdir()] == ["facts.json"], place
        else:
            break
        finally:
            sys.settrace(before)
    assert place > 20
