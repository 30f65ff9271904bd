"""What the library says while a command runs: each message of the logger ``mpcc`` as a line on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

__all__ = ["messages_shown"]


class StandardError(logging.Handler):
    """Prints each message, without level or name."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        # The stream is looked up each time: a progress bar takes its place while it is shown.
        print(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def messages_shown() -> Iterator[None]:
    """Show messages for the length of a ``with`` block, each once, whatever handlers plugins have added."""
    logger, handler = logging.getLogger("mpcc"), StandardError()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
