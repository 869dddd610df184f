"""Silencing messages that libraries write to absl's log."""

import contextlib
import logging
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
