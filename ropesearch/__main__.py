"""`python -m ropesearch`."""

import sys

from ropesearch.cli import main

if __name__ == "__main__":
    sys.exit(main())
