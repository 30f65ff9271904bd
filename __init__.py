"""mpcc: cluster unlabelled images, look at each cluster, generate more of it.

Importing the package imports nothing else; a name below is loaded when it is first used (PEP 562).

Attributes:
    __version__: The version of the installed distribution.
    load: Loads a trained run (`mpcc.core.api.loaded_run.load`).
    MPCC: The clustering as an estimator in the way of scikit-learn (`mpcc.core.api.estimator.MPCC`).
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take the name for true; the module typing is not imported for it
if TYPE_CHECKING:
    from mpcc.core.api.estimator import MPCC
    from mpcc.core.api.loaded_run import load

__all__ = ["MPCC", "__version__", "load"]

__version__: str

_MODULES = {"MPCC": "mpcc.core.api.estimator", "load": "mpcc.core.api.loaded_run"}


def __getattr__(name: str) -> object:
    """Load a name of the package when it is first used."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("mpcc")
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names that can be loaded beside those that are there."""
    return sorted({*globals(), *__all__})
