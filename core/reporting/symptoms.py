"""Known ways in which training goes wrong, seen from what an evaluation finds (supplement, C and D).

Nothing here stops a run: each symptom is a line for its user, on the screen, in TensorBoard and in ``results.json``.
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
from mpcc.core.system.randomness import own_randomness

__all__ = ["Symptom", "Vitals", "symptoms", "vitals"]

# An evaluation of fewer images than this for each cluster says nothing about empty ones.
IMAGES_A_CLUSTER = 10
# Variance of a cluster's samples as a share of that of real images. Of sound clusters it is above 0.1.
COLLAPSED = 0.02
# Share of generated pixels at black or white, beyond that of real ones.
SATURATED = 0.25
# A hyperbolic tangent never reaches the ends: so many grey levels away is as good as there.
NEAR = 6
# Mean entropy of the posterior as a share of log K.
UNDECIDED = 0.9
# Mean hinge loss of the discriminator: 2 when it knows nothing, 0 when it is never wrong nor near it.
WON = 0.05
# Largest singular value of a weight before it is normalised; they start below 2.
EXPLODED = 100.0
# Share of samples whose own cluster is the most probable one; by chance it is 1/K.
IGNORED = 0.3


@attrs.frozen
class Symptom:
    """Something that a sound run does not show.

    Attributes:
        name: Short, for tags.
        message: What was seen, what it means, and what helps.
    """

    name: str
    message: str


@attrs.frozen
class Vitals:
    """What symptoms are seen in.

    Attributes:
        sizes: Evaluated images in each cluster.
        diversity: Variance of the samples of each cluster as a share of that of real images.
        saturation: Share of generated pixels at the ends of their range, beyond that of real ones.
        posterior_entropy: Mean entropy of q(y|z) over the evaluated images as a share of log K; 0 for one cluster.
        agreement: Share of samples of y whose most probable cluster is y again.
        hinge: Mean of the discriminator's loss since the last evaluation, or None if none was logged.
        spectral_norms: Largest singular value of a weight in each network, and the name of that weight.
    """

    sizes: tuple[int, ...]
    diversity: tuple[float, ...]
    saturation: float
    posterior_entropy: float
    agreement: float
    hinge: float | None
    spectral_norms: Mapping[str, tuple[float, str]]

    def quantities(self) -> dict[str, float]:
        """Return what curves show and ``results.json`` holds."""
        found = {
            "empty_clusters": float(sum(size == 0 for size in self.sizes)),
            "least_diversity": min(self.diversity),
            "saturation": self.saturation,
            "posterior_entropy": self.posterior_entropy,
            "agreement": self.agreement,
            **{f"spectral_norm_{network}": value for network, (value, _) in self.spectral_norms.items()},
        }
        return found if self.hinge is None else {**found, "discriminator_hinge": self.hinge}


@torch.no_grad()
def vitals(model: Model, evaluation: Evaluation, pictures: Pictures, hinges: Sequence[float]) -> Vitals:
    """Measure a model; neither it nor any random state is changed.

    Arguments:
        model: Networks and prior.
        evaluation: Posterior of the evaluated images.
        pictures: Samples of every cluster, and real images.
        hinges: Logged losses of the discriminator since the last evaluation.
    """
    clusters = evaluation.clusters
    # Images in [-1, 1] or in 0..255: shares do not depend on the unit.
    real, samples = pictures.originals.double(), pictures.samples.double()
    spread = float(real.var(dim=0, correction=0).mean())
    varied = samples.var(dim=1, correction=0).flatten(1).mean(1)
    entropy = float(torch.special.entr(evaluation.posterior.double()).sum(1).mean())
    with own_randomness(0, model.device):
        found = predictions(model, pictures.samples.flatten(0, 1))
        assigned = torch.cat([each.clusters for each in found]).view(clusters, -1)
    return Vitals(
        sizes=tuple(torch.bincount(evaluation.assignments, minlength=clusters).tolist()),
        diversity=tuple((varied / max(spread, 1e-9)).tolist()),
        saturation=at_the_ends(pictures.samples) - at_the_ends(pictures.originals),
        posterior_entropy=entropy / math.log(clusters) if clusters > 1 else 0.0,
        agreement=float((assigned == torch.arange(clusters)[:, None]).double().mean()),
        hinge=sum(hinges) / len(hinges) if hinges else None,
        spectral_norms={name: largest_norm(part) for name, part in model.networks.by_name().items()},
    )


def at_the_ends(images: Tensor) -> float:
    """Return the share of pixels, uint8, that are black or white, or nearly so."""
    return float(((images <= NEAR) | (images >= 255 - NEAR)).double().mean())


def largest_norm(network: nn.Module) -> tuple[float, str]:
    """Return the largest singular value of the weights of a network, as trained, and the weight's name."""
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


def symptoms(found: Vitals) -> list[Symptom]:
    """Return what is wrong, nothing for a sound run.

    Example:
        >>> sound = Vitals((40, 60), (0.5, 0.4), 0.01, 0.2, 0.95, 0.9, {"generator": (1.5, "entry.weight")})
        >>> symptoms(sound)
        []
        >>> [each.name for each in symptoms(attrs.evolve(sound, posterior_entropy=0.97, hinge=0.0))]
        ['undecided_posteriors', 'discriminator_won']
    """
    seen: dict[str, str] = {}
    clusters, images = len(found.sizes), sum(found.sizes)
    empty = [str(cluster) for cluster, size in enumerate(found.sizes) if size == 0]
    if empty and images >= IMAGES_A_CLUSTER * clusters:
        seen["empty_clusters"] = (
            f"{len(empty)} of {clusters} clusters have none of the {images} evaluated images ({listed(empty)}): "
            "training has only begun, there are fewer groups than --clusters, or --prior-lr is too large"
        )
    collapsed = [str(cluster) for cluster, share in enumerate(found.diversity) if share < COLLAPSED]
    if collapsed:
        seen["collapsed_clusters"] = (
            f"samples of a cluster are all alike ({listed(collapsed)}; variance {min(found.diversity):.2g} of that "
            f"of real images, expected above {COLLAPSED}): lower --prior-lr, raise --d-steps, or stop earlier"
        )
    if found.saturation > SATURATED:
        seen["saturation"] = (
            f"{found.saturation:.0%} more of the generated pixels than of real ones are black or white (expected "
            f"up to {SATURATED:.0%}): lower --batch or --prior-lr"
        )
    if found.posterior_entropy > UNDECIDED:
        seen["undecided_posteriors"] = (
            f"posteriors are nearly uniform (mean entropy {found.posterior_entropy:.2f} of log K, expected below "
            f"{UNDECIDED}): training has only begun, or the components of the prior overlap; raise "
            "--membership-weight, lower the scales of the prior or --entropy-weight"
        )
    if clusters > 1 and found.agreement < max(IGNORED, 1.5 / clusters):
        seen["ignored_clusters"] = (
            f"only {found.agreement:.0%} of the samples are assigned to the cluster that they were made for "
            f"(chance: {1 / clusters:.0%}): the generator ignores y, or training has only begun; another "
            "--arch.conditioning may suit the data"
        )
    if found.hinge is not None and found.hinge < WON:
        seen["discriminator_won"] = (
            f"the discriminator's hinge loss is {found.hinge:.3f} (expected above {WON}; 2 is chance): it gives "
            "the generator no gradient any more; lower --d-steps or --lr"
        )
    # Discriminator and encoder share weights: what both have is told once.
    network = max(found.spectral_norms, key=lambda name: found.spectral_norms[name][0])
    norm, weight = found.spectral_norms[network]
    if norm > EXPLODED:
        seen["exploding_spectral_norms"] = (
            f"weight {weight} of the {network} has a spectral norm of {norm:.3g} (expected below {EXPLODED:g}): "
            "training is unstable; lower --lr"
        )
    return [Symptom(name, message) for name, message in seen.items()]


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Return cluster numbers as text, the first few of many.

    Example:
        >>> listed(["3"]), listed(["1", "2", "3"], shown=2)
        ('cluster 3', 'clusters 1, 2 and 1 more')
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"cluster{'s' if len(names) > 1 else ''} {', '.join(names[:shown])}{more}"
