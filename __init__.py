"""mpcc: cluster unlabelled images, look at each cluster, generate more of it.

Importing the package imports nothing else; a name below is loaded when it is first used (PEP 562).

Attributes:
    __version__: The version of the installed distribution.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    """Load a name of the package when it is first used."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("mpcc")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names that can be loaded beside those that are there."""
    return sorted({*globals(), *__all__})
