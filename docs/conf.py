"""The documentation site: ``make docs`` builds it with Sphinx, the theme furo and MyST, which reads Markdown.

The source folder is the root of the repository. So a link between the README, a page and a file of the code means the
same on the site and where the repository is shown. A linked file that is not a page is copied into the site, or the
site links to it in the repository if ``pyproject.toml`` has its address: ``[project.urls]``, ``Repository``.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "extensions"))

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository", "").rstrip("/")

project = PROJECT["name"]
author = "The mpcc authors"
copyright = f"2026, {author}"
release = version = PROJECT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_reference"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/*/README.md"]
exclude_patterns = ["build", "dist", "runs", ".venv", ".git"]
myst_enable_extensions = ["dollarmath"]  # $$ encloses an equation
myst_heading_anchors = 3
smartquotes = False  # they would turn the two hyphens of a flag into a dash

default_role = "py:obj"  # a name in single backticks in a docstring
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"mpcc {release}"
html_copy_source = False

# The pages lie below docs/, and people begin at the root.
FIRST_PAGE = '<!doctype html><title>mpcc</title><meta http-equiv="refresh" content="0; url=docs/index.html">'


def setup(app: Sphinx) -> None:
    """Connect the functions below; Sphinx calls this one."""
    app.connect("doctree-read", link_the_repository)
    app.connect("build-finished", write_first_page)


def link_the_repository(app: Sphinx, document: nodes.document) -> None:
    """Link files that are no pages in the repository, if its address is known."""
    if not REPOSITORY:
        return
    page = ROOT / app.env.doc2path(app.env.docname)
    for node in list(document.findall(addnodes.download_reference)):
        path = (page.parent / node["reftarget"]).resolve().relative_to(ROOT)
        link = nodes.reference("", "", *node.children, refuri=f"{REPOSITORY}/blob/main/{path.as_posix()}")
        node.replace_self(link)


def write_first_page(app: Sphinx, error: Exception | None) -> None:
    """Write the page at the root of the site, which leads to the first page of the documentation."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(FIRST_PAGE, encoding="utf-8")
