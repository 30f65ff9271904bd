"""Laws of a registration: what it names can be imported, and what importing its options costs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from mpcc.core.config import options
from mpcc.core.config.settings import RunSettings
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Entry
from mpcc.core.testing.report import Laws, broken, require

__all__ = ["REGISTRATION_LAWS", "default_options"]

REGISTRATION_LAWS = Laws[Entry]()
PROBE = "import importlib, sys; importlib.import_module(sys.argv[1]); print('torch' in sys.modules)"
PROBE_SECONDS = 60


def default_options(entry: Entry) -> Any:
    """Return the options of an entry with the registered defaults, or None if it has none.

    Raises:
        InvalidInput: If the registration does not fit the options class.
    """
    cls = entry.options_class()
    if cls is None:
        if entry.defaults:
            raise InvalidInput(f"{entry.described()}: defaults for {', '.join(entry.defaults)}, but no options class")
        return None
    return options.make(cls, entry.defaults, entry.described())


@REGISTRATION_LAWS.add("its class can be loaded, and its options have types, defaults and help", essential=True)
def loads(entry: Entry) -> str:
    try:
        cls = entry.load()
        default_options(entry)
    except InvalidInput as error:
        broken(str(error))
    settings = options.fields(RunSettings)
    for name in (*entry.unused, *entry.requires.get("run", {}), *entry.suggests.get("run", {})):
        require(name in settings, f"{name!r}, which it requires, suggests or lists as unused, is no setting of a run")
    described = f"{cls.__module__}:{cls.__qualname__} of {entry.distribution} {entry.version}"
    fields, owner = options.fields(entry.options_class()), str(entry.options).rpartition(":")[2]
    for name, field in fields.items():
        require(bool(field.metadata.get("help")), f"option {name} of {owner} has no help in its metadata")
    return f"{described}; {'options ' + ', '.join(fields) if fields else 'no options'}"


@REGISTRATION_LAWS.add("what importing its options costs")
def quick_options(entry: Entry) -> str:
    # A plugin whose options load torch still works, so this law reports the cost and never fails.
    if entry.options is None:
        return "nothing: it has no options"
    module = entry.options.partition(":")[0]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    probe = [sys.executable, "-c", PROBE, module]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, env=environment, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not known: {error}"
    if done.returncode:
        return f"not known: {module} cannot be imported by its name in a fresh interpreter"
    if done.stdout.strip() == "True":
        remedy = "keep the options in a module that does not import it"
        return f"importing {module} loads torch: --help and listings wait for it; {remedy}"
    return "no torch"
