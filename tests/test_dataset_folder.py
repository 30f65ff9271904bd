"""A user's own folder of images: what is found, how it is read, and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets import memory as memory_module
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import FolderOptions

EXTENSIONS = ("png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp")
GREY = Image.new("L", (6, 6), 90)
COLOUR = Image.new("RGB", (6, 6), (200, 100, 50))


def load(folder: Path, image_size: int = 4, **options: Any) -> ImageSet:
    return Folder(FolderOptions(**options)).load(image_size, folder, download=False)


def save(path: Path, image: Image.Image = GREY, **arguments: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **arguments)
    return path


def pixel(folder: Path, **options: Any) -> list[int]:
    """The first pixel of the only image."""
    images = load(folder, **options).images
    assert len(images) == 1
    return images[0, :, 0, 0].tolist()


def test_a_flat_folder_has_no_labels_and_is_in_the_order_of_names(tmp_path: Path) -> None:
    for level, name in enumerate(["b.png", "a.png", "B.png", "10.png", "9.png"]):
        save(tmp_path / name, Image.new("L", (5, 5), level))
    loaded = load(tmp_path)
    assert list(loaded.paths) == ["10.png", "9.png", "B.png", "a.png", "b.png"]
    assert loaded.images[:, 0, 0, 0].tolist() == [3, 4, 2, 1, 0]
    assert loaded.labels is None


def test_subfolders_are_classes_and_what_is_below_belongs_to_them(tmp_path: Path) -> None:
    for name in ["dogs/z.png", "cats/x/deep.png", "cats/a.png", "ants/one.png"]:
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    loaded = load(tmp_path)
    assert list(loaded.class_names) == ["ants", "cats", "dogs"]
    assert list(loaded.paths) == ["ants/one.png", "cats/a.png", "cats/x/deep.png", "dogs/z.png"]
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 1, 1, 2]
    assert loaded.labels.dtype == torch.int64


def test_every_extension_is_read_in_either_case(tmp_path: Path) -> None:
    for extension in EXTENSIONS:
        save(tmp_path / f"lower.{extension}", GREY.convert("RGB"))
        save(tmp_path / f"upper.{extension.upper()}", GREY.convert("RGB"))
    loaded = load(tmp_path, channels="1")
    assert len(loaded) == 2 * len(EXTENSIONS)
    assert (loaded.images.int() - 90).abs().max() <= 2


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    for name in ["seen.png", ".hidden.png", ".cache/thumbnail.png"]:
        save(tmp_path / name)
    assert list(load(tmp_path).paths) == ["seen.png"]


def test_the_option_path_comes_before_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "mine" / "a.png")
    monkeypatch.chdir(tmp_path)
    for path in (Path("mine"), tmp_path / "mine"):
        loaded = Folder(FolderOptions(path=path)).load(4, tmp_path / "other", download=False)
        assert list(loaded.paths) == ["a.png"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    save(tmp_path / "data" / "cats" / "a.png")
    save(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "data" / "cats" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "cats" / "self").symlink_to(tmp_path / "data" / "cats", target_is_directory=True)
    for name in ("dogs", "wolves"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere" / "loop")
    assert list(load(tmp_path / "data").paths) == ["cats/a.png", "dogs/b.png", "wolves/b.png"]


def test_the_shorter_side_is_resized_as_pillow_does_and_the_centre_kept(tmp_path: Path) -> None:
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8))
    save(tmp_path / "a" / "wide.png", whole)
    save(tmp_path / "b" / "tall.png", whole.transpose(Image.Transpose.TRANSPOSE))
    for size in (20, 40, 64):
        wide, tall = load(tmp_path, size).images.int()
        expected = np.array(whole.resize((2 * size, size), Image.Resampling.BILINEAR))[:, size // 2 : size // 2 + size]
        assert np.array_equal(wide.permute(1, 2, 0), expected)
        assert (wide - tall.transpose(1, 2)).abs().max() <= 1  # Pillow rounds between its two passes


def test_a_very_long_image_needs_no_memory_for_its_length(tmp_path: Path) -> None:
    save(tmp_path / "long.png", Image.new("L", (20_000, 1), 7))
    assert (load(tmp_path, 256).images == 7).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: white on the right
    save(tmp_path / "photo.png", image, exif=exif)
    assert load(tmp_path, 8).images[0, 0, 3].tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


@pytest.mark.parametrize(("background", "expected"), [("white", 155), ("black", 27)])
def test_transparency_shows_the_background(background: str, expected: int, tmp_path: Path) -> None:
    save(tmp_path / "a.png", Image.new("RGBA", (4, 4), (54, 54, 54, 128)))
    assert pixel(tmp_path, background=background) == pytest.approx([expected] * 3, abs=1)
    save(tmp_path / "a.png", Image.new("LA", (4, 4), (54, 128)))
    assert pixel(tmp_path, background=background) == pytest.approx([expected], abs=1)


def test_a_transparent_entry_of_a_palette_shows_the_background(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    save(tmp_path / "a.png", image)
    assert pixel(tmp_path) == [10, 20, 30]
    save(tmp_path / "a.png", image, transparency=1)
    assert pixel(tmp_path) == [255, 255, 255]
    assert pixel(tmp_path, background="black") == [0, 0, 0]


def test_a_transparent_grey_level_shows_the_background(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY, transparency=90)
    assert pixel(tmp_path) == [255]


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("level", [0, 128, 129, 256, 1000, 40_000, 65_535])
def test_16_bit_grey_is_divided_by_257(extension: str, level: int, tmp_path: Path) -> None:
    save(tmp_path / f"a.{extension}", Image.fromarray(np.full((4, 4), level, dtype=np.uint16)))
    assert pixel(tmp_path) == [round(level / 257)]


def test_black_and_white_and_print_colours_are_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png", Image.new("1", (4, 4), 1))
    assert pixel(tmp_path) == [255]
    (tmp_path / "a.png").unlink()
    save(tmp_path / "a.tif", Image.new("CMYK", (4, 4), (255, 0, 0, 0)))
    assert pixel(tmp_path) == [0, 255, 255]


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), level) for level in (10, 200, 90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path, channels="1") == [10]


def test_grey_and_colour_are_kept_or_converted_as_asked(tmp_path: Path) -> None:
    save(tmp_path / "grey" / "a.png", GREY)
    save(tmp_path / "colour" / "a.png", COLOUR)
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert pixel(tmp_path / "grey") == [90]
    assert pixel(tmp_path / "grey", channels="3") == [90, 90, 90]
    assert pixel(tmp_path / "colour") == [200, 100, 50]
    assert pixel(tmp_path / "colour", channels="1") == pytest.approx([luma], abs=1)
    for channels in ("1", "3"):
        assert load(tmp_path, channels=channels).images.shape == (2, int(channels), 4, 4)


def test_a_mixture_of_grey_and_colour_names_both_files_and_the_option(tmp_path: Path) -> None:
    grey, colour = save(tmp_path / "a.png", GREY), save(tmp_path / "b.png", COLOUR)
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{grey} is grey but {colour} is colour: expected all alike; pass --data.channels 1 to convert to grey or "
        "--data.channels 3 to convert to colour"
    )


def test_images_both_in_the_folder_and_in_subfolders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "cats" / "b.png")
    with pytest.raises(InvalidInput, match=r"such as a\.png.*such as cats/b\.png.*--data\.classes none.*--data\.path$"):
        load(tmp_path)
    with pytest.raises(InvalidInput, match=r"^a\.png is directly in .*expected every image in the subfolder"):
        load(tmp_path, classes="folders")
    loaded = load(tmp_path, classes="none")
    assert list(loaded.paths) == ["a.png", "cats/b.png"]
    assert loaded.labels is None
    assert len(loaded.class_names) == 0
    (tmp_path / "a.png").unlink()
    assert load(tmp_path, classes="none").labels is None
    assert load(tmp_path, classes="folders").labels.tolist() == [0]


def test_a_missing_folder_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    nearest = f"(did you mean {str(tmp_path / 'flowers')!r}?)"
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path / "flwers")
    assert str(caught.value) == f"{tmp_path / 'flwers'} does not exist: expected a folder of images {nearest}"
    for folder in (tmp_path / "unlike" / "unlike", tmp_path / "x"):
        with pytest.raises(InvalidInput, match=r"does not exist: expected a folder of images$"):
            load(folder)
    with pytest.raises(InvalidInput, match=r"is not a folder"):
        load(save(tmp_path / "a.png"))


def test_a_folder_without_images_is_named_with_the_extensions(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.heic").write_bytes(b"")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"no images in {tmp_path}: expected files whose names end in .png, .jpg,")
    assert ".webp" in str(caught.value)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_image_cut_short_at_any_length_is_named_or_read_but_nothing_else(extension: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8))
    whole = save(tmp_path / f"a.{extension}", noise).read_bytes()
    path = tmp_path / f"a.{extension}"
    lengths = range(0, len(whole), max(1, len(whole) // 40))
    messages = []
    for length in lengths:
        path.write_bytes(whole[:length])
        try:
            load(tmp_path)
        except InvalidInput as error:
            messages.append(str(error))
    assert len(messages) >= 0.8 * len(lengths)  # a format may do without its last bytes
    assert [message for message in messages if not message.startswith(f"cannot read {path}: ") or "\n" in message] == []


def test_values_that_are_not_finite_are_named_and_one_value_is_no_range(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.float32)
    values[2, 3] = np.nan
    path = save(tmp_path / "a.tif", Image.fromarray(values))
    for memory in ("load", "stream"):
        with pytest.raises(InvalidInput, match=rf"^cannot read {path}: expected finite values, got nan at row 2, col"):
            load(tmp_path, memory=memory)
    save(path, Image.new("I", (4, 4), 70_000))
    with pytest.raises(InvalidInput, match=rf"^{tmp_path}: all int32 values are 70000: expected two different values"):
        load(tmp_path)
    assert pixel(tmp_path, range="0,140000") == [128]


def test_a_text_file_called_an_image_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no image")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"cannot read {path}: expected an image file, got one of no known format; repair or remove "
        "it, or pass --data.unreadable skip to go without"
    )


@pytest.mark.parametrize("limit", [60, 20])
def test_an_image_of_more_pixels_than_allowed_is_refused_with_the_option_that_allows_it(
    limit: int, tmp_path: Path
) -> None:
    path = save(tmp_path / "bomb.png", Image.new("L", (10, 10)))
    before = Image.MAX_IMAGE_PIXELS  # Pillow warns from here on and refuses twice as many
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, largest_pixels=limit)
    assert str(caught.value).startswith(
        f"cannot read {path}: 100 pixels may be a decompression bomb: expected at most {limit}; if not, pass "
        "--data.largest-pixels 100; "
    )
    for memory in ("load", "stream"):
        assert load(tmp_path, largest_pixels=100, memory=memory).images[torch.tensor([0])].shape == (1, 1, 4, 4)
    assert before == Image.MAX_IMAGE_PIXELS
    assert FolderOptions().largest_pixels == before


def test_a_dangling_link_and_a_pipe_are_errors_that_do_not_wait(tmp_path: Path) -> None:
    link, pipe = tmp_path / "a" / "gone.png", tmp_path / "b" / "pipe.png"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "nothing.png")
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(InvalidInput) as caught:
            load(path.parent)
        assert str(caught.value).startswith(f"cannot read {path}: expected an image file, got ")


def test_names_that_are_not_utf_8_can_be_written_to_a_file(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes only names in UTF-8")
    save(folder / "a.png")
    loaded = load(tmp_path)
    for text in (*loaded.paths, *loaded.class_names, load(folder).description):
        text.encode("utf-8")


def names(lines: Sequence[str]) -> list[str]:
    return [line.partition(": ")[0] for line in lines]


def test_unreadable_files_are_skipped_and_listed_with_their_reasons(tmp_path: Path) -> None:
    for name in ("ants/a.png", "bees/c.png", "cows/e.png"):
        save(tmp_path / name)
    for name in ("ants/0.png", "bees/d.jpg", "dogs/only.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "cows" / "a\nb.png").write_text("text")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"4 images in {tmp_path} cannot be read: ants/0.png and 2 more (expected an image file, got an empty one), "
        "cows/a\\nb.png (expected an image file, got one of no known format); repair or remove them, or pass "
        "--data.unreadable skip to go without"
    )
    loaded = load(tmp_path, unreadable="skip")
    assert list(loaded.paths) == ["ants/a.png", "bees/c.png", "cows/e.png"]
    assert (loaded.images == 90).all()
    assert loaded.images.shape == (3, 1, 4, 4)
    assert list(loaded.class_names) == ["ants", "bees", "cows"]  # no class without an image
    assert loaded.labels.tolist() == [0, 1, 2]
    empty = "expected an image file, got an empty one"
    assert list(loaded.skipped) == [
        f"ants/0.png: {empty}",
        f"bees/d.jpg: {empty}",
        "cows/a\\nb.png: expected an image file, got one of no known format",
        f"dogs/only.png: {empty}",
    ]
    assert "; 4 skipped: ants/0.png: " in loaded.description
    assert loaded.description.endswith(", and 1 more")
    assert list(load(tmp_path / "cows", unreadable="skip").paths) == ["e.png"]
    assert load(tmp_path / "cows", unreadable="skip").description.endswith("no known format")


def test_of_a_folder_where_nothing_can_be_read_the_first_reason_is_told(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    for memory in ("load", "stream"):
        with pytest.raises(InvalidInput) as caught:
            load(tmp_path, unreadable="skip", memory=memory)
        assert str(caught.value) == (
            f"no image in {tmp_path} can be read: expected at least one, all 2 were skipped, such as a.png: expected "
            "an image file, got an empty one"
        )


def test_a_subfolder_that_cannot_be_entered_is_an_error_or_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "cats" / "a.png")
    (tmp_path / "locked").mkdir()
    enter = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # the superuser, as whom tests may run, may enter any folder
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return enter(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InvalidInput, match=r"^cannot read the folder .*/locked: Permission denied$"):
        load(tmp_path)
    assert list(load(tmp_path, unreadable="skip").skipped) == ["locked: Permission denied"]
    (tmp_path / "cats" / "a.png").unlink()
    with pytest.raises(InvalidInput, match=r"^no images in .*1 subfolders cannot be read, such as locked: Permission"):
        load(tmp_path, unreadable="skip")


def test_what_is_skipped_does_not_decide_between_grey_and_colour(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8))
    path = save(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[:-100])  # a grey header, but no grey image
    save(tmp_path / "b.png", COLOUR)
    for memory in ("load", "stream"):
        loaded = load(tmp_path, unreadable="skip", memory=memory)
        assert tuple(loaded.images.shape) == (1, 3, 4, 4)
        assert names(loaded.skipped) == ["a.png"]


def test_without_labels_no_folder_is_entered_twice_at_all(tmp_path: Path) -> None:
    save(tmp_path / "data" / "cats" / "a.png")
    save(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "data" / "cats" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    for name in ("dogs", "wolves"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert list(load(tmp_path / "data", classes="none").paths) == ["cats/a.png", "dogs/b.png"]


def assorted(folder: Path) -> None:
    """Write images of many kinds, some of them in subfolders."""
    random = np.random.default_rng(0)
    for index in range(12):
        shape = (int(random.integers(1, 40)), int(random.integers(1, 40)), 3)
        save(folder / "ab"[index % 2] / f"{index}.png", Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)))
    save(folder / "a" / "grey.png")
    save(folder / "b" / "photo.jpg", COLOUR.resize((50, 30)))
    save(folder / "b" / "transparent.png", Image.new("RGBA", (4, 4), (54, 54, 54, 128)))


@pytest.mark.parametrize("options", [{"channels": "3"}, {"channels": "1", "classes": "none", "unreadable": "skip"}])
def test_images_read_when_needed_are_those_in_memory(options: dict[str, str], tmp_path: Path) -> None:
    assorted(tmp_path)
    if "unreadable" in options:
        (tmp_path / "a" / "broken.png").write_bytes(b"")
    loaded, streamed = (load(tmp_path, 16, memory=memory, **options) for memory in ("load", "stream"))
    assert isinstance(loaded.images, torch.Tensor)
    assert not isinstance(streamed.images, torch.Tensor)
    assert tuple(streamed.images.shape) == tuple(loaded.images.shape)
    assert len(streamed) == 15
    assert list(streamed.paths) == list(loaded.paths)
    assert list(streamed.skipped) == list(loaded.skipped)
    assert (loaded.labels is None) == (streamed.labels is None)
    assert loaded.labels is None or torch.equal(loaded.labels, streamed.labels)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(streamed.images[order], loaded.images[order])
    copy = pickle.loads(pickle.dumps(streamed.images))
    assert torch.equal(copy[torch.arange(15)], loaded.images)
    assert "; read when needed" in streamed.description


def test_the_working_directory_may_change_while_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assorted(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    images = Folder(FolderOptions(path=Path("mine"), channels="3", memory="stream")).load(8, None, False).images
    monkeypatch.chdir(tmp_path / "mine")
    assert images[torch.tensor([3])].shape == (1, 3, 8, 8)


def test_an_image_that_goes_wrong_while_streaming_is_named(tmp_path: Path) -> None:
    assorted(tmp_path)
    path = tmp_path / "a" / "0.png"
    whole = path.read_bytes()
    streamed = load(tmp_path, channels="3", memory="stream")
    path.write_bytes(whole[: len(whole) // 2])  # the header is right
    for memory in ("load", "stream"):  # a few images of a stream are read before it begins
        with pytest.raises(InvalidInput, match=r"a/0\.png"):
            load(tmp_path, channels="3", memory=memory)
    index = torch.tensor([list(streamed.paths).index("a/0.png")])
    with pytest.raises(InvalidInput, match=rf"^cannot read {path}: "):
        streamed.images[index]
    path.write_bytes(whole)
    assert streamed.images[index].shape == (1, 3, 4, 4)
    path.unlink()
    with pytest.raises(InvalidInput, match=r"got nothing; repair") as caught:
        streamed.images[index]
    # It comes out of a worker process as it is.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), InvalidInput)


def test_streaming_refuses_a_mixture_and_a_broken_header_before_training(tmp_path: Path) -> None:
    grey, colour = save(tmp_path / "a.png", GREY), save(tmp_path / "b.png", COLOUR)
    with pytest.raises(InvalidInput, match=rf"^{grey} is grey but {colour} is colour"):
        load(tmp_path, memory="stream")
    for content in (b"", b"text"):
        (tmp_path / "c.tif").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"^cannot read .*c\.tif: "):
            load(tmp_path, channels="1", memory="stream")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
@pytest.mark.parametrize("extension", ["png", "tif", "gif", "webp", "bmp", "jpg"])
def test_a_header_tells_whether_an_image_is_grey_as_reading_it_does(mode: str, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{extension}"
    try:
        Image.new(mode, (4, 4)).save(path)
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError):
        return  # there are no such files, or this version of Pillow does not read its own
    for channels in ("auto", "1", "3"):
        loaded, streamed = (load(tmp_path, channels=channels, memory=memory).images for memory in ("load", "stream"))
        assert tuple(streamed.shape) == tuple(loaded.shape)
        assert torch.equal(streamed[torch.tensor([0])], loaded)


def test_what_does_not_fit_into_half_of_the_memory_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assorted(tmp_path)
    needed = 15 * 3 * 8 * 8
    for available, streaming in ((2 * needed, False), (2 * needed - 1, True)):
        monkeypatch.setattr(memory_module, "available_memory", lambda available=available: available)
        images = load(tmp_path, 8, channels="3").images
        assert isinstance(images, torch.Tensor) is not streaming
    monkeypatch.setattr(memory_module, "available_memory", lambda: needed - 1)
    with pytest.raises(InvalidInput, match=r"^the folder's 15 images take .* pass --data\.memory stream$"):
        load(tmp_path, 8, channels="3", memory="load")


def test_the_available_memory_is_less_than_there_is_and_more_than_nothing() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < memory_module.available_memory() <= physical


@pytest.mark.parametrize("memory", ["load", "stream"])
def test_a_folder_where_everything_is_wrong_that_can_be_is_read_or_accounted_for(memory: str, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "messy_folder.py"
    command = [sys.executable, str(script), str(tmp_path / "messy"), "--memory", memory]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    happened = {row[1]: row[2].removesuffix(" |") for row in rows}
    read = {what for what, text in happened.items() if text == "read"}
    assert {
        "CMYK JPEG",
        "16-bit grey",
        "1 x 1",
        "name of 255 bytes",
        "name in Unicode",
        "name with a line break",
    } <= read
    assert len(read) == 19
    reasons = {
        "JPEG cut in half": "truncated",
        "0 bytes": "got an empty one",
        "text called .png": "no known format",
        "decompression bomb, 400 megapixels": "decompression bomb",
        "link to nothing": "a link to a file that does not exist",
        "link to itself": "symbolic links",
        "named pipe": "not a file",
    }
    for what, reason in reasons.items():
        assert happened[what].startswith("skipped: ")
        assert reason in happened[what]
    assert "19 images, 10 skipped." in done.stdout
    assert done.stdout.count("error: ") == 5
    (everything,) = [line for line in done.stdout.splitlines() if line.startswith("without options: error: ")]
    for said in ("3 things are wrong", "(1) images both in ", "(2) 10 images in ", "(3) ", " grey and "):
        assert said in everything, everything
    for said in reasons.values():  # one start tells every kind of fault
        assert said in everything, everything


def test_folders_nested_more_deeply_than_pythons_stack_are_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As deep as a path may be long; made from within, as the path to the last one is nearly too long.
    monkeypatch.chdir(tmp_path)
    depth = (4000 - len(str(tmp_path))) // 2
    for _ in range(depth):
        Path("d").mkdir()
        os.chdir("d")
    GREY.save("a.png")
    loaded = load(tmp_path, classes="folders")
    assert list(loaded.paths) == ["d/" * depth + "a.png"]
    assert list(loaded.class_names) == ["d"]
    # The rest is beyond what a path can name: told, not passed over in silence.
    for _ in range(100):
        Path("d").mkdir()
        os.chdir("d")
    with pytest.raises(InvalidInput, match=r"^cannot read the folder .*: File name too long$"):
        load(tmp_path)
    skipped = load(tmp_path, unreadable="skip").skipped
    assert len(skipped) == 1
    assert skipped[0].endswith(": File name too long")
    monkeypatch.undo()
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # Python's own way to remove it is recursive
