"""The documentation site: ``make docs`` builds it with Sphinx, the theme furo and MyST, which reads Markdown.

The source folder is the root of the repository, so that links between the README and the pages mean the same here and
on a page that shows the repository.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "extensions"))

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = "The mpcc developers"
release = PROJECT["version"]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_reference"]
root_doc = "docs/index"
include_patterns = [
    *("docs/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    "examples/*/README.md",
]
exclude_patterns = ["build", "dist", "runs", ".venv", ".git", "**/__pycache__"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"mpcc {release}"

smartquotes = False  # they would turn the two hyphens of a flag into a dash
default_role = "py:obj"  # a name in single backticks in a docstring
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
