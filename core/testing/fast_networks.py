"""Laws of what an architecture offers to the fast engine: grouped batches and fused layers change nothing but speed."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from mpcc.core.contracts import Networks
from mpcc.core.layers.batch_norm import batch_groups
from mpcc.core.layers.fusion import Fusable, fuse
from mpcc.core.testing.architectures import ArchitectureCase, assembled, outputs
from mpcc.core.testing.comparison import gradients
from mpcc.core.testing.report import Laws, require

__all__ = ["FAST_LAWS"]

FAST_LAWS = Laws[ArchitectureCase]()
GROUPS, GROUP = 3, 4
# Allowed difference between two ways to compute the same, relative to the norm.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}


def largest_difference(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], what: str) -> float:
    """Check that tensors differ by rounding only, and return the largest relative norm of a difference."""
    worst = 0.0
    for name, tensor in expected.items():
        size = max(float(tensor.double().norm()), 1e-6)
        difference = float((actual[name].double() - tensor.double()).norm()) / size
        allowed = ROUNDING.get(tensor.dtype, 0.0)
        require(difference <= allowed, f"{what}: {name} differs by {difference:.3g} of its size, allowed {allowed:g}")
        worst = max(worst, difference)
    return worst


@FAST_LAWS.add("a generator that declares grouped batches gives in one call what it gives in a call for each group")
@torch.no_grad()
def grouped(case: ArchitectureCase) -> str:
    networks = case.networks(training=True)
    require(type(networks.grouped) is bool, f"grouped: expected True or False, got {networks.grouped!r}")
    if not networks.grouped:
        return "not declared: its images are generated batch by batch"
    z, y, _ = case.inputs(GROUPS * GROUP)
    separate = copy.deepcopy(networks.generator)
    images = torch.cat([separate(*batch) for batch in zip(torch.split(z, GROUP), torch.split(y, GROUP), strict=True)])
    # Running statistics are compared, too; vectors of spectral norms that advance in each forward cannot be grouped.
    expected = {"images": images, **dict(separate.named_buffers())}
    worst = 0.0
    for fused in (False, True):
        together = copy.deepcopy(networks.generator)
        fuse(together, fused)
        with batch_groups(together, GROUPS):
            images = together(z, y)
        what = f"{GROUPS} batches of {GROUP} in one call{', fused' if fused else ''}"
        actual = {"images": images, **dict(together.named_buffers())}
        worst = max(worst, largest_difference(expected, actual, what))
    return f"{GROUPS} batches of {GROUP}, buffers too, largest difference {worst:.1g}"


@FAST_LAWS.add("fused layers give the same values and gradients")
def fused(case: ArchitectureCase) -> str:
    networks = case.networks(training=True)
    z, y, images = case.inputs(GROUP)
    count = sum(isinstance(module, Fusable) for part in networks.by_name().values() for module in part.modules())
    if not count:
        return "it has no fused layers"
    # In single precision, batch norms over few pixels make rounding as large as an error.
    for part in networks.by_name().values():
        part.double()
    inputs = z.double(), y, images.double()
    separate, fused = (values_and_gradients(networks, inputs, fused) for fused in (False, True))
    return f"{count} layers, in double precision, largest difference {largest_difference(separate, fused, 'fused'):.1g}"


def values_and_gradients(networks: Networks, inputs: tuple[Tensor, Tensor, Tensor], fused: bool) -> dict[str, Tensor]:
    """Return what copies of the networks give, and the gradient of each network's parameters in one vector."""
    copies = {name: copy.deepcopy(part) for name, part in networks.by_name().items()}
    for part in copies.values():
        fuse(part, fused)
    values = outputs(assembled(copies, networks), *inputs)
    generator = torch.Generator().manual_seed(0)
    weights = (torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values.values())
    total = torch.stack([(value * weight).sum() for value, weight in zip(values.values(), weights, strict=True)]).sum()
    tensors = {name: value.detach() for name, value in values.items()}
    for name, part in copies.items():
        of_part = gradients(total, dict(part.named_parameters())).values()
        tensors[f"the gradient of the {name}"] = torch.cat([gradient.flatten() for gradient in of_part])
    return tensors
