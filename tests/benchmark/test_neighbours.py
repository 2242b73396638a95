"""Busy loops run beside what is measured and are gone afterwards, whatever became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featbank.benchmark._neighbours import neighbours

SCRIPT = """
import time
from featbank.benchmark._neighbours import neighbours
with neighbours(2) as found:
    print(*found, flush=True)
    time.sleep(60)
"""


def is_there(pid: int) -> bool:
    try:
        # a process that ended and was not waited for still has a name
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_they_compute_inside_the_block_and_are_gone_after_it() -> None:
    with neighbours(2) as found:
        before = [cpu_ticks(pid) for pid in found]
        deadline = time.monotonic() + 60
        while any(cpu_ticks(pid) == ticks for pid, ticks in zip(found, before, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(found) == 2
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in found} == {os.getpriority(os.PRIO_PROCESS, 0)}
    assert not any(map(is_there, found))


def test_they_are_gone_after_an_error() -> None:
    found: list[int] = []

    def fail() -> None:
        with neighbours(1) as started:
            found.extend(started)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert found
    assert not any(map(is_there, found))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_they_end_with_the_process_that_started_them(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    found = [int(one) for one in process.stdout.readline().split()]
    assert len(found) == 2
    assert all(map(is_there, found))
    process.send_signal(number)
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(is_there, found)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
