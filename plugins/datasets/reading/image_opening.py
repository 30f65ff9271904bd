"""Opens image files: every frame of one after the other, with errors that name the file and no warnings of Pillow."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

from PIL import Image, UnidentifiedImageError

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.reading.image_archive import ArchiveMember, ImagePlace
from mpcc.plugins.datasets.reading.image_metadata import has_metadata, without_metadata

__all__ = ["LARGEST_PIXELS", "UnreadableImage", "each_frame", "frames_in", "readable_endings"]

T = TypeVar("T")

# Pillow's limit against decompression bombs: a quarter of a GiB of colour.
LARGEST_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# Formats that Pillow knows by name only, and EPS, which it has another program execute.
_NOT_READ = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS"}
# What the further images of these formats are: previews of a photo, layers of a picture.
_NO_FRAMES = {"MPO", "PSD"}
# Pages of a TIFF file that are smaller copies of others (1) or masks (4).
_SUBFILE_TYPE, _NO_PAGE = 254, 0b101


class UnreadableImage(InvalidInput):
    """An image file that cannot be read.

    Attributes:
        reason: Why, without the name of the file.
    """

    def __init__(self, file: ImagePlace, reason: str) -> None:
        self.reason = " ".join(reason.split()).rstrip(".")[:300]
        super().__init__(
            f"cannot read {printable(str(file))}: {self.reason}; repair or remove it, or pass --data.unreadable skip "
            "to go without"
        )

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[str]]:
        # Worker processes send this error to the run.
        return InvalidInput, (str(self),)


@functools.cache
def readable_endings() -> frozenset[str]:
    """Return the endings of the files that Pillow reads, small letters, without the dot.

    Example:
        >>> {"png", "jfif", "pgm", "tif"} <= readable_endings(), "pdf" in readable_endings()
        (True, False)
    """
    Image.init()
    with contextlib.suppress(ImportError):
        # The photos of telephones, where this package is installed.
        importlib.import_module("pillow_heif").register_heif_opener()
    formats = Image.registered_extensions().items()
    return frozenset(ending[1:] for ending, name in formats if name in Image.OPEN and name not in _NOT_READ)


def each_frame(
    file: ImagePlace, frames: Sequence[int], work: Callable[[Image.Image, str], T], largest_pixels: int = LARGEST_PIXELS
) -> list[T | UnreadableImage]:
    """Open an image file and do some work with each of its frames.

    If the work fails, it is tried again without the metadata of the file, which must not cost a picture.

    Arguments:
        file: The file, or a member of an archive.
        frames: Numbers of frames, from 0, in ascending order.
        work: Takes the opened image at a frame and the mode of the first frame.
        largest_pixels: Images with more pixels are refused.

    Returns:
        The result for each frame, or the error.
    """
    done: dict[int, T] = {}
    errors: dict[int, UnreadableImage] = {}
    for source in _sources(file):
        waiting = [frame for frame in frames if frame not in done]
        try:
            with _opened(source, largest_pixels) as image:
                first_mode = image.mode
                for frame in waiting:
                    try:
                        if frame:
                            image.seek(frame)
                        done[frame] = work(image, first_mode)
                    except Exception as error:  # broken files make Pillow's decoders raise anything
                        errors.setdefault(frame, _unreadable(file, error, largest_pixels))
        except Exception as error:
            unreadable = _unreadable(file, error, largest_pixels)
            for frame in waiting:
                if frame not in done:
                    errors.setdefault(frame, unreadable)
        if len(done) == len(set(frames)):
            break
    return [done[frame] if frame in done else errors[frame] for frame in frames]


def frames_in(image: Image.Image) -> list[int]:
    """Return the numbers of the frames of an opened image: pages of a TIFF file, images of an animation.

    The further images of a photo (MPO), layers, and smaller copies of pages are none. Frames that cannot be counted
    because the file is damaged are none either.
    """
    try:
        count = 1 if image.format in _NO_FRAMES else int(getattr(image, "n_frames", 1))
        if count == 1 or image.format != "TIFF":
            return list(range(max(1, count)))
        pages = [0]
        for page in range(1, count):
            image.seek(page)
            if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _NO_PAGE:  # type: ignore[attr-defined]
                pages.append(page)
    except Exception:  # the first frame may be whole
        return [0]
    finally:
        with contextlib.suppress(Exception):
            image.seek(0)
    return pages


def _sources(file: ImagePlace) -> Iterator[ImagePlace | IO[bytes]]:
    """Yield a file as it is, then copies in memory with less and less metadata."""
    yield file
    try:
        if isinstance(file, Path) and not (file.is_file() and has_metadata(file)):
            return
        content = file.read_bytes()
    except Exception:  # a damaged archive makes its reader raise anything
        return
    for less in without_metadata(content):
        if less != content:
            yield io.BytesIO(less)


@contextlib.contextmanager
def _opened(source: ImagePlace | IO[bytes], largest_pixels: int) -> Iterator[Image.Image]:
    """Open an image; Pillow's warnings stay away, and its limit on pixels is ours."""
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait
        raise ValueError("expected an image file, got something that is not a file")
    readable_endings()  # knows all formats, in a worker process too
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow only warns at its limit, and refuses from the double.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = largest_pixels
        try:
            with Image.open(_stream(source)) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _stream(source: ImagePlace | IO[bytes]) -> Path | IO[bytes]:
    """Return a source as Pillow takes it; a member of an archive is read whole."""
    return io.BytesIO(source.read_bytes()) if isinstance(source, ArchiveMember) else source


def _unreadable(file: ImagePlace, error: Exception, largest_pixels: int) -> UnreadableImage:
    """Make the error of a file from that of the system or of Pillow."""
    if isinstance(error, FileNotFoundError):
        linked = isinstance(file, Path) and file.is_symlink()
        what = "a link to a file that does not exist" if linked else "nothing"
        reason = f"expected an image file, got {what}"
    elif isinstance(error, UnidentifiedImageError):
        size = file.size if isinstance(file, ArchiveMember) else file.stat().st_size
        what = "an empty one" if size == 0 else "one of no known format"
        reason = f"expected an image file, got {what}"
    elif isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        found = re.search(r"\d+", str(error))
        pixels = found[0] if found else "N"
        reason = (
            f"{pixels} pixels may be a decompression bomb: expected at most {largest_pixels}; if not, pass "
            f"--data.largest-pixels {pixels}"
        )
    else:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnreadableImage(file, reason or type(error).__name__)
