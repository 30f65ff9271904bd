"""The pages under docs: their code runs, their commands run for one step, their lists are complete."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mpcc.core import hookspecs
from mpcc.core.commands.entry import main, run_main
from mpcc.core.registry import load_registry
from mpcc.core.registry.presets import check_preset

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)
TINY = ["--iterations", "1", "--eval-images", "40", "--threads", "1", "--standing-passes", "1"]


@attrs.frozen
class Block:
    """A block of code on a page: its language, the file that it is saved as, its text."""

    language: str
    file: str | None
    text: str


def blocks(page: str) -> list[Block]:
    """Return all blocks of a page in order."""
    return [Block(*match.groups()) for match in FENCE.finditer((DOCS / page).read_text(encoding="utf-8"))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_iterations: None) -> Iterator[Path]:
    """An empty folder; modules and search paths that are added here go away again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    # Those of this folder alone: extension modules cannot be imported twice.
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            sys.modules.pop(name)


def run(line: str) -> None:
    """Run one documented command in this process, training for one step."""
    command, *arguments = shlex.split(line, comments=True)
    chooses = arguments[0] == "choose-k"
    if command == "mpcc-run" or (arguments[0] in ("choose-k", "sweep") and "--resume" not in arguments):
        resumed = "--resume" in arguments
        for name, value in zip(TINY[::2], TINY[1::2], strict=True):
            if resumed and name in ("--threads", "--standing-passes", "--eval-images"):
                continue
            if name == "--iterations" and "--minutes" in arguments:
                continue
            wanted = "2" if resumed and name == "--iterations" else value
            if chooses and name == "--eval-images":
                wanted = "60"  # clusterings of fewer than 50 images are not compared
            if name in arguments:
                arguments[arguments.index(name) + 1] = wanted
            else:
                arguments += [name, wanted]
    if arguments[0] == "refine":
        arguments += ["--steps", "1"]
    with pytest.raises(SystemExit) as caught:
        {"mpcc-run": run_main, "mpcc": main}[command](arguments)
    assert caught.value.code == 0, line


def work_through(page: str, workplace: Path) -> set[str]:
    """Write the files of a tutorial and run its other blocks, in order; return the languages of all blocks."""
    seen = set()
    for block in blocks(page):
        seen.add(block.language)
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            subprocess.run([sys.executable, "-c", block.text], check=True, cwd=workplace)
        else:
            assert block.language == "sh", block
            for line in block.text.splitlines():
                run(line)
    return seen


@pytest.mark.parametrize(
    ("kind", "project"),
    [("metric", "score"), ("data-set", "birds"), ("architecture", "networks"), ("objective", "system")],
)
def test_every_block_on_writing_a_plugin_runs_in_order(kind: str, project: str, workplace: Path) -> None:
    article = "an" if kind[0] in "ao" else "a"
    assert work_through(f"writing-{article}-{kind}.md", workplace) == {"python", "sh"}
    assert (workplace / f"mpcc-my-{project}" / "pyproject.toml").is_file()


def test_every_block_on_writing_a_prior_runs_in_order(workplace: Path) -> None:
    assert work_through("writing-a-prior.md", workplace) == {"python", "sh", "toml"}
    assert (workplace / "mpcc-heavy" / "pyproject.toml").is_file()


def test_every_block_on_writing_an_unusual_prior_runs_in_order(workplace: Path) -> None:
    assert work_through("writing-an-unusual-prior.md", workplace) == {"python", "sh"}
    assert 'entropy = "lower-bound"' in (workplace / "runs/humps/config.toml").read_text()
    assert '"kind": "numerical"' in (workplace / "runs/gaps/results.json").read_text()
    assert '"kind": "monte-carlo"' in (workplace / "runs/estimated/results.json").read_text()


OTHER_PAGES = [
    *("architectures.md", "compatibility.md", "real-images.md", "reliability.md", "scores.md", "time-budgets.md"),
    *("choosing-k.md", "objectives.md", "refining.md", "scaling.md", "seeds.md", "sweeps.md", "tutorial.md"),
    *(pytest.param(page, marks=pytest.mark.check) for page in ("data.md", "how-to.md", "performance.md")),
]


@pytest.mark.parametrize("page", OTHER_PAGES)
def test_every_command_on_the_other_pages_runs_for_one_step(page: str, workplace: Path) -> None:
    digits = (load_digits().images[:60] * 15).astype(np.uint8)
    (workplace / "my-images").mkdir()
    for index, digit in enumerate(digits):
        Image.fromarray(digit).save(workplace / "my-images" / f"{index}.png")
    np.savez(workplace / "scans.npz", images=digits)
    np.save(workplace / "scans.npy", digits.astype(np.uint16) * 16)
    (workplace / "kinds.csv").write_text("file,kind\n" + "a,cat\nb,dog\n" * 30, encoding="utf-8")
    for name in ("moved-images", "new-images", "labelled-images/one", "labelled-images/two"):
        shutil.copytree(workplace / "my-images", workplace / name)
    assert blocks(page)
    for block in blocks(page):
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
            continue
        if block.language == "python":
            exec(compile(block.text, page, "exec"), {})
            continue
        for line in block.text.splitlines():
            run(line)
    if page == "tutorial.md":  # it promises that
        assert len(list(workplace.glob("sorted/cluster-*/*.png"))) == len(digits)
        assert (workplace / "sorted/cluster-3+5-long").is_dir()


@pytest.mark.parametrize(
    ("page", "kind"), [("architectures.md", "architecture"), ("data.md", "dataset"), ("scores.md", "metric")]
)
def test_the_table_of_a_page_has_every_plugin_of_its_kind(page: str, kind: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(load_registry().names(kind))


def test_every_hook_has_a_section_with_its_arguments_and_there_is_no_other() -> None:
    page = (DOCS / "plugin-hooks.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    specified = []
    for name in hookspecs.HOOKS:
        arguments = inspect.signature(getattr(hookspecs, name)).parameters
        specified.append(f"{name}({', '.join(arguments)})")
    assert sections == specified
    marked = [name for name, value in vars(hookspecs).items() if hasattr(value, "mpcc_spec")]
    assert set(marked) == set(hookspecs.HOOKS)


def test_what_a_hook_is_told_is_on_the_page() -> None:
    page = (DOCS / "plugin-hooks.md").read_text(encoding="utf-8")
    for field in attrs.fields(hookspecs.RunInfo):
        assert f"`{field.name}`" in page
    # The third one, a logger, is run in tests/test_observers.py.
    example, preset, _ = [block.text for block in blocks("plugin-hooks.md") if block.language == "python"]
    exec(preset, {"register": check_preset})
    calls: list[tuple[tuple[str, ...], set[str]]] = []
    exec(example, {"register": lambda *given, **named: calls.append((given, set(named)))})
    parameters = inspect.signature(hookspecs.Register.__call__).parameters
    assert calls[0][1] == {name for name, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}


def test_the_page_on_priors_has_a_row_for_each_of_them() -> None:
    page = (DOCS / "priors.md").read_text(encoding="utf-8")
    table = page.partition("| --- |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == load_registry().names("prior")


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), (page.name, link)


def test_every_block_on_export_runs_in_order(workplace: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks("export.md"):
        if block.language == "sh":
            for line in block.text.splitlines():
                run(line)
        else:
            exec(compile(block.text, "export.md", "exec"), names)
    assert {path.suffix for path in Path("exported").iterdir()} == {".toml", ".safetensors", ".pt2", ".onnx"}


@pytest.mark.filterwarnings("ignore:MPCC:UserWarning")  # the pages train for a few iterations
def test_every_block_on_python_runs_in_order(workplace: Path) -> None:
    run("mpcc-run --out runs/first")
    names: dict[str, object] = {}
    for block in blocks("python.md"):
        assert block.language == "python"
        exec(compile(block.text, "python.md", "exec"), names)
    assert Path("digits-model").is_dir()


@pytest.mark.filterwarnings("ignore:MPCC:UserWarning")
def test_the_notebook_runs(workplace: Path) -> None:
    notebook = json.loads((DOCS.parent / "examples" / "digits.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell.replace("iterations=1200", "iterations=2"), f"cell {number}", "exec"), names)
    assert any("iterations=1200" in cell for cell in cells)
    assert Path("digits-model").is_dir()
    assert not any(cell.get("outputs") for cell in notebook["cells"])
