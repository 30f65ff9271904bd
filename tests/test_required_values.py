"""What an objective requires of the rest of a configuration, and which preset an objective starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpcc.core.commands import entry
from mpcc.core.config import Layer, RunConfig, compat_layer, read_config, resolve
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.hookspecs import hookimpl
from mpcc.core.registry import Registry, load_registry
from mpcc.core.registry.plugin import Plugin


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry([])


def typed(**tables: dict[str, Any]) -> Layer:
    return Layer("flag", tables)


def resolved(registry: Registry, **tables: dict[str, Any]) -> RunConfig:
    return resolve(registry, [typed(**tables)])


@pytest.mark.parametrize("name", ["aim", "vae"])
def test_a_system_of_two_variables_brings_one_cluster_and_a_fixed_prior(registry: Registry, name: str) -> None:
    config = resolved(registry, objective={"name": name})
    assert (config.run.clusters, config.prior.name) == (1, "standard_normal")
    assert config.run.balance_weight == config.run.membership_weight == 0
    assert config.origins["run.clusters"] == config.origins["prior.name"] == f"objective {name}"


def test_the_paper_s_system_requires_nothing(registry: Registry) -> None:
    config = resolved(registry, run={"clusters": "7"})
    assert config.run.clusters == 7
    assert not any(origin.startswith("objective ") for origin in config.origins.values())


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            {"run": {"clusters": "10"}},
            r"--clusters 10: the objective aim requires 1 \(nearest valid choice: --clusters 1, or --objective mpcc\)",
        ),
        ({"prior": {"name": "laplace"}}, "--prior laplace: the objective aim requires standard_normal"),
        ({"run": {"balance_weight": "0.5"}}, "--balance-weight 0.5: the objective aim requires 0.0"),
        ({"run": {"invariant_to": "shift"}}, "--invariant-to shift: the objective aim requires none"),
        ({"run": {"clusters": "many"}}, "--clusters: expected a whole number"),
        ({"prior": {"scale_floor": "0.1"}}, "unknown option of prior 'standard_normal'"),
    ],
)
def test_a_user_who_asks_for_something_else_is_refused(
    registry: Registry, tables: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInput, match=expected):
        resolved(registry, objective={"name": "aim"}, **tables)


def test_a_user_may_type_what_is_required(registry: Registry) -> None:
    tables = {"run": {"clusters": "1", "balance_weight": "0"}, "prior": {"name": "standard_normal"}}
    config = resolved(registry, objective={"name": "vae"}, **tables)
    assert config.origins["run.clusters"] == "flag"


def test_a_named_preset_does_not_stand_against_the_objective(registry: Registry) -> None:
    config = resolve(registry, [typed(objective={"name": "aim"})], "digits")
    assert (config.run.clusters, config.run.lr) == (1, 7e-4)


def test_a_file_that_contradicts_is_named(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[objective]\nname = "vae"\n[run]\nclusters = 4\n')
    with pytest.raises(InvalidInput, match=r"mine.toml: run.clusters 4: the objective vae requires 1"):
        resolve(registry, [read_config(path)])


@pytest.mark.parametrize("name", ["aim", "vade", "vae"])
def test_the_file_that_a_run_writes_gives_the_same_configuration(registry: Registry, name: str, tmp_path: Path) -> None:
    config = resolved(registry, objective={"name": name})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert resolve(registry, [read_config(path)]) == config


def test_the_paper_s_choices_can_be_joined_with_another_objective(registry: Registry) -> None:
    layers = [typed(objective={"name": "vade"}, data={"name": "mnist"}), compat_layer(registry, "paper")]
    assert resolve(registry, layers).run.balance_weight == 0


class Asks:
    """A plugin whose objective requires something."""

    def __init__(self, kind: str, requires: Any) -> None:
        self.kind, self.requires = kind, requires

    @hookimpl
    def register_objectives(self, register: Any) -> None:
        if self.kind == "objective":
            register("mine", "mine:Mine", summary="Mine.", requires=self.requires)

    @hookimpl
    def register_priors(self, register: Any) -> None:
        if self.kind == "prior":
            register("mine", "mine:Mine", summary="Mine.", requires=self.requires)


@pytest.mark.parametrize(
    ("kind", "requires", "expected"),
    [
        ("prior", {"run": {"clusters": 1}}, "prior 'mine': only an objective requires values"),
        ("objective", {"data": {"name": "digits"}}, "unknown section that objective 'mine' requires: 'data'"),
        ("objective", {"run": 3}, "objective 'mine': expected a table run of values, got 3"),
    ],
)
def test_requirements_that_cannot_be_are_refused_at_registration(kind: str, requires: Any, expected: str) -> None:
    with pytest.raises((PluginError, InvalidInput), match=expected):
        Plugin.of(Asks(kind, requires), "mine", "mine", "1")


@pytest.mark.parametrize(
    ("prior", "family"),
    [("student_t", "StudentTMixture"), ("logistic", "LogisticMixture"), ("gumbel", "GumbelMixture")],
)
def test_vade_refuses_a_prior_without_a_closed_form_in_one_line(
    prior: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"]) if prior == "student_t" else ([],):
        with pytest.raises(SystemExit) as caught:
            entry.run_main(["--objective", "vade", "--prior", prior, "--out", "run", *more])
        assert caught.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert f"--objective vade --prior {prior}: {family} has no closed form of KL(q(z|x) || p(z|y))" in line
        assert "(supplement, B.2)" in line
        assert "--prior gmm" in line
    assert not (tmp_path / "run").exists()


def test_vade_refuses_variances_that_are_no_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--objective", "vade", "--prior.variances", "reference", "--out", "run"])
    assert caught.value.code == 2
    assert "--objective vade --prior gmm: GaussianMixture has no closed form" in capsys.readouterr().err
