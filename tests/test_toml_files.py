"""TOML as editors write it: the marks of encodings, and line ends of other systems."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from mpcc.core.config import read_config, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry

CONFIG = '[run]\nclusters = 3\n\n[prior]\nname = "cauchy"\n'
REGISTRY = '[presets.small]\nsource = "Zoë"\nrun = { clusters = 3 }\n'


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mark_of_utf_8_and_line_ends_of_windows_do_not_matter(tmp_path: Path, mark: bytes, end: str) -> None:
    config, registry = tmp_path / "config.toml", tmp_path / "registry.toml"
    config.write_bytes(mark + CONFIG.replace("\n", end).encode())
    registry.write_bytes(mark + REGISTRY.replace("\n", end).encode())
    plugins = load_registry([], registries=[registry])
    assert plugins.presets["small"]["source"] == "Zoë"
    resolved = resolve(plugins, [read_config(config)])
    assert (resolved.run.clusters, resolved.prior.name) == (3, "cauchy")
    assert resolve(plugins, [], "small").run.clusters == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_told_from_one_that_is_not_toml(tmp_path: Path, encoding: str) -> None:
    mark = {"utf-16": b"", "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}[encoding]
    file = tmp_path / "config.toml"
    file.write_bytes(mark + CONFIG.encode(encoding))
    with pytest.raises(InvalidInput, match=r"^--config .*config\.toml: expected a text in UTF-8, got one in UTF-16"):
        read_config(file)
