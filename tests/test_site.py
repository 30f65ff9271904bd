"""The documentation site: it builds without a warning, has no dead link, and says what the code says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import pytest

from mpcc.core.commands.entry import COMMANDS
from mpcc.core.config import SECTIONS, RunSettings, resolve
from mpcc.core.registry import load_registry
from mpcc.core.reporting.cures import CURES
from mpcc.core.reporting.symptoms import symptoms
from mpcc.core.reporting.vitals import Vitals

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# A sound run on the digits, and how it must change for each warning that the page on troubleshooting quotes.
SOUND = Vitals(
    sizes=(180,) * 10,
    diversity=(0.4,) * 10,
    saturation=0.02,
    posterior_entropy=0.3,
    agreement=0.95,
    hinge=0.8,
    spectral_norms={"discriminator": (2.0, "score.weight")},
    gradient_norms={"generator": 3.0, "discriminator": 5.0, "encoder": 4.0},
    real_terms=True,
)
FAULTS: dict[str, dict[str, Any]] = {
    "empty_clusters": {"sizes": (257,) * 6 + (255,) + (0,) * 3},
    "collapsed_assignments": {"sizes": (1788,) + (1,) * 9},
    "collapsed_clusters": {"diversity": (0.4,) * 9 + (0.004,)},
    "two_groups": {"two_peaks": (4,)},
    "saturation": {"saturation": 0.4},
    "undecided_posteriors": {"posterior_entropy": 0.95},
    "ignored_clusters": {"agreement": 0.12},
    "discriminator_won": {"hinge": 0.01},
    "exploding_spectral_norms": {"spectral_norms": {"discriminator": (180.0, "score.weight")}},
    "exploding_gradients": {"gradient_norms": {**SOUND.gradient_norms, "encoder": 4e5}},
    "vanishing_gradients": {"gradient_norms": {**SOUND.gradient_norms, "encoder": 2e-7}},
}


class Page(HTMLParser):
    """The anchors of a page of the site, and what it links to or shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the anchors and links of a tag."""
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                self.links.add(value or "")


@pytest.fixture(scope="module")
def site(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The site, built with every warning an error."""

    def make(folder: Path) -> None:
        words = ["-W", "--keep-going", "-q", "-c", DOCS, "-d", folder / "doctrees", ROOT, folder / "site"]
        done = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return once("site", make) / "site"


@pytest.fixture(scope="module")
def command_reference() -> ModuleType:
    """The extension of Sphinx that writes the reference of the commands."""
    path = DOCS / "extensions" / "command_reference.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.check
def test_the_site_builds_without_a_warning_and_no_link_in_it_is_dead(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert {"tutorial", "how-to", "troubleshooting", "glossary", "commands", "api"} <= {path.stem for path in pages}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in anchors):
                dead.append((path.name, link))
    assert dead == []


@pytest.mark.check
def test_the_site_has_the_flags_and_the_api_of_the_code(site: Path) -> None:
    commands = Page(site / "docs" / "commands.html")
    assert {"cmdoption-mpcc-run-clusters", "cmdoption-mpcc-predict-sort-into"} <= commands.anchors
    api = Page(site / "docs" / "api.html")
    assert {"mpcc.load", "mpcc.MPCC", "mpcc.core.contracts.Prior", "mpcc.core.testing.check_prior"} <= api.anchors


def test_the_reference_has_every_command_flag_and_option(command_reference: ModuleType) -> None:
    text = command_reference.command_reference()
    assert f"\n{command_reference.PLACE}\n" in (DOCS / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## {'mpcc-run' if name == 'run' else f'mpcc {name}'}\n" in text
    for field in attrs.fields(RunSettings):
        assert f"```{{option}} --{field.name.replace('_', '-')}" in text
    registry = load_registry(())
    for section, kind in SECTIONS.items():
        for name in registry.names(kind):
            options = registry.entry(kind, name).options_class()
            for field in attrs.fields(options) if options else ():
                assert f"```{{option}} --{section}.{field.name.replace('_', '-')}" in text


def test_troubleshooting_quotes_each_warning_as_a_run_on_the_digits_prints_it() -> None:
    assert FAULTS.keys() == CURES.keys()
    settings = resolve(load_registry(()), [], "digits").run
    assert symptoms(SOUND, settings) == []
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        " ".join(quote.replace("\n> ", " ").split()) for quote in re.findall(r"^> ((?:.+\n)+)", text, re.MULTILINE)
    ]
    said = {name: message_of(name, settings) for name in FAULTS}
    assert sorted(quoted) == sorted(said.values())
    titles = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE))
    assert [name for name in FAULTS if f"`{name}`" not in titles] == []


def message_of(name: str, settings: RunSettings) -> str:
    """Return the message of a warning, its cure included."""
    found = {symptom.name: symptom.message for symptom in symptoms(attrs.evolve(SOUND, **FAULTS[name]), settings)}
    return found[name]


def test_pictures_of_the_site_are_small_and_each_is_shown() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    for picture in (DOCS / "pictures").iterdir():
        assert picture.stat().st_size < 60_000, picture
        assert f"pictures/{picture.name})" in shown
