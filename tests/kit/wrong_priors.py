"""Priors that are wrong, each in one way; the docstring of a class says in which."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Cauchy, Distribution, Independent, Normal

from mpcc.core.hookspecs import hookimpl
from mpcc.core.mixture import LocationScaleMixture

MIXTURE = "mpcc.core.mixture_options:MixtureOptions"


class Gaussians(LocationScaleMixture):
    """Right; the wrong ones change one thing."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale, validate_args=False)


class Product(Independent):
    """A product of Normals whose noise may be replaced."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def noise(self, shape: Any) -> Tensor:
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        normal = self.base_dist
        return normal.loc + normal.scale * self.noise(self._extended_shape(torch.Size(sample_shape)))


class Producing(Gaussians):
    """Right; components are of another class."""

    product: type[Product] = Product

    def component(self, y: Tensor) -> Distribution:
        return self.product(F.embedding(y, self.loc), F.embedding(y, self.scales()))


class CappedEntropy(Gaussians):
    """The entropy takes no scale above 3."""

    def entropies(self) -> Tensor:
        return Independent(self.family(self.loc, self.scales().clamp(max=3)), 1).entropy()


class Tilting(Product):
    def noise(self, shape: Any) -> Tensor:
        noise = super().noise(shape)
        if shape[-1] < 2:
            return noise
        return torch.cat([noise[..., :-1], 0.3 * noise[..., :1] + math.sqrt(0.91) * noise[..., -1:]], -1)


class Tilted(Producing):
    """In samples, the last dimension depends on the first; in the density it does not."""

    product = Tilting


class Pairing(Product):
    def noise(self, shape: Any) -> Tensor:
        rows = shape[0] if len(shape) > 1 else 1
        half = super().noise(((rows + 1) // 2, *shape[1:]) if len(shape) > 1 else shape)
        return half.repeat_interleave(2, 0)[:rows] if len(shape) > 1 else half


class Pairs(Producing):
    """Two rows of a batch share their noise."""

    product = Pairing


class OneForAll(Product):
    def noise(self, shape: Any) -> Tensor:
        return super().noise((*shape[:-1], 1)).expand(shape)


class OneNoise(Producing):
    """All dimensions share their noise."""

    product = OneForAll


class SeedsNumPy(Gaussians):
    """The constructor seeds NumPy."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        super().__init__(clusters, latent_dim, options)
        np.random.seed(1)


class SetsDefault(Gaussians):
    """The constructor makes float64 the default of the whole process."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        super().__init__(clusters, latent_dim, options)
        torch.set_default_dtype(torch.float64)


class StartsDouble(Gaussians):
    """Parameters start in float64."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        super().__init__(clusters, latent_dim, options)
        self.double()


class DetachedLogarithm(Gaussians):
    """log_weights() has no gradient, though weights() has one."""

    def log_weights(self) -> Tensor:
        return super().log_weights().detach()


class EveryOther(Gaussians):
    """Clusters 0, 2, 4 ... are one component."""

    def component(self, y: Tensor) -> Distribution:
        return super().component(y % 2)


class SquashedHead(Gaussians):
    """The encoder's scale saturates: exp(tanh(raw) / 2)."""

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        return super().encoder_distribution(loc, torch.tanh(4 * raw_scale))


class CentredEncoder(Gaussians):
    """The encoder's locations are centred over the batch."""

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        return super().encoder_distribution(loc - loc.mean(0, keepdim=True), raw_scale)


class FoldedAxis(Gaussians):
    """The input map folds the last dimension, unless it is the only one."""

    def input_map(self, z: Tensor) -> Tensor:
        return z if z.shape[1] == 1 else torch.cat([z[:, :-1], z[:, -1:].square()], 1)


class Stranded(Gaussians):
    """A table of factors is made on the CPU in each call."""

    def scales(self) -> Tensor:
        return super().scales() * torch.ones(self.latent_dim, dtype=self.loc.dtype)


class Annealed(Gaussians):
    """The locations shrink every 300 calls, by a counter that is not saved."""

    calls = 0

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return super().sample(count)

    def component(self, y: Tensor) -> Distribution:
        loc, scale = F.embedding(y, self.loc), F.embedding(y, self.scales())
        return Independent(self.family(loc * 0.9 ** (self.calls // 300), scale), 1, validate_args=False)


class LateEntropy(Gaussians):
    """The entropy of clusters from 5 on is wrong."""

    def entropies(self) -> Tensor:
        return super().entropies() * torch.where(torch.arange(self.clusters, device=self.loc.device) < 5, 1.0, 1.1)


class OnlyWithAsinh(Gaussians):
    """The input map is wrong only with --prior.input-map asinh."""

    def input_map(self, z: Tensor) -> Tensor:
        return super().input_map(z) if self.options.input_map == "identity" else torch.asinh(z).abs()


class Multiplying(Product):
    def log_prob(self, value: Tensor) -> Tensor:
        normal = self.base_dist
        t = (value - normal.loc) / normal.scale
        density = torch.exp(-t.square() / 2) / (normal.scale * math.sqrt(2 * math.pi))
        return torch.where(t.abs().amax(-1) < 6, density.prod(-1).log(), normal.log_prob(value).sum(-1))


class MultipliedDensity(Producing):
    """The density is a product of numbers, which underflows in many dimensions."""

    product = Multiplying


class Wide(Distribution):
    """Normal, or Cauchy where a mask is true."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own annotation
    has_rsample = True

    def __init__(self, mask: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.mask = mask.unsqueeze(-1)
        self.parts = Cauchy(loc, scale, validate_args=False), Normal(loc, scale, validate_args=False)
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def pick(self, wide: Tensor, narrow: Tensor) -> Tensor:
        return torch.where(self.mask, wide, narrow)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.pick(*(part.rsample(torch.Size(sample_shape)) for part in self.parts))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.pick(*(part.log_prob(value) for part in self.parts)).sum(-1)

    def entropy(self) -> Tensor:
        return self.pick(*(part.entropy() for part in self.parts)).sum(-1)


class WideSixth(Gaussians):
    """Cluster 5 is Cauchy, and q(z|x) is Normal."""

    def component(self, y: Tensor) -> Distribution:
        return Wide(y == 5, F.embedding(y, self.loc), F.embedding(y, self.scales()))


class Cached(Gaussians):
    """Scales are computed in the first call and kept."""

    kept: Tensor | None = None

    def scales(self) -> Tensor:
        if self.kept is None or self.kept.dtype != self.loc.dtype or self.kept.device != self.loc.device:
            self.__dict__["kept"] = super().scales().detach()
        return super().scales() + (self.kept - super().scales()).detach()


class SingleInside(Gaussians):
    """The density is computed in float32, whatever the dtype."""

    def log_density(self, z: Tensor) -> Tensor:
        y = torch.arange(self.clusters, device=z.device)
        loc, scale = F.embedding(y, self.loc).float(), F.embedding(y, self.scales()).float()
        normal = Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
        return normal.log_prob(z.float().unsqueeze(-2)).to(z.dtype)


class SwappedHeads(Gaussians):
    """The two heads of the encoder change places."""

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        return super().encoder_distribution(raw_scale, loc)


class LateParameter(Gaussians):
    """A parameter is made in the first call."""

    def input_map(self, z: Tensor) -> Tensor:
        if not hasattr(self, "gain"):
            self.gain = nn.Parameter(torch.ones(self.latent_dim).to(self.loc))
        return z

    def log_density(self, z: Tensor) -> Tensor:
        return super().log_density(self.input_map(z))


class ListedWeights(Gaussians):
    """weights() is a list."""

    def weights(self) -> Any:
        return [1 / self.clusters] * self.clusters


class HiddenParameters(Gaussians):
    """Parameters lie in a plain list."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        super().__init__(clusters, latent_dim, options)
        self.extra = [nn.Parameter(torch.zeros(latent_dim))]


class Logarithmic(Product):
    def noise(self, shape: Any) -> Tensor:
        # Box and Muller, with the logarithm of a number that may be 0.
        first, second = (torch.rand(shape, dtype=self.mean.dtype, device=self.mean.device) for _ in range(2))
        return torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)


class OpenEnd(Producing):
    """A sample is infinite where the uniform number is 0."""

    product = Logarithmic


class StuckLabels(Gaussians):
    """The label ratio of trained weights is missing; the weights are not trained by default."""

    def label_ratio(self, y: Tensor) -> Tensor | None:
        return None


class HalfEntropyGradient(Gaussians):
    """Half of the entropy has no gradient."""

    def entropies(self) -> Tensor:
        return (super().entropies() + super().entropies().detach()) / 2


TRAINABLE = (DetachedLogarithm,)


@hookimpl
def register_priors(register: Any) -> None:
    for name, cls in globals().items():
        if isinstance(cls, type) and issubclass(cls, Gaussians) and cls not in (Gaussians, Producing):
            defaults = {"weights": "trainable"} if cls in TRAINABLE else {}
            register(name, f"wrong_priors:{name}", summary=cls.__doc__ or "", options=MIXTURE, defaults=defaults)
