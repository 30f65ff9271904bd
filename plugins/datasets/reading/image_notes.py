"""What a user should know of the images of a folder: what was not read, and how their values were taken."""

from __future__ import annotations

from collections.abc import Iterator

from mpcc.plugins.datasets.reading.image_reading import FolderReader, Look
from mpcc.plugins.datasets.reading.value_range import known_range, narrow_use

__all__ = ["notes", "warnings_of"]

# Central squares of images longer than this keep less than a third of them.
_LONG = 3


def notes(reader: FolderReader) -> Iterator[str]:
    """Yield lines about the images that a folder's reader has read, for the log."""
    looks = [look for _, look in reader.seen]
    several = [(image, look) for image, look in reader.seen if look.frames > 1]
    if several:
        image, look = several[0]
        count = f"{len(several)} files have" if len(several) > 1 else "1 file has"
        yield (
            f"{count} more than one image, of which the first is read, such as {image.path} with {look.frames}; "
            "--data.frames all reads all"
        )
    if reader.options.fit == "crop":
        long = [(image, look) for image, look in reader.seen if _elongation(look) > _LONG]
        if long:
            image, look = long[0]
            count = f"{len(long)} images are" if len(long) > 1 else "1 image is"
            yield (
                f"{count} more than {_LONG} times as long as wide, and only the central square is kept, such as "
                f"{image.path}, {look.size[0]} x {look.size[1]} pixels; --data.fit pad or stretch keeps the whole"
            )
    reduced = [image for image, look in reader.seen if look.reduced]
    if reduced:
        count = f"{len(reduced)} images have" if len(reduced) > 1 else "1 image has"
        yield f"{count} colours of 16 bits, of which Pillow reads the upper 8, such as {reduced[0].path}"
    for storage in sorted({look.storage for look in looks}):
        found, used = reader.extremes(storage), reader.ranges[storage]
        if known_range(reader.spec, storage) is None:
            yield f"{storage} values: black is {used.low:g}, white is {used.high:g} (--data.range)"
        elif found.low < used.low or found.high > used.high:
            yield (
                f"{storage} values {found.low:g}..{found.high:g} go beyond the range {used.low:g}..{used.high:g} and "
                "are clipped (--data.range)"
            )


def warnings_of(reader: FolderReader) -> Iterator[str]:
    """Yield lines about images that are nearly of one grey level after conversion."""
    for storage in sorted({look.storage for _, look in reader.seen}):
        used = reader.ranges[storage]
        found = reader.extremes(storage)
        narrow = narrow_use(found, used)
        count = sum(look.storage == storage for _, look in reader.seen)
        sampled = reader.sampled.get(storage)
        images = f"{f'{sampled} of ' if sampled else ''}{count} {storage} image{'s' * (count > 1)}"
        if found.low == found.high:
            yield f"{images}: all values are {found.low:g}"
        elif narrow:
            yield f"{images}: {narrow}; --data.range set makes the smallest value black and the largest white"
        if storage == "float32" and (used.low, used.high) == (0, 255):
            floating = [(image, look) for image, look in reader.seen if look.storage == storage]
            small = [image for image, look in floating if 0 < look.extremes.high <= 1]
            if small:
                yield (
                    f"{len(small)} of {len(floating)} float32 images have no values above 1, such as {small[0].path}, "
                    "while others reach 255: the former are nearly black; scale all alike"
                )


def _elongation(look: Look) -> float:
    """Return the longer side divided by the shorter one."""
    return max(look.size) / min(look.size)
