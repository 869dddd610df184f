"""`python -m benchmarks`: lists the experiments, or runs one.

What can happen to a program at any moment is answered here, the time in which it is still being
imported included: Ctrl-C, a reader that goes away, a terminal without the signs that are printed.
"""

import os
import signal
import sys

# What is about to take the machine away says so by SIGTERM, and means what Ctrl-C means.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A shell starts what a script puts in the background with Ctrl-C ignored. By the same signal `all`
# asks its experiments, and anyone a run, to end and to keep what is finished.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _run() -> int | str | None:
    """The exit status of the command line."""
    for stream in (sys.stdout, sys.stderr):
        if not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue] (of text streams)
    try:
        from benchmarks.cli import main

        status = main()
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # of the parser, after --help or a wrong option
        return stop.code
    except KeyboardInterrupt:  # a run that has begun tells what it keeps by itself
        print("python -m benchmarks: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


status = _run()
try:
    sys.stdout.flush()
except BrokenPipeError:
    status = 128 + signal.SIGPIPE
    # What is not yet written would be tried again, in vain, as the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
sys.exit(status)
