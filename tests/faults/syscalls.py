"""Stands between featbank and the operating system: every call that changes the cache passes a hook.

All of featbank's writing goes through `os` functions (``_atomic``), so replacing these in a child process is
enough; `Recorder` proves it each time by replaying what it saw and comparing that with the disk.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What is watched; the rest (reading, listing) changes nothing.
CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "ftruncate")


@dataclass
class Call:
    """One system call that is about to be made below the watched folder."""

    number: int
    name: str
    path: str
    perform: Callable[[], Any]
    target: str = ""
    data: bytes = b""
    flags: int = 0
    half: Callable[[], Any] | None = None

    @property
    def kind(self) -> str:
        """What sort of file it concerns."""
        name = Path(self.target or self.path).name.removeprefix(".tmp-")
        for start, kind in (
            ("bank.json", "bank.json"),
            ("cut.json", "cut.json"),
            ("manifest.h5", "manifest"),
            ("quarantine", "quarantine"),
            (".verified", "mark"),
            (".lock", "lock"),
        ):
            if name.startswith(start):
                return kind
        return "shard" if ".h5" in name else "folder"


Hook = Callable[[Call], Any]


def watch(folder: str | os.PathLike[str], hook: Hook) -> None:
    """Let every call that changes something below `folder` go through `hook`, in this process, for good."""
    root = os.path.realpath(folder)
    real = {name: getattr(os, name) for name in (*CALLS, "close")}
    real_flock = fcntl.flock
    paths: dict[int, str] = {}
    numbers = iter(range(10**9))
    lock = threading.Lock()

    def inside(path: Any, folder: int | None = None) -> str | None:
        if isinstance(path, int):
            return paths.get(path)
        if folder is not None:  # a name in a folder that is open
            return f"{paths[folder]}/{path}" if folder in paths else None
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - resolve() would follow links
        return full if full == root or full.startswith(root + os.sep) else None

    def passed(name: str, path: str, perform: Callable[[], Any], **details: Any) -> Any:
        with lock:
            number = next(numbers)
        return hook(Call(number, name, path, perform, **details))

    def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
        full = inside(path, options.get("dir_fd"))
        if full is None or not flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):  # a file that is only read
            return int(real["open"](path, flags, *args, **options))

        def perform() -> int:
            descriptor = int(real["open"](path, flags, *args, **options))
            paths[descriptor] = full
            return descriptor

        return int(passed("open", full, perform, flags=flags))

    def close(descriptor: int) -> None:
        paths.pop(descriptor, None)
        real["close"](descriptor)

    def write(descriptor: int, data: Any) -> int:
        full = inside(descriptor)
        if full is None:
            return int(real["write"](descriptor, data))
        content = bytes(data)
        return int(
            passed(
                "write",
                full,
                lambda: real["write"](descriptor, content),
                data=content,
                half=lambda: real["write"](descriptor, content[: len(content) // 2]),
            )
        )

    def by_path(name: str) -> Callable[..., Any]:
        def function(path: Any, *args: Any, **options: Any) -> Any:
            full = inside(path, options.get("src_dir_fd"))
            if full is None or options.get("dir_fd") is not None:
                return real[name](path, *args, **options)
            renames = name in ("replace", "rename")
            target = inside(args[0], options.get("dst_dir_fd")) or "" if renames else ""
            return passed(name, full, lambda: real[name](path, *args, **options), target=target)

        return function

    def flock(descriptor: Any, operation: int) -> Any:
        full = inside(descriptor) if isinstance(descriptor, int) else None
        if full is None or operation == fcntl.LOCK_UN:
            return real_flock(descriptor, operation)
        return passed("flock", full, lambda: real_flock(descriptor, operation))

    for name in CALLS:
        setattr(os, name, by_path(name))
    os.open, os.close, os.write, fcntl.flock = open_, close, write, flock  # type: ignore[assignment]


@dataclass
class KillAt:
    """Dies (SIGKILL) at call `number`: before it, in the middle of it (half of a write is done), or after."""

    number: int
    moment: str

    def __call__(self, call: Call) -> Any:
        if call.number != self.number:
            return call.perform()
        if self.moment == "inside" and call.half is not None:
            call.half()
        elif self.moment != "before":
            call.perform()
        os.kill(os.getpid(), signal.SIGKILL)
        return None


class InjectedError(OSError):
    """An error that the system did not make."""


@dataclass
class FailAt:
    """Lets call `number` (and, if it is `lasting`, all later ones) fail; a write has then written half."""

    number: int
    errno: int
    lasting: bool = False

    def __call__(self, call: Call) -> Any:
        if call.number != self.number and not (self.lasting and call.number > self.number):
            return call.perform()
        if call.half is not None:
            call.half()
        raise InjectedError(self.errno, os.strerror(self.errno), call.path)


@dataclass
class Recorder:
    """Keeps every call in the order in which they took effect."""

    folder: str
    log: list[tuple[str, str, Any]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __call__(self, call: Call) -> Any:
        if call.name == "flock":  # may wait for another thread's calls
            return call.perform()
        with self._lock:
            new = call.name == "open" and call.flags & os.O_CREAT and not os.path.lexists(call.path)
            result = call.perform()
            path, target = (os.path.relpath(one, self.folder) for one in (call.path, call.target or "."))
            if call.name == "open":
                if new:
                    self.log.append(("create", path, None))
            elif call.name == "write":
                self.log.append(("write", path, call.data[:result]))
            elif call.name in ("replace", "rename"):
                self.log.append(("rename", path, target))
            else:
                self.log.append(("unlink" if call.name == "remove" else call.name, path, None))
            return result

    def hand_over(self, place: Path) -> None:
        """Write the record to a file and end the process at once."""
        with self._lock:
            place.write_bytes(pickle.dumps(self.log))
            os._exit(0)

    def note(self, word: str, what: str) -> None:
        """Add something that is no call: a promise that was made."""
        with self._lock:
            self.log.append((word, what, None))


def counted(calls: list[str]) -> Hook:
    """Return a hook that only notes the name and kind of each call."""

    def hook(call: Call) -> Any:
        calls.append(f"{call.name} {call.kind}")
        return call.perform()

    return hook


def every(n: int, limit: int) -> Iterator[int]:
    """Yield `limit` of the numbers 0..n-1, evenly spread; all of them if `limit` is no less than n."""
    step = max(1.0, n / limit)
    yield from sorted({int(index * step) for index in range(min(n, limit))})
