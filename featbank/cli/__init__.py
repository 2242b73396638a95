"""The command line: commands parse, call the library, print."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from featbank import _process
from featbank._process import without_current_folder

__all__ = ["main"]

_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM
_SAID = "featbank: interrupted; whole shards and finished fits are kept, repeat the command\n"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of ``sys.argv[1:]``.

    Notes
    -----
    Exit codes: 0 done, 1 done with something that failed or was quarantined, 2 wrong input, 3 missing weights
    or data, 130 interrupted, 143 terminated. A `FeatbankError`, or a file that may not be read, is one line
    on standard error; any other exception keeps its traceback, because it is a bug.

    Examples
    --------
    >>> try:
    ...     main(["--version"])
    ... except SystemExit as end:
    ...     print("exit code", end.code)
    0...
    exit code 0
    """
    try:
        with _terminated_in_order(), without_current_folder():
            _run(arguments)
    except KeyboardInterrupt:  # before or after typer, which makes a SystemExit of it
        sys.stderr.write(_SAID)
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        if end.code in (_INTERRUPTED, _TERMINATED):
            sys.stderr.write(_SAID)
        raise
    finally:
        _process.docstrings_read = True


def _run(arguments: list[str] | None) -> None:
    from featbank.cli.app import app
    from featbank.errors import FeatbankError
    from featbank.manifest import printable

    _process.docstrings_read = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name the terminal cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="featbank")
    except FeatbankError as error:
        sys.stderr.write(f"featbank: {printable(str(error))}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        said = {
            errno.EACCES: "no permission to read {}: check its rights, or who you are",
            errno.EPERM: "no permission to read {}: check its rights, or who you are",
            errno.ENAMETOOLONG: "the name {} is too long for a file: use a shorter one",
        }.get(error.errno or 0)
        if said is None or error.filename is None:
            raise
        where = printable(os.fsdecode(error.filename))
        sys.stderr.write(f"featbank: {said.format(repr(where))}\n")
        sys.exit(2)


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what is being written is finished or removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
