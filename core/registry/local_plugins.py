"""One-file plugins: a Python file with hook functions, loaded with ``--plugin my_prior.py``."""

from __future__ import annotations

import importlib.util
import keyword
import sys
from pathlib import Path
from types import ModuleType

from mpcc.core.errors import InvalidInput
from mpcc.core.registry.registry_file import digest

__all__ = ["import_file", "read_source"]


def read_source(path: Path) -> str:
    """Check that a file can be a plugin and return the hash of its content, which serves as its version.

    Raises:
        InvalidInput: If the file can't be read, or its name can't be the name of a module.
    """
    where = f"--plugin {path}"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput(f"{where}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{where}: cannot be read: {error.strerror}") from error
    if path.suffix != ".py":
        raise InvalidInput(f"{where}: expected a Python file, *.py")
    name = path.stem
    if not name.isidentifier() or keyword.iskeyword(name):
        valid = "".join(letter if letter.isalnum() else "_" for letter in name) + ".py"
        raise InvalidInput(f"{where}: {name!r} cannot be the name of a module (nearest valid choice: {valid})")
    loaded = sys.modules.get(name)
    if loaded is None:
        spec = importlib.util.find_spec(name)
        place = None if spec is None else spec.origin or "a package"
    else:
        place = getattr(loaded, "__file__", None) or "a built-in module"
    if place is not None and Path(place).absolute() != path.absolute():
        raise InvalidInput(f"{where}: a module {name!r} exists already ({place}); give the file another name")
    return digest(content)


def import_file(path: Path) -> ModuleType:
    """Import a plugin file under its own name, so that import paths such as ``my_prior:MyPrior`` find it.

    The file is read anew each time. If it raises, the module is forgotten.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
