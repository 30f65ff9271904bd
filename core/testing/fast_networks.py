"""Laws of what an architecture offers to the fast engine: grouped batches and fused layers change nothing but speed."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from mpcc.core.contracts import Networks
from mpcc.core.layers.batch_norm import batch_groups
from mpcc.core.layers.fusion import Fusable, fuse
from mpcc.core.testing.architectures import ArchitectureCase, outputs, parts
from mpcc.core.testing.report import Law, law, require

__all__ = ["FAST_LAWS"]

GROUPS, GROUP = 3, 4
# Two ways to compute the same, relative to the norm.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}


def largest_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> float:
    """Return the largest norm of a difference, relative to the norm of each tensor; require that it is rounding."""
    worst = 0.0
    for name, value in expected.items():
        off = float((found[name].double() - value.double()).norm()) / max(float(value.double().norm()), 1e-6)
        allowed = ROUNDING.get(value.dtype, 0.0)
        require(off <= allowed, f"{what}: {name} differs by {off:.3g} of its size, allowed {allowed:g}")
        worst = max(worst, off)
    return worst


@law("a generator that declares grouped batches gives in one call what it gives in a call for each group")
@torch.no_grad()
def grouped(case: ArchitectureCase) -> str:
    networks = case.networks(training=True)
    require(type(networks.grouped) is bool, f"grouped: expected True or False, got {networks.grouped!r}")
    if not networks.grouped:
        return "not declared: its images are generated batch by batch"
    z, y, _ = case.inputs(GROUPS * GROUP)
    separate = copy.deepcopy(networks.generator)
    expected = torch.cat(
        [separate(*batch) for batch in zip(*(torch.split(each, GROUP) for each in (z, y)), strict=True)]
    )
    worst = 0.0
    for fused in (False, True):
        together = copy.deepcopy(networks.generator)
        fuse(together, fused)
        with batch_groups(together, GROUPS):
            images = together(z, y)
        what = f"{GROUPS} batches of {GROUP} in one call{', fused' if fused else ''}"
        worst = max(worst, largest_difference({"images": expected}, {"images": images}, what))
        # Running statistics, too; vectors of spectral norms that advance in each forward cannot be grouped.
        worst = max(worst, largest_difference(dict(separate.named_buffers()), dict(together.named_buffers()), what))
    return f"{GROUPS} batches of {GROUP}, buffers too, largest difference {worst:.1g}"


@law("fused layers give the same values and gradients")
def fused(case: ArchitectureCase) -> str:
    networks, inputs = case.networks(training=True), case.inputs(GROUP)
    count = sum(isinstance(module, Fusable) for part in parts(networks).values() for module in part.modules())
    if not count:
        return "it has no fused layers"
    for part in parts(networks).values():
        # In single precision, batch norms over few pixels make rounding as large as an error.
        part.double()
    z, y, images = inputs
    inputs = z.double(), y, images.double()
    expected = values_and_gradients(networks, inputs, on=False)
    worst = largest_difference(expected, values_and_gradients(networks, inputs, on=True), "fused")
    return f"{count} layers, in double precision, largest difference {worst:.1g}"


def values_and_gradients(networks: Networks, inputs: tuple[Tensor, Tensor, Tensor], on: bool) -> dict[str, Tensor]:
    """Return what copies of the networks give, and the gradient of each network's parameters in one vector."""
    generator, discriminator, encoder = copied = [copy.deepcopy(part) for part in parts(networks).values()]
    for part in copied:
        fuse(part, on)
    found = outputs(Networks(generator, discriminator, encoder, networks.conditional), *inputs)
    weights = torch.Generator().manual_seed(0)
    total = sum(
        (value * torch.randn(value.shape, generator=weights, dtype=value.dtype)).sum() for value in found.values()
    )
    assert isinstance(total, Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        f"the gradient of the {name}": torch.cat(
            [torch.zeros(each.numel()) if each.grad is None else each.grad.flatten() for each in part.parameters()]
        )
        for name, part in zip(parts(networks), copied, strict=True)
    }
    return {**{name: value.detach() for name, value in found.items()}, **gradients}


FAST_LAWS: tuple[Law[ArchitectureCase], ...] = (grouped, fused)
