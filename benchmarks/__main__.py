"""`python -m benchmarks`: lists the experiments, or runs one."""

import signal
import sys

from benchmarks.cli import main

# What is about to take the machine away says so by SIGTERM, and means what Ctrl-C means.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
