"""Known ways in which training goes wrong, recognised in an evaluation (supplement, C and D).

No symptom stops a run. Each is a line for the user on the screen, in TensorBoard and in ``results.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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

__all__ = ["OF_FORMING", "Symptom", "Vitals", "still_forming", "symptoms", "vitals"]

# An evaluation of fewer images than this for each cluster says nothing about empty ones.
IMAGES_A_CLUSTER = 10
# Variance of a cluster's samples as a share of that of real images. In sound clusters it is above 0.1.
COLLAPSED = 0.02
# Share of generated pixels at black or white, beyond that of real ones.
SATURATED = 0.25
# A hyperbolic tangent never reaches the ends: pixels within so many grey levels count as black or white.
NEAR = 6
# Mean entropy of the posterior as a share of log K.
UNDECIDED = 0.9
# Mean hinge loss of the discriminator: 2 by chance, 0 when it is always right by a margin.
WON = 0.05
# Largest singular value of a weight before it is normalised; they start below 2.
EXPLODED = 100.0
# Share of samples whose own cluster is the most probable one; by chance it is 1/K.
IGNORED = 0.3
# Effective number of clusters, exp of the entropy of their sizes, as a share of K.
FEW = 0.3
# Clusters form in this share of the iterations, and in so many at most; until then these symptoms are normal.
FORMING_SHARE, FORMING = 0.25, 2000
# A run of fewer iterations is too short for clusters, whatever its settings.
TOO_SHORT = 500
OF_FORMING = ("empty_clusters", "collapsed_assignments", "undecided_posteriors", "ignored_clusters")


@attrs.frozen
class Symptom:
    """A sign that training goes wrong.

    Attributes:
        name: Short, for tags.
        message: The observation, its meaning, and a remedy.
    """

    name: str
    message: str


@attrs.frozen
class Vitals:
    """The measurements in which symptoms are recognised.

    Attributes:
        sizes: Evaluated images in each cluster.
        diversity: Variance of the samples of each cluster as a share of that of real images.
        saturation: Share of generated pixels at the ends of their range, beyond that of real ones.
        posterior_entropy: Mean entropy of q(y|x) over the evaluated images as a share of log K; 0 for one cluster.
        agreement: Share of samples of y whose most probable cluster is y again.
        hinge: Mean of the discriminator's loss since the last evaluation, or None if none was logged.
        spectral_norms: Largest singular value of a weight in each network, and the name of that weight.
        real_terms: Whether terms on real images train the encoder.
        forming: Whether the run is in the phase in which clusters still form.
        two_peaks: Clusters whose latents have two peaks (`clusters_with_two_peaks`).
        iterations: How long the model has been trained, or None if that is not known.
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
        hinge=sum(hinges) / len(hinges) if hinges else None,
        spectral_norms={name: largest_norm(part) for name, part in model.networks.by_name().items()},
        real_terms=real_terms,
        forming=forming,
        # Before clusters have formed, peaks mean nothing.
        two_peaks=() if forming else tuple(clusters_with_two_peaks(evaluation.locations, evaluation.assignments)),
        iterations=iterations,
    )


def still_forming(done: int, iterations: int) -> bool:
    """Return whether clusters still form: in the first quarter of a run, and in 2,000 iterations at most.

    Example:
        >>> still_forming(200, 1_000), still_forming(300, 1_000), still_forming(3_000, 200_000)
        (True, False, False)
    """
    return done < min(FORMING_SHARE * iterations, FORMING)


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


def symptoms(measured: Vitals) -> list[Symptom]:
    """Return the symptoms, none for a sound run.

    Example:
        >>> sound = Vitals((40, 60), (0.5, 0.4), 0.01, 0.2, 0.95, 0.9, {"generator": (1.5, "entry.weight")})
        >>> symptoms(sound)
        []
        >>> [symptom.name for symptom in symptoms(attrs.evolve(sound, posterior_entropy=0.97, hinge=0.0))]
        ['undecided_posteriors', 'discriminator_won']
    """
    messages: dict[str, str] = {}
    clusters, images = len(measured.sizes), sum(measured.sizes)
    empty = [str(cluster) for cluster, size in enumerate(measured.sizes) if size == 0]
    if empty and images >= IMAGES_A_CLUSTER * clusters:
        messages["empty_clusters"] = (
            f"{len(empty)} of {clusters} clusters have none of the {images} evaluated images ({listed(empty)}): "
            "there are fewer groups than --clusters, or --prior-lr is too large"
        )
    effective = effective_clusters(measured.sizes)
    if measured.real_terms and clusters > 1 and effective < FEW * clusters:
        messages["collapsed_assignments"] = (
            f"the images are spread over the clusters as over {effective:.1f} equal ones, expected at least "
            f"{FEW * clusters:g}: the terms on real images may hold the images together; lower "
            "--consistency-weight, raise --balance-weight, or take --balance-direction prior"
        )
    if measured.two_peaks and not empty:
        double = [str(cluster) for cluster in measured.two_peaks]
        messages["two_groups"] = (
            f"the latents of {listed(double)} have two peaks: a cluster may hold two groups; look at its picture in "
            f"clusters/ (with more than 30 clusters: --picture-clusters all), and if so, run anew with --clusters "
            f"{clusters + len(double)}"
        )
    collapsed = [str(cluster) for cluster, share in enumerate(measured.diversity) if share < COLLAPSED]
    if collapsed:
        messages["collapsed_clusters"] = (
            f"samples of a cluster are all alike ({listed(collapsed)}; variance "
            f"{beside(min(measured.diversity), COLLAPSED)} of that of real images, expected above {COLLAPSED}): lower "
            "--generator-lr-factor or --prior-lr, raise --d-steps, or stop earlier"
        )
    if measured.saturation > SATURATED:
        messages["saturation"] = (
            f"{beside(measured.saturation, SATURATED)} more of the generated pixels than of real ones are black or "
            f"white (expected up to {SATURATED}): lower --batch or --prior-lr"
        )
    if measured.posterior_entropy > UNDECIDED:
        messages["undecided_posteriors"] = (
            f"posteriors are nearly uniform (mean entropy {beside(measured.posterior_entropy, UNDECIDED)} of log K, "
            f"expected below {UNDECIDED}): the components of the prior overlap; raise "
            "--membership-weight, lower the scales of the prior or --entropy-weight"
        )
    if clusters > 1 and measured.agreement < max(IGNORED, 1.5 / clusters):
        messages["ignored_clusters"] = (
            f"only {measured.agreement:.0%} of the samples are assigned to the cluster that they were made for "
            f"(chance: {1 / clusters:.0%}): the generator ignores y; another "
            "--arch.conditioning may suit the data"
        )
    if measured.hinge is not None and measured.hinge < WON:
        messages["discriminator_won"] = (
            f"the discriminator's hinge loss is {beside(measured.hinge, WON)} (expected above {WON}; 2 is chance): "
            "it gives the generator no gradient any more; lower --d-steps or --lr"
        )
    # Discriminator and encoder share weights, so only the network with the largest norm is named.
    network = max(measured.spectral_norms, key=lambda name: measured.spectral_norms[name][0])
    norm, weight = measured.spectral_norms[network]
    if norm > EXPLODED:
        messages["exploding_spectral_norms"] = (
            f"weight {weight} of the {network} has a spectral norm of {beside(norm, EXPLODED)} (expected below "
            f"{EXPLODED:g}): training is unstable; lower --lr"
        )
    if measured.forming:
        messages = {name: message for name, message in messages.items() if name not in OF_FORMING}
    elif measured.iterations is not None and measured.iterations < TOO_SHORT:
        few = f"clusters often need more than {measured.iterations:,} iterations: train longer first, with --resume"
        messages |= {name: f"{message}; but {few}" for name, message in messages.items() if name in OF_FORMING}
    return [Symptom(name, message) for name, message in messages.items()]


def beside(value: float, bound: float) -> str:
    """Return a number, rounded so that it is still on its side of a bound that stands beside it.

    Example:
        >>> beside(0.01996, 0.02), beside(0.0123, 0.02), beside(100.04, 100.0)
        ('0.01996', '0.012', '100.04')
    """
    for digits in range(2, 17):
        text = f"{value:.{digits}g}"
        if (float(text) > bound) == (value > bound) and (float(text) == bound) == (value == bound):
            return text
    return repr(value)


def effective_clusters(sizes: Sequence[int]) -> float:
    """Return exp of the entropy of the sizes: the number of equally large clusters with that entropy.

    Example:
        >>> round(effective_clusters((50, 50, 0)), 3), round(effective_clusters((98, 1, 1)), 2)
        (2.0, 1.12)
    """
    shares = torch.tensor(sizes, dtype=torch.float64) / max(sum(sizes), 1)
    return float(torch.special.entr(shares).sum().exp())


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Return cluster numbers as text; of many, only the first.

    Example:
        >>> listed(["3"]), listed(["1", "2", "3"], shown=2)
        ('cluster 3', 'clusters 1, 2 and 1 more')
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"cluster{'s' if len(names) > 1 else ''} {', '.join(names[:shown])}{more}"
