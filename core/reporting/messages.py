"""Messages of the library during a command: each message of the logger ``mpcc`` is a line on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

__all__ = ["messages_shown"]


class StandardError(logging.Handler):
    """Writes each message; a warning says that it is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        # A progress bar replaces sys.stderr while it is shown, so the stream is looked up for each message.
        sys.stderr.write("warning: " * (record.levelno >= logging.WARNING) + self.format(record) + "\n")


@contextlib.contextmanager
def messages_shown() -> Iterator[None]:
    """Show each message once inside a ``with`` block, whatever handlers plugins have added."""
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
