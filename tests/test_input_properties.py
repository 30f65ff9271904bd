"""Properties of everything that reads input: whatever it is given, it takes it, or says in one line what is wrong."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from PIL import Image

from mpcc.core.commands.plugins import print_plugins
from mpcc.core.commands.train import RunFlags, run_parser
from mpcc.core.config import SECTIONS, Layer, RunSettings, options, read_config, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry, load_registry
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import ArraysOptions, FolderOptions

BUILT_IN = load_registry([])
CLASSES = sorted(
    {RunSettings, *(entry.options_class() for entry in BUILT_IN.all_entries())} - {None}, key=lambda cls: str(cls)
)
# The same examples each time, and no file of those that failed.
repeatable = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Halves of characters are what Python makes of the bytes of a word that are no text.
WORDS = some.text(some.characters(blacklist_categories=["Cs"], blacklist_characters="\0") | some.just("\udcff"))
SCALARS = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.sampled_from([2**31, 2**63, 2**64, -(2**70), 10**400])
    | some.floats()
    | some.text()
    | some.sampled_from(["", "0", "nan", "inf", "1e400", "9" * 5000, "a\0b", "all", "none", "\x1b[31m", "~nobody/x"])
)
VALUES = some.recursive(SCALARS, lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner), max_leaves=5)
WRITABLE = some.recursive(
    some.booleans() | some.integers(-(2**80), 2**80) | some.floats() | some.text(some.characters(codec="utf-8")),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Lend a new folder; what a registry file adds to the search path goes with it."""
    before = list(sys.path)
    with tempfile.TemporaryDirectory() as name:
        try:
            yield Path(name)
        finally:
            sys.path[:] = before


def accepted_or_refused(action: Callable[[], Any]) -> Any:
    """Do something that may succeed, or say what is wrong, and nothing else."""
    try:
        return action()
    except InvalidInput as error:
        if not str(error).strip():
            pytest.fail("an error that says nothing")
        return None


@repeatable
@given(some.sampled_from(CLASSES), some.data())
def test_any_value_is_taken_by_an_option_or_refused(cls: type, data: some.DataObject) -> None:
    name = data.draw(some.sampled_from(sorted(options.fields(cls)) or ["-"]))
    value = data.draw(VALUES)
    if name != "-":
        field = options.fields(cls)[name]
        found = accepted_or_refused(lambda: options.convert(value, field, f"--{name}"))
        # What is taken once is taken again: a configuration that was written is read.
        assert found is None or options.convert(found, field, name) == found


TABLES = some.dictionaries(
    some.sampled_from(["run", "prior", "arch", "data", "preset", "plugins", "registries", "x"]),
    WRITABLE
    | some.dictionaries(
        some.sampled_from(["name", "clusters", "lr", "batch", "device", "width", "scale_floor", "path", "eval_images"]),
        WRITABLE,
        max_size=3,
    ),
    max_size=4,
)


def configured(path: Path) -> None:
    layer = read_config(path)
    resolve(load_registry([], plugins=layer.plugins, registries=layer.registries), [layer])


@repeatable
@given(TABLES)
def test_any_table_is_a_configuration_or_refused(tables: dict[str, Any]) -> None:
    with folder() as place:
        (place / "run.toml").write_bytes(tomli_w.dumps(tables).encode())
        accepted_or_refused(lambda: configured(place / "run.toml"))


@repeatable
@given(some.binary() | some.text(alphabet="[]{}=\"'.,#\n-+e_0123456789abTZ:\\\x00\x1b\u2028").map(str.encode))
def test_any_bytes_are_a_configuration_and_a_registry_or_refused(content: bytes) -> None:
    with folder() as place:
        (place / "x.toml").write_bytes(content)
        accepted_or_refused(lambda: configured(place / "x.toml"))
        accepted_or_refused(lambda: load_registry([], registries=[place / "x.toml"]))


ENTRIES = some.dictionaries(
    some.sampled_from(["target", "summary", "options", "defaults", "api_version", "x"]),
    WRITABLE | some.sampled_from(["os:path", "a.b:c", ".:x", "[/]", "\x1b[31m", "mpcc.core.errors:InvalidInput"]),
)


@repeatable
@given(
    some.dictionaries(
        some.sampled_from(["priors", "architectures", "datasets", "metrics", "presets", "x"]),
        WRITABLE | some.dictionaries(some.text(max_size=4) | some.just("mine"), ENTRIES | WRITABLE, max_size=2),
        max_size=2,
    )
)
def test_any_table_is_a_registry_that_can_be_listed_or_refused(tables: dict[str, Any]) -> None:
    with folder() as place, contextlib.redirect_stdout(io.StringIO()):
        (place / "mine.toml").write_bytes(tomli_w.dumps(tables).encode())
        found = accepted_or_refused(lambda: load_registry([], registries=[place / "mine.toml"]))
        if isinstance(found, Registry):
            print_plugins(found)


def configured_by(words: list[str]) -> None:
    typed = run_parser().read(words, SECTIONS)
    typed.make(RunFlags)
    resolve(BUILT_IN, [Layer("flag", typed.tables)])


FLAGS = some.sampled_from(sorted(run_parser(BUILT_IN, resolve(BUILT_IN, [])).kinds))


@repeatable
@given(some.lists(FLAGS | WORDS | some.builds("{}={}".format, FLAGS, WORDS), max_size=6))
def test_any_words_are_flags_or_refused(words: list[str]) -> None:
    accepted_or_refused(lambda: configured_by(words))


def load_arrays(images: Path, labels: Path | None = None) -> Any:
    return Arrays(ArraysOptions(path=images, labels=labels)).load(8, None, download=False)


@repeatable
@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=12)))
def test_any_array_is_images_or_refused(array: np.ndarray) -> None:
    with folder() as place:
        np.save(place / "x.npy", array)
        found = accepted_or_refused(lambda: load_arrays(place / "x.npy"))
        assert found is None or found.images.shape == (len(array), found.images.shape[1], 8, 8)


@repeatable
@given(
    arrays.arrays(
        arrays.integer_dtypes() | arrays.unsigned_integer_dtypes() | arrays.floating_dtypes(sizes=(32, 64)),
        arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5),
    )
)
def test_any_labels_are_classes_from_0_on_or_refused(labels: np.ndarray) -> None:
    with folder() as place:
        np.save(place / "x.npy", np.zeros((3, 8, 8), dtype=np.uint8))
        np.save(place / "y.npy", labels)
        found = accepted_or_refused(lambda: load_arrays(place / "x.npy", place / "y.npy"))
        if found is not None:
            known = [None if value == -1 or np.isnan(value) else int(value) for value in labels.ravel()]
            classes = sorted({value for value in labels.ravel() if value == value})
            if classes == [-1, 1]:
                known = [int(value) for value in labels.ravel()]
            if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == 3:
                known = labels.argmax(axis=1).tolist()
            if found.labels is None:
                assert len(set(known) - {None}) < 2
                return
            assert found.labels.dtype == torch.int64
            assert set(found.labels.tolist()) - {-1} == set(range(len(found.class_names)))
            names = [None if label < 0 else int(found.class_names[label]) for label in found.labels.tolist()]
            assert names == known


@repeatable
@given(some.data(), some.sampled_from(["png", "jpg", "gif", "tif", "bmp", "webp"]))
def test_an_image_with_any_damage_is_read_or_refused(data: some.DataObject, extension: str) -> None:
    made = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(levels).save(made, {"jpg": "jpeg", "tif": "tiff"}.get(extension, extension))
    content = bytearray(made.getvalue())
    for _ in range(data.draw(some.integers(1, 4))):
        at = data.draw(some.integers(0, len(content) - 1))
        content[at : at + data.draw(some.integers(0, 8))] = data.draw(some.binary(max_size=8))
    with folder() as place:
        (place / f"x.{extension}").write_bytes(content)
        accepted_or_refused(lambda: Folder(FolderOptions(path=place)).load(8, None, download=False))
