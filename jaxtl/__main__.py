"""`python -m jaxtl`: the command line."""

import sys

from jaxtl.cli.main import main

sys.exit(main())
