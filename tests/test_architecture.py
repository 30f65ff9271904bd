"""The laws of the house, read from the source."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "core").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))

BANNED = {"utils", "misc", "helpers", "common", "base"}
FULL = 15  # files in a folder
# The rooms of core/, and the files outside of any room, from the ground up: a room imports from lower floors only.
FLOORS = (
    ("choice_fields", "contracts", "errors", "hookspecs", "label_draws", "mixture_options"),
    ("system",),
    ("layers", "mixture"),
    ("registry", "images"),
    ("method", "config"),
    ("engines", "evaluation"),
    ("testing", "storage", "reporting", "refinement"),
    ("report",),
    ("run",),
    ("studies",),
    ("api",),
    ("bench", "export"),
    ("commands",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

every_core_file = pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
every_file = pytest.mark.parametrize("path", CORE + PLUGINS, ids=lambda path: path.relative_to(ROOT).as_posix())


# Laws are functions on source text, so that a test can show that they see what they forbid.


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the absolute name of everything that a module of ``package`` imports, at any depth of the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"} and node.args:
            yield from strings(node.args[0])


def called(node: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def strings(node: ast.AST) -> set[str]:
    """Return all string constants inside a node."""
    return {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}


def compared(tree: ast.AST) -> set[str]:
    """Return the string constants that decide something: in ==, in, match, startswith, endswith."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found |= set().union(*(direct_strings(side) for side in (node.left, *node.comparators)))
        elif isinstance(node, ast.MatchValue):
            found |= strings(node.value)
        elif isinstance(node, ast.Call) and called(node) in {"startswith", "endswith"}:
            found |= set().union(*(direct_strings(argument) for argument in node.args))
    return found


def direct_strings(node: ast.AST) -> set[str]:
    """Return a string constant, or those in a tuple, list or set of them; not the arguments of a call."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return set().union(*(direct_strings(element) for element in node.elts))
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def registered_names(registry: dict[str, Any]) -> set[str]:
    """Return the names of all plugins in registry.toml: the keys of tables like [priors.gmm] with a target."""
    kinds = [table for table in registry.values() if isinstance(table, dict)]
    return {name for kind in kinds for name, entry in kind.items() if isinstance(entry, dict) and "target" in entry}


def test_the_laws_see_what_they_forbid() -> None:
    for line in (
        "import mpcc.plugins.priors",
        "from mpcc.plugins import priors",
        "from mpcc import plugins",
        "from .. import plugins",
        "from ..plugins.priors import gmm",
        "def f():\n    import importlib\n    importlib.import_module('mpcc.plugins.priors.gmm')",
    ):
        assert any(f"{name}.".startswith("mpcc.plugins.") for name in imported(ast.parse(line), "mpcc.core")), line
    for line in (
        "if name == 'gmm': pass",
        "if 'gmm' != name: pass",
        "if name in ('gmm', 'vmf'): pass",
        "match name:\n    case 'gmm': pass",
        "name.startswith('gmm')",
    ):
        assert "gmm" in compared(ast.parse(line)), line
    assert "gmm" not in compared(ast.parse("default = 'gmm'; table['gmm'] = find('gmm') is None"))


@every_core_file
def test_the_core_never_imports_a_plugin(path: Path) -> None:
    package = ".".join(("mpcc", *path.parent.relative_to(ROOT).parts))
    names = imported(ast.parse(path.read_text()), package)
    assert [name for name in names if f"{name}.".startswith("mpcc.plugins.")] == []


@pytest.fixture(scope="module")
def plugin_names() -> set[str]:
    """The names of all built-in plugins."""
    names = registered_names(tomllib.loads((ROOT / "registry.toml").read_text()))
    assert {"gmm", "biggan32", "digits", "acc", "purity", "nmi", "ari"} <= names
    return names


@every_core_file
def test_the_core_never_compares_a_plugins_name_with_a_string(path: Path, plugin_names: set[str]) -> None:
    assert compared(ast.parse(path.read_text())) & plugin_names == set()


@every_file
def test_a_module_is_named_after_one_idea(path: Path) -> None:
    assert path.stem not in BANNED
    assert path.parent.name not in BANNED


@pytest.mark.parametrize("folder", sorted({path.parent for path in CORE + PLUGINS}), ids=lambda path: path.name)
def test_a_folder_holds_few_files(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= FULL + (folder / "__init__.py").exists()


@every_core_file
def test_a_room_imports_only_rooms_on_lower_floors(path: Path) -> None:
    if path.parent.name == "core" and path.stem == "__init__":
        return
    room = room_of(module_of(path))
    others = {room_of(target) for target in core_imports(path)} - {room}
    # The ground floor is one room: what the authors of plugins import.
    others -= {other for other in others if FLOOR[other] == FLOOR[room] == 0}
    assert [other for other in others if FLOOR[other] >= FLOOR[room]] == []


def test_no_files_of_the_core_import_each_other_in_a_circle() -> None:
    order = graphlib.TopologicalSorter({module_of(path): set(core_imports(path)) for path in CORE})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def module_of(path: Path) -> str:
    """Return the name of the module in a file of core/."""
    return ".".join(("mpcc", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the room that a module of core/ is in, or the module's own name on the ground floor."""
    return module.split(".")[2]


def core_imports(path: Path) -> Iterator[str]:
    """Yield the modules of core/ that a file imports, at any depth of the code."""
    known = {module_of(each) for each in CORE}
    for name in imported(ast.parse(path.read_text()), module_of(path)):
        while name.startswith("mpcc.core.") and name not in known:
            name = name.rpartition(".")[0]
        if name.startswith("mpcc.core."):
            yield name


# `mpcc bench` has a room of its own, which prints its tables.
PRINTING = {"commands", "bench"}
# Each sets signals for the length of a command or of a block, or in a process of its own.
SIGNALS = {"commands/start.py", "system/signals.py", "images/read_ahead.py"}
# Torch tells by a warning that the host waits for a device. The module listens to warnings for one iteration.
LISTENING = "system/device_waits.py"
HOOKS = {"excepthook", "unraisablehook", "displayhook", "showwarning"}


@every_core_file
def test_the_library_logs_and_replaces_no_hook_of_the_process(path: Path) -> None:
    tree = ast.parse(path.read_text())
    calls = {called(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    name = path.relative_to(ROOT / "core").as_posix()
    assert name.partition("/")[0] in PRINTING or "print" not in calls
    if name != LISTENING:
        assert not {target.attr for target in targets if isinstance(target, ast.Attribute)} & HOOKS
        assert not calls & {"filterwarnings", "simplefilter"}
    assert "signal" not in calls or name in SIGNALS


def test_listing_plugins_and_parsing_their_options_never_imports_torch() -> None:
    modules = ["mpcc.core", "mpcc.core.errors", "mpcc.core.hookspecs"]
    modules += [
        ".".join(("mpcc", *path.relative_to(ROOT).with_suffix("").parts))
        for path in PLUGINS
        if path.stem in {"options", "hooks"}
    ]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'importing {name} imports torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The rule of conftest.py: with MPCC_DATA, no test of data sets may skip.

DATA_TESTS = """
import pytest

def test_that_reads_data(data_root):
    if not (data_root / "MNIST").exists():
        pytest.skip("no MNIST")

def test_that_reads_none():
    pytest.skip("always")
"""


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (None, "2 skipped"),
        ("complete", "1 passed, 1 skipped"),
        ("empty", "1 failed, 1 skipped"),
        ("absent", "1 skipped, 1 error"),
    ],
)
def test_no_data_set_test_skips_when_the_data_folder_is_given(
    data: str | None, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_data.py").write_text(DATA_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "complete" / "MNIST").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("MPCC_DATA", raising=False)
    if data:
        monkeypatch.setenv("MPCC_DATA", str(tmp_path / data))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_data.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert outcome in done.stdout, done.stdout + done.stderr
