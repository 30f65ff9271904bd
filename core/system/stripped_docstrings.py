"""Python without docstrings (``python -OO``, ``PYTHONOPTIMIZE=2``): what has to be done for libraries to load there."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

__all__ = ["prepare_pyro"]

SETTINGS = "pyro.settings"


class WithDocstrings(importlib.machinery.SourceFileLoader):
    """Loads a module with its docstrings, whatever Python's level of optimisation."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source; files of compiled code may lack docstrings."""
        path = self.get_filename(fullname)
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=1)
        return code


class PyroSettings(importlib.machinery.PathFinder):
    """Finds one module of Pyro, which formats its own docstring."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how to load ``pyro.settings``, and None for every other module."""
        found = super().find_spec(fullname, path, target) if fullname == SETTINGS else None
        if found is None or found.origin is None:
            return None
        loader = WithDocstrings(fullname, found.origin)
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


def prepare_pyro() -> None:
    """Let Pyro be imported where docstrings are stripped; elsewhere nothing happens.

    While it is imported, Pyro 1.9 formats the docstring of ``pyro.settings`` and joins those of torch's distributions,
    and fails if one is None.
    """
    if sys.flags.optimize < 2 or PyroSettings in sys.meta_path:
        return
    sys.meta_path.insert(0, PyroSettings)
    from torch import distributions

    for value in vars(distributions).values():
        if isinstance(value, type) and value.__doc__ is None:
            value.__doc__ = ""
