"""A user's own folder of images, with or without class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet, ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.memory import streams
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.datasets.reading.image_decoding import FileImages, UnreadableImage, decode, mode_of, square
from mpcc.plugins.datasets.reading.image_listing import EXTENSIONS, ImageFile, list_images
from mpcc.plugins.datasets.sources import require_root, similar_sibling

__all__ = ["EXTENSIONS", "Folder"]

_SHOWN = 3  # skipped files that the description names


class Folder(Dataset):
    """Images below a folder, by extension: png, jpg, jpeg, bmp, gif, tif, tiff, webp, in upper or lower case.

    Images directly in the folder have no labels. If they are in subfolders instead, each subfolder with images is a
    class, and images further down belong to it: labels 0, 1, .. follow the sorted names of the subfolders. Images in
    both places are refused, since one of the two would be a mistake; ``labels="none"`` takes all of them without
    labels. Names that begin with a dot are left out. Links are followed, and no folder is entered twice for one class.
    Images are sorted by their paths, names compared by code points.

    Each image is turned as its EXIF orientation says, put on the background colour where it is transparent, converted
    to 8 bits (16-bit grey is divided by 257), resized so that the shorter side is R (bilinear, antialiased when it
    shrinks) and cut to the central square. The first frame of an animation counts. An image is grey or colour as its
    file stores it; a palette is colour.

    An image file that cannot be read is an error; with the option ``unreadable`` it is left out and listed in
    `ImageSet.skipped`. With the option ``memory``, the same images are decoded on demand instead of held in memory. A
    first pass then finds the unreadable files. If they are skipped, this pass decodes every file. If they are refused,
    it reads the headers only, so a file that is damaged further down ends the run when it is read.
    """

    def __init__(self, options: FolderOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the images, or only check them if they are read on demand.

        Arguments:
            image_size: R, in pixels.
            root: The folder, if the option ``path`` does not name one. A relative ``path`` starts at the working
                directory, not here.
            download: Ignored.

        Returns:
            uint8 images, shape (N, 1 or 3, R, R), and labels if there are class folders.

        Raises:
            InvalidInput: If there is no such folder, no image in it, an image that cannot be read and may not be
                skipped, or a mixture of grey and colour that no option resolves.
        """
        path, skip = self.options.path, self.options.unreadable == "skip"
        folder = require_root(root, "folder", "--data.path DIR") if path is None else path.expanduser()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise InvalidInput(f"{folder} {what}: expected a folder of images{similar_sibling(folder)}")
        files, labelled, skipped = list_images(folder, self.options.labels, skip=skip)
        readable, images, unreadable = self._read(files, image_size)
        skipped = sorted([*skipped, *unreadable])
        if not readable:
            raise InvalidInput(
                f"no image in {folder} can be read: expected at least one, all {len(skipped)} were skipped, "
                f"such as {skipped[0]}"
            )
        class_names = sorted({file.parts[0] for file in readable}) if labelled else []
        label_of = {name: label for label, name in enumerate(class_names)}
        kind = "grey" if images.shape[1] == 1 else "colour"
        return ImageSet(
            images=images,
            labels=torch.tensor([label_of[file.parts[0]] for file in readable]) if labelled else None,
            class_names=[printable(name) for name in class_names],
            paths=[file.path for file in readable],
            description=f"folder {printable(str(folder))}: {len(readable)} {kind} images, "
            f"{f'{len(class_names)} classes' if labelled else 'no labels'}, "
            f"central squares, resized to {image_size} pixels"
            f"{'' if isinstance(images, Tensor) else '; read when needed'}{_described(skipped)}",
            skipped=skipped,
        )

    def _read(
        self, files: Sequence[ImageFile], image_size: int
    ) -> tuple[list[ImageFile], Tensor | ImageSource, list[str]]:
        """Return the files that can be read, their images, and the others, ``PATH: REASON``."""
        mode = {"auto": None, "1": "L", "3": "RGB"}[self.options.channels]
        background = {"white": 255, "black": 0}[self.options.background]
        skip = self.options.unreadable == "skip"
        channels = 1 if (mode or _first_mode(files)) == "L" else 3
        shape = (len(files), channels, image_size, image_size)
        stream = streams(self.options.memory, shape, f"the folder's {len(files)} images")
        images = torch.empty(0 if stream else len(files), *shape[1:], dtype=torch.uint8)
        readable: list[ImageFile] = []
        skipped: list[str] = []
        for listed in files:
            try:
                # When streaming, decoding only shows which files to skip. The image is not kept.
                image = None if stream and not skip else decode(listed.file, background, mode)
                image_mode = mode_of(listed.file, mode) if image is None else image.mode
            except UnreadableImage as error:
                if not skip:
                    raise
                skipped.append(f"{listed.path}: {error.reason}")
                continue
            if not readable:
                first_mode = image_mode
            elif image_mode != first_mode:
                raise _mixture(readable[0], first_mode, listed, image_mode)
            if image is not None and not stream:
                if images.shape[1] != len(image.getbands()):  # the guess came from a file that was skipped
                    images = torch.empty(len(files), len(image.getbands()), *shape[2:], dtype=torch.uint8)
                images[len(readable)] = square(image, image_size)
            readable.append(listed)
        if stream and readable:
            # Absolute: the working directory of a run may change.
            file_names = tuple(str(listed.file.absolute()) for listed in readable)
            return readable, FileImages(file_names, first_mode, background, image_size), skipped
        return readable, images[: len(readable)], skipped


def _first_mode(files: Sequence[ImageFile]) -> str:
    """Guess whether the images are grey or colour, from the first header that can be read."""
    for listed in files:
        try:
            return mode_of(listed.file, None)
        except UnreadableImage:
            continue
    return "RGB"


def _mixture(first: ImageFile, first_mode: str, other: ImageFile, other_mode: str) -> InvalidInput:
    """Make the error for a set of grey and colour images."""
    names = {"L": "grey", "RGB": "colour"}
    return InvalidInput(
        f"{printable(str(first.file))} is {names[first_mode]} but {printable(str(other.file))} is {names[other_mode]}: "
        "expected all alike; pass --data.channels 1 to convert to grey or --data.channels 3 to convert to colour"
    )


def _described(skipped: Sequence[str]) -> str:
    """Return how many were skipped, and the first of them, or nothing."""
    if not skipped:
        return ""
    more = f", and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
    return f"; {len(skipped)} skipped: {', '.join(skipped[:_SHOWN])}{more}"
