"""Only what was named is kept out of the log, and only within the block."""

import logging

from common._absl_log import without_messages


def test_messages_are_kept_out_within_the_block(caplog):
    logger = logging.getLogger("absl")
    with caplog.at_level(logging.INFO, logger="absl"):
        with without_messages("advice"):
            logger.info("some advice")
            logger.info("a fact")
        logger.info("advice again")
    assert caplog.messages == ["a fact", "advice again"]
