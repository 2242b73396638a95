"""Busy loops beside what is measured: a machine that others use too."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["neighbours"]

#: Says that it runs, then computes nothing until the process that started it is gone, however it went.
_LOOP = """
import os
print(flush=True)
while os.getppid() == {parent}:
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def neighbours(n: int) -> Iterator[list[int]]:
    """Run `n` busy loops inside the block, processes of this one's priority; yields their process ids."""
    command = [sys.executable, "-I", "-S", "-c", _LOOP.format(parent=os.getpid())]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(n):
            # a session of its own: Ctrl-C is for this process, which ends them
            one = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            running.append(one)
        for one in running:
            if one.stdout is not None:
                one.stdout.readline()
        yield [one.pid for one in running]
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.communicate()
