"""The networks that a configuration asks for, layer by layer, and what an iteration costs."""

from __future__ import annotations

from mpcc.core.config import RunConfig
from mpcc.core.reporting.summary import Summary, summarise
from mpcc.core.run.assembly import make_prior, schedule_of, term_weights

__all__ = ["network_summary"]


def network_summary(config: RunConfig, channels: int) -> Summary:
    """Describe the networks of a configuration for images with this number of channels.

    Raises:
        InvalidInput: If the plugins cannot be built for these numbers.
    """
    prior, entropy = make_prior(config)
    architecture = config.arch.make()
    weights = term_weights(config.run, (1, channels, architecture.image_size, architecture.image_size))
    return summarise(
        architecture,
        prior,
        channels=channels,
        schedule=schedule_of(config.run),
        objective=config.objective.make(),
        weights=weights,
        entropy=entropy,
    )
