"""What a user is told about the preset that was chosen for a run."""

from __future__ import annotations

import attrs

from mpcc.core.config import Layer, RunConfig, resolve
from mpcc.core.registry import Registry

__all__ = ["about_preset"]

# Colours of images whose number is not known before they are read; it hardly matters for the cost.
CHANNELS = 3


def about_preset(registry: Registry, config: RunConfig) -> str:
    """Return which preset was taken, and what another architecture than its own costs; empty if nothing was chosen."""
    choice = config.preset
    return choice.line if choice.made_for is None else f"{choice.line}; {relative_cost(registry, config)}"


def relative_cost(registry: Registry, config: RunConfig) -> str:
    """Return in words what an iteration costs beside one of the networks that the preset was made for."""
    import torch

    from mpcc.core.run.network_summary import network_summary
    from mpcc.core.system.randomness import own_randomness

    made_for = config.preset.made_for
    try:
        own = resolve(registry, [Layer("flag", {"data": {"name": config.data.name}})], config.preset.name)
        channels = config.data.make().channels or CHANNELS
        with own_randomness(config.run.seed, torch.device("cpu")):
            here, there = (
                network_summary(attrs.evolve(config, arch=arch), channels).operations_per_iteration
                for arch in (config.arch, own.arch)
            )
    except Exception:  # What is wrong is told where the run builds its networks; here it is a remark.
        return f"an iteration may cost many times as much as with {made_for}"
    ratio = here / there
    times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return f"an iteration costs about {times} times as much as with {made_for}"
