"""`python -m jaxtl`."""

import sys

from jaxtl.cli import main

sys.exit(main())
