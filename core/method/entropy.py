r"""Entropies of the prior's components: in closed form, by quadrature, as a lower bound, or by Monte Carlo.

The reverse KL needs only the entropy of each component, or a lower bound on it (supplement, B.2). With a lower bound,
the loss still bounds the divergence from above. A numerical entropy comes with the tolerance that its prior declares;
it is not noisy, and the bound holds within the tolerance. A Monte Carlo estimate gives no bound and adds noise to the
gradient. A run therefore uses it only if the user asks for it, and reports it in its log and results.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.errors import InvalidInput, PluginError

__all__ = ["EntropyPolicy", "monte_carlo_entropies"]


def monte_carlo_entropies(prior: Prior, samples: int) -> Tensor:
    r"""Estimate :math:`H[p(z|k)] = E[-\log p(z|k)]` in nats for every cluster, shape (K,).

    The samples are reparameterised, which makes the gradients of the estimate unbiased. They come from torch's global
    random state.

    Arguments:
        prior: A prior with K components.
        samples: S, the number of samples for each component.
    """
    labels = torch.arange(prior.clusters, device=prior.weights().device).expand(samples, -1)
    with prior.full_precision():
        components = prior.component(labels)
        surprise: Tensor = -components.log_prob(components.rsample())
    return surprise.mean(0)


@attrs.frozen
class EntropyPolicy:
    """How a run computes the entropies of the components.

    Attributes:
        kind: ``closed-form``, ``numerical`` and ``lower-bound`` ask the prior; ``monte-carlo`` estimates.
        samples: Samples for each component and update; only for ``monte-carlo``.
        tolerance: The largest error that the prior declares, in nats; only for ``numerical``.
    """

    kind: Literal["closed-form", "numerical", "lower-bound", "monte-carlo"] = "closed-form"
    samples: int | None = None
    tolerance: float | None = None

    @classmethod
    def of(cls, prior: Prior, wanted: str = "auto", samples: int | None = None) -> EntropyPolicy:
        """Choose the policy for a prior.

        Arguments:
            prior: Its `Prior.entropy_kind` says which entropies it has.
            wanted: The kind asked for; ``auto`` takes the one that the prior declares.
            samples: Sample count for ``monte-carlo``.

        Raises:
            InvalidInput: If the prior does not declare the wanted kind, or declares none and no estimate is wanted.
            PluginError: If the prior declares numerical entropies without their tolerance.
        """
        name, declared = type(prior).__name__, prior.entropy_kind
        if samples is not None and wanted != "monte-carlo":
            raise InvalidInput(f"--entropy-samples {samples} goes with --entropy monte-carlo, got --entropy {wanted}")
        if wanted == "monte-carlo":
            if samples is None:
                raise InvalidInput("--entropy monte-carlo: expected its sample count, such as --entropy-samples 64")
            return cls("monte-carlo", samples)
        if declared == "none":
            raise InvalidInput(
                f"--entropy {wanted}: {name} has neither an entropy, exact or numerical, nor a lower bound; "
                "expected another prior, or a noisy estimate, no bound: --entropy monte-carlo --entropy-samples 64"
            )
        if wanted not in ("auto", declared):
            raise InvalidInput(
                f"--entropy {wanted}: {name} declares {declared!r} (nearest valid choice: --entropy {declared})"
            )
        if declared != "numerical":
            return cls(declared)
        tolerance = prior.entropy_tolerance
        if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
            raise PluginError(
                f"{name}.entropy_tolerance: expected the largest error of its numerical entropies in nats, such as "
                f"1e-4, got {tolerance!r}"
            )
        return cls(declared, tolerance=tolerance)

    def entropies(self, prior: Prior) -> Tensor:
        """Return the entropies of the K components, shape (K,), in nats."""
        return prior.entropies() if self.samples is None else monte_carlo_entropies(prior, self.samples)

    def record(self) -> dict[str, Any]:
        """Return the policy as plain values for ``results.json``."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    def warning(self) -> str | None:
        """Return a warning for readers of the results, or None if the entropies are exact."""
        return {
            "closed-form": None,
            "numerical": f"entropy term: by numerical integration, within {self.tolerance} nats as the prior declares",
            "lower-bound": "entropy term: from the prior's declared lower bound on the components' entropies",
            "monte-carlo": f"entropy term: a Monte Carlo estimate from {self.samples} samples a component; "
            "it is noisy and gives no bound",
        }[self.kind]
