"""`python -m diffctl.cli`, the same as the command `diffctl`."""

import sys

from diffctl.cli.main import main

sys.exit(main())
