"""Files that are whole or absent: write aside, fsync, rename; tables that grow by lines; digests; locks.

What is assumed of the file system: a rename within one folder replaces the target in one step, and
an fsynced file and folder survive power loss. Nothing else (no order of unsynced writes) is relied on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from featbank.errors import CacheWriteError

__all__ = [
    "READ_ONLY",
    "Data",
    "append_lines",
    "beside",
    "canonical_json",
    "change_file",
    "file_digest",
    "fill",
    "fsync_folder",
    "host_name",
    "link_file",
    "locked",
    "make_folder",
    "move_file",
    "publish",
    "remove_file",
    "remove_folder",
    "remove_stale_temporaries",
    "sha256",
    "temporary_path",
    "write_file",
    "write_json",
]

#: What a file is made of: its bytes, or the parts of it.
Data = bytes | memoryview | Sequence[bytes | memoryview]

#: Folders on the way to ours, by device and inode, whose names this process has made durable.
_durable_folders: set[tuple[int, int]] = set()

#: What writing says in a cache that may only be read.
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
#: What fsync of somebody else's folder may say: not ours to read, on a read-only or unusual file system.
_NOT_OURS = (*READ_ONLY, errno.EINVAL, errno.ENOTSUP)

#: The kernel's run and the process ids it means: a number says nothing of a process elsewhere.
_TEMPORARY = re.compile(r"\.tmp-.*-(?P<host>[^-]+)-(?P<space>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{12}$")

#: What processes of this host left that cannot be asked after (another container, before a restart).
_OLD_S = 24 * 3600.0


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits; `OSError` if it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Serialise `value` so that equal values give equal bytes: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def host_name() -> str:
    """Return this machine's name in characters that are safe inside a file name."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", os.uname().nodename) or "host"


@functools.cache
def _pid_space() -> str:
    """Name what the ids of processes refer to: this start of the kernel, and this container."""
    said = []
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):  # no Linux: the host must do
            said.append(str(Path(path).readlink()) if path.endswith("pid") else Path(path).read_text())
    return sha256("".join(said).encode())[:8]


def _cannot_write(path: Path, error: OSError) -> CacheWriteError:
    reasons = {
        errno.EACCES: "no permission to write there; choose another place with --cache-dir or FEATBANK_CACHE",
        errno.EROFS: "the file system is read-only; choose another place with --cache-dir or FEATBANK_CACHE",
        errno.ENOSPC: "the disk is full; free some space and run the same command again, it resumes",
        errno.ENOTDIR: "a file stands where a folder is needed; choose another place with --cache-dir",
        errno.EEXIST: "a file stands where a folder is needed; choose another place with --cache-dir",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, it resumes",
    }
    said = os.strerror(error.errno) if error.errno else str(error)
    advice = reasons.get(error.errno or 0, "run the same command again once the cause is gone, it resumes")
    wrapped = CacheWriteError(f"cannot write {str(path)!r} ({said}): {advice}")
    wrapped.errno = error.errno
    return wrapped


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; raises `OSError` as the system call does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents, durably.

    Parameters
    ----------
    folder : pathlib.Path
        What to create. If it exists, it and the names in it are made durable: a process that was killed may
        have left them so that they are there, and yet would not survive power loss.

    Returns
    -------
    pathlib.Path
        `folder` again.

    Raises
    ------
    CacheWriteError
        If it cannot be created.
    """
    try:
        missing = {one for one in (folder, *folder.parents) if not one.exists()}
        folder.mkdir(parents=True, exist_ok=True)
        for one in reversed([one for one in (folder, *folder.parents) if one in missing]):
            fsync_folder(one.parent)
        _make_names_durable(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return folder


def _make_names_durable(folder: Path) -> None:
    """Fsync a folder, its parent, and once per process the folders above up to the mount point."""
    real = folder.resolve()
    device = real.stat().st_dev
    for height, one in enumerate((real, *real.parents)):
        status = one.stat()
        known = (status.st_dev, status.st_ino)
        if status.st_dev != device or (height > 1 and known in _durable_folders):
            return
        try:
            fsync_folder(one)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
        _durable_folders.add(known)


def temporary_path(path: Path) -> Path:
    """Return a fresh name beside `path` that `remove_stale_temporaries` knows once this process is dead."""
    owner = f"{host_name()}-{_pid_space()}-{os.getpid()}"
    return path.with_name(f".tmp-{path.name[:120]}-{owner}-{secrets.token_hex(6)}")


def write_file(path: Path, data: Data) -> None:
    """Write `data` to `path` so that a reader sees all of it or the file that was there before.

    The bytes go to a temporary name in the same folder (host, process, random part), are fsynced,
    renamed over `path`, and the folder is fsynced. When this returns, the file survives power loss.

    Parameters
    ----------
    path : pathlib.Path
        Where the file ends up.
    data : bytes, memoryview or sequence of them
        Its whole content, or the parts of it.

    Raises
    ------
    CacheWriteError
        If any system call fails; the temporary file is removed and `path` holds the old bytes or, if only
        the last step (fsync of the folder) failed, the new ones.
    """
    with beside(path) as temporary:
        fill(temporary, data, path)
        move_file(temporary, path)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give the block a temporary name beside `path`; a file or folder that is there in the end is removed.

    Also where the block is interrupted: it is to hold all from the first byte to the rename.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
    finally:
        try:
            temporary.unlink()
        except FileNotFoundError:  # as a rule: it has its name
            pass
        except OSError:  # a folder, of which as much goes as can
            shutil.rmtree(temporary, ignore_errors=True)


def fill(temporary: Path, data: Data, path: Path) -> None:
    """Write what `path` is to hold to a new file, durably; raises `CacheWriteError`."""
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            for part in (data,) if isinstance(data, bytes | memoryview) else data:
                view = memoryview(part).cast("B")
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from error


def move_file(temporary: Path, path: Path) -> None:
    """Give a file its name, durably; raises `CacheWriteError`."""
    try:
        os.replace(temporary, path)  # noqa: PTH105 - the system call by its name; tests inject faults here
        fsync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def change_file(path: Path, make: Callable[[], Data | None], lock: Path | None = None) -> None:
    """Write what `make` makes of a file as it is, and of nothing older; nothing if it returns None.

    A folder: under `lock`, which is held already if none is given. A bucket: by compare-and-swap; where
    another process was first, `make` is called again. It must read the file itself.

    Raises
    ------
    CacheWriteError
        If it cannot be written.
    """
    swap = getattr(path, "change", None)  # a `BucketPath`: there are no locks
    if swap is not None:
        swap(make)
        return
    with locked(lock) if lock is not None else contextlib.nullcontext():
        data = make()
        if data is not None:
            write_file(path, data)


def append_lines(path: Path, lines: bytes, *, header: bytes = b"") -> None:
    """Append whole lines to a file that one process writes; it holds all of them afterwards, or none.

    `header` goes first where the file holds no whole line yet. A last line without its end, which a kill
    left, is cut off before. Nothing is fsynced, because a table grows every few milliseconds: what was
    appended survives the death of the process at once, and a loss of power once the system has written it
    out, or `write_file` the whole table; else the last lines may be missing, the very last unreadable.
    Raises `CacheWriteError`; the file then ends where its last whole line ended.
    """
    if not lines:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            end = _end_of_whole_lines(descriptor)
            os.ftruncate(descriptor, end)
            try:
                view = memoryview(lines if end else header + lines)
                while view:
                    view = view[os.write(descriptor, view) :]
            except BaseException:  # a full disk, or interrupted between two writes
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _end_of_whole_lines(descriptor: int) -> int:
    """Return where the last whole line of a file ends, in bytes; 0 if it has none."""
    start = os.fstat(descriptor).st_size
    while start:
        end, start = start, max(0, start - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def publish(temporary: Path, path: Path) -> None:
    """Make a finished file or folder durable and rename it to `path`; for what is too large for `write_file`.

    Parameters
    ----------
    temporary : pathlib.Path
        A file or folder made under `temporary_path(path)`.
    path : pathlib.Path
        Its final name; a file there is replaced, a folder there is an error.

    Raises
    ------
    CacheWriteError
        If any system call fails; `temporary` stays.
    """
    try:
        if temporary.is_dir():
            fsync_folder(temporary)
        else:
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.replace(temporary, path)  # noqa: PTH105 - as in write_file
        fsync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def link_file(source: Path, path: Path) -> None:
    """Give a file that is never written into a second name; a copy where the file system knows no hard links.

    `fsync_folder` makes the name durable; raises `CacheWriteError`, also if `path` exists.
    """
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise _cannot_write(path, error) from error
        write_file(path, source.read_bytes())


def remove_file(path: Path) -> None:
    """Remove a file durably; raises `CacheWriteError` if it cannot be removed."""
    try:
        path.unlink()
        fsync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def remove_folder(root: Path, *names: str) -> None:
    """Remove the folder ``root/NAME/...``: it vanishes in one step, then its bytes are freed.

    The only way in which featbank deletes folders that hold results. Each name is looked up in the folder
    that was opened before it, so that no link leads elsewhere, whatever another process puts there meanwhile.

    Parameters
    ----------
    root : pathlib.Path
        Where to begin; links on the way to it are followed.
    *names : str
        Names of folders, each directly in the one before.

    Raises
    ------
    CacheWriteError
        If one of them is no such name, no folder or a link, or cannot be removed. If this process dies half
        way, `remove_stale_temporaries` deletes what it left.
    """
    path = root.joinpath(*names)
    if not names or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
        raise CacheWriteError(
            f"will not remove {str(path)!r}: {names!r} do not name folders in {str(root)!r}"
        )
    name, aside = names[-1], temporary_path(path).name
    with contextlib.ExitStack() as opened:
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            inside = os.open(root, flags)
            opened.callback(os.close, inside)
            for one in names[:-1]:
                inside = os.open(one, flags | os.O_NOFOLLOW, dir_fd=inside)
                opened.callback(os.close, inside)
            if not stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is no folder, or a link")
            os.replace(name, aside, src_dir_fd=inside, dst_dir_fd=inside)
            os.fsync(inside)
        except OSError as error:
            raise CacheWriteError(
                f"cannot remove {str(path)!r} ({error.strerror}); it is as it was"
            ) from error
        try:
            shutil.rmtree(aside, dir_fd=inside)
        except OSError as error:
            raise CacheWriteError(
                f"removed {str(path)!r}, but cannot delete what is left in {str(path.with_name(aside))!r} "
                f"({error.strerror}): delete it by hand"
            ) from error
    remove_stale_temporaries(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; raises `CacheWriteError` as `write_file` does."""
    write_file(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return what `write_json` writes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "surrogateescape")


def remove_stale_temporaries(folder: Path) -> int:
    """Remove what killed processes of this host left aside in `folder`; what a live process owns stays.

    What comes from another container, or from before a restart, goes when it is a day old.

    Returns
    -------
    int
        How many files and folders were removed.
    """
    removed = 0
    for path in folder.glob(".tmp-*"):
        match = _TEMPORARY.search(path.name)
        if not match or match["host"] != host_name():
            continue
        with contextlib.suppress(OSError):
            if match["space"] == _pid_space():
                if _alive(int(match["pid"])):
                    continue
            elif time.time() - path.lstat().st_mtime < _OLD_S:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # no process can have such a number: a name nobody here has made
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, holder: str = "") -> Iterator[bool]:
    """Hold an exclusive lock named by `path` for the duration of the block; released if the process dies.

    Parameters
    ----------
    path : pathlib.Path
        The lock file; created when missing and never removed (removing it would let two holders in).
    holder : str, default=""
        A name that nobody else has, all of one length; it is left in the lock file.

    Yields
    ------
    bool
        Whether `holder` was the last to leave a name: what it then knew of what the lock guards still holds.

    Raises
    ------
    CacheWriteError
        If the lock file cannot be created or the file system knows no locks.
    """
    try:
        # a link in a folder that came from elsewhere must not make or open a file where it leads
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            again = bool(holder) and os.pread(descriptor, len(holder), 0) == holder.encode()
            if holder and not again:  # first: it may die with its work half done
                os.pwrite(descriptor, holder.encode(), 0)
        except OSError as error:
            raise _cannot_write(path, error) from error
        yield again
    finally:
        os.close(descriptor)
