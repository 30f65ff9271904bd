"""Build a folder of images with every fault that a file can have, load it, and report what happened to each file.

    python benchmarks/messy_folder.py FOLDER [--memory load|stream]

FOLDER must not exist. It is loaded as ``--data folder --data.unreadable skip --data.classes none --data.channels 3``
would, and the report is a table of Markdown. Below it are the results of other choices of these options. The exit
status is 1 if a file is neither read nor accounted for.
"""

from __future__ import annotations

import argparse
import math
import os
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.datasets.reading.image_opening import readable_endings

__all__ = ["build", "report"]

SIZE = 32
LONG = 255 - len(".png")


def picture(mode: str = "RGB", width: int = 40, height: int = 30) -> Image.Image:
    """Return a random picture."""
    random = np.random.default_rng(width * height)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65_536, (height, width), dtype=np.uint16))
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_bomb(path: Path, side: int = 20_000) -> None:
    """Write a valid PNG file of 400 million black pixels in about 50 kB."""
    pack = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
    header = struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def write_cut(path: Path) -> None:
    """Write a JPEG file that ends in the middle."""
    picture(width=400, height=300).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


# Each file: its name, its description, and a function that writes it.
FILES: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("cats/plain.png", "colour, 40 x 30", lambda path: picture().save(path)),
    ("cats/grey.jpg", "grey JPEG", lambda path: picture("L").save(path)),
    ("cats/wide.PNG", "1,000 x 20, extension in capitals", lambda path: picture(width=1000, height=20).save(path)),
    ("cats/one pixel.png", "1 x 1", lambda path: picture(width=1, height=1).save(path)),
    ("cats/cmyk.jpg", "CMYK JPEG", lambda path: picture("CMYK").save(path)),
    ("cats/sixteen.png", "16-bit grey", lambda path: picture("I;16").save(path)),
    ("cats/palette.gif", "palette", lambda path: picture("P").save(path)),
    ("cats/see-through.png", "transparent", lambda path: picture("RGBA").save(path)),
    ("cats/lossy.webp", "WebP", lambda path: picture().save(path)),
    (
        "cats/animation.gif",
        "three frames",
        lambda path: picture("L").save(path, save_all=True, append_images=2 * [picture()]),
    ),
    ("cats/Ünïcode ねこ 🐈.png", "name in Unicode", lambda path: picture().save(path)),
    ("cats/two\nlines.png", "name with a line break", lambda path: picture().save(path)),
    (f"cats/{'n' * LONG}.png", "name of 255 bytes", lambda path: picture().save(path)),
    ("cats/jpeg inside.png", "JPEG called .png", lambda path: picture().save(path, format="jpeg")),
    ("cats/cut.jpg", "JPEG cut in half", write_cut),
    ("cats/empty.png", "0 bytes", lambda path: path.write_bytes(b"")),
    ("cats/page.png", "text called .png", lambda path: path.write_text("<html>not found</html>", encoding="utf-8")),
    ("cats/zeros.bmp", "1,000 zero bytes", lambda path: path.write_bytes(bytes(1000))),
    ("cats/nan.tif", "floating point, NaN", lambda path: Image.new("F", (4, 4), math.nan).save(path)),
    ("cats/float.tif", "floating point", lambda path: picture("L").convert("F").save(path)),
    ("cats/bomb.png", "decompression bomb, 400 megapixels", write_bomb),
    ("cats/dangling.png", "link to nothing", lambda path: path.symlink_to("nowhere.png")),
    ("cats/itself.png", "link to itself", lambda path: path.symlink_to(path.name)),
    ("cats/pipe.png", "named pipe", os.mkfifo),
    ("cats/linked.png", "link to an image", lambda path: path.symlink_to("plain.png")),
    ("cats/notes.txt", "text file", lambda path: path.write_text("no image", encoding="utf-8")),
    ("cats/film.mp4", "film", lambda path: path.write_bytes(bytes(100))),
    ("cats/.hidden.png", "hidden image", lambda path: picture().save(path)),
    ("cats/up", "link to the folder above: a loop", lambda path: path.symlink_to("..", target_is_directory=True)),
    ("dogs/deep/er/dog.tiff", "three folders down", lambda path: picture().save(path)),
    ("dogs/broken only/cut.jpg", "only file of its folder, cut", write_cut),
    ("empty", "empty folder", lambda path: path.mkdir()),
    ("folder.png", "folder called .png", lambda path: path.mkdir()),
    ("folder.png/inside.png", "image in it", lambda path: picture().save(path)),
    ("loose.png", "image beside the class folders", lambda path: picture().save(path)),
    (".thumbnails/cached.png", "image in a hidden folder", lambda path: picture().save(path)),
]


def build(folder: Path) -> None:
    """Write the files into a new folder."""
    folder.mkdir(parents=True)
    for name, _, write in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)


def load(folder: Path, **options: Any) -> ImageSet:
    """Load the folder."""
    return Folder(FolderOptions(path=folder, **options)).load(SIZE, None, download=False)


def outcome(folder: Path, name: str, loaded: ImageSet) -> str | None:
    """Return what happened to a file, or None if that is not reported."""
    shown = name.replace("\n", "\\n")
    if shown in loaded.paths:
        return "read"
    for line in loaded.skipped:
        if line.startswith(f"{shown}: "):
            return f"skipped: {line.removeprefix(f'{shown}: ').replace(str(folder), 'FOLDER')}"
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden: left out"
    if (folder / name).is_dir():
        is_link = (folder / name).is_symlink()
        return "link to a folder that has been entered: not followed again" if is_link else "folder: looked into"
    if not name.lower().endswith(tuple(f".{ending}" for ending in readable_endings())):
        return "not an image by its name: left out"
    return None


def report(folder: Path, memory: str) -> list[str]:
    """Load the folder in all ways and return the lines of the report.

    Raises:
        SystemExit: If a file is not accounted for.
    """
    loaded = load(folder, unreadable="skip", classes="none", channels="3", memory=memory)
    lines = ["| file | what it is | what happened |", "| --- | --- | --- |"]
    for name, what, _ in FILES:
        happened = outcome(folder, name, loaded)
        if happened is None:
            raise SystemExit(f"{name!r} is neither read nor accounted for")
        short = name if len(name) < 60 else f"{name[:20]}... ({len(Path(name).name)} bytes)"
        lines.append(f"| {short.replace(chr(10), chr(92) + 'n')} | {what} | {happened} |")
    lines += ["", f"{len(loaded)} images, {len(loaded.skipped)} skipped. {loaded.description}", ""]
    choices: list[dict[str, Any]] = [
        {},
        {"channels": "3", "classes": "none"},
        {"channels": "3", "unreadable": "skip"},
        {"channels": "3", "unreadable": "skip", "classes": "folders"},
        {"unreadable": "skip", "classes": "none"},
    ]
    for options in choices:
        flags = " ".join(f"--data.{key} {value}" for key, value in options.items())
        try:
            result = load(folder, memory=memory, **options).description
        except InvalidInput as error:
            result = f"error: {error}"
        lines.append(f"{flags or 'without options'}: {result}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to build; must not exist")
    parser.add_argument("--memory", choices=["load", "stream"], default="load", help="as in --data.memory")
    flags = parser.parse_args(arguments)
    if flags.folder.exists():
        sys.exit(f"{flags.folder} exists: expected the name of a new folder")
    build(flags.folder)
    print("\n".join(report(flags.folder, flags.memory)))


if __name__ == "__main__":
    main()
