"""A user's own folder of images, with or without class folders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from PIL import Image, ImageOps

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.datasets.sources import require_root, similar_sibling

__all__ = ["EXTENSIONS", "Folder"]

EXTENSIONS = ("png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp")


@attrs.frozen
class _File:
    """An image file, and the names that lead to it from the folder: class folder first, if there is one."""

    file: Path
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        return "/".join(self.parts)


class Folder(Dataset):
    """Images below a folder, by extension: png, jpg, jpeg, bmp, gif, tif, tiff, webp, in upper or lower case.

    Images right in the folder have no labels. If they are in subfolders instead, the subfolder is the class: labels
    0, 1, .. are the names of the subfolders that hold images, sorted; images further down belong to the same class.
    Images in both places are refused, since one of the two would be a mistake. Names that begin with a dot are skipped,
    links are followed, and no folder is entered twice for one class. Images are in the order of their paths, names
    compared by code points.

    Each image is turned as its EXIF orientation says, put on the background colour where it is transparent, converted
    to 8 bits (16-bit grey is divided by 257), resized so that the shorter side is R (bilinear, antialiased when it
    shrinks) and cut to the central square. Of an animation, the first frame counts. Whether an image is grey or colour
    is how its file stores it: a palette is colour.
    """

    def __init__(self, options: FolderOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the whole folder.

        Arguments:
            image_size: R, in pixels.
            root: The folder, if the option ``path`` does not name one. A relative ``path`` starts at the working
                directory, not here.
            download: Ignored.

        Returns:
            uint8 images, shape (N, 1 or 3, R, R), and labels if there are class folders.

        Raises:
            InvalidInput: If there is no such folder, no image in it, an image that cannot be read, or a mixture of grey
                and colour that no option resolves.
        """
        given = self.options.path
        folder = require_root(root, "folder", "--data.path DIR") if given is None else Path(given)
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise InvalidInput(f"{folder} {what}: expected a folder of images{similar_sibling(folder)}")
        files = _list_images(folder)
        labelled = len(files[0].parts) > 1
        class_names = sorted({each.parts[0] for each in files}) if labelled else []
        label_of = {name: label for label, name in enumerate(class_names)}
        images = self._read(files, image_size)
        kind = "grey" if images.shape[1] == 1 else "colour"
        return ImageSet(
            images=images,
            labels=torch.tensor([label_of[each.parts[0]] for each in files]) if labelled else None,
            class_names=[_printable(name) for name in class_names],
            paths=[_printable(each.path) for each in files],
            description=f"folder {_printable(str(folder))}: {len(files)} {kind} images, "
            f"{f'{len(class_names)} classes' if labelled else 'no labels'}, "
            f"central squares, resized to {image_size} pixels",
        )

    def _read(self, files: Sequence[_File], image_size: int) -> torch.Tensor:
        """Read the images, uint8 (N, D, R, R)."""
        mode = {"auto": None, "1": "L", "3": "RGB"}[self.options.channels]
        background = {"white": 255, "black": 0}[self.options.background]
        images: torch.Tensor | None = None
        with warnings.catch_warnings():
            # Pillow warns of a bomb at half the size where it refuses one: no picture to cluster is that large.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for index, each in enumerate(files):
                image = _open(each.file, background, mode)
                if images is None:
                    first = image.mode
                    channels = len(image.getbands())
                    images = torch.empty(len(files), channels, image_size, image_size, dtype=torch.uint8)
                elif image.mode != first:
                    names = {"L": "grey", "RGB": "colour"}
                    raise InvalidInput(
                        f"{files[0].file} is {names[first]} but {each.file} is {names[image.mode]}: expected all "
                        "alike; pass --data.channels 1 to convert to grey or --data.channels 3 to convert to colour"
                    )
                square = np.array(_central_square(image, image_size)).reshape(image_size, image_size, -1)
                images[index] = torch.from_numpy(square).permute(2, 0, 1)
        assert images is not None
        return images


def _list_images(folder: Path) -> list[_File]:
    """List the images, sorted; all of them right in the folder, or all of them in subfolders."""
    try:
        files = sorted(_walk(folder, (), {folder.resolve()}), key=lambda each: each.parts)
    except OSError as error:
        raise InvalidInput(f"cannot read the folder {error.filename}: {error.strerror or error}") from error
    if not files:
        raise InvalidInput(
            f"no images in {folder}: expected files whose names end in {', '.join(f'.{name}' for name in EXTENSIONS)}, "
            "in it or in one subfolder a class"
        )
    flat = [each for each in files if len(each.parts) == 1]
    if flat and len(flat) < len(files):
        nested = next(each for each in files if len(each.parts) > 1)
        raise InvalidInput(
            f"images both in {folder} (such as {flat[0].path}) and in its subfolders (such as {nested.path}): expected "
            "either images without labels or one subfolder a class; name the folder that is meant by --data.path"
        )
    return files


def _walk(folder: Path, parts: tuple[str, ...], seen: set[Path]) -> Iterator[_File]:
    """Yield the images below a folder; ``seen`` are the folders that this class has entered, so that links may loop."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        below = (*parts, entry.name)
        if entry.is_dir():
            real = entry.resolve()
            entered = seen if parts else set(seen)  # two classes may link to the same folder
            if real not in entered:
                entered.add(real)
                yield from _walk(entry, below, entered)
        elif entry.suffix.lower().removeprefix(".") in EXTENSIONS:
            yield _File(entry, below)


def _open(file: Path, background: int, mode: str | None) -> Image.Image:
    """Read one image, upright, as L or RGB; as ``mode`` if it is given."""
    if not file.is_file():  # a dangling link; or a pipe, which would wait for ever
        raise InvalidInput(f"cannot read {file}: expected an image file")
    try:
        with Image.open(file) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened))
        return _opaque(image, background, mode)
    except Exception as error:  # broken files make Pillow's decoders raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(f"cannot read {file}: {reason}; repair or remove it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16-bit grey to 8 bits; Pillow's own conversion clips it, so that nearly all of it is white."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("expected grey levels of 8 or 16 bits, got 32 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("expected grey levels of 8 or 16 bits, got floating point, whose range is not known")
    return image


def _opaque(image: Image.Image, background: int, mode: str | None) -> Image.Image:
    """Convert to L or RGB, the background showing through where the image is transparent."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(under, over).convert("RGB")
    return image.convert(mode or ("L" if grey else "RGB"))


def _central_square(image: Image.Image, image_size: int) -> Image.Image:
    """Resize to a shorter side of R and cut out the centre, in one pass: however long the image, no more is made."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)


def _printable(name: str) -> str:
    """Escape bytes of a file name that are not UTF-8, so that the name can be written to a file."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
