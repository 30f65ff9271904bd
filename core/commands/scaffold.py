"""``mpcc plugins new``: write a project with a working plugin, its packaging and its tests."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import KINDS, load_registry
from mpcc.core.system.file_names import check_length
from mpcc.core.system.whole_files import taken

__all__ = ["create_project"]

TEMPLATES = Path(__file__).resolve().parent / "templates"
SUMMARIES = {
    "prior": "Mixture of Laplace products.",
    "architecture": "Fully connected networks for 8x8 images.",
    "dataset": "Noisy bars in four places.",
    "metric": "V-measure of clusters and classes.",
    "objective": "The paper's system with a gradient penalty.",
}
RUNS = {
    "prior": "mpcc-run --prior {}",
    "architecture": "mpcc-run --arch {}",
    "dataset": "mpcc-run --data {} --arch biggan8 --clusters 4",
    "metric": "mpcc-run --metrics acc,{}",
    "objective": "mpcc-run --objective {}",
}


def create_project(kind: str, name: str, parent: Path) -> Path:
    """Write a project with a plugin of a kind, either completely or not at all.

    Arguments:
        kind: ``prior``, ``architecture``, ``dataset``, ``metric`` or ``objective``.
        name: The name that users will type: letters, digits, ``-`` and ``_``, a letter first.
        parent: The existing folder in which the folder ``mpcc-NAME`` is created.

    Returns:
        The project's folder.

    Raises:
        InvalidInput: If the kind does not exist, the name is not valid or is taken, or the folder can't be created.
    """
    if kind not in KINDS:
        raise unknown_name("kind of plugin", kind, KINDS)
    check_name(kind, name)
    snake = name.lower().replace("-", "_")
    words = {
        "kind": kind,
        "name": name,
        "project": f"mpcc-{snake.replace('_', '-')}",
        "module": f"mpcc_{snake}",
        "class": "".join(part.capitalize() for part in snake.split("_")),
        "summary": SUMMARIES[kind],
        "run": RUNS[kind].format(name),
    }
    package = f"src/{words['module']}"
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{package}/__init__.py": "init.py",
        f"{package}/plugin.py": "plugin.py",
        f"{package}/options.py": f"{kind}-options.py",
        f"{package}/{kind}.py": f"{kind}.py",
        f"tests/test_{snake}.py": "test.py",
    }
    project = parent / words["project"]
    check_length(project, "project")
    try:
        if taken(project):
            raise InvalidInput(f"{project} exists already: expected a new folder; choose another name or another --out")
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{words['project']}-") as folder:
            draft = Path(folder) / "project"
            for path, template in files.items():
                text = Template((TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(words)
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_text(text, encoding="utf-8")
            shutil.move(draft, project)
    except OSError as error:
        raise InvalidInput(f"{project} cannot be made: {error.strerror or error}") from error
    return project


def check_name(kind: str, name: str) -> None:
    """Refuse a name that is taken, or that is not valid for a plugin, a module and a class.

    Raises:
        InvalidInput: With the nearest valid choice.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*", name):
        near = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lstrip("0123456789_") or f"my_{kind}"
        raise InvalidInput(
            f"name {name!r}: expected letters, digits and single '-' or '_' between them, a letter first "
            f"(nearest valid choice: {near})"
        )
    if keyword.iskeyword("".join(part.capitalize() for part in re.split("[_-]", name))):
        raise InvalidInput(f"name {name!r} is a word of Python (nearest valid choice: {name}_{kind})")
    if name in load_registry().entries[kind]:
        raise InvalidInput(f"there is a {kind} {name!r} already (nearest valid choice: {name}2)")
