"""The Omniglot set: its laws, its affine maps against other programs, broken files, and the real thing."""

from __future__ import annotations

import io
import math
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.affine import affine_map, augment, random_maps, warp
from mpcc.plugins.datasets.omniglot import Omniglot, choose_characters
from mpcc.plugins.datasets.options import OmniglotOptions

SMALL1, SMALL2, LARGE = "images_background_small1", "images_background_small2", "images_background"
GREEK = [f"Greek/character{number:02d}" for number in (1, 2)]
TAGALOG = [f"Tagalog/character{number:02d}" for number in (1, 2, 3)]


def drawing(name: str, drawer: int) -> Image.Image:
    """Draw a rectangle of ink whose place depends on the name and the drawer only."""
    random_ = random.Random(f"{name} {drawer}")
    left, top = random_.randrange(20, 50), random_.randrange(20, 50)
    paper = np.ones((105, 105), dtype=bool)
    paper[top : top + 30, left : left + 20] = False
    return Image.fromarray(paper)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def members_of(stem: str, names: list[str]) -> dict[str, bytes]:
    """The drawings of an official zip, by their names in it."""
    return {
        f"{stem}/{name}/{index:04d}_{drawer:02d}.png": png(drawing(name, drawer))
        for index, name in enumerate(names)
        for drawer in range(1, 21)
    }


def write_zip(root: Path, stem: str, members: dict[str, bytes]) -> Path:
    path = root / "omniglot-py" / f"{stem}.zip"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A data folder with two small zips that overlap in one alphabet."""
    write_zip(tmp_path, SMALL1, members_of(SMALL1, [*GREEK, "Latin/character01"]))
    write_zip(tmp_path, SMALL2, members_of(SMALL2, [*GREEK, *TAGALOG]))
    return tmp_path


def test_images_are_in_the_order_of_label_drawer_and_copy(both: Path) -> None:
    loaded = Omniglot(OmniglotOptions(classes=6, copies=3)).load(32, both, download=False)
    assert list(loaded.class_names) == [*GREEK, "Latin/character01", *TAGALOG]
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [label for label in range(6) for _ in range(60)]
    assert loaded.paths[:4] == [
        f"{SMALL1}.zip/Greek/character01/0000_01.png",
        f"{SMALL1}.zip/Greek/character01/0000_01.png#copy1",
        f"{SMALL1}.zip/Greek/character01/0000_01.png#copy2",
        f"{SMALL1}.zip/Greek/character01/0000_02.png",
    ]
    assert loaded.paths[-1] == f"{SMALL2}.zip/Tagalog/character03/0004_20.png#copy2"
    assert loaded.description.startswith(f"omniglot: 360 images, 6 of the 6 characters in {SMALL1}.zip + {SMALL2}.zip ")


def test_the_first_copy_is_the_drawing_and_the_others_are_not(both: Path) -> None:
    loaded = Omniglot(OmniglotOptions(classes=2, source="small1", copies=4)).load(32, both, download=False)
    images = loaded.images.reshape(2, 20, 4, 32, 32).int()
    for label, name in enumerate(loaded.class_names):
        for drawer in range(20):
            ink = Image.eval(drawing(name, drawer + 1).convert("L"), lambda level: 255 - level)
            expected = torch.from_numpy(np.array(ink.resize((32, 32), Image.Resampling.BILINEAR)).astype(np.int32))
            assert (images[label, drawer, 0] - expected).abs().max() <= 1
            assert ((images[label, drawer, 1:] - expected).abs().amax(dim=(1, 2)) > 20).all()


def test_the_large_zip_comes_first_and_a_named_source_is_obeyed(both: Path) -> None:
    write_zip(both, LARGE, members_of(LARGE, TAGALOG))
    for source, names in {
        "auto": [LARGE],
        "large": [LARGE],
        "small": [SMALL1, SMALL2],
        "small1": [SMALL1],
        "small2": [SMALL2],
    }.items():
        loaded = Omniglot(OmniglotOptions(source=source, classes=3, copies=1)).load(8, both, download=False)
        assert f" characters in {' + '.join(f'{name}.zip' for name in names)} (class seed 0)" in loaded.description
        assert {path.partition(".zip")[0] for path in loaded.paths} <= set(names)


def test_seeds_change_only_what_they_seed(both: Path) -> None:
    def load(**options: int) -> tuple[list[str], torch.Tensor]:
        loaded = Omniglot(OmniglotOptions(**{"classes": 3, "copies": 3} | options)).load(16, both, download=False)
        return list(loaded.class_names), loaded.images.reshape(60, -1, 16, 16)

    names, images = load()
    same_names, other_maps = load(augment_seed=1)
    assert same_names == names
    assert torch.equal(images[:, 0], other_maps[:, 0])
    assert not torch.equal(images[:, 1], other_maps[:, 1])
    assert any(load(class_seed=seed)[0] != names for seed in range(1, 6))
    assert torch.equal(load(copies=2)[1], images[:, :2])


def test_characters_are_chosen_alike_from_sources_that_overlap() -> None:
    names = [f"{alphabet}/character{number:02d}" for alphabet in "ABCDE" for number in range(1, 21)]
    chosen = choose_characters(names, 30, seed=3)
    assert chosen == sorted(chosen)
    assert chosen == choose_characters(reversed(names), 30, seed=3)
    assert chosen[:5] != names[:5]
    assert set(choose_characters(names, 10, seed=3)) < set(chosen)
    fewer = [name for name in names if name not in chosen[::2]]
    assert set(chosen[1::2]) <= set(choose_characters(fewer, 30, seed=3))


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def still(**changes: torch.Tensor) -> torch.Tensor:
    """The map that does nothing but what is asked for, shape (1, 1, 2, 3)."""
    nothing = {"rotation": one(0), "shift": torch.zeros(1, 2, dtype=torch.float64), "scale": one(1), "shear": one(0)}
    return affine_map(**nothing | changes).unsqueeze(1)


@pytest.fixture
def blob() -> torch.Tensor:
    """A smooth picture without symmetry, shape (1, 105, 105), float64, 0 near the edge."""
    grid = np.random.default_rng(0).random((105, 105)) * 255
    grid = ndimage.gaussian_filter(grid, 4) * (np.hypot(*np.mgrid[-52:53, -52:53]) < 30)
    return torch.from_numpy(ndimage.gaussian_filter(grid, 2))[None]


def test_a_shift_by_whole_pixels_moves_pixels_right_and_down(blob: torch.Tensor) -> None:
    moved = warp(blob, still(shift=torch.tensor([[7 / 105, 3 / 105]], dtype=torch.float64)))
    assert torch.allclose(moved[0, 0], blob[0].roll((3, 7), (0, 1)), atol=1e-9)


def test_a_rotation_is_pillows_in_the_other_sense(blob: torch.Tensor) -> None:
    turned = warp(blob, still(rotation=one(10)))[0, 0]
    picture = Image.fromarray(blob[0].numpy().astype(np.float32))
    expected = np.array(picture.rotate(-10, Image.Resampling.BILINEAR))
    assert np.abs(turned.numpy() - expected).max() < 0.02
    assert np.abs(blob[0].numpy() - expected).max() > 5


def test_scale_and_shear_change_the_area_as_they_should(blob: torch.Tensor) -> None:
    area = blob.sum().item()
    assert warp(blob, still(scale=one(1.1))).sum().item() == pytest.approx(1.21 * area, rel=1e-3)
    assert warp(blob, still(shear=one(5))).sum().item() == pytest.approx(area, rel=1e-3)
    sheared = warp(blob, still(shear=one(45)))[0, 0]
    assert torch.allclose(sheared[62], blob[0, 62].roll(10), atol=1e-9)  # tan 45 degrees x 10 rows below the middle


@pytest.mark.parametrize("seed", range(5))
def test_any_map_is_that_of_scipy_in_pixel_coordinates(seed: int, blob: torch.Tensor) -> None:
    rotation, shear = np.random.default_rng(seed).uniform(-10, 10, 2)
    scale, (right, down) = 0.9 + 0.05 * seed, np.random.default_rng(seed).uniform(-6, 6, 2)
    shift = torch.tensor([[right, down]], dtype=torch.float64) / 105
    ours = warp(blob, still(rotation=one(rotation), shift=shift, scale=one(scale), shear=one(shear)))[0, 0]

    a, b = math.radians(rotation), math.radians(shear)
    forward = scale * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) @ [[1, math.tan(b)], [0, 1]]
    inverse = np.linalg.inv(forward)[::-1, ::-1]  # scipy counts rows first
    centre = np.array([52.0, 52.0])
    offset = centre - inverse @ (centre + np.array([down, right]))
    expected = ndimage.affine_transform(blob[0].numpy(), inverse, offset, order=1)
    assert np.abs(ours.numpy() - expected).max() < 1e-6


def test_random_maps_keep_within_their_ranges_and_fill_them() -> None:
    maps = random_maps(20_000, torch.Generator().manual_seed(0)).double()
    forward = torch.linalg.inv(maps[..., :2])
    scale = torch.linalg.det(forward).sqrt()
    rotation = torch.rad2deg(torch.atan2(forward[:, 1, 0], forward[:, 0, 0]))
    unturned = torch.linalg.solve(
        torch.stack([forward[:, :, 0], forward[:, [1, 0], 0] * torch.tensor([-1.0, 1.0])], dim=-1), forward[:, :, 1:]
    )
    shear = torch.rad2deg(torch.atan(unturned[:, 0, 0]))
    shift = (forward @ -maps[..., 2:]).squeeze(-1) / 2 * 32
    for values, low, high in ((scale, 0.9, 1.1), (rotation, -10, 10), (shear, -5, 5), (shift, -2, 2)):
        margin = (high - low) * 1e-3
        assert low - margin / 100 <= values.min() < low + margin
        assert high - margin < values.max() <= high + margin / 100
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=10 * margin)


def test_chunks_of_the_augmentation_do_not_show() -> None:
    drawings = (torch.rand(50, 21, 21, generator=torch.Generator().manual_seed(5)) * 255).byte()
    together = augment(drawings, 40, 8, torch.Generator().manual_seed(1))  # more than one chunk
    generator = torch.Generator().manual_seed(1)
    maps = torch.stack([random_maps(50, generator) for _ in range(39)], dim=1)
    one_by_one = warp(drawings.float(), maps)
    small = torch.nn.functional.interpolate(one_by_one, (8, 8), mode="bilinear", antialias=True)
    assert together.shape == (50, 40, 8, 8)
    assert (together[:, 1:].float() - small).abs().max() <= 0.51


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "expected a zip archive"),
        (lambda data: b"not a zip", "expected a zip archive"),
        (lambda data: data[: len(data) // 2], "expected a zip archive"),
        (lambda data: data[:-1], "expected a zip archive"),
        (lambda data: data.replace(b"IDAT", b"IDAX"), "cannot read"),
        (lambda data: data.replace(b"Greek/character01/0000_20", b"Greek/character01/0000_2X"), "20 drawings of Greek"),
        (lambda data: data.replace(b"character", b"charakter"), "expected drawings images_background_small1/ALPHABET"),
    ],
)
def test_a_broken_zip_is_named_with_what_was_expected(
    damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = write_zip(tmp_path, SMALL1, members_of(SMALL1, GREEK))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidInput) as caught:
        Omniglot(OmniglotOptions(classes=2)).load(32, tmp_path, download=False)
    assert str(caught.value).startswith(f"broken file {path}: ")
    assert message in str(caught.value)
    assert "pass --download" in str(caught.value)


def test_a_drawing_of_another_size_is_named(tmp_path: Path) -> None:
    members = members_of(SMALL1, GREEK)
    members[f"{SMALL1}/{GREEK[1]}/0001_07.png"] = png(Image.new("1", (64, 105)))
    write_zip(tmp_path, SMALL1, members)
    with pytest.raises(InvalidInput, match=r"105 x 105 pixels in .*character02/0001_07\.png, got 64 x 105"):
        Omniglot(OmniglotOptions(classes=2)).load(32, tmp_path, download=False)


def test_too_few_characters_are_an_error_with_both_numbers(both: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"small1\.zip and .*small2\.zip hold 6 characters: .* at least the 7 of --data"
    ):
        Omniglot(OmniglotOptions(classes=7)).load(32, both, download=False)


@pytest.mark.parametrize("source", ["auto", "large", "small", "small1", "small2"])
def test_a_missing_zip_is_named_with_the_remedies(source: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        Omniglot(OmniglotOptions(source=source)).load(32, tmp_path, download=False)
    for part in (str(tmp_path / "omniglot-py" / "images_background"), "--download", "--data-root", "MPCC_DATA"):
        assert part in str(caught.value)


def test_both_small_zips_are_needed_where_both_are_asked_for(both: Path) -> None:
    (both / "omniglot-py" / f"{SMALL2}.zip").unlink()
    with pytest.raises(InvalidInput, match=r"missing file .*small2\.zip"):
        Omniglot(OmniglotOptions(source="small", classes=2)).load(32, both, download=False)


@pytest.mark.check
def test_the_real_set_is_40000_images_of_100_classes_in_white_ink(data_root: Path) -> None:
    loaded = Omniglot(OmniglotOptions()).load(32, data_root, download=False)
    assert loaded.images.shape == (40_000, 1, 32, 32)
    assert loaded.labels is not None
    assert loaded.labels.bincount().tolist() == [400] * 100
    by_copy = loaded.images.reshape(2000, 20, 1024).float().mean(dim=(0, 2))
    assert ((by_copy > 10) & (by_copy < 35)).all()  # about 8 % of the pixels are ink
    for index in range(0, 40_000, 2_000):
        name, _, member = loaded.paths[index].partition(".zip/")
        with zipfile.ZipFile(data_root / "omniglot-py" / f"{name}.zip") as archive:
            ink = Image.eval(Image.open(archive.open(f"{name}/{member}")).convert("L"), lambda level: 255 - level)
        expected = np.array(ink.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(loaded.images[index, 0].numpy().astype(int) - expected).max() <= 1


def test_the_alphabets_that_the_real_small_sets_share_are_the_same_drawings(data_root: Path) -> None:
    shared = []
    for stem in (SMALL1, SMALL2):
        with zipfile.ZipFile(data_root / "omniglot-py" / f"{stem}.zip") as archive:
            shared.append(
                {
                    name.partition("/")[2]: archive.read(name)
                    for name in archive.namelist()
                    if name.endswith(".png") and name.split("/")[1] in ("Greek", "Latin")
                }
            )
    assert len(shared[0]) == 1000
    assert shared[0] == shared[1]
