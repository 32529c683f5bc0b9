"""`python -m weights_convert`."""

import sys

from weights_convert.cli import main

if __name__ == "__main__":
    sys.exit(main())
