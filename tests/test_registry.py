"""The registry: built-ins and third parties come the same way, and a bad plugin harms itself only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.registry import load_registry
from mpcc.core.registry.registry_file import RegistryFile

HEAD = "from mpcc.core.hookspecs import hookimpl\n"
GOOD = """
@hookimpl
def register_metrics(register):
    register("half", "{module}:Half", summary="Half of nothing.", options="{module}:Options")

import attrs

@attrs.frozen
class Options:
    share: float = attrs.field(default=0.5, metadata={{"help": "how much"}})
"""
Install = Callable[..., metadata.EntryPoint]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write a plugin module and the metadata of its distribution; return its entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(module: str, body: str, version: str = "2.5") -> metadata.EntryPoint:
        (tmp_path / f"{module}.py").write_text(HEAD + body.format(module=module), encoding="utf-8")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[mpcc]\n{module} = {module}\n", encoding="utf-8")
        (point,) = metadata.Distribution.at(info).entry_points
        return point

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def test_built_ins_are_registered_by_the_hooks_that_everybody_uses() -> None:
    seen: list[tuple[str, str]] = []
    table = {"priors": {"p": {"target": "m:C", "summary": "s"}}, "metrics": {"q": {"target": "m:D", "summary": "s"}}}
    built_in = RegistryFile(table)
    built_in.register_priors(lambda name, target, **_: seen.append((name, target)))
    built_in.register_metrics(lambda name, target, **_: seen.append((name, target)))
    assert seen == [("p", "m:C"), ("q", "m:D")]


def test_every_built_in_loads_and_fulfils_its_contract() -> None:
    registry = load_registry([])
    assert not registry.broken
    for each in registry.all_entries():
        assert each.load()
        assert each.origin == "built-in"
        assert each.distribution == "mpcc"


def test_an_installed_plugin_is_found_with_its_distribution_and_version(install: Install) -> None:
    install("fake_good", GOOD)
    entry = load_registry().entry("metric", "half")
    assert (entry.distribution, entry.version, entry.origin) == ("fake_good", "2.5", "fake_good")
    options = entry.options_class()
    assert options is not None
    assert options().share == 0.5


BROKEN = {
    "fake_import": ("1 / 0", "ZeroDivisionError"),
    "fake_exit": ("raise SystemExit(5)", "SystemExit"),
    "fake_missing": ("import no_such_module_at_all", "no_such_module_at_all"),
    "fake_raises": ("@hookimpl\ndef register_priors(register):\n    raise RuntimeError('broken hook')", "broken hook"),
    "fake_misspelt": ("@hookimpl\ndef register_prior(register):\n    pass", "did you mean 'register_priors'?"),
    "fake_arguments": ("@hookimpl\ndef register_priors(registre):\n    pass", "registre"),
    "fake_call": ("@hookimpl\ndef register_priors(register):\n    register('a')", "TypeError"),
    "fake_target": (
        "@hookimpl\ndef register_priors(register):\n    register('a', 'no-colon', summary='s')",
        "'no-colon' is not an import path",
    ),
    "fake_name": ("@hookimpl\ndef register_priors(register):\n    register('a b', 'm:C', summary='s')", "'a b'"),
    "fake_summary": ("@hookimpl\ndef register_priors(register):\n    register('a', 'm:C', summary='')", "summary"),
    "fake_version": (
        "@hookimpl\ndef register_priors(register):\n    register('a', 'm:C', summary='s', api_version=99)",
        "API 99; this mpcc has 1",
    ),
    "fake_half": (
        "@hookimpl\ndef register_priors(register):\n    register('a', 'm:C', summary='s')\n    1 / 0",
        "ZeroDivisionError",
    ),
    "fake_twice": (
        "@hookimpl\ndef register_priors(register):\n"
        "    register('a', 'm:C', summary='s')\n    register('a', 'm:C', summary='s')",
        "registered twice",
    ),
}


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_is_reported_and_leaves_nothing_and_the_others_work(
    install: Install, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, reason = BROKEN[module]
    points = [install(module, body), install("fake_good", GOOD)]
    registry = load_registry(points)
    (broken,) = registry.broken
    assert (broken.origin, broken.distribution, broken.version) == (module, module, "2.5")
    assert reason in broken.error
    assert module in broken.file
    assert "\n" not in broken.described()
    assert registry.names("prior") == load_registry([]).names("prior")
    assert "half" in registry.names("metric")
    # Whoever asks for something that isn't there learns that a plugin was not loaded.
    with pytest.raises(InvalidInput, match=module):
        registry.entry("prior", "a")
    monkeypatch.setenv("MPCC_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=module):
        load_registry(points)


def test_a_name_that_two_plugins_claim_is_an_error_that_names_both(install: Install) -> None:
    body = "@hookimpl\ndef register_priors(register):\n    register('gmm', 'm:C', summary='s')"
    registry = load_registry([install("fake_clash", body)])
    with pytest.raises(PluginError, match=r"'gmm' is claimed by mpcc .* and fake_clash 2\.5"):
        registry.entry("prior", "gmm")
    assert registry.entry("architecture", "biggan8")


@pytest.mark.parametrize(
    ("target", "reason"),
    [("fake_class:Nope", "no 'Nope'"), ("fake_class:Wrong", "not a subclass of Prior"), ("fake_none:X", "fake_none")],
)
def test_a_class_that_is_missing_or_no_subclass_is_the_plugins_error(
    install: Install, target: str, reason: str
) -> None:
    body = f"class Wrong: pass\n@hookimpl\ndef register_priors(register):\n    register('a', '{target}', summary='s')"
    entry = load_registry([install("fake_class", body)]).entry("prior", "a")
    with pytest.raises(PluginError, match=reason) as caught:
        entry.load()
    assert "fake_class 2.5" in str(caught.value)


def test_the_listing_shows_load_errors_as_table_and_as_json(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("fake_import", "1 / 0")
    for arguments in (["plugins"], ["plugins", "--json"]):
        with pytest.raises(SystemExit) as caught:
            entry.main(arguments)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "ZeroDivisionError" in out
        if "--json" in arguments:
            rows = {row["name"]: row for row in json.loads(out)}
            assert rows["fake_import"]["version"] == "2.5"
            assert rows["gmm"]["error"] is None
            assert set(rows["gmm"]) == {"name", "kind", "summary", "origin", "version", "error"}


def presets_of(name: str, tables: object) -> str:
    """Return the hook of a plugin with one preset, for `install`."""
    call = f"register({name!r}, {tables!r})".replace("{", "{{").replace("}", "}}")
    return f"\n@hookimpl\ndef register_presets(register):\n    {call}\n"


def test_an_installed_plugin_brings_presets(install: Install) -> None:
    tables = {"source": "a test", "for": {"data": "digits", "device": "cuda"}, "run": {"clusters": 7}}
    install("fake_presets", presets_of("ours", tables))
    assert load_registry().presets["ours"] == tables


@pytest.mark.parametrize(
    ("name", "tables", "reason"),
    [
        ("digits", {}, "preset 'digits' is in registry.toml of mpcc and in fake_presets 2.5: expected another name"),
        (
            "ours",
            {"for": {"data": "digits"}, "arch": {"name": "biggan8"}},
            "'digits' of registry.toml of mpcc and 'ours' of",
        ),
        ("ours", {"runs": {}}, "did you mean 'run'?"),
        ("ours", {"run": 3}, "preset 'ours': expected a table run = { ... }, got 3"),
        ("ours", {"for": {"device": "cpu"}}, "expected the name of a data set"),
        ("ours", 3, "preset 'ours': expected tables such as"),
        ("our s", {}, "preset name 'our s': expected letters"),
    ],
)
def test_a_plugin_whose_preset_cannot_be_is_set_aside_alone(
    install: Install, name: str, tables: object, reason: str
) -> None:
    install("fake_presets", GOOD + presets_of(name, tables))
    install("fake_good", GOOD.replace('"half"', '"other"'))
    registry = load_registry()
    assert [broken.distribution for broken in registry.broken] == ["fake_presets"]
    assert reason in registry.broken[0].error
    assert registry.presets == load_registry([]).presets
    assert "other" in registry.names("metric")
    assert "half" not in registry.names("metric")
