"""What a trained model computes, as two modules without settings and states: images to clusters, latents to images.

Letters in shapes: N images, K clusters, J latent dimensions, D image channels, R image size in pixels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mpcc.core.contracts import Prior
from mpcc.core.evaluation.image_posterior import bounded, points_of, within
from mpcc.core.layers.fusion import fuse
from mpcc.core.mixture import LocationScaleMixture

__all__ = ["EncoderProgram", "GeneratorProgram"]


class EncoderProgram(nn.Module):
    r"""Images to z and q(y|x), encoder and prior together, as `mpcc.core.evaluation.image_posterior` defines q(y|x).

    The points of q(z|x) at which q(y|z) is averaged are those of mpcc. In a location-scale family they are

    .. math:: z_i = \mathrm{loc}(x) + e^{r(x) / 2} t_i

    with points t_i of the standard distribution, and with the bounds of r and z of mpcc. The t_i are computed once,
    here: their quantile function may be one that other programs do not have. For any other family, q(z|x) itself
    becomes part of the program.

    Arguments:
        encoder: (N, D, R, R) in [-1, 1] to location and raw scale, each (N, J).
        prior: Gives q(z|x) and q(y|z).
    """

    points: Tensor | None

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval()
        fuse(self.encoder, on=False)
        self.prior = copy.deepcopy(prior).eval()
        points = None
        if isinstance(prior, LocationScaleMixture):
            scaled = type(prior).encoder_distribution is LocationScaleMixture.encoder_distribution
            zeros = torch.zeros(1, prior.latent_dim)
            points = points_of(prior, zeros, zeros) if scaled else None
        self.register_buffer("points", points)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the locations of z, float32, (N, J), and q(y|x), float32, (N, K), of uint8 images, (N, D, R, R)."""
        location, raw_scale = self.encoder(images.to(torch.float32) / 127.5 - 1)
        if self.points is None:
            z = points_of(self.prior, location, raw_scale)
        else:
            z = within(location + torch.exp(bounded(raw_scale) / 2) * self.points, location)
        of_points = self.prior.log_responsibilities(z.flatten(0, 1)).exp()
        return location, of_points.view(z.shape[0], -1, self.prior.clusters).mean(dim=0)


class GeneratorProgram(nn.Module):
    """Latents and clusters to images: the averaged generator with standing statistics, after the prior's input map.

    Arguments:
        generator: In evaluation mode; (N, J) and (N,) to images in [-1, 1].
        prior: Gives the input map.
    """

    def __init__(self, generator: nn.Module, prior: Prior) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator).eval()
        fuse(self.generator, on=False)
        self.prior = copy.deepcopy(prior).eval()

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return uint8 images, (N, D, R, R), of latents z, float32, (N, J), and clusters y, int64, (N,)."""
        images = self.generator(self.prior.input_map(z), y)
        return torch.clamp(torch.round((images + 1) * 127.5), 0, 255).to(torch.uint8)
