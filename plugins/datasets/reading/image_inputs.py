"""The images of one folder, or of the files, folders and archives that a user names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.reading.image_archive import ARCHIVE, members_of
from mpcc.plugins.datasets.reading.image_layout import Layout, find_layout, split_of
from mpcc.plugins.datasets.reading.image_listing import ImageFile, Listing, list_images
from mpcc.plugins.datasets.reading.image_opening import readable_endings

__all__ = ["FoundImages", "in_folder", "in_inputs"]

_ENDINGS = ".png, .jpg, .jpeg, .bmp, .gif, .tif, .tiff, .webp"


@attrs.frozen
class FoundImages:
    """The images of a folder, of an archive, or of single files.

    Attributes:
        name: The folder or archive, for messages.
        listing: What is in it.
        layout: What its subfolders stand for.
        prefix: What stands before the paths of its images.
    """

    name: str
    listing: Listing
    layout: Layout
    prefix: str = ""

    def files(self) -> Iterator[ImageFile]:
        """Yield the images with their classes."""
        layout = self.layout
        for file in layout.files:
            label = layout.class_of(file) if layout.level is not None else None
            yield attrs.evolve(file, prefix=self.prefix, class_name=label)

    def skipped(self) -> Iterator[str]:
        """Yield a line ``PATH: REASON`` for each folder that cannot be read."""
        yield from (f"{printable(self.prefix)}{line}" for line in self.listing.skipped)


def in_folder(folder: Path, classes: str, split: str, prefix: str = "") -> FoundImages:
    """Find the images below a folder.

    Arguments:
        folder: The folder.
        classes: The option ``classes``, as in `find_layout`.
        split: The option ``split``, as in `find_layout`.
        prefix: What stands before their paths.

    Raises:
        InvalidInput: If there are none, or there is no such split.
    """
    labelled = classes != "none"

    def separate(parts: tuple[str, ...]) -> bool:
        return labelled and (not parts or (len(parts) == 1 and split_of(parts[0]) != ""))

    def enter(parts: tuple[str, ...]) -> bool:
        return split == "all" or len(parts) > 1 or split_of(parts[0]) == split

    listing = list_images(folder, readable_endings(), separate, enter)
    if not listing.files and split == "all":
        others, unreadable = listing.others(), listing.skipped
        raise InvalidInput(
            f"no images in {folder}: expected files whose names end in {_ENDINGS} or another ending that Pillow reads, "
            f"in it or in one subfolder for each class{f'; found {others}' if others else ''}"
            + (f"; {len(unreadable)} subfolders cannot be read, such as {unreadable[0]}" if unreadable else "")
        )
    return FoundImages(str(folder), listing, find_layout(folder, listing.files, classes, split), prefix)


def in_inputs(inputs: Sequence[Path], classes: str, split: str) -> list[FoundImages]:
    """Find the images of files, folders and archives, in their order.

    Where the subfolders of an input do not tell classes, and no option says that they do, its images have no labels.

    Arguments:
        inputs: The paths, which exist.
        classes: The option ``classes``.
        split: The option ``split``.

    Raises:
        InvalidInput: If a file is no image by its ending, an archive is broken, or an input has no images.
    """
    found: list[FoundImages] = []
    single: list[ImageFile] = []

    def close() -> None:
        if single:
            found.append(FoundImages("", Listing([], [], Counter()), Layout(list(single), None)))
            single.clear()

    for path in inputs:
        if path.is_dir():
            close()
            found.append(_relaxed(in_folder(path, classes, split, _prefix(path)), classes))
        elif path.suffix.lower() == ARCHIVE:
            close()
            found.append(_relaxed(_in_archive(path, classes, split), classes))
        elif _ending(path.name) in readable_endings():
            single.append(ImageFile(path, (str(path),)))
        else:
            raise InvalidInput(
                f"{printable(str(path))}: expected an image file, a folder or a {ARCHIVE} archive of images, or a file "
                f"of arrays (.npy, .npz, .pt), got a name that ends in {path.suffix or 'nothing'}"
            )
    close()
    return found


def _relaxed(found: FoundImages, classes: str) -> FoundImages:
    """Take images without labels where their folders tell none, unless an option says that they do."""
    if classes == "auto" and found.layout.problem:
        return attrs.evolve(found, layout=attrs.evolve(found.layout, level=None, problem=""))
    return found


def _in_archive(path: Path, classes: str, split: str) -> FoundImages:
    """Find the images of an archive, in folders of any depth; names that begin with a dot are left out.

    Raises:
        InvalidInput: If it is no archive, or there are none, or there is no such split.
    """
    files, left_out = [], Counter[str]()
    for member in members_of(path):
        # A path in the archive never leads out of it.
        parts = tuple(part for part in member.name.split("/") if part not in ("", ".", ".."))
        if not parts or any(part.startswith(".") for part in parts):
            continue
        ending = _ending(parts[-1])
        if ending in readable_endings():
            files.append(ImageFile(member, parts))
        else:
            left_out[printable(ending)] += 1
    listing = Listing(sorted(files, key=lambda file: file.parts), [], left_out)
    if not files:
        others = listing.others()
        raise InvalidInput(
            f"no images in {printable(str(path))}: expected members whose names end in {_ENDINGS} or another ending "
            f"that Pillow reads{f'; found {others}' if others else ''}"
        )
    return FoundImages(str(path), listing, find_layout(path, listing.files, classes, split), _prefix(path))


def _ending(name: str) -> str:
    """Return the ending of a name, small letters, without the dot."""
    return Path(name).suffix.lower().removeprefix(".")


def _prefix(path: Path) -> str:
    """Return what stands before the paths of the images in a folder or archive: its path as the user gave it."""
    text = str(path)
    return "" if text == "." else text if text.endswith("/") else f"{text}/"
