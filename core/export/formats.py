"""The formats of ``mpcc export``, their packages, and the choice of a user. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from mpcc.core.errors import InvalidInput, unknown_name

__all__ = ["FORMATS", "chosen_formats", "require_packages"]

# The packages that a format needs beyond those of mpcc, with the extra that installs them.
FORMATS: dict[str, tuple[str, Sequence[str]]] = {
    "safetensors": ("export", ("safetensors",)),
    "torch": ("", ()),
    "onnx": ("onnx", ("onnx", "onnxscript", "onnxruntime")),
}


def chosen_formats(text: str) -> list[str]:
    """Return the formats in a list separated by commas, each once.

    Raises:
        InvalidInput: If a format does not exist.

    Example:
        >>> chosen_formats("torch, onnx,torch")
        ['torch', 'onnx']
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in FORMATS:
            raise unknown_name("--format", word, FORMATS)
    return list(dict.fromkeys(words))


def require_packages(formats: Sequence[str]) -> None:
    """Check that the packages of formats are installed.

    Raises:
        InvalidInput: With the extra that installs the missing package.
    """
    for name in formats:
        extra, packages = FORMATS[name]
        for package in packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                wanted = "mpcc export" if package == name else f"--format {name}"
                raise InvalidInput(
                    f'{wanted} needs {package}, which is not installed: pip install "mpcc[{extra}]"'
                ) from error
