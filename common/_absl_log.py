"""Silencing what libraries say beside the errors that they raise."""

import contextlib
import logging
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_messages(containing: str) -> Iterator[None]:
    """Keeps messages out of absl's log while a block runs.

    Args:
        containing: a part of the text of the messages to keep out.
    """

    def keep(record: logging.LogRecord) -> bool:
        return containing not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps all that is logged by orbax and asyncio from a terminal while a block runs.

    So it does with errors of tasks that nobody waits for any more, once one of their siblings has
    failed: whoever calls raises that one, and one is enough.
    """

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.CRITICAL

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    hook, failed = sys.unraisablehook, []
    for logger in loggers:
        logger.addFilter(keep)
    sys.unraisablehook = failed.append
    try:
        yield
    finally:
        failed.clear()
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(keep)
