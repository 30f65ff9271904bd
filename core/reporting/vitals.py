"""What an evaluation measures to tell whether training is sound: sizes, diversity, posteriors, norms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Evaluation
from mpcc.core.evaluation.evaluation import Pictures
from mpcc.core.evaluation.inference import predictions
from mpcc.core.layers.spectral_norm import SpectralLayer
from mpcc.core.method.model import Model
from mpcc.core.reporting.two_peaks import clusters_with_two_peaks
from mpcc.core.system.randomness import own_randomness

__all__ = ["Vitals", "effective_clusters", "still_forming", "vitals"]

# A hyperbolic tangent never reaches the ends: pixels within so many grey levels count as black or white.
NEAR = 6
# Clusters form in this share of the iterations, and in so many at most.
FORMING_SHARE, FORMING = 0.25, 2000
# The terms that train a model of the default objective, those on real images left out.
OF_MPCC = frozenset({"data_discriminator", "data_generator", "latent", "membership", "entropy", "label"})


@attrs.frozen
class Vitals:
    """The measurements in which symptoms are recognised.

    Attributes:
        sizes: Evaluated images in each cluster.
        diversity: Variance of the samples of each cluster as a share of that of real images.
        saturation: Share of generated pixels at the ends of their range, beyond that of real ones.
        posterior_entropy: Mean entropy of q(y|x) over the evaluated images as a share of log K; 0 for one cluster.
        agreement: Share of samples of y whose most probable cluster is y again.
        hinge: Mean of the discriminator's loss since the last evaluation, or None if it was not logged twice.
        gradient_norms: Median norm of the logged gradients of each part since the last evaluation; empty if none was
            logged.
        spectral_norms: Largest singular value of a weight in each network, and the name of that weight.
        real_terms: Whether terms on real images train the encoder.
        forming: Whether the run is in the phase in which clusters still form.
        two_peaks: Clusters whose latents have two peaks (`clusters_with_two_peaks`).
        iterations: How long the model has been trained, or None if that is not known.
        terms: The names of the terms that train the model; by default, those of MPCC.
        prior_is_fixed: Whether nothing ever trains the prior.
    """

    sizes: tuple[int, ...]
    diversity: tuple[float, ...]
    saturation: float
    posterior_entropy: float
    agreement: float
    hinge: float | None
    spectral_norms: Mapping[str, tuple[float, str]]
    real_terms: bool = False
    forming: bool = False
    two_peaks: tuple[int, ...] = ()
    iterations: int | None = None
    gradient_norms: Mapping[str, float] = attrs.field(factory=dict)
    terms: frozenset[str] = OF_MPCC
    prior_is_fixed: bool = False

    def has(self, term: str) -> bool:
        """Return whether a term trains the model."""
        return term in self.terms

    @property
    def clusters_images(self) -> bool:
        """Whether the system has labels y: a term says what they are worth."""
        return self.has("membership") or self.has("label_divergence")

    def quantities(self) -> dict[str, float]:
        """Return the numbers for curves and ``results.json``."""
        numbers = {
            "empty_clusters": float(sum(size == 0 for size in self.sizes)),
            "clusters_with_two_peaks": float(len(self.two_peaks)),
            "least_diversity": min(self.diversity),
            "saturation": self.saturation,
            "posterior_entropy": self.posterior_entropy,
            "agreement": self.agreement,
            **{f"spectral_norm_{network}": value for network, (value, _) in self.spectral_norms.items()},
            **{f"gradient_norm_{part}": value for part, value in self.gradient_norms.items()},
        }
        return numbers if self.hinge is None else {**numbers, "discriminator_hinge": self.hinge}


@torch.no_grad()
def vitals(
    model: Model,
    evaluation: Evaluation,
    pictures: Pictures,
    hinges: Sequence[float],
    *,
    real_terms: bool = False,
    forming: bool = False,
    iterations: int | None = None,
    gradient_norms: Mapping[str, Sequence[float]] | None = None,
    terms: Collection[str] | None = None,
    prior_is_fixed: bool = False,
) -> Vitals:
    """Measure a model without a change to it or to any random state.

    Arguments:
        model: Networks and prior.
        evaluation: Posterior of the evaluated images.
        pictures: Samples of every cluster, and real images.
        hinges: Logged losses of the discriminator since the last evaluation.
        real_terms: Whether terms on real images train the encoder.
        forming: The result of `still_forming`.
        iterations: How long the model has been trained.
        gradient_norms: Logged norms of the gradients of each part since the last evaluation.
        terms: The names of the terms that train the model, or None for those of MPCC.
        prior_is_fixed: Whether nothing ever trains the prior.
    """
    clusters = evaluation.clusters
    # Shares are the same for images in [-1, 1] and in 0..255.
    real, samples = pictures.originals.double(), pictures.samples.double()
    spread = float(real.var(dim=0, correction=0).mean())
    varied = samples.var(dim=1, correction=0).flatten(1).mean(1)
    entropy = float(torch.special.entr(evaluation.posterior.double()).sum(1).mean())
    with own_randomness(0, model.device):
        predicted = predictions(model, pictures.samples.flatten(0, 1))
        assigned = torch.cat([prediction.clusters for prediction in predicted]).view(clusters, -1)
    return Vitals(
        sizes=tuple(torch.bincount(evaluation.assignments, minlength=clusters).tolist()),
        diversity=tuple((varied / max(spread, 1e-9)).tolist()),
        saturation=at_the_ends(pictures.samples) - at_the_ends(pictures.originals),
        posterior_entropy=entropy / math.log(clusters) if clusters > 1 else 0.0,
        agreement=float((assigned == torch.arange(clusters)[:, None]).double().mean()),
        hinge=sum(hinges) / len(hinges) if len(hinges) > 1 else None,
        spectral_norms={name: largest_norm(part) for name, part in model.networks.by_name().items()},
        real_terms=real_terms,
        forming=forming,
        # Before clusters have formed, peaks mean nothing.
        two_peaks=() if forming else tuple(clusters_with_two_peaks(evaluation.locations, evaluation.assignments)),
        iterations=iterations,
        gradient_norms={part: statistics.median(norms) for part, norms in (gradient_norms or {}).items() if norms},
        terms=OF_MPCC if terms is None else frozenset(terms),
        prior_is_fixed=prior_is_fixed,
    )


def still_forming(done: int, iterations: int, *, fit_to_come: bool = False) -> bool:
    """Return whether clusters still form: in the first quarter of a run, and in 2,000 iterations at most.

    Arguments:
        done: Iterations that are done.
        iterations: Those of the whole run.
        fit_to_come: Whether nothing trains clusters before a fit of the prior that is still to come.

    Example:
        >>> still_forming(200, 1_000), still_forming(300, 1_000), still_forming(3_000, 200_000)
        (True, False, False)
        >>> still_forming(300, 1_000, fit_to_come=True)
        True
    """
    return fit_to_come or done < min(FORMING_SHARE * iterations, FORMING)


def at_the_ends(images: Tensor) -> float:
    """Return the share of pixels, uint8, that are black or white, or nearly so."""
    return float(((images <= NEAR) | (images >= 255 - NEAR)).double().mean())


def largest_norm(network: nn.Module) -> tuple[float, str]:
    """Return the largest singular value of a network's weights before normalisation, and the weight's name."""
    norms = {}
    for name, module in network.named_modules():
        if isinstance(module, SpectralLayer):
            norms[f"{name}.weight"] = float(module.spectral_norm())
        else:
            for own, weight in module.named_parameters(prefix=name, recurse=False):
                if weight.dim() > 1:
                    norms[own] = float(torch.linalg.matrix_norm(weight.flatten(1).float(), 2))
    if not norms:
        return 0.0, ""
    worst = max(norms, key=lambda name: norms[name])
    return norms[worst], worst


def effective_clusters(sizes: Sequence[int]) -> float:
    """Return exp of the entropy of the sizes: the number of equally large clusters with that entropy.

    Example:
        >>> round(effective_clusters((50, 50, 0)), 3), round(effective_clusters((98, 1, 1)), 2)
        (2.0, 1.12)
    """
    shares = torch.tensor(sizes, dtype=torch.float64) / max(sum(sizes), 1)
    return float(torch.special.entr(shares).sum().exp())
