"""`python -m factory` is the same as `factory`."""

import sys

from factory.cli import main

if __name__ == "__main__":
    sys.exit(main())
