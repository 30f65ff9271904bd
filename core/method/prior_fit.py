"""A prior placed on what the encoder makes of real images: groups of latents, and components fitted to them.

With many clusters the components of a fresh prior overlap, and q(y|z) stays nearly uniform long after the latents of
real images have formed groups. A fit in the middle of the training gives each group a component. VaDE (Jiang et al.,
2017) starts its mixture in the same way, from the latents of an autoencoder.

Groups are found among the locations of q(z|x). Components are fitted to draws from q(z|x), because its mean over the
images of a cluster is what a component has to match: fitted to the locations it would lack the spread of q(z|x).

Letters in shapes: N images, K clusters, J latent dimensions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

from mpcc.core.contracts import Prior
from mpcc.core.system.randomness import own_randomness

__all__ = [
    *("GROUPINGS", "draws", "fit_components", "fit_images", "fit_prior", "latent_groups", "mixture_groups", "renamed"),
]

logger = logging.getLogger(__name__)

# How many images a prior is fitted to: so many for each cluster, and so many at least. If there are fewer, each has so
# many draws from q(z|x) that there are as many draws or a few more, and this many at most.
IMAGES_PER_CLUSTER, LEAST_IMAGES, MOST_DRAWS = 400, 10_000, 100
# How often k-means or a mixture is started; what is added to a mixture's variances, as a share of the mean variance of
# the latents.
STARTS, NARROWEST = 5, 1e-4
# A direction counts as constant if its standard deviation is below this share of the mean one or of the largest latent:
# what is left is rounding. Whitened latents that agree to so many digits are the same.
LEAST_DEVIATION, DIGITS = 1e-4, 2
# Adam's step sizes, one after the other; each ends when so many steps gain less than this many nats, or after the most.
STEP_SIZES, STEPS, GAIN, MOST_STEPS = (0.05, 0.005), 25, 1e-4, 2000


def fit_images(clusters: int) -> int:
    """Return how many images a prior is fitted to, if there are so many.

    Example:
        >>> fit_images(10), fit_images(100)
        (10000, 40000)
    """
    return max(LEAST_IMAGES, IMAGES_PER_CLUSTER * clusters)


def latent_groups(z: Tensor, count: int, seed: int) -> Tensor:
    """Return groups of latents by k-means after whitening, int64, shape (N,), on the CPU.

    Whitening gives all directions the same variance, so that groups which differ in a direction of small variance are
    found, too.

    Arguments:
        z: Latents, shape (N, J), finite.
        count: K, how many groups; fewer are found if there are fewer different latents.
        seed: Of the starts of k-means, of which the best is taken.
    """
    from sklearn.cluster import KMeans  # the import takes a moment and 50 MiB

    values = z.detach().cpu().double().numpy()
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
    deviations = np.sqrt(np.maximum(variances, 0))
    least = max(LEAST_DEVIATION * max(deviations.mean(), np.abs(values).max()), np.finfo(float).tiny)
    white = (values - values.mean(0)) @ directions / np.maximum(deviations, least)
    different = len(np.unique(white.round(DIGITS), axis=0))
    found = KMeans(min(count, different), n_init=STARTS, random_state=seed % 2**32).fit_predict(white)
    return torch.as_tensor(found).long()


def mixture_groups(z: Tensor, count: int, seed: int) -> Tensor:
    """Return groups of latents by a mixture of Gaussians with a covariance for each, int64, shape (N,), on the CPU.

    Groups may differ in size, spread and direction, as those of an autoencoder do (VaDE; Jiang et al., 2017).

    Arguments:
        z: Latents, shape (N, J), finite.
        count: K, how many groups; fewer are found if there are fewer different latents.
        seed: Of the starts of the mixture, of which the best is taken.
    """
    from sklearn.mixture import GaussianMixture  # as above

    values = z.detach().cpu().double().numpy()
    different = len(np.unique(values, axis=0))
    if different == 1:
        return torch.zeros(len(z), dtype=torch.int64)
    least = NARROWEST * float(values.var(0).mean())
    kinds = min(count, different)
    mixture = GaussianMixture(kinds, n_init=STARTS, max_iter=1000, reg_covar=least, random_state=seed % 2**32)
    return torch.as_tensor(mixture.fit_predict(values)).long()


# How latents are grouped, by the names that a user types.
GROUPINGS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"k-means": latent_groups, "mixture": mixture_groups}


def renamed(groups: Tensor, responsibilities: Tensor) -> Tensor:
    """Return groups under the names of the clusters that they share most with, one to one; same shape.

    Arguments:
        groups: In 0..K-1, shape (N,).
        responsibilities: Of the clusters, shape (N, K).
    """
    from scipy.optimize import linear_sum_assignment  # as above

    clusters = responsibilities.shape[1]
    shared = responsibilities.new_zeros(clusters, clusters, dtype=torch.float64)
    shared.index_add_(0, groups.to(shared.device), responsibilities.double())
    _, names = linear_sum_assignment(shared.cpu().numpy(), maximize=True)
    return torch.as_tensor(names)[groups]


def fit_components(prior: Prior, z: Tensor, groups: Tensor) -> float:
    """Raise the likelihood of latents and their groups, E[log p(z, y)], by Adam; return it in nats.

    The components of groups without latents stay as they are; their weights fall if phi is trained. Any prior can be
    fitted, because nothing but its densities is used. Gains are judged by their mean over the latents, each counted up
    to one nat, which a few outliers do not move.

    Arguments:
        prior: Its parameters are changed, unless the likelihood would not be higher afterwards.
        z: Latents, shape (N, J).
        groups: In 0..K-1, shape (N,).
    """
    parameters = [parameter for parameter in prior.parameters() if parameter.numel()]
    held = [parameter.requires_grad for parameter in parameters]
    kept = [parameter.detach().clone() for parameter in parameters]
    z, groups = z.detach().to(prior.weights().dtype), groups.to(z.device)

    def likelihoods() -> Tensor:
        with torch.enable_grad(), prior.full_precision():
            values: Tensor = prior.log_weights()[groups] + prior.component(groups).log_prob(z)
        return values

    def gain(since: Tensor, until: Tensor) -> float:
        return float((until - since).clamp(-1, 1).mean())

    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        start = likelihoods().detach()
        for step_size in STEP_SIZES:
            optimizer, before = Adam(parameters, lr=step_size, betas=(0.9, 0.9)), likelihoods().detach()
            for step in range(1, MOST_STEPS + 1):
                optimizer.zero_grad()
                with torch.enable_grad():
                    torch.autograd.backward(-likelihoods().mean())
                optimizer.step()
                if step % STEPS == 0:
                    now = likelihoods().detach()
                    if not gain(before, now) >= GAIN:
                        break
                    before = now
        reached = likelihoods().detach()
    finally:
        for parameter, trained in zip(parameters, held, strict=True):
            parameter.requires_grad_(trained)
            parameter.grad = None
    if not gain(start, reached) >= 0:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        logger.warning(
            "%s could not be fitted to the latents of real images (mean log-likelihood %.3g, before %.3g): it stays as "
            "it was",
            *(type(prior).__name__, float(reached.mean()), float(start.mean())),
        )
        return float(start.mean())
    return float(reached.mean())


def draws(prior: Prior, loc: Tensor, raw_scale: Tensor, seed: int) -> Tensor:
    """Return draws from q(z|x) of each image, shape (S, N, J), with S N at least `fit_images`, or S 100.

    Arguments:
        prior: Names the family of q(z|x).
        loc: Encoder locations, shape (N, J).
        raw_scale: Raw scales of the encoder, shape (N, J).
        seed: Of the draws; the global random states stay as they are.
    """
    count = min(math.ceil(fit_images(prior.clusters) / len(loc)), MOST_DRAWS)
    with own_randomness(seed, loc.device), torch.no_grad(), prior.full_precision():
        z: Tensor = prior.encoder_distribution(loc, raw_scale).rsample(torch.Size((count,)))
        return z


def fit_prior(prior: Prior, loc: Tensor, raw_scale: Tensor, seed: int, groups_by: str = "k-means") -> int:
    """Give each group of latents a component of the prior; return how many groups there are, or 0 if it cannot be done.

    A group takes the component whose cluster it shares most with, so a second fit keeps the names of the clusters.

    Arguments:
        prior: Its parameters are changed.
        loc: Encoder locations of real images, shape (N, J).
        raw_scale: Raw scales of the encoder, shape (N, J).
        seed: Of the starts of the groups, and of the draws.
        groups_by: One of `GROUPINGS`.
    """
    groups = GROUPINGS[groups_by](loc, prior.clusters, seed)
    dtype = prior.weights().dtype
    with torch.no_grad():
        shares = prior.log_responsibilities(loc.to(dtype)).exp()
    groups = renamed(groups, shares)
    z = draws(prior, loc.to(dtype), raw_scale.to(dtype), seed)
    before = [parameter.detach().clone() for parameter in prior.parameters()]
    fit_components(prior, z.flatten(0, 1), groups.repeat(len(z)))
    if all(torch.equal(*pair) for pair in zip(before, prior.parameters(), strict=True)):
        return 0
    return len(groups.unique())  # type: ignore[no-untyped-call]
