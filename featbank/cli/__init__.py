"""The command line: commands parse, call the library, print."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of ``sys.argv[1:]``.

    Notes
    -----
    Exit codes: 0 done, 1 done with something that failed or was quarantined, 2 wrong input, 3 missing weights
    or data, 130 interrupted. A `FeatbankError` is one line on standard error; any other exception keeps its
    traceback, because it is a bug.
    """
    from featbank.cli.app import app
    from featbank.errors import FeatbankError
    from featbank.manifest import printable

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name the terminal cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="featbank")
    except FeatbankError as error:
        sys.stderr.write(f"featbank: {printable(str(error))}\n")
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer has made this of the KeyboardInterrupt
            sys.stderr.write(
                "featbank: interrupted; whole shards and finished fits are kept, repeat the command\n"
            )
        raise
