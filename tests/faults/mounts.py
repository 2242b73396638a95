"""File systems that only the calling process sees, in a user namespace of its own: no rights are needed."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NEWUSER, _NEWNS = 0x10000000, 0x00020000
_RDONLY, _REMOUNT, _BIND = 1, 32, 4096


def _namespace() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if library.unshare(_NEWUSER | _NEWNS):
        raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return library


def _mount(library: ctypes.CDLL, source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    arguments = [one.encode() or None for one in (source, str(target), kind)]
    if library.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None):
        raise OSError(ctypes.get_errno(), "mount: " + os.strerror(ctypes.get_errno()))


def mount_small(folder: Path, size_bytes: int) -> None:
    """Mount an empty file system of this size over `folder`; `OSError` where that is not allowed."""
    _mount(_namespace(), "tmpfs", folder, "tmpfs", 0, f"size={size_bytes}")


def mount_read_only(folder: Path) -> None:
    """Make everything below `folder` read-only; `OSError` where that is not allowed."""
    library = _namespace()
    _mount(library, str(folder), folder, "", _BIND)
    _mount(library, "", folder, "", _BIND | _REMOUNT | _RDONLY)
