"""Standard output and standard error that never fail: what cannot be shown is dropped."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["SafeStream", "quoted", "safe_streams"]

# A disk, a quota or a limit on the size of a file is full; there may be room again later.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A pipe that may not block is read again later, too. After any other error, such as a closed pipe or a closed terminal,
# no text will ever arrive.
PASSING = (*NO_ROOM, errno.EAGAIN)
# The name of the error handler `as_bytes`.
BYTES = "mpcc-bytes"


def as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode what an encoding lacks: a byte of a file name that is not text as itself, a letter as an escape.

    Example:
        >>> "a\\udce9b\\xe9".encode("ascii", BYTES)
        b'a\\xe9b\\\\xe9'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    encoded = [
        bytes([ord(letter) - 0xDC00]) if "\udc80" <= letter <= "\udcff" else letter.encode("ascii", "backslashreplace")
        for letter in letters
    ]
    return b"".join(encoded), error.end


codecs.register_error(BYTES, as_bytes)


class SafeStream:
    """A text stream that drops what it cannot write: its reader is gone, its disk is full, it was never open.

    Arguments:
        stream: Where the text goes; None, as in a process without standard output, drops all of it.
        owns: Whether the descriptor of the stream may be pointed at the null device once no text can arrive any more.
            Every other writer, and the end of the interpreter, then write there without an error.

    Attributes:
        failure: The first error, or None.
    """

    def __init__(self, stream: TextIO | None, *, owns: bool = False) -> None:
        self._stream = stream
        self._owns = owns
        self._gone = stream is None
        self.failure: Exception | None = None

    @property
    def full(self) -> str | None:
        """The system's words for a disk without room, if that was the first error."""
        error = self.failure
        return error.strerror if isinstance(error, OSError) and error.errno in NO_ROOM else None

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        if not self._gone and self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                # A stream of another program may have an error handler that cannot be changed.
                self._attempt(text.encode("ascii", "backslashreplace").decode())
            except (OSError, ValueError) as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Hand over what is buffered, or keep it."""
        self._attempt("")

    def finish(self) -> None:
        """Hand over what is buffered, or drop it, so that the end of the interpreter does not try again."""
        failure = self.failure
        self.failure = None
        self.flush()
        if self.failure is not None:
            self._to_null()
            self.flush()
        self.failure = failure or self.failure

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        try:
            return not self._gone and self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        # Only names that are not defined above arrive here, such as `encoding` and `fileno`.
        stream = self.__dict__.get("_stream")
        if stream is None and name == "encoding":
            return "utf-8"
        if stream is None and name == "fileno":
            raise io.UnsupportedOperation(name)
        return getattr(stream, name)

    def _attempt(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self.failure = self.failure or error
        if not isinstance(error, OSError) or error.errno not in PASSING:
            self._gone = True
            self._to_null()

    def _to_null(self) -> None:
        if not self._owns or self._stream is None:
            return
        with contextlib.suppress(OSError, ValueError):
            descriptor, null = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


@contextlib.contextmanager
def safe_streams() -> Iterator[SafeStream]:
    """Put safe streams in place of standard output and standard error for a ``with`` block; lend the former.

    On standard output, file names that are not valid text are written as their bytes. On standard error, they are
    written as escapes.
    """
    open_descriptors()
    streams = sys.stdout, sys.stderr
    out, err = (SafeStream(stream, owns=True) for stream in streams)
    handlers = [(stream, stream.errors) for stream in streams if isinstance(stream, io.TextIOWrapper)]
    for stream, _ in handlers:
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors="backslashreplace" if stream is streams[1] else BYTES)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = streams
        for each in (out, err):
            each.finish()
        for stream, errors in handlers:
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)


def open_descriptors() -> None:
    """Open the standard descriptors that are closed: otherwise, the next file would get one, and a text written to it.

    A shell closes them with ``>&-``.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system takes the lowest descriptor that is free: this one.
            os.open(os.devnull, os.O_RDWR)


def quoted(path: os.PathLike[str]) -> str:
    """Return a path as a word for a shell; bytes that are not text become escapes, which bash and zsh read.

    Example:
        >>> from pathlib import Path
        >>> print(quoted(Path("my run")), quoted(Path("run_\\udce9")))
        'my run' $'run_\\xe9'
    """
    text = os.fspath(path)
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return shlex.quote(text)
    letters = {"\\": "\\\\", "'": "\\'", "\n": "\\n"}
    return "$'" + "".join(letters.get(letter) or _escaped(letter) for letter in text) + "'"


def _escaped(letter: str) -> str:
    return f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else letter
