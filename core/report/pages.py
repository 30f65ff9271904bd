"""Templates that become pages: one file each, which loads nothing, with all values escaped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2

__all__ = ["rendered"]

# Control characters other than tab and the end of a line.
ESCAPES = {code: f"\\x{code:02x}" for code in (*range(9), 11, 12, *range(13, 32), *range(127, 160))}
TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of all templates: values are escaped, and a missing one is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def rendered(template: str, **values: Any) -> bytes:
    """Return a page as UTF-8.

    Bytes of a file name that are not UTF-8 are escaped, and so are control characters, which HTML does not have.

    Arguments:
        template: The name of a file in ``templates/``.
        values: For the template.
    """
    text = environment().get_template(template).render(**values)
    return text.translate(ESCAPES).encode("utf-8", "backslashreplace")
