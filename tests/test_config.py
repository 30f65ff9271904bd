"""Configuration: layers, where each value came from, presets, and TOML out and in."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mpcc.core.config import SECTIONS, Layer, read_config, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry, load_registry


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry([])


def flags(**tables: dict[str, Any]) -> Layer:
    return Layer("flag", tables)


def test_later_layers_win_and_every_value_knows_its_origin(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[run]\nlr = 0.25\nbatch = 20\n", encoding="utf-8")
    config = resolve(registry, [read_config(file), flags(run={"batch": "30"}, prior={"scale_floor": "0.7"})])
    preset = registry.presets["digits"]["run"]
    assert (config.run.standing_passes, config.origins["run.standing_passes"]) == (16, "default")
    assert (config.run.latent_dim, config.origins["run.latent_dim"]) == (preset["latent_dim"], "preset digits")
    assert (config.run.lr, config.origins["run.lr"]) == (0.25, str(file))
    assert (config.run.batch, config.origins["run.batch"]) == (30, "flag")
    assert (config.prior.options.scale_floor, config.origins["prior.scale_floor"]) == (0.7, "flag")
    for section, table in config.to_tables().items():
        assert {f"{section}.{name}" for name in table} <= config.origins.keys()


def test_defaults_of_the_registry_are_below_the_preset_and_above_the_class(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.entry("prior", "gmm")
    monkeypatch.setitem(entry.defaults, "scale_floor", 0.3)  # type: ignore[arg-type]
    monkeypatch.setitem(entry.defaults, "location_scale", 0.1)  # type: ignore[arg-type]
    config = resolve(registry, [])
    assert config.origins["prior.location_scale"] == "registry"
    assert config.prior.options.location_scale == 0.1
    assert config.origins["prior.scale_floor"] == "preset digits"


def test_without_anything_said_it_is_gmm_biggan8_digits(registry: Registry) -> None:
    config = resolve(registry, [])
    assert (config.prior.name, config.arch.name, config.data.name) == ("gmm", "biggan8", "digits")


def test_the_preset_is_that_of_the_data_set(registry: Registry) -> None:
    for name in registry.names("dataset"):
        config = resolve(registry, [flags(data={"name": name})])
        assert config.run.iterations == registry.presets[name]["run"]["iterations"]
        assert config.arch.name == registry.presets[name]["arch"]["name"]


def test_a_named_preset_keeps_the_chosen_data_set_and_none_means_none(registry: Registry) -> None:
    config = resolve(registry, [flags(data={"name": "digits"})], preset="omniglot")
    assert (config.data.name, config.run.clusters) == ("digits", 100)
    bare = resolve(registry, [], preset="none")
    assert set(bare.origins.values()) == {"default"}
    with pytest.raises(InvalidInput, match=r"unknown preset 'mnits'.*did you mean 'mnist'"):
        resolve(registry, [], preset="mnits")


def test_a_preset_leaves_out_options_that_the_chosen_plugin_lacks(registry: Registry) -> None:
    presets = {"digits": {"prior": {"name": "gmm", "degrees": 5, "scale_floor": 0.1}, "run": {}}}
    changed = Registry(registry.entries, presets, registry.defaults, ())
    assert resolve(changed, []).prior.options.scale_floor == 0.1
    with pytest.raises(InvalidInput, match="degrees"):
        resolve(changed, [flags(prior={"degrees": 5})])


@pytest.mark.parametrize("data", ["digits", "mnist", "omniglot", "folder"])
@pytest.mark.parametrize("preset", [None, "none", "omniglot"])
def test_a_resolved_configuration_resolves_to_itself(
    registry: Registry, tmp_path: Path, data: str, preset: str | None
) -> None:
    typed = flags(data={"name": data}, run={"eval_images": "7", "data_root": "/x y", "entropy_weight": 0.5})
    config = resolve(registry, [typed], preset)
    for origins in (False, True):
        file = tmp_path / f"{origins}.toml"
        file.write_text(config.to_toml(origins=origins), encoding="utf-8")
        again = resolve(registry, [read_config(file)])
        assert again == config


def test_all_four_sections_and_no_preset_are_written(registry: Registry) -> None:
    assert set(tomllib.loads(resolve(registry, []).to_toml())) == {"preset", "run", *SECTIONS}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[rum]\nlr = 1\n", ["'rum'", "did you mean 'run'?"]),
        ("[run]\nlrr = 1\n", ["lrr", "did you mean 'run.lr'?"]),
        ("[prior]\nscale_flor = 1\n", ["scale_flor", "did you mean 'prior.scale_floor'?"]),
        ("[run]\nlr = \n", ["not valid TOML"]),
        ("run = 3\n", ["expected a table [run]", "3"]),
        ("[run]\niterations = 'abc'\n", ["run.iterations", "a whole number", "'abc'"]),
        ("[run]\niterations = 1.5\n", ["run.iterations", "a whole number", "1.5"]),
        ("[run]\nlr = true\n", ["run.lr", "a finite number", "True"]),
        ("[run]\nlr = nan\n", ["run.lr", "a finite number", "nan"]),
        ("[run]\nlr = -1.0\n", ["run.lr", "> 0", "-1.0"]),
        ("[run.lr]\nx = 1\n", ["run.lr", "a finite number", "{'x': 1}"]),
        ("[run]\neval_images = 0\n", ["eval_images", "at least 1", "0"]),
        ("[prior]\nname = 3\n", ["prior.name", "a name", "3"]),
        ("[prior]\nname = 'gmn'\n", ["'gmn'", "did you mean 'gmm'?"]),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_key_value_and_expectation(
    registry: Registry, tmp_path: Path, text: str, parts: list[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        resolve(registry, [read_config(file)])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    if "gmn" not in text and "eval_images" not in text:
        assert str(file) in message


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# \xe9\n")
    for path, reason in ((tmp_path / "none", "no such file"), (tmp_path, "cannot be read"), (latin, "not valid TOML")):
        with pytest.raises(InvalidInput, match=reason) as caught:
            read_config(path)
        assert str(path) in str(caught.value)


def test_a_file_may_name_the_preset_that_it_starts_from_and_a_flag_overrides_it(
    registry: Registry, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "mnist-paper"\n[data]\nname = "folder"\n', encoding="utf-8")
    assert resolve(registry, [read_config(file)]).run.iterations == 210_000
    assert resolve(registry, [read_config(file)], "omniglot").run.clusters == 100
    file.write_text("preset = 3\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="preset: expected the name of a preset"):
        read_config(file)


@pytest.mark.parametrize(
    ("text", "typed", "part"),
    [
        ("[run]\nlr = 'fast'\n", {"run": {"lr": "0.1"}}, "run.lr: expected a finite number, got 'fast'"),
        ("[run]\nlr = -1.0\n", {"run": {"lr": "0.1"}}, "run.lr: the value must be > 0: -1.0"),
        ("[prior]\nweights = 'equal'\n", {"prior": {"weights": "uniform"}}, "prior.weights: 'equal'"),
        ("[data]\nname = 7\n", {"data": {"name": "digits"}}, "data.name: expected a name, got 7"),
    ],
)
def test_a_mistake_in_a_file_is_told_even_if_a_flag_overrides_it(
    registry: Registry, tmp_path: Path, text: str, typed: dict[str, dict[str, Any]], part: str
) -> None:
    file = tmp_path / "my.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        resolve(registry, [read_config(file), Layer("flag", typed)])
    assert part in str(caught.value)
    assert str(file) in str(caught.value)
