"""`python -m benchmarks`: lists the experiments, or runs one."""

import sys

from benchmarks.cli import main

sys.exit(main())
