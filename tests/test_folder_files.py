"""Which files of a folder are read: every ending that Pillow reads, all frames on request, whatever the metadata."""

from __future__ import annotations

import io
import logging
import struct
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.datasets.reading.image_opening import readable_endings
from mpcc.plugins.datasets.resizing import resize_images

GREY = Image.new("L", (6, 6), 90)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))


def load(folder: Path, image_size: int = 4, **options: Any) -> ImageSet:
    return Folder(FolderOptions(**options)).load(image_size, folder, download=False)


def test_every_ending_of_pillow_is_read_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endings = [
        "jfif",
        "JPE",
        "pgm",
        "ppm",
        "PNM",
        "tga",
        "jp2",
        "dib",
        "ico",
        "pcx",
        "sgi",
        "qoi",
        "avif",
        "apng",
    ]
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "pnm": "PPM", "apng": "PNG"}
    for ending in endings:
        GREY.convert("RGB").resize((16, 16)).save(tmp_path / f"a.{ending}", format=kinds.get(ending.lower()))
    for name in ("notes.txt", "more.TXT", "Thumbs.db", "README", "film.mp4", "a.pdf", "b.eps", "photo.HEIC"):
        (tmp_path / name).write_bytes(b"")
    caplog.set_level(logging.INFO)
    loaded = load(tmp_path, channels="1")
    assert sorted(loaded.paths) == sorted(f"a.{ending}" for ending in endings)
    assert (loaded.images.int() - 90).abs().max() <= 4
    assert caplog.messages[0] == (
        "8 files were left out, by ending: 2 .txt, 1 without an ending, 1 .db, 1 .eps, 1 .heic, 1 .mp4, 1 with other "
        "endings; to read .heic: pip install pillow-heif"
    )


def test_photos_of_telephones_are_read_where_their_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = lambda: Image.register_extensions("PNG", [".heic"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    readable_endings.cache_clear()
    assert "heic" in readable_endings()
    monkeypatch.undo()
    readable_endings.cache_clear()
    assert "heic" not in readable_endings()


def stack(path: Path, levels: list[int], **arguments: Any) -> None:
    frames = [Image.new("L", (6, 6), level) for level in levels]
    frames[0].save(path, save_all=True, append_images=frames[1:], **arguments)


@pytest.mark.parametrize("memory", ["load", "stream"])
@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png", "avif"])
def test_all_frames_are_read_on_request_and_told_otherwise(
    ending: str, memory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stack(tmp_path / f"b.{ending}", [10, 200, 90], **({"lossless": True} if ending == "webp" else {}))
    GREY.save(tmp_path / "a.png")
    first = load(tmp_path, channels="1", memory=memory)
    assert list(first.paths) == ["a.png", f"b.{ending}"]
    assert caplog.messages[0] == (
        f"1 file has more than one image, of which the first is read, such as b.{ending} with 3; --data.frames all "
        "reads all"
    )
    caplog.clear()
    loaded = load(tmp_path, channels="1", memory=memory, frames="all")
    assert list(loaded.paths) == ["a.png", *(f"b.{ending}#{frame}" for frame in range(3))]
    values = loaded.images[torch.arange(4)][:, 0, 0, 0].int()
    assert (values - torch.tensor([90, 10, 200, 90])).abs().max() <= 2
    assert caplog.messages == []


def test_frames_belong_to_the_class_of_their_file_and_damaged_ones_are_told(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        stack(tmp_path / name / "a.tif", [10, 200, 90], compression="tiff_lzw")
    whole = (tmp_path / "dog" / "a.tif").read_bytes()
    with Image.open(tmp_path / "dog" / "a.tif") as image:
        image.seek(1)
        start = image.tag_v2[273][0]
    (tmp_path / "dog" / "a.tif").write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
    loaded = load(tmp_path, frames="all", unreadable="skip")
    assert loaded.labels.tolist() == [0, 0, 0, 1, 1]
    assert list(loaded.paths)[3:] == ["dog/a.tif#0", "dog/a.tif#2"]
    assert [line.partition(": ")[0] for line in loaded.skipped] == ["dog/a.tif#1"]
    with pytest.raises(InvalidInput, match=r"^cannot read .*/dog/a\.tif: "):
        load(tmp_path, frames="all")


def test_smaller_copies_of_a_page_and_the_preview_of_a_photo_are_no_frames(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "pyramid.tif", save_all=True, append_images=[NOISE.resize((10, 10))], tiffinfo={254: 0})
    content = bytearray((tmp_path / "pyramid.tif").read_bytes())
    with Image.open(io.BytesIO(bytes(content))) as image:
        image.seek(1)
        position = image._frame_pos[1]
    (count,) = struct.unpack_from("<H", content, position)
    for entry in range(position + 2, position + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] == 254:
            struct.pack_into("<HHII", content, entry, 254, 4, 1, 1)
    (tmp_path / "pyramid.tif").write_bytes(bytes(content))
    NOISE.save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[NOISE.resize((5, 5))])
    assert list(load(tmp_path, frames="all").paths) == ["photo.jpg", "pyramid.tif"]


@pytest.mark.parametrize("memory", ["load", "stream"])
def test_a_long_picture_is_cut_padded_or_stretched(
    memory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ramp = np.tile(np.arange(40, dtype=np.uint8) * 4, (8, 1))
    Image.fromarray(ramp).save(tmp_path / "wide.png")
    crop, pad, stretch = (
        load(tmp_path, 8, fit=fit, background="black", memory=memory).images[torch.tensor([0])][0, 0].int()
        for fit in ("crop", "pad", "stretch")
    )
    assert torch.equal(crop, torch.from_numpy(ramp[:, 16:24]).int())
    assert (pad[[0, 1, 2, 5, 6, 7]] == 0).all()
    bilinear = Image.fromarray(ramp).resize((8, 2), Image.Resampling.BILINEAR)
    assert np.array_equal(pad[3:5], np.array(bilinear))
    assert np.array_equal(stretch, np.array(Image.fromarray(ramp).resize((8, 8), Image.Resampling.BILINEAR)))
    assert caplog.messages == [
        "1 image is more than 3 times as long as wide, and only the central square is kept, such as wide.png, 40 x 8 "
        "pixels; --data.fit pad or stretch keeps the whole"
    ]
    for fit, result in (("crop", crop), ("pad", pad), ("stretch", stretch)):
        arrays = resize_images(torch.from_numpy(ramp)[None, None], 8, fit, background=0)
        assert torch.equal(arrays[0, 0].int(), result)


def test_the_longest_picture_keeps_a_line_when_padded(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2), (9, 9, 9)).save(tmp_path / "wide.png")
    image = load(tmp_path, 32, fit="pad").images[0, 0]
    assert (image == 9).sum() == 32
    assert (image == 255).sum() == 31 * 32


def exif(*entries: bytes, tail: bytes = b"") -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + tail


TURNED = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
DAMAGED = {
    "whole": exif(TURNED),
    "repeated header": b"Exif\0\0" + exif(TURNED),
    "rational out of the block": exif(TURNED, struct.pack("<HHII", 0x11A, 5, 1, 200)),
    "division by zero": exif(TURNED, struct.pack("<HHII", 0x11A, 5, 1, 38), tail=bytes(8)),
    "text that is none": exif(TURNED, struct.pack("<HHI4s", 0x10F, 2, 4, b"\xff\xfe\xff\0")),
    "negative number": exif(struct.pack("<HHIi", 0x101, 9, 1, -1), TURNED),
    "directory elsewhere": exif(TURNED, struct.pack("<HHII", 0x8769, 4, 1, 60_000)),
    "a loop": exif(TURNED, struct.pack("<HHII", 0x8825, 4, 1, 8)),
    "as text": exif(struct.pack("<HHI4s", 0x112, 2, 2, b"6\0\0\0")),
    "twice": exif(struct.pack("<HHIHH", 0x112, 3, 2, 6, 6)),
    "nothing": b"",
    "no header": b"\x00\x08\x00\x02\x01\x12\x00\x03",
    "unknown header": b"II+\0\x08\0\0\0\0\0",
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_damaged_exif_block_costs_no_picture_and_says_nothing(
    ending: str, name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 8, 4))  # white above; white on the right when it is turned
    block = DAMAGED[name]
    picture.save(tmp_path / f"a.{ending}", exif=b"Exif\0\0" + block if ending == "jpg" else block)
    recwarn.clear()
    for memory in ("load", "stream"):
        loaded = load(tmp_path, 8, channels="1", memory=memory).images[torch.tensor([0])][0, 0]
        turned = bool(loaded[0, 7] > 128 and loaded[7, 7] > 128)
        assert turned == (name not in ("nothing", "no header", "unknown header")), name
    assert [str(warning.message) for warning in recwarn] == []


def test_long_texts_and_profiles_cost_no_picture(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * 3_000_000, zip=True)
    NOISE.save(tmp_path / "ztxt.png", pnginfo=info)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "y" * 3_000_000, zip=True)
    NOISE.save(tmp_path / "itxt.png", pnginfo=info)
    NOISE.save(tmp_path / "icc.png", icc_profile=bytes(2_000_000))
    loaded = load(tmp_path, 20)
    for index in range(3):
        assert np.array_equal(loaded.images[index].permute(1, 2, 0), np.array(NOISE))


def chunk(kind: bytes, data: bytes, *, whole: bool = True) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ (not whole))


@pytest.mark.parametrize(
    "kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"cHRM", b"tIME", b"fcTL", b"prVt"]
)
def test_no_additional_chunk_costs_a_png(kind: bytes, tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for place in (33, len(content) - 12):  # behind the header, before the end
        for whole in (True, False):
            for data in (b"", b"a\0\1x", b"a\0\0xyz", bytes(40)):
                changed = content[:place] + chunk(kind, data, whole=whole) + content[place:]
                (tmp_path / "a.png").write_bytes(changed)
                assert np.array_equal(load(tmp_path, 20).images[0].permute(1, 2, 0), np.array(NOISE))
    # Damaged pixels are damage.
    (tmp_path / "a.png").write_bytes(content[:60] + b"\0\0\0\0" + content[64:])
    with pytest.raises(InvalidInput, match=r"^cannot read .*a\.png: "):
        load(tmp_path, 20)


@pytest.mark.parametrize("head", [b"JFIF\0", b"ICC_PROFILE\0", b"Exif\0\0", b"Photoshop 3.0\0", b"MPF\0", b""])
def test_no_segment_of_metadata_costs_a_jpeg(head: bytes, tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a.jpg")
    content, expected = (tmp_path / "a.jpg").read_bytes(), load(tmp_path, 20).images
    for marker in (*range(0xE0, 0xEE), 0xEF, 0xFE):
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(head) + 3) + head + b"\x7f"
        (tmp_path / "a.jpg").write_bytes(content[:2] + segment + content[2:])
        assert torch.equal(load(tmp_path, 20).images, expected)


@pytest.mark.parametrize("tag", [270, 271, 274, 282, 296, 700, 33723, 34377, 34665, 34675, 34853, 50838, 65000])
def test_no_tag_of_metadata_costs_a_tiff(tag: int, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    NOISE.save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = [bytes(content[place : place + 12]) for place in range(start + 2, start + 2 + 12 * count, 12)]
    content += bytes(len(content) % 2)
    for kind, number, value in (
        (2, 100_000, 8),
        (4, 1, 2**32 - 1),
        (5, 1, 2**31),
        (7, 2**31, 8),
        (3, 0, 0),
        (13, 1, 9),
    ):
        listed = sorted([*entries, struct.pack("<HHII", tag, kind, number, value)], key=lambda entry: entry[1::-1])
        directory = struct.pack("<H", len(listed)) + b"".join(listed) + bytes(4)
        changed = bytearray(content + directory)
        struct.pack_into("<I", changed, 4, len(content))
        (tmp_path / "a.tif").write_bytes(bytes(changed))
        assert np.array_equal(load(tmp_path, 20).images[0].permute(1, 2, 0), np.array(NOISE)), (kind, number, value)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_file_that_ends_anywhere_is_told_by_its_name(kind: str, tmp_path: Path) -> None:
    whole = io.BytesIO()
    GREY.save(whole, kind)
    GREY.save(tmp_path / "whole.png")
    content = whole.getvalue()
    for size in {*range(12), len(content) // 2}:
        (tmp_path / f"{size:03}.{kind.lower()}").write_bytes(content[:size])
    loaded = load(tmp_path, unreadable="skip")
    assert "whole.png" in loaded.paths
    assert len(loaded.paths) + len(loaded.skipped) == 14
    assert {f"{size:03}.{kind.lower()}" for size in range(12)} <= {line.partition(":")[0] for line in loaded.skipped}


def test_lab_colours_are_read(tmp_path: Path) -> None:
    lab = Image.merge("LAB", [Image.new("L", (6, 6), level) for level in (255, 128, 128)])
    lab.save(tmp_path / "a.tif")
    assert load(tmp_path).images[0, :, 0, 0].min() > 250  # L of 100 is white


def test_colours_of_16_bits_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    header = struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + struct.pack(">6H", *[60_000] * 6) for _ in range(2))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    assert load(tmp_path).images[0, 0, 0, 0] == 60_000 // 256
    assert "1 image has colours of 16 bits, of which Pillow reads the upper 8, such as a.png" in caplog.messages
