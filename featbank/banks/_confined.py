"""Landlock: the Linux kernel forbids a process every file, beyond what its limits forbid already."""

from __future__ import annotations

import ctypes
import os
import sys

_CREATE, _RESTRICT = 444, 446  # system calls, the same on every architecture
_VERSION = 1
_NO_NEW_PRIVILEGES = 38

#: Everything that can be done to files, by version of Landlock: 13 rights, then refer, truncate, ioctl.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_FILE_RIGHTS = 16


class _Rules(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def confine() -> bool:
    """Forbid this process to open any file or connection from now on; what is open stays open.

    Returns
    -------
    bool
        Whether the kernel does it: Linux 5.13 or later with Landlock.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(
        ctypes.c_long(_CREATE), ctypes.c_void_p(None), ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)
    )
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS.get(version, _ALL_FILE_RIGHTS)) - 1
    rules = _Rules(rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(
        ctypes.c_long(_CREATE), ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        return False
    zero = ctypes.c_ulong(0)
    try:
        if libc.prctl(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero):
            return False
        return bool(libc.syscall(ctypes.c_long(_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)
