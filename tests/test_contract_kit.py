"""The contract kit finds what is wrong: one deliberately wrong plugin a test, and the law that it breaks."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal

from mpcc.core.contracts import Prior
from mpcc.core.testing import ContractViolation, Report, check_metric, check_prior
from mpcc.plugins.metrics.accuracy import Accuracy
from mpcc.plugins.priors.cauchy import CauchyMixture
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import CauchyOptions, GaussianMixtureOptions, GumbelOptions, StudentTOptions
from mpcc.plugins.priors.student_t import StudentTMixture

GAUSSIAN = GaussianMixtureOptions()
TRAINED = GaussianMixtureOptions(weights="trainable")

# The laws, by the names that the tests call them.
BUILDS = "it is a Prior that builds for K clusters and J dimensions"
SHAPES = "shapes, dtypes and devices are those of the contract"
TRAINED_PARAMETERS = "every parameter is trained; fixed values are buffers"
SAVED = "saving and loading its state gives the same prior"
COPIED = "a copy shares nothing with its original"
SEEDED = "building and sampling are functions of the seed"
ALONE = "a row is the same alone and in a batch"
ORDER = "labels are drawn first, then the noise"
VALID = "validate() accepts its parameters"
WEIGHTS = "weights are positive and sum to 1, log weights are their logarithm"
FREQUENT = "labels are as frequent as their weights"
NORMALISED = "the density integrates to 1"
SAMPLES = "samples follow the density"
SCORE = "the score has mean 0 under the samples"
BAYES = "responsibilities equal Bayes' rule and sum to 1"
EACH = "log p(z|k) for all k is that of each component"
ENTROPY = "entropies are the integral of -p log p"
DIVERGENCES = "divergences from q(z|x), if they have a closed form, are mean log ratios of samples"
SURPRISE = "entropies are the mean surprise of samples"
USED = "training reaches every parameter, with finite gradients"
REACHED = "samples carry a gradient to every parameter of p(z|y)"
DIFFERENCES = "gradients equal finite differences"
EXPECTATION = "gradients of samples are those of the expectation"
RATIO = "the label ratio is 1 and has the gradient of log phi"
ENCODER = "log q(z|x) is finite, with true gradients in loc, raw_scale and z"
LOCATION = "loc is the mode or the median of q(z|x)"
TAILS = "E_p |log q(z|x)| is finite: the tails of q are heavy enough"
AUTOCAST = "mixed precision changes nothing"
SINGLE = "float32 agrees with float64"
MAP = "the input map is strictly monotone and elementwise, with a finite gradient"
FAR = "log q(y|z) far from every component is finite and sums to 1"
EXTREME = "extreme parameters give no NaN, and finite values finite gradients"


def failures(check: Any, *arguments: Any, **settings: Any) -> dict[str, str]:
    """The laws that a check finds broken, and the figures."""
    with pytest.raises(ContractViolation) as caught:
        check(*arguments, **settings)
    found = {finding.name: finding.detail for finding in caught.value.report.failures}
    assert all(name in str(caught.value) for name in found)
    return found


# Priors whose probabilities are wrong


class WrongEntropy(GaussianMixture):
    """Takes the entropy of exp(raw / 2) alone, without the floor."""

    def entropies(self) -> Tensor:
        return Independent(Normal(self.loc, torch.exp(self.raw_scale / 2), validate_args=False), 1).entropy()


def test_a_wrong_entropy_is_found_by_integral_and_by_monte_carlo() -> None:
    found = failures(check_prior, WrongEntropy, GAUSSIAN)
    assert set(found) == {ENTROPY, SURPRISE}
    assert "Monte Carlo" in found[SURPRISE]
    assert "+-" in found[SURPRISE]


class HighBound(GaussianMixture):
    """Declares a lower bound that lies above the entropy by a twentieth of a nat."""

    entropy_kind = "lower-bound"

    def entropies(self) -> Tensor:
        return super().entropies() + 0.05


class LowBound(HighBound):
    """A true lower bound."""

    def entropies(self) -> Tensor:
        return super().entropies() - 0.5


def test_a_lower_bound_above_the_entropy_is_found_and_a_true_one_passes() -> None:
    found = failures(check_prior, HighBound, GAUSSIAN)
    assert set(found) == {ENTROPY, SURPRISE}
    assert "a lower bound must not exceed the entropy" in found[ENTROPY]
    assert check_prior(LowBound, GAUSSIAN).passed


class NoEntropy(GaussianMixture):
    """Declares no entropy."""

    entropy_kind = "none"

    def entropies(self) -> Tensor:
        raise NotImplementedError


def test_a_prior_without_entropy_passes_and_the_report_says_that_it_was_not_checked() -> None:
    report = check_prior(NoEntropy, GAUSSIAN)
    details = {finding.name: finding.detail for finding in report.findings}
    assert details[ENTROPY] == details[SURPRISE] == "not checked: it declares no entropy"


class TwoVariances(Normal):
    """Scores with variance floor^2 + exp(r), but samples with standard deviation floor + exp(r / 2)."""

    def log_prob(self, value: Tensor) -> Tensor:
        variance = 0.25 + (self.scale - 0.5) ** 2
        return Normal(self.loc, variance.sqrt(), validate_args=False).log_prob(value)


class Inconsistent(GaussianMixture):
    """The authors' slip, see the method: sampling and density have different variances."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return TwoVariances(loc, scale, validate_args=False)

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale, validate_args=False)


def test_a_variance_that_differs_between_sampling_and_density_is_found() -> None:
    found = failures(check_prior, Inconsistent, GAUSSIAN)
    # Its entropy is that of the samples' scale, so that it fits neither; its gradients are right, each for itself.
    assert set(found) == {SAMPLES, SCORE, ENTROPY, SURPRISE, EXPECTATION, DIVERGENCES}
    assert "Kolmogorov-Smirnov" in found[SAMPLES]


class Unnormalised(GaussianMixture):
    """Its density forgets the scale in front of the exponential."""

    def log_density(self, z: Tensor) -> Tensor:
        return super().log_density(z) + self.scales().log().sum(1)


def test_a_density_that_does_not_integrate_to_one_is_found() -> None:
    found = failures(check_prior, Unnormalised, GAUSSIAN)
    assert {NORMALISED, SCORE, EACH} <= set(found)
    assert "integrates to" in found[NORMALISED]
    assert not {SHAPES, WEIGHTS, REACHED, TAILS, DIFFERENCES} & set(found)


class BlindToWeights(GaussianMixture):
    """Its responsibilities forget phi."""

    def log_responsibilities(self, z: Tensor) -> Tensor:
        return torch.log_softmax(self.log_density(z), dim=-1)


@pytest.mark.parametrize("options", [GAUSSIAN, TRAINED], ids=["fixed", "trained"])
def test_responsibilities_that_ignore_the_weights_are_found_even_if_the_weights_start_equal(options: Any) -> None:
    assert set(failures(check_prior, BlindToWeights, options)) == {BAYES}


class Unbalanced(GaussianMixture):
    """Weights that sum to 1.2."""

    def weights(self) -> Tensor:
        return 1.2 * super().weights()

    def log_weights(self) -> Tensor:
        return self.weights().log()


def test_weights_that_do_not_sum_to_one_are_found() -> None:
    found = failures(check_prior, Unbalanced, GAUSSIAN)
    assert set(found) == {WEIGHTS, VALID}
    assert "they sum to 1.2" in found[WEIGHTS]


class WrongLabels(GaussianMixture):
    """Draws all labels alike, whatever their weights."""

    def sample_labels(self, count: int) -> Tensor:
        return torch.randint(self.clusters, (count,), device=self.loc.device)


def test_labels_that_are_not_drawn_by_their_weights_are_found() -> None:
    found = failures(check_prior, WrongLabels, TRAINED)
    assert FREQUENT in found
    assert set(found) <= {FREQUENT, SCORE}


# Priors whose gradients are wrong


class Detached(GaussianMixture):
    """z is built from a detached scale."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        y = self.sample_labels(count)
        z = Independent(Normal(self.loc[y], self.scales()[y].detach(), validate_args=False), 1).rsample()
        return z, y


def test_a_detached_gradient_of_the_samples_is_found_and_its_parameter_named() -> None:
    found = failures(check_prior, Detached, GAUSSIAN)
    assert set(found) == {REACHED, EXPECTATION}
    assert "depends on raw_scale, but samples have no gradient in it" in found[REACHED]
    assert "raw_scale" in found[EXPECTATION]


class HalfGradient(GaussianMixture):
    """Half of the scale's gradient is cut off in the samples: there, but wrong."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        y = self.sample_labels(count)
        scale = self.scales()[y]
        return self.loc[y] + (scale + scale.detach()) / 2 * torch.randn_like(scale), y


def test_a_gradient_of_the_samples_that_is_there_but_wrong_is_found() -> None:
    found = failures(check_prior, HalfGradient, GAUSSIAN)
    assert EXPECTATION in found
    assert set(found) <= {EXPECTATION, ORDER}
    assert "J = 1, 50000 samples: the mean gradient in raw_scale is " in found[EXPECTATION]


class DetachedEntropy(GaussianMixture):
    """The right entropy, without a gradient."""

    def entropies(self) -> Tensor:
        return super().entropies().detach()


def test_an_entropy_without_its_gradient_is_found() -> None:
    found = failures(check_prior, DetachedEntropy, GAUSSIAN)
    assert set(found) == {DIFFERENCES}
    assert found[DIFFERENCES].startswith("entropies in raw_scale: Jacobian mismatch")
    assert "analytical:tensor([[0.], [0.], [0.], [0.], [0.], [0.]]" in found[DIFFERENCES]


class Idle(GaussianMixture):
    """Has a parameter that nothing reads."""

    def __init__(self, clusters: int, latent_dim: int, options: GaussianMixtureOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.unused = nn.Parameter(torch.zeros(3))


def test_a_parameter_that_is_never_used_is_found() -> None:
    found = failures(check_prior, Idle, GAUSSIAN)
    assert set(found) == {USED}
    assert "gradient in unused" in found[USED]


class Frozen(GaussianMixture):
    """Holds what is fixed as a parameter without a gradient."""

    def __init__(self, clusters: int, latent_dim: int, options: GaussianMixtureOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.centre = nn.Parameter(torch.zeros(latent_dim), requires_grad=False)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return super().family(loc + self.centre.square(), scale)

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return super().family(loc, scale)


def test_a_fixed_parameter_is_found() -> None:
    found = failures(check_prior, Frozen, GAUSSIAN)
    assert set(found) == {TRAINED_PARAMETERS}
    assert "prior.centre is a parameter with requires_grad=False" in found[TRAINED_PARAMETERS]


class NoRatio(GaussianMixture):
    """Trains its weights, but hands out no ratio for them."""

    def label_ratio(self, y: Tensor) -> Tensor | None:
        return None


def test_trained_weights_without_a_label_ratio_are_found() -> None:
    assert set(failures(check_prior, NoRatio, TRAINED)) == {RATIO}


# Priors with the wrong encoder


class LightTailed(CauchyMixture):
    """A Cauchy prior with a Normal q(z|x)."""

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale, validate_args=False)


def test_a_normal_encoder_under_a_cauchy_prior_is_found() -> None:
    found = failures(check_prior, LightTailed, CauchyOptions())
    assert set(found) == {TAILS}
    assert "it diverges" in found[TAILS]
    assert "a decade of |z| contributes 10 times as much as the one before" in found[TAILS]


class NormalEncoder(StudentTMixture):
    """A Student-t prior with a Normal q(z|x)."""

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale, validate_args=False)


@pytest.mark.parametrize("df", [1.0, 2.0])
def test_a_normal_encoder_under_a_student_t_without_a_variance_is_found(df: float) -> None:
    assert set(failures(check_prior, NormalEncoder, StudentTOptions(df=df))) == {TAILS}


def test_a_normal_encoder_under_a_student_t_with_a_variance_passes_unless_nu_is_learned() -> None:
    assert check_prior(NormalEncoder, StudentTOptions(df=2.1)).passed
    # A learned nu may fall to its floor of 1, where the variance is gone.
    found = failures(check_prior, NormalEncoder, StudentTOptions(df=3.0, learn_df=True))
    assert set(found) == {TAILS}
    assert "raw_df -8" in found[TAILS]


class HeavyEncoder(GaussianMixture):
    """A Normal prior with a Cauchy q(z|x), heavier than needed."""

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        cauchy: Distribution = dist.Cauchy(loc, scale, validate_args=False)
        return cauchy


def test_an_encoder_with_heavier_tails_than_the_prior_passes() -> None:
    assert check_prior(HeavyEncoder, GAUSSIAN).passed


class Displaced(GaussianMixture):
    """q(z|x) sits beside its location."""

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc + 0.3 * scale, scale, validate_args=False)


def test_an_encoder_whose_location_is_not_loc_is_found() -> None:
    found = failures(check_prior, Displaced, GAUSSIAN)
    assert set(found) == {LOCATION}
    assert "of its samples lie below loc" in found[LOCATION]


class DeafEncoder(GaussianMixture):
    """q(z|x) has a fixed scale."""

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, torch.ones_like(scale), validate_args=False)


def test_an_encoder_that_ignores_its_raw_scale_is_found() -> None:
    found = failures(check_prior, DeafEncoder, GAUSSIAN)
    assert set(found) == {ENCODER}
    assert "log q has no gradient in raw_scale" in found[ENCODER]


# Priors with the wrong structure


class NoEventDimension(GaussianMixture):
    """Forgets Independent: J densities where there should be one."""

    def component(self, y: Tensor) -> Distribution:
        return Normal(self.loc[y], self.scales()[y])


def test_a_missing_event_dimension_is_found() -> None:
    found = failures(check_prior, NoEventDimension, GAUSSIAN)
    assert "component(y of shape (6,)): expected batch and event shape ((6,), (1,)), got ((6, 1), ())" in found[SHAPES]
    # The structure around it is sound; everything that needs a density can't be.
    assert not {BUILDS, TRAINED_PARAMETERS, WEIGHTS, MAP, ENCODER} & set(found)


class HalfPrecision(GaussianMixture):
    """Computes its density in half precision."""

    def log_density(self, z: Tensor) -> Tensor:
        return super().log_density(z).bfloat16()


def test_a_density_in_half_precision_is_found_by_its_dtype() -> None:
    found = failures(check_prior, HalfPrecision, GAUSSIAN)
    assert "log_density: expected torch.float32, got torch.bfloat16" in found[SHAPES]


class Rounded(GaussianMixture):
    """Computes its locations in half precision when it is in single, and hides it."""

    def component(self, y: Tensor) -> Distribution:
        loc = self.loc.bfloat16().to(self.loc) if self.loc.dtype == torch.float32 else self.loc
        return Independent(self.family(loc[y], self.scales()[y]), 1, validate_args=False)


def test_half_precision_that_hides_behind_the_right_dtype_is_found() -> None:
    found = failures(check_prior, Rounded, GAUSSIAN)
    assert set(found) == {SINGLE}
    assert "float32 is off by" in found[SINGLE]


class Autocast(GaussianMixture):
    """Computes its density by a matrix product outside of `full_precision`."""

    def log_density(self, z: Tensor) -> Tensor:
        rotated = z @ torch.eye(self.latent_dim, dtype=z.dtype, device=z.device)
        return super().log_density(rotated.to(z.dtype))


def test_arithmetic_that_mixed_precision_reaches_is_found() -> None:
    assert set(failures(check_prior, Autocast, GAUSSIAN)) == {AUTOCAST}


class Forgetful(GaussianMixture):
    """Keeps a random shift outside of its state."""

    def __init__(self, clusters: int, latent_dim: int, options: GaussianMixtureOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.shift = torch.randn(latent_dim, dtype=torch.float64)

    def component(self, y: Tensor) -> Distribution:
        loc = self.loc[y] + self.shift.to(self.loc)
        return Independent(self.family(loc, self.scales()[y]), 1, validate_args=False)


class PlainTensor(GaussianMixture):
    """Keeps a constant as a plain tensor."""

    def __init__(self, clusters: int, latent_dim: int, options: GaussianMixtureOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.constant = torch.tensor(2.0)


def test_state_outside_of_the_state_dict_is_found() -> None:
    found = failures(check_prior, Forgetful, GAUSSIAN)
    assert set(found) == {SAVED}
    assert "loaded into one of another seed: z differs" in found[SAVED]
    found = failures(check_prior, PlainTensor, GAUSSIAN)
    assert set(found) == {SAVED}
    assert "prior.constant is a plain tensor" in found[SAVED]


class LateLabels(GaussianMixture):
    """Draws the noise first."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, self.latent_dim, dtype=self.loc.dtype, device=self.loc.device)
        y = self.sample_labels(count)
        return self.loc[y] + self.scales()[y] * noise, y


def test_labels_drawn_after_the_noise_are_found() -> None:
    found = failures(check_prior, LateLabels, GAUSSIAN)
    assert set(found) == {ORDER}
    assert "does not begin with the labels" in found[ORDER]


class OwnGenerator(GaussianMixture):
    """Draws from a generator of its own, so that the run's seed does not count."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        y = self.sample_labels(count)
        generator = torch.Generator().manual_seed(time.monotonic_ns())
        noise = torch.randn(count, self.latent_dim, generator=generator).to(self.loc)
        return self.loc[y] + self.scales()[y] * noise, y


def test_randomness_that_the_seed_does_not_rule_is_found() -> None:
    assert {SEEDED, ORDER} <= set(failures(check_prior, OwnGenerator, GAUSSIAN))


class Folded(GaussianMixture):
    """Its input map turns back."""

    def input_map(self, z: Tensor) -> Tensor:
        return z + 3 * torch.sin(z)


class Whitened(GaussianMixture):
    """Its input map depends on the batch."""

    def input_map(self, z: Tensor) -> Tensor:
        return z / (1 + z.square().mean())


def test_an_input_map_that_is_not_monotone_or_not_elementwise_is_found() -> None:
    found = failures(check_prior, Folded, GAUSSIAN)
    assert set(found) == {MAP}
    assert "not strictly monotone between z = " in found[MAP]
    found = failures(check_prior, Whitened, GAUSSIAN)
    assert set(found) == {ALONE}
    assert "input_map(z): row 0 alone and in a batch of 5 differ" in found[ALONE]


class Overflowing(GaussianMixture):
    """Takes the density before its logarithm."""

    def log_responsibilities(self, z: Tensor) -> Tensor:
        joint = self.weights() * self.log_density(z).exp()
        return (joint / joint.sum(-1, keepdim=True)).log()


def test_responsibilities_that_underflow_far_out_are_found() -> None:
    found = failures(check_prior, Overflowing, GAUSSIAN)
    assert FAR in found
    assert set(found) <= {FAR, EXTREME}


class Exploding(GaussianMixture):
    """Scales exp(exp(raw)): NaN where others are merely large."""

    def scales(self) -> Tensor:
        return 0.5 + torch.exp(torch.exp(self.raw_scale / 4))

    def entropies(self) -> Tensor:
        return super().entropies() * self.scales().prod(1) / self.scales().prod(1)


def test_parameters_that_give_nan_when_they_are_extreme_are_found() -> None:
    found = failures(check_prior, Exploding, GAUSSIAN)
    assert set(found) == {EXTREME}
    assert "raw_scale +60" in found[EXTREME] or "raw_scale +20" in found[EXTREME]


class Shared(GaussianMixture):
    """A copy keeps the parameters of its original."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


def test_a_copy_that_is_none_is_found() -> None:
    assert set(failures(check_prior, Shared, GAUSSIAN)) == {COPIED}


class Raising(GaussianMixture):
    """Fails in the middle of one method."""

    def entropies(self) -> Tensor:
        raise ZeroDivisionError("no entropy today")


def test_a_method_that_raises_is_one_finding_with_the_line_of_the_plugin() -> None:
    found = failures(check_prior, Raising, GAUSSIAN)
    assert set(found) == {SHAPES}
    assert found[SHAPES].startswith("raised ZeroDivisionError: no entropy today at ")
    assert "test_contract_kit.py:" in found[SHAPES]
    assert found[SHAPES].endswith("nothing else was checked, for the other laws need this one")


class RaisingFarOut(GaussianMixture):
    """Fails only for more rows than a few."""

    def log_density(self, z: Tensor) -> Tensor:
        if len(z) > 6:
            raise ZeroDivisionError("no density today")
        return super().log_density(z)


def test_an_exception_that_stops_many_laws_is_told_once_and_the_other_laws_are_checked() -> None:
    found = failures(check_prior, RaisingFarOut, GAUSSIAN)
    assert not {WEIGHTS, SHAPES, BUILDS, LOCATION} & set(found)
    told = [detail for detail in found.values() if "no density today" in detail]
    repeated = [detail for detail in found.values() if detail.startswith("raised the same exception as in ")]
    assert len(told) == 1
    assert len(repeated) > 5


class UnsaidError(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("cannot be said")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnsaidError(), "raised UnsaidError at "),
        (asyncio.CancelledError("cancelled"), "raised CancelledError: cancelled at "),
        (SystemExit("over"), "raised SystemExit: over at "),
    ],
)
def test_whatever_a_plugin_raises_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str
) -> None:
    def entropies(self: Raising) -> Tensor:
        raise error

    monkeypatch.setattr(Raising, "entropies", entropies)
    found = failures(check_prior, Raising, GAUSSIAN)
    assert set(found) == {SHAPES}
    assert found[SHAPES].startswith(said)
    assert "test_contract_kit.py:" in found[SHAPES]


def test_an_interruption_ends_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def entropies(self: Raising) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Raising, "entropies", entropies)
    with pytest.raises(KeyboardInterrupt):
        failures(check_prior, Raising, GAUSSIAN)


class Unbuildable(GaussianMixture):
    """Cannot be made for a single cluster."""

    def __init__(self, clusters: int, latent_dim: int, options: GaussianMixtureOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        if clusters < 2:
            raise ValueError("expected 2 clusters or more")


def test_a_prior_that_does_not_build_gets_one_finding_and_no_more() -> None:
    found = failures(check_prior, Unbuildable, GAUSSIAN)
    assert set(found) == {BUILDS}
    assert "expected 2 clusters or more" in found[BUILDS]
    assert "nothing else was checked" in found[BUILDS]


def test_options_that_were_forgotten_are_asked_for() -> None:
    found = failures(check_prior, GaussianMixture)
    assert set(found) == {BUILDS}
    assert "no options were given: does it need an instance of its options class?" in found[BUILDS]


def test_a_check_leaves_every_random_state_as_it_was() -> None:
    before = (torch.get_rng_state(), copy.deepcopy(np.random.get_state()), random.getstate())
    check_prior(GaussianMixture, GAUSSIAN)
    check_metric(Accuracy)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1][1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_a_check_under_no_grad_and_twice_gives_the_same_report() -> None:
    with torch.no_grad():
        first = check_prior(GaussianMixture, GAUSSIAN)
    assert first == check_prior(GaussianMixture, GAUSSIAN)
    assert first.kind == "prior"
    assert first.name == "GaussianMixture"


@pytest.mark.parametrize("seed", range(1, 4))
def test_no_seed_of_the_kit_raises_a_false_alarm(seed: int) -> None:
    assert check_prior(GaussianMixture, TRAINED, seed=seed).passed


class Sampled(Independent):
    """A component of a prior outside of Pyro."""


class Handwritten(Prior):
    """A prior written from the contract alone, on torch's own Laplace, without the core's mixture."""

    def __init__(self, clusters: int, latent_dim: int, options: None = None) -> None:
        super().__init__()
        self.clusters, self.latent_dim = clusters, latent_dim
        self.centres = nn.Parameter(torch.randn(clusters, latent_dim))
        self.widths = nn.Parameter(torch.zeros(latent_dim))
        self.logits = nn.Parameter(torch.zeros(clusters))

    def component(self, y: Tensor) -> Distribution:
        scale = F.softplus(self.widths) + 0.1
        return Sampled(Laplace(self.centres[y], scale, validate_args=False), 1, validate_args=False)

    def weights(self) -> Tensor:
        return torch.softmax(self.logits, 0)

    def log_weights(self) -> Tensor:
        return torch.log_softmax(self.logits, 0)

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        return Independent(Normal(loc, torch.exp(raw_scale / 2), validate_args=False), 1, validate_args=False)


def test_a_right_prior_written_from_the_contract_alone_passes() -> None:
    report: Report = check_prior(Handwritten)
    assert report.lines()[0] == f"prior Handwritten: all {len(report.findings)} laws hold"
    assert all(line.startswith("ok ") for line in report.lines()[1:])


def test_a_gumbel_with_either_encoder_passes() -> None:
    for encoder in ("laplace", "logistic"):
        assert check_prior("gumbel", GumbelOptions(encoder=encoder)).passed
