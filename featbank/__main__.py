"""``python -m featbank``."""

from featbank.cli import main

if __name__ == "__main__":
    main()
