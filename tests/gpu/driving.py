"""Runs steps one after another, each in a process of its own that may take so long; one line each is kept."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds a process is given to end by itself before it is killed.
_GRACE_S = 3.0


@dataclass(frozen=True)
class Step:
    """One step: what it is called, what is started, how many seconds it may take."""

    number: int
    name: str
    command: Sequence[str]
    limit_s: float


def append(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line, whole and on the disk: whatever ends the script, what was measured stays."""
    data = (json.dumps(line) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def drive(steps: Sequence[Step], results: Path, limit_s: float) -> list[str]:
    """Run the steps; returns what became of each: "done", "failed", "killed" or "not begun".

    A step that fails or outruns its limit, or what is left of `limit_s`, is reported, and the next one runs.
    """
    began, states, before_s = time.monotonic(), [], 0.0
    for step in steps:
        left_s = limit_s - (time.monotonic() - began)
        allowed_s = min(step.limit_s, left_s)
        started = time.monotonic()
        if allowed_s <= 0:
            state, code = "not begun", None
        else:
            code = run_limited(step.command, allowed_s)
            state = "killed" if code is None else "failed" if code else "done"
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s, before_s = used.ru_utime + used.ru_stime - before_s, used.ru_utime + used.ru_stime
        line = {
            "cpu_s": round(cpu_s, 1),
            "step": step.number,
            "ended": step.name,
            "state": state,
            "exit_code": code,
        }
        append(results, {**line, "wall_s": round(time.monotonic() - started, 1), "limit_s": round(allowed_s)})
        states.append(state)
    return states


def run_limited(command: Sequence[str], limit_s: float) -> int | None:
    """Run a command in a session of its own; returns its exit status, None if it had to be killed."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session, and what it started."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            if number == signal.SIGKILL:
                return
