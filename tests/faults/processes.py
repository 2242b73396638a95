"""Children that are killed: forked from a process that has torch loaded, watched through shared memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import random
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syscalls import Call, Hook, InjectedError, watch

PHASES = ("start", "prepare", "push", "finish", "done")
_SIZE = 1 << 16
_HEAD = 256


class Board:
    """Shared memory in which a child says what it is doing and which shards were acknowledged to it."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _SIZE)

    def phase(self, name: str | None = None) -> str:
        """Return the phase, after setting it if one is given."""
        if name is not None:
            self._map[0] = PHASES.index(name)
        return PHASES[self._map[0]]

    def call(self, words: str | None = None) -> str:
        """Return the call the child is in ("" for none), after setting it if one is given."""
        if words is not None:
            raw = words.encode()[:100]
            self._map[16 : 17 + len(raw)] = bytes([len(raw)]) + raw
        return bytes(self._map[17 : 17 + self._map[16]]).decode()

    def failed(self, words: str | None = None) -> str:
        """Return the first call that was made to fail, after setting it if one is given."""
        if words is not None and not self._map[128]:
            raw = words.encode()[:100]
            self._map[128 : 129 + len(raw)] = bytes([len(raw)]) + raw
        return bytes(self._map[129 : 129 + self._map[128]]).decode()

    def acknowledge(self, name: str) -> None:
        """Add the relative name of a shard that is safe now."""
        (length,) = struct.unpack_from("<I", self._map, 4)
        raw = name.encode() + b"\n"
        self._map[_HEAD + length : _HEAD + length + len(raw)] = raw
        struct.pack_into("<I", self._map, 4, length + len(raw))  # last: a kill in between adds nothing

    @property
    def acknowledged(self) -> set[str]:
        """Relative names of the shards that are safe."""
        (length,) = struct.unpack_from("<I", self._map, 4)
        return set(bytes(self._map[_HEAD : _HEAD + length]).decode().split("\n")) - {""}


@dataclass
class Child:
    """A forked process."""

    pid: int
    board: Board
    _pipe: int
    status: int | None = None
    sent: bytes = b""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; nothing happens if it is gone already."""
        if self.status is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; return its exit status, or minus the signal it died of."""
        if self.status is None:
            chunks = []
            while chunk := os.read(self._pipe, 1 << 20):
                chunks.append(chunk)
            os.close(self._pipe)
            self.sent = b"".join(chunks)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def result(self) -> Any:
        """Return what its work returned; None if it did not come to that."""
        self.wait()
        return pickle.loads(self.sent) if self.sent else None


@dataclass(frozen=True)
class Failure:
    """What a child's work raised."""

    kind: str
    text: str
    deliberate: bool
    trace: str = field(repr=False, default="")


def fork(work: Callable[[Board], Any], *, stderr: Path | None = None) -> Child:
    """Start `work` in a child; an exception becomes a `Failure`."""
    board = Board()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # "multi-threaded": only until the next line
        pid = os.fork()
    if pid:
        os.close(write)
        return Child(pid, board, read)
    os.close(read)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    code = 70
    try:
        if stderr is not None:
            descriptor = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        result: Any
        try:
            result, code = work(board), 0
        except SystemExit as end:
            result, code = None, end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:  # noqa: BLE001 - the parent judges it
            from featbank.errors import FeatbankError

            result = Failure(
                type(error).__name__, str(error), isinstance(error, FeatbankError), traceback.format_exc()
            )
            code = 1
        data = memoryview(pickle.dumps(result))
        while data:
            data = data[os.write(write, data) :]
    except BaseException:  # noqa: BLE001 - nothing of the parent's must run in the child
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def extraction(
    world: Any,
    cache: Path,
    *,
    hook: Hook | None = None,
    on_ack: Callable[[str], None] | None = None,
    command: bool = False,
    elsewhere: bool = False,
    **options: Any,
) -> Callable[[Board], Any]:
    """Return work for `fork`: one extraction into `cache` that tells the board where it stands.

    Parameters
    ----------
    world : World
        What to extract.
    cache : pathlib.Path
        Where to.
    hook : callable, optional
        Sees every call, in the child.
    on_ack : callable, optional
        Told of each acknowledged shard, in the child.
    command : bool, default=False
        Go through the command line, as a user would.
    elsewhere : bool, default=False
        Let processes of its own decode, as users have it.
    **options
        Of `World.extract`.
    """

    def work(board: Board) -> Any:
        def told(call: Call) -> Any:
            board.call(f"{call.name} {call.kind}")
            try:
                return hook(call) if hook is not None else call.perform()
            except InjectedError:
                board.failed(f"{call.name} {call.kind}")
                raise
            finally:
                board.call("")

        from featbank.cli import main  # before it is said that it runs: it answers SIGTERM from its start on

        if elsewhere:
            world.decode_elsewhere()
        with tell(board, cache, on_ack):
            watch(cache, told)
            board.phase("prepare")
            if command:
                main(world.command(cache))
                return None
            result = world.extract(cache, on_plan=lambda plan: board.phase("push"), **options)
        board.phase("done")
        return (result.rows, result.pushed, result.skipped, result.quarantined)

    return work


@contextlib.contextmanager
def tell(board: Board, cache: Path, on_ack: Callable[[str], None] | None) -> Iterator[None]:
    """Let writers tell the board (and `on_ack`) which shards are acknowledged, and when a cut is finished."""
    from featbank.banks.bank import CutWriter

    write, finish = CutWriter.write, CutWriter.finish

    def acknowledged(self: Any, *args: Any) -> Any:
        path = write(self, *args)
        name = str(path.relative_to(cache))
        board.acknowledge(name)
        if on_ack is not None:
            on_ack(name)
        return path

    def finishing(self: Any, *args: Any) -> Any:
        board.phase("finish")
        return finish(self, *args)

    CutWriter.write, CutWriter.finish = acknowledged, finishing  # type: ignore[method-assign]
    try:
        yield
    finally:
        CutWriter.write, CutWriter.finish = write, finish  # type: ignore[method-assign]


def moment(rng: random.Random, duration_s: float) -> None:
    """Sleep for a random part of `duration_s`."""
    time.sleep(rng.random() * duration_s)
