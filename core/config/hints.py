"""What the images say where nobody else has: how many clusters to look for, and how large the networks should be.

A hint replaces a default only. A value of the user, of a preset or of an objective is left as it is.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mpcc.core.config.config import PluginChoice, RunConfig
from mpcc.core.config.devices import kind_of_device
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.registry import Registry

if TYPE_CHECKING:
    from mpcc.core.contracts import Dataset, ImageSet

__all__ = ["about_size", "hinted", "hinted_by_classes"]

logger = logging.getLogger(__name__)

# An iteration at 32 pixels takes ten times as long as one at 16, so on a CPU nothing larger is chosen for the user.
LARGEST_ON_CPU = 16
# How many images are looked at to learn the size of all of them.
LOOKED_AT = 5


def hinted(registry: Registry, config: RunConfig) -> RunConfig:
    """Return a configuration with what the data set suggests before any file is read, where only defaults hold.

    Arguments:
        registry: Knows the architectures.
        config: Names, options and their origins.

    Raises:
        PluginError: If a hint is no number.
    """
    dataset: Dataset = config.data.make()
    described, source = config.data.entry.described(), f"data set {config.data.name}"
    clusters, side = (whole(described, name, getattr(dataset, name)) for name in ("clusters", "image_side"))
    said, origins = [], dict(config.origins)
    if clusters is not None and origins.get("run.clusters") == "default":
        said.append(f"--clusters {clusters}")
        origins["run.clusters"] = source
        config = attrs.evolve(config, run=attrs.evolve(config.run, clusters=clusters))
    if side is not None and origins.get("arch.name") == "default":
        sizes = sizes_like(registry, config.arch)
        if kind_of_device(config.run.device) == "cpu":
            sizes = {name: size for name, size in sizes.items() if size <= LARGEST_ON_CPU} or sizes
        name = nearest(sizes, side)
        if name not in (None, config.arch.name):
            said.append(f"--arch {name}, for images of {side} pixels a side")
            origins["arch.name"] = source
            config = attrs.evolve(
                config, arch=PluginChoice(name, config.arch.options, registry.entry("architecture", name))
            )
    if said:
        logger.info("%s suggests, and nothing else was chosen: %s", source, "; ".join(said))
    return attrs.evolve(config, origins=origins)


def hinted_by_classes(config: RunConfig, data: ImageSet) -> RunConfig:
    """Return a configuration with as many clusters as the images have classes, where only the default holds.

    Arguments:
        config: Names, options and their origins.
        data: The images.
    """
    classes = len(data.class_names)
    if data.labels is None or classes < 2 or config.origins.get("run.clusters") != "default":
        return config
    logger.info(
        "--clusters %d: the number of classes of the data set, as nothing else was chosen; training sees no label",
        classes,
    )
    origins = {**config.origins, "run.clusters": f"classes of {config.data.name}"}
    return attrs.evolve(config, run=attrs.evolve(config.run, clusters=classes), origins=origins)


def about_size(registry: Registry, config: RunConfig, data: ImageSet) -> str:
    """Return a line if images are made smaller by networks that the user did not choose, with the remedy; else nothing.

    Arguments:
        registry: Knows the architectures.
        config: Names, options and their origins.
        data: The images.
    """
    origin = config.origins.get("arch.name", "")
    if not (origin == "default" or origin.startswith(("preset ", "data set "))):
        return ""
    size, side = data.images.shape[-1], side_of(data) or config.data.make().image_side
    told = f"the size of --arch {config.arch.name} ({origin})"
    larger = {name: pixels for name, pixels in sizes_like(registry, config.arch).items() if pixels > size}
    if side is None:
        others = ", ".join(f"--arch {name} for {pixels}" for name, pixels in larger.items())
        unknown = f"images are read at {size}x{size} pixels, {told}"
        return f"{unknown}; to see more of larger ones: {others}" if origin == "default" and others else ""
    if side <= size:
        return ""
    # On a CPU each size up costs several times as much, so the next one is named.
    on_cpu = kind_of_device(config.run.device) == "cpu"
    name = next(iter(larger), None) if on_cpu else nearest(larger, side)
    remedy = f"--arch {name} makes them {larger[name]}x{larger[name]}, and an iteration takes longer" if name else ""
    return "; ".join(filter(None, [f"images of {side} pixels a side are made {size}x{size}, {told}", remedy]))


def whole(described: str, name: str, value: Any) -> int | None:
    """Return a hint.

    Raises:
        PluginError: If it is not a number of pixels or clusters.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise PluginError(f"{described}: {name}: expected a whole number of at least 1 or None, got {value!r}")
    return value


def sizes_like(registry: Registry, arch: PluginChoice) -> dict[str, int]:
    """Return the image sizes of the architectures that take the same options, by name, the smallest first."""
    sizes = {}
    for name in registry.names("architecture"):
        claims = registry.entries["architecture"][name]
        if len(claims) == 1 and claims[0].options == arch.entry.options:
            with contextlib.suppress(PluginError):  # one that cannot be loaded is no choice
                size = getattr(claims[0].load(), "image_size", None)
                sizes.update({name: size} if isinstance(size, int) else {})
    return dict(sorted(sizes.items(), key=lambda each: each[1]))


def nearest(sizes: Mapping[str, int], side: int) -> str | None:
    """Return the smallest size that does not shrink images of a side, or else the largest; None of none.

    Example:
        >>> sizes = {"small": 8, "medium": 16, "large": 32}
        >>> nearest(sizes, 12), nearest(sizes, 200), nearest({}, 8)
        ('medium', 'large', None)
    """
    return next((name for name, size in sizes.items() if size >= side), None) or next(reversed([*sizes]), None)


def side_of(data: ImageSet) -> int | None:
    """Return the median of the shorter sides of a few images before they were made squares; None if it is not known."""
    if data.originals is None:
        return None
    count = len(data)
    sides = []
    for index in sorted({round(place * (count - 1) / LOOKED_AT) for place in range(LOOKED_AT + 1)}):
        try:
            original = data.originals.original(index)
        except InvalidInput:  # which images cannot be read is told where they are read
            continue
        sides.append(min(original.shape[-2:]) if hasattr(original, "shape") else side_of_file(original))
    known = sorted(side for side in sides if side is not None)
    return known[len(known) // 2] if known else None


def side_of_file(file: Path | bytes) -> int | None:
    """Return the shorter side of an image file, or of its content, from its header; None if Pillow cannot tell."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return min(image.size)
    except Exception:  # Pillow raises many kinds; this is a remark about images that have been read already
        return None
