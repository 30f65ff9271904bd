"""What TensorBoard says about a run beside the numbers: a line about each curve, charts of several, settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["explanation", "flat", "layout"]

# What the curves of a group are, by the first part of their tags.
GROUPS = {
    "terms": "The loss term {name} itself, before its weight; in nats, or in hinge units for the discriminator.",
    "weighted": "The loss term {name} times its weight, as it enters the objectives.",
    "learning_rate": "Adam's step size for the {name}.",
    "gradient_norm": "Euclidean norm of the last gradient of the {name}.",
    "prior": "The quantity {name} of the prior.",
}
# What the numbers behind the warnings are.
HEALTH = {
    "empty_clusters": "How many clusters have none of the evaluated images.",
    "clusters_with_two_peaks": "In how many clusters z has two peaks: they may hold two groups.",
    "least_diversity": "The least variance of a cluster's samples, as a share of that of real images.",
    "saturation": "Share of generated pixels that are black or white, beyond that of real ones.",
    "posterior_entropy": "Mean entropy of q(y|x) as a share of log K: 0 if every image is sure, 1 if none is.",
    "agreement": "Share of generated images that are assigned to the cluster they were made for.",
}


def explanation(tag: str, meanings: Mapping[str, str]) -> str:
    """Return a line about a curve; empty if nothing is known.

    Arguments:
        tag: Of the curve.
        meanings: What each metric says, in a phrase, by its name.

    Example:
        >>> explanation("learning_rate/prior", {}), explanation("Scores/occupancy_used", {"occupancy": "Clusters."})
        ("Adam's step size for the prior.", 'Clusters.')
    """
    group, _, name = tag.partition("/")
    if group in GROUPS:
        return GROUPS[group].format(name=name)
    if name in HEALTH or name.startswith("spectral_norm_"):
        part = name.removeprefix("spectral_norm_")
        return HEALTH.get(name, f"Largest singular value of a weight of the {part}, before it is normalised.")
    known = (metric for metric in meanings if name == metric or name.startswith(f"{metric}_"))
    return meanings.get(max(known, key=len, default=""), "")


def layout(scores: Iterable[str], phases: Mapping[str, Iterable[str]]) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of the page Custom Scalars: categories, titles, and the tags in each chart as patterns.

    Arguments:
        scores: Tags of scores.
        phases: The names of the loss terms of each phase, by its name.

    Example:
        >>> layout(["Scores/acc"], {"encoder": ["latent"]})["Terms: encoder"]
        {'latent': ['Multiline', ['terms/latent$', 'weighted/latent$']]}
    """
    return {
        "Scores": {tag.partition("/")[2]: ["Multiline", [f"{re.escape(tag)}$"]] for tag in scores},
        **{
            f"Terms: {phase}": {
                name: ["Multiline", [f"{kind}/{re.escape(name)}$" for kind in ("terms", "weighted")]] for name in terms
            }
            for phase, terms in phases.items()
        },
        "Training": {
            "norms of the gradients": ["Multiline", ["gradient_norm/.*"]],
            "step sizes": ["Multiline", ["learning_rate/.*"]],
        },
    }


def flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | int | float | str]:
    """Return settings as TensorBoard's page HPARAMS takes them.

    Arguments:
        tables: A configuration, by section and name.

    Example:
        >>> flat({"run": {"lr": 0.1, "minutes": None}, "data": {"name": "digits", "classes": [1, 2]}})
        {'run.lr': 0.1, 'data.name': 'digits', 'data.classes': '1,2'}
    """
    found: dict[str, bool | int | float | str] = {}
    for section, table in tables.items():
        for name, value in table.items():
            if isinstance(value, list | tuple):
                value = ",".join(map(str, value))
            if value is not None:
                plain = value if isinstance(value, bool | int | float) else str(value)
                found[f"{section}.{name}"] = (
                    plain.encode("utf-8", "backslashreplace").decode() if isinstance(plain, str) else plain
                )
    return found
