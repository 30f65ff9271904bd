"""Metadata of image files: the orientation, and files without the metadata that a decoder stumbles over."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image

__all__ = ["has_metadata", "turn_upright", "without_metadata"]

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
# The bytes before the first directory of a TIFF file; the last four say where it is.
_TIFF_HEADER = 8

# Chunks of PNG that have pixels in them, and those of its animations.
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_FRAMES = {b"acTL", b"fcTL", b"fdAT"}
# Segments of JPEG: APP0 to APP15 and comments. APP14 says how colours are stored.
_JPEG_METADATA = {*range(0xE0, 0xF0), 0xFE} - {0xEE}
# Tags of TIFF without which pixels cannot be decoded or shown: subfile type to fill order, strips, planes, prediction,
# colour map, tiles, inks, extra samples, sample format, JPEG tables, chroma subsampling, reference black and white.
_TIFF_PIXELS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 318, 319, 320, 322, 323, 324),
    *(325, 332, 333, 334, 336, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532),
}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Turn an image as the metadata of its file says; damaged metadata leaves it as it is.

    Arguments:
        image: The pixels.
        opened: The image that has the metadata, loaded.
    """
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        # Some programs write a text, or the value twice.
        turn = _TURNS.get(int(orientation[0] if isinstance(orientation, tuple) else orientation))
    except Exception:  # damaged metadata makes its reader raise anything
        return image
    return image if turn is None else image.transpose(turn)


def has_metadata(file: Path) -> bool:
    """Return whether a file has a format that `without_metadata` knows, by its first bytes."""
    with file.open("rb") as opened:
        start = opened.read(8)
    return start.startswith((_PNG, _JPEG)) or start[:4] in _TIFF


def without_metadata(content: bytes) -> Iterator[bytes]:
    """Yield the content of an image file with less and less beside its pixels; nothing for unknown formats.

    Example:
        >>> list(without_metadata(b"GIF89a"))
        []
    """
    if content.startswith(_PNG):
        yield _png(content, _PNG_PIXELS | _PNG_FRAMES)
        yield _png(content, _PNG_PIXELS)
    elif content.startswith(_JPEG):
        yield _jpeg(content, keep_exif=True)
        yield _jpeg(content, keep_exif=False)
    elif content[:4] in _TIFF and len(content) >= _TIFF_HEADER:
        yield _tiff(content, _TIFF[content[:4]], _TIFF_PIXELS | {274})
        yield _tiff(content, _TIFF[content[:4]], _TIFF_PIXELS)


def _png(content: bytes, kept: set[bytes]) -> bytes:
    """Return a PNG file with some kinds of chunks only."""
    parts, position = [_PNG], len(_PNG)
    while position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        if kind in kept:
            parts.append(content[position : position + length + 12])
        position += length + 12
    return b"".join(parts)


def _jpeg(content: bytes, *, keep_exif: bool) -> bytes:
    """Return a JPEG file without the segments that hold metadata, with those of EXIF at choice."""
    parts, position = [content[:2]], 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == 0xFF:  # a filling byte
            position += 1
            continue
        if marker == 0xDA:  # the compressed pixels follow
            break
        segment = content[position : position + 2 + length]
        if marker not in _JPEG_METADATA or (keep_exif and marker == 0xE1 and segment[4:10] == b"Exif\0\0"):
            parts.append(segment)
        position += 2 + length
    return b"".join([*parts, content[position:]])


def _tiff(content: bytes, order: str, kept: set[int]) -> bytes:
    """Return a TIFF file whose directories list some tags only; nothing moves."""
    changed = bytearray(content)
    (position,) = struct.unpack_from(order + "I", content, 4)
    seen: set[int] = set()
    while position and position not in seen and position + 2 <= len(content):
        seen.add(position)
        (count,) = struct.unpack_from(order + "H", content, position)
        end = position + 2 + 12 * count
        if end + 4 > len(content):
            break
        entries = [content[start : start + 12] for start in range(position + 2, end, 12)]
        left = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in kept]
        following = content[end : end + 4]
        directory = struct.pack(order + "H", len(left)) + b"".join(left) + following
        changed[position : position + len(directory)] = directory
        (position,) = struct.unpack(order + "I", following)
    return bytes(changed)
