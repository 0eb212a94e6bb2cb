"""`python -m unisrec` and `accelerate launch -m unisrec`."""

import sys

from .cli import main


if __name__ == "__main__":
    sys.exit(main())
