"""What an objective requires of the rest of a configuration, and which preset an objective starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.config import Layer, RunConfig, compat_layer, read_config, resolve
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.hookspecs import hookimpl
from mpcc.core.registry import Registry, load_registry
from mpcc.core.registry.plugin import Plugin
from mpcc.core.run.assembly import never_differ
from mpcc.plugins.priors.standard_normal import StandardNormal


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
    """A plugin whose objective requires or suggests something, or has no use for a setting."""

    def __init__(self, kind: str, **fields: Any) -> None:
        self.kind, self.fields = kind, fields

    @hookimpl
    def register_objectives(self, register: Any) -> None:
        if self.kind == "objective":
            register("mine", "mine:Mine", summary="Mine.", **self.fields)

    @hookimpl
    def register_priors(self, register: Any) -> None:
        if self.kind == "prior":
            register("mine", "mine:Mine", summary="Mine.", **self.fields)


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        ("prior", "requires", {"run": {"clusters": 1}}, "prior 'mine': only an objective requires values"),
        ("prior", "suggests", {"run": {"lr": 1.0}}, "prior 'mine': only an objective suggests values"),
        ("prior", "unused", ["lr"], "prior 'mine': only an objective has unused settings"),
        ("objective", "unused", 3, "objective 'mine': unused: expected a list of settings of the run, got 3"),
        ("objective", "unused", "lr", "objective 'mine': unused: expected a list of settings of the run, got 'lr'"),
        ("objective", "requires", {"data": {"name": "digits"}}, "section that objective 'mine' requires: 'data'"),
        ("objective", "suggests", {"data": {"name": "digits"}}, "section that objective 'mine' suggests: 'data'"),
        ("objective", "requires", {"run": 3}, "objective 'mine': expected a table run of values, got 3"),
    ],
)
def test_requirements_that_cannot_be_are_refused_at_registration(
    kind: str, field: str, value: Any, expected: str
) -> None:
    with pytest.raises((PluginError, InvalidInput), match=expected):
        Plugin.of(Asks(kind, **{field: value}), "mine", "mine", "1")


def test_a_preset_for_another_objective_gets_the_suggested_values(registry: Registry) -> None:
    of_mpcc = resolved(registry, data={"name": "fashion-mnist"}, objective={"name": "vade"}, run={"device": "cpu"})
    assert of_mpcc.preset.name == "fashion-mnist"
    assert (of_mpcc.run.prior_fit, of_mpcc.run.generator_lr_factor, of_mpcc.run.lr) == (0.2, 1.0, 1e-3)
    assert of_mpcc.prior.options.scale_floor == 0.05
    assert of_mpcc.origins["run.prior_fit"] == "objective vade"
    own = resolved(registry, objective={"name": "vade"})
    assert (own.preset.name, own.origins["run.prior_fit"]) == ("digits-vade", "preset digits-vade")
    assert resolved(registry, data={"name": "fashion-mnist"}, run={"device": "cpu"}).run.generator_lr_factor == 0.25


def test_a_user_may_change_what_is_suggested(registry: Registry) -> None:
    config = resolve(registry, [typed(objective={"name": "vade"}, run={"prior_fit": "0"})], "digits")
    assert (config.run.prior_fit, config.origins["run.prior_fit"]) == (0, "flag")
    # A prior without that option is none the worse for it.
    assert resolved(registry, data={"name": "mnist"}, objective={"name": "vae"}).prior.name == "standard_normal"


@pytest.mark.parametrize("named", ["--compat", "--preset none"])
def test_nothing_is_suggested_beside_choices_for_compatibility_or_without_a_preset(
    registry: Registry, named: str
) -> None:
    layers = [typed(objective={"name": "vade"}, data={"name": "mnist"})]
    if named == "--compat":
        config = resolve(registry, [*layers, compat_layer(registry, "paper")])
        assert (config.run.lr, config.origins["run.lr"]) == (2e-4, "preset mnist-paper")
    else:
        config = resolve(registry, layers, "none")
        assert config.origins["run.lr"] == "default"
    assert config.run.prior_fit == 0


def test_what_is_replaced_is_told(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    resolve(registry, [typed(objective={"name": "vae"})], "digits")
    assert "the objective vae replaces run.lr, run.generator_lr_factor of preset digits" in caplog.messages


@pytest.mark.parametrize(("name", "setting", "value"), [("aim", "prior_lr", "1e-3"), ("vade", "d_steps", "2")])
def test_a_flag_that_training_does_not_use_is_told(
    registry: Registry, name: str, setting: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    resolved(registry, objective={"name": name}, run={setting: value})
    flag = f"--{setting.replace('_', '-')}"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{flag} {value} does not change the training: the objective {name} does not use it"
    ]
    caplog.clear()
    resolve(registry, [Layer("MPCC", {"objective": {"name": name}, "run": {setting: value}})], "none")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"MPCC: run.{setting} {value} does not change the training: the objective {name} does not use it"
    ]
    caplog.clear()
    resolved(registry, objective={"name": "mpcc"}, run={setting: value})
    resolve(registry, [Layer("a.toml", {"objective": {"name": name}, "run": {setting: value}})], "none")
    assert not caplog.records


class Fixed(StandardNormal):
    """Fixed components at different places, on the axes."""

    def __init__(self, clusters: int, latent_dim: int) -> None:
        super().__init__(clusters, latent_dim)
        self.loc.copy_(5 * torch.eye(clusters, latent_dim))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_fixed_components_may_differ(size: int) -> None:
    fixed, same, single = Fixed(size, size), StandardNormal(size, size), StandardNormal(1, size)
    state = torch.get_rng_state()
    assert [never_differ(prior) for prior in (fixed, same, single)] == [False, True, False]
    assert torch.equal(state, torch.get_rng_state())


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


@pytest.mark.parametrize("objective", ["mpcc", "vade"])
def test_clusters_that_can_never_differ_are_refused(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--objective", objective, "--prior", "standard_normal", "--out", "run"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "--prior standard_normal --clusters 10: all its clusters are the same" in message
    assert "--clusters 1, or --prior gmm" in message
    assert not (tmp_path / "run").exists()


def test_vade_refuses_variances_that_are_no_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--objective", "vade", "--prior.variances", "reference", "--out", "run"])
    assert caught.value.code == 2
    assert "--objective vade --prior gmm: GaussianMixture has no closed form" in capsys.readouterr().err
