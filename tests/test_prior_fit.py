"""The fit of a prior to the latents of real images: groups, maximum likelihood, its place in a run, density."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.autograd import gradcheck

from mpcc.core.commands import start
from mpcc.core.config import Layer, resolve
from mpcc.core.contracts import Prior
from mpcc.core.engines.fast import FastEngine
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.stream import ImageStream
from mpcc.core.method import terms
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.losses import Batch, density_term
from mpcc.core.method.model import Model, thawed
from mpcc.core.method.prior_fit import (
    GROUPINGS,
    draws,
    fit_components,
    fit_prior,
    latent_groups,
    mixture_groups,
    renamed,
)
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import Registry, load_registry
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J = 4, 3
REGISTRY: Registry = load_registry()
PRIORS = [name for name in REGISTRY.names("prior") if name != "standard_normal"]  # which has no parameters


def made(name: str, **options: Any) -> Prior:
    torch.manual_seed(0)
    config = resolve(REGISTRY, [Layer("test", {"prior": {"name": name, **options}})])
    prior: Prior = config.prior.make(K, J)
    return prior.double()


def separated(count: int = 400, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Latents in K groups, far apart in two directions and close in the third, with their groups."""
    generator = torch.Generator().manual_seed(1)
    groups = torch.arange(count) % K
    centres = torch.tensor([[3.0, 0.0, 0.1], [-3.0, 0.0, 0.1], [0.0, 3.0, -0.1], [0.0, -3.0, -0.1]]).double()
    return centres[groups] + spread * torch.randn(count, J, dtype=torch.float64, generator=generator), groups


# Raw scales of q(z|x): nearly no spread.
NARROW = torch.full((400, J), -8.0, dtype=torch.float64)

# Groups


def test_groups_are_found_whatever_the_scale_of_a_direction() -> None:
    z, expected = separated()
    for factors in ([1.0, 1.0, 1.0], [1e-2, 10.0, 1.0], [1.0, 1.0, 0.0]):
        found = latent_groups(z * torch.tensor(factors), K, seed=0)
        assert adjusted_rand_score(expected, found) == pytest.approx(1.0), factors


def test_a_mixture_finds_groups_of_different_spread() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(600, 2, dtype=torch.float64, generator=generator)
    expected = (torch.arange(600) >= 500).long()
    # A broad group beside a narrow one: k-means gives the nearer part of the broad one to the narrow one.
    z = torch.where(expected[:, None] == 0, noise * 2, noise * 0.2 + torch.tensor([6.0, 0.0]))
    assert adjusted_rand_score(expected, mixture_groups(z, 2, seed=0)) > 0.95
    assert adjusted_rand_score(expected, latent_groups(z, 2, seed=0)) < 0.9


@pytest.mark.parametrize("by", GROUPINGS)
def test_groups_depend_on_the_seed_alone(by: str) -> None:
    z, expected = separated()
    found = GROUPINGS[by](z, K, 3)
    assert torch.equal(found, GROUPINGS[by](z, K, 3))
    assert adjusted_rand_score(expected, found) == pytest.approx(1.0)


@pytest.mark.parametrize("by", GROUPINGS)
def test_latents_that_are_all_alike_are_one_group(by: str) -> None:
    assert GROUPINGS[by](torch.ones(20, J), K, 0).unique().tolist() == [0]


def test_groups_take_the_names_of_the_clusters_that_they_share_most_with() -> None:
    _, groups = separated()
    names = torch.tensor([2, 0, 3, 1])
    responsibilities = torch.nn.functional.one_hot(names[groups], K) * 0.7 + 0.075
    assert torch.equal(renamed(groups, responsibilities), names[groups])


# Maximum likelihood


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_finds_the_groups_of_latents(name: str) -> None:
    prior = made(name)
    z, expected = separated()
    with torch.no_grad():
        before = float(torch.logsumexp(prior.log_weights() + prior.log_density(z), 1).mean())
    assert fit_prior(prior, z, NARROW, seed=0) == K
    with torch.no_grad():
        after = float(torch.logsumexp(prior.log_weights() + prior.log_density(z), 1).mean())
        found = prior.log_responsibilities(z).argmax(1)
    assert after > before
    assert adjusted_rand_score(expected, found) > 0.99
    prior.validate()


def test_a_normal_component_has_mean_and_deviation_of_its_group() -> None:
    prior = made("gmm", scale_floor=0.0)
    z, groups = separated()
    likelihood = fit_components(prior, z, groups)
    component = prior.component(torch.arange(K))
    for k in range(K):
        own = z[groups == k].numpy()
        np.testing.assert_allclose(component.mean[k].detach().numpy(), own.mean(0), atol=0.02)
        np.testing.assert_allclose(component.stddev[k].detach().numpy(), own.std(0), rtol=0.05)
    best = np.mean([stats.norm(own.mean(0), own.std(0)).logpdf(own).sum(1) for own in by_group(z, groups)])
    assert likelihood == pytest.approx(float(best) + np.log(1 / K), abs=0.02)


def by_group(z: Tensor, groups: Tensor) -> list[Any]:
    return [z[groups == k].numpy() for k in range(K)]


def test_a_trained_phi_has_the_shares_of_the_groups() -> None:
    prior = made("gmm", weights="trainable")
    z, groups = separated()
    chosen = (groups != 0) | (torch.arange(len(z)) % 8 == 0)
    fit_components(prior, z[chosen], groups[chosen])
    shares = torch.bincount(groups[chosen], minlength=K) / chosen.sum()
    torch.testing.assert_close(prior.weights().detach(), shares.double(), atol=0.02, rtol=0)


def test_a_cluster_without_latents_keeps_its_component() -> None:
    prior = made("gmm")
    before = copy.deepcopy(prior.state_dict())
    z, groups = separated()
    fit_components(prior, z[groups > 0], groups[groups > 0])
    for name, value in prior.state_dict().items():
        if value.shape[:1] == (K,) and value.dim() == 2:
            assert torch.equal(value[0], before[name][0]), name
            assert not torch.equal(value[1], before[name][1]), name


@pytest.mark.parametrize("name", PRIORS)
def test_draws_are_those_of_each_image(name: str) -> None:
    """Each image has its own location, and the noise of its own scale, within the standard error."""
    prior, (loc, _) = made(name), separated(8)
    raw_scale = torch.linspace(-2, 1, 8 * J, dtype=torch.float64).view(8, J)
    z = torch.cat([draws(prior, loc, raw_scale, seed) for seed in range(40)])
    assert z.shape == (4000, 8, J)
    # Draws of the scaled noise have one distribution, that of an image with location 0.
    noise = torch.cat([draws(prior, torch.zeros_like(loc), raw_scale, seed) for seed in range(100, 140)])
    for threshold in (-0.5, 0.0, 0.7):
        one, other = ((values < threshold).double().mean(0) for values in (z - loc, noise))
        assert bool(((one - other).abs() < 5 * (0.5 / 4000) ** 0.5).all())
    assert torch.equal(draws(prior, loc, raw_scale, 3), draws(prior, loc, raw_scale, 3))


def test_a_component_has_the_spread_of_its_locations_and_that_of_the_encoder() -> None:
    prior = made("gmm", scale_floor=0.0)
    loc, groups = separated()
    raw_scale = torch.full_like(loc, 0.3)
    own = prior.encoder_distribution(loc[:1], raw_scale[:1]).stddev[0]
    fit_prior(prior, loc, raw_scale, seed=0)
    component, found = prior.component(torch.arange(K)), prior.log_responsibilities(loc).argmax(1)
    for k in range(K):
        group = loc[groups == groups[found == k][0]]
        expected = (group.var(0, correction=0) + own.square()).sqrt()
        torch.testing.assert_close(component.stddev[k].detach(), expected.detach(), rtol=0.08, atol=0)
        torch.testing.assert_close(component.mean[k].detach(), group.mean(0), rtol=0, atol=0.1)


def test_the_fit_leaves_open_which_parameters_are_trained_and_draws_no_random_numbers() -> None:
    prior = made("student_t")
    for parameter in prior.parameters():
        parameter.requires_grad_(False)
    state = torch.get_rng_state()
    fit_prior(prior, separated()[0], NARROW, seed=0)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in prior.parameters())
    assert torch.equal(state, torch.get_rng_state())


# Density


def test_density_is_that_of_scipys_mixture_and_its_gradients_are_finite_differences() -> None:
    prior, (z, _) = made("gmm"), separated(20)
    component = prior.component(torch.arange(K))
    loc, scale = component.mean.detach().numpy(), component.stddev.detach().numpy()
    expected = sum(stats.norm(loc[k], scale[k]).pdf(z.numpy()).prod(1) / K for k in range(K))
    value = terms.density(prior.log_density(z), prior.log_weights())
    assert float(value.detach()) == pytest.approx(-np.log(expected).mean(), rel=1e-9)
    scores = torch.randn(5, K, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda values: terms.density(values, prior.log_weights().detach()), scores)


# In a run

SCHEDULE = Schedule(6, 1, 2, 1e-3, 1e-2, 0.9, 0, iterations=4, real_terms_rise=0, prior_fit=0.5)
WEIGHTS = attrs.evolve(TermWeights.published(1, 8, 8), balance=0.1, consistency=0.3, density=0.5)


def trainer(
    schedule: Schedule = SCHEDULE,
    weights: TermWeights = WEIGHTS,
    engine: Engine | None = None,
) -> Trainer:
    torch.manual_seed(0)
    prior = GaussianMixture(K, 8, GaussianMixtureOptions()).double()
    networks = BigGAN8(BigGANOptions(width=2)).build(K, 8, channels=1)
    for network in networks.by_name().values():
        network.double()
    images = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model = Model.assemble(prior, networks, torch.device("cpu"))
    stream = ImageStream(images, 6, seed=1, invariances=Invariances.parse("shift"))
    return Trainer(model, stream, schedule, weights, engine or PlainEngine())


def bits(one: Trainer) -> list[Tensor]:
    return [value.clone() for part in one.model.parts().values() for value in part.state_dict().values()]


@pytest.mark.parametrize("engine", [PlainEngine, FastEngine])
def test_the_prior_is_fitted_once_at_its_iteration(engine: type[Engine], caplog: pytest.LogCaptureFixture) -> None:
    one, never = trainer(engine=engine()), trainer(attrs.evolve(SCHEDULE, prior_fit=0.0), engine=engine())
    caplog.set_level("INFO")
    for iteration in range(4):
        assert one.prior_fitted == (iteration > 2)
        for each in (one, never):
            torch.manual_seed(iteration)
            each.iterate()
        assert (iteration >= 2) == one.prior_fitted
    assert [record.message for record in caplog.records if "fitted" in record.message] == [
        "iteration 2: the prior is fitted to 4 groups of the latents of 60 images"
    ]
    assert not never.prior_fitted
    # `--minutes` times a fit of a copy, which is not one of the run.
    caplog.clear()
    assert never.fit_prior() == "the prior is fitted to 4 groups of the latents of 60 images"
    assert not caplog.records


@pytest.mark.parametrize("engine", [PlainEngine, FastEngine])
def test_a_second_fit_is_made_at_its_iteration(engine: type[Engine], caplog: pytest.LogCaptureFixture) -> None:
    schedule = attrs.evolve(SCHEDULE, prior_refit=0.75)
    whole, first = trainer(schedule, engine=engine()), trainer(schedule, engine=engine())
    caplog.set_level("INFO")
    for iteration in range(4):
        torch.manual_seed(iteration)
        whole.iterate()
    fits = [message for message in caplog.messages if "fitted" in message]
    assert [message.split(":")[0] for message in fits] == ["iteration 2", "iteration 3"]
    # A run that goes on after its second fit is not fitted a third time.
    for iteration in range(4):
        torch.manual_seed(iteration)
        first.iterate()
        resumed = trainer(schedule, engine=engine())
        resumed.restore(copy.deepcopy(first.state()))
        assert (resumed.fit_decided, resumed.refit_decided) == (iteration >= 2, iteration >= 3)
        first = resumed
    assert all(torch.equal(*pair) for pair in zip(bits(whole), bits(first), strict=True))


def test_a_second_fit_needs_a_first_one(capsys: pytest.CaptureFixture[str]) -> None:
    for before in ([], ["--prior-fit", "0.9"]):
        with pytest.raises(SystemExit) as end:
            start.run_main(["--prior-refit", "0.5", *before, "--dry-run"])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert "--prior-refit 0.5 needs an earlier fit, but prior_fit is 0" in message
        assert "nearest valid choice: --prior-refit 0" in message


@pytest.mark.parametrize("share", ["0", "0.98", "0.99"])
def test_a_second_fit_of_a_preset_is_left_out_if_there_is_no_earlier_one(
    share: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = resolve(load_registry(), [Layer("flag", {"run": {"prior_fit": share}})], "omniglot")
    assert (config.run.prior_fit, config.run.prior_refit) == (float(share), 0)
    assert f"prior_refit 0.98 (preset omniglot) is left out: prior_fit is {share} (flag)" in caplog.messages


def test_fits_that_come_at_once_are_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one = trainer(attrs.evolve(SCHEDULE, prior_fit=0.8, prior_refit=0.98))
    for _ in range(4):
        one.iterate()
    assert len([message for message in caplog.messages if "fitted" in message]) == 1
    assert (one.fit_decided, one.refit_decided) == (True, True)


def test_a_prior_with_many_clusters_is_fitted_to_more_images(monkeypatch: pytest.MonkeyPatch) -> None:
    one, asked = trainer(), list[int]()
    some = one.stream.some

    def counted(count: int) -> Iterator[Tensor]:
        asked.append(count)
        return some(count)

    monkeypatch.setattr(one.stream, "some", counted)
    monkeypatch.setattr("mpcc.core.method.prior_fit.LEAST_IMAGES", 100)
    one.fit_prior()
    assert asked == [400 * K]


def test_what_a_checkpoint_says_of_the_fit() -> None:
    one, other = trainer(), trainer()
    for _ in range(3):
        one.iterate()
    other.restore(copy.deepcopy(one.state()))
    assert (other.fit_decided, other.prior_fitted) == (True, True)
    # Earlier versions had one word for both.
    state = {name: value for name, value in one.state().items() if name != "fit_decided"}
    other = trainer()
    other.restore(copy.deepcopy(state))
    assert other.fit_decided


def test_a_fit_that_cannot_be_made_is_none(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mpcc.core.method.prior_fit.fit_components", lambda *_: 0.0)  # the prior stays as it was
    one = trainer()
    for _ in range(4):
        one.iterate()
    assert (one.fit_decided, one.prior_fitted) == (True, False)
    assert caplog.messages.count("iteration 2: the prior is not fitted: its likelihood did not rise") == 1


def test_density_waits_for_the_fit_and_trains_the_prior_alone() -> None:
    schedule = attrs.evolve(SCHEDULE, iterations=2)
    one, other = trainer(schedule), trainer(schedule, attrs.evolve(WEIGHTS, density=7.0))
    for each in (one, other):
        torch.manual_seed(0)
        assert "density" in each.iterate()
    assert all(torch.equal(*pair) for pair in zip(bits(one), bits(other), strict=True))
    for each in (one, other):
        torch.manual_seed(1)
        each.iterate()
    assert one.prior_fitted
    assert not torch.equal(one.model.prior.loc, other.model.prior.loc)  # type: ignore[arg-type]


def test_the_density_term_is_the_cross_entropy_of_draws_and_the_prior() -> None:
    """Its mean over many draws, for Normals, against integrals by scipy; gradients reach the prior alone."""
    model = trainer().model
    loc = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    raw_scale = torch.linspace(-1, 0, 48, dtype=torch.float64).view(6, 8).requires_grad_()
    batch = Batch(6)
    torch.manual_seed(4)
    values = torch.stack([density_term(model, batch, WEIGHTS, loc, raw_scale).terms["density"] for _ in range(4000)])
    prior, generator = model.prior, np.random.default_rng(5)
    q = prior.encoder_distribution(loc, raw_scale)
    centre, scale = loc.detach().numpy(), q.stddev.detach().numpy()
    component = prior.component(torch.arange(K))
    mean, deviation = component.mean.detach().numpy(), component.stddev.detach().numpy()
    z = centre + scale * generator.normal(size=(4000, 6, 8))
    log_p = np.stack([stats.norm(mean[k], deviation[k]).logpdf(z).sum(-1) for k in range(K)])
    expected = -(np.logaddexp.reduce(log_p, 0) - np.log(K)).mean(1)
    error = np.hypot(float(values.std()), expected.std()) / 4000**0.5
    assert abs(float(values.mean()) - expected.mean()) < 4 * error
    own = [prior.get_parameter(name) for name in ("loc", "raw_scale")]
    with thawed(own):
        total = density_term(model, batch, WEIGHTS, loc, raw_scale).total
        found = torch.autograd.grad(total, [loc, raw_scale, *own], allow_unused=True)
    assert found[:2] == (None, None)
    assert all(bool(gradient.any()) for gradient in found[2:])


@pytest.mark.parametrize("engine", [PlainEngine, FastEngine])
@pytest.mark.parametrize("paused", [1, 2, 3])
def test_a_run_that_pauses_before_or_after_the_fit_ends_with_the_same_bits(paused: int, engine: type[Engine]) -> None:
    whole, first, second = (trainer(engine=engine()) for _ in range(3))
    for iteration in range(4):
        torch.manual_seed(iteration)
        whole.iterate()
    for iteration in range(paused):
        torch.manual_seed(iteration)
        first.iterate()
    second.restore(copy.deepcopy(first.state()))
    for iteration in range(paused, 4):
        torch.manual_seed(iteration)
        second.iterate()
    assert all(torch.equal(*pair) for pair in zip(bits(whole), bits(second), strict=True))


def test_a_longer_run_that_goes_on_is_not_fitted_again() -> None:
    first = trainer()
    for _ in range(3):
        first.iterate()
    longer = trainer(attrs.evolve(SCHEDULE, iterations=20))
    longer.restore(first.state())
    assert longer.prior_fitted
    assert not longer.schedule.prior_fit_due(longer.iteration)


def test_latents_that_are_not_finite_are_left_to_the_guard() -> None:
    one = trainer()
    for _ in range(2):
        one.iterate()
    loc = one.model.prior.loc.detach().clone()  # type: ignore[operator]
    with torch.no_grad():
        next(one.model.networks.encoder.parameters()).fill_(float("nan"))
    one.iterate()
    assert one.guard.breakdown() is not None
    assert torch.equal(one.model.prior.loc.detach(), loc)  # type: ignore[operator]


def test_a_prior_that_cannot_be_fitted_stays_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    prior, (z, groups) = made("gmm"), separated()
    fit_components(prior, z, groups)
    best = copy.deepcopy(prior.state_dict())
    caplog.clear()
    reached = fit_components(prior, z * float("nan"), groups)
    assert not reached > -float("inf")
    assert all(torch.equal(value, best[name]) for name, value in prior.state_dict().items())
    assert "could not be fitted to the latents of real images" in caplog.text


@pytest.mark.parametrize("name", ["gmm", "student_t", "gumbel"])
def test_one_outlier_does_not_stop_the_fit(name: str) -> None:
    prior, (z, groups) = made(name), separated()
    z[0] = -100
    fit_components(prior, z, groups)
    with torch.no_grad():
        found = prior.log_responsibilities(z[1:]).argmax(1)
    assert adjusted_rand_score(groups[1:], found) > 0.99


def test_groups_that_are_far_away_are_reached() -> None:
    prior, (z, groups) = made("gmm"), separated()
    fit_components(prior, 10 * z + 20, groups)
    component = prior.component(torch.arange(K))
    for k, own in enumerate(by_group(10 * z + 20, groups)):
        np.testing.assert_allclose(component.mean[k].detach().numpy(), own.mean(0), atol=0.1)


def test_rounding_is_no_group() -> None:
    noise = 1e-8 * torch.randn(50, J, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert len(latent_groups(1 + noise, K, seed=0).unique()) == 1
    five = torch.arange(50).remainder(5).double()[:, None].expand(50, J) + noise / 1e4
    assert len(latent_groups(five, 10, seed=0).unique()) == 5


def test_the_images_of_a_fit_are_different_ones_and_the_stream_stays_where_it_is() -> None:
    images = torch.arange(99, dtype=torch.uint8).view(99, 1, 1, 1)
    stream = ImageStream(images, 50, seed=4)
    stream.next()
    before = stream.state()
    parts = list(stream.some(1000))
    assert [len(part) for part in parts] == [50, 49]
    assert torch.cat(parts).flatten().tolist() == list(range(99))
    chosen = torch.cat(list(stream.some(60))).flatten()
    assert len(chosen.unique()) == 60
    assert torch.equal(chosen, torch.cat(list(stream.some(60))).flatten())
    assert stream.state() == before


def test_a_short_run_is_fitted_before_its_last_iteration() -> None:
    late = attrs.evolve(SCHEDULE, iterations=10, prior_fit=0.95)
    assert [late.prior_fit_due(done) for done in (8, 9)] == [False, True]


def test_density_alone_trains_no_encoder() -> None:
    alone = attrs.evolve(WEIGHTS, balance=0.0, consistency=0.0)
    one = trainer(weights=alone)
    assert not one.real_terms
    assert "density" in one.iterate()
    assert trainer().real_terms


def test_another_length_on_resume_that_moves_the_fit_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--arch.width", "2", "--batch", "10", "--d-steps", "1", "--e-steps", "1", "--metrics", "acc"]
    fits = ["--prior-fit", "0.5", "--prior-refit", "0.6"]
    length = ["--lr-decay", "0", *fits, "--eval-images", "20", "--standing-passes", "1"]
    run = tmp_path / "run"
    for more in (
        ["--iterations", "4", "--out", str(run), *words, *length],
        ["--resume", str(run), "--iterations", "20"],
    ):
        with pytest.raises(SystemExit) as end:
            start.run_main(more)
        assert end.value.code == 0
    err = capsys.readouterr().err
    assert "with --iterations 20 the prior would not have been fitted by iteration 4" in err
    assert "with --iterations 20 the prior would not have been fitted again by iteration 4: the continued run" in err
    assert err.count("the prior is fitted to") == 2


def test_prediction_imports_nothing_that_only_a_fit_needs() -> None:
    code = "import sys, mpcc.core.run.prediction; print('sklearn.cluster' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"


def test_a_schedule_needs_its_length() -> None:
    with pytest.raises(ValueError, match=r"prior_fit 0.5: expected the number of iterations"):
        attrs.evolve(SCHEDULE, iterations=None)
