"""--compat reference: the authors' choices against formulas and scipy, what it sets, and what overrides it."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
from scipy import stats

from mpcc.core.commands import entry
from mpcc.core.config import Layer, compat_layer, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.method.terms import TermWeights
from mpcc.core.registry import Registry, load_registry
from mpcc.core.run.assembly import term_weights
from mpcc.core.testing import ContractViolation, check_prior
from mpcc.plugins.priors.gmm import GaussianMixture, ReferenceNormal
from mpcc.plugins.priors.options import GaussianMixtureOptions

FLOOR = 0.5
OPTIONS = GaussianMixtureOptions(scale_floor=FLOOR, variances="reference")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry([])


def prior() -> GaussianMixture:
    torch.manual_seed(0)
    made = GaussianMixture(3, 4, OPTIONS)
    torch.nn.init.normal_(made.raw_scale)
    return made.double()


# The three scales


def test_samples_have_the_first_scale_floor_plus_the_root_of_the_variance() -> None:
    made, count = prior(), 200_000
    with torch.no_grad():
        z = made.component(torch.ones(count, dtype=torch.int64)).rsample()
        expected = FLOOR + (made.raw_scale[1] / 2).exp()
    error = expected / (2 * count) ** 0.5  # of a standard deviation, for normal samples
    assert ((z.std(0) - expected).abs() < 5 * error).all()
    assert torch.equal(made.scales()[1], expected)


def test_densities_have_the_second_scale_the_root_of_the_sum_of_squares() -> None:
    made = prior()
    z = torch.randn(7, 4, dtype=torch.float64)
    scale = np.sqrt(FLOOR**2 + made.raw_scale.detach().exp().numpy())
    expected = stats.norm.logpdf(z.numpy()[:, None], made.loc.detach().numpy(), scale).sum(-1)
    np.testing.assert_allclose(made.log_density(z).detach().numpy(), expected, rtol=1e-12)
    own = made.component(torch.tensor([2])).log_prob(z).detach().numpy()
    np.testing.assert_allclose(own, expected[:, 2], rtol=1e-12)


def test_entropies_have_the_third_scale_without_a_floor() -> None:
    made = prior()
    expected = stats.norm.entropy(scale=np.exp(made.raw_scale.detach().numpy() / 2)).sum(-1)
    np.testing.assert_allclose(made.entropies().detach().numpy(), expected, rtol=1e-12)


def test_without_a_floor_the_three_scales_are_one() -> None:
    raw = torch.randn(5, dtype=torch.float64)
    ours, theirs = torch.distributions.Normal(raw, (raw / 2).exp()), ReferenceNormal(raw, raw, floor=0.0)
    torch.testing.assert_close(theirs.stddev, ours.stddev)
    torch.testing.assert_close(theirs.entropy(), ours.entropy())
    torch.testing.assert_close(theirs.log_prob(raw + 1), ours.log_prob(raw + 1))


def test_the_encoder_is_that_of_the_default(registry: Registry) -> None:
    loc, raw = torch.randn(2, 5, 4)
    ours, theirs = (
        GaussianMixture(3, 4, options).encoder_distribution(loc, raw) for options in (GaussianMixtureOptions(), OPTIONS)
    )
    assert torch.equal(ours.log_prob(loc + 1), theirs.log_prob(loc + 1))


def test_the_contract_kit_finds_the_reference_wrong() -> None:
    with pytest.raises(ContractViolation, match="entrop"):
        check_prior(GaussianMixture, OPTIONS)


# The switch


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*arguments, "--dry-run"])
    assert isinstance(caught.value.code, int)
    return caught.value.code, *capsys.readouterr()


def test_it_sets_what_the_registry_lists_and_says_so(
    registry: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPCC_DATA", raising=False)
    status, out, err = dry_run(capsys, "--data", "mnist", "--compat", "reference")
    # There are no images here, but the configuration is shown.
    assert (status, err) == (
        2,
        "mpcc-run: error: data set mnist needs a data folder: pass --data-root DIR or set MPCC_DATA\n",
    )
    tables = tomllib.loads(out)
    for section, values in registry.compat["reference"].items():
        if section not in ("source", "preset"):
            for name, value in values.items():
                assert tables[section][name] == value
                assert any(
                    line.startswith(f"{name} = ") and line.endswith("# compat reference") for line in out.split("\n")
                )
    assert tables["arch"]["upsampling"] == "nearest"
    assert tables["prior"]["variances"] == "reference"
    assert tables["arch"]["width"] == 12  # of the preset


def test_flags_override_it_and_it_overrides_presets(registry: Registry) -> None:
    compat = compat_layer(registry, "reference")
    flags = Layer("flag", {"arch": {"upsampling": "bilinear"}})
    config = resolve(registry, [compat, flags])
    assert config.prior.options.scale_floor == 0.5
    assert config.origins["prior.scale_floor"] == "compat reference"
    assert (config.arch.options.upsampling, config.origins["arch.upsampling"]) == ("bilinear", "flag")


@pytest.mark.parametrize("name", ["paper", "reference"])
@pytest.mark.parametrize("source", ["preset", "configuration file"])
def test_it_takes_back_what_a_preset_for_a_cpu_or_a_file_adds_to_the_loss(
    registry: Registry, name: str, source: str
) -> None:
    own = resolve(registry, [Layer("flag", {"data": {"name": "mnist"}, "run": {"device": "cpu"}})], "mnist")
    before = [] if source == "preset" else [Layer("run.toml", own.to_tables())]
    flags = Layer("flag", {"data": {"name": "mnist"}})
    config = resolve(
        registry, [*before, compat_layer(registry, name), flags], "mnist" if source == "preset" else "none"
    )
    assert own.run.latent_weight == 1 / 64
    images = (70_000, 1, 16, 16)
    assert term_weights(config.run, images) == TermWeights.published(1, 16, config.run.latent_dim)


def test_an_unknown_set_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = dry_run(capsys, "--compat", "referenz")
    assert (status, out) == (2, "")
    assert "referenz" in err
    assert "reference" in err
    assert err.count("\n") == 1


def test_a_prior_that_the_reference_does_not_have_is_refused(registry: Registry) -> None:
    layers = [compat_layer(registry, "reference"), Layer("flag", {"prior": {"name": "cauchy"}})]
    with pytest.raises(InvalidInput, match=r"'cauchy'.*compat reference.*prior\.variances"):
        resolve(registry, layers)


def test_it_cannot_come_into_a_run_that_is_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = dry_run(capsys, "--resume", "somewhere", "--compat", "reference")
    assert status == 2
    assert "--compat" in err
