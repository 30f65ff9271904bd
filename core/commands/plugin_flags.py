"""The flags of the sub-commands of ``mpcc`` that load plugins from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["PluginFiles", "RegistryFiles"]

# Without `json_list`, a name that begins with a bracket would be taken for JSON.
PluginFiles = Annotated[
    list[Path] | None,
    Parameter(name="--plugin", negative="", json_list=False, help="load a one-file plugin; may be repeated"),
]
RegistryFiles = Annotated[
    list[Path] | None,
    Parameter(name="--registry", negative="", json_list=False, help="load a registry file; may be repeated"),
]
