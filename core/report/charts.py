"""Curves and scatters as numbers that a template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

__all__ = ["Cloud", "Curve", "Panel", "Scatter", "hue", "panel", "scatter"]

# A panel in units of its SVG, and the room for the numbers at its left and below.
WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 320, 170, 52, 24, 12, 12
# A scatter is a square; points keep a distance from its edge. More points than these make a page long to draw.
SIDE, EDGE, POINTS = 640, 24, 3000
# From so many clusters on, numbers on the points would cover them.
LABELLED = 40


@attrs.frozen
class Curve:
    """A line of a panel.

    Attributes:
        hue: Its colour, in degrees.
        points: Places in the panel: x and y.
    """

    hue: int
    points: tuple[tuple[float, float], ...]

    @property
    def line(self) -> str:
        """The points as SVG takes them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


@attrs.frozen
class Panel:
    """Curves of one quantity over the iterations.

    Attributes:
        title: The quantity.
        curves: At least one, each with at least one point.
        ticks: Texts at the left, each with its y.
        ends: The first and the last iteration, as text.
        level: The y of a dashed line for comparison, or None.
        level_text: What that line is.
        width: Of the panel; the others are the edges of the area of the curves.
    """

    title: str
    curves: tuple[Curve, ...]
    ticks: tuple[tuple[str, float], ...]
    ends: tuple[str, str]
    level: float | None
    level_text: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BELOW
    top: int = ABOVE


def hue(number: int) -> int:
    """Return the colour of a cluster or a run, in degrees; neighbours differ much.

    Example:
        >>> [hue(number) for number in range(4)]
        [0, 138, 275, 53]
    """
    return round(number * 137.508) % 360


def panel(
    title: str, curves: Sequence[tuple[int, Sequence[tuple[int, float]]]], level: float | None = None, text: str = ""
) -> Panel:
    """Place curves in a panel.

    Arguments:
        title: The quantity.
        curves: A number that gives the colour, and the points of each, iteration and value; at least one point in each.
        level: A value for comparison, or None.
        text: What it is.

    Example:
        >>> drawn = panel("acc", [(0, [(500, 0.5), (1000, 0.9)])], level=0.7, text="k-means")
        >>> drawn.curves[0].line, drawn.ticks
        ('52,146 308,12', (('0.5', 146.0), ('0.9', 12.0)))
    """
    every = [point for _, points in curves for point in points]
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    values = [y for _, y in every] + ([] if level is None else [level])
    low, high = min(values), max(values)
    bottom, right = HEIGHT - BELOW, WIDTH - RIGHT

    def x_of(iteration: int) -> float:
        return round(LEFT + (right - LEFT) * (iteration - first) / (last - first), 1) if last > first else right

    def y_of(value: float) -> float:
        return round(bottom - (bottom - ABOVE) * (value - low) / (high - low), 1) if high > low else bottom / 2

    ticks = {f"{value:.3g}": y_of(value) for value in (low, high)}
    placed = tuple(Curve(hue(number), tuple((x_of(x), y_of(y)) for x, y in points)) for number, points in curves)
    ends = f"{first:,}" if last > first else "", f"{last:,}"
    return Panel(title, placed, tuple(ticks.items()), ends, None if level is None else y_of(level), text)


@attrs.frozen
class Cloud:
    """The points of one cluster in a scatter.

    Attributes:
        cluster: Its number.
        hue: Its colour, in degrees.
        path: The points as an SVG path of lines without length.
        x: The middle of the points, from the left.
        y: The middle of the points, from above.
    """

    cluster: int
    hue: int
    path: str
    x: float
    y: float


@attrs.frozen
class Scatter:
    """Latents in two dimensions.

    Attributes:
        clouds: One for each cluster with points.
        shown: How many points.
        of: How many images were evaluated.
        kept: The share of the variance of z that the two dimensions have, as text.
        labelled: Whether the numbers of clusters fit between the points.
        side: Width and height.
    """

    clouds: tuple[Cloud, ...]
    shown: int
    of: int
    kept: str
    labelled: bool
    side: int = SIDE


def in_the_plane(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], float] | None:
    """Project latents to the two directions in which they vary most.

    Arguments:
        z: Shape (N, J).

    Returns:
        Coordinates, shape (N, 2), and the share of the variance that they keep; None if the latents do not vary or are
        not finite.
    """
    # The import takes a moment.
    from sklearn.decomposition import PCA

    if len(z) < 2 or not np.isfinite(z).all() or np.ptp(z, axis=0).max() <= 1e-12 * max(1.0, np.abs(z).max()):
        return None
    model = PCA(min(2, *z.shape), svd_solver="covariance_eigh")
    places = model.fit_transform(z)
    if places.shape[1] == 1:
        places = np.hstack([places, np.zeros_like(places)])
    return places, float(model.explained_variance_ratio_.sum())


def scatter(latents: NDArray[np.float32], clusters: NDArray[np.int64], seed: int) -> Scatter | None:
    """Project latents to the two directions in which they vary most; None if they do not vary.

    Arguments:
        latents: Shape (N, J).
        clusters: Shape (N,).
        seed: Chooses the points if there are too many. No global random state is used.
    """
    count = len(latents)
    chosen = np.arange(count)
    if count > POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(count, POINTS, replace=False))
    z, own = np.asarray(latents[chosen], dtype=np.float64), clusters[chosen]
    placed = in_the_plane(z)
    if placed is None:
        return None
    places, explained = placed
    low, spread = places.min(axis=0), max(np.ptp(places, axis=0).max(), math.ulp(0))
    # Both axes have the same scale, and the middle is in the middle.
    room = (1 - np.ptp(places, axis=0) / spread) / 2
    unit = (places - low) / spread + room
    drawn = np.rint(EDGE + (SIDE - 2 * EDGE) * np.stack([unit[:, 0], 1 - unit[:, 1]], axis=1)).astype(int)
    clouds = []
    for cluster in np.unique(own).tolist():
        points = drawn[own == cluster]
        path = "".join(f"M{x} {y}h0" for x, y in np.unique(points, axis=0).tolist())
        x, y = np.median(points, axis=0).tolist()
        clouds.append(Cloud(cluster, hue(cluster), path, x, y))
    kept = f"{100 * explained:.0f} %"
    return Scatter(tuple(clouds), len(z), count, kept, len(clouds) <= LABELLED)
