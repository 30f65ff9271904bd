"""Handwritten characters of many alphabets: a set of 100 classes made from the official Omniglot files."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.datasets.utils import download_url

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.affine import augment
from mpcc.plugins.datasets.options import OmniglotOptions
from mpcc.plugins.datasets.sources import download_failed, missing_file, require_root

__all__ = ["Omniglot", "choose_characters"]

# Names and md5 sums of the official files, by the names of the option `source`.
ZIPS = {
    "large": ("images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
    "small1": ("images_background_small1.zip", "e704a628b5459e08445c13499850abc4"),
    "small2": ("images_background_small2.zip", "b75a71a51d3b13f821f212756fe481fd"),
}
_DRAWINGS = 20
_PIXELS = 105
_LARGEST = 2**20  # bytes of one drawing; those of the official files have a few hundred


@attrs.frozen
class _Character:
    """One character in one zip: its 20 drawings, in the order of their drawers."""

    zip_file: Path
    members: Sequence[str]


class Omniglot(Dataset):
    """100 characters x 20 drawings x 20 copies: 40,000 grey images, white ink on black.

    The set and the numbers measured on it are this project's own: the paper's set of 100 classes is not published.
    Characters are chosen by `choose_characters`. The first copy of a drawing is the drawing itself; the others are
    small random affine maps of it (`mpcc.plugins.datasets.affine`).

    The official files are read as they are, zipped: ``ROOT/omniglot-py/images_background.zip`` (964 characters), or
    ``images_background_small1.zip`` (136) and ``images_background_small2.zip`` (156). The two small zips share two
    alphabets with the same drawings; these count once. Another source offers other characters, which makes another set.
    To compare numbers, name the source instead of ``auto``.

    Source:
        B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum, "Human-level concept learning through probabilistic program
        induction", Science 350, 2015. The set: method section 5.
    """

    channels = 1

    def __init__(self, options: OmniglotOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read, choose and augment; images are in the order of label, drawer and copy.

        Arguments:
            image_size: R, in pixels.
            root: The folder that holds ``omniglot-py``.
            download: Whether a file that is missing may be fetched. ``auto`` fetches the large zip, and only if no
                zip is there.

        Returns:
            uint8 images, shape (classes * 20 * copies, 1, R, R), and their labels 0..classes-1, which are in the
            alphabetical order of ``class_names``.

        Raises:
            InvalidInput: If there is no data folder, a file is missing, cannot be fetched, or is broken, or there are
                fewer characters than classes were asked for.
        """
        options = self.options
        root = require_root(root, "omniglot")
        zip_files = self._zip_files(root, download)
        characters: dict[str, _Character] = {}
        for zip_file in zip_files:
            characters = _list_characters(zip_file) | characters  # the first zip that has a character counts
        names = [path.name for path in zip_files]
        if len(characters) < options.classes:
            raise InvalidInput(
                f"{' and '.join(names)} hold {len(characters)} characters: expected at least the {options.classes} of "
                "--data.classes; ask for fewer, or for another --data.source"
            )

        chosen = choose_characters(characters, options.classes, options.class_seed)
        drawings = _read_drawings({name: characters[name] for name in chosen})
        generator = torch.Generator().manual_seed(options.augment_seed)
        images = augment(torch.from_numpy(drawings), options.copies, image_size, generator)
        paths = [
            f"{characters[name].zip_file.name}/{member.partition('/')[2]}{f'#copy{copy}' if copy else ''}"
            for name in chosen
            for member in characters[name].members
            for copy in range(options.copies)
        ]
        return ImageSet(
            images=images.reshape(-1, 1, image_size, image_size),
            labels=torch.arange(options.classes).repeat_interleave(_DRAWINGS * options.copies),
            class_names=chosen,
            paths=paths,
            description=f"omniglot: {len(paths)} images, {options.classes} of the {len(characters)} characters in "
            f"{' + '.join(names)} (class seed {options.class_seed}) x {_DRAWINGS} drawings x {options.copies} copies "
            f"(augment seed {options.augment_seed}), white on black, resized from {_PIXELS} to {image_size} pixels",
        )

    def _zip_files(self, root: Path, download: bool) -> list[Path]:
        """Return the zips to read; fetch missing ones if that is allowed."""
        folder = root / "omniglot-py"
        source = self.options.source
        if source == "auto":
            present = [key for key, (name, _) in ZIPS.items() if (folder / name).exists()]
            wanted = ["large"] if "large" in present or not present else present
        else:
            wanted = ["small1", "small2"] if source == "small" else [source]
        for key in wanted:
            name, md5 = ZIPS[key]
            if (folder / name).exists():
                continue
            if not download:
                what = "an official zip of Omniglot" + (" (or a small one beside it)" if source == "auto" else "")
                raise missing_file(folder / name, what, root)
            try:
                # Not torchvision.datasets.Omniglot: it unpacks 19,280 files for nothing, and lacks the small zips.
                download_url(f"{torchvision.datasets.Omniglot.download_url_prefix}/{name}", folder, name, md5)
            except Exception as error:  # the network and the disk may raise anything
                raise download_failed(name, folder, error) from error
        return [folder / ZIPS[key][0] for key in wanted]


def choose_characters(names: Iterable[str], count: int, seed: int) -> list[str]:
    """Choose characters by a seed; the choice is the same on every platform.

    The names are ranked by the SHA-256 digest of ``SEED:ALPHABET/characterNN`` and the first ``count`` are taken. A
    name that is added or removed does not change the order of the others.

    Arguments:
        names: ``ALPHABET/characterNN``, distinct.
        count: How many to choose.
        seed: Any integer.

    Returns:
        The chosen names, sorted.

    Example:
        >>> choose_characters([f"Greek/character{n:02d}" for n in range(1, 25)], count=2, seed=0)
        ['Greek/character06', 'Greek/character19']
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    return sorted(ranked[:count])


def _broken(zip_file: Path, what: str) -> InvalidInput:
    return InvalidInput(f"broken file {zip_file}: {what}; delete it and pass --download")


def _list_characters(zip_file: Path) -> dict[str, _Character]:
    """Map ALPHABET/characterNN to the character, for all characters in a zip."""
    try:
        with zipfile.ZipFile(zip_file) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        # zipfile raises NotImplementedError for a version of the format that it does not know.
        raise _broken(zip_file, f"expected a zip archive ({error})") from error
    pattern = re.compile(rf"{re.escape(zip_file.stem)}/([^/]+/character\d+)/\d+_\d+\.png")
    drawings: defaultdict[str, list[str]] = defaultdict(list)
    for member in sorted(set(members)):
        if match := pattern.fullmatch(member):
            drawings[match[1]].append(member)
    if not drawings:
        raise _broken(zip_file, f"expected drawings {zip_file.stem}/ALPHABET/characterNN/XXXX_DD.png, got none")
    for name, files in drawings.items():
        if len(files) != _DRAWINGS:
            raise _broken(zip_file, f"expected {_DRAWINGS} drawings of {name}, got {len(files)}")
    return {name: _Character(zip_file, tuple(files)) for name, files in drawings.items()}


def _read_drawings(characters: Mapping[str, _Character]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read all drawings, uint8 (characters * 20, 105, 105), 255 for ink; each zip is opened once."""
    drawings = np.empty((len(characters), _DRAWINGS, _PIXELS, _PIXELS), dtype=np.uint8)
    for zip_file in sorted({character.zip_file for character in characters.values()}):
        with zipfile.ZipFile(zip_file) as archive:
            for index, character in enumerate(characters.values()):
                if character.zip_file != zip_file:
                    continue
                for drawer, member in enumerate(character.members):
                    drawings[index, drawer] = _read_drawing(archive, member, zip_file)
    return drawings.reshape(-1, _PIXELS, _PIXELS)


def _read_drawing(
    archive: zipfile.ZipFile, member: str, zip_file: Path
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read one drawing, uint8 (105, 105); in the file paper is 1 and ink is 0."""
    try:
        # A member may unpack to more than its header says, and to more than fits into memory.
        with archive.open(member) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError("it unpacks to more bytes than a drawing has")
        with Image.open(io.BytesIO(content)) as image:
            size = image.size
            if size == (_PIXELS, _PIXELS):
                return 255 - np.asarray(image.convert("L"), dtype=np.uint8)
    except Exception as error:  # a damaged member raises anything, from zlib's errors to Pillow's
        raise _broken(zip_file, f"cannot read {member} ({error})") from error
    raise _broken(zip_file, f"expected {_PIXELS} x {_PIXELS} pixels in {member}, got {size[0]} x {size[1]}")
