"""Known ways in which training goes wrong, recognised in an evaluation (supplement, C and D).

No symptom stops a run. Each is a line for the user on the screen, in TensorBoard and in ``results.json``.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from mpcc.core.config.settings import RunSettings
from mpcc.core.reporting.cures import NETWORKS, cure
from mpcc.core.reporting.verdict import CLUSTERS_NEED, TOO_SHORT
from mpcc.core.reporting.vitals import Vitals, effective_clusters

__all__ = ["OF_FORMING", "Symptom", "symptoms"]

# An evaluation of fewer images than this for each cluster says nothing about empty ones.
IMAGES_A_CLUSTER = 10
# Variance of a cluster's samples as a share of that of real images. In sound clusters it is above 0.1.
COLLAPSED = 0.02
# Share of generated pixels at black or white, beyond that of real ones.
SATURATED = 0.25
# Mean entropy of the posterior as a share of log K.
UNDECIDED = 0.9
# Mean hinge loss of the discriminator: 2 by chance, 0 when it is always right by a margin.
WON = 0.05
# Largest singular value of a weight before it is normalised; they start below 2.
EXPLODED = 100.0
# Medians of the norm of a network's gradient. In runs of the results page they are between 0.4 and 300
# (docs/reliability.md). Adam divides by the gradient's own size, up to its epsilon of 1e-8: networks of some 10,000
# weights stop below the second bound.
LARGEST_GRADIENT, SMALLEST_GRADIENT = 1e4, 1e-6
# Share of samples whose own cluster is the most probable one; by chance it is 1/K.
IGNORED = 0.3
# Effective number of clusters, exp of the entropy of their sizes, as a share of K.
FEW = 0.3
# While clusters form (`mpcc.core.reporting.vitals.still_forming`), these symptoms are normal.
OF_FORMING = ("empty_clusters", "collapsed_assignments", "undecided_posteriors", "ignored_clusters")


@attrs.frozen
class Symptom:
    """A sign that training goes wrong.

    Attributes:
        name: Short, for tags.
        message: The observation, its meaning, and a cure with what it costs.
    """

    name: str
    message: str


def symptoms(measured: Vitals, settings: RunSettings = RunSettings()) -> list[Symptom]:  # noqa: B008 - it is frozen
    """Return the symptoms, none for a sound run.

    Arguments:
        measured: Of an evaluation.
        settings: Of the run; cures name values in relation to them.

    Example:
        >>> sound = Vitals((40, 60), (0.5, 0.4), 0.01, 0.2, 0.95, 0.9, {"generator": (1.5, "entry.weight")})
        >>> symptoms(sound)
        []
        >>> [symptom.name for symptom in symptoms(attrs.evolve(sound, posterior_entropy=0.97, hinge=0.0))]
        ['undecided_posteriors', 'discriminator_won']
    """
    seen = {**of_clusters(measured), **of_training(measured)}
    if seen.keys() & {*OF_FORMING}:
        # Two groups in a cluster are the least of its faults.
        seen.pop("two_groups", None)
    if measured.forming:
        seen = {name: observation for name, observation in seen.items() if name not in OF_FORMING}
    messages = {name: f"{observation}; {cure(name, settings, measured)}" for name, observation in seen.items()}
    if measured.iterations is not None and measured.iterations < TOO_SHORT:
        usual = f"after {measured.iterations:,} iterations that is usual ({CLUSTERS_NEED})"
        few = f"{usual}: train longer first, with --resume"
        messages |= {name: f"{seen[name]}; {few}" for name in seen if name in OF_FORMING}
    return [Symptom(name, message) for name, message in messages.items()]


def of_clusters(measured: Vitals) -> dict[str, str]:
    """Return what is seen in the clusters, real and generated images: name of each symptom, and the observation."""
    seen: dict[str, str] = {}
    clusters, images = len(measured.sizes), sum(measured.sizes)
    empty = [str(cluster) for cluster, size in enumerate(measured.sizes) if size == 0]
    if empty and images >= IMAGES_A_CLUSTER * clusters:
        seen["empty_clusters"] = (
            f"{len(empty)} of {clusters} clusters have none of the {images} evaluated images ({listed(empty)}): "
            "there are fewer groups than --clusters, or the step size of the prior is too large"
        )
    effective = effective_clusters(measured.sizes)
    if (measured.real_terms or measured.has("label_divergence")) and clusters > 1 and effective < FEW * clusters:
        reason = "the terms on real images hold" if measured.real_terms else "the bound holds"
        seen["collapsed_assignments"] = (
            f"most images are in few clusters, as in {effective:.1f} equal ones, expected at least "
            f"{FEW * clusters:g}: unless your groups are as unequal, {reason} the images together"
        )
    if measured.two_peaks and not empty and measured.clusters_images:
        double = [str(cluster) for cluster in measured.two_peaks]
        seen["two_groups"] = (
            f"the latents of {listed(double)} have two peaks: a cluster may hold two groups, which its picture in "
            "clusters/ would show (with more than 30 clusters: --picture-clusters all)"
        )
    collapsed = [str(cluster) for cluster, share in enumerate(measured.diversity) if share < COLLAPSED]
    if collapsed:
        seen["collapsed_clusters"] = (
            f"samples of a cluster are all alike ({listed(collapsed)}; variance "
            f"{beside(min(measured.diversity), COLLAPSED)} of that of real images, expected above {COLLAPSED})"
        )
    if measured.saturation > SATURATED:
        seen["saturation"] = (
            f"{beside(measured.saturation, SATURATED)} more of the generated pixels than of real ones are black or "
            f"white (expected up to {SATURATED})"
        )
    if measured.posterior_entropy > UNDECIDED:
        seen["undecided_posteriors"] = (
            f"most images belong to no cluster clearly (mean entropy of q(y|x) "
            f"{beside(measured.posterior_entropy, UNDECIDED)} of log K, expected below {UNDECIDED}): the components of "
            "the prior overlap"
        )
    if clusters > 1 and measured.agreement < max(IGNORED, 1.5 / clusters):
        seen["ignored_clusters"] = (
            f"only {measured.agreement:.0%} of the generated images are assigned to the cluster that they were made "
            f"for (chance: {1 / clusters:.0%}): what the generator draws does not depend on the cluster"
        )
    return seen


def of_training(measured: Vitals) -> dict[str, str]:
    """Return what is seen in losses, weights and gradients: name of each symptom, and the observation."""
    seen: dict[str, str] = {}
    if measured.hinge is not None and measured.hinge < WON:
        seen["discriminator_won"] = (
            f"the discriminator's hinge loss is {beside(measured.hinge, WON)} (expected above {WON}; 2 is chance): "
            "it gives the generator no gradient any more"
        )
    # Discriminator and encoder share weights, so only the network with the largest norm is named.
    network = max(measured.spectral_norms, key=lambda name: measured.spectral_norms[name][0], default="")
    norm, weight = measured.spectral_norms.get(network, (0.0, ""))
    if norm > EXPLODED:
        seen["exploding_spectral_norms"] = (
            f"weight {weight} of the {network} has a spectral norm of {beside(norm, EXPLODED)} (expected below "
            f"{EXPLODED:g}): training is unstable"
        )
    gradients = {part: measured.gradient_norms[part] for part in NETWORKS if part in measured.gradient_norms}
    largest = max(gradients, key=lambda part: gradients[part], default="")
    if largest and gradients[largest] > LARGEST_GRADIENT:
        seen["exploding_gradients"] = (
            f"the gradient of the {largest} has a norm of {beside(gradients[largest], LARGEST_GRADIENT)} (median since "
            f"the last evaluation, expected below {LARGEST_GRADIENT:g}): the weight of a term is very large "
            "(weighted/ in TensorBoard), or training is unstable"
        )
    smallest = min(gradients, key=lambda part: gradients[part], default="")
    if smallest and gradients[smallest] < SMALLEST_GRADIENT:
        seen["vanishing_gradients"] = (
            f"the gradient of the {smallest} has a norm of {beside(gradients[smallest], SMALLEST_GRADIENT)} (median "
            f"since the last evaluation, expected above {SMALLEST_GRADIENT:g}): it does not learn any more"
        )
    return seen


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


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Return cluster numbers as text; of many, only the first.

    Example:
        >>> listed(["3"]), listed(["1", "2", "3"], shown=2)
        ('cluster 3', 'clusters 1, 2 and 1 more')
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"cluster{'s' if len(names) > 1 else ''} {', '.join(names[:shown])}{more}"
