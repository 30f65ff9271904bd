"""A user's own folder of images, with or without class folders."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.datasets.reading.image_inputs import FoundImages, in_folder, in_inputs
from mpcc.plugins.datasets.reading.image_layout import listed
from mpcc.plugins.datasets.reading.image_listing import ImageFile, Listing
from mpcc.plugins.datasets.reading.image_notes import notes, warnings_of
from mpcc.plugins.datasets.reading.image_reading import FolderReader
from mpcc.plugins.datasets.sources import require_root, similar_sibling

__all__ = ["Folder"]

logger = logging.getLogger(__name__)

_SHOWN = 3  # skipped files that the description names


class Folder(Dataset):
    """Images below a folder: the files with an ending that Pillow reads, in capitals or small letters.

    Images directly in the folder have no labels. If they are in several subfolders instead, each subfolder with images
    is a class, and images further down belong to it: labels 0, 1, .. follow the sorted names of the subfolders. One
    subfolder is no labelling. Subfolders called train, test and val (or training, testing, valid, validation) are
    splits: ``split`` reads one of them, and the classes are in them. Images both in the folder and in subfolders are
    refused, since one of the two would be a mistake; ``classes="none"`` takes all of them without labels. Names that
    begin with a dot are left out. Links are followed, and no folder is entered twice for one class. Images are sorted
    by their paths, names compared by code points.

    Each image is turned as its EXIF orientation says, put on the background colour where it is transparent, converted
    to 8 bits (``range`` names the values of black and white, for each storage type by itself), and made a square of R
    pixels as ``fit`` says (bilinear, antialiased when it shrinks). Of several images in one file the first counts, or
    ``frames="all"``. An image is grey or colour as its file stores it; a palette is colour. Metadata never costs an
    image: what is damaged in it is ignored.

    An image file that cannot be read is an error, which tells every kind of fault in the folder; with the option
    ``unreadable`` such files are left out and listed in `ImageSet.skipped`. With the option ``memory``, the same images
    are decoded on demand instead of held in memory. A first pass then finds the unreadable files. If they are skipped,
    this pass decodes every file. If they are refused, it reads the headers, and decodes 64 images only, so a file that
    is damaged further down ends the run when it is read.
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
        options = self.options
        folder = require_root(root, "folder", "--data.path DIR") if options.path is None else options.path.expanduser()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise InvalidInput(f"{folder} {what}: expected a folder of images{similar_sibling(folder)}")
        return self._read([in_folder(folder, options.classes, options.split)], str(folder), image_size)

    def load_inputs(self, inputs: Sequence[Path], image_size: int) -> ImageSet:
        """Read image files, folders of images and zip archives of images, in their order.

        The paths of the images begin with those of the inputs: ``scans/3.png``, ``scans.zip/a/3.png``. The option
        ``path`` does not count. Where folders do not tell classes, their images have no labels.

        Arguments:
            inputs: Paths that exist, at least one.
            image_size: R, in pixels.

        Raises:
            InvalidInput: As `load`; or if a file is no image by its ending.
        """
        options = self.options
        more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        return self._read(in_inputs(inputs, options.classes, options.split), f"{inputs[0]}{more}", image_size)

    def _read(self, found: Sequence[FoundImages], where: str, image_size: int) -> ImageSet:
        """Read the images that have been found.

        Arguments:
            found: The images.
            where: Their folder, or the inputs, for messages.
            image_size: R, in pixels.

        Raises:
            InvalidInput: As `load`.
        """
        options = self.options
        reader = FolderReader(options, image_size, where, self.each_once)
        files = [file for each in found for file in each.files()]
        files = reader.all_frames(files) if options.frames == "all" else files
        refused = options.unreadable == "refuse"
        problems = [text for each in found for text in (each.layout.problem, _not_entered(each) if refused else "")]
        images = reader.read(files, [problem for problem in problems if problem])
        readable = [image for image, _ in reader.seen]
        skipped = sorted(
            [
                *(line for each in found for line in each.skipped()),
                *(f"{image.path}: {fault.reason}" for image, fault in reader.faults.items()),
            ]
        )
        if not readable:
            raise InvalidInput(
                f"no image in {where} can be read: expected at least one, all {len(skipped)} were skipped, "
                f"such as {skipped[0]}"
            )
        class_names, said = self._classes(readable)
        read = [line for each in found for line in each.layout.notes]
        for line in (*read, *said, *_left_out(found), *notes(reader)):
            logger.info("%s", line)
        for line in warnings_of(reader):
            logger.warning("%s", line)
        label_of = {name: label for label, name in enumerate(class_names)}
        kind = "grey" if images.shape[1] == 1 else "colour"
        settled = str(reader.spec.settled(reader.ranges))
        labels = [-1 if file.class_name is None else label_of[file.class_name] for file in readable if class_names]
        return ImageSet(
            images=images,
            labels=torch.tensor(labels) if class_names else None,
            class_names=[printable(name) for name in class_names],
            paths=[file.path for file in readable],
            description=f"folder {printable(where)}: {len(readable)} {kind} images, "
            f"{f'{len(class_names)} classes' if class_names else 'no labels'}, "
            f"{_FITTED[options.fit]} {image_size} pixels{'' if settled == 'type' else f', range {settled}'}"
            f"{'' if isinstance(images, Tensor) else '; read when needed'}{_described(skipped)}",
            skipped=skipped,
            settled={"range": settled},
            originals=reader.source,
        )

    def _classes(self, readable: Sequence[ImageFile]) -> tuple[list[str], list[str]]:
        """Return the names of the classes, and a line about them."""
        names = sorted({file.class_name for file in readable if file.class_name is not None})
        if not names or self.options.classes == "folders":
            return names, []
        if len(names) == 1:
            where = f"all images are in the subfolder {printable(names[0])}"
            return [], [f"{where}: one class is no labelling, so there are no labels"]
        return names, [
            f"{len(names)} folders were taken as classes: {listed(names)}; --data.classes none if they are not"
        ]


_FITTED = {
    "crop": "central squares, resized to",
    "pad": "padded to squares, resized to",
    "stretch": "stretched to squares of",
}


def _not_entered(found: FoundImages) -> str:
    """Return the folders that cannot be read in words, or nothing."""
    skipped = found.listing.skipped
    if not skipped:
        return ""
    name, _, reason = skipped[0].partition(": ")
    more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return f"cannot read the folder {printable(found.name)}/{name}: {reason}{more}"


def _left_out(found: Sequence[FoundImages]) -> Iterator[str]:
    """Yield a line about the files that are no images by their names, if there are any."""
    everything = Listing([], [], sum((each.listing.left_out for each in found), Counter()))
    if everything.left_out:
        count = sum(everything.left_out.values())
        photos = [ending for ending in ("heic", "heif") if ending in everything.left_out]
        hint = f"; to read .{photos[0]}: pip install pillow-heif" if photos else ""
        files = f"{count} files were" if count > 1 else "1 file was"
        yield f"{files} left out, by ending: {everything.others()}{hint}"


def _described(skipped: Sequence[str]) -> str:
    """Return how many were skipped, and the first of them, or nothing."""
    if not skipped:
        return ""
    more = f", and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
    return f"; {len(skipped)} skipped: {', '.join(skipped[:_SHOWN])}{more}"
