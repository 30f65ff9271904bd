"""What the user said about scores that compare features of real and generated images."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["FeatureRequest"]


@attrs.frozen
class FeatureRequest:
    """What the user said about scores that compare features of real and generated images.

    Attributes:
        extractor: ``module:name`` of a feature extractor; None for the standard Inception network.
        weights: File of the standard network's weights; None for the cached one.
        samples: How many images to generate.
        download: Whether missing weights may be fetched.
    """

    extractor: str | None = None
    weights: Path | None = None
    samples: int = 10_000
    download: bool = False
