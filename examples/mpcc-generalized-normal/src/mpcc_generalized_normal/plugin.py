"""The hook that mpcc calls. It registers the prior, and imports nothing heavy."""

from __future__ import annotations

from mpcc.core.hookspecs import Register, hookimpl

__all__ = ["register_priors"]


@hookimpl
def register_priors(register: Register) -> None:
    """Register the prior under the name that users type."""
    register(
        "generalized_normal",
        "mpcc_generalized_normal.prior:GeneralizedNormalMixture",
        summary="Mixture of generalized normal products: from peaked to nearly uniform, beta fixed or learned.",
        options="mpcc_generalized_normal.options:GeneralizedNormalOptions",
    )
