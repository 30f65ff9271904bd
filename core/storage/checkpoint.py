"""Checkpoints: the full state of a run in one file of tensors, numbers and strings.

A checkpoint is written to a temporary file, flushed to the disk and renamed, so that the file under the final name is
always whole. The comment of the archive that `torch.save` writes holds a digest of all bytes, which reveals damage
before anything is read. Loading uses ``weights_only=True``, so that no code in the file runs.

The check sums of the archive's records (`zipfile.ZipFile.testzip`) cannot replace the digest. One bit in the archive's
directory says that a record is a folder. If this bit flips, the check sums still fit, but `torch.load` reads nothing
for that tensor and returns memory that was never written.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import IO, Any, cast

import torch

from mpcc.core.errors import InvalidInput
from mpcc.core.system.resources import short_of_memory
from mpcc.core.system.whole_files import flush_folder, whole_file

__all__ = ["FORMAT_VERSION", "BrokenCheckpoint", "load_checkpoint", "save_checkpoint"]

FORMAT_VERSION = 2
# A zip archive ends with a record of 22 bytes, whose last two are the length of the comment that follows.
END_RECORD, END_SIGNATURE = 22, b"PK\x05\x06"
DIGEST_LABEL = b"mpcc sha256 "
COMMENT_LENGTH = len(DIGEST_LABEL) + hashlib.sha256().digest_size * 2
BLOCK = 2**20


class BrokenCheckpoint(InvalidInput):
    """A file that cannot be read: cut, changed, or never a checkpoint."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that a crash at any moment leaves either the old file or the new one.

    Arguments:
        path: The final name; its folder is made if needed.
        state: Nested dicts and lists of tensors, numbers, strings and None.

    Raises:
        OSError: If it cannot be written; the old file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        output = RememberingFile(file)
        try:
            torch.save({"format_version": FORMAT_VERSION, **state}, cast("IO[bytes]", output))
        except Exception as error:
            # torch replaces an error of writing by an error of its own.
            raise output.failure or error from error
        add_digest(file)
    flush_folder(path.parent)


class RememberingFile:
    """A file for writing that remembers why writing failed.

    Arguments:
        file: Where everything goes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write some bytes.

        Raises:
            OSError: If that fails.
        """
        try:
            return self._file.write(content)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Hand over what is buffered."""
        self._file.flush()


def add_digest(file: IO[bytes]) -> None:
    """Add the digest of an archive to it as its comment.

    Arguments:
        file: A zip archive without a comment, open for reading and writing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(size - END_RECORD)
    end = file.read()
    assert end[:4] + end[-2:] == END_SIGNATURE + b"\0\0", "torch.save wrote an archive with a comment"
    comment = DIGEST_LABEL + digest(file, size - 2).encode()
    file.seek(size - 2)
    file.write(len(comment).to_bytes(2, "little") + comment)


def digest(file: IO[bytes], length: int) -> str:
    """Return the SHA-256 digest of the first bytes of a file, in hexadecimal digits."""
    file.seek(0)
    hashed = hashlib.sha256()
    while length > 0:
        block = file.read(min(BLOCK, length))
        if not block:
            break
        hashed.update(block)
        length -= len(block)
    return hashed.hexdigest()


def check_digest(file: IO[bytes]) -> None:
    """Compare a file with the digest in its comment.

    Raises:
        ValueError: If they do not match; the message says why.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - COMMENT_LENGTH - 2, 0))
    length, comment = file.read(2), file.read()
    label = re.fullmatch(DIGEST_LABEL + rb"[0-9a-f]{64}", comment)
    if size < END_RECORD + COMMENT_LENGTH or int.from_bytes(length, "little") != COMMENT_LENGTH or not label:
        raise ValueError(f"its {size} bytes do not end with a digest: it was cut short, or an older version wrote it")
    if not hmac.compare_digest(digest(file, size - COMMENT_LENGTH - 2), comment[len(DIGEST_LABEL) :].decode()):
        raise ValueError("its content does not match its digest")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is executed.

    Raises:
        BrokenCheckpoint: If the file is missing, cut or changed.
        InvalidInput: If the file has another format.
    """
    try:
        with path.open("rb") as file:
            check_digest(file)
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BrokenCheckpoint(f"checkpoint {path}: no such file") from error
    except Exception as error:
        if short_of_memory(error):
            raise
        # torch.load raises errors of many types for a broken file; all mean the same to the user.
        cause = " ".join(str(error).split()).partition(". ")[0][:200]
        raise BrokenCheckpoint(
            f"checkpoint {path}: cannot be read, it is broken or not a checkpoint ({cause})"
        ) from error
    version = state.get("format_version") if isinstance(state, dict) else type(state).__name__
    # In another program's file the version may be anything, even a tensor, which cannot be compared with a number.
    if not isinstance(version, int) or version != FORMAT_VERSION:
        shown = type(version).__name__ if isinstance(version, torch.Tensor) else version
        raise InvalidInput(f"checkpoint {path}: expected format version {FORMAT_VERSION}, found {shown}")
    return state
