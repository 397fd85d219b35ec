"""`python -m cflow_num.cli` is the command `cflow`."""

import sys

from .main import main

sys.exit(main())
