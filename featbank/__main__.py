"""``python -m featbank``."""

import sys

from featbank._process import import_path

# Python puts the current folder in front for `-m`; what it has imported until here cannot be helped.
sys.path[:] = import_path()

from featbank.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
