"""The command line: commands parse, call the library, print."""

from __future__ import annotations

import sys

__all__ = ["main"]


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

    try:
        app(args=arguments, prog_name="featbank")
    except FeatbankError as error:
        sys.stderr.write(f"featbank: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(
            "featbank: interrupted; what was finished is kept, the same command goes on from there\n"
        )
        sys.exit(130)
