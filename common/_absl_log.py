"""Libraries that say in absl's log what nobody needs to read."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def without_messages(containing: str) -> Iterator[None]:
    """Keeps messages out of absl's log while a block runs.

    Args:
        containing: what they have in common; all others are let through.
    """

    def keep(record: logging.LogRecord) -> bool:
        return containing not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
